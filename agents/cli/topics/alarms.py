"""The commands about alarms: `list`, `history`, and what people do, from `ack` to `configure`."""

from __future__ import annotations

import asyncio
import fnmatch
import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from agents.audit.log import open_outputs
from agents.audit.reports.alarm_list import (
    WAITING,
    AlarmState,
    AlarmStatus,
    AlarmSummary,
    shown_priority,
    summarize_alarms,
)
from agents.cli.machines import saved_states
from agents.cli.options import BrokerOption, JsonOption, MachinePatternOption, ProfileOption, now_ms
from agents.cli.views.alarm_view import alarms_table, history_table
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.console.actions.controls import (
    alarm_owners,
    control_value,
    require_alarm,
    require_person,
    require_shelvable,
)
from agents.console.actions.sending import KafkaSender, Sent, send_about
from agents.delivery.partitioning import partition_of
from agents.kafka.log import require_kafka
from agents.words import Words
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.config.sections.alarms import parse_entry
from pipeline.config.sections.titles import Priority, is_pattern
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import ALARMS, CONTROL
from pipeline.errors import ProfileError, SettingsError
from pipeline.wire import messages
from pipeline.wire.messages import OperatorKind
from pipeline.wire.records import Output

MachineArgument = Annotated[
    str, typer.Argument(help="the id of a machine or utility (hall_1/steam), or a pattern such as 'pump-*'")
]
FaultArgument = Annotated[
    str | None, typer.Argument(help="a fault, unknown, stale, offline or blind; all alarms without it")
]
ByOption = Annotated[str, typer.Option("--by", help="who does this; it is in the record")]
WhyOption = Annotated[str, typer.Option("--why", help="why; it is in the record")]
FromOption = Annotated[
    Path | None, typer.Option("--from", help="a recording of outputs, as `replay --out` writes; else the topic")
]
FaultOption = Annotated[str | None, typer.Option("--fault", help="only alarms of this fault")]


