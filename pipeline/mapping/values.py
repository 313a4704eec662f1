"""The values of a reading, found as a form says, with their qualities and times; and samples, spread over readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

from pipeline.config.expressions.paths import is_from_root, simple_steps
from pipeline.config.form import Form
from pipeline.mapping.bodies import BodyReader, described
from pipeline.mapping.numbers import quality_test
from pipeline.mapping.places import Entry, path_finder, text_finder, time_finder
from pipeline.mapping.times import TimeReader
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import Given, Reading, Unused, ValueReason, shown

DEFAULT_VALUES: Final = "values"
MAX_SAMPLES: Final = 65_536
"""Samples of one variable in one record, at most."""


class Found(NamedTuple):
    """Values as they were given, by name or in order; those of bad quality are Unused already."""

    values: dict[str, Any] | list[Any]
    times: dict[str, int]
    """Times of values that have one of their own, by name."""


FindValues = Callable[[Entry], Found]
_NO_TIMES: dict[str, int] = {}


def value_finder(form: Form, bodies: BodyReader) -> FindValues:
    """The finder of the values of a form's readings; it raises RejectedError."""
    if form.fields is not None:
        return _of_fields(form)
    if form.values is None and form.value is not None:
        return _of_one(form, bodies)
    if form.value is not None:
        return _of_entries(form, bodies)
    return _of_all(form)


def _of_fields(form: Form) -> FindValues:
    assert form.fields is not None
    finders = [(name, path_finder(path)) for name, path in form.fields.items()]
    mark = _marker(form)

    def find(entry: Entry) -> Found:
        values = {name: value for name, find_one in finders if (value := find_one(entry)) is not None}
        return Found(mark(entry, values), _NO_TIMES)

    return find


def _of_one(form: Form, bodies: BodyReader) -> FindValues:
    assert form.name is not None and form.value is not None
    find_name, find_value = text_finder(form.name, bodies), path_finder(form.value)
    mark = _marker(form)

    def find(entry: Entry) -> Found:
        name = find_name(entry)
        if name is None:
            raise RejectedError(Reason.SCHEMA, f"there is no name of the value; {described(entry.content)}")
        return Found(mark(entry, {name: find_value(entry)}), _NO_TIMES)

    return find


def _of_all(form: Form) -> FindValues:
    path = form.values or DEFAULT_VALUES
    find_values = path_finder(path)
    mark = _marker(form)
    others = _other_fields(form, path)

    def find(entry: Entry) -> Found:
        values = find_values(entry)
        if others and type(values) is dict:
            values = {name: value for name, value in values.items() if name not in others}
        if type(values) is dict or type(values) is list:
            return Found(mark(entry, values), _NO_TIMES)
        raise _no_values(path, values, entry)

    return find


def _other_fields(form: Form, values: str) -> frozenset[str]:
    """Names in the object of values that are no values, because the machine, the time or the quality stands there."""
    steps = simple_steps(values)
    paths = [form.machine.path, form.time.path, None if form.quality is None else form.quality.path]
    found = set()
    for path in paths:
        inside = None if path is None or steps is None else simple_steps(path)
        if inside is None or steps is None or path is None or inside[: len(steps)] != steps or inside == steps:
            continue
        if form.each is None or is_from_root(path) == is_from_root(values):
            found.add(inside[len(steps)])
    return frozenset(found)


