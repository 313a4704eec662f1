"""Readings of the usual form are read in compiled code, to the bits that msgspec reads; the others are left to it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.wire import messages
from pipeline.wire.reading_json import READ_ALL, read_readings
from pipeline.wire.readings import decode_reading

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e6, 1e6).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1000, 1000).map(lambda x: repr(round(x, 4))),
    st.integers(-(10**25), 10**25).map(str),
    # Halfway between two float64s, and close to it.
    st.tuples(st.integers(2**52, 2**53 - 1), st.integers(-1, 1)).map(lambda p: f"{(2 * p[0] + 1) * 5 + p[1]}e-1"),
    st.tuples(st.integers(0, 10**18), st.integers(0, 25)).map(lambda p: f"0.{p[0]:0{p[1]}d}"),
    st.tuples(st.integers(0, 10**18), st.integers(-40, 40)).map(lambda p: f"{p[0]}E{p[1]:+d}"),
    st.sampled_from(["0", "-0", "-0.0", "0.0", "1e5", "1E+05", "1e-05", "9007199254740993", "9007199254740993.0"]),
)
# What is no number in JSON, or none at all.
ODD = st.sampled_from(
    [
        "null",
        "nul",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "1e+",
        "NaN",
        "Infinity",
        "true",
        '"1"',
        "",
        "[]",
        "1 2",
        "0x1",
        "--1",
    ]
)
BLANKS = st.sampled_from(["", "", " ", "\n", "\t\r "])
NAMES = st.sampled_from(["m", "pump-1", "Ω", 'a"b', "back\\slash", "name of forty-one characters, or nearly so"])


def usual(texts: list[bytes], names: list[str], length: int) -> Any:
    return read_readings(READ_ALL.load(print), texts, [messages.quoted(name) for name in names], length)


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, str, int]:
    """The text of a reading or of something close to one, the machine's name, and how many variables there are."""
    count = draw(st.integers(1, 4))
    name = draw(NAMES)
    values = draw(st.lists(NUMBERS | ODD if draw(st.booleans()) else NUMBERS, min_size=count, max_size=count))
    written_name = draw(st.sampled_from([json.dumps(name, ensure_ascii=False), json.dumps(name), '"other"', "7", '"m']))
    time = draw(st.sampled_from(["1763600000000", "0", "-1", "1e3", "1.0", "007", '"2025-11-20T00:53:20Z"', "9" * 18]))
    blank = [draw(BLANKS) for _ in range(6)]
    members = [
        f'"machine"{blank[0]}:{blank[1]}{written_name}',
        f'"time"{blank[1]}:{blank[2]}{time}',
        f'"values":{blank[3]}[{blank[4]}{f"{blank[0]},{blank[5]}".join(values)}{blank[2]}]',
        *draw(st.lists(st.sampled_from(['"more":1', '"time":5', '"valuesx":[]', '""']), max_size=1)),
    ]
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    text = f"{blank[5]}{{{blank[0]}{f'{blank[1]},{blank[3]}'.join(members)}{blank[2]}}}{blank[4]}"
    cut = draw(st.just(len(text)) | st.integers(0, len(text)))
    return text[:cut].encode(), name, draw(st.just(count) | st.integers(1, 5))


@settings(max_examples=400, deadline=None)
@given(st.lists(objects(), min_size=1, max_size=4), st.integers(1, 4))
def test_what_is_read_is_what_msgspec_reads(readings: list[tuple[bytes, str, int]], length: int) -> None:
    texts, names = [text for text, _, _ in readings], [name for _, name, _ in readings]
    times, values, plain = usual(texts, names, length)
    for text, name, time, row, is_plain in zip(texts, names, times, values, plain, strict=True):
        if is_plain:
            assert decode_reading(text)[:2] == (name, int(time))
            expected = [math.nan if number is None else number for number in decode_reading(text)[2]]
            assert row.tobytes() == np.array(expected, np.float64).tobytes() or np.isnan(row).any()
            np.testing.assert_array_equal(row, expected)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.floats(1e-4, 1e9) | st.floats(-1e9, -1e-4) | st.none(), min_size=1, max_size=8), st.booleans())
@example([0.1, 1 / 3, 123456.789, None, 5e-324 + 1], False)
def test_usual_readings_are_read(values: list[float | None], spaced: bool) -> None:
    """Numbers as programs write them, with up to 17 digits; only those very close to halfway between two are left."""
    separators = (", ", ": ") if spaced else (",", ":")
    text = json.dumps({"machine": "pump-1", "time": 1763600000000, "values": values}, separators=separators).encode()
    times, read, plain = usual([text], ["pump-1"], len(values))
    if plain[0]:
        assert times.tolist() == [1763600000000]
        np.testing.assert_array_equal(read[0], [math.nan if number is None else number for number in values])
    else:
        digits = [len(repr(abs(number)).replace(".", "").lstrip("0")) for number in values if number is not None]
        assert max(digits) >= 17


def test_rounded_readings_are_all_read() -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((500, 52)) * 10.0 ** rng.integers(-3, 5, 52)).round(6).tolist()
    texts = [json.dumps({"machine": "m", "time": n, "values": row}).encode() for n, row in enumerate(rows)]
    times, values, plain = usual(texts, ["m"] * 500, 52)
    assert plain.all()
    np.testing.assert_array_equal(values, rows)
    np.testing.assert_array_equal(times, np.arange(500))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"null",
        b'{"machine":"m","time":1,"values":[1,2]} x',
        b'{"machine":"m","time":1,"values":[1,2],}',
        b'{"machine":"m","time":1,"values":[1,2]',
        b'{"machine":"m","time":1,"values":[1,2,3]}',
        b'{"machine":"m","time":1,"values":[1]}',
        b'{"machine":"m","time":1,"time":1,"values":[1,2]}',
        b'{"machine":"m","values":[1,2]}',
        b'{"machine":"mm","time":1,"values":[1,2]}',
        b'{"machine":"m","time":1,"values":{"a":1}}',
        b'{"machine":"m","time":1.0,"values":[1,2]}',
        b'{"machine":"\\u006d","time":1,"values":[1,2]}',
    ],
)
def test_everything_else_is_left(text: bytes) -> None:
    good = b'{"machine":"m","time":1,"values":[1,2]}'
    assert usual([good, text, good], ["m"] * 3, 2)[2].tolist() == [True, False, True]
