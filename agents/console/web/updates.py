"""Server-sent events: each browser gets what has changed since it was told last, at its own pace.

Nothing is queued for a browser. It asks the book again when the last message has left, so a slow one gets fewer and
newer messages, and one that reads nothing is let go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from agents.console.web.access.refusals import RefusedError
from agents.console.web.guard import IDENTITY
from agents.console.web.metrics import ConsoleCounts

PARTS: Final = ("machines", "areas", "alarms", "status")
PERIOD_SECONDS: Final = 0.25
"""All browsers are told at the same moments, so that what changed is written as JSON once."""

HEARTBEAT_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 30.0
"""After which a browser that reads nothing is let go."""

MAX_BROWSERS: Final = 200
_RETRY_MS: Final = 2_000
_KEPT_MESSAGES: Final = 64

log = logging.getLogger("faultline.console")


class Picture(Protocol):
    """What updates are made from: the book."""

    @property
    def version(self) -> int:
        """Of the newest change."""

    def plant(self) -> Any:
        """All machines and areas."""

    def alarms(self) -> Any:
        """All alarms."""

    def status(self) -> Any:
        """Whether the broker answers, and how far it has been read."""

    def updates(self, since: int) -> Any:
        """What has changed after a version."""


class Updates:
    """The streams of one console."""

    def __init__(
        self,
        picture: Picture,
        counts: ConsoleCounts,
        left_seconds: Callable[[web.Request], float],
        wall_ms: Callable[[], int],
        boot: str,
    ) -> None:
        """`left_seconds` is how long a request's session still lasts; `boot` differs with each start."""
        self._picture = picture
        self._counts = counts
        self._left_seconds = left_seconds
        self._wall_ms = wall_ms
        self._boot = boot
        self._closing = asyncio.Event()
        self._encoded: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()

    def close(self) -> None:
        """End all streams."""
        self._closing.set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Tell a browser what changes, until it goes."""
        wanted = _wanted(request)
        since = self._since(request)
        if self._counts.browsers >= MAX_BROWSERS:
            raise RefusedError(
                "too_many_browsers", f"{MAX_BROWSERS} pages follow this console already", do="close some of them"
            )
        self._counts.browsers += 1
        try:
            return await self._follow(request, wanted, since)
        finally:
            self._counts.browsers -= 1

    async def _follow(self, request: web.Request, wanted: Sequence[str], since: int | None) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store, no-transform",
                "X-Accel-Buffering": "no",  # nginx would keep messages back
            }
        )
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        told_s, told = 0.0, b""
        message = f"retry: {_RETRY_MS}\n\n".encode()
        try:
            while True:
                changed, since = self._changes(wanted, since)
                message += changed
                status = msgspec.json.encode(self._picture.status())
                if "status" in wanted and (changed or status != told or loop.time() - told_s >= HEARTBEAT_SECONDS):
                    message += self._event("status", since, self._with_wall(status))
                    told_s, told = loop.time(), status
                if message:
                    async with asyncio.timeout(WRITE_SECONDS):
                        await response.write(message)
                message = b""
                if self._left_seconds(request) <= 0:
                    await response.write(self._event("bye", since, b'{"code":"login"}'))
                    break
                if await self._closed_before(loop.time() // PERIOD_SECONDS * PERIOD_SECONDS + PERIOD_SECONDS):
                    break
        except TimeoutError:
            self._counts.slow += 1
            _abort(request)
        except ConnectionError:
            _abort(request)  # the browser has gone
        except Exception:  # the answer has begun, so that nothing else can be said
            log.exception("the updates of a browser end")
            _abort(request)
        return response

    async def _closed_before(self, time_s: float) -> bool:
        try:
            async with asyncio.timeout_at(time_s):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    # -- messages ------------------------------------------------------------------------------------------------

    def _changes(self, wanted: Sequence[str], since: int | None) -> tuple[bytes, int]:
        """What a browser is to be told that knows a version, and the one that it knows then."""
        if since == self._picture.version:
            return b"", since
        parts = ",".join(wanted)
        updates = None if since is None else self._picture.updates(since)
        if since is None or updates is None or updates.reload:
            version = self._picture.version
            return self._kept(("snapshot " + parts, 0, version), lambda: self._snapshot(wanted, version)), version
        return self._kept((parts, since, updates.version), lambda: self._events(wanted, updates)), updates.version

    def _kept(self, key: tuple[str, int, int], encode: Callable[[], bytes]) -> bytes:
        """A message, written as JSON once for all browsers that know the same version."""
        found = self._encoded.get(key)
        if found is None:
            found = self._encoded[key] = encode()
            while len(self._encoded) > _KEPT_MESSAGES:
                self._encoded.popitem(last=False)
        return found

    def _snapshot(self, wanted: Sequence[str], version: int) -> bytes:
        document = {"plant": self._picture.plant()} if {"machines", "areas"} & set(wanted) else {}
        if "alarms" in wanted:
            document["alarms"] = self._picture.alarms()
        if "status" in wanted:
            document["status"] = self._picture.status()
        return self._event("snapshot", version, msgspec.json.encode(document))

    def _events(self, wanted: Sequence[str], updates: Any) -> bytes:
        parts = [(name, getattr(updates, name)) for name in ("machines", "areas", "alarms") if name in wanted]
        return b"".join(
            self._event(name, updates.version, msgspec.json.encode(part)) for name, part in parts if part is not None
        )

    def _event(self, name: str, version: int, data: bytes) -> bytes:
        self._counts.events[name] += 1
        return b"event: %s\nid: %s-%d\ndata: %s\n\n" % (name.encode(), self._boot.encode(), version, data)

    def _with_wall(self, status: bytes) -> bytes:
        return b'%s,"wall_ms":%d}' % (status[:-1], self._wall_ms())

    def _since(self, request: web.Request) -> int | None:
        """The version that a browser knows; None if it knows none of this process."""
        given = request.headers.get("Last-Event-ID") or request.query.get("last", "")
        boot, _, version = given.rpartition("-")
        if boot != self._boot or not (version.isascii() and version.isdecimal() and len(version) < 17):
            return None
        return int(version) if int(version) <= self._picture.version else None


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _wanted(request: web.Request) -> list[str]:
    text = request.query.get("want")
    given = list(PARTS) if text is None else text.split(",")
    if unknown := [part for part in given if part not in PARTS]:
        raise RefusedError(
            "bad_request", f"{unknown[0][:40]!r} is none of {', '.join(PARTS)}", where="the parameter want"
        )
    return [part for part in PARTS if part in given]


def session_seconds(left: Callable[[Any], float]) -> Callable[[web.Request], float]:
    """How long the session of a request lasts: until it is over for who has logged in, else without an end."""

    def seconds(request: web.Request) -> float:
        session = request[IDENTITY].session
        return float("inf") if session is None else left(session)

    return seconds
