"""The command that runs until it is stopped, `faultline plant`, and what replays with `--plant` need."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agents.cli.options import BrokerOption, ForceOption, ProfileOption
from agents.cli.running.process import (
    CertifyOption,
    RecordOption,
    WebPortOption,
    begin_logs,
    require_new_files,
    run_recorded,
)
from agents.cli.views.printable import say
from agents.delivery.partitioning import partition_function
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import SettingsError

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


def require_plant(area_model: str | None, *, plant: bool) -> None:
    """Raise SettingsError if there is an area model for a replay that names no causes."""
    if area_model is not None and not plant:
        raise SettingsError("--area-model is for a replay with --plant")


def load_area_runner(settings: Settings, profile: PlantProfile) -> Any:
    """What names the causes in the profile's areas; raises SettingsError or ModelFileError."""
    from models.areas.load import load_area_runner as load

    require_areas(profile)
    return load(settings.area_model, profile, lambda line: say(line, err=True))


def plant(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    area_model: AreaModelOption = None,
    web_port: WebPortOption = None,
    record_to: RecordOption = None,
    certify: CertifyOption = None,
    force: ForceOption = False,
) -> None:
    """Name what the machines of an area have in common, from their diagnoses, until it is stopped."""
    from agents.worker.plant.service import serve

    require_new_files(record_to, certify, force=force)
    settings = load_settings(broker=broker, profile=profile, area_model=area_model, web_port=web_port)
    begin_logs(settings)
    declared = load_profile(settings.profile)
    runner = load_area_runner(settings, declared)
    partition_of = partition_function(settings.partitions)
    run_recorded(
        record_to,
        lambda recorder: serve(settings, declared, runner, partition_of, recorder=recorder, certify=certify),
    )
