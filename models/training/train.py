"""From files of runs and texts to a model file: split, train both modalities, calibrate, fuse, score, and draw."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.configs.diagnoser import DiagnoserConfig
from models.data.from_recordings import runs_from_records
from models.data.runs import Run, RunSplit, read_runs, split_runs
from models.data.scaling import Scaling, hold_frames
from models.data.text_pools import PoolSplit, pool_of_runs, read_pool, run_events, split_groups
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import Tokenizer, normalised
from models.evaluation.scoring import Scores
from models.fusion.base import LearnedFusion
from models.model_file import SUFFIX, Essence, read_model
from models.network_file import build_network, round_weights, save_model
from models.training.calibration import Evidence, balance_prior, calibrate_network, choose_rule
from models.training.config import TrainConfig
from models.training.false_alarms import calm_folds, choose_cautious, favour_normal
from models.training.loop import OnProgress, Record, Stage, StageConfig, run_stage
from models.training.report import draw_all, part_scores, write_scores
from models.training.stages.encoders import (
    SensorStage,
    TextStage,
    WordStage,
    class_shares,
    class_weights,
    evidence_of,
    settled,
)
from models.training.stages.fusion import FusionStage, JointStage
from pipeline.config.profile import MachineType, load_profile
from pipeline.errors import DataError
from pipeline.extras import require_modules
from pipeline.frames import Floats
from pipeline.wire.recording import read_recording

logger = logging.getLogger("faultline.training")

_WITHOUT_EFFECT = frozenset({"output", "name", "plots", "score_test", "hard_faults"})
"""What changes no weight."""
_LATER = _WITHOUT_EFFECT | {
    "rule",
    "false_alarms",
    "storage",
    "fusion",
    "encoders",
    "fusion_stage",
    "joint_stage",
    "fusion_frames_per_epoch",
    "fusion_distractor_share",
}
"""What changes nothing about the encoders, so that their checkpoints serve every fusion."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came out of a training."""

    model: Path
    hash: str
    rule: str
    """The late fusion's rule that is in the model."""
    rule_scores: dict[str, float]
    """Of each rule on validation, if the rule was to be chosen: cross-fitted macro-F1, or, under `false_alarms`, the
    share of faulty frames that it diagnoses rightly."""
    scores: Scores
    """By part (validation, test), by file and `all`, with and without the hard faults, by modality and `fusion`."""
    history: list[Record]
    files: tuple[Path, ...]
    """Everything that was written, the model first."""


