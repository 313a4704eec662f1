"""`faultline report`: how well a plant was diagnosed and alarmed, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.cli.options import (
    ForceOption,
    JsonOption,
    MachinePatternOption,
    ModelOption,
    ProfileOption,
    SinceOption,
    UntilOption,
    given_span,
    load_runners,
    model_sides,
    now_ms,
    require_new_file,
    trained_machines,
)
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.delivery.partitioning import partition_function
from agents.replay.record import Span
from agents.words import Words
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import ALARMS, DIAGNOSES, EVENTS, LABELS
from pipeline.errors import SettingsError
from pipeline.files.atomic_file import write_text
from pipeline.files.parquet import is_parquet
from pipeline.wire.recording import holds_only, read_recording
from pipeline.wire.records import OnProgress

if TYPE_CHECKING:
    from agents.replay.reports.summary import Side


def report(
    recording: Annotated[
        Path | None, typer.Argument(help="a recording to replay, or one of diagnoses, alarms and labels")
    ] = None,
    model: ModelOption = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="another model, or another recording, to compare with; one per machine type"),
    ] = None,
    topics: Annotated[
        str | None, typer.Option("--from", help="kafka://host:port: what its topics have, instead of a recording")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    machine: MachinePatternOption = "*",
    out: Annotated[Path, typer.Option("--out", help="page to write; the JSON is beside it")] = Path("report.html"),
    profile: ProfileOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Report on diagnoses and alarms: delays, missed faults, false alarms, scores and a timeline of each machine.

    A recording is replayed; a running plant's topics are read as they are. --model twice for a machine type, or
    --against, compares.
    """
    from agents.replay.reports.page.document import html_page
    from agents.replay.reports.summary import report_of

    settings = load_settings(profile=profile, broker=topics)
    plant = load_profile(settings.profile)
    data = out.with_suffix(".json")
    if data == out:
        raise SettingsError(f"--out {out} is the page; give it another ending, such as .html")
    inputs = [path for path in (recording, *(model or ()), *(against or ())) if path is not None]
    for path in (out, data):
        require_new_file(path, force=force, inputs=inputs)
    words = Words(plant)
    with records_progress("reading", is_shown=not as_json) as progress:
        if topics is not None:
            _require_absent("with --from", recording=recording, model=model, against=against)
            sides = [_from_topics(settings, plant, words, given_span(since, until), machine, progress)]
        elif recording is None:
            raise SettingsError("there is nothing to report on; name a recording, or topics with --from")
        else:
            _require_absent("without --from", since=since, until=until)
            chosen = _chosen(settings, plant, recording, model, against)
            sides = [_from_recording(settings, plant, words, *one, machine, progress) for one in chosen]
    made = report_of(sides, plant.plant, now_ms())
    text = json.dumps(made, indent=2)
    write_text(out, html_page(sides, made, words))
    write_text(data, f"{text}\n")
    if as_json:
        print(text)
    else:
        say(out)
        say(data)


def _require_absent(when: str, **given: object) -> None:
    if names := [f"--{name}" if name != "recording" else "a recording" for name, value in given.items() if value]:
        raise SettingsError(f"{', '.join(names)}: not {when}; leave it out")


def _chosen(
    settings: Settings, plant: PlantProfile, recording: Path, model: list[Path] | None, against: list[Path] | None
) -> list[tuple[Path, list[Path] | None]]:
    """The sides of a report: a recording with its models, and the one that is compared with it."""
    if not against or not any(map(is_parquet, against)):
        return [(recording, files) for files in model_sides(settings, plant, model, against)]
    if len(against) > 1:
        raise SettingsError("--against takes one recording, or models; give one recording")
    files, *more = model_sides(settings, plant, model)
    if more:
        raise SettingsError("two models and two recordings are four reports; give --model once for a machine type")
    return [(recording, files), (against[0], files)]


def _from_recording(
    settings: Settings,
    plant: PlantProfile,
    words: Words,
    recording: Path,
    files: list[Path] | None,
    machine: str,
    progress: OnProgress,
) -> Side:
    from agents.replay.reports.book import ReportBook
    from agents.replay.reports.sources import read_into, replay_into
    from agents.replay.reports.summary import side_of

    if holds_only(recording, [DIAGNOSES], plant.sensor_topics):
        book = ReportBook(plant, machines=machine)
        counts: Mapping[str, Any] = read_into(book, read_recording(recording, on_progress=progress))
        return side_of(book, words, title=recording.name, source=str(recording), counts=counts)
    runners = load_runners(settings, plant, files)
    book = ReportBook(plant, trained_machines(settings, files), machines=machine)
    partition_of = partition_function(settings.partitions)
    found = replay_into(book, recording, settings, runners, partition_of, on_progress=progress)
    counts = {name: getattr(found, name) for name in ("frames", "diagnoses", "late", "dead_letters")}
    title = f"{recording.name}, {_names(files)}" if files else recording.name
    return side_of(book, words, title=title, source=str(recording), counts=counts)


def _names(files: Sequence[Path]) -> str:
    return ", ".join(f"{path.parent.name}/{path.name}" if path.parent.name else path.name for path in files)


def _from_topics(
    settings: Settings, plant: PlantProfile, words: Words, span: Span, machine: str, progress: OnProgress
) -> Side:
    from agents.kafka.log import kafka_log
    from agents.replay.reports.book import ReportBook
    from agents.replay.reports.sources import read_into
    from agents.replay.reports.summary import side_of

    book = ReportBook(plant, machines=machine)
    with kafka_log(settings, [DIAGNOSES], [ALARMS, EVENTS, LABELS], progress) as log:
        if log.partitions(LABELS):
            read_into(book, log.records(LABELS))  # they may have been written at any time
        wanted = [topic for topic in (DIAGNOSES, ALARMS, EVENTS) if log.partitions(topic)]
        if span.since_ms is not None:
            log.begin_at(wanted, span.since_ms)
        counts = read_into(book, (record for record in log.merged(*wanted) if span.has(record)))
    return side_of(book, words, title=f"{settings.broker}{span}", source=settings.broker, counts=counts)
