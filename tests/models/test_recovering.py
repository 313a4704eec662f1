"""A plant that recovers slowly after one of its faults: what is labelled, learnt, published, and raises no alarm."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from agents.audit.certificate import CertificateBuilder
from agents.cli.views.scores_table import scores_table
from agents.delivery.partitioning import partition_function
from agents.replay.replay import replay_in_memory
from models.data.recovery import NormalDistance, RecoveryRule, recovery_targets, smoothed
from models.data.runs import Run, RunFiles
from models.data.scaling import Scaling
from models.evaluation.torch_reference import TorchRunner
from models.experiments.comparison import compare, importance
from models.model_file import read_model
from models.network_file import build_network
from models.stepping.load import load_model
from models.training.config import TrainConfig
from models.training.fitting.evidence import part_evidence
from models.training.loop import StageConfig
from models.training.prepare import prepare, without_recovering
from models.training.stages.sensors import SensorStage
from models.training.stages.untrained import build_untrained
from models.training.train import TrainReport, train
from pipeline.arrays import Floats, Ints
from pipeline.config.profile import parse_profile
from pipeline.config.settings import load_settings
from pipeline.engine.engine import Engine
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.errors import DataError
from pipeline.frames import StepRunner
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record
from tests.models import test_training as plant_of
from tests.models.test_training import CENTRE, WORDS
from tests.support.builders import diagnoses, numbered, reading
from tests.support.commands import faultline
from tests.support.models_stepping import LAW, distance
from tests.support.models_tiny import PERIOD_MS, PROFILE, Stream, machine_type

T0 = 1_763_600_000_000
RECOVERING = 3
"""Index of the class after the plant's faults."""
FRAMES, ONSET, CLEARING, JAM, UNJAMMED = 130, 25, 45, 95, 110
SLOW = 12.0
"""Frames in which the flow comes back by a factor of e after a leak; a jam leaves nothing behind."""


