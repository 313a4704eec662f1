"""The runner: its arena obeys the equality law, keeps machines apart, and saves and restores to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.diagnoser import Diagnoser, RoundTexts
from models.encoders.placed_texts import PlacedText
from pipeline.errors import StateError
from pipeline.frames import StepResult, StepRunner
from tests.support.models_stepping import reference
from tests.support.models_tiny import CLASSES, PERIOD_MS, VARIABLES, Stream, network, runner


def columns(result: StepResult, row: int) -> list[np.ndarray]:
    return [
        result.probabilities[row],
        result.modality_probabilities[:, row],
        result.weights[:, row],
        result.present[:, row],
        result.scaled[row],
    ]


def assert_same(one: StepResult, row: int, other: StepResult, other_row: int, tolerance: float) -> None:
    for mine, theirs in zip(columns(one, row), columns(other, other_row), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)


def initial_state() -> bytes:
    made = runner()
    made.reserve(1)
    return made.save(np.array([0]))[0]


def test_the_runner_is_a_step_runner() -> None:
    made: StepRunner = runner()
    assert (made.name, made.classes, made.modalities) == ("tiny", ("normal", "leak", "jam"), ("sensors", "text"))
    assert made.hash == f"{4:064x}"
    assert runner(texts=False).modalities == ("sensors",)


@pytest.mark.parametrize("context", [False, True])
def test_stepping_equals_forward_in_float64(context: bool) -> None:
    made = network(context=context).double()
    stream = Stream(machines=3, frames=2000)
    values, observed = torch.from_numpy(stream.values).double(), torch.from_numpy(stream.observed)
    placed = [
        [
            PlacedText(frame, age, text)
            for frame in range(stream.frames)
            for age, text in stream.texts.get((machine, frame), [])
        ]
        for machine in range(3)
    ]
    with torch.inference_mode():
        whole = made(values, observed, placed)
        stepped = fold(made, stream, values, observed)
    for name in ("probabilities", "weights", "modality_probabilities", "text_attention"):
        assert (stepped[name] - getattr(whole, name).reshape(stepped[name].shape)).abs().max() <= 1e-11


def fold(made: Diagnoser, stream: Stream, values: torch.Tensor, observed: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network's step form over the stream, all machines in one batch; the frame axis last but classes."""
    assert made.text is not None
    state = made.init_state(stream.machines)
    said: dict[str, list[torch.Tensor]] = {}
    for t in range(stream.frames):
        new = [(m, age, text) for m in range(stream.machines) for age, text in stream.texts.get((m, t), [])]
        new = [one for one in new if made.text.knows(one[2])]
        texts = None
        if new:
            vectors = made.text.encode([text for _, _, text in new])
            ages = torch.tensor([age for _, age, _ in new], dtype=torch.float64)
            texts = RoundTexts(torch.tensor([m for m, _, _ in new]), vectors, ages)
        answer, state = made.step(values[:, t], observed[:, t], texts, state)
        for name in ("probabilities", "weights", "modality_probabilities", "text_attention"):
            said.setdefault(name, []).append(getattr(answer, name))
    axis = {"probabilities": 1, "weights": 2, "modality_probabilities": 2, "text_attention": 1}
    return {name: torch.stack(parts, dim=axis[name]) for name, parts in said.items()}


def test_machines_in_changing_company_get_what_they_get_alone() -> None:
    stream = Stream(machines=7, frames=2000, seed=1)
    together, alone = runner(), runner()
    rng = np.random.default_rng(0)
    largest = 0.0
    last = dict.fromkeys(range(7), -1)
    for _ in range(2000):
        who = [int(m) for m in rng.permutation(7)[: rng.integers(1, 8)] if last[int(m)] < 400]
        if not who:
            continue
        # Each machine is at a frame of its own, so one round may mix frames of different times.
        parts = [stream.round(last[m] + 1, [m]) for m in who]
        mixed = parts[0]
        mixed.slots = np.array(who, np.int64)
        mixed.values = np.concatenate([part.values for part in parts])
        mixed.observed = np.concatenate([part.observed for part in parts])
        mixed.start_ms = np.concatenate([part.start_ms for part in parts])
        mixed.reset = np.zeros(len(who), bool)
        mixed.texts = [(row, text) for row, part in enumerate(parts) for _, text in part.texts]
        result = together.step(mixed)
        for row, machine in enumerate(who):
            last[machine] += 1
            single = alone.step(stream.round(last[machine], [machine]))
            largest = max(largest, float(np.abs(single.probabilities[0] - result.probabilities[row]).max()))
    assert min(last.values()) == 400
    assert largest <= 1e-5


