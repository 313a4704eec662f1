"""The command that trains a network of areas: `faultline train-area`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from agents.cli.options import ForceOption, JsonOption
from agents.cli.views.printable import cell, say
from agents.cli.views.progress import StageBars
from agents.replay.shipped import demo_model
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.errors import SettingsError
from pipeline.extras import require_modules
from pipeline.files.yaml_fields import field_problems

if TYPE_CHECKING:
    from models.areas.config import AreaNetworkConfig
    from models.areas.training.train import AreaTrainReport

_SHOWN = {
    "delay_mean": ("frames until a failed utility is named", 1.0, 1),
    "machine_delay_mean": ("until the median machine's alarm", 1.0, 1),
    "gain": ("sooner by, %", 100.0, 0),
    "missed": ("missed, %", 100.0, 1),
    "wrong_utility": ("another named, %", 100.0, 1),
    "false_frames": ("false frames, %", 100.0, 3),
    "blamed": ("own faults blamed, %", 100.0, 1),
}
"""Scores that are shown: their heading, scale and digits."""


def train_area(
    folder: Annotated[
        Path, typer.Argument(help="folder with the folders train, validation and perhaps test of recorded areas")
    ],
    out: Annotated[Path, typer.Option("--out", help="folder for the model file, scores and what can be used again")],
    profile: Annotated[
        str, typer.Option("--profile", help="profile of the machines: a shipped one or a file")
    ] = "tennessee_eastman",
    model: Annotated[
        Path | None, typer.Option("--model", help="the machines' model file; the shipped one if unset")
    ] = None,
    network: Annotated[
        str,
        typer.Option("--network", help="alone, ima, hgt_early, hgt_late, han_early, han_late, or a YAML file of one"),
    ] = "alone",
    areas: Annotated[int, typer.Option("--areas", min=1, help="how many training areas are composed")] = 400,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="how often the network sees them")] = 6,
    name: Annotated[str, typer.Option("--name", help="of the model, in diagnoses")] = "areas",
    seed: Annotated[int, typer.Option("--seed", min=0, help="of weights, composed areas and masks")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network that names causes in areas, and print its scores beside a rule's; what is interrupted continues.

    Folders are as `deploy/demo/simulate_area.py` writes them (docs/guide/training.md).
    """
    require_modules("faultline train-area", "torch")
    from models.areas.training.networks import AreaTraining
    from models.areas.training.train import MODEL_FILE, AreaTrainConfig, train_area_network
    from models.training.loop import StageConfig
    from models.training.threads import limit_threads

    if (out / MODEL_FILE).exists() and not force:
        raise SettingsError(f"{out / MODEL_FILE} exists; name another folder, or replace it with --force")
    limit_threads(load_settings().threads)
    stage = StageConfig(epochs=epochs, learning_rate=5e-3, weight_decay=5e-3)
    config = AreaTrainConfig(
        folder=folder,
        profile=load_profile(profile),
        model=model or demo_model(),
        network=_network(network),
        learn=AreaTraining(folder="train", areas=areas, stage=stage),
        out=out,
        name=name,
        seed=seed,
    )
    with StageBars(Console(stderr=True)) as bars:
        report = train_area_network(config, notify=lambda line: say(line, err=True), on_progress=bars.show)
    say(report.file, err=as_json)
    if as_json:
        _print_json(report)
        return
    say(f"threshold {report.header.threshold:.2f}, model {report.header.hash[:12]}")
    for part in report.scores:
        Console().print(_table(part, report))


def _network(text: str) -> AreaNetworkConfig:
    """A kind of network by its name, 16 numbers wide, or by a file with its keys."""
    from models.areas.config import AreaNetworkConfig, Kind
    from models.configs.yaml_file import read_mapping

    kinds = get_args(Kind)
    if text in kinds:
        return AreaNetworkConfig(kind=text, width=16, heads=2)
    if not text.endswith((".yaml", ".yml")):
        raise SettingsError(f"--network {text!r} is neither {', '.join(kinds)} nor a YAML file (docs/guide/models.md)")
    try:
        return AreaNetworkConfig.model_validate(read_mapping(Path(text), "network of areas"))
    except ValidationError as error:
        raise SettingsError(f"{text}: {field_problems(error, AreaNetworkConfig)}") from error


def _print_json(report: AreaTrainReport) -> None:
    import json

    header = report.header
    found = {"file": str(report.file), "hash": header.hash, "threshold": header.threshold, "scores": report.scores}
    print(json.dumps(found, indent=1))


def _table(part: str, report: AreaTrainReport) -> Table:
    """The scores of a part, for each share of missing modalities."""
    from models.areas.training.train import MISSING

    shares = " / ".join(f"{share:.0%}" for share in MISSING)
    table = Table(title=cell(f"{part}, with {shares} of modalities missing", "table.title"), title_justify="left")
    table.add_column("")
    for system in report.scores[part]:
        table.add_column(cell(system), justify="right")
    for measure, (heading, scale, digits) in _SHOWN.items():
        row = [
            " / ".join(_shown(found[measure], scale, digits) for found in by_share)
            for by_share in report.scores[part].values()
        ]
        table.add_row(cell(heading), *map(cell, row))
    return table


def _shown(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{scale * value:.{digits}f}"
