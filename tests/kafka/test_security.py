"""A broker that demands TLS, logins and rights: what the security guide grants is enough, what lacks is named."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.net.transport import KafkaTCPTransport

from agents.bench.local_kafka import jars as kafka_jars
from agents.connectors.notify.source import KafkaAlarmSource
from agents.console.reading.kafka import kafka_source
from agents.console.reading.source import Spans
from agents.console.service import kafka_console
from agents.delivery.partitioning import partition_of
from agents.kafka import admin as kafka_admin
from agents.kafka.admin import check_topics, create_topics
from agents.kafka.security import client_security, require_plant_rights, require_rights
from agents.kafka.topic_settings import TopicSpec
from agents.kafka.topics import require_plant_topics, require_topics, topic_specs
from agents.worker.service import serve
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.config.settings import Settings
from pipeline.errors import AuthorizationError, BrokerUnavailableError, FaultlineError
from pipeline.wire.recording import count_records
from tests.support import kafka_fixtures
from tests.support.area_plant import WITH_AREAS
from tests.support.builders import SumRunner
from tests.support.commands import assert_one_line, faultline
from tests.support.console import ConsoleSite, browser
from tests.support.kafka_rights import Right, documented_rights
from tests.support.kafka_site import (
    DOORS,
    NEVER_SHOWN,
    OPERATOR,
    OUTSIDER,
    PARTITIONS,
    READINGS,
    USERS,
    Site,
    guarded_site,
)

pytestmark = [
    pytest.mark.kafka,
    # kafka-python forgets to close a socket whose TLS handshake failed. Commands end then, and it goes with them.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

SOON_MS = 1_500
"""For a broker that does not answer what it is asked; tests/kafka/test_admin.py waits for the 5 s that are usual."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker of this module's own, whose rights are given and taken away here."""
    reason = kafka_jars.missing_tools()
    if reason is not None:
        kafka_fixtures.skip_or_fail(reason)
    with guarded_site(tmp_path_factory.mktemp("site")) as made:
        yield made
    gc.collect()  # see pytestmark


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOOTSTRAP_TIMEOUT_MS", "REQUEST_TIMEOUT_MS"):
        monkeypatch.setattr(kafka_admin, name, SOON_MS)


def command(*arguments: str, env: dict[str, str]) -> str:
    """Run a command in this process; what it printed."""
    done = faultline(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    assert NEVER_SHOWN not in done.stdout + done.stderr
    return done.stdout


def worker(settings: Settings, plant: PlantProfile, until: Callable[[], object], seconds: float = 60.0) -> None:
    """A worker as `faultline run` has it, until something is the case; raises what makes it end before."""

    async def work() -> None:
        serving = asyncio.create_task(
            serve(settings, plant, {"pump": SumRunner()}, lambda key: partition_of(key, PARTITIONS))
        )
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


def read(settings: Settings, topic: str, group: str | None = None) -> Callable[[], list[Any]]:
    """A function that gives the records of a topic that came since it was called last."""
    name = settings.topic_prefix + topic

    def records() -> list[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.address, group_id=group, enable_auto_commit=False, **client_security(settings)
        )
        try:
            places = [TopicPartition(name, partition) for partition in range(PARTITIONS)]
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            found = []
            while any(consumer.position(place) < end for place, end in consumer.end_offsets(places).items()):
                for batch in consumer.poll(timeout_ms=200).values():
                    found += batch
            if group is not None:
                consumer.commit()
            return found
        finally:
            consumer.close()

    return records


# -- getting in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_every_command_comes_in_by_every_door(site: Site, door: str, tmp_path: Path) -> None:
    env = site.environment(door, prefix=f"{door}.")
    settings = site.settings(door, prefix=f"{door}.")
    assert "created" in command("topics", "create", env=env)
    sent = command("replay", str(site.recording), "--to", f"kafka://{settings.address}", env=env)
    assert "records sent" in sent
    worker(settings, site.plant, read(settings, "diagnoses"))
    assert read(settings, "state")()  # states too are written, and were read before
    out = tmp_path / "recorded.parquet"
    command("record", "--out", str(out), env=env)
    assert count_records(out) >= READINGS


# -- being refused --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("door", "changes", "error", "message"),
    [
        ("plain", {"sasl_username": "nobody"}, AuthorizationError, "refuses the login.*FAULTLINE_SASL_PASSWORD"),
        ("plain", {"sasl_mechanism": "SCRAM-SHA-512"}, AuthorizationError, "FAULTLINE_SASL_MECHANISM"),
        ("tls", {"ssl_cafile": "other"}, AuthorizationError, "not trusted.*FAULTLINE_SSL_CAFILE"),
        ("tls", {"broker": "localhost"}, AuthorizationError, "for another host.*localhost"),
        ("mutual", dict.fromkeys(("ssl_certfile", "ssl_keyfile", "ssl_key_password_file")), AuthorizationError,
         "FAULTLINE_SSL_CERTFILE"),
        ("mutual", {"ssl_certfile": "strange", "ssl_keyfile": "strange"}, AuthorizationError, "FAULTLINE_SSL_CERTFILE"),
        ("tls", {"security_protocol": "PLAINTEXT", "ssl_cafile": None}, BrokerUnavailableError, "requires TLS"),
        ("login", {"security_protocol": "SASL_SSL", "ssl_cafile": "own"}, FaultlineError, "TLS"),
    ],
)  # fmt: skip
def test_who_may_not_come_in_is_told_why(
    site: Site, door: str, changes: dict[str, Any], error: type[FaultlineError], message: str
) -> None:
    certificate, key = site.strange_files
    for name, value in {"other": site.certificates.other_ca, "own": site.certificates.ca}.items():
        changes = {setting: value if given == name else given for setting, given in changes.items()}
    if "strange" in changes.values():
        changes = {"ssl_certfile": certificate, "ssl_keyfile": key}
    if "broker" in changes:
        changes = {"broker": f"kafka://localhost:{site.broker.address(door).rpartition(':')[2]}"}
    settings = site.settings(door, **changes)
    began = time.monotonic()
    with pytest.raises(error, match=f"(?s){message}") as raised:
        require_topics(settings, site.plant)
    assert time.monotonic() - began < 30
    assert NEVER_SHOWN not in f"{raised.value}"