def train(config: TrainConfig, *, on_progress: OnProgress | None = None, resume: bool = False) -> TrainReport:
    """Train a model and write it with its scores and pictures to `config.output`.

    Interrupted trainings leave checkpoints there; with `resume` they go on and end as if nothing had happened. All
    fitting uses the training and validation parts; the test part is scored once, at the end. Raises DataError,
    ProfileError or MissingExtraError with what to do.
    """
    if config.plots:
        require_modules("drawing plots", "matplotlib")
    machine_type, split, pools, fixed = prepare(config)
    network, scaling = _network(config, machine_type, split, pools)
    shares = class_shares(split.train, len(machine_type.faults), config.recovery)
    learnt = np.concatenate([settled(run.labels, config.recovery_frames) for run in split.validation]) >= 0
    weights = class_weights(shares, config.class_weights)
    prior = balance_prior(shares, weights)
    history: list[Record] = []

    def run(stage: Stage, stage_config: StageConfig, fingerprint: str) -> None:
        checkpoint = config.output / f"{stage.name}.checkpoint"
        history.extend(
            run_stage(
                stage,
                stage_config,
                seed=config.seed,
                checkpoint=checkpoint,
                fingerprint=fingerprint,
                resume=resume,
                on_progress=on_progress,
            )
        )

    if config.encoders is None:
        fingerprint = _fingerprint(config, machine_type, split, pools, _LATER)
        for stage, stage_config in _stages(config, machine_type, network, scaling, weights, split, pools, fixed):
            run(stage, stage_config, fingerprint)

    def encoded() -> Evidence:
        return evidence_of(network, split.validation, fixed["validation"], hold_frames(machine_type))

    def labelled() -> Evidence:
        return encoded().take(learnt)

    if isinstance(network.fusion, LearnedFusion):
        network.eval()
        round_weights(network, config.storage)
        network.fusion.late, _ = choose_rule(config.late_rule, labelled(), prior, seed=config.seed)
        options = _fusion_options(config, machine_type, scaling, weights, pools)
        fingerprint = _fingerprint(config, machine_type, split, pools, _WITHOUT_EFFECT | {"joint_stage"})
        stage = FusionStage(network, split.train, labelled, batch_size=config.fusion_stage.batch_size, **options)
        run(stage, config.fusion_stage, fingerprint)
        if config.joint_stage is not None:
            fingerprint = _fingerprint(config, machine_type, split, pools, _WITHOUT_EFFECT)
            joint = JointStage(network, split.train, labelled, batch_size=config.joint_stage.batch_size, **options)
            run(joint, config.joint_stage, fingerprint)

    # Calibrate what will be stored, not what was in memory before rounding.
    network.eval()
    round_weights(network, config.storage)
    evidence = encoded()
    known = evidence.take(learnt)
    caution: dict[str, dict[str, float]] = {}
    if config.false_alarms is None:
        late, rule_scores = choose_rule(config.late_rule, known, prior, seed=config.seed)
        if isinstance(network.fusion, LearnedFusion):
            calibrate_network(network.fusion, late, known)
        else:
            network.fusion = late
    else:
        pool = pools.unseen if pools and config.texts else None
        limit = hold_frames(machine_type)
        folds = calm_folds(network, split.validation, pool, config.events, hold_limit=limit, seed=config.seed)
        late, shifts, rule_scores = choose_cautious(
            config.late_rule, known, prior, folds, config.false_alarms, seed=config.seed
        )
        network.fusion = late
        taken = [dict(zip(machine_type.faults, shift.tolist(), strict=True)) for shift in shifts]
        caution = dict(zip(network.modalities, taken, strict=True))
        favour_normal(network, shifts)
        evidence = encoded()
    network.config = network.config.model_copy(update={"fusion": network.fusion.config})

    scores: Scores = {}
    drawn: tuple[str, Evidence, Floats] | None = None
    for part in ("validation", "test") if config.score_test else ("validation",):
        members = getattr(split, part)
        if members:
            found = (
                evidence
                if part == "validation"
                else evidence_of(network, members, fixed[part], hold_frames(machine_type))
            )
            scores[part], fused = part_scores(network, found, members, machine_type.faults, config.hard_faults)
            drawn = (part, found, fused)

    name = config.name or machine_type.name
    path = config.output / f"{name}{SUFFIX}"
    record = _training_record(config, split, pools, rule_scores, scores) | {"caution": caution}
    model_hash = save_model(path, network, machine_type, name=name, training=record, storage=config.storage)
    files = [
        path,
        *write_scores(config.output, history, scores, rule_scores, config.fusion.kind, late.config.rule, model_hash),
    ]
    if config.plots and drawn is not None:
        files += draw_all(config.output, history, drawn, machine_type.faults)
    return TrainReport(path, model_hash, late.config.rule, rule_scores, scores, history, tuple(files))


def prepare(
    config: TrainConfig,
) -> tuple[MachineType, RunSplit, PoolSplit | None, dict[str, list[tuple[PlacedText, ...]]]]:
    """Read and split the data: machine type, runs, pools of texts, and the texts of the held-out parts, run by run."""
    profile = load_profile(config.profile)
    machine_type = _machine_type(profile.machine_types, config.machine_type)
    runs = [run for files in config.runs for run in read_runs(files, machine_type)]
    for path in config.recordings:
        runs += runs_from_records(read_recording(path), profile, machine_type, path.stem)
    if not runs:
        raise DataError("there is nothing to train on: give runs or recordings")
    rng = np.random.default_rng(config.seed)
    split = split_runs(runs, validation=config.validation, test=config.test, rng=rng)
    pools = _pools_of_files(config, machine_type, split, rng) if config.texts and machine_type.texts else None
    distinct = _without_seen_texts(split, pools)
    if pools is None and machine_type.texts:
        pools = _pools_of_runs(distinct)
    if not config.repeated_texts:
        split = distinct
    fixed = {part: _fixed_texts(split, pools, config, part) for part in ("validation", "test")}
    return machine_type, split, pools, fixed


def _machine_type(types: Sequence[MachineType], name: str | None) -> MachineType:
    if name is None and len(types) == 1:
        return types[0]
    for machine_type in types:
        if machine_type.name == name:
            return machine_type
    known = ", ".join(machine_type.name for machine_type in types)
    raise DataError(f"say which machine type to train for ({known}); {name or 'none'} was given")


