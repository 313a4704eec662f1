"""The console's server with a small plant behind it, and browsers that come to it by real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from agents.console.actions.requests import ActionKind, AlarmRequest, LabelRequest
from agents.console.errors import NotFoundError
from agents.console.web.access.access import access_of
from agents.console.web.application import ConsoleApplication
from agents.console.web.connections import Connections
from agents.console.web.files import PageFiles
from agents.console.web.guard import CSRF_HEADER, Guard
from agents.console.web.metrics import ConsoleCounts
from agents.console.web.server import Server, listen, tls_context
from agents.worker.web import Answer
from pipeline.config.settings import load_settings

WALL_MS = 1_793_592_360_000


class Update(msgspec.Struct):
    """What has changed in a small plant."""

    version: int
    machines: dict[str, Any] | None
    areas: dict[str, Any] | None = None
    alarms: dict[str, Any] | None = None
    reload: bool = False


class SmallBook:
    """Machines that each have one number, and the version at which it came."""

    def __init__(self) -> None:
        self.version = 0
        self.values: dict[str, tuple[int, int]] = {}
        self.oldest = 0
        self.read_ms = WALL_MS
        self.asked: list[int] = []
        self.padding = ""

    def set(self, machine: str, value: int) -> None:
        self.version += 1
        self.values[machine] = value, self.version

    def _tiles(self, since: int = 0) -> list[dict[str, Any]]:
        return [
            {"id": machine, "value": value, "text": self.padding}
            for machine, (value, version) in self.values.items()
            if version > since
        ]

    def plant(self) -> dict[str, Any]:
        return {"version": self.version, "machines": self._tiles()}

    def alarms(self) -> dict[str, Any]:
        return {"version": self.version, "active": []}

    def data(self) -> dict[str, Any]:
        return {"sources": []}

    def models(self) -> dict[str, Any]:
        return {"models": []}

    def incidents(self, machine: str | None = None, limit: int = 100) -> dict[str, Any]:
        return {"machine": machine, "limit": limit}

    def status(self) -> dict[str, Any]:
        return {"connected": True, "read_ms": self.read_ms}

    def updates(self, since: int) -> Update:
        self.asked.append(since)
        if since < self.oldest:
            return Update(self.version, None, reload=True)
        return Update(self.version, {"version": self.version, "machines": self._tiles(since), "removed": []})


class SmallHistory:
    """Answers with what it was asked; explaining takes until it is let go."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.explaining = 0

    async def machine(self, machine: str, from_ms: int | None, until_ms: int | None, variables: Sequence[str]) -> Any:
        if machine == "nobody":
            raise NotFoundError("there is no machine 'nobody'", do="choose one that the plant has")
        return {"machine": machine, "from_ms": from_ms, "until_ms": until_ms, "variables": list(variables)}

    async def why(self, diagnosis_id: str) -> Any:
        self.explaining += 1
        await self.gate.wait()
        return {"diagnosis": diagnosis_id}


class SmallDesk:
    """Remembers what people did."""

    def __init__(self) -> None:
        self.done: list[tuple[str, AlarmRequest | LabelRequest, str]] = []

    async def act(self, kind: ActionKind, request: AlarmRequest, by: str, wall_ms: int) -> Any:
        self.done.append((kind, request, by))
        return {"written": {"topic": "control", "records": []}, "at": wall_ms}

    async def label(self, request: LabelRequest, by: str, wall_ms: int) -> Any:
        self.done.append(("label", request, by))
        return {"written": {"topic": "labels", "records": []}}


class ConsoleSite:
    """A running server."""

    def __init__(self, port: int, *, scheme: str = "http") -> None:
        self.book = SmallBook()
        self.history = SmallHistory()
        self.desk = SmallDesk()
        self.counts = ConsoleCounts()
        self.port = port
        self.origin = f"{scheme}://127.0.0.1:{port}"


