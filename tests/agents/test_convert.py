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
from models.training.config import load_train_config
from pipeline.config.profile import load_profile, parse_profile
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
    assert (label.fault, label.start, label.end) == ("leak", 1_774_749_620_000, 1_774_749_640_001)


def test_a_recording_becomes_training_runs_with_texts_and_labels(tables: Path) -> None:
    convert(load_conversion(tables / "plant.yaml"), tables, tables / "out.parquet")
    profile = parse_profile(ONE_SOURCE, where="test")
    runs = runs_from_records(read_recording(tables / "out.parquet"), profile, profile.machine_types[0], "out")
    assert [(run.name, run.group, len(run)) for run in runs] == [("p1/0", "p1", 6), ("p2/0", "p2", 6)]
    first = runs[0]
    # The failure is at 40 s, where a frame begins.
    assert first.labels.tolist() == [0, 0, 1, 1, 1, 0]
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


PUMPS = """
plant: pumps
machine_types:
  - name: pump
    match: "p[0-9]*"
    frame_period: 10s
    sources: {sensors: {topic: sensors}, slow: {topic: sensors.slow}}
    faults: [normal, leak]
    variables: [{name: flow}, {name: load, tag: TI-7}, {name: acid, source: slow}]
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("flow: Flow", "flwo: Flow", "plant pumps has no variable 'flwo' on topic sensors; did you mean flow?"),
        ("flow: Flow", "acid: Flow", "no variable 'acid' on topic sensors; there are flow, load, TI-7"),
        ('delimiter: ";"', 'delimiter: ";", topic: sensor.slow', "no topic 'sensor.slow'; did you mean sensors.slow"),
        ('"p{id}", time: at, delim', '"q{id}", time: at, delim', "readings.csv: machine 'q1' is of no type of plant"),
        ('"p{id}", time: at, text', '"pump{id}", time: at, text', "log-a.csv: machine 'pump1' is of no type"),
        ("burst: leak", "burst: laek", "machine 'p1' is of type pump, which has no fault 'laek'; did you mean leak?"),
        (", names: {burst: leak}", "", "has no fault 'burst'; there are normal, leak; `names` in the description"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_profile_is_refused_before_anything_is_written(
    tables: Path, old: str, new: str, said: str
) -> None:
    profile = parse_profile(PUMPS, where="test")
    (tables / "plant.yaml").write_text(DESCRIPTION.replace(old, new))
    with pytest.raises(DataError) as refused:
        convert(load_conversion(tables / "plant.yaml"), tables, tables / "out.parquet", profile)
    assert said in str(refused.value)
    assert not (tables / "out.parquet").exists()


def test_what_fits_the_profile_is_converted_as_without_it(tables: Path) -> None:
    described = load_conversion(tables / "plant.yaml")
    convert(described, tables, tables / "a.parquet")
    convert(described, tables, tables / "b.parquet", parse_profile(PUMPS, where="test"))
    assert list(read_recording(tables / "a.parquet")) == list(read_recording(tables / "b.parquet"))


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        ("before: 20s", [0, 0, 1, 1, 1, 0]),
        ("after: 20s", [0, 0, 0, 0, 1, 1]),
        ("before: 10s, after: 10s", [0, 0, 0, 1, 1, 0]),
        ("before: 5s", [0, 0, 0, 0, 1, 0]),
    ],
)
def test_a_failure_is_a_fault_from_before_it_until_after_it_and_in_its_own_frame(
    tables: Path, span: str, labels: list[int]
) -> None:
    (tables / "plant.yaml").write_text(DESCRIPTION.replace("before: 20s", span))
    convert(load_conversion(tables / "plant.yaml"), tables, tables / "out.parquet")
    profile = parse_profile(ONE_SOURCE, where="test")
    first, _ = runs_from_records(read_recording(tables / "out.parquet"), profile, profile.machine_types[0], "out")
    assert first.labels.tolist() == labels


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("before: 20s", "before: 20", "labels.0.before: 20 has no unit; write 20s, 20m or 20h"),
        (", before: 20s", "", "labels.0: how long does a fault last? give `before` or `after`"),
        ("before: 20s", "before: 20s, runs: true", "labels.0: before and after are for rows that each tell of"),
        ("before: 20s", "befor: 20s", "labels.0.befor: there is no such key; did you mean before?"),
        ("before: 20s", "before: 20s, rows: last, runs: true", "rows: last and runs: true exclude each other"),
        ('delimiter: ";"', 'delimiter: ";", time_step: 10', "readings.0.time_step: 10 has no unit; write 10s"),
        ('delimiter: ";"', 'delimiter: ";", time_step: 0s', "readings.0.time_step: must be longer than 0"),
        ('delimiter: ";"', 'delimiter: ";", time_step: 1s, time_unit: s', "time_step is for numbers that tell no time"),
        ('delimiter: ";"', 'delimiter: ";", time_start: 2020-01-01', "time_start: "),
        ("readings:", "reading:", "reading: there is no such key; did you mean readings?"),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_used_says_what_to_write(tables: Path, old: str, new: str, said: str) -> None:
    (tables / "plant.yaml").write_text(DESCRIPTION.replace(old, new))
    with pytest.raises(DataError) as refused:
        load_conversion(tables / "plant.yaml")
    assert said in str(refused.value)


def test_a_machine_that_runs_to_failure_is_faulty_before_its_last_row(tmp_path: Path) -> None:
    cycles = {1: 12, 2: 7}
    rows = [f"{unit},{cycle},{cycle * unit}" for unit, last in cycles.items() for cycle in range(1, last + 1)]
    (tmp_path / "engines.csv").write_text("\n".join(["unit,cycle,Flow", *rows]))
    described = """
