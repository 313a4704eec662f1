"""Every query of the dashboard and of the alerts, asked of a real Prometheus that scrapes a plant in a bad night."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from agents.connectors.ingest.metrics import IngestCollector, MqttStatus
from agents.connectors.ingest.rewriting import Tally
from agents.connectors.notify.formats import NotificationFormat, body_writer
from agents.connectors.notify.notifier import Choice, Notifier
from agents.connectors.notify.webhook import Webhook
from agents.console.book.console_book import ConsoleBook
from agents.console.web.metrics import ConsoleCollector, ConsoleCounts
from agents.words import Words
from agents.worker.life import Life, LifeCollector, LifeState, Phase
from agents.worker.web import WebServer
from pipeline.config.classes import UNKNOWN
from pipeline.config.topics import ALARMS, AREAS
from pipeline.frames import Frames, StepResult
from pipeline.wire.messages import decode_diagnosis
from pipeline.wire.records import Record
from tests.agents.test_notify import Receiver, receiver
from tests.support.area_plant import FRAME_MS, MACHINES, T0_MS, WITH_AREAS, AreaPlant, area_record, diagnosis
from tests.support.builders import SumRunner, event, reading
from tests.support.prometheus import DASHBOARD, Prometheus, dashboard_queries, running_prometheus

BOARD = json.loads(DASHBOARD.read_text(encoding="utf-8"))
PLANT = WITH_AREAS + "alarms: [{acknowledge: true}]\n"
PUMPS = tuple(machine for machines in MACHINES.values() for machine in machines)
FRAMES = 260
WINDOW_FRAMES = 24

NO_SERIES = {"FaultlineNoWorker": "a worker is scraped; without one, promtool tests the alert"}
"""Queries that find nothing this night, and why that is right."""


class NightRunner(SumRunner):
    """Both modalities name the class whose number the second variable gives, and every machine has a life left."""

    classes = (*SumRunner.classes, UNKNOWN)  # type: ignore[assignment]  # one more than those of the other runner

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        rows = np.arange(len(frames.slots))
        fused = np.full((len(rows), len(self.classes)), 0.1 / 3, np.float32)
        fused[rows, np.nan_to_num(frames.values[:, 1]).astype(int)] = 0.9
        answers = StepResult(fused, np.stack([fused, fused]), result.weights, result.present, result.scaled)
        answers.remaining = np.tile(np.array([7.0, 6.0, 8.0], np.float32), (len(rows), 1))
        return answers


class AlarmLog:
    """The topic of alarms on a memory broker, from its beginning, as a notifier reads it."""

    def __init__(self, plant: AreaPlant) -> None:
        self._plant = plant
        self._read: Counter[int] = Counter()
        self.delivered = 0

    async def start(self) -> None:
        """There is nothing to connect to."""

    async def stop(self) -> None:
        """There is nothing to leave."""

    async def fetch(self) -> Mapping[int, Sequence[Record]]:
        await asyncio.sleep(0.01)
        logs = {at: self._plant.broker.log(ALARMS, at)[self._read[at] :] for at in range(self._plant.partitions)}
        for at, records in logs.items():
            self._read[at] += len(records)
        return {at: records for at, records in logs.items() if records}

    async def commit(self, partition: int, next_offset: int) -> None:
        self.delivered += 1

    @property
    def is_done(self) -> bool:
        return self.delivered == len(self._plant.log(ALARMS))


def measured(machine: str, frame: int) -> list[float]:
    """Two of three frames are well; one pump drifts, one repeats its last values, and each fault has its turn."""
    if machine == "pump-4":
        return [1.0, 0.0]
    level = 40.0 if machine == "pump-3" and frame > FRAMES // 2 else 0.0
    fault = 1 + frame // 20 % 3 if frame % 20 >= 12 else 0
    return [level + (1.0 if frame % 2 else -1.0), float(fault)]


def operator(kind: str, machine: str, frame: int, **more: Any) -> Record:
    """Somebody sends a control record."""
    body = {"kind": kind, "machine": machine, "by": "kim", "why": "seen", **more}
    return Record("control", 0, 0, T0_MS + frame * FRAME_MS, machine.encode(), json.dumps(body).encode())


def night(plant: AreaPlant, frames: range) -> list[Record]:
    """What comes from the plant in these frames: readings, texts, people, and most of what can be wrong."""
    records: list[Record] = []
    for frame in frames:
        at_ms = T0_MS + frame * FRAME_MS
        for machine in PUMPS if frame < FRAMES - 40 else PUMPS[:-1]:
            records.append(reading(machine, at_ms + 1_000, measured(machine, frame)))
            if frame % 20 == 18:
                records.append(operator("acknowledge", machine, frame, fault=NightRunner.classes[1 + frame // 20 % 3]))
        if frame % 10 == 9:
            records += [
                records[-1],
                event("pump-1", at_ms, f"seal drips {frame}", id=f"t{frame}"),
                event("pump-1", at_ms, f"seal drips {frame}", id=f"t{frame}"),
                event("pump-1", at_ms, "seal drips a lot", id=f"t{frame}"),
                event("hall/water", at_ms, f"low pressure {frame}"),
                reading("pump-2", T0_MS, [1.0, 0.0], timestamp_ms=at_ms),
                reading("pump-2", at_ms + 3_600_000, [1.0, 0.0], timestamp_ms=at_ms),
                reading("pump-2", at_ms + 2_000, [1.0], timestamp_ms=at_ms + 2_000),
                reading("pump-2", at_ms + 2_100, {"flow": float("nan"), "load": 0.0}),
                reading("pump-2", at_ms + 2_200, {"flow": float("inf"), "lode": 0.0}),
            ]
            tick = {"kind": "tick", "time": at_ms}
            records += [
                Record("control", at, 0, at_ms, None, json.dumps(tick).encode()) for at in range(plant.partitions)
            ]
    return [one if one.key is None else one._replace(partition=plant.partition_of(one.key)) for one in records]


class Served(NamedTuple):
    """What is scraped, and what moves it."""

    ports: Mapping[str, int]
    play: Callable[[range], Awaitable[None]]


def server_of(registry: CollectorRegistry, name: str, plant: AreaPlant) -> WebServer:
    """The web server of a process that does nothing but count."""
    life = Life(name, lambda: Phase(LifeState.WORKING), plant.settings)
    registry.register(LifeCollector(life, f"faultline_{name}_state"))
    return WebServer(registry, health=life.health, ready=life.ready)


@contextlib.asynccontextmanager
async def served(hook: Receiver) -> AsyncIterator[Served]:
    """A worker, a plant agent, a notifier, ingest and a console with their web servers."""
    plant = AreaPlant(PLANT, drift_window_ms=WINDOW_FRAMES * FRAME_MS, drift_reference_windows=3)
    worker, agent, log = plant.worker(NightRunner()), plant.agent(), AlarmLog(plant)
    webhook = Webhook(hook.url, wall_seconds=time.time, sleep=lambda _: asyncio.sleep(0))
    words = Words(plant.profile)
    write = body_writer(NotificationFormat.JSON, words, plant.profile.plant)
    notifier = Notifier(plant.settings, log, webhook, write, Choice(), words, time.time)
    tally, registry = Tally(), CollectorRegistry()
    registry.register(
        IngestCollector(
            tally,
            ["/line-1"],
            lag=lambda: {("/line-1", 0): 2},
            lost=lambda: {"/line-1": tally.records["/line-1"] // 90},
            mqtt=lambda: MqttStatus(connected=True, waiting=1, dropped=0),
        )
    )
    ingest = server_of(registry, "ingest", plant)
    counts, consoles = ConsoleCounts(), CollectorRegistry()
    consoles.register(ConsoleCollector(counts, ConsoleBook(plant.profile).status))
    console = server_of(consoles, "console", plant)

    async def play(frames: range) -> None:
        """The plant goes on, and everything that follows from it is done."""
        plant.place(night(plant, frames))
        tally.add(
            Tally(
                Counter({"/line-1": 90}),
                Counter({"/line-1": 3}),
                Counter(readings=80, texts=5),
                Counter(not_json=2),
                Counter({("flow", "not_finite"): 4}),
            )
        )
        counts.requests[2] += 5
        counts.events["machines"] += 3
        counts.actions["acknowledge"] += 1
        async with asyncio.timeout(30):
            while not plant.read_by(worker):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # its checkpoint writes the last copies for areas
            copy = plant.log(AREAS)[-1]
            said = decode_diagnosis(copy.value or b"")
            again = msgspec.structs.replace(said, revision=said.revision + 1)
            late = diagnosis("pump-5", -60)
            broken = copy._replace(value=b"{")
            plant.place([copy, broken, *(area_record(one, plant.partition_of) for one in (again, late))])
            while any(agent.lag().values()) or not log.is_done:
                assert (worker.life.failure, agent.life.failure, notifier.life.failure) == (None, None, None)
                await asyncio.sleep(0.01)

    processes = (worker, agent, notifier)
    jobs = ("faultline", "faultline-plant", "faultline-notify", "faultline-ingest", "faultline-console")
    try:
        for process in processes:
            await process.start()
        webs = (*(process.web for process in processes), ingest, console)
        yield Served({job: web.start("127.0.0.1", 0) for job, web in zip(jobs, webs, strict=True)}, play)
    finally:
        for process in processes:
            await process.stop()
        ingest.stop()
        console.stop()


class Night(NamedTuple):
    """A Prometheus at the end of the night."""

    server: Prometheus
    at_seconds: float
    worker: str
    """The instance by which it knows the worker."""

    def ask(self, query: str) -> list[dict[str, Any]]:
        return self.server.ask(query, self.at_seconds)


async def scraped(server: Prometheus, jobs: int) -> None:
    """Wait until every job was scraped after this moment."""
    seen = f"count(timestamp(up) > {time.time():.3f} and up == 1) == {jobs}"
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(server.ask, seen):
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def bad_night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """The first half begins after the first scrape: a rate needs to have seen its counter before."""
    folder = tmp_path_factory.mktemp("prometheus")
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(receiver(lambda number: {1: 503, 2: 400}.get(number, 200)))

        async def live() -> Night:
            async with served(hook) as plant:
                server = stack.enter_context(running_prometheus(folder, plant.ports))
                await scraped(server, len(plant.ports))
                for half in (range(FRAMES // 2), range(FRAMES // 2, FRAMES)):
                    await plant.play(half)
                    await scraped(server, len(plant.ports))
                async with asyncio.timeout(30):
                    while not await asyncio.to_thread(server.ask, 'ALERTS{alertstate="firing"}'):
                        await asyncio.sleep(0.05)
                return Night(server, time.time(), f"127.0.0.1:{plant.ports['faultline']}")

        yield asyncio.run(live())


def without_thresholds(expression: str) -> list[str]:
    """The alternatives of an alert's expression, such that a comparison keeps every series, and now is also then."""
    kept = re.sub(r"(\{[^}]*\})|(==|!=|[<>]=?)", lambda found: found[1] or f"{found[2]} bool", expression)
    then = re.sub(r"\(([^()]+) unless [^()]+ offset 1h\)", r"(\1)", kept)
    return re.split(r"\s+or\s+", re.sub(r" offset \w+", "", then))


