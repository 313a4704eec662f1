"""How topics have to be set up, and what is done where a broker does not take all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

POLICY = "cleanup.policy"
MAX_MESSAGE_BYTES = "max.message.bytes"

_LOWER: Mapping[str, tuple[int, ...]] = {
    # What services allow at most: 20 MiB, 8 MiB, 1 MiB, Kafka's default, and powers of two between them.
    MAX_MESSAGE_BYTES: (32 << 20, 20 << 20, 16 << 20, 8 << 20, 4 << 20, 2 << 20, 1_048_588, 1 << 20, 1_000_000)
}

_CONSEQUENCES: Mapping[str, str] = {
    "retention.ms": "old records are deleted by their age too, and those of a replayed recording are old at once",
    "retention.bytes": "the broker's own retention decides how long records are kept",
    "message.timestamp.after.max.ms": "a broker that limits time stamps may refuse outputs about machines whose "
    "clocks are ahead",
    "segment.bytes": "a restart may have to read more of this topic",
    "min.compaction.lag.ms": "a late state of a suspended worker may replace the valid one",
}


@dataclass(frozen=True)
class TopicSpec:
    """The required partitions, replication and settings of a topic; `config` holds settings such as cleanup.policy."""

    name: str
    partitions: int
    replication: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    least_bytes: int | None = None
    """A max.message.bytes that is enough to work with, if the broker allows no more."""
    larger_records: str = "larger records are refused"
    """What happens to records that are larger than max.message.bytes."""
    is_input: bool = False
    """Every record counts: compaction would delete all but the newest of every key."""
    is_foreign: bool = False
    """Others set it up, and may not show its settings."""


@dataclass(frozen=True)
class CreateReport:
    """Names of the topics that were created and of those that existed already."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By topic, what the broker did not take, what was used instead, and what follows."""


@dataclass(frozen=True)
class TopicReport:
    """What is wrong with topics, one sentence each, and by topic the largest record batch that it takes."""

    problems: tuple[str, ...]
    max_message_bytes: Mapping[str, int]


class Settlement(NamedTuple):
    """What a broker takes of the settings that a topic should have."""

    config: dict[str, str]
    notes: list[str]
    """What is different and what follows from that, one phrase each."""


def settle(spec: TopicSpec, refuses: Callable[[Mapping[str, str]], str | None]) -> Settlement:
    """Leave out what a broker does not know, and lower what it caps.

    `refuses` gives the broker's reason against settings, None if it takes them. The cleanup policy stays as it is:
    without it the topic would be another one.
    """
    config, notes = dict(spec.config), []
    for name, value in spec.config.items():
        reason = None if name == POLICY else refuses({name: value})
        if reason is None:
            continue
        candidates = (str(one) for one in _LOWER.get(name, ()) if one < int(value))
        lower = next((one for one in candidates if refuses({name: one}) is None), "")
        if not lower:
            del config[name]
            follows = _CONSEQUENCES.get(name, spec.larger_records)
            notes.append(f"{name} is left out ({reason}): {follows}")
        else:
            config[name] = lower
            notes.append(f"{name} is {lower} instead of {value} ({reason}): {spec.larger_records}")
    return Settlement(config, notes)


def setting_problem(spec: TopicSpec, name: str, actual: str) -> list[str]:
    """What is wrong with a setting of a topic, in one sentence; empty if nothing is."""
    if name == MAX_MESSAGE_BYTES:
        needed = int(spec.config[name]) if spec.least_bytes is None else spec.least_bytes
        return [] if int(actual) >= needed else [f"topic {spec.name!r} has {name} {actual} but needs {needed} or more"]
    if spec.is_input:
        if "compact" not in _policies(actual):
            return []
        return [
            f"topic {spec.name!r} has {name} {actual!r}: compaction deletes all but the newest record of every "
            "machine; set it to 'delete'"
        ]
    if _policies(actual) == _policies(spec.config[name]):
        return []
    return [f"topic {spec.name!r} has {name} {actual!r} but needs {spec.config[name]!r}"]


def _policies(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(","))
