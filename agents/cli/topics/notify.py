"""The command `faultline notify`."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.cli.options import BrokerOption, MachinePatternOption, ProfileOption
from agents.cli.running.process import WebPortOption, begin_logs
from agents.connectors.notify.formats import NotificationFormat
from agents.connectors.notify.notifier import DEFAULT_STATES, Choice
from pipeline.config.profile import load_profile
from pipeline.config.sections.titles import Priority
from pipeline.config.settings import load_settings
from pipeline.engine.reports.lifecycle.records import ALARM_STATES
from pipeline.errors import SettingsError
from pipeline.files.yaml_fields import did_you_mean


def notify(
    kind: Annotated[
        NotificationFormat, typer.Option("--format", help="what the receiver takes")
    ] = NotificationFormat.JSON,
    template: Annotated[
        str | None, typer.Option("--template", help="the text, such as '{what}: {alarm} on {machine}[ in {area}]'")
    ] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help="only these changes; raised, cleared and others without it")
    ] = None,
    priority: Annotated[Priority, typer.Option("--priority", help="only this priority and higher ones")] = "low",
    machine: MachinePatternOption = "*",
    name: Annotated[
        str, typer.Option("--name", help="the receiver's name; each has its own place in the topic")
    ] = "default",
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=0.1, max=600, help="seconds that the receiver has to answer")
    ] = 10.0,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    web_port: WebPortOption = None,
) -> None:
    """Post alarms to FAULTLINE_NOTIFY_URL, in order and at least once, until it is stopped."""
    from agents.connectors.notify.service import serve
    from agents.worker.process import run_process

    for state in states or ():
        if state not in ALARM_STATES:
            raise SettingsError(f"--state {state!r} is none; {did_you_mean(state, ALARM_STATES)}")
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise SettingsError(f"--name {name!r} has other signs than letters, digits, - and _; choose another one")
    settings = load_settings(broker=broker, profile=profile, web_port=web_port)
    begin_logs(settings)
    choice = Choice(frozenset(states or DEFAULT_STATES), priority, machine)
    plant = load_profile(settings.profile)
    run_process(serve(settings, plant, kind, choice, name=name, template=template, timeout_seconds=timeout_seconds))
