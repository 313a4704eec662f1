"""What a browser is told when its request is refused or fails: a status, and sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agents.console.errors import ConsoleError
from pipeline.errors import AuthorizationError, BrokerUnavailableError, DeliveryError, FaultlineError, SettingsError

_STATUSES: Final = {
    "bad_request": 400,
    "login": 401,
    "wrong_token": 401,
    "host": 403,
    "origin": 403,
    "csrf": 403,
    "proxy": 403,
    "read_only": 403,
    "not_found": 404,
    "method": 405,
    "conflict": 409,
    "too_large": 413,
    "content_type": 415,
    "too_many_attempts": 429,
    "unexpected": 500,
    "busy": 503,
    "broker_away": 503,
    "too_many_browsers": 503,
    "took_too_long": 504,
}


class RefusedError(Exception):
    """A request is not answered as it asks."""

    def __init__(
        self, code: str, what: str, *, where: str = "", do: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what)
        self.status = _STATUSES[code]
        self.code = code
        self.what = what
        self.where = where
        self.do = do
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """As JSON."""
        error = {"code": self.code, "what": self.what, "where": self.where, "do": self.do}
        return msgspec.json.encode({"error": error})

    def text(self) -> str:
        """As a person reads it where there is no page."""
        return "; ".join(part for part in (self.what, self.where, self.do) if part)


def refusal_of(error: FaultlineError) -> RefusedError:
    """What a browser is told of an error that the console or a broker has."""
    if isinstance(error, ConsoleError):
        return RefusedError(error.code, error.what, where=error.where, do=error.do)
    if isinstance(error, BrokerUnavailableError):
        return RefusedError("broker_away", str(error), do="try again when the broker answers")
    if isinstance(error, DeliveryError | AuthorizationError):
        return RefusedError("broker_away", str(error))
    if isinstance(error, SettingsError):
        return RefusedError("bad_request", str(error))
    return RefusedError("unexpected", str(error))
