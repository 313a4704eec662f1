"""Trainings that are scored while cells are missing: what a model says without some sensors, and in which component it
looks for the fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.data.augment import missing_cells, without_cells
from models.data.runs import Run
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.evaluation.scoring import NO_EVIDENCE, Scores, stream_scores
from models.experiments.base import Column, Need, OnPartProgress, Results, report_part
from models.experiments.trainings import config_of, merged
from models.model_file import read_model
from models.network_file import build_network
from models.training.config import TrainConfig, load_train_config
from models.training.fitting.evidence import Evidence, collect_evidence
from models.training.loop import OnProgress, Progress
from models.training.prepare import Part, PreparedData
from models.training.train import train
from pipeline.arrays import Bools
from pipeline.config.profile import MachineType
from pipeline.config.sections.titles import component_table
from pipeline.errors import DataError

_TOP1 = "component_top1"
_CHOSEN = "component_top1_chosen"


class MaskingRow(BaseModel):
    """One training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: dict[str, Any] = {}
    """What differs from the training configuration."""


class MaskingCase(BaseModel):
    """How much is missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a cell of a run is missing, for the whole run."""
    by_unit: bool = False
    """Whether all cells of a component are missing together."""


class MaskingExperiment(BaseModel):
    """Trainings of one configuration with differences, each scored on held-out runs with cells missing.

    Scores of a row by case: `accuracy`, `macro_f1`, and the share of faulty frames whose component is the most probable
    one: `component_top1` of all faults that begin in a component, but for `hard_faults`, and `component_top1_chosen` of
    `component_faults`. Means over `draws` of what is missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["masking"]
    title: str
    train: Path
    """Training configuration; its relative paths start from `work`."""
    work: Path
    made_by: str
    """What makes the inputs in `work`."""
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: dict[str, MaskingRow] = Field(min_length=1)
    cases: dict[str, MaskingCase] = Field(min_length=1)
    draws: int = Field(default=5, ge=1)
    part: Part = "test"
    component_faults: tuple[str, ...] = ()

    def needs(self) -> list[Need]:
        """See `Experiment.needs`."""
        config = load_train_config(self.train, data=self.work, output=Path())
        return [Need(path, self.made_by) for path in config.inputs]

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """See `Experiment.run`."""
        rows: dict[str, list[Scores]] = {name: [] for name in self.rows}
        for seed in seeds:
            for name, row in self.rows.items():
                part = f"{name}, seed {seed}"
                config = self._config(row, seed, out / name.replace(" ", "-") / f"seed-{seed}")
                network, data = self._trained(config, report_part(on_progress, part))
                scores: Scores = {}
                for index, (case, missing) in enumerate(self.cases.items()):
                    on_progress(part, Progress("scoring", index, len(self.cases), 0.0))
                    scores[case] = self._scored(network, data, config, missing, seed)
                rows[name].append(scores)
        return Results(self.title, tuple(seeds), rows, self.columns, {"draws": self.draws}, ())

    def _config(self, row: MaskingRow, seed: int, out: Path) -> TrainConfig:
        base = load_train_config(self.train, data=self.work, output=out, seed=seed)
        return config_of(self.title, merged(base.model_dump(exclude_unset=True), row.options))

    def _trained(self, config: TrainConfig, on_progress: OnProgress) -> tuple[Diagnoser, PreparedData]:
        """A row's network, and the data that it was trained on."""
        prepared: list[PreparedData] = []

        def keep(data: PreparedData) -> None:
            if unknown := sorted(set(self.component_faults) - set(data.faults)):
                raise DataError(f"{self.title}: component_faults names {unknown[0]!r}, which the profile lacks")
            prepared.append(data)

        report = train(config, on_progress=on_progress, on_data=keep, resume=True)
        return build_network(read_model(report.model)), prepared[0]

    def _scored(
        self, network: Diagnoser, data: PreparedData, config: TrainConfig, missing: MaskingCase, seed: int
    ) -> Scores:
        """Mean scores over the draws; without anything missing there is one."""
        runs, texts = data.runs(self.part), data.texts[self.part]
        if not runs:
            raise DataError(f"{self.title}: the split of {self.train} has no {self.part} part")
        draws = [
            self._draw(network, data, config, masked_runs(runs, data, missing, [seed, draw]), texts)
            for draw in range(self.draws if missing.rate else 1)
        ]
        return {metric: float(np.mean([draw[metric] for draw in draws])) for metric in draws[0]}

    def _draw(
        self,
        network: Diagnoser,
        data: PreparedData,
        config: TrainConfig,
        runs: Sequence[Run],
        texts: Sequence[Sequence[PlacedText]],
    ) -> dict[str, float]:
        evidence = collect_evidence(network, runs, texts, data.hold_limit)
        probabilities = evidence.fused(network.fusion).probabilities
        told = evidence.present.any(dim=0).numpy()
        predicted = np.where(told, probabilities.argmax(dim=1).numpy(), NO_EVIDENCE)
        frames = np.concatenate([np.arange(len(run)) for run in runs])
        scores = stream_scores(evidence.runs, frames, evidence.labels, predicted, data.faults)
        found = {metric: float(scores[metric] or 0.0) for metric in ("accuracy", "macro_f1")}
        right = component_found(data.machine_type, evidence, probabilities) & told
        placed = [fault.name for fault in data.machine_type.described_faults if fault.shares]
        easy = [fault for fault in placed if fault not in config.hard_faults]
        for metric, faults in ((_TOP1, easy), (_CHOSEN, self.component_faults)):
            rows = np.isin(evidence.labels, [data.faults.index(fault) for fault in faults])
            if rows.any():
                found[metric] = float(right[rows].mean())
        return found


def masked_runs(runs: Sequence[Run], data: PreparedData, missing: MaskingCase, seed: Sequence[int]) -> list[Run]:
    """Copies of the runs, each without some cells."""
    rng = np.random.default_rng([*seed, round(1000 * missing.rate), int(missing.by_unit)])
    cells = data.cells
    return [
        replace(
            run,
            values=without_cells(
                run.values, cells, missing_cells(cells, missing.rate, by_unit=missing.by_unit, rng=rng)
            ),
        )
        for run in runs
    ]


def component_found(machine_type: MachineType, evidence: Evidence, probabilities: torch.Tensor) -> Bools:
    """Whether the most probable component, by the profile's table and the fused answers (N, C), is one in which the
    frame's fault begins, (N,); False for frames of faults without a component."""
    table = component_table(machine_type.components, machine_type.described_faults)
    p = probabilities.numpy().astype(np.float64)
    sums: NDArray[np.float64] = np.zeros((len(p), len(table.names)))
    begins = np.zeros((len(machine_type.faults) + 1, len(table.names)), bool)
    for fault, component, share in zip(table.faults, table.components, table.shares, strict=True):
        sums[:, component] += share * p[:, fault]
        begins[fault, component] = True
    return np.asarray(begins[evidence.labels, sums.argmax(axis=1)])
