"""Replays with `--plant`: a plant agent beside the worker or on recorded diagnoses alone, its view and its summary."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from agents.audit.certificate import CertificateBuilder
from agents.cli.views.area_view import AreaView, cause_in_words
from agents.cli.views.incidents_view import AlarmLines
from agents.cli.views.printable import cell, say
from agents.delivery.partitioning import partition_function
from agents.words import Words
from pipeline.areas.frames import AreaRunner
from pipeline.areas.messages import CauseAnswer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import INCIDENTS, LABELS
from pipeline.errors import RecordingError
from pipeline.wire.recording import has_topic, read_recording
from pipeline.wire.records import OnProgress, Output, Record

PastOption = Annotated[
    Path | None,
    typer.Option(
        "--incidents", help="a recording of outputs, as --out writes: its incidents are what there was before"
    ),
]
_KINDS = ("utility", "machine", "none")


def past_incidents(path: Path | None) -> list[Record]:
    """The incidents of a recording of outputs; raises RecordingError if it has none."""
    if path is None:
        return []
    if not has_topic(path, INCIDENTS):
        raise RecordingError(f"recording {path} has no topic '{INCIDENTS}'; write one with `faultline replay --out`")
    return [record for record in read_recording(path) if record.topic == INCIDENTS]


@contextlib.contextmanager
def area_view(recording: Path, words: Words, alarms: AlarmLines) -> Iterator[AreaView]:
    """The tables of a replay's areas on the terminal, with the recording's labels."""
    view = AreaView(f"faultline · {recording.name}", words, alarms)
    for record in read_recording(recording):
        if record.topic == LABELS:
            view.labels.add(record)
    with Live(console=Console(), get_renderable=view.render, refresh_per_second=8, screen=False) as live:
        yield view
        live.refresh()


def replay_diagnoses(
    recording: Path,
    settings: Settings,
    profile: PlantProfile,
    runner: AreaRunner,
    *,
    speed: float | None,
    view: AreaView | None,
    on_output: Callable[[Output], None] | None,
    builder: CertificateBuilder | None,
    past: Sequence[Record] = (),
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Replay recorded diagnoses through the plant agent alone; returns a report as plain values."""
    from agents.replay.areas import PlantReplay, replay_areas

    plant = PlantReplay(
        profile,
        runner,
        on_diagnosis=None if view is None else view.add,
        on_output=on_output,
        builder=builder,
        past=past,
    )
    partition_of = partition_function(settings.partitions)
    replaying = replay_areas(recording, settings, profile, plant, partition_of, speed=speed, on_progress=on_progress)
    seconds = asyncio.run(replaying)
    return {"recording": str(recording), "seconds": round(seconds, 3), "areas": plant.report()}


def print_areas(report: Mapping[str, Any], words: Words, alarms: AlarmLines) -> None:
    """What was found in each area, every alarm of a utility, and machines' alarms that are like past incidents."""
    table = Table(title="areas", title_justify="left")
    table.add_column(cell("area"))
    for heading in ("frames", *_KINDS):
        table.add_column(cell({"none": "nothing", "machine": "own fault"}.get(heading, heading)), justify="right")
    for area, found in report.items():
        causes = (f"{found['causes'].get(kind, 0):,}" for kind in _KINDS)
        table.add_row(*map(cell, (words.declared_area(area), f"{found['frames']:,}", *causes)))
    Console().print(table)
    for area, found in report.items():
        for alarm in found["alarms"]:
            moment = datetime.fromtimestamp(alarm["time"] / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
            cause = CauseAnswer("utility", 1.0, alarm["utility"], alarm["fault"])
            say(f"{moment}  {alarm['state']:7}  {words.declared_area(area)}: {cause_in_words(words, area, cause)}")
    if alarms.lines:
        say("alarms like past incidents")
    for line in alarms.lines:
        say(line)
