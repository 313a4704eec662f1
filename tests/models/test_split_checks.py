"""Data that cannot teach a model or score it is refused with counts, and few machines are split by time."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.class_counts import few_episodes
from models.training.config import TrainConfig, load_train_config
from models.training.prepare import PARTS, PreparedData, memory_frames, prepare
from pipeline.errors import DataError
from pipeline.wire.recording import new_recording, read_recording
from pipeline.wire.records import Record

PLANT = """
plant: tiny
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    texts: false
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load}]
"""
START_MS = 1_763_600_000_000
PERIOD_MS = 10_000

Episode = tuple[int, int, str]
"""First frame, the frame after the last, and the fault."""
LEAK_AND_JAM: Sequence[Episode] = [(20, 30, "leak"), (50, 60, "jam")]


class Site:
    """A folder with a profile and a recording."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.yaml").write_text(PLANT, encoding="utf-8")

    def record(
        self, machines: int, frames: int, episodes: Sequence[Episode], *, shift_ms: int = 0, name: str = "pump"
    ) -> None:
        """Write the recording: the same episodes in every machine; `shift_ms` moves their labels."""
        records = []
        for number in range(machines):
            machine = f"pump-{number}"
            for frame in range(frames):
                time = START_MS + frame * PERIOD_MS
                body = {"machine": machine, "time": time, "values": {"flow": float(frame % 7), "load": 1.0 + frame % 3}}
                records.append(Record("sensors", 0, 0, time, machine.encode(), json.dumps(body).encode()))
            for start, end, fault in episodes:
                begin, stop = (START_MS + frame * PERIOD_MS + shift_ms for frame in (start, end))
                label = {"machine": f"{name}-{number}", "start": begin, "fault": fault, "end": stop}
                key = f"{name}-{number}".encode()
                records.append(Record("labels", 0, 0, max(begin, 0), key, json.dumps(label).encode()))
        records.sort(key=lambda record: record.timestamp_ms)
        with new_recording(self.folder / "data.parquet") as writer:
            writer.write([record._replace(offset=offset) for offset, record in enumerate(records)])

    def config(self, **options: Any) -> TrainConfig:
        chosen = {
            "profile": str(self.folder / "tiny.yaml"),
            "recordings": [self.folder / "data.parquet"],
            "output": self.folder / "model",
            "validation": 0.25,
            "test": 0.25,
        }
        return TrainConfig.model_validate(chosen | options)

    def prepared(self, **options: Any) -> PreparedData:
        return prepare(self.config(**options))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_every_part_is_counted(site: Site) -> None:
    site.record(8, 80, [*LEAK_AND_JAM, (0, 5, "leak")])
    counts = site.prepared().counts
    assert {part: (count.groups, count.runs, count.frames) for part, count in counts.items()} == {
        "train": (4, 4, 320),
        "validation": (2, 2, 160),
        "test": (2, 2, 160),
    }
    assert str(counts["test"]) == (
        "normal 6 episodes of 110 frames, leak 4 episodes of 30 frames, jam 2 episodes of 20 frames"
    )
    assert few_episodes(counts) == [
        "leak has few episodes (8 in train, 4 in validation, 4 in test): its scores depend on chance",
        "jam has few episodes (4 in train, 2 in validation, 2 in test): its scores depend on chance",
    ]


def test_enough_episodes_need_no_warning_and_a_fault_that_never_occurs_has_one(site: Site) -> None:
    site.record(8, 80, [(at, at + 5, "leak") for at in range(10, 80, 10)])
    assert few_episodes(site.prepared().counts) == ["jam never occurs: a model cannot learn it"]


def test_a_fault_that_training_lacks_is_named(site: Site) -> None:
    episodes = [(10, 15, "leak"), (30, 35, "leak"), (70, 75, "jam"), (75, 79, "leak"), (95, 99, "leak")]
    site.record(1, 100, episodes)
    counts = site.prepared(split={"by": "time", "gap_frames": 2}).counts
    assert "jam does not occur in the train part: a model cannot learn it" in few_episodes(counts)


def test_only_normal_data_is_refused_with_what_there_is(site: Site) -> None:
    site.record(8, 20, [(0, 20, "normal")])
    with pytest.raises(DataError, match=r"only normal frames.*label faults.*train: normal 4 episodes of 80 frames"):
        site.prepared()


