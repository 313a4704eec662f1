"""Modalities that are groups of variables: each answers alone, a dead one is no evidence, and the step is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import tests.models.test_training as plant_of
from models.configs.diagnoser import DiagnoserConfig
from models.configs.fusion import RULES, FusionChoice, FusionConfig, LearnedFusionConfig
from models.configs.groups import GroupConfig
from models.configs.sensors import (
    CausalCNNConfig,
    LinearStateConfig,
    RingAttentionConfig,
    SeqLSTMConfig,
    StatisticsConfig,
)
from models.model_file import read_model
from models.network_file import build_network, save_model
from models.stepping.load import load_model
from models.training.loop import StageConfig
from models.training.train import train
from pipeline.config.profile import parse_profile
from pipeline.engine.engine import Engine
from pipeline.errors import DataError, ModelFileError
from tests.models.test_stepping import FUSIONS
from tests.support.builders import diagnoses, numbered, reading
from tests.support.models_stepping import (
    LAW,
    compiled,
    crowd,
    everything,
    fold,
    made,
    placed,
    reference,
)
from tests.support.models_tiny import PROFILE, Stream, machine_type

plant = plant_of.plant

ONE = GroupConfig(name="hydraulics", columns=(0, 3), encoder=StatisticsConfig(spans=(3.0, 9.0), hidden=(6, 5)))
OTHER = GroupConfig(name="drive", columns=(2,), encoder=SeqLSTMConfig(hidden=(6,), head=(5,), trends=(4.0,)))
GROUPS = (ONE, OTHER)
MODALITIES = ("sensors", "hydraulics", "drive", "text")
KINDS: dict[str, FusionChoice] = {
    **{rule: FusionConfig(rule=rule) for rule in RULES},
    **{kind: FUSIONS[kind] for kind in FUSIONS if isinstance(FUSIONS[kind], LearnedFusionConfig)},
}
DECLARED = PROFILE.replace(
    "    variables:",
    "    modalities: {hydraulics: {variables: [flow, noise]}, drive: {variables: [heat]}}\n    variables:",
)


def stream_with_dead_groups(machines: int, frames: int) -> Stream:
    """A stream in which group after group, and then all, have no value for a while."""
    stream = Stream(machines, frames, seed=8)
    for columns, start, end in (([0, 3], 10, 30), ([2], 20, 40), ([0, 1, 2, 3], 45, 50)):
        stream.values[:, start:end, columns] = np.nan
    stream.observed &= ~np.isnan(stream.values)
    return stream


@pytest.mark.parametrize(("kind", "texts"), [*((kind, True) for kind in KINDS), *((rule, False) for rule in RULES)])
def test_every_fusion_of_groups_gives_what_torch_gives(kind: str, texts: bool) -> None:
    network = made(fusion=KINDS[kind], groups=GROUPS, texts=texts)
    assert network.modalities == compiled(network).modalities == MODALITIES[: 4 if texts else 3]
    assert fold(reference(network), compiled(network), stream_with_dead_groups(5, 60), range(60)) <= LAW


@pytest.mark.parametrize(
    "encoder",
    [
        CausalCNNConfig(channels=6, dilations=(1, 2), head=(5,)),
        RingAttentionConfig(window=7, size=8, heads=2, layers=2, head=(5,)),
        LinearStateConfig(size=6, heads=2, head=(5,)),
        StatisticsConfig(spans=(2.0,), hidden=(7,), mask_inputs=False),
    ],
    ids=lambda encoder: encoder.kind,
)
def test_every_encoder_of_a_group_gives_what_torch_gives(encoder: object) -> None:
    group = GroupConfig(name="some", columns=(0, 2, 3), encoder=encoder)
    network = made(groups=(group,))
    assert fold(reference(network), compiled(network), stream_with_dead_groups(4, 60), range(60)) <= LAW


def test_steps_of_a_run_are_its_whole() -> None:
    network = made(groups=GROUPS, fusion=FUSIONS["adaptive"])
    stream, runner = stream_with_dead_groups(3, 60), compiled(network)
    with torch.inference_mode():
        whole = network(torch.from_numpy(stream.values), torch.from_numpy(stream.observed), placed(stream, 60))
    for t in range(60):
        rows = np.arange(3) * 60 + t
        result = runner.step(stream.round(t))
        np.testing.assert_allclose(result.probabilities, whole.probabilities[rows], atol=LAW)
        np.testing.assert_allclose(result.modality_probabilities, whole.modality_probabilities[:, rows], atol=LAW)
        np.testing.assert_array_equal(result.present, whole.present[:, rows])


def test_a_machines_bits_do_not_depend_on_its_company_and_survive_saving() -> None:
    network = made(groups=GROUPS, fusion=FUSIONS["adaptive"])
    stream = stream_with_dead_groups(30, 40)
    alone, together = compiled(network), compiled(network)
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 36), 64, 65, 300, 17]):
        place = int(rng.integers(count))
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[place])
        np.testing.assert_array_equal(one.modality_probabilities[:, 0], other.modality_probabilities[:, place])
        assert alone.save(np.array([0])) == together.save(np.array([0]))
        if t == 20:
            fresh = compiled(network)
            fresh.load(0, alone.save(np.array([0]))[0])
            alone = fresh


def test_a_dead_group_is_no_evidence_whatever_its_encoder_remembers() -> None:
    runner = compiled(made(groups=GROUPS))
    stream = stream_with_dead_groups(4, 60)
    for t in range(60):
        result = runner.step(stream.round(t))
        known = ~np.isnan(stream.values[:, t])
        expected = [known.any(axis=1), known[:, [0, 3]].any(axis=1), known[:, 2]]
        np.testing.assert_array_equal(result.present[:3], expected)
        assert (result.weights[~result.present] == 0).all()
        prior = np.broadcast_to(np.array([0.6, 0.3, 0.1], np.float32), result.modality_probabilities.shape)
        np.testing.assert_array_equal(result.modality_probabilities[~result.present], prior[~result.present])


def test_a_network_without_groups_is_described_as_before() -> None:
    assert "groups" not in made().config.model_dump() and "groups" not in made().config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((ONE, ONE.model_copy(update={"columns": (1,)})), "the same name"),
        ((ONE, OTHER.model_copy(update={"columns": (3,)})), "another one has"),
        ((OTHER.model_copy(update={"columns": (4,)}),), "there are 4"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: tuple[GroupConfig, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DiagnoserConfig(variables=4, classes=3, groups=groups)
    with pytest.raises(ValidationError, match="ascending"):
        GroupConfig(name="some", columns=(2, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[heat]", "[head]", "modality drive: there is no variable 'head'; did you mean heat"),
        ("[heat]", '["he?d"]', "modality drive: no variable matches 'he\\?d'"),
        ("[heat]", "[heat, flow]", "variable flow is in the modalities hydraulics and drive"),
        ("drive:", "text:", "modality text: diagnoses use this name"),
        ("[heat]", "[]", "modalities.drive.variables"),
    ],
)
def test_a_mistake_in_modalities_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse_profile(DECLARED.replace(old, new), where="test")


def test_the_digest_changes_with_modalities_but_not_with_their_titles() -> None:
    plain, declared = (parse_profile(text, where="test") for text in (PROFILE, DECLARED))
    titled = parse_profile(DECLARED.replace("{variables: [heat]}", '{title: Drive, variables: ["hea*"]}'), where="test")
    one, other, third = (plant.machine_types[0].digest for plant in (plain, declared, titled))
    assert one != other == third
    assert plain.digest != declared.digest


@pytest.mark.slow
def test_a_plant_with_modalities_is_learnt_and_its_diagnoses_have_each(plant: Path, tmp_path: Path) -> None:
    (plant / "declared.yaml").write_text(DECLARED)
    small = StatisticsConfig(spans=(3.0,), hidden=(8,))
    stage = StageConfig(epochs=3, batch_size=128, learning_rate=1e-2)
    options = {"profile": str(plant / "declared.yaml"), "modality": small, "statistics_stage": stage}
    report = train(plant_of.config(plant, tmp_path, **options, false_alarms=0.02))
    scores = report.scores["test"]["all"]["all_faults"]
    assert scores["fusion"]["accuracy"] > 0.8
    assert {"sensors", "hydraulics", "drive", "text"} <= scores.keys()
    (kind,) = parse_profile(DECLARED, where="test").machine_types
    runner = load_model(report.model, kind)
    assert runner.modalities == MODALITIES
    with pytest.raises(ModelFileError, match="modalities"):
        load_model(report.model, machine_type())

    # Drive's only sensor dies; its hold limit is three frames.
    seconds = range(0, 200, 10)
    records = numbered(
        reading("p1", 1_763_600_000_000 + second * 1_000, [50.0, 20.0, 70.0 if second < 80 else None, 0.0])
        for second in seconds
    )
    found = diagnoses(Engine(parse_profile(DECLARED, where="test"), {kind.name: runner}).process(records))
    first, last = found[5].modalities, found[-1].modalities
    assert list(first) == list(MODALITIES)
    assert first["drive"].present and first["drive"].weight > 0 and first["drive"].age_ms is not None
    assert (last["drive"].present, last["drive"].weight, last["drive"].age_ms) == (False, 0.0, None)
    assert last["drive"].fault == "no_evidence"
    assert last["sensors"].present and last["hydraulics"].present and last["hydraulics"].age_ms is not None

    # The file and the network that is built from it are the same.
    again = tmp_path / "again.faultline"
    network = build_network(read_model(report.model))
    assert save_model(again, network, kind, name="tiny", training={}) == report.hash
    stream = Stream(3, 30)
    one, other = load_model(again, kind), compiled(network)
    for t in range(30):
        for mine, theirs in zip(
            everything(one.step(stream.round(t))), everything(other.step(stream.round(t))), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_a_learned_fusion_and_its_encoders_are_trained_together_on_all_groups(plant: Path, tmp_path: Path) -> None:
    (plant / "declared.yaml").write_text(DECLARED)
    stage = StageConfig(epochs=1, batch_size=128, learning_rate=1e-3)
    options = {"profile": str(plant / "declared.yaml"), "modality": StatisticsConfig(spans=(3.0,), hidden=(8,))}
    options |= {
        "statistics_stage": stage,
        "fusion_stage": stage,
        "joint_stage": stage.model_copy(update={"batch_size": 4}),
    }
    report = train(plant_of.config(plant, tmp_path, **options, fusion={"kind": "early"}, score_test=False))
    assert {record["stage"] for record in report.history} >= {"modality_drive", "modality_hydraulics", "joint"}


def test_encoders_of_groups_need_observed_bits_of_the_sensors(plant: Path, tmp_path: Path) -> None:
    (plant / "declared.yaml").write_text(DECLARED)
    options = {"profile": str(plant / "declared.yaml"), "sensors": SeqLSTMConfig(hidden=(4,), mask_inputs=False)}
    with pytest.raises(DataError, match="set mask_inputs of `sensors` to true"):
        train(plant_of.config(plant, tmp_path, **options))
