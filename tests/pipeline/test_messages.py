"""Bytes in, messages or reasons out: every way in which an input can be wrong has its own reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.engine import Engine
from pipeline.engine.frame_stream import FrameStream
from pipeline.frames import Frames
from pipeline.wire.messages import (
    EventMessage,
    Reason,
    RejectedError,
    decode_event,
    decode_label,
    parse_time_ms,
)
from pipeline.wire.readings import decode_reading
from pipeline.wire.records import Record
from tests.support.builders import (
    ONE_SOURCE,
    TWO_SOURCES,
    SumRunner,
    diagnoses,
    event,
    numbered,
    profile,
    reading,
    reasons,
)

T0 = 1_763_600_000_000


def body(**changes: object) -> bytes:
    return json.dumps({"machine": "p1", "time": T0, "values": [1.0, 2.0]} | changes).encode()


def engine() -> Engine:
    return Engine(profile(), {"pump": SumRunner()}, partition_of=lambda key: 0)


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, b"p1", Reason.EMPTY),
        (b"", b"p1", Reason.NOT_JSON),
        (b"\xff\xfe\x00", b"p1", Reason.NOT_JSON),
        (b"[" * 100_000, b"p1", Reason.SCHEMA),
        (b'{"machine":"p1","time":1,"values":' + b"[" * 100_000, b"p1", Reason.NOT_A_NUMBER),
        (body()[:-3], b"p1", Reason.NOT_JSON),
        (body() + b"{}", b"p1", Reason.NOT_JSON),
        (body(values=[1.0]), b"p1", Reason.WRONG_LENGTH),
        (body(values=[1.0, 2.0, 3.0]), b"p1", Reason.WRONG_LENGTH),
        (body(values=None), b"p1", Reason.SCHEMA),
        (body(time="yesterday"), b"p1", Reason.BAD_TIME),
        (body(time="2026-11-20T00:53:20"), b"p1", Reason.BAD_TIME),
        (body(time=-5), b"p1", Reason.BAD_TIME),
        (body(time=T0 // 1000), b"p1", Reason.BAD_TIME),
        (body(time=T0 * 1000), b"p1", Reason.BAD_TIME),
        (body(time=T0 / 1000), b"p1", Reason.BAD_TIME),
        (body(time=None), b"p1", Reason.BAD_TIME),
        (body(machine=7.5), b"p1", Reason.SCHEMA),
        (body(time=10**30), b"p1", Reason.BAD_TIME),
        (b'{"machine":"p1","time":%s,"values":[1,2]}' % (b"9" * 4_000), b"p1", Reason.BAD_TIME),
        (b'{"machine":"p1","time":%s,"values":[1,2]}' % (b"9" * 9_000), b"p1", Reason.BAD_TIME),
        (body(time="0001-01-01T00:00:00+14:00"), b"p1", Reason.BAD_TIME),
        (body(time="9999-12-31T23:59:59-14:00"), b"p1", Reason.BAD_TIME),
        (body(time=T0 + 10**9), b"p1", Reason.FUTURE_TIME),
        (body(), b"p2", Reason.KEY_MISMATCH),
        (body(), None, Reason.KEY_MISMATCH),
        (body(machine=""), b"", Reason.UNKNOWN_MACHINE),
        (body(machine="p\n1"), b"p\n1", Reason.UNKNOWN_MACHINE),
    ],
)
def test_bad_readings_are_dead_letters_with_reason_origin_and_original_bytes(
    value: bytes | None, key: bytes | None, reason: Reason
) -> None:
    eng = engine()
    record = Record("sensors", 0, 41, T0, key, value, (("trace", b"7"),))
    (letter,) = eng.process([record])
    headers = dict(letter.headers)
    assert letter.topic == "dead-letter"
    assert headers["faultline-reason"].decode() == reason
    assert (letter.key, letter.value, headers["trace"]) == (key, value, b"7")
    assert (headers["faultline-topic"], headers["faultline-partition"]) == (b"sensors", b"0")
    assert headers["faultline-offset"] == b"41"
    assert 0 < len(headers["faultline-detail"]) < 1_000
    assert eng.stats.dead_letters[reason] == 1


@pytest.mark.parametrize(
    ("values", "variable", "reason"),
    [
        (b"[NaN,1]", "flow", Reason.NOT_FINITE),
        (b"[-Infinity,1]", "flow", Reason.NOT_FINITE),
        (b"[1e999,1]", "flow", Reason.NOT_FINITE),
        (b"[1e39,1]", "flow", Reason.NOT_FINITE),
        (b"[1,%s]" % (b"9" * 30_000), "load", Reason.NOT_FINITE),
        (b'["1",2]', "flow", Reason.NOT_A_NUMBER),
        (b'["Bad",2]', "flow", Reason.NOT_A_NUMBER),
        (b"[true,2]", "flow", Reason.NOT_A_NUMBER),
        (b"[1,[2]]", "load", Reason.NOT_A_NUMBER),
        (b'{"flow":1,"load":"wet"}', "load", Reason.NOT_A_NUMBER),
        (b'{"flow":1,"load":2,"rssi":-61}', "", Reason.UNKNOWN_VARIABLE),
    ],
)
@pytest.mark.parametrize("together", [1, 20], ids=["alone", "in a block"])
def test_a_bad_value_costs_itself_and_is_counted_but_a_strict_source_refuses_the_reading(
    values: bytes, variable: str, reason: Reason, together: int
) -> None:
    def processed(yaml: str) -> tuple[Engine, list[str]]:
        eng = Engine(profile(yaml), {"pump": SumRunner()}, partition_of=lambda key: 0)
        found = reasons(eng.process([reading("p1", T0, [1.0, 2.0])]))
        times = [T0 + 1_000 * number for number in range(1, together + 1)]
        value = b'{"machine":"p1","time":%d,"values":%s}'
        records = [Record("sensors", 0, time - T0, time, b"p1", value % (time, values)) for time in times]
        return eng, found + reasons(eng.process(records))

    eng, found = processed(ONE_SOURCE)
    assert found == []
    assert dict(eng.stats.values_unused) == {(variable, reason.value): together}
    (state,) = eng.alignment_states().values()
    assert state  # the reading was taken
    strict, found = processed(ONE_SOURCE.replace("topic: sensors,", "topic: sensors, strict: true,"))
    assert found == [reason.value] * together
    assert not strict.stats.values_unused


def test_a_numeric_machine_id_is_taken_as_its_digits() -> None:
    assert reasons(engine().process([Record("sensors", 0, 0, T0, b"7", body(machine=7))])) == []


def test_a_machine_in_the_wrong_partition_is_detected() -> None:
    eng = Engine(profile(), {"pump": SumRunner()}, partition_of=lambda key: 3)
    assert reasons(eng.process([reading("p1", T0, [1.0, 2.0], partition=1)])) == ["wrong_partition"]
    assert reasons(eng.process([reading("p1", T0, [1.0, 2.0], partition=3)])) == []


def test_a_thousand_hostile_records_change_no_diagnosis() -> None:
    good = [reading("p1", T0 + i * 1_000, [float(i % 7), 1.0]) for i in range(300)]
    good += [event("p1", T0 + i * 10_000, f"drip {i}") for i in range(10)]
    good.sort(key=lambda record: record.timestamp_ms)
    bad = [b"\x00", b"{}", body(values="x"), body(machine="p9"), body(time=T0 + 10**10), b'{"a":' * 5000]
    mixed = []
    for index in range(1000):
        mixed.append(Record("sensors", 0, 0, T0 + index * 300, b"p1", bad[index % len(bad)]))
    together = sorted([*good, *mixed], key=lambda record: record.timestamp_ms)
    clean, dirty = engine(), engine()
    expected = clean.process(numbered(good))
    outputs = dirty.process(numbered(together))
    assert [(d.id, d.probabilities) for d in diagnoses(outputs)] == [
        (d.id, d.probabilities) for d in diagnoses(expected)
    ]
    assert len(reasons(outputs)) == 1000


def test_an_event_may_have_64_kib_since_it_is_kept_with_its_machines_state() -> None:
    (letter,) = engine().process([event("p1", T0, "x" * 70_000)])
    assert dict(letter.headers)["faultline-reason"] == b"too_large"
    assert len(letter.value or b"") > 70_000
    assert engine().process([event("p1", T0, "x" * 60_000)]) == []


@pytest.mark.parametrize(
    ("given", "digits"),
    [("10023", "10023"), ("10023.0", "10023"), ("0", "0"), ("1.5", "1.5"), ("-7", "-7"), (f"{10**30}", f"{10**30}")],
)
def test_numbers_in_an_event_are_taken_as_their_digits(given: str, digits: str) -> None:
    value = f'{{"machine":{given},"time":{T0},"text":{given},"id":{given},"source":{given},"severity":{given}}}'
    event_message = decode_event(value.encode())
    assert event_message == EventMessage(digits, T0, digits, digits, digits, digits)


def test_an_event_of_a_numbered_machine_joins_the_readings_with_its_digits_as_key() -> None:
    body = json.dumps({"machine": 7, "time": T0, "text": "leaks", "id": 10023}).encode()
    sent = Record("events", 0, 0, T0, b"7", body)
    outputs = engine().process(numbered([reading("7", T0, [1.0, 2.0]), sent, reading("7", T0 + 15_000, [1.0, 2.0])]))
    (diagnosis,) = diagnoses(outputs)
    assert [(text.id, text.text) for text in diagnosis.evidence.texts] == [("10023", "leaks")]
    assert diagnosis.machine == "7"
    assert reasons(engine().process([sent._replace(key=b"8")])) == ["key_mismatch"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": True}, "schema"),
        ({"id": ["10023"]}, "schema"),
        ({"text": None}, "schema"),
        ({"machine": {}}, "schema"),
        ({"source": False}, "schema"),
        ({"machine": ""}, "key_mismatch"),
    ],
)
def test_what_is_neither_text_nor_number_is_no_identifier(changes: dict[str, object], reason: str) -> None:
    sent = event("p1", T0, "leaks")
    value = json.dumps(json.loads(sent.value or b"") | changes).encode()
    eng = engine()
    assert reasons(eng.process([sent._replace(value=value)])) == [reason]
    assert eng.machines == 0


@pytest.mark.parametrize(
    ("sent", "text"),
    [(r"hot \ud83d", "hot ?"), (r"\ude00 hot", "? hot"), (r"\ud83d\ude00", "😀"), (r"C:\\ud800", "C:\\ud800")],
)
def test_half_an_emoji_costs_a_text_nothing_else(sent: str, text: str) -> None:
    value = f'{{"machine":"p1","time":{T0},"text":"{sent}","id":"{sent}"}}'.encode()
    assert decode_event(value) == EventMessage("p1", T0, text, text)
    with pytest.raises(RejectedError, match="not_json"):
        decode_event(value[:-3])


def test_half_an_emoji_in_a_foreign_topic_costs_nothing_either() -> None:
    fields = "{machine: {path: dev}, time: {path: ts}, text: msg, id: {path: nr}, severity: {path: sev}}"
    plant = profile(f"{ONE_SOURCE}events: [{{topic: /log, form: {fields}}}]")
    (topic,) = plant.forms
    rounds: list[Frames] = []
    stream = FrameStream(
        plant,
        lambda group, more, outcome: rounds.extend(more),
    )
    value = f'{{"dev":"p1","ts":{T0},"msg":"<p>hot \\ud83d</p>","nr":"a\\ud83d","sev":"\\ud83d"}}'.encode()
    stream.process(numbered([reading("p1", T0, [1.0, 2.0]), Record(topic, 0, 0, T0, b"p1", value)]))
    stream.finish()
    (text,) = [text for frames in rounds for _, text in frames.texts]
    assert (text.id, text.text, text.severity) == ("a?", "hot ?", "?")


@pytest.mark.parametrize("text", ["leaks", r"\ud800"])
@pytest.mark.parametrize("size", [4_000, 4_300, 4_301, 9_000])
def test_a_number_of_thousands_of_digits_is_no_identifier_or_all_its_digits(text: str, size: int) -> None:
    value = f'{{"machine":"p1","time":{T0},"text":"{text}","id":{"9" * size}}}'.encode()
    try:
        assert decode_event(value).id == "9" * size
    except RejectedError as rejected:
        assert size > 4_000
        assert rejected.reason in (Reason.NOT_FINITE, Reason.NOT_JSON)


def test_a_label_names_its_machine_and_fault_in_at_most_200_characters() -> None:
    for changes in ({"machine": ""}, {"machine": "m" * 201}, {"fault": "f" * 201}, {"fault": ""}):
        with pytest.raises(RejectedError, match="schema"):
            decode_label(json.dumps({"machine": "p1", "start": T0, "fault": "leak"} | changes).encode())


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_rejection(value: bytes) -> None:
    try:
        decode_reading(value)
    except RejectedError as rejected:
        assert rejected.detail


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2025-11-20T00:53:20Z", 1_763_600_000_000),
        ("2025-11-20T01:53:20+01:00", 1_763_600_000_000),
        ("2025-11-20T00:53:20.123456Z", 1_763_600_000_123),
        ("2026-03-29T02:30:00+01:00", 1_774_747_800_000),  # a local time that daylight saving skips
    ],
)
def test_iso_times_become_exact_milliseconds(text: str, milliseconds: int) -> None:
    assert parse_time_ms(text) == milliseconds
    assert parse_time_ms(milliseconds) == milliseconds


@pytest.mark.parametrize("readings", [1, 40])  # one by one, and many together
def test_a_list_has_the_variables_of_its_topic_and_not_all_of_the_machine_type(readings: int) -> None:
    eng = Engine(profile(TWO_SOURCES), {"mill": SumRunner()})
    fast = [reading("m1", 1_000 * n, [1.0, 2.0], topic="sensors.fast", offset=n) for n in range(readings + 2)]
    assert eng.process(fast[:1]) == []
    wrong = reading("m1", 1_000 * readings, [1.0, 2.0, 3.0], topic="sensors.fast", offset=readings)
    assert reasons(eng.process([*fast[1:readings], wrong, *fast[readings + 1 :]])) == ["wrong_length"]
