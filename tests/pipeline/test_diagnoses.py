"""What a published diagnosis says, and that its bytes are the same whichever way it is written."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.classes import NO_EVIDENCE
from pipeline.engine.diagnoses import DiagnosisWriter, RememberedText
from pipeline.engine.engine import Engine
from pipeline.frames import Frames, Resets, StepResult
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, decode_diagnosis, encode, quoted
from pipeline.wire.records import Output
from tests.support.builders import SumRunner, diagnoses, kind, numbered, profile, reading
from tests.support.probabilities import probability_difference

T0 = 1_763_600_000_000
PLANT = """
plant: small
machine_types:
  - name: pump
    frame_period: 10s
    text_ttl_frames: 6
    components: {body: {}, pipe: {}, "valve.1": {}, spare: {}}
    faults:
      - normal
      - {name: leak, component: pipe}
      - {name: valve_B-stuck, components: {pipe: 1, body: 3}}
      - {name: jam, component: valve.1}
    variables: [{name: flow}, {name: p.1}, {name: x}, {name: load}, {name: heat}]
"""
KIND = kind(PLANT)
CLASSES, VARIABLES = len(KIND.faults), len(KIND.variables)
ROUNDINGS = {"p": Decimal("0.00001"), "d": Decimal("0.01"), "m": Decimal("0.001")}


class Attentive(SumRunner):
    """SumRunner with cross-modal attention, another for every row."""

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        share = (frames.slots / 10).astype(np.float32)
        result.attention = np.stack([np.stack([1 - share, share], 1), np.stack([share, 1 - share], 1)], 1)
        return result


def test_attention_is_written_where_the_model_has_it() -> None:
    records = numbered(
        reading(f"p{machine}", T0 + second * 1000, [0.5, 1.5]) for second in range(0, 60, 10) for machine in range(3)
    )
    plain = Engine(profile(), {"pump": SumRunner()}).process(records)
    attentive = Engine(profile(), {"pump": Attentive()}).process(records)
    assert all("attention" not in json.loads(output.value or b"") for output in plain)
    found = diagnoses(attentive)
    assert len(found) == len(diagnoses(plain)) > 9
    for one in found:
        share = int(one.machine[1:]) / 10
        assert one.attention is not None
        np.testing.assert_allclose(one.attention, [[1 - share, share], [share, 1 - share]], atol=1e-5)


def model(modalities: tuple[str, ...]) -> SumRunner:
    runner = SumRunner()
    given = {"name": 'über "7"', "hash": "c0ffee" * 10, "classes": KIND.faults, "modalities": modalities}
    for name, value in given.items():
        setattr(runner, name, value)
    return runner


def machine(name: str, texts: list[RememberedText]) -> Any:
    return SimpleNamespace(
        name=name, key=name.encode(), quoted=quoted(name), partition=0, texts=deque(texts, maxlen=8), line=None
    )


def write(
    frames: Frames, result: StepResult, modalities: tuple[str, ...], machines: list[Any]
) -> tuple[list[Output], list[Diagnosis], Any]:
    outputs: list[Output] = []
    counts: Counter[str] = Counter()
    writer = DiagnosisWriter(KIND, model(modalities), print)
    answers = writer.write(frames, result, machines, outputs, counts)
    decoded = [decode_diagnosis(output.value or b"") for output in outputs]
    assert counts == Counter(one.fault for one in decoded)
    return outputs, decoded, answers


# Shares of all sizes: those around the least that is written, ties of the last decimal, and none.
SHARES = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from(
        [0.0, 1.0, 0.5, 0.0005, 0.000495, 0.0004949, 2**-15, 2**-6, 1e-30, 0.1, 0.00001, 0.99999, 0.999996]
    ),
    st.integers(0, 200_000).map(lambda n: n / 200_000),
)
READINGS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-1e5, 1e5, width=32),
    st.integers(-(10**9), 10**9).map(lambda n: n / 128),
    st.sampled_from(
        [0.0, -0.0, 9.9999995, 9999999.5, 1e-5, 9.9999e-6, 1e15, 1e16, 99999.995, 16777215.0, 0.1, 1e7, -1.5]
    ),
    st.just(math.nan),
)
DEVIATIONS = st.one_of(
    st.floats(-4, 4, width=32),
    st.sampled_from([3.0, -3.0, 3.125, -3.375, 2.9999, 1e11, -1e30, 4.005, 12.5]),
    st.just(0.0),
)
MEASURES = st.one_of(
    st.floats(0, 300, width=32),
    st.sampled_from([0.0, 1.0, 0.9995, 0.0004, 0.005, 12.125, 1e7, 1e20, math.nan, math.inf]),
)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
TEXTS = st.lists(st.tuples(NAMES, st.text(max_size=30), st.integers(0, 90_000), st.booleans()), max_size=3)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Frames, StepResult, tuple[str, ...], list[Any]]:
    """A round of a few machines, whose numbers have nothing to do with each other."""
    modalities = draw(st.sampled_from([("sensors",), ("sensors", "text"), ("text", "sensors", "sound")]))
    rows, width = draw(st.integers(1, 4)), len(modalities)

    def table(elements: st.SearchStrategy[Any], *shape: int, kind: Any = np.float32) -> Any:
        count = math.prod(shape)
        return np.array(draw(st.lists(elements, min_size=count, max_size=count)), kind).reshape(shape)

    start_ms = T0 + 10_000 * table(st.integers(0, 1000), rows, kind=np.int64)
    values = table(READINGS, rows, VARIABLES)
    scaled = np.where(np.isnan(values), np.float32(0), table(DEVIATIONS, rows, VARIABLES))
    frames = Frames(
        slots=np.arange(rows),
        start_ms=start_ms,
        period_ms=10_000,
        values=values,
        observed=table(st.booleans(), rows, VARIABLES, kind=np.bool_),
        age_ms=table(st.integers(-1, 50_000), rows, VARIABLES, kind=np.int64),
        reset=np.zeros(rows, np.bool_),
        reset_reason=table(st.integers(0, len(Resets) - 1), rows, kind=np.int64),
        revision=table(st.integers(0, 3), rows, kind=np.int64),
    )
    result = StepResult(
        probabilities=table(SHARES, rows, CLASSES),
        modality_probabilities=table(SHARES, width, rows, CLASSES),
        weights=table(SHARES, width, rows),
        present=table(st.booleans(), width, rows, kind=np.bool_),
        scaled=scaled,
        attention=table(SHARES, rows, width, width) if draw(st.booleans()) else None,
        novelty=table(MEASURES, rows) if draw(st.booleans()) else None,
        deviations=table(st.floats(0, 9, width=32), rows, VARIABLES) if draw(st.booleans()) else None,
        candidates=table(st.booleans(), rows, CLASSES, kind=np.bool_) if draw(st.booleans()) else None,
        remaining=table(MEASURES, rows, 3) if draw(st.booleans()) else None,
    )
    machines = [
        machine(
            draw(NAMES),
            [RememberedText(id_, text, int(start) + 10_000 - age, late) for id_, text, age, late in draw(TEXTS)],
        )
        for start in start_ms.tolist()
    ]
    return frames, result, modalities, machines


def rounded(number: float, step: str) -> float:
    """To decimals, halves away from zero: what the documented form says, computed exactly."""
    return float(Decimal(float(number)).quantize(ROUNDINGS[step], ROUND_HALF_UP))


@settings(max_examples=150, deadline=None)
@given(rounds())
def test_a_written_diagnosis_is_the_message_that_it_decodes_to(
    round_: tuple[Frames, StepResult, tuple[str, ...], list[Any]],
) -> None:
    """The compiled writer and msgspec give equal bytes: the same digits, order, and escapes."""
    outputs, decoded, _ = write(*round_)
    for output, diagnosis, named in zip(outputs, decoded, round_[3], strict=True):
        assert output.value == encode(diagnosis)
        assert (output.key, output.timestamp_ms) == (named.name.encode(), diagnosis.frame_end)


@settings(max_examples=150, deadline=None)
@given(rounds())
def test_a_diagnosis_says_what_the_model_said(
    round_: tuple[Frames, StepResult, tuple[str, ...], list[Any]],
) -> None:
    frames, result, modalities, machines = round_
    _, decoded, answers = write(*round_)
    for row, one in enumerate(decoded):
        present = result.present[:, row]
        p = result.probabilities[row]
        shares = {name: rounded(share, "p") for name, share in zip(KIND.faults, p.tolist(), strict=True)}
        assert one.probabilities == {name: share for name, share in shares.items() if share >= 0.0005}
        best = KIND.faults[int(p.argmax())]
        assert (one.fault, one.confidence) == ((best, shares[best]) if present.any() else (NO_EVIDENCE, 0.0))
        assert answers.faults[row] == (int(p.argmax()) if present.any() else -1)
        assert answers.confidence[row] == np.float32(shares[best])
        assert (answers.entropy[row], answers.disagreement[row]) == (one.entropy, one.disagreement)
        assert one.entropy == pytest.approx(max(entropy(p), 0.0), abs=6e-6)
        assert one.disagreement == pytest.approx(divergence(result.modality_probabilities[:, row][present]), abs=6e-6)
        texts = [t for t in machines[row].texts if one.frame_end - t.time_ms <= 60_000]
        ages = [age for age in frames.age_ms[row].tolist() if age >= 0]
        for index, name in enumerate(modalities):
            own, said = result.modality_probabilities[index, row], one.modalities[name]
            assert said.present is bool(present[index])
            assert said.fault == (KIND.faults[int(own.argmax())] if said.present else NO_EVIDENCE)
            assert said.confidence == (rounded(own.max(), "p") if said.present else 0.0)
            assert said.weight == rounded(result.weights[index, row], "p")
            if name == "text":
                assert said.age_ms == (one.frame_end - max(t.time_ms for t in texts) if texts else None)
            else:
                assert said.age_ms == (min(ages) if said.present and ages else None)
        assert [(t.id, t.text, one.frame_end - t.age_ms, t.late) for t in one.evidence.texts] == [
            (t.id, t.text, t.time_ms, t.late) for t in texts
        ]
        distance = np.abs(result.scaled[row])
        top = [v for v in np.argsort(-distance, kind="stable")[:3].tolist() if distance[v] >= 3]
        assert [v.name for v in one.evidence.variables] == [KIND.variable_names[v] for v in top]
        for v, shown in zip(top, one.evidence.variables, strict=True):
            assert shown.value == float(f"{frames.values[row, v]:.7g}")
            deviation = float(result.scaled[row, v])
            assert shown.deviation == (rounded(deviation, "d") if abs(deviation) < 1e9 else pytest.approx(deviation))
        assert one.status == ("active" if frames.observed[row].any() else "silent")
        reset = Resets(int(frames.reset_reason[row]))
        assert one.reset == (reset.name.lower() if reset else None)
        assert one.id == f"{machines[row].name}:{one.frame_end}:c0ffeec0ffee:{frames.revision[row]}"
        assert (one.frame_start, one.revision) == (frames.start_ms[row], frames.revision[row])
        given_attention = None if result.attention is None else result.attention[row].tolist()
        assert one.attention == (given_attention and [[rounded(x, "p") for x in line] for line in given_attention])
        assert one.novelty == (None if result.novelty is None else measure(result.novelty[row], "m"))
        named = [] if result.candidates is None else np.flatnonzero(result.candidates[row]).tolist()
        assert one.candidates == [KIND.faults[place] for place in named]
        assert one.components is not None
        placed = dict.fromkeys(("body", "pipe", "valve.1"), 0.0)
        for name, share, fault in (("body", 0.75, 2), ("pipe", 1.0, 1), ("pipe", 0.25, 2), ("valve.1", 1.0, 3)):
            placed[name] += share * float(p[fault])
        assert one.components == {
            name: given for name, share in placed.items() if (given := rounded(share, "p")) >= 0.0005
        }
        if result.remaining is None or np.isnan(result.remaining[row]).any():
            assert one.remaining is None
        else:
            assert one.remaining is not None
            life = one.remaining.frames, one.remaining.low, one.remaining.high
            assert life == tuple(measure(x, "d") for x in result.remaining[row])


def test_what_a_model_does_not_have_is_not_in_its_diagnoses() -> None:
    """The bytes are those of a model of before there were such fields."""
    records = numbered(reading("p1", T0 + second * 1000, [0.5, 1.5]) for second in range(0, 60, 10))
    for output in Engine(profile(), {"pump": SumRunner()}).process(records):
        assert list(json.loads(output.value or b""))[-1] == "model"


def measured(values: Any, deviations: Any, answer: int) -> Diagnosis:
    frames = Frames(
        np.arange(1),
        np.array([T0]),
        10_000,
        np.array([values], np.float32),
        np.ones((1, VARIABLES), np.bool_),
        np.zeros((1, VARIABLES), np.int64),
        np.zeros(1, np.bool_),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )
    runner = model(("sensors",))
    runner.classes = (*KIND.faults, "unknown")  # type: ignore[assignment]
    p = np.full((1, CLASSES + 1), 0.1, np.float32)
    p[0, answer] = 0.6
    one = np.ones((1, 1), np.float32)
    result = StepResult(p, p[None], one, one > 0, np.nan_to_num(frames.values))
    result.deviations = np.array([deviations], np.float32)
    outputs: list[Output] = []
    DiagnosisWriter(KIND, runner, print).write(frames, result, [machine("m", [])], outputs, Counter())
    diagnosis = decode_diagnosis(outputs[0].value or b"")
    assert encode(diagnosis) == outputs[0].value
    return diagnosis


def test_an_unknown_fault_is_explained_by_what_deviates_and_a_known_one_by_the_distance() -> None:
    values, deviations = [4.0, -0.5, 5.0, 0.25, math.nan], [0.0, 0.5, 0.1, 2.0, 3.0]
    unknown = measured(values, deviations, CLASSES)
    names = KIND.variable_names
    assert [(v.name, v.value, v.deviation) for v in unknown.evidence.variables] == [
        (names[3], 0.25, 0.25),
        (names[1], -0.5, -0.5),
        (names[2], 5.0, 5.0),
    ]
    known = measured(values, deviations, 1)
    assert [v.name for v in known.evidence.variables] == [names[2], names[0]]
    assert measured(values, [0.0] * VARIABLES, CLASSES).evidence.variables == []


def measure(number: Any, step: str) -> float | None:
    """Novelty and remaining life as they are documented: cut at 1e8."""
    return None if math.isnan(number) else rounded(min(float(number), 1e8), step)


def entropy(p: Any) -> float:
    p = p[p > 0].astype(np.float64)
    return float(-(p * np.log(p)).sum())


def divergence(parts: Any) -> float:
    if len(parts) < 2:
        return 0.0
    whole = parts.astype(np.float64)
    return max(entropy(whole.mean(axis=0)) - float(np.mean([entropy(part) for part in whole])), 0.0)


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(16777216.0)
@example(8388608.5)
@example(1.0000005)
@example(99999995.0)
def test_a_value_has_the_seven_digits_of_a_float32(value: float) -> None:
    value = float(np.float32(value))
    frames = Frames(
        np.arange(1),
        np.array([T0]),
        10_000,
        np.full((1, VARIABLES), value, np.float32),
        np.ones((1, VARIABLES), np.bool_),
        np.zeros((1, VARIABLES), np.int64),
        np.zeros(1, np.bool_),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
    )
    p = np.full((1, CLASSES), 1 / CLASSES, np.float32)
    result = StepResult(p, p[None], np.ones((1, 1), np.float32), np.ones((1, 1), np.bool_), frames.values * 0 + 5)
    outputs, (one,), _ = write(frames, result, ("sensors",), [machine("m", [])])
    assert [shown.value for shown in one.evidence.variables] == [float(f"{value:.7g}")] * 3
    assert outputs[0].value == encode(one)


def test_what_is_not_finite_is_null() -> None:
    """It cannot come from a model whose weights are finite; if it does, it is not hidden."""
    frames = Frames(
        np.arange(2),
        np.array([T0, T0]),
        10_000,
        np.zeros((2, VARIABLES), np.float32),
        np.ones((2, VARIABLES), np.bool_),
        np.zeros((2, VARIABLES), np.int64),
        np.zeros(2, np.bool_),
        np.zeros(2, np.int64),
        np.zeros(2, np.int64),
    )
    p = np.full((2, CLASSES), 0.25, np.float32)
    p[0, 1] = np.nan
    result = StepResult(
        p, p[None], np.ones((1, 2), np.float32), np.ones((1, 2), np.bool_), np.zeros_like(frames.values)
    )
    outputs: list[Output] = []
    machines = [machine("m", []), machine("n", [])]
    DiagnosisWriter(KIND, model(("sensors",)), print).write(frames, result, machines, outputs, Counter())
    first, second = (json.loads(output.value or b"") for output in outputs)
    assert first["probabilities"][KIND.faults[1]] is None
    assert set(second["probabilities"].values()) == {0.25}


def test_what_is_left_out_is_as_good_as_anything_up_to_the_least() -> None:
    assert probability_difference({"a": 0.5}, {"a": 0.50001, "b": 0.0005}) == pytest.approx(1e-5)
    assert probability_difference({"a": 0.5}, {"a": 0.5, "b": 0.0007}) == pytest.approx(2e-4)
    assert probability_difference({}, {}) == 0
    assert messages.MIN_PROBABILITY == 0.0005
