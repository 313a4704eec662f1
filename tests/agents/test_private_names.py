"""The private names of Kafka libraries that agents/ uses exist in the installed versions."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from importlib.metadata import version
from types import FunctionType
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, Subscription, SubscriptionState, TopicPartitionState
from aiokafka.record import default_records, memory_records, util
from faust import App
from faust.tables.manager import TableManager
from faust.transport import base
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from kafka import KafkaAdminClient
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from mode.utils import futures

USED: list[tuple[str, str, str, Any, tuple[str, ...]]] = [
    # library, version it was checked with, where it is used, owner, names
    (
        "aiokafka",
        "0.14.0",
        "agents/kafka/transport.py",
        AIOKafkaConsumer,
        (
            "_client",
            "_coordinator",
            "_fetch_max_wait_ms",
            "_fetcher",
            "_isolation_level",
            "_partition_assignment_strategy",
            "_subscription",
        ),
    ),
    (
        "aiokafka",
        "0.14.0",
        "agents/kafka/transport.py",
        fetcher.Fetcher,
        ("_default_reset_strategy", "_prefetch_backoff", "_records", "request_offset_reset"),
    ),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", fetcher.FetchResult, ("_partition_records",)),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", fetcher.PartitionRecords, ("_consumer_record",)),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", SubscriptionState, ("abort_waiters", "subscription")),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", Subscription, ("assignment",)),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", Assignment, ("state_value", "tps")),
    (
        "aiokafka",
        "0.14.0",
        "agents/kafka/transport.py",
        TopicPartitionState,
        ("has_valid_position", "highwater", "lso", "position", "timestamp"),
    ),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", GroupCoordinator, ("_subscription", "fetch_committed_offsets")),
    ("aiokafka", "0.14.0", "agents/kafka/transport.py", fetcher.OffsetResetStrategy, ("EARLIEST", "NONE")),
    ("aiokafka", "0.14.0", "agents/kafka/header_names.py", fetcher, ("MemoryRecords",)),
    (
        "aiokafka",
        "0.14.0",
        "agents/kafka/header_names.py",
        memory_records.MemoryRecords,
        ("has_next", "next_batch", "size_in_bytes"),
    ),
    (
        "aiokafka",
        "0.14.0",
        "agents/kafka/header_names.py",
        default_records._DefaultRecordBatchPy,
        ("_buffer", "_pos", "_read_msg", "base_offset", "first_timestamp", "max_timestamp", "timestamp_type"),
    ),
    ("aiokafka", "0.14.0", "agents/kafka/header_names.py", default_records, ("_DefaultRecordPy",)),
    ("aiokafka", "0.14.0", "agents/kafka/header_names.py", util, ("decode_varint",)),
    (
        "faust-streaming",
        "0.15.3",
        "agents/kafka/transport.py",
        driver.AIOKafkaConsumerThread,
        (
            "_assignor",
            "_commit",
            "_consumer",
            "_create_worker_consumer",
            "_ensure_consumer",
            "_fetch_records",
            "call_thread",
            "crash",
            "on_thread_stop",
            "seek_to_committed",
            "tp_last_committed_at",
        ),
    ),
    (
        "faust-streaming",
        "0.15.3",
        "agents/kafka/transport.py",
        driver.Consumer,
        ("_new_consumer_thread", "_thread", "threadsafe_partitions_assigned", "threadsafe_partitions_revoked"),
    ),
    (
        "faust-streaming",
        "0.15.3",
        "agents/delivery/consumer.py",
        faust_consumer.Consumer,
        (
            "_acked",
            "_acked_index",
            "_add_gap",
            "_commit",
            "_commit_offsets",
            "_committed_offset",
            "_filter_tps_with_pending_acks",
            "_get_active_partitions",
            "_read_offset",
            "_to_message",
            "_waiting_for_ack",
            "can_resume_flow",
            "flow_active",
            "force_commit",
            "getmany",
            "maybe_wait_for_commit_to_finish",
            "perform_seek",
            "scheduler",
            "verify_event_path",
        ),
    ),
    ("faust-streaming", "0.15.3", "agents/delivery/groups.py", TRANSPORTS, ("aliases",)),
    ("mode-streaming", "0.7.1", "agents/delivery/consumer.py", futures, ("notify",)),
    (
        "faust-streaming",
        "0.15.3",
        "agents/memory/transport.py",
        base.Consumer,
        ("_commit", "_new_topicpartition", "_seek", "consumer_stopped_errors"),
    ),
    ("faust-streaming", "0.15.3", "agents/memory/transport.py", base.Producer, ("buffer", "key_partition")),
    ("faust-streaming", "0.15.3", "agents/delivery/app.py", TableManager, ("_update_channels", "recovery")),
    ("faust-streaming", "0.15.3", "agents/delivery/app.py", App, ("_create_directories",)),
    ("kafka-python", "3.0.12", "agents/kafka/admin.py", KafkaAdminClient, ("kafka_client",)),
    ("kafka-python", "3.0.12", "agents/kafka/admin.py", KafkaNetClient, ("close",)),
    ("kafka-python", "3.0.12", "agents/kafka/admin.py", KafkaConnectionManager, ("get_connection",)),
    ("kafka-python", "3.0.12", "agents/kafka/admin.py", NetworkSelector, ("poll",)),
    (
        "kafka-python",
        "3.0.12",
        "agents/kafka/admin.py",
        KafkaConnection,
        ("broker_version_data", "init_future", "sasl_enabled"),
    ),
]


def names_of(owner: Any) -> Iterator[str]:
    """Attributes of an object or class, those that its methods set on instances included."""
    yield from dir(owner)
    for parent in getattr(owner, "__mro__", ()):
        yield from getattr(parent, "__annotations__", ())
        yield from getattr(parent, "DEFAULT_CONFIG", ())
        for member in vars(parent).values():
            function = getattr(member, "__func__", member)
            if isinstance(function, FunctionType):
                yield from (step.argval for step in dis.get_instructions(function) if step.opname == "STORE_ATTR")


@pytest.mark.parametrize(
    ("library", "checked", "user", "owner", "names"),
    USED,
    ids=[f"{library}-{getattr(owner, '__name__', type(owner).__name__)}" for library, _, _, owner, _ in USED],
)
def test_private_names_are_where_they_are_expected(
    library: str, checked: str, user: str, owner: Any, names: tuple[str, ...]
) -> None:
    missing = set(names) - set(names_of(owner))
    assert not missing, (
        f"{user} uses {sorted(missing)} of {owner!r}: they were there in {library} {checked}, "
        f"and are not in the installed {version(library)}; adapt the module, then this list"
    )


def test_a_record_of_aiokafka_is_made_of_these_parts() -> None:
    # agents/kafka/header_names.py makes such records
    record = default_records._DefaultRecordPy(1, 2, 0, b"key", b"value", [("name", b"content")])
    assert (record.offset, record.timestamp, record.timestamp_type) == (1, 2, 0)
    assert (record.key, record.value, record.headers) == (b"key", b"value", [("name", b"content")])
