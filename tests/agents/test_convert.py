"""Tables become recordings, and recordings become training runs, for any plant by description alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agents.replay.convert import convert
from agents.replay.tables.description import load_conversion
from models.data.from_recordings import runs_from_records
from pipeline.config.profile import parse_profile
from pipeline.errors import DataError
from pipeline.wire.messages import decode_event, decode_label
from pipeline.wire.readings import decode_reading
from pipeline.wire.recording import read_recording
from tests.support.builders import ONE_SOURCE

DESCRIPTION = """
readings:
  - {files: readings.csv, machine: "p{id}", time: at, delimiter: ";", values: {flow: Flow, load: Load}}
events:
  - {files: "log-*.csv", machine: "p{id}", time: at, text: "code {code} on {file}", severity: warning}
labels:
  - {files: failures.parquet, machine: "p{id}", time: at, fault: "{what}", names: {burst: leak}, before: 20s}
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    lines = ["at;id;Flow;Load"]
    for second in range(60):
        lines.append(f"2026-03-29 02:{second // 60:02}:{second % 60:02};{1 + second % 2};{second};{-second}")
    (tmp_path / "readings.csv").write_text("\n".join(lines))
    (tmp_path / "log-a.csv").write_text("at,id,code\n2026-03-29T02:00:31,1,e7\n")
    failures = {"at": pa.array([1_774_749_640_000], pa.timestamp("ms")), "id": [1], "what": ["burst"]}
    pq.write_table(pa.table(failures), tmp_path / "failures.parquet")
    (tmp_path / "plant.yaml").write_text(DESCRIPTION)
    return tmp_path


def test_tables_become_a_recording(tables: Path) -> None:
    out = tables / "out.parquet"
    count = convert(load_conversion(tables / "plant.yaml"), tables, out).records
    records = list(read_recording(out))
    assert count == len(records) == 62
    assert [r.timestamp_ms for r in records] == sorted(r.timestamp_ms for r in records)
    by_topic = {topic: [r for r in records if r.topic == topic] for topic in ("sensors", "events", "labels")}
    machine, time_ms, values, _ = decode_reading(by_topic["sensors"][1].value or b"")
    assert (machine, time_ms, values) == ("p2", 1_774_749_601_000, {"flow": 1.0, "load": -1.0})
    assert by_topic["sensors"][1].key == b"p2"
    assert decode_event(by_topic["events"][0].value or b"").text == "code e7 on log-a"
    label = decode_label(by_topic["labels"][0].value or b"")
    assert (label.fault, label.start, label.end) == ("leak", 1_774_749_620_000, 1_774_749_640_000)


def test_a_recording_becomes_training_runs_with_texts_and_labels(tables: Path) -> None:
    convert(load_conversion(tables / "plant.yaml"), tables, tables / "out.parquet")
    profile = parse_profile(ONE_SOURCE, where="test")
    runs = runs_from_records(read_recording(tables / "out.parquet"), profile, profile.machine_types[0], "out")
    assert [(run.name, run.group, len(run)) for run in runs] == [("p1/0", "p1", 6), ("p2/0", "p2", 6)]
    first = runs[0]
    assert first.labels.tolist() == [0, 0, 1, 1, 0, 0]
    assert np.array_equal(first.values[:, 0], [8, 18, 28, 38, 48, 58])
    assert first.texts is not None
    assert [(text.frame, text.text) for text in first.texts] == [(3, "code e7 on log-a")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("readings.csv", "nothing.csv", "nothing.csv"),
        ("Flow,", "Missing,", "no column Missing"),
        ("delimiter: \";\"", "delimeter: \";\"", "delimeter"),
        ("time: at, delimiter", "time: id, time_unit: s, time_zone: Mars/Base, delimiter", "Mars"),
        ("load: Load", "load: at", "is not a number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tables: Path, old: str, new: str, message: str) -> None:
    (tables / "plant.yaml").write_text(DESCRIPTION.replace(old, new))
    with pytest.raises(DataError, match=message):
        convert(load_conversion(tables / "plant.yaml"), tables, tables / "out.parquet")
