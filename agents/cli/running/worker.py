"""The commands that run until they are stopped, `faultline run` and `faultline ingest`, and `faultline settings`."""

from __future__ import annotations

import sys
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
)
from agents.cli.running.process import (
    CertifyOption,
    RecordOption,
    WebPortOption,
    begin_logs,
    require_new_files,
    run_recorded,
)
from agents.cli.views.printable import cell
from agents.delivery.partitioning import partition_function
from pipeline.config.profile import load_profile
from pipeline.config.settings import Settings, load_settings


def run(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    web_port: WebPortOption = None,
    record_to: RecordOption = None,
    certify: CertifyOption = None,
    force: ForceOption = False,
) -> None:
    """Run a worker until it is stopped (SIGTERM or Ctrl-C)."""
    from agents.worker.service import serve

    require_new_files(record_to, certify, force=force)
    settings = load_settings(broker=broker, profile=profile, web_port=web_port)
    begin_logs(settings)
    plant = load_profile(settings.profile)
    runners = load_runners(settings, plant, model)
    partition_of = partition_function(settings.partitions)
    run_recorded(
        record_to,
        lambda recorder: serve(settings, plant, runners, partition_of, recorder=recorder, certify=certify),
    )


def ingest(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    mqtt: Annotated[
        str | None, typer.Option(help="read the profile's MQTT topics instead: mqtt://host[:port] or mqtts://...")
    ] = None,
    web_port: WebPortOption = None,
) -> None:
    """Write foreign topics again as Faultline's own messages, keyed by machine, until it is stopped."""
    from agents.connectors.ingest.service import serve
    from agents.worker.process import run_process

    settings = load_settings(broker=broker, profile=profile, web_port=web_port)
    begin_logs(settings)
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
