"""PreparedData: the data of a training, read, split without leaks, and with its texts placed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.configs.sensors import (
    CausalCNNConfig,
    CellsConfig,
    ExpertsConfig,
    LinearStateConfig,
    NoClassifierConfig,
    RingAttentionConfig,
    SensorConfig,
    SeqLSTMConfig,
    StatisticsConfig,
    TreesConfig,
)
from models.data.class_counts import Counts, count_part, require_classes
from models.data.from_recordings import runs_from_records
from models.data.messages import Messages, frequent_messages
from models.data.recovery import NormalDistance, RecoveryRule, has_clearing, with_targets
from models.data.runs import Run, RunSplit, leave_out, left_out_classes, read_runs, split_runs
from models.data.scaling import Scaling, hold_frames
from models.data.text_pools import PoolSplit, pool_of_runs, read_pool, run_events, split_groups
from models.data.time_split import split_by_time
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import normalised
from models.model_file import Essence, Model
from models.training.config import TrainConfig
from models.training.loop import OnProgress, Progress
from models.training.losses import class_shares, class_weights, mask_recovery, weighted_prior
from pipeline.arrays import Bools, Ints
from pipeline.config.classes import RECOVERING, model_classes
from pipeline.config.profile import MachineType, load_profile
from pipeline.config.sections.modalities import Cells, cells_of
from pipeline.errors import DataError
from pipeline.mapping.schemas import Schemas
from pipeline.wire.recording import count_records, read_recording
from pipeline.wire.records import Record

Part = Literal["validation", "test"]
PARTS = ("train", "validation", "test")
_SHOWN_RECORDS = 20_000
"""A recording of fewer records is read without a sign of progress."""

RunTexts = list[tuple[PlacedText, ...]]
"""Texts of each run."""


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What a training, a baseline or an experiment works on."""

    machine_type: MachineType
    split: RunSplit
    counts: Counts
    """Episodes and frames of each class in each part."""
    pools: PoolSplit | None
    """Labelled texts, from files or else from the runs; None without texts."""
    drawn_pools: PoolSplit | None
    """The pools if texts are drawn from them; None where runs only have texts of their own."""
    texts: Mapping[str, RunTexts]
    """Texts of the held-out parts, `validation` and `test`, run by run; those of training runs are drawn each epoch."""
    class_weights: Tensor  # (C,) in the loss
    class_prior: NDArray[np.float64]  # (C,) that the weighted loss sees
    calibration_rows: Bools
    """Validation frames that fusions are fitted on, run after run: labelled, and not left out by `recovery_frames`."""
    recoveries: tuple[int, ...] | None
    """For how many frames a training run recovers after each clearing; None if `recovering` is not learnt."""

    messages: Messages | None = None
    """Frequent messages of the training runs, which the sensor encoder counts."""
    normal_only: bool = False
    """Whether all frames are of the normal state, so that there is no fault to learn."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of the classes that labels have, the normal state first."""
        return self.machine_type.faults

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that a network learns."""
        return model_classes(self.faults, recovering=self.recoveries is not None)

    @property
    def cells(self) -> Cells:
        """What masking takes away together."""
        machine_type = self.machine_type
        components = [variable.component for variable in machine_type.variables]
        return cells_of(components, machine_type.modalities, machine_type.variable_names)

    @property
    def hold_limit(self) -> int:
        """For how many frames alignment lets a value stand in for missing ones."""
        return hold_frames(self.machine_type)

    def runs(self, part: Part) -> tuple[Run, ...]:
        """Runs of a held-out part."""
        runs: tuple[Run, ...] = getattr(self.split, part)
        return runs

    def fit_scaling(self) -> Scaling:
        """Scaling by the normal state of the training runs; raises DataError if none starts in it."""
        return Scaling.fit(self.split.train)

    def run_counts(self) -> dict[str, int]:
        """Number of runs in each part."""
        return {part: len(getattr(self.split, part)) for part in PARTS}

    def machine_spans(self) -> dict[str, tuple[int, int]]:
        """The machines that training and validation have seen, and the starts of their first and last frame in ms;
        empty for runs that come from tables of frames."""
        spans: dict[str, tuple[int, int]] = {}
        for run in (*self.split.train, *self.split.validation):
            if run.machine is not None and run.start_ms is not None and len(run):
                first, last = int(run.start_ms[0]), int(run.start_ms[-1])
                known = spans.get(run.machine, (first, last))
                spans[run.machine] = min(first, known[0]), max(last, known[1])
        return dict(sorted(spans.items()))

    def text_counts(self) -> dict[str, int]:
        """Number of distinct texts in each part; empty without texts."""
        return {part: len(getattr(self.pools, part)) for part in PARTS} if self.pools else {}


def prepare(
    config: TrainConfig, *, schemas: Schemas | None = None, on_progress: OnProgress | None = None
) -> PreparedData:
    """Read and split the data of a training; `schemas` are needed for recordings of Avro.

    Raises DataError or ProfileError.
    """
    profile = load_profile(config.profile)
    machine_type = _machine_type(profile.machine_types, config.machine_type)
    runs = [run for files in config.runs for run in read_runs(files, machine_type)]
    for path in config.recordings:
        runs += runs_from_records(_shown(path, on_progress), profile, machine_type, path.stem, schemas)
    if not runs:
        raise DataError("there is nothing to train on: give runs or recordings")
    normal_only = config.normal_data or len(machine_type.faults) == 1
    if normal_only:
        runs = _all_normal(runs, machine_type)
    rng = np.random.default_rng(config.seed)
    left_out = left_out_classes(config.left_out, machine_type.faults)
    split = leave_out(_split(config, machine_type, runs, rng), left_out)
    counts = {part: count_part(getattr(split, part), machine_type.faults) for part in _wanted_parts(config)}
    if not normal_only:
        require_classes(counts)
    drawn_pools = _pools_of_files(config, machine_type, split, rng) if config.texts and machine_type.texts else None
    distinct = _without_seen_texts(split, drawn_pools)
    pools = _pools_of_runs(distinct) if drawn_pools is None and machine_type.texts else drawn_pools
    if normal_only:
        pools = drawn_pools = None
    choice = config.counted_messages
    messages = frequent_messages(split.train, choice) if choice is not None and machine_type.texts else None
    written_by_machines = messages is not None and messages.say_all
    if drawn_pools is None and written_by_machines:
        pools = None
    if not (written_by_machines if config.repeated_texts is None else config.repeated_texts):
        split = distinct
    recoveries: tuple[int, ...] | None = None
    if config.recovering is not None and not normal_only:
        split, recoveries = _with_recovery(config.recovering, machine_type, split)
    weights, prior = _weighting(config, split, len(machine_type.faults) + (recoveries is not None))
    masked = [mask_recovery(run.labels, config.recovery_frames) for run in split.validation]
    return PreparedData(
        machine_type=machine_type,
        split=split,
        counts=counts,
        pools=pools,
        drawn_pools=drawn_pools,
        texts={part: _held_out_texts(split, drawn_pools, config, part) for part in ("validation", "test")},
        class_weights=weights,
        class_prior=prior,
        calibration_rows=np.concatenate(masked) >= 0,
        recoveries=recoveries,
        messages=None if normal_only else messages,
        normal_only=normal_only,
    )


def _shown(path: Path, on_progress: OnProgress | None) -> Iterator[Record]:
    """The records of a recording, and how far it is read if it has many."""
    if on_progress is None or count_records(path) < _SHOWN_RECORDS:
        return read_recording(path)
    report = on_progress

    def show(done: int, total: int | None) -> None:
        report(Progress(f"reading {path.name}", 0, 1, done / (total or 1)))

    return read_recording(path, on_progress=show)


def _all_normal(runs: Sequence[Run], machine_type: MachineType) -> list[Run]:
    """The runs with every frame labelled as normal; raises DataError where a label says something else."""
    for run in runs:
        if faulty := run.labels[run.labels > 0].tolist():
            raise DataError(
                f"normal_data says that every frame is of the normal state, and {len(faulty):,} frames of {run.name} "
                f"are labelled {machine_type.faults[faulty[0]]}; leave normal_data out, or the labels"
            )
    return [replace(run, labels=np.zeros_like(run.labels)) for run in runs]


def without_recovering(data: PreparedData, config: TrainConfig) -> PreparedData:
    """The data for a network that learns the labels alone, each run once in an epoch."""
    parts = {part: tuple(replace(run, targets=None) for run in getattr(data.split, part)) for part in PARTS}
    split = RunSplit(**parts)
    plain = config.model_copy(update={"recovering": None, "clearing_repeats": None})
    weights, prior = _weighting(plain, split, len(data.faults))
    return replace(data, split=split, class_weights=weights, class_prior=prior, recoveries=None)


def repeated_runs(config: TrainConfig, runs: Sequence[Run]) -> list[Run]:
    """Training runs, each as often as it counts in an epoch of a sensor stage."""
    return [run for run, count in zip(runs, clearing_repeats(config, runs), strict=True) for _ in range(count)]


def learnt_frames(config: TrainConfig, runs: Sequence[Run]) -> Ints:
    """Classes to learn of all frames, run after run; UNLABELLED where a plant recovers in a way that is left out."""
    return np.concatenate([mask_recovery(run.learnt, config.recovery_frames) for run in runs])


def clearing_repeats(config: TrainConfig, runs: Sequence[Run]) -> list[int]:
    """How often each training run counts in an epoch of the sensor stage."""
    return [config.repeats if has_clearing(run) else 1 for run in runs]


def _weighting(config: TrainConfig, split: RunSplit, classes: int) -> tuple[Tensor, NDArray[np.float64]]:
    """Weights (C,) of the classes in the loss, and the class distribution (C,) that it then sees."""
    shares = class_shares(split.train, classes, config.recovery, clearing_repeats(config, split.train))
    weights = class_weights(shares, config.class_weights)
    return weights, weighted_prior(shares, weights)


def _with_recovery(rule: RecoveryRule, machine_type: MachineType, split: RunSplit) -> tuple[RunSplit, tuple[int, ...]]:
    """The split with the classes to learn of training and validation runs, and how long training runs recover."""
    if RECOVERING in machine_type.faults:
        raise DataError(
            f"machine type {machine_type.name} has a fault {RECOVERING!r}, which is the name of the class that "
            "`recovering` adds; rename the fault, or leave `recovering` out"
        )
    distance = NormalDistance.fit(split.train, Scaling.fit(split.train), rule, hold_frames(machine_type))
    recovering = len(machine_type.faults)
    train, lengths = with_targets(split.train, distance, recovering)
    if not any(lengths):
        why = f"after none of {len(lengths)} clearings" if lengths else "no fault clears in a training run, so never"
        raise DataError(
            f"{why} does the plant take time to recover, and `recovering` cannot be learnt; leave it out, or add runs "
            "in which faults clear"
        )
    validation, _ = with_targets(split.validation, distance, recovering)
    return RunSplit(train, validation, split.test), tuple(lengths)


def _split(config: TrainConfig, machine_type: MachineType, runs: Sequence[Run], rng: np.random.Generator) -> RunSplit:
    if config.split.by == "machine":
        return split_runs(runs, validation=config.validation, test=config.test, rng=rng)
    gap = config.split.gap_frames
    gap_frames = memory_frames(config, machine_type) if gap is None else gap
    return split_by_time(runs, validation=config.validation, test=config.test, gap_frames=gap_frames)


def _wanted_parts(config: TrainConfig) -> tuple[str, ...]:
    return PARTS if config.test else PARTS[:2]


def memory_frames(config: TrainConfig, machine_type: MachineType) -> int:
    """How far back a frame's diagnosis can look in what training makes of it: frames to leave out between parts."""
    texts = machine_type.text_ttl_frames if machine_type.texts else 0
    spans = () if config.detector is None else (*config.detector.mean_spans, *config.detector.square_spans)
    detector = max(map(math.ceil, spans), default=0)
    encoders = (config.sensors, *((config.modality,) if config.modality and machine_type.modalities else ()))
    encoder = max(_encoder_memory(one, config.chunk_frames) for one in encoders)
    return max(encoder, detector, texts, hold_frames(machine_type))


