"""Collections of limited size, whose content does not depend on the order in which partitions were read."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a book keeps, at most."""

    machines: int = 20_000
    changes: int = 50_000
    """Machines and rows of alarms whose last change is remembered for pages that ask for updates."""
    names: int = 64
    """Alarms, drifts, and what is shelved or out of service, of one machine; changes of settings of all machines."""
    ids: int = 64
    """Records of one machine's alarms, or drift, by whose ids repeated ones are recognised."""
    recent: int = 300
    """Alarms that are over; labels and ended drifts: as many."""
    alarm_changes: int = 100
    """Changes of one alarm."""
    raised: int = 20_000
    """Times at which alarms were raised, over all machines."""
    incidents: int = 2_000
    models: int = 50
    intervals: int = 2_000
    """Metrics of one model, over all partitions."""


class Newest(Generic[Value]):
    """At most `limit` values, each by its id: those with the latest times, and of equal ones the largest ids."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._order: list[tuple[int, str]] = []
        self._values: dict[str, tuple[int, Value]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._values

    def put(self, id_: str, time_ms: int, value: Value) -> bool:
        """Add a value, or replace the one of this id; returns whether it is among the newest."""
        self.remove(id_)
        if len(self._order) >= self._limit:
            if (time_ms, id_) < self._order[0]:
                return False
            del self._values[self._order.pop(0)[1]]
        insort(self._order, (time_ms, id_))
        self._values[id_] = time_ms, value
        return True

    def remove(self, id_: str) -> None:
        """Drop the value of this id, if there is one."""
        if (found := self._values.pop(id_, None)) is not None:
            del self._order[bisect_left(self._order, (found[0], id_))]

    def get(self, id_: str) -> Value | None:
        """The value of this id."""
        found = self._values.get(id_)
        return None if found is None else found[1]

    def since(self, time_ms: int) -> Iterator[Value]:
        """Values of this time and later ones, the oldest first."""
        for _, id_ in self._order[bisect_left(self._order, (time_ms, "")) :]:
            yield self._values[id_][1]

    def __iter__(self) -> Iterator[Value]:
        """The newest first."""
        for _, id_ in reversed(self._order):
            yield self._values[id_][1]


class SeenIds:
    """Ids of the records that came last."""

    __slots__ = ("_ids", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ids: dict[str, None] = {}

    def is_new(self, id_: str) -> bool:
        """Whether this one is not among them; it is from now on."""
        if id_ in self._ids:
            return False
        self._ids[id_] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]
        return True


class ChangeLog:
    """What changed last, in the order of the versions with which it did."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0

    def note(self, name: str, version: int) -> None:
        """This has changed; versions never decrease."""
        self._versions[name] = version
        self._versions.move_to_end(name)
        if len(self._versions) > self._limit:
            self._forgotten = self._versions.popitem(last=False)[1]

    def knows(self, version: int) -> bool:
        """Whether everything is remembered that has changed after this version."""
        return version >= self._forgotten

    def since(self, version: int) -> list[str]:
        """What has changed after this version, the last change first."""
        found = []
        for name in reversed(self._versions):
            if self._versions[name] <= version:
                break
            found.append(name)
        return found

    @property
    def newest(self) -> int:
        """The version of the last change."""
        return self._versions[next(reversed(self._versions))] if self._versions else self._forgotten
