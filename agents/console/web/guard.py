"""What every request has to pass, and what every answer carries."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from agents.console.web.access.access import Access, Identity
from agents.console.web.access.attempts import Address
from agents.console.web.access.names import parsed_address
from agents.console.web.access.refusals import RefusedError, refusal_of
from agents.console.web.access.sessions import Session
from agents.console.web.connections import Connections
from agents.console.web.metrics import ConsoleCounts
from pipeline.errors import FaultlineError

SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "faultline",
}
"""Of every answer, so that what is in a page can neither run nor leave, whatever a text may say."""

CSRF_HEADER: Final = "X-Faultline-CSRF"
IDENTITY: Final = web.RequestKey("identity", Identity)

_OPEN_PATHS: Final = ("/api/session", "/api/login")
"""What somebody needs to log in."""

_WRITING_PATHS: Final = ("/api/alarms/", "/api/labels")

log = logging.getLogger("faultline.console")


class Guard:
    """Checks requests, and turns errors into answers."""

    def __init__(
        self,
        access: Access,
        connections: Connections,
        counts: ConsoleCounts,
        *,
        has_tls: bool,
        read_only: bool,
        port: int,
    ) -> None:
        self.access = access
        self._connections = connections
        self.read_only = read_only
        self.has_tls = has_tls
        # Cookies do not differ by port: two consoles on one machine each need a name.
        self._cookie = f"{'__Host-' if has_tls else ''}faultline_{port}"
        self._counts = counts

    # -- the way through -----------------------------------------------------------------------------------------

    def middleware(self) -> Middleware:
        """For the application; it comes before every handler."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._connections.seen(request.transport, is_known=False)
            try:
                self._check(request)
                response = await handler(request)
            except RefusedError as refusal:
                response = self._refused(request, refusal)
            except web.HTTPException as error:
                response = self._refused(request, _of_library(error))
            except FaultlineError as error:
                response = self._refused(request, refusal_of(error))
            except (ConnectionError, asyncio.CancelledError):
                raise  # the browser has gone
            except Exception:
                log.exception("cannot answer %r", request.path[:200])
                failed = RefusedError("unexpected", "the answer failed", do="the console's log says why")
                response = self._refused(request, failed)
            self._counts.requests[response.status // 100] += 1
            return response

        return guarded

    @staticmethod
    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        """To be called before the headers of an answer go out."""
        for name, value in HEADERS.items():
            response.headers[name] = value
        if request.path.startswith("/api/"):
            response.headers.setdefault("Cache-Control", "no-store")

    def _check(self, request: web.Request) -> None:
        """Raise RefusedError unless the request may be answered."""
        self._check_host(request)
        is_api = request.path.startswith("/api/")
        if is_api:
            self._check_site(request)
        elif request.method not in ("GET", "HEAD"):
            raise RefusedError("method", f"{request.method} is not answered here")
        if is_api and request.path not in _OPEN_PATHS:
            identity = self.identity(request)
            if identity is None:
                raise self._unknown()
            request[IDENTITY] = identity
            self._connections.seen(request.transport, is_known=True)
            if request.method not in ("GET", "HEAD") and not identity.is_bearer:
                self._check_post(request, identity.user)
        elif request.method not in ("GET", "HEAD"):
            self._check_post(request, self._session_user(request))
        if self.read_only and request.path.startswith(_WRITING_PATHS) and request.method not in ("GET", "HEAD"):
            raise RefusedError(
                "read_only", "this console only shows", do="use one that was started without --read-only"
            )

    def _check_host(self, request: web.Request) -> None:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not self.access.names.has(hosts[0]):
            shown = ", ".join(hosts)[:100]
            raise RefusedError(
                "host",
                f"this console is not known as {shown!r}",
                do="come by its address, by localhost, or by a name in FAULTLINE_CONSOLE_NAMES",
            )

    def _check_site(self, request: web.Request) -> None:
        """No page of another site may ask for anything, even if it could not read the answer."""
        origins = request.headers.getall("Origin", [])
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        if site not in ("same-origin", "none") or not all(self._is_same_origin(request, origin) for origin in origins):
            raise RefusedError(
                "origin",
                "the request came from a page of another site",
                do="open the console itself; behind a proxy, its public name must be in FAULTLINE_CONSOLE_NAMES",
            )

    def _is_same_origin(self, request: web.Request, origin: str) -> bool:
        scheme = "https" if self.has_tls else self.access.scheme(peer_of(request), request.headers)
        return self.access.names.is_same_origin(origin, request.headers.get("Host", ""), scheme)

    def _check_post(self, request: web.Request, user: str) -> None:
        """Raise RefusedError unless a page of this console sends this, and for this user."""
        if "Origin" not in request.headers:
            raise RefusedError("origin", "the request has no Origin header", do="send it from a page of the console")
        session = self.session(request)
        if session is None or not self.access.sessions.is_csrf(request.headers.get(CSRF_HEADER), session, user):
            raise RefusedError("csrf", "the page's token is missing or old", do="load the page again")

    # -- who it is -----------------------------------------------------------------------------------------------

    def identity(self, request: web.Request) -> Identity | None:
        """Who a request is from; raises RefusedError."""
        return self.access.identify(peer_of(request), request.headers, self.session(request))

    def session(self, request: web.Request) -> Session | None:
        """The session of a request's cookie."""
        return self.access.sessions.read(request.cookies.get(self._cookie))

    def give_session(self, request: web.Request, response: web.StreamResponse, session: Session) -> None:
        """Let the browser keep a session."""
        secure = self.has_tls or self.access.scheme(peer_of(request), request.headers) == "https"
        response.set_cookie(
            self._cookie,
            self.access.sessions.cookie(session),
            max_age=int(self.access.sessions.left_seconds(session)),
            path="/",
            secure=secure,
            httponly=True,
            samesite="Strict",
        )

    def _session_user(self, request: web.Request) -> str:
        """Whom the page's token is for, of a request that anybody may make."""
        try:
            identity = self.identity(request)
        except RefusedError:
            identity = None
        return "" if identity is None else identity.user

    def _unknown(self) -> RefusedError:
        if self.access.has_login:
            return RefusedError(
                "login", "nobody has logged in here", do="log in with a token", headers={"WWW-Authenticate": "Bearer"}
            )
        return RefusedError(
            "proxy",
            "the proxy did not say who this is",
            do="let it log people in, and set the header that FAULTLINE_CONSOLE_USER_HEADER names",
        )

    # -- answers -------------------------------------------------------------------------------------------------

    def _refused(self, request: web.Request, refusal: RefusedError) -> web.Response:
        if refusal.status != 404:
            level = logging.WARNING if refusal.status in (403, 429) or refusal.code == "wrong_token" else logging.INFO
            client = self.access.client(peer_of(request), request.headers)
            log.log(level, "%s %r from %s: %s", request.method[:10], request.path[:200], client, refusal.text())
        self._counts.refusals[refusal.code] += 1
        if request.path.startswith("/api/"):
            response = web.Response(status=refusal.status, body=refusal.body(), content_type="application/json")
        else:
            response = web.Response(status=refusal.status, text=f"{refusal.text()}\n")
        response.headers.update(refusal.headers)
        response.headers["Cache-Control"] = "no-store"
        if request.method not in ("GET", "HEAD"):
            response.force_close()  # what may still come of its body is not read
        return response


def peer_of(request: web.Request) -> Address | None:
    """The address at the other end of the connection."""
    return None if request.remote is None else parsed_address(request.remote)


def _of_library(error: web.HTTPException) -> RefusedError:
    if error.status == 404:
        return RefusedError("not_found", "there is nothing at this address")
    if error.status == 405:
        return RefusedError(
            "method", "this address is not for such a request", headers={"Allow": error.headers.get("Allow", "")}
        )
    if error.status == 413:
        return RefusedError("too_large", "the request is too large")
    return RefusedError("bad_request", error.reason)
