"""Open connections: how many there may be, and how long one may ask for nothing."""

from __future__ import annotations

import asyncio
from typing import Any, Final

MAX_CONNECTIONS: Final = 512
REQUEST_SECONDS: Final = 10.0
"""From the connection to the end of the first request's headers."""


class Connections:
    """All connections of a server. Of too many, the oldest one gives way that nobody known has used."""

    def __init__(self) -> None:
        self._open: dict[Any, Connection] = {}  # oldest first

    def add(self, transport: asyncio.Transport, connection: Connection) -> None:
        """A connection has begun."""
        while len(self._open) >= MAX_CONNECTIONS:
            min(self._open.values(), key=lambda one: one.rank).abort()
        self._open[transport] = connection

    def remove(self, transport: asyncio.Transport | None) -> None:
        """A connection is over."""
        self._open.pop(transport, None)

    def seen(self, transport: asyncio.BaseTransport | None, *, is_known: bool) -> None:
        """A request has come on this connection, from somebody known or not."""
        if (connection := self._open.get(transport)) is not None:
            connection.seen(is_known=is_known)

    def abort(self) -> None:
        """Close all at once."""
        for connection in list(self._open.values()):
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection: what serves it, and the time within which it must have a request."""

    def __init__(self, handler: Any, connections: Connections) -> None:
        """`handler` is aiohttp's, which itself would wait for the first request for ever."""
        self.rank = 0
        """0 without a request, 1 with one, 2 with one from somebody known."""
        self._handler = handler
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport, self)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.abort)
        self._handler.connection_made(transport)

    def seen(self, *, is_known: bool) -> None:
        """A request has come."""
        self.rank = max(self.rank, 2 if is_known else 1)
        self._cancel_timer()

    def abort(self) -> None:
        """Close it at once."""
        self._connections.remove(self._transport)
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return bool(self._handler.eof_received())

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_timer()
        self._connections.remove(self._transport)
        self._handler.connection_lost(error)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
