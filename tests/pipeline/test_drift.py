"""Drift: slow change against a machine's reference is reported when it starts and when it ends, and faults are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.reports.drift import Drift, DriftChange
from pipeline.engine.reports.drift_rule import DriftRule
from pipeline.frames import Frames, StepResult
from pipeline.wire.messages import ModelRef
from tests.support.builders import event, kind
from tests.support.drifting import (
    PERIOD_MS,
    RULE,
    T0,
    WINDOW,
    ObedientRunner,
    changes,
    engine,
    readings,
    reports,
    wobble,
)


def window_of(frame: int) -> int:
    return frame // WINDOW


def at(frame: int, *levels: float) -> float:
    """The level of a frame's window; the last one stays."""
    return levels[min(window_of(frame), len(levels) - 1)]


def test_a_level_that_moves_is_reported_when_its_excess_adds_up_and_when_it_is_back() -> None:
    levels = [0, 0, 0, 0, 0.4, 0.5, 0.6, 0.3, 0.2, 0]
    sent = readings(lambda n: [wobble(n, at(n, *levels)), wobble(n)], range(WINDOW * len(levels)))
    outputs = engine().process(sent)
    assert changes(outputs) == [(7, "level", "flow", "started", "up"), (9, "level", "flow", "ended", "up")]
    started, ended = reports(outputs)
    assert started.since == ended.since == T0 - T0 % PERIOD_MS + 4 * WINDOW * PERIOD_MS, (
        "there it was beyond the tolerance first"
    )
    assert (started.size, started.value, started.reference, started.tolerance) == (0.6, 0.6, 0.0, 0.25)
    assert ended.size == 0.2
    assert started.id == f"p1:{started.time}:{'5' * 12}:level:flow:started"
    assert started.model.hash == "5" * 64


def test_a_level_that_turns_ends_in_one_direction_and_starts_in_the_other() -> None:
    levels = [0, 0, 0, 1, -1]
    sent = readings(lambda n: [wobble(n), wobble(n, at(n, *levels))], range(WINDOW * len(levels) + 2))
    assert changes(engine().process(sent)) == [
        (4, "level", "load", "started", "up"),
        (5, "level", "load", "ended", "up"),
        (5, "level", "load", "started", "down"),
    ]


def test_spread_and_missing_share_are_reported_too_and_the_largest_comes_first() -> None:
    def values(n: int) -> dict[str, float | None]:
        changed = window_of(n) >= 4
        return {"flow": wobble(n, spread=3.0 if changed else 1.0), "load": None if changed and n % 8 < 2 else wobble(n)}

    assert changes(engine().process(readings(values, range(WINDOW * 5 + 2)))) == [
        (5, "spread", "flow", "started", "up"),
        (5, "missing", "load", "started", "up"),
    ]


def test_what_moved_between_the_first_windows_may_move_later() -> None:
    restless = [-0.5, 0.5, 0, 1.0, -1.0, 1.9]
    sent = readings(lambda n: [wobble(n, at(n, *restless)), wobble(n)], range(WINDOW * len(restless) + 2))
    assert changes(engine().process(sent)) == []
    calm = readings(lambda n: [wobble(n), wobble(n, max(0, at(n, *restless) - 1))], range(WINDOW * 6 + 2))
    assert changes(engine().process(calm)) == [(6, "level", "load", "started", "up")]


def test_frames_of_a_fault_are_no_drift_and_teach_nothing() -> None:
    runner = ObedientRunner(lambda value: 1 if value > 5 else 0)
    levels = [0, 9, 9, 0, 0, 9, 9, 9, 0]
    sent = readings(lambda n: [wobble(n, at(n, *levels)), wobble(n, at(n, *levels))], range(WINDOW * 9 + 2))
    assert changes(engine(runner).process(sent)) == []


def test_a_silent_machine_misses_nothing() -> None:
    def values(n: int) -> list[float | None] | None:
        return None if window_of(n) == 4 and n % 3 else [wobble(n), wobble(n)]

    assert changes(engine().process(readings(values, range(WINDOW * 6 + 2)))) == []


def test_confidence_is_a_drift_of_the_machine() -> None:
    runner = ObedientRunner()
    unsure = engine(runner)
    assert changes(unsure.process(readings(lambda n: [wobble(n), wobble(n)], range(WINDOW * 4 + 2)))) == []
    runner.confidence = 0.6
    outputs = unsure.process(readings(lambda n: [wobble(n), wobble(n)], range(WINDOW * 4 + 2, WINDOW * 6 + 2)))
    assert changes(outputs) == [(5, "confidence", None, "started", "down")]
    assert reports(outputs)[0].size == -12, "of a tolerance of 0.025"


def test_disagreement_is_a_drift_of_the_machine() -> None:
    runner = ObedientRunner()
    disputed = engine(runner)
    sent = readings(lambda n: [wobble(n), wobble(n)], range(WINDOW * 6 + 2))
    texts = [event("p1", T0 + n * PERIOD_MS, "hum", offset=n, id=f"e{n}") for n in range(0, WINDOW * 6, 4)]
    both = sorted((*sent, *texts), key=lambda record: record.timestamp_ms)
    calm = [record for record in both if record.timestamp_ms < T0 + WINDOW * 4 * PERIOD_MS]
    assert changes(disputed.process(calm)) == []
    runner.second = 0.0
    assert (5, "disagreement", None, "started", "up") in changes(disputed.process(both[len(calm) :]))


