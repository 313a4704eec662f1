"""What the release before left is of use to this one, and the other way round."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.audit.certificate import read_certificate
from agents.delivery.kept_states import kept_name, origin_of, wrap
from models.model_file import read_model
from pipeline.wire.recording import read_recording
from pipeline.wire.states import Forgotten, encode_state
from tests.support.commands import faultline
from tests.support.release_artefacts import Left, Row, go_on, leave, load, shipped_engine
from tests.support.release_before import (
    CERTIFICATE,
    RECORDING,
    STATES,
    code_of_before,
    model_of_before,
    without_components,
)

pytestmark = pytest.mark.slow


def as_before(row: Row) -> Row:
    topic, key, value = row
    return topic, key, without_components(value)


def test_its_model_file_is_read_and_is_the_same_model(tmp_path: Path) -> None:
    # Reading compares the hash with the content, as this release describes it.
    _, _, expected = read_certificate(CERTIFICATE).model.partition("=")
    assert read_model(model_of_before(tmp_path)).header.hash == expected


def test_states_of_its_machines_go_on_to_the_byte(tmp_path: Path) -> None:
    left = load(STATES)
    assert len(left.states) == 12 and len(left.outputs) == 681
    engine = shipped_engine(model_of_before(tmp_path))
    refused, outputs = go_on(engine, left.states, list(read_recording(RECORDING)))
    assert refused == {}
    assert sum(b'"components":{' in value for _, _, value in outputs) > 600
    assert [as_before(row) for row in outputs] == left.outputs


def test_its_certificate_has_the_same_diagnoses_and_other_alignment_states(tmp_path: Path) -> None:
    mine, model = tmp_path / "certificate.parquet", ("--model", model_of_before(tmp_path))
    assert faultline("replay", RECORDING, *model, "--certify", mine).returncode == 0
    before, now = read_certificate(CERTIFICATE), read_certificate(mine)
    assert (before.model, before.diagnoses) == (now.model, now.diagnoses) and len(now.diagnoses) > 1_300
    done = faultline("replay", RECORDING, *model, "--certify", CERTIFICATE)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.endswith("the alignment state of 12 machines differs, such as te-01"), "as the guide says"


def in_code_of_before(code: Path, command: str, states: Path, model: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(code)}
    arguments = [command, str(RECORDING), str(states), str(model), "tennessee_eastman"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.release_artefacts", *arguments],
        cwd=code,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout or "{}")
    return answer


def test_the_artefacts_are_what_its_code_writes(tmp_path: Path) -> None:
    code = code_of_before(tmp_path / "code")
    again = tmp_path / "again.msgpack.gz"
    in_code_of_before(code, "write", again, code / "agents" / "data" / "tennessee_eastman.faultline")
    assert load(again) == load(STATES)


def test_its_code_goes_on_from_states_of_today_and_refuses_those_that_are_kept(tmp_path: Path) -> None:
    code, model = code_of_before(tmp_path / "code"), model_of_before(tmp_path)
    left = leave(shipped_engine(model), list(read_recording(RECORDING)))
    expected = [as_before(row) for row in left.outputs]
    gone = Forgotten("te-99", 0, 1_760_000_000_000, {"sensors": 5}, 1_760_000_000_000, closed=9, keep_until=10)
    some = left.states["te-01"]
    kept = kept_name("te-01", origin_of(some) or "")
    states = tmp_path / "states.msgpack.gz"
    more = left.states | {"te-99": encode_state(gone), kept: wrap(some)}
    states.write_bytes(gzip.compress(msgspec.msgpack.encode(Left(more, expected))))
    answer = in_code_of_before(code, "go-on", states, model)
    assert answer["outputs"] == answer["expected"] == answer["same"] == 681, "the same bytes"
    assert answer["refused"] == {kept: f"state of {kept} has version -1, this is 1"}
