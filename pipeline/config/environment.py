"""Environment variables with the prefix FAULTLINE_: each must be known, and its value free of slips of the keyboard."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "FAULTLINE_"

OTHER_VARIABLES: Final = frozenset(
    {
        "FAULTLINE_DATA",  # folder of data sets, in options and paths of trainings
        "FAULTLINE_KAFKA",  # tests: the broker to use
        "FAULTLINE_KAFKA_JARS",  # folder of the jars of a local broker
        "FAULTLINE_RECORDING",  # deploy/compose.yaml: the recording to replay
        "FAULTLINE_REQUIRE_KAFKA",  # tests: fail without a broker, instead of skipping
        "FAULTLINE_SPEED",  # deploy/compose.yaml: how fast
    }
)
"""Variables with the prefix that are no settings of a worker."""

_MAY_BE_EMPTY: Final = frozenset({"FAULTLINE_TOPIC_PREFIX"})

_SERVICE_LINK: Final = re.compile(
    r"FAULTLINE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


def environment_problems(
    environment: Mapping[str, str], settings: Collection[str], secrets: Collection[str]
) -> list[str]:
    """What is wrong with the variables of an environment, a sentence each; values are shown only by their names.

    `settings` are the names of all settings, as they are in Python, `secrets` those whose values may begin or end with
    blanks. Upper and lower case do not differ, as in pydantic-settings.
    """
    known = OTHER_VARIABLES | {PREFIX + name.upper() for name in settings}
    hidden = {PREFIX + name.upper() for name in secrets}
    problems, seen = [], dict[str, str]()
    for name, value in environment.items():
        upper = name.upper()
        if not upper.startswith(PREFIX) or _is_service_link(upper, value, known):
            continue
        if upper not in known:
            problems.append(_unknown(name, known))
        elif upper in seen:
            problems.append(f"{seen[upper]} and {name} are the same setting; unset one of them")
        elif not value and upper not in _MAY_BE_EMPTY:
            problems.append(f"{name} is empty; give it a value, or unset it")
        elif upper in hidden:
            if value != value.strip("\r\n"):
                problems.append(f"{name} begins or ends with a line break; remove it, or use {upper}_FILE")
        elif value != value.strip():
            problems.append(f"{name} has blanks or line breaks around its value; remove them")
        seen[upper] = name
    return problems


def _unknown(name: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name.upper(), sorted(known), 1, 0.8)
    meant = f"is {nearest[0]} meant?" if nearest else "`faultline settings` lists those there are;"
    return f"{name} is no setting of Faultline; {meant} correct or unset it"


def _is_service_link(name: str, value: str, known: Collection[str]) -> bool:
    """Whether Kubernetes has set the variable for a service whose name begins with `faultline`."""
    if name in known:
        return False
    return _SERVICE_LINK.fullmatch(name) is not None or (
        name.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value) is not None
    )
