"""Training on a small made-up plant: it learns, it can be interrupted, and nothing from the test part gets in."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from rich.console import Console

from agents.cli.views.progress import training_progress
from models.configs.sensors import SeqLSTMConfig
from models.configs.text import TextConfig
from models.data.augment import AugmentConfig, with_typos
from models.data.runs import UNLABELLED, Run, RunFiles, read_runs, split_runs
from models.model_file import read_model
from models.stepping.load import load_model
from models.training.config import TrainConfig
from models.training.loop import OnProgress, Progress, StageConfig, learning_rate
from models.training.losses import Recovery, class_shares, mask_recovery, weighted_loss
from models.training.train import TrainReport, train
from pipeline.errors import DataError
from tests.support.models_tiny import PROFILE, Stream, machine_type

pytestmark = pytest.mark.slow

CENTRE = np.array([50.0, 20.0, 70.0, 0.0])
WORDS = {
    "leak": ("water drips from the pump", "puddle under the pump", "seal is wet and drips", "pump leaks water"),
    "jam": (
        "shaft does not turn",
        "motor hums and shaft stands still",
        "shaft blocked again",
        "blocked shaft, motor hot",
    ),
    "normal": ("shift handed over", "lamp replaced in hall", "cleaned the floor of the hall", "shift change done"),
}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with profile, runs and texts: a leak lowers the flow, a jam raises load and heat."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(24):
        labels = np.zeros(90, np.int64)
        labels[25:50] = 1 + seed % 2
        labels[70:] = 2 - seed % 2
        values = CENTRE + rng.standard_normal((90, 4))
        values[labels == 1, 0] -= 4
        values[labels == 2, 1:3] += 3
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        parts.append(pa.table(columns | {"seed": [seed] * 90, "sample": np.arange(90), "label": labels}))
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
    pyarrow.parquet.write_table(
        pa.table({name: [row[at] for row in rows] for at, name in enumerate(("text", "fault", "group"))}),
        folder / "texts.parquet",
    )
    return folder


def config(plant: Path, output: Path, **options: Any) -> TrainConfig:
    chosen: dict[str, Any] = {
        "profile": str(plant / "plant.yaml"),
        "runs": (RunFiles(paths=(plant / "runs.parquet",)),),
        "texts": (plant / "texts.parquet",),
        "output": output,
        "name": "tiny",
        "validation": 0.25,
        "test": 0.25,
        "sensors": SeqLSTMConfig(hidden=(16,), head=(8,)),
        "text": TextConfig(embedding=8, hidden=8, head=(8,), subword_buckets=64),
        "sensor_stage": StageConfig(epochs=6, batch_size=4, learning_rate=0.02),
        "word_stage": StageConfig(epochs=6, batch_size=16, learning_rate=0.02),
        "text_stage": StageConfig(epochs=4, batch_size=64, learning_rate=0.01),
        "chunk_frames": 30,
        "most_offset_frames": 10,
        "plots": False,
        "hard_faults": ("jam",),
        # Harsh, so that a model this small has something to be cautious about.
        "augment": AugmentConfig(lost_variables=0.75),
    }
    return TrainConfig.model_validate(chosen | options)


@pytest.fixture(scope="module")
def report(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return train(config(plant, tmp_path_factory.mktemp("whole"), plots=True, storage="float16"))


def test_a_small_plant_is_learnt(report: TrainReport) -> None:
    scores = report.scores["test"]["all"]["all_faults"]
    assert scores["sensors"]["accuracy"] > 0.85
    assert scores["fusion"]["accuracy"] > 0.85
    assert scores["fusion"]["false_alarm_rate"] < 0.15
    assert scores["text"]["correct_diagnosis_rate"] > 0.4


def test_everything_is_written_and_readable(report: TrainReport) -> None:
    assert [path.name for path in report.files] == [
        "tiny.faultline",
        "scores.json",
        "history.jsonl",
        "reliability.csv",
        "learning_curve.png",
        "confusion_matrix.png",
        "roc.png",
        "reliability.png",
    ]
    assert all(path.stat().st_size > 0 for path in report.files)
    scores = json.loads(report.files[1].read_text())
    assert scores["model"] == report.hash
    assert scores["test"].keys() == {"all", "runs"}
    assert scores["test"]["all"].keys() == {"all_faults", "without_jam", "fusion_metrics"}
    assert scores["test"]["all"]["without_jam"]["fusion"]["per_fault"].keys() == {"leak"}
    assert len(report.files[2].read_text().splitlines()) == len(report.history)
    header = read_model(report.model).header
    assert header.training["runs"] == {"train": 12, "validation": 6, "test": 6}
    assert report.rule == header.network.fusion.rule
    assert report.rule_scores[report.rule] == max(report.rule_scores.values())


def test_a_training_says_how_far_its_answers_can_be_trusted(report: TrainReport) -> None:
    scores = report.scores["test"]["all"]["all_faults"]
    assert scores["fusion"]["candidates_coverage"] > 0.75
    assert 1 <= scores["fusion"]["candidates_size"] <= 3
    assert (scores["sensors"]["candidates_coverage"], scores["sensors"]["candidates_size"]) == (None, None)
    rows = list(csv.DictReader((report.model.parent / "reliability.csv").read_text().splitlines()))
    assert {(row["part"], row["system"]) for row in rows} == {
        (part, system) for part in ("validation", "test") for system in ("sensors", "text", "fusion")
    }
    fused = [row for row in rows if (row["part"], row["system"]) == ("test", "fusion")]
    assert [float(row["ece"]) for row in fused] == pytest.approx([scores["fusion"]["ece"]] * len(fused), abs=1e-5)
    assert sum(int(row["frames"]) for row in fused) == 6 * 90
    assert read_model(report.model).header.network.coverage == 0.9


def test_the_model_file_diagnoses_a_stream(report: TrainReport) -> None:
    runner = load_model(report.model, machine_type())
    rng = np.random.default_rng(5)
    stream = Stream(machines=1, frames=60)
    stream.values = (CENTRE + rng.standard_normal((1, 60, 4))).astype(np.float32)
    stream.values[:, 30:, 0] -= 4
    stream.observed[:] = True
    stream.texts.clear()
    said = [int(runner.step(stream.round(t)).probabilities[0].argmax()) for t in range(60)]
    assert said[5:30].count(0) >= 23
    assert said[35:].count(1) >= 23


class StopError(Exception):
    """Stands for a power cut."""


def stop_at(stage: str, epoch: int) -> OnProgress:
    def cut(progress: Progress) -> None:
        if progress.stage == stage and progress.epoch == epoch and progress.record is None:
            raise StopError

    return cut


@pytest.mark.parametrize(("stage", "epoch"), [("sensors", 0), ("sensors", 4), ("words", 2), ("text", 3)])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    plant: Path, tmp_path: Path, report: TrainReport, stage: str, epoch: int
) -> None:
    chosen = config(plant, tmp_path, storage="float16")
    with pytest.raises(StopError):
        train(chosen, on_progress=stop_at(stage, epoch))
    torch.rand(7)
    resumed = train(chosen, resume=True)
    assert resumed.hash == report.hash
    assert resumed.history == report.history
    assert resumed.scores == report.scores


def test_averaged_weights_are_kept_and_survive_an_interruption(
    plant: Path, tmp_path: Path, report: TrainReport
) -> None:
    stage = StageConfig(epochs=6, batch_size=4, learning_rate=0.02, average=0.8)
    chosen = config(plant, tmp_path / "whole", sensor_stage=stage, storage="float16")
    whole = train(chosen)
    assert whole.hash != report.hash
    assert whole.scores["test"]["all"]["all_faults"]["sensors"]["accuracy"] > 0.85
    cut = chosen.model_copy(update={"output": tmp_path / "cut"})
    with pytest.raises(StopError):
        train(cut, on_progress=stop_at("sensors", 3))
    resumed = train(cut, resume=True)
    assert resumed.hash == whole.hash
    assert resumed.history == whole.history


def test_the_mean_of_the_weights_is_what_is_validated(plant: Path, tmp_path: Path) -> None:
    # With a mean that hardly moves, a rate that ruins the weights does not show in the kept ones.
    wild = {"epochs": 8, "batch_size": 4, "learning_rate": 3.0, "gradient_norm": 100.0}
    rough = train(config(plant, tmp_path / "a", sensor_stage=StageConfig(**wild), texts=()))
    calm = train(config(plant, tmp_path / "b", sensor_stage=StageConfig(**wild, average=0.95), texts=()))
    last = [made.history[-1]["validation_loss"] for made in (rough, calm)]
    assert last[1] < last[0]


def test_frames_after_a_clearing_are_not_settled() -> None:
    labels = np.array([0, 0, 1, 1, 0, 0, 0, 2, 0, UNLABELLED, 0, 0, 0])
    left = mask_recovery(labels, 2)
    assert left.tolist() == [0, 0, 1, 1, -1, -1, 0, 2, -1, -1, -1, -1, 0]
    assert mask_recovery(labels, 0).tolist() == labels.tolist()
    run = Run("a", "a", "a", np.zeros((len(labels), 1), np.float32), labels)
    assert Recovery(2, 0.25).weights(labels).tolist() == [1, 1, 1, 1, 0.25, 0.25, 1, 1, 0.25, 0, 0.25, 0.25, 1]
    assert Recovery().weights(labels).tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1]
    # Each class as if seen once more: 4 normal ones are settled, 2 leaks, 1 jam.
    assert class_shares([run], 3, Recovery(2)) == pytest.approx(np.array([5, 3, 2]) / 10)
    assert class_shares([run], 3, Recovery(2, 0.4)) == pytest.approx(np.array([7, 3, 2]) / 12)


def test_frames_weigh_in_the_loss_by_themselves_and_by_their_class() -> None:
    logits = torch.tensor([[2.0, 0], [0, 1], [3, 3], [9, -9]])
    labels, of_class = torch.tensor([0, 1, 1, UNLABELLED]), torch.tensor([1.0, 3.0])
    each = torch.nn.functional.cross_entropy(logits[:3], labels[:3], reduction="none")
    loss = weighted_loss(logits, labels, of_class, torch.tensor([1, 0.5, 0, 0]))
    assert loss.item() == pytest.approx((each[0] + 1.5 * each[1]).item() / 2.5)


def test_what_is_learnt_of_a_recovering_plant_changes_the_model_but_not_what_is_scored(
    plant: Path, tmp_path: Path, report: TrainReport
) -> None:
    made = train(config(plant, tmp_path, recovery_frames=5, storage="float16"))
    assert made.hash != report.hash
    scores = [of.scores["test"]["all"]["all_faults"]["sensors"]["per_fault"] for of in (made, report)]
    assert scores[0]["leak"]["frames"] == scores[1]["leak"]["frames"]
    # Nothing teaches it to come back to normal within the first five frames.
    recovering = [
        of.scores["test"]["all"]["all_faults"]["sensors"]["false_alarm_rate_recovering"] for of in (made, report)
    ]
    assert recovering[0] >= recovering[1]


def test_a_cautious_model_keeps_to_its_share_of_false_alarms(plant: Path, tmp_path: Path) -> None:
    quick = {"sensor_stage": StageConfig(epochs=3, batch_size=4, learning_rate=0.02)}
    bold = train(config(plant, tmp_path / "bold", **quick))
    cautious = train(config(plant, tmp_path / "cautious", false_alarms=0.001, **quick))
    # Of the fusion it holds over several draws of texts; the scores are of another draw, 150 frames long.
    for modality, share in (("sensors", 0.001), ("fusion", 0.01)):
        scores = [of.scores["validation"]["all"]["all_faults"][modality] for of in (bold, cautious)]
        assert scores[0]["false_alarm_rate_before"] > share
        assert scores[1]["false_alarm_rate_before"] <= share
        assert scores[1]["detection_rate"] > 0.3
    shifts = read_model(cautious.model).header.training["caution"]
    assert shifts.keys() == {"sensors", "text"}
    assert shifts["sensors"].keys() == {"normal", "leak", "jam"}
    assert shifts["sensors"]["normal"] == 0
    assert max(shifts["sensors"].values()) > 0
    assert read_model(bold.model).header.training["caution"] == {}


def test_not_every_fusion_is_cautious(plant: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="late or adaptive fusion"):
        config(plant, tmp_path, fusion={"kind": "early"}, false_alarms=0.01)


def test_another_seed_gives_another_model(plant: Path, tmp_path: Path, report: TrainReport) -> None:
    quick = {
        "sensor_stage": StageConfig(epochs=1),
        "word_stage": StageConfig(epochs=1),
        "text_stage": StageConfig(epochs=1),
    }
    assert train(config(plant, tmp_path, seed=1, **quick)).hash != report.hash


def held_back(chosen: TrainConfig) -> set[int]:
    """Seeds of the runs in the test part."""
    runs = read_runs(chosen.runs[0], machine_type())
    shares = {"validation": chosen.validation, "test": chosen.test}
    split = split_runs(runs, **shares, rng=np.random.default_rng(chosen.seed))
    return {int(run.group.removeprefix("seed=")) for run in split.test}


def test_test_labels_change_no_weight_of_the_model(plant: Path, tmp_path: Path, report: TrainReport) -> None:
    folder = tmp_path / "permuted"
    folder.mkdir()
    for name in ("plant.yaml", "texts.parquet"):
        (folder / name).write_bytes((plant / name).read_bytes())
    table = pyarrow.parquet.read_table(plant / "runs.parquet")
    columns = {name: table[name].to_numpy().copy() for name in table.column_names}
    tested = np.isin(columns["seed"], sorted(held_back(config(plant, tmp_path))))
    assert 0 < tested.sum() < len(tested)
    # Swap the two faults: the strata of the split, and so the split, stay as they were.
    labels = columns["label"]
    labels[tested] = np.where(labels[tested] > 0, 3 - labels[tested], 0)
    pyarrow.parquet.write_table(pa.table(columns), folder / "runs.parquet")
    again = train(config(folder, tmp_path / "out", storage="float16"))
    assert again.hash == report.hash
    assert again.scores["validation"] == report.scores["validation"]
    assert again.scores["test"] != report.scores["test"]


def test_without_texts_there_is_one_modality(plant: Path, tmp_path: Path) -> None:
    quick = train(config(plant, tmp_path, texts=(), sensor_stage=StageConfig(epochs=1), rule="accuracy"))
    assert load_model(quick.model, machine_type()).modalities == ("sensors",)
    assert quick.rule_scores == {}
    assert "text" not in quick.scores["test"]["all"]["all_faults"]


def test_texts_placed_on_the_runs_are_learnt_from(plant: Path, tmp_path: Path) -> None:
    placed = {
        "seed": [seed for seed in range(24) for _ in range(2)],
        "sample": [sample for _ in range(24) for sample in (27.5, 72.0)],
        "text": [
            WORDS[fault][seed % 4] + f" {seed}"
            for seed in range(24)
            for fault in (("leak", "jam") if seed % 2 == 0 else ("jam", "leak"))
        ],
    }
    pyarrow.parquet.write_table(pa.table(placed), tmp_path / "events.parquet")
    files = RunFiles(paths=(plant / "runs.parquet",), events=(tmp_path / "events.parquet",))
    # Two dozen texts: small batches give the encoder enough updates.
    words = StageConfig(epochs=20, batch_size=4, learning_rate=0.02)
    made = train(config(plant, tmp_path / "out", runs=(files,), texts=(), word_stage=words))
    assert load_model(made.model, machine_type()).modalities == ("sensors", "text")
    assert made.scores["validation"]["all"]["all_faults"]["text"]["correct_diagnosis_rate"] > 0.7


def test_texts_that_machines_repeat_may_stand_in_every_part(plant: Path, tmp_path: Path) -> None:
    placed = {"seed": list(range(24)), "sample": [27.5] * 24, "text": ["E7 low flow", "E9 overload"] * 12}
    pyarrow.parquet.write_table(pa.table(placed), tmp_path / "events.parquet")
    files = RunFiles(paths=(plant / "runs.parquet",), events=(tmp_path / "events.parquet",))
    words = StageConfig(epochs=40, batch_size=4, learning_rate=0.02)
    apart = train(config(plant, tmp_path / "a", runs=(files,), texts=(), word_stage=words))
    assert apart.scores["test"]["all"]["all_faults"]["text"]["detection_rate"] == 0
    together = train(config(plant, tmp_path / "b", runs=(files,), texts=(), word_stage=words, repeated_texts=True))
    assert together.scores["test"]["all"]["all_faults"]["text"]["correct_diagnosis_rate"] > 0.9
    assert len([record for record in together.history if record["stage"] == "words"]) == 40


def test_a_checkpoint_of_another_configuration_or_a_broken_one_is_refused(plant: Path, tmp_path: Path) -> None:
    one = config(plant, tmp_path, sensor_stage=StageConfig(epochs=1), texts=())
    train(one)
    other = one.model_copy(update={"burn_in_frames": 7})
    with pytest.raises(DataError, match="another configuration"):
        train(other, resume=True)
    (tmp_path / "sensors.checkpoint").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read"):
        train(one, resume=True)
    assert train(one).history == train(one, resume=True).history


def test_the_machine_type_must_be_clear(plant: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which machine type"):
        train(config(plant, tmp_path, machine_type="fan"))


def test_training_leaves_the_global_random_state_alone(plant: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    train(config(plant, tmp_path, sensor_stage=StageConfig(epochs=1), texts=()))
    assert torch.equal(torch.get_rng_state(), before)


def test_patience_ends_a_stage_early_with_its_best_weights(plant: Path, tmp_path: Path) -> None:
    eager = StageConfig(epochs=30, learning_rate=1e-9, patience=2)
    made = train(config(plant, tmp_path, sensor_stage=eager, texts=()))
    assert len(made.history) < 30


def test_the_rate_rises_and_falls_within_one_cycle() -> None:
    stage = StageConfig(learning_rate=1.0, warm_up=0.2)
    assert learning_rate(stage, 0.1) == pytest.approx(0.5)
    assert learning_rate(stage, 0.2) == pytest.approx(1)
    assert learning_rate(stage, 0.6) == pytest.approx(0.5)
    assert learning_rate(stage, 1.0) == pytest.approx(1e-3)


def test_typing_errors_change_letters_and_not_words() -> None:
    rng = np.random.default_rng(0)
    text = "compressor oil low"
    assert with_typos(text, 0, rng) == text
    wrong = [with_typos(text, 1, rng) for _ in range(50)]
    assert all(len(said.split()) == 3 for said in wrong)
    assert all(said.split()[1:] == ["oil", "low"] for said in wrong)
    assert len(set(wrong)) > 5


def test_progress_is_shown_on_the_console(plant: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    with training_progress(Console(file=shown, width=100)) as progress:
        train(config(plant, tmp_path, sensor_stage=StageConfig(epochs=2), texts=()), on_progress=progress)
    assert "sensors epoch 2: loss" in shown.getvalue()
