"""The command that runs until it is stopped, `faultline plant`, and what replays with `--plant` need."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.cli.options import BrokerOption, ForceOption, ProfileOption, require_new_file
from agents.cli.views.printable import say
from agents.delivery.partitioning import partition_function
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import SettingsError
from pipeline.wire.recording import new_recording

AreaModelOption = Annotated[
    str | None,
    typer.Option("--area-model", help="what names causes in areas: a rule's name, or a file; FAULTLINE_AREA_MODEL"),
]


def require_areas(profile: PlantProfile) -> None:
    """Raise SettingsError if a profile has no areas."""
    if not profile.areas:
        raise SettingsError(
            f"profile {profile.plant} has no areas, so there is nothing for a plant agent to do; declare them in its "
            "section `areas` (docs/operations/areas.md)"
        )


def load_area_runner(settings: Settings, profile: PlantProfile) -> Any:
    """What names the causes in the profile's areas; raises SettingsError or ModelFileError."""
    from models.areas.load import load_area_runner as load

    require_areas(profile)
    return load(settings.area_model, profile, lambda line: say(line, err=True))


def plant(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    area_model: AreaModelOption = None,
    web_port: Annotated[
        int | None, typer.Option(help="port of /metrics, /healthz, /readyz; FAULTLINE_WEB_PORT")
    ] = None,
    record_to: Annotated[Path | None, typer.Option("--record", help="write what it reads to a recording")] = None,
    certify: Annotated[
        Path | None, typer.Option("--certify", help="write a certificate of what it says, for `replay --certify`")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Name what the machines of an area have in common, from their diagnoses, until it is stopped."""
    from agents.worker.plant.service import serve
    from agents.worker.process import one_line_errors, run_process

    for option, path in (("--record", record_to), ("--certify", certify)):
        if path is not None:
            require_new_file(path, force=force, option=option)
    settings = load_settings(broker=broker, profile=profile, area_model=area_model, web_port=web_port)
    logging.getLogger("faultline").setLevel(settings.log_level.upper())
    one_line_errors(logging.getLogger())
    declared = load_profile(settings.profile)
    runner = load_area_runner(settings, declared)
    partition_of = partition_function(settings.partitions)
    with contextlib.ExitStack() as stack:
        # What was read before a failure is what explains it.
        recorder = stack.enter_context(new_recording(record_to, keep_on_error=True)) if record_to is not None else None
        run_process(serve(settings, declared, runner, partition_of, recorder=recorder, certify=certify))
