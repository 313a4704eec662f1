"""Writes operators' event texts for sequences of fault labels, by the authors of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal, NamedTuple

import numpy as np

from deploy.demo.phrases import FAULTS, NORMAL, RECOVERED, VAGUE, Author
from models.encoders.tokenizer import normalised

Kind = Literal["symptom", "distractor", "benign", "recovered", "vague"]

CLASSES: Final = (NORMAL, *FAULTS)
"""A label's index in a sequence is its place here."""

SYMPTOM_COUNTS: Final = (0.15, 0.35, 0.30, 0.20)
"""Chance of 0, 1, 2, 3 symptom texts in an episode of a fault."""
SYMPTOM_LAG_FRAMES: Final = 10.0
DISTRACTOR_RATE: Final = 0.1
"""Chance that a symptom text describes another fault than the present one: people misjudge."""
BENIGN_PER_FRAME: Final = {True: 1 / 60, False: 1 / 150}
VAGUE_PER_FRAME: Final = {True: 1 / 400, False: 1 / 120}
"""By whether the plant is normal."""
RECOVERED_RATE: Final = 0.5
RECOVERED_LAG_FRAMES: Final = 6.0
GIVE_UP_AFTER: Final = 500
"""How many texts in a row may be repetitions before an author's block counts as exhausted."""
MIN_TEXTS: Final = 10
"""Of each block, in a pool that is large enough."""

SOURCES: Final = ("shift log", "field round", "control room", "maintenance")
SEVERITIES: Final = ("info", "warning", "alarm")
SOURCE_WEIGHTS: Final[Mapping[Kind, tuple[float, ...]]] = {
    "symptom": (0.25, 0.25, 0.40, 0.10),
    "distractor": (0.30, 0.30, 0.30, 0.10),
    "benign": (0.40, 0.25, 0.10, 0.25),
    "recovered": (0.40, 0.10, 0.40, 0.10),
    "vague": (0.40, 0.20, 0.35, 0.05),
}
SEVERITY_WEIGHTS: Final[Mapping[Kind, tuple[float, ...]]] = {
    "symptom": (0.20, 0.60, 0.20),
    "distractor": (0.20, 0.60, 0.20),
    "benign": (0.97, 0.03, 0.0),
    "recovered": (1.0, 0.0, 0.0),
    "vague": (0.60, 0.40, 0.0),
}


@dataclass(frozen=True, slots=True)
class Event:
    """One text; `intended` (the class it describes, empty if vague) and `kind` are truth, never for wires."""

    time_ms: int
    text: str
    source: str
    severity: str
    intended: str
    kind: Kind


class PoolRow(NamedTuple):
    """One labelled text of a training pool; `fault` is empty for a vague text."""

    text: str
    fault: str
    author: str
    group: str


class _Episode(NamedTuple):
    """A stretch of equal labels, `[start, end)` in frames."""

    label: int
    start: int
    end: int


def write_events(
    labels: Sequence[int] | np.ndarray,
    authors: Sequence[Author],
    rng: np.random.Generator,
    frame_ms: int,
    start_ms: int,
) -> list[Event]:
    """Texts along a sequence of fault indices (0 is normal), by time, all inside the run.

    Each is by any of the authors. Of a fault beyond CLASSES, which has no phrases, people write vaguely.
    """
    frames = _Placer(len(labels), authors, rng, frame_ms, start_ms)
    stretches = _episodes(labels)
    for index, episode in enumerate(stretches):
        calm = episode.label == 0
        frames.scatter(episode, BENIGN_PER_FRAME[calm], NORMAL, "benign")
        frames.scatter(episode, VAGUE_PER_FRAME[calm], VAGUE, "vague")
        if not calm:
            frames.symptoms(episode)
        elif index > 0 and rng.random() < RECOVERED_RATE:
            moment = episode.start + rng.exponential(RECOVERED_LAG_FRAMES)
            if moment < episode.end:  # a note that all is well is not written once the next fault is there
                frames.place(moment, RECOVERED, "recovered")
    return sorted(frames.events, key=lambda event: event.time_ms)


