"""The learned fusions: the equality law, missing modalities, each network's own equations, and their training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

import tests.models.test_training as plant_of
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
from models.diagnoser import Diagnoser, RoundTexts, build_fusion
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import Tokenizer
from models.fusion.adaptive import AdaptiveFusion, masked_softmax
from models.fusion.base import Fused, Inputs
from models.fusion.concatenation import HybridFusion
from models.fusion.learned import LearnedFusion
from models.fusion.vae import MultimodalVAE
from models.model_file import read_model
from models.network_file import build_network, compile_network, round_weights, save_model
from models.stepping.load import load_model
from models.stepping.runner import CompiledRunner
from models.training.config import load_train_config
from models.training.loop import OnProgress, Progress, StageConfig
from models.training.prepare import prepare
from models.training.stages.fusion import drop_modalities
from models.training.train import TrainReport, train
from pipeline.errors import DataError
from pipeline.frames import Frames, StepResult
from tests.support.models_tiny import CLASSES, PROFILE, TEXTS, VARIABLES, Stream, machine_type

plant = plant_of.plant

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
ADAPTIVE = [AdaptiveConfig(size=16, order=order) for order in ("cma_afr", "cma_only", "afr_only", "parallel", "none")]
SIZES = (5, 7, 4)
ANSWERS = ("probabilities", "modality_probabilities", "weights", "attention", "embedding")


def network(fusion: FusionChoice, *, texts: bool = True, seed: int = 4) -> Diagnoser:
    """An untrained network with this fusion, and scaling and prior that are not trivial."""
    text = TextConfig(embedding=8, hidden=6, head=(5,), ring=3, subword_buckets=128) if texts else None
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


def build(config: FusionChoice, modalities: int = 3, seed: int = 0) -> LearnedFusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build_fusion(config, sizes=SIZES[:modalities], classes=CLASSES)
    assert isinstance(made, LearnedFusion)
    made.late.prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
    return made.eval()


def frames_of(
    count: int, modalities: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits, presence and features drawn from one seed; NaN wherever a modality is absent."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(modalities, count, generator=generator) > 0.4
    logits = 3 * torch.randn(modalities, count, CLASSES, generator=generator, dtype=dtype)
    features = [torch.randn(count, size, generator=generator, dtype=dtype) for size in SIZES[:modalities]]
    logits[~present] = torch.nan
    for x, shown in zip(features, present, strict=True):
        x[~shown] = torch.nan
    return logits, present, features


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*EACH.values(), *ADAPTIVE]), st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**31))
def test_whatever_is_missing_nothing_is_nan_and_weights_sum_to_one(
    config: FusionChoice, modalities: int, count: int, seed: int
) -> None:
    logits, present, features = frames_of(count, modalities, seed)
    fusion = build(config, modalities)
    with torch.inference_mode():
        fused: Fused = fusion(logits, present, features)
    any_present = present.any(dim=0)
    torch.testing.assert_close(fused.weights.sum(dim=0), any_present.float())
    assert (fused.weights[~present] == 0).all()
    torch.testing.assert_close(fused.probabilities.sum(dim=1), torch.ones(count))
    torch.testing.assert_close(fused.probabilities[~any_present], fusion.prior.expand(int((~any_present).sum()), -1))
    torch.testing.assert_close(fused.modality_probabilities.sum(dim=2), torch.ones(modalities, count))
    assert fused.embedding is not None
    assert fused.embedding.isfinite().all()
    if fused.attention is not None:
        torch.testing.assert_close(fused.attention.sum(dim=2), present.T.float())
        assert (fused.attention.transpose(1, 2)[~present.T] == 0).all()


@pytest.mark.parametrize("config", [*EACH.values(), *ADAPTIVE], ids=lambda config: str(config.kind))
def test_gradients_stay_finite_whatever_is_missing(config: FusionChoice) -> None:
    logits, present, features = frames_of(64)
    fusion = build(config).train()
    labels = torch.arange(64) % CLASSES
    fusion.network.loss(fusion.inputs(logits, present, features), labels, torch.ones(CLASSES)).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in fusion.network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def whole(fusion: LearnedFusion, count: int = 12, seed: int = 0, modalities: int = 3) -> Inputs:
    """Frames with all modalities, as a network in float64 is told them."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.ones(modalities, count, dtype=torch.bool)
    logits = torch.randn(modalities, count, CLASSES, generator=generator, dtype=torch.float64)
    features = [torch.randn(count, n, generator=generator, dtype=torch.float64) for n in SIZES[:modalities]]
    return fusion.inputs(logits, present, features)


