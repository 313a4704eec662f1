"""The whole console: a demo with the shipped model, in which people act through HTTP and the engine obeys."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from agents.cli.options import load_runners
from agents.console.demo import Demo
from agents.console.machine.normal import normal_states
from agents.console.service import Console, kafka_console
from agents.delivery.partitioning import partition_of
from agents.replay.shipped import demo_model, demo_recording
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.errors import PortInUseError, SettingsError
from pipeline.frames import StepRunner
from pipeline.wire.recording import RecordingWriter, read_recording
from tests.support.commands import assert_one_line, faultline
from tests.support.console import Browser, ConsoleSite, browser, stream
from tests.support.delivery_apps import run, until

HOUR_MS = 3_600_000
PARTITIONS = 2


@pytest.fixture(scope="module")
def four_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the shipped recording, in which machine te-01 has a fault."""
    path = tmp_path_factory.mktemp("demo") / "four-hours.parquet"
    records = read_recording(demo_recording())
    first = next(records)
    with RecordingWriter(path) as tape:
        near = itertools.takewhile(lambda one: one.timestamp_ms < first.timestamp_ms + 4 * HOUR_MS, records)
        tape.write([first, *near])
    return path


@cache
def workers_runners() -> Mapping[str, StepRunner]:
    """The shipped model, loaded once; only one of the demos here runs."""
    return load_runners(load_settings(), load_profile("tennessee_eastman"), None)


def demo(recording: Path, port: int = 0) -> Demo:
    settings = load_settings(partitions=PARTITIONS, console_web_port=port, console_user="kim", web_port=0)
    profile = load_profile("tennessee_eastman")

    def load() -> Any:
        return load_runners(settings, profile, None)

    return Demo(
        recording,
        settings,
        profile,
        workers_runners(),
        lambda key: partition_of(key, PARTITIONS),
        normal=normal_states(profile, {"tennessee_eastman": demo_model()}),
        load_runners=load,
        speed=None,
    )


def site_of(console: Console) -> ConsoleSite:
    """Where a console listens."""
    return ConsoleSite(int(console.url.rpartition(":")[2].strip("/")))


def watched(recording: Path, look: Callable[[Demo, Browser], Any]) -> None:
    """Show a demo, and look at it by a browser when the recording is over."""

    async def test() -> None:
        shown, stop = demo(recording), asyncio.Event()
        running = asyncio.create_task(shown.run(stop))
        try:
            await until(lambda: running.done() or (shown.console.url and shown.is_over), 60)
            async with browser(site_of(shown.console)) as one:
                await look(shown, await one.begin())
        finally:
            stop.set()
            await running

    run(test())


def test_what_people_do_in_the_demo_reaches_the_engine_and_comes_back(four_hours: Path) -> None:
    async def look(shown: Demo, one: Browser) -> None:
        await until(lambda: shown.book.alarms().active)
        async with stream(one) as events:
            picture = await events.next("snapshot")
            tiles = {tile["id"]: tile for tile in picture["plant"]["machines"]}
            assert len(tiles) == 12
            assert (tiles["te-01"]["state"], tiles["te-01"]["fault_title"]) == ("fault", "C feed temperature, random")
            (alarm,) = [one for one in picture["alarms"]["active"] if one["machine"] == "te-01"]
            assert alarm["waiting"]

            body = {"alarm": alarm["id"], "why": "I see it"}
            status, written = await one.post("/api/alarms/acknowledge", body)
            assert status == 202, written
            (changed,) = (await events.next("alarms"))["alarms"]
            assert (changed["state"], changed["by"], changed["why"]) == ("acknowledged", "kim", "I see it")
            # The engine itself has said so.
            alarms = [json.loads(record.value or b"") for record in shown.log("alarms")]
            assert [(one["by"], one["why"]) for one in alarms if one["state"] == "acknowledged"] == [
                ("kim", "I see it")
            ]
            status, answer = await one.post("/api/alarms/acknowledge", body)
            assert (status, answer["error"]["code"]) == (409, "conflict")

            found = {
                "machine": "te-01",
                "fault": "idv_10",
                "from_ms": alarm["raised_ms"],
                "corrects": alarm["diagnosis"],
            }
            status, written = await one.post("/api/labels", found)
            assert status == 202, written
            labels = [json.loads(record.value or b"") for record in shown.log("labels")]
            (label,) = [label for label in labels if "by" in label]
            assert (label["machine"], label["fault"], label["by"]) == ("te-01", "idv_10", "kim")

        status, machine = await one.get("/api/machines/te-01")
        assert status == 200 and machine["trends"] and machine["alarms"]["open"]
        status, why = await one.get(f"/api/diagnoses/{alarm['diagnosis'].replace(':', '%3A')}/why")
        assert status == 200 and why["contributions"]

    watched(four_hours, look)


