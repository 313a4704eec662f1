"""From topics of a real Kafka to a detector, and labels that are written and read there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.cli.training import RECORDING
from models.model_file import read_model
from pipeline.wire.recording import read_recording
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, reading
from tests.support.commands import Finished, assert_one_line, faultline
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T

pytestmark = pytest.mark.kafka
MACHINES = [f"p{number}" for number in range(1, 11)]
FRAMES = 1_200


async def _sent(site: KafkaSite) -> list[Record]:
    """Some hours of ten machines, a reading in each frame; and records that were never committed."""
    records = [
        reading(machine, T + frame * FRAME_MS, [float(frame % 7), float(frame % 3)])
        for frame in range(FRAMES)
        for machine in MACHINES
    ]
    async with site.producer(transactional_id=site.settings.group) as client:
        await client.begin_transaction()
        for one in records[:10]:
            await site.send_one(client, one._replace(value=b"never"))
        await client.flush()
        await client.abort_transaction()
    await site.send(records)
    return records


def test_topics_teach_a_detector_and_take_labels(kafka: str, tmp_path: Path) -> None:
    site = KafkaSite(kafka)
    profile = tmp_path / "plant.yaml"
    profile.write_text(ONE_SOURCE, encoding="utf-8")
    records: list[Record] = []

    async def send() -> None:
        records.extend(await _sent(site))

    run(send())
    env = {"FAULTLINE_BROKER": f"kafka://{kafka}", "FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix}

    def command(*words: str | Path) -> Finished:
        return faultline(*words, "--profile", profile, env=env | {"COLUMNS": "200"})

    begin, end = T + 1_100 * FRAME_MS, T + 1_110 * FRAME_MS
    added = command("labels", "add", "--machine", "p1", "--fault", "leak", "--from", str(begin), "--to", str(end))
    assert added.returncode == 0, added.stderr
    assert added.stdout.endswith(f"is written to {site.name('labels')}\n")
    listed = command("labels", "list")
    assert "1 of 1 labels" in listed.stdout
    assert "leak" in listed.stdout

    out = tmp_path / "model"
    train = ("train", "--from", f"kafka://{kafka}", "--out", out, "--no-compare")
    refused = command(*train)
    assert refused.returncode == 1
    assert "so its scores would mean nothing" in refused.stderr
    recorded = list(read_recording(out / RECORDING))
    (label,) = [record for record in recorded if record.topic == "labels"]
    assert label.key == b"p1"
    found = [(one.timestamp_ms, one.key, one.value) for one in recorded if one.topic == "sensors"]
    assert sorted(found, key=repr) == sorted(((one.timestamp_ms, one.key, one.value) for one in records), key=repr)
    assert [stamp for stamp, _, _ in found] == sorted(stamp for stamp, _, _ in found)

    normal = command(*train, "--until", str(begin), "--normal", "--force", "--budget", "5s")
    assert normal.returncode == 0, normal.stderr
    assert "1 labels are about other times" in normal.stderr
    assert read_model(out / "pump.faultline").header.classes[-1] == "unknown"
    stamps = [record.timestamp_ms for record in read_recording(out / RECORDING) if record.topic == "sensors"]
    assert stamps == [record.timestamp_ms for record in records if record.timestamp_ms < begin]
    asyncio.run(asyncio.to_thread(site.delete, "labels", "events", "control"))
    again = command(*train, "--since", str(begin), "--force")
    assert f"topic {site.name('labels')} does not exist, so nothing is read from it" in again.stderr
    assert "no frame has a label" in again.stderr
    asyncio.run(asyncio.to_thread(site.delete, "sensors"))
    assert_one_line(command(*train, "--force"), f"topic {site.name('sensors')} does not exist")
