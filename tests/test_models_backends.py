"""The backends: numpy gives what torch gives, from the same states, whatever company a machine is in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from agents.bench_models import ROWS, bench_models
from models.backends import Trial, best, choose_runner
from models.configs.diagnoser import DiagnoserConfig
from models.configs.fusion import RULES, FusionChoice, FusionConfig, Rule
from models.configs.sensors import CausalCNNConfig, SensorConfig, SeqLSTMConfig
from models.configs.text import TextConfig
from models.dataset import PlacedText
from models.diagnoser import Diagnoser
from models.fusion import LateFusion, LearnedFusion
from models.numpy_runner import NumpyRunner
from models.runner import TorchRunner
from models.tokenizer import Tokenizer
from pipeline.errors import SettingsError, StateError
from pipeline.frames import Frames, StepResult, StepRunner
from tests.models_tiny import CLASSES, TEXTS, VARIABLES, Stream, machine_type, network

LAW = 1e-5
FACTS: dict[str, Any] = {"name": "tiny", "digest": "4" * 64, "classes": machine_type().faults}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1, user_api="blas"):
        yield


def made(
    *,
    sensors: SensorConfig | None = None,
    rule: Rule = "accuracy",
    texts: bool = True,
    seed: int = 4,
    variables: int = VARIABLES,
    fusion: FusionChoice | None = None,
) -> Diagnoser:
    """An untrained network whose scaling and fusion are drawn, and sure enough of itself to make errors count."""
    text = TextConfig(embedding=8, hidden=6, head=(5,), ring=3, subword_buckets=128) if texts else None
    config = DiagnoserConfig(
        variables=variables,
        classes=CLASSES,
        sensors=sensors or SeqLSTMConfig(hidden=(10, 8), head=(6,), trends=(10.0, 40.0), spreads=(5.0,)),
        text=text,
        text_ttl_frames=20,
        fusion=fusion or FusionConfig(rule=rule),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Diagnoser(config, Tokenizer.fit(TEXTS, text) if text else None)
        with torch.no_grad():
            for parameter in network.sensors.parameters():
                parameter.mul_(2)
        late = network.fusion
        if isinstance(late, LearnedFusion):
            with torch.no_grad():
                for parameter in late.network.parameters():
                    # Gains and shifts too, which are all alike before training.
                    parameter.add_(torch.randn(parameter.shape) * 0.3)
            late.temperature.fill_(1.3)
            late = late.late
        late.prior.copy_(torch.tensor([0.6, 0.3, 0.1]))
        late.temperatures.uniform_(0.5, 2)
        late.temperature.fill_(0.7)
        late.accuracies.uniform_(0.5, 1)
        late.recalls.uniform_(0.3, 1)
        late.stack.add_(torch.randn(late.stack.shape) * 0.3)
        late.stack_bias.normal_()
    network.mean.copy_(torch.arange(variables) * 10.0)
    network.std.copy_(torch.linspace(0.5, 4, variables))
    return network.eval()


def distance(one: StepResult, other: StepResult) -> float:
    np.testing.assert_array_equal(one.present, other.present)
    np.testing.assert_array_equal(one.scaled, other.scaled)
    pairs = [
        (one.probabilities, other.probabilities),
        (one.modality_probabilities, other.modality_probabilities),
        (one.weights, other.weights),
    ]
    assert (one.attention is None) == (other.attention is None)
    if one.attention is not None and other.attention is not None:
        pairs.append((one.attention, other.attention))
    for mine, theirs in pairs:
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)


def fold(one: StepRunner, other: StepRunner, stream: Stream, frames: range) -> float:
    """Steps both through rounds of changing company with restarts; the answer is how far they were ever apart."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for t in frames:
        who = [int(machine) for machine in rng.permutation(stream.machines)[: rng.integers(1, stream.machines + 1)]]
        frame = stream.round(t, who)
        frame.reset = rng.random(len(who)) < 0.02
        for runner in (one, other):
            runner.prepare([frame])
        worst = max(worst, distance(one.step(frame), other.step(frame)))
    return worst


def numbers(state: bytes) -> np.ndarray:
    return np.frombuffer(state, "<f4", offset=44)


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_numpy_gives_what_torch_gives(rule: Rule, texts: bool) -> None:
    network = made(rule=rule, texts=texts)
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), Stream(6, 250), range(250)) <= LAW


@pytest.mark.parametrize(
    "sensors",
    [
        SeqLSTMConfig(hidden=(52, 40, 25), mask_inputs=False),
        SeqLSTMConfig(hidden=(7,), head=()),
        SeqLSTMConfig(hidden=(16, 3, 5, 9), head=(4, 33), trends=(1.2,)),
        SeqLSTMConfig(hidden=(6, 6), head=(8,), spreads=(1.0, 30.0), mask_inputs=False),
    ],
)
def test_numpy_knows_every_shape_of_the_lstm(sensors: SeqLSTMConfig) -> None:
    network = made(sensors=sensors)
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), Stream(5, 150), range(150)) <= LAW


