"""Fixtures that every test may take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kafka_fixtures import kafka_bootstrap_fixture


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address of a real Kafka broker; the test is skipped where there is none."""
    yield from kafka_bootstrap_fixture()
