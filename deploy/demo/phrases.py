"""Authors: people and systems that write event texts, each with phrases and habits of its own (the folder authors)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from pipeline.files.yaml_text import parse_yaml, read_text

Split = Literal["train", "validation", "test"]
Letters = Literal["sentence", "lower", "upper", "as_written"]

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
"""`test` is what the demo shows; `train` and `validation` are for models."""

AUTHORS: Final = (
    "field_technician",
    "instrument_technician",
    "alarm_system",
    "plain_writer",
    "shift_operator",
    "maintenance_planner",
    "board_operator",
    "shift_supervisor",
    "german_engineer",
)
"""Names of the files, in the order in which a rotation holds them out."""

VALIDATION_AUTHORS: Final = 2
"""Two, so that what is fitted on one can be checked on the other."""

NORMAL: Final = "normal"
RECOVERED: Final = "recovered"
VAGUE: Final = "vague"
FAULTS: Final = tuple(f"idv_{number}" for number in range(1, 21))
BLOCKS: Final = (*FAULTS, NORMAL, RECOVERED, VAGUE)
"""What an author has phrases for: every fault, and three kinds of texts that name none."""

_SPELT_OUT: Final = (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("Ä", "Ae"), ("Ö", "Oe"), ("Ü", "Ue"), ("ß", "ss"))
_ALTERNATIVES = re.compile(r"<([^<>]*)>")
_SLOT = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[a-z]{4,}")


@dataclass(frozen=True, slots=True)
class Template:
    """One phrase with slots; `group` names it in pools, for splitters that keep paraphrases together."""

    group: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Author:
    """One who writes: slots to draw from, phrases by block, and habits of typing."""

    name: str
    slots: Mapping[str, Sequence[str]]
    templates: Mapping[str, tuple[Template, ...]]
    letters: Letters
    typo_rate: float
    """Share of the texts with a slip of the fingers or two."""
    umlauts_spelt_out: float
    """Share of the texts with ae for ä, and so on."""
    short_forms: tuple[tuple[str, str], ...]
    """Long words and what a hurried writer makes of them; one of the slips."""

    def write(self, block: str, rng: np.random.Generator) -> str:
        """One text of a block (a fault, `normal`, `recovered`, `vague`)."""
        templates = self.templates[block]
        return self.fill(templates[int(rng.integers(len(templates)))], rng)

    def fill(self, template: Template, rng: np.random.Generator) -> str:
        """A phrase with its slots drawn, in the author's letters, and now and then misspelt."""

        def draw(options: Sequence[str]) -> str:
            return options[int(rng.integers(len(options)))]

        text = _ALTERNATIVES.sub(lambda match: draw(match[1].split("|")), template.pattern)
        text = _SLOT.sub(lambda match: draw(self.slots[match[1]]), text)
        text = re.sub(r"\s+([,?])", r"\1", " ".join(text.split())).strip(" ,")
        match self.letters:
            case "sentence":
                text = text[:1].upper() + text[1:]
            case "lower":
                text = text.lower()
            case "upper":
                text = text.upper()
        if self.umlauts_spelt_out and rng.random() < self.umlauts_spelt_out:
            for umlaut, pair in _SPELT_OUT:
                text = text.replace(umlaut, pair)
        if rng.random() >= self.typo_rate:
            return text
        for _ in range(1 + int(rng.integers(2))):
            slip = _SLIPS[int(rng.integers(len(_SLIPS)))]
            text = slip(text, self.short_forms, rng)
        return text


@cache
def read_author(name: str) -> Author:
    """The author of one file."""
    book: dict[str, Any] = parse_yaml(read_text(Path(__file__).parent / "authors" / f"{name}.yaml"))
    habits = book["habits"]
    templates = {
        block: tuple(
            Template(f"{block}/{name}/{place:02d}", line.strip())
            for place, line in enumerate(filter(str.strip, lines.splitlines()))
        )
        for block, lines in book["texts"].items()
    }
    return Author(
        name,
        book["slots"],
        templates,
        habits["letters"],
        habits["typos"],
        habits.get("umlauts_spelt_out", 0.0),
        tuple(book.get("short_forms", {}).items()),
    )


def authors_of(split: Split, held_out: int = 0) -> tuple[Author, ...]:
    """The authors of one split: rotation `held_out` holds that author out for the test, the next two for validation,
    and the others are for training."""
    first = held_out % len(AUTHORS)
    turned = (*AUTHORS[first:], *AUTHORS[:first])
    names = {
        "test": turned[:1],
        "validation": turned[1 : 1 + VALIDATION_AUTHORS],
        "train": turned[1 + VALIDATION_AUTHORS :],
    }
    return tuple(read_author(name) for name in names[split])


_ShortForms = Sequence[tuple[str, str]]


def _swap(text: str, _: _ShortForms, rng: np.random.Generator) -> str:
    """Two neighbouring letters of a word change places."""
    at = _inner_letter(text, rng)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :] if at else text


def _drop(text: str, _: _ShortForms, rng: np.random.Generator) -> str:
    """A letter is missing."""
    at = _inner_letter(text, rng)
    return text[:at] + text[at + 1 :] if at else text


def _double(text: str, _: _ShortForms, rng: np.random.Generator) -> str:
    """A letter is typed twice."""
    at = _inner_letter(text, rng)
    return text[:at] + text[at] + text[at:] if at else text


def _lower(text: str, _: _ShortForms, rng: np.random.Generator) -> str:
    """No capitals at all."""
    return text.lower()


def _abbreviate(text: str, short_forms: _ShortForms, rng: np.random.Generator) -> str:
    """A long word becomes the plant's short form, everywhere in the text."""
    there = [(word, short) for word, short in short_forms if word in text]
    if not there:
        return _swap(text, short_forms, rng)
    word, short = there[int(rng.integers(len(there)))]
    return text.replace(word, short)


def _inner_letter(text: str, rng: np.random.Generator) -> int:
    """The place of a letter inside a longer word, another letter behind it; 0 if no word is long enough."""
    words = list(_WORD.finditer(text))
    if not words:
        return 0
    word = words[int(rng.integers(len(words)))]
    return int(rng.integers(word.start() + 1, word.end() - 1))


_SLIPS: Final[tuple[Callable[[str, _ShortForms, np.random.Generator], str], ...]] = (
    _swap,
    _drop,
    _double,
    _lower,
    _abbreviate,
)
