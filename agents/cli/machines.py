"""The commands about single machines: `faultline why`, `faultline machines ...`, and `faultline labels ...`."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.audit.machine_list import MachineSummary, summarize_machines
from agents.audit.source_check import declared_topics
from agents.audit.why.next_steps import next_steps
from agents.audit.why.search import Committed, gather_facts
from agents.audit.why.worker_page import read_worker_page
from agents.cli.options import BrokerOption, JsonOption, ProfileOption, now_ms
from agents.cli.views.printable import cell, say
from agents.cli.views.why_view import show_why
from agents.delivery.kept_states import of_machines
from agents.delivery.partitioning import partition_function
from agents.delivery.states import newest_states
from agents.kafka.admin import partition_counts
from agents.kafka.log import committed_offsets, kafka_log, require_kafka
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.schema_registry import schema_registry
from agents.kafka.security import client_security
from pipeline.alignment.machine_states import MachineState
from pipeline.config.classes import RECOVERING, UNKNOWN
from pipeline.config.durations import shown_duration
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import CONTROL, DEAD_LETTER, DIAGNOSES, LABELS, LATE, STATE, full_topic_name
from pipeline.errors import SettingsError
from pipeline.files.yaml_fields import did_you_mean
from pipeline.wire import messages
from pipeline.wire.labels import LabelledSpan, label_output, read_label
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Output

MachineArgument = Annotated[str, typer.Argument(help="the machine's id")]
ForceOption = Annotated[bool, typer.Option("--force", help="also if no state of the machine is saved")]


def list_machines(
    state: Annotated[MachineState | None, typer.Option("--state", help="only machines that are so")] = None,
    machine: Annotated[str, typer.Option("--machine", help="only ids that fit this pattern, such as pump-*")] = "*",
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how machines are, worst first, as their states were saved last; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    found, unreadable = summarize_machines(_states(settings), plant)
    chosen = [one for one in found if state in (None, one.state) and fnmatch.fnmatchcase(one.machine, machine)]
    if as_json:
        shown = {"machines": [one.as_dict() for one in chosen[:limit]], "unreadable": unreadable}
        typer.echo(json.dumps(shown, indent=2))
        return
    if chosen:
        Console().print(machines_table(chosen[:limit], now_ms()))
    say(f"{len(chosen)} of {len(found)} machines")
    for name, reason in list(unreadable.items())[:limit]:
        say(f"the state of {name!r} cannot be read: {reason}")


def why(
    machine: MachineArgument,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="http://host:port of a worker's metrics; else FAULTLINE_WEB_HOST and _PORT"),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", min=10, max=100_000, help="records of each partition to look in, the newest")
    ] = 5_000,
    as_json: JsonOption = False,
) -> None:
    """Say why a machine is as it is, and what would have to happen next; nothing is written.

    Ends with 0 if the machine is active, else with 1.
    """
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    require_kafka(settings)
    host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
    worker = read_worker_page(metrics or f"http://{host}:{settings.web_port}")
    declared = declared_topics(plant)
    direct = [form.topic for holds, form in declared if holds != "for ingest"]
    for_ingest = [form.topic for holds, form in declared if holds == "for ingest"]
    committed = Committed(
        committed_offsets(settings, direct), committed_offsets(settings.of_ingest, for_ingest) if for_ingest else {}
    )
    with kafka_log(settings, [*direct, *for_ingest, DIAGNOSES, LATE, DEAD_LETTER, STATE]) as log:
        facts = gather_facts(
            log,
            plant,
            machine,
            last=last,
            now_ms=now_ms(),
            committed=committed,
            worker=worker,
            schemas=schema_registry(settings),
        )
    steps = next_steps(facts)
    if as_json:
        typer.echo(json.dumps(facts.as_dict(steps), indent=2))
    else:
        show_why(facts, steps, Console())
    if not facts.is_active:
        raise typer.Exit(1)


def reset(machine: MachineArgument, broker: BrokerOption = None, profile: ProfileOption = None) -> None:
    """Reset the model's state of a machine with its next frame."""
    _send("reset", machine, broker, profile, force=False)


def end(machine: MachineArgument, broker: BrokerOption = None, profile: ProfileOption = None) -> None:
    """Close all waiting frames of a machine and reset it: its run has ended."""
    _send("end", machine, broker, profile, force=False)


