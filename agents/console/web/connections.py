"""Open connections: how many there may be, and how long one may ask for nothing."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

MAX_CONNECTIONS: Final = 512
REQUEST_SECONDS: Final = 10.0
"""From the connection, and thus with the handshake of TLS, to the end of the first request's headers."""


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
    """One connection: what serves it, and the time within which it must have a request.

    It is counted from its first moment on. A server of asyncio with TLS would tell of it only after the handshake, and
    connections without one would take all that the process may open.
    """

    def __init__(self, handler: Any, connections: Connections, tls: ssl.SSLContext | None = None) -> None:
        """`handler` is aiohttp's, which itself would wait for the first request for ever."""
        self.rank = 0
        """0 without a request, 1 with one, 2 with one from somebody known."""
        self._handler = handler
        self._connections = connections
        self._tls = tls
        self._handshake: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        """What came with the end of the handshake."""
        self._is_served = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport, self)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.abort)
        if self._tls is None:
            self._serve(transport)
        else:
            transport.pause_reading()
            self._handshake = asyncio.create_task(self._secure(transport, self._tls))

    async def _secure(self, plain: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Serve it when it has a handshake of TLS; one without is closed by the timer, or by the other end."""
        try:
            secured = await asyncio.get_running_loop().start_tls(plain, self, tls, server_side=True)
        except OSError:  # ssl.SSLError is one
            secured = None
        self._connections.remove(plain)
        if secured is None:
            self._cancel_timer()
            plain.abort()
            return
        self._transport = secured
        self._connections.add(secured, self)
        self._serve(secured)

    def _serve(self, transport: asyncio.Transport) -> None:
        self._is_served = True
        self._handler.connection_made(transport)
        for data in self._early:
            self._handler.data_received(data)
        self._early = []

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
        if self._is_served:
            self._handler.data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool | None:
        return self._is_served and bool(self._handler.eof_received())

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_timer()
        self._connections.remove(self._transport)
        if self._is_served:
            self._handler.connection_lost(error)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
