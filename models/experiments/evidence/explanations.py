"""Tests of explanations: planted disturbances, and answers without the evidence that ranks first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.data.runs import Run
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.evaluation.explanations.explain import Explanation, explain_by_gradients, explain_by_leaving_out
from models.evaluation.explanations.leave_out import step_without
from models.evaluation.explanations.question import Against, Question
from models.evaluation.explanations.run_windows import Raised, first_alarm, frames_of_run, window_before
from models.evaluation.explanations.window import Group, Window, groups_of
from models.evaluation.scoring import Scores
from models.experiments.base import Column, Need, OnPartProgress, Results
from models.model_file import read_model
from models.network_file import build_network, compile_network
from models.stepping.runner import CompiledRunner
from models.training.config import load_train_config
from models.training.loop import Progress
from models.training.prepare import Part, PreparedData, prepare, require_same_split
from pipeline.arrays import Floats
from pipeline.config.classes import faultless_classes
from pipeline.config.profile import MachineType
from pipeline.errors import DataError
from pipeline.frames import Frames

Shape = Literal["bias", "ramp", "noise"]
_METHODS = {"leave-out": "leave one out", "gradients": "integrated gradients", "deviations": "detector's deviations"}


class ExplanationsExperiment(BaseModel):
    """One model's explanations of alarms on held-out runs, by each method a row.

    Planted: a variable of a run without faults is disturbed from a random frame on; scores are over the disturbances
    that raise an alarm: `first` and `first_three`, whether the disturbed variable ranks so high; `first_known` and
    `first_unknown`, by whether the alarm names a fault; `raised` and `planted`, how many.

    Deleted: of the first alarm of each of some runs with faults, what its answer loses in evidence, in nats, without
    the `deleted` variables and texts that rank first, `top_drop`, and without as many at random, `random_drop`, and the
    `drop_difference`; `top_more`, in which share of the pairs the first is more; `top_changes` and `random_changes`, in
    which share the answer changes.

    Integrated gradients: `completeness` (mean), `completeness_max` and `complete`, the share of explanations whose
    error is at most 2 %; `covered`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["explanations"]
    title: str
    train: Path
    """Training configuration of the model; its relative paths start from `work`."""
    work: Path
    made_by: str
    """What makes the inputs in `work`."""
    model: Path
    """Model file; a relative path starts from the description's folder."""
    columns: tuple[Column, ...] = Field(min_length=1)
    part: Part = "test"
    window: int = Field(default=60, ge=1)
    """Frames that are explained."""
    against: Against = "no_fault"
    """What a fault's odds are against."""
    planted: int = Field(default=60, ge=1)
    """Disturbances per seed."""
    shapes: tuple[Shape, ...] = ("bias", "ramp", "noise")
    sizes: tuple[float, ...] = (4.0, 6.0, 10.0)
    """In standard deviations of the variable's normal state."""
    ramp_frames: int = Field(default=60, ge=1)
    """After how many frames a ramp has its size."""
    horizon: int = Field(default=120, ge=1)
    """Frames in which a disturbance must raise an alarm."""
    quiet: int = Field(default=100, ge=0)
    """Frames before a disturbance at least."""
    answers: int = Field(default=24, ge=1)
    """Runs with faults per seed."""
    deleted: int = Field(default=3, ge=1)
    """Variables and texts that are deleted."""

    def needs(self) -> list[Need]:
        """See `Experiment.needs`."""
        config = load_train_config(self.train, data=self.work, output=Path())
        return [*(Need(path, self.made_by) for path in config.inputs), Need(self.model, "faultline train")]

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """See `Experiment.run`."""
        trial = self._trial()
        rows: dict[str, list[Scores]] = {name: [] for name in _METHODS.values()}
        for seed in seeds:
            found = self._scored(trial, seed, on_progress)
            for method, name in _METHODS.items():
                rows[name].append(found[method])
        return Results(self.title, tuple(seeds), rows, self.columns, {"model": trial.runner.hash})

    def _trial(self) -> _Trial:
        config = load_train_config(self.train, data=self.work, output=Path())
        data = prepare(config)
        model = read_model(self.model)
        require_same_split(model, config, data)
        network = build_network(model)
        if network.detector is None:
            raise DataError(f"{self.title}: model {self.model} has no detector, whose deviations are a row")
        header = model.header
        runner = compile_network(network, name=header.name, digest=header.hash, classes=header.classes)
        return _Trial(runner, build_network(model).double(), data.machine_type, data, self.window, self.against)

    def _scored(self, trial: _Trial, seed: int, on_progress: OnPartProgress) -> dict[str, Scores]:
        rng = np.random.default_rng([seed, *b"explanations"])
        scores: dict[str, Scores] = {method: {} for method in _METHODS}
        ranks: dict[str, list[tuple[int, bool]]] = {method: [] for method in _METHODS}
        made: list[Explanation] = []
        for number in range(self.planted):
            on_progress(f"seed {seed}", Progress("planted", number, self.planted, 0.0))
            run, column, start = self._plant(trial, rng)
            alarm = trial.alarm(run, (), start, start + self.horizon)
            if alarm is None:
                continue
            explained = self._explained(trial, alarm)
            made += [explained["gradients"]]
            for method, amounts in self._of_variables(trial, alarm, explained).items():
                above = sum(amount > amounts[column] for amount in amounts.values())
                ranks[method].append((above, alarm.question.by_novelty))
        for method, found in ranks.items():
            scores[method] |= _rank_scores(found) | {"planted": self.planted}
        self._delete(trial, seed, rng, scores, made, on_progress)
        errors = [one.completeness_error or 0.0 for one in made]
        if made:
            scores["gradients"] |= {
                "completeness": fmean(errors),
                "completeness_max": max(errors),
                "complete": fmean(error <= 0.02 for error in errors),
                "covered": fmean(one.covered or 0.0 for one in made),
            }
        return scores

    def _plant(self, trial: _Trial, rng: np.random.Generator) -> tuple[Run, int, int]:
        """A run without faults with one variable disturbed, which it is, and from which frame on."""
        needed = self.quiet + self.horizon
        normal = [run for run in trial.data.runs(self.part) if not run.labels.any() and len(run) > needed]
        if not normal:
            raise DataError(f"{self.title}: the {self.part} part has no run without faults of over {needed} frames")
        run = normal[int(rng.integers(len(normal)))]
        start = int(rng.integers(self.quiet, len(run) - self.horizon))
        column = int(rng.integers(run.values.shape[1]))
        size = float(rng.choice(self.sizes)) * float(rng.choice([-1.0, 1.0]))
        shape = self.shapes[int(rng.integers(len(self.shapes)))]
        away = disturbance(shape, size, len(run) - start, self.ramp_frames, rng)
        values = run.values.copy()
        values[start:, column] += away * trial.network.std[column].item()
        return replace(run, values=values), column, start

    def _explained(self, trial: _Trial, alarm: _Alarm) -> dict[str, Explanation]:
        return {
            "leave-out": explain_by_leaving_out(
                trial.runner, trial.machine_type, alarm.window, alarm.question, change=False
            ),
            "gradients": explain_by_gradients(
                trial.runner, trial.network, trial.machine_type, alarm.window, alarm.question, change=False
            ),
        }

    def _of_variables(
        self, trial: _Trial, alarm: _Alarm, explained: Mapping[str, Explanation]
    ) -> dict[str, dict[int, float]]:
        """What each method says of each variable, by its column."""
        columns = {name: column for column, name in enumerate(trial.machine_type.variable_names)}
        found = {
            method: {columns[one.name]: one.amount for one in explanation.of_kind("variable")}
            for method, explanation in explained.items()
        }
        assert alarm.raised.result.deviations is not None
        deviations = alarm.raised.result.deviations[0].tolist()
        return found | {"deviations": {column: deviations[column] for column in found["leave-out"]}}

    def _delete(
        self,
        trial: _Trial,
        seed: int,
        rng: np.random.Generator,
        scores: dict[str, Scores],
        made: list[Explanation],
        on_progress: OnPartProgress,
    ) -> None:
        runs = trial.data.runs(self.part)
        faulty = [row for row, run in enumerate(runs) if (run.labels > 0).any()]
        pairs: dict[str, list[_Pair]] = {method: [] for method in _METHODS}
        for number, row in enumerate(rng.permutation(faulty)[: self.answers].tolist()):
            on_progress(f"seed {seed}", Progress("deleted", number, self.answers, 0.0))
            onset = int((runs[row].labels > 0).argmax())
            alarm = trial.alarm(runs[row], trial.data.texts[self.part][row], onset, len(runs[row]))
            if alarm is None:
                continue
            explained = self._explained(trial, alarm)
            made += [explained["gradients"]]
            groups = [one for one in trial.groups(alarm) if one.kind in ("variable", "text")]
            at_random = [groups[place] for place in rng.permutation(len(groups))[: self.deleted].tolist()]
            of_variables = self._of_variables(trial, alarm, explained)["deviations"]
            for method in _METHODS:
                amount = _amounts(method, explained, of_variables)
                top = sorted(groups, key=amount, reverse=True)[: self.deleted]
                pairs[method].append(trial.deleted(alarm, top, at_random))
        for method, found in pairs.items():
            if found:
                scores[method] |= {
                    "alarms": len(found),
                    "top_drop": fmean(one.top for one in found),
                    "random_drop": fmean(one.at_random for one in found),
                    "drop_difference": fmean(one.top - one.at_random for one in found),
                    "top_more": fmean(one.top > one.at_random for one in found),
                    "top_changes": fmean(one.top_changes for one in found),
                    "random_changes": fmean(one.random_changes for one in found),
                }


