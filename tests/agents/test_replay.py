"""Replay through the real agents on memory://: the same at any speed and chunk size, hostile records and all."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.cli.options import load_runners
from agents.delivery.partitioning import partition_function
from agents.replay.replay import ReplayReport, replay_in_memory
from agents.replay.shipped import demo_recording
from agents.replay.stress import apply_stress, parse_stress
from pipeline.config.profile import load_profile, parse_profile
from pipeline.config.settings import load_settings
from pipeline.frames import Frames, StepResult
from pipeline.wire.messages import decode_diagnosis
from pipeline.wire.recording import RecordingWriter, read_recording
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, event, numbered, reading
from tests.support.commands import assert_one_line, faultline

T0 = 1_763_600_000_000
S = 1_000


def label(machine: str, start_s: int, end_s: int, fault: str) -> Record:
    value = {"machine": machine, "start": T0 + start_s * S, "end": T0 + end_s * S, "fault": fault}
    return Record("labels", 0, 0, T0 + start_s * S, machine.encode(), json.dumps(value).encode())


def plant_records(seconds: int = 600) -> list[Record]:
    rng = np.random.default_rng(3)
    records: list[Record] = []
    for number in range(5):
        machine = f"p{number}"
        for second in range(0, seconds, 5):
            records.append(reading(machine, T0 + second * S, rng.normal(size=2).round(3).tolist()))
        for second in range(7, seconds, 90):
            records.append(event(machine, T0 + second * S, f"note {second}"))
        records.append(label(machine, 100, 200, "leak"))
    return numbered(sorted(records, key=lambda record: record.timestamp_ms))


def write(path: Path, records: list[Record]) -> Path:
    with RecordingWriter(path) as writer:
        writer.write(records)
    return path


def run(  # type: ignore[no-untyped-def]
    path: Path,
    *,
    text: str = ONE_SOURCE,
    speed: float | None = None,
    change: Any = iter,
    trained: Any = None,
    runner: SumRunner | None = None,
    **settings: Any,
):
    outputs: list[Output] = []
    report: ReplayReport = asyncio.run(
        replay_in_memory(
            path,
            load_settings(**settings),
            parse_profile(text, where="test"),
            {"pump": runner or SumRunner()},
            partition_function(settings.get("partitions", 4)),
            speed=speed,
            change=change,
            on_output=outputs.append,
            trained=trained,
        )
    )
    return report, outputs


def said(outputs: list[Output]) -> list[tuple[bytes | None, bytes | None]]:
    return sorted((out.key, out.value) for out in outputs if out.topic == "diagnoses")


@pytest.mark.slow
def test_speed_chunk_size_and_partitions_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", plant_records(200))
    report, outputs = run(path)
    assert report.frames == report.diagnoses == 5 * 20
    assert report.late == report.dead_letters == 0
    for other in ({"chunk_records": 7}, {"partitions": 1}, {"speed": 400.0}):
        _, again = run(path, **other)
        assert said(again) == said(outputs)


@pytest.mark.slow
def test_the_shipped_models_answers_are_the_same_to_the_last_bit_in_any_company() -> None:
    plant = load_profile("tennessee_eastman")
    heard: list[list[tuple[bytes | None, bytes | None]]] = []
    for changes in ({"chunk_records": 4096, "partitions": 4}, {"chunk_records": 300, "partitions": 1}):
        settings = load_settings(**changes)
        outputs: list[Output] = []
        asyncio.run(
            replay_in_memory(
                demo_recording(),
                settings,
                plant,
                load_runners(settings, plant, None),
                partition_function(settings.partitions),
                on_output=outputs.append,
            )
        )
        heard.append(said(outputs))
    assert len(heard[0]) == 12 * 960
    assert heard[0] == heard[1]


def test_scores_come_from_the_labels_with_the_promised_names(tmp_path: Path) -> None:
    report, _ = run(write(tmp_path / "r.parquet", plant_records()))
    assert set(report.as_dict()) == {
        "recording", "model", "machines", "frames", "diagnoses", "late", "dead_letters", "seconds",
        "readings_per_second", "scores", "trained",
    }  # fmt: skip
    assert set(report.scores) == {"fused", "sensors", "text"}
    for found in report.scores.values():
        assert {
            "accuracy", "macro_f1", "detection_rate", "false_alarm_rate", "correct_diagnosis_rate",
            "detection_delay_mean_frames", "detection_delay_median_frames", "return_delay_median_frames", "per_fault",
        } <= set(found)  # fmt: skip
    assert report.scores["fused"]["per_fault"]["leak"]["frames"] == 5 * 10
    unlabelled = [record for record in plant_records(100) if record.topic != "labels"]
    report, _ = run(write(tmp_path / "u.parquet", unlabelled))
    assert report.scores == {"fused": None, "sensors": None, "text": None}


class Naming(SumRunner):
    """Names the classes with at least a third of the probability as candidates."""

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        result.candidates = (result.probabilities >= 1 / 3) & np.atleast_2d(result.present.any(axis=0)).T
        return result


def test_a_replay_says_how_far_answers_and_candidates_can_be_trusted(tmp_path: Path) -> None:
    report, outputs = run(write(tmp_path / "r.parquet", plant_records()), runner=Naming())
    told = [decode_diagnosis(output.value or b"") for output in outputs if output.topic == "diagnoses"]
    told = [one for one in told if one.fault != "no_evidence"]
    truth = ["leak" if T0 + 100 * S <= one.frame_start < T0 + 200 * S else "normal" for one in told]
    confidence = np.array([one.confidence for one in told])
    right = np.array([one.fault == fault for one, fault in zip(told, truth, strict=True)])
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = sum(abs(np.sum((confidence - right)[bins == place])) for place in range(15)) / len(told)
    covered: dict[str, list[tuple[bool, int]]] = {}
    for one, fault in zip(told, truth, strict=True):
        if one.candidates:
            covered.setdefault(one.machine, []).append((fault in one.candidates, len(one.candidates)))
    coverage, size = np.mean([np.mean(frames, axis=0) for frames in covered.values()], axis=0)
    fused = report.scores["fused"]
    assert fused["ece"] == pytest.approx(error, abs=1e-6)
    assert (fused["candidates_coverage"], fused["candidates_size"]) == pytest.approx((coverage, size))
    assert "ece" not in report.scores["sensors"]


def test_announced_frames_after_a_machines_last_reading_are_not_scored(tmp_path: Path) -> None:
    records = [r for r in plant_records() if r.topic == "labels" or r.key != b"p1" or r.timestamp_ms < T0 + 300 * S]
    report, outputs = run(write(tmp_path / "r.parquet", records))
    diagnoses = [json.loads(out.value or b"") for out in outputs if out.topic == "diagnoses" and out.key == b"p1"]
    announced = [found["frame_start"] for found in diagnoses if found["status"] in ("stale", "offline")]
    assert sum(start >= T0 + 300 * S for start in announced) > 5
    # A label that is there long after the data would count as missed.
    records.append(label("p1", 300, 600, "jam"))
    again, _ = run(write(tmp_path / "s.parquet", sorted(records, key=lambda record: record.timestamp_ms)))
    assert again.scores["fused"] == report.scores["fused"]


def test_machines_that_trained_the_model_are_marked(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", plant_records())
    without, _ = run(path)
    assert without.trained is None
    span = (T0, T0 + 290 * S)
    report, _ = run(path, trained={"p1": span, "p3": span, "elsewhere": span})
    assert report.trained is not None
    assert report.trained["machines"] == ["p1", "p3"]
    assert report.trained["frames"] == 2 * 30
    assert report.trained["frames_scored"] == report.frames
    unseen = report.scores.pop("fused, unseen")
    assert report.scores == without.scores
    # In these frames all machines have their fault.
    assert unseen["per_fault"]["leak"]["frames"] == 3 * 10
    everywhere, _ = run(path, trained={f"p{number}": (0, 2**41) for number in range(10)})
    assert everywhere.scores == without.scores


def test_fusion_metrics_are_published_per_interval(tmp_path: Path) -> None:
    _, outputs = run(write(tmp_path / "r.parquet", plant_records()), metrics_interval_ms=100_000)
    metrics = [json.loads(out.value or b"") for out in outputs if out.topic == "metrics"]
    assert metrics
    assert len({metric["id"] for metric in metrics}) == len(metrics)
    labelled = [metric for metric in metrics if metric["labelled"]]
    assert labelled
    for metric in labelled:
        assert 0 <= metric["accuracy"] <= 1
        assert metric["mutual_information"] >= -1e-9
        assert metric["weights_mean"].keys() == {"sensors", "text"}
        assert 0 < metric["confidence_mean"] <= 1


def test_a_thousand_hostile_records_change_no_diagnosis(tmp_path: Path) -> None:
    good = plant_records()
    rng = np.random.default_rng(5)
    stamps = [record.timestamp_ms for record in good]
    hostile = []
    for number in range(1000):
        stamp = stamps[int(rng.integers(len(stamps)))]
        kind = number % 8
        key: bytes | None = b"p1"
        topic, value = "sensors", bytes(rng.integers(0, 256, 40, dtype=np.uint8))
        if kind == 1:
            value = json.dumps({"machine": "p1", "time": stamp, "values": [1.0]}).encode()
        elif kind == 2:
            value = json.dumps({"machine": "p1", "time": stamp, "values": 1.0}).encode()
        elif kind == 3:
            value = json.dumps({"machine": "p1", "time": stamp // 1000, "values": [1.0, 2.0]}).encode()
        elif kind == 4:
            value = json.dumps({"machine": "p1", "time": stamp + 10**9, "values": [1.0, 2.0]}).encode()
        elif kind == 5:
            value = json.dumps({"machine": "p2", "time": stamp, "values": [1.0, 2.0]}).encode()
        elif kind == 6:
            topic, value = "events", json.dumps({"machine": "p1", "time": "noon", "text": "x"}).encode()
        elif kind == 7:
            key = None
        if number == 504:
            stamp = 2**62  # a wild time stamp of the record itself
        hostile.append(Record(topic, 0, 0, stamp, key, value))
    mixed = sorted([*good, *hostile[:504], *hostile[505:]], key=lambda record: record.timestamp_ms)
    mixed.insert(len(mixed) // 2, hostile[504])
    clean, expected = run(write(tmp_path / "clean.parquet", good))
    dirty, outputs = run(write(tmp_path / "dirty.parquet", numbered(mixed)))
    assert said(outputs) == said(expected)
    assert (clean.dead_letters, dirty.dead_letters) == (0, 1000)
    letters = [dict(out.headers) for out in outputs if out.topic == "dead-letter"]
    assert len(letters) == 1000
    found = Counter(letter["faultline-reason"].decode() for letter in letters)
    assert set(found) >= {
        "not_json", "wrong_length", "schema", "future_time", "key_mismatch", "bad_time"
    }  # fmt: skip


@pytest.mark.slow
def test_stress_is_seeded_and_does_what_it_says(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", plant_records())

    def change(text: str, seed: int = 1) -> Any:
        return lambda records: apply_stress(records, parse_stress(text), np.random.default_rng(seed))

    _, once = run(path, change=change("drop=0.5,shuffle=4s,duplicate=0.2"))
    _, twice = run(path, change=change("drop=0.5,shuffle=4s,duplicate=0.2"))
    assert said(once) == said(twice)
    late, _ = run(path, change=change("late=0.2:1m"))
    assert late.late > 0
    shuffled, outputs = run(path, change=change("shuffle=4s"))
    assert shuffled.late == 0
    plain, expected = run(path)
    assert [json.loads(v or b"")["probabilities"] for _, v in said(outputs)] == [
        json.loads(v or b"")["probabilities"] for _, v in said(expected)
    ]
    silent, outputs = run(path, change=change("silence=p1:3m"))
    assert any(json.loads(v or b"")["status"] == "offline" for _, v in said(outputs))
    wordless = list(apply_stress(read_recording(path), parse_stress("no-text"), np.random.default_rng(0)))
    assert not [record for record in wordless if record.topic == "events"]
    skewed, _ = run(path, change=change("skew=p2:+2m"))
    assert skewed.dead_letters == 120  # two minutes ahead is beyond this profile's limit of one


# -- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_beats_each_modality_alone() -> None:
    done = faultline("demo", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["machines"], report["frames"], report["diagnoses"]) == (12, 12 * 960, 12 * 960)
    scores = report["scores"]
    for alone in ("sensors", "text"):
        for measure in ("accuracy", "macro_f1"):
            assert scores["fused"][measure] > scores[alone][measure]


@pytest.mark.slow
def test_what_a_user_can_get_wrong_is_one_line(tmp_path: Path) -> None:
    assert_one_line(faultline("replay", tmp_path / "nowhere.parquet"), "does not exist")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    assert_one_line(faultline("replay", tmp_path / "broken.parquet"), "broken.parquet")
    (tmp_path / "m.faultline").write_bytes(b"not a model")
    assert_one_line(faultline("replay", demo_recording(), "--model", tmp_path / "m.faultline"), "m.faultline")
    assert_one_line(faultline("replay", demo_recording(), "--profile", "skab"), "does not fit")
    assert_one_line(faultline("replay", demo_recording(), "--speed", "fast"), "--speed")
    assert_one_line(faultline("replay", demo_recording(), "--to", "kafka://127.0.0.1:1"), "127.0.0.1:1")
    assert_one_line(faultline("settings", env={"FAULTLINE_PARTITIONS": "none"}), "FAULTLINE_PARTITIONS")
    foreign = write(tmp_path / "foreign.parquet", [Record("readings", 0, 0, 5, b"p", b"{}")])
    assert_one_line(faultline("replay", foreign), "'readings'")


@pytest.mark.kafka
def test_a_busy_port_is_one_line(kafka: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"FAULTLINE_BROKER": f"kafka://{kafka}", "FAULTLINE_TOPIC_PREFIX": "busy."}
        assert faultline("topics", "create", env=env).returncode == 0
        assert_one_line(faultline("run", "--web-port", port, env=env), port)