def _encoder_memory(sensors: SensorConfig, chunk_frames: int) -> int:
    match sensors:
        case CausalCNNConfig():
            return 1 + (sensors.kernel - 1) * sum(sensors.dilations)
        case RingAttentionConfig():
            return sensors.layers * (sensors.window - 1) + 1
        case SeqLSTMConfig():
            return max(chunk_frames, *map(math.ceil, (*sensors.trends, *sensors.spreads)), 0)
        case LinearStateConfig():
            return max(chunk_frames, *map(math.ceil, sensors.horizons))
        case StatisticsConfig() | CellsConfig():
            return max(map(math.ceil, sensors.spans))
        case TreesConfig():
            return max(sensors.windows)
        case NoClassifierConfig():
            return 0
        case ExpertsConfig():
            return max(_encoder_memory(expert, chunk_frames) for expert in sensors.experts)


def provenance(config: TrainConfig, data: PreparedData) -> dict[str, Any]:
    """What decides which runs and texts are held out, as model files record it."""
    return {
        "seed": config.seed,
        "data": [path.name for files in config.runs for path in files.paths],
        "texts": [path.name for path in config.texts],
        **({"kept_texts": config.kept_texts} if config.kept_texts else {}),
        **({"left_out": list(config.left_out)} if config.left_out else {}),
        **({"split": config.split.model_dump()} if config.split.by == "time" else {}),
        "runs": data.run_counts(),
    }


