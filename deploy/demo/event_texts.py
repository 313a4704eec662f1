"""Writes operators' event texts for sequences of fault labels, from the phrase book beside this file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from pipeline.files.yaml_text import parse_yaml, read_text

Split = Literal["train", "validation", "test"]
Kind = Literal["symptom", "distractor", "benign", "recovered", "vague"]

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
"""`test` is what the demo shows; `train` and `validation` are for models."""

NORMAL: Final = "normal"
RECOVERED: Final = "recovered"
VAGUE: Final = "vague"
FAULTS: Final = tuple(f"idv_{number}" for number in range(1, 21))
CLASSES: Final = (NORMAL, *FAULTS)
"""A label's index in a sequence is its place here."""

SPLIT_PATTERN: Final = "TETVTTETTETVTTETTVET"
"""Which split a template at this place of its block (modulo 20) belongs to: 60 % T, 15 % V, 25 % E."""

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
TYPO_RATE: Final = 0.12
GIVE_UP_AFTER: Final = 2_000
"""How many texts in a row may be repetitions before a pool counts as exhausted."""

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

ABBREVIATIONS: Final = (
    ("temperature", "temp"),
    ("cooling water", "CW"),
    ("pressure", "press"),
    ("reactor", "rx"),
    ("separator", "sep"),
    ("condenser", "cond"),
    ("compressor", "compr"),
    ("stripper", "strip"),
    ("controller", "ctrl"),
    ("composition", "comp'n"),
    ("valve", "vlv"),
    ("level", "lvl"),
    ("maintenance", "maint"),
)
_ALTERNATIVES = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[a-z]{4,}")


@dataclass(frozen=True, slots=True)
class Template:
    """One sentence with slots; `group` names it in pools, for splitters that keep paraphrases together."""

    group: str
    pattern: str
    split: Split


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
    group: str


class _Episode(NamedTuple):
    """A stretch of equal labels, `[start, end)` in frames."""

    label: int
    start: int
    end: int


@cache
def phrase_book() -> tuple[dict[str, list[str]], dict[str, tuple[Template, ...]]]:
    """The slots, and the templates of each block with their splits."""
    book = parse_yaml(read_text(Path(__file__).parent / "phrases.yaml"))
    names: dict[str, Split] = {"T": "train", "V": "validation", "E": "test"}
    groups: dict[str, tuple[Template, ...]] = {}
    for name, block in book["groups"].items():
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        groups[name] = tuple(
            Template(f"{name}/{place:02d}", line, names[SPLIT_PATTERN[place % len(SPLIT_PATTERN)]])
            for place, line in enumerate(lines)
        )
    return book["slots"], groups


@cache
def templates(block: str, split: Split) -> tuple[Template, ...]:
    """The templates of one block that belong to one split."""
    return tuple(template for template in phrase_book()[1][block] if template.split == split)