@dataclass(frozen=True, slots=True)
class _Alarm:
    raised: Raised
    question: Question
    window: Window


@dataclass(frozen=True, slots=True)
class _Pair:
    """What an answer loses without what ranks first, and without as much at random."""

    top: float
    at_random: float
    top_changes: bool
    random_changes: bool


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is explained."""

    runner: CompiledRunner
    network: Diagnoser
    """The same in float64."""
    machine_type: MachineType
    data: PreparedData
    window: int
    against: Against

    def alarm(self, run: Run, texts: Sequence[PlacedText], since: int, until: int) -> _Alarm | None:
        """The first alarm that a run raises in some of its frames, with the window before it."""
        frames: list[Frames] = frames_of_run(run, texts, self.data.hold_limit, self.machine_type.frame_period_ms)
        classes = self.runner.classes
        faultless = faultless_classes(classes)
        raised = first_alarm(self.runner, frames, faultless, since=since, until=until)
        if raised is None:
            return None
        question = Question.of(raised.fault, classes, self.machine_type.faults, self.against)
        return _Alarm(raised, question, window_before(self.runner, frames, raised.frame, self.window))

    def groups(self, alarm: _Alarm) -> list[Group]:
        """What can be left out of an alarm's window."""
        return groups_of(self.machine_type, self.runner.modalities, alarm.window)

    def deleted(self, alarm: _Alarm, top: Sequence[Group], at_random: Sequence[Group]) -> _Pair:
        """The answer without each of two sets of groups."""
        result = step_without(self.runner, alarm.window, [(), top, at_random])
        evidence = alarm.question.evidence(result)
        changed = (result.probabilities.argmax(axis=1) != alarm.question.answer).tolist()
        return _Pair(float(evidence[0] - evidence[1]), float(evidence[0] - evidence[2]), changed[1], changed[2])


