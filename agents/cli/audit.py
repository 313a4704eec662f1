"""The commands that inspect what is in the topics: `faultline verify`, `drift`, `dead-letters` and `late`."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from agents.audit.dead_letters import Filters, Summary, as_dict, shown_time, summarize
from agents.audit.letter_replay import check_destination, replay_dead_letters
from agents.audit.log import open_outputs
from agents.audit.reports.area_check import AreaCheck, check_areas
from agents.audit.reports.drift_list import summarize_drift
from agents.audit.verify import VerifyReport, verify_diagnoses
from agents.audit.verify_inputs import verify_inputs
from agents.cli.options import JsonOption, MachinePatternOption, ModelOption, ProfileOption, load_runners
from agents.cli.views.drift_view import drift_table
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.delivery.partitioning import partition_function
from agents.kafka.admin import partition_counts
from agents.kafka.log import committed_offsets, kafka_log, require_kafka
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.security import client_security
from agents.words import Words
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.quantities.durations import shown_duration
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import AREAS, DEAD_LETTER, DIAGNOSES, DRIFT, LATE, PLANT, full_topic_name, short_topic_name
from pipeline.errors import SettingsError
from pipeline.wire.letters import LETTER_BYTES
from pipeline.wire.recording import has_topic
from pipeline.wire.records import OnProgress, Output

NOTHING_TO_VERIFY = 3
"""Exit code of `faultline verify` where there are no diagnoses; 1 means that something is wrong."""

BrokerOption = Annotated[str | None, typer.Option("--broker", help="kafka://host:port; FAULTLINE_BROKER")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="only with this reason, such as schema")]
MachineOption = Annotated[
    str | None, typer.Option("--machine", help="only of this machine, in the key or in the value")
]
TopicOption = Annotated[str | None, typer.Option("--topic", help="only from this topic, such as sensors")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="how many to show")]
OldestOption = Annotated[bool, typer.Option("--oldest", help="show the oldest first, not the newest")]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since", help="only records since this time: 2025-11-20T00:53:20Z, milliseconds, or 2h for the last two hours"
    ),
]


def verify(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    recording: Annotated[
        Path | None, typer.Option("--recording", help="a recording with diagnoses, instead of a broker")
    ] = None,
    inputs: Annotated[
        bool, typer.Option("--inputs", help="also account for every reading of the input topics")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove from diagnoses, of areas too, that none is missing, none has two contents, and all are in order."""
    settings = load_settings(broker=broker, profile=profile)
    plant = load_profile(settings.profile)
    if recording is not None and inputs:
        raise SettingsError("--inputs needs the topics of a broker; it cannot be used with --recording")
    areas: AreaCheck | None = None
    with records_progress("reading", is_shown=not as_json) as progress:
        if recording is None:
            report = verify_topics(settings, plant, inputs=inputs, on_progress=progress)
        else:
            with open_outputs(settings, recording, [DIAGNOSES], progress) as log:
                report = verify_diagnoses(log, plant).report
        if plant.areas and (recording is None or has_topic(recording, PLANT)):
            with open_outputs(settings, recording, [PLANT, AREAS], progress) as log:
                areas = check_areas(log, plant)
    if as_json:
        typer.echo(json.dumps(report.as_dict() | ({} if areas is None else {"areas": areas.as_dict()}), indent=2))
    else:
        show_verified(report)
        if areas is not None:
            show_areas_checked(areas)
    if not (report.proven and (areas is None or areas.proven)):
        raise typer.Exit(NOTHING_TO_VERIFY if report.is_empty else 1)


def verify_topics(
    settings: Settings, plant: PlantProfile, *, inputs: bool, on_progress: OnProgress = lambda *_: None
) -> VerifyReport:
    """Verify what is in the topics of a broker; raises FaultlineError where they cannot be read."""
    topics = [DIAGNOSES, *([*plant.sensor_topics, LATE, DEAD_LETTER] if inputs else [])]
    committed = committed_offsets(settings, plant.sensor_topics) if inputs else {}
    with kafka_log(settings, topics, on_progress=on_progress) as log:
        verifier = verify_diagnoses(log, plant)
        if inputs:
            verify_inputs(log, plant, verifier, committed)
    return verifier.report


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


def show_verified(report: VerifyReport) -> None:
    """Print what was verified, and the first problems."""
    say(
        f"{report.diagnoses:,} diagnoses of {report.machines:,} machines: {report.frames:,} frames, "
        f"{report.announced:,} announced, {report.revised:,} revised; {report.repeated:,} repeated"
        + (f", {report.nearly_repeated:,} repeated with other digits" if report.nearly_repeated else "")
    )
    if report.resets:
        say(f"resets: {_counts(report.resets)}")
    if report.cut_partitions:
        gone = ", ".join(map(str, report.cut_partitions))
        say(f"the beginning of partition {gone} has been deleted; the rest was checked")
    if report.readings is not None:
        say(f"readings: {_counts(report.readings) or 'none'}")
    if report.proven:
        say("proven: nothing is missing, nothing has two contents, everything is in order")
        return
    if report.is_empty:
        say("NOTHING TO VERIFY: there are no diagnoses; check the broker, FAULTLINE_TOPIC_PREFIX and the workers")
        return
    say(f"NOT PROVEN: {_counts(report.problems)}; the first of them:")
    for text in report.shown():
        say(f"  {text}")


