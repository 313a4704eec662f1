"""What people do: alarms that they acknowledge, shelve or comment, and what they found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from agents.console.actions.requests import ACTION_KINDS, ActionKind, AlarmRequest, LabelRequest
from agents.console.errors import TookTooLongError
from agents.console.web.bodies import read_body
from agents.console.web.guard import IDENTITY
from agents.console.web.metrics import ConsoleCounts

SEND_SECONDS: Final = 15.0

log = logging.getLogger("faultline.console")


class Desk(Protocol):
    """Where actions are written down."""

    async def act(self, kind: ActionKind, request: AlarmRequest, by: str, wall_ms: int) -> Any:
        """Do something with alarms."""

    async def label(self, request: LabelRequest, by: str, wall_ms: int) -> Any:
        """Say what a machine had."""


class Posts:
    """Answers to POST. Who does it is whom access control has found, whatever the page says."""

    def __init__(self, desk: Desk, counts: ConsoleCounts, clock_ms: Callable[[], int]) -> None:
        self._desk = desk
        self._counts = counts
        self._clock_ms = clock_ms

    async def act(self, request: web.Request) -> web.Response:
        """Do something with alarms."""
        kind = next(kind for kind in ACTION_KINDS if kind == request.match_info["kind"])
        body = await read_body(request, AlarmRequest)
        by = request[IDENTITY].user
        return await self._written(kind, body, by, self._desk.act(kind, body, by, self._clock_ms()))

    async def label(self, request: web.Request) -> web.Response:
        """Say what a machine had."""
        body = await read_body(request, LabelRequest)
        by = request[IDENTITY].user
        return await self._written("label", body, by, self._desk.label(body, by, self._clock_ms()))

    async def _written(self, kind: str, body: AlarmRequest | LabelRequest, by: str, sending: Any) -> web.Response:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                written = await sending
        except TimeoutError:
            raise TookTooLongError(
                f"the broker has not confirmed this within {SEND_SECONDS:.0f} s, and may still do so",
                do="look whether it has come, and do it again if not",
            ) from None
        self._counts.actions[kind] += 1
        log.info("%r: %s %r", by, kind, msgspec.json.encode(body).decode())
        return web.Response(status=202, body=msgspec.json.encode(written), content_type="application/json")
