"""Trains a network of areas for `faultline plant`: its threshold, its scores beside the best rule's, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.areas.config import AreaNetworkConfig
from models.areas.features import FeatureBuilder
from models.areas.rules import NO_EVIDENCE
from models.areas.stepping.edges import step_edges
from models.areas.stepping.model_file import AreaModelHeader, write_area_model
from models.areas.stepping.network import CompiledAreaNetwork, NetworkAnswer
from models.areas.training.cases import AreaCase, AreaRule, mask_cases, read_cases
from models.areas.training.networks import AreaTraining, LearningData, sequence_shape, train_network
from models.configs.diagnoser import TEXT
from models.evaluation.areas import (
    NONE,
    area_outcome,
    area_scores,
    fit_area_threshold,
    raised_alarms,
)
from models.evaluation.scoring import Scores
from models.model_file import Model, read_model
from models.stepping.load import runner_of
from models.stepping.runner import CompiledRunner
from models.training.loop import EpochRecord, Progress
from pipeline.arrays import Bools, Floats
from pipeline.compiled import Notify
from pipeline.config.classes import faultless_classes
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.errors import ModelFileError
from pipeline.files.atomic_file import write_text

TRAIN, VALIDATION, TEST = "train", "validation", "test"
"""Folders of recorded areas; the last one need not be there."""
MISSING: Final = (0.0, 0.2, 0.4, 0.6)
"""Shares of the modalities that are missing where thresholds are fitted and scores taken."""
MODEL_FILE, SCORES_FILE = "areas.faultline", "scores.json"
NETWORK, RULE = "network", "log_odds"
_RULE: Final = AreaRule(rule="log_odds", low=0, high=6)
_RULE_WITH_TEXTS: Final = AreaRule(rule="log_odds", low=0, high=6, texts=8)

OnPart = Callable[[str, Progress], None]


@dataclass(frozen=True, slots=True)
class AreaTrainConfig:
    """What a training is of."""

    folder: Path
    """With the folders `train`, `validation` and possibly `test` of recorded areas."""
    profile: PlantProfile
    model: Path
    """Of the machines; their answers are what the network learns from."""
    network: AreaNetworkConfig
    learn: AreaTraining
    out: Path
    name: str
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AreaTrainReport:
    """What a training has come to."""

    file: Path
    header: AreaModelHeader
    scores: Mapping[str, Mapping[str, Sequence[Scores]]]
    """By part, and of the network and of the rule `log_odds` beside it, those of each share of MISSING."""
    epochs: Sequence[EpochRecord]


def train_area_network(config: AreaTrainConfig, *, notify: Notify, on_progress: OnPart) -> AreaTrainReport:
    """Train, fit the threshold on validation, score, and write the file of the network and `scores.json`.

    Raises DataError if the areas cannot be learnt from, and ModelFileError if the machines' model does not fit them.
    """
    model = read_model(config.model)
    machine_type = _machine_type(config.profile, model)
    runner = runner_of(model, machine_type, notify, embeddings=True)
    parts = _read_parts(config, runner, on_progress)
    quiet = faultless_classes(runner.classes)
    learning, checked = ([case.sequence() for case in parts[part]] for part in (TRAIN, VALIDATION))
    data = LearningData(
        config.learn,
        sequence_shape(learning[0], quiet, reads_texts=TEXT in runner.modalities),
        learning,
        checked,
        seed=config.seed,
        notify=notify,
        on_composing=lambda: on_progress(TRAIN, Progress("composing areas", 0, 1, 0.0)),
    )
    trained, epochs = train_network(config.network, data, config.out, lambda found: on_progress(TRAIN, found))
    tensors = {key: value.detach().numpy() for key, value in trained.state_dict().items()}
    file = config.out / MODEL_FILE
    network = CompiledAreaNetwork(config.network, data.shape, tensors, path=file, notify=notify)
    network.load_code()
    threshold, scores = _scored(parts, network, config.seed, notify, on_progress)
    header = write_area_model(
        file,
        tensors,
        model if TEXT in runner.modalities else None,
        name=config.name,
        machine_type=machine_type.name,
        frame_period_ms=machine_type.frame_period_ms,
        machine_model=runner.hash,
        classes=runner.classes,
        modalities=runner.modalities,
        embeddings=learning[0].embedding_sizes,
        network=config.network,
        threshold=threshold,
        training=_record(config, model, parts, scores, epochs),
    )
    report = {"threshold": threshold, "missing": MISSING, "scores": scores, "epochs": epochs}
    write_text(config.out / SCORES_FILE, json.dumps(report, indent=1) + "\n")
    return AreaTrainReport(file, header, scores, epochs)


def scores_along(network: CompiledAreaNetwork, case: AreaCase, notify: Notify) -> Floats:
    """(T, U) of the compiled network along a recorded area, as it is served: by how much the score of each utility's
    most probable fault is over those of no cause and of machines' own faults."""
    sequence, graph = case.sequence(), case.graph
    builder = FeatureBuilder(graph, network.shape.quiet, notify)
    found = np.empty((sequence.frames, graph.utilities), np.float32)
    without_texts = None
    for frame in range(sequence.frames):
        features = builder.step(sequence.inputs(frame))
        edges = without_texts
        if edges is None or len(features.texts):
            edges = step_edges(graph, features.text_machines, features.text_utilities)
            without_texts = without_texts if len(features.texts) else edges
        found[frame] = _margins(network.step(features, edges), graph.faults)
    return found


