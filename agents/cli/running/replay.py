"""The commands that replay recordings: `faultline demo`, `replay` and `stress`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from agents.cli.options import (
    ForceOption,
    JsonOption,
    ModelOption,
    ProfileOption,
    SpeedOption,
    load_runners,
    parse_speed,
    require_new_file,
    trained_machines,
)
from agents.cli.running.certificates import compare_or_write
from agents.cli.running.console import show_demo
from agents.cli.running.plant import AreaModelOption, load_area_runner, require_plant
from agents.cli.running.plant_replay import PastOption, area_view, past_incidents, print_areas, replay_diagnoses
from agents.cli.views.incidents_view import AlarmLines
from agents.cli.views.live_view import LiveView
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.cli.views.scores_table import faults_table, scores_table, shown
from agents.delivery.partitioning import partition_function
from agents.replay.shipped import area_incidents, area_profile, area_recording, area_rule, demo_recording
from agents.words import Words
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import AREAS, DIAGNOSES, LABELS, engine_topics, full_topic_name
from pipeline.engine.reports.incidents.record import SIMILAR
from pipeline.errors import SettingsError, TopicMismatchError
from pipeline.extras import require_modules
from pipeline.wire.recording import count_records, holds_only, new_recording, read_recording
from pipeline.wire.records import Output

DEMO_SECONDS = 30.0
_SHOWN_NAMES = 5


PlantOption = Annotated[
    bool, typer.Option("--plant", help="also name what machines of the profile's areas have in common")
]


def demo(
    plant: Annotated[
        bool, typer.Option("--plant", help="show machines that share utilities, and what they have in common")
    ] = False,
    area_model: AreaModelOption = None,
    speed: SpeedOption = None,
    web: Annotated[bool, typer.Option("--web", help="show it in the console, in a browser")] = False,
    port: Annotated[int | None, typer.Option("--port", help="with --web: the port, 9480 by default")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a shipped recording through the whole pipeline, without a broker."""
    require_plant(area_model, plant=plant)
    if web:
        show_demo(with_areas=plant, area_model=area_model, speed=speed, port=port)
        return
    paced = DEMO_SECONDS if sys.stdout.isatty() and not as_json and speed is None else None
    if plant:
        profile = area_profile()
        areas = (True, area_model or str(area_rule()))
        past = area_incidents()
        _replay(area_recording(), profile, None, speed, as_json=as_json, paced_seconds=paced, areas=areas, past=past)
    else:
        _replay(demo_recording(), None, None, speed, as_json=as_json, paced_seconds=paced)


