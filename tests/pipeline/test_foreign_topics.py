"""Foreign topics through the engine: diagnoses as of Faultline's own records, and what is wrong is counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from pipeline.engine.engine import Engine
from pipeline.engine.stats import Stats
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, diagnoses, numbered, profile, reading, reasons

T0 = 1_763_600_000_000
STEP_MS = 2_000
ROWS = [{"flow": float(number), "load": 10.5 - number} for number in range(40)]


def plant(form: str, events: str = "") -> str:
    """The plant of one source, in a topic that is not ours."""
    source = f"sensors: {{topic: works.line1, form: {form}, allowed_disorder: 5s, idle_after: 30s}}"
    text = ONE_SOURCE.replace("sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 30s}", source)
    return text.replace("{name: flow}", "{name: flow, tag: Pump.Flow}") + events


class Run(NamedTuple):
    """What an engine made of some records."""

    outputs: list[Output]
    stats: Stats
    answers: list[Any]


def run(yaml: str, batches: Iterable[list[Record]]) -> Run:
    engine = Engine(profile(yaml), {"pump": SumRunner()})
    outputs = [output for batch in batches for output in engine.process(batch)]
    outputs += engine.finish()
    answers = [(one.id, one.fault, one.probabilities, one.evidence) for one in diagnoses(outputs)]
    return Run(outputs, engine.stats, answers)


def own() -> list[Any]:
    """The same readings as Faultline's own records."""
    records = [reading("te-01", T0 + STEP_MS * number, {**row}) for number, row in enumerate(ROWS)]
    return run(ONE_SOURCE, [numbered(records)]).answers


def foreign(body: Any, time_ms: int, *, topic: str = "/works.line1") -> Record:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Record(topic, 0, 0, time_ms, b"te-01", value)


def tagged(row: dict[str, float]) -> dict[str, float]:
    return {"Pump.Flow": row["flow"], "load": row["load"]}


def one(number: int) -> dict[str, Any]:
    return {"device": "te-01", "ts": T0 + STEP_MS * number, "tags": tagged(ROWS[number])}


