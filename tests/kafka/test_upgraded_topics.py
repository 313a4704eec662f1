"""Input topics that the release before created get the broker's guard, with the command that the guide gives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from pipeline.wire.records import Record
from tests.support.builders import reading
from tests.support.delivery_apps import run
from tests.support.kafka_plant import KafkaSite
from tests.support.release_before import ROOT, code_of_before

pytestmark = pytest.mark.kafka

GUIDE = ROOT / "docs" / "operations" / "upgrading.md"
PROFILE = ROOT / "pipeline" / "config" / "profiles" / "tennessee_eastman.yaml"
YEAR_2099_MS = 4_070_908_800_000


def documented_setting() -> tuple[str, str]:
    (found,) = re.findall(r"^kafka-configs.sh .*--add-config (\S+)=(\d+)$", GUIDE.read_text("utf-8"), re.MULTILINE)
    return str(found[0]), str(found[1])


def test_the_guide_s_command_makes_the_broker_refuse_records_of_the_future(kafka: str, tmp_path: Path) -> None:
    code = code_of_before(tmp_path / "code")
    site = KafkaSite(kafka, text=PROFILE.read_text(encoding="utf-8"))
    topics = (
        "sensors",
        "events",
        "labels",
        "control",
        "diagnoses",
        "alarms",
        "metrics",
        "late",
        "dead-letter",
        "state",
    )
    site.delete(*topics)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAULTLINE_")}
    environment |= {
        "PYTHONPATH": str(code),
        "FAULTLINE_BROKER": site.settings.broker,
        "FAULTLINE_TOPIC_PREFIX": site.settings.topic_prefix,
        "FAULTLINE_PARTITIONS": str(site.settings.partitions),
    }
    create = [sys.executable, "-m", "agents.cli", "topics", "create"]
    done = subprocess.run(create, cwd=code, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ahead, now = (reading("te-01", time_ms, [1.0]) for time_ms in (YEAR_2099_MS, int(time.time() * 1000)))
    run(site.send([ahead]))  # a topic of the release before takes it
    name, value = documented_setting()
    site.configure("sensors", {name: value})
    with pytest.raises(KafkaError) as refused:
        run(acknowledged(site, ahead))
    assert type(refused.value).__name__ == "InvalidTimestampError"
    run(acknowledged(site, now))


async def acknowledged(site: KafkaSite, record: Record) -> None:
    async with site.producer() as client:
        await client.send_and_wait(site.name("sensors"), record.value, partition=0, timestamp_ms=record.timestamp_ms)
