"""The programs in docs/examples and the tutorial, run as their readers run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from agents.replay.shipped import demo_model, demo_recording
from models.stepping.load import load_model
from pipeline.config.profile import load_profile
from pipeline.engine.engine import Engine
from pipeline.wire.recording import read_recording

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
TUTORIAL = ROOT / "docs" / "guide" / "first-plant.md"


def blocks(language: str) -> list[str]:
    """The tutorial's blocks of code in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_embedded_engine_says_of_single_records_what_it_says_of_all_at_once() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "embed_engine.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    profile = load_profile("tennessee_eastman")
    engine = Engine(profile, {kind.name: load_model(demo_model(), kind) for kind in profile.machine_types})
    records = list(islice(read_recording(demo_recording()), 6_000))
    diagnoses = [json.loads(output.value or b"") for output in engine.process(records) if output.topic == "diagnoses"]
    expected = [f"{d['frame_end']} {d['machine']} {d['fault']} {d['confidence']}" for d in diagnoses]
    assert len({diagnosis["fault"] for diagnosis in diagnoses}) > 10
    assert sorted(done.stdout.splitlines()) == sorted(expected)


def test_the_tutorial_prints_its_files_as_they_are() -> None:
    assert blocks("yaml") == [
        (EXAMPLES / "first_plant" / name).read_text(encoding="utf-8")
        for name in ("bottling.yaml", "tables.yaml", "training.yaml")
    ]


@pytest.mark.slow
def test_the_tutorial_leads_from_tables_to_scores(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"python": [sys.executable], "faultline": [sys.executable, "-m", "agents.cli"]}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    commands = "".join(blocks("sh")).split("make kafka")[0].splitlines()
    skipped = ("make ", ". .venv/")  # the environment of these tests takes their place
    script = "\n".join(command for command in commands if not command.startswith(skipped))
    assert script.count("faultline ") == 4
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 machines, 4,320 frames, 4,320 diagnoses, 0 late, 0 dead letters" in " ".join(done.stdout.split())
    accuracy = re.search(r"accuracy\s+│\s+([\d.]+)", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
