"""What a report is made of: the diagnoses, labels, alarms and texts of machines, collected as they come."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.replay.scores import FUSED, Frame, ScoreBook
from pipeline.arrays import Floats, Ints
from pipeline.config.profile import PlantProfile
from pipeline.engine.reports.lifecycle.records import decode_alarm
from pipeline.wire.messages import Diagnosis, RejectedError, decode_event, parse_time_ms
from pipeline.wire.records import Record

MAX_TEXTS: Final = 2_000
"""Texts of one machine that are kept; the first ones."""
_BEGINS: Final = frozenset({"raised", "realarmed"})
"""Changes that say that the fault of an alarm is there; an alarm that stands already goes on."""
_ENDS: Final = frozenset({"cleared", "returned", "latched"})
"""Changes that say that the fault of an alarm is gone."""


class AlarmSpan(NamedTuple):
    """An alarm, from when it was raised until it was over; None where that is not in what was read."""

    machine: str
    fault: str
    raised_ms: int | None
    over_ms: int | None
    suppressed: str | None
    """Why it called nobody when it was raised, if so."""


class SeenText(NamedTuple):
    """A text about a machine."""

    time_ms: int
    text: str
    late: bool


class FrameTable(NamedTuple):
    """The frames that count, by machine and time: N of them, and C classes of the profile."""

    frames: list[Frame]
    start_ms: Ints  # (N,)
    period_ms: Ints  # (N,)
    edges: dict[str, slice]
    """The rows of each machine."""
    truth: Ints  # (N,) classes, -1 where nobody knows
    answers: dict[str, Ints]
    """What the fusion and each modality say, (N,), as `stream_scores` takes it."""
    probabilities: Floats  # (N, C) of the fusion; a class that the model does not have has none
    entropy: Floats  # (N,) nats
    disagreement: Floats  # (N,) nats
    shown: list[str]
    """The fusion's answers as they were published."""


class _Answer(NamedTuple):
    probabilities: NDArray[np.float32]
    entropy: float
    disagreement: float
    fault: str


class ReportBook:
    """Diagnoses of every frame, labels, alarms and texts, of the machines whose ids fit a pattern."""

    def __init__(
        self, plant: PlantProfile, trained: Mapping[str, tuple[int, int]] | None = None, *, machines: str = "*"
    ) -> None:
        """`trained` has the machines that the model's training has seen, with the starts of first and last frame."""
        self.plant = plant
        self.scores = ScoreBook(plant, trained)
        self.texts: dict[str, dict[tuple[int, str], SeenText]] = {}
        self.models: dict[str, None] = {}
        self.modalities: dict[str, None] = {}
        self.unreadable = 0
        """Records that should be diagnoses or alarms and are not."""
        self._pattern = machines
        self._answers: dict[Frame, _Answer] = {}
        self._alarms: list[AlarmSpan] = []
        self._standing: dict[tuple[str, str], int] = {}  # -> place in the list of alarms
        self._seen: set[tuple[str, str]] = set()
        self._changes: set[str] = set()

    def add_label(self, record: Record) -> None:
        """Take a label; invalid ones are counted."""
        self.scores.add_labels([record])

    def add(self, diagnosis: Diagnosis) -> None:
        """Take a diagnosis; of several revisions of a frame the last counts."""
        if not fnmatchcase(diagnosis.machine, self._pattern):
            return
        self.models[f"{diagnosis.model.name} {diagnosis.model.hash[:12]}"] = None
        self.modalities |= dict.fromkeys(diagnosis.modalities)
        if self.scores.add(diagnosis):
            chances = np.zeros(len(self.scores.classes), np.float32)
            for name, chance in diagnosis.probabilities.items():
                if (place := self.scores.class_of(name)) >= 0:
                    chances[place] += chance
            answer = _Answer(chances, diagnosis.entropy, diagnosis.disagreement, diagnosis.fault)
            self._answers[diagnosis.machine, diagnosis.frame_start] = answer
        for one in diagnosis.evidence.texts:
            self._add_text(diagnosis.machine, diagnosis.frame_end - one.age_ms, one.text, late=one.late)

    def add_event(self, value: bytes | None) -> None:
        """Take a text from topic `events`, of which diagnoses show those that the model knows; others have dead letters
        if they are none."""
        try:
            event = decode_event(value or b"")
            time_ms = parse_time_ms(event.time)
        except RejectedError:
            return
        if fnmatchcase(event.machine, self._pattern):
            self._add_text(event.machine, time_ms, event.text, late=False)

    def _add_text(self, machine: str, time_ms: int, text: str, *, late: bool) -> None:
        texts = self.texts.setdefault(machine, {})
        known = texts.get((time_ms, text))
        if known is not None or len(texts) < MAX_TEXTS:
            texts[time_ms, text] = SeenText(time_ms, text, late or (known is not None and known.late))

    def add_alarm(self, value: bytes | None) -> None:
        """Take a published change of an alarm; what is none is counted."""
        try:
            change = decode_alarm(value or b"")
        except RejectedError:
            self.unreadable += 1
            return
        if change.id in self._changes or not fnmatchcase(change.machine, self._pattern):
            return  # after a crash a record may come twice
        self._changes.add(change.id)
        key = change.machine, change.fault
        place = self._standing.get(key)
        if change.state in _BEGINS and place is None:
            self._standing[key] = len(self._alarms)
            self._alarms.append(AlarmSpan(*key, change.time, None, change.suppressed))
        elif change.state in _ENDS and place is not None:
            self._alarms[place] = self._alarms[place]._replace(over_ms=change.time)
            del self._standing[key]
        elif change.state in _ENDS and key not in self._seen:
            self._alarms.append(AlarmSpan(*key, None, change.time, change.suppressed))  # raised before what was read
        self._seen.add(key)

    def alarms(self) -> list[AlarmSpan]:
        """All alarms, by machine and time."""
        return sorted(self._alarms, key=lambda one: (one.machine, one.raised_ms or 0, one.fault))

    def table(self) -> FrameTable:
        """The frames that count."""
        frames = self.scores.counting_frames()
        answers = {name: self.scores.answers_of(frames, name) for name in (FUSED, *self.modalities)}
        published = [self._answers[frame] for frame in frames]
        edges: dict[str, slice] = {}
        for row, (machine, _) in enumerate(frames):
            edges[machine] = slice(edges[machine].start if machine in edges else row, row + 1)
        classes = len(self.scores.classes)
        return FrameTable(
            frames=frames,
            start_ms=np.array([start for _, start in frames], np.int64),
            period_ms=np.array([self.scores.period_ms(machine) for machine, _ in frames], np.int64),
            edges=edges,
            truth=self.scores.truth_of(frames),
            answers={name: said for name, said in answers.items() if said is not None},
            probabilities=np.array([one.probabilities for one in published], np.float32).reshape(len(frames), classes),
            entropy=np.array([one.entropy for one in published], np.float32),
            disagreement=np.array([one.disagreement for one in published], np.float32),
            shown=[one.fault for one in published],
        )
