"""`faultline ingest` on a real Kafka: each foreign record leads to its outputs exactly once, whatever happens."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.local_kafka.broker import KafkaBroker
from agents.local_kafka.jars import missing_tools
from tests.support.chaos import compare
from tests.support.ingest_site import (
    IngestSite,
    Story,
    contents,
    diagnoses_of,
    origins,
    story,
)
from tests.support.kafka_fixtures import skip_or_fail
from tests.support.mortal_ingest import POINTS

pytestmark = pytest.mark.kafka

OFTEN = {"claimed": 3, "begun": 9, "published": 9, "offsets": 9, "committed": 9, "acked": 5}


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """A broker of this module's own, since it is stopped and restarted, and takes short sessions."""
    reason = missing_tools()
    if reason is not None:
        skip_or_fail(reason)
    with KafkaBroker.start(overrides={"group.min.session.timeout.ms": "1000"}) as one:
        yield one


def told(site: IngestSite, frames: int, seed: int) -> Story:
    one = story(site.name, frames, seed=seed)
    site.write(one.foreign)
    return one


def verify(site: IngestSite, one: Story) -> None:
    """Each output once, each machine's in order, and diagnoses as if the plant had written our own messages."""
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
    plant = site.profile_text
    verdict = compare(diagnoses_of(plant, one.native), diagnoses_of(plant, written))
    assert verdict.good, str(verdict)
    assert verdict.verified > 100


def test_foreign_records_lead_to_the_diagnoses_of_native_ones(broker: KafkaBroker, tmp_path: Path) -> None:
    site = IngestSite(broker.bootstrap, tmp_path)
    one = told(site, 100, seed=1)
    site.finish()
    verify(site, one)


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