def _margins(answer: NetworkAnswer, faults: Bools) -> Floats:
    shared = np.where(faults, answer.shared, NO_EVIDENCE).max(axis=1)
    margins: Floats = shared - max(np.float32(answer.none), answer.own.max())
    return margins


def _machine_type(profile: PlantProfile, model: Model) -> MachineType:
    for machine_type in profile.machine_types:
        if machine_type.name == model.header.machine_type:
            return machine_type
    raise ModelFileError(
        f"model {model.path} is for machine type {model.header.machine_type}, which profile {profile.plant} does not "
        "have; name the profile of its training"
    )


def _read_parts(config: AreaTrainConfig, runner: CompiledRunner, on_progress: OnPart) -> dict[str, list[AreaCase]]:
    kept = config.out / "answers" / runner.hash[:16]
    parts: dict[str, list[AreaCase]] = {}
    for part in (TRAIN, VALIDATION, TEST):
        if part == TEST and not (config.folder / part).exists():
            continue

        def on_area(done: int, count: int, part: str = part) -> None:
            on_progress(part, Progress("reading areas", done, count, 0.0))

        parts[part] = read_cases(
            config.folder / part, kept / part, config.profile, runner, runner.text_vectors, on_area
        )
    return parts


def _scored(
    parts: Mapping[str, Sequence[AreaCase]],
    network: CompiledAreaNetwork,
    seed: int,
    notify: Notify,
    on_progress: OnPart,
) -> tuple[float, dict[str, dict[str, list[Scores]]]]:
    """The network's threshold, fitted on validation over all shares together, and all scores."""
    rule = _RULE_WITH_TEXTS if TEXT in parts[TRAIN][0].answers.modalities else _RULE
    thresholds: dict[str, float] = {}
    found: dict[str, dict[str, list[Scores]]] = {}
    for number, part in enumerate(part for part in (VALIDATION, TEST) if part in parts):
        by_share, scores = [], []
        for place, share in enumerate(MISSING):
            on_progress(part, Progress("scoring", place, len(MISSING), 0.0))
            cases = mask_cases(parts[part], share, [seed, number])
            by_share.append(cases)
            scores.append(
                {
                    NETWORK: [scores_along(network, case, notify) for case in cases],
                    RULE: [rule.scores_of(case.answers, case.graph).max(axis=2) for case in cases],
                }
            )
        for system in (NETWORK, RULE):
            if part == VALIDATION:
                truths = [case.truth for cases in by_share for case in cases]
                every = [each for by_system in scores for each in by_system[system]]
                thresholds[system] = fit_area_threshold(truths, every)
            found.setdefault(part, {})[system] = [
                _area_scores(cases, by_system[system], thresholds[system])
                for cases, by_system in zip(by_share, scores, strict=True)
            ]
    return thresholds[NETWORK], found


def _area_scores(cases: Sequence[AreaCase], scores: Sequence[Floats], threshold: float) -> Scores:
    outcomes = []
    for case, each in zip(cases, scores, strict=True):
        named = np.where(each.max(axis=1) > threshold, each.argmax(axis=1), NONE)
        alarms = raised_alarms(case.answers.probabilities(), faultless_classes(case.answers.classes))
        outcomes.append(area_outcome(case.truth, named, alarms))
    return area_scores(outcomes)


def _record(
    config: AreaTrainConfig,
    model: Model,
    parts: Mapping[str, Sequence[AreaCase]],
    scores: Mapping[str, Any],
    epochs: Sequence[EpochRecord],
) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "machine_model": model.header.name,
        "areas": {part: [case.answers.area for case in cases] for part, cases in parts.items()},
        "learn": config.learn.model_dump(mode="json"),
        "epochs": list(epochs),
        "missing": list(MISSING),
        "scores": {part: by_system[NETWORK] for part, by_system in scores.items()},
    }
