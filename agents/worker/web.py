"""The worker's own web server: /metrics for Prometheus, /healthz and /readyz for supervisors.

It answers GET and HEAD. Every request has a time and a size within which it must have come, and when there are too
many connections the oldest one gives way, so that clients that never finish cannot keep others out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from wsgiref.types import WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from pipeline.errors import PortInUseError


class Answer(NamedTuple):
    """What a probe says."""

    ok: bool
    text: str


Probe = Callable[[], Answer]

MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16_384
"""Request line and headers."""

REQUEST_SECONDS: Final = 5.0
"""From the connection to the end of the headers."""

ANSWER_SECONDS: Final = 20.0
"""To take the answer."""

_METHODS: Final = ("GET", "HEAD")

log = logging.getLogger("faultline.web")


class _Page(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes


class WebServer:
    """Serves a registry and two probes from a thread of its own."""

    def __init__(self, registry: CollectorRegistry, *, health: Probe, ready: Probe) -> None:
        self._metrics = make_wsgi_app(registry)
        self._probes = {"/healthz": health, "/readyz": ready}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}  # of the open connections, oldest first

    def start(self, host: str, port: int) -> int:
        """Begin to listen; returns the port. Raises PortInUseError if the port is taken."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            raise PortInUseError(
                f"cannot listen on {host}:{port} ({error.strerror}); set FAULTLINE_WEB_PORT to a free port, or to 0"
            ) from error
        self._loop = asyncio.new_event_loop()
        serving = threading.Event()
        arguments = self._loop, listener, serving
        self._thread = threading.Thread(target=self._run, args=arguments, name="web", daemon=True)
        self._thread.start()
        serving.wait()
        return int(listener.getsockname()[1])

    def stop(self) -> None:
        """Stop listening."""
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            self._loop = self._thread = None
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, serving: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            starting = asyncio.start_server(self._serve, sock=listener, limit=MAX_HEAD_BYTES)
            server = loop.run_until_complete(starting)
            loop.call_soon(serving.set)
            loop.run_forever()
            server.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            serving.set()
            asyncio.set_event_loop(None)
            loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= MAX_CONNECTIONS:
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            oldest.cancel()
        self._tasks[task] = None
        try:
            await self._answer_one(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.pop(task, None)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return  # it has gone
        except asyncio.LimitOverrunError:
            answer = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long")
        except TimeoutError:
            answer = _plain(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")
        else:
            method, answer = self._answer(head)
        body = b"" if method == "HEAD" else answer.body
        lines = [f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in answer.headers)]
        lines += [f"Content-Length: {len(answer.body)}", "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        writer.write(body)
        async with asyncio.timeout(ANSWER_SECONDS):
            await writer.drain()
            writer.write_eof()
            # What the client still sends is taken, since closing a socket with unread bytes would reset the answer.
            for _ in range(MAX_CONNECTIONS):
                if not await reader.read(MAX_HEAD_BYTES):
                    break

    def _answer(self, head: bytes) -> tuple[str, _Page]:
        """The method of a request and the answer to it."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not target:
            return method, _plain(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request")
        if method not in _METHODS:
            refusal = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered")
            return method, refusal._replace(headers=[*refusal.headers, ("Allow", ", ".join(_METHODS))])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        try:
            address = urlsplit(target)
            if address.path == "/metrics":
                return method, self._page(address.query, headers)
            if (probe := self._probes.get(address.path)) is not None:
                found = probe()
                return method, _plain(HTTPStatus.OK if found.ok else HTTPStatus.SERVICE_UNAVAILABLE, found.text)
        except ValueError:  # as in http://[
            return method, _plain(HTTPStatus.BAD_REQUEST, "this address is not valid")
        except Exception:
            log.exception("cannot answer %s", target[:200])
            return method, _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "the answer failed; the worker's log says why")
        return method, _plain(HTTPStatus.NOT_FOUND, "only /metrics, /healthz and /readyz are here")

    def _page(self, query: str, headers: dict[str, str]) -> _Page:
        """The metrics in the form that the client prefers."""
        environ: WSGIEnvironment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": query}
        for name in ("accept", "accept-encoding"):
            if name in headers:
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = headers[name]
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, given: list[tuple[str, str]], *_: object) -> Callable[[bytes], object]:
            began.append((status, given))
            return lambda _: None

        parts: Iterable[bytes] = self._metrics(environ, start_response)
        return _Page(*began[0], b"".join(parts))


def _plain(status: HTTPStatus, text: str) -> _Page:
    line = " ".join(text.split()).encode(errors="replace") + b"\n"
    return _Page(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")], line)