def require_same_split(model: Model, config: TrainConfig, data: PreparedData) -> None:
    """Raise DataError if the training of a model may have seen what is held out here."""
    if model.header.essence.digest != Essence.of(data.machine_type).digest:
        raise DataError(
            f"model {model.path} is for another profile than {config.profile}; name a model that was trained for "
            f"machine type {data.machine_type.name} of it"
        )
    for name, expected in provenance(config, data).items():
        actual = model.header.training.get(name)
        if actual != expected:
            raise DataError(
                f"model {model.path} comes from another split ({name} is {actual} there and {expected} here), so its "
                "training may have seen what is held out; use the seed and the data of its training"
            )


def _machine_type(types: Sequence[MachineType], name: str | None) -> MachineType:
    if name is None and len(types) == 1:
        return types[0]
    for machine_type in types:
        if machine_type.name == name:
            return machine_type
    names = ", ".join(machine_type.name for machine_type in types)
    raise DataError(f"choose which machine type to train for ({names}); {name or 'none'} was given")


def _pools_of_files(
    config: TrainConfig, machine_type: MachineType, split: RunSplit, rng: np.random.Generator
) -> PoolSplit:
    """The pools of labelled texts, without held-out texts that training runs have as their own."""
    shares = {"validation": config.validation, "test": config.test}
    pools = read_pool(config.texts, machine_type.faults, **shares, rng=rng)
    pools = pools.leave_out(left_out_classes(config.left_out, machine_type.faults))
    own = _own_texts(split.train)
    validation, test = (
        pool.take(np.flatnonzero([normalised(text) not in own for text in pool.texts]))
        for pool in (pools.validation, pools.test)
    )
    if not config.kept_texts:
        return PoolSplit(pools.train, validation, test)
    read, kept = split_groups(pools.train, config.kept_texts, np.random.default_rng([config.seed, *b"kept"]))
    return PoolSplit(read, validation, test, kept)


