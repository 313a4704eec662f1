"""Texts from records, files and profiles as people see them: data, never markup, links or commands to a terminal."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Final

import typer
from rich.table import Table
from rich.text import Text

from agents.words import printable
from pipeline.config.hints import shown_time

MAX_CELL: Final = 200
"""Characters of a text that one cell of a table shows."""


def cell(text: object, style: str = "", limit: int | None = MAX_CELL) -> Text:
    """A text for a table or a line of rich, which does not look for markup in it."""
    return Text(printable(text, limit), style)


def table(*headings: str) -> Table:
    """A table for cells of texts and times: on a narrow terminal they are broken over lines, never cut short."""
    shown = Table()
    for heading in headings:
        shown.add_column(cell(heading), overflow="fold")
    return shown


def time_cell(time_ms: int | None) -> str:
    """A time that a narrow column breaks between date and time of day; empty if there is none."""
    return "" if time_ms is None else shown_time(time_ms).replace("T", " ")


def say(line: object = "", *, err: bool = False, flush: bool = False) -> None:
    """Print one line, to standard error if `err`."""
    typer.echo(printable(line), err=err)
    if flush:
        (sys.stderr if err else sys.stdout).flush()


class PrintableFormatter(logging.Formatter):
    """Log records of one line each; a traceback follows in lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """The record without its traceback."""
        return printable(super().formatMessage(record))

    def formatException(  # noqa: N802 - as above
        self, exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """The traceback, whose messages may quote records."""
        lines = "".join(traceback.format_exception(exc_info[1])).rstrip("\n").split("\n")
        return "\n".join(map(printable, lines))
