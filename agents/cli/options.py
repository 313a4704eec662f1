"""Options that several commands share, and what their values stand for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.audit.dead_letters import parse_since_ms
from agents.cli.views.printable import say
from agents.replay.record import Span
from agents.replay.shipped import demo_model
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.errors import SettingsError

BrokerOption = Annotated[
    str | None, typer.Option("--broker", help="kafka://host:port or memory://name; FAULTLINE_BROKER")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="a shipped plant profile or a file; FAULTLINE_PROFILE")
]
ModelOption = Annotated[list[Path] | None, typer.Option("--model", help="model file; one per machine type")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
ForceOption = Annotated[bool, typer.Option("--force", help="replace files that exist")]
MachinePatternOption = Annotated[str, typer.Option("--machine", help="only ids that fit this pattern, such as pump-*")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="with --from: a time, or a duration back from now such as 30d; else all there is"),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", help="with --from: a time, or a duration back from now; else until now")
]
SpeedOption = Annotated[str | None, typer.Option("--speed", help="times real time, or max")]


def require_new_file(out: Path, *, force: bool, inputs: Sequence[Path] = (), option: str = "--out") -> None:
    """Raise SettingsError if an option's file would replace another one without `--force`, or one that is read."""
    if out.is_dir():
        raise SettingsError(f"{option} {out} is a folder; name a file in it")
    if not out.exists():
        return
    if any(path.exists() and out.samefile(path) for path in inputs):
        raise SettingsError(f"{option} {out} is the file that is read; name another one")
    if not force:
        raise SettingsError(f"{option} {out} exists; name another file, or replace it with --force")


def now_ms() -> int:
    """This machine's time."""
    return int(time.time() * 1000)


def given_span(since: str | None, until: str | None) -> Span:
    """The time from `--since` to `--until`; raises SettingsError."""
    now, given = now_ms(), {"--since": since, "--until": until}
    span = Span(*(None if text is None else parse_since_ms(text, now, option) for option, text in given.items()))
    if span.since_ms is not None and span.until_ms is not None and span.until_ms <= span.since_ms:
        raise SettingsError(f"--until {until} is not after --since {since}; exchange them, or name another time")
    return span


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
            f"--speed {text!r} is neither 'max' nor a positive number, such as 60 for one minute per second"
        )
    return speed


def load_runners(settings: Settings, profile: PlantProfile, files: list[Path] | None) -> dict[str, Any]:
    """One model for each machine type; raises ModelFileError or SettingsError."""
    from models.stepping.load import load_model

    chosen = model_of_each_type(settings, profile, files)
    return {
        kind.name: load_model(chosen[kind.name], kind, _to_stderr, embeddings=profile.has_areas(kind))
        for kind in profile.machine_types
    }


def model_of_each_type(settings: Settings, profile: PlantProfile, files: list[Path] | None) -> dict[str, Path]:
    """The model file of each machine type; raises ModelFileError or SettingsError."""
    from models.model_file import read_model

    files = _model_files(settings, files)
    if len(profile.machine_types) == 1 and len(files) == 1:
        return {profile.machine_types[0].name: files[0]}
    by_type = {read_model(path).header.machine_type: path for path in files}
    if len(by_type) < len(files):
        raise SettingsError("two of the --model files are for the same machine type")
    wanted = [kind.name for kind in profile.machine_types]
    if missing := [name for name in wanted if name not in by_type]:
        raise SettingsError(f"no --model file is given for machine type {', '.join(missing)} of plant {profile.plant}")
    return by_type


def model_sides(
    settings: Settings, profile: PlantProfile, files: list[Path] | None, others: list[Path] | None = None
) -> list[list[Path] | None]:
    """One list of model files, or two to compare: those of a second model for a machine type, and `others`.

    None stands for the model of the settings. A type with one model has it on both sides. Raises ModelFileError, or
    SettingsError if there are more than two.
    """
    from models.model_file import read_model

    if not others and len(files or ()) < 2:
        return [files]
    by_type: dict[str, list[Path]] = {}
    for path in (*_model_files(settings, files), *(others or ())):
        only = len(profile.machine_types) == 1
        kind = profile.machine_types[0].name if only else read_model(path).header.machine_type
        by_type.setdefault(kind, []).append(path)
    if many := next((kind for kind, paths in by_type.items() if len(paths) > 2), None):
        raise SettingsError(f"more than two models are given for machine type {many}; two can be compared")
    sides = max(map(len, by_type.values()))
    return [[paths[min(side, len(paths) - 1)] for paths in by_type.values()] for side in range(sides)]


def trained_machines(settings: Settings, files: list[Path] | None) -> dict[str, tuple[int, int]]:
    """The machines that the models' trainings have seen, and the starts of their first and last frame."""
    from models.model_file import MACHINES, read_model

    machines: dict[str, tuple[int, int]] = {}
    for path in _model_files(settings, files):
        recorded = read_model(path).header.training.get(MACHINES)
        for machine, span in recorded.items() if isinstance(recorded, dict) else ():
            if isinstance(span, list) and len(span) == 2 and all(isinstance(time, int) for time in span):
                machines[machine] = span[0], span[1]
    return machines


def _model_files(settings: Settings, files: list[Path] | None) -> list[Path]:
    return files or [settings.model if settings.model is not None else demo_model()]


def _to_stderr(line: str) -> None:
    say(line, err=True)
