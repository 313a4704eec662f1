"""Texts of foreign forms: from a path, from a body that is a text, and rendered from alarm and state logs."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.wire.messages import Reason, RejectedError
from tests.support.forms import T, foreign_record, read_lines, reader_of

AT = "2025-11-20T00:53:20.000Z"
BASE: dict[str, Any] = {"machine": "m", "time": "t"}


@pytest.mark.parametrize(
    ("template", "fields", "expected"),
    [
        ("{code} is {state}, severity {sev}", {"code": "P-1", "state": "on", "sev": 3}, "P-1 is on, severity 3"),
        ("{code} is {state}, severity {sev}", {"code": "P-1"}, "P-1 is unknown, severity unknown"),
        ("{code} is {state}[, severity {sev}]", {"code": "P-1", "state": "on"}, "P-1 is on"),
        ("{code}[ by {who}][ at {where}]", {"code": 7, "where": "door"}, "7 at door"),
        ("{code}[ by {who}]", {"code": "x", "who": "  "}, "x"),
        ("{code}", {"code": 4711.0}, "4711"),
        ("{code}", {"code": 2.5}, "2.5"),
        ("{code}", {"code": False}, "false"),
        ("{code}", {"code": ["a", 1]}, '["a", 1]'),
        ("{{{code}}} [[x]]", {"code": "a"}, "{a} [x]"),
        ('{a.b[0]} {"c-d"}', {"a": {"b": [1]}, "c-d": 2}, "1 2"),
    ],
)
def test_templates(template: str, fields: dict[str, Any], expected: str) -> None:
    assert read_lines(BASE | {"template": template}, {"m": "x", "t": T} | fields) == [f'x  {AT}  "{expected}"']


def test_a_record_without_any_field_of_the_template_is_refused() -> None:
    with pytest.raises(RejectedError) as caught:
        reader_of(BASE | {"template": "{code} is {state}"}).texts(foreign_record({"m": "x", "t": T, "other": 1}))
    assert caught.value.reason == Reason.SCHEMA
    assert caught.value.detail == "it has none of the fields code, state; the body has m, t, other"


def test_words_stand_for_codes() -> None:
    form = BASE | {"template": "{c} {s}", "words": {"c": {17: "pump"}, "s": {"true": "on", "false": "off"}}}
    assert read_lines(form, {"m": "x", "t": T, "c": 17, "s": True}) == [f'x  {AT}  "pump on"']
    assert read_lines(form, {"m": "x", "t": T, "c": 18, "s": False}) == [f'x  {AT}  "18 off"']


def test_a_text_its_id_source_and_severity() -> None:
    form = BASE | {"text": "msg", "id": {"header": "h"}, "source": {"constant": "SAP"}, "severity": "sev"}
    value = {"m": 7, "t": T, "msg": "Pump leaks", "sev": 2}
    line = f'7  {AT}  "Pump leaks" id A1 source SAP severity 2'
    assert read_lines(form, value, headers=(("h", b"A1"),)) == [line]
    assert read_lines(form, value) == [line.replace(" id A1", "")]


def test_faultlines_own_texts_by_a_form_without_fields() -> None:
    value = {"machine": "m", "time": T, "text": "hi", "id": 5, "severity": "high"}
    (event,) = reader_of({}).texts(foreign_record(value))
    assert (event.machine, event.time, event.text, event.id, event.severity) == ("m", T, "hi", "5", "high")


def test_a_body_that_is_a_text() -> None:
    form = {"encoding": "text", "machine": {"key": True}, "time": {"record": True}, "text": "@", "charset": "latin-1"}
    assert read_lines(form, "Kühlung aus".encode("latin-1"), key=b"te-01") == [f'te-01  {AT}  "Kühlung aus"']
    number = {"encoding": "text", "machine": {"key": True}, "time": {"record": True}, "decimal": ","}
    number |= {"name": {"topic": True, "pattern": "([^/]+)$"}, "value": "@"}
    assert read_lines(number, b"21,5\n", key=b"te-01", topic="/plant/temp") == [f"te-01  {AT}  temp 21.5"]


@pytest.mark.parametrize("text", [None, "", "   ", [], {"a": 1}])
def test_a_record_without_text_is_refused(text: Any) -> None:
    (line,) = read_lines(BASE | {"text": "msg"}, {"m": "x", "t": T, "msg": text})
    assert line.startswith("refused: schema: there is no text at path msg")


def test_texts_in_an_array() -> None:
    form = {"each": "alarms", "machine": "$.m", "time": "t", "text": "msg"}
    value = {"m": "x", "alarms": [{"t": T, "msg": "a"}, {"t": T, "msg": "b"}]}
    assert read_lines(form, value) == [f'x  {AT}  "a"', f'x  {AT}  "b"']
    value["alarms"] = [{"t": T, "msg": "a"}, {"t": 5, "msg": "b"}]
    assert read_lines(form, value)[0].startswith("refused: bad_time: entry 2: ")


def test_halves_of_characters_become_question_marks() -> None:
    value = b'{"m": "x", "t": %d, "msg": "a\\ud800b", "n": NaN}' % T
    assert read_lines(BASE | {"text": "msg"}, value) == [f'x  {AT}  "a?b"']