def show_areas_checked(check: AreaCheck) -> None:
    """Print what was checked of areas, and the first problems."""
    say(f"areas: {check.frames:,} frames; {check.repeated:,} repeated, {check.ahead:,} not diagnosed yet")
    for text in check.unchecked:
        say(f"frames not derived again, {text}")
    if check.proven:
        say("proven: each follows from its diagnoses, nothing is missing, nothing has two contents")
        return
    say(f"NOT PROVEN: {_counts(check.problems)}; the first of them:")
    for text in check.examples:
        say(f"  {text}")


def drift(
    recording: Annotated[
        Path | None,
        typer.Option("--from", help="replay this recording, or list its drift reports; not a broker"),
    ] = None,
    machine: MachinePatternOption = "*",
    standing: Annotated[bool, typer.Option("--standing", help="only drift that has not ended")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many to show")] = 50,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """List slow changes by machine and variable: those that stand, then those that have ended; nothing is written."""
    settings = load_settings(broker=broker, profile=profile)
    if recording is None and model:
        raise SettingsError("--model is for a replay with --from; the topic has the reports of the model that serves")
    with records_progress("reading", is_shown=not as_json) as progress:
        if recording is None or has_topic(recording, DIAGNOSES) or has_topic(recording, DRIFT):
            # A recording of outputs in which nothing has drifted has no topic of drift.
            topics = [DRIFT] if recording is None or has_topic(recording, DRIFT) else [DIAGNOSES, DRIFT]
            with open_outputs(settings, recording, topics, progress) as log:
                summary = summarize_drift(record.value for record in log.records(DRIFT))
        else:
            summary = summarize_drift(_replayed_drift(recording, settings, model, progress))
    chosen = [
        one for one in summary.episodes if fnmatch.fnmatchcase(one.machine, machine) and (one.stands or not standing)
    ]
    if as_json:
        shown = {"drift": [one.as_dict() for one in chosen[:limit]], "unreadable": summary.unreadable}
        typer.echo(json.dumps(shown, indent=2))
        return
    if chosen:
        Console().print(drift_table(chosen[:limit], Words(load_profile(settings.profile))))
    still = sum(one.stands for one in chosen)
    say(f"{still} standing, {len(chosen) - still} ended")
    if summary.unreadable:
        say(f"{summary.unreadable} records of topic {DRIFT} cannot be read")


def _replayed_drift(
    recording: Path, settings: Settings, files: list[Path] | None, on_progress: OnProgress
) -> list[bytes | None]:
    """The reports of a replay."""
    from agents.replay.replay import replay_in_memory

    plant = load_profile(settings.profile)
    runners = load_runners(settings, plant, files)
    found: list[bytes | None] = []

    def take(output: Output) -> None:
        if output.topic == DRIFT:
            found.append(output.value)

    if not settings.drift:
        raise SettingsError("FAULTLINE_DRIFT is false, so a replay reports no drift; unset it")
    partition_of = partition_function(settings.partitions)
    replaying = replay_in_memory(
        recording, settings, plant, runners, partition_of, on_output=take, scored=False, on_progress=on_progress
    )
    asyncio.run(replaying)
    return found


def dead_letters_list(
    broker: BrokerOption = None,
    reason: ReasonOption = None,
    machine: MachineOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    limit: LimitOption = 20,
    oldest: OldestOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how many records could not be used, for which reasons, and what they look like."""
    settings = load_settings(broker=broker)
    filters = _filters(settings, reason, machine, topic, since)
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, [DEAD_LETTER], on_progress=progress) as log,
    ):
        found = summarize(log, filters, keep=limit, from_oldest=oldest)
    letters = [as_dict(letter, found.sent_to(letter)) for letter in found.letters]
    if as_json:
        summary = {"dead_letters": found.matched, "came_back": found.came_back, "foreign": found.foreign}
        typer.echo(json.dumps(summary | {"reasons": found.reasons, "shown": letters}, indent=2))
    else:
        show_letters(found, letters, "dead letters")


