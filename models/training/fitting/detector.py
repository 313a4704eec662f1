"""Fitting the detector: whitening and blocks on normal training frames, limits and backing on validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.runs import Run
from models.data.scaling import hold
from models.diagnoser import Diagnoser
from models.encoders.experts.detector import Detector, Readings
from models.training.batches import padded
from pipeline.arrays import Floats

_RUNS = 32
"""Runs that are computed at a time."""
_SHRINKAGE = 0.02
"""Share of each covariance that is taken from its diagonal alone."""
_LEAST_DEVIATION = 0.05
"""A residual moves at least so much, in standard deviations of its variable: one that never moves in the normal state
would else make a novelty of rounding."""
_LEAST_NOISE = 0.1
"""A statistic moves at least by this share of the variance that white noise would leave."""
_TAIL = 0.1
"""Share of the normal frames whose distances tell how fast larger ones become rare."""
_SETTLED_SPANS = 2
_FEWEST_SETTLED = 20
"""Frames for each variable."""
_LEAST_LEVEL = 1e-3
_SPARE = 5
"""Frames of a run are much alike, so that few runs decide on a limit, and others go further. With a fifth of the share
on validation about the share itself is left on other runs."""
_RARELY = 0.05
"""Share of the normal frames that have fewer readings than others do."""
_MISSING = 0.05
"""Share of the variables that may be missing besides."""
_QUIET = 0.99
"""Share of the normal frames with a novelty that counts as quiet."""


def readings_of(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> Iterator[tuple[Sequence[Run], Readings]]:
    """Some runs at a time, and what the detector gets of them."""
    for start in range(0, len(runs), _RUNS):
        batch = runs[start : start + _RUNS]
        filled = [hold(run.values, hold_limit) for run in batch]
        values, observed = padded([held for held, _ in filled], np.nan), padded([seen for _, seen in filled], False)
        yield batch, network.readings(values, observed)


def fit_normal_state(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> None:
    """Fit whitening and blocks to runs that are normal throughout."""
    detector = _detector(network)
    detector.least_observed.fill_(_least_observed(network, runs))
    residuals, evidence = [], []
    for batch, readings in readings_of(network, runs, hold_limit):
        missed, judged, _ = detector.residuals(readings, detector.init_state(len(batch)))
        for row, run in enumerate(batch):
            residuals.append(missed[row, : len(run)])
            evidence.append(judged[row, : len(run)])
    floor = np.full(detector.variables, _LEAST_DEVIATION**2)
    missed, judged = torch.cat(residuals), torch.cat(evidence)
    _, whitening = _whitened(missed.double().numpy(), floor, judged.double().numpy())
    detector.whitening.copy_(torch.from_numpy(whitening))
    spans = (*detector.config.mean_spans, *detector.config.square_spans)
    blocks, frames = [], []
    for missed, judged in zip(residuals, evidence, strict=True):
        found, _ = detector.statistics(missed[None], judged[None], detector.init_state(1))
        blocks.append(found[0].double().numpy())
        frames.append(np.arange(len(missed)))
    statistics, frame = np.concatenate(blocks), np.concatenate(frames)
    # Statistics that have just begun vary less than they will; they are left out unless hardly any other is there.
    settled = frame >= _SETTLED_SPANS * max(spans)
    if settled.sum() >= _FEWEST_SETTLED * detector.variables:
        statistics = statistics[settled]
    for block, span in enumerate(spans):
        noise = 1 / (2 * span - 1) * (1 if block < len(detector.config.mean_spans) else 2)
        centre, shape = _whitened(statistics[:, block], np.full(detector.variables, _LEAST_NOISE * noise))
        detector.centres[block] = torch.from_numpy(centre)
        detector.shapes[block] = torch.from_numpy(shape)


def _least_observed(network: Diagnoser, runs: Sequence[Run]) -> float:
    """How many readings a frame has to have: about as many as nearly all normal frames."""
    counts = [(~np.isnan(run.values)).sum(axis=1) for run in runs]
    return float(np.quantile(np.concatenate(counts), _RARELY) - _MISSING * _detector(network).variables)


def fit_limits(network: Diagnoser, runs: Sequence[Run], hold_limit: int, share: float) -> None:
    """Fit the limits so that about a `share` of the frames of other normal runs is above the larger one, for which a
    fifth of it is in these, and what is quiet."""
    detector = _detector(network)
    rows = []
    for batch, readings in readings_of(network, runs, hold_limit):
        state = detector.init_state(len(batch))
        residuals, evidence, _ = detector.residuals(readings, state)
        blocks, _ = detector.statistics(residuals, evidence, state)
        found = detector.distances(blocks).sum(dim=-1)
        rows += [found[row, : len(run)].numpy() for row, run in enumerate(batch)]
    distances = np.concatenate(rows).astype(np.float64)
    start = np.quantile(distances, 1 - _TAIL, axis=0)
    above = np.where(distances > start, distances - start, 0)
    slope = np.maximum(above.sum(axis=0) / np.maximum((above > 0).sum(axis=0), 1), 1e-6 + 1e-3 * start)
    surprise = ((distances - start) / slope).max(axis=1)
    limits = start + slope * max(_tail_quantile(surprise, share / _SPARE), 0.0)
    detector.limits.copy_(torch.from_numpy(limits))
    novelty = (distances / limits).max(axis=1)
    detector.quiet.fill_(max(float(np.quantile(novelty, _QUIET)), _LEAST_LEVEL))


def novelties(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> list[Tensor]:
    """The novelty of every frame of each run, (T,), by the network's detector."""
    detector, found = _detector(network), []
    with torch.inference_mode():
        for batch, readings in readings_of(network, runs, hold_limit):
            detected, _ = detector.advance(readings, detector.init_state(len(batch)))
            found += [detected.novelty[row, : len(run)] for row, run in enumerate(batch)]
    return found


