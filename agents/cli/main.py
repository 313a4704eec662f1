"""The command line: `faultline demo | replay | run | record | verify | train | topics | settings | bench | …`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from agents.audit.certificate import Certificate, read_certificate, write_certificate
from agents.cli.audit import dead_letters_app, verify
from agents.cli.bench import bench_app
from agents.cli.evaluate import evaluate
from agents.cli.live_view import LiveView
from agents.delivery.partitioning import partition_function
from agents.replay.shipped import demo_model, demo_recording
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import LABELS, engine_topics
from pipeline.errors import CertificateError, FaultlineError, SettingsError, TopicMismatchError
from pipeline.extras import require_modules
from pipeline.wire.recording import count_records, read_recording

app = typer.Typer(
    name="faultline",
    help="Real-time fault diagnosis for factories: sensors and operators' texts from Kafka, fused by streaming models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topics_app = typer.Typer(help="Create the topics, or check that they are as they must be.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(bench_app, name="bench")
app.command()(verify)
app.command()(evaluate)

DEMO_SECONDS = 30.0

BrokerOption = Annotated[
    str | None, typer.Option("--broker", help="kafka://host:port or memory://name; FAULTLINE_BROKER")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="a shipped plant profile or a file; FAULTLINE_PROFILE")
]
ModelOption = Annotated[list[Path] | None, typer.Option("--model", help="model file, one for each machine type")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
SpeedOption = Annotated[str | None, typer.Option("--speed", help="times real time, or max")]


def main() -> None:
    """Run the command line; errors that a user can cause become one line and exit code 1."""
    # What is imported lives for good, and records come and go in thousands: collect less often, and less.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        app(standalone_mode=True)
    except FaultlineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_speed(text: str | None) -> float | None:
    """Times real time; None is as fast as possible. Raises SettingsError."""
    if text is None or text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise SettingsError(
            f"--speed {text!r} is neither 'max' nor a positive number, such as 60 for a minute a second"
        )
    return speed


def load_runners(settings: Settings, profile: PlantProfile, files: list[Path] | None) -> dict[str, Any]:
    """One model for each machine type; raises ModelFileError or SettingsError."""
    from models.model_file import read_model
    from models.stepping.load import load_model

    if not files:
        files = [settings.model] if settings.model is not None else [demo_model()]
    if len(profile.machine_types) == 1 and len(files) == 1:
        kind = profile.machine_types[0]
        return {kind.name: load_model(files[0], kind, _to_stderr)}
    by_type = {read_model(path).header.machine_type: path for path in files}
    if len(by_type) < len(files):
        raise SettingsError("two of the --model files are for the same machine type")
    wanted = [kind.name for kind in profile.machine_types]
    if missing := [name for name in wanted if name not in by_type]:
        raise SettingsError(f"no --model file is given for machine type {', '.join(missing)} of plant {profile.plant}")
    return {kind.name: load_model(by_type[kind.name], kind, _to_stderr) for kind in profile.machine_types}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@app.command()
def demo(speed: SpeedOption = None, as_json: JsonOption = False) -> None:
    """Replay the shipped recording through the whole pipeline, without a broker."""
    paced = sys.stdout.isatty() and not as_json and speed is None
    _replay(demo_recording(), None, None, speed, as_json=as_json, paced_seconds=DEMO_SECONDS if paced else None)


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(help="a recording: parquet of records in arrival order")],
    to: Annotated[str | None, typer.Option("--to", help="kafka://host:port: send it into real topics instead")] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    speed: SpeedOption = None,
    stress: Annotated[
        str | None, typer.Option("--stress", help="disturb it first, as in late=0.1:10m,drop=0.2,no-text")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="of --stress")] = 0,
    certify: Annotated[
        Path | None, typer.Option("--certify", help="compare with this certificate; write it if it is not there")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a recording: through the pipeline in this process, or into the topics of a real Kafka."""
    if to is None:
        _replay(recording, profile, model, speed, as_json=as_json, stress=(stress, seed), certify=certify)
    elif stress or certify:
        raise SettingsError("--stress and --certify are for a replay in this process, without --to")
    else:
        _replay_to(recording, to, profile, parse_speed(speed), as_json=as_json)


def _replay(
    recording: Path,
    profile_name: str | None,
    files: list[Path] | None,
    speed_text: str | None,
    *,
    as_json: bool,
    paced_seconds: float | None = None,
    stress: tuple[str | None, int] = (None, 0),
    certify: Path | None = None,
) -> None:
    from agents.audit.certificate import Witness
    from agents.replay.replay import replay_in_memory

    settings = load_settings(profile=profile_name)
    plant = load_profile(settings.profile)
    speed = parse_speed(speed_text)
    if paced_seconds is not None:
        speed = _span_seconds(recording) / paced_seconds
    count_records(recording)  # what is no recording is told before models are loaded
    runners = load_runners(settings, plant, files)
    partition_of = partition_function(settings.partitions)
    witness = None
    if certify is not None:
        witness = Witness(runners)
    change = stress_function(*stress)
    if as_json or not sys.stdout.isatty():
        report = asyncio.run(
            replay_in_memory(
                recording, settings, plant, runners, partition_of, speed=speed, change=change, witness=witness
            )
        )
    else:
        view = LiveView(f"faultline · {recording.name}")
        for record in read_recording(recording):
            if record.topic == LABELS:
                view.labels.add(record)
        with Live(get_renderable=view.table, refresh_per_second=8, screen=False) as live:
            report = asyncio.run(
                replay_in_memory(
                    recording,
                    settings,
                    plant,
                    runners,
                    partition_of,
                    speed=speed,
                    change=change,
                    on_diagnosis=view.add,
                    witness=witness,
                )
            )
            live.refresh()
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        _print_summary(report.as_dict())
    if witness is not None and certify is not None:
        _certify(witness.certificate, certify)


