"""Labels: which one counts where they overlap, how one takes the place of another, and that what is written is read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.wire.labels import LabelBook, LabelledSpan, label_output, read_label
from pipeline.wire.messages import MAX_TIME_MS, RejectedError
from pipeline.wire.records import Record

FAULTS = ("normal", "leak", "jam")


def book_of(*labels: tuple[int, int, str]) -> LabelBook:
    """Labels of one machine, each written a millisecond after the one before."""
    book = LabelBook()
    for written_ms, (start, end, fault) in enumerate(labels):
        book.insert(LabelledSpan("p1", start, end, fault, written_ms))
    return book


def faults(book: LabelBook, end: int) -> list[str | None]:
    return [book.fault_at("p1", time) for time in range(end)]


def test_a_label_is_corrected_and_ended_by_another_of_the_same_start() -> None:
    assert faults(book_of((2, MAX_TIME_MS, "laek"), (2, 4, "leak")), 6) == [
        "normal",
        "normal",
        "leak",
        "leak",
        "normal",
        "normal",
    ]
    # An earlier label that reaches over both counts behind the second one.
    assert faults(book_of((1, 6, "jam"), (2, 5, "leak"), (2, 3, "leak")), 6) == [
        "normal",
        "jam",
        "leak",
        "jam",
        "jam",
        "jam",
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12), st.sampled_from(FAULTS)), max_size=8), st.data())
def test_many_times_have_the_faults_that_single_ones_have(
    drawn: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    labels = [(start, start + length, fault) for start, length, fault in drawn]
    known = data.draw(st.integers(0, len(labels)))
    expected = faults(book_of(*labels[:known]), 26)
    found = book_of(*labels).faults_at("p1", np.arange(26), FAULTS.index, known)
    assert [None if one < 0 else FAULTS[one] for one in found] == expected


@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=20),
    st.text(min_size=1, max_size=20),
    st.integers(0, MAX_TIME_MS - 2),
    st.none() | st.integers(1, 10_000),
)
def test_what_is_written_is_read(machine: str, fault: str, start_ms: int, length_ms: int | None) -> None:
    end_ms = None if length_ms is None else min(start_ms + length_ms, MAX_TIME_MS - 1)
    try:
        output = label_output(machine, fault, start_ms, end_ms, partition=3, written_ms=7)
    except RejectedError:
        assert any(0xD800 <= ord(letter) < 0xE000 for letter in itertools.chain(machine, fault))
        return
    label = read_label(Record(output.topic, 3, 0, output.timestamp_ms, output.key, output.value))
    assert label == LabelledSpan(machine, start_ms, MAX_TIME_MS if end_ms is None else end_ms, fault, 7)


@pytest.mark.parametrize(
    ("machine", "fault", "start_ms", "end_ms", "message"),
    [
        ("", "leak", 0, 1, "length >= 1"),
        ("p1", "x" * 300, 0, 1, "length <= 200"),
        ("p1", "leak", 5, 5, "not after its start"),
        ("p1", "leak", MAX_TIME_MS, None, "between 1970 and 2109"),
    ],
)
def test_what_would_not_be_read_is_not_written(
    machine: str, fault: str, start_ms: int, end_ms: int | None, message: str
) -> None:
    with pytest.raises(RejectedError, match=message):
        label_output(machine, fault, start_ms, end_ms, partition=0, written_ms=0)
