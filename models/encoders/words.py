"""Splits texts of any script into the words that the tokenizer counts (docs/guide/models.md)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Final

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")

_UNSPACED: Final = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"  # kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Scripts that put no spaces between words, as ranges of a regular expression."""

_UNSPACED_CHARACTER: Final = re.compile(f"[{_UNSPACED}]")
_PIECE: Final = re.compile(f"[a-z0-9]+|[{_UNSPACED}]+|[^ a-z0-9{_UNSPACED}]+")

_LETTERS: Final = str.maketrans(
    {"ı": "i", "ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe"}
    | {"ی": "ي", "ى": "ي", "ک": "ك"}
)
"""Letters that Unicode does not decompose, and keyboards replace; the Arabic ones differ by country only."""

_ACCENTED: Final = {"LATIN", "GREEK", "ARABIC", "HEBREW", "DIGIT"}
"""Scripts whose marks people leave out at will; in others, such as Hindi or Thai, marks are part of the spelling."""

_CYRILLIC_ACCENTS: Final = {"\u0300", "\u0301"}
_ZERO_WIDTH_SPACE: Final = "\u200b"
_TATWEEL: Final = "\u0640"


class _Kind(Enum):
    LETTER = 0
    MARK = 1
    SEPARATOR = 2
    IGNORED = 3


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text.

    Accents are dropped where people leave them out, digits of any script become 0 to 9. Scripts without spaces give
    pairs of neighbouring characters.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for piece in _PIECE.findall(_folded(text)):
        if is_unspaced(piece):
            found += _pairs(piece)
        else:
            found.append(piece)
    return found


def is_unspaced(word: str) -> bool:
    """Whether a word is of a script that puts no spaces between words."""
    return _UNSPACED_CHARACTER.match(word) is not None


def is_telling(word: str) -> bool:
    """Whether a word says something by itself; numbers, single Latin letters and units such as C do not."""
    return not (word.isascii() and (len(word) < 2 or word.isdigit()))


def _folded(text: str) -> str:
    """A text in one spelling: compatibility forms, case and accents folded, one space for all that is no letter."""
    text = unicodedata.normalize("NFKC", text.replace("µ", "u")).casefold().translate(_LETTERS)
    return unicodedata.normalize("NFC", "".join(_letters(unicodedata.normalize("NFKD", text))))


def _letters(decomposed: str) -> Iterator[str]:
    base = ""
    for char in decomposed:
        kind, letter = _kind(char)
        if kind is _Kind.MARK:
            if base and not _is_accent(char, base):
                yield char
        elif kind is not _Kind.IGNORED:
            base = letter if kind is _Kind.LETTER else ""
            yield letter


@lru_cache(4_096)
def _kind(char: str) -> tuple[_Kind, str]:
    """What a decomposed character is, and as what it counts."""
    category = unicodedata.category(char)
    if category == "Nd":
        return _Kind.LETTER, str(unicodedata.digit(char))
    if char == _TATWEEL or "\ufe00" <= char <= "\ufe0f" or (category == "Cf" and char != _ZERO_WIDTH_SPACE):
        return _Kind.IGNORED, ""
    if category[0] == "L":
        return _Kind.LETTER, char
    return (_Kind.MARK, char) if category[0] == "M" else (_Kind.SEPARATOR, " ")


@lru_cache(4_096)
def _is_accent(mark: str, base: str) -> bool:
    """Whether a word remains the same word without this mark on this letter."""
    script = unicodedata.name(base, "").partition(" ")[0]
    if script == "CYRILLIC":
        return mark in _CYRILLIC_ACCENTS or (base == "е" and mark == "\u0308")  # ё is often written е
    return script in _ACCENTED


def _pairs(piece: str) -> list[str]:
    """Each two neighbouring characters, with their marks; one character is a word of its own."""
    characters: list[str] = []
    for char in piece:
        if characters and unicodedata.category(char)[0] == "M":
            characters[-1] += char
        else:
            characters.append(char)
    if len(characters) == 1:
        return characters
    return [first + second for first, second in pairwise(characters)]