def test_wrong_password_is_an_authorization_error(site: Site) -> None:
    security = site.broker.client_security(OUTSIDER) | {"sasl_plain_password": "guess"}
    with pytest.raises(AuthorizationError, match="refuses the login"):
        check_topics(site.broker.bootstrap, [TopicSpec("unheard-of", 1)], security)


def test_refusal_that_arrives_with_the_hang_up_is_an_authorization_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = KafkaTCPTransport._sock_recv

    def receive_late(transport: Any) -> Any:
        time.sleep(0.5)
        return receive(transport)

    monkeypatch.setattr(KafkaTCPTransport, "_sock_recv", receive_late)
    security = site.broker.client_security(OUTSIDER) | {"sasl_plain_password": "guess"}
    with pytest.raises(AuthorizationError, match="closed the connection at the login"):
        check_topics(site.broker.bootstrap, [TopicSpec("unheard-of", 1)], security)


def test_missing_rights_are_an_authorization_error(site: Site) -> None:
    security = site.broker.client_security(OUTSIDER)
    wanted = TopicSpec("unheard-of", 1)
    with pytest.raises(AuthorizationError, match=f"create topic '{wanted.name}'"):
        create_topics(site.broker.bootstrap, [wanted], security)
    with pytest.raises(AuthorizationError, match=f"describe topic '{wanted.name}'"):
        check_topics(site.broker.bootstrap, [wanted], security)


@pytest.mark.usefixtures("_impatient")
def test_no_login_where_one_is_wanted_is_reported_soon(site: Site) -> None:
    before = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="requires TLS or a login"):
        check_topics(site.broker.bootstrap, [TopicSpec("unheard-of", 1)])
    assert time.monotonic() - before < 10


def test_a_refused_command_ends_with_one_line(site: Site, tmp_path: Path) -> None:
    wrong = site.environment("login", sasl_password_file=site.secret_file("wrong", f"wrong-{NEVER_SHOWN}"))
    reader = site.environment("login", "faultline-reader")
    untrusting = site.environment("tls", ssl_cafile=site.certificates.other_ca)
    cases = [
        (["topics", "create"], wrong, "refuses the login"),
        (["record", "--out", str(tmp_path / "out.parquet")], untrusting, "not trusted"),
        (["replay", str(site.recording), "--to", reader["FAULTLINE_BROKER"]], reader, "grant this user the right"),
    ]
    for arguments, env, message in cases:
        done = faultline(*arguments, env=env)
        assert_one_line(done, message)
        assert NEVER_SHOWN not in done.stdout + done.stderr


# -- rights ---------------------------------------------------------------------------------------------------


