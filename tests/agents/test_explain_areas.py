"""`faultline explain` of areas: disturbed machines and texts that are planted come first, and the replay is exact."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.audit.why.areas import AreaId, area_from_log, replay_area_until
from agents.audit.why.explained_area import ExplainedArea
from agents.memory.log import MemoryLog
from agents.replay.shipped import area_profile, area_rule, area_section
from models.areas.load import load_area_runner
from models.evaluation.explanations.areas import step_without_nodes
from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaFrame
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.config.topics import AREA_TEXT, AREAS, PLANT
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, EventMessage
from pipeline.wire.recording import new_recording
from pipeline.wire.records import Output, Record
from tests.agents.test_plant_network import network
from tests.support.area_plant import FRAME_MS, MACHINES, T0_MS, WITH_AREAS, AreaPlant, VoteRunner, diagnosis
from tests.support.builders import numbered
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run

FRAMES = 8
HALL = MACHINES["hall"]
MEMBERS = HALL[:3]
"""Those that share the utility."""


def record(said: Diagnosis) -> Record:
    return Record(AREAS, 0, 0, said.frame_end, b"hall", messages.encode(said))


def planted(shares: dict[str, float], frames: int = FRAMES) -> list[Record]:
    """Machines that are well, but for the last four frames, in which their leaks have these shares."""
    return numbered(
        [
            record(diagnosis(machine, frame, shares.get(machine, 0.05) if frame >= frames - 4 else 0.05))
            for frame in range(frames)
            for machine in HALL
        ]
    )


def small() -> PlantProfile:
    return parse_profile(WITH_AREAS, where="test")


def rule(plant: PlantProfile, name: str = "log_odds") -> Any:
    return load_area_runner(name, plant, lambda _: None)


def said_of(outputs: Sequence[Output]) -> list[AreaDiagnosis]:
    return [decode_area(one.value or b"") for one in outputs if one.topic == PLANT]


def explained(
    records: Sequence[Record], runner: Any = None, machine: str | None = None, frames: int = FRAMES
) -> ExplainedArea:
    plant = small()
    runner = runner or rule(plant)
    wanted = AreaId("hall", T0_MS + FRAMES * FRAME_MS, runner.hash[:12])
    return ExplainedArea.of(replay_area_until(records, plant, runner, wanted, frames=frames), runner, None, machine)


def amounts(found: ExplainedArea, kind: str = "machine") -> dict[str, float]:
    return {one.group.name: one.amount for one in found.explanation.contributions if one.group.kind == kind}


@pytest.mark.parametrize("name", ["log_odds", "agreeing"])
def test_machines_that_were_disturbed_come_first(name: str) -> None:
    rng = random.Random(7)
    for _ in range(5):
        disturbed = rng.sample(MEMBERS, 2)
        shares = {machine: rng.uniform(0.8, 0.98) for machine in disturbed}
        shares |= {machine: rng.uniform(0.01, 0.2) for machine in HALL if machine not in disturbed}
        found = explained(planted(shares), rule(small(), name))
        assert (found.diagnosis.cause.kind, found.diagnosis.cause.name) == ("utility", "water")
        ordered = amounts(found)
        assert set(list(ordered)[:2]) == set(disturbed)
        assert list(ordered.values()) == sorted(ordered.values(), reverse=True)


def test_a_contribution_is_what_the_area_says_of_records_without_the_machine() -> None:
    records = planted({"pump-1": 0.9, "pump-2": 0.8, "pump-3": 0.4})
    for runner in (rule(small()), VoteRunner()):
        found = explained(records, runner)
        (other,) = found.question.against
        for machine, amount in amounts(found).items():
            rest = [one for one in records if f'"machine":"{machine}"'.encode() not in (one.value or b"")]
            engine = AreaEngine(small(), runner)
            last = said_of(engine.process(rest) + engine.finish())[-1]
            if runner.name == "votes":  # whose causes are all among those that are said
                cause = found.layout.causes[other]
                shares = [
                    next(one.probability for one in last.causes if (one.kind, one.name) == wanted)
                    for wanted in (("utility", "water"), (cause.kind.value, cause.name))
                ]
                odds = math.log(shares[0] / shares[1])
                assert amount == pytest.approx(found.explanation.evidence - odds, abs=2e-3)
            change = found.explanation.would_change
            if change is not None and [one.name for one in change.groups] == [machine]:
                assert last.cause.kind != found.diagnosis.cause.kind


def test_what_would_change_the_answer_does_change_it() -> None:
    records = planted({"pump-1": 0.9, "pump-2": 0.9, "pump-3": 0.9})
    change = explained(records).explanation.would_change
    assert change is not None and {one.name for one in change.groups} < set(MEMBERS)
    rest = [one for one in records if not any(group.name.encode() in (one.value or b"") for group in change.groups)]
    engine = AreaEngine(small(), rule(small()))
    said = said_of(engine.process(rest) + engine.finish())[-1]
    assert said.cause.kind != "utility"
    calm = explained(planted({})).explanation
    assert calm.would_change is None


def test_a_machine_that_looks_well_owes_its_corrected_answer_to_its_neighbours() -> None:
    found = explained(planted({"pump-1": 0.95, "pump-2": 0.95, "pump-3": 0.3}), machine="pump-3")
    answer = found.diagnosis.machines["pump-3"]
    assert (answer.own_fault, answer.fault) == ("normal", "leak")
    said = found.as_dict()
    assert (said["machine"], said["fault"], said["own_fault"], said["against"]) == (
        "pump-3",
        "leak",
        "normal",
        ["normal", "recovering"],
    )
    shares = amounts(found)
    assert min(shares["pump-1"], shares["pump-2"]) > max(shares["pump-3"], shares["pump-4"], 0)


class SensorRunner(VoteRunner):
    """Believes what a modality says of a machine, and not its fused answer."""

    name = "sensors"

    def step(self, frame: AreaFrame) -> Any:
        said = (frame.modality_answer[:, 0] == 1) & frame.modality_present[:, 0]
        frame.probabilities[:, 1] = said * frame.modality_confidence[:, 0]
        return super().step(frame)


def test_modalities_are_left_out_where_the_area_model_takes_them() -> None:
    found = explained(planted({"pump-1": 0.98, "pump-2": 0.9}), SensorRunner(), frames=4)
    assert found.explanation.frames == 4
    machines, modalities = amounts(found), amounts(found, "modality")
    assert list(modalities)[:2] == ["pump-1 sensors", "pump-2 sensors"]
    assert modalities["pump-1 sensors"] == pytest.approx(machines["pump-1"])
    assert amounts(explained(planted({"pump-1": 0.95})), "modality") == {}, "rules take none"


def test_a_window_of_few_frames_goes_on_from_the_state_before_it(tmp_path: Path) -> None:
    plant, records = small(), planted({"pump-1": 0.9, "pump-2": 0.7})
    for runner in (VoteRunner(), load_area_runner(str(network(tmp_path)), plant, lambda _: None)):
        wanted = AreaId("hall", T0_MS + FRAMES * FRAME_MS, runner.hash[:12])
        replayed = replay_area_until(records, plant, runner, wanted, frames=3)
        result = step_without_nodes(runner, replayed.window, ())
        assert result.causes.max() == pytest.approx(replayed.diagnosis.cause.probability, abs=1e-5)
        found = ExplainedArea.of(replayed, runner, None)
        assert found.explanation.frames == 3 and set(amounts(found)) == set(HALL)
        assert set(amounts(found, "modality")) == {f"{machine} sensors" for machine in HALL}
        assert all(math.isfinite(one.amount) for one in found.explanation.contributions)


def test_the_published_record_is_compared_with_the_replayed_one(tmp_path: Path) -> None:
    plant, path, profile = small(), tmp_path / "outputs.parquet", tmp_path / "plant.yaml"
    profile.write_text(WITH_AREAS, encoding="utf-8")
    records = planted({"pump-1": 0.9, "pump-2": 0.9})
    outputs = AreaEngine(plant, rule(plant)).process(records)
    last = said_of(outputs)[-1]
    for altered in (False, True):
        said = [Record(PLANT, 0, 0, 0, b"hall", one.value) for one in outputs if one.topic == PLANT]
        if altered:
            said[-1] = said[-1]._replace(value=(said[-1].value or b"").replace(b'"pump-1"', b'"pump-4"', 1))
        with new_recording(path) as writer:
            writer.write(numbered([*records, *said]))
        done = faultline("explain", last.id, "--from", path, "--profile", profile, "--json")
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout)
        assert (body["differs"] is not None) == altered
        assert body["cause"].pop("probability") > 0.5
        assert body["cause"] == {"kind": "utility", "name": "water", "fault": "leak"}
        assert body["against"] and body["would_change"]["without"]
        first = body["contributions"][0]
        assert (first["kind"], first["own_fault"]) == ("machine", "leak")
    shown = faultline("explain", last.id, "--from", path, "--profile", profile)
    assert "water Water main: leak" in shown.stdout and "NOT THE SAME" in shown.stdout
    for id_, problem in (
        (f"hall:{last.frame_end}:0123456789ab", "name the right one with --area-model"),
        (f"hall:{last.frame_end + 1}:{last.model.hash[:12]}", "the records do not lead to"),
        ("hall/water:soon:leak", "is no id of an area's diagnosis"),
    ):
        assert_one_line(faultline("explain", id_, "--from", path, "--profile", profile), problem)


def test_an_area_is_explained_from_its_topics() -> None:
    async def test() -> None:
        plant = AreaPlant(partitions=2)
        partition = plant.partition_of(b"hall")
        plant.place([one._replace(partition=partition) for one in planted({"pump-1": 0.9, "pump-2": 0.9})])
        agent = await plant.live_agent()
        last = plant.areas("hall")[-1]
        wanted = AreaId.parse(last.id, plant.profile)
        assert wanted is not None and str(wanted) == last.id
        log = MemoryLog(plant.broker)
        published, replayed = area_from_log(log, plant.profile, VoteRunner(), wanted, frames=5, history_ms=None)
        assert published == replayed.diagnosis == last
        cut, later = area_from_log(log, plant.profile, VoteRunner(), wanted, frames=5, history_ms=5 * FRAME_MS)
        assert cut == last and later.diagnosis.cause.kind == "utility"
        assert agent.engine.areas == 1

    run(test())


class _Words:
    """An area of the shipped profile whose machines say little, and about whose utility somebody writes."""

    TEXTS = ("cooling water to the condenser comes in much too warm", "eyewash and shower were tested")

    def __init__(self) -> None:
        self.plant = area_profile()
        self.period_ms = self.plant.machine_types[0].frame_period_ms
        self.begin_ms = T0_MS // self.period_ms * self.period_ms
        self.machines = yaml.safe_load(area_section().read_text("utf-8"))["areas"]["hall_1"]["machines"]

    def records(self) -> list[Record]:
        found: list[Record] = []
        for frame in range(6):
            end_ms = self.begin_ms + (frame + 1) * self.period_ms
            for machine in self.machines:
                share = 0.55 if frame > 2 and machine in ("te-01", "te-02", "te-03") else 0.03
                frames: dict[str, Any] = {"frame_start": end_ms - self.period_ms, "frame_end": end_ms}
                said = diagnosis(machine, frame, share, "idv_5", **frames)
                found.append(Record(AREAS, 0, 0, end_ms, b"hall_1", messages.encode(said)))
            if frame == 3:
                for number, text in enumerate(self.TEXTS):
                    event = EventMessage("hall_1/cooling_water", end_ms + 60_000, text, f"t{number}")
                    value = messages.encode(event)
                    found.append(Record(AREAS, 0, 0, end_ms, b"hall_1", value, (AREA_TEXT,)))
        return numbered(found)


def test_the_text_that_says_what_has_failed_comes_first() -> None:
    words = _Words()
    runner = load_area_runner(str(area_rule()), words.plant, lambda _: None)
    engine = AreaEngine(words.plant, runner)
    records = words.records()
    engine.process(records[:1])
    states = engine.checkpoint()  # before a frame has closed
    assert states["hall_1"] is not None
    engine.restore("hall_1", states["hall_1"])
    wanted = AreaId("hall_1", words.begin_ms + 6 * words.period_ms, runner.hash[:12])
    found = ExplainedArea.of(replay_area_until(records, words.plant, runner, wanted, frames=60), runner, None)
    assert (found.diagnosis.cause.name, found.diagnosis.cause.fault) == ("cooling_water", "idv_5")
    texts = amounts(found, "text")
    assert next(iter(texts)) == words.TEXTS[0] and texts[words.TEXTS[0]] > max(amounts(found).values())
    assert amounts(found, "utility").keys() == {"hall_1/cooling_water"}
