"""Corruptions of runs: what each level means, that more of it is worse, and that none touches labels or the future."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.corruptions import EIGHT, CorruptionConfig, CorruptionName, Corruptor
from models.data.runs import Run
from models.data.scaling import Scaling
from models.data.text_pools import TextPool
from models.encoders.placed_texts import PlacedText

FRAMES, VARIABLES = 200, 10
NAMES: tuple[CorruptionName, ...] = get_args(CorruptionName)
READINGS: tuple[CorruptionName, ...] = (
    "white_noise",
    "sensor_drop",
    "frame_drop",
    "stuck_sensors",
    "silent_sensors",
)
POOL = TextPool(
    (
        "shift handed over to others",
        "lamp replaced in hall",
        "water drips from pump",
        "seal leaking water",
        "shaft blocked again",
        "motor stands still",
        "strange noise somewhere",
    ),
    np.array([0, 0, 1, 1, 2, 2, -1]),
    tuple("abcdefg"),
)
ABOUT = dict(zip(POOL.texts, POOL.classes.tolist(), strict=True))
SCALING = Scaling(np.zeros(VARIABLES, np.float32), np.linspace(0.5, 5, VARIABLES, dtype=np.float32))
LEVELS = st.floats(0, 1)
Placed = tuple[PlacedText, ...]


def made(seed: int = 0) -> tuple[Run, Placed]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((FRAMES, VARIABLES)).astype(np.float32)
    values[0, 0] = -0.0
    values[rng.random(values.shape) < 0.05] = np.nan
    labels = np.zeros(FRAMES, np.int64)
    labels[50:120], labels[150:] = 1, 2
    frames = np.sort(rng.integers(0, FRAMES, 60)).tolist()
    texts = (PlacedText(frame, float(1 - rng.random()), str(rng.choice(POOL.texts))) for frame in frames)
    ordered = tuple(sorted(texts, key=lambda text: (text.frame, -text.age)))
    return Run(f"run {seed}", "group", "file", values, labels), ordered


def corrupted(
    name: CorruptionName, level: float, run: Run | None = None, texts: Placed | None = None, seed: int = 7
) -> tuple[Run, Placed]:
    whole, placed = made()
    corrupt = Corruptor(CorruptionConfig(), SCALING, POOL, seed=seed)
    runs, found = corrupt(name, [run or whole], [placed if texts is None else texts], level)
    return runs[0], found[0]


def lost(run: Run) -> np.ndarray:
    return np.isnan(run.values)


@pytest.mark.parametrize("name", NAMES)
def test_level_0_leaves_everything_bit_for_bit(name: CorruptionName) -> None:
    run, texts = made()
    now, heard = corrupted(name, 0)
    assert now.values.tobytes() == run.values.tobytes()
    assert heard == texts


@pytest.mark.parametrize("name", NAMES)
@given(level=LEVELS)
@settings(max_examples=10, deadline=None)
def test_only_what_is_named_changes_and_never_a_label(name: CorruptionName, level: float) -> None:
    run, texts = made()
    before = run.values.copy(), run.labels.copy()
    now, heard = corrupted(name, level, run, texts)
    np.testing.assert_array_equal(now.labels, before[1])
    np.testing.assert_array_equal(run.values, before[0])
    assert now.values.dtype == np.float32
    assert (now.name, now.group, now.source) == (run.name, run.group, run.source)
    if name in READINGS:
        assert heard == texts
        # No corruption invents a reading.
        assert (lost(now) >= lost(run)).all()
    else:
        assert now.values.tobytes() == run.values.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_chance_comes_from_the_seed_and_the_run_alone(name: CorruptionName) -> None:
    corrupt = Corruptor(CorruptionConfig(), SCALING, POOL, seed=7)
    pairs = [made(seed) for seed in range(4)]
    runs, texts = corrupt(name, [run for run, _ in pairs], [placed for _, placed in pairs], 0.5)
    again, said = corrupt(name, [pairs[2][0]], [pairs[2][1]], 0.5)
    assert again[0].values.tobytes() == runs[2].values.tobytes()
    assert said[0] == texts[2]
    others = [corrupted(name, 0.5, *pairs[2], seed=seed) for seed in range(8, 16)]
    assert any(run.values.tobytes() != again[0].values.tobytes() or heard != said[0] for run, heard in others)


@pytest.mark.parametrize("name", READINGS)
@given(level=LEVELS, now=st.integers(0, FRAMES - 1))
@settings(max_examples=15, deadline=None)
def test_readings_do_not_depend_on_later_ones(name: CorruptionName, level: float, now: int) -> None:
    run, _ = made()
    later = run.values.copy()
    later[now + 1 :] = 99
    one, other = corrupted(name, level, run)[0], corrupted(name, level, replace(run, values=later))[0]
    assert one.values[: now + 1].tobytes() == other.values[: now + 1].tobytes()


@given(level=LEVELS, seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_skewed_text_is_never_used_before_it_was_there(level: float, seed: int) -> None:
    run, _ = made()
    texts = tuple(PlacedText(frame, 0.25 + frame % 3, f"text {frame}") for frame in range(0, FRAMES, 7))
    skew = level * CorruptionConfig().skew_frames
    _, heard = corrupted("clock_skew", level, run, texts, seed=seed)
    first = {text.text: text for text in texts}
    assert [text.frame for text in heard] == sorted(text.frame for text in heard)
    behind = heard and all(text.frame == first[text.text].frame for text in heard)
    for text in heard:
        was = first[text.text]
        assert was.frame <= text.frame < FRAMES
        moved = (text.frame - text.age) - (was.frame - was.age)
        assert moved == pytest.approx(-skew if behind and moved < 0 else skew, abs=1e-9)
        # It comes with the frame of its stamp, or as soon as it is there if that has gone by.
        assert text.age > 0
        assert text.age <= 1 or text.frame == was.frame
    missing = set(first) - {text.text for text in heard}
    assert all(first[text].frame + skew >= FRAMES - 4 for text in missing)


def test_clocks_are_behind_in_some_runs_and_ahead_in_others() -> None:
    signs = set()
    for seed in range(12):
        run, texts = made(seed)
        _, heard = corrupted("clock_skew", 1, run, texts)
        signs.add(bool(heard[0].age > 1))
    assert signs == {True, False}


@pytest.mark.parametrize("name", ["sensor_drop", "frame_drop", "silent_sensors"])
@given(one=LEVELS, other=LEVELS)
@settings(max_examples=15, deadline=None)
def test_what_is_lost_at_a_level_is_lost_at_higher_ones(name: CorruptionName, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert (lost(corrupted(name, low)[0]) <= lost(corrupted(name, high)[0])).all()


@given(one=LEVELS, other=LEVELS)
@settings(max_examples=15, deadline=None)
def test_texts_lost_or_changed_at_a_level_stay_so_at_higher_ones(one: float, other: float) -> None:
    low, high = sorted((one, other))
    _, texts = made()
    assert set(corrupted("text_absent", high)[1]) <= set(corrupted("text_absent", low)[1]) <= set(texts)
    some, more = corrupted("text_typos", low)[1], corrupted("text_typos", high)[1]
    for was, less, now in zip(texts, some, more, strict=True):
        for word, at_low, at_high in zip(*(text.text.split() for text in (was, less, now)), strict=True):
            assert at_low in (word, at_high)
    some, more = corrupted("wrong_text", low)[1], corrupted("wrong_text", high)[1]
    for was, less, now in zip(texts, some, more, strict=True):
        assert less.text in (was.text, now.text)
        assert (less.frame, less.age) == (was.frame, was.age)


@pytest.mark.parametrize("level", [0.3, 0.5, 0.8])
def test_shares_are_as_large_as_the_level_says(level: float) -> None:
    run, texts = made()
    there = ~lost(run)
    # Four standard deviations of a share among the readings, frames or words.
    readings, frames = 4 * (level * (1 - level) / there.sum()) ** 0.5, 4 * (level * (1 - level) / FRAMES) ** 0.5
    assert lost(corrupted("sensor_drop", level)[0])[there].mean() == pytest.approx(level, abs=readings)
    gone = lost(corrupted("frame_drop", level)[0])
    assert gone.all(axis=1).mean() == pytest.approx(level, abs=frames)
    np.testing.assert_array_equal(gone[~gone.all(axis=1)], lost(run)[~gone.all(axis=1)])
    silent = lost(corrupted("silent_sensors", level)[0]).all(axis=0)
    assert silent.sum() == round(level * VARIABLES)
    words = [word for text in texts for word in text.text.split()]
    now = [word for text in corrupted("text_typos", level)[1] for word in text.text.split()]
    long = [word != other for word, other in zip(words, now, strict=True) if len(word) > 3]
    # A letter swapped with its double changes nothing.
    assert 0 < np.mean(long) <= level + 4 * (level * (1 - level) / len(long)) ** 0.5


def test_level_1_leaves_nothing() -> None:
    assert lost(corrupted("sensor_drop", 1)[0]).all()
    assert lost(corrupted("frame_drop", 1)[0]).all()
    assert lost(corrupted("silent_sensors", 1)[0]).all()
    assert corrupted("text_absent", 1)[1] == ()


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_noise_is_in_deviations_of_each_variable(level: float) -> None:
    run, _ = made()
    noise = (corrupted("white_noise", level)[0].values - run.values) / SCALING.std
    # Four standard deviations of a deviation of so many readings.
    expected = level * CorruptionConfig().noise_deviations
    np.testing.assert_allclose(np.nanstd(noise, axis=0), expected, rtol=4 / (2 * 0.9 * FRAMES) ** 0.5)
    np.testing.assert_array_equal(np.isnan(noise), lost(run))


@pytest.mark.parametrize("level", [0.3, 1.0])
def test_a_stuck_sensor_repeats_what_it_said(level: float) -> None:
    run, _ = made()
    now, _ = corrupted("stuck_sensors", level)
    np.testing.assert_array_equal(lost(now), lost(run))
    changed = np.flatnonzero([(now.values[:, v] != run.values[:, v])[~lost(run)[:, v]].any() for v in range(VARIABLES)])
    # One that sticks at the very last reading looks as if it did not.
    assert level * VARIABLES - 2 <= len(changed) <= level * VARIABLES
    for variable in changed:
        measured = np.flatnonzero(~lost(run)[:, variable])
        differs = now.values[measured, variable] != run.values[measured, variable]
        first = int(np.flatnonzero(differs)[0])
        assert first > 0
        assert (now.values[measured[first - 1 :], variable] == run.values[measured[first - 1], variable]).all()


def test_a_sensor_that_sticks_before_its_first_reading_sticks_at_that() -> None:
    run, _ = made()
    values = run.values.copy()
    values[:-2] = np.nan
    values[-2:] = [[1], [2]]
    now, _ = corrupted("stuck_sensors", 1, replace(run, values=values))
    assert (now.values[-1] == 1).sum() >= VARIABLES - 1
    silent = replace(run, values=np.full_like(values, np.nan))
    assert lost(corrupted("stuck_sensors", 1, silent)[0]).all()


def test_a_wrong_text_is_neither_about_the_same_nor_right_by_accident() -> None:
    run, texts = made()
    wrong = corrupted("wrong_text", 1)[1]
    for was, now in zip(texts, wrong, strict=True):
        assert ABOUT[now.text] >= 0
        assert ABOUT[now.text] not in (ABOUT[was.text], run.labels[was.frame])
    assert {ABOUT[now.text] for now in wrong} == {0, 1, 2}
    # A text of no pool is taken to be about the state at its frame.
    own = (PlacedText(60, 0.5, "never heard before"),)
    assert ABOUT[corrupted("wrong_text", 1, run, own)[1][0].text] in (0, 2)


def test_future_labels_do_not_change_earlier_texts() -> None:
    run, texts = made()
    labels = run.labels.copy()
    labels[100:] = 0
    before = [text for text in corrupted("wrong_text", 0.7)[1] if text.frame < 100]
    after = [text for text in corrupted("wrong_text", 0.7, replace(run, labels=labels))[1] if text.frame < 100]
    assert before == after


@pytest.mark.parametrize("name", NAMES)
def test_a_run_without_texts_and_a_plant_without_a_pool_are_fine(name: CorruptionName) -> None:
    run, texts = made()
    corrupt = Corruptor(CorruptionConfig(), SCALING, None, seed=0)
    (now,), (heard,) = corrupt(name, [run], [()], 1)
    assert heard == ()
    assert now.values.shape == run.values.shape
    if name == "wrong_text":
        assert corrupt(name, [run], [texts], 1)[1] == [texts]


def test_the_eight_are_those_of_the_design() -> None:
    assert len(set(EIGHT)) == 8
    assert set(EIGHT) < set(NAMES)
