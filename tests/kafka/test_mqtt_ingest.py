"""`faultline ingest --mqtt` with a real Mosquitto and a real Kafka: nothing that the former acknowledged is lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.doors import Certificates
from pipeline.wire.letters import origin_of
from pipeline.wire.records import Record
from tests.support.chaos import compare
from tests.support.commands import assert_one_line, faultline
from tests.support.ingest_site import IngestProcess, IngestSite, diagnoses_of, wait_until
from tests.support.mosquitto import PASSWORD, USERNAME, Mosquitto, Publisher, mosquitto

pytestmark = pytest.mark.kafka

T0_MS = 1_763_600_000_000

PLANT = """
plant: gateways
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    sources: {sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 20d}}
    faults: [normal, leak, jam]
    state_ttl: 30d
    max_skew: 30d
    variables: [{name: flow}, {name: load}]
ingest:
  - mqtt: plant/+/values
    form: {machine: {topic: true, pattern: "plant/([^/]+)/values"}, time: t, values: v}
  - mqtt: plant/+/notes
    form: {machine: {topic: true, pattern: "plant/([^/]+)/notes"}, time: t, text: note}
"""


@pytest.fixture
def mqtt(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as one:
        yield one


@pytest.fixture
def site(broker: KafkaBroker, tmp_path: Path) -> IngestSite:
    return IngestSite(broker.bootstrap, tmp_path, plant=PLANT)


@pytest.fixture
def gateway(mqtt: Mosquitto) -> Iterator[Publisher]:
    publisher = Publisher(mqtt)
    yield publisher
    publisher.close()


def messages(seconds: range, machines: int = 4) -> list[tuple[str, bytes]]:
    """What a gateway publishes."""
    found = []
    for second in seconds:
        for number in range(machines):
            body = {"t": T0_MS + 1000 * second, "v": {"flow": second + number / 8, "load": second % 7}}
            found.append((f"plant/pump-{number}/values", json.dumps(body).encode()))
    return found


def native(published: list[tuple[str, bytes]]) -> set[tuple[str, int, float]]:
    """What has to be in `sensors`."""
    bodies = ((topic.split("/")[1], json.loads(payload)) for topic, payload in published)
    return {(machine, body["t"], body["v"]["flow"]) for machine, body in bodies}


def written(records: list[Record]) -> list[tuple[str, int, float]]:
    bodies: list[dict[str, Any]] = [json.loads(record.value or b"") for record in records]
    for record, body in zip(records, bodies, strict=True):
        assert record.key == body["machine"].encode()
    return [(body["machine"], body["time"], body["values"]["flow"]) for body in bodies]


def started(site: IngestSite, mqtt: Mosquitto, **settings: Any) -> IngestProcess:
    process = site.ingest(mqtt=mqtt.url, **settings)
    wait_until(lambda: not process.alive or "subscribed" in process.text)
    assert process.alive, process.text
    return process


def arrived(site: IngestSite, published: list[tuple[str, bytes]], seconds: float = 60.0) -> list[Record]:
    """Wait for all, and for nothing else."""
    wait_until(lambda: set(written(site.committed("sensors"))) >= native(published), seconds)
    records = site.committed("sensors")
    assert set(written(records)) == native(published)
    return records


def test_messages_become_records_of_the_machine_in_their_topic(
    site: IngestSite, mqtt: Mosquitto, gateway: Publisher
) -> None:
    gateway.publish(messages(range(-9, -8)), retain=True)  # repeats of the past, which nobody wants
    process = started(site, mqtt)
    try:
        published = messages(range(30))
        gateway.publish(published)
        gateway.publish([("plant/pump-1/notes", json.dumps({"t": T0_MS, "note": "leaks"}).encode())])
        wrong = [
            ("plant/pump-1/values", b""),  # as one deletes a retained message
            ("plant/pump-1/values", b"\xff\xfe"),
            ("plant/mill-1/values", messages(range(1))[0][1]),
            ("plant/pump-2/notes", b"{}"),
        ]
        gateway.publish(wrong)
        records = arrived(site, published)
        assert len(records) == len(published)
        wait_until(lambda: len(site.committed("dead-letter")) == len(wrong))
        letters = [origin_of(letter.headers) for letter in site.committed("dead-letter")]
        assert {(letter.place.topic, letter.reason) for letter in letters if letter} == {
            ("mqtt:plant/pump-1/values", "empty"),
            ("mqtt:plant/pump-1/values", "not_json"),
            ("mqtt:plant/mill-1/values", "unknown_machine"),
            ("mqtt:plant/pump-2/notes", "bad_time"),
        }
        (text,) = site.committed("events")
        assert json.loads(text.value or b"") == {"machine": "pump-1", "time": T0_MS, "text": "leaks"}
        process.end()
    finally:
        process.kill()


def test_ingest_is_killed_and_finds_what_came_meanwhile(site: IngestSite, mqtt: Mosquitto, gateway: Publisher) -> None:
    published = messages(range(300))
    process = started(site, mqtt)
    try:
        parts = [published[at : at + 200] for at in range(0, len(published), 200)]
        for number, part in enumerate(parts):
            gateway.publish(part, pause_s=0.001)
            if number % 2 == 1:
                process.kill()
                gateway.publish(part)  # nobody is there; and the gateway says it twice
                process = started(site, mqtt)
        records = arrived(site, published)
        process.end()
    finally:
        process.kill()
    repeated = len(records) - len(native(published))
    assert repeated > 0
    once = [Record("sensors", *record[1:]) for record in _first_of_each(records)]
    expected, found = diagnoses_of(PLANT, once), diagnoses_of(PLANT, records)
    found["late"] = []  # a repeat of a reading whose frame has closed
    verdict = compare(expected, found)
    assert verdict.good and verdict.verified > 50, str(verdict)


def _first_of_each(records: list[Record]) -> list[Record]:
    seen: dict[bytes | None, Record] = {}
    for record in records:
        seen.setdefault(record.value, record)
    return list(seen.values())


def test_the_mqtt_broker_goes_away_and_comes_back(site: IngestSite, mqtt: Mosquitto, gateway: Publisher) -> None:
    published = messages(range(400))
    process = started(site, mqtt)
    try:
        sending = threading.Thread(target=gateway.publish, args=(published,), kwargs={"pause_s": 0.002})
        sending.start()
        time.sleep(0.5)
        mqtt.stop()
        time.sleep(1)
        mqtt.start()
        sending.join(60)
        assert not sending.is_alive()
        arrived(site, published)
        assert process.text.count("connecting again") == 1, process.text
        process.end()
    finally:
        process.kill()


def test_kafka_goes_away_and_comes_back(
    site: IngestSite, mqtt: Mosquitto, gateway: Publisher, broker: KafkaBroker
) -> None:
    published = messages(range(200))
    process = started(site, mqtt)
    try:
        gateway.publish(published[:200])
        broker.stop()
        gateway.publish(published[200:])
        time.sleep(0.5)
        broker.restart()
        arrived(site, published)
        assert process.alive, process.text
        process.end()
    finally:
        process.kill()


def test_who_cannot_read_the_mqtt_broker_is_told_why(site: IngestSite, tmp_path: Path, mqtt: Mosquitto) -> None:
    env = site.environment()
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)

    def refused(message: str, url: str, **more: str) -> None:
        done = faultline("ingest", "--mqtt", url, env=env | {f"FAULTLINE_MQTT_{k}": v for k, v in more.items()})
        assert_one_line(done, message)
        assert PASSWORD not in done.stderr

    refused("FAULTLINE_MQTT_PASSWORD_FILE", f"mqtt://{USERNAME}:{PASSWORD}@127.0.0.1")
    refused("neither mqtt://host[:port] nor mqtts://", "tcp://127.0.0.1")
    with mosquitto(tmp_path_for(tmp_path, "guarded"), login=True) as guarded:
        refused("refuses the connection: Not authorized; check FAULTLINE_MQTT_USERNAME", guarded.url)
        wrong = {"USERNAME": USERNAME, "PASSWORD": "guess"}
        refused("Not authorized", guarded.url, **wrong)
        process = site.ingest(mqtt=guarded.url, mqtt_username=USERNAME, mqtt_password_file=secret)
        wait_until(lambda: not process.alive or "subscribed" in process.text)
        assert process.alive, process.text
        again = site.ingest(mqtt=guarded.url, mqtt_username=USERNAME, mqtt_password_file=secret)
        try:
            wait_until(lambda: not (process.alive and again.alive))
            told = process if not process.alive else again
            assert told.wait(1) == 1, told.text
            assert "FAULTLINE_MQTT_CLIENT_ID" in told.text.splitlines()[-1]
        finally:
            process.kill()
            again.kill()
    mqtt.stop()
    refused(f"no MQTT broker at mqtt://127.0.0.1:{mqtt.port}", mqtt.url)


def test_tls_needs_the_right_authority(site: IngestSite, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates", "127.0.0.1")
    with mosquitto(tmp_path, tls=certificates) as broker:
        for ca in (None, certificates.other_ca):
            env = site.environment() | ({} if ca is None else {"FAULTLINE_MQTT_CAFILE": str(ca)})
            done = faultline("ingest", "--mqtt", broker.url, env=env)
            assert_one_line(done, "FAULTLINE_MQTT_CAFILE must contain the CA")
        plain = broker.url.replace("mqtts", "mqtt")
        assert_one_line(faultline("ingest", "--mqtt", plain, env=site.environment()), f"no MQTT broker at {plain}")
        missing = site.environment() | {"FAULTLINE_MQTT_CAFILE": str(tmp_path / "nowhere.pem")}
        assert_one_line(faultline("ingest", "--mqtt", broker.url, env=missing), "FAULTLINE_MQTT_CAFILE")
        process = site.ingest(mqtt=broker.url, mqtt_cafile=certificates.ca)
        try:
            wait_until(lambda: not process.alive or "subscribed" in process.text)
            process.end()
        finally:
            process.kill()


def tmp_path_for(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def test_a_stopping_process_leaves_its_session_to_the_next(
    site: IngestSite, mqtt: Mosquitto, gateway: Publisher
) -> None:
    published = messages(range(100))
    process = started(site, mqtt)
    gateway.publish(published[:200])
    process.signal(signal.SIGTERM)
    assert process.wait(20) == 0, process.text
    gateway.publish(published[200:])
    process = started(site, mqtt)
    try:
        arrived(site, published)
        process.end()
    finally:
        process.kill()
