"""The commands `incidents list` and `similar`: what machines had before, and what of that is like something now."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from agents.audit.log import Log, open_outputs
from agents.cli.options import BrokerOption, JsonOption, MachinePatternOption, ProfileOption
from agents.cli.topics.topics import given_time
from agents.cli.views.incidents_view import incidents_table, similar_table
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.words import Words
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import DIAGNOSES, INCIDENTS
from pipeline.engine.reports.incidents.book import SHOWN, IncidentBook
from pipeline.engine.reports.incidents.similarity import Vector
from pipeline.errors import FaultlineError, SettingsError
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, RejectedError
from pipeline.wire.records import Record

RecordingOption = Annotated[
    Path | None, typer.Option("--from", help="a recording of outputs, as `replay --out` writes; not a broker")
]


def list_incidents(
    machine: MachinePatternOption = "*",
    fault: Annotated[str | None, typer.Option("--fault", help="only of this fault, found or diagnosed")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show, the last ones")] = 50,
    recording: RecordingOption = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show alarms and labels as incidents, in the order of time; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        open_outputs(settings, recording, [INCIDENTS], progress) as log,
    ):
        book = _book(plant, log.records(INCIDENTS))
    found = book.incidents()
    chosen = [
        one
        for one in found
        if fnmatch.fnmatchcase(one.machine, machine) and (fault is None or fault in (one.found, one.diagnosed))
    ]
    if as_json:
        shown = [msgspec.to_builtins(one) for one in chosen[-limit:]]
        typer.echo(json.dumps({"incidents": shown, "unreadable": book.unreadable}, indent=2))
        return
    if chosen:
        Console().print(incidents_table(chosen[-limit:], Words(plant)))
    say(f"{len(chosen)} of {len(found)} incidents")
    _say_unreadable(book)


def similar(
    machine: Annotated[str | None, typer.Option("--machine", help="the machine whose state is compared")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="when: ISO 8601 with offset, or milliseconds; by default its last frame")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="words that are compared instead of a state")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="how many to show")] = SHOWN,
    recording: RecordingOption = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the past incidents that are most like a machine at a time, or like a text; nothing is written."""
    if (machine is None) == (text is None):
        raise SettingsError("give either --machine, with --at for a time, or --text")
    if text is not None and at is not None:
        raise SettingsError("--at is for --machine; leave it out, or name the machine")
    at_ms = None if at is None else given_time(at, "--at")
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    topics = [INCIDENTS] if machine is None else [INCIDENTS, DIAGNOSES]
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        open_outputs(settings, recording, topics, progress) as log,
    ):
        book = _book(plant, log.records(INCIDENTS))
        diagnosis = None if machine is None else _diagnosis_at(plant, log, machine, at_ms)
    if text is not None:
        found = book.similar_to_text(text, title_of=Words(plant).fault, count=count)
    else:
        assert diagnosis is not None
        found = book.similar_to(diagnosis, _vector_at(book, diagnosis), count=count)
        if not as_json:
            words, end = Words(plant), shown_time(diagnosis.frame_end)
            fault = words.fault(diagnosis.machine, diagnosis.fault)
            say(f"{words.machine(diagnosis.machine)}, frame until {end}: {fault}")
    if as_json:
        shown = [msgspec.to_builtins(one) for one in found]
        of = None if diagnosis is None else diagnosis.id
        typer.echo(json.dumps({"diagnosis": of, "similar": shown, "unreadable": book.unreadable}, indent=2))
        return
    if found:
        Console().print(similar_table(found, Words(plant)))
    else:
        say(f"none of {len(book.incidents())} incidents is similar")
    _say_unreadable(book)


def _vector_at(book: IncidentBook, diagnosis: Diagnosis) -> Vector | None:
    """The vector of the frame, if it raised an alarm under a model with a retrieval head."""
    for one in book.incidents():
        if one.machine == diagnosis.machine and one.start == diagnosis.frame_end and one.vector is not None:
            return Vector(diagnosis.model.hash, tuple(one.vector))
    return None


def _diagnosis_at(plant: PlantProfile, log: Log, machine: str, at_ms: int | None) -> Diagnosis:
    """The last diagnosis of a machine that is of a frame from before a time; raises FaultlineError if there is none."""
    if plant.type_of(machine) is None:
        raise SettingsError(f"--machine {machine!r} is no machine of plant {plant.plant}")
    newest: Diagnosis | None = None
    for record in log.records(DIAGNOSES):
        if record.key != machine.encode() or record.value is None:
            continue
        with suppress(RejectedError):
            diagnosis = messages.decode_diagnosis(record.value)
            if at_ms is not None and diagnosis.frame_start > at_ms:
                continue
            # An announced frame has no evidence to compare.
            if diagnosis.probabilities and (newest is None or diagnosis.frame_end >= newest.frame_end):
                newest = diagnosis
    if newest is None:
        before = "" if at_ms is None else f" of a frame that begins before {shown_time(at_ms)}"
        raise FaultlineError(f"there is no diagnosis of machine {machine!r}{before}; name another machine or time")
    return newest


def _book(plant: PlantProfile, records: Iterable[Record]) -> IncidentBook:
    book = IncidentBook(lambda machine: None if (kind := plant.type_of(machine)) is None else kind.name)
    for record in records:
        book.take(record.key, record.value)
    return book


def _say_unreadable(book: IncidentBook) -> None:
    if book.unreadable:
        say(f"{book.unreadable} records of topic {INCIDENTS} cannot be read")
