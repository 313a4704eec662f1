"""Rows of tables, whatever kind of file holds them: the cells of the wanted columns, and where each row is."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agents.replay.tables.problems import CellError, Place
from pipeline.errors import DataError

_SHOWN_COLUMNS = 30
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row by column; with a problem, the row as a whole cannot be used."""

    place: Place
    cells: dict[str, Any]
    problem: CellError | None = None


def find_columns(
    path: Path, header: Sequence[str], wanted: Sequence[str], advice: Callable[[], str] = str
) -> list[int]:
    """Where the wanted columns are; raises DataError if one is missing, or occurs twice."""
    positions: dict[str, list[int]] = {}
    for at, name in enumerate(header):
        positions.setdefault(normalized(name), []).append(at)
    found = []
    missing = []
    for name in wanted:
        places = positions.get(normalized(name), [])
        if len(places) > 1:
            shown = " and ".join(str(at + 1) for at in places)
            raise DataError(
                f"{path} has column {name} more than once (columns {shown}); give all columns names with columns:, and "
                "leave the header out with skip_rows"
            )
        if places:
            found.append(places[0])
        else:
            missing.append(name)
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; {advice() or _has(header, missing)}")
    return found


def normalized(name: str) -> str:
    """A column's name with composed letters and plain blanks, as it is compared."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def _has(header: Sequence[str], missing: Sequence[str]) -> str:
    names = [_shown(name.strip()) or "(no name)" for name in header]
    folded = {name.casefold(): name for name in names}
    if close := [folded[match] for name in missing for match in get_close_matches(name.casefold(), folded, 1, 0.8)]:
        return f"did you mean {', '.join(close)}?"
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return f"it has {', '.join(names[:_SHOWN_COLUMNS])}{more}"


def _shown(name: str) -> str:
    """A column's name as errors have it: cut, and without characters that would break the line."""
    name = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}…"
    return name if name.isprintable() else ascii(name)[1:-1]
