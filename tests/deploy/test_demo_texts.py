"""The demo's authors and event writer: held out by author, no give-aways, and how often people write."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from deploy.demo.event_texts import CLASSES, SEVERITIES, SOURCES, Event, write_events, write_pool
from deploy.demo.make_texts import make_pool
from deploy.demo.phrases import (
    AUTHORS,
    BLOCKS,
    FAULTS,
    NORMAL,
    RECOVERED,
    SPLITS,
    Author,
    Template,
    authors_of,
    read_author,
)
from models.encoders.tokenizer import normalised

FRAME_MS = 180_000
START_MS = 1_700_000_000_000
GAP, LENGTH = 150, 100
EPISODES = 2_000
GIVE_AWAY = re.compile(r"idv|(?:fault|disturbance|class|no\.|#)\W*\d|\bf\W*\d", re.IGNORECASE)
AMOUNT = re.compile(r"\d+ (?:deg|degC|%|pct|kscmh|mol)|\d\d:\d\d|[+-]?\d(?:\.\d)? (?:C|h|hrs|min)\b")
OWN_PAIRS = 0.6
"""Share of an author's pairs of neighbouring words that no other author uses."""


@pytest.fixture(scope="module")
def pools() -> dict[str, list[str]]:
    """Many texts of every author."""
    return {
        name: [row.text for row in write_pool(read_author(name), np.random.default_rng([7, index]), 40)]
        for index, name in enumerate(AUTHORS)
    }


def long_run(seed: int = 0) -> tuple[np.ndarray, list[Event]]:
    """Labels of many episodes of all faults with normal time between, and the events along them."""
    faults = np.resize(np.arange(1, 21), EPISODES)
    labels = np.concatenate([np.r_[np.zeros(GAP, dtype=int), np.full(LENGTH, fault)] for fault in faults])
    return labels, write_events(labels, authors_of("train"), np.random.default_rng(seed), FRAME_MS, START_MS)


@pytest.fixture(scope="module")
def run() -> tuple[np.ndarray, list[Event]]:
    """One long run, shared by the tests of rates."""
    return long_run()


def frame_of(event: Event) -> float:
    """Where an event lies, in frames."""
    return (event.time_ms - START_MS) / FRAME_MS


@pytest.mark.parametrize("name", AUTHORS)
def test_every_author_has_phrases_for_every_block(name: str) -> None:
    author = read_author(name)
    assert set(author.templates) == set(BLOCKS)
    for block, templates in author.templates.items():
        assert len(templates) >= (20 if block == NORMAL else 5), block
    used = {slot for block in author.templates.values() for t in block for slot in re.findall(r"\{(\w+)\}", t.pattern)}
    assert used == set(author.slots)


def test_no_phrase_is_written_twice() -> None:
    everything = [t for name in AUTHORS for block in read_author(name).templates.values() for t in block]
    assert len({normalised(template.pattern) for template in everything}) == len(everything)
    assert len({template.group for template in everything}) == len(everything)


def test_every_author_is_held_out_once_and_in_one_split_only() -> None:
    tested = []
    for held_out in range(len(AUTHORS)):
        names = {split: [author.name for author in authors_of(split, held_out)] for split in SPLITS}
        assert sorted(name for split in names.values() for name in split) == sorted(AUTHORS)
        assert [len(names[split]) for split in SPLITS] == [len(AUTHORS) - 3, 2, 1]
        tested += names["test"]
    assert sorted(tested) == sorted(AUTHORS)


def test_authors_share_no_text(pools: dict[str, list[str]]) -> None:
    counts = Counter(normalised(text) for texts in pools.values() for text in texts)
    assert max(counts.values()) == 1


def test_authors_have_wordings_of_their_own() -> None:
    pairs: dict[str, set[tuple[str, str]]] = {}
    for name in AUTHORS:
        author = read_author(name)
        texts = [template.pattern for block in author.templates.values() for template in block]
        texts += [option for options in author.slots.values() for option in options]
        pairs[name] = {pair for text in texts for pair in pairwise(normalised(text).split())}
    for name, own in pairs.items():
        others = set().union(*(other for other_name, other in pairs.items() if other_name != name))
        assert len(own - others) / len(own) > OWN_PAIRS, name


