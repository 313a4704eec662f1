"""Windows of training runs: a run's frames as a worker would step them, the alarms on it, and the window before one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.data.runs import Run
from models.data.scaling import hold
from models.encoders.placed_texts import PlacedText
from models.evaluation.explanations.window import Window
from pipeline.engine.reports.alarms import AlarmRule, Alarms
from pipeline.frames import EventText, Frames, StepResult, StepRunner


class Raised(NamedTuple):
    """An alarm that a run's frames raise."""

    frame: int
    fault: int
    """Class."""
    result: StepResult
    """Of that frame, one row."""


def frames_of_run(run: Run, texts: Sequence[PlacedText], hold_limit: int, period_ms: int) -> list[Frames]:
    """One-row frames of a run, the first of which resets the machine."""
    values, observed = hold(run.values, hold_limit)
    placed: dict[int, list[tuple[int, EventText]]] = {}
    for number, text in enumerate(texts):
        time_ms = round((text.frame + 1 - text.age) * period_ms)
        placed.setdefault(text.frame, []).append((0, EventText(str(number), time_ms, text.text)))
    nothing = np.zeros((1, values.shape[1]), np.int64)
    return [
        Frames(
            slots=np.zeros(1, np.int64),
            start_ms=np.array([frame * period_ms]),
            period_ms=period_ms,
            values=values[frame : frame + 1],
            observed=observed[frame : frame + 1],
            age_ms=nothing,
            reset=np.array([frame == 0]),
            reset_reason=np.array([int(frame == 0)]),
            revision=np.zeros(1, np.int64),
            texts=placed.get(frame, []),
        )
        for frame in range(len(run))
    ]


def first_alarm(
    runner: StepRunner, frames: Sequence[Frames], faultless: Sequence[int], *, since: int, until: int
) -> Raised | None:
    """The first alarm of a fault that is raised from frame `since` on and before `until`; overwrites slot 0."""
    alarms = Alarms(AlarmRule(), len(runner.classes), lambda _: None)
    alarms.reserve(1)
    slots = np.zeros(1, np.int64)
    for frame, one in enumerate(frames[:until]):
        result = runner.step(one)
        answer = result.probabilities.argmax(axis=1)
        faults = np.where(np.isin(answer, faultless), 0, answer)
        for change in alarms.step(slots, faults, result.probabilities.max(axis=1), one.end_ms):
            if change.raised and frame >= since:
                return Raised(frame, change.fault, result)
    return None


def window_before(runner: StepRunner, frames: Sequence[Frames], frame: int, length: int) -> Window:
    """The last frames up to this one, of a run from its start; overwrites slot 0."""
    first = max(0, frame + 1 - length)
    for one in frames[:first]:
        runner.step(one)
    state = runner.save(np.zeros(1, np.int64))[0] if first else b""
    return Window(tuple(frames[first : frame + 1]), state)
