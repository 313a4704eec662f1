"""The programs in docs/examples, run as their readers run them."""

from __future__ import annotations

import json
import os
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
