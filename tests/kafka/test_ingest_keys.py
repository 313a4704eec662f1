"""Records without a key, with another one, or placed by another partitioner: through `faultline ingest` they count."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.wire.letters import origin_of
from pipeline.wire.records import Record
from tests.support.chaos import compare
from tests.support.ingest_site import (
    PARTITIONS,
    T0_MS,
    IngestSite,
    contents,
    crc32_partition,
    diagnoses_of,
    fnv1a_partition,
    native_record,
)

pytestmark = pytest.mark.kafka

FOREIGN_PARTITIONS = 5

PLANT = """
plant: keys
machine_types:
  - name: pump
    frame_period: 10s
    sources: {sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 20d}}
    faults: [normal, leak, jam]
    state_ttl: 30d
    variables: [{name: flow}, {name: load}]
ingest:
  - {topic: SITE.readings}
  - {topic: SITE.texts, form: {text: text}}
"""

Placed = Callable[[str, int], tuple[bytes | None, int]]

PLACES: dict[str, Placed] = {
    "no key, one partition after the other": lambda machine, at: (None, at % FOREIGN_PARTITIONS),
    "CRC32": lambda machine, at: (machine.encode(), crc32_partition(machine, FOREIGN_PARTITIONS)),
    "FNV": lambda machine, at: (machine.encode(), fnv1a_partition(machine, FOREIGN_PARTITIONS)),
    "the ticket's number": lambda machine, at: (b"%d" % at, crc32_partition(f"{at}", FOREIGN_PARTITIONS)),
}


@pytest.mark.parametrize("placed", PLACES)
def test_keys_and_partitions_of_other_clients(kafka: str, tmp_path: Path, placed: str) -> None:
    site = IngestSite(kafka, tmp_path, plant=PLANT, partitions=FOREIGN_PARTITIONS)
    rng = random.Random(1)
    foreign: list[Record] = []
    native: list[Record] = []
    for second in range(0, 600, 5):
        for number in range(4):
            machine, time_ms, at = f"pump-{number}", T0_MS + 1000 * second, len(foreign)
            key, partition = PLACES[placed](machine, at)
            fields: dict[str, Any] = {"values": {"flow": round(rng.gauss(0, 2), 3), "load": None}}
            name = "sensors"
            if rng.random() < 0.05:
                name, fields = "events", {"text": f"leaks at flange {at}"}
            native.append(native_record(name, machine, time_ms, fields))
            value = native[-1].value
            topic = f"/{site.name}.{'readings' if name == 'sensors' else 'texts'}"
            foreign.append(Record(topic, partition, 0, time_ms, key, value))
    site.write(foreign)
    site.finish()
    assert site.committed("dead-letter") == []
    written = site.committed("sensors", "events")
    assert contents(written) == contents(native)
    verdict = compare(diagnoses_of(PLANT, native), diagnoses_of(PLANT, written))
    assert verdict.good, str(verdict)
    assert verdict.verified > 200


def test_a_worker_that_cannot_use_such_records_says_what_can() -> None:
    record = native_record("sensors", "pump-1", T0_MS, {"values": {"flow": 1.0, "load": 2.0}})
    elsewhere = (record.partition + 1) % PARTITIONS
    said = diagnoses_of(
        PLANT, [record, record._replace(key=None), record._replace(partition=elsewhere), record._replace(key=b"T-17")]
    )
    origins = [origin_of(letter.headers) for letter in said["dead-letter"]]
    assert sorted(origin.reason for origin in origins if origin) == ["key_mismatch", "key_mismatch", "wrong_partition"]
    assert all("`faultline ingest`" in origin.detail for origin in origins if origin), origins


def test_a_new_machine_in_another_partition_says_it_too() -> None:
    record = native_record("sensors", "pump-9", T0_MS, {"values": [1.0, 2.0]})
    said = diagnoses_of(PLANT, [record._replace(partition=(record.partition + 1) % PARTITIONS)])
    (letter,) = said["dead-letter"]
    origin = origin_of(letter.headers)
    assert origin is not None
    assert origin.reason == "wrong_partition" and "docs/guide/connecting.md" in origin.detail
    assert json.loads(letter.value or b"")["machine"] == "pump-9"
