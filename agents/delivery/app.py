"""The Faust application of a worker, without Faust's folders on disk and without its delay at the start."""

from __future__ import annotations

import faust
from faust.tables.manager import TableManager


class Tables(TableManager):
    """Faust's tables without the second that it waits at every start for tables that are declared late."""

    async def on_start(self) -> None:
        """Begin recovery at once."""
        await self._update_channels()  # private; checked with faust-streaming 0.15.3
        await self.recovery.start()


class App(faust.App):
    """Faust's application without its folders: nothing is kept on disk, so a full or read-only one does no harm."""

    def _create_directories(self) -> None:  # private; checked with faust-streaming 0.15.3
        pass
