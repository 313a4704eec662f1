"""The commands that run until they are stopped, `faultline run` and `faultline ingest`, and `faultline settings`."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.cli.options import (
    BrokerOption,
    ForceOption,
    ModelOption,
    ProfileOption,
    load_runners,
    require_new_file,
)
from agents.cli.views.printable import cell
from agents.delivery.partitioning import partition_function
from pipeline.config.profile import load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.wire.recording import new_recording


def run(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    web_port: Annotated[
        int | None, typer.Option(help="port of /metrics, /healthz, /readyz; FAULTLINE_WEB_PORT")
    ] = None,
    record_to: Annotated[Path | None, typer.Option("--record", help="write what it reads to a recording")] = None,
    certify: Annotated[
        Path | None, typer.Option("--certify", help="write a certificate of its diagnoses, for `replay --certify`")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Run a worker until it is stopped (SIGTERM or Ctrl-C)."""
    from agents.worker.process import one_line_errors, run_process
    from agents.worker.service import serve

    for option, path in (("--record", record_to), ("--certify", certify)):
        if path is not None:
            require_new_file(path, force=force, option=option)
    settings = load_settings(broker=broker, profile=profile, web_port=web_port)
    logging.getLogger("faultline").setLevel(settings.log_level.upper())
    one_line_errors(logging.getLogger())
    plant = load_profile(settings.profile)
    runners = load_runners(settings, plant, model)
    partition_of = partition_function(settings.partitions)
    with contextlib.ExitStack() as stack:
        # What was read before a failure is what explains it.
        recorder = stack.enter_context(new_recording(record_to, keep_on_error=True)) if record_to is not None else None
        run_process(serve(settings, plant, runners, partition_of, recorder=recorder, certify=certify))


def ingest(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    mqtt: Annotated[
        str | None, typer.Option(help="read the profile's MQTT topics instead: mqtt://host[:port] or mqtts://...")
    ] = None,
    web_port: Annotated[
        int | None, typer.Option(help="port of /metrics, /healthz, /readyz; FAULTLINE_WEB_PORT")
    ] = None,
) -> None:
    """Write foreign topics again as Faultline's own messages, keyed by machine, until it is stopped."""
    from agents.ingest.service import serve
    from agents.worker.process import one_line_errors, run_process

    settings = load_settings(broker=broker, profile=profile, web_port=web_port)
    logging.getLogger("faultline").setLevel(settings.log_level.upper())
    one_line_errors(logging.getLogger())
    run_process(serve(settings, load_profile(settings.profile), mqtt))


def show_settings() -> None:
    """Show every setting, its environment variable and where its value comes from."""
    settings = load_settings()
    table = Table(title="settings", title_justify="left")
    for column in ("variable", "value", "meaning"):
        table.add_column(cell(column), overflow="fold")
    for name, info in Settings.model_fields.items():
        texts = f"FAULTLINE_{name.upper()}", getattr(settings, name), info.description or ""
        table.add_row(*(cell(text, limit=None) for text in texts))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