def replay(
    recording: Annotated[Path, typer.Argument(help="a recording: parquet of records in arrival order")],
    to: Annotated[str | None, typer.Option("--to", help="kafka://host:port: send it to real topics instead")] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    speed: SpeedOption = None,
    stress: Annotated[
        str | None, typer.Option("--stress", help="disturb it first, for example late=0.1:10m,drop=0.2,no-text")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="seed of --stress")] = 0,
    certify: Annotated[
        Path | None, typer.Option("--certify", help="compare with this certificate; write it if it does not exist")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="record the outputs: diagnoses, alarms, metrics, late, dead letters")
    ] = None,
    plant: PlantOption = False,
    area_model: AreaModelOption = None,
    incidents: PastOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replay a recording: through the pipeline in this process, or into the topics of a real Kafka."""
    require_plant(area_model, plant=plant)
    if to is None:
        if out is not None:
            require_new_file(out, force=force, inputs=[recording])
        _replay(
            recording,
            profile,
            model,
            speed,
            as_json=as_json,
            stress=(stress, seed),
            certify=certify,
            out=out,
            areas=(plant, area_model),
            past=incidents,
        )
    elif stress or certify or out or plant or incidents:
        options = "--stress, --certify, --out, --plant and --incidents"
        raise SettingsError(f"{options} are for a replay in this process, without --to")
    else:
        _replay_to(recording, to, profile, parse_speed(speed), as_json=as_json)


def _replay(
    recording: Path,
    profile: PlantProfile | str | None,
    files: list[Path] | None,
    speed_text: str | None,
    *,
    as_json: bool,
    paced_seconds: float | None = None,
    stress: tuple[str | None, int] = (None, 0),
    certify: Path | None = None,
    out: Path | None = None,
    areas: tuple[bool, str | None] = (False, None),
    past: Path | None = None,
) -> None:
    """`areas` is whether causes in areas are to be named, and by what; `past` has what there was before."""
    from agents.audit.certificate import CertificateBuilder
    from agents.replay.areas import PlantReplay
    from agents.replay.output_recording import OutputRecorder
    from agents.replay.replay import replay_in_memory

    settings = load_settings(profile=profile if isinstance(profile, str) else None, area_model=areas[1])
    plant = profile if isinstance(profile, PlantProfile) else load_profile(settings.profile)
    speed = parse_speed(speed_text)
    if paced_seconds is not None:
        speed = _span_seconds(recording) / paced_seconds
    count_records(recording)  # a file that is no recording fails before models are loaded
    before = past_incidents(past)
    area_runner = load_area_runner(settings, plant) if areas[0] else None
    is_of_diagnoses = area_runner is not None and holds_only(recording, [AREAS, DIAGNOSES], plant.sensor_topics)
    runners = {} if is_of_diagnoses else load_runners(settings, plant, files)
    partition_of = partition_function(settings.partitions)
    builder = None
    if certify is not None:
        builder = CertificateBuilder(runners if area_runner is None else {**runners, "areas": area_runner})
    change, words = stress_function(*stress), Words(plant)
    alarms = AlarmLines(words, SIMILAR)
    with contextlib.ExitStack() as stack:
        writer = None if out is None else stack.enter_context(new_recording(out))
        recorder = None if writer is None else OutputRecorder(writer, partition_of)

        takers = ([] if area_runner is None else [alarms.add]) + ([] if recorder is None else [recorder.add])

        def take(output: Output) -> None:
            for taker in takers:
                taker(output)

        on_output = take if takers else None
        is_shown = not as_json and sys.stdout.isatty()
        view = stack.enter_context(_live_view(recording, words)) if is_shown and area_runner is None else None
        areas_view = None
        if is_shown and area_runner is not None:
            areas_view = stack.enter_context(area_view(recording, words, alarms))
        # The views show how far the replay is.
        progress = stack.enter_context(records_progress("replaying", is_shown=not (as_json or is_shown)))
        if area_runner is not None and is_of_diagnoses:
            report = replay_diagnoses(
                recording,
                settings,
                plant,
                area_runner,
                speed=speed,
                view=areas_view,
                on_output=on_output,
                builder=builder,
                past=before,
                on_progress=progress,
            )
        else:
            plant_replay = None
            if area_runner is not None:
                on_area = None if areas_view is None else areas_view.add
                plant_replay = PlantReplay(
                    plant, area_runner, on_diagnosis=on_area, on_output=on_output, builder=builder, past=before
                )
            found = asyncio.run(
                replay_in_memory(
                    recording,
                    settings,
                    plant,
                    runners,
                    partition_of,
                    speed=speed,
                    change=change,
                    on_diagnosis=None if view is None else view.add,
                    on_output=on_output,
                    builder=builder,
                    trained=trained_machines(settings, files),
                    plant=plant_replay,
                    past=before,
                    on_progress=progress,
                )
            )
            report = found.as_dict()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        if not is_of_diagnoses:
            _print_summary(report, words)
        if area_runner is not None:
            print_areas(report["areas"], words, alarms)
    if writer is not None:
        say(f"{writer.count:,} output records written to {out}", err=True)
    if builder is not None and certify is not None:
        compare_or_write(builder.certificate, certify)


@contextlib.contextmanager
def _live_view(recording: Path, words: Words) -> Iterator[LiveView]:
    """The table of a replay's machines on the terminal, with the recording's labels."""
    view = LiveView(f"faultline · {recording.name}", words)
    for record in read_recording(recording):
        if record.topic == LABELS:
            view.labels.add(record)
    console = Console()
    with Live(
        console=console, get_renderable=lambda: view.table(console.width), refresh_per_second=8, screen=False
    ) as live:
        yield view
        live.refresh()


def stress_function(text: str | None, seed: int) -> Any:
    """What `--stress` does to a recording's records; nothing without it."""
    import numpy as np

    from agents.replay.stress import apply_stress, parse_stress

    if text is None:
        return iter
    stress = parse_stress(text)
    return lambda records: apply_stress(records, stress, np.random.default_rng(seed))


