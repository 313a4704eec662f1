"""The commands that train and score models: `faultline train`, `baseline` and `evaluate`."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from agents.cli.options import ForceOption, SinceOption, UntilOption, given_span
from agents.cli.views.printable import cell, say
from agents.cli.views.progress import StageBars, records_progress, training_progress
from agents.cli.views.scores_table import counts_table, remaining_life_text, scores_table
from agents.kafka.schema_registry import schema_registry
from agents.replay.record import Span, record_span
from pipeline.config.profile import load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import SettingsError
from pipeline.extras import require_modules
from pipeline.files.atomic_file import write_text

_RESULTS = ("*.faultline", "*.checkpoint", "scores.json", "history.jsonl", "comparison.json", "plan.json")
"""What a training leaves in its folder."""

RECORDING = "topics.parquet"
"""What a training from topics has read of them, in its folder."""

_SHOWN_VARIABLES = 10

_BUDGET = "20m"
"""Of a training without a configuration."""

if TYPE_CHECKING:
    from models.data.class_counts import Counts
    from models.experiments.base import Results
    from models.training.config import TrainConfig
    from models.training.prepare import PreparedData
    from models.training.stages.detector import DetectorReport
    from models.training.train import TrainReport


def train(
    source: Annotated[
        Path | None, typer.Argument(help="a recording with labels, or YAML of the training (docs/guide/training.md)")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="profile of a recording or of topics: a shipped one or a file")
    ] = None,
    topics: Annotated[
        str | None, typer.Option("--from", help="kafka://host:port: record its topics in --out, and train on that")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    labels_from: Annotated[
        str | None, typer.Option("--labels-from", help="with --from: topic of labels; else faultline.labels")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="folder of relative paths; FAULTLINE_DATA", envvar="FAULTLINE_DATA"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for model, scores and plots")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="replaces the seed of the configuration")] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help=f"time that the training may take; of a recording {_BUDGET}")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="replaces the number of epochs of every stage")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="the fusion: late, early, hybrid, deep, adaptive, vae or channels (docs/guide/models.md)"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted training")] = False,
    force: ForceOption = False,
    normal: Annotated[
        bool, typer.Option("--normal", help="the recording shows nothing but the normal state, and has no labels")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="train baselines on the same data, and print them beside it")
    ] = True,
) -> None:
    """Train a model, write its file, its scores and its plots, and print its scores beside those of baselines."""
    require_modules("faultline train", "torch")
    from models.training.config import config_of_recordings, load_train_config
    from models.training.threads import limit_threads
    from models.training.train import train as run_training

    settings = load_settings(broker=topics)
    limit_threads(settings.threads)
    if topics is not None:
        given = {"--model": model, "--epochs": epochs}
        span = given_span(since, until)
        source = _recorded(settings, source, profile, out, span, labels_from, given, resume=resume, force=force)
    elif (since, until, labels_from) != (None, None, None):
        raise SettingsError("--since, --until and --labels-from are for --from; leave them out, or name topics")
    if source is None:
        raise SettingsError(
            "there is nothing to train on; name a recording, a YAML of a training, or topics with --from"
        )
    if source.suffix == ".parquet":
        if profile is None or out is None:
            raise SettingsError(f"--profile and --out are needed to train from recording {source}; name both")
        _require_absent({"--model": model, "--epochs": epochs})
        # What is normal of a machine, its own earlier frames say best.
        only_normal = {"normal_data": True, "split": "time"} if normal else {}
        chosen = config_of_recordings((source,), profile, out, budget=budget or _BUDGET, seed=seed, **only_normal)
    elif normal:
        raise SettingsError(f"--normal is for a recording; write `normal_data: true` into {source}")
    elif profile is not None:
        raise SettingsError(f"--profile is for a recording; {source} names its own profile")
    else:
        chosen = load_train_config(source, data=data, output=out, seed=seed, epochs=epochs, fusion=model, budget=budget)
    if not (force or resume):
        _require_unused(chosen.output)
    console = Console(stderr=True)
    prepared: list[PreparedData] = []

    def show_data(data: PreparedData) -> None:
        prepared.append(data)
        _show_counts(data.counts, console, warn=not data.normal_only)
        if data.recoveries:
            _show_recoveries(data.recoveries, console)

    with training_progress(console) as progress:
        report = run_training(
            chosen, on_progress=progress, on_data=show_data, resume=resume, schemas=schema_registry(settings)
        )
    _show_report(report, prepared[0], console)
    if compare and report.scores:
        _compare(chosen, prepared[0], report, console)


def _show_report(report: TrainReport, data: PreparedData, console: Console) -> None:
    """What was written, and what the model consists of."""
    for path in report.files:
        say(path)
    if report.experts:
        _show_experts(report, console)
    if report.detector is not None:
        _show_detector(report.detector, data, console)
    _show_calibration(report, console)
    for part, by_source in report.scores.items():
        if life := by_source["all"]["all_faults"]["fusion"].get("remaining_life"):
            say(f"remaining life, {part}: {remaining_life_text(life)}")


def _require_absent(given: Mapping[str, object]) -> None:
    """Raise SettingsError if options are given that only a configuration can use."""
    if any(value is not None for value in given.values()):
        raise SettingsError(f"{' and '.join(given)} are for a YAML of a training; write one, or leave them out")


def _recorded(
    settings: Settings,
    source: Path | None,
    profile: str | None,
    out: Path | None,
    span: Span,
    labels_from: str | None,
    given: Mapping[str, object],
    *,
    resume: bool,
    force: bool,
) -> Path:
    """The recording in the folder `out` of what topics hold; with `resume` the one that is there, if any."""
    if source is not None:
        raise SettingsError(f"{source} and --from {settings.broker} are two sources of data; name one")
    if profile is None or out is None:
        raise SettingsError("--profile and --out are needed to train from topics; name both")
    _require_absent(given)
    recording = out / RECORDING
    if resume and recording.exists():
        say(f"continuing with {recording}; --force records the topics again", err=True)
        return recording
    if not force:
        _require_unused(out)
        if recording.exists():
            raise SettingsError(
                f"{recording} is what topics held; train on it with `faultline train {recording} --profile {profile} "
                f"--out {out}`, or record them again with --force"
            )
    plant = load_profile(profile)
    with records_progress("recording") as progress:
        found = record_span(settings, plant, recording, span, labels_from=labels_from, on_progress=progress)
    say(f"{found.records:,} records{span}, {found.labels:,} of them labels, written to {recording}", err=True)
    for name in found.missing:
        say(
            f"topic {full_topic_name(settings.topic_prefix, name)} does not exist, so nothing is read from it", err=True
        )
    if found.other_labels:
        say(f"{found.other_labels:,} labels are about other times, and were left out", err=True)
    if found.unreadable_labels:
        say(
            f"warning: {found.unreadable_labels:,} records of labels cannot be read; `faultline labels list` shows why",
            err=True,
        )
    return recording


def _show_counts(counts: Counts, console: Console, *, warn: bool) -> None:
    """How much data there is, and where it is little."""
    from models.data.class_counts import few_episodes

    console.print(counts_table(counts))
    for warning in few_episodes(counts) if warn else ():
        console.print(cell(f"warning: {warning}", limit=None), soft_wrap=True)


def _show_recoveries(frames: Sequence[int], console: Console) -> None:
    """For how long the plant recovers after a clearing, of what is learnt as `recovering`."""
    median = f"{statistics.median(frames):g} frames in the median, {max(frames)} at most"
    console.print(cell(f"after {len(frames)} clearings of training runs the plant recovers for {median}", limit=None))


def _show_experts(report: TrainReport, console: Console) -> None:
    """How much each expert counts, and what the sensors cannot see."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in report.experts.items())
    console.print(cell(f"weights of the experts on the sensors: {weights}", limit=None), soft_wrap=True)
    if report.hidden_faults:
        names = ", ".join(report.hidden_faults)
        console.print(cell(f"faults that the sensors cannot see: {names}", limit=None), soft_wrap=True)


