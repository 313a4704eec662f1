"""Which Kafka broker tests use: FAULTLINE_KAFKA's, one started here, or none, and then they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.jars import ensure_jars, missing_tools
from pipeline.errors import BrokerUnavailableError


@dataclass(frozen=True)
class BrokerChoice:
    """The broker that tests are to use (`broker` only if it was started here), or why there is none."""

    bootstrap: str | None
    broker: KafkaBroker | None
    skip_reason: str | None


def broker_or_skip_reason() -> BrokerChoice:
    """FAULTLINE_KAFKA's broker if set, else one started here, else the reason why neither is to be had."""
    external = os.environ.get("FAULTLINE_KAFKA")
    if external:
        return BrokerChoice(external, None, None)
    reason = missing_tools()
    if reason is None:
        try:
            jars = ensure_jars()
        except BrokerUnavailableError as error:
            reason = str(error)
        else:
            broker = KafkaBroker.start(jars)
            return BrokerChoice(broker.bootstrap, broker, None)
    return BrokerChoice(None, None, reason)


def skip_or_fail(reason: str) -> None:
    """Skips the test, unless FAULTLINE_REQUIRE_KAFKA=1 makes a missing broker an error."""
    if os.environ.get("FAULTLINE_REQUIRE_KAFKA") == "1":
        pytest.fail(f"FAULTLINE_REQUIRE_KAFKA=1, but there is no Kafka: {reason}", pytrace=False)
    pytest.skip(f"no Kafka: {reason}")


def kafka_bootstrap_fixture() -> Iterator[str]:
    """Body of a session fixture: yields a bootstrap address and closes the broker if it was started here."""
    choice = broker_or_skip_reason()
    if choice.bootstrap is None:
        skip_or_fail(choice.skip_reason or "")
        return
    try:
        yield choice.bootstrap
    finally:
        if choice.broker is not None:
            choice.broker.close()