def _span_seconds(recording: Path) -> float:
    stamps = [record.timestamp_ms for record in read_recording(recording)]
    return max((max(stamps) - min(stamps)) / 1000, 1.0) if stamps else 1.0


def _print_summary(report: dict[str, Any], words: Words) -> None:
    say()
    say(
        f"{report['machines']} machines, {report['frames']:,} frames, {report['diagnoses']:,} diagnoses, "
        f"{report['late']} late, {report['dead_letters']} dead letters in {report['seconds']:.1f} s "
        f"({report['readings_per_second']:,.0f} readings/s), model {report['model']}"
    )
    if trained := report["trained"]:
        say(
            f"{len(trained['machines'])} of {report['machines']} machines trained this model "
            f"({_first_names(trained['machines'])}), with {trained['frames']:,} of {trained['frames_scored']:,} frames "
            "here: their scores are too good"
        )
    scores = {name: found for name, found in report["scores"].items() if found is not None}
    if not scores:
        say("The recording has no labels, so there are no scores.")
        return
    Console().print(scores_table("scores", scores))
    if per_fault := next(iter(scores.values()))["per_fault"]:
        Console().print(faults_table(f"faults, {next(iter(scores))}", per_fault, words))


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _replay_to(recording: Path, to: str, profile_name: str | None, speed: float | None, *, as_json: bool) -> None:
    from agents.kafka.admin import partition_counts
    from agents.kafka.publisher import KafkaPublisher
    from agents.kafka.security import client_security
    from agents.replay.replay import replay_to_topics

    settings = load_settings(profile=profile_name, broker=to)
    if settings.is_memory:
        raise SettingsError("--to needs kafka://host:port; without it the replay runs in this process")
    plant = load_profile(settings.profile)
    names = [full_topic_name(settings.topic_prefix, topic) for topic in engine_topics(plant)]
    counts = partition_counts(settings.address, names, client_security(settings))
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise TopicMismatchError(f"the input topics have different partition counts ({shown})")
    partitions = counts[names[0]]
    settings = settings.model_copy(update={"partitions": partitions})
    publisher = KafkaPublisher(settings.address, settings.topic_prefix, **client_security(settings))
    began = time.perf_counter()
    partition_of = partition_function(partitions)
    with records_progress("sending", is_shown=not as_json) as progress:
        sending = replay_to_topics(
            recording, settings, plant, publisher, partition_of, speed=speed, on_progress=progress
        )
        sent = asyncio.run(sending)
    seconds = time.perf_counter() - began
    report = {"recording": str(recording), "to": to, "records": sent, "seconds": round(seconds, 3)}
    if as_json:
        print(json.dumps(report))
    else:
        say(f"{sent:,} records sent to {to} in {seconds:.1f} s")


def stress(
    recording: Annotated[Path, typer.Argument(help="a labelled recording")],
    profile: ProfileOption = None,
    model: ModelOption = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG to draw")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a recording under every kind and level of stress, and show the scores of each."""
    from agents.replay.stress_report import draw_stress, stress_report

    if plot is not None:
        require_modules("faultline stress --plot", "matplotlib")
    settings = load_settings(profile=profile)
    plant = load_profile(settings.profile)
    count_records(recording)

    def show(row: dict[str, Any]) -> None:
        if not as_json:
            numbers = "  ".join(f"{name.replace('_', ' ')} {shown(row[name])}" for name in list(row)[3:])
            say(f"{row['stress']:>16}  late {row['late']:>6}  {numbers}", flush=True)

    rows = stress_report(
        recording,
        settings,
        plant,
        lambda: load_runners(settings, plant, model),
        partition_function(settings.partitions),
        seed=seed,
        on_row=show,
    )
    if as_json:
        print(json.dumps(rows, indent=2))
    if plot is not None:
        draw_stress(rows, plot)
