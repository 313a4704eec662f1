"""Configurations of the sensor encoders (docs/guide/models.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from models.configs.limits import FrameCount, FrameCounts, Heads, Layers, Width, Widths


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


def _with_kind(described: Any) -> Any:
    """Older descriptions of sensor encoders have no `kind`; they are LSTMs."""
    return {"kind": "seq_lstm"} | described if isinstance(described, dict) else described


SensorConfig = Annotated[
    Annotated[
        SeqLSTMConfig | CausalCNNConfig | RingAttentionConfig | LinearStateConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_with_kind),
]
"""Which sensor encoder, by its `kind`, and its shape; without a `kind` a SeqLSTM (docs/guide/models.md)."""
