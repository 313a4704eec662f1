"""`faultline ingest` on a real Kafka: each foreign record leads to its outputs exactly once, whatever happens."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from tests.support.chaos import compare
from tests.support.ingest_site import IngestSite, Story, contents, diagnoses_of, origins, story, wait_until
from tests.support.mortal_ingest import POINTS

pytestmark = pytest.mark.kafka

OFTEN = {"claimed": 3, "begun": 9, "published": 9, "offsets": 9, "committed": 9, "acked": 5}


def told(site: IngestSite, frames: int, seed: int) -> Story:
    one = story(site.name, frames, seed=seed)
    site.write(one.foreign)
    return one


def verify(site: IngestSite, one: Story, *, disturbed: bool = True) -> None:
    """Each output once, each machine's in order, and diagnoses as if the plant had written our own messages.

    A process that dies leaves records of different partitions out of order by up to a chunk. What a disturbed one has
    written is compared by readings of one source, which are in one partition for each machine here.
    """
    written = site.committed("sensors", "sensors.lab", "events")
    found, expected = contents(written), contents(one.native)
    assert found - expected == Counter(), "written more than once, or never to be written"
    assert expected - found == Counter(), "lost"
    for machine in {record.key for record in one.native}:
        times = [record.timestamp_ms for record in written if (record.key, record.topic) == (machine, "sensors")]
        assert times == sorted(times), machine
    letters = site.committed("dead-letter")
    assert len(letters) == one.letters
    assert set(origins(letters).values()) <= {1}
    assert sum(origins(letters).values()) == one.letters
    plant, topics = site.profile_text, ("sensors",) if disturbed else ("sensors", "sensors.lab", "events")
    before, after = ([record for record in records if record.topic in topics] for records in (one.native, written))
    verdict = compare(diagnoses_of(plant, before), diagnoses_of(plant, after))
    assert verdict.good, str(verdict)
    assert verdict.verified > 100


def test_foreign_records_lead_to_the_diagnoses_of_native_ones(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path)
    one = told(site, 100, seed=1)
    site.finish()
    verify(site, one, disturbed=False)


def test_it_is_killed_at_every_point(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path)
    one = told(site, 300, seed=2)
    for point in POINTS:
        # Under one name, so that no successor has to wait until the group has given up its predecessor.
        process = site.ingest((point, OFTEN[point]), group_instance_id="one")
        try:
            assert process.wait(60) == -signal.SIGKILL, f"{point}: {process.text[-3000:]}"
        finally:
            process.kill()
    assert site.left() > 0
    site.finish(group_instance_id="one")
    verify(site, one)


def test_two_processes_share_the_partitions_and_one_takes_over(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path, session_timeout_ms=2_000)
    one = told(site, 400, seed=3)
    first = site.ingest(pace_s=0.1)
    second = None
    try:
        wait_until(lambda: "assigned 6 partitions" in first.text)
        second = site.ingest(pace_s=0.1)
        wait_until(
            lambda: second is not None and "assigned 6 partitions" not in second.text and "assigned" in second.text
        )
        left = site.left()
        wait_until(lambda: site.left() < left - 500)
        first.kill()
        wait_until(lambda: second is not None and "assigned 6 partitions" in second.text)
        left = site.left()
        assert left > 0
        wait_until(lambda: second is not None and (not second.alive or site.left() < left))
        assert second.alive, second.text[-3000:]
        second.end()
    finally:
        first.kill()
        if second is not None:
            second.kill()
    site.finish()
    verify(site, one)


def test_a_suspended_process_cannot_write_what_another_one_has_written(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path, session_timeout_ms=1_000)
    one = told(site, 400, seed=4)
    first, second = site.ingest(pace_s=0.1), None
    try:
        wait_until(lambda: site.left() < len(one.foreign) - 300)
        first.signal(signal.SIGSTOP)
        second = site.ingest(pace_s=0.1)
        wait_until(lambda: second is not None and "assigned 6 partitions" in second.text)
        left = site.left()
        wait_until(lambda: site.left() < left - 300)
        first.signal(signal.SIGCONT)
        wait_until(lambda: first.text.count("assigned") > 1)
        assert site.left() > 0
        first.end()
        second.end()
    finally:
        first.kill()
        if second is not None:
            second.kill()
    site.finish()
    verify(site, one)


def test_the_broker_stops_and_comes_back(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path)
    one = told(site, 400, seed=5)
    process = site.ingest(pace_s=0.1)
    try:
        wait_until(lambda: site.left() < len(one.foreign) - 300)
        broker.stop()
        time.sleep(1)
        broker.restart()
        left = site.left()
        wait_until(lambda: not process.alive or site.left() < left - 300)
        assert process.alive, process.text[-3000:]
        process.end()
    finally:
        process.kill()
    site.finish()
    verify(site, one)


def test_a_topic_that_is_deleted_and_created_again_is_read_from_its_beginning(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    site = IngestSite(broker.bootstrap, tmp_path)
    one = told(site, 60, seed=6)
    site.finish()
    again = site.ingest()
    try:
        wait_until(lambda: "assigned 6 partitions" in again.text)
        site.recreate()
        second = told(site, 30, seed=7)
        wait_until(lambda: not again.alive or site.left() == 0)
        assert again.alive, again.text[-3000:]
        again.end()
    finally:
        again.kill()
    found = contents(site.committed("sensors", "sensors.lab", "events"))
    assert found == contents([*one.native, *second.native])
    assert len(site.committed("dead-letter")) == one.letters + second.letters


def test_records_of_an_aborted_transaction_never_happened(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path)
    one = story(site.name, 5, seed=8)
    site.write(one.foreign, commit=False)
    site.write(one.foreign, commit=True)
    process = site.ingest()
    try:
        wait_until(lambda: len(site.committed("sensors", "sensors.lab", "events")) >= len(one.native))
        process.end()
    finally:
        process.kill()
    assert contents(site.committed("sensors", "sensors.lab", "events")) == contents(one.native)
    assert len(site.committed("dead-letter")) == one.letters
