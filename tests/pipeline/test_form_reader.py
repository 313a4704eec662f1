"""Readings of foreign forms: places, values, qualities, many readings in a record, and samples."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import Unused, ValueReason
from tests.support.forms import T, foreign_record, read_lines, reader_of

AT = "2025-11-20T00:53:20.000Z"
BASE: dict[str, Any] = {"machine": "d", "time": "t", "values": "v"}


def body(values: Any, **others: Any) -> dict[str, Any]:
    return {"d": "te-01", "t": T, "v": values} | others


def test_one_tag_a_message_of_a_plant_is_read() -> None:
    form = {"machine": "device", "name": "tag", "value": "v", "time": "ts", "quality": {"path": "q", "good": [192]}}
    message = {"device": "te-01", "tag": "Reactor.Temp", "v": 120.4, "q": 192, "ts": "2025-11-20T01:53:20+01:00"}
    assert read_lines(form, message) == [f"te-01  {AT}  Reactor.Temp 120.4"]
    assert read_lines(form, message | {"q": 24}) == [f"te-01  {AT}  Reactor.Temp not used: bad_quality"]
    assert read_lines(form, {"device": "te-01", "v": 1.0, "q": 192, "ts": T})[0].startswith("refused: schema")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1", "1.0"),
        ('"120.4"', "120.4"),
        ('" 1e3 "', "1000.0"),
        ("true", "1.0"),
        ('"False"', "0.0"),
        ("null", None),
        ("NaN", "not used: not_finite"),
        ("-Infinity", "not used: not_finite"),
        ('"nan"', "not used: not_finite"),
        ('"inf"', "not used: not_finite"),
        ("1e400", "not used: not_finite"),
        ("1" + "0" * 400, "not used: not_finite"),
        ("1" + "0" * 5000, "not used: not_finite"),
        ('"1_000"', "not used: not_a_number"),
        ('"१२"', "not used: not_a_number"),
        ('"12,5"', "not used: not_a_number"),
        ('"0x10"', "not used: not_a_number"),
        ('"Bad Input"', "not used: not_a_number"),
        ('""', "not used: not_a_number"),
        ("[1]", "not used: not_a_number"),
        ('{"v": 1}', "not used: not_a_number"),
    ],
)
def test_a_value_costs_only_itself(given: str, expected: str | None) -> None:
    value = f'{{"d": "te-01", "t": {T}, "v": {{"a": {given}, "b": 2.5}}}}'.encode()
    a = "" if expected is None else f"a {expected}, "
    assert read_lines(BASE, value) == [f"te-01  {AT}  {a}b 2.5"]


def test_what_was_given_is_kept_short() -> None:
    (reading,) = reader_of(BASE).readings(foreign_record(body({"a": "x" * 1000})))
    assert isinstance(reading.values, dict)
    given = reading.values["a"]
    assert isinstance(given, Unused)
    assert given.reason == ValueReason.NOT_A_NUMBER
    assert len(given.given) < 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12,5", "12.5"), ("-0,25", "-0.25"), ("7", "7.0"), ("1.234", "not used: not_a_number"), ("1,2,3", None)],
)
def test_decimal_comma(text: str, expected: str | None) -> None:
    (line,) = read_lines(BASE | {"decimal": ","}, body({"a": text}))
    assert line == f"te-01  {AT}  a {expected or 'not used: not_a_number'}"


def test_a_list_is_in_the_profiles_order() -> None:
    (reading,) = reader_of(BASE).readings(foreign_record(body([1, None, "2.5", "x"])))
    assert reading.values == [1.0, None, 2.5, Unused(ValueReason.NOT_A_NUMBER, '"x"')]


def test_the_last_of_two_equal_names_counts() -> None:
    value = f'{{"d": "x", "d": "te-01", "t": {T}, "v": {{"a": 1, "a": 2}}}}'.encode()
    assert read_lines(BASE, value) == [f"te-01  {AT}  a 2.0"]


@pytest.mark.parametrize(
    ("machine", "fields", "expected"),
    [
        ({"path": "d"}, {}, "te-01"),
        ({"key": True}, {"key": b"te-01"}, "te-01"),
        ({"key": True}, {"key": b'"te-01"'}, "te-01"),
        ({"key": True}, {"key": b'{"schema": {"type": "string"}, "payload": "te-01"}'}, "te-01"),
        ({"key": True}, {"key": b"{te-01}"}, "{te-01}"),
        ({"key": "id.name"}, {"key": b'{"id": {"name": 7}}'}, "7"),
        ({"header": "h"}, {"headers": (("h", b"old"), ("h", b"te-01"))}, "te-01"),
        ({"topic": True, "pattern": r"plant\.([^.]+)\."}, {"topic": "/plant.te-01.values"}, "te-01"),
        ({"topic": True, "pattern": "^plant/(.+)/v$"}, {"topic": "/plant/a/b/v"}, "a/b"),
        ({"constant": "press"}, {}, "press"),
        ({"path": "number"}, {}, "17"),
        ({"path": "float"}, {}, "17"),
        ({"path": "padded"}, {}, "te-01"),
    ],
)
def test_places_of_the_machine(machine: dict[str, Any], fields: dict[str, Any], expected: str) -> None:
    value = body({"a": 1}, number=17, float=17.0, padded=" te-01  ")
    assert read_lines(BASE | {"machine": machine}, value, **fields) == [f"{expected}  {AT}  a 1.0"]


@pytest.mark.parametrize(
    ("machine", "fields", "message"),
    [
        ("absent", {}, "there is no machine at path absent; the body has d, t, v"),
        ({"key": True}, {}, "there is no machine at the key"),
        ({"key": True}, {"key": b"\xff\xfe"}, "the key is not a text"),
        ({"header": "h"}, {"headers": (("g", b"x"),)}, "there is no machine at header h"),
        ({"topic": True, "pattern": "x([0-9]+)"}, {}, "the topic's name plant does not match x([0-9]+)"),
        ("v", {}, "path v is"),
    ],
)
def test_a_record_without_a_machine_says_where_it_was_looked_for(
    machine: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        reader_of(BASE | {"machine": machine}).readings(foreign_record(body({"a": 1}), **fields))
    assert caught.value.reason == Reason.SCHEMA
    assert message.replace('"', "") in caught.value.detail.replace('"', "")


def test_a_machine_of_half_a_character_is_refused() -> None:
    value = b'{"d": "\\ud800", "t": %d, "v": {"a": NaN}}' % T
    with pytest.raises(RejectedError, match="not valid Unicode"):
        reader_of(BASE).readings(foreign_record(value))


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (None, Reason.EMPTY, "no value"),
        (b"", Reason.NOT_JSON, "truncated"),
        (b"[1, 2]", Reason.SCHEMA, "declare each: '@', which reads each of its entries"),
        (b"7", Reason.SCHEMA, "the body looks like one bare value"),
        (json.dumps({"d": "a", "t": T}).encode(), Reason.SCHEMA, "there are no values at path v; the body has d, t"),
        (json.dumps({"d": "a", "t": T, "v": 5}).encode(), Reason.SCHEMA, "path v is 5, not object or array"),
        (json.dumps({"d": "a", "v": {}}).encode(), Reason.BAD_TIME, "there is no time at path t"),
        (b"[" * 100_000, Reason.NOT_JSON, ""),
    ],
)
def test_what_cannot_be_read_says_why(value: bytes | None, reason: Reason, message: str) -> None:
    with pytest.raises(RejectedError) as caught:
        reader_of(BASE).readings(foreign_record(value))
    assert caught.value.reason == reason
    assert message in caught.value.detail
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize(
    ("good", "quality", "is_good"),
    [
        ([192], 192, True),
        ([192], "192", True),
        ([192], 192.0, True),
        ([192], 193, False),
        ([192], None, False),
        (["Good", None], None, True),
        (["Good"], "GOOD ", True),
        (["Good"], "Uncertain", False),
        ([True], True, True),
        ([True], 1, False),
        ([True], "true", True),
        ([0], False, False),
        ([0], 0, True),
        ([0], [0], False),
        ("opc_da", 192, True),
        ("opc_da", 219, True),
        ("opc_da", "216", True),
        ("opc_da", 88, False),
        ("opc_da", 0, False),
        ("opc_da", "good, non-specific", True),
        ("opc_da", None, False),
        ("opc_ua", None, True),
        ("opc_ua", 0, True),
        ("opc_ua", 0x00A60000, True),
        ("opc_ua", 0x40000000, False),
        ("opc_ua", "0x80000000", False),
        ("opc_ua", {"Code": 0x80050000, "Symbol": "BadCommunicationError"}, False),
        ("opc_ua", {"Code": 0}, True),
        ("opc_ua", {"Symbol": "Good"}, True),
        ("opc_ua", {}, True),
        ("opc_ua", "BadNoCommunication", False),
        ("opc_ua", "GoodClamped", True),
    ],
)
def test_qualities(good: Any, quality: Any, is_good: bool) -> None:
    form: dict[str, Any] = {
        "machine": "d",
        "time": "t",
        "name": {"constant": "a"},
        "value": "v",
        "quality": {"path": "q", "good": good},
    }
    expected = "1.0" if is_good else "not used: bad_quality"
    assert read_lines(form, {"d": "m", "t": T, "v": 1, "q": quality}) == [f"m  {AT}  a {expected}"]


def test_qualities_may_stand_beside_the_values() -> None:
    form = BASE | {"quality": {"path": "q", "good": [192]}}
    assert read_lines(form, body({"a": 1, "b": 2}, q=192)) == [f"te-01  {AT}  a 1.0, b 2.0"]
    assert read_lines(form, body({"a": 1, "b": 2}, q={"a": 192})) == [f"te-01  {AT}  a 1.0, b not used: bad_quality"]
    (reading,) = reader_of(form).readings(foreign_record(body([1, 2, 3], q=[192, 0])))
    bad = ValueReason.BAD_QUALITY
    assert reading.values == [1.0, Unused(bad, "0"), Unused(bad, "null")]


def test_entries_of_one_machine_and_time_are_one_reading() -> None:
    form = {"each": "@", "machine": "d", "time": "t", "name": "n", "value": "v"}
    entries = [
        {"d": "x", "t": T, "n": "a", "v": 1},
        {"d": "y", "t": T, "n": "a", "v": 2},
        {"d": "x", "t": T, "n": "b", "v": 3},
        {"d": "x", "t": T + 1, "n": "a", "v": 4},
    ]
    later = AT.replace("000Z", "001Z")
    assert read_lines(form, entries) == [f"x  {AT}  a 1.0, b 3.0", f"y  {AT}  a 2.0", f"x  {later}  a 4.0"]
    assert read_lines(form, entries[0]) == [f"x  {AT}  a 1.0"]
    assert read_lines(form, []) == ["refused: empty: there are no entries at path @"]


def test_one_entry_that_cannot_be_read_is_named_and_does_not_cost_the_others() -> None:
    form = {"each": "r", "machine": "$.d", "time": "t", "values": "v"}
    value = {"d": "x", "r": [{"t": T, "v": {"a": 1}}, {"t": "?", "v": {"a": 2}}, {"t": T + 1, "v": {"a": 3}}]}
    contents = reader_of(form).read(foreign_record(value))
    assert [reading.values for reading in contents.readings] == [{"a": 1.0}, {"a": 3.0}]
    (refused,) = contents.refused
    assert refused.reason == Reason.BAD_TIME
    assert refused.detail.startswith("entry 2: ")
    assert read_lines(form, value)[0].startswith("refused: bad_time: entry 2: ")


def test_an_array_of_values_with_names_and_times_of_their_own() -> None:
    form = BASE | {"value": "x", "name": "n", "value_time": {"path": "ts", "unit": "s"}}
    values = [{"n": "a", "x": 1}, {"n": "b", "x": 2, "ts": T // 1000 + 1}, {"x": 3}, 4, {"n": "c", "x": "?"}]
    first, second = reader_of(form).readings(foreign_record(body(values)))
    assert first.values == {
        "a": 1.0,
        "": Unused(ValueReason.NOT_A_NUMBER, "4"),
        "c": Unused(ValueReason.NOT_A_NUMBER, '"?"'),
    }
    assert (second.time_ms, second.values) == (T + 1000, {"b": 2.0})


def test_values_with_times_of_their_own_need_no_other() -> None:
    form = {"machine": "d", "values": "v", "value": "x", "value_time": "ts"}
    assert read_lines(form, {"d": "m", "v": {"a": {"x": 1, "ts": T}}}) == [f"m  {AT}  a 1.0"]
    assert "there is no time" in read_lines(form, {"d": "m", "v": {"a": {"x": 1}}})[0]


def test_samples_are_spread() -> None:
    form = BASE | {"sample_period": "5ms"}
    (first, second) = reader_of(form).readings(foreign_record(body({"x": [1, 2], "y": 3})))
    assert (first.time_ms, first.values) == (T, {"x": 1.0, "y": 3.0})
    assert (second.time_ms, second.values) == (T + 5, {"x": 2.0, "y": None})
    last = reader_of(form | {"sample_time": "last"}).readings(foreign_record(body([[1, 2, 3], [4]])))
    assert [(one.time_ms - T, one.values) for one in last] == [(-10, [1.0, None]), (-5, [2.0, None]), (0, [3.0, 4.0])]


@pytest.mark.parametrize("values", [{"x": [0] * 70_000}, [[0] * 70_000]])
def test_there_is_an_end_to_samples(values: Any) -> None:
    with pytest.raises(RejectedError) as caught:
        reader_of(BASE | {"sample_period": "5ms"}).readings(foreign_record(body(values)))
    assert caught.value.reason == Reason.TOO_LARGE


def test_paths_may_be_more_than_names() -> None:
    form = {
        "machine": '"device-id"',
        "time": "t",
        "fields": {"a": "r[?n=='a'].v | [0]", "b": "r[-1].v", "c": "no.such"},
    }
    value = {"device-id": "m", "t": T, "r": [{"n": "x", "v": 9}, {"n": "a", "v": 1}, {"n": "b", "v": 2}]}
    assert read_lines(form, value) == [f"m  {AT}  a 1.0, b 2.0"]


def test_a_path_whose_function_fails_finds_nothing() -> None:
    assert "there are no values" in read_lines(BASE | {"values": "keys(v)"}, body(5))[0]