def adaptive(**options: Any) -> tuple[LearnedFusion, AdaptiveFusion]:
    fusion = build(AdaptiveConfig(**{"size": 16} | options)).double()
    assert isinstance(fusion.network, AdaptiveFusion)
    return fusion, fusion.network


def test_adaptive_fusion_by_its_equations() -> None:
    fusion, made = adaptive()
    inputs = whole(fusion)
    scorer = made.scorer
    assert scorer is not None
    with torch.inference_mode():
        found = made.represent(inputs)
        for row in range(12):
            layers = zip(made.project, made.norms, inputs.features, strict=True)
            joint = [norm(torch.relu(project(x[row]))) for project, norm, x in layers]
            attended = []
            for i in range(3):
                scores = torch.stack([joint[i] @ joint[j] for j in range(3)]) / 4  # sqrt(16)
                shares = torch.softmax(scores, dim=0)
                torch.testing.assert_close(found.attention[row, i] if found.attention is not None else None, shares)
                attended.append(sum(shares[j] * joint[j] for j in range(3)))
            alpha = torch.softmax(torch.stack([scorer(h) for h in attended]), dim=0)
            torch.testing.assert_close(found.weights[:, row], alpha)
            torch.testing.assert_close(found.fused[row], sum(a * h for a, h in zip(alpha, attended, strict=True)))


def test_the_orders_of_adaptive_fusion_differ_as_they_should() -> None:
    found = {}
    for order in ("cma_afr", "cma_only", "afr_only", "parallel", "none"):
        fusion, made = adaptive(order=order)
        with torch.inference_mode():
            found[order] = made.represent(whole(fusion))
    third = torch.full((3, 12), 1 / 3, dtype=torch.float64)
    for order, has_attention, has_weights in (
        ("cma_afr", True, True),
        ("cma_only", True, False),
        ("afr_only", False, True),
        ("parallel", True, True),
        ("none", False, False),
    ):
        assert (found[order].attention is not None) == has_attention
        assert torch.allclose(found[order].weights, third) != has_weights
        assert found[order].fused.shape == (12, 32 if order == "parallel" else 16)
    torch.testing.assert_close(found["none"].fused, found["none"].joint.mean(dim=1))


@pytest.mark.parametrize("config", ADAPTIVE, ids=lambda config: config.order)
def test_leaving_out_what_a_lone_modality_does_not_need_changes_no_bit(config: AdaptiveConfig) -> None:
    fusion = build(config)
    made = fusion.network
    assert isinstance(made, AdaptiveFusion)
    logits, _, features = frames_of(300)
    generator = torch.Generator().manual_seed(1)
    present = torch.rand(3, 300, generator=generator) > 0.85
    assert 0 < (present.sum(dim=0) > 1).sum() < 100
    inputs = fusion.inputs(logits.nan_to_num(), present, [x.nan_to_num() for x in features])
    with torch.inference_mode():
        quick, full = made.mix(inputs), made.represent(inputs)
        assert torch.equal(quick.embedding, full.fused)
        assert torch.equal(quick.weights, full.weights)
        assert torch.equal(quick.logits, made.head(full.fused))
        assert (quick.attention is None) == (full.attention is None)
        if quick.attention is not None and full.attention is not None:
            assert torch.equal(quick.attention, full.attention)


