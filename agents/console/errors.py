"""Errors that a person at the console can cause; a browser gets them as JSON with the status of their class."""

from __future__ import annotations

from typing import ClassVar

from pipeline.errors import FaultlineError


class ConsoleError(FaultlineError):
    """Something that was asked of the console cannot be done: what, where, and what to do, each a sentence."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "unexpected"

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__("; ".join(part for part in (what, where, do) if part))
        self.what = what
        self.where = where
        self.do = do


class BadRequestError(ConsoleError):
    """A parameter or a body is not what it must be."""

    status = 400
    code = "bad_request"


class NotFoundError(ConsoleError):
    """There is no machine, diagnosis, alarm or document of that name."""

    status = 404
    code = "not_found"


class ConflictError(ConsoleError):
    """It does not fit how things are now, such as an acknowledgement of an alarm that does not wait for one."""

    status = 409
    code = "conflict"


class BusyError(ConsoleError):
    """Too many people ask for the same at present."""

    status = 503
    code = "busy"


class TookTooLongError(ConsoleError):
    """It was given up after its time limit."""

    status = 504
    code = "took_too_long"
