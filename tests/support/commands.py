"""The command line as a user runs it, in the process of the tests: an own process costs seconds of imports."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import typer.main

from agents.cli.main import main
from agents.cli.views import progress

_built_once = functools.cache(typer.main.get_command)
"""A process builds the commands from their functions once, which takes nine tenths of the time of a small one."""


class Finished(NamedTuple):
    """What a command leaves, as of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


def faultline(
    *arguments: str | Path, env: Mapping[str, str] | None = None, progress_after_seconds: float = math.inf
) -> Finished:
    """Run a command; `env` is added to the environment.

    Whether it takes long enough to show its progress would depend on what else the machine does.
    """
    out, errors = io.StringIO(), io.StringIO()
    root, thresholds = logging.getLogger(), gc.get_threshold()
    with (
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(sys, "argv", ["faultline", *map(str, arguments)]),
        mock.patch.object(typer.main, "get_command", _built_once),
        mock.patch.object(progress, "FIRST_SECONDS", progress_after_seconds),
        # As in a new process, where `main` finds no handlers and lets warnings go to the standard error.
        mock.patch.object(root, "handlers", []),
        mock.patch.object(gc, "freeze"),  # what tests have left would never be collected
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as ended:
            code = 0 if ended.code is None else int(ended.code)
        else:
            code = 0
        finally:
            gc.set_threshold(*thresholds)
    return Finished(code, out.getvalue(), errors.getvalue())


def assert_one_line(done: Finished, message: str) -> None:
    """The command was refused as a user is told of what he can put right."""
    assert done.returncode == 1
    assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
