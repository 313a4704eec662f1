"""Saved states on a real Kafka that cannot be read: kept as dead letters, told, and their machines begin again."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest

from agents.kafka.publisher import KafkaPublisher
from agents.kafka.states import KafkaStateStore
from pipeline.wire.letters import origin_of
from pipeline.wire.records import Output
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T, ends, metric, processed, readings

pytestmark = pytest.mark.kafka

MACHINES = tuple(f"p{number}" for number in range(12))
FRAMES = 5


def mutated(state: bytes, how: int) -> bytes:
    """One of twelve ways in which a state is damaged."""
    saved: dict[str, Any] = msgspec.msgpack.decode(state)
    rng = random.Random(how)
    match how:
        case 0:  # a byte that is not UTF-8, in a name
            at = state.index(b"pump")
            return state[:at] + b"\xff" + state[at + 1 :]
        case 1:
            return state[: len(state) // 2]
        case 2:
            return b""
        case 3:
            return b"\x93" * 5_000
        case 4:
            saved["runner"] = saved["runner"][:-3]
        case 5:
            saved["alarms"] = b"x"
        case 6:
            saved["aligner"] = {}
        case 7:
            saved["applied"] = {"sensors": "many"}
        case 8:
            saved["last"] = 2**63
        case 9:
            saved["arrived"] = []
        case 10:
            saved["texts"] = [[1]]
        case _:
            return rng.randbytes(len(state))
    return msgspec.msgpack.encode(saved)


def test_damaged_states_are_kept_aside_and_their_machines_begin_again(
    kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(_damaged(kafka, caplog), 120)


async def _damaged(bootstrap: str, caplog: pytest.LogCaptureFixture) -> None:
    site = KafkaSite(bootstrap)
    whole = ("p20", "p21", "p22")
    records = [one for machine in (*MACHINES, *whole) for one in readings(machine, FRAMES)]
    await site.send(records)
    async with site.working() as worker:
        await processed(worker, len(records))
    store = KafkaStateStore(bootstrap, site.settings.topic_prefix, site.partition_of)
    states = await store.read(range(2))
    damaged = {name: mutated(states[name], how) for how, name in enumerate(MACHINES)}
    publisher = KafkaPublisher(bootstrap, site.settings.topic_prefix)
    await publisher.start()
    await publisher.publish(
        [Output("state", site.partition_of(name.encode()), name.encode(), state, T) for name, state in damaged.items()]
    )
    await publisher.flush()
    await publisher.stop()

    later = T + (FRAMES + 3) * FRAME_MS
    caplog.clear()
    async with site.working() as worker:
        more = [one for machine in (*MACHINES, *whole) for one in readings(machine, FRAMES, start_ms=later)]
        await site.send(more)
        await processed(worker, len(more))
        assert worker.life.failure is None and worker.life.health() == (True, "working")
        refused = metric(worker, "faultline_states_refused_total")
        assert metric(worker, "faultline_dead_letters_total", reason="unreadable_state") == refused
        assert worker.restored == len(whole) + len(MACHINES) - refused
        told = [one for one in caplog.messages if "cannot be read" in one]
        assert len(told) == 1, told
    letters = await asyncio.to_thread(site.records, "dead-letter")
    kept = {letter.key: letter for letter in letters}
    assert len(letters) == len(kept) == refused
    assert kept.keys() == {name.encode() for name in MACHINES}
    for key, letter in kept.items():
        origin = origin_of(letter.headers)
        assert origin is not None and origin.reason == "unreadable_state" and origin.place.topic == "state"
        assert letter.value == damaged[key.decode() if key else ""]
    found = await site.diagnoses()
    for machine in (*MACHINES, *whole):
        wanted = [later + n * FRAME_MS for n in range(1, FRAMES + 1)]
        assert [end for end in ends(found, machine) if end > later] == wanted, machine

    # The next worker finds only states that can be read.
    caplog.clear()
    async with site.working() as worker:
        last = readings("p0", 1, start_ms=later + (FRAMES + 2) * FRAME_MS)
        await site.send(last)
        await processed(worker, len(last))
        assert metric(worker, "faultline_states_refused_total") == 0
        assert worker.restored == len(MACHINES) + len(whole)
    assert json.dumps([one for one in caplog.messages if "cannot be read" in one]) == "[]"
