"""Cells of component and modality: which there are, and the network that encodes each by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tests.models.test_training as plant_of
from models.configs.sensors import CellsConfig, ExpertsConfig, SensorConfig, SeqLSTMConfig, cell_inputs
from models.encoders.experts.cells import CellLayer, CellsNetwork
from models.experiments.evidence.masking import MaskingExperiment
from models.experiments.load import load_experiment
from models.model_file import read_model
from models.training.config import TrainConfig
from models.training.loop import StageConfig
from models.training.train import train
from pipeline.config.sections.modalities import Cells, Modality, cells_of
from pipeline.errors import DataError, ModelFileError
from tests.support.models_stepping import LAW, compiled, crowd, fold, made, placed, reference
from tests.support.models_tiny import PROFILE, Stream

plant = plant_of.plant

CELLS = CellsConfig(spans=(3.0, 11.0), size=5, hidden=(9, 7), cells=((0, 3), (1,), (2,)))
BESIDE = ExpertsConfig(experts=(SeqLSTMConfig(hidden=(6,), head=()), CELLS))
PLACED = PROFILE.replace(
    "    faults: [normal, leak, jam]\n    variables: [{name: flow}, {name: load}, {name: heat}, {name: noise}]",
    """    components: {pump: {}, motor: {}}
    modalities: {process: {variables: [flow, heat]}, electric: {variables: [load]}}
    faults:
      - normal
      - {name: leak, component: pump}
      - {name: jam, component: motor}
    variables:
      - {name: flow, component: pump}
      - {name: load, component: motor}
      - {name: heat, component: motor}
      - {name: noise}""",
)


@pytest.mark.parametrize(
    ("components", "modalities", "expected"),
    [
        (["a", "a", "b", None], {}, Cells(((0, 1), (2,), (3,)), (0, 1, 2))),
        ([None] * 4, {"m": ["w", "y"], "n": ["x"]}, Cells(((0, 2), (1,), (3,)), (0, 1, 2))),
        (["a", "a", "a", "b"], {"m": ["w", "y"], "n": ["x", "z"]}, Cells(((0, 2), (1,), (3,)), (0, 0, 1))),
        ([None] * 4, {}, Cells(((0,), (1,), (2,), (3,)), (0, 1, 2, 3))),
    ],
)
def test_cells_are_variables_of_one_component_and_modality(
    components: list[str | None], modalities: dict[str, list[str]], expected: Cells
) -> None:
    given = {name: Modality(variables=tuple(own)) for name, own in modalities.items()}
    assert cells_of(components, given, "wxyz") == expected


@pytest.mark.parametrize("sensors", [CELLS, BESIDE], ids=["alone", "beside an LSTM"])
def test_the_compiled_cells_give_what_torch_gives(sensors: SensorConfig) -> None:
    network = made(sensors=sensors)
    assert fold(reference(network), compiled(network), Stream(5, 80), range(80)) <= LAW
    stream, runner = Stream(3, 40, seed=2), compiled(network)
    with torch.inference_mode():
        whole = network(torch.from_numpy(stream.values), torch.from_numpy(stream.observed), placed(stream, 40))
    for t in range(40):
        result = runner.step(stream.round(t))
        np.testing.assert_allclose(result.probabilities, whole.probabilities[np.arange(3) * 40 + t], atol=LAW)


def test_a_machines_bits_do_not_depend_on_its_company() -> None:
    network = made(sensors=CELLS)
    stream = Stream(machines=30, frames=20, seed=6)
    alone, together = compiled(network), compiled(network)
    for t, count in enumerate([*range(1, 17), 33, 64, 65, 200]):
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, count // 2))
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[count // 2])
        assert alone.save(np.array([0])) == together.save(np.array([0]))


def test_a_code_sees_its_own_cell_alone() -> None:
    network = CellsNetwork(CELLS, variables=4, classes=3).eval()
    layer = network.layers[0]
    assert isinstance(layer, CellLayer)
    x = torch.randn(2, 6, 8)
    changed = x.clone()
    changed[..., [2, 6]] = 9.0  # the reading and the bit of the last cell
    codes = []
    for inputs in (x, changed):
        statistics, _ = network.statistics(inputs, network.init_state(2))
        codes.append(layer(network.inputs(inputs, statistics)))
    same = (codes[0] == codes[1]).all(dim=0).all(dim=0)
    assert same.tolist() == [True] * 10 + [False] * 5
    # Weights outside of a code's cell are 0 and stay 0.
    network.train()
    before = layer.weight.detach().clone()
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    network(x)[0].square().sum().backward()
    optimiser.step()
    after = layer.weight.detach()
    outside = torch.ones_like(after, dtype=torch.bool)
    for place, seen in enumerate(cell_inputs(CELLS, 4)):
        outside[place * 5 : (place + 1) * 5, seen] = False
    assert (after[outside] == 0).all() and (before[outside] == 0).all()
    assert (after[~outside] != before[~outside]).all()


def test_a_file_whose_cells_cannot_be_is_refused() -> None:
    network = made(sensors=CELLS)
    network.config = network.config.model_copy(
        update={"sensors": CELLS.model_copy(update={"cells": ((0, 3), (1,), (4,))})}
    )
    with pytest.raises(ModelFileError, match="describes cells that cannot be: one of its cells is empty, or has"):
        compiled(network)


def placed_config(plant: Path, output: Path, **options: object) -> TrainConfig:
    (plant / "placed.yaml").write_text(PLACED)
    small = {"profile": str(plant / "placed.yaml"), "texts": (), "detector": None, "candidates": None}
    stage = StageConfig(epochs=3, batch_size=128, learning_rate=1e-2)
    return plant_of.config(plant, output, statistics_stage=stage, **small, **options)


@pytest.mark.slow
def test_cells_of_the_profile_are_trained_with_masking(plant: Path, tmp_path: Path) -> None:
    options = {
        "sensors": CellsConfig(spans=(3.0,), size=6, hidden=(12,)),
        "modality": {"kind": "statistics", "hidden": [6]},
    }
    report = train(placed_config(plant, tmp_path, **options, augment={"masking": {}}))
    sensors = read_model(report.model).header.network.sensors
    assert isinstance(sensors, CellsConfig) and sensors.cells == ((0,), (1,), (2,), (3,))
    assert report.scores["test"]["all"]["all_faults"]["sensors"]["accuracy"] > 0.65


@pytest.mark.slow
def test_an_experiment_scores_models_while_cells_are_missing(plant: Path, tmp_path: Path) -> None:
    placed_config(plant, tmp_path)
    (tmp_path / "train.yaml").write_text(
        f"""
