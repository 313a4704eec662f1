"""The frames before an answer with the machine's state before them, and the groups of evidence that they hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from models.configs.diagnoser import SENSORS, TEXT
from pipeline.config.profile import MachineType
from pipeline.config.sections.modalities import modality_columns
from pipeline.frames import EventText, Frames

Kind = Literal["variable", "text", "word", "component", "modality"]


class Group(NamedTuple):
    """Evidence that is left out together."""

    kind: Kind
    name: str
    """Of a variable, component or modality its id, of a text the text."""
    columns: tuple[int, ...] = ()
    """Variables."""
    texts: frozenset[str] = frozenset()
    """The texts, as they were written."""


@dataclass(frozen=True, slots=True)
class Window:
    """The last W frames of one machine, oldest first and of one row each, and its state before the first of them."""

    frames: tuple[Frames, ...]
    state: bytes

    def __post_init__(self) -> None:
        if not self.frames or any(len(one.slots) != 1 for one in self.frames):
            raise ValueError("a window needs at least one frame, and each of one machine")
        if any(bool(one.reset[0]) for one in self.frames[1:]):
            raise ValueError("a reset is only possible in the first frame of a window")

    @property
    def starts_fresh(self) -> bool:
        """Whether the machine is reset before the window, so that the state does not count."""
        return bool(self.frames[0].reset[0])

    @property
    def texts(self) -> list[tuple[int, EventText]]:
        """The texts of the window with the places of their frames."""
        return [(place, text) for place, one in enumerate(self.frames) for _, text in one.texts]


class WindowKeeper:
    """Keeps the last W frames that one slot was stepped with, and the state before each, where it may begin."""

    def __init__(self, length: int) -> None:
        """`length` is W."""
        self._kept: deque[tuple[Frames, bytes]] = deque(maxlen=length)

    def add(self, frames: Frames, state: bytes) -> None:
        """One frame, of one row, and the state before it; what was before a reset no longer counts."""
        if bool(frames.reset[0]):
            self._kept.clear()
        self._kept.append((frames, state))

    def window(self) -> Window | None:
        """The frames so far; None before the first."""
        return Window(tuple(one for one, _ in self._kept), self._kept[0][1]) if self._kept else None


def groups_of(machine_type: MachineType, modalities: Sequence[str], window: Window) -> list[Group]:
    """What can be left out of a window: each variable that is known in it and each text, then components by the
    profile, and modalities."""
    known = np.zeros(len(machine_type.variables), np.bool_)
    for one in window.frames:
        known |= ~np.isnan(one.values[0])
    names, by_component = machine_type.variable_names, columns_of_components(machine_type)
    groups = [Group("variable", names[column], (column,)) for column in np.flatnonzero(known).tolist()]
    # Without the text modality too: a network may count messages beside the readings.
    texts = dict.fromkeys(text.text for _, text in window.texts)
    groups += [Group("text", text, texts=frozenset([text])) for text in texts]
    for name, columns in by_component.items():
        if any(known[column] for column in columns):
            groups.append(Group("component", name, columns))
    for name, columns in modality_columns(machine_type.modalities, names).items():
        if name in modalities and any(known[column] for column in columns):
            groups.append(Group("modality", name, columns))
    if SENSORS in modalities and known.any():
        groups.append(Group("modality", SENSORS, tuple(range(len(known)))))
    if texts and TEXT in modalities:
        groups.append(Group("modality", TEXT, texts=frozenset(texts)))
    return groups


def columns_of_components(machine_type: MachineType) -> dict[str, tuple[int, ...]]:
    """The variables of each component of a machine type that has some."""
    columns: dict[str, list[int]] = {}
    for column, variable in enumerate(machine_type.variables):
        if variable.component is not None:
            columns.setdefault(variable.component, []).append(column)
    return {name: tuple(columns[name]) for name in machine_type.components if name in columns}
