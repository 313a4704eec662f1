"""The programs in docs/examples and the tutorial, run as their readers run them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
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
from tests.support.commands import faultline
from tests.support.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
TUTORIAL = (ROOT / "docs" / "guide" / "first-plant.md").read_text(encoding="utf-8")
TABLES = (ROOT / "docs" / "guide" / "tables.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_embedded_engine_says_of_single_records_what_it_says_of_all_at_once() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(EXAMPLES / "embed_engine.py"), run_name="__main__")
    profile = load_profile("tennessee_eastman")
    engine = Engine(profile, {kind.name: load_model(demo_model(), kind) for kind in profile.machine_types})
    records = list(islice(read_recording(demo_recording()), 6_000))
    diagnoses = [json.loads(output.value or b"") for output in engine.process(records) if output.topic == "diagnoses"]
    expected = [f"{d['frame_end']} {d['machine']} {d['fault']} {d['confidence']}" for d in diagnoses]
    assert len({diagnosis["fault"] for diagnosis in diagnoses}) > 10
    assert sorted(printed.getvalue().splitlines()) == sorted(expected)


def test_the_tutorial_prints_its_files_as_they_are() -> None:
    assert blocks("yaml", TUTORIAL) == [
        (EXAMPLES / "first_plant" / name).read_text(encoding="utf-8")
        for name in ("bottling.yaml", "tables.yaml", "named.yaml", "training.yaml")
    ]


@pytest.mark.long
@pytest.mark.slow
def test_the_tutorial_leads_from_tables_without_labels_to_scores(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"python": [sys.executable], "faultline": [sys.executable, "-m", "agents.cli"]}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    commands = "".join(blocks("sh", TUTORIAL)).split("make kafka")[0].splitlines()
    skipped = ("make ", ". .venv/")  # the environment of these tests takes their place
    script = "\n".join(command for command in commands if not command.startswith(skipped))
    assert script.count("\nfaultline ") == 11
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 machines, 4,320 frames, 4,320 diagnoses, 0 late, 0 dead letters" in " ".join(done.stdout.split())
    # Group 1 of unknown episodes is named a leak, and group 2 a worn bearing.
    groups = re.findall(r"^group (\d): (\d+) episodes, .* frames; (.*)$", done.stdout, re.MULTILINE)
    assert [(number, variables.split()[0]) for number, _, variables in groups[:2]] == [("1", "pressure"), ("2", "rms")]
    assert "-" in groups[0][2].split(",")[0]
    assert all(int(episodes) > 20 for _, episodes, _ in groups[:2])
    scores = dict(re.findall(r"(\w[\w ]*\w) +│ +([\d.]+) │ +[\d.]+ │\n", done.stdout.split("4,320 diagnoses")[1]))
    assert float(scores["detection rate"]) > 0.8
    assert float(scores["correct diagnosis rate"]) > 0.95
    assert float(scores["false alarm rate before"]) < 0.05
    (reading,) = blocks("python", TUTORIAL)
    done = subprocess.run(
        [sys.executable, "-c", reading],
        cwd=tmp_path / "runs" / "bottling",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"4320 diagnoses, [1-9]\d* of them leaks, of [1-4] machines\n", done.stdout)


def test_the_page_on_tables_shows_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, table, summary = blocks("", TABLES)
    (description,) = blocks("yaml", TABLES)
    monkeypatch.chdir(tmp_path)
    Path("pumps.csv").write_text(table, encoding="cp1252")
    Path("tables.yaml").write_text(description, encoding="utf-8")
    arguments = ("convert", "tables.yaml", "--data", ".", "--out", "pumps.parquet")
    done = faultline(*arguments)
    assert done.stdout == summary, done.stderr
    readings = [
        json.loads(record.value or b"") for record in read_recording("pumps.parquet") if record.topic == "sensors"
    ]
    assert [reading["values"]["flow"] for reading in readings] == [1204.5, None, 1198.0]
    assert [reading["time"] - readings[0]["time"] for reading in readings] == [0, 10_000, 20_000]
    Path("tables.yaml").write_text(description.replace("    bad_values: unknown\n", ""), encoding="utf-8")
    assert faultline(*arguments, "--force").stderr == error
