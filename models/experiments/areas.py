"""Areas of machines that share utilities: how soon rules name a failed utility, beside the machines' own alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.areas.config import AreaNetworkConfig
from models.areas.data import AreaAnswers, answers_of_recording
from models.areas.rules import LEAST_PROBABILITY, RuleShape, fault_log_odds
from models.areas.training.sequences import AreaSequence, area_sequence
from models.configs.yaml_file import read_mapping
from models.evaluation.areas import (
    BLAMED,
    FALSE_FRAMES,
    NONE,
    AreaOutcome,
    AreaTruth,
    area_outcome,
    area_scores,
    draw_missing,
    fit_area_threshold,
    fit_threshold,
    machine_alarms,
    raised_alarms,
    read_truth,
    score_intervals,
)
from models.evaluation.scoring import Scores
from models.experiments.area_networks import (
    AreaTraining,
    Named,
    Trained,
    graph_of,
    named_by_networks,
    train_networks,
)
from models.experiments.base import Column, Need, OnPartProgress, Results
from models.stepping.load import load_model
from models.stepping.runner import CompiledRunner
from models.training.loop import Progress
from pipeline.arrays import Bools, Floats, Ints
from pipeline.config.classes import faultless_classes
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.errors import DataError
from pipeline.wire.recording import read_recording

_RAISED: Final = "raised"


class AreaRule(RuleShape):
    """One rule as in `AreaRuleConfig`, whose threshold is to be fitted."""

    def scores_of(self, answers: AreaAnswers, members: Bools, faults: Bools) -> Floats:
        """(T, U, C) for an area whose utilities have these machines (U, N) and faults (U, C)."""
        quiet = faultless_classes(answers.classes)
        odds = fault_log_odds(_logarithms(answers.probabilities()), quiet, self.low, self.high)
        scores = self.scores(odds, answers.known(), members, faults)
        if not self.texts:
            return scores
        of_texts = fault_log_odds(_logarithms(answers.utility_probabilities), quiet, 0, np.inf)
        with_texts: Floats = scores + np.where(
            faults & answers.utility_present[..., None], np.float32(self.texts) * of_texts, np.float32(0)
        )
        return with_texts


def _logarithms(probabilities: Floats) -> Floats:
    return np.log(np.maximum(probabilities, np.float32(LEAST_PROBABILITY)))


class AreaCase(NamedTuple):
    """One area of a part."""

    answers: AreaAnswers
    truth: AreaTruth
    members: Bools  # (U, N)
    faults: Bools  # (U, C)


class AreasExperiment(BaseModel):
    """Rules for areas: thresholds are fitted on one part's areas, and scored on another's.

    The table has a row for each rule and share of missing modalities; a seed is one draw of these. Its scores are those
    of `area_scores`, where a machine's alarm is the one that a worker raises by default settings. `answer` and `odds`
    have the same for other alarms of machines: the first answer that is a fault, and log odds over a threshold that is
    fitted to `false_frames` as the rules' are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["areas"]
    title: str
    profile: str
    model: Path
    """Of the machines."""
    work: Path
    validation: str
    """Folder in `work` with the areas that thresholds are fitted on."""
    test: str
    made_by: str
    """What makes these folders."""
    missing: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6)
    """Shares of the modalities that are missing."""
    false_frames: float = Field(default=FALSE_FRAMES, ge=0, le=1)
    blamed: float = Field(default=BLAMED, ge=0, le=1)
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: dict[str, AreaRule] = Field(min_length=1)
    learn: AreaTraining | None = None
    """What networks learn from; needed if there are any."""
    networks: dict[str, AreaNetworkConfig] = {}
    """Rows of networks, trained again for each seed."""

    @model_validator(mode="after")
    def _learnable(self) -> Self:
        if self.networks and self.learn is None:
            raise ValueError("networks need `learn`, the areas that they learn from")
        return self

    def needs(self) -> list[Need]:
        """See `Experiment.needs`."""
        folders = [Need(self.work / name, self.made_by) for name in (self.validation, self.test)]
        return [Need(self.model, "the model of the machines"), *folders]

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """See `Experiment.run`."""
        profile = load_profile(self.profile)
        runner = load_model(self.model, profile.machine_types[0], embeddings=bool(self.networks))
        kept = out / "answers" / runner.hash[:16]

        def cases(name: str) -> list[AreaCase]:
            return self._cases(name, kept / name, profile, runner, on_progress)

        validation, test = cases(self.validation), cases(self.test)
        learning, checked = [], []
        if self.learn is not None and self.networks:
            learning = [_sequence(case) for case in cases(self.learn.folder)]
            checked = [_sequence(case) for case in validation]
        rows: dict[str, list[Scores]] = {}
        outcomes: dict[str, list[list[AreaOutcome]]] = {}
        thresholds: dict[str, list[float]] = {}
        on_validation: dict[str, list[Scores]] = {}
        for number, seed in enumerate(seeds):
            on_progress("areas", Progress("areas", number, len(seeds), 0.0))
            folder, trained = out / f"seed-{seed}", None
            if self.learn is not None and self.networks:
                quiet = faultless_classes(runner.classes)
                trained = train_networks(
                    self.networks,
                    self.learn,
                    learning,
                    checked,
                    quiet,
                    seed=seed,
                    out=folder,
                    notify=_quiet,
                    on_progress=on_progress,
                )
            fitted = [_masked(validation, share, [seed, 0]) for share in self.missing]
            found = [
                self._named(masked, trained, folder / f"validation-{share}") for masked, share in self._shares(fitted)
            ]
            every = [case for masked in fitted for case in masked]
            alarm = fit_alarm_threshold(every, self.false_frames)
            raised = [_raised_alarms(case) for case in every]
            for name in found[0]:
                threshold = fit_area_threshold(
                    [case.truth for case in every],
                    [one.scores for by_row in found for one in by_row[name]],
                    false_frames=self.false_frames,
                    blamed=self.blamed,
                )
                thresholds.setdefault(name, []).append(threshold)
                named = [one for by_row in found for one in by_row[name]]
                pooled = [
                    area_outcome(case.truth, _utilities(one, threshold), alarms, None)
                    for case, one, alarms in zip(every, named, raised, strict=True)
                ]
                on_validation.setdefault(name, []).append(area_scores(pooled))
            for masked, share in self._shares([_masked(test, share, [seed, 1]) for share in self.missing]):
                alarms_of = [_alarms(case, alarm) for case in masked]
                for name, named in self._named(masked, trained, folder / f"test-{share}").items():
                    row = f"{name}, {share:.0%} missing"
                    of_areas = _outcomes(masked, named, thresholds[name][-1], alarms_of)
                    rows.setdefault(row, []).append(_scores(of_areas))
                    outcomes.setdefault(row, []).append(of_areas[_RAISED])
        intervals = {
            row: score_intervals(list(zip(*by_seed, strict=True)), np.random.default_rng(0))
            for row, by_seed in outcomes.items()
        }
        notes: dict[str, Any] = {
            "thresholds": thresholds,
            "validation": on_validation,
            "intervals_over_areas": intervals,
        }
        return Results(self.title, tuple(seeds), rows, self.columns, notes)

    def _shares(self, masked: Sequence[list[AreaCase]]) -> Iterable[tuple[list[AreaCase], float]]:
        return zip(masked, self.missing, strict=True)

    def _named(self, cases: Sequence[AreaCase], trained: Trained | None, folder: Path) -> dict[str, list[Named]]:
        """What every row makes of each area; answers of networks are kept in a folder."""
        found = {
            name: [Named(rule.scores_of(*_inputs(case)).max(axis=2)) for case in cases]
            for name, rule in self.rows.items()
        }
        if trained is not None:
            areas = [(case.answers, case.truth, graph_of(*_inputs(case))) for case in cases]
            found |= named_by_networks(trained, areas, folder, _quiet)
        return found

    def _cases(
        self, part: str, kept: Path, profile: PlantProfile, runner: CompiledRunner, on_progress: OnPartProgress
    ) -> list[AreaCase]:
        """The areas of a part; their machines' answers are kept in a folder."""
        folder = self.work / part
        sections: Mapping[str, Any] = read_mapping(folder / "areas.yaml", "areas").get("areas", {})
        cases: list[AreaCase] = []
        for number, (area, section) in enumerate(sections.items()):
            recording = folder / f"{area}.parquet"
            if not recording.exists():
                continue
            on_progress(part, Progress(part, number, len(sections), 0.0))
            path = kept / f"{area}.npz"
            if not path.exists():
                records, utilities = read_recording(recording), list(section["utilities"])
                answers_of_recording(
                    records,
                    profile,
                    runner,
                    runner.text_vectors if self.networks else None,
                    area=area,
                    machines=section["machines"],
                    utilities=utilities,
                ).save(path)
            cases.append(area_case(AreaAnswers.load(path), section, folder / "causes.parquet"))
        if not cases:
            raise DataError(f"{folder} has no recording of an area that areas.yaml names ({self.made_by})")
        return cases


