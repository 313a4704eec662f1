"""Topics are made once and never altered, and every way a broker can fail has its own clear error."""

from __future__ import annotations

import socket
import threading
import time
import uuid

import pytest

from agents.bench.local_kafka import broker as kafka_broker
from agents.kafka.admin import check_topics, create_topics
from agents.kafka.topic_settings import TopicSpec
from pipeline.errors import BrokerUnavailableError, SettingsError, TopicMismatchError

pytestmark = pytest.mark.kafka


def spec(partitions: int = 2, **config: str) -> TopicSpec:
    settings = {name.replace("_", "."): value for name, value in config.items()}
    return TopicSpec(f"test-{uuid.uuid4()}", partitions, config=settings)


def test_creating_twice_changes_nothing(kafka: str) -> None:
    first, second = spec(), spec(cleanup_policy="compact")
    report = create_topics(kafka, [first])
    assert (report.created, report.existing) == ((first.name,), ())
    report = create_topics(kafka, [first, second])
    assert (report.created, report.existing) == ((second.name,), (first.name,))
    assert check_topics(kafka, [first, second]) == []


def test_nothing_wanted_needs_no_broker() -> None:
    assert create_topics("127.0.0.1:1", []).created == ()
    assert check_topics("127.0.0.1:1", []) == []


def test_missing_topic_is_reported(kafka: str) -> None:
    wanted = spec(1)
    assert check_topics(kafka, [wanted]) == [f"topic '{wanted.name}' does not exist; it needs 1 partition"]


def test_other_partition_count_is_reported_and_left_alone(kafka: str) -> None:
    made = spec(2)
    create_topics(kafka, [made])
    wanted = TopicSpec(made.name, 4)
    assert create_topics(kafka, [wanted]).existing == (made.name,)
    (problem,) = check_topics(kafka, [wanted])
    assert "has 2 partitions but needs 4" in problem
    assert check_topics(kafka, [made]) == []


def test_other_cleanup_policy_is_reported(kafka: str) -> None:
    made = spec()
    create_topics(kafka, [made])
    wanted = TopicSpec(made.name, 2, config={"cleanup.policy": "compact"})
    assert check_topics(kafka, [wanted]) == [f"topic '{made.name}' has cleanup.policy 'delete' but needs 'compact'"]


def test_a_compacted_input_of_others_is_refused_as_well(kafka: str) -> None:
    made = spec(cleanup_policy="compact,delete")
    create_topics(kafka, [made])
    (problem,) = check_topics(kafka, [TopicSpec(made.name, 2, is_input=True, is_foreign=True)])
    assert problem.startswith(f"topic '{made.name}' has cleanup.policy 'compact,delete': compaction deletes all but")


def test_too_little_room_for_a_record_is_reported(kafka: str) -> None:
    made = spec()
    create_topics(kafka, [made])
    wanted = TopicSpec(made.name, 2, config={"max.message.bytes": "2000000"})
    (problem,) = check_topics(kafka, [wanted])
    assert problem == f"topic '{made.name}' has max.message.bytes 1048588 but needs 2000000 or more"
    assert check_topics(kafka, [TopicSpec(made.name, 2, config={"max.message.bytes": "1000000"})]) == []


def test_order_within_the_cleanup_policy_does_not_matter(kafka: str) -> None:
    made = spec(cleanup_policy="compact,delete")
    create_topics(kafka, [made])
    assert check_topics(kafka, [TopicSpec(made.name, 2, config={"cleanup.policy": "delete, compact"})]) == []


def test_impossible_topic_is_refused_with_the_brokers_reason(kafka: str) -> None:
    wanted = TopicSpec(f"test-{uuid.uuid4()}", 1, replication=32)
    with pytest.raises(TopicMismatchError, match=f"(?s){wanted.name}.*replicat"):
        create_topics(kafka, [wanted])


def test_closed_port_is_reported_soon_and_leaves_no_thread() -> None:
    port = kafka_broker.free_ports(1)[0]
    before = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=f"127.0.0.1:{port}: Connection refused"):
        check_topics(f"127.0.0.1:{port}", [spec()])
    assert time.monotonic() - before < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kafka-io-faultline")]


def test_unknown_host_is_reported_soon() -> None:
    before = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=r"no-such-host\.invalid"):
        create_topics("no-such-host.invalid:9092", [spec()])
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("address", ["", "broker", "broker:port", ":9092", "broker:99999"])
def test_malformed_address_is_named(address: str) -> None:
    with pytest.raises(SettingsError, match=f"'{address}' is not a broker address"):
        check_topics(address, [spec()])


def test_any_one_of_several_brokers_is_enough(kafka: str) -> None:
    wanted = spec()
    create_topics(f"127.0.0.1:{kafka_broker.free_ports(1)[0]}, {kafka}", [wanted])
    assert check_topics(kafka, [wanted]) == []


def test_silent_server_is_reported_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        before = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            check_topics(address, [spec()])
        assert time.monotonic() - before < 10


def test_unknown_security_setting_is_named(kafka: str) -> None:
    with pytest.raises(SettingsError, match="sasl_pasword"):
        check_topics(kafka, [spec()], {"sasl_pasword": "typo"})