def test_the_documented_rights_are_enough_for_every_role(site: Site, tmp_path: Path) -> None:
    assert "created" in command("topics", "create", env=site.environment("login", "faultline-admin"))
    plant = site.environment("login", "faultline-plant")
    command("replay", str(site.recording), "--to", plant["FAULTLINE_BROKER"], env=plant)
    seen = read(site.settings("login", "faultline-reader"), "diagnoses", group="dashboard")
    worker(site.settings("login", "faultline-worker"), site.plant, seen)
    assert {record.key for record in seen()} == {b"pump-1"}
    # A second one takes over the states and commits that the first one left.
    states = len(read(site.settings("login"), "state")())
    assert states
    command("replay", str(site.recording), "--to", plant["FAULTLINE_BROKER"], env=plant)
    settings = site.settings("login", "faultline-worker")
    worker(settings, site.plant, lambda: _committed(settings) == 2 * READINGS)
    out = tmp_path / "recorded.parquet"
    command("record", "--out", str(out), env=site.environment("login", "faultline-recorder"))
    assert count_records(out) >= 2 * READINGS
    operator = site.environment("login", "faultline-operator")
    assert "waiting for acknowledgement" in command("alarms", "list", env=operator)
    command("alarms", "suppress", "pump-1", "--by", "kim", "--why", "trial", env=operator)
    _follow_alarms(site.settings("login", "faultline-notify"))
    _look_by_the_console(site, site.settings("login", "faultline-console", console_web_port=0, console_user="kim"))


def _look_by_the_console(site: Site, settings: Settings) -> None:
    """As people do: see the plant, one machine and how far workers are, act, and be told what this user must not."""

    async def look() -> None:
        console = kafka_console(settings, site.plant, normal=dict, load_runners=lambda: {"pump": SumRunner()})
        await console.start()
        try:
            async with browser(ConsoleSite(int(console.url.split(":")[2].strip("/")))) as one:
                await one.begin()
                async with asyncio.timeout(60):
                    sources: list[Any] = []
                    while [one["lag"] for one in sources[:1]] != [0]:
                        await asyncio.sleep(0.1)
                        sources = (await one.get("/api/data"))[1]["sources"]
                _, plant = await one.get("/api/plant")
                assert [tile["id"] for tile in plant["machines"]] == ["pump-1"]
                status, machine = await one.get("/api/machines/pump-1")
                assert status == 200 and any(trend["points"] for trend in machine["trends"])
                body = {"machine": "pump-1", "why": "trial"}
                status, written = await one.post("/api/alarms/suppress", body)
                assert (status, written["written"]["topic"]) == (202, "faultline.control"), written
                label = {"machine": "pump-1", "fault": "leak", "from_ms": machine["from_ms"]}
                assert (await one.post("/api/labels", label))[0] == 202
                write = Right("faultline-console", "Write", "topic", "faultline.control")
                with site.rights.without(write):
                    status, refused = await one.post("/api/alarms/suppress", body)
                assert status == 503 and "grant this user Write on it" in refused["error"]["what"]
        finally:
            await console.stop()

    asyncio.run(look())


def test_a_console_without_a_right_to_read_does_not_start(site: Site) -> None:
    command("topics", "create", env=site.environment("login"))
    settings = site.settings("login", "faultline-console", console_web_port=0)

    async def look() -> None:
        console = kafka_console(settings, site.plant, normal=dict, load_runners=dict)
        try:
            await console.start()
        finally:
            await console.stop()

    read_drift = Right("faultline-console", "Read", "topic", "faultline.drift")
    assert read_drift in documented_rights()
    with site.rights.without(read_drift), pytest.raises(AuthorizationError, match=r"drift.*grant"):
        asyncio.run(look())


def _follow_alarms(settings: Settings) -> None:
    """As `faultline notify` does, until it has all partitions."""

    async def follow() -> None:
        group = f"{settings.group}-notify-default"
        source = KafkaAlarmSource(settings.address, settings.topic_prefix, group, **client_security(settings))
        await source.start()
        try:
            async with asyncio.timeout(60):
                while len(source.partitions) < PARTITIONS:
                    await source.fetch()
        finally:
            await source.stop()

    asyncio.run(follow())