def list_alarms(
    state: Annotated[AlarmState | None, typer.Option("--state", help="only alarms in this state")] = None,
    priority: Annotated[Priority | None, typer.Option("--priority", help="only of this priority")] = None,
    machine: MachinePatternOption = "*",
    fault: FaultOption = None,
    source: FromOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the alarms that are not normal, the most urgent first; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    words = Words(load_profile(settings.profile))
    summary = _summary(settings, source, as_json=as_json)
    chosen = [
        one
        for one in summary.alarms
        if state in (None, one.state)
        and priority in (None, shown_priority(one, words))
        and fnmatch.fnmatchcase(one.machine, machine)
        and fault in (None, one.fault)
    ]
    if as_json:
        typer.echo(json.dumps({"alarms": [one.as_dict() for one in chosen[:limit]], "unreadable": summary.unreadable}))
        return
    if chosen:
        Console().print(alarms_table(chosen[:limit], words))
    waiting = sum(one.state in WAITING for one in chosen)
    say(f"{len(chosen)} of {len(summary.alarms)} alarms, {waiting} waiting for acknowledgement")
    _say_unreadable(summary)


def history(
    machine: MachinePatternOption = "*",
    fault: FaultOption = None,
    people: Annotated[bool, typer.Option("--people", help="only what people did")] = False,
    source: FromOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show, the newest")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened to alarms, and who did what and why, in the order of event time; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    words = Words(load_profile(settings.profile))
    summary = _summary(settings, source, as_json=as_json)
    chosen = [
        one
        for one in summary.history
        if fnmatch.fnmatchcase(one.machine, machine) and fault in (None, one.fault) and (one.by or not people)
    ]
    if as_json:
        shown = [msgspec.to_builtins(one) for one in chosen[-limit:]]
        typer.echo(json.dumps({"records": shown, "unreadable": summary.unreadable}))
        return
    if chosen:
        Console().print(history_table(chosen[-limit:], words))
    say(f"{len(chosen)} of {len(summary.history)} records")
    _say_unreadable(summary)


def acknowledge(
    machine: MachineArgument,
    by: ByOption,
    why: WhyOption,
    fault: FaultArgument = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Acknowledge alarms: somebody has seen them, and does what has to be done."""
    settings, _ = _plant(broker, profile, machine, fault)
    waiting = [one for one in _open(settings, machine, fault) if one.state != AlarmState.ACKNOWLEDGED]
    if not waiting:
        raise SettingsError(
            f"no alarm of {_named(machine, fault)} waits for acknowledgement; `faultline alarms list` shows those "
            "that do"
        )
    machines = list(dict.fromkeys(one.machine for one in waiting))
    _send(settings, "acknowledge", machines, by, why, fault)
    for one in waiting:
        say(f"acknowledged: {one.fault} of machine {one.machine}")


def shelve(
    machine: MachineArgument,
    by: ByOption,
    why: WhyOption,
    duration: Annotated[str, typer.Option("--for", help="how long, in the machine's event time, such as 2h")],
    fault: FaultArgument = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Shelve alarms for a while: they are recorded, and call nobody."""
    settings, plant = _plant(broker, profile, machine, fault)
    try:
        for_ms = parse_duration_ms(duration)
    except ValueError as error:
        raise SettingsError(f"--for: {error}") from None
    machines = _known(settings, plant, machine, fault)
    for one in machines:
        require_shelvable(plant, one, fault, for_ms, f"--for {duration}")
    _send(settings, "shelve", machines, by, why, fault, for_ms)
    say(f"{_named(machine, fault)} is shelved for {duration}: {len(machines)} machines")


def unshelve(
    machine: MachineArgument,
    by: ByOption,
    why: WhyOption,
    fault: FaultArgument = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """End shelving before its time."""
    _undo("unshelve", AlarmState.SHELVED, machine, fault, by, why, broker, profile)


def suppress(
    machine: MachineArgument,
    by: ByOption,
    why: WhyOption,
    fault: FaultArgument = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Take alarms out of service, such as during maintenance, until `unsuppress`."""
    settings, plant = _plant(broker, profile, machine, fault)
    machines = _known(settings, plant, machine, fault)
    _send(settings, "suppress", machines, by, why, fault)
    say(f"{_named(machine, fault)} is out of service: {len(machines)} machines")


def unsuppress(
    machine: MachineArgument,
    by: ByOption,
    why: WhyOption,
    fault: FaultArgument = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Take alarms into service again."""
    _undo("unsuppress", AlarmState.OUT_OF_SERVICE, machine, fault, by, why, broker, profile)


def comment(
    machine: MachineArgument,
    by: ByOption,
    why: Annotated[str, typer.Option("--why", help="what there is to say; it is in the record")],
    fault: FaultArgument = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Write down something about an alarm, or about a machine or utility; `faultline alarms history` shows it."""
    settings, plant = _plant(broker, profile, machine, fault)
    machines = _known(settings, plant, machine, fault)
    _send(settings, "comment", machines, by, why, fault)
    say(f"the comment on {_named(machine, fault)} is sent: {len(machines)} machines")


def configure(
    assignments: Annotated[list[str], typer.Argument(help="settings as in the profile, such as on_delay=2m")],
    by: ByOption,
    why: WhyOption,
    machine: Annotated[str | None, typer.Option("--machine", help="for ids that fit this; else all")] = None,
    machine_type: Annotated[str | None, typer.Option("--type", help="for this machine type; else all")] = None,
    fault: Annotated[str | None, typer.Option("--fault", help="for this alarm; else all")] = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Change settings of alarms while workers run; what is to last belongs into the profile."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    selectors = {"machine_type": machine_type, "machine": machine, "fault": fault}
    entry = {name: value for name, value in selectors.items() if value is not None} | dict(map(_setting, assignments))
    try:
        parse_entry(entry, {kind.name: kind.faults for kind in plant.machine_types})
    except ProfileError as error:
        raise SettingsError(str(error)) from None
    require_kafka(settings)
    is_one = machine is not None and not is_pattern(machine)
    value = messages.encode(messages.Control("configure", by=by, why=why, settings=entry))
    sender = KafkaSender(settings)

    async def send() -> list[Sent]:
        count = await sender.partitions(CONTROL)
        partitions = [partition_of((machine or "").encode(), count)] if is_one else range(count)
        return await sender.send([Output(CONTROL, partition, None, value, now_ms()) for partition in partitions])

    sent = asyncio.run(send())
    say(f"settings are sent to {sent[0].topic}, {len(sent)} partitions; `faultline alarms history --people` shows them")


def _summary(settings: Settings, source: Path | None = None, *, as_json: bool = False) -> AlarmSummary:
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        open_outputs(settings, source, [ALARMS], progress) as log,
    ):
        return summarize_alarms(record.value for record in log.records(ALARMS))


def _say_unreadable(summary: AlarmSummary) -> None:
    if summary.unreadable:
        say(f"{summary.unreadable} records of topic {ALARMS} cannot be read")


def _plant(broker: str | None, profile: str | None, machine: str, fault: str | None) -> tuple[Settings, PlantProfile]:
    """Settings and profile; raises SettingsError if no machine or utility of that name can have such an alarm."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    require_alarm(plant, machine, fault)
    return settings, plant


def _open(settings: Settings, machine: str, fault: str | None) -> list[AlarmStatus]:
    return [
        one
        for one in _summary(settings).alarms
        if one.id is not None and fnmatch.fnmatchcase(one.machine, machine) and fault in (None, one.fault)
    ]


def _known(settings: Settings, plant: PlantProfile, name: str, fault: str | None) -> list[str]:
    """The machines that have a state, and the utilities, that fit a pattern; raises SettingsError if there are none."""
    machines = {} if name in plant.area_of_utility else saved_states(settings)
    found = alarm_owners(plant, machines, name, fault)
    if not found:
        raise SettingsError(
            f"no state of machine {name!r} is saved; `faultline machines list` shows the machines that are known"
        )
    return found


def _undo(
    kind: OperatorKind,
    state: AlarmState,
    machine: str,
    fault: str | None,
    by: str,
    why: str,
    broker: str | None,
    profile: str | None,
) -> None:
    settings, _ = _plant(broker, profile, machine, fault)
    held = [
        one.machine
        for one in _summary(settings).alarms
        if one.state == state and fnmatch.fnmatchcase(one.machine, machine)
    ]
    if not held:
        raise SettingsError(f"no alarm of {machine} is {state.value}; `faultline alarms list` shows those that are")
    machines = list(dict.fromkeys(held))
    _send(settings, kind, machines, by, why, fault)
    say(f"{_named(machine, fault)} is in service again: {len(machines)} machines")


def _send(
    settings: Settings,
    kind: OperatorKind,
    machines: list[str],
    by: str,
    why: str,
    fault: str | None,
    for_ms: int | None = None,
) -> None:
    require_person(by, why, "--")
    values = [(machine, control_value(kind, machine, by, why, fault=fault, for_ms=for_ms)) for machine in machines]
    asyncio.run(send_about(KafkaSender(settings), CONTROL, values, now_ms()))


def _setting(assignment: str) -> tuple[str, object]:
    name, equals, text = assignment.partition("=")
    if not equals or not text:
        raise SettingsError(f"{assignment!r} is no setting; write NAME=VALUE, such as on_delay=2m")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _named(machine: str, fault: str | None) -> str:
    return f"{'every alarm' if fault is None else fault} of {machine}"
