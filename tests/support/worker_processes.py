"""Worker processes whose web server a test looks at, and that it ends."""

from __future__ import annotations

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer

from tests.soak.soak import KafkaPlant, WorkerProcess

_PAGE = re.compile(r"metrics on (http://[^/]+)/metrics")


@contextmanager
def running(plant: KafkaPlant, chaos: dict[str, Any] | None = None, **settings: Any) -> Iterator[WorkerProcess]:
    """A worker process with more of mortal_worker's variables; ended in any case."""
    process = plant.worker(chaos=chaos or {}, **settings)
    try:
        yield process
    finally:
        process.kill()


def text(process: WorkerProcess) -> str:
    """What it has printed and logged."""
    return process.log.read_text(errors="replace") if process.log.exists() else ""


def probe(process: WorkerProcess, path: str = "/healthz") -> tuple[int, str]:
    """Status and text of a page; status 0 while there is no server."""
    found = _PAGE.search(text(process))
    if found is None:
        return 0, ""
    try:
        with urllib.request.urlopen(found[1] + path, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_for(process: WorkerProcess, condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait for what a process brings about; fails if it ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.alive, text(process)[-3000:]
        assert time.monotonic() < until, (probe(process), text(process)[-3000:])
        time.sleep(0.05)


def wait_for_health(process: WorkerProcess, state: str, seconds: float = 40.0) -> None:
    """Wait until /healthz begins with a state."""
    wait_for(process, lambda: probe(process)[1].startswith(state), seconds)


def ended(process: WorkerProcess, seconds: float) -> tuple[int | None, float]:
    """The exit code, and how long the process has taken to end; None if it lives after this time."""
    began = time.monotonic()
    return process.wait(seconds), time.monotonic() - began


def error_lines(process: WorkerProcess) -> list[str]:
    """Lines that tell why it ended; there is no traceback among what it has printed."""
    found = text(process)
    assert "Traceback" not in found, found[-3000:]
    return [line for line in found.splitlines() if line.startswith("error: ")]


@contextmanager
def consuming(bootstrap: str, group: str, topic: str) -> Iterator[None]:
    """Another application in a consumer group."""
    over, joined = threading.Event(), threading.Event()

    def consume() -> None:
        while not over.is_set() and not joined.is_set():
            consumer = KafkaConsumer(
                topic,
                bootstrap_servers=bootstrap,
                group_id=group,
                enable_auto_commit=False,
                metadata_max_age_ms=1_000,  # who leads a group and has not heard of a new topic assigns nothing of it
            )
            # kafka-python may stay without partitions for good if it joins while the topic is made; then another does.
            patience = time.monotonic() + 10
            while not over.is_set() and (joined.is_set() or time.monotonic() < patience):
                consumer.poll(timeout_ms=200)
                if consumer.assignment():  # type: ignore[attr-defined]
                    joined.set()
            consumer.close()

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        assert joined.wait(60)
        yield
    finally:
        over.set()
        thread.join()