def area_case(answers: AreaAnswers, section: Mapping[str, Any], causes: Path) -> AreaCase:
    """An area's answers with its section of a plant profile and the table of causes."""
    members = np.zeros((len(answers.utilities), len(answers.machines)), np.bool_)
    faults = np.zeros((len(answers.utilities), len(answers.classes)), np.bool_)
    for place, name in enumerate(answers.utilities):
        utility = section["utilities"][name]
        members[place, [answers.machines.index(machine) for machine in utility["machines"]]] = True
        faults[place, [answers.classes.index(fault) for fault in utility["faults"]]] = True
    truth = read_truth(causes, answers.area, answers.start_ms, answers.machines, answers.utilities, answers.classes)
    return AreaCase(answers, truth, members, faults)


def fit_alarm_threshold(cases: Sequence[AreaCase], false_frames: float) -> float:
    """The threshold of a machine's highest log odds that this share of its calm frames is over."""
    margins = [_margins(case)[0][case.truth.calm()[:, None] & case.answers.known()] for case in cases]
    return fit_threshold(np.concatenate(margins), false_frames)


def _margins(case: AreaCase) -> tuple[Floats, Ints]:
    """(T, N) each machine's highest log odds of a fault, and of which."""
    quiet = faultless_classes(case.answers.classes)
    odds = fault_log_odds(_logarithms(case.answers.probabilities()), quiet, -np.inf, np.inf)
    faults: Ints = odds.argmax(axis=-1)
    return np.where(case.answers.known(), odds.max(axis=-1), -np.inf), faults


