"""`faultline unknown list` and `name`: from diagnoses of a file to labels that `convert` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.wire.messages import encode
from pipeline.wire.recording import RecordingWriter, read_recording
from pipeline.wire.records import Record
from tests.models.test_unknown_episodes import diagnosis
from tests.support.builders import ONE_SOURCE
from tests.support.commands import assert_one_line, faultline

DIAGNOSES = [
    *(diagnosis("p1", frame, flow=6.0, heat=-3.0) for frame in range(4)),
    *(diagnosis("p2", frame, flow=5.0, heat=-3.0) for frame in range(20, 23)),
    *(diagnosis("p1", frame, load=4.0) for frame in range(40, 46)),
    *(diagnosis("p1", frame, "normal") for frame in range(50, 60)),
]


@pytest.fixture(params=["jsonl", "parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"diagnoses.{request.param}"
    values = [encode(one) for one in DIAGNOSES]
    if request.param == "jsonl":
        path.write_bytes(b"\n".join([*values, b""]))
    else:
        records = [Record("diagnoses", 0, at, 0, b"p", value) for at, value in enumerate([*values, b"no diagnosis"])]
        with RecordingWriter(path) as writer:
            writer.write([*records, Record("alarms", 0, 0, 0, b"p", b"{}")])
    return path


def test_groups_are_listed_with_what_deviates(source: Path) -> None:
    done = faultline("unknown", "list", "--from", source)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "group 1: 2 episodes, 7 frames; flow +5.6, heat -3.0"
    assert lines[1].startswith("    p1  1970-01-01")
    assert lines[1].endswith("4 frames, novelty up to 1.50")
    assert lines[3] == "group 2: 1 episodes, 6 frames; load +4.0"
    shown = json.loads(faultline("unknown", "list", "--from", source, "--json").stdout)
    assert [(group["group"], group["frames"], len(group["episodes"])) for group in shown["groups"]] == [
        (1, 7, 2),
        (2, 6, 1),
    ]
    assert shown["groups"][1]["variables"] == [{"name": "load", "deviation": 4.0}]


def test_a_named_group_becomes_labels_that_convert_reads(source: Path, tmp_path: Path) -> None:
    plant, out = tmp_path / "plant.yaml", tmp_path / "labels.csv"
    plant.write_text(ONE_SOURCE)
    named = faultline("unknown", "name", "1", "jam", "--from", source, "--out", out, "--profile", plant)
    assert (named.returncode, named.stdout, named.stderr) == (0, f"2 labels of jam are written to {out}\n", "")
    other = faultline("unknown", "name", "2", "new", "--from", source, "--out", out, "--profile", plant)
    assert other.returncode == 0
    assert "new is no fault of profile" in other.stderr
    assert out.read_text().splitlines() == [
        "machine,time,fault",
        *("p1,0,jam", "p1,4000,", "p2,20000,jam", "p2,23000,"),
        *("p1,40000,new", "p1,46000,"),
    ]
    (tmp_path / "r.csv").write_text("t,flow\n2025-01-01T00:00:00Z,1.5\n")
    (tmp_path / "tables.yaml").write_text(
        "readings: [{files: r.csv, machine: p1, time: t, values: {flow: flow}}]\n"
        "labels: [{files: labels.csv, machine: '{machine}', time: time, time_unit: ms, fault: '{fault}', runs: true}]\n"
    )
    recording = tmp_path / "recording.parquet"
    converted = faultline("convert", tmp_path / "tables.yaml", "--data", tmp_path, "--out", recording)
    assert converted.returncode == 0, converted.stderr
    labels = [json.loads(record.value or b"") for record in read_recording(recording) if record.topic == "labels"]
    assert sorted((one["machine"], one["start"], one["end"], one["fault"]) for one in labels) == [
        ("p1", 0, 4000, "jam"),
        ("p1", 40000, 46000, "new"),
        ("p2", 20000, 23000, "jam"),
    ]


def test_what_cannot_be_named_is_one_line(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    for arguments, text in (
        (("3", "jam", "--out", out), "there is no group 3: the groups are 1 to 2"),
        (("1", "jam"), "say where the labels go"),
        (("1", "jam", "--out", out, "--publish"), "say where the labels go"),
        (("1", "", "--out", out), "a fault's name has"),
    ):
        done = faultline("unknown", "name", *arguments, "--from", source)
        assert_one_line(done, text)
    out.write_text("something,else\n")
    assert_one_line(faultline("unknown", "name", "1", "jam", "--from", source, "--out", out), "does not begin with")
    assert out.read_text() == "something,else\n"


def test_a_file_without_diagnoses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.parquet"
    with RecordingWriter(path) as writer:
        writer.write([Record("sensors", 0, 0, 0, b"p", b"{}")])
    assert_one_line(faultline("unknown", "list", "--from", path), "has no topic 'diagnoses'")
    assert_one_line(faultline("unknown", "list", "--from", tmp_path / "none.jsonl"), "cannot be read")
    (tmp_path / "empty.jsonl").write_text("")
    assert faultline("unknown", "list", "--from", tmp_path / "empty.jsonl").stdout == "no diagnosis says unknown\n"