def stress_function(text: str | None, seed: int) -> Any:
    """What `--stress` does to a recording's records; nothing without it."""
    import numpy as np

    from agents.replay.stress import apply_stress, parse_stress

    if text is None:
        return iter
    stress = parse_stress(text)
    return lambda records: apply_stress(records, stress, np.random.default_rng(seed))


def _certify(certificate: Certificate, path: Path) -> None:
    if not path.exists():
        write_certificate(path, certificate)
        print(f"certificate {path} written: {certificate.digest}", file=sys.stderr)
        return
    problems = read_certificate(path).differences(certificate)
    if problems:
        raise CertificateError(f"this run is not the one that {path} certifies: {'; '.join(problems)}")
    print(f"equal to certificate {path}: {certificate.digest}", file=sys.stderr)


def _span_seconds(recording: Path) -> float:
    stamps = [record.timestamp_ms for record in read_recording(recording)]
    return max((max(stamps) - min(stamps)) / 1000, 1.0) if stamps else 1.0


def _print_summary(report: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"\n{report['machines']} machines, {report['frames']:,} frames, {report['diagnoses']:,} diagnoses, "
        f"{report['late']} late, {report['dead_letters']} dead letters in {report['seconds']:.1f} s "
        f"({report['readings_per_second']:,.0f} readings/s), model {report['model']}"
    )
    scores = {name: found for name, found in report["scores"].items() if found is not None}
    if not scores:
        console.print("The recording has no labels, so there is nothing to score against.")
        return
    table = Table(title="scores", title_justify="left")
    table.add_column("")
    for name in scores:
        table.add_column(name, justify="right")
    first = next(iter(scores.values()))
    for measure in (name for name in first if name != "per_fault"):
        table.add_row(measure.replace("_", " "), *(_shown(found[measure]) for found in scores.values()))
    console.print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 2 else f"{value:.1f}"


def _replay_to(recording: Path, to: str, profile_name: str | None, speed: float | None, *, as_json: bool) -> None:
    from agents.kafka.admin import partition_counts
    from agents.kafka.publisher import KafkaPublisher
    from agents.kafka.security import client_security
    from agents.replay.replay import replay_to_topics

    settings = load_settings(profile=profile_name, broker=to)
    if settings.is_memory:
        raise SettingsError("--to needs kafka://host:port; without it the replay runs in this process")
    plant = load_profile(settings.profile)
    names = [settings.topic_prefix + topic for topic in engine_topics(plant)]
    counts = partition_counts(settings.address, names, client_security(settings))
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise TopicMismatchError(f"the input topics have different partition counts ({shown})")
    partitions = counts[names[0]]
    settings = settings.model_copy(update={"partitions": partitions})
    publisher = KafkaPublisher(settings.address, settings.topic_prefix, **client_security(settings))
    began = time.perf_counter()
    sent = asyncio.run(
        replay_to_topics(recording, settings, plant, publisher, partition_function(partitions), speed=speed)
    )
    seconds = time.perf_counter() - began
    report = {"recording": str(recording), "to": to, "records": sent, "seconds": round(seconds, 3)}
    print(json.dumps(report) if as_json else f"{sent:,} records sent to {to} in {seconds:.1f} s")


