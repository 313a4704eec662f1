"""The listening socket and its TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from agents.console.web.connections import Connection, Connections
from pipeline.errors import PortInUseError, SettingsError

_KEEP_SECONDS: Final = 60.0
_HANDSHAKE_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 2.0
_LINGER_SECONDS: Final = 2.0
"""For what may still come of a body that was refused."""

_BACKLOG: Final = 128


class Server:
    """Serves an application until it is stopped."""

    def __init__(self, application: web.Application, connections: Connections, tls: ssl.SSLContext | None) -> None:
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=_KEEP_SECONDS,
            shutdown_timeout=_STOP_SECONDS,
            lingering_time=_LINGER_SECONDS,
        )
        self._connections = connections
        self._tls = tls
        self._listening: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Begin to answer."""
        await self._runner.setup()
        handlers = self._runner.server
        assert handlers is not None
        self._listening = await asyncio.get_running_loop().create_server(
            lambda: Connection(handlers(), self._connections),
            sock=listener,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else _HANDSHAKE_SECONDS,
        )

    async def stop(self, before: Callable[[], None]) -> None:
        """Stop listening; `before` ends what would go on for ever."""
        if self._listening is not None:
            self._listening.close()
        before()
        await self._runner.cleanup()
        self._connections.abort()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises PortInUseError."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
        )
    except OSError as error:
        raise PortInUseError(
            f"cannot listen on {host}:{port} ({error.strerror}); set FAULTLINE_CONSOLE_WEB_PORT to a free port, or to 0"
        ) from error


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The server's TLS; None without a certificate. Raises SettingsError."""
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password="")  # without one OpenSSL would ask at the terminal
    except OSError as error:  # ssl.SSLError is one
        reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "not readable"
        raise SettingsError(
            f"FAULTLINE_CONSOLE_CERTIFICATE {certificate}, FAULTLINE_CONSOLE_KEY {key or certificate}: "
            f"{reason.replace('_', ' ').lower()}; both must be PEM, match, and have no password"
        ) from error
    return context
