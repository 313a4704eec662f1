"""Areas of machines that share utilities: how soon rules name a failed utility, beside the machines' own alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.areas.config import AreaNetworkConfig
from models.areas.rules import fault_log_odds
from models.areas.training.cases import AreaCase, AreaRule, logarithms, mask_cases, read_cases
from models.areas.training.networks import AreaTraining
from models.evaluation.areas import (
    BLAMED,
    FALSE_FRAMES,
    NONE,
    AreaOutcome,
    area_outcome,
    area_scores,
    fit_area_threshold,
    fit_threshold,
    machine_alarms,
    raised_alarms,
    score_intervals,
)
from models.evaluation.scoring import Scores
from models.experiments.area_networks import Named, Trained, named_by_networks, train_networks
from models.experiments.base import Column, Need, OnPartProgress, Results
from models.stepping.load import load_model
from models.stepping.runner import CompiledRunner
from models.training.loop import Progress
from pipeline.arrays import Floats, Ints
from pipeline.config.classes import faultless_classes
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.errors import DataError

_RAISED: Final = "raised"


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
            learning = [case.sequence() for case in cases(self.learn.folder)]
            checked = [case.sequence() for case in validation]
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
            fitted = [mask_cases(validation, share, [seed, 0]) for share in self.missing]
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
            for masked, share in self._shares([mask_cases(test, share, [seed, 1]) for share in self.missing]):
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
            name: [Named(rule.scores_of(case.answers, case.graph).max(axis=2)) for case in cases]
            for name, rule in self.rows.items()
        }
        if trained is not None:
            found |= named_by_networks(trained, cases, folder, _quiet)
        return found

    def _cases(
        self, part: str, kept: Path, profile: PlantProfile, runner: CompiledRunner, on_progress: OnPartProgress
    ) -> list[AreaCase]:
        """The areas of a part; their machines' answers are kept in a folder."""

        def on_area(done: int, count: int) -> None:
            on_progress(part, Progress(part, done, count, 0.0))

        encode = runner.text_vectors if self.networks else None
        try:
            return read_cases(self.work / part, kept, profile, runner, encode, on_area)
        except DataError as error:
            raise DataError(f"{error} ({self.made_by})") from error


def fit_alarm_threshold(cases: Sequence[AreaCase], false_frames: float) -> float:
    """The threshold of a machine's highest log odds that this share of its calm frames is over."""
    margins = [_margins(case)[0][case.truth.calm()[:, None] & case.answers.known()] for case in cases]
    return fit_threshold(np.concatenate(margins), false_frames)


def _margins(case: AreaCase) -> tuple[Floats, Ints]:
    """(T, N) each machine's highest log odds of a fault, and of which."""
    quiet = faultless_classes(case.answers.classes)
    odds = fault_log_odds(logarithms(case.answers.probabilities()), quiet, -np.inf, np.inf)
    faults: Ints = odds.argmax(axis=-1)
    return np.where(case.answers.known(), odds.max(axis=-1), -np.inf), faults


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
