"""The demo's phrase book and event writer: disjoint splits, no give-aways, and how often people write."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from deploy.demo import event_texts
from deploy.demo.event_texts import (
    CLASSES,
    FAULTS,
    NORMAL,
    RECOVERED,
    SEVERITIES,
    SOURCES,
    SPLITS,
    VAGUE,
    Event,
    Split,
    Template,
    normalised,
    phrase_book,
    templates,
    write_events,
    write_pool,
    write_text,
)

FRAME_MS = 180_000
START_MS = 1_700_000_000_000
GAP, LENGTH = 150, 100
EPISODES = 2_000
GIVE_AWAY = re.compile(r"idv|(?:fault|disturbance|class|no\.|#)\W*\d|\bf\W*\d", re.IGNORECASE)
AMOUNT = re.compile(r"\d+ (?:deg|degC|%)|\d\d:\d\d")


@pytest.fixture(scope="module")
def pools() -> dict[Split, set[str]]:
    """Many texts of every split."""
    counts: dict[Split, int] = {"train": 120, "validation": 40, "test": 60}
    return {
        split: {row.text for row in write_pool(split, np.random.default_rng([7, index]), counts[split])}
        for index, split in enumerate(SPLITS)
    }


def long_run(seed: int = 0) -> tuple[np.ndarray, list[Event]]:
    """Labels of many episodes of all faults with normal time between, and the events along them."""
    faults = np.resize(np.arange(1, 21), EPISODES)
    labels = np.concatenate([np.r_[np.zeros(GAP, dtype=int), np.full(LENGTH, fault)] for fault in faults])
    return labels, write_events(labels, "test", np.random.default_rng(seed), FRAME_MS, START_MS)


@pytest.fixture(scope="module")
def run() -> tuple[np.ndarray, list[Event]]:
    """One long run, shared by the tests of rates."""
    return long_run()


def frame_of(event: Event) -> float:
    """Where an event lies, in frames."""
    return (event.time_ms - START_MS) / FRAME_MS


def test_every_block_has_enough_templates_of_every_split() -> None:
    blocks = phrase_book()[1]
    assert set(blocks) == {*FAULTS, NORMAL, RECOVERED, VAGUE}
    least = dict.fromkeys(FAULTS, 24) | {NORMAL: 60, RECOVERED: 20, VAGUE: 20}
    for block, count in least.items():
        found = blocks[block]
        assert len(found) >= count, block
        shares = Counter(template.split for template in found)
        assert shares["train"] / len(found) == pytest.approx(0.60, abs=0.05)
        assert shares["validation"] / len(found) == pytest.approx(0.15, abs=0.05)
        assert shares["test"] / len(found) == pytest.approx(0.25, abs=0.05)


def test_no_template_is_written_twice_or_in_two_splits() -> None:
    everything = [template for block in phrase_book()[1].values() for template in block]
    assert len({normalised(template.pattern) for template in everything}) == len(everything)
    assert len({template.group for template in everything}) == len(everything)


def test_splits_share_no_text(pools: dict[Split, set[str]]) -> None:
    keys = {split: {normalised(text) for text in texts} for split, texts in pools.items()}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]


def test_no_text_names_a_fault(pools: dict[Split, set[str]]) -> None:
    assert not [text for texts in pools.values() for text in texts if GIVE_AWAY.search(text)]


def test_numbers_in_the_phrase_book_are_amounts_or_clock_times() -> None:
    slots, blocks = phrase_book()
    phrases = [option for options in slots.values() for option in options]
    phrases += [template.pattern for block in blocks.values() for template in block]
    assert not [phrase for phrase in phrases if re.search(r"\d", AMOUNT.sub("", phrase))]


def test_texts_are_whole(pools: dict[Split, set[str]]) -> None:
    for text in set().union(*pools.values()):
        assert not set(text) & set("{}<>|")
        assert "  " not in text
        assert text == text.strip()
        assert len(text) > 8


def test_same_seed_same_texts() -> None:
    assert write_pool("validation", np.random.default_rng(3), 20) == write_pool(
        "validation", np.random.default_rng(3), 20
    )
    labels = [0] * 200 + [4] * 100 + [0] * 200
    first, again, other = (
        write_events(labels, "test", np.random.default_rng(seed), FRAME_MS, START_MS) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_pool_is_distinct_and_labelled() -> None:
    rows = write_pool("train", np.random.default_rng(0), 30)
    assert len({normalised(row.text) for row in rows}) == len(rows)
    counts = Counter(row.fault for row in rows)
    assert counts == {**dict.fromkeys(FAULTS, 30), NORMAL: 90, "": 30}
    groups = {template.group for block in phrase_book()[1] for template in templates(block, "train")}
    assert {row.group for row in rows} <= groups
    assert all(row.fault == NORMAL for row in rows if row.group.startswith(RECOVERED))


def test_more_texts_than_a_split_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_texts, "templates", lambda block, split: (Template("x", "pump ok", split),))
    with pytest.raises(ValueError, match="distinct texts"):
        write_pool("validation", np.random.default_rng(0), 1_000)


def test_slips_of_the_fingers_are_there_but_rare() -> None:
    rng = np.random.default_rng(1)
    texts = [write_text("idv_14", "train", rng) for _ in range(3000)]
    uncapitalised = sum(text[0].islower() for text in texts) / len(texts)
    assert 0.01 < uncapitalised < 0.06  # one slip in five takes the capitals away


def test_events_lie_inside_the_run_in_order() -> None:
    labels = [0] * 30 + [7] * 20 + [0] * 3 + [8] * 2 + [9] * 5
    for seed in range(300):
        events = write_events(labels, "train", np.random.default_rng(seed), FRAME_MS, START_MS)
        times = [event.time_ms for event in events]
        assert times == sorted(times)
        assert all(START_MS <= time < START_MS + len(labels) * FRAME_MS for time in times)


def test_events_carry_known_sources_severities_and_truth(run: tuple[np.ndarray, list[Event]]) -> None:
    _, events = run
    assert {event.source for event in events} == set(SOURCES)
    assert {event.severity for event in events} == set(SEVERITIES)
    for event in events:
        match event.kind:
            case "symptom" | "distractor":
                assert event.intended in FAULTS
            case "benign" | "recovered":
                assert event.intended == NORMAL
            case _:
                assert event.intended == ""
    assert any(event.time_ms % 1000 for event in events)


def test_symptoms_name_the_present_fault_and_distractors_another(run: tuple[np.ndarray, list[Event]]) -> None:
    labels, events = run
    told = [event for event in events if event.kind in {"symptom", "distractor"}]
    for event in told:
        present = CLASSES[int(labels[int(frame_of(event))])]
        assert present != NORMAL
        assert (event.intended == present) == (event.kind == "symptom")
    wrong = sum(event.kind == "distractor" for event in told) / len(told)
    assert wrong == pytest.approx(0.10, abs=0.02)


def test_episodes_have_up_to_three_texts_and_some_are_silent(run: tuple[np.ndarray, list[Event]]) -> None:
    _, events = run
    told = Counter(
        int(frame_of(event)) // (GAP + LENGTH) for event in events if event.kind in {"symptom", "distractor"}
    )
    counts = Counter(told[episode] for episode in range(EPISODES))
    assert max(counts) == 3
    assert counts[0] / EPISODES == pytest.approx(0.15, abs=0.03)
    assert sum(told.values()) / EPISODES == pytest.approx(1.55, abs=0.08)


def test_first_text_lags_ten_frames_behind_the_onset(run: tuple[np.ndarray, list[Event]]) -> None:
    _, events = run
    first: dict[int, float] = {}
    for event in events:
        if event.kind in {"symptom", "distractor"}:
            episode, place = divmod(frame_of(event), GAP + LENGTH)
            first.setdefault(int(episode), place - GAP)
    lags = np.array(list(first.values()))
    assert lags.min() >= 0
    assert lags.mean() == pytest.approx(10, abs=1)
    assert np.median(lags) == pytest.approx(10 * np.log(2), abs=0.8)


def test_benign_and_vague_texts_come_at_their_rates(run: tuple[np.ndarray, list[Event]]) -> None:
    labels, events = run
    calm = labels == 0
    rates = {}
    for kind in ("benign", "vague"):
        hits = [calm[int(frame_of(event))] for event in events if event.kind == kind]
        rates[kind] = (sum(hits) / calm.sum(), (len(hits) - sum(hits)) / (~calm).sum())
    assert rates["benign"] == pytest.approx((1 / 60, 1 / 150), rel=0.1)
    assert rates["vague"] == pytest.approx((1 / 400, 1 / 120), rel=0.12)


def test_about_half_of_the_clearings_are_noted_soon_after(run: tuple[np.ndarray, list[Event]]) -> None:
    _, events = run
    lags = np.array([frame_of(event) % (GAP + LENGTH) for event in events if event.kind == "recovered"])
    assert len(lags) / (EPISODES - 1) == pytest.approx(0.5, abs=0.04)
    assert lags.mean() == pytest.approx(6, abs=0.7)


def test_a_run_without_faults_has_no_symptoms() -> None:
    events = write_events([0] * 5000, "validation", np.random.default_rng(0), FRAME_MS, START_MS)
    assert {event.kind for event in events} == {"benign", "vague"}