def _pools_of_files(
    config: TrainConfig, machine_type: MachineType, split: RunSplit, rng: np.random.Generator
) -> PoolSplit:
    """The pools of labelled texts, without held-out texts that training runs have as their own."""
    shares = {"validation": config.validation, "test": config.test}
    pools = read_pool(config.texts, machine_type.faults, **shares, rng=rng)
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
    """The runs' own texts, labelled by the frames where they stand; None if training runs have none."""
    pools = PoolSplit(*(pool_of_runs(part) for part in (split.train, split.validation, split.test)))
    return pools if len(pools.train) else None


def _stages(
    config: TrainConfig,
    machine_type: MachineType,
    network: Diagnoser,
    scaling: Scaling,
    weights: Tensor,
    split: RunSplit,
    pools: PoolSplit | None,
    fixed: Mapping[str, Sequence[Sequence[PlacedText]]],
) -> list[tuple[Stage, StageConfig]]:
    """What is trained, in order."""
    sensors = SensorStage(
        network,
        split.train,
        split.validation,
        scaling=scaling,
        weights=weights,
        augment=config.augment,
        hold_limit=hold_frames(machine_type),
        batch_size=config.sensor_stage.batch_size,
        chunk=config.chunk_frames,
        most_offset=config.most_offset_frames,
        burn_in=config.burn_in_frames,
        recovery=config.recovery,
    )
    stages: list[tuple[Stage, StageConfig]] = [(sensors, config.sensor_stage)]
    if network.text is None or pools is None:
        return stages
    words = WordStage(
        network,
        pools.train,
        pools.validation,
        batch_size=config.word_stage.batch_size,
        typo_share=config.typo_share,
        seed=config.seed,
    )
    texts = TextStage(
        network,
        split.train,
        split.validation,
        fixed["validation"],
        pool=pools.train if config.texts else None,
        draw=config.events,
        weights=weights,
        batch_size=config.text_stage.batch_size,
        frames_per_epoch=config.text_frames_per_epoch,
        typo_share=config.typo_share,
        recovery=config.recovery,
    )
    return [*stages, (words, config.word_stage), (texts, config.text_stage)]


def _fusion_options(
    config: TrainConfig, machine_type: MachineType, scaling: Scaling, weights: Tensor, pools: PoolSplit | None
) -> dict[str, Any]:
    """What both stages of a learned fusion need to know."""
    share = max(config.events.distractor_share, config.fusion_distractor_share)
    return {
        "pool": pools.unread if pools and config.texts else None,
        "recovery": config.recovery,
        "draw": config.events.model_copy(update={"distractor_share": share}),
        "scaling": scaling,
        "weights": weights,
        "augment": config.augment,
        "hold_limit": hold_frames(machine_type),
        "frames_per_epoch": config.fusion_frames_per_epoch,
        "typo_share": config.typo_share,
        "burn_in": config.burn_in_frames,
        "chunk": config.chunk_frames,
        "most_offset": config.most_offset_frames,
    }


def _network(
    config: TrainConfig, machine_type: MachineType, split: RunSplit, pools: PoolSplit | None
) -> tuple[Diagnoser, Scaling]:
    """An untrained network, its first weights drawn from the seed, scaled by the training runs; or the encoders of
    `config.encoders` with an untrained fusion."""
    if config.encoders is not None:
        return _with_encoders(config, config.encoders, machine_type, split)
    texts = [text.text for run in split.train for text in run.texts or ()]
    texts += pools.train.texts if pools else ()
    scaling = Scaling.fit(split.train)
    described = DiagnoserConfig(
        variables=len(machine_type.variables),
        classes=len(machine_type.faults),
        sensors=config.sensors,
        text=config.text if pools else None,
        fusion=config.fusion,
        text_ttl_frames=machine_type.text_ttl_frames,
    )
    network = _seeded(described, Tokenizer.fit(texts, config.text) if described.text else None, config.seed)
    network.set_scaling(scaling)
    return network, scaling