def forget(
    machine: MachineArgument, broker: BrokerOption = None, profile: ProfileOption = None, force: ForceOption = False
) -> None:
    """Forget a machine with all that is known of it; it starts again with its next reading, at whatever time that is.

    This frees a machine whose clock was ahead: until real time has caught up, all of its readings would be late.
    """
    _send("forget", machine, broker, profile, force=force)


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
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Name what a machine had: trainings learn from it, and diagnoses are scored by it.

    A label takes the place of an earlier one of the same machine and start, to correct its name or to give it an end.
    """
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    _require_names(plant, machine, fault, new=new)
    require_kafka(settings)
    security = client_security(settings)
    name = full_topic_name(settings.topic_prefix, LABELS)
    partition = partition_function(partition_counts(settings.address, [name], security)[name])(machine.encode())
    now = now_ms()
    times = _label_time(begin, "--from"), None if end is None else _label_time(end, "--to")
    try:
        output = label_output(machine, fault, *times, partition=partition, written_ms=now)
    except RejectedError as error:
        raise SettingsError(f"this is no label: {error.detail}") from None
    asyncio.run(_publish(KafkaPublisher(settings.address, settings.topic_prefix, **security), output))
    say(f"{fault} of machine {machine} {_shown_span(*times)} is written to {name}")


def list_labels(
    machine: Annotated[str, typer.Option("--machine", help="only ids that fit this pattern, such as pump-*")] = "*",
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show, the last ones")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what has been labelled, in the order of time; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    require_kafka(settings)
    labels: dict[tuple[str, int], LabelledSpan] = {}
    unreadable: list[str] = []
    with kafka_log(settings, [LABELS]) as log:
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
        table = Table("machine", "fault", "from", "to", "written")
        for one in chosen[-limit:]:
            end = "still there" if one.end_ms >= messages.MAX_TIME_MS else shown_time(one.end_ms)
            cells = one.machine, one.fault, shown_time(one.start_ms), end, shown_time(one.written_ms)
            table.add_row(*map(cell, cells))
        Console().print(table)
    say(f"{len(chosen)} of {len(found)} labels")
    for problem in unreadable[-limit:]:
        say(f"cannot be read: {problem}")


def _label_as_dict(label: LabelledSpan) -> dict[str, str | int | None]:
    end_ms = None if label.end_ms >= messages.MAX_TIME_MS else label.end_ms
    return {"machine": label.machine, "fault": label.fault, "start": label.start_ms, "end": end_ms}


def _require_names(plant: PlantProfile, machine: str, fault: str, *, new: bool) -> None:
    """Raise SettingsError if the profile has no such machine, or no such fault unless it is new."""
    kind = plant.type_of(machine)
    if kind is None:
        patterns = ", ".join(one.match for one in plant.machine_types)
        raise SettingsError(f"--machine {machine!r} is no machine of plant {plant.plant}, whose ids fit {patterns}")
    known = (*kind.faults, UNKNOWN)
    if new and fault == RECOVERING:
        raise SettingsError(f"--fault {RECOVERING!r} is a state that models find by themselves; choose another name")
    if new and fault in known:
        raise SettingsError(f"--fault {fault!r} is not new: the profile has it; leave --new out")
    if fault not in known and not new:
        raise SettingsError(
            f"--fault {fault!r} is no fault of machine type {kind.name}; {did_you_mean(fault, known)} (--new for a "
            "fault that the profile does not have yet)"
        )


def _label_time(text: str, option: str) -> int:
    try:
        return messages.parse_time_ms(int(text) if text.isdecimal() else text)
    except RejectedError as error:
        raise SettingsError(f"{option}: {error.detail}; use 2025-11-20T00:53:20Z or milliseconds") from None


def _shown_span(begin_ms: int, end_ms: int | None) -> str:
    until = "on, still there" if end_ms is None else f"until {shown_time(end_ms)}"
    return f"from {shown_time(begin_ms)} {until}"


def _states(settings: Settings) -> dict[str, bytes]:
    require_kafka(settings)
    with kafka_log(settings, [STATE]) as log:
        return of_machines(newest_states((record.key, record.value) for record in log.records(STATE)))


def machines_table(machines: list[MachineSummary], now_ms: int) -> Table:
    """The machines as rows."""
    table = Table("machine", "type", "partition", "state", "newest reading", "arrived", "diagnosed until", "frozen")
    for one in machines:
        cells = (
            one.machine,
            one.type,
            str(one.partition),
            one.state,
            _shown(one.newest_reading_ms),
            f"{shown_duration(now_ms - one.last_record_ms)} ago" if one.last_record_ms <= now_ms else "in the future",
            _shown(one.diagnosed_until_ms),
            str(one.frozen) if one.frozen else "",
        )
        table.add_row(*map(cell, cells))
    return table


def _shown(time_ms: int | None) -> str:
    return "" if time_ms is None else shown_time(time_ms)


def _send(kind: str, machine: str, broker: str | None, profile: str | None, *, force: bool) -> None:
    settings = load_settings(broker=broker, profile=profile)
    require_kafka(settings)
    if not force and machine not in _states(settings):
        raise SettingsError(
            f"no state of machine {machine!r} is saved; `faultline machines list` shows the machines that are known"
        )
    security = client_security(settings)
    name = full_topic_name(settings.topic_prefix, CONTROL)
    count = partition_counts(settings.address, [name], security)[name]
    partition = partition_function(count)(machine.encode())
    value = messages.encode(messages.Control(kind, machine=machine))  # type: ignore[arg-type]
    output = Output(CONTROL, partition, machine.encode(), value, now_ms())
    asyncio.run(_publish(KafkaPublisher(settings.address, settings.topic_prefix, **security), output))
    say(f"{kind} of machine {machine} is sent to {name}, partition {partition}")


async def _publish(publisher: KafkaPublisher, output: Output) -> None:
    await publisher.start()
    try:
        await publisher.publish([output])
        await publisher.flush()
    finally:
        await publisher.stop()
