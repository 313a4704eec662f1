"""Faults on demand: a story to process, points at which its worker dies, and what has to be equal in the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from agents.delivery.publisher import Publisher
from agents.delivery.states import Span, StateStore
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from agents.worker.worker import Worker
from pipeline.errors import DeliveryError
from pipeline.wire.messages import LAST_DECIMAL
from pipeline.wire.records import Output, Record
from tests.support.probabilities import probability_difference

POINTS = ("decode", "after_engine", "output_send", "flush", "state_write", "ack", "commit")
"""Where a worker can be made to die, in the order in which a chunk comes by.

`output_send` is half way through the outputs of a chunk. `state_write` is before, half way through and behind a write
of several states, `ack` before every one, `commit` before the broker hears of it and before the worker knows that it
did.
"""

T0_MS = 1_763_600_000_000
STATE_TTL_S = 90

STORY_PLANT = f"""
plant: chaos
machine_types:
  - name: mill
    frame_period: 10s
    max_gap_frames: 3
    max_skew: 1m
    text_ttl_frames: 6
    state_ttl: {STATE_TTL_S}s
    sources:
      fast: {{topic: sensors.fast, expected_period: 5s, allowed_disorder: 10s, idle_after: 20s}}
      slow: {{topic: sensors.slow, expected_period: 10s, allowed_disorder: 5s, idle_after: 40s}}
    faults: [normal, leak, jam]
    variables:
      - {{name: shake, source: fast, aggregation: mean}}
      - {{name: peak, source: fast, aggregation: max}}
      - {{name: heat, source: slow}}
"""


class KilledError(DeliveryError):
    """What a worker on memory:// meets everywhere once it is dead."""


class Probes:
    """Counts how often a worker comes by each point, and lets it die at one of them."""

    def __init__(
        self, at: Mapping[str, int] | None = None, die: Callable[[], None] | None = None, pace_s: float = 0.0
    ) -> None:
        """`at` says at which hit of which points; `die` how, else all doors to the broker are shut from there on.

        `pace_s` is waited before every chunk, so that a worker does not run out of work.
        """
        unknown = set(at or ()) - set(POINTS)
        if unknown:
            raise ValueError(f"no such points: {sorted(unknown)}")
        self.hits: Counter[str] = Counter()
        self.dead = False
        self.died_at: str | None = None
        self._at = dict(at or {})
        self._how = die
        self._pace_s = pace_s

    def hit(self, point: str) -> None:
        """The worker comes by."""
        self.alive()
        self.hits[point] += 1
        if self.hits[point] == self._at.get(point):
            self.died_at = point
            self.die()

    def die(self) -> None:
        """From here on nothing that the worker does has any effect."""
        self.dead = True
        if self._how is not None:
            self._how()
        raise KilledError("dead")

    def alive(self) -> None:
        """Raises KilledError for a dead worker."""
        if self.dead:
            raise KilledError("dead")

    def publisher(self, inner: Publisher) -> ProbedPublisher:
        """A publisher that comes by `output_send` and `flush`."""
        return ProbedPublisher(inner, self)

    def store(self, inner: StateStore) -> ProbedStore:
        """A store that comes by `state_write`."""
        return ProbedStore(inner, self)

    def attach(self, worker: Worker) -> None:
        """Watch the other points of a worker that has been made with this publisher and store."""
        engine, process, consumer = worker.engine.process, worker._process, worker.app.consumer
        commit = consumer._commit

        def probed_engine(records: Sequence[Record]) -> list[Output]:
            self.hit("decode")
            outputs = engine(records)
            self.hit("after_engine")
            return outputs

        async def probed_process(event: Any) -> None:
            await asyncio.sleep(self._pace_s)
            await process(_ProbedEvent(event, self))

        async def probed_commit(offsets: Any) -> bool:
            # Faust calls this too, and knows no DeliveryError; the shut doors see to it that nothing follows.
            try:
                self.hit("commit")
                committed = bool(await commit(offsets))
                self.hit("commit")
            except KilledError:
                return False
            return committed

        worker.engine.process = probed_engine  # type: ignore[method-assign]
        worker._process = probed_process  # type: ignore[method-assign]
        consumer._commit = probed_commit


class _ProbedEvent:
    def __init__(self, event: Any, probes: Probes) -> None:
        self.value = event.value
        self._event = event
        self._probes = probes

    def ack(self) -> None:
        self._probes.hit("ack")
        self._event.ack()


class ProbedPublisher:
    """Publishes in two halves."""

    def __init__(self, inner: Publisher, probes: Probes) -> None:
        self._inner = inner
        self._probes = probes

    async def start(self) -> None:
        await self._inner.start()

    async def publish(self, outputs: Sequence[Output]) -> None:
        self._probes.alive()
        half = len(outputs) // 2
        await self._inner.publish(outputs[:half])
        self._probes.hit("output_send")
        await self._inner.publish(outputs[half:])

    async def flush(self) -> None:
        self._probes.hit("flush")
        await self._inner.flush()

    async def stop(self) -> None:
        await self._inner.stop()