@app.command()
def stress(
    recording: Annotated[Path, typer.Argument(help="a labelled recording")],
    profile: ProfileOption = None,
    model: ModelOption = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG to draw")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a recording under every kind and level of stress, and show what each costs."""
    from agents.replay.stress_report import draw_stress, stress_report

    if plot is not None:
        require_modules("faultline stress --plot", "matplotlib")
    settings = load_settings(profile=profile)
    plant = load_profile(settings.profile)
    count_records(recording)

    def show(row: dict[str, Any]) -> None:
        if not as_json:
            numbers = "  ".join(f"{name.replace('_', ' ')} {_shown(row[name])}" for name in list(row)[3:])
            print(f"{row['stress']:>16}  late {row['late']:>6}  {numbers}", flush=True)

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


@app.command()
def run(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    web_port: Annotated[
        int | None, typer.Option(help="port of /metrics, /healthz, /readyz; FAULTLINE_WEB_PORT")
    ] = None,
    record_to: Annotated[
        Path | None, typer.Option("--record", help="recording of what it reads, as it reads it")
    ] = None,
    certify: Annotated[
        Path | None, typer.Option("--certify", help="certificate of what it says, for `replay --certify`")
    ] = None,
) -> None:
    """Run a worker until it is told to stop (SIGTERM or Ctrl-C)."""
    from agents.worker.service import serve

    settings = load_settings(broker=broker, profile=profile, web_port=web_port)
    logging.getLogger("faultline").setLevel(settings.log_level.upper())
    plant = load_profile(settings.profile)
    runners = load_runners(settings, plant, model)
    partition_of = partition_function(settings.partitions)
    asyncio.run(serve(settings, plant, runners, partition_of, record=record_to, certify=certify))


@app.command()
def record(
    out: Annotated[Path, typer.Option("--out", help="file to write")],
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    follow_seconds: Annotated[
        float | None,
        typer.Option("--for", help="keep recording for so many seconds; else up to where the topics end now"),
    ] = None,
) -> None:
    """Record the input topics of a real Kafka to a file, from their beginning, in the order of time stamps."""
    from agents.kafka.record import record_topics

    settings = load_settings(broker=broker, profile=profile)
    count = record_topics(settings, load_profile(settings.profile), out, follow_seconds=follow_seconds)
    print(f"{count:,} records written to {out}")


@app.command()
def convert(
    description: Annotated[Path, typer.Argument(help="YAML that says which columns are readings, texts and labels")],
    data: Annotated[Path, typer.Option("--data", help="folder of the tables; FAULTLINE_DATA", envvar="FAULTLINE_DATA")],
    out: Annotated[Path, typer.Option("--out", help="recording to write")],
) -> None:
    """Turn tables (CSV, parquet) into a recording."""
    from agents.replay.convert import convert as write
    from agents.replay.convert import load_conversion

    print(f"{write(load_conversion(description), data, out):,} records written to {out}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML: data, model and schedule (docs/guide/training.md)")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="folder that relative paths start from; FAULTLINE_DATA", envvar="FAULTLINE_DATA"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for model, scores and plots")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="another seed than the configuration's")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="another number of passes for every stage")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="the fusion: late, early, hybrid, deep, adaptive, vae or channels (docs/guide/models.md)"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where an interrupted training stopped")] = False,
) -> None:
    """Train a model and write its file, its scores and its plots."""
    require_modules("faultline train", "torch")
    from models.training.config import load_train_config
    from models.training.threads import limit_threads
    from models.training.train import rich_progress
    from models.training.train import train as run_training

    limit_threads(load_settings().threads)
    chosen = load_train_config(config, data=data, output=out, seed=seed, epochs=epochs, fusion=model)
    console = Console(stderr=True)
    with rich_progress(console) as progress:
        report = run_training(chosen, on_progress=progress, resume=resume)
    for path in report.files:
        print(path)


@app.command()
def baseline(
    config: Annotated[Path, typer.Argument(help="the YAML of a training: the same data and split")],
    data: Annotated[Path | None, typer.Option("--data", envvar="FAULTLINE_DATA")] = None,
    windows: Annotated[str, typer.Option("--windows", help="frames of the trailing windows")] = "10,60",
) -> None:
    """Score gradient boosting on window statistics on the split of a training, as one JSON object."""
    require_modules("faultline baseline", "torch")
    from models.experiments.baselines.classical import boosting_scores
    from models.training.config import load_train_config

    frames = [int(part) for part in windows.split(",") if part.strip().isdecimal() and int(part) > 1]
    if not frames:
        raise SettingsError(f"--windows {windows!r} holds no whole number of frames above 1")
    scores = boosting_scores(load_train_config(config, data=data, output=Path()), windows=frames)
    print(json.dumps(scores, indent=2))


@topics_app.command("create")
def topics_create(broker: BrokerOption = None, profile: ProfileOption = None, partitions: int | None = None) -> None:
    """Create every topic that is missing, with equal partition counts."""
    from agents.kafka.admin import create_topics
    from agents.kafka.security import client_security
    from agents.worker.service import require_topics, topic_specs

    settings = load_settings(broker=broker, profile=profile, partitions=partitions)
    plant = load_profile(settings.profile)
    report = create_topics(settings.address, topic_specs(settings, plant), client_security(settings))
    for name in report.created:
        print(f"created  {name}")
    for name in report.existing:
        print(f"exists   {name}")
    require_topics(settings, plant)


@topics_app.command("check")
def topics_check(broker: BrokerOption = None, profile: ProfileOption = None, partitions: int | None = None) -> None:
    """Check that every topic is there and has the right partition count."""
    from agents.worker.service import require_topics, topic_specs

    settings = load_settings(broker=broker, profile=profile, partitions=partitions)
    plant = load_profile(settings.profile)
    require_topics(settings, plant)
    print(f"{len(topic_specs(settings, plant))} topics are as they must be")


@app.command("settings")
def show_settings() -> None:
    """Show every setting, its environment variable and where its value comes from."""
    settings = load_settings()
    table = Table(title="settings", title_justify="left")
    for column in ("variable", "value", "meaning"):
        table.add_column(column, overflow="fold")
    for name, info in Settings.model_fields.items():
        table.add_row(f"FAULTLINE_{name.upper()}", str(getattr(settings, name)), info.description or "")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
