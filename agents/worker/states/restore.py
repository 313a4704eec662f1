"""Saved states go back into the engine when partitions come.

A state that belongs to another model or profile is kept for its own workers, and its machine begins with a fresh one or
is warmed up; or it goes on from a state that was kept for this worker, and catches up without any output. A state that
cannot be read is kept as a dead letter, and its machine begins with a fresh one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from agents.delivery.kept_states import KEPT_MS, kept_name, kept_of, of_machines, origin, origin_of, outdated, wrap
from agents.delivery.merging import TP
from agents.delivery.publisher import Publisher
from agents.delivery.states import Span, StateStore
from agents.worker.states.engine import StatefulEngine
from agents.worker.states.topic_watch import TopicWatch
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, full_topic_name
from pipeline.errors import DeliveryError, StateError
from pipeline.wire.letters import dead_letter
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Record
from pipeline.wire.states import SavedAt, belongs_elsewhere, decode_state, saved_at

log = logging.getLogger("faultline.worker")

_MACHINES_AT_ONCE = 256
"""Machines that are restored before other tasks have their turn."""

_START_OFFSET_SECONDS = 30.0

_CATCH_UP_MS = 3_600_000
"""Records of so long a time are read at once where machines go on from states that were kept."""


class Restorer:
    """Restores the machines of a worker's partitions from the state store."""

    def __init__(
        self,
        engine: StatefulEngine,
        store: StateStore,
        publisher: Publisher,
        settings: Settings,
        topics: Sequence[str],
        *,
        state_topic: str,
        keys: str,
        is_time: Callable[[Record], bool],
        partition_of: Callable[[bytes], int],
        consumer: Callable[[], Any],
        wall_seconds: Callable[[], float],
        monotonic_seconds: Callable[[], float],
    ) -> None:
        """`publisher` is for dead letters; `topics` are those that states depend on, in the order of equal time stamps.

        `is_time` recognises records that every key of their partition depends on; `state_topic` is named in dead
        letters of states, and `keys` are what the log calls those that have states: machines or areas.
        """
        self.restored = 0
        """Machines that began with a saved state."""
        self._taken = 0
        self._engine = engine
        self._store = store
        self._publisher = publisher
        self._settings = settings
        self._state_topic = state_topic
        self._keys = keys
        self._is_time = is_time
        self._topics = topics
        self._partition_of = partition_of
        self._consumer = consumer
        self._wall_seconds = wall_seconds
        self._monotonic_seconds = monotonic_seconds

    @property
    def steps(self) -> tuple[int, int]:
        """Different whenever restoring has come further."""
        return self._store.records_read, self._taken

    async def restore(self, partitions: Sequence[int], watch: TopicWatch | None) -> bool:
        """Give the engine all machines of these partitions; raises FaultlineError.

        Returns whether states have to be written at once, because they belong to topics that are gone.
        """
        found = await self._store.read(partitions)
        states, unreadable = self._readable(self._without_moved(of_machines(found)))
        kept = kept_of(found)
        stale: Mapping[str, AbstractSet[str]] = {}
        if watch is not None:
            stale = await watch.settle(partitions, states)
            self._engine.note_logs(watch.log_ids())
        newest_ms = _newest_ms(states)
        # First, because their machines' time has not come as far as that of the others.
        returned = await self._go_on_from_kept(states, kept, stale.keys(), newest_ms)
        refused: dict[str, str] = {}
        for count, (machine, state) in enumerate(states.items(), 1):
            if machine in returned:
                continue
            try:
                self._engine.restore(machine, state, stale.get(machine, frozenset()))
            except Exception as error:  # whatever the bytes are, the worker goes on
                self._engine.forget(machine)
                # Messages differ only in the machine's name, so one line per reason is enough.
                reason = str(error).replace(machine, "a machine") if isinstance(error, StateError) else repr(error)
                self._note(machine, state, reason, refused, unreadable)
            self._taken += 1
            if count % _MACHINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._keep_aside(unreadable)
        in_use = {machine: origin_of(state) for machine, state in states.items()}
        in_use |= dict.fromkeys([*refused, *returned, *unreadable])
        wanted = {machine: states[machine] for machine in (*refused, *returned)}
        await self._keep(wanted, kept, in_use, max(newest_ms.values(), default=0))
        fresh = sum(machine in self._engine.forgotten for machine in stale)
        restored = sum(machine not in refused and machine not in unreadable for machine in states) - fresh
        self.restored += restored
        warm_up = self._settings.state_refused == "warm_up"
        for reason, machines in Counter(refused.values()).items():
            action = "are warmed up from their last frames" if warm_up else "start with empty states"
            log.warning("%s: %d %s %s", reason, machines, self._keys, action)
        if warm_up:
            await self._warm_up({machine: states[machine] for machine in refused})
        if fresh:
            text = "%d %s begin with a fresh state: their readings come from another topic now"
            log.warning(text, fresh, self._keys)
        log.info("restored the states of %d %s", restored, self._keys)
        return bool(stale)

    def _readable(self, states: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, tuple[bytes, str]]]:
        """The states that can be read, and the others with reasons: nothing may follow from what stands in these."""
        found: dict[str, bytes] = {}
        unreadable: dict[str, tuple[bytes, str]] = {}
        for machine, state in states.items():
            try:
                decode_state(machine, state)
            except StateError as error:
                if not belongs_elsewhere(machine, state, *self._model_of(machine)):
                    self._engine.stats.states_refused += 1
                    unreadable[machine] = state, str(error)
                    continue
            found[machine] = state
        return found, unreadable

    def _note(
        self,
        machine: str,
        state: bytes,
        reason: str,
        refused: dict[str, str],
        unreadable: dict[str, tuple[bytes, str]],
    ) -> None:
        if belongs_elsewhere(machine, state, *self._model_of(machine)):
            refused[machine] = reason
        else:
            unreadable[machine] = state, reason

    def _model_of(self, machine: str) -> tuple[str, str, str] | tuple[None, None, None]:
        """A machine's type, the type's digest and its model's hash."""
        owner = self._engine.owner_of(machine)
        return (None, None, None) if owner is None else owner[:3]

    async def _keep_aside(self, unreadable: Mapping[str, tuple[bytes, str]]) -> None:
        """Make dead letters of states that cannot be read, and only then delete them."""
        if not unreadable:
            return
        now_ms, letters = int(self._wall_seconds() * 1000), []
        for machine, (state, reason) in unreadable.items():
            key = machine.encode()
            record = Record(self._state_topic, self._partition_of(key), -1, now_ms, key, state)
            letters.append(dead_letter(record, RejectedError(Reason.UNREADABLE_STATE, reason)))
            self._engine.stats.dead_letters[Reason.UNREADABLE_STATE] += 1
        await self._publisher.publish(letters)
        await self._publisher.flush()
        await self._store.write(dict.fromkeys(unreadable))
        machine, (_, reason) = next(iter(unreadable.items()))
        log.error(
            "%d saved states cannot be read, such as that of %s (%s): they are in the dead letters, and their %s "
            "begin with fresh ones",
            len(unreadable),
            machine[:80],
            reason[:300],
            self._keys,
        )

    def _without_moved(self, states: Mapping[str, bytes]) -> dict[str, bytes]:
        """The states without those of machines whose keys belong to another partition since the topics have more."""
        kept = {
            machine: state
            for machine, state in states.items()
            if saved_at(state).partition in (-1, self._partition_of(machine.encode()))
        }
        if len(kept) < len(states):
            gone = len(states) - len(kept)
            log.warning("%d %s were saved in partitions that are not theirs any more", gone, self._keys)
        return kept

    async def _go_on_from_kept(
        self,
        states: Mapping[str, bytes],
        kept: Mapping[str, Mapping[str, bytes]],
        stale: AbstractSet[str],
        newest_ms: Mapping[int, int],
    ) -> set[str]:
        """Restore machines that worked under another model or profile lately from what was kept for this one."""
        returned: dict[int, dict[str, SavedAt]] = {}
        for machine, by_origin in kept.items():
            state, (kind, profile, model) = states.get(machine), self._model_of(machine)
            own = None if kind is None or profile is None or model is None else origin(kind, profile, model)
            current = None if state is None else origin_of(state)
            if state is None or machine in stale or own is None or current in (None, own) or own not in by_origin:
                continue
            before, at = saved_at(by_origin[own]), saved_at(state)
            until_ms = newest_ms.get(at.partition)
            if before.last is None or until_ms is None or until_ms - before.last > KEPT_MS:
                continue
            if not _have_same_logs(before, at):
                continue
            try:
                self._engine.restore(machine, by_origin[own])
            except Exception as error:  # whatever the bytes are, the worker goes on
                self._engine.forget(machine)
                log.warning("the state of %s that was kept for this worker cannot be used: %s", machine[:80], error)
                continue
            returned.setdefault(self._partition_of(machine.encode()), {})[machine] = before
        for partition, machines in returned.items():
            records = await self._catch_up(partition, machines, states, newest_ms[partition])
            log.info(
                "partition %d: %d %s go on from states kept for their model and profile, after %d records",
                partition,
                len(machines),
                self._keys,
                records,
            )
        return {machine for machines in returned.values() for machine in machines}

    async def _catch_up(
        self, partition: int, machines: Mapping[str, SavedAt], states: Mapping[str, bytes], newest_ms: int
    ) -> int:
        """Take in without output what another worker diagnosed since the states were kept; returns how much that was.

        Records behind `newest_ms` were refused by that worker, because their time had not come.
        """
        ranks = {topic: rank for rank, topic in enumerate(self._topics)}
        applied = {machine: saved_at(states[machine]).applied for machine in machines}
        ends = {
            topic: max(
                await self._start_offset(topic, partition), *(one.get(topic, -1) + 1 for one in applied.values())
            )
            for topic in ranks
        }
        keys, count = {machine.encode() for machine in machines}, 0
        left_ms = [before.last for before in machines.values() if before.last is not None]
        begin_ms, newest_ms = min(left_ms), max(newest_ms, *left_ms)
        while begin_ms <= newest_ms:
            end_ms = begin_ms + _CATCH_UP_MS
            span = Span(partition, begin_ms, ends, None if end_ms > newest_ms else end_ms)
            records = [
                record
                for record in await self._store.history(span)
                if (record.key in keys or self._is_time(record)) and record.timestamp_ms <= newest_ms
            ]
            records.sort(key=lambda record: (record.timestamp_ms, ranks[record.topic], record.offset))
            self._engine.warm_up(records)
            count += len(records)
            begin_ms = end_ms
            await asyncio.sleep(0)
        for machine in machines:
            self._engine.note_applied(machine, applied[machine])
        return count

    async def _keep(
        self,
        states: Mapping[str, bytes],
        kept: Mapping[str, Mapping[str, bytes]],
        in_use: Mapping[str, str | None],
        newest_ms: int,
    ) -> None:
        """Keep states of other models and profiles before anything is written over them, and drop what is outdated."""
        wanted = {
            machine: {state_origin: state}
            for machine, state in states.items()
            if (state_origin := origin_of(state)) is not None
        }
        all_kept = {name: {**kept.get(name, {}), **wanted.get(name, {})} for name in kept.keys() | wanted.keys()}
        changes: dict[str, bytes | None] = {
            kept_name(machine, state_origin): wrap(state)
            for machine, by_origin in wanted.items()
            for state_origin, state in by_origin.items()
        }
        changes |= dict.fromkeys(outdated(all_kept, in_use, newest_ms))
        if changes:
            await self._store.write(changes)
        if wanted:
            log.warning(
                "%d states of another model or profile are kept for %d days, for workers of these",
                len(wanted),
                KEPT_MS // 86_400_000,
            )

    async def _warm_up(self, states: Mapping[str, bytes]) -> None:
        """Read the last frames of machines again whose states belong to another model, without any output."""
        since: dict[int, int] = {}
        for machine, state in states.items():
            owner, last_ms = self._engine.owner_of(machine), saved_at(state).last
            if owner is not None and last_ms is not None:
                partition = self._partition_of(machine.encode())
                begin_ms = last_ms - self._settings.warm_up_frames * owner.frame_period_ms
                since[partition] = min(since.get(partition, begin_ms), begin_ms)
        keys = {machine.encode() for machine in states}
        ranks = {topic: rank for rank, topic in enumerate(self._topics) if topic != CONTROL}
        for partition, since_ms in since.items():
            ends = {topic: await self._start_offset(topic, partition) for topic in ranks}
            history = await self._store.history(Span(partition, since_ms, ends))
            records = [record for record in history if record.key in keys]
            records.sort(key=lambda record: (record.timestamp_ms, ranks[record.topic], record.offset))
            self._engine.warm_up(records)

    async def _start_offset(self, topic: str, partition: int) -> int:
        """The offset at which this worker begins to read, as soon as the broker has sent it."""
        place = TP(full_topic_name(self._settings.topic_prefix, topic), partition)
        until = self._monotonic_seconds() + _START_OFFSET_SECONDS
        while (offset := self._consumer().held_offsets.get(place)) is None:
            if self._monotonic_seconds() > until:
                raise DeliveryError(
                    f"the broker has not sent a start offset for {place.topic}, partition {partition}, "
                    f"in {_START_OFFSET_SECONDS:.0f} s"
                )
            await asyncio.sleep(0.01)
        return int(offset)


def _newest_ms(states: Mapping[str, bytes]) -> dict[int, int]:
    """By partition, how far its time has come."""
    newest: dict[int, int] = {}
    for at in map(saved_at, states.values()):
        for time_ms in (at.last, at.clock):
            if time_ms is not None:
                newest[at.partition] = max(newest.get(at.partition, time_ms), time_ms)
    return newest


def _have_same_logs(one: SavedAt, other: SavedAt) -> bool:
    """Whether the offsets in two states belong to the same logs."""
    topics = one.applied.keys() & other.applied.keys()
    return all(one.logs.get(topic, "") == other.logs.get(topic, "") for topic in topics)