def _pools_of_runs(split: RunSplit) -> PoolSplit | None:
    """The runs' own texts, each with the class of its frames; None if training runs have none."""
    pools = PoolSplit(*(pool_of_runs(part) for part in (split.train, split.validation, split.test)))
    return pools if len(pools.train) else None


def _own_texts(runs: Sequence[Run]) -> set[str]:
    return {normalised(text.text) for run in runs for text in run.texts or ()}


def _without_seen_texts(split: RunSplit, pools: PoolSplit | None) -> RunSplit:
    """Drop from held-out runs those of their own texts that training, or an earlier held-out part, has as well."""
    seen = _own_texts(split.train) | {normalised(text) for text in (pools.known.texts if pools else ())}
    parts: dict[str, tuple[Run, ...]] = {"train": split.train}
    for part in ("validation", "test"):
        distinct = []
        for run in getattr(split, part):
            texts = None if run.texts is None else tuple(t for t in run.texts if normalised(t.text) not in seen)
            distinct.append(replace(run, texts=texts))
        parts[part] = tuple(distinct)
        seen |= _own_texts(distinct)
    return RunSplit(**parts)


def _held_out_texts(split: RunSplit, pools: PoolSplit | None, config: TrainConfig, part: Part) -> RunTexts:
    pool = getattr(pools, part) if pools else None
    return run_events(getattr(split, part), pool, config.events, np.random.default_rng([config.seed, *part.encode()]))
