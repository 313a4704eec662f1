"""Recorded areas with what failed in them: read from a folder, with modalities taken away, and scored by rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from models.areas.data import AreaAnswers, EncodeTexts, answers_of_recording
from models.areas.graph import AreaGraph, area_graph
from models.areas.rules import LEAST_PROBABILITY, RuleShape, fault_log_odds
from models.areas.training.sequences import AreaSequence, area_sequence
from models.configs.yaml_file import read_mapping
from models.evaluation.areas import AreaTruth, draw_missing, read_truth
from models.stepping.runner import CompiledRunner
from pipeline.arrays import Floats
from pipeline.config.classes import faultless_classes
from pipeline.config.profile import PlantProfile
from pipeline.config.sections.areas import Area, check_areas
from pipeline.errors import DataError
from pipeline.files.yaml_fields import field_problems
from pipeline.wire.recording import read_recording

OnArea = Callable[[int, int], None]
"""Told how many areas have been read, and of how many."""


class AreaRule(RuleShape):
    """One rule as in `AreaRuleConfig`, whose threshold is to be fitted."""

    def scores_of(self, answers: AreaAnswers, graph: AreaGraph) -> Floats:
        """(T, U, C) along an area."""
        quiet = faultless_classes(answers.classes)
        odds = fault_log_odds(logarithms(answers.probabilities()), quiet, self.low, self.high)
        scores = self.scores(odds, answers.known(), graph.members, graph.faults)
        if not self.texts:
            return scores
        of_texts = fault_log_odds(logarithms(answers.utility_probabilities), quiet, 0, np.inf)
        with_texts: Floats = scores + np.where(
            graph.faults & answers.utility_present[..., None], np.float32(self.texts) * of_texts, np.float32(0)
        )
        return with_texts


def logarithms(probabilities: Floats) -> Floats:
    """Of probabilities, as rules take them."""
    return np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))


class AreaCase(NamedTuple):
    """One recorded area."""

    answers: AreaAnswers
    truth: AreaTruth
    graph: AreaGraph

    def sequence(self) -> AreaSequence:
        """What networks learn from."""
        return area_sequence(self.answers, self.truth, self.graph)


def read_cases(
    folder: Path,
    kept: Path,
    profile: PlantProfile,
    runner: CompiledRunner,
    encode: EncodeTexts | None,
    on_area: OnArea,
) -> list[AreaCase]:
    """The areas of a folder with `areas.yaml`, `causes.parquet` and a recording of each, as
    `deploy/demo/simulate_area.py` writes them; their machines' answers are kept in another folder.

    Raises DataError if there is no recording, or if an area or a cause is none of this plant.
    """
    areas = _areas(folder / "areas.yaml", profile)
    present = {name: area for name, area in areas.items() if (folder / f"{name}.parquet").exists()}
    if not present:
        raise DataError(f"{folder} has no recording NAME.parquet of an area that areas.yaml names")
    cases: list[AreaCase] = []
    for name, area in present.items():
        on_area(len(cases), len(present))
        path = kept / f"{name}.npz"
        if not path.exists():
            records = read_recording(folder / f"{name}.parquet")
            machines, utilities = area.all_machines, list(area.utilities)
            answers_of_recording(
                records, profile, runner, encode, area=name, machines=machines, utilities=utilities
            ).save(path)
        cases.append(area_case(AreaAnswers.load(path), area, folder / "causes.parquet"))
    return cases


def _areas(path: Path, profile: PlantProfile) -> dict[str, Area]:
    section = read_mapping(path, "areas").get("areas", {})
    try:
        areas = TypeAdapter(dict[str, Area]).validate_python(section)
        check_areas(areas, profile.machine_types, profile.type_of)
    except ValidationError as error:
        raise DataError(f"{path}: {field_problems(error, dict[str, Area], 'areas')}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if without := [name for name, area in areas.items() if not area.utilities]:
        raise DataError(f"{path}: area {without[0]} has no utility, so none can be named; leave it out")
    return areas


def area_case(answers: AreaAnswers, area: Area, causes: Path) -> AreaCase:
    """An area's answers with its section of a plant profile and the table of causes."""
    place = {machine: number for number, machine in enumerate(answers.machines)}
    utilities = [area.utilities[name] for name in answers.utilities]
    graph = area_graph(
        [[place[machine] for machine in utility.machines] for utility in utilities],
        [[answers.classes.index(fault) for fault in utility.faults] for utility in utilities],
        machines=len(place),
        classes=len(answers.classes),
        machine_types=["machine"] * len(place),
        feeds={place[machine]: [place[other] for other in fed] for machine, fed in area.feeds.items()},
    )
    truth = read_truth(causes, answers.area, answers.start_ms, answers.machines, answers.utilities, answers.classes)
    return AreaCase(answers, truth, graph)


def mask_cases(cases: Sequence[AreaCase], share: float, seed: Sequence[int]) -> list[AreaCase]:
    """The areas with this share of the modalities missing."""
    if not share:
        return list(cases)
    found: list[AreaCase] = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([*seed, round(1000 * share), number])
        missing = draw_missing(case.answers.present.shape, share, rng)
        found.append(case._replace(answers=case.answers.without(missing)))
    return found
