"""The commands `incidents list` and `similar`: what machines had before, and what of that is like something now."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console

from agents.audit.log import Log, open_outputs
from agents.cli.options import BrokerOption, JsonOption, MachinePatternOption, ProfileOption
from agents.cli.topics.topics import given_time
from agents.cli.views.area_view import cause_in_words
from agents.cli.views.incidents_view import incidents_table, similar_table
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.words import Words
from pipeline.areas.incidents import UTILITY_TYPE, similar_to_utility
from pipeline.areas.layout import area_layouts
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import DIAGNOSES, INCIDENTS, PLANT
from pipeline.engine.reports.incidents.book import SHOWN, IncidentBook
from pipeline.engine.reports.incidents.record import SimilarIncident
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
    machine: Annotated[
        str | None, typer.Option("--machine", help="the machine or utility whose state is compared")
    ] = None,
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
    """Show the past incidents that are most like a machine or utility at a time, or like a text; nothing is written."""
    if (machine is None) == (text is None):
        raise SettingsError("give either --machine, with --at for a time, or --text")
    if text is not None and at is not None:
        raise SettingsError("--at is for --machine; leave it out, or name the machine")
    at_ms = None if at is None else given_time(at, "--at")
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    area = plant.area_of_utility.get(machine or "")
    topics = [] if machine is None else [DIAGNOSES] if area is None else [PLANT]
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        open_outputs(settings, recording, [INCIDENTS, *topics], progress) as log,
    ):
        book = _book(plant, log.records(INCIDENTS))
        if machine is None:
            asked = None
        elif area is None:
            asked = _of_machine(plant, book, _diagnosis_at(plant, log, machine, at_ms), count)
        else:
            asked = _of_utility(plant, book, _area_at(log, area, at_ms), machine, count)
    if asked is None:
        found = book.similar_to_text(text or "", title_of=Words(plant).fault, count=count)
    else:
        found = asked.similar
        if not as_json:
            say(asked.said)
    if as_json:
        shown = [msgspec.to_builtins(one) for one in found]
        of = None if asked is None else asked.id
        typer.echo(json.dumps({"diagnosis": of, "similar": shown, "unreadable": book.unreadable}, indent=2))
        return
    if found:
        Console().print(similar_table(found, Words(plant)))
    else:
        say(f"none of {len(book.incidents())} incidents is similar")
    _say_unreadable(book)


class _Asked(NamedTuple):
    """The incidents that are like a diagnosis."""

    id: str
    said: str
    """What the diagnosis says, in a line."""
    similar: list[SimilarIncident]


def _of_machine(plant: PlantProfile, book: IncidentBook, diagnosis: Diagnosis, count: int) -> _Asked:
    words, end = Words(plant), shown_time(diagnosis.frame_end)
    fault = words.fault(diagnosis.machine, diagnosis.fault)
    found = book.similar_to(diagnosis, _vector_at(book, diagnosis), count=count)
    return _Asked(diagnosis.id, f"{words.machine(diagnosis.machine)}, frame until {end}: {fault}", found)


def _of_utility(plant: PlantProfile, book: IncidentBook, diagnosis: AreaDiagnosis, utility: str, count: int) -> _Asked:
    words, end = Words(plant), shown_time(diagnosis.frame_end)
    cause = cause_in_words(words, diagnosis.area, diagnosis.cause)
    found = similar_to_utility(book, diagnosis, area_layouts(plant)[diagnosis.area], utility, count=count)
    return _Asked(diagnosis.id, f"{words.machine(utility)}, frame until {end}: the cause is {cause}", found)


def _area_at(log: Log, area: str, at_ms: int | None) -> AreaDiagnosis:
    """The last diagnosis of an area that is of a frame from before a time; raises FaultlineError if there is none."""
    newest: AreaDiagnosis | None = None
    for record in log.records(PLANT):
        if record.key == area.encode() and record.value is not None:
            with suppress(RejectedError):
                diagnosis = decode_area(record.value)
                is_before = at_ms is None or diagnosis.frame_start <= at_ms
                if is_before and (newest is None or diagnosis.frame_end >= newest.frame_end):
                    newest = diagnosis
    if newest is None:
        before = "" if at_ms is None else f" of a frame that begins before {shown_time(at_ms)}"
        raise FaultlineError(f"there is no diagnosis of area {area}{before}; is `faultline plant` running?")
    return newest


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
    utilities = plant.area_of_utility

    def type_of(name: str) -> str | None:
        if name in utilities:
            return UTILITY_TYPE
        return None if (kind := plant.type_of(name)) is None else kind.name

    book = IncidentBook(type_of)
    for record in records:
        book.take(record.key, record.value)
    return book


def _say_unreadable(book: IncidentBook) -> None:
    if book.unreadable:
        say(f"{book.unreadable} records of topic {INCIDENTS} cannot be read")
