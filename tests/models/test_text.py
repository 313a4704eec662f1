"""Texts: tokens and their hashes, the encoder, and the event ring in its step and its planned form."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.configs.text import BAG_SCALE, EMPTY, TextConfig
from models.encoders.base import State
from models.encoders.event_ring import TextModality, empty_ring, push_texts, turn_ring
from models.encoders.placed_texts import PlacedText, ring_plan
from models.encoders.tokenizer import PAD, UNKNOWN, Tokenizer, normalised

SMALL = TextConfig(embedding=6, hidden=5, head=(4,), ring=4, subword_buckets=64)
BAGGED = SMALL.model_copy(update={"bag": 4, "bag_buckets": 512})
TTL = 30


def modality(config: TextConfig = SMALL) -> TextModality:
    torch.manual_seed(3)
    tokenizer = Tokenizer.fit(["Pump leaks", "valve stuck", "all normal again"], config)
    return TextModality(config, tokenizer, classes=3).double().eval()


def test_tokens_are_lower_case_words_and_numbers() -> None:
    tokenizer = Tokenizer.fit(["Pump P-101 leaks!"], SMALL)
    assert tokenizer.vocabulary == ("101", "leaks", "p", "pump")
    assert tokenizer.split("LEAKS, pump\tp_101") == ["leaks", "pump", "p", "101"]
    assert normalised("  The PUMP-leaks. ") == "the pump leaks"


def test_word_ids_start_after_padding_and_unknown() -> None:
    tokenizer = Tokenizer.fit(["b a"], SMALL)
    tokens = tokenizer(["a b", "zebra"])
    assert tokens.words.tolist() == [[2, 3], [UNKNOWN, PAD]]
    assert tokens.lengths.tolist() == [2, 1]
    assert len(tokenizer) == 4


def test_texts_are_cut_and_empty_texts_become_one_unknown_word() -> None:
    tokenizer = Tokenizer.fit(["a"], TextConfig(max_tokens=3))
    assert tokenizer(["a a a a a", "?!"]).words.tolist() == [[2, 2, 2], [UNKNOWN, PAD, PAD]]
    assert len(tokenizer.split("x" * 10_000)[0]) == 32


def test_ngram_buckets_are_the_same_in_every_process() -> None:
    tokenizer = Tokenizer([], TextConfig(subword_buckets=2**13, shortest_ngram=3, longest_ngram=4))
    # crc32 of <pu, pum, ump, mp>, <pum, pump, ump> modulo 8192
    assert tokenizer.buckets("pump") == [6563, 276, 6015, 1340, 3, 4589, 5020]
    assert Tokenizer([], TextConfig(subword_buckets=0)).buckets("pump") == []


def test_the_bag_holds_ngrams_the_word_and_it_with_the_word_before() -> None:
    config = TextConfig(bag=4, bag_buckets=2**16, bag_shortest_ngram=3, longest_ngram=4)
    parts = ["<pu", "pum", "ump", "mp>", "<pum", "pump", "ump>", " pump", "big pump"]
    expected = [zlib.crc32(part.encode()) % 2**16 for part in parts]
    assert Tokenizer([], config).bag_buckets("pump", "big") == expected
    tokens = Tokenizer([], config)(["big pump", "pump"])
    assert tokens.bag_offsets.tolist() == [0, len(tokens.bag) - len(expected) + 1]
    assert tokens.bag[-len(expected) + 1 :].tolist() == expected[:-1]
    assert sorted(set(tokens.bag_words.tolist())) == [0, 1, 2]
    assert Tokenizer([], config.model_copy(update={"bag": 0}))(["big pump"]).bag.size == 0


def test_the_bag_of_a_text_is_the_mean_of_what_is_in_it() -> None:
    network = modality(BAGGED)
    assert network.encoder.bag is not None
    texts = ["Kühlwasser schwankt", "stuck valve leaks", "?"]
    bags = network.encode(texts)[:, SMALL.hidden :]
    assert bags.shape == (3, 4)
    for text, bag in zip(texts, bags, strict=True):
        buckets = network.tokenizer([text]).bag
        torch.testing.assert_close(bag, network.encoder.bag.weight[buckets].mean(dim=0) * BAG_SCALE)


def test_training_leaves_lost_words_out_of_the_bag() -> None:
    network = modality(BAGGED.model_copy(update={"unknown_dropout": 0.5, "dropout": 0.0})).train()
    torch.manual_seed(0)
    bags = {tuple(network.encode(["pump leaks", "valve stuck"])[0, SMALL.hidden :].tolist()) for _ in range(100)}
    assert len(bags) == 4  # all, either word alone, and nothing
    assert (0.0,) * 4 in bags


def test_a_misspelt_word_lies_nearer_to_the_word_than_another_word_does() -> None:
    network = modality(TextConfig(embedding=64, hidden=80))
    right, wrong, other = network.encode(["compressor", "compresor", "drainage"])
    assert (right - wrong).norm() < (right - other).norm()


def test_a_text_has_the_same_vector_in_any_company() -> None:
    network = modality()
    texts = ["pump leaks", "something else altogether here", "valve", ""]
    together = network.encode(texts)
    for text, vector in zip(texts, together, strict=True):
        torch.testing.assert_close(network.encode([text])[0], vector, rtol=0, atol=1e-12)


def test_without_ngrams_there_are_no_ngram_weights() -> None:
    network = modality(SMALL.model_copy(update={"subword_buckets": 0}))
    assert network.encoder.ngrams is None
    assert network.encode(["pump", "leaks badly"]).shape == (2, 5)


def ring_of(*ages: float) -> State:
    """A ring of one machine whose vectors are 1, 2, 3, … in every component."""
    state = empty_ring(1, SMALL, torch.zeros((), dtype=torch.float64))
    for place, age in enumerate(ages):
        state["ring"][0, place] = place + 1
        state["ring_age"][0, place] = age
    return state


def push(state: State, *ages: float, ttl: int = TTL) -> State:
    """Push texts with vectors 11, 12, … into the one ring."""
    vectors = torch.arange(11.0, 11 + len(ages), dtype=torch.float64)[:, None].expand(-1, SMALL.hidden)
    rows = torch.zeros(len(ages), dtype=torch.int64)
    return push_texts(state, rows, vectors, torch.tensor(ages, dtype=torch.float64), ttl)


def contents(state: State) -> list[tuple[float, float]]:
    return [
        (float(u[0]), float(age)) for u, age in zip(state["ring"][0], state["ring_age"][0], strict=True) if age >= 0
    ]


def test_a_frame_makes_texts_older_and_drops_those_beyond_their_lifetime() -> None:
    state = turn_ring(ring_of(0.5, TTL - 1, TTL - 0.5), TTL)
    assert contents(state) == [(1, 1.5), (2, TTL)]
    assert state["ring"][0, 2].tolist() == [0] * SMALL.hidden


def test_the_ring_keeps_the_youngest_texts_youngest_first() -> None:
    state = push(ring_of(2, 5, 9), 0.7, 0.2)
    assert contents(state) == [(12, 0.2), (11, 0.7), (1, 2), (2, 5)]


def test_a_late_text_takes_its_place_by_its_true_age() -> None:
    assert contents(push(ring_of(2, 9), 6)) == [(1, 2), (11, 6), (2, 9)]
    assert contents(push(ring_of(1, 2, 3, 4), 7)) == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_of_equally_old_texts_the_later_one_is_the_younger() -> None:
    assert contents(push(ring_of(1), 1, 1)) == [(12, 1), (11, 1), (1, 1)]


def test_a_text_from_the_future_has_age_zero_and_one_beyond_its_lifetime_is_not_taken_up() -> None:
    assert contents(push(ring_of(), -3, TTL + 0.1)) == [(11, 0)]


def test_texts_reach_only_their_own_machine() -> None:
    state = empty_ring(3, SMALL, torch.zeros((), dtype=torch.float64))
    rows, ages = torch.tensor([2, 0, 2]), torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    vectors = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64).expand(-1, SMALL.hidden)
    after = push_texts(state, rows, vectors, ages, TTL)
    assert after["ring_age"].tolist() == [[0.2, -1, -1, -1], [-1] * 4, [0.1, 0.3, -1, -1]]
    assert after["ring"][2, :2, 0].tolist() == [3, 1]


def test_attention_sums_to_one_over_the_texts_and_is_zero_elsewhere() -> None:
    network = modality()
    state = push(ring_of(), 3, 1, 0.5)
    logits, attention = network(state["ring"], state["ring_age"])
    assert attention[0, 3] == 0
    assert math.isclose(attention.sum().item(), 1)
    empty_logits, none = network(*ring_of().values())
    assert none.sum() == 0
    assert empty_logits.isfinite().all()
    assert logits.isfinite().all()


def test_of_two_equal_texts_the_younger_one_weighs_more_by_the_learned_recency() -> None:
    network = modality()
    state = ring_of(2, 12)
    state["ring"][0, 1] = state["ring"][0, 0]
    _, attention = network(state["ring"], state["ring_age"])
    ratio = attention[0, 0] / attention[0, 1]
    torch.testing.assert_close(ratio, torch.exp(10 / network.log_tau.exp()))


placed = st.builds(
    PlacedText,
    frame=st.integers(0, 79),
    age=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.5, 29.0, 31.0]),
    text=st.just("pump"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(placed, max_size=14), st.integers(1, 5), st.integers(1, 40))
def test_the_planned_ring_is_the_stepped_ring(texts: list[PlacedText], size: int, ttl: int) -> None:
    texts = sorted(texts, key=lambda text: text.frame)
    frames = 80
    rows, ages = ring_plan(texts, frames, size=size, ttl=ttl)
    config = SMALL.model_copy(update={"ring": size, "hidden": 1})
    state = empty_ring(1, config, torch.zeros((), dtype=torch.float64))
    for t in range(frames):
        state = turn_ring(state, ttl)
        new = [at for at, text in enumerate(texts) if text.frame == t]
        if new:
            vectors = torch.tensor(new, dtype=torch.float64)[:, None]
            initial = torch.tensor([texts[at].age for at in new], dtype=torch.float64)
            state = push_texts(state, torch.zeros(len(new), dtype=torch.int64), vectors, initial, ttl)
        filled = ages[t] >= 0
        np.testing.assert_allclose(state["ring_age"][0].numpy(), ages[t], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(state["ring"][0, :, 0].numpy()[filled], rows[t][filled])
    assert EMPTY < 0
