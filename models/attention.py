"""RingAttention: causal attention over the last W frames, whose keys and values lie in a ring (MODELS.md 2.4)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.layers import State, mlp

_LEAST_BLOCK = 64
"""Frames that `advance` answers at once, at least; more for wide windows."""


class RingAttentionConfig(BaseModel):
    """Shape of a RingAttention; L layers see L * (window - 1) + 1 frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ring_attention"] = "ring_attention"
    window: int = Field(default=100, ge=1)
    """W, the frames that each layer looks at, the present one among them."""
    size: int = Field(default=64, ge=1)
    """d, the width of the network."""
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1)
    head: tuple[int, ...] = (64, 48, 32)
    """Widths of the dense layers behind the last attention, not of the attention's heads."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_inputs: bool = True
    """Append each variable's observed bit to the input."""

    @model_validator(mode="after")
    def _heads_divide_size(self) -> RingAttentionConfig:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} cannot be shared out among {self.heads} heads; make it a multiple")
        return self


class RingAttention(nn.Module):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits if `mask_inputs`.

    Each layer is a pre-norm block, y += Attention(LN(y)), y += FFN(LN(y)), with per head h

        a_{t,s} = softmax over t-W < s <= t of ( q_t.k_s / sqrt(d_k) - slope_h * (t - s) ),   y_t = sum_s a_{t,s} v_s

    (MODELS.md 2.4; Vaswani et al. 2017; slopes 2^(-8 h / H) of ALiBi, Press et al. 2022). Only the distance t - s
    enters and no absolute position, so a key stays right while it is in the window, and each is computed once.
    """

    def __init__(self, config: RingAttentionConfig, *, variables: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.feature_size = config.size
        self.input = nn.Linear(variables * (1 + int(config.mask_inputs)), config.size)
        self.layers = nn.ModuleList(_Layer(config.size, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.size)
        self.head = mlp(config.size, config.head, classes)

        slopes = [2 ** (-8 * (head + 1) / config.heads) for head in range(config.heads)]
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)
        self.slopes: Tensor  # (H,)

    def init_state(self, batch: int) -> State:
        """Of each layer empty `keys` and `values` (B, H, W, d_k), and `count` (B, 1).

        `count` is the number of frames so far, from 2W on less a multiple of W: enough to know where the next frame
        goes and which places are filled, and small, so that a float holds it exactly however long a machine runs.
        """
        like = self.input.weight
        shape = (batch, self.config.heads, self.config.window, self.config.size // self.config.heads)
        state = {"count": like.new_zeros(batch, 1)}
        for at in range(self.config.layers):
            state[f"keys{at}"], state[f"values{at}"] = like.new_zeros(shape), like.new_zeros(shape)
        return state

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole runs (B, T, F) to logits (B, T, C) and features (B, T, D)."""
        logits, features, _ = self.advance(x, self.init_state(x.shape[0]))
        return logits, features

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`.

        The banded mask is applied block by block, for of all T * T pairs of frames only T * W are in the band.
        """
        window, frames = self.config.window, x.shape[1]
        count = state["count"]
        device = x.device
        # The W-1 frames before these, oldest first: where they lie in the ring, and whether they have been at all.
        before = torch.arange(window - 1, device=device)
        places = (count.long() + 1 + before) % window  # (B, W-1)
        there = before >= window - 1 - count  # (B, W-1)
        there = torch.cat([there, there.new_ones(len(x), frames)], dim=1)
        # The last frames of these, and where they will lie.
        kept = min(frames, window)
        slots = (count.long() + torch.arange(frames - kept, frames, device=device)) % window  # (B, kept)

        after: State = {"count": self._counted(count, frames)}
        y = self.input(x)
        for at, layer in enumerate(self._layers()):
            q, k, v = (part.transpose(1, 2) for part in layer.project(y))  # (B, H, T, d_k)
            seen: State = {}
            for name, new in (("keys", k), ("values", v)):
                ring = state[f"{name}{at}"]
                seen[name] = torch.cat([ring.gather(2, _over(places, ring)), new], dim=2)
                after[f"{name}{at}"] = ring.scatter(2, _over(slots, ring), new[:, :, frames - kept :])
            y = layer.finish(y, self._banded(q, seen["keys"], seen["values"], there).transpose(1, 2))
        features = self.norm(y)
        return self.head(features), features, after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`. Meant for inference, in `eval` mode."""
        window = self.config.window
        count = state["count"]
        age = (count - torch.arange(window, device=x.device)) % window  # (B, W) frames since each place was written
        bias = (-self.slopes[:, None] * age[:, None]).masked_fill((age > count)[:, None], -math.inf)  # (B, H, W)
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        heads = torch.arange(self.config.heads, device=x.device)
        here = (rows, heads, count.long() % window)

        after: State = {"count": self._counted(count, 1)}
        y = self.input(x)
        for at, layer in enumerate(self._layers()):
            q, k, v = layer.project(y)  # (B, H, d_k)
            keys = after[f"keys{at}"] = state[f"keys{at}"].index_put(here, k)
            values = after[f"values{at}"] = state[f"values{at}"].index_put(here, v)
            scores = (q.unsqueeze(2) @ keys.transpose(2, 3)).squeeze(2) + bias
            attended = torch.softmax(scores, dim=2).unsqueeze(2) @ values
            y = layer.finish(y, attended.squeeze(2))
        features = self.norm(y)
        return self.head(features), features, after

    def _banded(self, q: Tensor, k: Tensor, v: Tensor, there: Tensor) -> Tensor:
        """Attention of q (B, H, T, d_k) over k and v (B, H, W-1+T, d_k), of which `there` (B, W-1+T) are real."""
        window, frames = self.config.window, q.shape[2]
        parts = []
        size = max(window, _LEAST_BLOCK)
        for start in range(0, frames, size):
            asked = q[:, :, start : start + size]
            count = asked.shape[2]
            seen = slice(start, start + count + window - 1)
            distance = torch.arange(window - 1, window - 1 + count, device=q.device)[:, None] - torch.arange(
                count + window - 1, device=q.device
            )
            outside = (distance < 0) | (distance >= window)
            bias = (-self.slopes[:, None, None] * distance).masked_fill(outside, -math.inf)
            scores = asked @ k[:, :, seen].transpose(2, 3) + bias
            scores = scores.masked_fill(~there[:, None, None, seen], -math.inf)
            parts.append(torch.softmax(scores, dim=3) @ v[:, :, seen])
        return torch.cat(parts, dim=2)

    def _counted(self, count: Tensor, frames: int) -> Tensor:
        """`count` after so many more frames."""
        total = count + frames
        window = self.config.window
        return torch.where(total < 2 * window, total, window + total % window)

    def _layers(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]


class _Layer(nn.Module):
    """The projections of one pre-norm block; which frames meet which is the network's business."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(size)
        self.project_in = nn.Linear(size, 3 * size)
        self.project_out = nn.Linear(size, size)
        self.inner_norm = nn.LayerNorm(size)
        self.inner = mlp(size, (2 * size,), size)
        self.dropout = nn.Dropout(dropout)

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (…, d) to queries, already divided by sqrt(d_k), keys and values, each (…, H, d_k)."""
        q, k, v = self.project_in(self.norm(y)).unflatten(-1, (3, self.heads, -1)).unbind(dim=-3)
        return q / math.sqrt(q.shape[-1]), k, v

    def finish(self, y: Tensor, attended: Tensor) -> Tensor:
        """Frames (…, d) and what their heads found (…, H, d_k) to the block's output (…, d)."""
        y = y + self.dropout(self.project_out(attended.flatten(-2)))
        z: Tensor = y + self.dropout(self.inner(self.inner_norm(y)))
        return z


def _over(places: Tensor, ring: Tensor) -> Tensor:
    """Places (B, n) as index (B, H, n, d_k) into the third dimension of a ring (B, H, W, d_k)."""
    return places[:, None, :, None].expand(-1, ring.shape[1], -1, ring.shape[3])