def _show_detector(detector: DetectorReport, data: PreparedData, console: Console) -> None:
    """What held-out normal frames say of the detector, and what they cannot say."""
    shares = ", ".join(
        f"{above:.3%} of {frames:,} in the {part} part" for part, (frames, above) in detector.normal.items()
    )
    said = f"normal frames above the detector's alarm limit, which is set for {detector.share:.3%} of them: {shares}"
    console.print(cell(said, limit=None), soft_wrap=True)
    if data.normal_only:
        untested = (
            "there is no fault in these data, so nothing says how many faults the detector finds, nor how early; label "
            "the first ones, and compare"
        )
        console.print(cell(untested, limit=None), soft_wrap=True)
    elif detector.weight:
        console.print(cell(f"the detector backs the classifier with weight {detector.weight:g}", limit=None))


def _show_calibration(report: TrainReport, console: Console) -> None:
    """How far the fused answers can be trusted."""
    for part, scores in report.scores.items():
        found = scores["all"]["all_faults"]["fusion"]
        if found["ece"] is None:
            continue
        line = f"calibration on {part}: expected calibration error {found['ece']:.4f}"
        if found["candidates_size"] is not None:
            line += f"; {found['candidates_size']:.2f} candidates on average, the true class among them in "
            line += f"{found['candidates_coverage']:.1%} of a run's frames"
        console.print(cell(line, limit=None), soft_wrap=True)