def test_no_text_names_a_fault(pools: dict[str, list[str]]) -> None:
    assert not [text for texts in pools.values() for text in texts if GIVE_AWAY.search(text)]


def test_texts_are_whole(pools: dict[str, list[str]]) -> None:
    for text in {text for texts in pools.values() for text in texts}:
        assert not set(text) & set("{}<>|")
        assert "  " not in text
        assert text == text.strip()
        assert len(text) > 8


def test_same_seed_same_texts() -> None:
    author = read_author("plain_writer")
    assert write_pool(author, np.random.default_rng(3), 20) == write_pool(author, np.random.default_rng(3), 20)
    labels = [0] * 200 + [4] * 100 + [0] * 200
    first, again, other = (
        write_events(labels, authors_of("test"), np.random.default_rng(seed), FRAME_MS, START_MS) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_pool_is_distinct_and_labelled() -> None:
    author = read_author("shift_operator")
    rows = write_pool(author, np.random.default_rng(0), 30)
    assert len({normalised(row.text) for row in rows}) == len(rows)
    counts = Counter(row.fault for row in rows)
    assert counts == {**dict.fromkeys(FAULTS, 30), NORMAL: 90, "": 30}
    groups = {template.group for block in author.templates.values() for template in block}
    assert {row.group for row in rows} <= groups
    assert all(row.fault == NORMAL for row in rows if row.group.startswith(RECOVERED))


def test_a_pool_of_all_authors_names_them_and_their_splits() -> None:
    rows = make_pool(0, {"train": 12, "validation": 11, "test": 10}, held_out=3).to_pylist()
    split_of = {row["author"]: row["split"] for row in rows}
    assert {(row["author"], row["split"]) for row in rows} == set(split_of.items())
    assert [name for name, split in split_of.items() if split == "test"] == [AUTHORS[3]]
    assert split_of.keys() == set(AUTHORS)


def test_an_author_with_too_few_phrases_is_refused() -> None:
    dull = dict.fromkeys(BLOCKS, (Template("x", "pump ok"),))
    author = Author("dull", {}, dull, "lower", 0.0, 0.0, ())
    with pytest.raises(ValueError, match="dull has only 1 distinct texts"):
        write_pool(author, np.random.default_rng(0), 1_000)


def test_slips_of_the_fingers_are_there_but_rare() -> None:
    rng = np.random.default_rng(1)
    author = read_author("shift_operator")
    texts = [author.write("idv_14", rng) for _ in range(3000)]
    uncapitalised = sum(text[0].islower() for text in texts) / len(texts)
    assert 0.01 < uncapitalised < 0.06  # one slip in five takes the capitals away


@pytest.mark.parametrize(
    ("name", "expected"),
    [("board_operator", "Pump ok für a"), ("alarm_system", "PUMP OK FÜR A"), ("german_engineer", "Pump ok fuer A")],
)
def test_authors_write_in_their_own_letters(name: str, expected: str) -> None:
    author = replace(read_author(name), typo_rate=0.0)
    if author.umlauts_spelt_out:
        author = replace(author, umlauts_spelt_out=1.0)
    text = author.fill(Template("x", "Pump  ok für A ,"), np.random.default_rng(0))
    assert text == (expected.lower() if author.letters == "lower" else expected)


def test_events_lie_inside_the_run_in_order() -> None:
    labels = [0] * 30 + [7] * 20 + [0] * 3 + [8] * 2 + [9] * 5
    for seed in range(300):
        events = write_events(labels, authors_of("train"), np.random.default_rng(seed), FRAME_MS, START_MS)
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
    events = write_events([0] * 5000, authors_of("validation"), np.random.default_rng(0), FRAME_MS, START_MS)
    assert {event.kind for event in events} == {"benign", "vague"}
