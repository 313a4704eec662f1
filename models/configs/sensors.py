"""Configurations of the sensor encoders (docs/guide/models.md)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from models.configs.limits import Column, FrameCount, FrameCounts, Heads, Layers, WholeFrames, Width, Widths

MIN_EXPERT_PROBABILITY: Final = 1e-5
"""No expert of a pool may say less, so that one that errs cannot overrule all others."""
MIN_TREE_PROBABILITY: Final = 1e-4
"""The same for trees; smaller shares of a forest's votes count as this, too."""
HIDDEN_SHARE: Final = 0.1
"""Share of a hidden fault's probability that stays with it; the rest counts as normal."""
NO_FAULT: Final = -30.0
"""Logit of every fault without a classifier; that of the normal state is 0."""


class SeqLSTMConfig(BaseModel):
    """Shape of a SeqLSTM; the defaults are the paper's 52-40-25 network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["seq_lstm"] = "seq_lstm"
    hidden: Widths = Field(default=(52, 40, 25), min_length=1)
    head: Widths = (64, 48, 32)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    mask_inputs: bool = True
    """Append each variable's observed bit to the input; False gives the paper's plain columns."""
    trends: FrameCounts = ()
    """Time constants, in frames, of running means; the input gains each reading's distance from its mean."""
    spreads: FrameCounts = ()
    """Time constants, in frames, of running mean absolute frame-to-frame changes, which the input gains as well."""
    squash: bool = False
    """Readings enter as arcsinh of their standard scores, so that far ones are not cut off."""

    @model_serializer(mode="wrap")
    def _as_in_older_files(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older model files lack, if it says the same: their hash goes over this."""
        described: dict[str, Any] = serialize(self)
        if described.get("squash") is False:
            del described["squash"]
        return described


class CausalCNNConfig(BaseModel):
    """Shape of a CausalCNN; it sees 1 + (kernel - 1) * (sum of dilations) frames, 31 by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["causal_cnn"] = "causal_cnn"
    channels: Width = 64
    kernel: Width = Field(default=3, ge=2)
    dilations: Widths = Field(default=(1, 2, 4, 8), min_length=1)
    """Frames between two taps of each layer's kernel; one layer each."""
    head: Widths = (64, 48, 32)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_inputs: bool = True
    """Append each variable's observed bit to the input."""


class RingAttentionConfig(BaseModel):
    """Shape of a RingAttention; L layers see L * (window - 1) + 1 frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ring_attention"] = "ring_attention"
    window: Width = 100
    """W, the frames that each layer looks at, the present one among them."""
    size: Width = 64
    """d, the width of the network."""
    heads: Heads = 4
    layers: Layers = 2
    head: Widths = (64, 48, 32)
    """Widths of the dense layers behind the last attention, not of the attention's heads."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_inputs: bool = True
    """Append each variable's observed bit to the input."""

    @model_validator(mode="after")
    def _heads_divide_size(self) -> RingAttentionConfig:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} cannot be divided among {self.heads} heads; make it a multiple")
        return self


class LinearStateConfig(BaseModel):
    """Shape of a LinearState."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["linear_state"] = "linear_state"
    size: Width = 64
    """d, the width of the network."""
    heads: Heads = 4
    layers: Layers = 2
    horizons: tuple[FrameCount, FrameCount] = (4.0, 256.0)
    """Time constants, in frames, of a head's fastest and slowest row before training; the others lie between."""
    head: Widths = (64, 48, 32)
    """Widths of the dense layers behind the last block, not of the attention's heads."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_inputs: bool = True
    """Append each variable's observed bit to the input."""

    @model_validator(mode="after")
    def _heads_divide_size(self) -> LinearStateConfig:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} cannot be divided among {self.heads} heads; make it a multiple")
        return self


class StatisticsConfig(BaseModel):
    """Shape of a network on streaming statistics: running means and variances of several spans, and no other memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["statistics"] = "statistics"
    spans: FrameCounts = Field(default=(5.0, 20.0, 60.0), min_length=1)
    """In frames; a running mean moves by 1 / span of the way to each reading."""
    hidden: Widths = Field(default=(256, 128), min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    mask_inputs: bool = True
    """Append each variable's observed bit to the input."""


class CellsConfig(BaseModel):
    """Shape of a network on streaming statistics whose first layer encodes each cell, which is the variables of one
    component and modality, by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cells"] = "cells"
    spans: FrameCounts = Field(default=(5.0, 20.0, 60.0), min_length=1)
    """As of `statistics`."""
    size: Width = 24
    """Width of each cell's code."""
    hidden: Widths = Field(default=(256, 128), min_length=1)
    """Of the layers behind the codes of all cells."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    mask_inputs: Literal[True] = True
    """Each cell gets the observed bits of its variables, so that a missing cell is known as such."""
    cells: tuple[tuple[Column, ...], ...] | None = None
    """Places of each cell's variables; training takes them from the profile."""


