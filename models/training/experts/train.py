"""The training of several experts: each on its own, then the weights of their pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from models.data.augment import disturb
from models.data.runs import UNLABELLED, Run, are_before_first_fault, normal_runs
from models.diagnoser import Diagnoser
from models.encoders.base import SensorEncoder
from models.encoders.experts.no_classifier import NoClassifier
from models.encoders.experts.pool import PooledExperts
from models.encoders.experts.statistics import StatisticsNetwork
from models.encoders.experts.trees import Trees
from models.training.batches import sensor_batch
from models.training.budget import Budget
from models.training.config import TrainConfig
from models.training.experts.pool import fit_pool, hidden_faults
from models.training.experts.trees import MAX_FRAMES, Frames, affordable_frames, fit_trees
from models.training.fitting.evidence import expert_inputs, sensor_answers
from models.training.loop import Stage, StageConfig
from models.training.losses import class_shares, class_weights
from models.training.prepare import PreparedData, learnt_frames
from models.training.stages.sensors import SensorStage
from models.training.stages.statistics import StatisticsStage
from pipeline.arrays import Bools, Floats
from pipeline.errors import DataError

RunStage = Callable[[Stage, StageConfig], None]
_RUNS = 32
"""Runs whose frames are computed at a time."""
_FALSE_ALARMS = 2e-3
"""Share of false alarms at which a fault has to show, unless the configuration names one."""


def expert_stages(network: Diagnoser) -> list[str]:
    """Names of the stages in which the sensor encoder, or each expert of its pool, and then the encoder of each group
    of variables is trained."""
    sensors = network.sensors
    if isinstance(sensors, NoClassifier):
        return []
    groups = [f"modality_{group.name}" for group in network.config.groups]
    if not isinstance(sensors, PooledExperts):
        return ["sensors", *groups]
    return [*(f"{expert.kind}_{place + 1}" for place, expert in enumerate(sensors.config.experts)), *groups]


def train_experts(
    network: Diagnoser, data: PreparedData, config: TrainConfig, run_stage: RunStage, budget: Budget
) -> None:
    """Train the encoders of groups of variables; then the sensor encoder, or all experts of its pool one after the
    other, and fit the pool on validation."""
    sensors, names = network.sensors, expert_stages(network)
    if isinstance(sensors, NoClassifier):
        return
    if network.groups is not None:
        for place, encoder in network.groups.members():
            name = names[place - len(network.config.groups)]
            _train(network, data, config, encoder, name, run_stage, budget)
    if not isinstance(sensors, PooledExperts):
        _train(network, data, config, sensors, names[0], run_stage, budget)
        if isinstance(sensors, Trees):
            network.config = network.config.model_copy(update={"sensors": sensors.config})
        return
    for place, expert in sensors.members():
        _train(network, data, config, expert, names[place], run_stage, budget)
    sensors.config = sensors.described()
    network.config = network.config.model_copy(update={"sensors": sensors.config})
    network.eval()
    with torch.no_grad():
        pooled = fit_pool(sensors, _told(network, data, sensors), learnt_frames(config, data.split.validation))
        sensors.hidden[: len(data.faults)] = torch.from_numpy(_hidden(pooled, data, config).astype(np.float32))


def pool_summary(network: Diagnoser, faults: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """The weights of the experts on the sensors, and the faults that these cannot see; nothing of a single encoder."""
    sensors = network.sensors
    if not isinstance(sensors, PooledExperts):
        return {}, []
    kinds = [f"{place + 1} {expert.kind}" for place, expert in enumerate(sensors.config.experts)]
    hidden = sensors.hidden[: len(faults)].bool().tolist()
    weights = dict(zip(kinds, sensors.weights.tolist(), strict=True))
    return weights, [fault for fault, unseen in zip(faults, hidden, strict=True) if unseen]


def _hidden(log_probabilities: Floats, data: PreparedData, config: TrainConfig) -> Bools:
    """Which faults are hidden, (faults,), as the configuration says or validation shows."""
    if config.hidden_faults != "auto":
        if unknown := sorted(set(config.hidden_faults) - set(data.faults[1:])):
            raise DataError(f"hidden_faults names {unknown[0]!r}, which is no fault of the profile; correct it")
        return np.isin(data.faults, config.hidden_faults)
    runs = data.split.validation
    normal = are_before_first_fault(runs)
    labels = np.concatenate([run.labels for run in runs])
    limit = config.false_alarms or _FALSE_ALARMS
    return hidden_faults(log_probabilities, labels, normal, len(data.faults), limit)


def fit_statistics(network: Diagnoser, data: PreparedData, encoder: StatisticsNetwork) -> None:
    """Scale the statistics by the frames before each training run's first fault."""
    rows = []
    for x, lengths in _inputs(network, data, normal_runs(data.split.train), encoder):
        statistics, _ = encoder.statistics(x, encoder.init_state(len(x)))
        rows += [own[:length] for own, length in zip(statistics, lengths, strict=True)]
    encoder.fit_scaling(torch.cat(rows))


