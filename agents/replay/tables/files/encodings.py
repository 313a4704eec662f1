"""Encodings of text files: by their byte order mark, by the description, or as an error that says which to try."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Collection
from pathlib import Path

from agents.replay.tables.files.contents import HEAD_BYTES, open_content, read_head
from pipeline.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = ("utf-8", "utf-16-le", "utf-16-be", "cp1252", "latin-1", "cp437", "mac-roman")
"""What a file may be in, likeliest first; the last ones decode anything."""


def encoding_of(path: Path, declared: str | None) -> str:
    """The encoding to read a file with; raises DataError if its byte order mark and the description differ."""
    head = read_head(path)
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if marked is None:
        if declared is not None and not declared.startswith("utf") and _is_utf8(head):
            raise DataError(f"{path} is in UTF-8, and {declared} would give wrong letters; leave encoding out")
        if declared is None and (wide := _wide(head)) is not None:
            raise DataError(f"{path} has NUL bytes between its letters, as UTF-16 has: set encoding: {wide}")
        return declared or "utf-8"
    family = marked.removesuffix("-sig")
    if declared is not None and not declared.replace("_", "-").startswith(family):
        raise DataError(
            f"{path} begins with the byte order mark of {family.upper()}, so encoding: {declared} cannot be right; "
            "leave encoding out"
        )
    return marked


def undecodable(path: Path, encoding: str, names: Collection[str]) -> DataError:
    """What to say of a file that is not in this encoding: the line, and which to try, first one with these columns."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, bad = 1, b""
    try:
        with open_content(path) as file:
            while block := file.read(HEAD_BYTES):
                line += decoder.decode(block).count("\n")
            decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].decode(encoding, "ignore").count("\n")
        bad = error.object[error.start : error.start + 1]
    except (OSError, EOFError, UnicodeError):
        pass
    which = f" (byte 0x{bad.hex()})" if bad else ""
    fitting = [found] if (found := encoding_with(path, names)) else []
    others = [candidate for candidate in _decodable(read_head(path)) if codecs.lookup(candidate).name != encoding]
    tried = list(dict.fromkeys([*fitting, *others]))[:2]
    return DataError(
        f"{path}, line {line}: the text is not {encoding.removesuffix('-sig')}{which}; set encoding to that of the "
        f"program that wrote it, such as {' or '.join(tried)}"
    )


def encoding_with(path: Path, names: Collection[str]) -> str | None:
    """An encoding in which the beginning of the file has all these names, if there is one."""
    head = read_head(path)
    for candidate in _CANDIDATES:
        text = unicodedata.normalize("NFC", head.decode(candidate, "ignore"))
        if "\0" not in text[:200] and all(name in text for name in names):
            return candidate
    return None


def _wide(head: bytes) -> str | None:
    """The byte order of UTF-16 if every other byte is zero, as in western letters."""
    sample = head[: min(len(head), 64) & ~1]
    if any(sample[0::2]) and not any(sample[1::2]):
        return "utf-16-le"
    return "utf-16-be" if any(sample[1::2]) and not any(sample[0::2]) else None


def _is_utf8(head: bytes) -> bool:
    """Whether there are letters beyond ASCII, all in UTF-8; by chance, other encodings never look so."""
    try:
        return not head.isascii() and bool(codecs.getincrementaldecoder("utf-8")().decode(head))
    except UnicodeDecodeError:
        return False


def _decodable(head: bytes) -> list[str]:
    found = []
    for candidate in _CANDIDATES:
        try:
            text = codecs.getincrementaldecoder(candidate)().decode(head)
        except UnicodeError:
            continue
        if candidate.startswith("utf-16") and "," not in text and ";" not in text and "\n" not in text:
            continue  # any bytes are UTF-16, but they make no table
        found.append(candidate)
    return found or ["latin-1"]
