"""The commands about topics, `topics create` and `check`, and about the labels in one, `labels add` and `list`."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from typing import Annotated

import typer
from rich.console import Console

from agents.cli.options import BrokerOption, JsonOption, MachinePatternOption, ProfileOption, now_ms
from agents.cli.views.printable import cell, say, table, time_cell
from agents.cli.views.progress import records_progress
from agents.delivery.partitioning import partition_of
from pipeline.config.hints import shown_time
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import LABELS
from pipeline.errors import SettingsError
from pipeline.wire import messages
from pipeline.wire.labels import LabelledSpan, label_output, read_label
from pipeline.wire.messages import RejectedError


def create(broker: BrokerOption = None, profile: ProfileOption = None, partitions: int | None = None) -> None:
    """Create every topic that is missing, with equal partition counts."""
    from agents.kafka.admin import create_topics
    from agents.kafka.security import client_security
    from agents.kafka.topics import require_topics, topic_specs

    settings = load_settings(broker=broker, profile=profile, partitions=partitions)
    plant = load_profile(settings.profile)
    report = create_topics(settings.address, topic_specs(settings, plant), client_security(settings))
    for name in report.created:
        say(f"created  {name}")
        for note in report.notes.get(name, ()):
            say(f"         {note}")
    for name in report.existing:
        say(f"exists   {name}")
    limits = require_topics(settings, plant)
    if not report.notes:  # else they are said already
        for note in limits.notes:
            say(note)


def check(broker: BrokerOption = None, profile: ProfileOption = None, partitions: int | None = None) -> None:
    """Check that every topic exists and has the right partition count and settings."""
    from agents.kafka.topics import require_topics, topic_specs

    settings = load_settings(broker=broker, profile=profile, partitions=partitions)
    plant = load_profile(settings.profile)
    for note in require_topics(settings, plant).notes:
        say(note)
    say(f"{len(topic_specs(settings, plant))} topics are set up correctly")


def add_label(
    machine: Annotated[str, typer.Option("--machine", help="the machine's id")],
    fault: Annotated[
        str, typer.Option("--fault", help="a fault of the profile, normal, or unknown for a fault without a name yet")
    ],
    begin: Annotated[str, typer.Option("--from", help="when it began: ISO 8601 with offset, or milliseconds")],
    end: Annotated[
        str | None, typer.Option("--to", help="when it was over; without it the fault is still there")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="the fault is not in the profile yet")] = False,
    note: Annotated[
        str | None, typer.Option("--note", help="what else there is to say; similar incidents show it")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="who says so")] = None,
    corrects: Annotated[
        str | None, typer.Option("--corrects", help="the id of the diagnosis that was looked at")
    ] = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Name what a machine had: trainings learn from it, and diagnoses are scored by it.

    A label takes the place of an earlier one of the same machine and start, to correct its name or to give it an end.
    """
    from agents.console.actions.feedback import require_corrected, require_label_names
    from agents.console.actions.sending import KafkaSender

    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    require_label_names(plant, machine, fault, new=new, prefix="--")
    if corrects is not None:
        require_corrected(corrects, machine, "--")
    times = given_time(begin, "--from"), None if end is None else given_time(end, "--to")
    if note is not None and len(note) > messages.MAX_NOTE:
        raise SettingsError(f"--note has {len(note):,} characters; shorten it to {messages.MAX_NOTE:,}")
    if by is not None and len(by) > messages.MAX_PERSON:
        raise SettingsError(f"--by has {len(by):,} characters; shorten it to {messages.MAX_PERSON:,}")
    sender = KafkaSender(settings)

    async def send() -> str:
        partition = partition_of(machine.encode(), await sender.partitions(LABELS))
        output = label_output(
            machine, fault, *times, partition=partition, written_ms=now_ms(), note=note, by=by, corrects=corrects
        )
        return (await sender.send([output]))[0].topic

    try:
        name = asyncio.run(send())
    except RejectedError as error:
        raise SettingsError(f"this is no label: {error.detail}") from None
    say(f"{fault} of machine {machine} {_shown_span(*times)} is written to {name}")


def list_labels(
    machine: MachinePatternOption = "*",
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show, the last ones")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what has been labelled, in the order of time; nothing is written."""
    from agents.kafka.log import kafka_log

    settings = load_settings(broker=broker, profile=profile)
    labels: dict[tuple[str, int], LabelledSpan] = {}
    unreadable: list[str] = []
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, [LABELS], on_progress=progress) as log,
    ):
        for record in log.merged(LABELS):
            try:
                label = read_label(record)
            except RejectedError as rejected:
                unreadable.append(f"partition {record.partition}, offset {record.offset}: {rejected.detail}")
            else:
                labels[label.machine, label.start_ms] = label
    found = sorted(labels.values(), key=lambda one: (one.start_ms, one.machine))
    chosen = [one for one in found if fnmatch.fnmatchcase(one.machine, machine)]
    if as_json:
        shown = {"labels": [_label_as_dict(one) for one in chosen[-limit:]], "unreadable": unreadable[-limit:]}
        typer.echo(json.dumps(shown, indent=2))
        return
    if chosen:
        said = [name for name in ("note", "by", "corrects") if any(getattr(one, name) for one in chosen[-limit:])]
        labels_table = table("machine", "fault", "from", "to", "written", *said)
        for one in chosen[-limit:]:
            end = "still there" if one.end_ms >= messages.MAX_TIME_MS else time_cell(one.end_ms)
            cells = one.machine, one.fault, time_cell(one.start_ms), end, time_cell(one.written_ms)
            labels_table.add_row(*map(cell, (*cells, *(getattr(one, name) or "" for name in said))))
        Console().print(labels_table)
    say(f"{len(chosen)} of {len(found)} labels")
    for problem in unreadable[-limit:]:
        say(f"cannot be read: {problem}")


def _label_as_dict(label: LabelledSpan) -> dict[str, str | int | None]:
    end_ms = None if label.end_ms >= messages.MAX_TIME_MS else label.end_ms
    said = {"note": label.note, "by": label.by, "corrects": label.corrects}
    known = {name: text for name, text in said.items() if text is not None}
    return {"machine": label.machine, "fault": label.fault, "start": label.start_ms, "end": end_ms, **known}


def given_time(text: str, option: str) -> int:
    """Milliseconds of a time that an option gives; raises SettingsError."""
    try:
        return messages.parse_time_ms(int(text) if text.isdecimal() else text)
    except RejectedError as error:
        raise SettingsError(f"{option}: {error.detail}; use 2025-11-20T00:53:20Z or milliseconds") from None


def _shown_span(begin_ms: int, end_ms: int | None) -> str:
    until = "on, still there" if end_ms is None else f"until {shown_time(end_ms)}"
    return f"from {shown_time(begin_ms)} {until}"
