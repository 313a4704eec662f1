"""`faultline console`: one process that reads a plant's topics and serves its pages."""

from __future__ import annotations

import asyncio
import secrets
import time
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry

from agents.console.actions.desk import Actions
from agents.console.actions.sending import KafkaSender
from agents.console.book.console_book import ConsoleBook
from agents.console.machine.explainer import LoadRunners
from agents.console.machine.logs import kafka_logs
from agents.console.machine.machines import Machines
from agents.console.machine.normal import NormalState
from agents.console.reading.follower import Follower
from agents.console.reading.kafka import kafka_source
from agents.console.web.access.access import Access, access_of
from agents.console.web.application import ConsoleApplication
from agents.console.web.connections import Connections
from agents.console.web.files import PageFiles
from agents.console.web.guard import Guard
from agents.console.web.metrics import ConsoleCollector, ConsoleCounts
from agents.console.web.server import Server, listen, tls_context
from agents.kafka.schema_registry import schema_registry
from agents.worker.life import Life, LifeCollector, LifeState, Phase
from agents.worker.process import Guard as ProcessGuard
from agents.worker.process import live, work
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.errors import SettingsError
from pipeline.extras import faultline_version
from pipeline.files.yaml_fields import did_you_mean

LoadNormal = Callable[[], Mapping[str, NormalState]]
"""Gives each machine type's normal state, as far as its model has one."""

_LOOK_SECONDS: Final = 0.5
METRICS_PORT: Final = 9481
"""Unless the settings say another one: a worker on the same machine has the usual one."""


@dataclass(frozen=True, slots=True)
class ConsoleParts:
    """What a console reads and writes."""

    book: ConsoleBook
    follower: Follower
    machines: Machines
    desk: Actions


class Console:
    """The console as a process: it reads, answers, and measures."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        parts: ConsoleParts,
        *,
        clock_ms: Callable[[], int],
        about: Mapping[str, object] | None = None,
        files: PageFiles | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        """`clock_ms` is the time of what people do; `say` gets a line with the address. Raises SettingsError."""
        self.registry = CollectorRegistry()
        self.url = ""
        self._settings = settings
        self._parts = parts
        self._clock_ms = clock_ms
        self._about = {"plant": parts.book.profile.plant, "version": faultline_version(), "demo": False}
        self._about |= {"time_zone": _time_zone(settings.console_time_zone), **(about or {})}
        self._say = say
        self._files = files or PageFiles()
        self._access = access
        self._tls = tls_context(settings.console_certificate, settings.console_key)
        self._counts = ConsoleCounts()
        self._connections = Connections()
        self._server: Server | None = None
        self._application: ConsoleApplication | None = None
        self.life = Life("console", self._phase, settings)
        self.registry.register(ConsoleCollector(self._counts, parts.book.status))
        self.registry.register(LifeCollector(self.life, "faultline_console_state"))
        self.web = WebServer(self.registry, health=self.life.health, ready=self.life.ready)

    async def start(self) -> None:
        """Serve, and begin to read; a broker that is away is no error, but what will never work is a FaultlineError."""
        self.life.begin()
        settings = self._settings
        listener = listen(settings.console_web_host, settings.console_web_port)
        port = int(listener.getsockname()[1])
        guard = Guard(
            self._access,
            self._connections,
            self._counts,
            has_tls=self._tls is not None,
            read_only=settings.console_read_only,
            port=port,
        )
        self._application = ConsoleApplication(
            guard,
            self._files,
            self._parts.book,
            self._parts.machines,
            self._parts.desk,
            self._counts,
            about=self._about,
            boot=secrets.token_hex(4),
            clock_ms=self._clock_ms,
            health=self.life.health,
            ready=self.life.ready,
        )
        self._server = Server(self._application.application, self._connections, self._tls)
        await self._server.start(listener)
        host = settings.console_web_host
        self.url = f"http{'' if self._tls is None else 's'}://{f'[{host}]' if ':' in host else host}:{port}/"
        self._say(f"faultline: the console is on {self.url}")
        await self._parts.follower.start()
        self.life.run("the reader", self._watch())

    async def stop(self) -> None:
        """Let all browsers go, and stop reading; raises the error if it has failed."""
        self.life.stopping = True
        await self.life.end_tasks()
        if self._server is not None and self._application is not None:
            await self._server.stop(self._application.updates.close)
        await self._parts.machines.stop()
        await self._parts.follower.stop()
        self.web.stop()
        if self.life.failure is not None:
            raise self.life.failure

    async def _watch(self) -> None:
        """End if reading has ended, such as without a right."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if (failure := self._parts.follower.failed) is not None:
                raise failure

    def _phase(self) -> Phase:
        if self._server is None:
            return Phase(LifeState.STARTING, "start", "opening its port")
        return Phase(LifeState.WORKING)  # also while the broker is away: the pages say so, and it is looked for


def _time_zone(name: str | None) -> str | None:
    """The name of a time zone; raises SettingsError if there is none of that name."""
    if name is not None and name not in zoneinfo.available_timezones():
        near = did_you_mean(name, sorted(zoneinfo.available_timezones()))
        raise SettingsError(f"FAULTLINE_CONSOLE_TIME_ZONE {name!r} is no time zone; {near}")
    return name


def kafka_console(
    settings: Settings, profile: PlantProfile, *, normal: LoadNormal, load_runners: LoadRunners
) -> Console:
    """A console of a plant on Kafka; raises SettingsError where anybody could come in, before models are read."""
    access = access_of(settings)
    book = ConsoleBook(profile)
    parts = ConsoleParts(
        book,
        Follower(kafka_source(settings, profile), book, back_ms=settings.console_history_ms),
        Machines(
            kafka_logs(settings, profile),
            profile,
            normal=normal(),
            load_runners=load_runners,
            schemas=schema_registry(settings),
        ),
        Actions(KafkaSender(settings), profile, book),
    )
    return Console(settings, access, parts, clock_ms=lambda: int(time.time() * 1000))


async def serve(settings: Settings, profile: PlantProfile, *, normal: LoadNormal, load_runners: LoadRunners) -> None:
    """Run a console until SIGTERM or SIGINT; raises FaultlineError if it cannot start or continue.

    `normal` gives each machine type's normal state by its model, `load_runners` loads the models when the first
    explanation is asked for.
    """
    if settings.is_memory:
        raise SettingsError(
            "the console needs FAULTLINE_BROKER=kafka://host:port; `faultline demo --web` shows one without a broker"
        )
    if "web_port" not in settings.model_fields_set:
        settings = settings.model_copy(update={"web_port": METRICS_PORT})

    async def serve_guarded(guard: ProcessGuard) -> None:
        console = kafka_console(settings, profile, normal=normal, load_runners=load_runners)
        await work(console, guard, settings, settings.broker, commits=False)

    await live(settings, serve_guarded)