def disturbance(shape: Shape, size: float, frames: int, ramp_frames: int, rng: np.random.Generator) -> Floats:
    """What is added to a variable in each of some frames, in its standard deviations."""
    if shape == "bias":
        return np.full(frames, size, np.float32)
    if shape == "ramp":
        return (size * np.minimum((np.arange(frames) + 1) / ramp_frames, 1)).astype(np.float32)
    return (abs(size) * rng.standard_normal(frames)).astype(np.float32)


def _rank_scores(ranks: Sequence[tuple[int, bool]]) -> Scores:
    """Scores of how many variables rank above the disturbed one, each with whether the answer was `unknown`."""
    by_kind = {
        "first": [above == 0 for above, _ in ranks],
        "first_three": [above < 3 for above, _ in ranks],
        "first_known": [above == 0 for above, is_unknown in ranks if not is_unknown],
        "first_unknown": [above == 0 for above, is_unknown in ranks if is_unknown],
    }
    return {"raised": len(ranks)} | {name: fmean(found) if found else None for name, found in by_kind.items()}


def _amounts(
    method: str, explained: Mapping[str, Explanation], deviations: Mapping[int, float]
) -> Callable[[Group], float]:
    """What a method says of a variable or text; the detector says nothing of texts."""
    if method == "deviations":
        return lambda group: deviations[group.columns[0]] if group.columns else 0.0
    named = {(one.kind, one.name): one.amount for one in explained[method].of_kind("variable", "text")}
    return lambda group: named[group.kind, group.name]
