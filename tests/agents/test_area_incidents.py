"""Incidents of utilities: kept with what took part, carried by the next alarms, and the same after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pipeline.config.topics import AREA_TEXT, AREAS
from pipeline.engine.reports.incidents.record import (
    SIMILAR,
    Incident,
    SimilarIncident,
    decode_incident,
    decode_similar,
)
from pipeline.wire.recording import new_recording
from pipeline.wire.records import Record
from tests.support.area_plant import FRAME_MS, MACHINES, T0_MS, WITH_AREAS, AreaPlant, area_record, diagnosis
from tests.support.builders import numbered
from tests.support.commands import faultline
from tests.support.delivery_apps import run

EPISODES = ((20, "leak"), (60, "leak"), (100, "jam"))
"""The frame in which the water fails, and how that looks in its machines."""
PLANT = WITH_AREAS.replace("faults: [leak], machines: [pump-1", "faults: [leak, jam], machines: [pump-1")


def story(plant: AreaPlant) -> list[Record]:
    """Failures of both utilities, one after the other, with texts about the water."""
    records: list[Record] = []
    for frame in range(120):
        failing = next((fault for begin, fault in EPISODES if begin <= frame < begin + 10), None)
        for machine in (*MACHINES["hall"], *MACHINES["yard"]):
            share, fault = 0.05, failing or "leak"
            if failing is not None and machine in ("pump-1", "pump-2"):
                share = 0.95
            if machine in MACHINES["yard"] and 40 <= frame < 50:
                share, fault = 0.95, "jam"
            records.append(area_record(diagnosis(machine, frame, share, fault), plant.partition_of))
        if failing is not None and frame % 20 == 1:
            body = {"machine": "hall/water", "time": T0_MS + frame * FRAME_MS, "text": f"wet floor {frame}"}
            key = b"hall"
            records.append(
                Record(AREAS, plant.partition_of(key), 0, body["time"], key, msgspec.json.encode(body), (AREA_TEXT,))  # type: ignore[arg-type]
            )
    return records


def incidents(plant: AreaPlant) -> dict[str, Incident]:
    """The newest of each key, as compaction leaves them."""
    return {(record.key or b"").decode(): decode_incident(record.value or b"") for record in plant.log("incidents")}


def carried(plant: AreaPlant) -> list[list[SimilarIncident]]:
    """What each raised alarm of the water carries, in the order of time."""
    alarms = [one for one in plant.log("alarms") if one.key == b"hall/water" and b'"raised"' in (one.value or b"")]
    return [decode_similar(headers[SIMILAR]) if SIMILAR in (headers := dict(one.headers)) else [] for one in alarms]


@pytest.fixture(scope="module")
def done() -> Iterator[AreaPlant]:
    """A plant agent has read the whole story."""
    plant = AreaPlant(PLANT, partitions=2, chunk_records=30, checkpoint_records=60)
    plant.place(story(plant))

    async def live() -> None:
        await plant.live_agent()

    run(live())
    yield plant


def test_an_incident_keeps_the_faults_the_machines_and_the_texts(done: AreaPlant) -> None:
    kept = sorted(incidents(done).values(), key=lambda one: one.start)
    assert [(one.machine, one.diagnosed) for one in kept] == [
        ("hall/water", "leak"),
        ("yard/power", "jam"),
        ("hall/water", "leak"),
        ("hall/water", "jam"),
    ]
    first = kept[0]
    assert (first.kind, first.machine_type, first.texts) == ("alarm", "utility", ["wet floor 21"])
    assert first.end is not None and 5 < (first.end - first.start) // FRAME_MS < 15
    assert first.probabilities["leak"] > 0.5 and set(first.support) == {"pump-1", "pump-2", "pump-3"}


def test_an_alarm_carries_the_most_similar_incidents_of_utilities(done: AreaPlant) -> None:
    first, second, third = carried(done)
    assert first == [], "there was nothing before"
    (like,) = second  # of the jam nothing is similar
    assert (like.machine, like.fault, like.text) == ("hall/water", "leak", "wet floor 21") and like.score > 0.99
    jam, *leaks = third
    assert (jam.machine, jam.fault) == ("yard/power", "jam") and jam.score > 0.8
    assert [one.fault for one in leaks] == ["leak", "leak"] and leaks[0].score < 0.2, "of the same machines"


def test_an_agent_that_is_killed_is_followed_by_one_with_the_same_incidents(done: AreaPlant) -> None:
    async def test() -> None:
        plant = AreaPlant(PLANT, partitions=2, chunk_records=30, checkpoint_records=60)
        plant.place(story(plant))
        deaths = sum([plant.died(await plant.live_agent(at={"output_send": hit})) for hit in (4, 5)])
        await plant.live_agent()
        assert deaths == 2
        assert incidents(plant) == incidents(done)
        assert carried(plant)[-1] == carried(done)[-1]

    run(test())


def test_similar_incidents_of_a_utility_are_asked_for_and_given_to_a_replay(done: AreaPlant, tmp_path: Path) -> None:
    profile, path = tmp_path / "plant.yaml", tmp_path / "outputs.parquet"
    profile.write_text(PLANT, encoding="utf-8")
    with new_recording(path) as writer:
        writer.write(numbered([record for topic in (AREAS, "plant", "incidents") for record in done.log(topic)]))
    at = T0_MS + 105 * FRAME_MS
    asked = ("incidents", "similar", "--machine", "hall/water", "--at", str(at), "--from", path, "--profile", profile)
    found = faultline(*asked, "--json")
    assert found.returncode == 0, found.stderr
    body = json.loads(found.stdout)
    assert body["diagnosis"].startswith(f"hall:{at + FRAME_MS}:")
    assert [one["machine"] for one in body["similar"]] == ["yard/power", "hall/water", "hall/water"]
    assert "the cause is water Water main: jam" in faultline(*asked).stdout
    again = tmp_path / "again.parquet"
    replay = ("replay", path, "--profile", profile, "--plant", "--area-model", "log_odds", "--out", again, "--json")
    outputs = faultline(*replay, "--incidents", path)
    assert outputs.returncode == 0, outputs.stderr
    asked_again = [again if one is path else one for one in asked]
    assert json.loads(faultline(*asked_again, "--json").stdout)["similar"]
