"""The loop that every training stage runs in: seeded, scheduled, early-stopped, and resumable after any epoch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.files.atomic_file import replacing

logger = logging.getLogger("faultline.training")

EpochRecord = dict[str, Any]
"""Stage, epoch, loss and validation scores of one epoch."""


class StageConfig(BaseModel):
    """Length and rates of one stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    """Highest rate of the one cycle."""
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    """Share of the stage in which the rate rises; afterwards it falls along a cosine."""
    weight_decay: float = Field(default=1e-3, ge=0)
    gradient_norm: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    """How much of the running mean of the weights stays at each update; with more than 0 it is this mean that is
    validated and kept, which suits short stages with a high rate."""
    patience: int = Field(default=20, ge=1)
    """Epochs without a better validation score after which the stage ends."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training."""

    stage: str
    epoch: int
    """The current epoch, from 0; at its end `record` is set."""
    epochs: int
    done: float
    """Finished share of the epoch."""
    record: EpochRecord | None = None


OnProgress = Callable[[Progress], None]


class Stage(Protocol):
    """One stage of a training."""

    name: str
    module: nn.Module

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """One epoch: for each update, the share of the epoch done after it and the loss."""
        ...

    def validate(self) -> EpochRecord:
        """Scores on the validation split: the epoch with the highest `score` is kept; `validation_loss` is None
        without validation data."""
        ...


@dataclass(slots=True)
class _State:
    """What changes from epoch to epoch, apart from module and optimiser."""

    history: list[EpochRecord]
    best_epoch: int
    best: dict[str, Tensor]
    mean: dict[str, Tensor]
    """Running mean of the weights; empty without averaging."""
    updates: int


def learning_rate(config: StageConfig, progress: float) -> float:
    """Rate after a share `progress` of the stage: a linear rise, then half a cosine down to a thousandth."""
    if progress < config.warm_up:
        return config.learning_rate * max(progress / config.warm_up, 1e-3)
    fall = (progress - config.warm_up) / (1 - config.warm_up)
    return config.learning_rate * max(0.5 * (1 + math.cos(math.pi * min(fall, 1.0))), 1e-3)


def run_stage(
    stage: Stage,
    config: StageConfig,
    *,
    seed: int,
    checkpoint: Path,
    fingerprint: str,
    resume: bool,
    on_progress: OnProgress | None,
) -> list[EpochRecord]:
    """Train the stage's module, leave it with its best weights in eval mode, and return one record an epoch.

    After each epoch everything is written to `checkpoint`; with `resume` training continues from there, with the result
    of an uninterrupted one, because the random numbers of an epoch depend on (seed, stage, epoch) alone.
    `fingerprint` identifies configuration and data; a checkpoint with another one is refused with DataError.
    """
    module = stage.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    mean = {key: value.clone() for key, value in module.state_dict().items()} if config.average else {}
    state = _State([], -1, {}, mean, 0)
    if resume and checkpoint.is_file():
        state = _restore(checkpoint, module, optimizer, fingerprint)
    report = on_progress or (lambda progress: None)

    for epoch in range(len(state.history), config.epochs):
        if state.history and epoch - state.best_epoch > config.patience:
            break
        sequence = np.random.SeedSequence([seed, epoch, *stage.name.encode()])
        module.train()
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sequence.generate_state(1)[0]))
            done = 0.0
            for after, loss in stage.losses(np.random.default_rng(sequence)):
                rate = learning_rate(config, (epoch + done) / config.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(module.parameters(), config.gradient_norm)
                optimizer.step()
                _average(state, module, config.average)
                losses.append(loss.item())
                done = after
                report(Progress(stage.name, epoch, config.epochs, done))
        module.eval()
        record: EpochRecord = {
            "stage": stage.name,
            "epoch": epoch,
            "loss": float(np.mean(losses)) if losses else None,
        }
        latest = {key: value.clone() for key, value in module.state_dict().items()} if state.mean else {}
        if latest:
            module.load_state_dict(state.mean)
        record |= stage.validate()
        # Without validation data the latest weights are kept.
        unvalidated = record["validation_loss"] is None
        if unvalidated or not state.history or record["score"] > state.history[state.best_epoch]["score"]:
            state.best_epoch = epoch
            state.best = {key: value.clone() for key, value in module.state_dict().items()}
        if latest:
            module.load_state_dict(latest)
        state.history.append(record)
        _store(checkpoint, module, optimizer, state, fingerprint)
        logger.info("%s", json.dumps(record))
        report(Progress(stage.name, epoch, config.epochs, 1.0, record))
    module.load_state_dict(state.best)
    module.eval()
    return state.history


def _average(state: _State, module: nn.Module, kept: float) -> None:
    """Update the running mean of the weights; its first values decay quickly."""
    state.updates += 1
    share = min(kept, (1 + state.updates) / (10 + state.updates))
    for key, value in module.state_dict().items():
        if key in state.mean:
            state.mean[key].lerp_(value, 1 - share) if value.is_floating_point() else state.mean[key].copy_(value)


def _store(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: _State, fingerprint: str) -> None:
    tensors = {f"weights.{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in state.best.items()}
    tensors |= {f"mean.{key}": value for key, value in state.mean.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in slots.items()}
    about = {
        "fingerprint": fingerprint,
        "history": state.history,
        "best_epoch": state.best_epoch,
        "updates": state.updates,
    }
    content = save({key: value.contiguous() for key, value in tensors.items()}, {"training": json.dumps(about)})
    with replacing(path) as part:
        part.write_bytes(content)


def _restore(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> _State:
    try:
        with safe_open(path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["training"])
            keys: list[str] = opened.keys()
            tensors = {key: opened.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"training checkpoint {path} cannot be read ({error}); delete it to start again") from error
    if about["fingerprint"] != fingerprint:
        raise DataError(
            f"training checkpoint {path} is of another configuration or other data; delete it to start again"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    module.load_state_dict(part("weights."))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return _State(about["history"], about["best_epoch"], part("best."), part("mean."), about["updates"])
