"""Detector: how far a machine is from the normal state, by what a forecast of its readings misses (models.md)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.configs.detector import DetectorConfig
from models.encoders.base import State, lstm_step

LEAST_SQUARE = 0.02
"""Is added to a mean of squares before its logarithm."""
LARGEST_NOVELTY = 1e9


class Readings(NamedTuple):
    """What the detector gets of frames (B, T, V)."""

    scaled: Tensor
    """Standard scores, 0 where unknown."""
    known: Tensor
    """Whether there is a reading, be it held from an earlier frame."""
    observed: Tensor
    """Whether it was measured in its own frame."""


class Detected(NamedTuple):
    """How far frames are from the normal state."""

    novelty: Tensor
    """(B, T) the largest distance of a block, in shares of its limit: 1 is the alarm limit."""
    deviations: Tensor
    """(B, T, V) what each variable contributes to it; their sum is the novelty."""


class Detector(nn.Module):
    """Forecasts the next frame, and watches running statistics of what the forecast misses.

    r = x - forecast for the readings measured in their own frame, z = W r with a symmetric W, so that z_k is still
    about variable k, and |z_k| is cut at the root of `largest_square`. For each span h a mean m += (z - m) / h and a
    mean of squares s += (z^2 - s) / h; what was not measured leaves its own as they are. Without many of the readings
    the others cannot be forecast as well, nor be whitened: a frame with fewer than `least_observed` of them, and the
    `warm_up_frames` after it, say nothing and have the novelty 0. A block f is the means of a
    span, or log(s + 0.02) of a span. Its distance is |A (f - f0)|^2 with a symmetric A, fitted to the normal state; the
    novelty is the largest distance / limit over the blocks.

    **Backing.** The logit of every visible fault gets weight * g while the detector is armed, with
    g = max(0, log(novelty / quiet level)); of 99 % of the normal frames g is 0, so margins need not grow by it, which
    would make the classifier lose faults once it is alone. The detector may start an alarm that
    the classifier would raise later. As soon as the classifier by itself - its logits with the false-alarm margin,
    without g - has a visible fault in front, it takes over: it holds the fault and lets go of it alone, and the
    detector is armed again once the novelty has been below its quiet level for `quiet_frames`. Margins are therefore
    subtracted before: what they hold back does not take over. While margins are fitted on fault-free frames the
    detector counts as armed throughout (`armed=True`), the most that it can add whatever the margins will be, so that
    they suffice.
    """

    def __init__(self, config: DetectorConfig, *, variables: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.forecaster = nn.LSTM(variables, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden + variables, variables)
        self.register_buffer("whitening", torch.eye(variables))
        self.register_buffer("centres", torch.zeros(config.blocks, variables))
        self.register_buffer("shapes", torch.eye(variables).repeat(config.blocks, 1, 1))
        self.register_buffer("limits", torch.ones(config.blocks))
        self.register_buffer("least_observed", torch.zeros(()))
        self.register_buffer("quiet", torch.ones(()))
        self.register_buffer("backing", torch.zeros(classes))
        self.whitening: Tensor  # (V, V)
        self.centres: Tensor  # (K, V) mean of each block in the normal state
        self.shapes: Tensor  # (K, V, V) inverse root of its covariance
        self.limits: Tensor  # (K,)
        self.least_observed: Tensor  # () how many readings a frame has to have
        self.quiet: Tensor  # () the novelty below which a machine counts as quiet, as in 99 % of normal frames
        self.backing: Tensor  # (C,) the weight of g for each visible fault, 0 for other classes

    @property
    def backs(self) -> bool:
        """Whether the detector backs a classifier."""
        return bool((self.backing > 0).any())

    def init_state(self, batch: int) -> State:
        """Nothing forecast, means 0, squares 1, and armed."""
        like, config = self.whitening, self.config
        variables = self.variables
        return {
            "h": like.new_zeros(batch, config.hidden),
            "c": like.new_zeros(batch, config.hidden),
            "forecast": like.new_zeros(batch, variables),
            "seen": like.new_zeros(batch, 1),
            "means": like.new_zeros(batch, len(config.mean_spans), variables),
            "squares": like.new_ones(batch, len(config.square_spans), variables),
            "armed": like.new_ones(batch, 1),
            "calm": like.new_zeros(batch, 1),
        }

    def forecasts(self, x: Tensor) -> Tensor:
        """The forecast (B, T, V) of the frame after each of frames (B, T, V) from a start on, for training."""
        x = x.clamp(-self.config.clip, self.config.clip)
        hidden, _ = self.forecaster(x)
        forecast: Tensor = self.head(torch.cat([hidden, x], dim=2))
        return forecast

    def residuals(self, readings: Readings, state: State) -> tuple[Tensor, Tensor, State]:
        """Residuals (B, T, V), 0 where there is no evidence, and where there is some; from a state on.

        What is unknown enters the next forecast as it was forecast itself.
        """
        clip = self.config.clip
        scaled = readings.scaled.clamp(-clip, clip)
        h, c, forecast, seen = (state[key] for key in ("h", "c", "forecast", "seen"))
        complete = readings.observed.sum(dim=2) >= self.least_observed
        residuals, evidence = [], []
        for t in range(scaled.shape[1]):
            x = scaled[:, t]
            seen = seen.where(complete[:, t, None], seen.new_zeros(()))
            judged = readings.observed[:, t] & (seen >= self.config.warm_up_frames)
            residuals.append((x - forecast).where(judged, x.new_zeros(())))
            evidence.append(judged)
            x = x.where(readings.known[:, t], forecast.clamp(-clip, clip))
            h, c = lstm_step(self.forecaster, x, h, c)
            forecast = self.head(torch.cat([h, x], dim=1))
            seen = (seen + 1).clamp_max(self.config.warm_up_frames)
        after = {"h": h, "c": c, "forecast": forecast, "seen": seen}
        return torch.stack(residuals, dim=1), torch.stack(evidence, dim=1), after

    def statistics(self, residuals: Tensor, evidence: Tensor, state: State) -> tuple[Tensor, State]:
        """The blocks (B, T, K, V) of residuals (B, T, V) from a state on."""
        config, like = self.config, self.whitening
        cut = config.largest_square**0.5
        z = (residuals @ self.whitening.T).clamp(-cut, cut)
        means, squares = state["means"], state["squares"]
        of_means = like.new_tensor([1 / span for span in config.mean_spans])[:, None]
        of_squares = like.new_tensor([1 / span for span in config.square_spans])[:, None]
        blocks = []
        for t in range(z.shape[1]):
            now, judged = z[:, t, None], evidence[:, t, None]
            means = (means + of_means * (now - means)).where(judged, means)
            squares = (squares + of_squares * (now * now - squares)).where(judged, squares)
            blocks.append(torch.cat([means, (squares + LEAST_SQUARE).log()], dim=1))
        return torch.stack(blocks, dim=1), {"means": means, "squares": squares}

    def distances(self, blocks: Tensor) -> Tensor:
        """What each variable adds to the distance of each block, (..., K, V), of blocks (..., K, V)."""
        away: Tensor = torch.einsum("kij,...kj->...ki", self.shapes, blocks - self.centres)
        return away * away

    def detect(self, blocks: Tensor, evidence: Tensor) -> Detected:
        """The novelty of blocks (B, T, K, V), 0 in frames without any evidence (B, T, V)."""
        shares = self.distances(blocks) / self.limits[:, None]
        novelty, largest = shares.sum(dim=-1).clamp_max(LARGEST_NOVELTY).max(dim=-1)
        deviations = shares.take_along_dim(largest[..., None, None], dim=-2).squeeze(-2)
        judged, zero = evidence.any(dim=-1), novelty.new_zeros(())
        return Detected(novelty.where(judged, zero), deviations.where(judged[..., None], zero))

    def advance(self, readings: Readings, state: State) -> tuple[Detected, State]:
        """The novelty of some frames from a state on, and the state after them but for what backing changes."""
        residuals, evidence, after = self.residuals(readings, state)
        blocks, means = self.statistics(residuals, evidence, state)
        return self.detect(blocks, evidence), after | means

    def surprise(self, novelty: Tensor) -> Tensor:
        """g = max(0, log(novelty / quiet))."""
        return (novelty / self.quiet).clamp_min(1).log()

    def back(self, logits: Tensor, novelty: Tensor, state: State, *, armed: bool = False) -> tuple[Tensor, State]:
        """Logits (B, T, C) with what the detector adds, of novelty (B, T), from a state on; `armed`: in every frame."""
        raised = self.surprise(novelty)[..., None] * self.backing
        if armed or not self.backs:
            return logits + raised, {key: state[key] for key in ("armed", "calm")}
        visible = self.backing > 0
        takes_over = logits[..., visible].amax(dim=-1) > logits[..., ~visible].amax(dim=-1)
        ready, calm = state["armed"][:, 0], state["calm"][:, 0]
        frames = []
        for t in range(logits.shape[1]):
            calm = (calm + 1).clamp_max(self.config.quiet_frames).where(novelty[:, t] < self.quiet, calm.new_zeros(()))
            ready = ready.where(calm < self.config.quiet_frames, ready.new_ones(()))
            ready = ready.where(~takes_over[:, t], ready.new_zeros(()))
            frames.append(ready)
        backed = logits + raised * torch.stack(frames, dim=1)[..., None]
        return backed, {"armed": ready[:, None], "calm": calm[:, None]}


class Backing:
    """What a detector adds to logits that come part by part, or nothing without a detector."""

    def __init__(self, detector: Detector | None, novelty: Tensor, state: State) -> None:
        """Novelty (B, T) of whole runs, and the state before them."""
        self._detector = detector
        self._novelty = novelty
        self._state = state

    def add(self, logits: Tensor, part: slice) -> Tensor:
        """Logits (B, t, C) of the next frames, those of a part of the runs, with what the detector adds."""
        if self._detector is None:
            return logits
        backed, self._state = self._detector.back(logits, self._novelty[:, part], self._state)
        return backed
