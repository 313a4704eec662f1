"""The Faust application of a worker, without Faust's folders on disk and without its delay at the start."""

from __future__ import annotations

from typing import Any

import faust
from faust.tables.manager import TableManager

from pipeline.config.settings import Settings


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


def worker_app(settings: Settings, credentials: Any) -> App:
    """The application of a worker, without agents yet; `credentials` are Faust's, None without security."""
    return App(
        settings.group,
        broker=settings.broker if settings.is_memory else f"kafka://{settings.address.replace(',', ';kafka://')}",
        broker_credentials=credentials,
        broker_commit_interval=settings.commit_interval_ms / 1000,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.session_timeout_ms / 10_000,
        consumer_group_instance_id=settings.group_instance_id,
        store="memory://",
        TableManager=Tables,
        topic_partitions=settings.partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        web_enabled=False,
        autodiscover=False,
        loghandlers=[],
    )
