"""Modalities of a machine type: groups of variables that each answer on their own, beside all variables and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from pipeline.config.sections.titles import Part, Title, is_pattern
from pipeline.files.yaml_fields import did_you_mean

MAX_MODALITIES: Final = 16
RESERVED_MODALITIES: Final = ("sensors", "text", "fusion", "late", "detector", "fused")
"""What models, their scores and their margins call something else."""

Pattern = Annotated[str, Field(min_length=1, max_length=100)]


class Modality(Part):
    """A group of variables, such as those of valves or of a laboratory."""

    title: Title | None = None
    variables: tuple[Pattern, ...] = Field(min_length=1)
    """Names, or shell patterns over names."""


def modality_columns(modalities: Mapping[str, Modality], names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The places of each modality's variables among all `names`; raises ValueError for one that is in none or two."""
    if reserved := sorted(modalities.keys() & set(RESERVED_MODALITIES)):
        raise ValueError(f"modality {reserved[0]}: diagnoses use this name for something else; rename it")
    if len(modalities) > MAX_MODALITIES:
        raise ValueError(f"there are {len(modalities)} modalities, and {MAX_MODALITIES} at most are possible")
    owners: dict[str, str] = {}
    columns: dict[str, tuple[int, ...]] = {}
    for modality, declared in modalities.items():
        chosen: set[str] = set()
        for pattern in declared.variables:
            found = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
            if not found and is_pattern(pattern):
                raise ValueError(f"modality {modality}: no variable matches {pattern!r}")
            if not found:
                raise ValueError(
                    f"modality {modality}: there is no variable {pattern!r}; {did_you_mean(pattern, tuple(names))}"
                )
            chosen |= found
        for name in sorted(chosen):
            if name in owners:
                raise ValueError(f"variable {name} is in the modalities {owners[name]} and {modality}; leave one out")
            owners[name] = modality
        columns[modality] = tuple(place for place, name in enumerate(names) if name in chosen)
    return columns


class Cells(NamedTuple):
    """Variables by component and modality: what one gateway or cabinet of a component loses together."""

    columns: tuple[tuple[int, ...], ...]
    """Of each cell the places of its variables among all, ascending."""
    units: tuple[int, ...]
    """Of each cell its unit: cells of the same component are of the same one."""


def cells_of(components: Sequence[str | None], modalities: Mapping[str, Modality], names: Sequence[str]) -> Cells:
    """Cells of variables with these names and components, in the order of their first variables.

    A variable without a component is a unit by itself if it has no modality either, else one with its modality.
    """
    modality_of = {column: modality for modality, own in modality_columns(modalities, names).items() for column in own}
    cells: dict[tuple[str | None, str | None, int | None], list[int]] = {}
    units: dict[tuple[str | None, str | None, int | None], int] = {}
    of_cells: list[int] = []
    for column, component in enumerate(components):
        modality = modality_of.get(column)
        alone = column if component is None and modality is None else None
        key = (component, modality, alone)
        if key not in cells:
            unit = (component, None if component is not None else modality, alone)
            of_cells.append(units.setdefault(unit, len(units)))
        cells.setdefault(key, []).append(column)
    return Cells(tuple(map(tuple, cells.values())), tuple(of_cells))
