"""Workers of two releases in one consumer group: the plant is upgraded, and downgraded, one worker at a time."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.bench.local_kafka.broker import free_ports
from agents.kafka.log import kafka_log
from pipeline.wire.recording import read_recording
from pipeline.wire.records import Record
from tests.support.delivery_apps import run
from tests.support.kafka_plant import KafkaSite
from tests.support.release_artefacts import shipped_engine
from tests.support.release_before import MODEL, RECORDING, ROOT, code_of_before, model_of_before, without_components

pytestmark = pytest.mark.kafka

TENNESSEE_EASTMAN = ROOT / "pipeline" / "config" / "profiles" / "tennessee_eastman.yaml"


class ReleasedWorker:
    """A worker process of a release, as `faultline run` starts it."""

    def __init__(self, code: Path, model: Path, site: KafkaSite, port: int, log: Path) -> None:
        settings = site.settings
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FAULTLINE_")}
        environment |= {
            "PYTHONPATH": str(code),
            "FAULTLINE_BROKER": settings.broker,
            "FAULTLINE_TOPIC_PREFIX": settings.topic_prefix,
            "FAULTLINE_GROUP": settings.group,
            "FAULTLINE_PARTITIONS": str(settings.partitions),
            "FAULTLINE_PROFILE": "tennessee_eastman",
            "FAULTLINE_MODEL": str(model),
            "FAULTLINE_CHECKPOINT_INTERVAL_MS": "100ms",
            "FAULTLINE_COMMIT_INTERVAL_MS": "50ms",
            "FAULTLINE_TICK_INTERVAL_MS": "1h",
            "FAULTLINE_WEB_PORT": str(port),
        }
        self._port = port
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", "run"], cwd=code, env=environment, stdout=file, stderr=file
            )

    def is_ready(self) -> bool:
        """Whether it has partitions and their states."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> None:
        """SIGTERM, and wait for a proper end."""
        self._process.terminate()
        assert self._process.wait(40) == 0, self._log.read_text()

    def kill(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        self._process.wait()


@contextmanager
def worker(code: Path, site: KafkaSite, port: int, folder: Path) -> Iterator[ReleasedWorker]:
    one = ReleasedWorker(code, folder / MODEL, site, port, folder / f"{port}.log")
    try:
        until(one.is_ready)
        yield one
        one.stop()
    finally:
        one.kill()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def contents(site: KafkaSite) -> dict[str, bytes]:
    """Every diagnosis by its machine and end, as both releases write it; a repeated one must have the same content."""
    found: dict[str, bytes] = {}
    with kafka_log(site.settings, ["diagnoses"]) as log:
        for record in log.records("diagnoses"):
            name = f"{(record.key or b'').decode()} {record.timestamp_ms}"
            value = without_components(record.value or b"")
            assert found.setdefault(name, value) == value, name
    return found


def expected(records: Sequence[Record], model: Path) -> dict[str, bytes]:
    engine = shipped_engine(model)
    outputs = [out for out in engine.process(records) if out.topic == "diagnoses"]
    return {f"{(out.key or b'').decode()} {out.timestamp_ms}": without_components(out.value or b"") for out in outputs}


@pytest.mark.long
def test_a_group_of_two_releases_diagnoses_as_one(kafka: str, tmp_path: Path) -> None:
    before, ports = code_of_before(tmp_path / "code"), free_ports(2)
    site = KafkaSite(kafka, text=TENNESSEE_EASTMAN.read_text(encoding="utf-8"))
    # Without texts: which of a text and a reading comes first is a matter of luck while both are being sent.
    records = [one for one in read_recording(RECORDING) if one.topic == "sensors"]
    steps = [len(records) * number // 5 for number in range(6)]
    parts = [records[begin:end] for begin, end in itertools.pairwise(steps)]
    model = model_of_before(tmp_path)
    assert model.name == MODEL
    wanted = [expected(records[:end], model) for end in steps[1:]]

    def step(number: int) -> None:
        run(site.send(parts[number]), 60)
        until(lambda: contents(site).keys() >= wanted[number].keys())
        assert contents(site) == wanted[number]

    with worker(before, site, ports[0], tmp_path):
        step(0)
        with worker(ROOT, site, ports[1], tmp_path):
            step(1)  # one of each release
    with worker(ROOT, site, ports[1], tmp_path):
        step(2)
        with worker(before, site, ports[0], tmp_path):
            step(3)  # and the way back
    with worker(before, site, ports[0], tmp_path):
        step(4)
    assert len(wanted[4]) > 1_000
