"""Posts notifications to a web hook until the receiver has taken them or says that it never will."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from agents.connectors.notify.signature import SIGNATURE_HEADER, sign
from pipeline.errors import SettingsError

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
_TRY_AGAIN: Final = frozenset({408, 409, 423, 425, 429})
"""Answers to a request as it is that mean `later`; any other of 300 to 499 means `never`."""

log = logging.getLogger("faultline.notify")


class Outcome(StrEnum):
    """What became of a notification."""

    SENT = "sent"
    REFUSED = "refused"
    """The receiver will not take it, however often it is posted."""


@dataclass(slots=True)
class WebhookCounts:
    """Counts since the start."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    retries: int = 0
    failing: str | None = None
    """Why the receiver takes nothing at present."""


class Webhook:
    """A receiver of notifications."""

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        token: str | None = None,
        timeout_seconds: float = 10.0,
        wall_seconds: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`secret` signs what is posted, `token` goes with it as a bearer's.

        Raises SettingsError if the URL is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("FAULTLINE_NOTIFY_URL is not of the form http://host/path or https://host/path")
        self.name = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        """Without the path, which is a secret with some receivers."""
        self.counts = WebhookCounts()
        self._url = url
        self._secret = None if secret is None else secret.encode()
        self._headers = {"Content-Type": "application/json", "User-Agent": "faultline-notify"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._wall_seconds = wall_seconds
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Be ready to post."""
        self._session = aiohttp.ClientSession(timeout=self._timeout)

    async def stop(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def post(self, body: bytes, key: str) -> Outcome:
        """Post a body until it is taken or refused; `key` is the same each time, so that a receiver can tell."""
        wait = FIRST_WAIT_SECONDS
        while True:
            problem, outcome, asked_seconds = await self._try(body, key)
            if outcome is not None:
                break
            self.counts.retries += 1
            if self.counts.failing is None:
                log.warning("%s does not take notifications (%s); they wait, and are posted again", self.name, problem)
            self.counts.failing = problem
            await self._sleep(max(wait, min(asked_seconds, LONGEST_WAIT_SECONDS)))
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if outcome is Outcome.REFUSED:
            log.error("%s refuses notification %s (%s); it is not posted again", self.name, key, problem)
        elif self.counts.failing is not None:
            log.warning("%s takes notifications again", self.name)
        self.counts.failing = None
        self.counts.outcomes[outcome] += 1
        return outcome

    async def _try(self, body: bytes, key: str) -> tuple[str, Outcome | None, float]:
        """What went wrong, the outcome unless it has to be tried again, and when the receiver asks for that."""
        assert self._session is not None
        headers = {**self._headers, IDEMPOTENCY_HEADER: _header_value(key)}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = sign(self._secret, body, int(self._wall_seconds()))
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
                asked_seconds = _retry_after_seconds(answer.headers)
        except TimeoutError:
            return f"no answer within {self._timeout.total:g} s", None, 0.0
        except aiohttp.InvalidURL as error:
            raise SettingsError("FAULTLINE_NOTIFY_URL is not a URL that can be posted to") from error
        except (aiohttp.ClientError, OSError) as error:
            return _without_url(error), None, 0.0
        problem = f"status {status}"
        if status < 300:
            return problem, Outcome.SENT, 0.0
        if status >= 500 or status in _TRY_AGAIN:
            return problem, None, asked_seconds
        return problem, Outcome.REFUSED, 0.0


def _header_value(text: str) -> str:
    """A key as a header can have it; other signs, which ids of machines may have, as their codes."""
    return "".join(sign if " " < sign < "\x7f" and sign != "%" else f"%{ord(sign):X}" for sign in text)


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0.0


def _without_url(error: BaseException) -> str:
    """The kind of an error and, for those of the system, what it says; messages of the library hold the URL."""
    reason = getattr(getattr(error, "os_error", None), "strerror", None) or getattr(error, "strerror", None)
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
