"""Fitting what calls faults unknown: classes' features on training runs, the rules and their limits on validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.configs.sensors import ExpertsConfig, NoClassifierConfig, TreesConfig
from models.configs.unknown import UnknownConfig, UnknownRules
from models.diagnoser import Diagnoser
from models.encoders.experts.pool import PooledExperts
from models.fusion.unknown import UnknownFaults
from models.training.fitting.evidence import Evidence
from pipeline.arrays import Bools, Floats, Ints

MOST_KNOWN: Final = 0.05
"""Largest share of the frames of known faults that may be called unknown on validation."""
MOST_NORMAL: Final = 0.0005
"""The same of normal frames."""
_QUANTILES: Final = (0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
"""Shares of the known faults' frames that limits of the hidden distance are tried at."""
_SHRINKAGE: Final = 0.01
"""Share of the features' covariance that is taken from its mean variance."""
_MIN_FRAMES: Final = 20
"""Classes with fewer training frames have no centre of their own."""


@dataclass(frozen=True, slots=True)
class UnknownReport:
    """What was fitted, and shares of the validation frames that are called unknown."""

    rules: tuple[str, ...]
    known: float | None
    """Of known faults; None where there are none."""
    normal: float | None

    def as_dict(self) -> dict[str, object]:
        """For the record of the training."""
        return {"rules": list(self.rules), "known_called_unknown": self.known, "normal_called_unknown": self.normal}


def neural_features(network: Diagnoser) -> tuple[int, int]:
    """Where the features of the first neural expert are among those of the sensors, and how many; none of (0, 0)."""
    config, sensors = network.config.sensors, network.sensors
    if isinstance(config, ExpertsConfig) and isinstance(sensors, PooledExperts):
        first = 0
        for place, expert in sensors.members():
            if not isinstance(config.experts[place], TreesConfig):
                return first, expert.feature_size
            first += expert.feature_size
        return 0, 0
    return (0, 0) if isinstance(config, TreesConfig | NoClassifierConfig) else (0, sensors.feature_size)


def class_features(features: Floats, classes: Ints, count: int) -> tuple[Floats, Floats]:
    """Inverse root of the covariance of features (N, D) within their classes (N,), and the classes' means times it."""
    rows = features.astype(np.float64)
    present = [c for c in range(count) if np.count_nonzero(classes == c) >= _MIN_FRAMES]
    means = np.stack([rows[classes == c].mean(axis=0) for c in present])
    within = [rows[classes == c] - mean for c, mean in zip(present, means, strict=True)]
    covariance = sum(part.T @ part for part in within) / max(sum(map(len, within)), 1)
    size = len(covariance)
    spread = max(float(np.trace(covariance)) / size, 1e-12)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * spread * np.eye(size)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors / np.sqrt(values) @ vectors.T
    root = ((root + root.T) / 2).astype(np.float32)
    return root, (means @ root.T).astype(np.float32)


def fit_unknown(
    network: Diagnoser,
    rules: UnknownRules,
    train: Evidence,
    validation: Evidence,
    *,
    recovering: bool,
) -> UnknownReport:
    """Give the network its unknown faults, of evidence with novelty; rules that would call too many known faults or
    normal frames unknown on validation are left out. Labels of `train` are the classes to learn, those of `validation`
    what labels say."""
    classes = network.config.classes
    if classes == 1:
        config = UnknownConfig(**rules.model_dump(), always=True)
        network.unknown = UnknownFaults(config, classes=classes).eval()
        network.config = network.config.model_copy(update={"unknown": config})
        return UnknownReport(("always",), None, _share(_called(network, validation)))
    first, size = neural_features(network)
    centres: Floats = np.zeros((0, size), np.float32)
    root: Floats = np.eye(size, dtype=np.float32)
    if size:
        own = train.features[0][:, first : first + size].numpy()
        labelled = train.labels >= 0
        root, centres = class_features(own[labelled], train.labels[labelled], classes)
    config = UnknownConfig(
        **rules.model_dump(), recovering=recovering, first_feature=first, features=size, centres=len(centres)
    )
    overlay = UnknownFaults(config, classes=classes).eval()
    overlay.root.copy_(torch.from_numpy(root))
    overlay.centres.copy_(torch.from_numpy(centres))
    network.unknown = overlay
    _choose_rules(network, validation)
    network.config = network.config.model_copy(update={"unknown": overlay.config})
    called = _called(network, validation)
    chosen = overlay.config
    named = ("distance",) * chosen.by_distance + ("contradiction",) * chosen.by_contradiction
    return UnknownReport(named, _share(called[validation.labels > 0]), _share(called[validation.labels == 0]))


def _choose_rules(network: Diagnoser, validation: Evidence) -> None:
    """Contradiction first, which needs no limit; then the smallest limit of the distance at which both are allowed."""
    overlay, labels = network.unknown, validation.labels
    assert overlay is not None
    fired, novelty = validation.fired(network)
    contradicted, smoothed = fired.contradicted.numpy(), fired.smoothed.numpy()
    allowed: Bools = contradicted & _is_allowed(contradicted, labels)
    by_contradiction = _is_allowed(contradicted, labels)
    update: dict[str, bool] = {"by_contradiction": by_contradiction}
    if overlay.config.centres and (labels > 0).any():
        candidates = (novelty.numpy() > 1) & ~fired.recovering.numpy()
        for quantile in _QUANTILES:
            limit = np.float32(np.quantile(smoothed[labels > 0], quantile))
            if _is_allowed(allowed | (candidates & (smoothed > limit)), labels):
                overlay.limit.fill_(float(limit))
                update["by_distance"] = True
                break
    overlay.config = overlay.config.model_copy(update=update)


def _is_allowed(called: Bools, labels: Ints) -> bool:
    known, normal = _share(called[labels > 0]), _share(called[labels == 0])
    return (known or 0.0) <= MOST_KNOWN and (normal or 0.0) <= MOST_NORMAL


def _called(network: Diagnoser, evidence: Evidence) -> Bools:
    """Frames whose fault the network calls unknown."""
    answers: NDArray[np.int64] = evidence.answered(network).argmax(dim=1).numpy()
    return answers == network.config.classes


def _share(called: Bools) -> float | None:
    return float(called.mean()) if len(called) else None
