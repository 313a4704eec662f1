"""`faultline ingest` at a broker that demands logins and rights: those of the security guide are enough and needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaConsumer, TopicPartition

from agents.bench.local_kafka.jars import missing_tools
from agents.connectors.ingest.service import serve
from agents.kafka.admin import create_topics
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.security import client_security, require_ingest_rights
from agents.kafka.topic_settings import TopicSpec
from agents.kafka.topics import require_ingest_topics
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.config.settings import Settings
from pipeline.errors import AuthorizationError
from pipeline.wire.records import Output
from tests.support.builders import ONE_SOURCE
from tests.support.commands import faultline
from tests.support.ingest_site import KEPT
from tests.support.kafka_fixtures import skip_or_fail
from tests.support.kafka_rights import documented_rights
from tests.support.kafka_site import PARTITIONS, Site, guarded_site

pytestmark = pytest.mark.kafka

T0_MS = 1_763_600_000_000
RIGHTS = [right for right in documented_rights() if right.user == "faultline-ingest"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker of this module's own, whose rights are given and taken away here."""
    reason = missing_tools()
    if reason is not None:
        skip_or_fail(reason)
    with guarded_site(tmp_path_factory.mktemp("site")) as made:
        assert faultline("topics", "create", env=made.environment("login")).returncode == 0
        settings = made.settings("login")
        create_topics(settings.address, [TopicSpec("plant7.values", 3, config=KEPT)], client_security(settings))
        yield made


@pytest.fixture(scope="module")
def plant() -> PlantProfile:
    return parse_profile(f"{ONE_SOURCE}ingest: [{{topic: plant7.values}}]", where="test")


def send(settings: Settings, values: int) -> None:
    """Readings into the foreign topic, as the operator."""

    async def publish() -> None:
        publisher = KafkaPublisher(settings.address, "", **client_security(settings))
        await publisher.start()
        bodies = [{"machine": "pump-1", "time": T0_MS + at, "values": [1.0, at]} for at in range(values)]
        values_of = [json.dumps(body).encode() for body in bodies]
        await publisher.publish(
            [Output("plant7.values", at % 3, None, value, T0_MS) for at, value in enumerate(values_of)]
        )
        await publisher.flush()
        await publisher.stop()

    asyncio.run(publish())


def written(settings: Settings) -> int:
    """Committed records in our topic."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.address, group_id=None, isolation_level="read_committed", **client_security(settings)
    )
    try:
        places = [TopicPartition("faultline.sensors", partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends, count = consumer.end_offsets(places), 0
        while any(consumer.position(place) < ends[place] for place in places):
            count += sum(map(len, consumer.poll(timeout_ms=200).values()))
        return count
    finally:
        consumer.close()


def ingest(settings: Settings, plant: PlantProfile, until: Callable[[], object], seconds: float = 60.0) -> None:
    """Ingest as a command has it, until something is the case; raises what makes it end before."""

    async def work() -> None:
        serving = asyncio.create_task(serve(settings, plant))
        try:
            async with asyncio.timeout(seconds):
                while not serving.done() and not await asyncio.to_thread(until):
                    await asyncio.sleep(0.05)
        finally:
            serving.cancel()
            await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()

    asyncio.run(work())


def test_the_documented_rights_are_enough(site: Site, plant: PlantProfile) -> None:
    operator = site.settings("login")
    before = written(operator)
    send(operator, 20)
    ingest(site.settings("login", "faultline-ingest"), plant, lambda: written(operator) == before + 20)


def test_every_documented_right_is_needed(site: Site, plant: PlantProfile) -> None:
    settings = site.settings("login", "faultline-ingest").of_ingest
    require_ingest_topics(settings, plant, from_kafka=True)
    require_ingest_rights(settings, plant, from_kafka=True)
    for right in RIGHTS:
        if right.kind != "transactional_id":
            with site.rights.without(right), pytest.raises(AuthorizationError, match=right.name):
                require_ingest_topics(settings, plant, from_kafka=True)
                require_ingest_rights(settings, plant, from_kafka=True)


def test_without_its_transactional_ids_ingest_ends_and_says_so(site: Site, plant: PlantProfile) -> None:
    rights = [right for right in RIGHTS if right.kind == "transactional_id"]
    assert {right.operation for right in rights} == {"Write", "Describe"}
    operator = site.settings("login")
    send(operator, 5)
    before = written(operator)
    message = "transactional id faultline-ingest/plant7"
    with site.rights.without(*rights), pytest.raises(AuthorizationError, match=message):
        ingest(site.settings("login", "faultline-ingest"), plant, lambda: False)
    assert written(operator) == before


def test_a_topic_that_is_not_there_is_named(site: Site) -> None:
    other = site.folder / "other.yaml"
    other.write_text(f"{ONE_SOURCE}ingest: [{{topic: plant8.values}}]")
    done = faultline("ingest", "--profile", str(other), env=site.environment("login"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: topic plant8.values does not exist"), done.stderr
    none = faultline("ingest", env=site.environment("login"))
    assert none.returncode == 1
    assert "has no `ingest` with a topic" in none.stderr, none.stderr