def test_stepping_numpy_equals_forward_over_two_thousand_frames() -> None:
    stream = Stream(machines=3, frames=2000)
    network, stepped = made(rule="product"), NumpyRunner(made(rule="product"), **FACTS)
    with torch.inference_mode():
        whole = network(torch.from_numpy(stream.values), torch.from_numpy(stream.observed), placed(stream, 2000))
    expected = whole.probabilities.reshape(3, 2000, CLASSES).numpy()
    for t in range(2000):
        np.testing.assert_allclose(stepped.step(stream.round(t)).probabilities, expected[:, t], rtol=0, atol=LAW)


@pytest.mark.parametrize("rule", ["accuracy", "per_class"])
def test_a_modality_that_validation_found_worthless_has_no_say(rule: Rule) -> None:
    network = made(rule=rule)
    assert isinstance(network.fusion, LateFusion)
    network.fusion.accuracies.copy_(torch.tensor([0.0, 0.9]))
    network.fusion.recalls[0, 1] = 0
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), Stream(5, 120), range(120)) <= LAW


def test_a_machine_can_go_from_one_backend_to_the_other_and_back() -> None:
    stream, network = Stream(machines=5, frames=160, seed=3), made()
    first, second = TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    everyone = np.arange(5)
    for runner in (first, second):
        runner.reserve(5)
    assert first.save(everyone) == second.save(everyone)
    whole = TorchRunner(network, **FACTS)
    for giver, taker, frames in ((first, second, range(80)), (second, first, range(80, 160))):
        for t in frames:
            assert distance(giver.step(stream.round(t)), whole.step(stream.round(t))) <= LAW
            if t % 2:
                taker.step(stream.round(t))  # something else, to be overwritten
        saved = giver.save(everyone)
        for slot, state in enumerate(saved):
            taker.load(slot, state)
        assert taker.save(everyone) == saved
    for mine, theirs in zip(second.save(everyone), whole.save(everyone), strict=True):
        assert mine[:44] == theirs[:44]
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=LAW, atol=LAW)


def test_saving_and_restoring_mid_run_is_identical_to_the_bit() -> None:
    stream, network = Stream(machines=4, frames=90, seed=5), made()
    first, second = NumpyRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    for t in range(50):
        first.step(stream.round(t))
    # In other slots than before.
    for machine, state in enumerate(first.save(np.arange(4))):
        second.load(10 + 3 * machine, state)
    for t in range(50, 90):
        there = stream.round(t)
        there.slots = 10 + 3 * there.slots
        one, other = first.step(stream.round(t)), second.step(there)
        for mine, theirs in zip(everything(one), everything(other), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert first.save(np.arange(4)) == second.save(10 + 3 * np.arange(4))


def everything(result: StepResult) -> list[np.ndarray]:
    parts = [result.probabilities, result.modality_probabilities, result.weights, result.present, result.scaled]
    return parts if result.attention is None else [*parts, result.attention]


def placed(stream: Stream, frames: int) -> list[list[PlacedText]]:
    """Each machine's texts of these frames, as `forward` takes them."""
    return [
        [PlacedText(t, age, text) for t in range(frames) for age, text in stream.texts.get((machine, t), [])]
        for machine in range(stream.machines)
    ]


def crowd(count: int, stream: Stream, t: int, place: int) -> Frames:
    """Machine 0 of the stream at this place of a round of so many, of whom the others vary."""
    who = [1 + (t * 7 + k) % (stream.machines - 1) for k in range(count)]
    who[place] = 0
    frame = stream.round(t, who)
    # The others get slots of their own, so that a stream's machine may stand in the round several times.
    frame.slots = np.arange(1, count + 1)
    frame.slots[place] = 0
    frame.texts = [(row, text) for row, text in frame.texts if row == place or row % 2]
    return frame


@pytest.mark.parametrize("big", [False, True])
def test_a_machines_bits_do_not_depend_on_its_company(big: bool) -> None:
    network = made(sensors=SeqLSTMConfig() if big else None, rule="stacked" if big else "product")
    stream = Stream(machines=30, frames=67, seed=6)
    alone, together = NumpyRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    assert together.steady
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 65), 128, 300, 1000]):
        place = int(rng.integers(count))
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[place])
        np.testing.assert_array_equal(one.modality_probabilities[:, 0], other.modality_probabilities[:, place])
        np.testing.assert_array_equal(one.weights[:, 0], other.weights[:, place])
        assert alone.save(np.array([0])) == together.save(np.array([0]))


def test_readings_beyond_all_measure_are_borne_as_torch_bears_them() -> None:
    network, stream = made(), Stream(machines=3, frames=3)
    stream.values[0, 1] = [3e38, -3e38, np.inf, -np.inf]
    stream.values[1, 1] = np.nan
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), stream, range(3)) <= LAW


def test_readings_that_stand_still_for_long_leave_no_numbers_below_the_normal_range() -> None:
    stepped, stream = NumpyRunner(made(texts=False), **FACTS), Stream(machines=1, frames=1)
    stream.values[:] = 3.0
    frame = stream.round(0)
    for _ in range(2000):
        stepped.step(frame)
    state = np.abs(numbers(stepped.save(np.array([0]))[0]))
    assert not ((state > 0) & (state < np.finfo(np.float32).tiny)).any()


