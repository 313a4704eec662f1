"""docs/operations/finding-out-why.md on a real Kafka with a real worker: its commands, and the answers it shows."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from agents.kafka.topics import WANTED_LIMITS
from agents.replay.shipped import demo_model
from agents.worker.service import kafka_worker
from models.stepping.load import load_model
from pipeline.wire.records import Record
from tests.support.commands import Finished, faultline
from tests.support.kafka_plant import KafkaSite, processed

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "finding-out-why.md"
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
FRAME_MS = 180_000
GOOD, BAD = 40, 15
PROFILE = (resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml").read_text("utf-8")


class Situation(NamedTuple):
    """A heading of the page with its commands, each with the answer below it, of which it shows a part."""

    name: str
    commands: list[tuple[list[str], list[str]]]


def situations() -> list[Situation]:
    found = []
    for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        blocks = [block.splitlines() for block in BLOCK.findall(part)]
        commands = []
        for number, lines in enumerate(blocks):
            if lines[0].startswith("faultline why") or lines[0].startswith("faultline late"):
                assert len(lines) == 1 and not blocks[number + 1][0].startswith("faultline"), lines
                answer = re.sub(r"\n +", " ", "\n".join(blocks[number + 1])).split("\n")
                commands.append((shlex.split(lines[0])[1:], answer))
        if commands:
            found.append(Situation(part.splitlines()[0], commands))
    return found


def readings(machine: str, begin_ms: int, count: int, *, key: str | None = None, ahead_ms: int = 0) -> list[Record]:
    """One a frame, as a gateway sends them."""
    found = []
    for number in range(count):
        stamp = begin_ms + number * FRAME_MS
        values = [round(1.0 + 0.01 * ((number * 7 + at) % 13), 4) for at in range(52)]
        body = json.dumps({"machine": machine, "time": stamp + ahead_ms, "values": values}).encode()
        found.append(Record("sensors", 0, 0, stamp, (key or machine).encode(), body))
    return found


def what_came(now_ms: int) -> list[Record]:
    """Healthy machines and the page's three."""
    long_ago, lately = now_ms - (GOOD + BAD) * FRAME_MS, now_ms - BAD * FRAME_MS
    return [
        *(one for number in (1, 2) for one in readings(f"te-0{number}", long_ago, GOOD + BAD)),
        *readings("te-07", lately, BAD, key="4711"),
        *readings("te-08", long_ago, GOOD),
        *readings("te-08", lately, BAD, ahead_ms=-3_600_000),
        *readings("TE-09", lately, BAD),
    ]


@contextmanager
def working(site: KafkaSite, records: Sequence[Record]) -> Iterator[int]:
    """A worker that has processed these records, in a thread of its own; gives the port of its pages."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> int:
        await site.send(records)
        await worker.start()
        await processed(worker, len(records))
        return worker.web.start("127.0.0.1", 0)

    (machine_type,) = site.profile.machine_types
    runner = load_model(demo_model(), machine_type)
    worker = kafka_worker(
        site.settings, site.profile, {machine_type.name: runner}, site.partition_of, limits=WANTED_LIMITS
    )
    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(120)
    finally:
        asyncio.run_coroutine_threadsafe(worker.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Asked:
    """The plant as somebody at its terminal finds it."""

    def __init__(self, site: KafkaSite, port: int) -> None:
        self.site = site
        self._environment = {
            "COLUMNS": "400",
            "FAULTLINE_BROKER": site.settings.broker,
            "FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix,
            "FAULTLINE_GROUP": site.settings.group,
            "FAULTLINE_WEB_PORT": str(port),
        }

    def __call__(self, *words: str) -> Finished:
        return faultline(*words, env=self._environment)


@pytest.fixture(scope="module")
def asked(kafka: str) -> Iterator[Asked]:
    site = KafkaSite(kafka, text=PROFILE)
    with working(site, what_came(int(time.time() * 1000))) as port:
        yield Asked(site, port)


def pattern_of(line: str) -> re.Pattern[str]:
    """A line of the page as a pattern: … stands for anything."""
    return re.compile(re.escape(" ".join(line.split())).replace("…", ".*"))


@pytest.mark.parametrize("situation", situations(), ids=lambda one: one.name)
def test_the_page_shows_what_is_answered(asked: Asked, situation: Situation) -> None:
    for words, answer in situation.commands:
        done = asked(*words)
        assert done.stderr == ""
        said = [" ".join(line.split()) for line in done.stdout.splitlines()]
        for line in answer:
            assert any(pattern_of(line).fullmatch(one) for one in said), f"{line}\n\n{done.stdout}"
        assert done.returncode == (1 if words[0] == "why" else 0)


def test_the_page_walks_through_the_three_situations() -> None:
    names = [situation.name for situation in situations()]
    assert names == ["A wrong key", "Late by a clock", "An id that no machine type matches"]
    assert all(situation.commands[0][0][0] == "why" for situation in situations())


def test_a_healthy_machine_ends_with_0_in_a_few_seconds(asked: Asked) -> None:
    done = asked("why", "te-01")
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "nothing: it is diagnosed with every frame that closes" in said
    assert f"has partition {asked.site.partition_of(b'te-01')}, 0 records not processed" in said
    assert done.stdout.count("\n") < 25
    found = json.loads(asked("machines", "why", "te-01", "--json").stdout)
    assert (found["active"], found["type"], found["profile"]) == (True, "tennessee_eastman", asked.site.profile.digest)
    assert found["worker"]["profile"] == asked.site.profile.digest
    assert found["diagnosis"]["frame_end_ms"] == found["closed_until_ms"]


def test_an_id_in_other_letters_is_named(asked: Asked) -> None:
    done = asked("why", "te-09")
    assert done.returncode == 1
    assert "no record of it has come in any topic of the profile, but records of TE-09 have" in done.stdout


def test_it_may_be_asked_without_a_worker(asked: Asked) -> None:
    done = asked("why", "te-01", "--metrics", "http://127.0.0.1:1")
    assert done.returncode == 0
    assert "none answers at http://127.0.0.1:1" in done.stdout


def test_late_records_are_listed_newest_first(asked: Asked) -> None:
    found = json.loads(asked("late", "list", "--machine", "te-08", "--limit", "2", "--json").stdout)
    assert found["late"] == BAD
    newest, before = found["shown"]
    assert newest["time"] > before["time"] and newest["late_by_ms"] > 0 and newest["key"] == "te-08"
    (oldest,) = json.loads(asked("late", "list", "--oldest", "--limit", "1", "--json").stdout)["shown"]
    assert oldest["time"] < before["time"]
    assert json.loads(asked("late", "list", "--machine", "te-01", "--json").stdout)["late"] == 0
    assert json.loads(asked("late", "list", "--topic", "events", "--json").stdout)["late"] == 0
    since = json.loads(asked("late", "list", "--since", newest["time"], "--json").stdout)
    assert [one["time"] for one in since["shown"]] == [newest["time"]]
