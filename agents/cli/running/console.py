"""The command `faultline console`, and `faultline demo --web`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.cli.options import BrokerOption, ModelOption, ProfileOption, load_runners, model_of_each_type, parse_speed
from agents.cli.running.plant import load_area_runner
from agents.cli.running.process import WebPortOption, begin_logs
from agents.delivery.partitioning import partition_function
from agents.replay.shipped import area_profile, area_recording, area_rule, demo_recording
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import ModelFileError, SettingsError

log = logging.getLogger("faultline.console")


def console(
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    host: Annotated[
        str | None, typer.Option("--host", help="where it listens, 127.0.0.1 by default; FAULTLINE_CONSOLE_WEB_HOST")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="its port, 9480 by default; FAULTLINE_CONSOLE_WEB_PORT")
    ] = None,
    names: Annotated[
        str | None, typer.Option("--names", help="host names by which browsers come; FAULTLINE_CONSOLE_NAMES")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="a line name:token each; FAULTLINE_CONSOLE_TOKEN_FILE")
    ] = None,
    user_header: Annotated[
        str | None,
        typer.Option("--user-header", help="header with the user's name; FAULTLINE_CONSOLE_USER_HEADER"),
    ] = None,
    trusted_proxy: Annotated[
        str | None,
        typer.Option("--trusted-proxy", help="from where it is believed; FAULTLINE_CONSOLE_TRUSTED_PROXIES"),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM file for TLS; FAULTLINE_CONSOLE_CERTIFICATE")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="its key; FAULTLINE_CONSOLE_KEY")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="only show; FAULTLINE_CONSOLE_READ_ONLY")] = False,
    web_port: WebPortOption = None,
) -> None:
    """Show the plant, its alarms and why in a browser, and take what people do, until it is stopped."""
    from agents.console.service import serve
    from agents.worker.process import run_process

    settings = load_settings(
        broker=broker,
        profile=profile,
        web_port=web_port,
        console_web_host=host,
        console_web_port=port,
        console_names=names,
        console_token_file=token_file,
        console_user_header=user_header,
        console_trusted_proxies=trusted_proxy,
        console_certificate=certificate,
        console_key=key,
        console_read_only=read_only or None,
    )
    begin_logs(settings)
    plant = load_profile(settings.profile)
    run_process(
        serve(
            settings,
            plant,
            normal=lambda: _normal_states(settings, plant, model),
            load_runners=lambda: load_runners(settings, plant, model),
        )
    )


def show_demo(*, with_areas: bool, area_model: str | None, speed: str | None, port: int | None) -> None:
    """Show the shipped recording in the console until it is stopped; a day in ten minutes without a speed."""
    from agents.console.demo import DEMO_SPEED, Demo, show
    from agents.replay.areas import PlantReplay
    from agents.worker.process import run_process

    settings = load_settings(console_web_port=port, area_model=(area_model or str(area_rule())) if with_areas else None)
    begin_logs(settings)
    profile = area_profile() if with_areas else load_profile("tennessee_eastman")
    runners = load_runners(settings, profile, None)
    plant = PlantReplay(profile, load_area_runner(settings, profile)) if with_areas else None
    normal = _normal_states(settings, profile, None)

    def make() -> Demo:
        return Demo(
            area_recording() if with_areas else demo_recording(),
            settings,
            profile,
            runners,
            partition_function(settings.partitions),
            normal=normal,
            load_runners=lambda: load_runners(settings, profile, None),
            speed=DEMO_SPEED if speed is None else parse_speed(speed),
            plant=plant,
        )

    run_process(show(settings, make))


def _normal_states(settings: Settings, profile: PlantProfile, files: list[Path] | None) -> dict[str, Any]:
    """The normal band of each machine type's variables; a console without models shows everything else."""
    from agents.console.machine.normal import normal_states

    try:
        found: dict[str, Any] = normal_states(profile, model_of_each_type(settings, profile, files))
    except (ModelFileError, SettingsError) as error:
        log.warning("trends have no normal band, and nothing can be explained: %s", error)
        return {}
    return found