def _train(
    network: Diagnoser,
    data: PreparedData,
    config: TrainConfig,
    encoder: SensorEncoder,
    name: str,
    run_stage: RunStage,
    budget: Budget,
) -> None:
    if isinstance(encoder, Trees):
        _grow(network, data, config, encoder, name, budget)
    elif isinstance(encoder, StatisticsNetwork):
        with torch.no_grad():
            fit_statistics(network, data, encoder)
        run_stage(StatisticsStage(network, data, config, encoder, name), config.statistics_stage)
    else:
        run_stage(SensorStage(network, data, config, encoder, name), config.sensor_stage)


def _grow(network: Diagnoser, data: PreparedData, config: TrainConfig, trees: Trees, name: str, budget: Budget) -> None:
    """Fit trees to the training frames, as they are and disturbed."""
    rng = np.random.default_rng([config.seed, *b"disturbed"])
    train = list(data.split.train)
    disturbed = [
        replace(run, values=disturb(run.values, network.scaling(), config.augment, data.cells, rng)) for run in train
    ]
    frames = _frames(network, data, config, [*train, *disturbed], trees)
    rows = MAX_FRAMES
    if budget.seconds is not None:
        seconds = budget.allowed_seconds(name)
        rows = budget.decided(
            f"rows of {name}", lambda: affordable_frames(trees, frames, seconds, config.seed, budget.clock)
        )
    fit_trees(trees, frames, _frames(network, data, config, data.split.validation, trees), config.seed, rows)


def _frames(network: Diagnoser, data: PreparedData, config: TrainConfig, runs: Sequence[Run], trees: Trees) -> Frames:
    columns: list[Floats] = []
    with torch.no_grad():
        for x, lengths in _inputs(network, data, runs, trees):
            seen, _ = trees.columns(x, trees.init_state(len(x)))
            columns += [own[:length].numpy() for own, length in zip(seen, lengths, strict=True)]
    labels = learnt_frames(config, runs)
    weights = np.concatenate([config.recovery.weights(run.labels) for run in runs])
    early = np.concatenate([np.arange(len(run)) < config.burn_in_frames for run in runs])
    shares = class_shares(data.split.train, len(data.classes), config.recovery)
    weights = weights * class_weights(shares, trees.config.class_weights).numpy()[np.maximum(labels, 0)]
    return Frames(np.concatenate(columns), labels, np.where(early | (labels == UNLABELLED), 0, weights))


def _inputs(
    network: Diagnoser, data: PreparedData, runs: Sequence[Run], encoder: SensorEncoder
) -> Iterator[tuple[Tensor, list[int]]]:
    """Encoder inputs (B, T, F) of runs in their order, and how many frames of each run count."""
    for start in range(0, len(runs), _RUNS):
        batch = runs[start : start + _RUNS]
        _, x = sensor_batch(network, [run.values for run in batch], [run.texts or () for run in batch], data.hold_limit)
        yield expert_inputs(network, encoder, x), [len(run) for run in batch]


def _told(network: Diagnoser, data: PreparedData, pool: PooledExperts) -> Tensor:
    """Bounded log-probabilities (E, N, C) of the experts for all validation frames."""
    logits = []
    for _, expert in pool.members():
        answers = sensor_answers(network, data.split.validation, data.hold_limit, expert)
        logits.append(torch.from_numpy(np.concatenate([answer.logits for answer in answers])))
    return pool.log_probabilities(logits)