@pytest.mark.slow
def test_the_dashboard_lets_one_choose_among_the_workers(bad_night: Night) -> None:
    (variable,) = BOARD["templating"]["list"]
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert found is not None
    assert bad_night.server.get(f"label/{found[2]}/values", **{"match[]": found[1]}) == [bad_night.worker]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["all", "one"])
def test_every_query_of_the_dashboard_finds_series(bad_night: Night, chosen: str) -> None:
    instance = BOARD["templating"]["list"][0]["allValue"] if chosen == "all" else bad_night.worker
    queries = dashboard_queries(instance) | {"annotation": BOARD["annotations"]["list"][0]["expr"]}
    assert [panel for panel, query in queries.items() if not bad_night.ask(query)] == []


@pytest.mark.slow
def test_every_alert_finds_series_to_judge(bad_night: Night) -> None:
    (group,) = bad_night.server.get("rules")["groups"]
    assert [(rule["name"], rule["lastError"]) for rule in group["rules"] if rule["health"] != "ok"] == []
    empty = {
        rule["name"]: part
        for rule in group["rules"]
        for part in without_thresholds(rule["query"])
        if not bad_night.ask(part)
    }
    assert empty.keys() == NO_SERIES.keys()
    assert without_thresholds('sum(a{b!="c"}) > 1 or (a > 0 unless a offset 1h)') == [
        'sum(a{b!="c"}) > bool 1',
        "(a > bool 0)",
    ]
    wrong = 'sum by (job) (increase(faultline_alarms_raised_total{priority="urgent"}[10m])) > 10'
    assert [bad_night.ask(part) for part in without_thresholds(wrong)] == [[]]


@pytest.mark.slow
def test_alerts_say_what_they_are_about(bad_night: Night) -> None:
    alerts = bad_night.server.get("alerts")["alerts"]
    texts = [text for alert in alerts for text in alert["annotations"].values()]
    assert len(alerts) > 10
    assert [text for text in texts if "<error" in text or "<no value>" in text] == []
