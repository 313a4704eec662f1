"""What a worker process says of itself on a real Kafka in each state of its life, and that SIGTERM ends every one."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from tests.soak.soak import KafkaPlant, wait_until
from tests.support.chaos import story
from tests.support.worker_processes import (
    consuming,
    ended,
    error_lines,
    probe,
    running,
    text,
    wait_for,
    wait_for_health,
)

pytestmark = pytest.mark.kafka

PROMPT_S = 15.0
"""The ten seconds that a worker has to stop, after which it ends itself with code 5, and five for a busy machine."""


@contextmanager
def suspended(broker: KafkaBroker) -> Iterator[None]:
    """A broker that takes connections and answers nothing."""
    assert broker._process is not None
    os.kill(broker._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker._process.pid, signal.SIGCONT)


def told(plant: KafkaPlant, seconds: int = 600) -> None:
    plant.write(story(seconds, plant.partition_of, 4, seed=3))


# -- states -------------------------------------------------------------------------------------------------------


def test_a_worker_says_when_it_works_and_when_it_is_left_without_partitions(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path, partitions=4, session_timeout_ms=6_000)
    told(plant)
    with running(plant) as one, running(plant) as two, running(plant) as three, running(plant) as four:
        workers = [one, two, three, four]
        for worker in workers:
            wait_for(worker, lambda worker=worker: len(worker.partitions) == 1)  # type: ignore[misc]
            wait_for_health(worker, "working")
        with running(plant) as spare:
            everybody = [*workers, spare]
            wait_until(lambda: sorted(probe(one)[1].split(":")[0].strip() for one in everybody).count("standby") == 1)
            idle = next(worker for worker in everybody if probe(worker)[1].startswith("standby"))
            code, said = probe(idle)
            assert code == 200 and f"other members of consumer group {plant.settings.group}" in said
            assert probe(idle, "/readyz") == (503, "waiting for partitions\n")
            metrics = probe(idle, "/metrics")[1]
            assert 'faultline_worker_state{state="standby"} 1.0' in metrics
            assert 'faultline_worker_state{state="working"} 0.0' in metrics
            idle.signal(signal.SIGTERM)
            assert ended(idle, PROMPT_S)[0] == 0, text(idle)[-2000:]
            assert "everything committed" in text(idle)


def test_a_worker_is_stopped_while_it_restores(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    told(plant)
    with running(plant, {"CHAOS_RESTORE_S": 60}) as worker:
        wait_for_health(worker, "restoring")
        assert probe(worker, "/readyz") == (503, "restoring the states of its partitions\n")
        worker.signal(signal.SIGTERM)
        code, _ = ended(worker, PROMPT_S)
        assert code == 0, text(worker)[-2000:]
    plant.finish()


def test_restoring_without_progress_ends_the_worker(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    told(plant)
    with running(plant, {"CHAOS_RESTORE_S": 60}, stall_timeout_ms=3_000) as worker:
        assert ended(worker, 60)[0] == 3, text(worker)[-2000:]
        (line,) = error_lines(worker)
        assert "no progress in 3 s, restoring states" in line
    plant.finish()


def test_a_worker_waiting_for_its_group_says_so_and_is_stopped(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path, session_timeout_ms=120_000)
    told(plant)
    with running(plant) as asleep:
        wait_for_health(asleep, "working")
        asleep.signal(signal.SIGSTOP)
        try:
            with running(plant) as worker:
                wait_for_health(worker, "joining")
                code, said = probe(worker)
                assert code == 200 and plant.settings.group in said
                assert probe(worker, "/readyz") == (503, "waiting for partitions\n")
                worker.signal(signal.SIGTERM)
                assert ended(worker, PROMPT_S)[0] == 0, text(worker)[-2000:]
            with running(plant, start_timeout_ms=3_000) as worker:
                assert ended(worker, 60)[0] == 3, text(worker)[-2000:]
                (line,) = error_lines(worker)
                assert f"no progress in 3 s, joining consumer group {plant.settings.group} (FAULTLINE_GROUP)" in line
        finally:
            asleep.signal(signal.SIGCONT)


def test_a_worker_is_stopped_while_no_broker_answers_its_first_question(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environment = {"broker": f"kafka://127.0.0.1:{deaf.getsockname()[1]}"}
        plant = KafkaPlant.__new__(KafkaPlant)
        plant.connect(tmp_path, **environment)
        with running(plant) as worker:
            time.sleep(3.0)
            assert worker.alive, text(worker)
            worker.signal(signal.SIGTERM)
            assert ended(worker, PROMPT_S)[0] == 0, text(worker)[-2000:]
            assert "stopped before it had begun" in text(worker)


@pytest.mark.parametrize("state", ["starting", "working", "failing"])
def test_a_worker_is_stopped_while_the_broker_does_not_answer(broker: KafkaBroker, tmp_path: Path, state: str) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path, stall_timeout_ms=4_000 if state == "failing" else 60_000)
    told(plant, 1_200)
    with running(plant, pace_s=0.1) as worker:
        if state == "starting":
            wait_for(worker, lambda: probe(worker)[0])
        else:
            wait_until(lambda: sum(plant.said_so_far().values()) > 50)
        with suspended(broker):
            time.sleep(1.0)
            if state == "failing":
                # It fails by itself, and may hang on its way out; SIGTERM in the middle of that changes nothing.
                wait_for(worker, lambda: "no progress" in text(worker))
            worker.signal(signal.SIGTERM)
            code, _ = ended(worker, PROMPT_S + 2.0)
            assert code in ({3, 5} if state == "failing" else {0, 1, 5}), text(worker)[-3000:]
            if code:
                assert len(error_lines(worker)) == 1
    plant.finish()


def test_a_worker_in_a_long_chunk_is_ended_by_a_thread_of_its_own(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    told(plant)
    with running(plant, {"CHAOS_BLOCK_S": 60}, stop_timeout_ms=3_000) as worker:
        wait_for(worker, lambda: "restored the states" in text(worker))
        time.sleep(1.0)
        worker.signal(signal.SIGTERM)
        code, seconds = ended(worker, PROMPT_S)
        assert code == 5 and seconds > 2.0, text(worker)[-2000:]
        (line,) = error_lines(worker)
        assert "not stopped within 3 s (FAULTLINE_STOP_TIMEOUT_MS)" in line
    plant.finish()


def test_a_blocked_worker_that_nobody_stops_is_seen_and_ends(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    told(plant)
    limits: dict[str, Any] = {"stall_timeout_ms": 4_000, "stop_timeout_ms": 4_000}
    with running(plant, {"CHAOS_BLOCK_S": 90}, **limits) as worker:
        wait_for(worker, lambda: probe(worker)[0] == 503, 60)
        code, said = probe(worker)
        assert code == 503 and said.startswith("stalled: no progress in "), said
        assert ended(worker, 30)[0] == 5, text(worker)[-2000:]
    plant.finish()


def test_a_second_signal_ends_at_once(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    told(plant)
    with running(plant, {"CHAOS_BLOCK_S": 60}) as worker:
        wait_for(worker, lambda: "restored the states" in text(worker))
        worker.signal(signal.SIGTERM)
        time.sleep(1.0)
        worker.signal(signal.SIGTERM)
        code, seconds = ended(worker, PROMPT_S)
        assert code == 128 + signal.SIGTERM and seconds < 5.0
    plant.finish()


# -- groups -------------------------------------------------------------------------------------------------------


def test_a_group_of_another_application_ends_the_worker_with_one_line(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    group = plant.settings.group
    with (
        consuming(broker.bootstrap, group, f"{plant.settings.topic_prefix}events"),
        running(plant) as worker,
    ):
        assert ended(worker, 60)[0] == 1, text(worker)[-2000:]
        (line,) = error_lines(worker)
        assert f"consumer group {group} is used by another application" in line and "FAULTLINE_GROUP" in line


def test_a_session_timeout_that_the_broker_does_not_take_is_named(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path, session_timeout_ms=500)
    with running(plant) as worker:
        assert ended(worker, 60)[0] == 1, text(worker)[-2000:]
        (line,) = error_lines(worker)
        assert "session timeout of 0.5 s" in line and "FAULTLINE_SESSION_TIMEOUT_MS" in line


def test_workers_of_two_plants_in_one_group_have_their_own_partitions(broker: KafkaBroker, tmp_path: Path) -> None:
    plant = KafkaPlant(broker.bootstrap, tmp_path)
    other = KafkaPlant(broker.bootstrap, tmp_path, group=plant.settings.group)
    told(plant)
    told(other)
    with running(plant) as first, running(other) as second:
        for worker, own in ((first, plant), (second, other)):
            wait_for(worker, lambda own=own: own.left() == 0)  # type: ignore[misc]
            # The group may be sharing out once more, if the other one has come late.
            wait_for(worker, lambda worker=worker: probe(worker) == (200, "working\n"))  # type: ignore[misc]
            assert worker.partitions == [0, 1, 2, 3]
            worker.signal(signal.SIGTERM)
            assert ended(worker, PROMPT_S)[0] == 0
