"""Foreign topics through the engine: bytes in; diagnoses, dead letters and counts out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.engine.engine import Engine
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, diagnoses, numbered, profile, reading

T = 1_763_600_000_000
TAGS = "[{name: flow, tag: Reactor.Temp}, {name: load, tag: Reactor.Load}]"
ONE_TAG = "{machine: device, name: tag, value: v, quality: {path: q, good: opc_da}, time: {path: ts}}"


def plant(form: str, variables: str = "[{name: flow}, {name: load}]") -> str:
    """The pumps, whose readings come in a topic of this form."""
    text = ONE_SOURCE.replace("topic: sensors,", f"topic: plant.values, form: {form},")
    return text.replace("[{name: flow}, {name: load}]", variables)


def through(yaml: str, values: list[bytes], *, step_ms: int = 1_000, topic: str = "/plant.values") -> Told:
    """What the engine makes of these values of a machine's records, one a second."""
    engine = Engine(profile(yaml), {"pump": SumRunner()})
    records = [Record(topic, 0, 0, T + step_ms * at, b"te-01", value) for at, value in enumerate(values)]
    stream = numbered(records)
    outputs = [out for begin in range(0, len(stream), 500) for out in engine.process(stream[begin : begin + 500])]
    return Told(engine, outputs)


class Told:
    """The outputs of an engine, and what they say."""

    def __init__(self, engine: Engine, outputs: list[Output]) -> None:
        self.stats = engine.stats
        self.diagnoses = diagnoses(outputs)
        self.said = [out.value for out in outputs if out.topic == "diagnoses"]
        letters = [dict(out.headers) for out in outputs if out.topic in ("dead-letter", "late")]
        self.letters = [(one["faultline-reason"].decode(), one["faultline-detail"].decode()) for one in letters]


def native(count: int, value: Callable[[int], float]) -> Told:
    """What the same values lead to as Faultline's own readings."""
    engine = Engine(profile(), {"pump": SumRunner()})
    records = [reading("te-01", T + 1_000 * at, {"flow": value(at)}) for at in range(count)]
    return Told(engine, engine.process(numbered(records)))


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 10**6), ("ns", 10**9)])
def test_two_hours_at_one_hertz_in_each_unit_are_diagnosed_if_declared_and_refused_with_a_hint_if_not(
    unit: str, factor: int
) -> None:
    """Case 6."""
    values = [
        json.dumps({"machine": "te-01", "time": (T // 1_000 + at) * factor, "values": {"flow": at % 7}}).encode()
        for at in range(7_200)
    ]
    told = through(plant(f"{{time: {{path: time, unit: {unit}}}}}"), values)
    assert len(told.diagnoses) == 719 and told.letters == []
    if unit == "ms":
        return
    for yaml, topic in ((plant("{}"), "/plant.values"), (ONE_SOURCE, "sensors")):
        refused = through(yaml, values[:100], topic=topic)
        assert refused.diagnoses == [] and refused.stats.dead_letters == {"bad_time": 100}
        detail = refused.letters[0][1]
        assert "2025-11-20T00:53:20Z" in detail and f"declare `time: {{path: time, unit: {unit}}}`" in detail


def tagged(at: int, **changes: Any) -> bytes:
    moment = datetime.fromtimestamp(T / 1_000 + at, UTC).astimezone(timezone(timedelta(hours=1)))
    body = {"device": "te-01", "tag": "Reactor.Temp", "v": 120.4 + at, "q": 192, "ts": moment.isoformat()}
    return json.dumps(body | changes).encode()


def test_one_tag_a_message_leads_to_the_diagnoses_of_native_readings() -> None:
    """Case 16."""
    told = through(plant(ONE_TAG, TAGS), [tagged(at) for at in range(100)])
    assert told.said == native(100, lambda at: 120.4 + at).said != []
    assert told.letters == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"v": float("nan")}, "not_finite"),
        ({"v": "Bad"}, "not_a_number"),
        ({"v": "null"}, "not_a_number"),
        ({"v": {"value": 1}}, "not_a_number"),
        ({"q": 24}, "bad_quality"),
        ({"q": None}, "bad_quality"),
        ({"tag": "reactor.temp"}, "unknown_variable"),
        ({"tag": "Reactor.Pressure", "v": "open"}, "unknown_variable"),
    ],
)
def test_a_tag_that_cannot_be_used_is_counted_and_costs_the_other_nothing(changes: dict[str, Any], reason: str) -> None:
    values = [value for at in range(60) for value in (tagged(at, tag="Reactor.Load"), tagged(at, **changes))]
    told = through(plant(ONE_TAG, TAGS), values, step_ms=500)
    assert told.letters == []
    assert {one.status for one in told.diagnoses} == {"active"} and len(told.diagnoses) == 5
    assert dict(told.stats.values_unused) == {("" if reason == "unknown_variable" else "flow", reason): 60}


