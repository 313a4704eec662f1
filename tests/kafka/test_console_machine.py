"""One machine at the console on a real Kafka: people's acts are where the answer says, and seen with the next look."""

from __future__ import annotations

import asyncio
import json

import pytest

from agents.audit.reports.alarm_list import AlarmStatus, summarize_alarms
from agents.console.actions.desk import Actions
from agents.console.actions.requests import AlarmRequest, LabelRequest, Written
from agents.console.actions.sending import KafkaSender
from agents.console.machine.logs import kafka_logs
from agents.console.machine.machines import Limits, Machines
from agents.kafka.log import kafka_log
from agents.worker.service import kafka_worker
from pipeline.wire.labels import read_label
from pipeline.wire.records import Place, Record
from tests.pipeline.test_alarm_life import PatientRunner, frames
from tests.pipeline.test_recovering import LEAK, T0
from tests.support.builders import ONE_SOURCE, event
from tests.support.kafka_plant import KafkaSite, processed

pytestmark = pytest.mark.kafka


class KnownFromTopics:
    """What is known of a plant by its alarms."""

    def __init__(self, site: KafkaSite) -> None:
        self._site = site

    def knows(self, machine: str) -> bool:
        return True

    def newest_ms(self, machine: str) -> int | None:
        return T0 + 60_000

    def alarms_of(self, machine: str) -> list[AlarmStatus]:
        with kafka_log(self._site.settings, ["alarms"]) as log:
            found = summarize_alarms(record.value for record in log.records("alarms")).alarms
        return [one for one in found if one.machine == machine]


def test_what_people_do_is_where_the_answer_says_and_is_seen_with_the_next_look(kafka: str) -> None:
    site = KafkaSite(kafka, text=ONE_SOURCE)
    settings, profile = site.settings, site.profile
    machines = Machines(
        kafka_logs(settings, profile),
        profile,
        normal={},
        load_runners=lambda: {"pump": PatientRunner()},
        limits=Limits(fresh_seconds=0.0),
    )
    actions = Actions(KafkaSender(settings), profile, KnownFromTopics(site))

    def record_at(written: Written) -> Record:
        topic = written.written.topic.removeprefix(settings.topic_prefix)
        (place,) = written.written.records
        with kafka_log(settings, [topic]) as log:
            (found,) = log.at([Place(topic, place.partition, place.offset)]).values()
        return found

    async def test() -> None:
        worker = kafka_worker(settings, profile, {"pump": PatientRunner()}, site.partition_of)
        await worker.start()
        try:
            await site.send([event("p1", T0 + 15_000, "<b>oil</b> on floor")])
            await site.send([*frames([LEAK] * 6), *frames([LEAK] * 6, "p2")])
            await processed(worker, 12)
            first = await machines.machine("p1", None, None, ())
            assert [one.values for one in first.trends] == [6, 6]
            assert [one.text for one in first.texts] == ["oil on floor"]
            (alarm,) = first.alarms.open
            written = await actions.act("acknowledge", AlarmRequest("on it", alarm=alarm.id), "kim", T0 + 60_000)
            assert json.loads(record_at(written).value or b"")["kind"] == "acknowledge"
            label = LabelRequest("p1", "leak", T0, corrects=first.frames.id[-1], comment="gasket")
            given = read_label(record_at(await actions.label(label, "kim", T0 + 60_000)))
            assert (given.fault, given.by, given.corrects) == ("leak", "kim", first.frames.id[-1])
            await processed(worker, 1, "control")
            await site.send(frames([LEAK] * 9)[6:])
            await processed(worker, 15)
            second = await machines.machine("p1", None, None, ())
            assert [one.values for one in second.trends] == [9, 9]
            assert [one.state for one in second.alarms.open] == ["acknowledged"]
            assert [one.note for one in second.labels] == ["gasket"]
            why = await machines.why(second.frames.id[-1])
            assert (why.fault, why.differs) == ("leak", None)
        finally:
            await worker.stop()
            await machines.stop()

    asyncio.run(test())