class ProbedStore:
    """Writes in two halves."""

    def __init__(self, inner: StateStore, probes: Probes) -> None:
        self._inner = inner
        self._probes = probes

    @property
    def records_read(self) -> int:
        return self._inner.records_read

    async def start(self) -> None:
        await self._inner.start()

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        self._probes.hit("state_write")
        items = list(states.items())
        await self._inner.write(dict(items[: len(items) // 2]))
        self._probes.hit("state_write")
        await self._inner.write(dict(items[len(items) // 2 :]))
        self._probes.hit("state_write")

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        self._probes.alive()
        return await self._inner.read(partitions)

    async def history(self, span: Span) -> list[Record]:
        self._probes.alive()
        return await self._inner.history(span)

    async def incidents(self, since: Mapping[int, int]) -> tuple[list[Record], dict[int, int]]:
        self._probes.alive()
        return await self._inner.incidents(since)

    async def stop(self) -> None:
        await self._inner.stop()


class LaggingPublisher:
    """Publishes to a memory broker as late as it may, as a producer with batches does.

    What is handed over leaves in any order, except that of one partition of a topic; a part of it at once, the rest
    with `flush`. So a worker that dies in between leaves any part of it.
    """

    def __init__(self, broker: MemoryBroker, seed: int) -> None:
        self._inner = MemoryPublisher(broker)
        self._random = random.Random(seed)
        self._lanes: dict[tuple[str, int | None], deque[Output]] = {}

    async def start(self) -> None:
        """Nothing to connect to."""

    async def publish(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self._lanes.setdefault((output.topic, output.partition), deque()).append(output)
        for lane in self._random.sample(list(self._lanes.values()), len(self._lanes)):
            await self._send(lane, self._random.randint(0, len(lane)))

    async def flush(self) -> None:
        for lane in self._lanes.values():
            await self._send(lane, len(lane))
        await self._inner.flush()

    async def stop(self) -> None:
        """Nothing to disconnect from."""

    async def _send(self, lane: deque[Output], count: int) -> None:
        for _ in range(count):
            await self._inner.publish([lane[0]])
            lane.popleft()


# -- what is processed ----------------------------------------------------------------------------------------


def story(
    seconds: int, partition_of: Callable[[bytes], int], partitions: int, *, machines: int = 6, seed: int = 0
) -> list[Record]:
    """Everything that can happen in a plant: texts, late and wrong records, resets, silence, machines that are
    forgotten and come back. Time stamps never decrease, so what comes of it is a function of the topics alone.
    """
    rng = random.Random(seed)
    names = [f"mill-{number}" for number in range(machines)]
    silent_until = dict.fromkeys(names, 0)
    records: list[Record] = []

    def add(topic: str, now: int, key: str | None, value: Any, partition: int | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        encoded = None if key is None else key.encode()
        if partition is None:
            partition = partition_of(encoded or b"")
        records.append(Record(topic, partition, 0, T0_MS + now * 1000, encoded, body))

    for now in range(0, seconds, 5):
        for name in names:
            if now < silent_until[name]:
                continue
            if rng.random() < 0.015:
                silent_until[name] = now + rng.choice([15, 30, 60, STATE_TTL_S + 20, STATE_TTL_S + 60])
                continue
            # Forgotten is forgotten: of a machine that returns with readings from before, frames are diagnosed twice.
            behind = 0 if now - silent_until[name] < 100 else rng.choice([0, 0, 0, 0, 0, 0, 0, 2, 6, 70])
            values = [rng.choice([None, round(rng.gauss(0, 2), 3)]), round(rng.gauss(1, 2), 3)]
            body = {"machine": name, "time": T0_MS + (now - behind) * 1000, "values": values}
            add("sensors.fast", now, name, body)
            if rng.random() < 0.03:
                add("sensors.fast", now, name, body)
            if now % 10 == 0 or rng.random() < 0.1:
                body = {"machine": name, "time": T0_MS + (now - (behind and 40)) * 1000}
                add("sensors.slow", now, name, body | {"values": {"heat": round(rng.gauss(0, 1), 3)}})
            if rng.random() < 0.08:
                text = {"machine": name, "time": T0_MS + (now - rng.choice([0, 0, 15, 90])) * 1000}
                add("events", now, name, text | {"text": f"seen {rng.randrange(30)}", "id": f"e{rng.randrange(200)}"})
            if rng.random() < 0.01:
                add("sensors.fast", now, name, rng.choice([b"{", b"[]", {"machine": name, "time": 1, "values": [1.0]}]))
                add("events", now, name, {"machine": "mill-x", "time": T0_MS, "text": "somebody else's"})
        if rng.random() < 0.05:
            name = rng.choice([*names, "mill-unknown"])
            add("control", now, name, {"kind": rng.choice(["reset", "end"]), "machine": name, "time": None})
        if now % 15 == 0:
            for partition in range(partitions):
                add("control", now, None, {"kind": "tick", "time": T0_MS + now * 1000}, partition)
    # A state holds its partition's time when it was saved. Without these, that would depend on when checkpoints were.
    for name in names:
        add("sensors.fast", seconds, name, {"machine": name, "time": T0_MS + seconds * 1000, "values": [0.5, 1.5]})
    return records


# -- what comes of it -----------------------------------------------------------------------------------------

_BY_CHUNK = ("faultline-late-by-ms", "faultline-closed-until-ms")

OUTPUTS = ("diagnoses", "alarms", "late", "dead-letter")


class Verdict(NamedTuple):
    """What a comparison with the undisturbed run has found."""

    verified: int
    duplicates: int
    lost: list[str]
    differing: list[str]

    @property
    def good(self) -> bool:
        """Nothing lost, nothing said differently."""
        return not self.lost and not self.differing

    def __str__(self) -> str:
        lines = [f"{self.verified} verified, {self.duplicates} duplicates"]
        lines += [f"lost: {len(self.lost)}", *self.lost[:5], f"differing: {len(self.differing)}", *self.differing[:5]]
        return "\n".join(lines)


def said(topic: str, records: Iterable[Record]) -> dict[str, Counter[Any]]:
    """By identity, how often each content was published: a diagnosis has an id, a letter an origin."""
    contents: dict[str, Counter[Any]] = {}
    for record in records:
        if topic in ("late", "dead-letter"):
            headers = dict(record.headers)
            origin = (headers[f"faultline-{name}"] or b"" for name in ("topic", "partition", "offset"))
            identity = b":".join(origin).decode()
            # How late a text was when it expired is told as of the end of its chunk.
            cut = _BY_CHUNK if headers["faultline-reason"] == b"expired" else ()
            kept = tuple(header for header in record.headers if header[0] not in cut)
            content: Any = record.key, record.value, kept
        else:
            identity, content = json.loads(record.value or b"")["id"], (record.key, record.value)
        contents.setdefault(f"{topic} {identity}", Counter())[content] += 1
    return contents


def compare(
    expected: Mapping[str, Sequence[Record]], found: Mapping[str, Sequence[Record]], *, exact: bool = True
) -> Verdict:
    """Judge the outputs of a disturbed run. Not `exact` means that numbers may differ in their last decimal."""
    verified = duplicates = 0
    lost, differing = [], []
    for topic in expected:
        before, after = said(topic, expected[topic]), said(topic, found[topic])
        lost += sorted(before.keys() - after.keys())
        differing += [f"{identity}: never said undisturbed" for identity in sorted(after.keys() - before.keys())]
        for identity in before.keys() & after.keys():
            (content,) = before[identity]
            duplicates += after[identity].total() - before[identity].total()
            if len(after[identity]) > 1 or not _alike(content, next(iter(after[identity])), exact):
                differing.append(f"{identity}:\n  {content}\n  {list(after[identity])}")
            else:
                verified += 1
    return Verdict(verified, duplicates, lost, differing)


def _alike(one: Any, other: Any, exact: bool) -> bool:
    if one == other or exact:
        return bool(one == other)
    return one[0] == other[0] and _close(json.loads(one[1]), json.loads(other[1]))


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return False
        return all(
            probability_difference(one[name], other[name]) < 1.5 * LAST_DECIMAL
            if name == "probabilities"
            else _close(one[name], other[name])
            for name in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1.5 * LAST_DECIMAL
    return bool(one == other)


def states(saved: Mapping[str, bytes]) -> dict[str, Any]:
    """States as they can be compared.

    Left out are the offsets up to which records are applied. A state is saved when its machine changes; how far its
    partition had got then is a matter of when the worker made its checkpoints, and records that are not its own do
    not count.
    """
    decoded = {}
    for machine, state in saved.items():
        content = msgspec.msgpack.decode(state)
        if content.get("forgotten"):
            continue
        for name in ("applied", "check"):  # the checksum is of the offsets too
            content.pop(name, None)
        content["runner"] = list(content["runner"])
        decoded[machine] = content
    return decoded


def differing_states(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Machines of which the states are not the same, and in what."""
    before, after = states(expected), states(found)
    problems = [f"{machine}: known on one side only" for machine in sorted(before.keys() ^ after.keys())]
    for machine in sorted(before.keys() & after.keys()):
        one, other = _flat(before[machine]), _flat(after[machine])
        problems += [
            f"{machine}: {name}: {one.get(name)!r} became {other.get(name)!r}"
            for name in sorted(one.keys() | other.keys())
            if one.get(name) != other.get(name)
        ]
    return problems


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    # Each broker gives its topics other ids, and the checksum is that of all.
    return {name: value for name, value in state.items() if name not in ("aligner", "logs", "check")} | {
        f"aligner.{name}": value for name, value in state["aligner"].items()
    }