def test_without_scaling_a_modality_attends_almost_only_to_itself() -> None:
    own = {}
    for scale in ("sqrt", "none"):
        fusion, made = adaptive(size=256, scale=scale)
        with torch.inference_mode():
            attention = made.represent(whole(fusion)).attention
        assert attention is not None
        own[scale] = float(attention.diagonal(dim1=1, dim2=2).mean())
    assert own["none"] > 0.999
    assert own["sqrt"] < own["none"]


def trained(fusion: LearnedFusion, steps: int = 150) -> tuple[Inputs, Tensor]:
    """Fits the network to made-up frames whose class shows in every modality; gives frames it has not seen."""
    generator = torch.Generator().manual_seed(0)
    centres = [2 * torch.randn(CLASSES, n, generator=generator, dtype=torch.float64) for n in SIZES]

    def drawn(count: int) -> tuple[Inputs, Tensor]:
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        features = [c[labels] + torch.randn(count, c.shape[1], generator=generator).double() for c in centres]
        present = torch.rand(3, count, generator=generator) > 0.2
        return fusion.inputs(torch.zeros(3, count, CLASSES, dtype=torch.float64), present, features), labels

    network = fusion.network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    weights = torch.ones(CLASSES, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            inputs, labels = drawn(64)
            optimizer.zero_grad()
            network.loss(inputs, labels, weights).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    return drawn(500)


def test_the_disturbance_has_its_length_and_raises_the_loss() -> None:
    fusion, made = adaptive(epsilon=0.05)
    inputs, labels = trained(fusion)
    with torch.no_grad():
        fused = made.represent(inputs).fused
        delta = made.disturbance(fused, labels)
        before = cross_entropy(made.head(fused), labels, reduction="none")
        after = cross_entropy(made.head(fused + delta), labels, reduction="none")
    assert not delta.requires_grad
    some = inputs.present.any(dim=0)
    torch.testing.assert_close(delta[some].norm(dim=1), 0.05 * fused[some].norm(dim=1))
    assert float((after >= before)[some].double().mean()) >= 0.95


def test_the_adversarial_term_adds_the_loss_at_the_disturbed_point() -> None:
    fusion, made = adaptive(adversarial=0.5)
    plain, other = adaptive(adversarial=0.0)
    other.load_state_dict(made.state_dict())
    inputs, labels, weights = whole(fusion), torch.arange(12) % CLASSES, torch.ones(CLASSES, dtype=torch.float64)
    fused = made.represent(inputs).fused
    added = 0.5 * cross_entropy(made.head(fused + made.disturbance(fused, labels)), labels)
    torch.testing.assert_close(made.loss(inputs, labels, weights), other.loss(inputs, labels, weights) + added)
    assert plain.network is other


def test_a_masked_softmax_is_one_among_what_is_present() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    shares = masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]))
    e = math.e
    torch.testing.assert_close(shares, torch.tensor([[1 / (1 + e), e / (1 + e), 0], [0, 0, 0]], dtype=torch.float64))


def test_hybrid_begins_as_the_mean_of_early_and_late() -> None:
    fusion = build(HybridConfig()).double()
    inputs = whole(fusion)
    made = fusion.network
    assert isinstance(made, HybridFusion)
    with torch.inference_mode():
        mean = (made.early.mix(inputs).logits + inputs.late.probabilities.log()) / 2
        torch.testing.assert_close(made.mix(inputs).logits, mean)
        made.gate.fill_(-50.0)
        fused = fusion(torch.zeros(3, 12, CLASSES, dtype=torch.float64), inputs.present, inputs.features)
        torch.testing.assert_close(fused.probabilities, torch.full((12, CLASSES), 1 / 3, dtype=torch.float64))


