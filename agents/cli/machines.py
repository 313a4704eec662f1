"""The commands about single machines: `faultline why`, and `faultline machines list`, `reset`, `end` and `forget`."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.audit.machine_list import MachineSummary, summarize_machines
from agents.audit.source_check import declared_topics
from agents.audit.why.next_steps import next_steps
from agents.audit.why.search import Committed, gather_facts
from agents.audit.why.worker_page import read_worker_page
from agents.cli.options import BrokerOption, JsonOption, ProfileOption
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
from pipeline.config.durations import shown_duration
from pipeline.config.hints import shown_time
from pipeline.config.profile import load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import CONTROL, DEAD_LETTER, DIAGNOSES, LATE, STATE, full_topic_name
from pipeline.errors import SettingsError
from pipeline.wire import messages
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
        Console().print(machines_table(chosen[:limit], int(time.time() * 1000)))
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
            now_ms=int(time.time() * 1000),
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
    output = Output(CONTROL, partition, machine.encode(), value, int(time.time() * 1000))
    asyncio.run(_publish(KafkaPublisher(settings.address, settings.topic_prefix, **security), output))
    say(f"{kind} of machine {machine} is sent to {name}, partition {partition}")


async def _publish(publisher: KafkaPublisher, output: Output) -> None:
    await publisher.start()
    try:
        await publisher.publish([output])
        await publisher.flush()
    finally:
        await publisher.stop()
