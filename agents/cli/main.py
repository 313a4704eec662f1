"""The command line: `faultline demo | replay | run | why | explain | drift | record | verify | train | topics | …`."""

from __future__ import annotations

import functools
import gc
import logging
import platform
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from agents.bench.host import processor
from agents.cli import area_training, audit, bench, machines, training
from agents.cli.evidence import incidents
from agents.cli.evidence.explain import explain
from agents.cli.evidence.report import report
from agents.cli.running import console, plant, recordings, replay, worker
from agents.cli.topics import alarms, notify, sources, topics
from agents.cli.views.printable import PrintableFormatter, say
from pipeline.config.settings import check_environment
from pipeline.errors import FaultlineError
from pipeline.extras import faultline_version

Command = Callable[..., None]


def _checked(command: Command) -> Command:
    """The command, which does not begin while an environment variable is wrong; `--help` is always shown."""

    @functools.wraps(command)
    def checked(*given: object, **options: object) -> None:
        check_environment()
        command(*given, **options)

    return checked


def _group(text: str, **commands: Command) -> typer.Typer:
    group = typer.Typer(help=text, no_args_is_help=True)
    for name, command in commands.items():
        group.command(name)(_checked(command))
    return group


_sources: dict[str, Command] = {"try": sources.try_topic, "check": sources.check}

app = typer.Typer(
    name="faultline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(
    _group(
        "Create the topics, or check their partition counts and settings.", create=topics.create, check=topics.check
    ),
    name="topics",
)
app.add_typer(
    _group(
        "See how machines are, and reset or forget one.",
        list=machines.list_machines,
        why=machines.why,
        reset=machines.reset,
        end=machines.end,
        forget=machines.forget,
    ),
    name="machines",
)
app.add_typer(
    _group(
        "See alarms, acknowledge, shelve, suppress and comment on them, and change their settings.",
        list=alarms.list_alarms,
        history=alarms.history,
        ack=alarms.acknowledge,
        shelve=alarms.shelve,
        unshelve=alarms.unshelve,
        suppress=alarms.suppress,
        unsuppress=alarms.unsuppress,
        comment=alarms.comment,
        configure=alarms.configure,
    ),
    name="alarms",
)
app.add_typer(
    _group("Name faults that machines had, and see which are named.", add=topics.add_label, list=topics.list_labels),
    name="labels",
)
app.add_typer(
    _group(
        "See past incidents, add one, and find those that are similar.",
        list=incidents.list_incidents,
        add=topics.add_label,
        similar=incidents.similar,
    ),
    name="incidents",
)
app.add_typer(
    _group("See how topics are read, and how their sources are.", **_sources),
    name="sources",
)
app.add_typer(
    _group(
        "Look at records that could not be used, and send them again.",
        list=audit.dead_letters_list,
        replay=audit.dead_letters_replay,
    ),
    name="dead-letters",
)
app.add_typer(_group("Look at records that came too late.", list=audit.late_list), name="late")
app.add_typer(
    _group("See unknown faults in groups, and name them.", list=machines.unknown_list, name=machines.unknown_name),
    name="unknown",
)
app.add_typer(
    _group(
        "Measure speed on this machine.",
        align=bench.align,
        models=bench.models,
        areas=bench.areas,
        stream=bench.stream,
        scale=bench.scale,
        drift=bench.drift,
    ),
    name="bench",
)
for command in (
    replay.demo,
    replay.replay,
    replay.stress,
    recordings.record,
    recordings.convert,
    report,
    worker.run,
    worker.ingest,
    plant.plant,
    console.console,
    notify.notify,
    machines.why,
    explain,
    audit.drift,
    training.train,
    training.baseline,
    training.evaluate,
    area_training.train_area,
    audit.verify,
):
    app.command()(_checked(command))
app.command("settings")(_checked(worker.show_settings))


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(
            f"faultline {faultline_version()}, Python {platform.python_version()}, {platform.platform()}, {processor()}"
        )
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="show the versions of Faultline, Python and the platform, and the processor",
        ),
    ] = False,
) -> None:
    """Real-time fault diagnosis for factories: sensors and operators' texts from Kafka, fused by streaming models."""


def main() -> None:
    """Run the command line; errors that a user can cause become one line and an exit code."""
    # Imported objects are permanent, and records come in thousands: collect garbage less often, and less of it.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        app(standalone_mode=True)
    except FaultlineError as error:
        say(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
