"""The commands about machines: `why`, `machines list`, `reset`, `end` and `forget`, `unknown list` and `name`."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import fnmatch
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.audit.log import open_outputs
from agents.audit.machine_list import MachineSummary, summarize_machines
from agents.audit.source_check import declared_topics
from agents.audit.why.next_steps import next_steps
from agents.audit.why.search import Committed, gather_facts
from agents.audit.why.worker_page import read_worker_page
from agents.cli.options import BrokerOption, JsonOption, MachinePatternOption, ProfileOption, now_ms
from agents.cli.views.printable import cell, say
from agents.cli.views.progress import records_progress
from agents.cli.views.why_view import show_why
from agents.console.actions.sending import KafkaSender, send_about
from agents.delivery.kept_states import of_machines
from agents.delivery.states import newest_states
from agents.kafka.log import committed_offsets, kafka_log, require_kafka
from agents.kafka.schema_registry import schema_registry
from agents.words import Words
from models.evaluation.unknown_episodes import Group, group_episodes, unknown_episodes
from pipeline.alignment.machine_states import MachineState
from pipeline.config.hints import shown_time
from pipeline.config.profile import load_profile
from pipeline.config.quantities.durations import shown_duration
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import CONTROL, DEAD_LETTER, DIAGNOSES, LABELS, LATE, STATE
from pipeline.errors import SettingsError
from pipeline.files.atomic_file import replacing
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, RejectedError

MachineArgument = Annotated[str, typer.Argument(help="the machine's id")]
ForceOption = Annotated[bool, typer.Option("--force", help="also if no state of the machine is saved")]


def list_machines(
    state: Annotated[MachineState | None, typer.Option("--state", help="only machines that are so")] = None,
    machine: MachinePatternOption = "*",
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how machines are, worst first, as their states were saved last; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    found, unreadable = summarize_machines(saved_states(settings, as_json=as_json), plant)
    chosen = [one for one in found if state in (None, one.state) and fnmatch.fnmatchcase(one.machine, machine)]
    if as_json:
        shown = {"machines": [one.as_dict() for one in chosen[:limit]], "unreadable": unreadable}
        typer.echo(json.dumps(shown, indent=2))
        return
    if chosen:
        Console().print(machines_table(chosen[:limit], now_ms(), Words(plant)))
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
    topics = [*direct, *for_ingest, DIAGNOSES, LATE, DEAD_LETTER, STATE]
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, topics, on_progress=progress) as log,
    ):
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
        show_why(facts, steps, Console(), Words(plant))
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


def saved_states(settings: Settings, *, as_json: bool = False) -> dict[str, bytes]:
    """The state of every machine that has one; how far it is read is shown unless the command prints JSON."""
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, [STATE], on_progress=progress) as log,
    ):
        return of_machines(newest_states((record.key, record.value) for record in log.records(STATE)))


def machines_table(machines: list[MachineSummary], now_ms: int, words: Words) -> Table:
    """The machines as rows."""
    areas = ["area"] if words.has_areas else []
    table = Table(
        "machine", *areas, "type", "partition", "state", "newest reading", "arrived", "diagnosed until", "frozen"
    )
    for one in machines:
        cells = (
            words.machine(one.machine),
            *[words.area(one.machine) or "" for _ in areas],
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
    if not force and machine not in saved_states(settings):
        raise SettingsError(
            f"no state of machine {machine!r} is saved; `faultline machines list` shows the machines that are known"
        )
    value = messages.encode(messages.Control(kind, machine=machine))  # type: ignore[arg-type]
    (sent,) = asyncio.run(send_about(KafkaSender(settings), CONTROL, [(machine, value)], now_ms()))
    say(f"{kind} of machine {machine} is sent to {sent.topic}, partition {sent.partition}")


FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="a recording with diagnoses, as `replay --out` writes, or JSON lines; else the topic"),
]


def unknown_list(
    source: FromOption = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="episodes of each group to show, the newest")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show the episodes of unknown faults, in groups of those in which the same variables deviate alike."""
    settings = load_settings(broker=broker, profile=profile)
    words = Words(load_profile(settings.profile))
    groups = _unknown_groups(settings, source, as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"groups": [group.as_dict() for group in groups]}, indent=2))
        return
    if not groups:
        say("no diagnosis says unknown")
    for group in groups:
        first = group.episodes[0].machine
        deviating = ", ".join(f"{words.variables(first, [name])} {mean:+.1f}" for name, mean in group.variables[:5])
        say(
            f"group {group.number}: {len(group.episodes):,} episodes, {group.frames:,} frames; {deviating or 'nothing'}"
        )
        for episode in group.episodes[-limit:]:
            peak = "" if episode.peak_novelty is None else f", novelty up to {episode.peak_novelty:.2f}"
            spell = f"{shown_time(episode.start_ms)} to {shown_time(episode.end_ms)}"
            say(f"    {words.machine(episode.machine)}  {spell}, {episode.frames:,} frames{peak}")