profile: {plant / "placed.yaml"}
name: tiny
runs: [{{paths: [{plant / "runs.parquet"}]}}]
output: model
validation: 0.25
test: 0.25
sensors: {{kind: statistics, spans: [3], hidden: [12]}}
modality: {{kind: statistics, spans: [3], hidden: [6]}}
statistics_stage: {{epochs: 3, batch_size: 128, learning_rate: 0.01}}
detector: null
candidates: null
plots: false
score_test: false
"""
    )
    (tmp_path / "masking.yaml").write_text(
        """
experiment: masking
title: Missing cells
train: train.yaml
made_by: a test
draws: 3
component_faults: [leak]
cases: {complete: {}, cells: {rate: 0.6}, units: {rate: 0.6, by_unit: true}}
rows:
  plain: {}
  masked: {options: {augment: {masking: {most_missing: 0.8}}}}
columns: [{score: complete.macro_f1, heading: complete}]
"""
    )
    experiment = load_experiment(tmp_path / "masking.yaml", data=tmp_path, out=tmp_path / "out", work=tmp_path)
    assert isinstance(experiment, MaskingExperiment)
    results = experiment.run([0], tmp_path / "out", lambda part, progress: None)
    again = experiment.run([0], tmp_path / "out", lambda part, progress: None)
    assert results.rows == again.rows, "trainings are not repeated, and what is missing is drawn from the seed"
    plain = results.rows["plain"][0]
    assert set(plain["cells"]) == {"accuracy", "macro_f1", "component_top1", "component_top1_chosen"}
    assert plain["complete"]["component_top1"] > 0.8 and plain["complete"]["accuracy"] > 0.8
    assert plain["cells"]["accuracy"] < plain["complete"]["accuracy"]
    with pytest.raises(DataError, match="component_faults names 'lek'"):
        experiment.model_copy(update={"component_faults": ("lek",)}).run([0], tmp_path, lambda part, progress: None)