def _compare(config: TrainConfig, data: PreparedData, report: TrainReport, console: Console) -> None:
    """Print the scores beside those of baselines, and write them down."""
    from models.experiments.comparison import compare, importance

    with training_progress(console) as progress:
        part, scores = compare(config, data, report, on_progress=progress)
        variables = importance(config, data, report, on_progress=progress)
    path = config.output / "comparison.json"
    write_text(path, json.dumps({"part": part, "scores": scores, "importance": variables}, indent=1) + "\n")
    say(path)
    Console().print(scores_table(f"scores of the {part} part", scores))
    if variables:
        first = ", ".join(f"{name} {lost:.3f}" for name, lost in list(variables.items())[:_SHOWN_VARIABLES])
        say(f"most important variables, by the macro-F1 that the sensors lose without them: {first}")


def _require_unused(folder: Path) -> None:
    """Raise SettingsError if a folder has results of a training."""
    try:
        used = sorted(path.name for pattern in _RESULTS for path in folder.glob(pattern))
    except OSError as error:
        raise SettingsError(f"--out {folder}: {error.strerror}; name a folder") from error
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"--out {folder} is a file; name a folder")
    if used:
        raise SettingsError(
            f"--out {folder} has results of a training ({', '.join(used[:3])}); name another folder, continue an "
            "interrupted training with --resume, or replace them with --force"
        )


def baseline(
    config: Annotated[Path, typer.Argument(help="the YAML of a training: the same data and split")],
    data: Annotated[Path | None, typer.Option("--data", envvar="FAULTLINE_DATA")] = None,
    windows: Annotated[str, typer.Option("--windows", help="frames of the trailing windows")] = "10,60",
) -> None:
    """Score gradient boosting on window statistics on the split of a training, as one JSON object."""
    require_modules("faultline baseline", "torch")
    from models.experiments.baselines.scores import boosting_scores
    from models.training.config import load_train_config

    frames = [int(part) for part in windows.split(",") if part.strip().isdecimal() and int(part) > 1]
    if not frames:
        raise SettingsError(f"--windows {windows!r} has no whole number of frames above 1")
    with training_progress(Console(stderr=True)) as progress:
        chosen = load_train_config(config, data=data, output=Path())
        scores = boosting_scores(chosen, windows=frames, on_progress=progress)
    print(json.dumps(scores, indent=2))


def evaluate(
    descriptions: Annotated[list[Path], typer.Argument(help="YAML files of experiments, as in deploy/experiments")],
    data: Annotated[
        Path, typer.Option("--data", help="folder of the data sets; FAULTLINE_DATA", envvar="FAULTLINE_DATA")
    ],
    out: Annotated[Path, typer.Option("--out", help="folder for results, plots, models and simulated data")],
    work: Annotated[
        Path | None, typer.Option("--work", help="folder of inputs from other commands; by default that of --out")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="how many seeds")] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="the first of the seeds")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="only list which data is present and which is missing")
    ] = False,
) -> None:
    """Reproduce tables of docs/results: mean and 95 % interval over seeds. An interrupted run continues."""
    require_modules("faultline evaluate", "torch")
    from models.experiments.base import missing_files, require_data, write_results
    from models.experiments.load import load_experiment
    from models.training.threads import limit_threads

    # Training configurations use this variable for the folder, and the option decides it.
    os.environ["FAULTLINE_DATA"] = str(data.absolute())
    experiments = [
        (load_experiment(path, data=data, out=folder, work=work or out), folder)
        for path in descriptions
        for folder in (out / path.stem if len(descriptions) > 1 else out,)
    ]
    console = Console(stderr=True)
    if check:
        for experiment, _ in experiments:
            missing = missing_files(experiment)
            say(f"{experiment.title}: {'data is missing' if missing else 'ready'}")
            for need in missing:
                say(f"  {need.path} ({need.source})")
        raise typer.Exit(1 if any(missing_files(experiment) for experiment, _ in experiments) else 0)
    for experiment, _ in experiments:
        require_data(experiment)
    limit_threads(load_settings().threads)
    chosen = range(first_seed, first_seed + seeds)
    for experiment, folder in experiments:
        folder.mkdir(parents=True, exist_ok=True)
        with StageBars(console) as bars:
            results = experiment.run(chosen, folder, bars.show)
        for path in write_results(results, folder):
            say(path)
        console.print(results_table(results))


def results_table(results: Results) -> Table:
    """The scores of an experiment."""
    from models.experiments.base import formatted

    table = Table(title=cell(f"{results.title}, {len(results.seeds)} seeds", "table.title"), title_justify="left")
    table.add_column("")
    for column in results.columns:
        table.add_column(cell(column.heading), justify="right")
    for row in results.rows:
        scores = (formatted(results.interval(row, column.score), column) for column in results.columns)
        table.add_row(cell(row), *map(cell, scores))
    return table