def run_of(seed: int) -> tuple[Floats, Ints]:
    """Readings (T, 4) and labels (T,)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(FRAMES, np.int64)
    labels[ONSET:CLEARING], labels[JAM:UNJAMMED] = 1, 2
    values = CENTRE + rng.standard_normal((FRAMES, 4))
    values[ONSET:CLEARING, 0] -= 8
    values[CLEARING:, 0] -= 8 * np.exp(-np.arange(FRAMES - CLEARING) / SLOW)
    values[labels == 2, 1:3] += 4
    return values.astype(np.float32), labels


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with profile, runs and texts."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    parts = []
    for seed in range(24):
        values, labels = run_of(seed)
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        parts.append(pa.table(columns | {"seed": [seed] * FRAMES, "sample": np.arange(FRAMES), "label": labels}))
    pyarrow.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    rows = [
        (f"{text} {word}".strip(), fault, f"{fault}{at}")
        for fault, texts in WORDS.items()
        for at, text in enumerate(texts)
        for word in ("", "today", "at noon")
    ]
    rows += [
        (f"{text} all good", "normal", f"recovered/{at}") for at, text in enumerate(("fixed", "repaired", "done", "ok"))
    ]
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("text", "fault", "group"))}
    pyarrow.parquet.write_table(pa.table(columns), folder / "texts.parquet")
    return folder


def config(plant: Path, output: Path, **options: Any) -> TrainConfig:
    """A training that takes seconds."""
    longer = StageConfig(epochs=8, batch_size=4, learning_rate=0.02)
    own: dict[str, Any] = {"texts": (), "hard_faults": (), "sensor_stage": longer, "recovering": True}
    return plant_of.config(plant, output, **own | options)


@pytest.fixture(scope="module")
def report(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    texts = (plant / "texts.parquet",)
    return train(config(plant, tmp_path_factory.mktemp("model"), texts=texts, false_alarms=0.002, plots=True))


# -- labels ------------------------------------------------------------------------------------------------------


def targets(labels: list[int], quiet: str, **rule: Any) -> tuple[list[int], list[int]]:
    is_normal = np.array([mark == "." for mark in quiet])
    found, lengths = recovery_targets(np.array(labels), is_normal, 9, RecoveryRule(**{"quiet_frames": 3} | rule))
    return found.tolist(), lengths


def test_a_plant_recovers_until_it_has_been_quiet_for_some_frames() -> None:
    labels = [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    #                             the quiet frames themselves are normal; one of two frames alone is not enough
    assert targets(labels, "x.xxxx..x...") == ([0, 0, 1, 1, 9, 9, 9, 9, 9, 0, 0, 0], [5])
    assert targets(labels, "x.xx...xxxxx") == (labels, [0])
    assert targets(labels, "xxxxxxxxxxxx") == ([0, 0, 1, 1] + [9] * 8, [8])
    assert targets(labels, "xxxxxxxxxxxx", most_frames=2) == ([0, 0, 1, 1, 9, 9] + [0] * 6, [2])


def test_recovery_ends_with_the_next_fault_and_begins_after_each() -> None:
    assert targets([1, 0, 0, 2, 0, 0, 0, 0], "xxxxx...") == ([1, 9, 9, 2, 9, 0, 0, 0], [2, 1])
    # Quiet up to the next fault is all that can be seen.
    assert targets([1, 0, 0, 2], "xx.x") == ([1, 9, 0, 2], [1])
    # What follows a fault and a stretch without labels may recover, what follows only the latter does not.
    assert targets([1, -1, 0, 0, 0, 0], "xxx...") == ([1, -1, 9, 0, 0, 0], [1])
    assert targets([-1, 0, 0], "xxx") == ([-1, 0, 0], [])
    assert targets([], "") == ([], [])


def test_means_start_at_the_normal_state_and_stay_where_nothing_is_known() -> None:
    values = np.array([[4, 4], [4, np.nan], [np.nan, 4]], np.float32)
    assert smoothed(values, 2).tolist() == [[2, 2], [3, 2], [3, 3]]


def test_the_distance_is_normal_before_faults_and_not_while_a_sensor_drifts_back() -> None:
    runs = [Run(f"{seed}", f"{seed}", "a", *run_of(seed)) for seed in range(12)]
    distance_of = NormalDistance.fit(runs, Scaling.fit(runs), RecoveryRule(), 3)
    normal = np.array([distance_of.is_normal(run_of(seed)[0]) for seed in range(90, 100)])
    assert normal[:, :ONSET].mean() > 0.95
    assert not normal[:, ONSET + 2 : CLEARING + 15].any()
    assert normal[:, CLEARING + 42 : JAM].mean() > 0.8
    assert normal[:, UNJAMMED + 15 :].mean() > 0.9
    # Readings that fail for two frames, and a value that cannot be, are no state of the plant.
    disturbed, _ = run_of(99)
    disturbed[5:7], disturbed[12, 3] = np.nan, 1e9
    again = distance_of.is_normal(disturbed)
    assert again[:12].mean() > 0.9
    assert again[16:ONSET].mean() > 0.9


def test_only_what_is_learnt_has_the_class_and_only_training_runs_decide(plant: Path, tmp_path: Path) -> None:
    data = prepare(config(plant, tmp_path))
    assert data.classes == (*data.faults, "recovering") == ("normal", "leak", "jam", "recovering")
    for run in (*data.split.train, *data.split.validation):
        assert set(run.labels.tolist()) == {0, 1, 2}
        recovering = run.learnt == RECOVERING
        assert (run.labels[recovering] == 0).all()
        assert recovering[CLEARING : CLEARING + 15].all()
        assert not recovering[:CLEARING].any()
    assert all(run.targets is None for run in data.split.test)
    assert data.recoveries is not None
    assert len(data.recoveries) == 2 * len(data.split.train)
    # A leak leaves a trace for long, a jam only in the smoothed readings.
    assert min(data.recoveries[::2]) > 20
    assert max(data.recoveries[1::2]) < 13
    assert len(data.class_prior) == len(data.class_weights) == 4
    plain = without_recovering(data, config(plant, tmp_path))
    expected = prepare(config(plant, tmp_path, recovering=False))
    assert plain.classes == expected.classes == data.faults
    assert plain.class_prior == pytest.approx(expected.class_prior)
    assert all(run.targets is None for run in plain.split.train)


def test_runs_with_a_clearing_are_learnt_three_times_unless_told_otherwise(plant: Path, tmp_path: Path) -> None:
    assert config(plant, tmp_path).repeats == 3
    assert config(plant, tmp_path, clearing_repeats=5).repeats == 5
    assert config(plant, tmp_path, recovering=False).repeats == 1
    assert config(plant, tmp_path, recovering={"most_frames": 20}).recovering == RecoveryRule(most_frames=20)
    with pytest.raises(ValueError, match="takes the place of recovery_frames"):
        config(plant, tmp_path, recovery_frames=5)
    with pytest.raises(ValueError, match="give true, false, or the settings of the rule"):
        config(plant, tmp_path, recovering="often")
    data = prepare(config(plant, tmp_path))

    def batches(repeats: int) -> int:
        chosen = config(plant, tmp_path, clearing_repeats=repeats, most_offset_frames=0)
        stage = SensorStage(build_untrained(chosen, data), data, chosen)
        return len(list(stage.losses(np.random.default_rng(0))))

    assert batches(3) == 3 * batches(1)
    capped = prepare(config(plant, tmp_path, recovering={"most_frames": 20}))
    assert max(capped.recoveries or ()) == 20


def test_what_cannot_be_learnt_is_refused(plant: Path, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(plant / "runs.parquet")
    stays = table.filter(pa.compute.less(table["sample"], CLEARING))
    pyarrow.parquet.write_table(stays, tmp_path / "stays.parquet")
    with pytest.raises(DataError, match="no fault clears in a training run"):
        prepare(config(plant, tmp_path, runs=(RunFiles(paths=(tmp_path / "stays.parquet",)),)))
    (tmp_path / "named.yaml").write_text(PROFILE.replace("jam", "recovering"))
    with pytest.raises(DataError, match="has a fault 'recovering'"):
        prepare(config(plant, tmp_path, profile=str(tmp_path / "named.yaml")))


# -- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_model_says_recovering_while_the_sensor_drifts_back(
    plant: Path, tmp_path: Path, report: TrainReport
) -> None:
    runner = load_model(report.model, machine_type())
    assert runner.classes == ("normal", "leak", "jam", "recovering")
    data = prepare(config(plant, tmp_path, texts=(plant / "texts.parquet",)))
    network = build_network(read_model(report.model))
    evidence = part_evidence(network, data, "test")
    answers = evidence.fused(network.fusion).probabilities.argmax(dim=1).numpy().reshape(-1, FRAMES)
    assert (answers[:, CLEARING + 5 : CLEARING + 20] == RECOVERING).mean() > 0.9
    assert (answers[:, ONSET + 3 : CLEARING] == 1).mean() > 0.9
    assert (answers[:, 5:ONSET] == 0).mean() > 0.9
    # A text in the ring does not speak against it.
    told = evidence.present[1].numpy().reshape(-1, FRAMES)[:, CLEARING + 5 : CLEARING + 20]
    assert told.any()
    assert (answers[:, CLEARING + 5 : CLEARING + 20][told] == RECOVERING).mean() > 0.9
    # Labels do not have the class: where they say normal it is right.
    scores = report.scores["test"]["all"]["all_faults"]["fusion"]
    assert scores["accuracy"] > 0.95
    assert scores["false_alarm_rate_before"] < 0.02
    assert scores["macro_f1"] > 0.9
    assert scores["partition"]["ari"] > 0.8
    assert report.scores["test"]["all"]["fusion_metrics"]["accuracy"] == pytest.approx(scores["accuracy"])
    record = read_model(report.model).header.training
    assert record["recovering"].keys() == {"clearings", "median_frames", "max_frames"}
    assert record["caution"]["sensors"].keys() == {"normal", "leak", "jam", "recovering"}
    assert record["caution"]["sensors"]["recovering"] == record["caution"]["text"]["recovering"] == 0


@pytest.mark.slow
def test_the_compiled_step_with_the_class_is_torchs_and_its_state_goes_on(report: TrainReport) -> None:
    model = read_model(report.model)
    facts: dict[str, Any] = {"name": "tiny", "digest": model.header.hash, "classes": model.header.classes}
    torchs: StepRunner = TorchRunner(build_network(model), **facts)
    stream = Stream(machines=3, frames=FRAMES)
    stream.values = np.stack([run_of(200 + seed)[0] for seed in range(3)])
    stream.observed[:] = True
    for (machine, frame), texts in list(stream.texts.items()):
        stream.texts[machine, frame] = [(age, WORDS["leak"][0]) for age, _ in texts]
    compiled = load_model(report.model, machine_type())
    seen: set[int] = set()
    for frame in range(FRAMES):
        expected, found = torchs.step(stream.round(frame)), compiled.step(stream.round(frame))
        assert distance(expected, found) < LAW
        seen |= set(found.probabilities.argmax(axis=1).tolist())
        if frame == CLEARING + 8:
            states = compiled.save(np.arange(3))
            compiled = load_model(report.model, machine_type())
            for slot, state in enumerate(states):
                compiled.load(slot, state)
    assert seen == {0, 1, 2, RECOVERING}


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["early", "adaptive"])
def test_learned_fusions_learn_the_class_on_encoders_that_have_it(
    plant: Path, tmp_path: Path, report: TrainReport, fusion: str
) -> None:
    options: dict[str, Any] = {
        "texts": (plant / "texts.parquet",),
        "encoders": report.model,
        "fusion": {"kind": fusion},
        "fusion_stage": StageConfig(epochs=4, batch_size=128, learning_rate=0.01),
        "joint_stage": StageConfig(epochs=1, batch_size=4, learning_rate=1e-3) if fusion == "early" else None,
    }
    made = train(config(plant, tmp_path / fusion, **options))
    data = prepare(config(plant, tmp_path, texts=(plant / "texts.parquet",)))
    network = build_network(read_model(made.model))
    evidence = part_evidence(network, data, "test")
    answers = evidence.fused(network.fusion).probabilities.argmax(dim=1).numpy().reshape(-1, FRAMES)
    assert (answers[:, CLEARING + 5 : CLEARING + 20] == RECOVERING).mean() > 0.8
    assert made.scores["test"]["all"]["all_faults"]["fusion"]["accuracy"] > 0.9
    with pytest.raises(DataError, match="has the class recovering"):
        train(config(plant, tmp_path / "without", **options | {"recovering": False}))


@pytest.mark.slow
def test_baselines_beside_it_learn_the_labels_alone_and_the_table_has_what_has_values(
    plant: Path, tmp_path: Path
) -> None:
    quick = StageConfig(epochs=2, batch_size=4, learning_rate=0.02)
    chosen = config(plant, tmp_path, sensor_stage=quick)
    made, data = train(chosen), prepare(chosen)
    part, scores = compare(chosen, data, made)
    assert part == "test"
    assert scores.keys() == {"fused", "sensors", "gradient boosting", "plain LSTM"}
    for found in scores.values():
        assert found["accuracy"] > 0.7
        assert None not in (found["false_alarm_rate_recovering"], found["false_alarm_rate_recovered_early"])
    variables = importance(chosen, data, made)
    assert list(variables)[-1] == "noise"
    console = Console(file=io.StringIO(), width=200)
    console.print(scores_table("scores", scores))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for measure in ("false alarm rate before", "recovering", "recovered early", "return delay median frames"):
        assert measure in shown
    # No run goes on for 100 frames after a clearing.
    assert "recovered late" not in shown


@pytest.mark.slow
def test_the_command_says_how_long_a_plant_recovers(plant: Path, tmp_path: Path) -> None:
    text = f"""
