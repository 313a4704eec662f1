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

from models.atomic_file import replacing
from pipeline.errors import DataError

logger = logging.getLogger("faultline.training")

EpochRecord = dict[str, Any]
"""Stage, epoch, loss and validation scores of one epoch."""


class StageConfig(BaseModel):
    """How long and how fast one stage learns."""

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
    """Where a training stands."""

    stage: str
    epoch: int
    """The epoch that runs, from 0; when it is over, `record` is set."""
    epochs: int
    done: float
    """Share of the epoch that is done."""
    record: EpochRecord | None = None


OnProgress = Callable[[Progress], None]


class Stage(Protocol):
    """One thing to learn."""

    name: str
    module: nn.Module

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """One epoch: for each update, the share of the epoch done after it and the loss to go down on."""
        ...

    def validate(self) -> EpochRecord:
        """Scores on the validation split: `score` decides which epoch is best, more is better; `validation_loss` is
        None if there was nothing to validate on."""
        ...


@dataclass(slots=True)
class _Standing:
    """Everything that changes from epoch to epoch, apart from module and optimiser."""

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

    After each epoch everything goes into the file `checkpoint`; with `resume` training goes on from there, to the
    very result of an uninterrupted one, because each epoch draws its random numbers from (seed, stage, epoch) alone.
    `fingerprint` names configuration and data: a checkpoint of another one is refused with DataError.
    """
    module = stage.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    mean = {key: value.clone() for key, value in module.state_dict().items()} if config.average else {}
    standing = _Standing([], -1, {}, mean, 0)
    if resume and checkpoint.is_file():
        standing = _restore(checkpoint, module, optimizer, fingerprint)
    tell = on_progress or (lambda progress: None)

    for epoch in range(len(standing.history), config.epochs):
        if standing.history and epoch - standing.best_epoch > config.patience:
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
                _average(standing, module, config.average)
                losses.append(loss.item())
                done = after
                tell(Progress(stage.name, epoch, config.epochs, done))
        module.eval()
        record: EpochRecord = {
            "stage": stage.name,
            "epoch": epoch,
            "loss": float(np.mean(losses)) if losses else None,
        }
        latest = {key: value.clone() for key, value in module.state_dict().items()} if standing.mean else {}
        if latest:
            module.load_state_dict(standing.mean)
        record |= stage.validate()
        # Where there is nothing to validate on, the latest weights are the best guess.
        blind = record["validation_loss"] is None
        if blind or not standing.history or record["score"] > standing.history[standing.best_epoch]["score"]:
            standing.best_epoch = epoch
            standing.best = {key: value.clone() for key, value in module.state_dict().items()}
        if latest:
            module.load_state_dict(latest)
        standing.history.append(record)
        _store(checkpoint, module, optimizer, standing, fingerprint)
        logger.info("%s", json.dumps(record))
        tell(Progress(stage.name, epoch, config.epochs, 1.0, record))
    module.load_state_dict(standing.best)
    module.eval()
    return standing.history


def _average(standing: _Standing, module: nn.Module, kept: float) -> None:
    """Take the weights after an update into their running mean, which forgets its first guess quickly."""
    standing.updates += 1
    share = min(kept, (1 + standing.updates) / (10 + standing.updates))
    for key, value in module.state_dict().items():
        if key in standing.mean:
            standing.mean[key].lerp_(value, 1 - share) if value.is_floating_point() else standing.mean[key].copy_(value)


def _store(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, standing: _Standing, fingerprint: str
) -> None:
    tensors = {f"weights.{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"best.{key}": value for key, value in standing.best.items()}
    tensors |= {f"mean.{key}": value for key, value in standing.mean.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in slots.items()}
    about = {
        "fingerprint": fingerprint,
        "history": standing.history,
        "best_epoch": standing.best_epoch,
        "updates": standing.updates,
    }
    content = save({key: value.contiguous() for key, value in tensors.items()}, {"training": json.dumps(about)})
    with replacing(path) as part:
        part.write_bytes(content)


def _restore(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> _Standing:
    try:
        with safe_open(path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["training"])
            keys: list[str] = opened.keys()
            tensors = {key: opened.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"training checkpoint {path} cannot be read ({error}); delete it to start anew") from error
    if about["fingerprint"] != fingerprint:
        raise DataError(
            f"training checkpoint {path} is of another configuration or other data; delete it to start anew"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    module.load_state_dict(part("weights."))
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return _Standing(about["history"], about["best_epoch"], part("best."), part("mean."), about["updates"])
