"""What people do at the console: it reaches the topics and the engine, and what would have no effect is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from agents.audit.reports.alarm_list import AlarmState, AlarmStatus, summarize_alarms
from agents.console.actions.desk import Actions
from agents.console.actions.requests import ActionKind, AlarmRequest, LabelRequest, Written
from agents.console.actions.sending import MemorySender
from agents.console.errors import BadRequestError, ConflictError, NotFoundError
from pipeline.errors import DeliveryError, FaultlineError, SettingsError
from pipeline.wire.labels import LabelBook, read_label
from tests.pipeline.test_alarm_life import PatientRunner, frames
from tests.pipeline.test_recovering import LEAK, NORMAL, PERIOD_MS, T0
from tests.support.builders import ONE_SOURCE
from tests.support.delivery_apps import run
from tests.support.plant import Plant

PUMPS = ONE_SOURCE.replace("name: pump\n", 'name: pump\n    match: "p*"\n').replace("leak", "{name: leak, title: Seal}")
ALARMS = "alarms: [{acknowledge: true, shelve_limit: 2h}]\n"
DIAGNOSIS = f"p1:{T0 + 90_000}:{'5' * 12}:0"
NOW_MS = T0 + 7_000_000
_alarm_request = msgspec.json.Decoder(AlarmRequest).decode
_label_request = msgspec.json.Decoder(LabelRequest).decode


@dataclass
class Site:
    """A plant whose machine p1 leaks, with what somebody at the console knows of it."""

    plant: Plant = field(default_factory=lambda: Plant(PUMPS + ALARMS))

    def __post_init__(self) -> None:
        self.actions = Actions(MemorySender(self.plant.broker), self.plant.profile, self)

    async def work(self, *scripts: Sequence[int]) -> None:
        for number, script in enumerate(scripts, 1):
            self.plant.append(frames(script, f"p{number}"))
        await self.plant.work(runner=PatientRunner())

    def statuses(self) -> list[AlarmStatus]:
        return summarize_alarms(record.value for record in self.plant.log("alarms")).alarms

    def knows(self, machine: str) -> bool:
        return any(record.key == machine.encode() for record in self.plant.log("diagnoses"))

    def newest_ms(self, machine: str) -> int | None:
        times = [one.timestamp_ms for one in self.plant.log("diagnoses") if one.key == machine.encode()]
        return max(times, default=None)

    def alarms_of(self, machine: str) -> list[AlarmStatus]:
        return [one for one in self.statuses() if one.machine == machine]

    async def act(self, kind: ActionKind, **request: Any) -> Written:
        decoded = _alarm_request(json.dumps({"why": "on it", **request}).encode())
        return await self.actions.act(kind, decoded, "kim", NOW_MS)

    async def label(self, **request: Any) -> Written:
        decoded = _label_request(json.dumps({"machine": "p1", "fault": "leak", "from_ms": T0, **request}).encode())
        return await self.actions.label(decoded, "kim", NOW_MS)


@pytest.fixture(scope="module")
def leaking() -> Site:
    site = Site()
    run(site.work([LEAK] * 9, [NORMAL] * 9))
    return site


def test_an_alarm_is_acknowledged_shelved_and_commented_on_through_topic_and_engine() -> None:
    async def test() -> None:
        site = Site()
        await site.work([LEAK] * 9, [NORMAL] * 9)
        (raised,) = site.statuses()
        written = await site.act("acknowledge", alarm=raised.id)
        (place,) = written.written.records
        record = site.plant.broker.log(written.written.topic, place.partition)[place.offset]
        assert json.loads(record.value or b"")["machine"] == place.machine == "p1"
        assert (record.key, record.timestamp_ms, written.said) == (b"p1", NOW_MS, "leak Seal of p1: acknowledged")
        await site.act("comment", machine="p1", fault="leak", why="<b>seal</b> ordered")
        await site.act("comment", machine="p2", why="new bearings")
        await site.act("shelve", machine="p1", fault="leak", **{"for": "1h"})
        await site.work()
        found = [json.loads(one.value or b"") for one in site.plant.log("alarms")]
        people = {one["state"]: one for one in found if one.get("by") == "kim" and one["machine"] == "p1"}
        assert people.keys() == {"acknowledged", "commented", "shelved"}
        assert {one["alarm"] for one in people.values()} == {raised.id}
        assert (people["commented"]["why"], people["commented"]["sent"]) == ("<b>seal</b> ordered", NOW_MS)
        (other,) = [one for one in found if one["machine"] == "p2"]
        assert (other["fault"], other["state"], other["why"]) == ("*", "commented", "new bearings")
        (now,) = site.statuses()
        assert (now.state, now.until_ms) == (AlarmState.SHELVED, people["shelved"]["time"] + 3_600_000)
        await site.act("unshelve", machine="p1", fault="leak")
        await site.act("suppress", machine="p2")
        await site.work()
        assert [(one.machine, one.state) for one in site.statuses()] == [
            ("p1", AlarmState.UNACKNOWLEDGED),
            ("p2", AlarmState.OUT_OF_SERVICE),
        ]
        assert site.plant.log("dead-letter") == []

    run(test())


def test_feedback_is_a_label_that_names_the_diagnosis_it_corrects() -> None:
    async def test() -> None:
        site = Site()
        await site.work([LEAK] * 9)
        newest_ms = site.newest_ms("p1")
        await site.label(corrects=DIAGNOSIS, comment="gasket", until_ms=T0 + 40_000)
        await site.label(fault="normal", from_ms=T0 + 40_000)
        first, second = (read_label(record) for record in site.plant.log("labels"))
        assert (first.fault, first.by, first.corrects, first.note) == ("leak", "kim", DIAGNOSIS, "gasket")
        assert (second.fault, second.end_ms, second.corrects) == ("normal", newest_ms, None)
        book = LabelBook()
        for record in site.plant.log("labels"):
            book.add(record)
        assert [book.fault_at("p1", T0 + after) for after in (0, 39_999, 40_000)] == ["leak", "leak", "normal"]
        await site.work()
        assert site.plant.log("dead-letter") == []

    run(test())


@pytest.mark.parametrize(
    ("kind", "request_", "error", "message"),
    [
        ("acknowledge", {"machine": "p2"}, ConflictError, "no such alarm waits"),
        ("acknowledge", {"alarm": f"p1:{T0}:{'5' * 12}:leak:raised"}, ConflictError, "no such alarm waits"),
        ("acknowledge", {"machine": "x1"}, SettingsError, "is no machine of plant small"),
        ("acknowledge", {"machine": "p7"}, NotFoundError, "nothing has been read of machine 'p7'"),
        ("acknowledge", {"machine": "p*"}, BadRequestError, "is a pattern"),
        ("acknowledge", {"machine": "p1", "why": " "}, SettingsError, "say who does this, and why"),
        ("acknowledge", {"alarm": "p1"}, BadRequestError, "is no id of an alarm"),
        ("acknowledge", {}, BadRequestError, "which alarms it is about"),
        ("acknowledge", {"machine": "p1", "for": "2h"}, BadRequestError, "'acknowledge' has no end"),
        ("unshelve", {"machine": "p1"}, ConflictError, "no such alarm is shelved"),
        ("shelve", {"machine": "p1", "fault": "leek", "for": "1h"}, SettingsError, "did you mean leak?"),
        ("shelve", {"machine": "p1"}, BadRequestError, "for how long"),
        ("shelve", {"machine": "p1", "for": "soon"}, BadRequestError, "'soon' is not a duration"),
        ("shelve", {"machine": "p1", "until_ms": T0}, BadRequestError, "over already"),
        ("shelve", {"machine": "p1", "for": "3h"}, SettingsError, "longer than shelve_limit of machine p1, 2 h"),
        ("label", {"machine": "x1"}, SettingsError, "is no machine"),
        ("label", {"fault": "leek"}, SettingsError, "did you mean leak?"),
        ("label", {"from_ms": NOW_MS + PERIOD_MS}, BadRequestError, "is not a time of the past"),
        ("label", {"until_ms": T0}, BadRequestError, "not after its start"),
        ("label", {"corrects": "p1"}, SettingsError, "is no id of a diagnosis"),
        ("label", {"corrects": "p2" + DIAGNOSIS[2:]}, SettingsError, "is a diagnosis of p2, not of p1"),
        ("label", {"corrects": f"p1:{T0}:{'5' * 12}:leak:raised"}, SettingsError, "is the id of an alarm"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    leaking: Site, kind: Any, request_: dict[str, Any], error: type[FaultlineError], message: str
) -> None:
    async def test() -> None:
        with pytest.raises(error, match=re.escape(message)):
            await (leaking.label(**request_) if kind == "label" else leaking.act(kind, **request_))
        assert [leaking.plant.log(topic) for topic in ("control", "labels")] == [[], []]

    run(test())


def test_a_broker_that_does_not_take_it_says_so() -> None:
    async def test() -> None:
        site = Site()
        await site.work([LEAK] * 9)
        site.plant.broker.faults.connected = False
        with pytest.raises(DeliveryError, match="does not answer"):
            await site.act("acknowledge", machine="p1")
        site.plant.broker.faults.connected = True
        assert (await site.act("acknowledge", machine="p1")).written.records[0].offset == 0

    run(test())
