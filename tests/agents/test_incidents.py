"""Incidents of workers: kept in a topic, named by labels, carried by alarms, and shown by `faultline incidents`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.delivery.incidents import IncidentDesk
from models.stepping.retrieval_vectors import Projection, RetrievalVectors
from pipeline.config.profile import parse_profile
from pipeline.engine.reports.incidents.record import (
    SIMILAR,
    Incident,
    SimilarIncident,
    decode_incident,
    decode_similar,
)
from pipeline.frames import Frames, StepResult
from pipeline.wire.labels import label_output
from pipeline.wire.messages import Diagnosis, Evidence, ModelRef, encode
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, event
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run, until
from tests.support.drifting import PERIOD_MS, T0, ObedientRunner, readings
from tests.support.plant import Plant


def runner() -> ObedientRunner:
    return ObedientRunner(lambda value: int(value > 1) + int(value > 2))


def episode(machine: str, begin: int, fault: float = 2.0, frames: int = 6) -> list[Record]:
    """A fault for some frames, and the normal state around it."""
    shown = readings(
        lambda n: [fault if begin <= n < begin + frames else 0.0, 0.0], range(begin - 3, begin + 12), machine
    )
    return [*shown, event(machine, T0 + (begin - 1) * PERIOD_MS, f"{machine} drips")]


def labelled(machine: str, begin: int, end: int, fault: str, note: str) -> Record:
    span = T0 + begin * PERIOD_MS, T0 + end * PERIOD_MS
    output = label_output(machine, fault, *span, partition=0, written_ms=span[1], note=note)
    return Record("labels", 0, 0, span[1], output.key, output.value)


def in_order(*parts: list[Record]) -> list[Record]:
    return sorted((record for part in parts for record in part), key=lambda record: record.timestamp_ms)


def incidents(plant: Plant) -> dict[str, Incident]:
    """The newest of each key, as compaction leaves them."""
    return {(record.key or b"").decode(): decode_incident(record.value or b"") for record in plant.log("incidents")}


def similar(plant: Plant) -> dict[str, list[SimilarIncident]]:
    """What raised alarms carry, by the first that was written of each."""
    found: dict[str, list[SimilarIncident]] = {}
    for record in plant.log("alarms"):
        alarm = json.loads(record.value or b"")
        if alarm["state"] == "raised":
            headers = dict(record.headers)
            found.setdefault(alarm["machine"], decode_similar(headers[SIMILAR]) if SIMILAR in headers else [])
    return found


def test_a_raised_alarm_carries_what_other_machines_had_and_what_was_found() -> None:
    async def test() -> None:
        plant = Plant()
        plant.append(
            in_order(episode("p1", 10), episode("p2", 10, 3.0), [labelled("p1", 9, 17, "leak", "seal replaced")])
        )
        await plant.work(runner=runner())
        plant.append(in_order(episode("p5", 60), episode("p1", 200)))
        await plant.work(runner=runner())
        carried = similar(plant)
        assert carried["p1"] == carried["p2"] == [], "there was nothing before"
        first, second = carried["p5"]
        assert (first.machine, first.fault, first.found, first.score) == ("p1", "leak", True, 1.0)
        assert first.text.splitlines() == ["seal replaced", "p1 drips"]
        assert (second.machine, second.fault, second.found) == ("p2", "jam", False)
        assert second.score < 0.5
        kept = incidents(plant)
        ends = {
            one.machine: one.end for one in kept.values() if one.kind == "alarm" and one.start < T0 + 50 * PERIOD_MS
        }
        assert ends.keys() == {"p1", "p2"} and None not in ends.values()

    run(test())


def test_a_silent_machine_has_an_alarm_and_no_incident() -> None:
    async def test() -> None:
        plant = Plant(ONE_SOURCE + "alarms: [{fault: stale, priority: high}]\n")
        sent = readings(lambda n: [0.0, 0.0], range(3), "p1")
        ticks = [
            Record("control", 0, 0, time_ms, None, json.dumps({"kind": "tick", "time": time_ms}).encode())
            for time_ms in range(T0 + 60_000, T0 + 300_000, 60_000)
        ]
        plant.place([record._replace(partition=plant.partition_of(b"p1")) for record in [*sent, *ticks]])
        await plant.work(runner=runner())
        faults = {json.loads(record.value or b"")["fault"] for record in plant.log("alarms")}
        assert faults == {"stale", "offline"}
        assert incidents(plant) == {}

    run(test())


def test_a_killed_worker_is_followed_by_one_that_keeps_the_same_incidents() -> None:
    async def test() -> None:
        parts = [episode(f"p{number}", 10 + 7 * number, 2.0 + number % 2) for number in range(5)]
        labels = [labelled(f"p{number}", 9 + 7 * number, 20 + 7 * number, "jam", "seen") for number in range(3)]
        sent = in_order(*parts, labels)
        calm, plant = Plant(), Plant()
        calm.append(sent)
        await calm.work(runner=runner())
        plant.append(sent[: len(sent) // 2])
        worker = plant.worker(runner())
        await worker.start()
        while not plant.log("state"):
            await asyncio.sleep(0.002)
        await plant.kill(worker)
        plant.append(sent[len(sent) // 2 :])
        await plant.work(runner=runner())
        assert plant.outputs("alarms") == calm.outputs("alarms"), "values do not depend on other machines"
        assert len(incidents(plant)) == 8
        assert incidents(plant) == incidents(calm)

    run(test())


def test_workers_learn_of_each_others_incidents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.delivery.incidents._FOLLOW_SECONDS", 0.02)

    async def test() -> None:
        plant = Plant()
        machines = {plant.partition_of(f"p{number}".encode()): f"p{number}" for number in range(9)}
        one, two = plant.worker(runner()), plant.worker(runner())
        async with plant.running(one), plant.running(two):
            await until(lambda: all(worker.app.consumer.assignment() for worker in (one, two)))
            plant.append(episode(machines[0], 10))
            await until(lambda: any(incident.end is not None for incident in incidents(plant).values()))
            await until(lambda: all(len(worker.desk.book) == 1 for worker in (one, two)))
            plant.append(episode(machines[1], 60))
            await until(lambda: machines[1] in similar(plant))
        assert [like.machine for like in similar(plant)[machines[1]]] == [machines[0]]

    run(test())


def test_an_incident_ends_when_the_fault_is_gone_and_silence_is_none() -> None:
    desk = IncidentDesk(parse_profile(ONE_SOURCE, where="test"), lambda _: 0, 1, {})

    def alarm(state: str, time: int, machine: str = "p1") -> Output:
        said = {"id": f"{machine}:{time}:{state}", "machine": machine, "fault": "leak", "state": state, "time": time}
        return Output("alarms", 0, machine.encode(), json.dumps(said | {"by": "somebody"}).encode(), time)

    def diagnosis(time: int, **probabilities: float) -> Output:
        said = Diagnosis(
            "d",
            "p1",
            0,
            time,
            "leak",
            1.0,
            probabilities,
            {},
            0.0,
            0.0,
            Evidence([], []),
            "active",
            None,
            0,
            ModelRef("m", "a"),
        )
        return Output("diagnoses", 0, b"p1", encode(said), time)

    changed = [
        [decode_incident(one.value or b"") for one in desk.add(outputs) if one.topic == "incidents"]
        for outputs in (
            [diagnosis(10, leak=0.9), alarm("raised", 10)],
            [alarm("acknowledged", 20)],
            [alarm("latched", 30)],
            [alarm("cleared", 40)],
            [diagnosis(50), alarm("raised", 50)],
            [alarm("raised", 60, "p2"), Output("alarms", 0, b"hall", b'{"id": "of an area"}', 60)],
        )
    ]
    assert [[incident.end for incident in each] for each in changed] == [[None], [], [30], [], [], []]


class EmbeddingRunner(ObedientRunner):
    """Its embeddings turn with the first variable, and it has a retrieval head for them."""

    def __init__(self) -> None:
        super().__init__(lambda value: int(value > 1))
        self.retrieval = RetrievalVectors([IDENTITY, IDENTITY])

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        angle = np.nan_to_num(frames.values[:, 0])
        sensors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return replace(result, embeddings=(sensors, np.zeros_like(sensors)))


IDENTITY = Projection(*(np.array(x, np.float32) for x in ([0, 0], [1, 1], [[1, 0], [0, 1]], [0, 0])))


def test_incidents_of_a_model_with_a_head_are_compared_by_its_vectors() -> None:
    async def test() -> None:
        plant = Plant()
        parts = [
            episode(f"p{number}", begin, level)[:-1] for number, begin, level in ((1, 10, 2), (2, 40, 3), (3, 80, 2.9))
        ]
        plant.append(in_order(*parts))
        await plant.work(runner=EmbeddingRunner())
        carried = similar(plant)["p3"]
        assert [one.machine for one in carried] == ["p2", "p1"]
        assert carried[0].score == pytest.approx(np.cos(0.1), abs=1e-3)
        assert carried[1].score == pytest.approx(np.cos(0.9), abs=1e-3)
        vectors = {one.machine: one.vector for one in incidents(plant).values()}
        assert vectors["p1"] == [round(4096 * np.cos(2)), round(4096 * np.sin(2))]

    run(test())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A profile and a recording of what a worker has published."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "plant.yaml").write_text(ONE_SOURCE, encoding="utf-8")
    plant = Plant()

    async def work() -> None:
        parts = episode("p1", 10), episode("p2", 40, 3.0), episode("p3", 70)
        plant.append(in_order(*parts, [labelled("p2", 38, 47, "jam", "bearing dry")]))
        await plant.work(runner=runner())

    run(work())
    with RecordingWriter(folder / "outputs.parquet") as writer:
        writer.write([one for topic in ("diagnoses", "incidents") for one in plant.log(topic)])
    return folder / "plant.yaml", folder / "outputs.parquet"


def shown(outputs: tuple[Path, Path], *arguments: str) -> dict[str, list[dict[str, object]]]:
    done = faultline("incidents", *arguments, "--profile", outputs[0], "--from", outputs[1], "--json")
    assert done.returncode == 0, done.stderr
    loaded: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return loaded


def test_incidents_are_listed(outputs: tuple[Path, Path]) -> None:
    assert [one["machine"] for one in shown(outputs, "list")["incidents"]] == ["p1", "p2", "p3"]
    (one,) = shown(outputs, "list", "--fault", "jam")["incidents"]
    assert (one["machine"], one["found"], one["note"]) == ("p2", "jam", "bearing dry")
    table = faultline("incidents", "list", "--profile", outputs[0], "--from", outputs[1])
    assert "3 of 3 incidents" in table.stdout


def test_similar_incidents_are_found_by_time_and_by_words(outputs: tuple[Path, Path]) -> None:
    at = str(T0 + 73 * PERIOD_MS)
    found = shown(outputs, "similar", "--machine", "p3", "--at", at)["similar"]
    assert [(one["machine"], one["fault"]) for one in found] == [("p1", "leak"), ("p2", "jam")]
    before = shown(outputs, "similar", "--machine", "p2", "--at", str(T0 + 42 * PERIOD_MS))["similar"]
    assert [one["machine"] for one in before] == ["p1"]
    by_words = shown(outputs, "similar", "--text", "dry bearing")["similar"]
    assert [one["machine"] for one in by_words] == ["p2"]
    table = faultline(
        "incidents", "similar", "--machine", "p3", "--at", at, "--profile", outputs[0], "--from", outputs[1]
    )
    assert "p3, frame until" in table.stdout and "diagnosed" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --machine, with --at for a time, or --text"),
        (("--text", "x", "--at", "1763600000000"), "--at is for --machine"),
        (("--machine", "p1", "--at", "soon"), "--at: 'soon' is not an ISO 8601 time"),
        (("--machine", "p9"), "there is no diagnosis of machine 'p9'"),
        (("--machine", "p1", "--at", "1000"), "of a frame that begins before 1970-01-01T00:00:01Z"),
    ],
)
def test_what_cannot_be_looked_up_is_said(outputs: tuple[Path, Path], arguments: tuple[str, ...], message: str) -> None:
    given = ("--profile", outputs[0], "--from", outputs[1])
    assert_one_line(faultline("incidents", "similar", *arguments, *given), message)


def test_a_recording_without_incidents_is_refused(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "inputs.parquet"
    with RecordingWriter(path) as writer:
        writer.write(episode("p1", 10))
    done = faultline("incidents", "list", "--profile", outputs[0], "--from", path)
    assert_one_line(done, "has no topic 'incidents'")
