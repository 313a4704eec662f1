"""A training: data prepared, encoders and fusion trained and calibrated, and the model scored and written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.diagnoser import Diagnoser
from models.evaluation.novelty import FrameNovelty, unknown_labels, unknown_scores
from models.evaluation.scoring import Scores
from models.fusion.late import LateFusion
from models.fusion.learned import LearnedFusion
from models.model_file import MACHINES, SUFFIX
from models.network_file import round_weights, save_model
from models.training.budget import Budget, Clock
from models.training.config import TrainConfig
from models.training.experts.remaining_life import remaining_life_scores, train_remaining_life
from models.training.experts.train import expert_stages, pool_summary, train_experts
from models.training.fitting.calibration import calibrate_network, choose_rule
from models.training.fitting.evidence import (
    Evidence,
    calibration_evidence,
    for_calibration,
    part_evidence,
    visible_faults,
)
from models.training.fitting.false_alarms import (
    FUSED,
    apply_margins,
    choose_rule_with_margins,
    fault_free_folds,
    fit_fused_margins,
)
from models.training.fitting.published import fit_published
from models.training.fitting.unknown import UnknownReport, fired_rules, fit_unknown, novelty_of
from models.training.loop import EpochRecord, OnProgress, Stage, StageConfig, run_stage
from models.training.prepare import Part, PreparedData, prepare, provenance
from models.training.report import ScoredPart, draw_all, score_part, write_reliability, write_scores
from models.training.stages.checkpoints import (
    LATER,
    OF_DETECTOR,
    OF_RETRIEVAL,
    OF_TEXTS,
    WITHOUT_EFFECT,
    fingerprint,
)
from models.training.stages.detector import DetectorReport, DetectorStage, train_detector
from models.training.stages.fusion import FusionStage, JointStage
from models.training.stages.remaining_life import RemainingLifeStage
from models.training.stages.retrieval import RetrievalStage
from models.training.stages.texts import TextStage, WordStage
from models.training.stages.untrained import build_untrained
from pipeline.config.classes import RECOVERING, UNKNOWN
from pipeline.extras import require_modules
from pipeline.mapping.schemas import Schemas


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The result of a training."""

    model: Path
    hash: str
    rule: str
    """The late fusion's rule that is in the model."""
    rule_scores: dict[str, float]
    """Of each rule on validation, if the rule was to be chosen: cross-fitted macro-F1, or, under `false_alarms`, the
    share of faulty frames that it diagnoses correctly."""
    scores: Scores
    """By part (validation, test), by file and `all`, with and without the hard faults, by modality and `fusion`."""
    history: list[EpochRecord]
    files: tuple[Path, ...]
    """Everything that was written, the model first."""
    experts: dict[str, float]
    """The weight of each expert on the sensors; empty for a single encoder."""
    hidden_faults: tuple[str, ...]
    """Faults that the sensors cannot see."""
    detector: DetectorReport | None
    """None without a detector, or with one of another training."""