def write_pool(author: Author, rng: np.random.Generator, per_fault: int) -> list[PoolRow]:
    """Up to `per_fault` distinct texts of each fault and of vague ones, and three times as many normal ones.

    A third of the normal ones say that a trouble is over. Templates take turns, so that each weighs the same. Raises
    ValueError if a block has fewer than MIN_TEXTS distinct texts.
    """
    wanted = dict.fromkeys((*FAULTS, RECOVERED, VAGUE), per_fault) | {NORMAL: 2 * per_fault}
    seen: set[str] = set()
    rows: list[PoolRow] = []
    for block, count in wanted.items():
        label = {RECOVERED: NORMAL, VAGUE: ""}.get(block, block)
        choices = author.templates[block]
        turn, found, misses = 0, 0, 0
        while found < count and misses < GIVE_UP_AFTER:
            template = choices[turn % len(choices)]
            turn += 1
            misses += 1
            text = author.fill(template, rng)
            key = normalised(text)
            if key not in seen:
                seen.add(key)
                rows.append(PoolRow(text, label, author.name, template.group))
                found += 1
                misses = 0
        if found < min(count, MIN_TEXTS):
            raise ValueError(f"{author.name} has only {found} distinct texts for {block}; add phrases")
    return rows


class _Placer:
    """Collects events of one run; positions are given in frames and fractions of a frame."""

    def __init__(
        self, frame_count: int, authors: Sequence[Author], rng: np.random.Generator, frame_ms: int, start_ms: int
    ) -> None:
        self.events: list[Event] = []
        self._end_ms = start_ms + frame_count * frame_ms
        self._authors = tuple(authors)
        self._rng = rng
        self._frame_ms = frame_ms
        self._start_ms = start_ms

    def place(self, moment: float, block: str, kind: Kind) -> None:
        """Write one text at a moment; one that falls behind the run's end was never written."""
        time_ms = self._start_ms + int(moment * self._frame_ms)
        if time_ms >= self._end_ms:
            return
        intended = {RECOVERED: NORMAL, VAGUE: ""}.get(block, block)
        source = str(self._rng.choice(SOURCES, p=SOURCE_WEIGHTS[kind]))
        severity = str(self._rng.choice(SEVERITIES, p=SEVERITY_WEIGHTS[kind]))
        author = self._authors[int(self._rng.integers(len(self._authors)))]
        text = author.write(block, self._rng)
        self.events.append(Event(time_ms, text, source, severity, intended, kind))

    def scatter(self, episode: _Episode, per_frame: float, block: str, kind: Kind) -> None:
        """Write texts as a Poisson process over a stretch."""
        count = int(self._rng.poisson(per_frame * (episode.end - episode.start)))
        for moment in self._rng.uniform(episode.start, episode.end, count):
            self.place(float(moment), block, kind)

    def symptoms(self, episode: _Episode) -> None:
        """Write what people see of one fault: the first text lags behind the onset, others follow."""
        count = int(self._rng.choice(len(SYMPTOM_COUNTS), p=SYMPTOM_COUNTS))
        first = episode.start + self._rng.exponential(SYMPTOM_LAG_FRAMES)
        if count == 0 or first >= episode.end:  # cleared before anybody wrote
            return
        later = self._rng.uniform(first, episode.end, count - 1)
        described = CLASSES[episode.label] if episode.label < len(CLASSES) else None
        for moment in (first, *later):
            if self._rng.random() < DISTRACTOR_RATE:
                others = [fault for fault in FAULTS if fault != described]
                self.place(float(moment), others[int(self._rng.integers(len(others)))], "distractor")
            elif described is None:
                self.place(float(moment), VAGUE, "vague")
            else:
                self.place(float(moment), described, "symptom")


def _episodes(labels: Sequence[int] | np.ndarray) -> list[_Episode]:
    """Stretches of equal labels, in order."""
    stretches: list[_Episode] = []
    start = 0
    for label, run in groupby(int(label) for label in labels):
        end = start + sum(1 for _ in run)
        stretches.append(_Episode(label, start, end))
        start = end
    return stretches
