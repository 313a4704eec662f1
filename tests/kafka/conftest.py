"""The broker of tests that stop, kill or suspend it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.jars import ensure_jars, missing_tools
from tests.soak.soak import BROKER
from tests.support.kafka_fixtures import skip_or_fail


@pytest.fixture(scope="session")
def _disturbed_broker() -> Iterator[KafkaBroker]:
    """Not the one of the fixture `kafka`: that may be of somebody else, and what it holds would make restarts slow."""
    reason = missing_tools()
    if reason is not None:
        skip_or_fail(reason)
    with KafkaBroker.start(ensure_jars(), overrides=BROKER) as one:
        yield one


@pytest.fixture
def broker(_disturbed_broker: KafkaBroker) -> KafkaBroker:
    """A broker that a test may stop, restart, kill or suspend, and that takes short sessions."""
    if not _disturbed_broker.running:  # the test before has failed
        _disturbed_broker.restart()
    return _disturbed_broker
