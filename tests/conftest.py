"""What all tests share: fixtures, and the means of a machine on which several of them run at once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.compiled_code import compile_what_tests_run
from tests.support.kafka_fixtures import kafka_bootstrap_fixture

ROOT = Path(__file__).parent.parent

LONGEST_FILES = (
    "tests/kafka/test_fault_matrix.py",
    "tests/kafka/test_ingest.py",
    "tests/kafka/test_worker_life.py",
    "tests/kafka/test_mqtt_ingest.py",
    "tests/kafka/test_bench_stream.py",
    "tests/deploy/test_examples.py",
    "tests/agents/console/test_console_pages.py",
    "tests/kafka/test_brokers.py",
    "tests/agents/console/test_console_pages.py",
    "tests/kafka/test_rolling_upgrade.py",
    "tests/kafka/test_end_to_end.py",
    "tests/kafka/test_recreated_topics.py",
    "tests/kafka/test_deleted_records.py",
    "tests/models/test_stepping_bits.py",
    "tests/agents/test_release_before.py",
    "tests/models/test_fusion_training.py",
    "tests/models/test_stepping.py",
    "tests/kafka/test_broker.py",
    "tests/kafka/test_schema_registry.py",
    "tests/pipeline/test_recording_hostile.py",
    "tests/models/test_late_fusion.py",
    "tests/models/test_fusion_stepping.py",
    "tests/models/test_training.py",
    "tests/pipeline/test_report_on_change.py",
    "tests/deploy/test_light_install.py",
    "tests/kafka/test_security.py",
    "tests/models/test_encoders.py",
    "tests/models/test_robustness.py",
    "tests/models/test_fusion_networks.py",
)


def pytest_configure() -> None:
    """Before anything heavy is imported, and inherited by the processes of pytest-xdist and by brokers."""
    gc.disable()  # until all tests are collected: what they import stays
    # How long an example takes depends on the machine and on what else it does.
    settings.register_profile("faultline", deadline=None)
    settings.load_profile("faultline")
    # Each process of tests has one core; threads of their own would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A broker that lives for a minute starts in half the time without the compiler and collector for days, and without
    # another look at the bytecode of jars that its tests trust anyway.
    trusting = "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
    os.environ.setdefault("JDK_JAVA_OPTIONS", f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {trusting}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first: none of them is begun when there is nothing left for the other process."""
    ranks = {ROOT / name: rank for rank, name in enumerate(LONGEST_FILES)}
    assert all(path.is_file() for path in ranks), "LONGEST_FILES names a file that is not there"
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """What was imported is never garbage: looking at it again and again would take a tenth of the tests' time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _compiled_code() -> None:
    """Compiled before any test with a time limit."""
    compile_what_tests_run()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address of a real Kafka broker; the test is skipped where there is none."""
    yield from kafka_bootstrap_fixture()
