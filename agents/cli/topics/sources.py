"""The commands about sources: `faultline sources try` and `faultline sources check`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.audit.machine_list import summarize_machines
from agents.audit.source_check import SourceReport, check_source, declared_topics
from agents.audit.source_trial import Trial, record_title, topic_form, try_records
from agents.cli.options import BrokerOption, JsonOption, ProfileOption
from agents.cli.views.printable import MAX_CELL, cell
from agents.cli.views.progress import records_progress
from agents.delivery.kept_states import of_machines
from agents.delivery.partitioning import partition_function
from agents.delivery.states import newest_states
from agents.kafka.log import committed_offsets, kafka_log, require_kafka
from agents.kafka.schema_registry import schema_registry
from agents.words import printable
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import FOREIGN, STATE
from pipeline.mapping.explain import Explanation
from pipeline.wire.records import Record


def try_topic(
    profile: Annotated[str, typer.Argument(help="a shipped plant profile or a file")],
    topic: Annotated[str, typer.Option("--topic", help="name of the topic on the broker")],
    broker: Annotated[str | None, typer.Option("--broker", help="kafka://host:port; FAULTLINE_BROKER")] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=1_000, help="how many records, the newest")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show how the last records of a topic would be read, field by field, and what is wrong; nothing is written."""
    settings = load_settings(broker=broker)
    plant = load_profile(profile)
    declared = topic_form(plant, topic, settings.topic_prefix)
    require_kafka(settings)
    with kafka_log(settings, [declared.topic]) as log:
        records = log.last(declared.topic, last)
    trial = try_records(plant, declared, records, schema_registry(settings))
    if as_json:
        typer.echo(json.dumps(trial.as_dict(), indent=2))
    else:
        show_trial(trial, Console())
    if not records or trial.refused:
        raise typer.Exit(1)


def check(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    last: Annotated[int, typer.Option("--last", min=10, max=100_000, help="records of each topic, the newest")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Report per source of a live plant: rate, lag, share used, top reasons, machines seen and absent; read-only."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    require_kafka(settings)
    declared = declared_topics(plant)
    now_ms, schemas = int(time.time() * 1000), schema_registry(settings)
    reports = []
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, [*(form.topic for _, form in declared), STATE], on_progress=progress) as log,
    ):
        states = of_machines(newest_states((record.key, record.value) for record in log.records(STATE)))
        machines, _ = summarize_machines(states, plant)
        for holds, form in declared:
            partition_of = partition_function(log.partitions(form.topic))
            records = log.last(form.topic, last)
            report = check_source(
                plant, holds, form, records, machines, now_ms=now_ms, partition_of=partition_of, schemas=schemas
            )
            reading = settings.of_ingest if holds == "for ingest" else settings
            done = committed_offsets(reading, [form.topic])
            ends = log.ends(form.topic)
            report.lag = sum(max(0, end - done[form.topic, partition]) for partition, end in ends.items())
            reports.append(report)
    if as_json:
        typer.echo(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        show_reports(reports, Console())
    if any(report.has_problem for report in reports):
        raise typer.Exit(1)


def show_reports(reports: Sequence[SourceReport], console: Console) -> None:
    """Print one table, and below it what is wrong."""
    table = Table("topic", "holds", "records/s", "newest", "lag", "used", "machines", "absent")
    for one in reports:
        cells = (
            one.topic.removeprefix(FOREIGN),
            one.holds,
            "" if one.per_second is None else f"{one.per_second:,.2f}",
            "none" if one.newest_age_seconds is None else f"{one.newest_age_seconds:,.0f} s ago",
            "" if one.lag is None else f"{one.lag:,}",
            "" if one.share_used is None else f"{one.share_used:.1%}",
            f"{len(one.machines):,}",
            f"{len(one.absent):,}" if one.absent else "",
        )
        table.add_row(*map(cell, cells))
    console.print(table)
    for one in reports:
        name = one.topic.removeprefix(FOREIGN)
        for what, counts in (
            ("records not used", one.reasons),
            ("values not used", one.unused),
            ("names of no variable", one.unknown),
        ):
            if counts:
                top = ", ".join(f"{_cut(text)} ({count:,})" for text, count in counts.most_common(10))
                console.print(cell(f"{name}: {what}: {top}", limit=None))
        if one.absent:
            more = f" and {len(one.absent) - 20:,} more" if len(one.absent) > 20 else ""
            console.print(cell(f"{name}: absent: {', '.join(map(_cut, one.absent[:20]))}{more}", limit=None))


def show_trial(trial: Trial, console: Console) -> None:
    """Print tables; what comes from records is data and never markup."""
    for record, explanation in trial.records:
        _show_record(record, explanation, console)
    if not trial.records:
        console.print(cell(f"topic {trial.topic} holds no records"))
        return
    read = len(trial.records) - trial.refused
    console.print(cell(f"{read} of {len(trial.records)} records of topic {trial.topic} can be read"))
    machines = ", ".join(f"{_cut(machine)} ({count})" for machine, count in trial.machines.most_common(20))
    console.print(cell(f"machines: {machines or 'none'}", limit=None))
    if trial.unmatched:
        unmatched = ", ".join(_cut(machine) for machine in sorted(trial.unmatched)[:20])
        console.print(cell(f"of no machine type, so their records would be refused: {unmatched}", limit=None))
    if trial.used or trial.unused:
        unused = ", ".join(f"{_cut(name)} {reason} ({count})" for (name, reason), count in trial.unused.most_common(20))
        console.print(cell(f"values: {trial.used} used; not used: {unused or 'none'}", limit=None))
    if trial.absent:
        shown, more = trial.absent[:20], len(trial.absent) - 20
        rest = f" and {more} more" if more > 0 else ""
        console.print(cell(f"variables without any value: {', '.join(shown)}{rest}", limit=None))


def _show_record(record: Record, explanation: Explanation, console: Console) -> None:
    console.print(cell(record_title(record), "bold"))
    if explanation.fields:
        table = Table("field", "stands at", "given", "read as", "problem")
        for one in explanation.fields:
            table.add_row(*map(cell, one))
        console.print(table)
    if explanation.refused:
        console.print(cell(f"refused: {explanation.refused}", "red", limit=None))
    console.print()


def _cut(text: str) -> str:
    return printable(text, MAX_CELL)
