"""The compiled step gives what torch gives, and a machine the same bits whatever company it is in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.bench.models import ROWS, bench_models
from models.configs.fusion import (
    RULES,
    AdaptiveConfig,
    ChannelsConfig,
    DeepConfig,
    EarlyConfig,
    FusionChoice,
    FusionConfig,
    HybridConfig,
    Rule,
    VAEConfig,
)
from models.configs.sensors import (
    CausalCNNConfig,
    ExpertsConfig,
    LinearStateConfig,
    RingAttentionConfig,
    SensorConfig,
    SeqLSTMConfig,
    StatisticsConfig,
    TreesConfig,
)
from models.encoders.ring_attention import RingAttention
from models.fusion.late import LateFusion
from pipeline.errors import StateError
from tests.support.models_stepping import (
    LAW,
    compiled,
    distance,
    everything,
    fold,
    made,
    numbers,
    placed,
    reference,
)
from tests.support.models_tiny import CLASSES, TEXTS, Stream
from tests.support.models_trees import shaped

LSTM = SeqLSTMConfig(hidden=(10, 8), head=(6,), trends=(10.0,), spreads=(5.0,))
RING = RingAttentionConfig(window=12, size=16, heads=4, layers=2, head=(6,))
CNN = CausalCNNConfig(channels=10, dilations=(1, 2, 5), head=(6,))
LINEAR = LinearStateConfig(size=12, heads=3, head=(6,))
STATISTICS = StatisticsConfig(spans=(3.0, 15.0), hidden=(9, 7))
TREES = shaped(TreesConfig(windows=(4, 13), own_start=20), classes=CLASSES)
FOREST = shaped(TreesConfig(windows=(6,), mask_inputs=False), classes=CLASSES, votes=True)
EXPERTS = ExpertsConfig(experts=(LSTM.model_copy(update={"squash": True}), STATISTICS, TREES, FOREST))
ENCODERS: dict[str, SensorConfig] = {
    "lstm": LSTM,
    "ring": RING,
    "cnn": CNN,
    "linear": LINEAR,
    "statistics": STATISTICS,
    "trees": TREES,
    "experts": EXPERTS,
}
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
each_encoder = pytest.mark.parametrize("sensors", ENCODERS.values(), ids=ENCODERS)
SOME: dict[str, FusionChoice] = {kind: FUSIONS[kind] for kind in ("late", "hybrid", "vae", "adaptive")}
some_fusions = pytest.mark.parametrize("fusion", SOME.values(), ids=SOME)


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_what_torch_gives(rule: Rule, texts: bool) -> None:
    network = made(rule=rule, texts=texts)
    assert fold(reference(network), compiled(network), Stream(6, 250), range(250)) <= LAW


@pytest.mark.parametrize(
    "sensors",
    [
        SeqLSTMConfig(hidden=(52, 40, 25), mask_inputs=False),
        SeqLSTMConfig(hidden=(7,), head=()),
        SeqLSTMConfig(hidden=(16, 3, 5, 9), head=(4, 33), trends=(1.2,)),
        SeqLSTMConfig(hidden=(6, 6), head=(8,), spreads=(1.0, 30.0), mask_inputs=False),
    ],
)
def test_lstms_of_every_shape_give_what_torch_gives(sensors: SeqLSTMConfig) -> None:
    network = made(sensors=sensors)
    assert fold(reference(network), compiled(network), Stream(5, 150), range(150)) <= LAW


@pytest.mark.parametrize("rule", ["accuracy", "per_class"])
def test_a_modality_that_validation_found_worthless_has_no_say(rule: Rule) -> None:
    network = made(rule=rule)
    assert isinstance(network.fusion, LateFusion)
    network.fusion.accuracies.copy_(torch.tensor([0.0, 0.9]))
    network.fusion.recalls[0, 1] = 0
    assert fold(reference(network), compiled(network), Stream(5, 120), range(120)) <= LAW


def test_states_go_from_torch_to_the_compiled_step_and_back() -> None:
    stream, network = Stream(machines=5, frames=160, seed=3), made()
    first, second = reference(network), compiled(network)
    everyone = np.arange(5)
    for runner in (first, second):
        runner.reserve(5)
    assert first.save(everyone) == second.save(everyone)
    whole = reference(network)
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


@each_encoder
@each_fusion
def test_every_fusion_over_every_encoder_gives_what_torch_gives(sensors: SensorConfig, fusion: FusionChoice) -> None:
    network = made(sensors=sensors, fusion=fusion)
    first, second = reference(network), compiled(network)
    assert fold(first, second, Stream(6, 60), range(60)) <= LAW
    for mine, theirs in zip(second.save(np.arange(6)), first.save(np.arange(6)), strict=True):
        assert mine[:44] == theirs[:44]
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=LAW, atol=LAW)


@some_fusions
def test_a_model_without_texts_is_the_same_on_both(fusion: FusionChoice) -> None:
    network = made(sensors=RING, fusion=fusion, texts=False)
    assert fold(reference(network), compiled(network), Stream(5, 60), range(60)) <= LAW


@pytest.mark.parametrize(
    "sensors",
    [
        RingAttentionConfig(window=1, size=8, heads=1, layers=1, head=()),
        RingAttentionConfig(window=5, size=6, heads=3, layers=3, head=(4, 33), mask_inputs=False),
        RingAttentionConfig(window=130, size=24, heads=2, layers=1),
        RingAttentionConfig(window=40, size=64, heads=4, layers=2),
    ],
)
def test_rings_of_every_shape_give_what_torch_gives(sensors: RingAttentionConfig) -> None:
    network = made(sensors=sensors)
    assert fold(reference(network), compiled(network), Stream(5, 280), range(280)) <= LAW


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize(
    "sensors",
    [
        SeqLSTMConfig(hidden=(7,), head=(), squash=True, trends=(4.0,), mask_inputs=False),
        StatisticsConfig(spans=(4.0,), hidden=(5,), mask_inputs=False),
        shaped(TreesConfig(windows=(1,)), classes=CLASSES, votes=True),
        shaped(TreesConfig(windows=(5, 17, 3), own_start=40, mask_inputs=False), classes=CLASSES),
        ExpertsConfig(experts=(FOREST, LSTM)),
        ExpertsConfig(experts=(CNN, LINEAR.model_copy(update={"mask_inputs": False}), STATISTICS)),
        ExpertsConfig(experts=(FOREST,)),
    ],
)
def test_experts_that_count_messages_give_what_torch_gives(sensors: SensorConfig, texts: bool) -> None:
    network = made(sensors=sensors, texts=texts, messages=(TEXTS[1], TEXTS[3], "never written"))
    first, second = reference(network), compiled(network)
    assert fold(first, second, Stream(5, 280), range(280)) <= LAW
    for mine, theirs in zip(second.save(np.arange(5)), first.save(np.arange(5)), strict=True):
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=LAW, atol=LAW)


@pytest.mark.parametrize("factor", [0.2, 1.0, 2.0])
def test_small_and_large_scores_are_treated_alike(factor: float) -> None:
    # Only small ones can be exponentiated in float32 as they are.
    network = made(sensors=RING, texts=False)
    assert isinstance(network.sensors, RingAttention)
    with torch.no_grad():
        for layer in network.sensors._layers():
            layer.project_in.weight[:32].mul_(factor)
    stream = Stream(5, 100)
    assert fold(reference(network), compiled(network), stream, range(100)) <= LAW


@pytest.mark.parametrize(
    ("encoder", "fusion"),
    [*((encoder, "late") for encoder in ENCODERS), *(("lstm", fusion) for fusion in FUSIONS if fusion != "late")],
)
def test_stepping_equals_forward_over_two_thousand_frames(encoder: str, fusion: str) -> None:
    stream = Stream(machines=3, frames=2000)
    messages = (TEXTS[0], TEXTS[2]) if encoder == "experts" else ()
    network = made(sensors=ENCODERS[encoder], fusion=FUSIONS[fusion], messages=messages)
    stepped = compiled(network)
    with torch.inference_mode():
        whole = network(torch.from_numpy(stream.values), torch.from_numpy(stream.observed), placed(stream, 2000))
    expected = whole.probabilities.reshape(3, 2000, CLASSES).numpy()
    for t in range(2000):
        np.testing.assert_allclose(stepped.step(stream.round(t)).probabilities, expected[:, t], rtol=0, atol=LAW)


@each_encoder
def test_every_encoders_state_goes_from_torch_to_the_compiled_step_and_back(sensors: SensorConfig) -> None:
    stream, network = Stream(machines=5, frames=90, seed=3), made(sensors=sensors, fusion=ADAPTIVE)
    first, second, whole = reference(network), compiled(network), reference(network)
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
    stepped = compiled(network)
    stepped.reserve(3)
    fresh = stepped.save(np.arange(3))
    for t in range(30):
        stepped.step(stream.round(t))
    before = stepped.save(np.arange(3))
    stepped.reset(np.array([1]))
    assert stepped.save(np.arange(3)) == [before[0], fresh[1], before[2]]


def test_results_are_the_callers_to_keep() -> None:
    stepped, stream = compiled(made(sensors=RING, fusion=ADAPTIVE)), Stream(machines=3, frames=2)
    kept = everything(stepped.step(stream.round(0)))
    copies = [part.copy() for part in kept]
    stepped.step(stream.round(1))
    for part, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_readings_beyond_float32_are_treated_as_torch_treats_them() -> None:
    network, stream = made(), Stream(machines=3, frames=3)
    stream.values[0, 1] = [3e38, -3e38, np.inf, -np.inf]
    stream.values[1, 1] = np.nan
    assert fold(reference(network), compiled(network), stream, range(3)) <= LAW


def test_readings_that_stand_still_for_long_leave_no_numbers_below_the_normal_range() -> None:
    stepped, stream = compiled(made(texts=False)), Stream(machines=1, frames=1)
    stream.values[:] = 3.0
    frame = stream.round(0)
    for _ in range(2000):
        stepped.step(frame)
    state = np.abs(numbers(stepped.save(np.array([0]))[0]))
    assert not ((state > 0) & (state < np.finfo(np.float32).tiny)).any()


def test_resets_and_foreign_states_are_handled_as_by_torch() -> None:
    stream, network = Stream(machines=3, frames=30, seed=4), made()
    stepped = compiled(network)
    stepped.reserve(3)
    fresh = stepped.save(np.arange(3))
    for t in range(30):
        stepped.step(stream.round(t))
    before = stepped.save(np.arange(3))
    stepped.reset(np.array([1]))
    after = stepped.save(np.arange(3))
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1] == fresh[1] != before[1]
    other = compiled(network, digest="5" * 64)
    with pytest.raises(StateError, match="belongs to model"):
        other.load(0, before[0])
    with pytest.raises(StateError, match="cut or damaged"):
        stepped.load(0, before[0][:-1])
    with pytest.raises(ValueError, match="at least one machine"):
        stepped.step(stream.round(0, []))
    with pytest.raises(ValueError, match="twice"):
        stepped.step(stream.round(0, [1, 1]))


def test_the_bench_reports_the_step_beside_torch_at_every_size() -> None:
    report = bench_models(rounds=1, adaptive_machines=20)
    assert report["us_per_row"].keys() == {"compiled", "torch"}
    for by_rows in report["us_per_row"].values():
        assert list(by_rows) == [str(rows) for rows in ROWS]
        assert min(by_rows.values()) > 0
    assert report["adaptive_machine_steps_per_second"] > 0
    adaptive = report["adaptive"]
    assert report["adaptive_vs_torch"] > 0
    shares = adaptive["machine_steps_per_second_by_share_with_text"]
    assert shares[str(adaptive["share_of_machines_with_text"])] == report["adaptive_machine_steps_per_second"]
    assert adaptive["sensors"] == {"kind": "ring_attention", "window": 100, "size": 64, "heads": 4, "layers": 2}
    ratio = report["window_500_of_128_machines_ms"] / report["step_of_128_machines_ms"]
    assert report["step_vs_window_500"] == pytest.approx(ratio, rel=0.05)
    assert 0 < report["single_step_p50_us"] <= report["single_step_p99_us"]
