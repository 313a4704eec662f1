"""Training of the learned fusions: on encoders of a model file, together with them, and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

import tests.models.test_training as plant_of
from models.configs.fusion import (
    AdaptiveConfig,
    VAEConfig,
)
from models.model_file import read_model
from models.network_file import build_network, save_model
from models.stepping.load import load_model
from models.training.config import load_train_config
from models.training.loop import OnProgress, Progress, StageConfig
from models.training.prepare import prepare
from models.training.train import TrainReport, train
from pipeline.errors import DataError
from tests.support.models_tiny import PROFILE, machine_type

plant = plant_of.plant

QUICK = {"fusion_stage": StageConfig(epochs=4, batch_size=64, learning_rate=3e-3), "score_test": False}


@pytest.fixture(scope="module")
def base(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    """A late fusion whose encoders serve all the others."""
    return train(plant_of.config(plant, tmp_path_factory.mktemp("late")))


@pytest.fixture(scope="module")
def learned(plant: Path, tmp_path_factory: pytest.TempPathFactory, base: TrainReport) -> Callable[[str], TrainReport]:
    """Trains a fusion on the encoders of `base`, each once."""

    @cache
    def train_once(kind: str) -> TrainReport:
        folder = tmp_path_factory.mktemp(kind)
        return train(plant_of.config(plant, folder, fusion={"kind": kind}, encoders=base.model, **QUICK))

    return train_once


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["early", "hybrid", "deep", "adaptive", "vae", "channels"])
def test_each_fusion_learns_on_the_encoders_of_a_model_file(
    base: TrainReport, learned: Callable[[str], TrainReport], kind: str
) -> None:
    made = learned(kind)
    scores = made.scores["validation"]["all"]["all_faults"]
    before = base.scores["validation"]["all"]["all_faults"]
    assert scores["fusion"]["accuracy"] > 0.9
    # The encoders' own answers, and the late fusion beside the network, stay what they were.
    assert (scores["sensors"], scores["text"]) == (before["sensors"], before["text"])
    # Only what is published is calibrated a last time, and has candidates.
    trust = {"ece", "candidates_coverage", "candidates_size"}
    assert {name: scores["late"][name] for name in scores["late"].keys() - trust} == {
        name: before["fusion"][name] for name in before["fusion"].keys() - trust
    }
    assert "test" not in made.scores
    assert {record["stage"] for record in made.history} == {"fusion"}
    header = read_model(made.model).header
    assert (header.network.fusion.kind, header.network.fusion.rule) == (kind, base.rule)
    assert load_model(made.model, machine_type()).modalities == ("sensors", "text")


def test_a_configuration_names_its_fusion_and_a_flag_may_name_another(plant: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        f"profile: {plant / 'plant.yaml'}\nruns: [{{paths: [runs.parquet]}}]\noutput: {tmp_path}\n"
        "encoders: late.faultline\nfusion: {kind: adaptive, order: none}\njoint_stage: {batch_size: 4}\n"
    )
    said = load_train_config(path, data=plant, epochs=3)
    assert said.fusion == AdaptiveConfig(order="none")
    assert said.encoders == plant / "late.faultline"
    assert said.joint_stage is not None
    assert (said.fusion_stage.epochs, said.joint_stage.epochs, said.joint_stage.batch_size) == (3, 3, 4)
    assert load_train_config(path, data=plant, fusion="adaptive").fusion == said.fusion
    assert load_train_config(path, data=plant, fusion="vae").fusion == VAEConfig()
    assert load_train_config(path, data=plant, fusion="late").late_rule == "auto"
    with pytest.raises(DataError, match=r"fusion: .*'late', 'early'"):
        load_train_config(path, data=plant, fusion="quantum")


def test_the_rule_of_a_late_fusion_may_stand_with_it(plant: Path, tmp_path: Path) -> None:
    assert plant_of.config(plant, tmp_path, fusion={"kind": "late", "rule": "uniform"}).late_rule == "uniform"
    assert plant_of.config(plant, tmp_path, fusion={"kind": "late"}, rule="product").late_rule == "product"


def stop_at(stage: str, epoch: int) -> OnProgress:
    def cut(progress: Progress) -> None:
        if progress.stage == stage and progress.epoch == epoch and progress.record is None:
            raise plant_of.StopError

    return cut


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adaptive", "vae"])
def test_an_interrupted_fusion_training_ends_as_if_nothing_had_happened(
    plant: Path, tmp_path: Path, base: TrainReport, learned: Callable[[str], TrainReport], kind: str
) -> None:
    expected = learned(kind)
    chosen = plant_of.config(plant, tmp_path, **QUICK, fusion={"kind": kind}, encoders=base.model)
    with pytest.raises(plant_of.StopError):
        train(chosen, on_progress=stop_at("fusion", 2))
    torch.rand(5)
    resumed = train(chosen, resume=True)
    assert resumed.hash == expected.hash
    assert resumed.history == expected.history


@pytest.mark.slow
def test_fusion_and_encoders_can_be_trained_together(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    joint = StageConfig(epochs=3, batch_size=4, learning_rate=2e-3)
    options = QUICK | {"fusion": {"kind": "adaptive", "size": 32}, "encoders": base.model, "joint_stage": joint}
    made = train(plant_of.config(plant, tmp_path / "a", **options))
    assert [record["stage"] for record in made.history] == ["fusion"] * 4 + ["joint"] * 3
    scores = made.scores["validation"]["all"]["all_faults"]
    assert scores["fusion"]["accuracy"] > 0.9
    assert scores["sensors"]["accuracy"] > 0.9
    before, after = (build_network(read_model(report.model)).state_dict() for report in (base, made))
    moved = {key for key, value in before.items() if key in after and not torch.equal(value, after[key])}
    assert {"sensors.layers.0.weight_ih_l0", "text.value.weight"} <= moved
    assert not any(key.startswith("text.encoder.") for key in moved)
    chosen = plant_of.config(plant, tmp_path / "b", **options)
    with pytest.raises(plant_of.StopError):
        train(chosen, on_progress=stop_at("joint", 1))
    resumed = train(chosen, resume=True)
    assert (resumed.hash, resumed.history) == (made.hash, made.history)


@pytest.mark.slow
def test_joint_training_also_does_without_texts(plant: Path, tmp_path: Path) -> None:
    once = StageConfig(epochs=1, batch_size=8)
    options = QUICK | {"fusion": {"kind": "vae"}, "sensor_stage": once, "fusion_stage": once, "joint_stage": once}
    made = train(plant_of.config(plant, tmp_path, texts=(), **options))
    assert load_model(made.model, machine_type()).modalities == ("sensors",)


@pytest.mark.slow
def test_the_checkpoints_of_the_encoders_serve_every_fusion(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    for name in ("sensors", "words", "text"):
        (tmp_path / f"{name}.checkpoint").write_bytes((base.model.parent / f"{name}.checkpoint").read_bytes())
    shown: list[str] = []
    train(
        plant_of.config(plant, tmp_path, fusion={"kind": "early"}, **QUICK),
        resume=True,
        on_progress=lambda progress: shown.append(progress.stage),
    )
    assert set(shown) == {"fusion"}
    with pytest.raises(DataError, match="another configuration"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "deep"}, **QUICK), resume=True)


@pytest.mark.slow
def test_encoders_are_taken_over_without_their_caution(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    options = {"encoders": base.model, "score_test": False}
    cautious = train(plant_of.config(plant, tmp_path / "cautious", false_alarms=0.001, **options))
    assert max(read_model(cautious.model).header.training["caution"]["sensors"].values()) > 0
    again = train(plant_of.config(plant, tmp_path / "again", encoders=cautious.model, score_test=False, plots=True))
    assert {path.name for path in again.files} >= {"confusion_matrix.png", "roc.png"}
    sensors = [build_network(read_model(report.model)).sensors for report in (base, cautious, again)]
    biases = [list(network.state_dict().items())[-1][1] for network in sensors]
    assert not torch.equal(biases[0], biases[1])
    torch.testing.assert_close(biases[0], biases[2])


@pytest.mark.slow
def test_texts_are_kept_for_the_fusion(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    kept = plant_of.config(plant, tmp_path, kept_texts=0.5)
    pools = prepare(kept).pools
    whole = prepare(plant_of.config(plant, tmp_path)).pools
    assert pools is not None and whole is not None and pools.kept is not None
    assert sorted(pools.known.texts) == sorted(whole.known.texts)
    assert (pools.validation.texts, pools.test.texts) == (whole.validation.texts, whole.test.texts)
    assert whole.unread is whole.train
    assert pools.unread is pools.kept
    assert not set(pools.kept.groups) & set(pools.train.groups)
    for pool in (pools.kept, pools.train):
        assert set(pool.classes.tolist()) == {0, 1, 2}
    quick = {"word_stage": StageConfig(epochs=2), "text_stage": StageConfig(epochs=2), "score_test": False}
    report = train(kept.model_copy(update=quick))
    assert read_model(report.model).header.training["kept_texts"] == 0.5
    # Another share would let the fusion learn on texts that these encoders know.
    with pytest.raises(DataError, match="kept_texts"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "early"}, encoders=base.model, kept_texts=0.5))
    with pytest.raises(ValueError, match="kept_texts is a share of `texts`"):
        plant_of.config(plant, tmp_path, texts=(), kept_texts=0.5)


@pytest.mark.slow
def test_recovering_frames_teach_a_fusion_no_more_than_their_weight(
    plant: Path, tmp_path: Path, base: TrainReport, learned: Callable[[str], TrainReport]
) -> None:
    options = QUICK | {"fusion": {"kind": "early"}, "encoders": base.model}
    spared = train(plant_of.config(plant, tmp_path, recovery_frames=5, **options))
    late = [
        of.scores["validation"]["all"]["all_faults"]["fusion"]["return_delay_median_frames"]
        for of in (learned("early"), spared)
    ]
    assert late[0] < late[1]


@pytest.mark.slow
def test_encoders_that_may_have_seen_what_is_held_out_are_refused(
    plant: Path, tmp_path: Path, base: TrainReport
) -> None:
    with pytest.raises(DataError, match=r"another split \(seed is 0 there and 1 here\)"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "early"}, encoders=base.model, seed=1))
    other = tmp_path / "other.faultline"
    save_model(
        other,
        build_network(read_model(base.model)),
        machine_type(PROFILE.replace("10s", "20s")),
        name="x",
        training={},
    )
    with pytest.raises(DataError, match="another profile"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "early"}, encoders=other))
