"""The systems of the late-fusion experiment: a sequence model, text models, and their fusion."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from models.configs.fusion import RULES, Rule
from models.data.runs import Run
from models.data.scaling import Scaling
from models.encoders.lstm import SeqLSTM
from models.encoders.tokenizer import Tokenizer
from models.evaluation.clustering import partition_scores
from models.evaluation.scoring import Scores, label_scores
from models.experiments.late_fusion.config import LateFusionConfig
from models.experiments.late_fusion.pairs import ReportSplit, RunSplitRows
from models.experiments.late_fusion.stages import ReportStage, SequenceStage, TextClassifier, last_logits, text_logits
from models.training.fitting.calibration import choose_rule, fit_fusion
from models.training.fitting.evidence import Evidence
from models.training.loop import EpochRecord, OnProgress, Stage, StageConfig, run_stage
from pipeline.arrays import Floats, Ints

_CLIP = 10.0


class PartLogits(NamedTuple):
    """Logits of one modality: for validation, to fit the fusion on, and for the test part."""

    validation: Floats  # (N, C)
    test: Floats  # (N, C)


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Results of one seed on its test pairs: the fusion rule chosen on validation, and each system's answers."""

    rule: Rule
    classes: Ints  # (N,)
    probabilities: dict[str, Floats]  # (N, C)

    def scores(self) -> dict[str, Scores]:
        """Of each system."""
        return {name: answer_scores(self.classes, answers) for name, answers in self.probabilities.items()}


def scaled(values: Floats, train: Ints, onset_frame: int) -> Tensor:
    """Standard scores of runs (N, T, V) against the frames before the onset of the training runs."""
    before = [Run("", "", "", values[row, :onset_frame], np.zeros(onset_frame, np.int64)) for row in train]
    scaling = Scaling.fit(before)
    return torch.from_numpy(np.clip((values - scaling.mean) / scaling.std, -_CLIP, _CLIP))


def train_sequences(
    config: LateFusionConfig,
    x: Tensor,
    classes: Ints,
    runs: RunSplitRows,
    *,
    seed: int,
    folder: Path,
    on_progress: OnProgress | None = None,
) -> tuple[PartLogits, list[EpochRecord]]:
    """Train the sequence model on runs x (N, T, V); its logits for validation and test runs, and its history."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SeqLSTM(config.sensors, variables=x.shape[2], classes=len(config.classes))
    stage = SequenceStage(network, x, classes, runs.train, runs.validation, config)
    data = hashlib.sha256(x.numpy().tobytes() + classes.tobytes()).hexdigest()
    history = _run_stage(
        stage, config.sensor_stage, f"{seed} {config.model_dump_json()} {data}", seed, folder, on_progress
    )
    return PartLogits(last_logits(network, x, runs.validation), last_logits(network, x, runs.test)), history


def train_texts(
    config: LateFusionConfig, texts: ReportSplit, *, seed: int, folder: Path, on_progress: OnProgress | None = None
) -> PartLogits:
    """Train one text model per fold; log probabilities of the validation and test pairs' reports."""
    training = texts.training
    fold = _folds(training.classes, texts.groups, config.text_folds, np.random.default_rng([seed, *b"folds"]))
    left_out_logits = np.zeros((len(fold), len(config.classes)), np.float32)
    mean = np.zeros((len(texts.test.texts), len(config.classes)), np.float64)
    for index in range(config.text_folds):
        learnt, left_out = training.take(np.flatnonzero(fold != index)), training.take(np.flatnonzero(fold == index))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * config.text_folds + index)
            tokenizer = Tokenizer.fit(learnt.texts, config.text)
            network = TextClassifier(config.text, tokenizer, classes=len(config.classes))
        stage = ReportStage(network, learnt, config)
        stage.name = f"texts {index + 1} of {config.text_folds}"
        fingerprint_of = f"{seed} {config.model_dump_json()} {learnt}"
        _run_stage(stage, config.text_stage, fingerprint_of, seed, folder, on_progress)
        left_out_logits[fold == index] = text_logits(network, left_out.texts)
        mean += np.exp(_log_softmax(text_logits(network, texts.test.texts))) / config.text_folds
    test = np.log(mean + 1e-12).astype(np.float32)
    return PartLogits(_log_softmax(left_out_logits)[texts.validation], test[texts.drawn])


def fuse(
    sequences: PartLogits, texts: PartLogits, validation: Ints, test: Ints, draws: int, *, seed: int
) -> SeedResult:
    """Fit every rule on the validation pairs, choose one by them, and classify the test pairs."""
    classes = sequences.test.shape[1]
    pairs = Evidence(
        torch.from_numpy(np.stack([np.repeat(sequences.validation, draws, axis=0), texts.validation])),
        torch.ones(2, len(validation) * draws, dtype=torch.bool),
        np.repeat(validation, draws),
        np.repeat(np.arange(len(validation)), draws),
    )
    prior = np.full(classes, 1 / classes)
    chosen, _ = choose_rule("auto", pairs, prior, seed=seed)
    held_out = torch.from_numpy(np.stack([sequences.test, texts.test]))
    everywhere = torch.ones(2, len(test), dtype=torch.bool)
    probabilities: dict[str, Floats] = {}
    with torch.inference_mode():
        fused = chosen(held_out, everywhere)
        probabilities["sequences"], probabilities["texts"] = (
            answers.numpy() for answers in fused.modality_probabilities
        )
        probabilities["fused"] = fused.probabilities.numpy()
        for rule in RULES:
            fitted = fit_fusion(rule, pairs, prior, seed=seed)
            probabilities[f"fused, {rule}"] = fitted(held_out, everywhere).probabilities.numpy()
    return SeedResult(chosen.config.rule, test, probabilities)


def answer_scores(classes: Ints, probabilities: Floats) -> Scores:
    """Accuracy, macro-F1 and partition scores of the most probable class; AUC of each class against the rest."""
    predicted = np.asarray(probabilities.argmax(axis=1), np.int64)
    areas = [float(roc_auc_score(classes == label, column)) for label, column in enumerate(probabilities.T)]
    area_scores = {"least_auc": min(areas), "mean_auc": float(np.mean(areas))}
    return label_scores(classes, predicted) | partition_scores(classes, predicted) | area_scores


def _run_stage(
    stage: Stage,
    stage_config: StageConfig,
    fingerprint_of: str,
    seed: int,
    folder: Path,
    on_progress: OnProgress | None,
) -> list[EpochRecord]:
    return run_stage(
        stage,
        stage_config,
        seed=seed,
        checkpoint=folder / f"{stage.name.replace(' ', '-')}.checkpoint",
        fingerprint=hashlib.sha256(fingerprint_of.encode()).hexdigest(),
        resume=True,
        on_progress=on_progress,
    )


def _folds(classes: Ints, groups: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Fold of each row (N,), each class spread evenly, groups whole."""
    fold = np.zeros(len(classes), np.int64)
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        for rank, group in enumerate(dict.fromkeys(groups[rows].tolist())):
            fold[groups == group] = rank % folds
    return fold


def _log_softmax(logits: Floats) -> Floats:
    return np.asarray(torch.log_softmax(torch.from_numpy(logits), dim=1).numpy())