def test_without_a_rule_nothing_is_reported_or_saved() -> None:
    sent = readings(lambda n: [wobble(n, window_of(n)), wobble(n)], range(WINDOW * 8))
    silent = engine(rule=None)
    assert changes(silent.process(sent)) == []
    assert silent.models["pump"].drift is None


def test_against_the_training_a_level_is_drift_though_the_machine_was_always_like_that() -> None:
    rule = DriftRule(RULE.window_ms, RULE.reference_windows, reference="training")
    sent = readings(lambda n: [wobble(n, 0.8), wobble(n)], range(WINDOW * 5 + 2))
    assert changes(engine(rule=rule).process(sent)) == [(4, "level", "flow", "started", "up")]
    assert changes(engine().process(sent)) == []


def test_a_machine_that_was_forgotten_learns_its_reference_again() -> None:
    one = engine()
    one.process(readings(lambda n: [wobble(n), wobble(n)], range(WINDOW * 4)))
    one.forget("p1")
    outputs = one.process(readings(lambda n: [wobble(n, 2.0), wobble(n)], range(WINDOW * 4, WINDOW * 9)))
    assert changes(outputs) == []


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, WINDOW * 9), chunk=st.integers(1, 200))
def test_reports_do_not_depend_on_restarts_company_or_chunks(seed: int, cut: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    levels, scores = np.cumsum(rng.normal(0, 0.5, 10)), rng.normal(size=(WINDOW * 10, 2))
    scores[:, 0] += np.repeat(levels, WINDOW)
    sent = readings(lambda n: scores[n].tolist(), range(WINDOW * 10))
    whole = engine().process(sent)
    expected = [out.value for out in whole if out.topic == "drift"]
    first, second = engine(), engine()
    others = readings(lambda n: [9.0, None], range(WINDOW * 10), machine="p2")
    outputs = []
    for begin in range(0, cut, chunk):
        outputs += first.process(sent[begin : min(begin + chunk, cut)])
    for name, state in first.checkpoint().items():
        assert state is not None
        second.restore(name, state)
    mixed = sorted((*sent[cut:], *others[cut:]), key=lambda record: record.timestamp_ms)
    outputs += second.process(mixed)
    assert [out.value for out in outputs if out.topic == "drift" and out.key == b"p1"] == expected


@pytest.mark.parametrize("rule", [None, DriftRule(RULE.window_ms * 2, RULE.reference_windows)])
def test_a_state_of_other_windows_is_restored_and_learns_again(rule: DriftRule | None) -> None:
    first, second = engine(), engine(rule=rule)
    outputs = first.process(readings(lambda n: [wobble(n, max(0, window_of(n) - 3)), wobble(n)], range(WINDOW * 5 - 9)))
    assert changes(outputs) == []
    for name, state in first.checkpoint().items():
        assert state is not None
        second.restore(name, state)
    assert changes(second.process(readings(lambda n: [9.0, wobble(n)], range(WINDOW * 5, WINDOW * 7)))) == []


def test_the_drift_of_a_machine_is_counted_by_kind() -> None:
    one = engine()
    levels = [0, 0, 0, 1, 1]
    outputs = one.process(readings(lambda n: [wobble(n, at(n, *levels)), wobble(n)], range(WINDOW * 5 + 2)))
    drift, slots = one.models["pump"].drift, one.slots("pump")
    assert drift is not None
    assert +drift.machines_drifting(slots) == {"level": 1}
    assert drift.machines_learning(slots) == 0
    assert one.stats.drift == {("pump", "level", "started"): len(reports(outputs))} == {("pump", "level", "started"): 1}


def drift_of_unknown_frames(first: int, every: int, score: float) -> tuple[list[str], list[DriftChange]]:
    """What changes where from a frame on every n-th answer is `unknown`, and the first variable has this score."""
    machine_type = kind()
    classes = (*machine_type.faults, "unknown")
    drift = Drift(RULE, machine_type, classes, ModelRef("m", "0" * 64), lambda _: None)
    drift.reserve(1)
    found = []
    for frame in range(WINDOW * 5):
        unknown = frame >= first and frame % every == 0
        frames = Frames(
            slots=np.zeros(1, np.int64),
            start_ms=np.array([T0 + frame * PERIOD_MS]),
            period_ms=PERIOD_MS,
            values=np.zeros((1, 2), np.float32),
            observed=np.ones((1, 2), bool),
            age_ms=np.zeros((1, 2), np.int64),
            reset=np.zeros(1, bool),
            reset_reason=np.zeros(1, np.int64),
            revision=np.zeros(1, np.int64),
        )
        empty = np.zeros((1, 1, len(classes)), np.float32)
        scaled = np.array([[score if unknown else 0.0, 0.0]], np.float32)
        result = StepResult(empty[0], empty, np.ones((1, 1), np.float32), np.ones((1, 1), bool), scaled)
        answer = np.array([len(classes) - 1 if unknown else 0])
        found += drift.step(frames, result, answer, np.ones(1, np.float32), np.zeros(1))
    return [drift.kind_of(change) for change in found], found


def test_the_share_of_unknown_answers_is_a_drift_of_the_machine() -> None:
    kinds, found = drift_of_unknown_frames(WINDOW * 4, 4, 0.0)
    assert kinds == ["unknown"]
    assert found[0].started and found[0].value == 0.25 and found[0].reference == 0


def test_a_level_that_a_detector_calls_unknown_drifts_too() -> None:
    kinds, found = drift_of_unknown_frames(WINDOW * 4, 1, 2.0)
    assert sorted(kinds) == ["level", "unknown"]
    (level,) = [change for change, of in zip(found, kinds, strict=True) if of == "level"]
    assert level.started and level.statistic == 0 and level.value == 2.0
