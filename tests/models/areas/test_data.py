"""What a machine model answers along a recording of an area: records in, arrays out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from models.areas.data import NOT_ABOUT_ONE, AreaAnswers, AreaText, answers_of_recording
from pipeline.errors import DataError
from pipeline.wire.records import Record
from tests.support.builders import SumRunner, event, numbered, profile, reading

PERIOD_MS = 10_000
FRAMES = 12
MACHINES = ("p1", "p2", "p3")


def recording() -> list[Record]:
    """Twelve frames of three machines: p2 silent in the middle, p3 always; texts about p1, p2 and a header."""
    records = [
        reading(machine, frame * PERIOD_MS + 1, [float(frame), place])
        for place, machine in enumerate(MACHINES[:2])
        for frame in range(FRAMES)
        if not (machine == "p2" and 4 <= frame < 6)
    ]
    records += [event("p1", 3 * PERIOD_MS + 5, "it leaks"), event("p2", 7 * PERIOD_MS + 5, "hm")]
    records += [event("hall/water", 5 * PERIOD_MS + 5, "warm header"), event("elsewhere/water", 5_000, "not ours")]
    return numbered(sorted(records, key=lambda record: record.timestamp_ms))


def answers(records: Iterable[Record]) -> AreaAnswers:
    def encode(texts: object) -> np.ndarray:
        return np.array([[len(text)] for text in list(texts)], np.float32).reshape(-1, 1)  # type: ignore[call-overload]

    return answers_of_recording(
        records, profile(), SumRunner(), encode, area="hall", machines=MACHINES, utilities=("air", "water")
    )


def test_each_machine_has_an_answer_in_the_frames_in_which_something_of_it_is_there() -> None:
    found = answers(recording())
    assert found.start_ms.tolist() == [frame * PERIOD_MS for frame in range(FRAMES)]
    assert found.present[0, :, 0].all()
    assert not found.present[:, :, 2].any() and not found.known()[:, 2].any()
    assert found.present[1, :, 0].tolist() == [frame >= 3 for frame in range(FRAMES)]
    assert found.probabilities()[~found.known()].max() == 0
    assert found.probabilities()[found.known()].sum(axis=-1) == pytest.approx(1, abs=1e-6)
    assert found.utility_present[:, 0].sum() == 0
    assert found.utility_present[:, 1].tolist() == [frame >= 5 for frame in range(FRAMES)]


def test_texts_are_kept_with_their_frame_and_what_they_are_about() -> None:
    found = answers(recording())
    assert found.texts == (
        AreaText(3, 0, NOT_ABOUT_ONE, "it leaks"),
        AreaText(5, NOT_ABOUT_ONE, 1, "warm header"),
        AreaText(7, 1, NOT_ABOUT_ONE, "hm"),
    )
    assert found.text_vectors.ravel().tolist() == [8, 11, 2]


def test_a_modality_that_is_taken_away_leaves_what_would_have_been_answered_without_it() -> None:
    whole = answers(recording())
    silent = answers(record for record in recording() if record.topic != "events")
    missing = np.zeros(whole.present.shape, np.bool_)
    missing[1] = True
    without = whole.without(missing)
    assert np.array_equal(without.probabilities(), silent.probabilities())
    assert np.array_equal(without.present, silent.present)
    missing[0] = True
    assert not whole.without(missing).known().any()
    missing[1] = False
    only_texts = whole.without(missing)
    assert np.array_equal(only_texts.probabilities()[3:, 0], whole.modality_probabilities[1, 3:, 0])


def test_answers_are_read_as_they_were_saved(tmp_path: Path) -> None:
    found = answers(recording())
    found.save(tmp_path / "answers" / "hall.npz")
    again = AreaAnswers.load(tmp_path / "answers" / "hall.npz")
    assert (again.area, again.machines, again.utilities, again.texts) == (
        "hall",
        MACHINES,
        ("air", "water"),
        found.texts,
    )
    assert np.array_equal(again.fused, found.fused) and np.array_equal(again.present, found.present)
    assert again.embeddings == found.embeddings == ()


def test_a_recording_of_others_is_refused() -> None:
    with pytest.raises(DataError, match="hall has no frame"):
        answers(record for record in recording() if record.key not in (b"p1", b"p2"))
