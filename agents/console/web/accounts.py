"""Logging in and out, and what a page has to know first."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from aiohttp import web

from agents.console.web.access.access import Identity
from agents.console.web.access.refusals import RefusedError
from agents.console.web.access.sessions import Session
from agents.console.web.bodies import read_body
from agents.console.web.guard import Guard, peer_of

log = logging.getLogger("faultline.console")


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody posts to log in."""

    token: str


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A body without a field."""


class Accounts:
    """Who a browser is."""

    def __init__(self, guard: Guard, about: Mapping[str, object]) -> None:
        """`about` is what pages are told besides."""
        self._guard = guard
        self._about = about

    async def session(self, request: web.Request) -> web.Response:
        """Who this is, and the token that its posts must carry; gives a browser its cookie."""
        try:
            identity = self._guard.identity(request)
        except RefusedError as refusal:
            if refusal.code != "wrong_token":
                raise
            identity = None
        session = self._guard.session(request)
        if session is not None and (identity is None or identity.session is not None):
            return self._answer(request, identity, session, is_new=False)
        # Nobody has logged in by this cookie, so it may be renewed at any time.
        half_over = session is None or self._guard.access.sessions.left_seconds(session) < self._half_seconds
        chosen = self._guard.access.sessions.begin() if session is None or half_over else session
        return self._answer(request, identity, chosen, is_new=chosen is not session)

    async def login(self, request: web.Request) -> web.Response:
        """Log in with a token."""
        body = await read_body(request, Login)
        if not self._guard.access.has_login:
            raise RefusedError("bad_request", "nobody logs in here with a token")
        client = self._guard.access.client(peer_of(request), request.headers)
        user = self._guard.access.owner(body.token.strip(), client)
        log.info("%s has logged in from %s", user, client)
        session = self._guard.access.sessions.begin(user)
        return self._answer(request, Identity(user, "token", session), session, is_new=True)

    async def logout(self, request: web.Request) -> web.Response:
        """Accept the browser's cookie no longer."""
        await read_body(request, Nothing)
        if (session := self._guard.session(request)) is not None and session.user:
            self._guard.access.sessions.end(session)
        return self._answer(request, None, self._guard.access.sessions.begin(), is_new=True)

    @property
    def _half_seconds(self) -> float:
        return self._guard.access.sessions.lifetime_seconds / 2

    def _answer(
        self, request: web.Request, identity: Identity | None, session: Session, *, is_new: bool
    ) -> web.Response:
        access = self._guard.access
        user = None if identity is None else identity.user
        document = {
            "user": user,
            "csrf": access.sessions.csrf(session, user or ""),
            "access": access.kind if identity is None else identity.kind,
            "login": identity is None and access.has_login,
            "logout": identity is not None and identity.session is not None,
            "read_only": self._guard.read_only,
            **self._about,
        }
        response = web.Response(body=msgspec.json.encode(document), content_type="application/json")
        if is_new:
            self._guard.give_session(request, response, session)
        return response
