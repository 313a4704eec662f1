"""Alarms on a real Kafka: a shift acknowledges and shelves them by commands, and a receiver is called for each once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.connectors.notify.formats import NotificationFormat, body_writer
from agents.connectors.notify.notifier import Choice, Notifier
from agents.connectors.notify.source import KafkaAlarmSource
from agents.connectors.notify.webhook import Webhook
from agents.kafka.security import client_security
from agents.words import Words
from agents.worker.service import kafka_worker
from tests.agents.test_notify import Receiver, receiver
from tests.pipeline.test_alarm_life import PatientRunner, frames
from tests.pipeline.test_recovering import LEAK, NORMAL
from tests.support.builders import ONE_SOURCE
from tests.support.commands import faultline
from tests.support.kafka_plant import KafkaSite, processed

pytestmark = pytest.mark.kafka

TEXT = ONE_SOURCE + "alarms: [{acknowledge: true}]\n"
FRAME_MS = 10_000


async def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def source_of(site: KafkaSite) -> KafkaAlarmSource:
    settings = site.settings
    group = f"{settings.group}-notify-test"
    return KafkaAlarmSource(settings.address, settings.topic_prefix, group, **client_security(settings))


def notifier(site: KafkaSite, source: KafkaAlarmSource, hook: Receiver) -> Notifier:
    words = Words(site.profile)
    write = body_writer(NotificationFormat.JSON, words, site.profile.plant)
    webhook = Webhook(hook.url, secret="s", wall_seconds=time.time)
    return Notifier(site.settings, source, webhook, write, Choice(), words, time.time)


def test_a_shift_acts_by_commands_and_is_called_once_for_each_alarm(kafka: str, tmp_path: Path) -> None:
    site = KafkaSite(kafka, text=TEXT)
    plant = tmp_path / "plant.yaml"
    plant.write_text(TEXT, encoding="utf-8")
    environment = {
        "FAULTLINE_BROKER": site.settings.broker,
        "FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix,
        "FAULTLINE_PROFILE": str(plant),
    }

    def act(*command: str) -> str:
        done = faultline("alarms", *command, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state() -> dict[str, str]:
        shown = json.loads(act("list", "--json"))
        return {one["machine"]: one["state"] for one in shown["alarms"]}

    script = [LEAK] * 6
    early, late = frames(script, "p1"), frames([*script, *[NORMAL] * 8], "p2")
    who = ("--by", "kim", "--why", "on it")

    async def test() -> None:
        runners = {"pump": PatientRunner()}
        worker = kafka_worker(site.settings, site.profile, runners, site.partition_of)
        await worker.start()
        try:
            await site.send(early)
            await processed(worker, len(early))
            with receiver() as hook:
                source = source_of(site)
                first = notifier(site, source, hook)
                await first.start()
                await until(lambda: len(source.partitions) == 2)
                await site.send(late[:6])
                await until(lambda: len(hook.posts) == 1)
                await first.stop()
                assert await asyncio.to_thread(state) == {"p1": "unacknowledged", "p2": "unacknowledged"}
                await asyncio.to_thread(act, "ack", "p1", "leak", *who)
                await asyncio.to_thread(act, "shelve", "p2", "--for", "1h", *who)
                await processed(worker, 2, "control")
                assert await asyncio.to_thread(state) == {"p1": "acknowledged", "p2": "shelved"}
                await asyncio.to_thread(act, "unshelve", "p2", *who)
                await processed(worker, 3, "control")
                await site.send(late[6:])
                await processed(worker, len(early) + len(late))
                second = notifier(site, source_of(site), hook)
                await second.start()
                await until(lambda: len(hook.posts) >= 3)
                await second.stop()
                # The first one was there before anybody was to be called.
                assert [(body["machine_id"], body["state"]) for body in hook.bodies] == [
                    ("p2", "raised"),
                    ("p2", "realarmed"),
                    ("p2", "returned"),
                ]
            assert await asyncio.to_thread(state) == {"p1": "acknowledged", "p2": "returned-unacknowledged"}
        finally:
            await worker.stop()

    asyncio.run(test())
