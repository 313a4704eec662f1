"""Prepared data: what a training, a baseline or an experiment gets to work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.data.runs import RunFiles
from models.encoders.tokenizer import normalised
from models.training.prepare import PARTS, prepare, provenance
from tests.models import test_training as plant_of
from tests.models.test_training import plant
from tests.support.models_tiny import machine_type

__all__ = ["plant"]


def test_texts_of_a_pool_are_drawn_onto_held_out_runs(plant: Path, tmp_path: Path) -> None:
    data = prepare(plant_of.config(plant, tmp_path))
    assert data.faults == machine_type().faults
    assert data.run_counts() == {"train": 12, "validation": 6, "test": 6}
    assert data.drawn_pools is data.pools is not None
    for part, pool in (("validation", data.pools.validation), ("test", data.pools.test)):
        assert len(data.texts[part]) == 6
        assert {text.text for texts in data.texts[part] for text in texts} <= set(pool.texts)
    counts = data.text_counts()
    assert sum(counts.values()) == 40
    assert min(counts.values()) > 0


def test_runs_with_texts_of_their_own_get_no_others(plant: Path, tmp_path: Path) -> None:
    placed = {"seed": list(range(24)), "sample": [27.5] * 24, "text": [f"report {seed}" for seed in range(24)]}
    pyarrow.parquet.write_table(pa.table(placed), tmp_path / "events.parquet")
    files = RunFiles(paths=(plant / "runs.parquet",), events=(tmp_path / "events.parquet",))
    data = prepare(plant_of.config(plant, tmp_path, runs=(files,), texts=()))
    assert data.drawn_pools is None
    assert data.pools is not None
    for part in PARTS:
        own = {normalised(text.text) for run in getattr(data.split, part) for text in run.texts or ()}
        assert own == set(getattr(data.pools, part).groups)
    assert data.texts["test"] == [run.texts for run in data.split.test]


def test_classes_are_weighted_and_recovering_frames_left_out_of_calibration(plant: Path, tmp_path: Path) -> None:
    chosen = plant_of.config(plant, tmp_path, class_weights="balanced", recovery_frames=5)
    data = prepare(chosen)
    # Balanced weights make every class equally frequent in the loss.
    assert data.class_prior == pytest.approx(np.full(3, 1 / 3))
    assert float(data.class_weights[0]) < float(data.class_weights[1])
    # One clearing in each of the six runs of 90 frames.
    assert len(data.calibration_rows) == 6 * 90
    assert int((~data.calibration_rows).sum()) == 6 * 5


def test_the_provenance_of_a_model_names_what_decides_the_split(plant: Path, tmp_path: Path) -> None:
    chosen = plant_of.config(plant, tmp_path, seed=3, kept_texts=0.5)
    assert provenance(chosen, prepare(chosen)) == {
        "seed": 3,
        "data": ["runs.parquet"],
        "texts": ["texts.parquet"],
        "kept_texts": 0.5,
        "runs": {"train": 12, "validation": 6, "test": 6},
    }
