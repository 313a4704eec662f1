"""RingAttention: causal attention over a ring of the last W frames (docs/guide/models.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.configs.sensors import RingAttentionConfig
from models.encoders.base import SensorEncoder, State, mlp

_MIN_BLOCK = 64
"""Minimum number of frames that `advance` computes at once; more for wide windows."""


class RingAttention(SensorEncoder):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits if `mask_inputs`.

    Each layer is a pre-norm block, y += Attention(LN(y)), y += FFN(LN(y)), with per head h

        a_{t,s} = softmax over t-W < s <= t of ( q_t.k_s / sqrt(d_k) - slope_h * (t - s) ),   y_t = sum_s a_{t,s} v_s

    (Vaswani et al. 2017; slopes 2^(-8 h / H) of ALiBi, Press et al. 2022). Only the distance t - s
    enters and no absolute position, so entries of the ring stay valid while they are in the window.

    The ring holds LN(y_s) itself and not its key and value, two linear images: half as many numbers to keep, save and
    read at every step. q_t.(K u_s) = (K^T q_t).u_s and sum_s a_s (V u_s) = V (sum_s a_s u_s), so a step
    transforms the query and not each frame; the keys' biases add the same to all places and drop out.
    """

    def __init__(self, config: RingAttentionConfig, *, variables: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.feature_size = config.size
        self.input = nn.Linear(variables * (1 + int(config.mask_inputs)), config.size)
        self.layers = nn.ModuleList(
            AttentionLayer(config.size, config.heads, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.size)
        self.head = mlp(config.size, config.head, classes)

        slopes = [2 ** (-8 * (head + 1) / config.heads) for head in range(config.heads)]
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)
        self.slopes: Tensor  # (H,)

    def init_state(self, batch: int) -> State:
        """Of each layer empty `inputs` (B, W, d), and `count` (B, 1).

        `count` is the number of frames so far, from 2W on less a multiple of W: enough to know where the next frame
        goes and which places are filled, and small enough for a float to hold it exactly, however long a machine runs.
        """
        like = self.input.weight
        state = {"count": like.new_zeros(batch, 1)}
        for index in range(self.config.layers):
            state[f"inputs{index}"] = like.new_zeros(batch, self.config.window, self.config.size)
        return state

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`.

        The banded mask is applied block by block, because of all T * T pairs of frames only T * W are in the band.
        """
        window, frames = self.config.window, x.shape[1]
        count = state["count"]
        device = x.device
        # The W-1 frames before these, oldest first: their places in the ring, and whether they exist.
        before = torch.arange(window - 1, device=device)
        places = (count.long() + 1 + before) % window  # (B, W-1)
        there = before >= window - 1 - count  # (B, W-1)
        there = torch.cat([there, there.new_ones(len(x), frames)], dim=1)
        # The last of these frames, and their places.
        kept = min(frames, window)
        slots = (count.long() + torch.arange(frames - kept, frames, device=device)) % window  # (B, kept)

        after: State = {"count": self._counted(count, frames)}
        y = self.input(x)
        for index, layer in enumerate(self._layers()):
            u, ring = layer.norm(y), state[f"inputs{index}"]
            seen = torch.cat([ring.gather(1, _over(places, ring)), u], dim=1)  # (B, W-1+T, d)
            after[f"inputs{index}"] = ring.scatter(1, _over(slots, ring), u[:, frames - kept :])
            q, k, v = (part.transpose(1, 2) for part in (layer.queries(u), *layer.keys_and_values(seen)))
            y = layer.finish(y, self._banded(q, k, v, there).transpose(1, 2))
        features = self.norm(y)
        return self.head(features), features, after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`. Meant for inference, in `eval` mode."""
        window = self.config.window
        count = state["count"]
        age = (count - torch.arange(window, device=x.device)) % window  # (B, W) frames since each place was written
        bias = (-self.slopes[:, None] * age[:, None]).masked_fill((age > count)[:, None], -math.inf)  # (B, H, W)
        here = (torch.arange(x.shape[0], device=x.device), count.squeeze(1).long() % window)

        after: State = {"count": self._counted(count, 1)}
        y = self.input(x)
        for index, layer in enumerate(self._layers()):
            u = layer.norm(y)
            ring = after[f"inputs{index}"] = state[f"inputs{index}"].index_put(here, u)
            y = layer.finish(y, layer.read(u, ring, bias))
        features = self.norm(y)
        return self.head(features), features, after

    def _banded(self, q: Tensor, k: Tensor, v: Tensor, there: Tensor) -> Tensor:
        """Attention of q (B, H, T, d_k) over k and v (B, H, W-1+T, d_k), of which `there` (B, W-1+T) exist."""
        window, frames = self.config.window, q.shape[2]
        parts = []
        size = max(window, _MIN_BLOCK)
        for start in range(0, frames, size):
            queries = q[:, :, start : start + size]
            count = queries.shape[2]
            seen = slice(start, start + count + window - 1)
            distance = torch.arange(window - 1, window - 1 + count, device=q.device)[:, None] - torch.arange(
                count + window - 1, device=q.device
            )
            outside = (distance < 0) | (distance >= window)
            bias = (-self.slopes[:, None, None] * distance).masked_fill(outside, -math.inf)
            scores = queries @ k[:, :, seen].transpose(2, 3) + bias
            scores = scores.masked_fill(~there[:, None, None, seen], -math.inf)
            parts.append(torch.softmax(scores, dim=3) @ v[:, :, seen])
        return torch.cat(parts, dim=2)

    def _counted(self, count: Tensor, frames: int) -> Tensor:
        """`count` after `frames` more frames."""
        total = count + frames
        window = self.config.window
        return torch.where(total < 2 * window, total, window + total % window)

    def _layers(self) -> list[AttentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, AttentionLayer)]


class AttentionLayer(nn.Module):
    """The projections of one pre-norm block; the network decides which frames attend to which."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(size)
        self.project_in = nn.Linear(size, 3 * size)
        self.project_out = nn.Linear(size, size)
        self.inner_norm = nn.LayerNorm(size)
        self.inner = mlp(size, (2 * size,), size)
        self.dropout = nn.Dropout(dropout)

    def queries(self, u: Tensor) -> Tensor:
        """Normalised frames (…, d) to queries (…, H, d_k), already divided by sqrt(d_k)."""
        size = u.shape[-1]
        q = linear(u, self.project_in.weight[:size], self.project_in.bias[:size])
        return q.reshape(*u.shape[:-1], self.heads, -1) / math.sqrt(size // self.heads)

    def keys_and_values(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised frames (…, d) to keys and values, each (…, H, d_k)."""
        size = u.shape[-1]
        both = linear(u, self.project_in.weight[size:], self.project_in.bias[size:])
        k, v = both.reshape(*u.shape[:-1], 2, self.heads, -1).unbind(dim=-3)
        return k, v

    def read(self, u: Tensor, ring: Tensor, bias: Tensor) -> Tensor:
        """What the heads of one normalised frame (B, d) read (B, H, d_k) from a ring (B, W, d); `bias` (B, H, W) is
        added to the scores."""
        size = u.shape[-1]
        _, keys, values = self.project_in.weight.reshape(3, self.heads, -1, size)  # (H, d_k, d)
        queries = torch.einsum("bhk,hkd->bhd", self.queries(u), keys)
        weights = torch.softmax(queries @ ring.transpose(1, 2) + bias, dim=2)
        shift = self.project_in.bias[2 * size :].reshape(self.heads, -1)
        return torch.einsum("bhd,hkd->bhk", weights @ ring, values) + shift

    def finish(self, y: Tensor, attended: Tensor) -> Tensor:
        """Frames (…, d) and what their heads read (…, H, d_k) to the block's output (…, d)."""
        y = y + self.dropout(self.project_out(attended.flatten(-2)))
        z: Tensor = y + self.dropout(self.inner(self.inner_norm(y)))
        return z


def _over(places: Tensor, ring: Tensor) -> Tensor:
    """Places (B, n) as index (B, n, d) into the second dimension of a ring (B, W, d)."""
    return places[:, :, None].expand(-1, -1, ring.shape[2])