def late_list(
    broker: BrokerOption = None,
    machine: MachineOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    limit: LimitOption = 20,
    oldest: OldestOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how many records came too late, by how much, and what they look like."""
    settings = load_settings(broker=broker)
    filters = _filters(settings, None, machine, topic, since)
    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, [LATE], on_progress=progress) as log,
    ):
        found = summarize(log, filters, keep=limit, topic=LATE, from_oldest=oldest)
    letters = [as_dict(letter, []) for letter in found.letters]
    if as_json:
        summary = {"late": found.matched, "foreign": found.foreign}
        typer.echo(json.dumps(summary | {"reasons": found.reasons, "shown": letters}, indent=2))
    else:
        show_letters(found, letters, "late records")


def _filters(
    settings: Settings, reason: str | None, machine: str | None, topic: str | None, since: str | None
) -> Filters:
    now_ms = int(time.time() * 1000)
    return Filters.parse(settings, reason=reason, machine=machine, topic=topic, since=since, now_ms=now_ms)


def show_letters(found: Summary, letters: Sequence[dict[str, Any]], kind: str) -> None:
    """Print how many there are for each reason, and the letters that were kept."""
    say(f"{found.matched:,} {kind}" + (f", {found.came_back:,} from replays" if found.came_back else ""))
    if found.foreign:
        say(f"{found.foreign:,} other records in the topic are not {kind}")
    for reason, row in sorted(found.reasons.items(), key=lambda item: -item[1]["count"]):
        spell = f"{shown_time(row['oldest_ms'])} to {shown_time(row['newest_ms'])}"
        say(f"{row['count']:>12,}  {reason:<18} {spell}{_lateness(row)}")
    for letter in letters:
        again = f", sent again to {', '.join(letter['replayed_to'])}" if letter.get("replayed_to") else ""
        back = ", came back from a replay" if letter.get("replays_before") else ""
        late = f", {shown_duration(letter['late_by_ms'])} late" if letter.get("late_by_ms") is not None else ""
        say()
        say(
            f"{letter['time'] or 'no time'}  {letter['reason']}  {letter['topic']}, partition {letter['partition']}, "
            f"offset {letter['offset']}, key {letter['key']!r}{late}{back}{again}"
        )
        say(f"    {letter['detail']}")
        if letter["first_bytes"] is not None:
            cut = ", cut off" if letter["truncated"] else ""
            say(f"    {letter['bytes']:,} bytes{cut}: {letter['first_bytes']!r}")


def _lateness(row: Mapping[str, int]) -> str:
    if "least_late_ms" not in row:
        return ""
    least, most = shown_duration(row["least_late_ms"]), shown_duration(row["most_late_ms"])
    return f", late by {least}" if least == most else f", late by {least} to {most}"


def dead_letters_replay(
    broker: BrokerOption = None,
    reason: ReasonOption = None,
    machine: MachineOption = None,
    topic: TopicOption = None,
    since: SinceOption = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="how many to send, oldest first")] = None,
    to: Annotated[str | None, typer.Option("--to", help="send to this topic, not to where they came from")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="also those that were replayed before, or came back from a replay")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be sent")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters again, with their bytes, keys, headers and time stamps, to the topics they came from."""
    settings = load_settings(broker=broker)
    require_kafka(settings)
    filters = _filters(settings, reason, machine, topic, since)
    prefix, security = settings.topic_prefix, client_security(settings)
    to = None if to is None else to.removeprefix(prefix)
    if to is not None:
        check_destination(to)

    def partitions_of(topics: Sequence[str]) -> dict[str, int]:
        counts = partition_counts(settings.address, [full_topic_name(prefix, name) for name in topics], security)
        return {short_topic_name(prefix, name): count for name, count in counts.items()}

    with (
        records_progress("reading", is_shown=not as_json) as progress,
        kafka_log(settings, [DEAD_LETTER], on_progress=progress) as log,
    ):
        report = asyncio.run(
            replay_dead_letters(
                log,
                filters,
                KafkaPublisher(settings.address, prefix, record_bytes=LETTER_BYTES, **security),
                partitions_of,
                now_ms=int(time.time() * 1000),
                to=to,
                again=again,
                dry_run=dry_run,
                limit=limit,
            )
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
        return
    sent = "would be sent" if dry_run else "sent"
    say(f"{report.matched:,} dead letters match")
    for name, count in sorted(report.replayed.items()):
        say(f"{count:>12,}  {sent} to {full_topic_name(prefix, name)}")
    if report.already_replayed:
        say(f"{report.already_replayed:>12,}  left out: sent again before (--again sends them once more)")
    if report.came_back:
        say(f"{report.came_back:>12,}  left out: came back from a replay (--again sends them once more)")
    if report.truncated:
        text = "left out: truncated, being too large for the dead-letter topic; `list` shows their origin"
        say(f"{report.truncated:>12,}  {text}")
    if report.refused:
        say(f"{report.refused:>12,}  left out: from topics that only Faultline writes to, or from MQTT")
    for note in report.notes:
        say(f"{'note':>12}  {note}")
