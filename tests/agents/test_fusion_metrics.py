"""Fusion metrics against what one gets by counting the published diagnoses one by one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, adjusted_rand_score

from agents.worker.fusion_metrics import FusionMetrics
from pipeline.config.classes import NO_EVIDENCE
from pipeline.engine.engine import Engine
from pipeline.frames import Frames, StepResult
from pipeline.wire.records import Output, Record
from tests.support.builders import SumRunner, control, diagnoses, event, numbered, profile, reading
from tests.support.plant import Plant

T0 = 1_763_600_000_000
S = 1_000
INTERVAL = 100 * S


def label(machine: str, start_s: int, end_s: int, fault: str, written_s: int) -> Record:
    value = {"machine": machine, "start": T0 + start_s * S, "end": T0 + end_s * S, "fault": fault}
    return Record("labels", 0, 0, T0 + written_s * S, machine.encode(), json.dumps(value).encode())


def records() -> list[Record]:
    rng = np.random.default_rng(8)
    found = []
    for machine in ("a", "b", "c"):
        for second in range(0, 700, 5):
            if machine == "b" and 200 <= second < 290:
                continue  # silent: announced, and then it comes back
            values = rng.normal(size=2).round(2).tolist()
            found.append(reading(machine, T0 + second * S, values))
            if second % 70 == 0:
                found.append(event(machine, T0 + second * S, "x" * int(rng.integers(1, 9))))
    found += [control("tick", time_ms=T0 + second * S) for second in range(40, 700, 40)]
    found.sort(key=lambda record: record.timestamp_ms or json.loads(record.value or b"")["time"])
    return numbered(found)


LABELS = [
    label("a", 50, 250, "leak", 60),
    label("a", 100, 140, "jam", 120),
    label("b", 150, 400, "jam", 160),
    label("c", 30, 90, "leak", 650),  # written too late for its interval
]


def run(
    chunk: int, metrics: FusionMetrics, runner: SumRunner | None = None
) -> tuple[list[dict[str, Any]], list[Output]]:
    engine = Engine(profile(), {"pump": runner or SumRunner()}, watcher=metrics)
    told: list[Output] = []
    outputs: list[Output] = []
    stream = records()
    labels = list(LABELS)
    for begin in range(0, len(stream), chunk):
        part = stream[begin : begin + chunk]
        newest = max(json.loads(record.value or b"")["time"] for record in part)
        due = [one for one in labels if one.timestamp_ms <= newest]
        labels = labels[len(due) :]
        assert engine.process(due) == []
        outputs += engine.process(part)
        told += metrics.tell()
    return [json.loads(output.value or b"") for output in told], outputs


def test_intervals_say_what_their_diagnoses_say() -> None:
    told, outputs = run(64, FusionMetrics(INTERVAL))
    assert len(told) >= 4
    newest = {one.id.rsplit(":", 1)[0]: one for one in diagnoses(outputs)}  # the last revision stands
    everything = diagnoses(outputs)
    assert any(one.revision for one in everything) and any(one.status == "stale" for one in everything)
    for metric in told:
        begin, end = metric["interval_start"], metric["interval_end"]
        mine = [one for one in everything if begin <= one.frame_start < end]
        known = [one for one in mine if one.fault != NO_EVIDENCE]
        assert metric["diagnoses"] == len(mine)
        assert metric["no_evidence"] == len(mine) - len(known)
        for name in ("confidence", "entropy", "disagreement"):
            assert metric[f"{name}_mean"] == pytest.approx(np.mean([getattr(one, name) for one in known]), abs=1e-6)
        for modality in ("sensors", "text"):
            weights = [one.modalities[modality].weight for one in known]
            assert metric["weights_mean"][modality] == pytest.approx(np.mean(weights), abs=1e-6)
        compared = [one for one in newest.values() if begin <= one.frame_start < end]
        truth = [true(one.machine, one.frame_start, end + INTERVAL) for one in compared]
        said = [one.fault for one in compared]
        assert metric["labelled"] == len(compared)
        assert metric["accuracy"] == pytest.approx(accuracy_score(truth, said), abs=1e-6)
        assert metric["ari"] == pytest.approx(adjusted_rand_score(truth, said), abs=1e-6)


class Naming(SumRunner):
    """Names a class as a candidate if it has at least a third of the probability."""

    classes = ("normal", "leak", "jam", "recovering")  # type: ignore[assignment]

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        # `recovering` takes the place of the normal state in every other frame.
        moved = (frames.start_ms // (10 * S)) % 2 == 1
        for name in ("probabilities", "modality_probabilities"):
            p = getattr(result, name)
            p = np.concatenate([p, np.zeros_like(p[..., :1])], axis=-1)
            p[..., moved, 3], p[..., moved, 0] = p[..., moved, 0], 0
            setattr(result, name, p)
        result.candidates = (result.probabilities >= 1 / 3) & np.atleast_2d(result.present.any(axis=0)).T
        return result


def test_candidates_are_compared_with_labels() -> None:
    told, outputs = run(64, FusionMetrics(INTERVAL), Naming())
    newest = {one.id.rsplit(":", 1)[0]: one for one in diagnoses(outputs)}
    for metric in told:
        begin, end = metric["interval_start"], metric["interval_end"]
        mine = [one for one in diagnoses(outputs) if begin <= one.frame_start < end and one.fault != NO_EVIDENCE]
        assert metric["candidates_mean"] == pytest.approx(np.mean([len(one.candidates) for one in mine]), abs=1e-6)
        named = [one for one in newest.values() if begin <= one.frame_start < end and one.candidates]
        covered = [
            true(one.machine, one.frame_start, end + INTERVAL)
            in {"normal" if name == "recovering" else name for name in one.candidates}
            for one in named
        ]
        assert 0 < np.mean(covered) < 1
        assert metric["candidates_coverage"] == pytest.approx(np.mean(covered), abs=1e-6)


def test_models_without_candidates_tell_nothing_of_them() -> None:
    told, _ = run(64, FusionMetrics(INTERVAL))
    assert not any(name.startswith("candidates") for metric in told for name in metric)


def true(machine: str, time_ms: int, known_by_ms: int) -> str:
    """The fault by the labels; written out by hand, so that the label book is tested too."""
    second = (time_ms - T0) // S
    if machine == "a" and 100 <= second < 140:
        return "jam"
    if machine == "a" and 50 <= second < 250:
        return "leak"
    if machine == "b" and 150 <= second < 400:
        return "jam"
    if machine == "c" and 30 <= second < 90 and known_by_ms > T0 + 650 * S:
        return "leak"
    return "normal"


def test_chunks_change_nothing() -> None:
    expected, _ = run(64, FusionMetrics(INTERVAL))
    for chunk in (7, 1000):
        found, _ = run(chunk, FusionMetrics(INTERVAL))
        assert found == expected


def test_frames_that_are_diagnosed_again_count_once() -> None:
    metrics = FusionMetrics(10_000 * S)
    for _ in range(2):  # as after a rebalance, when the input is read again
        run(64, metrics)
    twice = next(iter(metrics._open.values()))
    once = FusionMetrics(10_000 * S)
    run(64, once)
    assert twice.diagnoses - next(iter(once._open.values())).diagnoses == sum(
        one.revision > 0 for one in diagnoses(run(64, FusionMetrics(INTERVAL))[1])
    )


def test_what_is_no_label_is_a_dead_letter_and_partitions_go() -> None:
    metrics = FusionMetrics(INTERVAL)
    engine = Engine(profile(), {"pump": SumRunner()}, watcher=metrics)
    (letter,) = engine.process([Record("labels", 0, 3, T0, b"a", b"what")])
    assert dict(letter.headers)["faultline-reason"] == b"not_json"
    assert engine.stats.dead_letters == {"not_json": 1}
    run(64, metrics)
    metrics.release([0])
    assert metrics.tell() == []


def test_a_worker_counts_rejected_labels_among_its_dead_letters() -> None:
    async def test() -> None:
        plant = Plant()
        plant.append([LABELS[0], Record("labels", 0, 0, T0, b"a", b"what"), LABELS[1]._replace(key=b"other")])
        worker = await plant.work()
        letters = [dict(record.headers)["faultline-reason"] for record in plant.log("dead-letter")]
        assert sorted(letters) == [b"key_mismatch", b"not_json"]
        for reason in ("not_json", "key_mismatch"):
            assert worker.registry.get_sample_value("faultline_dead_letters_total", {"reason": reason}) == 1
        assert len(worker._metrics._labels) == 1

    asyncio.run(test())
