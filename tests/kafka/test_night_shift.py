"""The night shift of docs/operations/control-room.md, followed as it is printed, with a real Kafka and Chromium."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from agents.bench.local_kafka.broker import KafkaBroker, free_ports
from agents.bench.local_kafka.jars import missing_tools
from tests.support.browser import chromium
from tests.support.kafka_fixtures import skip_or_fail
from tests.support.pages import blocks

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "operations" / "control-room.md"
DESK: Final = {"width": 1280, "height": 800}

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.long]


def wait_until(is_so: Callable[[], object], seconds: float = 150) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)


class Terminals:
    """A folder with the clone's files, in which each block of the page runs as in a terminal of its own."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self._folder = folder
        self._ports = ports
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, words in {"python": sys.executable, "faultline": f"{sys.executable} -m agents.cli"}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
            (programs / name).chmod(0o755)
        for name in ("docs", "agents"):
            (folder / name).symlink_to(ROOT / name)

    def _script(self, block: str) -> str:
        for printed, port in self._ports.items():
            block = block.replace(printed, str(port))
        return block

    def _environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("FAULTLINE_")}
        web = {"FAULTLINE_CONSOLE_WEB_PORT": str(self._ports["9480"]), "FAULTLINE_WEB_PORT": "0"}
        return others | web | {"PYTHONPATH": str(ROOT)}

    def run(self, block: str) -> str:
        """A block that ends: what it prints."""
        done = subprocess.run(
            ["bash", "-euc", self._script(block)],
            cwd=self._folder,
            env=self._environment() | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, block: str, log: Path, sign: str) -> Iterator[None]:
        """A block that goes on until Ctrl-C; entered once it has printed `sign`, and left with a proper end."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-euc", self._script(block)],
                cwd=self._folder,
                env=self._environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(lambda: sign in log.read_text() or process.poll() is not None)
            assert sign in log.read_text(), log.read_text()
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(40)


def test_the_night_shift_goes_as_printed(tmp_path: Path) -> None:
    if (reason := missing_tools()) is not None:
        skip_or_fail(reason)
    section = PAGE.read_text(encoding="utf-8").split("\n## A night shift\n")[1]
    kafka, receiver, worker, console, notifier, plant, report = blocks("sh", section)
    (said,) = blocks("", section)
    assert kafka == "make kafka\n"
    broker, *others = free_ports(4)
    ports = dict(zip(("9092", "9480", "8008", "9465"), (broker, *others), strict=True))
    shift = Terminals(tmp_path, ports)
    logs = {name: tmp_path / f"{name}.log" for name in ("receiver", "worker", "console", "notifier", "plant")}
    with ExitStack() as evening:
        evening.enter_context(KafkaBroker.start(port=broker))
        browser = evening.enter_context(chromium())
        evening.enter_context(shift.running(receiver, logs["receiver"], ""))
        evening.enter_context(shift.running(worker, logs["worker"], "restored the states"))
        evening.enter_context(shift.running(console, logs["console"], "the console is on"))
        evening.enter_context(shift.running(notifier, logs["notifier"], "reading alarms"))
        page = browser.new_page(viewport=DESK, timezone_id="UTC")  # type: ignore[arg-type]
        page.set_default_timeout(150_000)
        evening.enter_context(shift.running(plant, logs["plant"], ""))
        page.goto(f"http://127.0.0.1:{ports['9480']}/")
        page.locator(".tile").first.wait_for()
        assert not page.locator(".tile[data-priority]").count()

        page.locator(".tile[data-machine=te-05]", has_text="Reactor cooling water valve sticks").wait_for()
        wait_until(lambda: said in logs["receiver"].read_text())

        page.keyboard.press("2")
        page.locator("tr", has_text="te-05").locator(".opener").click()
        page.locator("aside", has_text="Check first").wait_for()
        page.keyboard.press("a")
        page.locator("dialog input").fill("the valve has been sticking since the revamp")
        page.keyboard.press("Enter")
        page.locator("tr", has_text="te-05").get_by_text("kim").wait_for()

        page.locator("tr", has_text="te-01").locator(".opener").click()
        page.keyboard.press("s")
        page.locator("dialog input").fill("known, repair at 16:00")
        page.keyboard.press("Enter")
        page.get_by_role("button", name=re.compile(r"Shelved and out of service\s*1")).wait_for()

        page.locator("tr", has_text="te-05").locator("a").click()
        page.locator(".lane .band").first.wait_for()
        page.keyboard.press("y")
        page.locator(".why", has_text="What would change it").wait_for()
        page.keyboard.press("f")
        assert page.locator("dialog select").input_value() == "idv_14"
        page.locator("dialog input[type=datetime-local]").first.fill("2026-11-01T01:30")
        page.locator("dialog textarea").fill("valve stem seized")
        page.get_by_role("button", name="Send").click()
        page.locator("[aria-label='Found by people']", has_text="kim").wait_for()

        wait_until(lambda: re.match(r"1 Nov 0[4-9]", page.locator("#clock-time").inner_text()))
        printed = shift.run(report)
    assert re.search(r"te-05 .*idv_14 .*acknowledged .*kim .*the valve has been sticking", printed), printed
    assert re.search(r"te-01 .*idv_10 .*shelved .*kim .*known, repair", printed), printed
    assert re.search(r"te-05 .*idv_14 .*valve stem seized .*kim", printed), printed
    assert "idv_10" not in logs["receiver"].read_text(), "alarms of medium priority are not for this receiver"
    shift_report = json.loads((tmp_path / "shift.json").read_text(encoding="utf-8"))
    assert shift_report
    assert "<script" not in (tmp_path / "shift.html").read_text(encoding="utf-8")
    assert "everything committed" in logs["worker"].read_text()