profile: {plant / "plant.yaml"}
runs: [{{paths: [{plant / "runs.parquet"}]}}]
output: {tmp_path / "model"}
validation: 0.25
test: 0.25
plots: false
recovering: {{most_frames: 25}}
sensors: {{hidden: [8], head: [8]}}
"""
    (tmp_path / "training.yaml").write_text(text)
    done = faultline("train", tmp_path / "training.yaml", "--epochs", "1", "--no-compare")
    assert done.returncode == 0, done.stderr
    found = re.search(r"after 24 clearings of training runs the plant recovers for (\S+) frames", done.stderr)
    assert found is not None
    assert 5 < float(found[1]) < 25
    assert "25 at most" in done.stderr
    assert read_model(tmp_path / "model" / "pump.faultline").header.recovering


# -- what is published ----------------------------------------------------------------------------------------------


def stream_records(seed: int, machine: str = "p1") -> list[Record]:
    """A run's readings, one a frame, with labels of its faults."""
    values, _ = run_of(seed)
    records = [reading(machine, T0 + frame * PERIOD_MS, row.tolist()) for frame, row in enumerate(values)]
    for start, end, fault in ((ONSET, CLEARING, "leak"), (JAM, UNJAMMED, "jam")):
        times = {"start": T0 + start * PERIOD_MS, "end": T0 + end * PERIOD_MS}
        value = json.dumps({"machine": machine, "fault": fault, **times}).encode()
        records.append(Record("labels", 0, 0, T0 + start * PERIOD_MS, machine.encode(), value))
    return numbered(sorted(records, key=lambda record: record.timestamp_ms))


