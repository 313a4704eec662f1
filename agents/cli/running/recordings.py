"""The commands that write recordings: `faultline record` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agents.cli.options import BrokerOption, ForceOption, ProfileOption, require_new_file
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings


def record(
    out: Annotated[Path, typer.Option("--out", help="file to write")],
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    follow_seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            help="keep recording for so many seconds, or until Ctrl-C; by default stop where the topics end now",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Record the input topics of a real Kafka to a file, from their beginning, in order of time stamps."""
    from agents.replay.record import record_topics

    require_new_file(out, force=force)
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    with records_progress("recording") as progress:
        count = record_topics(settings, plant, out, follow_seconds=follow_seconds, on_progress=progress)
    say(f"{count:,} records written to {out}")


def convert(
    description: Annotated[Path, typer.Argument(help="YAML that names the columns of readings, texts and labels")],
    data: Annotated[Path, typer.Option("--data", help="folder of the tables; FAULTLINE_DATA", envvar="FAULTLINE_DATA")],
    out: Annotated[Path, typer.Option("--out", help="recording to write")],
    profile: Annotated[
        str | None, typer.Option("--profile", help="a shipped plant profile or a file that everything must fit")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Turn tables (CSV, parquet, Excel) into a recording."""
    from agents.replay.convert import convert as write
    from agents.replay.tables.description import load_conversion

    require_new_file(out, force=force, inputs=[description])
    plant = None if profile is None else load_profile(profile)
    with records_progress("reading", "rows") as reading, records_progress("writing") as writing:
        report = write(load_conversion(description), data, out, plant, on_read=reading, on_written=writing)
    say(f"{report.records:,} records written to {out}")
    for line in report.unused.lines():
        say(line)