def cell_inputs(config: CellsConfig, variables: int) -> list[list[int]]:
    """Of each cell the places of its statistics and observed bits among those of all variables.

    Raises ValueError if there are no cells yet, or one has a variable that does not exist.
    """
    if not config.cells:
        raise ValueError("it has no cells; training takes them from the profile")
    if any(not cell or max(cell) >= variables for cell in config.cells):
        raise ValueError(f"one of its cells is empty, or has a variable beyond the {variables} that there are")
    groups = 2 + 2 * len(config.spans)
    return [[group * variables + column for group in range(groups) for column in cell] for cell in config.cells]


class TreeShape(BaseModel):
    """How many numbers the trees of a model file consist of; training fills it in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trees: int = Field(ge=1, le=2**20)
    nodes: int = Field(ge=1, le=2**23)
    leaves: int = Field(ge=1, le=2**23)
    leaf_width: int = Field(ge=1, le=65_536)
    """Numbers of a leaf: one of a boosted tree, one for each class of a tree in a forest."""
    output: Literal["log_odds", "probabilities"]


class TreesConfig(BaseModel):
    """Decision trees on exact statistics of windows, on distances from a machine's own start, and on messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["trees"] = "trees"
    windows: tuple[WholeFrames, ...] = Field(default=(10, 60), min_length=1, max_length=8)
    """Frames of each window, of which mean, deviation, minimum and maximum are taken."""
    own_start: int = Field(default=0, ge=0, le=4_096)
    """First frames of a run, from whose mean later readings' distances are taken as well; 0 for none."""
    learner: Literal["auto", "boosting", "forest"] = "auto"
    """Histogram gradient boosting, a random forest, or the one with the smaller loss on validation."""
    class_weights: Literal["none", "sqrt", "balanced"] = "balanced"
    """How much rare classes count for the trees: as often as they are, by the inverse root of that, or all alike."""
    rounds: int = Field(default=300, ge=1, le=10_000)
    """Of boosting, at most."""
    leaf_nodes: int = Field(default=31, ge=2, le=65_536)
    """Leaves of a boosted tree, at most."""
    forest: int = Field(default=150, ge=1, le=10_000)
    """Trees of a forest."""
    mask_inputs: bool = True
    """Whether the encoder's input has observed bits; trees do not use them."""
    shape: TreeShape | None = None
    """None before training."""

    def columns(self, variables: int, messages: int) -> int:
        """Numbers that trees see of a frame."""
        groups = 1 + 4 * len(self.windows) + (3 if self.own_start else 0)
        return groups * variables + messages

    @property
    def counted_frames(self) -> int:
        """The count of a run's frames goes on as n to 2 n beyond twice this n, a multiple of the longest window."""
        longest = max(self.windows)
        return longest * -(-max(longest, self.own_start) // longest)


class NoClassifierConfig(BaseModel):
    """No encoder: data of the normal state alone teach no fault, so every answer is the first class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["no_classifier"] = "no_classifier"
    mask_inputs: bool = False
    """Whether the encoder's input has observed bits; nothing uses them."""


ExpertConfig = Annotated[
    SeqLSTMConfig
    | CausalCNNConfig
    | RingAttentionConfig
    | LinearStateConfig
    | StatisticsConfig
    | CellsConfig
    | TreesConfig,
    Field(discriminator="kind"),
]
"""One expert of several, by its `kind`."""


COUNTING: Final = (SeqLSTMConfig, StatisticsConfig, TreesConfig)
"""Encoders that take counted messages behind the readings."""


class ExpertsConfig(BaseModel):
    """Several experts on the same readings, whose log-probabilities are averaged with weights fitted on validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["experts"] = "experts"
    experts: tuple[ExpertConfig, ...] = Field(
        default=(SeqLSTMConfig(hidden=(64, 64), head=(), squash=True), StatisticsConfig(), TreesConfig(own_start=60)),
        min_length=1,
        max_length=16,
    )

    @property
    def mask_inputs(self) -> bool:
        """Whether any expert uses the observed bits."""
        return any(expert.mask_inputs for expert in self.experts)


def _with_kind(described: Any) -> Any:
    """Older descriptions of sensor encoders have no `kind`; they are LSTMs."""
    return {"kind": "seq_lstm"} | described if isinstance(described, dict) else described


SensorConfig = Annotated[
    Annotated[
        SeqLSTMConfig
        | CausalCNNConfig
        | RingAttentionConfig
        | LinearStateConfig
        | StatisticsConfig
        | CellsConfig
        | TreesConfig
        | ExpertsConfig
        | NoClassifierConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_with_kind),
]
"""Which sensor encoder, by its `kind`, and its shape; without a `kind` a SeqLSTM (docs/guide/models.md)."""