class Browser:
    """A client with cookies that does what a page does, unless a test has it do otherwise."""

    def __init__(self, client: aiohttp.ClientSession, origin: str) -> None:
        self.client = client
        self.origin = origin
        self.session: dict[str, Any] = {}

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status, and the document or text."""
        async with self.client.get(self.origin + path, headers=headers, allow_redirects=False) as answer:
            return answer.status, await _content(answer)

    async def begin(self, headers: Mapping[str, str] | None = None) -> Browser:
        """Load the session, as each page does first."""
        status, self.session = await self.get("/api/session", headers)
        assert status == 200, self.session
        return self

    async def post(self, path: str, body: Any, **changes: str | None) -> tuple[int, Any]:
        """Post as a page does; `changes` are other headers, None to leave one out."""
        headers = {
            "Origin": self.origin,
            CSRF_HEADER: self.session.get("csrf"),
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        sent = {name: value for name, value in headers.items() if value is not None}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(
            self.origin + path, data=data, headers=sent, skip_auto_headers=["Content-Type"]
        ) as answer:
            return answer.status, await _content(answer)

    async def login(self, token: str) -> tuple[int, Any]:
        """Log in as the page does."""
        await self.begin()
        status, answer = await self.post("/api/login", {"token": token})
        if status == 200:
            self.session = answer
        return status, answer


async def _content(answer: aiohttp.ClientResponse) -> Any:
    return await answer.json() if answer.content_type == "application/json" else await answer.text()


@asynccontextmanager
async def console_site(seconds: Callable[[], float] = time.monotonic, **settings: Any) -> AsyncIterator[ConsoleSite]:
    """Serve a small plant with these settings of the console."""
    chosen = load_settings(**{f"console_{name}": value for name, value in settings.items()})
    tls = tls_context(chosen.console_certificate, chosen.console_key)
    listener = listen(chosen.console_web_host, 0)
    site = ConsoleSite(int(listener.getsockname()[1]), scheme="http" if tls is None else "https")
    connections = Connections()
    guard = Guard(
        access_of(chosen, seconds),
        connections,
        site.counts,
        has_tls=tls is not None,
        read_only=chosen.console_read_only,
        port=site.port,
    )
    made = ConsoleApplication(
        guard,
        PageFiles(),
        site.book,
        site.history,
        site.desk,
        site.counts,
        about={"plant": "small"},
        boot="b0",
        clock_ms=lambda: WALL_MS,
        health=lambda: Answer(True, "working"),
        ready=lambda: Answer(True, "ok"),
    )
    server = Server(made.application, connections, tls)
    await server.start(listener)
    try:
        yield site
    finally:
        await server.stop(made.updates.close)


@asynccontextmanager
async def browser(
    site: ConsoleSite, *, host: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Browser]:
    """A browser; `host` is the address that it comes from."""
    jar = aiohttp.CookieJar(unsafe=True)  # which takes cookies of addresses
    connector = aiohttp.TCPConnector(local_addr=None if host is None else (host, 0), ssl=tls or True)
    async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as client:
        yield Browser(client, site.origin)


class Stream:
    """The events of /api/updates as a browser gets them."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.last_id = ""

    async def next(self, name: str | None = None) -> Any:
        """The data of the next event, or the next one of a kind."""
        async with asyncio.timeout(10):
            while True:
                fields = await self._fields()
                if name in (None, fields.get("event")) and "event" in fields:
                    data = json.loads(fields["data"])
                    return (fields["event"], data) if name is None else data

    async def _fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while line := (await self.answer.content.readline()).decode().rstrip("\n"):
            key, _, value = line.partition(": ")
            fields[key] = value
        if not fields and self.answer.content.at_eof():
            raise ConnectionError("the stream has ended")
        self.last_id = fields.get("id", self.last_id)
        return fields


@asynccontextmanager
async def stream(who: Browser, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    """Follow the updates."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    timeout = aiohttp.ClientTimeout(total=None)
    async with who.client.get(f"{who.origin}/api/updates{query}", headers=given, timeout=timeout) as answer:
        assert answer.status == 200, await answer.text()
        yield Stream(answer)


def token(number: int = 0) -> str:
    """A token that nobody would guess."""
    return f"token-of-somebody-{number:04}"
