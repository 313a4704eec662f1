"""A real Chromium, and consoles for it to look at: a replayed plant, and one with a thousand machines."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import pytest

from agents.cli.options import load_runners, model_of_each_type
from agents.cli.running.plant import load_area_runner
from agents.console.actions.desk import Actions
from agents.console.actions.sending import MemorySender
from agents.console.book.console_book import ConsoleBook
from agents.console.demo import Demo
from agents.console.machine.logs import memory_logs
from agents.console.machine.machines import Machines
from agents.console.machine.normal import normal_states
from agents.console.reading.follower import Follower
from agents.console.reading.memory import memory_source
from agents.console.service import Console, ConsoleParts
from agents.console.web.access.access import access_of
from agents.delivery.partitioning import partition_function
from agents.memory.broker import MemoryBroker
from agents.replay.areas import PlantReplay
from agents.replay.shipped import area_profile, area_recording, area_rule
from pipeline.config.settings import load_settings
from pipeline.config.topics import DIAGNOSES, full_topic_name
from pipeline.wire import messages
from tests.support.area_plant import diagnosis
from tests.support.builders import ONE_SOURCE
from tests.support.plant import Plant

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

T = TypeVar("T")

MACHINES: Final = 1_000
CHANGES_PER_SECOND: Final = 100
_AREAS: Final = 20
_START_MS: Final = 17_100_000
"""From the beginning of the shipped recording with areas: several machines have alarms then, and one is offline."""
_SPEED: Final = 240.0


def chromium_or_skip() -> str:
    """The browser's program; skips where it or Playwright is missing, or fails where they are required."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    text = None if found else "chromium is missing; Debian's package chromium has it"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        text = "playwright is missing; `make .venv/.development` installs it"
    if text is None and found is not None:
        return found
    if os.environ.get("FAULTLINE_REQUIRE_KAFKA") == "1":
        pytest.fail(str(text), pytrace=False)
    pytest.skip(str(text))


class Loop:
    """An event loop in a thread, for servers beside a browser that is driven from the test's own thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Run it there, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def do(self, act: Callable[[], T]) -> T:
        """Call a function there."""

        async def called() -> T:
            return act()

        return self.call(called())

    def close(self) -> None:
        """End it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class ReplayedPlant:
    """The shipped recording with areas, its worker and plant agent, and the console that shows them."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        settings = load_settings(console_web_port=0, web_port=0, area_model=str(area_rule()))
        profile = area_profile()
        runners = load_runners(settings, profile, None)
        self.demo = loop.do(
            lambda: Demo(
                area_recording(),
                settings,
                profile,
                runners,
                partition_function(settings.partitions),
                normal=normal_states(profile, model_of_each_type(settings, profile, None)),
                load_runners=lambda: load_runners(settings, profile, None),
                speed=_SPEED,
                start_ms=_START_MS,
                plant=PlantReplay(profile, load_area_runner(settings, profile)),
            )
        )
        self._prefix = settings.topic_prefix
        self._stop = asyncio.Event()
        self._running = asyncio.run_coroutine_threadsafe(self.demo.run(self._stop), loop.loop)

    @property
    def url(self) -> str:
        """Where the console is, when it is there."""
        until = time.monotonic() + 60
        while not self.demo.console.url:
            assert time.monotonic() < until and not self._running.done(), self._running
            time.sleep(0.05)
        return self.demo.console.url

    def records(self, topic: str) -> list[dict[str, Any]]:
        """What a topic holds."""
        return self._loop.do(lambda: topic_values(self.demo.broker, full_topic_name(self._prefix, topic)))

    def append(self, topic: str, key: str, value: bytes) -> None:
        """As a producer does."""
        name = full_topic_name(self._prefix, topic)
        self._loop.do(lambda: self.demo.broker.append(name, None, key.encode(), value, 0, ()))

    def close(self) -> None:
        """Stop it; raises what it failed with."""
        self._loop.do(self._stop.set)
        self._running.result(60)


def topic_values(broker: MemoryBroker, name: str) -> list[dict[str, Any]]:
    """The JSON of all records of a topic, tombstones left out."""
    places = sorted(broker.partitions_for_topic(name) or ())
    return [msgspec.json.decode(record.value) for place in places for record in broker.log(name, place) if record.value]


class PumpPlant:
    """Pumps in twenty areas, of which a hundred get another diagnosis each second; there are no workers."""

    def __init__(self, loop: Loop, machines: int = MACHINES, **settings: Any) -> None:
        self._loop = loop
        self._machines = machines
        areas = (f"\n  pump-{number:04d}: {{area: Area {number % _AREAS + 1:02d}}}" for number in range(machines))
        profile = f"{ONE_SOURCE}\nmachines:{''.join(areas)}\n"
        self.plant = Plant(profile, console_web_port=0, web_port=0, **settings)
        self._settings = self.plant.settings
        self._frame = 0
        for number in range(machines):
            self._say(number)
        self.start()
        self._changing = asyncio.run_coroutine_threadsafe(self._change(), loop.loop)

    @property
    def url(self) -> str:
        return self.console.url

    def start(self) -> None:
        """Start its console, later again at the same address."""
        settings, profile, broker = self._settings, self.plant.profile, self.plant.broker
        book = ConsoleBook(profile)
        parts = ConsoleParts(
            book,
            Follower(memory_source(broker, settings, profile), book),
            Machines(memory_logs(broker, ""), profile, normal={}, load_runners=dict),
            Actions(MemorySender(broker, ""), profile, book),
        )
        access = access_of(settings)
        self.console = self._loop.do(lambda: Console(settings, access, parts, clock_ms=lambda: int(time.time() * 1000)))
        self._loop.call(self.console.start())
        self._settings = settings.model_copy(update={"console_web_port": urlsplit(self.console.url).port})

    def stop(self) -> None:
        """Stop its console."""
        self._loop.call(self.console.stop())

    def set_broker(self, *, there: bool) -> None:
        """Take the broker away, or bring it back."""
        self._loop.do(lambda: setattr(self.plant.broker.faults, "connected", there))

    def close(self) -> None:
        """Stop all of it."""
        self._loop.loop.call_soon_threadsafe(self._changing.cancel)
        self.stop()

    def _say(self, number: int) -> None:
        """The next diagnosis of a machine: every seventh one has a fault."""
        share = 0.9 if (number * 31 + self._frame) % 7 == 0 else 0.1
        said = diagnosis(f"pump-{number:04d}", self._frame, share)
        name = full_topic_name("", DIAGNOSES)
        self.plant.broker.append(name, None, said.machine.encode(), messages.encode(said), said.frame_end, ())

    async def _change(self) -> None:
        step = CHANGES_PER_SECOND // 10
        while True:
            await asyncio.sleep(0.1)
            self._frame += 1
            for number in range(step):
                self._say((self._frame * step + number) % self._machines)


class Watched:
    """A page, and what must not happen on it: errors, violations of its policy, requests to other hosts."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._check(request.url))

    def go(self, path: str = "/") -> Page:
        """Open a page of the console, and wait for its live picture."""
        self.page.goto(self.url.rstrip("/") + path)
        self.page.locator("#clock[data-live=yes]").wait_for()
        return self.page

    def _note(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.wrong.append(said.text)

    def _check(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.wrong.append(f"a request to {url}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser without a window."""
    program = chromium_or_skip()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()
