"""Configurations of the fusions, and the constants that training and serving share (docs/guide/models.md)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.configs.limits import Width, Widths

Rule = Literal["accuracy", "uniform", "per_class", "product", "stacked"]
FusionInputs = Literal["features", "answers", "both"]
RuleChoice = Literal["auto", "accuracy", "uniform", "per_class", "product", "stacked"]
"""A rule, or `auto` for the one that is best on validation."""
RULES: Final[tuple[Rule, ...]] = ("accuracy", "uniform", "per_class", "product", "stacked")

MIN_PROBABILITY: Final = 1e-5
"""Fusion networks see smaller probabilities as this one."""

LEAST_LEAD: Final = 0.01
"""Share of its lead over the next class that an answer keeps at least in a confidence map."""
JUST_BELOW: Final = 1 - 2**-22
"""A number times this is less in float32, by as little as that can say."""

Order = Literal["cma_afr", "cma_only", "afr_only", "parallel", "none"]
ATTENDING: Final[tuple[Order, ...]] = ("cma_afr", "cma_only", "parallel")
"""Orders of an adaptive fusion with cross-modal attention."""
SCORING: Final[tuple[Order, ...]] = ("cma_afr", "afr_only", "parallel")
"""Orders of an adaptive fusion whose weights come from a scorer."""

MIN_LOG_VARIANCE: Final = -8.0
MAX_LOG_VARIANCE: Final = 8.0
"""Bounds of every log-variance, so that no precision overflows."""


class FusionConfig(BaseModel):
    """Which rule mixes the modalities."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["late"] = "late"
    rule: Rule = "accuracy"


class LearnedFusionConfig(BaseModel):
    """What all fusions that classify the encoders' features have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Rule = "accuracy"
    """Rule of the late fusion that is kept beside the network, for comparison and for `hybrid`; chosen by training."""
    inputs: FusionInputs = "features"
    """Inputs of the network from each modality: its encoder's features, the log-probabilities of its own calibrated
    answer, or both. Answers contain less, and generalise better to data that the encoders have not seen."""
    modality_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of the modalities that training drops from a frame, but never all of them."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the encoders' features that training sets to zero."""


class EarlyConfig(LearnedFusionConfig):
    """Shape of an early fusion."""

    kind: Literal["early"] = "early"
    hidden: Widths = (256, 128)


class HybridConfig(LearnedFusionConfig):
    """Shape of a hybrid fusion: that of its early part."""

    kind: Literal["hybrid"] = "hybrid"
    hidden: Widths = (256, 128)


class DeepConfig(LearnedFusionConfig):
    """Shape of a deep fusion."""

    kind: Literal["deep"] = "deep"
    tower: tuple[Width, Width] = (128, 64)
    """The two layers that each modality has for itself."""
    trunk: Width = 128
    """Width of the first of the two layers that they share."""


class ChannelsConfig(LearnedFusionConfig):
    """Shape of the multi-channel model's merge; its encoders are `causal_cnn` and the text LSTM."""

    kind: Literal["channels"] = "channels"
    hidden: Width = 128


class AdaptiveConfig(LearnedFusionConfig):
    """Shape and training of an adaptive fusion; its ablations are values of these fields."""

    kind: Literal["adaptive"] = "adaptive"
    size: Width = 256
    """Width d_h of the representation that all modalities share."""
    scorer: Width = 64
    """Hidden width of the network that scores modalities."""
    head: Widths = (128,)
    order: Order = "cma_afr"
    """Attention and then reconstruction; one of them only; both side by side; or the plain mean."""
    scale: Literal["sqrt", "none"] = "sqrt"
    """Whether attention scores are divided by sqrt(d_h); `none` is the paper's form."""
    adversarial: float = Field(default=1.0, ge=0)
    """Weight lambda of the loss on disturbed representations; 0 leaves the term out."""
    epsilon: float = Field(default=0.05, ge=0)
    """Length of the disturbance relative to the representation."""


class VAEConfig(LearnedFusionConfig):
    """Shape and training of a multimodal variational autoencoder."""

    kind: Literal["vae"] = "vae"
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    """0, because training covers every single modality anyway."""
    size: Width = 32
    """Dimensions of z."""
    hidden: Widths = (128,)
    """Of each encoder and decoder."""
    head: Widths = (64,)
    beta: float = Field(default=0.1, ge=0)
    """Weight of the divergence from the prior, once warm-up is over."""
    warm_up_updates: int = Field(default=500, ge=1)
    """Updates in which beta rises from 0."""
    elbo: float = Field(default=0.05, ge=0)
    """Weight of the negative ELBO beside the classifier's loss."""


FusionChoice = Annotated[
    FusionConfig | EarlyConfig | HybridConfig | DeepConfig | AdaptiveConfig | VAEConfig | ChannelsConfig,
    Field(discriminator="kind"),
]
"""Which fusion, by its `kind`, and its shape (docs/guide/models.md)."""