@pytest.mark.parametrize(
    ("changes", "reason", "told"),
    [
        ({"ts": "2025-11-20T01:53:20"}, "bad_time", "declare its zone"),
        ({"ts": "2025-11-20T01:53:20+00:00"}, "future_time", "3600000 ms ahead"),
        ({"ts": None}, "bad_time", "no time at path ts"),
        ({"ts": 0}, "bad_time", "time 0 is not"),
        ({"device": None}, "schema", "no machine at path device; the body has device, tag"),
        ({"device": "te-02"}, "key_mismatch", "faultline ingest"),
        ({"tag": None}, "schema", "no name of the value"),
    ],
)
def test_a_tag_of_no_machine_or_time_is_a_dead_letter(changes: dict[str, Any], reason: str, told: str) -> None:
    refused = through(plant(ONE_TAG, TAGS), [tagged(0, **changes)])
    assert [letter[0] for letter in refused.letters] == [reason]
    assert told in refused.letters[0][1]


def _own(at: int) -> dict[str, Any]:
    return {"machine": "te-01", "time": T + 1_000 * at, "values": {"flow": float(at % 9)}}


WRAPPED: dict[str, tuple[str, Callable[[Any], bytes], str]] = {
    "array": ("{each: '@'}", lambda body: json.dumps([body]).encode(), "each: '@'"),
    "connect": (
        "{envelope: connect}",
        lambda body: json.dumps({"schema": {"type": "struct"}, "payload": body}).encode(),
        "envelope: connect",
    ),
    "registry": ("{registry: true}", lambda body: b"\0\0\0\0\7" + json.dumps(body).encode(), "registry: true"),
    "gzip": ("{compression: gzip}", lambda body: gzip.compress(json.dumps(body).encode()), "compression: gzip"),
    "cloudevents": (
        "{envelope: cloudevents}",
        lambda body: json.dumps({"specversion": "1.0", "id": "1", "source": "x", "type": "y", "data": body}).encode(),
        "envelope: cloudevents",
    ),
    "lines": ("{each: '@'}", lambda body: json.dumps([body], indent=1).encode(), "each: '@'"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_readings_are_read_where_that_is_declared_and_else_refused_with_what_to_declare(name: str) -> None:
    """Case 17."""
    form, wrap, hint = WRAPPED[name]
    values = [wrap(_own(at)) for at in range(100)]
    told = through(plant(form), values)
    assert told.said == native(100, lambda at: float(at % 9)).said != []
    assert told.letters == []
    for yaml, topic in ((plant("{values: values}"), "/plant.values"), (ONE_SOURCE, "sensors")):
        refused = through(yaml, values[:20], topic=topic)
        assert refused.diagnoses == [] and len(refused.letters) == 20
        assert {reason for reason, _ in refused.letters} <= {"not_json", "schema"}
        assert f"declare {hint}" in refused.letters[0][1]


def test_several_documents_in_one_record_are_refused_as_what_they_are() -> None:
    value = b"\n".join(json.dumps(_own(at)).encode() for at in range(3))
    for yaml, topic in ((plant("{}"), "/plant.values"), (ONE_SOURCE, "sensors")):
        (letter,) = through(yaml, [value], topic=topic).letters
        assert letter[0] == "not_json" and "looks like several JSON documents" in letter[1]


def test_an_entry_that_cannot_be_used_is_a_dead_letter_and_the_others_are_used() -> None:
    wrong = _own(0) | {"time": "soon"}
    values = [json.dumps([_own(at), wrong]).encode() for at in range(60)]
    told = through(plant("{each: '@'}"), values)
    assert len(told.diagnoses) == 5 and {one.status for one in told.diagnoses} == {"active"}
    assert [reason for reason, _ in told.letters] == ["bad_time"] * 60
    assert told.letters[0][1].startswith("entry 2: ")


def test_a_text_that_cannot_be_used_is_a_dead_letter_and_the_others_of_its_record_are_used() -> None:
    form = "{each: '@', machine: tag, time: {path: t}, text: msg, id: n}"
    yaml = f"events: [{{topic: alarms, form: {form}}}]\n{ONE_SOURCE}"
    engine = Engine(profile(yaml), {"pump": SumRunner()})
    right = {"tag": "p1", "t": T + 500, "msg": "smells", "n": 1}
    bodies = [
        [right, right | {"msg": None}],
        [right | {"t": "soon"}, right | {"n": 2, "msg": "<b>leaks</b>&nbsp;oil"}],
        [right | {"t": T + 10**9}, right | {"n": 3, "msg": "hums"}],
    ]
    records = [
        Record("/alarms", 0, 0, T + 600 + at, b"p1", json.dumps(body).encode()) for at, body in enumerate(bodies)
    ]
    readings = [reading("p1", T + 1_000 * at, {"flow": 1.0}) for at in range(0, 60, 5)]
    told = Told(engine, engine.process(numbered([readings[0], *records, *readings[1:]])))
    assert [reason for reason, _ in told.letters] == ["schema", "bad_time", "future_time"]
    assert [text.text for text in told.diagnoses[0].evidence.texts] == ["smells", "leaks oil", "hums"]


def test_two_machine_types_may_share_a_topic() -> None:
    yaml = """
plant: shared
machine_types:
  - {name: a, match: "a-*", frame_period: 10s, sources: &plant {sensors: {topic: plant, form: {}}},
     faults: &faults [normal, leak, jam], variables: [{name: flow}, {name: load}]}
  - {name: b, match: "b-*", frame_period: 10s, sources: *plant, faults: *faults, variables: [{name: heat}]}
"""
    engine = Engine(profile(yaml), {"a": SumRunner(), "b": SumRunner()})
    records = [
        Record(
            "/plant", 0, 0, T + at, name, json.dumps({"machine": name.decode(), "time": T + at, "values": v}).encode()
        )
        for at in range(0, 60_000, 1_000)
        for name, v in ((b"a-1", {"flow": 1, "load": 2}), (b"b-1", {"heat": 3}), (b"c-1", {"heat": 3}))
    ]
    told = Told(engine, engine.process(numbered(records)))
    assert sorted({one.machine for one in told.diagnoses}) == ["a-1", "b-1"]
    assert {one.status for one in told.diagnoses} == {"active"} and not told.stats.values_unused
    assert [reason for reason, _ in told.letters] == ["unknown_machine"] * 60


@pytest.mark.parametrize("begin", ["2025-10-26T00:30:00+00:00", "2025-03-30T00:30:00+00:00"])
@pytest.mark.parametrize("delay_ms", [0, 300_000])
def test_local_times_go_on_where_summer_time_begins_and_ends(begin: str, delay_ms: int) -> None:
    """Times of Berlin without an offset, one every ten seconds for two hours."""
    start = datetime.fromisoformat(begin)
    engine = Engine(profile(plant("{time: {path: time, zone: Europe/Berlin}}")), {"pump": SumRunner()})
    records = []
    for at in range(0, 7_200, 10):
        moment = start + timedelta(seconds=at)
        local = moment.astimezone(ZoneInfo("Europe/Berlin")).replace(tzinfo=None).isoformat()
        body = json.dumps({"machine": "te-01", "time": local, "values": {"flow": 1.0}}).encode()
        records.append(Record("/plant.values", 0, 0, round(moment.timestamp() * 1_000) + delay_ms, b"te-01", body))
    told = Told(engine, engine.process(numbered(records)))
    assert told.letters == []
    starts = [one.frame_start for one in told.diagnoses]
    assert starts == [round(start.timestamp() * 1_000) + 10_000 * number for number in range(718)]