def test_resets_and_foreign_states_are_handled_as_by_torch() -> None:
    stream, network = Stream(machines=3, frames=30, seed=4), made()
    stepped = NumpyRunner(network, **FACTS)
    stepped.reserve(3)
    fresh = stepped.save(np.arange(3))
    for t in range(30):
        stepped.step(stream.round(t))
    before = stepped.save(np.arange(3))
    stepped.reset(np.array([1]))
    after = stepped.save(np.arange(3))
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1] == fresh[1] != before[1]
    other = NumpyRunner(network, **FACTS | {"digest": "5" * 64})
    with pytest.raises(StateError, match="belongs to model"):
        other.load(0, before[0])
    with pytest.raises(StateError, match="cut or damaged"):
        stepped.load(0, before[0][:-1])
    with pytest.raises(ValueError, match="at least one machine"):
        stepped.step(stream.round(0, []))
    with pytest.raises(ValueError, match="twice"):
        stepped.step(stream.round(0, [1, 1]))


def test_results_are_the_callers_to_keep() -> None:
    stepped, stream = NumpyRunner(made(), **FACTS), Stream(machines=3, frames=2)
    kept = stepped.step(stream.round(0))
    copies = [part.copy() for part in everything(kept)]
    stepped.step(stream.round(1))
    for part, copy in zip(everything(kept), copies, strict=True):
        np.testing.assert_array_equal(part, copy)


class Clock:
    """A clock that makes one runner's rounds take longer than the other's; they take turns, numpy first."""

    def __init__(self, numpy_seconds: float, torch_seconds: float) -> None:
        self._steps = itertools.cycle([0.0, numpy_seconds, 0.0, torch_seconds])
        self._now = 0.0

    def __call__(self) -> float:
        self._now += next(self._steps)
        return self._now


def test_auto_prefers_numpy_unless_torch_is_clearly_faster() -> None:
    for numpy_seconds, torch_seconds, expected in (
        (1.0, 3.0, NumpyRunner),
        (1.1, 1.0, NumpyRunner),
        (2, 1, TorchRunner),
    ):
        chosen = choose_runner(network(), **FACTS, clock=Clock(numpy_seconds, torch_seconds))
        assert isinstance(chosen, expected)
        assert (chosen.name, chosen.hash, chosen.classes) == tuple(FACTS.values())


def test_the_trial_leaves_no_trace_in_the_chosen_runner() -> None:
    fresh = TorchRunner(network(), **FACTS)
    fresh.reserve(128)
    chosen = choose_runner(network(), **FACTS, clock=Clock(1, 1))
    assert chosen.save(np.arange(128)) == fresh.save(np.arange(128))


def test_a_backend_that_differs_or_is_not_steady_is_not_taken() -> None:
    runner = NumpyRunner(network(), **FACTS)
    good = Trial("numpy", runner, 1e-7, True, 1.0)
    slow = Trial("torch", TorchRunner(network(), **FACTS), 0.0, True, 9.0)
    assert best([slow, good]) is good
    for bad in (replace(good, difference=2e-5), replace(good, difference=np.inf), replace(good, steady=False)):
        assert best([slow, bad]) is slow


def test_a_named_backend_is_taken_or_refused_with_a_reason() -> None:
    assert isinstance(choose_runner(network(), **FACTS, backend="torch"), TorchRunner)
    assert isinstance(choose_runner(network(), **FACTS, backend="numpy"), NumpyRunner)
    other = made(sensors=CausalCNNConfig(channels=4, dilations=(1, 2)))
    with pytest.raises(SettingsError, match=r"numpy cannot run model tiny.*sensor encoder causal_cnn.*torch or auto"):
        choose_runner(other, **FACTS, backend="numpy")
    with pytest.raises(ValueError, match="causal_cnn"):
        NumpyRunner(other, **FACTS)


def test_the_bench_reports_every_backend_at_every_size() -> None:
    report = bench_models(rounds=1, adaptive_machines=20)
    assert report["backend"] in report["us_per_row"]
    assert {"numpy", "torch"} <= report["us_per_row"].keys()
    for by_rows in report["us_per_row"].values():
        assert list(by_rows) == [str(rows) for rows in ROWS]
        assert min(by_rows.values()) > 0
    assert report["adaptive_machine_steps_per_second"] > 0
    adaptive = report["adaptive"]
    assert adaptive["backend"] in adaptive["round_ms_by_backend"]
    shares = adaptive["machine_steps_per_second_by_share_with_text"]
    assert shares[str(adaptive["share_of_machines_with_text"])] == report["adaptive_machine_steps_per_second"]
    assert adaptive["sensors"] == {"kind": "ring_attention", "window": 100, "size": 64, "heads": 4, "layers": 2}
    ratio = report["window_500_of_128_machines_ms"] / report["step_of_128_machines_ms"]
    assert report["step_vs_window_500"] == pytest.approx(ratio, rel=0.05)
    assert 0 < report["single_step_p50_us"] <= report["single_step_p99_us"]