def share_above(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> tuple[int, float]:
    """How many frames runs have, and the share of them that is above the limit."""
    found = novelties(network, runs, hold_limit)
    frames = sum(map(len, found))
    return frames, sum(int((novelty > 1).sum()) for novelty in found) / max(frames, 1)


def _tail_quantile(values: NDArray[np.float64], share: float) -> float:
    """What at most a `share` of the values is above, also of values that are still to come: neither of those that are
    there, nor by a tail that falls exponentially, which a few runs with large values decide less."""
    share = min(share, _TAIL)
    start = float(np.quantile(values, 1 - _TAIL))
    above = values[values > start] - start
    slope = float(above.mean()) if len(above) else 0.0
    return max(float(np.quantile(values, 1 - share)), start + slope * float(np.log(_TAIL / share)))


def _whitened(
    rows: NDArray[np.float64], floor: NDArray[np.float64], evidence: NDArray[np.float64] | None = None
) -> tuple[Floats, Floats]:
    """Centre (V,) and symmetric inverse root (V, V) of the covariance of rows (N, V), of which 0 without evidence.

    With evidence (N, V) the centre is 0, and each covariance is over the rows in which both are there.
    """
    if evidence is None:
        centre = rows.mean(axis=0)
        away = rows - centre
        covariance = away.T @ away / len(rows)
    else:
        centre = np.zeros(rows.shape[1])
        covariance = rows.T @ rows / np.maximum(evidence.T @ evidence, 1)
    variance = np.diag(covariance)
    covariance = (1 - _SHRINKAGE) * covariance + np.diag(_SHRINKAGE * variance + np.maximum(floor - variance, 0))
    values, vectors = np.linalg.eigh(covariance)
    root = vectors / np.sqrt(np.maximum(values, _SHRINKAGE * floor.min())) @ vectors.T
    return centre.astype(np.float32), ((root + root.T) / 2).astype(np.float32)


def _detector(network: Diagnoser) -> Detector:
    assert network.detector is not None
    return network.detector
