"""Incidents on a real Kafka: written by one worker, read by the next, and listed from the topic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.worker.service import kafka_worker
from pipeline.engine.reports.incidents.record import SIMILAR, decode_similar
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE
from tests.support.commands import faultline
from tests.support.delivery_apps import run
from tests.support.drifting import ObedientRunner
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T, processed, readings

pytestmark = pytest.mark.kafka


def episode(machine: str, start_ms: int) -> list[Record]:
    """Six frames of a leak, and six after it."""
    return [
        *readings(machine, 6, start_ms=start_ms, value=2.0),
        *readings(machine, 6, start_ms=start_ms + 7 * FRAME_MS, value=0.0),
    ]


def test_the_next_worker_knows_of_earlier_incidents(kafka: str, tmp_path: Path) -> None:
    site = KafkaSite(kafka)
    run(two_lives(site), 120)
    carried = {}
    for record in site.records("alarms"):
        alarm = json.loads(record.value or b"")
        if alarm["state"] == "raised":
            carried[alarm["machine"]] = decode_similar(dict(record.headers).get(SIMILAR, b"[]"))
    assert carried["p1"] == []
    assert [(one.machine, one.fault) for one in carried["p2"]] == [("p1", "leak")]
    (tmp_path / "plant.yaml").write_text(ONE_SOURCE, encoding="utf-8")
    given = ("--broker", site.settings.broker, "--profile", tmp_path / "plant.yaml", "--json")
    env = {"FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix}
    listed = faultline("incidents", "list", *given, env=env)
    assert [one["machine"] for one in json.loads(listed.stdout)["incidents"]] == ["p1", "p2"], listed.stderr
    found = faultline("incidents", "similar", "--machine", "p2", "--at", str(T + 60 * FRAME_MS), *given, env=env)
    assert [one["machine"] for one in json.loads(found.stdout)["similar"]] == ["p1"], found.stderr


async def two_lives(site: KafkaSite) -> None:
    for machine, start_ms in (("p1", T), ("p2", T + 60 * FRAME_MS)):
        sent = episode(machine, start_ms)
        await site.send(sent)
        worker = kafka_worker(site.settings, site.profile, {"pump": ObedientRunner(leaks)}, site.partition_of)
        await worker.start()
        try:
            await processed(worker, len(sent))
        finally:
            await worker.stop()


def leaks(value: float) -> int:
    return int(value > 1)
