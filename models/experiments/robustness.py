"""Robustness of trained models to corrupted inputs: scores over the level of each corruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.configs.diagnoser import SENSORS
from models.data.corruptions import EIGHT, CorruptionConfig, CorruptionName, Corruptor
from models.data.runs import UNLABELLED, Run
from models.data.scaling import Scaling, hold_frames
from models.data.text_pools import TextPool
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.evaluation.plots import Curve, draw_levels
from models.evaluation.scoring import NO_EVIDENCE, Scores, stream_scores
from models.experiments.base import Column, Need, OnPartProgress, Results, above_seed, folder_of_seed, interval
from models.fusion.learned import LearnedFusion
from models.model_file import SUFFIX, read_model
from models.network_file import build_network
from models.training.config import load_train_config
from models.training.fitting.evidence import Evidence, collect_evidence
from models.training.loop import Progress
from models.training.prepare import Part, prepare, require_same_split
from pipeline.arrays import Ints
from pipeline.config.profile import MachineType
from pipeline.errors import DataError
from pipeline.extras import require_modules
from pipeline.files.atomic_file import replacing

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "detection_rate": "detection rate",
    "false_alarm_rate": "false alarm rate",
    "correct_diagnosis_rate": "correct diagnosis rate",
}
_HALF = 0.5
_TENTHS = tuple(tenth / 10 for tenth in range(11))

_ByRow = dict[str, dict[str, Scores]]
"""By row and level: the scores of the `row`, and of the `sensors` of its model alone."""
_Panel = dict[str, Curve]


class RobustnessRow(BaseModel):
    """One system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """Folder that a training wrote its model to; `{seed}` stands for the seed."""
    system: Literal["fusion", "late", "sensors", "text"] = "fusion"
    """Whose answers are scored; `late` is the late fusion that every model has, `fusion` the model's own."""


