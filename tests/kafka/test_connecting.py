"""docs/guide/connecting.md on a real Kafka: its profiles, and messages of exactly the forms that it shows."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agents.delivery.partitioning import partition_of
from agents.worker.service import serve
from pipeline.config.profile import parse_profile
from pipeline.wire.messages import Diagnosis, decode_diagnosis
from pipeline.wire.records import Record
from tests.support.builders import SumRunner
from tests.support.chaos import compare
from tests.support.ingest_site import (
    PARTITIONS,
    IngestSite,
    crc32_partition,
    diagnoses_of,
    fnv1a_partition,
    native_record,
    wait_until,
)
from tests.support.mosquitto import Publisher, mosquitto

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "connecting.md"
BLOCK = re.compile(r"^```(yaml|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
T0_MS = 1_763_600_000_000
SECONDS = range(0, 300, 5)
FOREIGN_PARTITIONS = 3


class Section(NamedTuple):
    """A heading of the page with its blocks."""

    yaml: list[Any]
    messages: list[Any]


def sections() -> dict[str, Section]:
    found = {}
    for part in re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        blocks = BLOCK.findall(part)
        found[part.split("\n")[0]] = Section(
            [yaml.safe_load(text) for kind, text in blocks if kind == "yaml"],
            [json.loads(line) for kind, text in blocks if kind == "json" for line in text.splitlines()],
        )
    return found


SECTIONS = sections()
DIRECT = SECTIONS["2. Directly, or through ingest?"]
PROFILE = SECTIONS["3. Write the profile"]
READINGS, LOG = PROFILE.messages[:2], PROFILE.messages[2]

Place = Callable[[int], tuple[str | None, int]]
"""The key and the partition of the n-th message."""

SYSTEMS: dict[str, tuple[str, Place]] = {
    "Telegraf": ("r-2", lambda _: ("r-2", fnv1a_partition("r-2", FOREIGN_PARTITIONS))),
    "Kafka Connect: MQTT source": ("r-3", lambda _: _by_murmur2("plant/r-3/values")),
    "Kafka Connect: OPC UA source": ("r-4", lambda at: (None, at % FOREIGN_PARTITIONS)),
    "Kafka Connect: change data capture": ("r-5", lambda _: _by_murmur2('{"payload": {"asset": "r-5"}}')),
    "confluent-kafka and other librdkafka clients": ("r-6", lambda _: ("r-6", crc32_partition("r-6", 3))),
    "sarama and other Go clients": ("r-7", lambda _: ("r-7", fnv1a_partition("r-7", FOREIGN_PARTITIONS))),
    "Node-RED": ("r-8", lambda at: (None, at % FOREIGN_PARTITIONS)),
}
MQTT, MQTT_MACHINE = "An MQTT gateway", "r-9"


def _by_murmur2(key: str) -> tuple[str, int]:
    return key, partition_of(key.encode(), FOREIGN_PARTITIONS)


def later(example: Any, seconds: int) -> Any:
    """A message of the page, this much later and with other values."""
    if isinstance(example, dict):
        return {name: later(value, seconds) for name, value in example.items()}
    if isinstance(example, list):
        return [later(value, seconds) for value in example]
    if example in (120.4, "120.4"):
        return type(example)(round(120.4 + seconds / 8, 3))
    if example == 2705.0:
        return 2705.0 + seconds
    if isinstance(example, int) and example > 10**9:
        return example + seconds * 10 ** (len(str(example)) - 10)
    if isinstance(example, str) and re.match(r"\d{4}-\d\d-\d\dT", example):
        return (datetime.fromisoformat(example) + timedelta(seconds=seconds)).isoformat()
    return example


def native(machine: str, seconds: int) -> Record:
    """The same as a producer writes that knows Faultline."""
    values = {"temperature": round(120.4 + seconds / 8, 3), "pressure": 2705.0 + seconds}
    return native_record("sensors", machine, T0_MS + 1000 * seconds, {"values": values})


def test_every_block_is_used() -> None:
    systems = {heading for heading, section in SECTIONS.items() if section.yaml}
    assert systems == {"2. Directly, or through ingest?", "3. Write the profile", *SYSTEMS, MQTT}
    assert all(section.messages for heading, section in SECTIONS.items() if section.yaml)


def test_a_worker_reads_directly_what_has_the_right_key_and_partition() -> None:
    records, expected = [], []
    for seconds, number in itertools.product(SECONDS, range(4)):
        machine, body = f"r-{number}", later(DIRECT.messages[0], seconds)
        expected.append(native(machine, seconds))
        place = expected[-1].partition, 0, expected[-1].timestamp_ms, expected[-1].key
        records.append(Record("/plant7.direct", *place, json.dumps(body).encode()))
    found = diagnoses_of(yaml.safe_dump(DIRECT.yaml[0]), records)
    verdict = compare(diagnoses_of(yaml.safe_dump(PROFILE.yaml[0]), expected), found)
    assert verdict.good and verdict.verified > 100, str(verdict)
    assert_sensors_are_seen(found["diagnoses"], {f"r-{number}" for number in range(4)})


def assert_sensors_are_seen(diagnoses: list[Record], machines: set[str]) -> None:
    decoded: list[Diagnosis] = [decode_diagnosis(record.value or b"") for record in diagnoses]
    assert {one.machine for one in decoded} == machines
    assert all(one.modalities["sensors"].present for one in decoded)


@pytest.fixture
def site(kafka: str, tmp_path: Path) -> Iterator[IngestSite]:
    """A plant in which all systems of the page write at once."""
    text = PROFILE.yaml[0] | {
        "ingest": [
            *PROFILE.yaml[0]["ingest"],
            *(entry for name in (*SYSTEMS, MQTT) for entry in SECTIONS[name].yaml[0]),
        ]
    }
    plant = yaml.safe_dump(text).replace("plant7", "SITE")
    one = IngestSite(kafka, tmp_path, plant=plant, partitions=FOREIGN_PARTITIONS, tick_interval_ms=3_600_000)
    yield one


def foreign(site: IngestSite) -> list[Record]:
    """What the systems write into Kafka."""
    records: list[Record] = []

    def add(topic: str, key: str | None, partition: int, seconds: int, body: Any) -> None:
        name = topic.replace("plant7", site.name)
        stamp, value = T0_MS + 1000 * seconds, json.dumps(body).encode()
        records.append(Record(f"/{name}", partition, 0, stamp, None if key is None else key.encode(), value))

    for at, seconds in enumerate(SECONDS):
        for message in READINGS:
            add("plant7.values", message["tag"], at % FOREIGN_PARTITIONS, seconds, later(message, seconds))
        for name, (_, place) in SYSTEMS.items():
            for message in SECTIONS[name].messages:
                add(SECTIONS[name].yaml[0][0]["topic"], *place(at), seconds, later(message, seconds))
            if name.endswith("change data capture"):  # the other tag's row
                other = json.loads(json.dumps(later(message, seconds)).replace("Reactor.Temp", "Reactor.Pres"))
                other["payload"]["after"]["value"] = 2705.0 + seconds
                add(SECTIONS[name].yaml[0][0]["topic"], *place(at), seconds, other)
    add("plant7.alarm-log", LOG["seq"], 1, 5, LOG)
    return records


def worker_says(site: IngestSite, expected: int) -> list[Record]:
    """The diagnoses of a real worker on the real broker."""
    profile = parse_profile(site.profile_text, where="test")

    async def work() -> list[Record]:
        runners = {"reactor": SumRunner()}
        serving = asyncio.create_task(serve(site.settings, profile, runners, lambda key: partition_of(key, PARTITIONS)))
        try:
            async with asyncio.timeout(60):
                while True:
                    found = await asyncio.to_thread(site.committed, "diagnoses")
                    if serving.done() or len(found) >= expected:
                        return found
                    await asyncio.sleep(0.1)
        finally:
            serving.cancel()
            await asyncio.wait({serving})

    return asyncio.run(work())


def test_every_system_ends_in_diagnoses(site: IngestSite, tmp_path: Path) -> None:
    site.write(foreign(site))
    site.finish()
    section = SECTIONS[MQTT]
    with mosquitto(tmp_path) as broker:
        process = site.ingest(mqtt=broker.url)
        gateway = Publisher(broker)
        try:
            wait_until(lambda: not process.alive or "subscribed" in process.text)
            bodies = [json.dumps(later(section.messages[0], seconds)).encode() for seconds in SECONDS]
            gateway.publish((f"plant/{MQTT_MACHINE}/values", body) for body in bodies)
            wait_until(lambda: len(site.committed("sensors")) >= len(SECONDS) * 11)
            process.end()
        finally:
            gateway.close()
            process.kill()
    machines = {"r-1", MQTT_MACHINE, *(machine for machine, _ in SYSTEMS.values())}
    assert site.committed("dead-letter") == []
    assert values_of(site.committed("sensors")) == values_of([native(m, s) for m in machines for s in SECONDS])
    (text,) = site.committed("events")
    assert json.loads(text.value or b"") == {
        "machine": "r-1", "time": T0_MS + 5000, "text": "TAH-101 is active, severity 2", "id": "A-5512"
    }  # fmt: skip
    # Texts count as well: the machine that has one is left out of the comparison with readings alone.
    expected = diagnoses_of(site.profile_text, [native(m, s) for s in SECONDS for m in sorted(machines)])
    written = worker_says(site, len(expected["diagnoses"]))
    assert_sensors_are_seen(written, machines)
    silent = [record for record in written if record.key != b"r-1"]
    wanted = [record for record in expected["diagnoses"] if record.key != b"r-1"]
    assert {record.value for record in silent} == {record.value for record in wanted}


def values_of(records: list[Record]) -> dict[tuple[str, int], dict[str, float]]:
    """All values of a machine and time, whether they came in one record or in several."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for record in records:
        body = json.loads(record.value or b"")
        found.setdefault((body["machine"], body["time"]), {}).update(body["values"])
    return found


def test_librdkafka_partitions_as_the_page_says(kafka: str, tmp_path: Path) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")
    site = IngestSite(kafka, tmp_path, partitions=FOREIGN_PARTITIONS)
    keys = [f"r-{number}" for number in range(40)]
    placed: dict[str, dict[str, int]] = {}
    for partitioner in ("consistent_random", "murmur2_random"):
        found = placed[partitioner] = {}
        arrived = threading.Lock()

        def note(error: Any, message: Any, found: dict[str, int] = found, arrived: Any = arrived) -> None:
            assert error is None
            with arrived:
                found[message.key().decode()] = message.partition()

        producer = confluent_kafka.Producer({"bootstrap.servers": kafka, "partitioner": partitioner})
        for key in keys:
            producer.produce(f"{site.name}.values", key=key, value=b"{}", on_delivery=note)
        producer.flush(30)
    assert placed["consistent_random"] == {key: crc32_partition(key, FOREIGN_PARTITIONS) for key in keys}
    assert placed["murmur2_random"] == {key: partition_of(key.encode(), FOREIGN_PARTITIONS) for key in keys}
