"""The numpy backend's ring attention and learned fusions: they give what torch gives, in any company, to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from models.attention import RingAttention
from models.backends import choose_runner
from models.configs.fusion import (
    AdaptiveConfig,
    ChannelsConfig,
    DeepConfig,
    EarlyConfig,
    FusionChoice,
    FusionConfig,
    HybridConfig,
    VAEConfig,
)
from models.configs.sensors import CausalCNNConfig, LinearStateConfig, RingAttentionConfig, SensorConfig, SeqLSTMConfig
from models.numpy_runner import NumpyRunner
from models.onnx_runner import OnnxRunner, missing
from models.runner import TorchRunner
from tests.models_tiny import CLASSES, Stream
from tests.test_models_backends import FACTS, LAW, crowd, distance, everything, fold, made, numbers, placed

RING = RingAttentionConfig(window=12, size=16, heads=4, layers=2, head=(6,))
LSTM = SeqLSTMConfig(hidden=(10, 8), head=(6,), trends=(10.0,), spreads=(5.0,))
ADAPTIVE = AdaptiveConfig(size=20, scorer=6, head=(9,))
FUSIONS: dict[str, FusionChoice] = {
    "late": FusionConfig(rule="product"),
    "early": EarlyConfig(hidden=(11, 7)),
    "hybrid": HybridConfig(hidden=(9,), rule="product"),
    "hybrid both": HybridConfig(hidden=(9,), inputs="both", rule="stacked"),
    "deep": DeepConfig(tower=(9, 5), trunk=7),
    "deep answers": DeepConfig(tower=(9, 5), trunk=7, inputs="answers"),
    "channels": ChannelsConfig(hidden=9),
    "vae": VAEConfig(size=5, hidden=(9,), head=(6,)),
    "vae both": VAEConfig(size=5, hidden=(9,), head=(6,), inputs="both"),
    "adaptive": ADAPTIVE,
    "adaptive answers": ADAPTIVE.model_copy(update={"inputs": "answers"}),
    "adaptive unscaled": ADAPTIVE.model_copy(update={"scale": "none"}),
    "adaptive cma_only": ADAPTIVE.model_copy(update={"order": "cma_only"}),
    "adaptive afr_only": ADAPTIVE.model_copy(update={"order": "afr_only"}),
    "adaptive parallel": ADAPTIVE.model_copy(update={"order": "parallel"}),
    "adaptive none": ADAPTIVE.model_copy(update={"order": "none"}),
}
each_fusion = pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
each_encoder = pytest.mark.parametrize("sensors", [LSTM, RING], ids=["lstm", "ring"])
SOME: dict[str, FusionChoice] = {kind: FUSIONS[kind] for kind in ("late", "hybrid", "vae", "adaptive")}
some_fusions = pytest.mark.parametrize("fusion", SOME.values(), ids=SOME)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1, user_api="blas"):
        yield


@each_encoder
@each_fusion
def test_every_fusion_over_every_encoder_gives_what_torch_gives(sensors: SensorConfig, fusion: FusionChoice) -> None:
    network = made(sensors=sensors, fusion=fusion)
    first, second = TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    assert fold(first, second, Stream(6, 120), range(120)) <= LAW
    for mine, theirs in zip(second.save(np.arange(6)), first.save(np.arange(6)), strict=True):
        assert mine[:44] == theirs[:44]
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=LAW, atol=LAW)


@some_fusions
def test_a_model_without_texts_is_the_same_on_both(fusion: FusionChoice) -> None:
    network = made(sensors=RING, fusion=fusion, texts=False)
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), Stream(5, 60), range(60)) <= LAW


@pytest.mark.parametrize(
    "sensors",
    [
        RingAttentionConfig(window=1, size=8, heads=1, layers=1, head=()),
        RingAttentionConfig(window=5, size=6, heads=3, layers=3, head=(4, 33), mask_inputs=False),
        RingAttentionConfig(window=130, size=24, heads=2, layers=1),
        RingAttentionConfig(window=40, size=64, heads=4, layers=2),
    ],
)
def test_numpy_knows_every_shape_of_the_ring_attention(sensors: RingAttentionConfig) -> None:
    network = made(sensors=sensors)
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), Stream(5, 280), range(280)) <= LAW


@pytest.mark.parametrize("factor", [0.2, 1.0, 2.0])
def test_small_and_large_scores_are_treated_alike(factor: float) -> None:
    # Only small ones can be exponentiated in float32 as they are.
    network = made(sensors=RING, texts=False)
    assert isinstance(network.sensors, RingAttention)
    with torch.no_grad():
        for layer in network.sensors._layers():
            layer.project_in.weight[:32].mul_(factor)
    stream = Stream(5, 100)
    assert fold(TorchRunner(network, **FACTS), NumpyRunner(network, **FACTS), stream, range(100)) <= LAW


@some_fusions
def test_stepping_numpy_equals_forward_over_two_thousand_frames(fusion: FusionChoice) -> None:
    stream = Stream(machines=3, frames=2000)
    network = made(sensors=RING, fusion=fusion)
    stepped = NumpyRunner(network, **FACTS)
    with torch.inference_mode():
        whole = network(torch.from_numpy(stream.values), torch.from_numpy(stream.observed), placed(stream, 2000))
    expected = whole.probabilities.reshape(3, 2000, CLASSES).numpy()
    for t in range(2000):
        np.testing.assert_allclose(stepped.step(stream.round(t)).probabilities, expected[:, t], rtol=0, atol=LAW)


@each_encoder
@some_fusions
def test_a_machines_bits_do_not_depend_on_its_company(sensors: SensorConfig, fusion: FusionChoice) -> None:
    network = made(sensors=sensors, fusion=fusion)
    stream = Stream(machines=30, frames=40, seed=6)
    alone, together = NumpyRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    assert together.steady
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 35), 64, 65, 128, 300, 700]):
        place = int(rng.integers(count))
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[place])
        np.testing.assert_array_equal(one.modality_probabilities[:, 0], other.modality_probabilities[:, place])
        np.testing.assert_array_equal(one.weights[:, 0], other.weights[:, place])
        if one.attention is not None and other.attention is not None:
            np.testing.assert_array_equal(one.attention[0], other.attention[place])
        assert alone.save(np.array([0])) == together.save(np.array([0]))


def test_slots_in_any_order_and_with_gaps_between_them_give_the_same_bits() -> None:
    stream, network = Stream(machines=40, frames=30, seed=2), made(sensors=RING, fusion=ADAPTIVE)
    dense, sparse = NumpyRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    slots = np.random.default_rng(0).permutation(1000)[:40]
    for t in range(30):
        there = stream.round(t)
        there.slots = slots[there.slots]
        for mine, theirs in zip(everything(dense.step(stream.round(t))), everything(sparse.step(there)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert dense.save(np.arange(40)) == sparse.save(slots)


@each_encoder
@some_fusions
def test_saving_and_restoring_mid_run_is_identical_to_the_bit(sensors: SensorConfig, fusion: FusionChoice) -> None:
    stream, network = Stream(machines=4, frames=60, seed=5), made(sensors=sensors, fusion=fusion)
    first, second = NumpyRunner(network, **FACTS), NumpyRunner(network, **FACTS)
    for t in range(30):
        first.step(stream.round(t))
    for machine, state in enumerate(first.save(np.arange(4))):
        second.load(10 + 3 * machine, state)
    for t in range(30, 60):
        there = stream.round(t)
        there.slots = 10 + 3 * there.slots
        for mine, theirs in zip(everything(first.step(stream.round(t))), everything(second.step(there)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert first.save(np.arange(4)) == second.save(10 + 3 * np.arange(4))


def test_a_ring_can_go_from_one_backend_to_the_other_and_back() -> None:
    stream, network = Stream(machines=5, frames=90, seed=3), made(sensors=RING, fusion=ADAPTIVE)
    first, second, whole = (kind(network, **FACTS) for kind in (TorchRunner, NumpyRunner, TorchRunner))
    everyone = np.arange(5)
    for runner in (first, second):
        runner.reserve(5)
    assert first.save(everyone) == second.save(everyone)
    for giver, taker, frames in ((first, second, range(45)), (second, first, range(45, 90))):
        for t in frames:
            assert distance(giver.step(stream.round(t)), whole.step(stream.round(t))) <= LAW
        saved = giver.save(everyone)
        for slot, state in enumerate(saved):
            taker.load(slot, state)
        assert taker.save(everyone) == saved


def test_a_reset_empties_one_ring_and_no_other() -> None:
    stream, network = Stream(machines=3, frames=30, seed=4), made(sensors=RING, fusion=ADAPTIVE)
    stepped = NumpyRunner(network, **FACTS)
    stepped.reserve(3)
    fresh = stepped.save(np.arange(3))
    for t in range(30):
        stepped.step(stream.round(t))
    before = stepped.save(np.arange(3))
    stepped.reset(np.array([1]))
    assert stepped.save(np.arange(3)) == [before[0], fresh[1], before[2]]


def test_results_are_the_callers_to_keep() -> None:
    stepped, stream = NumpyRunner(made(sensors=RING, fusion=ADAPTIVE), **FACTS), Stream(machines=3, frames=2)
    kept = everything(stepped.step(stream.round(0)))
    copies = [part.copy() for part in kept]
    stepped.step(stream.round(1))
    for part, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


@pytest.mark.skipif(bool(missing()), reason=f"the extra onnx lacks {', '.join(missing())}")
@pytest.mark.parametrize(
    ("sensors", "fusion"),
    [
        (CausalCNNConfig(channels=4, dilations=(1, 2)), "channels"),
        (LinearStateConfig(size=8, heads=2, layers=1), "vae"),
        (RING, "adaptive"),
    ],
)
def test_an_exported_encoder_is_fused_as_by_torch(sensors: SensorConfig, fusion: str) -> None:
    network = made(sensors=sensors, fusion=FUSIONS[fusion])
    assert fold(TorchRunner(network, **FACTS), OnnxRunner(network, **FACTS), Stream(5, 60), range(60)) <= LAW


def test_auto_tries_numpy_for_ring_attention_with_adaptive_fusion() -> None:
    ticks = iter(range(10**6))
    chosen = choose_runner(made(sensors=RING, fusion=ADAPTIVE), **FACTS, clock=lambda: float(next(ticks)))
    assert isinstance(chosen, NumpyRunner)
