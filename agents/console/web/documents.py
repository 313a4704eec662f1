"""The documents that pages ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web

from agents.console.errors import BusyError, TookTooLongError
from agents.console.web.access.refusals import RefusedError
from agents.console.web.bodies import answer, number_parameter, time_parameter
from agents.console.web.updates import Picture

MAX_WAITING: Final = 8
"""Explanations that are made or wait."""

WHY_SECONDS: Final = 90.0
MACHINE_SECONDS: Final = 30.0
_MAX_VARIABLES: Final = 60
_MAX_INCIDENTS: Final = 500
_DEFAULT_INCIDENTS: Final = 100

T = TypeVar("T")


class Book(Picture, Protocol):
    """What output topics say, in one picture."""

    def data(self) -> Any:
        """Sources, late records and dead letters."""

    def models(self) -> Any:
        """Models, their scores, and drift."""

    def incidents(self, machine: str | None = None, limit: int = _DEFAULT_INCIDENTS) -> Any:
        """Past and present incidents."""


class History(Protocol):
    """What topics say of one machine; read when somebody asks."""

    async def machine(self, machine: str, from_ms: int | None, until_ms: int | None, variables: Sequence[str]) -> Any:
        """Its history."""

    async def why(self, diagnosis_id: str) -> Any:
        """What moved a diagnosis."""


class Documents:
    """Answers to GET."""

    def __init__(self, book: Book, history: History) -> None:
        self._book = book
        self._history = history
        self._waiting = 0

    async def plant(self, request: web.Request) -> web.Response:
        """All machines and areas."""
        return answer(request, self._book.plant())

    async def alarms(self, request: web.Request) -> web.Response:
        """All alarms."""
        return answer(request, self._book.alarms())

    async def data(self, request: web.Request) -> web.Response:
        """Sources, late records and dead letters."""
        return answer(request, self._book.data())

    async def models(self, request: web.Request) -> web.Response:
        """Models, their scores, and drift."""
        return answer(request, self._book.models())

    async def incidents(self, request: web.Request) -> web.Response:
        """Past and present incidents, those of one machine or all."""
        limit = number_parameter(request, "limit", _DEFAULT_INCIDENTS, _MAX_INCIDENTS)
        return answer(request, self._book.incidents(request.query.get("machine"), limit))

    async def machine(self, request: web.Request) -> web.Response:
        """One machine's history."""
        from_ms, until_ms = time_parameter(request, "from"), time_parameter(request, "until")
        variables = [name for name in request.query.get("variables", "").split(",") if name]
        if len(variables) > _MAX_VARIABLES:
            raise RefusedError("bad_request", f"more than {_MAX_VARIABLES} names", where="the parameter variables")
        reading = self._history.machine(request.match_info["machine"], from_ms, until_ms, variables)
        return answer(request, await _within(MACHINE_SECONDS, reading, "reading the machine's history"))

    async def why(self, request: web.Request) -> web.Response:
        """What moved a diagnosis; takes seconds, and only a few wait at the same time."""
        if self._waiting >= MAX_WAITING:
            raise BusyError(f"{MAX_WAITING} explanations are being made or wait already", do="try again in a minute")
        self._waiting += 1
        try:
            explaining = self._history.why(request.match_info["diagnosis"])
            return answer(request, await _within(WHY_SECONDS, explaining, "the explanation"))
        finally:
            self._waiting -= 1


async def _within(seconds: float, work: Awaitable[T], what: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise TookTooLongError(f"{what} took longer than {seconds:.0f} s", do="try again, or a shorter span") from None