def _masked(cases: Sequence[AreaCase], share: float, seed: Sequence[int]) -> list[AreaCase]:
    """The areas with this share of the modalities missing."""
    if not share:
        return list(cases)
    masked: list[AreaCase] = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([*seed, round(1000 * share), number])
        missing = draw_missing(case.answers.present.shape, share, rng)
        masked.append(case._replace(answers=case.answers.without(missing)))
    return masked


def _inputs(case: AreaCase) -> tuple[AreaAnswers, Bools, Bools]:
    return case.answers, case.members, case.faults


def _sequence(case: AreaCase) -> AreaSequence:
    return area_sequence(case.answers, case.truth, graph_of(*_inputs(case)))


def _quiet(line: str) -> None:
    """Compiling is not worth a line of an experiment."""


def _raised_alarms(case: AreaCase) -> Ints:
    return raised_alarms(case.answers.probabilities(), faultless_classes(case.answers.classes))


def _alarms(case: AreaCase, threshold: float) -> dict[str, Ints]:
    """The machines' alarms by their kind; `threshold` is that of log odds."""
    margins, faults = _margins(case)
    return {
        _RAISED: _raised_alarms(case),
        "answer": machine_alarms(case.answers.probabilities(), faultless_classes(case.answers.classes)),
        "odds": np.where(margins > threshold, faults, 0),
    }


def _utilities(named: Named, threshold: float) -> Ints:
    """(T,) the utility that is named, or NONE."""
    return np.where(named.scores.max(axis=1) > threshold, named.scores.argmax(axis=1), NONE)


def _outcomes(
    cases: Sequence[AreaCase], named: Sequence[Named], threshold: float, alarms: Sequence[Mapping[str, Ints]]
) -> dict[str, list[AreaOutcome]]:
    """By kind of the machines' alarms; own faults are named by corrected answers where there are any."""
    found: dict[str, list[AreaOutcome]] = {_RAISED: [], "answer": [], "odds": []}
    for case, one, by_kind in zip(cases, named, alarms, strict=True):
        utilities = _utilities(one, threshold)
        for kind, each in by_kind.items():
            own = one.own_names if kind == "answer" else None
            found[kind].append(area_outcome(case.truth, utilities, each, own))
    return found


def _scores(found: Mapping[str, Sequence[AreaOutcome]]) -> Scores:
    others = {kind: area_scores(found[kind]) for kind in found if kind != _RAISED}
    return area_scores(found[_RAISED]) | others