def alarms(outputs: list[Output]) -> list[tuple[str, str]]:
    found = [msgspec.json.decode(out.value or b"", type=Alarm) for out in outputs if out.topic == "alarms"]
    return [(alarm.fault, alarm.state) for alarm in found]


@pytest.mark.slow
def test_recovering_is_published_and_clears_an_alarm_without_raising_one(report: TrainReport) -> None:
    profile = parse_profile(PROFILE, where="test")
    runner = load_model(report.model, machine_type())
    engine = Engine(profile, {"pump": runner})
    certificate = CertificateBuilder({"pump": runner})
    records = [record for record in stream_records(300) if record.topic != "labels"]
    outputs = [output for record in records for output in engine.process([record])]
    certificate.add(outputs)
    said = {(one.frame_start - T0) // PERIOD_MS: one for one in diagnoses(outputs)}
    drifting = [said[frame] for frame in range(CLEARING + 5, CLEARING + 20)]
    assert {one.fault for one in drifting} == {"recovering"}
    assert all(one.probabilities["recovering"] == one.confidence for one in drifting)
    assert alarms(outputs) == [("leak", "raised"), ("leak", "cleared"), ("jam", "raised"), ("jam", "cleared")]
    cleared = [out.timestamp_ms for out in outputs if out.topic == "alarms"][1]
    assert cleared <= T0 + (CLEARING + 10) * PERIOD_MS
    assert any(fault == "recovering" for fault, _ in certificate.certificate.diagnoses.values())


@pytest.mark.slow
def test_a_replay_scores_recovering_as_no_fault(tmp_path: Path, report: TrainReport) -> None:
    path = tmp_path / "r.parquet"
    records = sorted(
        (record for seed in range(4) for record in stream_records(400 + seed, f"p{seed}")),
        key=lambda record: record.timestamp_ms,
    )
    with RecordingWriter(path) as writer:
        writer.write(numbered(records))
    outputs: list[Output] = []
    played = asyncio.run(
        replay_in_memory(
            path,
            load_settings(metrics_interval_ms=20 * PERIOD_MS),
            parse_profile(PROFILE, where="test"),
            {"pump": load_model(report.model, machine_type())},
            partition_function(4),
            on_output=outputs.append,
        )
    )
    scores = played.scores["fused"]
    said = [one.fault for one in diagnoses(outputs)]
    assert said.count("recovering") > 4 * 20
    assert scores["accuracy"] > 0.95
    assert scores["false_alarm_rate_recovering"] < 0.15
    assert scores["return_delay_median_frames"] <= 5
    # The live metrics count in the same way.
    metrics = [json.loads(out.value or b"") for out in outputs if out.topic == "metrics"]
    labelled = sum(metric["labelled"] for metric in metrics)
    right = sum(metric["accuracy"] * metric["labelled"] for metric in metrics if metric["labelled"])
    assert labelled == 400
    assert right / labelled > 0.95
