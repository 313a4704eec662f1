"""What all tests share: fixtures, and the means of a machine on which several of them run at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.kafka_fixtures import kafka_bootstrap_fixture


def pytest_configure() -> None:
    """Before anything heavy is imported, and inherited by the processes of pytest-xdist and by brokers."""
    # Each process of tests has one core; threads of their own would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A broker that lives for a minute starts in half the time without the compiler and collector for days.
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address of a real Kafka broker; the test is skipped where there is none."""
    yield from kafka_bootstrap_fixture()
