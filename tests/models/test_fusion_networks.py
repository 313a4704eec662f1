"""The networks of the learned fusions, by their equations and whatever modality is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.configs.fusion import (
    AdaptiveConfig,
    ChannelsConfig,
    DeepConfig,
    EarlyConfig,
    FusionChoice,
    HybridConfig,
    VAEConfig,
)
from models.fusion.adaptive import AdaptiveFusion, masked_softmax
from models.fusion.base import Fused, Inputs
from models.fusion.build import build_fusion
from models.fusion.concatenation import HybridFusion
from models.fusion.learned import LearnedFusion
from models.fusion.vae import MultimodalVAE
from models.training.stages.fusion import drop_modalities
from tests.models.test_fusion_stepping import EACH
from tests.support.models_tiny import CLASSES

ADAPTIVE = [AdaptiveConfig(size=16, order=order) for order in ("cma_afr", "cma_only", "afr_only", "parallel", "none")]
SIZES = (5, 7, 4)


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