def _of_entries(form: Form, bodies: BodyReader) -> FindValues:
    """Each value in an object of its own, which an array holds, or an object by name."""
    assert form.values is not None and form.value is not None
    find_values, find_value = path_finder(form.values), path_finder(form.value)
    find_name = None if form.name is None else text_finder(form.name, bodies)
    is_good, find_quality = None, None
    if form.quality is not None:
        is_good, find_quality = quality_test(form.quality), path_finder(form.quality.path)
    find_time, read_time = None, None
    if form.value_time is not None:
        find_time, read_time = time_finder(form.value_time), TimeReader(form.value_time).read

    def find(entry: Entry) -> Found:
        values, times = {}, {}
        for given_name, content in _entries(find_values(entry), entry):
            inner = Entry(content, entry.body, entry.record)
            name = given_name if find_name is None else _name(find_name, inner)
            if type(content) is not dict and type(content) is not list:
                values[name] = Unused(ValueReason.NOT_A_NUMBER, shown(content))
                continue
            values[name] = find_value(inner)
            if is_good is not None and find_quality is not None and not is_good(quality := find_quality(inner)):
                values[name] = Unused(ValueReason.BAD_QUALITY, shown(quality))
            if find_time is not None and read_time is not None and (time := find_time(inner)) is not None:
                times[name] = read_time(time, entry.record.timestamp_ms)
        return Found(values, times)

    def _entries(values: Any, entry: Entry) -> Iterator[tuple[str, Any]]:
        if type(values) is dict:
            return ((str(name), content) for name, content in values.items())
        if type(values) is list and find_name is not None:
            return (("", content) for content in values)
        raise _no_values(form.values or "", values, entry)

    return find


def _name(find: Callable[[Entry], str | None], entry: Entry) -> str:
    """A value's name; a value without one is nobody's, but does not cost the others."""
    try:
        return find(entry) or ""
    except RejectedError:
        return ""


def _no_values(path: str, values: Any, entry: Entry) -> RejectedError:
    if values is None:
        return RejectedError(Reason.SCHEMA, f"there are no values at path {path}; {described(entry.content)}")
    expected = "an object, or an array of objects if `name` is declared" if type(values) is list else "object or array"
    return RejectedError(Reason.SCHEMA, f"path {path} is {shown(values)}, not {expected}")


def _marker(form: Form) -> Callable[[Entry, Any], Any]:
    """Of values whose qualities stand beside them: one for all, or one for each in an object or array like theirs."""
    if form.quality is None:
        return lambda entry, values: values
    is_good, find = quality_test(form.quality), path_finder(form.quality.path)

    def one(quality: Any, value: Any) -> Any:
        return value if is_good(quality) else Unused(ValueReason.BAD_QUALITY, shown(quality))

    def mark(entry: Entry, values: Any) -> Any:
        quality = find(entry)
        if type(values) is list:
            each = quality if type(quality) is list else [quality] * len(values)
            each = [*each[: len(values)], *[None] * (len(values) - len(each))]
            return [one(at, value) for at, value in zip(each, values, strict=True)]
        if type(quality) is dict and not (quality.keys() <= {"Code", "Symbol"}):
            return {name: one(quality.get(name), value) for name, value in values.items()}
        return {name: one(quality, value) for name, value in values.items()}

    return mark


def spread(
    machine: str,
    time_ms: int,
    values: dict[str, Any] | list[Any],
    read: Callable[[Any], Given],
    period_ms: int,
    time_of: Literal["first", "last"],
) -> Iterator[Reading]:
    """One reading for each time of a sample; a value that is no array is the one sample at `time_ms`."""
    arrays = [value if type(value) is list else [value] for value in _all(values)]
    count = max(map(len, arrays), default=0)
    if count > MAX_SAMPLES:
        raise RejectedError(Reason.TOO_LARGE, f"it has {count} samples of a variable; {MAX_SAMPLES} may be in a record")
    is_last = time_of == "last"
    starts = [count - len(array) if is_last else 0 for array in arrays]
    for number in range(count):
        at_ms = time_ms + (number - count + 1 if is_last else number) * period_ms
        row: list[Given] = [
            read(array[number - start]) if start <= number < start + len(array) else None
            for array, start in zip(arrays, starts, strict=True)
        ]
        if isinstance(values, list):
            yield Reading(machine, at_ms, row)
        else:
            yield Reading(machine, at_ms, dict(zip(values, row, strict=True)))


def _all(values: dict[str, Any] | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else list(values.values())