def test_data_without_labels_is_refused_as_that(site: Site) -> None:
    site.record(8, 20, [])
    with pytest.raises(DataError, match=r"no frame has a label.*train: 80 frames without a label"):
        site.prepared()


@pytest.mark.parametrize(
    ("shift_ms", "name", "said"),
    [
        (-START_MS, "pump", r"none of 16 labels covers .* leak of pump-0 from 1970-01-01T00:03:20Z until 1970-01-01"),
        (86_400_000, "pump", r"while pump-0 has frames from 2025-11-20T00:53:20Z until 2025-11-20T01:06:30Z"),
        (0, "engine", r"none of 16 labels covers .* of engine-0 .*, while pump-0 has frames"),
    ],
)
def test_labels_that_label_nothing_are_refused(site: Site, shift_ms: int, name: str, said: str) -> None:
    site.record(8, 80, LEAK_AND_JAM, shift_ms=shift_ms, name=name)
    with pytest.raises(DataError, match=said):
        site.prepared()


def test_some_labels_that_label_nothing_are_a_warning(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.record(8, 80, [*LEAK_AND_JAM, (200, 210, "leak")])
    with caplog.at_level(logging.WARNING):
        site.prepared()
    assert "8 of 24 labels cover the start of no frame, such as leak of pump-0 from 2025-11-20T01:26:40Z" in caplog.text


def test_a_label_of_an_unknown_fault_names_the_nearest(site: Site) -> None:
    site.record(8, 80, [(20, 30, "leek")])
    with pytest.raises(DataError, match=r"no fault 'leek'; did you mean leak\?"):
        site.prepared()


def test_a_part_without_a_fault_is_refused_with_all_counts(site: Site) -> None:
    site.record(1, 100, [(10, 20, "leak"), (30, 40, "jam"), (90, 95, "jam")])
    with pytest.raises(
        DataError, match=r"validation part has no episode of any fault.*validation: normal 1 episode of"
    ):
        site.prepared(split={"by": "time", "gap_frames": 2})


def test_a_part_without_labels_is_refused(site: Site) -> None:
    site.record(1, 100, [(0, 10, "normal"), (10, 20, "leak"), (90, 95, "jam"), (95, 99, "normal")])
    with pytest.raises(DataError, match="validation part has no labelled frame"):
        site.prepared(split={"by": "time", "gap_frames": 2})


def test_data_that_always_begins_faulty_says_so(site: Site) -> None:
    site.record(8, 40, [(0, 20, "leak"), (30, 35, "jam")])
    with pytest.raises(DataError, match=r"none of 4 training runs begins with one: 0 .* and 4 with a fault"):
        site.prepared().fit_scaling()


def test_records_that_the_profile_does_not_know_are_named(site: Site) -> None:
    (site.folder / "tiny.yaml").write_text(PLANT.replace("pump-*", "motor-*"), encoding="utf-8")
    site.record(2, 10, [])
    with pytest.raises(
        DataError, match=r"no frame of .* pump: its records were refused \(unknown_machine 20; such as: no machine type"
    ):
        site.prepared()


def test_too_few_machines_are_offered_a_split_by_time(site: Site) -> None:
    site.record(2, 100, LEAK_AND_JAM)
    with pytest.raises(DataError, match=r"2 machines .* too few .*20% for validation and 25% for the test.*by: time"):
        site.prepared(validation=0.2)


EPISODES: Sequence[Episode] = [(at, at + 6, "leak" if at % 40 else "jam") for at in range(20, 400, 20)]


def test_a_split_by_time_leaves_a_gap_of_the_models_memory(site: Site) -> None:
    site.record(2, 400, EPISODES)
    assert site.config(split="time").split == site.config(split={"by": "time"}).split
    remembering = {"chunk_frames": 13, "sensors": {"hidden": [8], "trends": [15.5]}}
    chosen = site.config(split="time", detector=None, **remembering)
    data = prepare(chosen)
    assert memory_frames(site.config(split="time", **remembering), data.machine_type) == 30
    gap = memory_frames(chosen, data.machine_type)
    assert gap == 16
    for machine in ("pump-0", "pump-1"):
        spans = []
        for part in PARTS:
            (run,) = (run for run in getattr(data.split, part) if run.machine == machine)
            assert run.start_ms is not None
            frames = (run.start_ms - START_MS) // PERIOD_MS
            assert np.array_equal(frames, np.arange(frames[0], frames[-1] + 1))
            # What the frames are is what they were in the whole recording.
            np.testing.assert_array_equal(run.values[:, 0], frames % 7)
            expected = [next((1 + (f == "jam") for a, b, f in EPISODES if a <= t < b), 0) for t in frames]
            assert run.labels.tolist() == expected
            spans.append((int(frames[0]), int(frames[-1]) + 1))
        assert spans[0] == (0, 200)
        # 216 is in a normal stretch; the cut at 300 begins a fault, and 316 is behind it.
        assert spans[1:] == [(216, 300), (316, 400)]
    assert data.counts["train"].groups == 2


def test_a_fault_that_reaches_over_the_gap_is_in_one_part_only(site: Site) -> None:
    site.record(1, 400, [(20, 30, "jam"), (190, 230, "leak"), (250, 260, "jam"), (350, 360, "leak"), (370, 380, "jam")])
    data = site.prepared(split={"by": "time", "gap_frames": 10})
    (validation,) = data.split.validation
    assert validation.start_ms is not None
    assert (validation.start_ms[0] - START_MS) // PERIOD_MS == 230


def test_nothing_left_by_time_is_refused(site: Site) -> None:
    site.record(1, 100, LEAK_AND_JAM)
    with pytest.raises(DataError, match=r"nothing is left for the validation part of 100 frames, with 120"):
        site.prepared(split={"by": "time"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("split: tme", "split.by: Input should be 'machine' or 'time'"),
        ("split: {by: tme}", "split.by: Input should be 'machine' or 'time'"),
        ("split: {gap_frames: 5}", "split: gap_frames is for `by: time`"),
        ("splitt: {by: time}", "splitt: there is no such key; did you mean split?"),
        ("sensors: {hiden: [3]}", "sensors.seq_lstm.hiden: there is no such key; did you mean hidden?"),
        ("sensor_stage: {epoch: 3}", "sensor_stage.epoch: there is no such key; did you mean epochs?"),
        ("runs: [{paths: [a], groups: [b]}]", "runs.0.groups: there is no such key; did you mean group?"),
        ("fusion: {kind: adaptive, sise: 3}", "fusion.adaptive.sise: there is no such key"),
        ("test: 0.9", "validation 0.15 and test 0.9 leave nothing to train on"),
    ],
)
def test_keys_of_a_training_that_are_wrong_are_named_with_the_nearest(site: Site, lines: str, said: str) -> None:
    path = site.folder / "training.yaml"
    path.write_text(f"profile: tiny.yaml\noutput: model\n{lines}\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        load_train_config(path)
    assert said in str(refused.value)


def test_labels_of_other_types_are_checked_against_their_own_faults(site: Site) -> None:
    fans = """
  - name: fan
    match: "fan-*"
    frame_period: 10s
    texts: false
    faults: [normal, stall]
    variables: [{name: speed}]
"""
    (site.folder / "tiny.yaml").write_text(PLANT + fans, encoding="utf-8")
    site.record(8, 80, [(20, 30, "leak"), (50, 60, "jam")])
    data = site.folder / "data.parquet"
    body = json.dumps({"machine": "fan-1", "start": START_MS, "fault": "stall", "end": START_MS + 1}).encode()
    label = Record("labels", 0, 10_000, START_MS + 80 * PERIOD_MS, b"fan-1", body)
    records = [*read_recording(data), label]
    with new_recording(site.folder / "more.parquet") as writer:
        writer.write(records)
    chosen = {"machine_type": "pump", "recordings": [site.folder / "more.parquet"]}
    assert str(site.prepared(**chosen).counts["test"]) == str(site.prepared(machine_type="pump").counts["test"])
    with new_recording(site.folder / "wrong.parquet") as writer:
        writer.write([*records[:-1], label._replace(value=body.replace(b"stall", b"leak"))])
    with pytest.raises(DataError, match="machine type fan has no fault 'leak'; there are normal, stall"):
        site.prepared(machine_type="pump", recordings=[site.folder / "wrong.parquet"])
