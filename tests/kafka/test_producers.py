"""What ordinary producers do: every codec of Kafka, and transactions that are aborted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from aiokafka import AIOKafkaProducer

from agents.replay.record import record_topics
from pipeline.wire.recording import read_recording
from pipeline.wire.records import Record
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T, ends, event, metric, processed, readings

pytestmark = pytest.mark.kafka
CODECS = ("gzip", "lz4", "snappy", "zstd")


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_every_codec_are_read_by_the_worker_and_by_the_commands(
    kafka: str, codec: str, tmp_path: Path
) -> None:
    run(compressed(kafka, codec, tmp_path))


async def compressed(bootstrap: str, codec: str, folder: Path) -> None:
    site = KafkaSite(bootstrap)
    first, second = readings("p1", 3), readings("p1", 3, start_ms=T + 3 * FRAME_MS, value=2.0)
    # Large enough that Java writes more than one block of it.
    texts = [event("p1", T + 1_000, f"pump leaks {'x' * 30_000}")]
    await site.send(first, compression_type=codec)
    await site.send(texts, compression_type=codec)
    # From here on the broker compresses, with Java's codecs.
    site.configure("sensors", {"compression.type": codec})
    await site.send(second)
    count = len(first) + len(second)
    async with site.working() as worker:
        await processed(worker, count)
        assert metric(worker, "faultline_records_total", topic="events") == 1
    assert site.records("dead-letter") == []
    assert ends(await site.diagnoses(), "p1") == [T + n * FRAME_MS for n in range(1, 7)]
    out = folder / "recording.parquet"
    assert record_topics(site.settings, site.profile, out, follow_seconds=None) == count + 1
    values = [one.value for one in read_recording(out) if one.topic == "sensors"]
    assert values == [one.value for one in (*first, *second)]


MISSING = "error: batches compressed with "


def test_a_worker_whose_codecs_are_not_installed_names_them_before_anything_is_read(kafka: str) -> None:
    # In a process of its own, in which nothing has imported them before.
    hidden = "import sys; sys.modules['cramjam'] = None; sys.argv = ['faultline', 'run']"
    code = f"{hidden}; from agents.cli.main import main; main()"
    site = KafkaSite(kafka)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"FAULTLINE_BROKER": f"kafka://{kafka}", "FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(MISSING) and line.endswith("pip install cramjam"), line


@pytest.mark.parametrize(("module", "package"), [("lz4", "lz4"), ("snappy", "python-snappy")])
def test_a_codec_that_a_command_lacks_is_named_before_anything_is_read(
    kafka: str, module: str, package: str, tmp_path: Path
) -> None:
    site = KafkaSite(kafka)
    env = {"FAULTLINE_BROKER": f"kafka://{kafka}", "FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix}
    with mock.patch.dict(sys.modules, {module: None}):
        done = faultline("record", "--out", tmp_path / "out.parquet", env=env)
    assert_one_line(done, MISSING)
    assert done.stderr.endswith(f"pip install {package}\n")


def test_records_of_an_aborted_transaction_never_happened(kafka: str, tmp_path: Path) -> None:
    run(aborted(kafka, tmp_path))


async def aborted(bootstrap: str, folder: Path) -> None:
    site = KafkaSite(bootstrap)
    right = readings("p1", 4)
    wrong = [
        one._replace(value=json.dumps({"machine": "p1", "time": one.timestamp_ms, "values": [9e9, 9e9]}).encode())
        for one in right[:3]
    ]
    async with site.working() as worker:
        async with site.producer(transactional_id=f"{site.settings.group}-gateway") as client:
            await client.begin_transaction()
            for one in wrong:
                await site.send_one(client, one)
            await client.flush()
            await client.abort_transaction()
            for part in (right[:20], right[20:]):
                async with client.transaction():
                    for one in part:
                        await site.send_one(client, one)
        await processed(worker, len(right))
        assert metric(worker, "faultline_records_total", topic="sensors") == len(right)
        assert metric(worker, "faultline_duplicates_total", kind="readings") == 0
        assert metric(worker, "faultline_records_lost_total", topic="sensors") == 0
        # The log ends with a marker, which is no record that is still to be read.
        assert not any(worker.lag().values())
    undisturbed = KafkaSite(bootstrap)
    await undisturbed.send(right)
    async with undisturbed.working() as worker:
        await processed(worker, len(right))
    found, wanted = await site.diagnoses(), await undisturbed.diagnoses()
    assert [(one.id, one.fault, one.probabilities) for one in found] == [
        (one.id, one.fault, one.probabilities) for one in wanted
    ]
    assert len(found) == 4
    out = folder / "recording.parquet"
    assert record_topics(site.settings, site.profile, out, follow_seconds=None) == len(right)
    # A restart goes on behind the last marker.
    more = readings("p1", 1, start_ms=T + 4 * FRAME_MS)
    await site.send(more)
    async with site.working() as worker:
        await processed(worker, len(more))
        assert metric(worker, "faultline_skipped_total", topic="sensors") == 0
        assert metric(worker, "faultline_records_lost_total", topic="sensors") == 0


def test_records_of_an_open_transaction_wait_for_its_end(kafka: str) -> None:
    run(_open(kafka))


async def _open(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    records = readings("p1", 2)
    async with site.working() as worker, site.producer(transactional_id=f"{site.settings.group}-slow") as client:
        await client.begin_transaction()
        await _begin(site, client, records)
        await site.send(readings("p2", 2))  # plain records of the same topic, some in the same partition
        await client.commit_transaction()
        await processed(worker, 2 * len(records))
    found = await site.diagnoses()
    assert len(ends(found, "p1")) == len(ends(found, "p2")) == 2


async def _begin(site: KafkaSite, client: AIOKafkaProducer, records: list[Record]) -> None:
    for one in records:
        await site.send_one(client, one)
    await client.flush()
