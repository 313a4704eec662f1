"""Sessions of browsers: a signed cookie that nothing has to be kept for, and the token that its posts must repeat."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

import msgspec

_MAX_COOKIE_CHARACTERS: Final = 1_024
_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32


class Session(msgspec.Struct, frozen=True, array_like=True):
    """What a cookie says."""

    id: str
    user: str
    """Who has logged in with a token; empty for others."""
    began: float
    """On the clock of `Sessions`."""


class Sessions:
    """Signs cookies and reads them. The key is made at the start: a restart ends all sessions."""

    def __init__(
        self, random_bytes: Callable[[int], bytes], seconds: Callable[[], float], lifetime_seconds: float
    ) -> None:
        """`seconds` is a clock that only goes forward."""
        self.lifetime_seconds = lifetime_seconds
        self._random_bytes = random_bytes
        self._seconds = seconds
        self._secret = random_bytes(_SECRET_BYTES)
        self._ended: dict[str, float] = {}

    def begin(self, user: str = "") -> Session:
        """A new session, never one that a browser has brought along."""
        return Session(self._random_bytes(_ID_BYTES).hex(), user, self._seconds())

    def end(self, session: Session) -> None:
        """Accept this session no longer."""
        oldest = self._seconds() - self.lifetime_seconds
        self._ended = {id_: began for id_, began in self._ended.items() if began > oldest}
        self._ended[session.id] = session.began

    def left_seconds(self, session: Session) -> float:
        """How long it will be accepted."""
        return 0.0 if session.id in self._ended else session.began + self.lifetime_seconds - self._seconds()

    def cookie(self, session: Session) -> str:
        """The value of the cookie."""
        payload = base64.urlsafe_b64encode(msgspec.json.encode(session)).decode().rstrip("=")
        return f"{payload}.{self._signature('session', payload)}"

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if there is none, it is over, or this process has not signed it."""
        if cookie is None or len(cookie) > _MAX_COOKIE_CHARACTERS:
            return None
        payload, _, signature = cookie.partition(".")
        if not _is_equal(signature, self._signature("session", payload)):
            return None
        try:
            session = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=="), type=Session)
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            return None
        return session if self.left_seconds(session) > 0 else None

    def csrf(self, session: Session, user: str) -> str:
        """What posts of this user in this session must carry; another site cannot read it."""
        return self._signature("csrf", f"{session.id}\n{user}")

    def is_csrf(self, given: str | None, session: Session, user: str) -> bool:
        """Whether a post carries it."""
        return given is not None and _is_equal(given, self.csrf(session, user))

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}\n{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _is_equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))