@dataclass(slots=True)
class Training:
    """A training in progress."""

    config: TrainConfig
    data: PreparedData
    network: Diagnoser
    resume: bool
    on_progress: OnProgress | None
    budget: Budget
    history: list[EpochRecord] = field(default_factory=list)
    detector: DetectorReport | None = None
    """None without a detector, or with one of another training."""

    def run(self, stage: Stage, stage_config: StageConfig, *, without_effect: frozenset[str] = LATER) -> None:
        """Run a stage, with a checkpoint in the output folder that depends on all other settings."""
        self.history += run_stage(
            stage,
            self.budget.fitting(stage, stage_config),
            seed=self.config.seed,
            checkpoint=self.config.output / f"{stage.name}.checkpoint",
            fingerprint=fingerprint(
                self.config, self.data, without_effect | (frozenset() if self.network.detector else OF_DETECTOR)
            ),
            resume=self.resume,
            on_progress=self.on_progress,
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted on validation frames after the last stage."""

    late: LateFusion
    rule_scores: dict[str, float]
    margins: dict[str, dict[str, float]]
    """False-alarm margins by modality and class, or of the `fused` answer by class; empty unless the configuration
    limits false alarms."""
    validation: Evidence
    """Of the calibrated network."""
    novelty: torch.Tensor | None
    """Of the validation frames, (N,); None without a detector."""
    unknown: UnknownReport | None = None
    """None of a network that calls no fault unknown."""


def train(
    config: TrainConfig,
    *,
    on_progress: OnProgress | None = None,
    on_data: Callable[[PreparedData], None] = lambda _: None,
    resume: bool = False,
    clock: Clock = time.monotonic,
    schemas: Schemas | None = None,
) -> TrainReport:
    """Train a model and write it with its scores and plots to `config.output`; `on_data` gets its data before that.

    Interrupted trainings leave checkpoints there; with `resume` they continue, with the result of an uninterrupted one.
    With a `budget`, stages get as many epochs as fit in by the `clock`. The test part is scored once, at the end.
    `schemas` are needed for recordings of Avro.
    Raises DataError, ProfileError or MissingExtraError with what to do.
    """
    if config.plots:
        require_modules("drawing plots", "matplotlib")
    data = prepare(config, schemas=schemas, on_progress=on_progress)
    on_data(data)
    budget = Budget(config.output, None if config.budget_ms is None else config.budget_ms / 1000, clock, resume)
    training = Training(config, data, build_untrained(config, data), resume, on_progress, budget)
    budget.start(_stage_names(training))
    train_encoders(training)
    train_fusion(training)
    train_remaining_life(training.network, data, config, partial(training.run, without_effect=WITHOUT_EFFECT))
    train_retrieval(training)
    calibration = calibrate(training)
    parts = score(training, calibration)
    return write(training, calibration, parts)


def _stage_names(training: Training) -> list[str]:
    """The stages that a training goes through."""
    config, network = training.config, training.network
    names = [] if config.encoders is not None else expert_stages(network)
    if config.encoders is None and network.detector is not None:
        names.append(DetectorStage.name)
    if config.encoders is None and network.text is not None and training.data.pools is not None:
        names += [WordStage.name, TextStage.name]
    if isinstance(network.fusion, LearnedFusion):
        names += [FusionStage.name] + ([JointStage.name] if config.joint_stage is not None else [])
    names += [RemainingLifeStage.name] if network.remaining_life is not None else []
    return names + ([RetrievalStage.name] if network.retrieval is not None else [])


def train_encoders(training: Training) -> None:
    """Train the sensor encoder, the detector and, if there are texts, the text encoder and its ring; nothing if they
    were given."""
    config, data, network = training.config, training.data, training.network
    if config.encoders is not None:
        return
    train_experts(network, data, config, partial(training.run, without_effect=OF_TEXTS), training.budget)
    run_detector = partial(training.run, without_effect=OF_TEXTS - OF_DETECTOR)
    training.detector = train_detector(network, data, config, run_detector)
    stages: list[tuple[Stage, StageConfig]] = []
    if network.text is not None and data.pools is not None:
        stages.append((WordStage(network, data, config), config.word_stage))
        stages.append((TextStage(network, data, config), config.text_stage))
    for stage, stage_config in stages:
        training.run(stage, stage_config)


def train_fusion(training: Training) -> None:
    """Train a learned fusion, and together with the encoders if the configuration says so; nothing for a late one."""
    config, data, network = training.config, training.data, training.network
    if not isinstance(network.fusion, LearnedFusion):
        return
    network.eval()
    round_weights(network, config.storage)
    evidence = calibration_evidence(network, data)
    network.fusion.late, _ = choose_rule(config.late_rule, evidence, data.class_prior, seed=config.seed)
    stage = FusionStage(network, data, config)
    training.run(stage, config.fusion_stage, without_effect=WITHOUT_EFFECT | {"joint_stage"})
    if config.joint_stage is not None:
        training.run(JointStage(network, data, config), config.joint_stage, without_effect=WITHOUT_EFFECT)


def train_retrieval(training: Training) -> None:
    """Train the retrieval head on the encoders as they will be stored; nothing without one."""
    config, network = training.config, training.network
    if network.retrieval is None:
        return
    network.eval()
    round_weights(network, config.storage)
    stage = RetrievalStage(network, training.data, config)
    training.run(stage, config.retrieval_stage, without_effect=WITHOUT_EFFECT - OF_RETRIEVAL)


def calibrate(training: Training) -> Calibration:
    """Fit the late fusion and the network's temperature, or false-alarm margins, on validation frames."""
    config, data, network = training.config, training.data, training.network
    share = None if data.normal_only else config.false_alarms
    # The weights are rounded first, as they will be stored.
    network.eval()
    round_weights(network, config.storage)
    evidence = part_evidence(network, data, "validation")
    labelled = for_calibration(evidence, data)
    margins: dict[str, dict[str, float]] = {}
    folds: list[Evidence] = []
    if share is not None:
        pool = data.drawn_pools.unseen if data.drawn_pools else None
        folds = fault_free_folds(
            network, data.split.validation, pool, config.events, hold_limit=data.hold_limit, seed=config.seed
        )
    if share is None or isinstance(network.fusion, LearnedFusion):
        late, rule_scores = choose_rule(config.late_rule, labelled, data.class_prior, seed=config.seed)
        if isinstance(network.fusion, LearnedFusion):
            calibrate_network(network.fusion, late, labelled)
        else:
            network.fusion = late
        if share is not None and isinstance(network.fusion, LearnedFusion):
            fused = fit_fused_margins(network.fusion, folds, share, len(data.faults))
            margins = {FUSED: dict(zip(data.classes, fused.tolist(), strict=True))}
            with torch.no_grad():
                network.fusion.network.subtract(fused)
    else:
        late, fitted, rule_scores = choose_rule_with_margins(
            config.late_rule,
            labelled,
            data.class_prior,
            folds,
            share,
            seed=config.seed,
            faults=len(data.faults),
            visible=visible_faults(network, len(data.faults)),
        )
        network.fusion = late
        by_class = [dict(zip(data.classes, row.tolist(), strict=True)) for row in fitted]
        margins = dict(zip(network.modalities, by_class, strict=True))
        apply_margins(network, fitted)
        evidence = part_evidence(network, data, "validation")
    network.config = network.config.model_copy(update={"fusion": network.fusion.config})
    novelty = None if network.detector is None else novelty_of(network, data.split.validation, data.hold_limit)
    unknown = fit_unknown(network, data, evidence, novelty, config.unknown)
    fit_published(network, data, evidence, novelty, config.candidates)
    return Calibration(late, rule_scores, margins, evidence, novelty, unknown)


def score(training: Training, calibration: Calibration) -> dict[Part, ScoredPart]:
    """Scores of the validation part and, if wanted, of the test part; none of normal data alone."""
    config, data, network = training.config, training.data, training.network
    parts: dict[Part, ScoredPart] = {}
    if data.normal_only:
        # A model that always says normal would score perfectly on them.
        return parts
    wanted: tuple[Part, ...] = ("validation", "test") if config.score_test else ("validation",)
    for part in wanted:
        runs = data.runs(part)
        if runs:
            if part == "validation":
                evidence, novelty = calibration.validation, calibration.novelty
            else:
                evidence = part_evidence(network, data, part)
                novelty = None if network.detector is None else novelty_of(network, runs, data.hold_limit)
            labels, faults = unknown_labels(evidence.labels, data.faults, config.left_out)
            scored = score_part(
                network, evidence.relabelled(labels), runs, data.classes, faults, config.hard_faults, novelty
            )
            scored.scores["all"]["all_faults"]["fusion"] |= remaining_life_scores(network, data, config, part)
            if config.left_out and novelty is not None:
                frames = _frame_novelty(network, scored, novelty)
                scored.scores["all"]["all_faults"]["fusion"][UNKNOWN] = unknown_scores(
                    runs, frames, data.faults, config.left_out, config.hard_faults
                )
            parts[part] = scored
    return parts


def _frame_novelty(network: Diagnoser, scored: ScoredPart, novelty: torch.Tensor) -> FrameNovelty:
    """What a network with a detector says of the frames of a part, with their novelty (N,)."""
    compares = network.unknown is not None and network.unknown.config.centres > 0
    distance = fired_rules(network, scored.evidence, novelty).smoothed.numpy() if compares else None
    return FrameNovelty(novelty.numpy(), distance, scored.fused.argmax(axis=1) == scored.unknown)


def write(training: Training, calibration: Calibration, parts: dict[Part, ScoredPart]) -> TrainReport:
    """Write the model file, its scores and its plots."""
    config, data, network = training.config, training.data, training.network
    name = config.name or data.machine_type.name
    path = config.output / f"{name}{SUFFIX}"
    record = _training_record(training, calibration, parts)
    model_hash = save_model(
        path,
        network,
        data.machine_type,
        name=name,
        training=record,
        storage=config.storage,
        recovering=data.recoveries is not None,
    )
    scores: Scores = {part: scored.scores for part, scored in parts.items()}
    written = scores | ({"detector": _detector_record(training.detector)} if training.detector else {})
    rule, rule_scores = calibration.late.config.rule, calibration.rule_scores
    files = [
        path,
        *write_scores(config.output, training.history, written, rule_scores, config.fusion.kind, rule, model_hash),
        write_reliability(config.output, parts),
    ]
    if config.plots and parts:
        last = list(parts)[-1]
        files += draw_all(config.output, training.history, last, parts[last], data.faults)
    experts, hidden = pool_summary(network, data.faults)
    return TrainReport(
        path,
        model_hash,
        rule,
        rule_scores,
        scores,
        training.history,
        tuple(files),
        experts,
        tuple(hidden),
        training.detector,
    )


def _training_record(training: Training, calibration: Calibration, parts: dict[Part, ScoredPart]) -> dict[str, Any]:
    """What the model file records about its training: enough to judge it and to repeat it."""

    def fused(scores: Scores) -> dict[str, Scores]:
        by_source = {source: subsets["all_faults"]["fusion"] for source, subsets in scores.items()}
        return {
            source: {name: value for name, value in scores_of_source.items() if name != "per_fault"}
            for source, scores_of_source in by_source.items()
        }

    experts, hidden = pool_summary(training.network, training.data.faults)
    return {
        **provenance(training.config, training.data),
        **({MACHINES: spans} if (spans := training.data.machine_spans()) else {}),
        "distinct_texts": training.data.text_counts(),
        **({} if training.data.recoveries is None else {RECOVERING: _recoveries(training.data.recoveries)}),
        "loss": "every frame",
        "rule_scores": calibration.rule_scores,
        "scores": {part: fused(scored.scores) for part, scored in parts.items()},
        "caution": calibration.margins,
        **({"experts": experts, "hidden_faults": hidden} if experts else {}),
        **({} if calibration.unknown is None else {UNKNOWN: calibration.unknown.as_dict()}),
        **({"detector": _detector_record(training.detector)} if training.detector else {}),
        **({"plan": training.budget.plan} if training.budget.plan else {}),
    }


def _detector_record(detector: DetectorReport) -> dict[str, Any]:
    """What was wanted of a detector, what held-out normal frames say of it, and how it backs the classifier."""
    return {
        "false_alarms": detector.share,
        **{f"{part}_normal": {"frames": frames, "above": above} for part, (frames, above) in detector.normal.items()},
        "weight": detector.weight,
    }


def _recoveries(frames: tuple[int, ...]) -> dict[str, float]:
    """How many clearings the training runs have, and how long they recover after one."""
    return {"clearings": len(frames), "median_frames": statistics.median(frames), "max_frames": max(frames)}
