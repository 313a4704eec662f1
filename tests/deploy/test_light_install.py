"""What serves needs neither torch nor matplotlib nor ONNX; what trains says in one line which extra it lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli.main import app
from agents.replay.shipped import demo_recording
from pipeline.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[2]
TRAINING = ("matplotlib", "onnx", "onnxruntime", "onnxscript", "tep_studio", "torch", "triton")
"""What a serving installation does not have."""

HIDDEN = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
SERVING_MODULES = (
    "agents.cli.main",
    "agents.bench.align",
    "agents.replay.convert",
    "agents.audit.dead_letters",
    "agents.replay.record",
    "agents.replay.replay",
    "agents.replay.scores",
    "agents.worker.service",
    "agents.console.demo",
    "agents.console.service",
    "agents.replay.stress_report",
    "agents.audit.verify",
    "models.configs.diagnoser",
    "models.model_file",
    "models.evaluation.scoring",
    "models.stepping.load",
    "models.areas.load",
    "models.encoders.tokenizer",
)

WORKERS = """
import asyncio
from itertools import islice
from importlib import resources

from agents.cli.options import load_runners
from agents.replay.shipped import demo_recording
from pipeline.wire.recording import read_recording
from tests.support.plant import Plant

async def run():
    plant = Plant((resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml").read_text())
    records = iter(read_recording(demo_recording()))
    for _ in range(2):
        (runner,) = load_runners(plant.settings, plant.profile, None).values()
        plant.append(islice(records, 600))
        worker = await plant.work(runner=runner)
        print(len(plant.log("diagnoses")))
    print(worker.restored)

asyncio.run(run())
"""


@pytest.fixture
def serving(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that cannot import what training needs."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDDEN)
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_environment_of_these_tests_hides_what_training_needs(serving: dict[str, str]) -> None:
    done = python(serving, "-c", "import torch")
    assert "No module named 'torch'" in done.stderr


def test_the_modules_that_serve_import_nothing_of_training(serving: dict[str, str]) -> None:
    # With the packages installed too: an import that is only tried succeeds there, and shows.
    program = f"""
import importlib, sys
for module in {SERVING_MODULES!r}:
    importlib.import_module(module)
    loaded = {{name.partition(".")[0] for name in sys.modules}}.intersection({TRAINING!r})
    assert not loaded, (module, loaded)
"""
    for environment in (os.environ | {"PYTHONPATH": str(ROOT)}, serving):
        done = python(environment, "-c", program)
        assert done.returncode == 0, done.stderr


def test_a_command_begins_without_what_only_reports_and_workers_need() -> None:
    program = "import sys, agents.cli.main; print(sorted({'sklearn', 'scipy.stats', 'faust'} & sys.modules.keys()))"
    done = python(os.environ | {"PYTHONPATH": str(ROOT)}, "-c", program)
    assert done.stdout == "[]\n", done.stderr


def test_tables_are_converted_without_what_training_needs(serving: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text("at,id,Flow\n2026-03-29 02:00:00,1,0.5\n2026-03-29 02:00:01,1,0.6\n")
    description = tmp_path / "plant.yaml"
    description.write_text('readings: [{files: readings.csv, machine: "p{id}", time: at, values: {flow: Flow}}]')
    out = tmp_path / "out.parquet"
    done = python(serving, "-m", "agents.cli", "convert", str(description), "--data", str(tmp_path), "--out", str(out))
    assert done.stdout == f"2 records written to {out}\n", done.stderr


def test_a_lacking_extra_is_one_line_and_no_traceback(serving: dict[str, str], tmp_path: Path) -> None:
    done = python(serving, "-m", "agents.cli", "train", str(tmp_path / "train.yaml"))
    assert done.returncode == 1
    assert done.stderr == "error: faultline train needs PyTorch: run  pip install 'faultline[train]'\n"


@pytest.mark.parametrize(
    ("command", "module", "library"),
    [
        (["train", "train.yaml"], "torch", "PyTorch"),
        (["baseline", "train.yaml"], "torch", "PyTorch"),
        (["evaluate", "x.yaml", "--data", ".", "--out", "."], "torch", "PyTorch"),
        (["bench", "models"], "torch", "PyTorch"),
        (["bench", "scale"], "torch", "PyTorch"),
        (["bench", "stream"], "torch", "PyTorch"),
        (["stress", str(demo_recording()), "--plot", "stress.png"], "matplotlib", "Matplotlib"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    command: list[str], module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, MissingExtraError)
    name = " ".join(["faultline", *command[: 2 if command[0] == "bench" else 1]])
    assert str(refused).startswith(name)
    assert str(refused).endswith(f" needs {library}: run  pip install 'faultline[train]'")


def test_the_demo_runs_without_what_training_needs(serving: dict[str, str]) -> None:
    done = python(serving, "-m", "agents.cli", "demo", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["diagnoses"], report["model"]) == (11_520, "tennessee_eastman b4cd4805fd12")
    assert report["scores"]["fused"]["accuracy"] > 0.83


def test_a_worker_goes_on_from_saved_states_without_what_training_needs(serving: dict[str, str]) -> None:
    done = python(serving, "-c", WORKERS)
    assert done.returncode == 0, done.stderr
    first, second, restored = (int(word) for word in done.stdout.split())
    assert second > first > 0
    assert restored == 12
