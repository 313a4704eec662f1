"""LinearState: gated linear attention, whose state is a decaying matrix per head (docs/guide/models.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from models.configs.sensors import LinearStateConfig
from models.encoders.base import SensorEncoder, State, mlp

_BLOCK = 8
"""Frames that `advance` computes at once; larger blocks take fewer operations, each with more work per frame."""


class LinearState(SensorEncoder):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits if `mask_inputs`.

    Each layer is a pre-norm block, y += Attention(LN(y)), y += FFN(LN(y)), with per head

        S_t = G_t (x) S_{t-1} + k_t v_t^T,   y_t = q_t S_t / sqrt(d_k),   G_t = sigmoid(W_g x_t + b) per row

    (gated linear attention of Yang et al. 2024, arXiv 2312.06635). Keys are k_t = (1 - G_t) (x) W_k x_t,
    the input gate tied to the forget gate as in HGRN2 (Qin et al. 2024): each row of S is then a running mean of what
    was written to it, so that it stays bounded without a norm, which would amplify rounding errors.
    """

    def __init__(self, config: LinearStateConfig, *, variables: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.feature_size = config.size
        self.input = nn.Linear(variables * (1 + int(config.mask_inputs)), config.size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.size)
        self.head = mlp(config.size, config.head, classes)

    def init_state(self, batch: int) -> State:
        """Zeros: of each layer the matrices `memory` (B, H, d_k, d_v) with d_k = d_v = d / H."""
        like = self.input.weight
        wide = self.config.size // self.config.heads
        return {
            f"memory{index}": like.new_zeros(batch, self.config.heads, wide, wide)
            for index in range(self.config.layers)
        }

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`."""
        after: State = {}
        y = self.input(x)
        for index, layer in enumerate(self._layers()):
            q, k, v, fading = (part.transpose(1, 2) for part in layer.project(y))  # (B, H, T, d_k)
            memory = state[f"memory{index}"]
            parts = []
            for start in range(0, x.shape[1], _BLOCK):
                block = slice(start, start + _BLOCK)
                read, memory = _advance_block(
                    q[:, :, block], k[:, :, block], v[:, :, block], fading[:, :, block], memory
                )
                parts.append(read)
            after[f"memory{index}"] = memory
            y = layer.finish(y, torch.cat(parts, dim=2).transpose(1, 2))
        features = self.norm(y)
        return self.head(features), features, after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`. Meant for inference, in `eval` mode."""
        after: State = {}
        y = self.input(x)
        for index, layer in enumerate(self._layers()):
            q, k, v, fading = layer.project(y)  # (B, H, d_k)
            memory = state[f"memory{index}"] * fading.exp().unsqueeze(3)
            memory = after[f"memory{index}"] = memory.addcmul_(k.unsqueeze(3), v.unsqueeze(2))
            y = layer.finish(y, (memory * q.unsqueeze(3)).sum(dim=2))
        features = self.norm(y)
        return self.head(features), features, after

    def _layers(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]


def _advance_block(q: Tensor, k: Tensor, v: Tensor, fading: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence over n frames at once: all but memory (B, H, n, d_k), to what is read and the memory after.

    With L_i = sum of log G up to frame i, S_i = exp(L_i) (x) S_0 + sum over j <= i of exp(L_i - L_j) (x) k_j v_j^T.
    Only differences L_i - L_j <= 0 are exponentiated, so nothing overflows however fast a row fades.
    """
    faded = fading.cumsum(dim=2)  # (B, H, n, d_k), includes the frame's own gate
    between = faded.unsqueeze(3) - faded.unsqueeze(2)  # (B, H, n, n, d_k)
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    weight = between.masked_fill(later.unsqueeze(2), -math.inf).exp()
    scores = (q.unsqueeze(3) * weight * k.unsqueeze(2)).sum(dim=4)  # (B, H, n, n)
    read = (q * faded.exp()) @ memory + scores @ v
    last = faded[:, :, -1:]
    written = (k * (last - faded).exp()).transpose(2, 3) @ v
    return read, last.exp().transpose(2, 3) * memory + written


class _Layer(nn.Module):
    """The projections of one pre-norm block."""

    def __init__(self, config: LinearStateConfig) -> None:
        super().__init__()
        size = config.size
        self.heads = config.heads
        self.norm = nn.LayerNorm(size)
        self.project_in = nn.Linear(size, 3 * size)
        self.gate = nn.Linear(size, size)
        self.project_out = nn.Linear(size, size)
        self.inner_norm = nn.LayerNorm(size)
        self.inner = mlp(size, (2 * size,), size)
        self.dropout = nn.Dropout(config.dropout)
        # A row with time constant tau keeps exp(-1 / tau), which is sigmoid(-log(exp(1 / tau) - 1)).
        fast, slow = config.horizons
        tau = torch.logspace(math.log2(fast), math.log2(slow), size // config.heads, base=2)
        with torch.no_grad():
            self.gate.bias.copy_(-torch.log(torch.expm1(1 / tau)).repeat(config.heads))

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames (…, d) to queries, already divided by sqrt(d_k), keys, values and log G, each (…, H, d_k)."""
        z = self.norm(y)
        q, k, v = self.project_in(z).unflatten(-1, (3, self.heads, -1)).unbind(dim=-3)
        gate = self.gate(z).unflatten(-1, (self.heads, -1))
        return q / math.sqrt(q.shape[-1]), k * torch.sigmoid(-gate), v, logsigmoid(gate)

    def finish(self, y: Tensor, read: Tensor) -> Tensor:
        """Frames (…, d) and what was read for them (…, H, d_v) to the block's output (…, d)."""
        y = y + self.dropout(self.project_out(read.flatten(-2)))
        z: Tensor = y + self.dropout(self.inner(self.inner_norm(y)))
        return z