readings:
  - {files: "*.csv", machine: "p{unit}", time: cycle, time_step: 10s, values: {flow: Flow}}
labels:
  - {files: "*.csv", machine: "p{unit}", time: cycle, time_step: 10s, fault: leak, rows: last, before: 20s}
"""
    (tmp_path / "plant.yaml").write_text(described)
    convert(load_conversion(tmp_path / "plant.yaml"), tmp_path, tmp_path / "out.parquet")
    profile = parse_profile(ONE_SOURCE, where="test")
    runs = runs_from_records(read_recording(tmp_path / "out.parquet"), profile, profile.machine_types[0], "out")
    assert {run.group: run.labels.tolist() for run in runs} == {"p1": [0] * 9 + [1] * 3, "p2": [0] * 4 + [1] * 3}
    (tmp_path / "more.csv").write_text("unit,cycle,Flow\n2,8,1")
    with pytest.raises(DataError, match=r"machine 'p2' is in .*engines.csv and in .*more.csv"):
        convert(load_conversion(tmp_path / "plant.yaml"), tmp_path, tmp_path / "again.parquet")


def test_engines_of_cmapss_fail_in_their_last_30_cycles(tmp_path: Path) -> None:
    profile, plants = load_profile("cmapss"), Path(__file__).parents[2] / "deploy" / "plants"
    lives = {1: 45, 20: 30, 100: 31}
    table = {"unit": [unit for unit, life in lives.items() for _ in range(life)]}
    table["cycle"] = [cycle for life in lives.values() for cycle in range(1, life + 1)]
    for name in profile.machine_types[0].variable_names:
        table[name] = [100 * unit + cycle for unit, cycle in zip(table["unit"], table["cycle"], strict=True)]
    (tmp_path / "cmapss").mkdir()
    pq.write_table(pa.table(table), tmp_path / "cmapss" / "train_FD001.parquet")
    out = tmp_path / "cmapss.parquet"
    assert convert(load_conversion(plants / "cmapss.yaml"), tmp_path, out, profile).records == sum(lives.values()) + 3
    runs = runs_from_records(read_recording(out), profile, profile.machine_types[0], "cmapss")
    assert {run.name: run.labels.tolist() for run in runs} == {
        f"engine-{unit:03d}/0": [0] * (life - 30) + [1] * 30 for unit, life in lives.items()
    }
    assert runs[0].values.shape == (45, 24)
    assert np.array_equal(runs[0].values[:, 23], np.arange(101, 146))
    chosen = load_train_config(plants / "cmapss.train.yaml", data=tmp_path)
    assert (chosen.profile, chosen.recordings) == ("cmapss", (out,))
