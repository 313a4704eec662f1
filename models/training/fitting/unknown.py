"""Fitting what calls faults unknown: classes' features on training runs, the rules and their limits on validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.configs.sensors import ExpertsConfig, NoClassifierConfig, TreesConfig
from models.configs.unknown import UnknownConfig, UnknownRules
from models.data.runs import Run, are_before_first_fault
from models.diagnoser import Diagnoser
from models.encoders.base import SensorEncoder
from models.encoders.experts.pool import PooledExperts
from models.fusion.unknown import Fired, UnknownFaults
from models.training.fitting.detector import novelties
from models.training.fitting.evidence import Evidence, learnt_classes, sensor_answers
from models.training.prepare import PreparedData
from pipeline.arrays import Bools, Floats, Ints

MOST_KNOWN: Final = 0.01
"""Largest share of the frames of known faults that may be called unknown on validation."""
MOST_NORMAL: Final = 0.0005
"""The same of normal frames before a fault."""
MOST_RECOVERED: Final = 0.001
"""The same of normal frames after one, in which the plant may not be normal yet."""
_QUANTILES: Final = (0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
"""Shares of the known faults' frames that limits of the hidden distance are tried at."""
_SHRINKAGE: Final = 0.01
"""Share of the features' covariance that is taken from its mean variance."""
_LEAST_DEVIATION: Final = 1e-3
"""Of lengths that hardly vary."""
_MIN_FRAMES: Final = 20
"""Classes with fewer training frames have no centre of their own."""


@dataclass(frozen=True, slots=True)
class UnknownReport:
    """What was fitted, and shares of the validation frames that are called unknown."""

    rules: tuple[str, ...]
    known: float | None
    """Of known faults; None where there are none."""
    normal: float | None
    """Of frames before a fault."""

    def as_dict(self) -> dict[str, object]:
        """For the record of the training."""
        return {"rules": list(self.rules), "known_called_unknown": self.known, "normal_called_unknown": self.normal}


def neural_expert(network: Diagnoser) -> tuple[SensorEncoder, int] | None:
    """The first neural expert, and where its features are among those of the sensors; None if there is none."""
    config, sensors = network.config.sensors, network.sensors
    if isinstance(config, ExpertsConfig) and isinstance(sensors, PooledExperts):
        first = 0
        for place, expert in sensors.members():
            if not isinstance(config.experts[place], TreesConfig):
                return expert, first
            first += expert.feature_size
        return None
    return None if isinstance(config, TreesConfig | NoClassifierConfig) else (sensors, 0)


def novelty_of(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> Tensor:
    """The novelty of every frame of the runs, run after run, by the network's detector."""
    return torch.cat(novelties(network, runs, hold_limit))


def published_answers(network: Diagnoser, evidence: Evidence, novelty: Tensor | None) -> Tensor:
    """The network's answers for all frames as it publishes them, (N, C), or (N, C + 1) if it calls faults unknown, for
    which it needs the novelty (N,), run after run."""
    with torch.inference_mode():
        answers = network.calibrated(evidence.fused(network.fusion).probabilities, evidence.present)
        if network.unknown is None:
            return answers
        assert novelty is not None
        parts = []
        for run in _runs(evidence):
            state = network.unknown.init_state(1)
            features, present = evidence.features[0][run], evidence.present[:, run]
            parts.append(network.unknown(answers[run], novelty[None, run], features, present, state)[0])
    return torch.cat(parts)


def _runs(evidence: Evidence) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(evidence.runs)) + 1
    for start, end in zip([0, *edges], [*edges, len(evidence.runs)], strict=True):
        yield slice(int(start), int(end))


