"""The broker of tests and benchmarks: it starts, keeps data, survives a kill and says why it fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from agents.bench.local_kafka import broker as kafka_broker
from agents.bench.local_kafka import jars as kafka_jars
from agents.bench.local_kafka.broker import KafkaBroker
from agents.kafka.admin import create_topics
from agents.kafka.topic_settings import TopicSpec
from pipeline.errors import BrokerUnavailableError
from tests.support import kafka_fixtures

pytestmark = pytest.mark.kafka


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        for value in values:
            producer.send(topic, key=b"machine-1", value=value).get(timeout=20)
    finally:
        producer.close()


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=f"test-{uuid.uuid4()}"
    )
    values: list[bytes] = []
    deadline = time.monotonic() + 20
    try:
        while len(values) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                values.extend(record.value for record in records)
    finally:
        consumer.close()
    return values


def new_topic(bootstrap: str) -> str:
    name = f"test-{uuid.uuid4()}"
    create_topics(bootstrap, [TopicSpec(name, 1)])
    return name


def test_round_trip(kafka: str) -> None:
    topic = new_topic(kafka)
    produce(kafka, topic, [b"one", b"two"])
    assert consume(kafka, topic, 2) == [b"one", b"two"]


def test_restart_keeps_address_and_data(broker: KafkaBroker) -> None:
    address = broker.bootstrap
    topic = new_topic(address)
    produce(address, topic, [b"before"])
    broker.restart()
    assert broker.bootstrap == address
    produce(address, topic, [b"after"])
    assert consume(address, topic, 2) == [b"before", b"after"]


def test_kill_and_restart_keeps_acknowledged_records(broker: KafkaBroker) -> None:
    topic = new_topic(broker.bootstrap)
    produce(broker.bootstrap, topic, [b"before"])
    broker.kill()
    assert not broker.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", broker.port), timeout=1)
    broker.restart()
    produce(broker.bootstrap, topic, [b"after"])
    assert consume(broker.bootstrap, topic, 2) == [b"before", b"after"]


def test_a_taken_port_is_named(broker: KafkaBroker) -> None:
    with pytest.raises(BrokerUnavailableError, match=f"port {broker.port} is taken"):
        KafkaBroker.start(port=broker.port)


@pytest.mark.usefixtures("broker")
def test_a_failed_start_shows_the_log_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BrokerUnavailableError, match=r"no\.such\.Authorizer"):
        KafkaBroker.start(overrides={"authorizer.class.name": "no.such.Authorizer"})
    assert list(tmp_path.glob("faultline-kafka-*")) == []


def test_foreground_broker_ends_with_its_supervisor(broker: KafkaBroker) -> None:
    port = kafka_broker.free_ports(1)[0]
    command = [sys.executable, "-m", "agents.bench.local_kafka.broker", "--port", str(port)]
    with subprocess.Popen(command, cwd=kafka_jars.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"127.0.0.1:{port}\n"
        process.terminate()
        assert process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_killed_owner_takes_its_broker_along(broker: KafkaBroker) -> None:
    port = kafka_broker.free_ports(1)[0]
    command = [sys.executable, "-m", "agents.bench.local_kafka.broker", "--port", str(port)]
    with subprocess.Popen(command, cwd=kafka_jars.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    deadline = time.monotonic() + 10
    while not kafka_broker.is_free(port):
        assert time.monotonic() < deadline, "the broker outlived the process that started it"
        time.sleep(0.05)


def test_external_broker_is_taken_as_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_KAFKA", "kafka.example:9092")
    assert list(kafka_fixtures.kafka_bootstrap_fixture()) == ["kafka.example:9092"]


def test_missing_tools_skip_or_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FAULTLINE_KAFKA", raising=False)
    monkeypatch.delenv("FAULTLINE_REQUIRE_KAFKA", raising=False)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="java is not installed"):
        list(kafka_fixtures.kafka_bootstrap_fixture())
    monkeypatch.setenv("FAULTLINE_REQUIRE_KAFKA", "1")
    with pytest.raises(pytest.fail.Exception, match="java is not installed"):
        list(kafka_fixtures.kafka_bootstrap_fixture())
