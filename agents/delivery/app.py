"""The Faust application of a worker, without Faust's folders on disk and without its delay at the start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import faust
from faust.tables.manager import TableManager

from pipeline.config.settings import Settings

log = logging.getLogger("faultline.worker")

_STOP_SECONDS = 6.0
"""How long Faust may take to stop; usually that is a few milliseconds."""


_REQUEST_SECONDS = 90.0
"""How long an answer of the broker may take; joining a group waits for all of its members."""


class Tables(TableManager):
    """Faust's tables without the second that it waits at every start for tables that are declared late."""

    async def on_start(self) -> None:
        """Begin recovery at once."""
        await self._update_channels()  # private; checked with faust-streaming 0.15.3
        await self.recovery.start()


class App(faust.App):
    """Faust's application without its folders: nothing is kept on disk, so a full or read-only one does no harm."""

    on_crash: Callable[[BaseException], None] | None = None
    """Told of what ends any part of the application, in any thread."""

    def _crash(self, reason: BaseException) -> None:  # private; checked with mode-streaming 0.7.1
        super()._crash(reason)  # type: ignore[misc]
        if self.on_crash is not None:
            self.on_crash(reason)

    def _create_directories(self) -> None:  # private; checked with faust-streaming 0.15.3
        pass


async def stop_app(app: App) -> None:
    """Leave the group and end all of the application's tasks; what does not end in time is left to itself."""
    stopping = asyncio.create_task(app.stop())
    done, _ = await asyncio.wait({stopping}, timeout=_STOP_SECONDS)
    if not done:
        stopping.cancel()
        log.warning("Faust has not stopped within %.0f s", _STOP_SECONDS)
    elif (error := stopping.exception()) is not None:
        log.warning("Faust has not stopped in order: %r", error)


def worker_app(settings: Settings, credentials: Any, on_crash: Callable[[BaseException], None] | None = None) -> App:
    """The application of a worker, without agents yet; `credentials` are Faust's, None without security.

    `on_crash` is told of errors that end a part of the application.
    """
    app = App(
        settings.group,
        broker=settings.broker if settings.is_memory else f"kafka://{settings.address.replace(',', ';kafka://')}",
        broker_credentials=credentials,
        broker_commit_interval=settings.commit_interval_ms / 1000,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        # Faust refuses one that is shorter than the session timeout.
        broker_request_timeout=max(_REQUEST_SECONDS, settings.session_timeout_ms / 1000 + 30),
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
    app.on_crash = on_crash
    return app