class RobustnessExperiment(BaseModel):
    """Trained models of one configuration, scored on a held-out part whose runs and texts are corrupted level by level.

    The table has a row for each corruption and system. Its scores, each by metric: `level_0` … `level_100`, in percent;
    `area`, the mean over the levels by the trapezoidal rule, and its `gain` over the reference; `kept_at_half`, the
    score at level 0.5 as a share of that at level 0; `sensors`, what the model's sensors alone score at level 0; and
    `over_sensors`, the score at level 1 less that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["robustness"]
    title: str
    train: Path
    """Training configuration of the models; its relative paths start from `work`."""
    work: Path
    made_by: str
    """What makes the inputs in `work`."""
    models_made_by: str
    """What trains the models."""
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: dict[str, RobustnessRow] = Field(min_length=1)
    reference: str
    """The row that `gain` compares with."""
    corruptions: tuple[CorruptionName, ...] = Field(default=EIGHT, min_length=1)
    levels: tuple[float, ...] = _TENTHS
    settings: CorruptionConfig = CorruptionConfig()
    part: Part = "test"
    runs: int = Field(default=60, ge=1)
    """Maximum number of runs of the part per seed; spread over its files and faults."""
    unscored_faults: tuple[str, ...] = ()
    """Frames of these faults are not scored."""

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        keys = [_key(level) for level in levels]
        rising = all(one < other for one, other in pairwise(levels)) and len(set(keys)) == len(keys)
        if not (rising and levels and levels[0] == 0 and levels[-1] == 1):
            raise ValueError("levels must rise from 0 to 1 by at least a hundredth")
        return levels

    @model_validator(mode="after")
    def _refers_to_a_row(self) -> Self:
        if self.reference not in self.rows:
            raise ValueError(f"reference {self.reference!r} is no row")
        return self

    def needs(self) -> list[Need]:
        """See `Experiment.needs`; of the models only the folder above that of each seed."""
        config = load_train_config(self.train, data=self.work, output=Path())
        needed = [Need(path, self.made_by) for path in config.inputs]
        folders = dict.fromkeys(above_seed(row.model) for row in self.rows.values())
        return [*needed, *(Need(folder, self.models_made_by) for folder in folders)]

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """See `Experiment.run`."""
        require_modules("drawing plots", "matplotlib")
        rows: dict[CorruptionName, dict[str, list[Scores]]] = {
            name: {row: [] for row in self.rows} for name in self.corruptions
        }
        hashes: dict[str, list[str]] = {name: [] for name in self.rows}
        runs = []
        # Read all models first, so that a missing one is noticed now and not hours later.
        trials = [self._trial(seed) for seed in seeds]
        for seed, trial in zip(seeds, trials, strict=True):
            measured = self._measured(trial, seed, out / f"seed-{seed}", on_progress)
            for name, by_row in rows.items():
                for row, scores in self._summed(measured["clean"], measured[name]).items():
                    by_row[row].append(scores)
            for row, digest in trial.hashes.items():
                hashes[row].append(digest)
            runs.append(len(trial.runs))
        plots = [out / f"robustness_{metric}.png" for metric in METRICS]
        for (metric, measure), path in zip(METRICS.items(), plots, strict=True):
            draw_levels(self._curves(rows, metric), self.levels, self.title, measure, path)
        table = {
            f"{self._caption(name)}: {row}": scores for name, by_row in rows.items() for row, scores in by_row.items()
        }
        notes = {"runs": runs, "models": hashes}
        return Results(self.title, tuple(seeds), table, self.columns, notes, tuple(plots))

    def _trial(self, seed: int) -> _Trial:
        config = load_train_config(self.train, data=self.work, output=Path(), seed=seed)
        data = prepare(config)
        if unknown := sorted(set(self.unscored_faults) - set(data.faults)):
            raise DataError(f"{self.title}: unscored_faults names {unknown[0]!r}, which is no fault of the profile")
        name = f"{config.name or data.machine_type.name}{SUFFIX}"
        networks: dict[str, Diagnoser] = {}
        hashes: dict[str, str] = {}
        for row, described in self.rows.items():
            folder = folder_of_seed(described.model, seed)
            model = read_model(folder / name)
            require_same_split(model, config, data)
            networks[row], hashes[row] = build_network(model), model.header.hash
            if described.system not in systems_of(networks[row]):
                raise DataError(f"{self.title}: the model of row {row!r} has no system {described.system!r}")
        runs = data.runs(self.part)
        if not runs:
            raise DataError(f"{self.title}: the split of {self.train} has no {self.part} part")
        chosen = spread(runs, self.runs, seed=seed)
        return _Trial(
            networks,
            hashes,
            {row: _encoders(network) for row, network in networks.items()},
            data.machine_type,
            tuple(runs[row] for row in chosen),
            tuple(data.texts[self.part][row] for row in chosen),
            data.fit_scaling(),
            getattr(data.pools, self.part) if data.pools is not None else None,
        )

    def _measured(self, trial: _Trial, seed: int, folder: Path, on_progress: OnPartProgress) -> dict[str, _ByRow]:
        """Scores of each row at each level above 0 of each corruption, and those of clean runs as one more."""
        # At level 0 all corruptions are alike.
        jobs: list[tuple[str, CorruptionName, tuple[float, ...]]] = [("clean", self.corruptions[0], (0.0,))]
        jobs += [(name, name, self.levels[1:]) for name in self.corruptions]
        corrupt = Corruptor(self.settings, trial.scaling, trial.pool, seed=seed)
        essence = self._essence(trial)
        measured: dict[str, _ByRow] = {}
        for job, name, levels in jobs:
            path = folder / f"{job}.json"
            if (kept := _kept(path, essence)) is not None:
                measured[job] = kept
                continue
            by_row: _ByRow = {row: {} for row in self.rows}
            for index, level in enumerate(levels):
                on_progress(f"seed {seed}", Progress(job, index, len(levels), 0.0))
                runs, texts = corrupt(name, trial.runs, trial.texts, level)
                for row, scores in self._scored(trial, runs, texts).items():
                    by_row[row][_key(level)] = scores
            on_progress(f"seed {seed}", Progress(job, len(levels), len(levels), 0.0))
            with replacing(path) as part:
                part.write_text(json.dumps({"essence": essence, "scores": by_row}, indent=1) + "\n")
            measured[job] = by_row
        return measured

    def _scored(self, trial: _Trial, runs: Sequence[Run], texts: Sequence[Sequence[PlacedText]]) -> dict[str, Scores]:
        """Of each row, and of the sensors of its model alone; rows with the same encoders share their evidence."""
        hold_limit = hold_frames(trial.machine_type)
        hidden = [trial.machine_type.faults.index(fault) for fault in self.unscored_faults]
        frames = np.concatenate([np.arange(len(run)) for run in runs])
        evidence_of: dict[str, Evidence] = {}
        scored = {}
        for row, described in self.rows.items():
            network, encoders = trial.networks[row], trial.encoders[row]
            if encoders not in evidence_of:
                evidence_of[encoders] = collect_evidence(network, runs, texts, hold_limit)
            evidence = evidence_of[encoders]
            labels = np.where(np.isin(evidence.labels, hidden), UNLABELLED, evidence.labels)
            by_system = {}
            for system in (described.system, SENSORS):
                predicted = answers(network, evidence, system)
                scores = stream_scores(evidence.runs, frames, labels, predicted, trial.machine_type.faults)
                by_system[system] = {metric: scores[metric] for metric in METRICS}
            scored[row] = {"row": by_system[described.system], "sensors": by_system[SENSORS]}
        return scored

    def _summed(self, clean: _ByRow, measured: _ByRow) -> dict[str, Scores]:
        """Each row's scores under one corruption; see the class."""
        summed: dict[str, Scores] = {}
        for row in self.rows:
            start, sensors = (clean[row][_key(0)][system] for system in ("row", "sensors"))
            levels = {_key(0): start} | {key: scores["row"] for key, scores in measured[row].items()}
            summed[row] = levels | {
                "area": self._areas(levels),
                "sensors": sensors,
                "over_sensors": _combined(levels[_key(1)], sensors, sub),
            }
            if _HALF in self.levels:
                summed[row]["kept_at_half"] = _combined(levels[_key(_HALF)], start, _share)
        for row in self.rows:
            if row != self.reference:
                summed[row]["gain"] = _combined(summed[row]["area"], summed[self.reference]["area"], sub)
        return summed

    def _areas(self, levels: Mapping[str, Scores]) -> Scores:
        areas: Scores = {}
        for metric in METRICS:
            values = [levels[_key(level)][metric] for level in self.levels]
            defined = all(value is not None for value in values)
            areas[metric] = float(np.trapezoid(values, self.levels)) if defined else None
        return areas

    def _curves(self, rows: Mapping[CorruptionName, Mapping[str, list[Scores]]], metric: str) -> dict[str, _Panel]:
        """By corruption, as it is called in a picture, and row."""
        curves: dict[str, _Panel] = {}
        for name, by_row in rows.items():
            panel = curves.setdefault(self._caption(name), {})
            for row, by_seed in by_row.items():
                columns = [[scores[_key(level)][metric] for scores in by_seed] for level in self.levels]
                intervals = [interval([value for value in column if value is not None]) for column in columns]
                panel[row] = Curve(
                    [float("nan") if each is None else each.mean for each in intervals],
                    [0.0 if each is None or each.half is None else each.half for each in intervals],
                )
        return curves

    def _caption(self, name: CorruptionName) -> str:
        caption = name.replace("_", " ")
        if name == "white_noise":
            return f"{caption}, 1 = {self.settings.noise_deviations:g} deviations"
        return f"{caption}, 1 = {self.settings.skew_frames:g} frames" if name == "clock_skew" else caption

    def _essence(self, trial: _Trial) -> str:
        """Changes with everything that scores depend on, but not with which corruptions there are."""
        settings = self.model_dump_json(include={"levels", "settings", "unscored_faults"})
        digest = hashlib.sha256(settings.encode())
        for row, described in self.rows.items():
            digest.update(f"{row} {described.system} {trial.hashes[row]}".encode())
        digest.update(trial.scaling.std.tobytes())
        if trial.pool is not None:
            digest.update("\n".join(trial.pool.texts).encode() + trial.pool.classes.tobytes())
        for run, texts in zip(trial.runs, trial.texts, strict=True):
            digest.update(run.name.encode() + run.values.tobytes() + run.labels.tobytes() + repr(texts).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Trial:
    """Models and inputs of one seed."""

    networks: dict[str, Diagnoser]
    """By row."""
    hashes: dict[str, str]
    """By row, of the model file."""
    encoders: dict[str, str]
    """By row, a digest of what its evidence depends on besides the runs."""
    machine_type: MachineType
    runs: tuple[Run, ...]
    texts: tuple[tuple[PlacedText, ...], ...]
    scaling: Scaling
    pool: TextPool | None


def spread(runs: Sequence[Run], count: int, *, seed: int) -> Ints:
    """At most `count` of the runs, drawn so that files and faults keep their shares."""
    rng = np.random.default_rng([seed, *b"runs"])
    drawn = rng.random(len(runs))

    def stratum(row: int) -> tuple[str, tuple[int, ...], float]:
        return runs[row].source, tuple(np.unique(runs[row].labels).tolist()), drawn[row]

    order = np.array(sorted(range(len(runs)), key=stratum))
    count = min(count, len(runs))
    # Evenly spaced among the sorted runs, from a random first one.
    steps = (np.arange(count) + rng.random()) * len(runs) / count
    return np.sort(order[steps.astype(np.int64)])


def systems_of(network: Diagnoser) -> tuple[str, ...]:
    """Systems of a network that can be scored by themselves."""
    return ("fusion", "late", *network.modalities)


def answers(network: Diagnoser, evidence: Evidence, system: str) -> Ints:
    """Class (N,) predicted by a system of the network, NO_EVIDENCE where it has no evidence."""
    if system in network.modalities:
        modality = network.modalities.index(system)
        scores, present = evidence.logits[modality], evidence.present[modality]
    else:
        fusion = network.fusion
        if system == "late" and isinstance(fusion, LearnedFusion):
            fusion = fusion.late
        scores, present = evidence.fused(fusion).probabilities, evidence.present.any(dim=0)
    return np.where(present.numpy(), scores.argmax(dim=1).numpy(), NO_EVIDENCE)


def _encoders(network: Diagnoser) -> str:
    """Changes with everything that a network's evidence depends on."""
    digest = hashlib.sha256(network.config.model_dump_json(exclude={"fusion"}).encode())
    if network.text is not None:
        digest.update("\n".join(network.text.tokenizer.vocabulary).encode())
    for key, tensor in sorted(network.state_dict().items()):
        if not key.startswith("fusion."):
            digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _key(level: float) -> str:
    return f"level_{round(100 * level)}"


def _share(one: float, other: float) -> float | None:
    return one / other if other else None


def _combined(one: Scores, other: Scores, how: Callable[[float, float], float | None]) -> Scores:
    """Each metric of two; None where one has none."""
    return {
        metric: None if one[metric] is None or other[metric] is None else how(one[metric], other[metric])
        for metric in METRICS
    }


def _kept(path: Path, essence: str) -> _ByRow | None:
    """Scores that an earlier run wrote, if it measured the same."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return stored["scores"] if isinstance(stored, dict) and stored.get("essence") == essence else None
