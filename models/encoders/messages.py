"""Message inputs: how often and how long ago a machine wrote each of its frequent messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.configs.messages import MessagesConfig
from models.encoders.base import State
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import normalised
from pipeline.arrays import Floats


def whole_frames(age: float) -> int:
    """How many frames before its own a text was written that is `age` frames old at the end of its frame."""
    return max(0, math.ceil(age) - 1)


class MessageInputs(nn.Module):
    """For K messages and W windows (W + 1) K columns: counts of each window, then log(1 + frames since the last one).

    Columns are scaled by the normal state. A message counts in the frame that brings it, unless it is older than the
    shortest window; its age counts from when it was written.
    """

    def __init__(self, config: MessagesConfig) -> None:
        super().__init__()
        self.config = config
        self.places = {message: place for place, message in enumerate(config.messages)}
        self.register_buffer("shift", torch.zeros(config.columns))
        self.register_buffer("scale", torch.ones(config.columns))
        self.shift: Tensor  # ((W + 1) K,)
        self.scale: Tensor  # ((W + 1) K,) 1 / deviation

    def place(self, text: str) -> int | None:
        """Which message a text is, if it is one that counts."""
        return self.places.get(normalised(text))

    def init_state(self, batch: int) -> State:
        """Counts of the last frames in a ring (B, L, K), the next one's place (B, 1), sums (B, W, K), ages (B, K)."""
        like, config = self.shift, self.config
        messages = len(config.messages)
        return {
            "message_ring": like.new_zeros(batch, max(config.windows), messages),
            "message_turn": like.new_zeros(batch, 1),
            "message_sums": like.new_zeros(batch, len(config.windows), messages),
            "message_ages": like.new_full((batch, messages), float(config.longest_age)),
        }

    def brought(self, texts: Sequence[Sequence[tuple[float, str]]]) -> Tensor:
        """For texts of each machine's frame with their ages in frames: how many of each message count, and the age of
        the newest, -1 if there is none, (B, 2, K)."""
        brought = self.shift.new_zeros(len(texts), 2, len(self.config.messages))
        brought[:, 1] = -1
        for row, own in enumerate(texts):
            for age, text in own:
                if (place := self.place(text)) is not None:
                    frames = whole_frames(age)
                    brought[row, 0, place] += frames < min(self.config.windows)
                    known = float(brought[row, 1, place])
                    brought[row, 1, place] = frames if known < 0 else min(frames, known)
        return brought

    def step(self, brought: Tensor, state: State) -> tuple[Tensor, State]:
        """Columns (B, (W + 1) K) after a frame with these messages (B, 2, K), and the state after it."""
        counts, new = brought.unbind(1)
        config, turn = self.config, state["message_turn"].long()
        longest, ring = max(config.windows), state["message_ring"]
        # Whole numbers, so that adding what comes and subtracting what goes is exact.
        sums = []
        for window, total in zip(config.windows, state["message_sums"].unbind(1), strict=True):
            leaving = (turn - window).remainder(longest)[:, :, None].expand(-1, 1, ring.shape[2])
            sums.append(total + counts - ring.gather(1, leaving)[:, 0])
        here = turn[:, :, None].expand(-1, 1, ring.shape[2])
        ages = (state["message_ages"] + 1).clamp_max(float(config.longest_age))
        ages = torch.where(new >= 0, torch.minimum(new, ages), ages)
        after = {
            "message_ring": ring.scatter(1, here, counts[:, None]),
            "message_turn": (turn + 1).remainder(longest).to(counts.dtype),
            "message_sums": torch.stack(sums, dim=1),
            "message_ages": ages,
        }
        return self.scaled(torch.cat([*sums, (ages + 1).log()], dim=1)), after

    def scaled(self, columns: Tensor) -> Tensor:
        """Columns (…, (W + 1) K) in deviations from the normal state, as arcsinh: one message where there normally is
        none is many deviations away."""
        return torch.asinh((columns - self.shift) * self.scale)

    def columns(self, texts: Sequence[PlacedText], frames: int) -> Floats:
        """Unscaled columns (T, (W + 1) K) of a run of T frames with these texts."""
        config = self.config
        counts = np.zeros((frames, len(config.messages)), np.float32)
        last = np.full(counts.shape, -np.inf)
        for text in texts:
            place = self.place(text.text)
            if place is not None and 0 <= text.frame < frames:
                age = whole_frames(text.age)
                counts[text.frame, place] += age < min(config.windows)
                last[text.frame, place] = max(last[text.frame, place], text.frame - age)
        summed = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0, dtype=np.float64)])
        ends = np.arange(1, frames + 1)
        windows = [summed[ends] - summed[np.maximum(ends - window, 0)] for window in config.windows]
        ages = np.minimum(np.arange(frames)[:, None] - np.maximum.accumulate(last, axis=0), config.longest_age)
        return np.concatenate([*windows, np.log1p(ages)], axis=1).astype(np.float32)

    def fit_scaling(self, normal: Floats) -> None:
        """Scale by these unscaled columns (N, (W + 1) K) of normal frames; a constant one by 1."""
        deviation = normal.std(axis=0) if len(normal) else np.zeros(self.config.columns)
        self.shift.copy_(torch.from_numpy(normal.mean(axis=0) if len(normal) else deviation))
        self.scale.copy_(torch.from_numpy(1 / np.where(deviation > 1e-3, deviation, 1)))
