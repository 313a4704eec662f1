"""Whatever comes, a form's reader refuses it or reads it; and rows are what the reader of single records reads."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.hints import describe_time, looks_like
from pipeline.mapping.form_reader import FormReader
from pipeline.wire.messages import RejectedError
from pipeline.wire.readings import Unused
from pipeline.wire.records import Record
from tests.support.forms import T, foreign_record, reader_of

QUALITY = {"path": "q", "good": [192, "Good"]}
FORMS: list[dict[str, Any]] = [
    {},
    {"machine": "m", "time": {"path": "t", "unit": "s"}, "values": "v"},
    {"machine": "m", "time": {"path": "t", "zone": "Europe/Berlin"}, "values": "@"},
    {"machine": "m", "time": "t", "name": "n", "value": "v", "quality": QUALITY},
    {"machine": "$.m", "time": "t", "each": "v", "values": "@", "decimal": ","},
    {"machine": "m", "time": "t", "values": "v", "value": "v", "name": "n", "value_time": "t", "quality": QUALITY},
    {"machine": "m", "time": "t", "values": "v", "value": "x"},
    {"machine": {"key": True, "pattern": "(.)"}, "time": {"record": True}, "fields": {"a": "v.a", "b": "v[0] | [1]"}},
    {"machine": {"key": "m"}, "time": {"header": "t"}, "values": "v", "sample_period": "7ms", "sample_time": "last"},
    {"envelope": "connect", "machine": "m", "time": "t", "values": "v"},
    {"envelope": "cloudevents", "machine": {"header": "ce_id"}, "time": "t", "values": "v"},
    {"compression": "gzip"},
    {"registry": True},
    {"encoding": "text", "machine": {"key": True}, "time": {"record": True}, "name": {"constant": "a"}, "value": "@"},
    {"encoding": "avro"},
    {"machine": "m", "time": "t", "text": "v"},
    {"machine": "m", "time": "t", "template": "{v}[ {n}] {q}", "words": {"v": {1: "one"}}},
]
READERS = [reader_of(form) for form in FORMS]

TIMES = st.sampled_from([T, T // 1000, str(T), "2025-11-20T00:53:20Z", "2025-10-26T02:30:00", 1e300, -1, None, [T]])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "12,5", "1e3", 10**400, "Good", 192, T])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("mtvnqax"), inner, max_size=5),
    max_leaves=12,
)
BODIES = st.fixed_dictionaries({}, optional={"m": JSON, "t": TIMES | JSON, "v": JSON, "n": JSON, "q": JSON}) | JSON


def check(reader: FormReader, record: Record) -> None:
    """Nothing but RejectedError; what is read is complete and usable."""
    for read in (reader.readings, reader.texts):
        try:
            found = read(record)
        except RejectedError as error:
            assert len(error.detail) < 600
            continue
        for one in found:
            assert one.machine
            one.machine.encode()
            assert isinstance(one[1] if isinstance(one, tuple) else one.time, int)
            if isinstance(one, tuple):
                values = one.values if isinstance(one.values, list) else list(one.values.values())
                for value in values:
                    assert value is None or isinstance(value, Unused) or (type(value) is float and math.isfinite(value))
            else:
                one.text.encode()


@pytest.mark.parametrize("number", range(len(FORMS)))
@settings(max_examples=60, deadline=None)
@given(body=BODIES, key=st.none() | st.binary(max_size=12) | st.just(b'{"m": "x"}'), header=st.binary(max_size=6))
def test_json_of_any_shape(number: int, body: Any, key: bytes | None, header: bytes) -> None:
    value = json.dumps(body).encode()
    reader = READERS[number]
    value = gzip.compress(value) if reader.form.compression == "gzip" else value
    value = b"\x00\x00\x00\x00\x01" + value if reader.form.registry else value
    check(reader, foreign_record(value, key=key, headers=(("t", header),)))


@pytest.mark.parametrize("number", range(len(FORMS)))
@settings(max_examples=40, deadline=None)
@given(value=st.none() | st.binary(max_size=60), key=st.none() | st.binary(max_size=12))
def test_bytes_of_any_kind(number: int, value: bytes | None, key: bytes | None) -> None:
    check(READERS[number], foreign_record(value, key=key))


HOSTILE = [
    b"",
    b"\x00",
    b"\x00" * 64,
    b"\x1f\x8b" + b"\x00" * 64,
    b"[" * 50_000,
    b'{"m":' * 50_000,
    b'"' + b"\\ud800" * 10 + b'"',
    b'{"machine": "\\u0000", "time": 1763600000000, "values": {}}',
    b'{"machine": "x", "time": ' + b"9" * 10_000 + b', "values": {"a": 1}}',
    b'{"machine": "x", "time": 1763600000000, "values": {"a": ' + b"9" * 10_000 + b"}}",
    b'{"machine": "x", "time": 1763600000000, "values": {"a": 1e999, "b": -1e999}}',
    b'{"machine": ' + b"9" * 10_000 + b', "time": 1763600000000, "values": {"a": 1}}',
    b'{"machine": NaN, "time": Infinity, "values": NaN}',
    b'{"machine": "x", "time": 1763600000000, "values": {"a": {"a": {"a": []}}}}',
    b'"' + b'\\"' * 1000 + b'"',
    json.dumps(json.dumps({"machine": "x"})).encode(),
    "\u202e\u0000\ufeff".encode(),
    b"\xff\xfe\x00\x00",
    b"\x00\x00\xfe\xff",
    gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value[:20]))
def test_the_hostile_corpus(value: bytes) -> None:
    for reader in READERS:
        check(reader, foreign_record(value, key=value[:200], headers=(("t", value[:200]),)))


@given(st.binary(max_size=80))
def test_a_hint_never_fails(value: bytes) -> None:
    assert looks_like(value) is None or isinstance(looks_like(value), str)


@given(SCALARS | st.just(10**5000), st.integers(-(2**63), 2**63 - 1))
def test_a_description_never_fails(value: Any, stamp_ms: int) -> None:
    described = describe_time(value, stamp_ms)
    assert described is None or len(described) < 200


# -- rows ------------------------------------------------------------------------------------------------------

NAMES = ("a", "b.c", "ü", "d")
ROW_FORMS: list[dict[str, Any]] = [
    {"machine": "m", "time": "t", "values": "v"},
    {"machine": "x.m", "time": {"path": "x.t", "unit": "s"}, "values": "x.v"},
    {"machine": "m", "time": {"path": "t", "zone": "UTC"}, "values": "@"},
    {"machine": {"key": True, "pattern": "^(.[^/]*)"}, "time": {"record": True}, "values": "v"},
    {"machine": {"path": "m", "pattern": "^(.)"}, "time": {"header": "t"}, "values": "v"},
    {"machine": "m", "time": "t", "fields": {"a": "v.a", "d": "d", "other": "v.o"}},
    {"machine": "m", "time": "t", "values": "v", "envelope": "connect"},
    {"machine": "m", "time": "t", "values": "v", "registry": True},
]
NUMBERS = st.none() | st.floats() | st.integers(-(10**20), 10**20) | st.sampled_from(["1.5", True, "x", 10**400])
ROWS = st.builds(
    lambda machine, time, values, extra: {"m": machine, "t": time, "v": values, "d": 1.5} | extra,
    st.sampled_from(["te-01", " te-02 ", "", 7, None, "ü/x"]),
    st.sampled_from([T, T // 1000, T + 0.5, str(T), "2025-11-20T00:53:20Z", "?", None]),
    st.dictionaries(st.sampled_from([*NAMES, "new", "o"]), NUMBERS, max_size=5)
    | st.lists(NUMBERS, min_size=3, max_size=5),
    st.dictionaries(st.sampled_from(["x", "y"]), NUMBERS, max_size=1),
)


def wrapped(form: dict[str, Any], body: dict[str, Any]) -> bytes:
    if form["machine"] == "x.m":
        body = {"x": body}
    if form["values" if "values" in form else "fields"] == "@":
        values = body.pop("v")
        body |= values if isinstance(values, dict) else {"a": values}
    content = json.dumps({"schema": None, "payload": body} if "envelope" in form else body).encode()
    return b"\x00\x00\x00\x00\x01" + content if "registry" in form else content


@pytest.mark.parametrize("form", ROW_FORMS, ids=str)
@settings(max_examples=80, deadline=None)
@given(bodies=st.lists(ROWS, min_size=1, max_size=6))
def test_rows_are_what_single_records_read_as(form: dict[str, Any], bodies: list[dict[str, Any]]) -> None:
    reader = reader_of(form)
    records = [
        foreign_record(wrapped(form, dict(body)), key=f"k{at % 2}/x".encode(), headers=(("t", str(T + at).encode()),))
        for at, body in enumerate(bodies)
    ]
    for _ in range(2):  # the second time by the layout of a record of the first
        check_rows(form, reader, records)


def check_rows(form: dict[str, Any], reader: FormReader, records: list[Record]) -> None:
    rows = reader.rows(records, NAMES)
    assert rows is not None
    assert len(rows.machines) == len(rows.times) == len(rows.values) == len(rows.usual) == len(records)
    unknown: dict[str, int] = {}
    for at in [at for at in range(len(records)) if rows.usual[at]]:
        (reading,) = reader.readings(records[at])
        assert (reading.machine, reading.time_ms) == (rows.machines[at], rows.times[at])
        if isinstance(reading.values, list):
            expected = reading.values
        else:
            expected = [reading.values.get(name) for name in NAMES]
            for name in reading.values.keys() - set(NAMES):
                unknown[name] = unknown.get(name, 0) + 1
        read = [None if math.isnan(value) else value for value in rows.values[at].tolist()]
        assert read == expected
    assert rows.unknown == unknown


LAID_OUT = '{{"m": {}, "n": {}, "t": {}, "v": {{"a": {}, "rssi": {}, "b.c": {}}}, "e": {{}}, "l": [1, {}]}} '
SCALAR_TEXTS = st.sampled_from(
    [
        *(
            "1",
            "-1.5",
            "1e3",
            "1E-2",
            "-0.0",
            "0",
            "01",
            "1.",
            ".5",
            "-",
            "nul",
            "null",
            "true",
            "false",
            "fals",
            "NaN",
        ),
        *("123456789012345678", "1234567890123456789012", "0.1000000000000000055511151231257827", "1e400", "5e-324"),
        *('"x"', '"é"', '"\\n"', '"\\ud800"', '""', '"', "[]", "{}", "12 ", " 12", "1,2", '"te-01"', str(T)),
        '"2025-11-20T00:53:20Z"',
    ]
) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
USUAL = ('"te-01"', '"C"', str(T), "1.5", "-61", "2", '"z"')


@settings(max_examples=300, deadline=None)
@given(
    changed=st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 6), SCALAR_TEXTS, max_size=3),
            st.none() | st.tuples(st.integers(0, 120), st.binary(max_size=2)),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_records_of_a_known_layout_read_as_single_records(changed: list[Any]) -> None:
    form = {"machine": "m", "time": "t", "values": "v"}
    reader = reader_of(form)
    usual = foreign_record(LAID_OUT.format(*USUAL).encode())
    records = [usual]
    for scalars, damage in changed:
        value = LAID_OUT.format(*[scalars.get(at, given) for at, given in enumerate(USUAL)]).encode()
        if damage is not None:
            value = value[: damage[0]] + damage[1] + value[damage[0] + len(damage[1]) :]
        records.append(foreign_record(value))
    for batch in ([usual], records, records[::-1], [*records, *records]):
        check_rows(form, reader, batch)


@pytest.mark.parametrize("name", ['\\"', "\\\\", "\\n", "\\ud800", "", "a.b"])
def test_odd_names_are_counted_in_rows_or_left_alone(name: str) -> None:
    reader = reader_of({"machine": "m", "time": "t", "values": "v"})
    usual = foreign_record({"m": "te-01", "t": T, "v": {"a": 1.5, "new": 1}})
    odd = foreign_record(f'{{"m": "te-01", "t": {T}, "v": {{"a": 1.5, "{name}": 1}}}}'.encode())
    for batch in ([usual, odd], [odd, usual, odd], [usual]):
        check_rows({"values": "v"}, reader, batch)
    rows = reader.rows([usual], NAMES)
    assert rows is not None
    assert rows.usual.all()


@pytest.mark.parametrize(
    "odd", [b'"\xb0C"', '"°C"'.encode(), b"1e999", b'"\\ud800"', b"[1e999]", b'{"\xb0": 1}', b"01"]
)
def test_what_nobody_asked_for_is_judged_the_same_in_rows(odd: bytes) -> None:
    value = b'{"m": "te-01", "t": %d, "v": {"a": 1.5}, "unit": %s}'
    for first in (b'"C"', odd):
        reader = reader_of({"machine": "m", "time": "t", "values": "v"})
        for _ in range(2):
            check_rows(reader.form.model_dump(exclude_unset=True), reader, [foreign_record(value % (T, first))] * 3)
            check_rows(reader.form.model_dump(exclude_unset=True), reader, [foreign_record(value % (T, odd))] * 3)


def test_usual_records_are_read_as_rows_also_after_unusual_ones() -> None:
    reader = reader_of(ROW_FORMS[0])
    usual = foreign_record({"m": "te-01", "t": T, "v": {"a": 1.5, "b.c": None, "ü": 2}})
    broken = foreign_record(b"\xff")
    extra = foreign_record({"m": "te-01", "t": T, "v": {"a": 1.5, "rssi": -61}})
    for _ in range(2):
        rows = reader.rows([usual, broken, extra, usual], NAMES)
        assert rows is not None
        assert rows.usual.tolist() == [True, False, True, True]
        assert rows.unknown == {"rssi": 1}
        assert rows.machines == ["te-01", "", "te-01", "te-01"]
        assert rows.values[0, :3].tolist()[::2] == [1.5, 2.0]
    in_order = foreign_record(msgspec.json.encode({"m": "te-01", "t": T, "v": [1, 2.5, None, 4]}))
    reader = reader_of(ROW_FORMS[0])
    rows = reader.rows([in_order, usual], NAMES)
    assert rows is not None
    assert rows.usual.tolist() == [True, False]
    assert rows.values[0, 1] == 2.5


@pytest.mark.parametrize(
    "form",
    [
        {"each": "@"},
        {"compression": "gzip"},
        {"encoding": "avro"},
        {"values": "v[?x]"},
        {"quality": {"path": "q", "good": [1]}},
        {"values": "a", "machine": "a.b.c"},
        {"name": "n", "value": "v"},
        {"envelope": "cloudevents"},
    ],
)
def test_other_forms_have_no_rows_or_only_usual_ones(form: dict[str, Any]) -> None:
    record = foreign_record({"machine": "m", "time": T, "values": {"a": 1}})
    rows = reader_of(form).rows([record], NAMES)
    assert rows is None or not rows.usual.any()