def test_a_port_that_is_taken_ends_the_demo_with_one_line(four_hours: Path) -> None:
    async def test() -> None:
        listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        taken = demo(four_hours, port)
        with pytest.raises(PortInUseError, match="FAULTLINE_CONSOLE_WEB_PORT"):
            await taken.run(asyncio.Event())
        listening.close()

    run(test())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["console", "--broker", "memory://x"], "faultline demo --web"),
        (["console", "--host", "0.0.0.0"], "FAULTLINE_CONSOLE_TOKEN_FILE"),
    ],
)
def test_a_console_that_cannot_be_safe_does_not_start(arguments: list[str], message: str) -> None:
    assert_one_line(faultline(*arguments), message)


def test_a_console_whose_broker_is_away_serves_its_pages_and_says_so() -> None:
    settings = load_settings(broker="kafka://127.0.0.1:1", console_web_port=0, web_port=0)
    profile = load_profile("tennessee_eastman")

    async def test() -> None:
        console = kafka_console(settings, profile, normal=dict, load_runners=dict)
        await console.start()
        try:
            async with browser(site_of(console)) as one:
                await one.begin()
                assert (await one.get("/"))[0] == 200
                _, plant = await one.get("/api/plant")
                assert plant["status"]["connected"] is False and "127.0.0.1:1" in plant["status"]["why"]
                body = {"machine": "te-01", "fault": "idv_10", "from_ms": 1, "until_ms": 2}
                status, answer = await one.post("/api/labels", body)
                assert status in (404, 503) and answer["error"]["what"]
                assert console.life.ready().ok
                metrics = generate_latest(console.registry).decode()
                assert "faultline_console_broker_away 1.0" in metrics
                assert 'faultline_console_state{state="working"} 1.0' in metrics
        finally:
            await console.stop()

    run(test())


@pytest.mark.parametrize("name", ["Europe/Berlim", "../../etc/passwd"])
def test_a_time_zone_that_is_none_is_refused(name: str) -> None:
    settings = load_settings(broker="kafka://127.0.0.1:1", console_time_zone=name)
    with pytest.raises(SettingsError, match="FAULTLINE_CONSOLE_TIME_ZONE"):
        kafka_console(settings, load_profile("tennessee_eastman"), normal=dict, load_runners=dict)


@pytest.mark.slow
def test_the_process_serves_pages_and_metrics_and_stops_in_order_though_a_browser_follows_it() -> None:
    command = [sys.executable, "-m", "agents.cli", "console", "--broker", "kafka://127.0.0.1:1"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--web-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        metrics = first.split(" on ")[1].split(",")[0]
        page = urllib.request.urlopen(second.split(" on ")[1].strip() + "api/updates", timeout=10)
        assert page.readline().startswith(b"retry: ")
        with urllib.request.urlopen(metrics, timeout=10) as answer:
            assert "faultline_console_browsers 1.0" in answer.read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    page.close()
    assert (process.returncode, out) == (0, "faultline: stopped\n"), errors
    assert "Traceback" not in errors
