"""The addresses of the console and what answers each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from agents.console.actions.requests import ACTION_KINDS
from agents.console.web.accounts import Accounts
from agents.console.web.bodies import MAX_BODY_BYTES
from agents.console.web.documents import Book, Documents, History
from agents.console.web.files import PageFiles
from agents.console.web.guard import Guard
from agents.console.web.metrics import ConsoleCounts
from agents.console.web.posts import Desk, Posts
from agents.console.web.updates import Updates, session_seconds
from agents.worker.web import Probe


class ConsoleApplication:
    """One console's application for aiohttp."""

    def __init__(
        self,
        guard: Guard,
        files: PageFiles,
        book: Book,
        history: History,
        desk: Desk,
        counts: ConsoleCounts,
        *,
        about: Mapping[str, object],
        boot: str,
        clock_ms: Callable[[], int],
        health: Probe,
        ready: Probe,
    ) -> None:
        """`clock_ms` is the time of what people do, `boot` differs with each start; to be made in the event loop."""
        left = session_seconds(guard.access.sessions.left_seconds)
        self.updates = Updates(book, counts, left, clock_ms, boot)
        self.application = web.Application(middlewares=[guard.middleware()], client_max_size=MAX_BODY_BYTES)
        self.application.on_response_prepare.append(guard.add_headers)
        accounts = Accounts(guard, about)
        documents, posts = Documents(book, history), Posts(desk, counts, clock_ms)
        self.application.add_routes(
            [
                web.get("/healthz", _probed(health)),
                web.get("/readyz", _probed(ready)),
                web.get("/static/{path:.+}", files.static),
                web.get("/api/session", accounts.session, allow_head=False),
                web.post("/api/login", accounts.login),
                web.post("/api/logout", accounts.logout),
                web.get("/api/updates", self.updates.stream, allow_head=False),
                web.get("/api/plant", documents.plant),
                web.get("/api/alarms", documents.alarms),
                web.get("/api/data", documents.data),
                web.get("/api/models", documents.models),
                web.get("/api/incidents", documents.incidents),
                web.get("/api/machines/{machine:.+}", documents.machine),
                web.get("/api/diagnoses/{diagnosis:.+}/why", documents.why, allow_head=False),
                web.post(f"/api/alarms/{{kind:{'|'.join(ACTION_KINDS)}}}", posts.act),
                web.post("/api/labels", posts.label),
                web.get("/", files.page),
                web.get(r"/{page:machines}/{machine:.+}", files.page),
                web.get(r"/{page:[a-z]+}", files.page),
            ]
        )


def _probed(probe: Probe) -> Handler:
    """Only the state's name: what is wrong is for /healthz on the port of the metrics."""

    async def probed(_: web.Request) -> web.StreamResponse:
        found = probe()
        return web.Response(status=200 if found.ok else 503, text=f"{'ok' if found.ok else 'not ok'}\n")

    return probed
