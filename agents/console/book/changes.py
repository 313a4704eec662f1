"""What has changed since which version, for pages that ask for updates."""

from __future__ import annotations

from agents.console.book.bounded import ChangeLog, Limits


class Changes:
    """The version of the picture, and with which version machines, areas and alarms changed last."""

    def __init__(self, limits: Limits) -> None:
        self.version = 0
        self.tiles = ChangeLog(limits.changes)
        self.areas = ChangeLog(limits.changes)
        self.alarms = ChangeLog(limits.changes)
        """By machine or utility."""
        self.rows = ChangeLog(limits.changes)
        """Keys of rows of alarms that are no more."""
        self.status_version = 0
        self.alarms_version = 0

    def next(self) -> int:
        """A new version."""
        self.version += 1
        return self.version

    def note_tile(self, machine: str) -> None:
        """A machine's tile has changed with this version."""
        self.tiles.note(machine, self.version)

    def note_area(self, area: str) -> None:
        """An area has changed with this version."""
        self.areas.note(area, self.version)

    def note_alarms(self, machine: str) -> None:
        """Alarms of a machine or a utility have changed with this version."""
        self.alarms.note(machine, self.version)
        self.alarms_version = self.version

    def note_status(self) -> None:
        """The status has changed with this version."""
        self.status_version = self.version

    def knows(self, version: int) -> bool:
        """Whether all that changed after this version is remembered."""
        logs = (self.tiles, self.areas, self.alarms, self.rows)
        return version <= self.version and all(log.knows(version) for log in logs)
