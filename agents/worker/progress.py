"""Whether a worker makes progress: records are unread, and more and more of them are processed."""

from __future__ import annotations

from collections.abc import Callable


class Progress:
    """Measures how long nothing has been processed although there are unread records."""

    def __init__(
        self, unread: Callable[[], int], positions: Callable[[], object], monotonic_seconds: Callable[[], float]
    ) -> None:
        """`unread` counts records; `positions` are different ones whenever some were processed."""
        self._unread = unread
        self._positions = positions
        self._monotonic_seconds = monotonic_seconds
        self._last: object = None
        self._since = monotonic_seconds()

    def stalled_seconds(self) -> float:
        """0 while everything is processed; to be asked often."""
        now = self._monotonic_seconds()
        if not self._unread():
            self._last, self._since = None, now
            return 0.0
        positions = self._positions()
        if positions != self._last:
            self._last, self._since = positions, now
        return now - self._since

    def problem(self, limit_seconds: float) -> str | None:
        """What is wrong if nothing has been processed for longer than this."""
        stalled = self.stalled_seconds()
        return (
            None
            if stalled <= limit_seconds
            else f"no progress in {stalled:.0f} s, with {self._unread():,} records unread"
        )