def fired_rules(network: Diagnoser, evidence: Evidence, novelty: Tensor) -> Fired:
    """What fires in each frame, (N,) each."""
    overlay = network.unknown
    assert overlay is not None
    answers = evidence.fused(network.fusion).probabilities
    found: list[Fired] = []
    with torch.inference_mode():
        for run in _runs(evidence):
            frames = (
                answers[None, run],
                novelty[None, run],
                evidence.features[0][None, run],
                evidence.present[:1, run],
            )
            found.append(overlay.advance(*frames, overlay.init_state(1))[0])
    return Fired(*(torch.cat([part[0] for part in parts]) for parts in zip(*found, strict=True)))


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
    data: PreparedData,
    validation: Evidence,
    novelty: Tensor | None,
    rules: UnknownRules | None,
) -> UnknownReport | None:
    """Give a network with a detector its unknown faults, which know the features of the training runs.

    Rules that would call too many known faults or normal frames unknown on validation are left out; without any, and
    without a detector or rules to begin with, the network calls no fault unknown.
    """
    if novelty is None or rules is None:
        return None
    classes = network.config.classes
    if isinstance(network.config.sensors, NoClassifierConfig):
        network.unknown = UnknownFaults(UnknownConfig(**rules.model_dump(), always=True), classes=classes).eval()
    else:
        network.unknown = _with_centres(network, data, rules)
        _weigh_lengths(network.unknown, validation, novelty)
        _choose_rules(network, validation, novelty, _groups(validation.labels, data.split.validation))
    chosen = network.unknown.config
    names = tuple(name for name in ("always", "by_distance", "by_contradiction") if getattr(chosen, name))
    if not names:
        network.unknown = None
        return UnknownReport((), 0.0, 0.0)
    network.config = network.config.model_copy(update={"unknown": chosen})
    called: Bools = (published_answers(network, validation, novelty).argmax(dim=1) == classes).numpy()
    groups = _groups(validation.labels, data.split.validation)
    return UnknownReport(names, _share(called[groups.known]), _share(called[groups.normal]))


def _with_centres(network: Diagnoser, data: PreparedData, rules: UnknownRules) -> UnknownFaults:
    """Unknown faults that know what the features of each class look like, and no rule yet."""
    classes, found, train = network.config.classes, neural_expert(network), data.split.train
    root, centres, first = np.eye(0, dtype=np.float32), np.zeros((0, 0), np.float32), 0
    if found is not None:
        expert, first = found
        answers = sensor_answers(network, train, data.hold_limit, expert)
        features, learnt = np.concatenate([answer.features for answer in answers]), learnt_classes(train)
        root, centres = class_features(features[learnt >= 0], learnt[learnt >= 0], classes)
    recovering = data.recoveries is not None
    config = UnknownConfig(
        **rules.model_dump(),
        recovering=recovering,
        first_feature=first,
        features=len(root),
        centres=len(centres),
        by_length=len(centres) > 0,
    )
    overlay = UnknownFaults(config, classes=classes).eval()
    overlay.root.copy_(torch.from_numpy(root))
    overlay.centres.copy_(torch.from_numpy(centres))
    return overlay


def _weigh_lengths(overlay: UnknownFaults, validation: Evidence, novelty: Tensor) -> None:
    """Give the length of features the weight with which it varies as much among novel frames of known faults as the
    distance to the nearest class does; none where there are no such frames."""
    rows = torch.from_numpy(validation.labels > 0) & (novelty > 1)
    if not overlay.config.by_length or int(rows.sum()) < _MIN_FRAMES:
        return
    with torch.inference_mode():
        nearest, length = overlay.nearest_and_length(validation.features[0][rows])
    overlay.usual_length.copy_(length.max())
    overlay.weight.copy_(nearest.std() / length.std().clamp_min(_LEAST_DEVIATION))


class _Groups(NamedTuple):
    """Frames whose shares of unknown faults are limited, (N,) each."""

    known: Bools
    normal: Bools
    recovered: Bools


def _groups(labels: Ints, runs: Sequence[Run]) -> _Groups:
    before = are_before_first_fault(runs)
    return _Groups(labels > 0, (labels == 0) & before, (labels == 0) & ~before)


def _choose_rules(network: Diagnoser, validation: Evidence, novelty: Tensor, groups: _Groups) -> None:
    """Contradiction first, which has no limit to fit; then the smallest limit of the distance at which both together
    are allowed."""
    overlay, labels = network.unknown, validation.labels
    assert overlay is not None
    fired = fired_rules(network, validation, novelty)
    contradicted, smoothed = fired.contradicted.numpy(), fired.smoothed.numpy()
    update = {"by_contradiction": _is_allowed(contradicted, groups)}
    called: Bools = contradicted & update["by_contradiction"]
    if overlay.config.centres and (labels > 0).any():
        candidates = (novelty.numpy() > 1) & ~fired.recovering.numpy()
        for quantile in _QUANTILES:
            limit = np.float32(np.quantile(smoothed[labels > 0], quantile))
            if _is_allowed(called | (candidates & (smoothed > limit)), groups):
                overlay.limit.fill_(float(limit))
                update["by_distance"] = True
                break
    overlay.config = overlay.config.model_copy(update=update)


def _is_allowed(called: Bools, groups: _Groups) -> bool:
    limits = ((groups.known, MOST_KNOWN), (groups.normal, MOST_NORMAL), (groups.recovered, MOST_RECOVERED))
    return all((_share(called[rows]) or 0.0) <= most for rows, most in limits)


def _share(called: Bools) -> float | None:
    return float(called.mean()) if len(called) else None
