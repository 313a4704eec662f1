"""Losses over labelled frames: the weight of each class and of each frame, and the scores of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.data.runs import UNLABELLED, Run, class_runs
from pipeline.arrays import Floats, Ints

ClassWeights = Literal["none", "sqrt", "balanced"]


def mask_recovery(labels: Ints, recovery_frames: int) -> Ints:
    """Labels (T,), but UNLABELLED in the first `recovery_frames` of every normal stretch that follows another one.

    When a fault clears its label is normal at once, but the plant needs time to recover and still looks faulty.
    """
    masked = labels.copy()
    for start, end, label in class_runs(labels):
        if label == 0 and start > 0:
            masked[start : min(start + recovery_frames, end)] = UNLABELLED
    return masked


class Recovery(NamedTuple):
    """How training treats the frames in which a plant recovers from a fault."""

    frames: int = 0
    weight: float = 0.0
    """Weight of each of them in the loss; other frames weigh 1."""

    def weights(self, labels: Ints) -> Floats:
        """Weight of each frame in the loss, (T,); 0 without a label."""
        weight = np.where(mask_recovery(labels, self.frames) >= 0, 1, self.weight)
        return np.where(labels >= 0, weight, 0).astype(np.float32)


NO_RECOVERY = Recovery()
"""Every labelled frame weighs 1."""


def class_shares(
    runs: Sequence[Run], classes: int, recovery: Recovery = NO_RECOVERY, repeats: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Share of each class among the frames to learn by weight, (C,), with one frame added to each class; `repeats` says
    how often each run counts, by default once."""
    labels = np.concatenate([run.learnt for run in runs])
    times = [1] * len(runs) if repeats is None else repeats
    weights = np.concatenate([count * recovery.weights(run.labels) for run, count in zip(runs, times, strict=True)])
    counts = np.bincount(labels[labels >= 0], weights[labels >= 0], minlength=classes) + 1
    return np.asarray(counts / counts.sum())


def class_weights(shares: NDArray[np.float64], kind: ClassWeights) -> Tensor:
    """Loss weights (C,) with mean 1 over the frames: equal, by inverse root of the share, or by inverse share."""
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    weights = shares**-power
    return torch.from_numpy(weights / (weights * shares).sum()).float()


def weighted_prior(shares: NDArray[np.float64], weights: Tensor) -> NDArray[np.float64]:
    """Class distribution (C,) that a loss weighted by `weights` (C,) sees where frames come in `shares` (C,)."""
    seen = shares * weights.double().numpy()
    return np.asarray(seen / seen.sum())


def weighted_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, frame_weights: Tensor) -> Tensor:
    """Mean cross entropy of frames (N, C), each by its own weight (N,), 0 if unlabelled, and that of its class."""
    share = frame_weights * class_weights[labels.clamp_min(0)]
    losses = cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")
    return (losses * share).sum() / share.sum()


def validation_scores(logits: Floats, labels: Ints) -> dict[str, Any]:
    """Macro-F1 (`score`), loss and accuracy of logits (N, C) on the labelled ones among N frames."""
    labelled = labels >= 0
    y, z = labels[labelled], logits[labelled]
    if not len(y):
        return {"score": 0.0, "validation_loss": None, "accuracy": None}
    predicted = z.argmax(axis=1)
    loss = cross_entropy(torch.from_numpy(z), torch.from_numpy(y)).item()
    return {
        "score": float(f1_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)),
        "validation_loss": loss,
        "accuracy": float((predicted == y).mean()),
    }