def unknown_name(
    group: Annotated[int, typer.Argument(help="the group's number, as `unknown list` shows it")],
    fault: Annotated[str, typer.Argument(help="the fault's name, as the profile will have it")],
    source: FromOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="a CSV file for `convert`; rows are appended if it exists")
    ] = None,
    publish: Annotated[bool, typer.Option("--publish", help="send labels to the topic faultline.labels")] = False,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
) -> None:
    """Name the fault of a group's episodes: write a label for each, so that a model can learn the fault."""
    settings = load_settings(broker=broker, profile=profile)
    if (out is None) != publish:
        raise SettingsError("say where the labels go: either --out FILE.csv or --publish")
    if not 1 <= len(fault) <= messages.MAX_NAME:
        raise SettingsError(f"a fault's name has 1 to {messages.MAX_NAME} characters; give another one")
    if publish:
        require_kafka(settings)
    groups = _unknown_groups(settings, source)
    if not 1 <= group <= len(groups):
        listed = f"the groups are 1 to {len(groups)}" if groups else "no diagnosis says unknown"
        raise SettingsError(f"there is no group {group}: {listed}; see `faultline unknown list`")
    episodes = groups[group - 1].episodes
    labels = [messages.Label(one.machine, one.start_ms, fault, one.end_ms) for one in episodes]
    if out is not None:
        _append_labels(out, labels)
        say(f"{len(labels):,} labels of {fault} are written to {out}")
    else:
        values = [(label.machine, messages.encode(label)) for label in labels]
        sent = asyncio.run(send_about(KafkaSender(settings), LABELS, values, now_ms()))
        say(f"{len(labels):,} labels of {fault} are sent to {sent[0].topic}")
    plant = load_profile(settings.profile)
    if all(fault not in machine_type.faults for machine_type in plant.machine_types):
        say(f"{fault} is no fault of profile {settings.profile}; add it there before training", err=True)


_LABEL_COLUMNS = ["machine", "time", "fault"]


def _append_labels(out: Path, labels: list[messages.Label]) -> None:
    """A table that `convert` reads with `runs: true`: the fault from one time on, none from another."""
    header = ",".join(_LABEL_COLUMNS)
    try:
        before = out.read_text(encoding="utf-8") if out.exists() else f"{header}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--out {out} cannot be read ({error}); name another file") from error
    if before.split("\n", 1)[0] != header:
        raise SettingsError(f"--out {out} exists and does not begin with the columns {header}; name another file")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for label in labels:
        writer.writerows([[label.machine, label.start, label.fault], [label.machine, label.end, ""]])
    with replacing(out) as part:
        part.write_text(before + text.getvalue(), encoding="utf-8")


def _unknown_groups(settings: Settings, source: Path | None, *, as_json: bool = False) -> list[Group]:
    if source is not None and source.suffix in (".jsonl", ".json", ".ndjson"):
        try:
            lines = source.read_bytes().splitlines()
        except OSError as error:
            raise SettingsError(f"--from {source} cannot be read ({error.strerror}); name another file") from error
        return group_episodes(unknown_episodes(_decoded(line for line in lines if line.strip())))
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        open_outputs(settings, source, [DIAGNOSES], progress) as log,
    ):
        return group_episodes(unknown_episodes(_decoded(record.value for record in log.records(DIAGNOSES))))


def _decoded(values: Iterable[bytes | None]) -> Iterator[Diagnosis]:
    """The diagnoses; what is none was written by something else and is left out."""
    for value in values:
        with contextlib.suppress(RejectedError):
            yield messages.decode_diagnosis(value or b"")