def test_the_runner_gives_what_forward_gives() -> None:
    stream = Stream(machines=4, frames=300, seed=2)
    made, stepped = network(), runner()
    placed = [
        [PlacedText(t, age, text) for t in range(300) for age, text in stream.texts.get((m, t), [])] for m in range(4)
    ]
    with torch.inference_mode():
        whole = made(torch.from_numpy(stream.values), torch.from_numpy(stream.observed), placed)
    expected = whole.probabilities.reshape(4, 300, CLASSES).numpy()
    for t in range(300):
        np.testing.assert_allclose(stepped.step(stream.round(t)).probabilities, expected[:, t], rtol=0, atol=1e-5)


def test_saving_and_restoring_mid_run_is_identical_to_the_bit() -> None:
    stream = Stream(machines=5, frames=120, seed=3)
    first, second = runner(), runner()
    for t in range(70):
        first.step(stream.round(t))
    saved = first.save(np.arange(5))
    assert len({len(state) for state in saved}) == 1
    for slot, state in enumerate(saved):
        second.load(slot, state)
    assert second.save(np.arange(5)) == saved
    for t in range(70, 120):
        one, other = first.step(stream.round(t)), second.step(stream.round(t))
        for mine, theirs in zip(columns(one, slice(None)), columns(other, slice(None)), strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(mine, theirs)
    assert first.save(np.arange(5)) == second.save(np.arange(5))


def test_a_reset_touches_its_machine_only() -> None:
    stream = Stream(machines=3, frames=40, seed=4)
    made, fresh = runner(), runner()
    for t in range(20):
        made.step(stream.round(t))
    before = made.save(np.arange(3))
    made.reset(np.array([1]))
    after = made.save(np.arange(3))
    assert after[0] == before[0]
    assert after[2] == before[2]
    assert after[1] == initial_state()
    for t in range(20, 40):
        assert_same(made.step(stream.round(t)), 1, fresh.step(stream.round(t, [1])), 0, 1e-6)


def test_a_frame_marked_as_reset_starts_from_the_initial_state() -> None:
    stream = Stream(machines=2, frames=10, seed=5)
    made, fresh = runner(), runner()
    for t in range(9):
        made.step(stream.round(t))
    both = stream.round(9)
    both.reset = np.array([False, True])
    expected = fresh.step(stream.round(9, [1]))
    assert_same(made.step(both), 1, expected, 0, 1e-6)


def test_growing_the_arena_keeps_what_it_holds() -> None:
    stream = Stream(machines=2, frames=5)
    made = runner()
    for t in range(5):
        made.step(stream.round(t))
    saved = made.save(np.arange(2))
    made.reserve(3)
    made.reserve(100)
    assert made.save(np.arange(2)) == saved
    assert made.capacity == 100
    made.reserve(101)
    assert made.capacity == 200
    assert made.save(np.array([150]))[0] == initial_state()


def test_modalities_are_present_only_with_evidence() -> None:
    stream = Stream(machines=3, frames=30, seed=6)
    stream.texts.clear()
    stream.texts[1, 0] = [(0.5, "shaft jam")]
    stream.values[2] = np.nan
    stream.observed[2] = False
    made = runner()
    first = made.step(stream.round(0))
    assert first.present[:, 1].tolist() == [bool(np.isfinite(stream.values[1, 0]).any()), True]
    assert first.present[:, 2].tolist() == [False, False]
    np.testing.assert_allclose(first.probabilities[2], [0.6, 0.3, 0.1], atol=1e-6)
    np.testing.assert_allclose(first.modality_probabilities[:, 2], [[0.6, 0.3, 0.1]] * 2, atol=1e-6)
    assert first.weights[:, 2].tolist() == [0, 0]
    ages = []
    for t in range(1, 30):
        ages.append(bool(made.step(stream.round(t)).present[1, 1]))
    # Age 0.5 at frame 0, so 19.5 at frame 19; at frame 20 it is older than 20 frames.
    assert ages == [True] * 19 + [False] * 10


def test_scaled_readings_are_standard_scores_not_clipped_and_zero_where_unknown() -> None:
    stream = Stream(machines=1, frames=1)
    stream.values[0, 0] = [100.0, np.nan, 20.0, 26.0]
    result = runner().step(stream.round(0))
    np.testing.assert_allclose(result.scaled[0], [100, 0, 0, -1])
    assert result.scaled.shape == (1, VARIABLES)
    assert result.modality_probabilities.shape == (2, 1, CLASSES)


def test_readings_are_clipped_on_their_way_into_the_network() -> None:
    far, farther = Stream(machines=1, frames=1), Stream(machines=1, frames=1)
    far.values[0, 0], farther.values[0, 0] = [50, 50, 50, 90], [5000, 5000, 5000, 9000]
    far.observed[:] = farther.observed[:] = True
    far.texts.clear()
    farther.texts.clear()
    np.testing.assert_array_equal(
        runner().step(far.round(0)).probabilities, runner().step(farther.round(0)).probabilities
    )


def test_a_held_value_counts_otherwise_than_a_measured_one() -> None:
    stream = Stream(machines=1, frames=1)
    stream.values[0, 0] = [1.0, 2.0, 20.0, 30.0]
    stream.observed[:] = True
    measured = runner().step(stream.round(0))
    stream.observed[:] = False
    held = runner().step(stream.round(0))
    assert held.present[0, 0]
    assert not np.allclose(held.probabilities, measured.probabilities, atol=1e-7)


def test_torchs_runner_gives_the_attention_over_the_texts() -> None:
    stream = Stream(machines=1, frames=1)
    stream.texts[0, 0] = [(3.0, "shaft jam"), (0.1, "all is well again")]
    attention = reference(network()).answer(stream.round(0)).text_attention
    assert attention is not None
    assert attention.sum().item() == pytest.approx(1)
    assert attention[0, 2] == 0


def test_a_model_without_texts_ignores_them() -> None:
    stream = Stream(machines=1, frames=1)
    stream.texts[0, 0] = [(0.0, "shaft jam")]
    result = runner(texts=False).step(stream.round(0))
    assert result.present.shape == (1, 1)
    assert reference(network(texts=False)).answer(stream.round(0)).text_attention is None


def test_a_round_must_name_each_slot_once() -> None:
    stream = Stream(machines=2, frames=1)
    with pytest.raises(ValueError, match="twice"):
        runner().step(stream.round(0, [1, 1]))
    with pytest.raises(ValueError, match="at least one"):
        runner().step(stream.round(0, []))


def test_states_of_other_models_versions_and_sizes_are_refused() -> None:
    made = runner()
    made.reserve(1)
    good = made.save(np.array([0]))[0]
    other = runner(seed=5)
    with pytest.raises(StateError, match="belongs to model 000000000000"):
        other.load(0, good)
    with pytest.raises(StateError, match="not a saved machine state"):
        made.load(0, b"")
    with pytest.raises(StateError, match="not a saved machine state"):
        made.load(0, b"x" * len(good))
    with pytest.raises(StateError, match="cut or damaged"):
        made.load(0, good[:-1])
    with pytest.raises(StateError, match="cut or damaged"):
        made.load(0, good + b"\0")
    with pytest.raises(StateError, match="version 2"):
        made.load(0, good[:4] + b"\2\0" + good[6:])


def test_thread_count_is_left_alone() -> None:
    before = torch.get_num_threads()
    stream = Stream(machines=1, frames=1)
    runner().step(stream.round(0))
    assert torch.get_num_threads() == before
    assert stream.round(0).period_ms == PERIOD_MS
