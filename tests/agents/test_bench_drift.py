"""`faultline bench drift`: a drift that was added is found, and runs that are too short are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.model_file import read_model
from pipeline.config.profile import load_profile
from tests.support.commands import assert_one_line, faultline

pytestmark = pytest.mark.slow

WINDOW = 24
# A detector would find readings that hardly vary novel from the start; the model of the release before has none.
MODEL = Path(__file__).parent / "release_before" / "model.faultline"
SHORT_WINDOWS = {"FAULTLINE_DRIFT_WINDOW_MS": f"{WINDOW * 3}m", "FAULTLINE_DRIFT_REFERENCE_WINDOWS": "3"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of 12 windows that scatter around the mean of the model's training."""
    model, kind = read_model(MODEL), load_profile("tennessee_eastman").machine_types[0]
    rng, frames = np.random.default_rng(1), WINDOW * 12
    scores = rng.normal(0, 0.05, (2 * frames, len(kind.variables)))
    values = (model.tensors["mean"] + model.tensors["std"] * scores).astype(np.float32)
    columns = {
        "run": np.repeat([0, 1], frames),
        "sample": np.tile(np.arange(frames), 2),
        "label": np.zeros(2 * frames, int),
    }
    columns |= {name: values[:, index] for index, name in enumerate(kind.variable_names)}
    path = tmp_path / "runs.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_drift_that_was_added_is_reported_and_nothing_else(runs: Path) -> None:
    options = ("--sigma", "3", "--ramp-days", "0.1", "--passes", "2", "--json", "--model", MODEL)
    done = faultline("bench", "drift", runs, *options, env=SHORT_WINDOWS)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["runs"] == 2 and report["reports_without_drift"] == 0
    assert report["drifts"] == report["right_variable_first"] == 4
    assert 0 < report["longest_days_after_start"] < 0.4


def test_runs_that_are_too_short_are_refused(runs: Path) -> None:
    assert_one_line(faultline("bench", "drift", runs), "give longer runs, or a smaller --ramp-days")
