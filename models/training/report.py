"""Reports of a training: scores of each part by source and modality, in files, and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.runs import UNLABELLED, Run
from models.diagnoser import Diagnoser
from models.evaluation.calibration import (
    ReliabilityBin,
    Trust,
    calibration_error,
    class_meanings,
    reliability_of,
    trust_scores,
)
from models.evaluation.clustering import partition_scores
from models.evaluation.novelty import as_labels, learnt_count
from models.evaluation.plots import draw_confusion, draw_learning_curve, draw_reliability, draw_roc
from models.evaluation.scoring import NO_EVIDENCE, NORMAL, UNKNOWN, Scores, fusion_scores, scores_by_modality
from models.fusion.learned import LearnedFusion
from models.training.fitting.evidence import Evidence
from models.training.fitting.unknown import published_answers
from models.training.loop import EpochRecord
from models.training.prepare import Part
from pipeline.arrays import Bools, Floats, Ints
from pipeline.config.classes import NO_CLASS, labelled_classes
from pipeline.config.classes import UNKNOWN as UNKNOWN_NAME
from pipeline.files.atomic_file import write_text


class ScoredPart(NamedTuple):
    """A held-out part with its scores."""

    evidence: Evidence
    fused: Floats  # (N, C) the fusion's answers as they are published
    scores: Scores
    """By source, subset and system."""
    reliability: dict[str, list[ReliabilityBin]]
    """By system, of all labelled frames with evidence."""
    unknown: int = NO_CLASS
    """The place of the class `unknown`, if the network has it."""


def score_part(
    network: Diagnoser,
    evidence: Evidence,
    runs: Sequence[Run],
    classes: Sequence[str],
    faults: Sequence[str],
    hard: Sequence[str],
    novelty: Tensor | None = None,
) -> ScoredPart:
    """Scores by source and subset; `classes` are those of the network, `faults` those that labels have, which can end
    with `unknown`, of faults that were not learnt.

    A learned fusion is scored as `fusion`, and the late fusion beside it as `late`. A network that calls faults unknown
    does so in `fusion` alone, for which it needs the novelty (N,). With a novelty, `detector` is what the detector says
    alone: normal, or unknown.
    """
    fused = evidence.fused(network.fusion)
    unknown, own = NO_CLASS, fused.modality_probabilities
    if network.unknown is not None:
        unknown = network.config.classes
        own = torch.nn.functional.pad(own, (0, 1))
        classes = (*classes, UNKNOWN_NAME)
    final = published_answers(network, evidence, novelty)
    with torch.inference_mode():
        candidates = network.candidates(final, evidence.present)
    present, probabilities = evidence.present.numpy(), final.numpy()
    told: Bools = np.asarray(present.any(axis=0))
    trust = {name: Trust(own[row].numpy(), present[row]) for row, name in enumerate(network.modalities)}
    trust["fusion"] = Trust(probabilities, told, None if candidates is None else candidates.numpy())
    answers: dict[str, Ints] = {
        name: np.where(present[row], fused.modality_probabilities[row].argmax(dim=1).numpy(), NO_EVIDENCE)
        for row, name in enumerate(network.modalities)
    }
    fused_answers = probabilities.argmax(axis=1)
    fused_answers = np.where(fused_answers == unknown, UNKNOWN, fused_answers)
    answers["fusion"] = np.where(told, fused_answers, NO_EVIDENCE)
    if novelty is not None:
        answers["detector"] = np.where(present[0], np.where(novelty.numpy() > 1, UNKNOWN, NORMAL), NO_EVIDENCE)
    if isinstance(network.fusion, LearnedFusion):
        late = evidence.fused(network.fusion.late).probabilities
        answers["late"] = np.where(told, late.argmax(dim=1).numpy(), NO_EVIDENCE)
        trust["late"] = Trust(torch.nn.functional.pad(late, (0, len(classes) - late.shape[1])).numpy(), told)
    frames = np.concatenate([np.arange(len(run)) for run in runs])
    sources = np.array([run.source for run in runs])[evidence.runs]
    answers = {name: as_labels(answer, faults) for name, answer in answers.items()}
    scores: Scores = sliced_scores(evidence.runs, frames, evidence.labels, sources, answers, faults, hard)
    meanings, learnt = class_meanings(classes, faults), learnt_count(faults)
    truth = evidence.labels if unknown == NO_CLASS else np.where(evidence.labels == learnt, unknown, evidence.labels)
    for source, by_subset in scores.items():
        rows = _rows_of_source(sources, source)
        for subset, labels in _subsets(evidence.labels, faults, hard).items():
            for system, answer in trust.items():
                by_subset[subset][system] |= trust_scores(
                    answer.take(rows), labels[rows], evidence.runs[rows], meanings
                )
        by_subset["fusion_metrics"] = fusion_scores(
            probabilities[rows],
            own.numpy()[:, rows],
            fused.weights.numpy()[:, rows],
            present[:, rows],
            network.modalities,
            truth[rows],
            faults=learnt,
            unknown=unknown,
        )
    tables = {system: reliability_of(answer, evidence.labels, meanings) for system, answer in trust.items()}
    return ScoredPart(evidence, probabilities, scores, tables, unknown)


def sliced_scores(
    runs: Ints,
    frames: Ints,
    labels: Ints,
    sources: NDArray[np.str_],
    answers: Mapping[str, Ints],
    faults: Sequence[str],
    hard: Sequence[str],
) -> Scores:
    """Scores of each system's answers (N,) by source and `all`, with and without the hard faults, by system; each with
    the scores of its answers as a `partition`. Run, frame within it, true class and source are (N,) too."""
    subsets = _subsets(labels, faults, hard)
    scores: Scores = {}
    for source in ["all", *sorted(set(sources.tolist()))]:
        rows = _rows_of_source(sources, source)
        predicted = {name: answer[rows] for name, answer in answers.items()}
        scores[source] = {}
        for subset, truth in subsets.items():
            by_system = scores_by_modality(runs[rows], frames[rows], truth[rows], predicted, faults)
            for name, answer in predicted.items():
                parts = labelled_classes(np.where(answer == NO_EVIDENCE, 0, answer), len(faults))
                by_system[name]["partition"] = partition_scores(truth[rows], parts)
            scores[source][subset] = by_system
    return scores


def _subsets(labels: Ints, faults: Sequence[str], hard: Sequence[str]) -> dict[str, Ints]:
    """True classes (N,) with all faults, and without the hard ones if any are named."""
    subsets = {"all_faults": labels}
    if hard:
        hidden = np.isin(labels, [faults.index(fault) for fault in hard if fault in faults])
        subsets[f"without_{'_'.join(hard)}"] = np.where(hidden, UNLABELLED, labels)
    return subsets


def _rows_of_source(sources: NDArray[np.str_], source: str) -> Bools:
    return np.ones(len(sources), bool) if source == "all" else np.asarray(sources == source, bool)


def write_scores(
    folder: Path,
    history: Sequence[EpochRecord],
    scores: Scores,
    rule_scores: dict[str, float],
    fusion: str,
    rule: str,
    model_hash: str,
) -> list[Path]:
    """The scores as JSON and the history line by line."""
    written = [folder / "scores.json", folder / "history.jsonl"]
    summary = {"model": model_hash, "fusion": fusion, "rule": rule, "rule_scores": rule_scores, **scores}
    write_text(written[0], json.dumps(summary, indent=1) + "\n")
    write_text(written[1], "".join(json.dumps(record) + "\n" for record in history))
    return written


def write_reliability(folder: Path, parts: Mapping[Part, ScoredPart]) -> Path:
    """The reliability tables of all parts and systems as one CSV file, a bin a row."""
    path = folder / "reliability.csv"
    lines = ["part,system,ece,confidence_from,confidence_to,frames,confidence_mean,correct_share"]
    for part, scored in parts.items():
        for system, bins in scored.reliability.items():
            for one in bins:
                numbers = (calibration_error(bins), one.low, one.high, one.frames, one.confidence, one.correct)
                lines.append(",".join([part, system, *(f"{number:.6g}" for number in numbers)]))
    write_text(path, "\n".join(lines) + "\n")
    return path


def draw_all(
    folder: Path, history: Sequence[EpochRecord], part: str, scored: ScoredPart, faults: Sequence[str]
) -> list[Path]:
    """Learning curve, and confusion matrix, ROC and reliability of a part."""
    labelled = scored.evidence.labels >= 0
    truth: Ints = scored.evidence.labels[labelled]
    fused = scored.fused[labelled]
    named = labelled_classes(fused.argmax(axis=1), len(faults), scored.unknown)
    classes = tuple(faults)
    if scored.unknown != NO_CLASS:
        classes, fused = (*faults, UNKNOWN_NAME), fused[:, : scored.unknown]
        named = np.where(named == scored.unknown, len(faults), named)
    # Labels do not say `recovering`, so what a model gives to it counts as normal.
    fused = np.concatenate(
        [fused[:, :1] + fused[:, len(faults) :].sum(axis=1, keepdims=True), fused[:, 1 : len(faults)]], 1
    )
    paths = [folder / "confusion_matrix.png", folder / "roc.png", folder / "reliability.png"]
    title = f"fused diagnosis, {part} runs"
    draw_confusion(truth, named, classes, title, paths[0])
    draw_roc(truth, fused, faults, title, paths[1])
    draw_reliability(scored.reliability, f"reliability, {part} runs", paths[2])
    # A late fusion of another model's encoders is fitted without any stage.
    if history:
        paths.insert(0, folder / "learning_curve.png")
        draw_learning_curve(history, paths[0])
    return paths
