"""`faultline sources try` on a real Kafka: the newest records of a topic, read outside of any group."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from agents.kafka.admin import create_topics
from agents.kafka.topic_settings import TopicSpec
from tests.support.commands import assert_one_line, faultline
from tests.support.forms import T

pytestmark = pytest.mark.kafka

PROFILE = """
plant: works
machine_types:
  - name: reactor
    frame_period: 10s
    faults: [normal, leak]
    sources:
      sensors: {{topic: {topic}, form: {{machine: device, time: {{path: ts, unit: s}}, values: tags}}}}
    variables: [{{name: temp, tag: Reactor.Temp}}]
"""


def test_the_newest_records_are_read_and_nothing_is_written(kafka: str, tmp_path: Path) -> None:
    topic = f"plant-{uuid.uuid4().hex[:8]}"
    create_topics(kafka, [TopicSpec(topic, 3)])
    (tmp_path / "plant.yaml").write_text(PROFILE.format(topic=topic))
    command = ("sources", "try", tmp_path / "plant.yaml", "--topic", topic, "--broker", f"kafka://{kafka}")
    empty = faultline(*command)
    assert (empty.returncode, empty.stdout) == (1, f"topic {topic} holds no records\n")
    producer = KafkaProducer(bootstrap_servers=kafka)
    for number in range(40):
        value = {"device": f"te-{number}", "ts": T // 1000 + number, "tags": {"Reactor.Temp": number, "x": 1}}
        content = b"\x1f\x8b" if number == 38 else json.dumps(value).encode()
        producer.send(topic, content, partition=number % 2, timestamp_ms=T + number * 1000)
    producer.close()
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    groups = {group["group_id"] if isinstance(group, dict) else group[0] for group in admin.list_groups()}
    done = faultline(*command, "--last", "5", "--json")
    assert {group["group_id"] if isinstance(group, dict) else group[0] for group in admin.list_groups()} == groups
    admin.close()
    found = json.loads(done.stdout)
    assert [record["timestamp_ms"] for record in found["records"]] == [T + number * 1000 for number in range(35, 40)]
    assert (done.returncode, found["refused"], found["values_used"]) == (1, 1, 4)
    assert "gzip" in found["records"][3]["refused"]
    assert found["machines"] == {"te-35": 1, "te-36": 1, "te-37": 1, "te-39": 1}
    table = faultline(*command, "--last", "1", env={"COLUMNS": "200"})
    assert table.returncode == 0
    assert "temp (Reactor.Temp)" in table.stdout
    assert "1 of 1 records" in table.stdout


def test_a_topic_that_does_not_exist_is_named(kafka: str, tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_text(PROFILE.format(topic="no-such-topic"))
    command = ("sources", "try", tmp_path / "plant.yaml", "--topic", "no-such-topic", "--broker", f"kafka://{kafka}")
    assert_one_line(faultline(*command), "no-such-topic")