def vae(**options: Any) -> tuple[LearnedFusion, MultimodalVAE]:
    fusion = build(VAEConfig(**{"size": 6} | options)).double()
    assert isinstance(fusion.network, MultimodalVAE)
    return fusion, fusion.network


def subsets() -> list[tuple[bool, ...]]:
    return [tuple(bool(bits >> at & 1) for at in range(3)) for bits in range(8)]


def under(inputs: Inputs, subset: Sequence[bool]) -> Inputs:
    return inputs.under(torch.tensor(subset)[:, None].expand_as(inputs.present))


def test_the_posterior_is_the_product_of_the_experts_and_the_prior() -> None:
    fusion, made = vae()
    inputs = under(whole(fusion), (True, False, True))
    with torch.inference_mode():
        found = made.posterior(inputs)
        precision, total = torch.ones(12, 6, dtype=torch.float64), torch.zeros(12, 6, dtype=torch.float64)
        for at in (0, 2):
            mean, log_variance = made.encoders[at](inputs.features[at]).chunk(2, dim=1)
            precision += torch.exp(-log_variance)
            total += mean * torch.exp(-log_variance)
    torch.testing.assert_close(found.variance, 1 / precision)
    torch.testing.assert_close(found.mean, total / precision)


def test_the_elbo_is_finite_on_every_subset_and_more_modalities_never_widen_the_posterior() -> None:
    fusion, made = vae()
    inputs = whole(fusion)
    variances = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for subset in subsets():
            posterior = made.posterior(under(inputs, subset))
            variances[subset] = posterior.variance
            assert made.negative_elbo(inputs, posterior, 0.1).isfinite().all()
    for fewer in subsets():
        for more in subsets():
            if all(b or not a for a, b in zip(fewer, more, strict=True)):
                assert (variances[more] <= variances[fewer]).all()
    torch.testing.assert_close(variances[False, False, False], torch.ones(12, 6, dtype=torch.float64))


def test_the_divergence_from_the_prior_is_the_gaussian_one() -> None:
    fusion, made = vae()
    inputs = whole(fusion)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        posterior = made.posterior(inputs)
        torch.manual_seed(3)
        without = made.negative_elbo(inputs, posterior, 0.0)
        torch.manual_seed(3)
        with_it = made.negative_elbo(inputs, posterior, 2.0)
    q = torch.distributions.Normal(posterior.mean, posterior.variance.sqrt())
    p = torch.distributions.Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean))
    torch.testing.assert_close(with_it - without, 2 * torch.distributions.kl_divergence(q, p).sum(dim=1))


def test_beta_warms_up_and_then_stays() -> None:
    fusion, made = vae(beta=0.2, warm_up_updates=4)
    inputs, labels, weights = whole(fusion), torch.arange(12) % CLASSES, torch.ones(CLASSES, dtype=torch.float64)
    seen = []
    made.train()
    with torch.random.fork_rng(devices=[]):
        for _ in range(6):
            made.loss(inputs, labels, weights)
            seen.append(float(made.beta))
        made.eval()
        made.loss(inputs, labels, weights)
    assert seen == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2])
    assert float(made.beta) == pytest.approx(0.2)


@pytest.mark.slow
def test_a_trained_vae_classifies_from_any_subset() -> None:
    fusion, made = vae()
    inputs, labels = trained(fusion)
    with torch.inference_mode():
        for subset in subsets()[1:]:
            right = made.mix(under(inputs, subset)).logits.argmax(dim=1) == labels
            assert float(right[under(inputs, subset).present.any(dim=0)].double().mean()) > 0.6


