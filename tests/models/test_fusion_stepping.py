"""Fusions within the whole network: stepping, states, model files, and results of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.configs.diagnoser import DiagnoserConfig
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
from models.configs.sensors import SeqLSTMConfig
from models.configs.text import TextConfig
from models.diagnoser import Diagnoser, RoundTexts
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import Tokenizer
from models.fusion.learned import LearnedFusion
from models.model_file import read_model
from models.network_file import build_network, compile_network, round_weights, save_model
from models.stepping.load import load_model
from models.stepping.runner import CompiledRunner
from pipeline.frames import Frames, StepResult
from tests.support.models_tiny import CLASSES, TEXTS, VARIABLES, Stream, machine_type

EACH: dict[str, FusionChoice] = {
    "early": EarlyConfig(),
    "hybrid": HybridConfig(),
    "deep": DeepConfig(),
    "adaptive": AdaptiveConfig(),
    "parallel": AdaptiveConfig(order="parallel", scale="none"),
    "vae": VAEConfig(inputs="both"),
    "answers": AdaptiveConfig(size=16, inputs="answers"),
    "channels": ChannelsConfig(),
}
ANSWERS = ("probabilities", "modality_probabilities", "weights", "attention", "embedding")


def network(fusion: FusionChoice, *, texts: bool = True, seed: int = 4) -> Diagnoser:
    """An untrained network with this fusion, and scaling and prior that are not trivial."""
    text = (
        TextConfig(embedding=8, hidden=6, head=(5,), ring=3, subword_buckets=128, bag=4, bag_buckets=64)
        if texts
        else None
    )
    config = DiagnoserConfig(
        variables=VARIABLES,
        classes=CLASSES,
        sensors=SeqLSTMConfig(hidden=(8,), head=(6,)),
        text=text,
        fusion=fusion,
        text_ttl_frames=20,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Diagnoser(config, Tokenizer.fit(TEXTS, text) if text else None)
    made.mean.copy_(torch.arange(VARIABLES) * 10.0)
    made.std.copy_(torch.tensor([1.0, 2.0, 0.5, 4.0]))
    made.fusion.prior.copy_(torch.tensor([0.6, 0.3, 0.1]))
    return made.eval()


def runner(fusion: FusionChoice, **options: Any) -> CompiledRunner:
    return compile_network(network(fusion, **options), name="tiny", digest=f"{4:064x}", classes=machine_type().faults)


def placed(stream: Stream) -> list[list[PlacedText]]:
    return [
        [PlacedText(t, age, text) for t in range(stream.frames) for age, text in stream.texts.get((machine, t), [])]
        for machine in range(stream.machines)
    ]


def fold(made: Diagnoser, stream: Stream, values: Tensor, observed: Tensor) -> dict[str, list[Tensor]]:
    """What the step form says about each frame, all machines in one batch."""
    assert made.text is not None
    state = made.init_state(stream.machines)
    vectors = dict(zip(TEXTS, made.text.encode(list(TEXTS)), strict=True))
    said: dict[str, list[Tensor]] = {name: [] for name in ANSWERS}
    for t in range(stream.frames):
        new = [(m, age, text) for m in range(stream.machines) for age, text in stream.texts.get((m, t), [])]
        new = [one for one in new if made.text.knows(one[2])]
        texts = None
        if new:
            ages = torch.tensor([age for _, age, _ in new], dtype=values.dtype)
            texts = RoundTexts(
                torch.tensor([m for m, _, _ in new]), torch.stack([vectors[text] for *_, text in new]), ages
            )
        answer, state = made.step(values[:, t], observed[:, t], texts, state)
        for name in ANSWERS:
            if getattr(answer, name) is not None:
                said[name].append(getattr(answer, name))
    return said


# Only the encoders add up errors over a long run, and only in float32 do these come near what is allowed.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype", "frames", "tolerance"),
    [(kind, torch.float64, 500, 1e-11) for kind in EACH]
    + [(kind, torch.float32, 2000, 1e-5) for kind in ("adaptive", "vae", "early")],
)
def test_stepping_equals_forward(kind: str, dtype: torch.dtype, frames: int, tolerance: float) -> None:
    made = network(EACH[kind]).to(dtype)
    stream = Stream(machines=3, frames=frames)
    values, observed = torch.from_numpy(stream.values).to(dtype), torch.from_numpy(stream.observed)
    with torch.inference_mode():
        whole = made(values, observed, placed(stream))
        stepped = fold(made, stream, values, observed)
    assert bool(stepped["attention"]) == (kind in ("adaptive", "parallel", "answers"))
    for name, parts in stepped.items():
        if parts:
            axis = 1 if name in ("modality_probabilities", "weights") else 0
            # Whole runs come run after run, steps frame after frame.
            found = torch.stack(parts, dim=axis + 1).flatten(axis, axis + 1)
            assert (found - getattr(whole, name)).abs().max() <= tolerance


@pytest.mark.parametrize("kind", EACH)
def test_a_machines_answer_does_not_depend_on_its_company(kind: str) -> None:
    stream = Stream(machines=40, frames=8, seed=1)
    together, parts = runner(EACH[kind]), runner(EACH[kind])
    rng = np.random.default_rng(0)
    for t in range(8):
        whole = together.step(stream.round(t))
        order = [int(machine) for machine in rng.permutation(40)]
        cut = int(rng.integers(1, 40))
        for who in (order[:cut], order[cut:]):
            some = parts.step(stream.round(t, who))
            np.testing.assert_array_equal(some.probabilities, whole.probabilities[who])
            np.testing.assert_array_equal(some.weights, whole.weights[:, who])


def columns(result: StepResult) -> list[np.ndarray]:
    attention = [] if result.attention is None else [result.attention]
    return [result.probabilities, result.modality_probabilities, result.weights, *attention]


@pytest.mark.parametrize("kind", EACH)
def test_saving_and_restoring_mid_run_is_identical_to_the_bit(kind: str) -> None:
    stream = Stream(machines=5, frames=60, seed=3)
    first, second = runner(EACH[kind]), runner(EACH[kind])
    for t in range(35):
        first.step(stream.round(t))
    saved = first.save(np.arange(5))
    for slot, state in enumerate(saved):
        second.load(slot, state)
    for t in range(35, 60):
        pairs = zip(columns(first.step(stream.round(t))), columns(second.step(stream.round(t))), strict=True)
        for mine, theirs in pairs:
            np.testing.assert_array_equal(mine, theirs)
    late = runner(FusionConfig())
    late.reserve(1)
    assert len(saved[0]) == len(late.save(np.array([0]))[0])


@pytest.mark.parametrize("kind", EACH)
def test_later_frames_do_not_change_earlier_answers(kind: str) -> None:
    made = network(EACH[kind]).double()
    stream, other = Stream(machines=2, frames=60, seed=5), Stream(machines=2, frames=60, seed=6)
    other.values[:, :40], other.observed[:, :40] = stream.values[:, :40], stream.observed[:, :40]
    kept = {key: texts for key, texts in stream.texts.items() if key[1] < 40}
    other.texts = kept | {key: texts for key, texts in other.texts.items() if key[1] >= 40}
    with torch.inference_mode():
        one, another = (
            made(torch.from_numpy(of.values).double(), torch.from_numpy(of.observed), placed(of)).probabilities
            for of in (stream, other)
        )
    one, another = one.unflatten(0, (2, 60)), another.unflatten(0, (2, 60))
    assert (one[:, :40] - another[:, :40]).abs().max() <= 1e-12
    assert (one[:, 40:] - another[:, 40:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", EACH)
def test_a_model_file_keeps_the_fusion(kind: str, tmp_path: Path) -> None:
    made = network(EACH[kind])
    fusion = made.fusion
    assert isinstance(fusion, LearnedFusion)
    fusion.temperature.fill_(0.7)
    round_weights(made, "float16")
    path = tmp_path / "a"
    digest = save_model(path, made, machine_type(), name="tiny", training={}, storage="float16")
    assert read_model(path).header.network.fusion == EACH[kind]
    loaded, stream = load_model(path, machine_type()), Stream(machines=2, frames=15)
    mine = compile_network(made, name="tiny", digest=digest, classes=machine_type().faults)
    for t in range(15):
        for one, other in zip(columns(loaded.step(stream.round(t))), columns(mine.step(stream.round(t))), strict=True):
            np.testing.assert_array_equal(one, other)
    assert loaded.hash == digest != runner(EACH[kind]).hash
    assert fusion.temperature == build_network(read_model(path)).fusion.temperature


def test_the_hash_depends_on_the_fusions_settings(tmp_path: Path) -> None:
    digests = {
        save_model(tmp_path / "x", network(config), machine_type(), name="tiny", training={})
        for config in (AdaptiveConfig(), AdaptiveConfig(scale="none"), FusionConfig())
    }
    assert len(digests) == 3


def test_the_step_result_carries_attention_where_there_is_any() -> None:
    stream = Stream(machines=2, frames=1)
    stream.texts = {(0, 0): [(0.5, "shaft jam")]}
    stream.values[:] = 1.0
    with_attention = runner(AdaptiveConfig()).step(stream.round(0)).attention
    assert with_attention is not None
    assert with_attention.shape == (2, 2, 2)
    np.testing.assert_allclose(with_attention.sum(axis=2), [[1, 1], [1, 0]], atol=1e-6)
    assert runner(EarlyConfig()).step(stream.round(0)).attention is None
    assert runner(FusionConfig()).step(stream.round(0)).attention is None


def test_a_machine_type_without_texts_may_have_a_learned_fusion() -> None:
    stream: Frames = Stream(machines=1, frames=1).round(0)
    stream.values[:] = 1.0
    result = runner(AdaptiveConfig(), texts=False).step(stream)
    assert result.weights.tolist() == [[1.0]]
    assert result.attention is not None
    assert result.attention.tolist() == [[[1.0]]]