WRAPPINGS: list[tuple[str, Callable[[Any], Any]]] = [
    ("{machine: device, time: ts, values: tags}", lambda body: body),
    (
        "{machine: device, time: ts, values: tags, compression: gzip}",
        lambda body: gzip.compress(json.dumps(body).encode()),
    ),
    ("{machine: device, time: ts, values: tags, envelope: connect}", lambda body: {"schema": None, "payload": body}),
    (
        "{machine: device, time: ts, values: tags, registry: true}",
        lambda body: b"\x00\x00\x00\x00\x07" + json.dumps(body).encode(),
    ),
    ("{machine: device, time: {path: ts, unit: s}, values: tags}", lambda body: body | {"ts": body["ts"] // 1000}),
    (
        "{machine: device, time: ts, values: tags, value: v, quality: {path: q, good: opc_da}}",
        lambda body: body | {"tags": {name: {"v": str(value), "q": 216} for name, value in body["tags"].items()}},
    ),
    ("{machine: device, time: ts, values: '@'}", lambda body: body["tags"] | {"device": "te-01", "ts": body["ts"]}),
    (
        "{machine: device, time: ts, values: tags}",
        lambda body: body | {"tags": list(body["tags"].values())},
    ),
]


@pytest.mark.parametrize("at_once", [1, 7, 40])
@pytest.mark.parametrize(("form", "wrapped"), WRAPPINGS)
def test_diagnoses_are_those_of_our_own_records(form: str, wrapped: Callable[[Any], Any], at_once: int) -> None:
    """Cases 6 and 17."""
    records = numbered(foreign(wrapped(one(number)), T0 + STEP_MS * number) for number in range(len(ROWS)))
    batches = [records[begin : begin + at_once] for begin in range(0, len(records), at_once)]
    found = run(plant(form), batches)
    assert found.answers == own()
    assert reasons(found.outputs) == []
    assert not found.stats.values_unused


@pytest.mark.parametrize("at_once", [1, 9, 40])
def test_arrays_of_readings(at_once: int) -> None:
    """Case 17."""
    chunks = [[one(number) for number in range(begin, begin + 4)] for begin in range(0, len(ROWS), 4)]
    records = numbered(foreign(chunk, chunk[-1]["ts"]) for chunk in chunks)
    batches = [records[begin : begin + at_once] for begin in range(0, len(records), at_once)]
    found = run(plant("{each: '@', machine: device, time: ts, values: tags}"), batches)
    assert found.answers == own()
    assert reasons(found.outputs) == []


TAG_FORM = "{machine: device, name: tag, value: v, time: ts, quality: {path: q, good: [192]}}"


def tag_records(quality: Callable[[int, str], int]) -> list[Record]:
    """One value a record, as case 16 has them."""
    records = []
    for number, row in enumerate(ROWS):
        for name, value in tagged(row).items():
            body = {"device": "te-01", "tag": name, "v": value, "q": quality(number, name), "ts": T0 + STEP_MS * number}
            records.append(foreign(body, T0 + STEP_MS * number))
    return numbered(records)


@pytest.mark.parametrize("at_once", [1, 9, 80])
def test_one_tag_a_record(at_once: int) -> None:
    """Case 16."""
    records = tag_records(lambda number, name: 192)
    batches = [records[begin : begin + at_once] for begin in range(0, len(records), at_once)]
    found = run(plant(TAG_FORM), batches)
    assert found.answers == own()
    assert reasons(found.outputs) == []


def test_values_of_bad_quality_are_counted_and_cost_only_themselves() -> None:
    """Cases 10 and 16."""
    found = run(plant(TAG_FORM), [tag_records(lambda number, name: 24 if name == "load" else 192)])
    assert len(found.answers) == len(own())
    assert reasons(found.outputs) == []
    assert found.stats.values_unused == {("load", "bad_quality"): len(ROWS)}


@pytest.mark.parametrize("at_once", [1, 40])
def test_bad_values_and_new_tags_are_counted(at_once: int) -> None:
    """Cases 10 and 11, in a foreign form."""
    records = []
    for number in range(len(ROWS)):
        body = one(number)
        body["tags"] |= {"load": [float("nan"), "Bad", None, True][number % 4], "rssi": -61}
        records.append(foreign(body, T0 + STEP_MS * number))
    records = numbered(records)
    batches = [records[begin : begin + at_once] for begin in range(0, len(records), at_once)]
    found = run(plant("{machine: device, time: ts, values: tags}"), batches)
    assert len(found.answers) == len(own())
    assert reasons(found.outputs) == []
    assert found.stats.values_unused == {
        ("load", "not_finite"): 10,
        ("load", "not_a_number"): 10,
        ("", "unknown_variable"): 40,
    }
    assert found.stats.unknown_names == {"rssi": 40}


@pytest.mark.parametrize("at_once", [1, 40])
def test_what_is_not_declared_is_a_letter_that_says_what_it_looks_like(at_once: int) -> None:
    """Cases 6 and 17."""
    spoiled: list[tuple[Any, str, str]] = [
        (one(0) | {"ts": T0 // 1000}, "bad_time", "looks like seconds since 1970: 2025-11-20T00:53:20Z"),
        ([one(0)], "schema", "declare each: '@'"),
        ({"schema": None, "payload": one(0)}, "schema", "declare envelope: connect"),
        (gzip.compress(json.dumps(one(0)).encode(), mtime=0), "not_json", "declare compression: gzip"),
        (b"\x00\x00\x00\x00\x07" + json.dumps(one(0)).encode(), "not_json", "declare registry: true"),
    ]
    good = [foreign(one(number), T0 + STEP_MS * number) for number in range(len(ROWS))]
    for at, (body, _, _) in enumerate(spoiled):
        good.insert(3 + 5 * at, foreign(body, T0 + STEP_MS * (3 + 4 * at)))
    records = numbered(good)
    batches = [records[begin : begin + at_once] for begin in range(0, len(records), at_once)]
    found = run(plant("{machine: device, time: ts, values: tags}"), batches)
    assert found.answers == own()
    letters = [dict(out.headers) for out in found.outputs if out.topic == "dead-letter"]
    assert [letter["faultline-reason"].decode() for letter in letters] == [reason for _, reason, _ in spoiled]
    for letter, (_, _, hint) in zip(letters, spoiled, strict=True):
        assert hint in letter["faultline-detail"].decode()


def test_an_alarm_log_is_read_as_texts() -> None:
    events = """
events:
  - topic: works.alarms
    form:
      machine: unit
      time: {path: at, unit: s}
      template: "{code} {state}[, severity {sev}]"
      words: {state: {0: cleared, 1: raised}}
      id: nr
      severity: sev
"""
    alarm = {"unit": "te-01", "at": T0 // 1000 + 3, "code": "PI-7 HH", "state": 1, "sev": 800, "nr": 17}
    form = "{machine: device, time: ts, values: tags}"
    records = [foreign(one(number), T0 + STEP_MS * number) for number in range(len(ROWS))]
    records.insert(2, foreign(alarm, T0 + 3_000, topic="/works.alarms"))
    found = run(plant(form, events), [numbered(records)])
    assert reasons(found.outputs) == []
    texts = [text for diagnosis in diagnoses(found.outputs) for text in diagnosis.evidence.texts]
    assert {(text.id, text.text) for text in texts} == {("17", "PI-7 HH raised, severity 800")}


@pytest.mark.parametrize("at_once", [1, 10])
def test_an_entry_that_cannot_be_read_does_not_cost_the_others(at_once: int) -> None:
    chunks = [[one(number) for number in range(begin, begin + 4)] for begin in range(0, len(ROWS), 4)]
    chunks[2].insert(1, one(9) | {"ts": "yesterday"})
    records = numbered(foreign(chunk, chunk[-1]["ts"]) for chunk in chunks)
    batches = [records[begin : begin + at_once] for begin in range(0, len(records), at_once)]
    found = run(plant("{each: '@', machine: device, time: ts, values: tags}"), batches)
    assert found.answers == own()
    (letter,) = [dict(out.headers) for out in found.outputs if out.topic == "dead-letter"]
    assert letter["faultline-reason"] == b"bad_time"
    assert letter["faultline-detail"].startswith(b'entry 2: time "yesterday" is not an ISO 8601 time')