def _committed(settings: Settings) -> int:
    """How far the group is in the sensors topic."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.address, group_id=settings.group, enable_auto_commit=False,
        **client_security(settings),
    )  # fmt: skip
    try:
        name = settings.topic_prefix + "sensors"
        return sum(consumer.committed(TopicPartition(name, partition)) or 0 for partition in range(PARTITIONS))
    finally:
        consumer.close()


def test_a_worker_needs_every_documented_right(site: Site) -> None:
    command("topics", "create", env=site.environment("login"))
    settings = site.settings("login", "faultline-worker")
    rights = [right for right in documented_rights() if right.user == "faultline-worker"]
    require_topics(settings, site.plant)
    require_rights(settings, site.plant)
    for right in rights:
        with site.rights.without(right), pytest.raises(AuthorizationError, match=right.name):
            require_topics(settings, site.plant)
            require_rights(settings, site.plant)
    # What only reads or only writes a topic may describe it; so here each right is missed by its own name.
    described = [Right(right.user, "Describe", right.kind, right.name) for right in rights if right.kind == "topic"]
    site.rights.give(dict.fromkeys(described))
    try:
        for right in (right for right in rights if right.operation in ("Read", "Write")):
            lacking = f"needs: {right.operation} on {right.kind} {re.escape(right.name)};"
            with site.rights.without(right), pytest.raises(AuthorizationError, match=lacking):
                require_rights(settings, site.plant)
    finally:
        site.rights.take(dict.fromkeys(described))


def test_a_plant_agent_needs_every_documented_right_of_areas_and_a_worker_its_own(site: Site) -> None:
    plant = parse_profile(WITH_AREAS, where="test")
    operator = site.settings("login")
    create_topics(operator.address, topic_specs(operator, plant), client_security(operator))
    of_worker, of_agent = (site.settings("login", f"faultline-{role}") for role in ("worker", "areas"))
    of_agent = of_agent.of_plant
    rights = documented_rights("acls-of-areas")
    site.rights.give(rights)
    try:
        require_topics(of_worker, plant)
        require_rights(of_worker, plant)
        require_plant_topics(of_agent, plant)
        require_plant_rights(of_agent, plant)
        spans = asyncio.run(_spans(site.settings("login", "faultline-console"), plant))
        assert spans["plant"]["areas"].keys() == set(range(PARTITIONS))
        assert all(span.committed is not None for span in spans["plant"]["areas"].values())
        for right in (right for right in rights if right.user in ("faultline-worker", "faultline-areas")):
            with site.rights.without(right), pytest.raises(AuthorizationError, match=right.name):
                if right.user == "faultline-worker":
                    require_topics(of_worker, plant)
                    require_rights(of_worker, plant)
                else:
                    require_plant_topics(of_agent, plant)
                    require_plant_rights(of_agent, plant)
    finally:
        site.rights.take(rights)


async def _spans(settings: Settings, plant: PlantProfile) -> Spans:
    """What the console sees of the topics that others read, once it follows the output topics."""
    source = kafka_source(settings, plant)
    await source.start(0)
    try:
        return await source.spans()
    finally:
        await source.stop()


def test_a_worker_without_a_right_does_not_start(site: Site) -> None:
    command("topics", "create", env=site.environment("login"))
    settings = site.settings("login", "faultline-worker")
    group = next(right for right in documented_rights() if right.kind == "group" and right.user == "faultline-worker")
    with site.rights.without(group), pytest.raises(AuthorizationError, match="worker needs: Read on group faultline"):
        worker(settings, site.plant, lambda: False)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("Read", "faultline.sensors"),
        ("Write", "faultline.diagnoses"),
        ("Write", "faultline.state"),
        ("Read", "faultline"),
    ],
)
def test_a_worker_that_loses_a_right_ends(
    site: Site, operation: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    env = site.environment("login")
    command("topics", "create", env=env)
    right = Right("faultline-worker", operation, "topic" if "." in name else "group", name)
    assert right in documented_rights()
    diagnoses = read(site.settings("login"), "diagnoses")
    before = len(diagnoses())
    taken: list[Right] = []

    def replay() -> None:
        command("replay", str(site.next_recording()), "--to", env["FAULTLINE_BROKER"], env=env)

    def lose() -> bool:
        if not taken and len(diagnoses()) > before:
            site.rights.take([right])
            taken.append(right)
            replay()
        return False

    replay()
    try:
        with pytest.raises(FaultlineError, match=f"(?s){re.escape(name)}.*grant this user"):
            worker(site.settings("login", "faultline-worker"), site.plant, lose)
    finally:
        site.rights.give(taken)
    assert taken
    assert not [record for record in caplog.records if record.exc_info], caplog.text


# -- secrets --------------------------------------------------------------------------------------------------


def test_a_worker_process_shows_no_secret_and_serves_loopback_only(site: Site) -> None:
    env = site.environment(
        "scram", prefix="secret.", profile="tennessee_eastman", group="secret", sasl_password_file=None
    )
    env["FAULTLINE_SASL_PASSWORD"] = USERS[OPERATOR]
    command("topics", "create", env=env)
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "run"],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)(?=/metrics)", line)
        assert found, line
        until = time.monotonic() + 60
        while not _is_ready(found[0]):
            assert time.monotonic() < until
            time.sleep(0.1)
        metrics = urllib.request.urlopen(f"{found[0]}/metrics", timeout=10).read().decode()
        shown = Path(f"/proc/{process.pid}/cmdline").read_text() if Path("/proc").is_dir() else ""
        with pytest.raises(OSError, match="refused"):  # all of 127.0.0.0/8 is this machine, but no loopback address
            socket.create_connection(("127.0.0.2", int(found[1])), timeout=5).close()
    finally:
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "everything committed" in out
    assert NEVER_SHOWN not in line + out + errors + metrics + shown


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
