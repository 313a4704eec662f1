"""One machine at the console: its trends, texts, answers and alarms as they were, each record read once, and why."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.audit.log import PartitionLog
from agents.console.documents.machine import MachineDocument, Trend
from agents.console.errors import BadRequestError, BusyError, ConflictError, NotFoundError, TookTooLongError
from agents.console.machine.logs import memory_logs
from agents.console.machine.machines import Limits, Machines
from agents.console.machine.normal import NormalState
from agents.console.machine.thinning import MAX_POINTS, points
from agents.memory.log import MemoryLog
from pipeline.errors import BrokerUnavailableError
from pipeline.wire.records import Record
from tests.pipeline.test_alarm_life import PatientRunner, frames, said
from tests.pipeline.test_recovering import LEAK, NORMAL, PERIOD_MS, T0
from tests.support.builders import ONE_SOURCE, SumRunner, event, reading
from tests.support.delivery_apps import run
from tests.support.plant import Plant
from tests.support.topics import topics_of

STATE = NormalState(np.array([0.0, 0.5]), np.array([0.5, 0.1]), PatientRunner.hash)
EVERYTHING = Limits(fresh_seconds=0.0)
MARKUP = '<script>alert("1")</script><img src=x onerror=alert(1)> seal & gasket'


class CountedLog(MemoryLog):
    """Counts what is read by offsets."""

    read: Counter[tuple[str, int]]

    def ranges(self, partition: int, ranges: Mapping[str, tuple[int, int]]) -> Iterator[list[Record]]:
        for piece in super().ranges(partition, ranges):
            self.read.update((record.topic, record.offset) for record in piece)
            yield piece


class Site:
    """A plant in memory, and what a page gets of its machines."""

    def __init__(self, text: str = ONE_SOURCE, limits: Limits = EVERYTHING, **options: Any) -> None:
        self.plant = Plant(text, **options)
        self.read: Counter[tuple[str, int]] = Counter()
        self.now = self.step = 0.0
        self.machines = self.with_limits(limits)

    def with_limits(self, limits: Limits) -> Machines:
        @contextmanager
        def opened() -> Iterator[PartitionLog]:
            log = CountedLog(self.plant.broker)
            log.read = self.read
            yield log

        return Machines(
            opened,
            self.plant.profile,
            normal={"pump": STATE},
            load_runners=lambda: {"pump": SumRunner()},
            limits=limits,
            clock=self.clock,
        )

    def clock(self) -> float:
        self.now += self.step
        return self.now

    async def work(self, *records: Record, runner: Any = None) -> None:
        self.plant.append(sorted(records, key=lambda one: one.timestamp_ms))
        await self.plant.work(runner=runner or PatientRunner())

    async def document(
        self, machine: str = "p1", from_ms: int | None = None, until_ms: int | None = None, *variables: str
    ) -> MachineDocument:
        return await self.machines.machine(machine, from_ms, until_ms, variables)


def trend(document: MachineDocument, name: str) -> Trend:
    (found,) = [one for one in document.trends if one.name == name]
    return found


def test_a_page_gets_trends_texts_answers_and_alarms_of_the_machine_alone() -> None:
    async def test() -> None:
        site = Site(ONE_SOURCE.replace("leak", "{name: leak, title: Seal leaks}"))
        script = [NORMAL] * 5 + [LEAK] * 10
        await site.work(
            *frames(script),
            *frames([LEAK] * 15, "p2"),
            event("p1", T0 + 31_000, MARKUP, id="log-1", source="<b>shift</b>"),
            event("p2", T0 + 31_000, "another machine's"),
            said("acknowledge", 12, fault="leak"),
        )
        found = await site.document()
        assert (found.machine.id, found.machine.type, found.reading.complete) == ("p1", "pump", True)
        assert found.frames.fault == ["normal"] * 5 + ["leak"] * (len(found.frames.fault) - 5)
        assert found.frames.end_ms == sorted(found.frames.end_ms)
        assert found.faults["leak"].title == "Seal leaks"
        (sensors,) = found.frames.modalities
        assert (sensors.name, sensors.weight[0], sensors.present[0]) == ("sensors", 1.0, True)
        flow = trend(found, "flow")
        assert flow.points == [(T0 + at * PERIOD_MS, float(value)) for at, value in enumerate(script)]
        assert flow.normal is not None and (flow.normal.low, flow.normal.high) == (-1.5, 1.5)
        assert (flow.deviation, found.normal.sigma, found.normal.same_model) == (2.0, 3.0, True)
        (text,) = found.texts
        assert "<" not in text.text and text.text.endswith("seal & gasket")
        assert (text.id, text.time_ms, text.source) == ("log-1", T0 + 31_000, "shift")
        assert (text.late, text.refused) == (False, False)
        assert [one.state for one in found.alarms.history] == ["raised", "acknowledged"]
        (alarm,) = found.alarms.open
        assert (alarm.title, alarm.state, alarm.by) == ("Seal leaks", "acknowledged", "kim")
        assert found.newest is not None and found.newest.id == found.frames.id[-1]
        assert {one.name for one in found.label_faults} == {"normal", "leak", "jam", "unknown"}
        json.loads(msgspec.json.encode(found))

    run(test())


def test_every_record_is_read_once_however_often_and_in_how_many_pieces_a_page_asks() -> None:
    async def test() -> None:
        site = Site()
        script = [NORMAL, LEAK] * 60
        await site.work(*frames(script))
        begin_ms = T0 + 20 * PERIOD_MS
        whole = await site.document("p1", begin_ms)
        site.machines = site.with_limits(Limits(fresh_seconds=0.0, read_seconds=0.5, slice_records=20))
        site.step = 1.0
        site.read.clear()
        answers = [await site.document("p1", begin_ms)]
        while not answers[-1].reading.complete:
            assert "being read" in answers[-1].reading.said
            answers.append(await site.document("p1", begin_ms))
        assert len(answers) > 5
        assert msgspec.to_builtins(answers[-1]) == msgspec.to_builtins(whole)
        shown = [len(trend(one, "flow").points) for one in answers]
        assert shown == sorted(shown)
        before = site.read.copy()
        assert max(count for (topic, _), count in before.items() if topic != "diagnoses") == 1
        await site.document("p1", begin_ms)
        assert site.read == before
        site.plant.append(frames([LEAK] * 3, "p1")[2:])
        await site.document("p1", begin_ms)
        assert (site.read - before).total() == 1
        site.step = 0.0
        earlier = await site.document("p1", T0)
        assert earlier.frames.end_ms[0] == T0 + PERIOD_MS and len(trend(earlier, "flow").points) == len(script) + 1

    run(test())


def test_a_kafka_log_gives_the_same_document_and_explanation_as_one_in_memory() -> None:
    async def test() -> None:
        site = Site(partitions=1)
        script = [NORMAL, LEAK] * 100
        acts = [said("suppress", 15), event("p1", T0 + 95_000, MARKUP, id="a")]
        await site.work(*frames(script), *frames(script, "p2"), *acts, runner=SumRunner())
        topics = ("sensors", "events", "control", "diagnoses", "alarms", "labels", "late")
        log = topics_of([record for topic in topics for record in site.plant.log(topic)], partitions=1)
        settings_of_kafka = site.plant.settings.model_copy(update={"broker": "kafka://broker:9092"})
        profile = site.plant.profile

        def opened() -> Any:
            return log(settings_of_kafka, ["sensors", "diagnoses"], topics[1:])

        kafka = Machines(opened, profile, normal={"pump": STATE}, load_runners=lambda: {"pump": SumRunner()})
        asked = ("p1", T0 + 90_000, T0 + 1_500_000)
        expected = await site.document(*asked)
        assert msgspec.to_builtins(await kafka.machine(*asked, ())) == msgspec.to_builtins(expected)
        assert len(expected.frames.id) == 142 and expected.texts and expected.alarms.history
        why = await site.machines.why(expected.frames.id[5])
        found = await kafka.why(expected.frames.id[5])
        assert msgspec.structs.replace(found, seconds=0.0) == msgspec.structs.replace(why, seconds=0.0)

    run(test())


def test_holes_late_texts_and_those_that_are_too_late_are_told_apart() -> None:
    async def test() -> None:
        site = Site()
        readings = [reading("p1", T0 + at * PERIOD_MS, [0.0, 0.9]) for at in (0, 1, 2, 3, 9, 10, 11, 12)]
        texts = [
            event("p1", T0 + 5_000, "in time", id="a"),
            event("p1", T0 + 95_000, "late", id="b", timestamp_ms=T0 + 121_000),
            event("p1", T0 + 1_000, "too late", id="c", timestamp_ms=T0 + 122_000),
        ]
        await site.work(*readings, *texts, reading("p1", T0 + 140_000, [0.0, 0.9]), runner=SumRunner())
        found = await site.document()
        marks = {one.text: (one.late, one.refused) for one in found.texts}
        assert marks == {"in time": (False, False), "late": (True, False), "too late": (False, True)}
        times = [time_ms for time_ms, value in trend(found, "flow").points if value is None]
        assert times == [T0 + 3 * PERIOD_MS + 1]

    run(test())


FOREIGN = """
plant: mixed
machine_types:
  - name: pump
    frame_period: 10s
    missing: [-999]
    sources:
      sensors:
        topic: /gateway
        form: {machine: asset, time: ts, values: fields}
    faults: [normal, leak, jam]
    variables:
      - {name: heat, tag: T1, unit: degC, sent_unit: degF, valid: [-50, 200], component: motor, title: Winding}
      - {name: starts, tag: N, aggregation: max}
    components: {motor: {title: Motor}}