def _with_encoders(
    config: TrainConfig, path: Path, machine_type: MachineType, split: RunSplit
) -> tuple[Diagnoser, Scaling]:
    """A network with the encoders of a model file, without their caution; raises DataError if its training saw what is
    held out here."""
    model = read_model(path)
    header = model.header
    if header.essence.digest != Essence.of(machine_type).digest:
        raise DataError(f"the encoders of {path} are for another profile; train encoders for {machine_type.name}")
    mine = _made_from(config, split)
    if different := [name for name, value in mine.items() if header.training.get(name) != value]:
        name = different[0]
        raise DataError(
            f"the encoders of {path} come from another split ({name} is {header.training.get(name)} there and "
            f"{mine[name]} here), so they may have seen what is held out; use the seed and the data of their training"
        )
    described = header.network.model_copy(update={"fusion": config.fusion})
    network = _seeded(described, model.tokenizer, config.seed)
    trained = build_network(model).state_dict()
    taken = {key: value for key, value in trained.items() if not key.startswith("fusion.")}
    network.load_state_dict(network.state_dict() | taken)
    if caution := header.training.get("caution"):
        shifts = [[caution[modality][fault] for fault in machine_type.faults] for modality in network.modalities]
        favour_normal(network, -torch.tensor(shifts))
    return network, Scaling(network.mean.numpy().copy(), network.std.numpy().copy())


def _seeded(described: DiagnoserConfig, tokenizer: Tokenizer | None, seed: int) -> Diagnoser:
    """A network whose weights are drawn from the seed, without touching anybody else's chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Diagnoser(described, tokenizer)


def _own_texts(runs: Sequence[Run]) -> set[str]:
    return {normalised(text.text) for run in runs for text in run.texts or ()}


def _without_seen_texts(split: RunSplit, pools: PoolSplit | None) -> RunSplit:
    """Drop from held-out runs those of their own texts that training, or an earlier held-out part, has as well."""
    seen = _own_texts(split.train) | {normalised(text) for text in (pools.known.texts if pools else ())}
    parts: dict[str, tuple[Run, ...]] = {"train": split.train}
    for part in ("validation", "test"):
        kept = []
        for run in getattr(split, part):
            texts = None if run.texts is None else tuple(t for t in run.texts if normalised(t.text) not in seen)
            kept.append(Run(run.name, run.group, run.source, run.values, run.labels, texts))
        parts[part] = tuple(kept)
        seen |= _own_texts(kept)
    return RunSplit(**parts)


def _fixed_texts(
    split: RunSplit, pools: PoolSplit | None, config: TrainConfig, part: str
) -> list[tuple[PlacedText, ...]]:
    pool = getattr(pools, part) if pools and config.texts else None
    return run_events(getattr(split, part), pool, config.events, np.random.default_rng([config.seed, *part.encode()]))


def _training_record(
    config: TrainConfig,
    split: RunSplit,
    pools: PoolSplit | None,
    rule_scores: dict[str, float],
    scores: Scores,
) -> dict[str, Any]:
    """What the model file says about its making: enough to judge it and to make it again."""
    subset = {part: {source: of["all_faults"]["fusion"] for source, of in by.items()} for part, by in scores.items()}
    return {
        **_made_from(config, split),
        "distinct_texts": {part: len(getattr(pools, part)) for part in ("train", "validation", "test")}
        if pools
        else {},
        "loss": "every frame",
        "rule_scores": rule_scores,
        "scores": {
            part: {source: {k: v for k, v in score.items() if k != "per_fault"} for source, score in by.items()}
            for part, by in subset.items()
        },
    }


def _made_from(config: TrainConfig, split: RunSplit) -> dict[str, Any]:
    """What decides which runs and texts are held out."""
    return {
        "seed": config.seed,
        "data": [path.name for files in config.runs for path in files.paths],
        "texts": [path.name for path in config.texts],
        **({"kept_texts": config.kept_texts} if config.kept_texts else {}),
        "runs": {part: len(getattr(split, part)) for part in ("train", "validation", "test")},
    }


def _fingerprint(
    config: TrainConfig, machine_type: MachineType, split: RunSplit, pools: PoolSplit | None, later: frozenset[str]
) -> str:
    """Changes with everything that a checkpoint depends on, but not with where it lies or what comes `later`."""
    digest = hashlib.sha256(config.model_dump_json(exclude=set(later)).encode())
    digest.update(machine_type.digest.encode())
    if config.encoders is not None:
        digest.update(read_model(config.encoders).header.hash.encode())
    for run in (*split.train, *split.validation):
        digest.update(f"{run.name} {len(run)}".encode())
        digest.update(run.labels.tobytes())
    for pool in (pools.known, pools.validation) if pools else ():
        digest.update("\n".join(pool.texts).encode() + pool.classes.tobytes())
    return digest.hexdigest()
