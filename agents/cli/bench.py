"""The commands `faultline bench …`: speed on this machine, in ratios measured side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agents.bench.host import host
from agents.cli.options import JsonOption, ProfileOption
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.engine.reports.drift_rule import drift_rule_of
from pipeline.errors import SettingsError
from pipeline.extras import require_modules

_LEAST_MACHINES = 3


def align(as_json: JsonOption = False, readings: int = 100_000, rounds: int = 5) -> None:
    """Measure decoding and alignment per reading, with 100 and with 10,000 machines, without a model."""
    from agents.bench.align import bench_align

    _show(bench_align(readings=readings, rounds=rounds), as_json)


def models(as_json: JsonOption = False, rounds: int = 5, seed: int = 0) -> None:
    """Measure a step of the model, compared with torch's step and with computing a whole window again."""
    require_modules("faultline bench models", "torch")
    from agents.bench.models import bench_models

    _show(bench_models(rounds=rounds, seed=seed), as_json)


def areas(as_json: JsonOption = False, machines: int = 12, rounds: int = 5, seed: int = 0) -> None:
    """Measure a frame of an area: the rules, and every kind of network."""
    require_modules("faultline bench areas", "torch")
    from agents.bench.areas import bench_areas

    if machines < _LEAST_MACHINES:
        raise SettingsError(f"--machines {machines} are too few for two utilities; name {_LEAST_MACHINES} or more")
    _show(bench_areas(machines=machines, rounds=rounds, seed=seed), as_json)


def stream(
    as_json: JsonOption = False,
    readings: int = 300_000,
    rounds: int = 5,
    only: Annotated[str | None, typer.Option("--only", help="candidates, as in faultline,quix")] = None,
    skip_latency: Annotated[bool, typer.Option("--skip-latency", help="measure readings per second only")] = False,
    quiet_topic: Annotated[
        bool, typer.Option("--quiet-topic", help="also compare an empty events topic with a full one")
    ] = False,
    kafka: Annotated[
        str | None, typer.Option("--kafka", help="host:port of a broker; by default one is started")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="Python with the packages of the other candidates")
    ] = None,
    arithmetic: Annotated[
        Literal["torch", "numpy"], typer.Option("--arithmetic", help="what the other candidates compute with")
    ] = "torch",
) -> None:
    """Compare with Faust, Quix Streams, Bytewax and hand-written loops on a real broker (docs/results/benchmark.md)."""
    require_modules("faultline bench stream", "torch")
    from agents.bench.stream import bench_stream

    report = bench_stream(
        readings=readings,
        rounds=rounds,
        only=[part.strip() for part in only.split(",")] if only else None,
        skip_latency=skip_latency,
        quiet_topic=quiet_topic,
        kafka=kafka,
        python=python,
        arithmetic=arithmetic,
        say=_say,
    )
    _show(report, as_json)


def scale(
    as_json: JsonOption = False, readings: int = 200_000, rounds: int = 3, machines: int = 10_000, hours: float = 24.0
) -> None:
    """Measure many machines: time per reading, memory over a day of plant time, saving and restoring states."""
    require_modules("faultline bench scale", "torch")
    from agents.bench.scale import bench_scale

    _show(bench_scale(readings=readings, rounds=rounds, machines=machines, hours=hours, say=_say), as_json)


def drift(
    runs: Annotated[Path, typer.Argument(help="runs of normal frames: parquet with `run`, variables and `label`")],
    model: Annotated[Path | None, typer.Option("--model", help="model file; the shipped one if unset")] = None,
    profile: ProfileOption = None,
    sigma: Annotated[float, typer.Option("--sigma", help="size of the drift, in the training's deviations")] = 1.0,
    ramp_days: Annotated[float, typer.Option("--ramp-days", min=0, help="days in which it grows to that")] = 7.0,
    passes: Annotated[int, typer.Option("--passes", min=1, help="drifts of each run, each in another variable")] = 5,
    seed: int = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure how soon a slow drift of one variable is reported, and how often there is a report without one."""
    from agents.bench.drift import bench_drift
    from agents.replay.shipped import demo_model

    settings = load_settings(profile=profile)
    if (rule := drift_rule_of(settings)) is None:
        raise SettingsError("FAULTLINE_DRIFT is false, so no drift is reported; unset it")
    file = model or settings.model or demo_model()
    plant = load_profile(settings.profile)
    report = bench_drift(runs, file, plant, rule, sigma=sigma, ramp_days=ramp_days, passes=passes, seed=seed, say=_say)
    _show(report, as_json)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(report: dict[str, Any], as_json: bool) -> None:
    report = report | host()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        shown = f"{value:,}" if isinstance(value, int | float) else json.dumps(value)
        print(f"{name.replace('_', ' '):>40}  {shown}")