@pytest.mark.parametrize(
    "config",
    [EarlyConfig(), HybridConfig(), DeepConfig(), ChannelsConfig(), VAEConfig(size=4), *ADAPTIVE],
    ids=lambda config: getattr(config, "order", config.kind),
)
def test_gradients_are_right(config: FusionChoice) -> None:
    """Of logits, weights and attention by the features, against differences, with modalities missing."""
    fusion = build(config).double()
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])
    late = fusion.late(torch.zeros(3, 3, CLASSES, dtype=torch.float64), present)

    def mixed(*features: Tensor) -> tuple[Tensor, ...]:
        found = fusion.network.mix(Inputs(features, present, late).under(present))
        return tuple(of for of in (found.logits, found.weights, found.attention) if of is not None)

    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(3, n, generator=generator, dtype=torch.float64).requires_grad_() for n in SIZES]
    assert torch.autograd.gradcheck(mixed, features)


def test_gradients_of_the_elbo_are_right() -> None:
    fusion, made = vae(size=3)
    inputs = whole(fusion, count=2)

    def elbo(*features: Tensor) -> Tensor:
        torch.manual_seed(0)
        told = Inputs(features, inputs.present, inputs.late)
        return made.negative_elbo(told, made.posterior(told), 0.1)

    with torch.random.fork_rng(devices=[]):
        assert torch.autograd.gradcheck(elbo, [x.requires_grad_() for x in inputs.features])


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 0.95), st.integers(0, 2**31))
def test_modality_dropout_never_takes_all_that_a_frame_has(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = torch.from_numpy(rng.random((3, 50)) < 0.5)
    left = drop_modalities(present, share, rng)
    assert not (left & ~present).any()
    assert torch.equal(left.any(dim=0), present.any(dim=0))


def test_modality_dropout_takes_its_share() -> None:
    left = drop_modalities(torch.ones(3, 20_000, dtype=torch.bool), 0.3, np.random.default_rng(0))
    # All three go in 2.7 % of the frames, where they are put back.
    assert float(left.float().mean()) == pytest.approx(0.7 + 0.3**3, abs=0.01)


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


QUICK = {"fusion_stage": StageConfig(epochs=4, batch_size=64, learning_rate=3e-3), "score_test": False}


@pytest.fixture(scope="module")
def base(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    """A late fusion whose encoders serve all the others."""
    return train(plant_of.config(plant, tmp_path_factory.mktemp("late")))


@pytest.fixture(scope="module")
def learned(plant: Path, tmp_path_factory: pytest.TempPathFactory, base: TrainReport) -> Callable[[str], TrainReport]:
    """Trains a fusion on the encoders of `base`, each once."""

    @cache
    def train_once(kind: str) -> TrainReport:
        folder = tmp_path_factory.mktemp(kind)
        return train(plant_of.config(plant, folder, fusion={"kind": kind}, encoders=base.model, **QUICK))

    return train_once


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["early", "hybrid", "deep", "adaptive", "vae", "channels"])
def test_each_fusion_learns_on_the_encoders_of_a_model_file(
    base: TrainReport, learned: Callable[[str], TrainReport], kind: str
) -> None:
    made = learned(kind)
    scores = made.scores["validation"]["all"]["all_faults"]
    before = base.scores["validation"]["all"]["all_faults"]
    assert scores["fusion"]["accuracy"] > 0.9
    # The encoders' own answers, and the late fusion beside the network, stay what they were.
    assert (scores["sensors"], scores["text"], scores["late"]) == (
        before["sensors"],
        before["text"],
        before["fusion"],
    )
    assert "test" not in made.scores
    assert {record["stage"] for record in made.history} == {"fusion"}
    header = read_model(made.model).header
    assert (header.network.fusion.kind, header.network.fusion.rule) == (kind, base.rule)
    assert load_model(made.model, machine_type()).modalities == ("sensors", "text")


def test_a_configuration_names_its_fusion_and_a_flag_may_name_another(plant: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        f"profile: {plant / 'plant.yaml'}\nruns: [{{paths: [runs.parquet]}}]\noutput: {tmp_path}\n"
        "encoders: late.faultline\nfusion: {kind: adaptive, order: none}\njoint_stage: {batch_size: 4}\n"
    )
    said = load_train_config(path, data=plant, epochs=3)
    assert said.fusion == AdaptiveConfig(order="none")
    assert said.encoders == plant / "late.faultline"
    assert said.joint_stage is not None
    assert (said.fusion_stage.epochs, said.joint_stage.epochs, said.joint_stage.batch_size) == (3, 3, 4)
    assert load_train_config(path, data=plant, fusion="adaptive").fusion == said.fusion
    assert load_train_config(path, data=plant, fusion="vae").fusion == VAEConfig()
    assert load_train_config(path, data=plant, fusion="late").late_rule == "auto"
    with pytest.raises(DataError, match=r"fusion: .*'late', 'early'"):
        load_train_config(path, data=plant, fusion="quantum")


def test_the_rule_of_a_late_fusion_may_stand_with_it(plant: Path, tmp_path: Path) -> None:
    assert plant_of.config(plant, tmp_path, fusion={"kind": "late", "rule": "uniform"}).late_rule == "uniform"
    assert plant_of.config(plant, tmp_path, fusion={"kind": "late"}, rule="product").late_rule == "product"


def stop_at(stage: str, epoch: int) -> OnProgress:
    def cut(progress: Progress) -> None:
        if progress.stage == stage and progress.epoch == epoch and progress.record is None:
            raise plant_of.StopError

    return cut


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adaptive", "vae"])
def test_an_interrupted_fusion_training_ends_as_if_nothing_had_happened(
    plant: Path, tmp_path: Path, base: TrainReport, learned: Callable[[str], TrainReport], kind: str
) -> None:
    expected = learned(kind)
    chosen = plant_of.config(plant, tmp_path, **QUICK, fusion={"kind": kind}, encoders=base.model)
    with pytest.raises(plant_of.StopError):
        train(chosen, on_progress=stop_at("fusion", 2))
    torch.rand(5)
    resumed = train(chosen, resume=True)
    assert resumed.hash == expected.hash
    assert resumed.history == expected.history


@pytest.mark.slow
def test_fusion_and_encoders_can_be_trained_together(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    joint = StageConfig(epochs=3, batch_size=4, learning_rate=2e-3)
    options = QUICK | {"fusion": {"kind": "adaptive", "size": 32}, "encoders": base.model, "joint_stage": joint}
    made = train(plant_of.config(plant, tmp_path / "a", **options))
    assert [record["stage"] for record in made.history] == ["fusion"] * 4 + ["joint"] * 3
    scores = made.scores["validation"]["all"]["all_faults"]
    assert scores["fusion"]["accuracy"] > 0.9
    assert scores["sensors"]["accuracy"] > 0.9
    before, after = (build_network(read_model(report.model)).state_dict() for report in (base, made))
    moved = {key for key, value in before.items() if key in after and not torch.equal(value, after[key])}
    assert {"sensors.layers.0.weight_ih_l0", "text.value.weight"} <= moved
    assert not any(key.startswith("text.encoder.") for key in moved)
    chosen = plant_of.config(plant, tmp_path / "b", **options)
    with pytest.raises(plant_of.StopError):
        train(chosen, on_progress=stop_at("joint", 1))
    resumed = train(chosen, resume=True)
    assert (resumed.hash, resumed.history) == (made.hash, made.history)


@pytest.mark.slow
def test_joint_training_also_does_without_texts(plant: Path, tmp_path: Path) -> None:
    once = StageConfig(epochs=1, batch_size=8)
    options = QUICK | {"fusion": {"kind": "vae"}, "sensor_stage": once, "fusion_stage": once, "joint_stage": once}
    made = train(plant_of.config(plant, tmp_path, texts=(), **options))
    assert load_model(made.model, machine_type()).modalities == ("sensors",)


@pytest.mark.slow
def test_the_checkpoints_of_the_encoders_serve_every_fusion(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    for name in ("sensors", "words", "text"):
        (tmp_path / f"{name}.checkpoint").write_bytes((base.model.parent / f"{name}.checkpoint").read_bytes())
    shown: list[str] = []
    train(
        plant_of.config(plant, tmp_path, fusion={"kind": "early"}, **QUICK),
        resume=True,
        on_progress=lambda progress: shown.append(progress.stage),
    )
    assert set(shown) == {"fusion"}
    with pytest.raises(DataError, match="another configuration"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "deep"}, **QUICK), resume=True)


@pytest.mark.slow
def test_encoders_are_taken_over_without_their_caution(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    options = {"encoders": base.model, "score_test": False}
    cautious = train(plant_of.config(plant, tmp_path / "cautious", false_alarms=0.001, **options))
    assert max(read_model(cautious.model).header.training["caution"]["sensors"].values()) > 0
    again = train(plant_of.config(plant, tmp_path / "again", encoders=cautious.model, score_test=False, plots=True))
    assert {path.name for path in again.files} >= {"confusion_matrix.png", "roc.png"}
    sensors = [build_network(read_model(report.model)).sensors for report in (base, cautious, again)]
    biases = [list(network.state_dict().items())[-1][1] for network in sensors]
    assert not torch.equal(biases[0], biases[1])
    torch.testing.assert_close(biases[0], biases[2])


@pytest.mark.slow
def test_texts_are_kept_for_the_fusion(plant: Path, tmp_path: Path, base: TrainReport) -> None:
    kept = plant_of.config(plant, tmp_path, kept_texts=0.5)
    pools = prepare(kept).pools
    whole = prepare(plant_of.config(plant, tmp_path)).pools
    assert pools is not None and whole is not None and pools.kept is not None
    assert sorted(pools.known.texts) == sorted(whole.known.texts)
    assert (pools.validation.texts, pools.test.texts) == (whole.validation.texts, whole.test.texts)
    assert whole.unread is whole.train
    assert pools.unread is pools.kept
    assert not set(pools.kept.groups) & set(pools.train.groups)
    for pool in (pools.kept, pools.train):
        assert set(pool.classes.tolist()) == {0, 1, 2}
    quick = {"word_stage": StageConfig(epochs=2), "text_stage": StageConfig(epochs=2), "score_test": False}
    report = train(kept.model_copy(update=quick))
    assert read_model(report.model).header.training["kept_texts"] == 0.5
    # Another share would let the fusion learn on texts that these encoders know.
    with pytest.raises(DataError, match="kept_texts"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "early"}, encoders=base.model, kept_texts=0.5))
    with pytest.raises(ValueError, match="kept_texts is a share of `texts`"):
        plant_of.config(plant, tmp_path, texts=(), kept_texts=0.5)


@pytest.mark.slow
def test_recovering_frames_teach_a_fusion_no_more_than_their_weight(
    plant: Path, tmp_path: Path, base: TrainReport, learned: Callable[[str], TrainReport]
) -> None:
    options = QUICK | {"fusion": {"kind": "early"}, "encoders": base.model}
    spared = train(plant_of.config(plant, tmp_path, recovery_frames=5, **options))
    late = [
        of.scores["validation"]["all"]["all_faults"]["fusion"]["return_delay_median_frames"]
        for of in (learned("early"), spared)
    ]
    assert late[0] < late[1]


@pytest.mark.slow
def test_encoders_that_may_have_seen_what_is_held_out_are_refused(
    plant: Path, tmp_path: Path, base: TrainReport
) -> None:
    with pytest.raises(DataError, match=r"another split \(seed is 0 there and 1 here\)"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "early"}, encoders=base.model, seed=1))
    other = tmp_path / "other.faultline"
    save_model(
        other,
        build_network(read_model(base.model)),
        machine_type(PROFILE.replace("10s", "20s")),
        name="x",
        training={},
    )
    with pytest.raises(DataError, match="another profile"):
        train(plant_of.config(plant, tmp_path, fusion={"kind": "early"}, encoders=other))
