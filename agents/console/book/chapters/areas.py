"""Areas as their newest diagnoses say: the cause, each utility, and machines in the light of their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.console.book.published import SeenAnswer, SeenArea, SeenCause
from pipeline.config.profile import PlantProfile
from pipeline.config.sections.areas import utility_id


@dataclass(slots=True)
class SeenUtility:
    """A utility, and since when it is so."""

    fault: str | None = None
    """None while it is not the most probable cause."""
    since_ms: int = 0
    probability: float = 0.0


@dataclass(slots=True)
class AreaState:
    """An area of which there was a diagnosis."""

    newest: SeenArea
    cause_since_ms: int
    utilities: dict[str, SeenUtility] = field(default_factory=dict)
    """By their ids."""


class AreaBook:
    """The newest diagnosis of every declared area."""

    def __init__(self, profile: PlantProfile) -> None:
        self._profile = profile
        self._area_of = profile.area_of
        self._areas: dict[str, AreaState] = {}

    def take(self, seen: SeenArea) -> set[str] | None:
        """Take an area's diagnosis; returns the machines whose corrected answers changed, None if it is no news.

        Areas that the profile does not have are foreign: they are no news either.
        """
        declared = self._profile.areas.get(seen.area)
        before = self._areas.get(seen.area)
        if declared is None or (before is not None and seen.frame_end <= before.newest.frame_end):
            return None
        is_same = before is not None and _named(before.newest.cause) == _named(seen.cause)
        since_ms = before.cause_since_ms if before is not None and is_same else seen.frame_start
        state = AreaState(seen, since_ms, {} if before is None else before.utilities)
        shares = {one.name: one.probability for one in seen.causes if one.kind == "utility"}
        for name in declared.utilities:
            fault = seen.cause.fault if (seen.cause.kind, seen.cause.name) == ("utility", name) else None
            known = state.utilities.get(id_ := utility_id(seen.area, name))
            if known is None or known.fault != fault:
                known = state.utilities[id_] = SeenUtility(fault, seen.frame_start)
            known.probability = shares.get(name, 0.0)
        self._areas[seen.area] = state
        answers = {} if before is None else before.newest.machines
        return {one for one in declared.all_machines if seen.machines.get(one) != answers.get(one)}

    def get(self, area: str) -> AreaState | None:
        """An area; None before its first diagnosis."""
        return self._areas.get(area)

    def corrected(self, machine: str) -> SeenAnswer | None:
        """What a machine is in the light of its neighbours; None outside areas."""
        state = self._areas.get(self._area_of.get(machine, ""))
        return None if state is None else state.newest.machines.get(machine)

    @property
    def area_of(self) -> Mapping[str, str]:
        """The declared area of each machine that is in one."""
        return self._area_of


def _named(cause: SeenCause) -> tuple[str, str | None, str | None]:
    return cause.kind, cause.name, cause.fault