def normalised(text: str) -> str:
    """The text as a duplicate check sees it: lower case, letters and digits only."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def write_text(fault: str, split: Split, rng: np.random.Generator) -> str:
    """One text of a block (a fault, `normal`, `recovered`, `vague`) as somebody in a hurry types it."""
    choices = templates(fault, split)
    return _fill(choices[int(rng.integers(len(choices)))], rng)


def write_events(
    labels: Sequence[int] | np.ndarray,
    split: Split,
    rng: np.random.Generator,
    frame_ms: int,
    start_ms: int,
) -> list[Event]:
    """Texts along a sequence of fault indices (0 is normal), by time, all inside the run."""
    frames = _Placer(len(labels), split, rng, frame_ms, start_ms)
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


def write_pool(split: Split, rng: np.random.Generator, per_fault: int) -> list[PoolRow]:
    """Distinct texts: `per_fault` of each fault and of vague ones, three times as many normal ones.

    A third of the normal ones say that a trouble is over. Templates take turns, so that each weighs the same.
    """
    wanted = dict.fromkeys((*FAULTS, RECOVERED, VAGUE), per_fault) | {NORMAL: 2 * per_fault}
    seen: set[str] = set()
    rows: list[PoolRow] = []
    for block, count in wanted.items():
        label = {RECOVERED: NORMAL, VAGUE: ""}.get(block, block)
        choices = templates(block, split)
        turn, found, misses = 0, 0, 0
        while found < count:
            template = choices[turn % len(choices)]
            turn += 1
            misses += 1
            if misses > GIVE_UP_AFTER:
                raise ValueError(f"the phrase book has fewer than {count} distinct texts for {block} in {split}")
            text = _fill(template, rng)
            key = normalised(text)
            if key not in seen:
                seen.add(key)
                rows.append(PoolRow(text, label, template.group))
                found += 1
                misses = 0
    return rows


class _Placer:
    """Collects events of one run; positions are given in frames and fractions of a frame."""

    def __init__(self, frame_count: int, split: Split, rng: np.random.Generator, frame_ms: int, start_ms: int) -> None:
        self.events: list[Event] = []
        self._end_ms = start_ms + frame_count * frame_ms
        self._split: Split = split
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
        self.events.append(Event(time_ms, write_text(block, self._split, self._rng), source, severity, intended, kind))

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
        for moment in (first, *later):
            if self._rng.random() < DISTRACTOR_RATE:
                others = [fault for fault in FAULTS if fault != CLASSES[episode.label]]
                self.place(float(moment), others[int(self._rng.integers(len(others)))], "distractor")
            else:
                self.place(float(moment), CLASSES[episode.label], "symptom")


def _episodes(labels: Sequence[int] | np.ndarray) -> list[_Episode]:
    """Stretches of equal labels, in order."""
    stretches: list[_Episode] = []
    start = 0
    for label, run in groupby(int(label) for label in labels):
        end = start + sum(1 for _ in run)
        stretches.append(_Episode(label, start, end))
        start = end
    return stretches


def _fill(template: Template, rng: np.random.Generator) -> str:
    """A template with its slots drawn, a capital at the start and now and then a slip of the fingers."""
    slots = phrase_book()[0]

    def draw(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    text = _ALTERNATIVES.sub(lambda match: draw(match[1].split("|")), template.pattern)
    text = _SLOT.sub(lambda match: draw(slots[match[1]]), text)
    text = re.sub(r"\s+([,?])", r"\1", " ".join(text.split())).strip(" ,")
    text = text[:1].upper() + text[1:]
    if rng.random() >= TYPO_RATE:
        return text
    for _ in range(1 + int(rng.integers(2))):
        slip = _SLIPS[int(rng.integers(len(_SLIPS)))]
        text = slip(text, rng)
    return text


def _swap(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters of a word change places."""
    at = _inner_letter(text, rng)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :] if at else text


def _drop(text: str, rng: np.random.Generator) -> str:
    """A letter is missing."""
    at = _inner_letter(text, rng)
    return text[:at] + text[at + 1 :] if at else text


def _double(text: str, rng: np.random.Generator) -> str:
    """A letter is typed twice."""
    at = _inner_letter(text, rng)
    return text[:at] + text[at] + text[at:] if at else text


def _lower(text: str, rng: np.random.Generator) -> str:
    """No capitals at all."""
    return text.lower()


def _abbreviate(text: str, rng: np.random.Generator) -> str:
    """A long word becomes the plant's short form, everywhere in the text."""
    there = [(word, short) for word, short in ABBREVIATIONS if word in text]
    if not there:
        return _swap(text, rng)
    word, short = there[int(rng.integers(len(there)))]
    return text.replace(word, short)


def _inner_letter(text: str, rng: np.random.Generator) -> int:
    """The place of a letter inside a longer word, another letter behind it; 0 if no word is long enough."""
    words = list(_WORD.finditer(text))
    if not words:
        return 0
    word = words[int(rng.integers(len(words)))]
    return int(rng.integers(word.start() + 1, word.end() - 1))


_SLIPS: Final[tuple[Callable[[str, np.random.Generator], str], ...]] = (
    _swap,
    _drop,
    _double,
    _lower,
    _abbreviate,
)
