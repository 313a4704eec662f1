"""What the commands that run until they are stopped have in common: options, logs, and a recording of their run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.cli.options import require_new_file
from pipeline.config.settings import Settings
from pipeline.wire.recording import RecordingWriter, new_recording

WebPortOption = Annotated[int | None, typer.Option(help="port of /metrics, /healthz, /readyz; FAULTLINE_WEB_PORT")]
RecordOption = Annotated[Path | None, typer.Option("--record", help="write what it reads to a recording")]
CertifyOption = Annotated[
    Path | None, typer.Option("--certify", help="write a certificate of what it says, for `replay --certify`")
]


def require_new_files(record_to: Path | None, certify: Path | None, *, force: bool) -> None:
    """Raise SettingsError if a file would replace another one without `--force`."""
    for option, path in (("--record", record_to), ("--certify", certify)):
        if path is not None:
            require_new_file(path, force=force, option=option)


def begin_logs(settings: Settings) -> None:
    """Log from the level of the settings on, errors in one line."""
    from agents.worker.process import one_line_errors

    logging.getLogger("faultline").setLevel(settings.log_level.upper())
    one_line_errors(logging.getLogger())


def run_recorded(record_to: Path | None, serve: Callable[[RecordingWriter | None], Coroutine[Any, Any, None]]) -> None:
    """Run a process, which gets the recording to write if there is to be one."""
    from agents.worker.process import run_process

    with contextlib.ExitStack() as stack:
        # What was read before a failure is what explains it.
        recorder = stack.enter_context(new_recording(record_to, keep_on_error=True)) if record_to is not None else None
        run_process(serve(recorder))
