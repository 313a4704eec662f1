"""The command about foreign topics: `faultline sources try`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.audit.source_trial import Trial, record_title, topic_form, try_records
from agents.cli.options import JsonOption
from agents.kafka.log import kafka_log, require_kafka
from agents.kafka.schema_registry import schema_registry
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.mapping.explain import Explanation
from pipeline.wire.records import Record

_MAX_CELL = 200


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


def show_trial(trial: Trial, console: Console) -> None:
    """Print tables; what comes from records is data and never markup."""
    for record, explanation in trial.records:
        _show_record(record, explanation, console)
    if not trial.records:
        console.print(Text(f"topic {trial.topic} holds no records"))
        return
    read = len(trial.records) - trial.refused
    console.print(Text(f"{read} of {len(trial.records)} records of topic {trial.topic} can be read"))
    machines = ", ".join(f"{_cut(machine)} ({count})" for machine, count in trial.machines.most_common(20))
    console.print(Text(f"machines: {machines or 'none'}"))
    if trial.unmatched:
        unmatched = ", ".join(_cut(machine) for machine in sorted(trial.unmatched)[:20])
        console.print(Text(f"of no machine type, so their records would be refused: {unmatched}"))
    if trial.used or trial.unused:
        unused = ", ".join(f"{_cut(name)} {reason} ({count})" for (name, reason), count in trial.unused.most_common(20))
        console.print(Text(f"values: {trial.used} used; not used: {unused or 'none'}"))
    if trial.absent:
        shown, more = trial.absent[:20], len(trial.absent) - 20
        rest = f" and {more} more" if more > 0 else ""
        console.print(Text(f"variables without any value: {', '.join(shown)}{rest}"))


def _show_record(record: Record, explanation: Explanation, console: Console) -> None:
    console.print(Text(record_title(record), style="bold"))
    if explanation.fields:
        table = Table("field", "stands at", "given", "read as", "problem")
        for one in explanation.fields:
            table.add_row(*(Text(_cut(cell)) for cell in one))
        console.print(table)
    if explanation.refused:
        console.print(Text(f"refused: {_printable(explanation.refused)}", style="red"))
    console.print()


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _cut(text: str) -> str:
    text = _printable(text)
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}…"
