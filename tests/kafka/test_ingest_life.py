"""A process of `faultline ingest` on a real Kafka says what it is at, and ends with one line where it cannot go on."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.support.ingest_site import IngestProcess, IngestSite, story, wait_until
from tests.support.worker_processes import consuming

pytestmark = pytest.mark.kafka


def page(process: IngestProcess, path: str) -> str:
    found = re.search(r"metrics on (http://[^/]+)/metrics", process.text)
    if found is None:
        return ""
    with urllib.request.urlopen(found[1] + path, timeout=10) as answer:
        return str(answer.read().decode())


def test_ingest_says_that_it_works_and_stops(kafka: str, tmp_path: Path) -> None:
    site = IngestSite(kafka, tmp_path)
    site.write(story(site.name, 5).foreign)
    process = site.ingest()
    try:
        wait_until(lambda: not process.alive or page(process, "/healthz").startswith("working"))
        assert process.alive, process.text[-3000:]
        metrics = page(process, "/metrics")
        assert 'faultline_ingest_state{state="working"} 1.0' in metrics
        assert 'faultline_ingest_state{state="joining"} 0.0' in metrics
        process.signal(signal.SIGTERM)
        assert process.wait(11) == 0, process.text[-3000:]
        assert "stopped, everything committed" in process.text
    finally:
        process.kill()


def test_a_group_of_another_application_ends_ingest_with_one_line(kafka: str, tmp_path: Path) -> None:
    site = IngestSite(kafka, tmp_path)
    group = site.settings.of_ingest.group
    with consuming(kafka, group, f"{site.name}.values"):
        process = site.ingest()
        try:
            assert process.wait(60) == 1, process.text[-3000:]
        finally:
            process.kill()
    assert "Traceback" not in process.text
    (line,) = [line for line in process.text.splitlines() if line.startswith("error: ")]
    assert f"consumer group {group} is used by another application" in line and "FAULTLINE_GROUP" in line