"""


def test_values_are_in_the_profiles_units_and_as_frames_make_them() -> None:
    async def test() -> None:
        site = Site(FOREIGN)

        def sent(after_ms: int, **fields: float) -> Record:
            body = {"asset": "p1", "ts": T0 + after_ms, "fields": fields}
            return Record("/gateway", 0, 0, T0 + after_ms, b"p1", json.dumps(body).encode())

        site.plant.append(
            [sent(0, T1=50.0, N=3), sent(1_000, T1=-999, N=7), sent(2_000, T1=9_999.0, N=5), sent(25_000, T1=212.0)]
        )
        found = await site.document("p1", T0, T0 + 60_000)
        heat, starts = trend(found, "heat"), trend(found, "starts")
        assert (heat.points, heat.unit, heat.title, heat.component) == (
            [(T0, 10.0), (T0 + 25_000, 100.0)],
            "degC",
            "Winding",
            "Motor",
        )
        assert (starts.points, starts.aggregation) == ([(T0 + 10_000, 7.0)], "max")
        assert found.newest is None and "no diagnosis" in found.reading.said

    run(test())


spans = st.lists(st.tuples(st.integers(1, 40), st.floats(-1e6, 1e6)), min_size=1, max_size=4_000)


@settings(max_examples=25, deadline=None)
@given(spans, st.integers(2, 60))
def test_a_thinned_trend_keeps_peaks_and_holes(steps: list[tuple[int, float]], hole_ms: int) -> None:
    times = np.cumsum([step for step, _ in steps])
    values = np.array([value for _, value in steps])
    found = points(times, values, int(times[0]), int(times[-1]), hole_ms)
    shown = [(time_ms, value) for time_ms, value in found if value is not None]
    assert len(shown) <= MAX_POINTS
    assert [time_ms for time_ms, _ in found] == sorted(time_ms for time_ms, _ in found)
    exact = {time_ms: float(f"{value:.7g}") for time_ms, value in zip(times.tolist(), values.tolist(), strict=True)}
    assert all(exact[time_ms] == value for time_ms, value in shown)
    assert max(exact.values()) == max(value for _, value in shown)
    assert min(exact.values()) == min(value for _, value in shown)
    holes = [time_ms for time_ms, value in found if value is None]
    gaps = [(a, b) for a, b in zip(times.tolist(), times[1:].tolist(), strict=False) if b - a > hole_ms]
    assert all(any(a < hole < b for a, b in gaps) for hole in holes)
    assert bool(holes) == bool(gaps)
    if len(times) <= MAX_POINTS:
        assert len(holes) == len(gaps)


def test_what_cannot_be_answered_says_why() -> None:
    async def test() -> None:
        site = Site(ONE_SOURCE.replace("name: pump\n", 'name: pump\n    match: "p*"\n'))
        await site.work(*frames([NORMAL] * 5))
        for error, arguments in (
            (NotFoundError, ("x1",)),
            (NotFoundError, ("p" * 201,)),
            (NotFoundError, ("p\x1b[2J",)),
            (BadRequestError, ("p1", T0 + 1, T0)),
            (BadRequestError, ("p1", -1)),
            (BadRequestError, ("p1", T0, None, "speed")),
        ):
            with pytest.raises(error):
                await site.document(*arguments)
        assert (await site.document("p9")).newest is None
        full = site.with_limits(Limits(waiting=0))
        with pytest.raises(BusyError):
            await full.machine("p1", None, None, ())

        def away() -> Any:
            raise BrokerUnavailableError("no Kafka broker answers")

        lost = Machines(away, site.plant.profile, normal={}, load_runners=dict)
        with pytest.raises(BrokerUnavailableError):
            await lost.machine("p1", None, None, ())

    run(test())


def test_a_broker_that_is_silent_costs_one_answer_and_no_more() -> None:
    async def test() -> None:
        site = Site()
        await site.work(*frames([NORMAL] * 5))
        opens = memory_logs(site.plant.broker)
        answers = asyncio.Event()
        loop = asyncio.get_running_loop()

        @contextmanager
        def silent() -> Iterator[PartitionLog]:
            asyncio.run_coroutine_threadsafe(answers.wait(), loop).result()
            with opens() as log:
                yield log

        machines = Machines(
            silent, site.plant.profile, normal={}, load_runners=dict, limits=Limits(answer_seconds=0.01)
        )
        with pytest.raises(TookTooLongError):
            await machines.machine("p1", None, None, ())
        answers.set()
        patient = Machines(silent, site.plant.profile, normal={}, load_runners=dict)
        assert (await patient.machine("p1", None, None, ())).newest is not None
        await machines.stop()

    run(test())


def test_why_is_explained_once_from_the_topics_as_they_are() -> None:
    async def test() -> None:
        site = Site(ONE_SOURCE.replace("name: flow", "name: flow, title: Coolant flow"))
        loaded: list[int] = []

        def runners() -> Mapping[str, SumRunner]:
            loaded.append(1)
            return {"pump": SumRunner()}

        await site.work(*frames([NORMAL, LEAK] * 10), event("p1", T0 + 95_000, MARKUP), runner=SumRunner())
        machines = Machines(memory_logs(site.plant.broker), site.plant.profile, normal={}, load_runners=runners)
        diagnosis = json.loads(site.plant.log("diagnoses")[12].value or b"")
        found, again = await asyncio.gather(machines.why(diagnosis["id"]), machines.why(diagnosis["id"]))
        assert found is again is await machines.why(diagnosis["id"])
        assert loaded == [1]
        assert (found.fault, found.confidence) == (diagnosis["fault"], diagnosis["confidence"])
        assert found.differs is None
        said_of = {one.name: one.said for one in found.contributions if one.kind == "variable"}
        assert said_of["flow"].startswith("Coolant flow ")
        assert "script" not in json.dumps(msgspec.to_builtins(found))
        with pytest.raises(NotFoundError):
            await machines.why(f"p1:{T0 + 5_000}:{'5' * 12}:0")
        with pytest.raises(ConflictError, match="is of model 666666666666"):
            await machines.why(f"p1:{diagnosis['frame_end']}:{'6' * 12}:0")
        with pytest.raises(BadRequestError):
            await machines.why("p1")

    run(test())


def test_why_gives_up_in_time() -> None:
    async def test() -> None:
        site = Site()
        await site.work(*frames([NORMAL, LEAK] * 5), runner=SumRunner())
        ticking: Callable[[], float] = iter(range(1_000_000)).__next__
        machines = Machines(
            memory_logs(site.plant.broker),
            site.plant.profile,
            normal={},
            load_runners=lambda: {"pump": SumRunner()},
            limits=Limits(why_seconds=5.0),
            clock=ticking,
        )
        diagnosis = json.loads(site.plant.log("diagnoses")[-1].value or b"")
        with pytest.raises(TookTooLongError, match="reading the machine's records took too long"):
            await machines.why(diagnosis["id"])

    run(test())
