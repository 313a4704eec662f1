"""A form that cannot be meant is refused with the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.form import Form
from pipeline.config.profile import parse_profile
from pipeline.errors import ProfileError

PROFILE = """
plant: works
machine_types:
  - name: press
    frame_period: 10s
    faults: [normal, leak]
    sources:
      sensors:
        topic: plant.line1
        form: {form}
    variables: [{{name: temp, tag: Reactor.Temp}}]
"""


def load(form: str) -> Form:
    profile = parse_profile(PROFILE.format(form=form), where="plant.yaml")
    return profile.forms["/plant.line1"]


@pytest.mark.parametrize(
    ("form", "field", "message"),
    [
        ("{machine: te-01}", "form.machine", "a name with other signs than letters"),
        ("{machine: {}}", "form.machine", "one of path, key, header, topic or constant is needed, not none"),
        ("{machine: {path: a, key: true}}", "form.machine", "not path and key"),
        ("{machine: {key: true, pattern: 'x('}}", "form.machine", "is not a regular expression"),
        ("{machine: {key: true, pattern: 'x'}}", "form.machine", "needs a group (...)"),
        ("{time: {path: t, unit: minutes}}", "form.time.unit", "'ns'"),
        ("{time: {path: t, zone: Mars/Base}}", "form.time", "is not a time zone such as Europe/Berlin"),
        ("{time: {path: t, format: '%H:%M'}}", "form.time", "has no year, month and day"),
        ("{time: {path: t, format: '%Y-%Q'}}", "form.time", "cannot be read by strptime"),
        ("{time: {record: true, unit: s}}", "form.time", "own time stamp has no unit"),
        ("{time: {path: t, header: h}}", "form.time", "one of path, header or record"),
        ("{values: 'a[', name: n}", "form.values", "is not a JMESPath"),
        ("{value: v}", "form", "name: where does the name of the one value stand?"),
        ("{values: v, name: n}", "form", "value: where does the value"),
        ("{values: v, fields: {a: b}}", "form", "fields: cannot be given together"),
        ("{fields: {}}", "form", "fields: names no path"),
        ("{value_time: t}", "form", "value_time: needs values and value"),
        ("{values: v, value: x, value_time: t, sample_period: 1s}", "form", "value_time: cannot"),
        ("{quality: {path: q, good: []}}", "form.quality", "names no quality"),
        ("{quality: {good: [1]}}", "form.quality.path", "required"),
        ("{sample_time: last}", "form", "sample_time: needs sample_period"),
        ("{sample_period: 10us}", "form.sample_period", "is not a duration"),
        ("{text: a, template: '{b}'}", "form", "text: cannot be given together with template"),
        ("{template: 'code {code'}", "form", "'{' without '}'"),
        ("{template: 'code {code:>5}'}", "form", "{code:>5} is not a field"),
        ("{template: 'code {}'}", "form", "{} is not a field"),
        ("{template: 'no field'}", "form", "has no field such as {code}"),
        ("{template: '[a [{b}]]'}", "form", "brackets cannot stand inside brackets"),
        ("{template: '{b}]'}", "form", "']' without '['"),
        ("{template: '[{b}'}", "form", "'[' without ']'"),
        ("{template: '{b}}'}", "form", "'}' without '{'"),
        ("{words: {a: {1: x}}}", "form", "words: are those of a template"),
        ("{template: '{b}', words: {a: {1: x}}}", "form", "words: the template has no field a"),
        ("{charset: klingon}", "form", "charset: 'klingon' is none"),
        ("{encoding: avro, charset: latin-1}", "form", "charset: Avro"),
        ("{encoding: protobuf}", "form.encoding", "'avro'"),
        ("{envelop: connect}", "form.envelop", "did you mean envelope?"),
    ],
)
def test_the_field_that_is_wrong_is_named(form: str, field: str, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load(form)
    text = str(caught.value)
    assert f"machine_types.0.sources.sensors.{field}" in text
    assert message in text
    assert "\n" not in text


def test_a_form_without_fields_is_faultlines_own() -> None:
    assert load("{}") == Form()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"machine": "a.b"}, {"machine": {"path": "a.b"}}),
        ({"machine": {"constant": 7}}, {"machine": {"constant": "7"}}),
        ({"quality": {"path": "q", "good": 192}}, {"quality": {"path": "q", "good": [192]}}),
        ({"quality": {"path": "q", "good": "Good"}}, {"quality": {"path": "q", "good": ["Good"]}}),
        ({"template": "{s}", "words": {"s": {1: 2.5}}}, {"template": "{s}", "words": {"s": {"1": "2.5"}}}),
        ({"template": "{s}", "words": {"s": {True: "on"}}}, {"template": "{s}", "words": {"s": {"true": "on"}}}),
    ],
)
def test_short_notations_mean_the_long_ones(form: dict[str, Any], expected: dict[str, Any]) -> None:
    assert Form.model_validate(form) == Form.model_validate(expected)
