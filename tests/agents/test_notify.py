"""`faultline notify` against a real HTTP receiver: order, retries, signatures, and what comes again after a restart."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agents.connectors.notify.formats import NotificationFormat, body_writer
from agents.connectors.notify.notifier import Choice, Notifier
from agents.connectors.notify.signature import is_signed
from agents.connectors.notify.webhook import Outcome, Webhook
from agents.words import Words
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import load_settings
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.errors import SettingsError
from pipeline.wire.messages import encode
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, profile
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run

T = 1_763_600_000_000
SECRET = "between us"
PLANT = profile(
    ONE_SOURCE.replace("leak", "{name: leak, title: Seal leaks, component: seal, check_first: [the seal]}").replace(
        "    variables:", "    components: {seal: {title: Shaft seal}}\n    variables:"
    )
    + "machines: {p1: {title: Feed pump, area: Hall 1}}\n"
)


def alarm(number: int, state: str = "raised", machine: str = "p1", **more: Any) -> Alarm:
    fault = more.pop("fault", "leak")
    return Alarm(f"{machine}:{T + number}:abc:{fault}:{state}", machine, fault, state, T + number, 0.9, "d", **more)


class Receiver:
    """What was posted, and how it is answered: by `answer`, which gets the number of the request."""

    def __init__(self, answer: Callable[[int], int]) -> None:
        self.posts: list[tuple[Mapping[str, str], bytes]] = []
        self.answer = answer
        self.headers: dict[str, str] = {}
        self.url = ""

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.posts]


@contextmanager
def receiver(answer: Callable[[int], int] = lambda _: 200) -> Iterator[Receiver]:
    """A status of 0 leaves the request without an answer."""
    one, left = Receiver(answer), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            one.posts.append((dict(self.headers), body))
            status = one.answer(len(one.posts))
            if status == 0:
                left.wait(5)
                return
            self.send_response(status)
            for name, value in one.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    one.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield one
    finally:
        left.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Topic:
    """The topic of alarms, in memory, with what has been committed of it."""

    def __init__(self, *alarms: Alarm, partition_of: Callable[[Alarm], int] = lambda _: 0) -> None:
        self.records: dict[int, list[Record]] = defaultdict(list)
        self.committed: dict[int, int] = defaultdict(int)
        self._read: dict[int, int] = {}
        for one in alarms:
            partition = partition_of(one)
            offset = len(self.records[partition])
            self.records[partition].append(Record("alarms", partition, offset, one.time, None, encode(one)))

    async def start(self) -> None:
        self._read = dict(self.committed)

    async def stop(self) -> None:
        """There is nothing to leave."""

    async def fetch(self) -> Mapping[int, Sequence[Record]]:
        await asyncio.sleep(0.002)
        found = {partition: records[self._read.get(partition, 0) :] for partition, records in self.records.items()}
        self._read = {partition: len(records) for partition, records in self.records.items()}
        return {partition: records for partition, records in found.items() if records}

    async def commit(self, partition: int, next_offset: int) -> None:
        self.committed[partition] = next_offset

    @property
    def is_done(self) -> bool:
        return all(self.committed[partition] == len(records) for partition, records in self.records.items())


def notifier(
    topic: Topic,
    to: str,
    kind: NotificationFormat = NotificationFormat.JSON,
    choice: Choice | None = None,
    plant: PlantProfile = PLANT,
    waits: list[float] | None = None,
    timeout_seconds: float = 5.0,
) -> Notifier:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)
        await asyncio.sleep(0.001)

    hook = Webhook(to, secret=SECRET, wall_seconds=time.time, sleep=sleep, timeout_seconds=timeout_seconds)
    words, settings = Words(plant), load_settings(broker="kafka://x:1")
    write = body_writer(kind, words, plant.plant)
    return Notifier(settings, topic, hook, write, choice or Choice(), words, time.time)


def deliver(one: Notifier, until: Callable[[], bool]) -> None:
    """Let a notifier work, until something is so."""

    async def live() -> None:
        await one.start()
        try:
            async with asyncio.timeout(20):
                while not until():
                    assert one.life.failure is None
                    await asyncio.sleep(0.002)
        finally:
            await one.stop()

    run(live())


def test_alarms_are_posted_in_order_and_signed() -> None:
    topic = Topic(*(alarm(at, state) for at, state in enumerate(["raised", "shelved", "escalated", "cleared"])))
    with receiver() as hook:
        deliver(notifier(topic, hook.url), lambda: topic.is_done)
        assert [body["state"] for body in hook.bodies] == ["raised", "escalated", "cleared"]
        for headers, body in hook.posts:
            assert is_signed(SECRET.encode(), body, headers["Faultline-Signature"], time.time())
            assert headers["Idempotency-Key"] == json.loads(body)["id"]
        first = hook.bodies[0]
    assert first["text"] == "high alarm: leak Seal leaks on machine p1 Feed pump, Hall 1, Shaft seal"
    assert (first["check_first"], first["time"]) == (["the seal"], "2025-11-20T00:53:20.000Z")


def test_a_signature_is_of_one_body_one_secret_and_one_time() -> None:
    with receiver() as hook:
        topic = Topic(alarm(0))
        deliver(notifier(topic, hook.url), lambda: topic.is_done)
        ((headers, body),) = hook.posts
    signature, now = headers["Faultline-Signature"], time.time()
    secret = SECRET.encode()
    assert is_signed(secret, body, signature, now)
    assert not is_signed(b"another", body, signature, now)
    assert not is_signed(secret, body + b" ", signature, now)
    assert not is_signed(secret, body, signature, now + 301)
    later = signature.replace(signature[2:12], str(int(now) + 5), 1)
    assert not is_signed(secret, body, later, now)
    assert not is_signed(secret, body, "t=1,v1=00", 1.0)


def test_what_fails_is_posted_again_with_growing_waits_and_nothing_overtakes_it() -> None:
    waits: list[float] = []
    topic = Topic(*(alarm(at) for at in range(3)))
    with receiver(lambda number: [500, 503, 429, 200][number - 1] if number <= 4 else 200) as hook:
        one = notifier(topic, hook.url, waits=waits)
        deliver(one, lambda: topic.is_done)
        keys = [headers["Idempotency-Key"] for headers, _ in hook.posts]
    assert keys == [alarm(0).id] * 4 + [alarm(1).id, alarm(2).id]
    assert waits == [1.0, 2.0, 4.0]
    assert (one.webhook.counts.retries, one.webhook.counts.outcomes[Outcome.SENT]) == (3, 3)


def test_a_receiver_may_say_when_to_come_again() -> None:
    waits: list[float] = []
    topic = Topic(alarm(0))
    with receiver(lambda number: 200 if number > 7 else 503) as hook:
        hook.headers["Retry-After"] = "30"
        deliver(notifier(topic, hook.url, waits=waits), lambda: topic.is_done)
    assert waits == [30.0, 30.0, 30.0, 30.0, 30.0, 32.0, 60.0]


def test_no_answer_and_no_receiver_are_failures_that_pass() -> None:
    topic = Topic(alarm(0))
    with receiver(lambda number: 0 if number == 1 else 200) as hook:
        deliver(notifier(topic, hook.url, timeout_seconds=0.1), lambda: topic.is_done)
        assert len(hook.posts) == 2
        gone = hook.url
    nobody = Topic(alarm(0))
    one = notifier(nobody, gone)
    deliver(one, lambda: one.webhook.counts.retries >= 3)
    assert not nobody.is_done
    assert one.life.failure is None
    assert "hook" not in (one.webhook.counts.failing or "")


def test_what_a_receiver_refuses_is_not_posted_again() -> None:
    topic = Topic(alarm(0), alarm(1))
    with receiver(lambda number: 400 if number == 1 else 204) as hook:
        one = notifier(topic, hook.url)
        deliver(one, lambda: topic.is_done)
        assert len(hook.posts) == 2
    for outcome, count in (("refused", 1), ("sent", 1), ("skipped", 0)):
        assert one.registry.get_sample_value("faultline_notifications_total", {"outcome": outcome}) == count


def test_a_redirect_is_not_followed_with_the_signature_to_another_place() -> None:
    with receiver() as other, receiver(lambda _: 307) as hook:
        hook.headers["Location"] = other.url
        topic = Topic(alarm(0))
        deliver(notifier(topic, hook.url), lambda: topic.is_done)
        assert other.posts == []


def test_a_restart_posts_again_what_was_not_confirmed_and_nothing_else() -> None:
    topic = Topic(*(alarm(at) for at in range(6)))
    with receiver(lambda number: 200 if number <= 2 else 500) as hook:
        first = notifier(topic, hook.url)
        deliver(first, lambda: first.webhook.counts.retries >= 2)
        assert topic.committed[0] == 2
        hook.answer = lambda _: 200
        deliver(notifier(topic, hook.url), lambda: topic.is_done)
        keys = [headers["Idempotency-Key"] for headers, _ in hook.posts]
    assert list(dict.fromkeys(keys)) == [alarm(at).id for at in range(6)]
    assert {keys.count(alarm(at).id) for at in (0, 1, 3, 4, 5)} == {1}


def test_alarms_of_each_machine_stay_in_order_with_several_partitions() -> None:
    machines = [f"m{at}" for at in range(6)]
    alarms = [alarm(at, state, machine) for at, state in enumerate(["raised", "cleared"]) for machine in machines]
    topic = Topic(*alarms, partition_of=lambda one: int(one.machine[1]) % 3)
    with receiver() as hook:
        deliver(notifier(topic, hook.url), lambda: topic.is_done)
        order = [(body["machine_id"], body["state"]) for body in hook.bodies]
    assert len(order) == 12
    for machine in machines:
        assert [state for name, state in order if name == machine] == ["raised", "cleared"]


def test_a_receiver_gets_what_it_has_chosen_and_nothing_that_is_suppressed() -> None:
    alarms = [
        alarm(0, priority="medium"),
        alarm(1, machine="q1"),
        alarm(2, suppressed="shelved"),
        alarm(3, priority="critical"),
        alarm(4, "acknowledged", by="kim", why="on it"),
    ]
    topic = Topic(*alarms)
    topic.records[0].append(Record("alarms", 0, 5, T, None, b"{"))
    choice = Choice(frozenset({"raised", "acknowledged"}), "high", "p*")
    with receiver() as hook:
        one = notifier(topic, hook.url, NotificationFormat.CHAT, choice)
        deliver(one, lambda: topic.is_done)
        texts = [body["text"] for body in hook.bodies]
    assert [text.split()[0] for text in texts] == ["critical", "high"]
    assert texts[1].endswith("(by kim: on it)")
    assert one.skipped == 4


@pytest.mark.parametrize(("settings", "told"), [("", "low"), ("alarms: [{on_delay: 1m}]\n", "high")])
def test_without_settings_of_alarms_a_fault_is_as_urgent_as_the_profile_says(settings: str, told: str) -> None:
    rare = profile(ONE_SOURCE.replace("leak", "{name: leak, priority: low}") + settings)
    topic = Topic(alarm(0), alarm(1, priority="critical"))
    with receiver() as hook:
        one = notifier(topic, hook.url, plant=rare)
        deliver(one, lambda: topic.is_done)
        assert [body["priority"] for body in hook.bodies] == [told, "critical"]


def test_an_alert_that_rises_ends_with_the_priority_with_which_it_fired() -> None:
    rare = profile(ONE_SOURCE.replace("leak", "{name: leak, priority: low}"))
    topic = Topic(alarm(0), alarm(1, "escalated", priority="critical"))
    with receiver() as hook:
        one = notifier(topic, hook.url, NotificationFormat.ALERTMANAGER, plant=rare)
        deliver(one, lambda: topic.is_done)
        (fired,), (ended, risen) = hook.bodies
    assert [one["labels"]["priority"] for one in (fired, ended, risen)] == ["low", "low", "critical"]


def test_alertmanager_gets_alerts_that_fire_and_end() -> None:
    write = body_writer(NotificationFormat.ALERTMANAGER, Words(PLANT), "small")

    def alerts(one: Alarm) -> list[dict[str, Any]]:
        body = write(one, T + 60_000)
        return [] if body is None else list(json.loads(body))

    (raised,) = alerts(alarm(0))
    labels = {"alertname": "FaultlineAlarm", "plant": "small", "machine": "p1", "fault": "leak", "area": "Hall 1"}
    assert raised["labels"] == labels | {"priority": "high"}
    assert (raised["startsAt"], raised["endsAt"]) == ("2025-11-20T00:53:20.000Z", "2025-11-27T00:54:20.000Z")
    (cleared,) = alerts(alarm(1, "cleared"))
    assert cleared["labels"] == raised["labels"]
    assert cleared["endsAt"] == "2025-11-20T00:54:20.000Z"
    ended, risen = alerts(alarm(2, "escalated", priority="critical"))
    assert ended["labels"] == raised["labels"]
    assert ended["endsAt"] == "2025-11-20T00:54:20.000Z"
    assert risen["labels"]["priority"] == "critical"
    assert alerts(alarm(3, "shelved"))[0]["endsAt"] == "2025-11-20T00:54:20.000Z"
    assert alerts(alarm(4, "unshelved")) == []
    assert alerts(alarm(5, "suppressed", fault="*")) == []


def test_hostile_texts_are_no_mentions_in_a_chat() -> None:
    write = body_writer(NotificationFormat.CHAT, Words(PLANT), "small", "{why} {machine}")
    hostile = alarm(0, machine="<!channel>", by="x", why="@here\n[click](http://x) & more")
    text = json.loads(write(hostile, T) or b"")["text"]
    assert not {"<", ">", "\n"} & set(text)
    assert "@here" not in text
    assert "](" not in text
    assert "&amp; more &lt;!channel&gt;" in text


def test_a_template_and_a_url_that_are_none_are_refused() -> None:
    with pytest.raises(SettingsError, match="--template"):
        body_writer(NotificationFormat.CHAT, Words(PLANT), "small", "{machine")
    with pytest.raises(SettingsError, match="http://host/path"):
        Webhook("ftp://x/secret", wall_seconds=time.time)
    command = ("notify", "--broker", "kafka://localhost:1")
    assert_one_line(faultline(*command), "FAULTLINE_NOTIFY_URL")
    assert_one_line(faultline(*command, "--state", "raisd"), "did you mean raised")
    assert_one_line(faultline("notify", "--broker", "memory://x"), "memory://")
    both = {"FAULTLINE_NOTIFY_SECRET": "a", "FAULTLINE_NOTIFY_SECRET_FILE": "b"}
    assert_one_line(faultline(*command, env=both), "FAULTLINE_NOTIFY_SECRET and FAULTLINE_NOTIFY_SECRET_FILE are both")
