"""Delivery: Kafka records reach an agent in chunks, merged by time over topics, and are committed only when acked.

A *topic group* is the topics that one agent reads together. Faust delivers one message a *chunk*: the records of
all assigned partitions of a group. Chunks are committed in the order in which they were handed out, and only the
acked prefix of them, so an agent may hold events back and ack them after a checkpoint:

    app = faust.App("faultline", broker="memory://plant", stream_wait_empty=False, topic_disable_leader=True,
                    web_enabled=False, store="memory://")
    install(app, [["sensors", "events", "control"]], prefix="faultline.")
    topic = app.topic("faultline.sensors", "faultline.events", "faultline.control",
                      value_type=bytes, value_serializer="raw")

    @app.agent(topic)
    async def diagnose(stream):
        held = []
        async for event in stream.noack().events():
            chunk = event.value
            outputs = engine.process(chunk.records)   # must not raise: log, mark as failed, stop the worker
            chunk.processed = True                    # the next chunk may come
            await publisher.publish(outputs)
            held.append(event)
            if len(held) == 8:
                await publisher.flush()
                for event in held:                    # only now may these records be forgotten
                    event.ack()
                held.clear()

Without `noack()` an event is acked when the loop goes on to the next one. After a rebalance, and whenever reading
starts again from the committed offsets, `chunk.epoch` rises: acks of older chunks no longer have an effect, and their
records come again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from faust.transport.consumer import Consumer
from faust.types import ConsumerMessage
from mode.utils.futures import notify

from agents.delivery.groups import Delivery, Fetched, TopicGroup
from agents.delivery.merging import TP, Chunk
from agents.delivery.topic_logs import LogPosition
from pipeline.config.topics import full_topic_name


class ChunkedConsumerMixin(Consumer):
    """Makes a Faust consumer deliver topic groups in chunks; other topics are delivered as in Faust.

    A driver's consumer supplies `_fetch`. Faust's own bookkeeping of acks is bypassed for groups: it commits past
    offsets that were never acked (faust issue 606). Chunks in flight are counted, and Faust's flag on their messages
    says whether they are acked. They are numbered through, so message offsets are not offsets of a log.

    It overrides and uses names that are private to Faust, checked with faust-streaming 0.15.3 and mode-streaming 0.7.1;
    tests/agents/test_private_names.py pins them.
    """

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        delivery: Delivery | None = transport.delivery
        self._groups = [] if delivery is None else [TopicGroup(topics, delivery) for topics in delivery.groups]
        self._managed: set[TP] = set()
        self._before_revoked = None if delivery is None else delivery.before_revoked
        self._on_log_behind = None if delivery is None else delivery.on_log_behind
        self.log_ids: Mapping[str, str] = {}  # by the topics' names on the broker; they go with what is committed
        self.records_lost: Counter[str] = Counter()  # by topic, deleted before they could be read
        self._lost_up_to: dict[TP, int] = {}
        self.connected = False
        """Whether the broker has answered, and the group can be joined."""
        self.commits_fail = False
        """Whether the broker has not taken the last commit of chunks."""
        self._agent_commits = delivery is not None and delivery.commits_itself
        self.groups_topics: dict[str, str] = {}
        if delivery is not None:
            topics = (topic for topics in delivery.groups for topic in topics)
            self.groups_topics = {full_topic_name(delivery.prefix, topic): topic for topic in topics}
        self._epoch = 0
        self._handed_out = 0
        self._torn = False  # records were fetched that will not be handed out
        super().__init__(transport, *args, **kwargs)

    async def log_positions(self, places: Sequence[TP]) -> Mapping[TP, LogPosition]:
        """Ends and committed offsets of partitions; raises DeliveryError."""
        raise NotImplementedError

    async def _fetch(self, wanted: AbstractSet[TP], timeout: float) -> Fetched:
        """Records of `wanted` as soon as there are any or `timeout` is over; none at once if `wanted` is empty.

        Marks are of all managed partitions, taken in the same moment as the records.
        """
        raise NotImplementedError

    # -- what metrics and liveness need -------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of chunks that are handed out now; records of chunks of earlier ones come again."""
        return self._epoch

    @property
    def positions(self) -> dict[TP, int]:
        """Offset behind the last processed record."""
        return {tp: offset for group in self._groups for tp, offset in group.processed().items()}

    @property
    def held_offsets(self) -> dict[TP, int]:
        """Offset from which records would come again after a crash: behind the last acked chunk."""
        return {tp: offset for group in self._groups for tp, offset in group.held().items()}

    @property
    def committed_offsets(self) -> dict[TP, int]:
        """The same, of partitions of which everything acked is committed."""
        held = self.held_offsets
        pending = {tp for group in self._groups for tp in group.uncommitted}
        return {tp: offset for tp, offset in held.items() if tp not in pending}

    def lag(self) -> dict[TP, int]:
        """Records in the log that are not processed yet; without partitions of which nothing is known yet."""
        positions, ends = self.positions, self._ends()
        return {tp: max(0, end - positions[tp]) for tp, end in ends.items() if tp in positions}

    def lag_by_name(self) -> dict[tuple[str, int], int]:
        """The same of the groups' topics, by short name and partition."""
        return {(self.groups_topics[place.topic], place.partition): records for place, records in self.lag().items()}

    def _ends(self) -> dict[TP, int]:
        return {tp: end for group in self._groups for tp, end in group.merger.ends.items()}

    # -- reading ------------------------------------------------------------------------------------------------

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """One round: fetch, merge, and hand out as many chunks per group as the limit allows."""
        if not self._groups or self.app.client_only:
            async for item in super().getmany(timeout):
                yield item
            return
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self._torn and not await self._read_again():
            return
        active = self._get_active_partitions()
        if self.should_stop or not active:
            await self.sleep(0.05)
            return
        epoch, complete = self._epoch, False

        def stale() -> bool:
            return self._epoch != epoch or not self.flow_active or self.should_stop

        try:
            fetched = await self._next_fetch(active, timeout)
            if stale():
                complete = not (fetched.records or fetched.others)
                return
            for tp, record in self.scheduler.iterate(fetched.others):
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, self._to_message(tp, record)
                if stale():
                    return
            self._merge(fetched)
            for group in self._groups:
                while group.ready and not group.busy:
                    message = self._chunk_message(group, group.ready.popleft())
                    yield message.tp, message
                    if stale():
                        return
            complete = True
        finally:
            self._torn |= not complete

    def _note_lost(self, lost: Sequence[tuple[TP, int, int]]) -> None:
        for tp, first, end in lost:
            begin = max(first, self._lost_up_to.get(tp, 0))  # what is read again may be lost again
            if begin < end:
                self._lost_up_to[tp] = end
                self.records_lost[self.groups_topics[tp.topic]] += end - begin
                self.log.warning(
                    "topic %s, partition %d: %d records (offsets %d to %d) were deleted before they could be read",
                    *tp,
                    end - begin,
                    begin,
                    end - 1,
                )

    def _merge(self, fetched: Fetched) -> None:
        for group in self._groups:
            group.merger.feed(fetched.records, fetched.marks)
            group.ready += group.merger.release()

    async def _next_fetch(self, active: AbstractSet[TP], timeout: float) -> Fetched:
        wanted = set(active)
        for group in self._groups:
            wanted -= group.merger.tps if group.ready else group.merger.full
        if any(group.ready and not group.busy for group in self._groups):
            timeout = 0.0  # an agent has made progress since the last round
        elif any(group.ready for group in self._groups):
            if not wanted:
                await self._any_progress(0.25)
            timeout = 0.02
        elif any(group.merger.waiting for group in self._groups):
            timeout = 0.005
        fetched = await self._fetch(wanted, timeout)
        self._note_lost(fetched.lost)
        if fetched.behind:
            await self._tell_behind(fetched.behind)
        return fetched

    def _chunk_message(self, group: TopicGroup, chunk: Chunk) -> Any:
        chunk.epoch = self._epoch
        chunk._on_processed = self._progress
        tp = group.route
        self._handed_out += 1
        message = ConsumerMessage(
            tp.topic,
            tp.partition,
            self._handed_out,
            chunk.records[-1].timestamp_ms / 1000,
            0,
            (),
            None,
            chunk,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )
        group.hand_out(message, chunk)
        return message

    def _progress(self) -> None:
        notify(self._waiting_for_ack)

    async def _any_progress(self, timeout: float) -> None:
        """Wait until a chunk is processed or acked; Faust resolves this future on every ack."""
        self._waiting_for_ack: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._waiting_for_ack], timeout=timeout)
        self._waiting_for_ack = None

    # -- reading again ------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._epoch += 1
        self.commits_fail = False
        for group in self._groups:
            group.restart(self._managed)
        self._progress()

    async def _tell_behind(self, behind: AbstractSet[TP]) -> None:
        if self._on_log_behind is None:
            await self.read_again(behind)
        else:
            self._on_log_behind(behind)

    async def read_again(self, from_beginning: AbstractSet[TP] = frozenset()) -> bool:
        """Forget what was read, and begin at the committed offsets again; with some logs at their beginnings instead.

        Returns whether these are committed, without which another worker might begin elsewhere.
        """
        self._forget()
        self._torn = True
        for tp in from_beginning:
            self._lost_up_to.pop(tp, None)
        # A commit under way may still write the offset of a former log.
        await self.maybe_wait_for_commit_to_finish()
        return not from_beginning or await self._commit(dict.fromkeys(from_beginning, 0))

    async def _read_again(self) -> bool:
        try:
            await self.perform_seek()
        except Exception as error:
            # Usually a rebalance is going on, and ends with a seek.
            self.log.warning("cannot seek to the committed offsets yet, will try again: %r", error)
            await self.sleep(0.1)
            return False
        return True

    async def perform_seek(self) -> None:
        """Go back to the committed offsets."""
        self._forget()
        # Before the seek: a fetch that ends during it has already moved past some of the committed offsets.
        self._torn = False
        try:
            await super().perform_seek()
        except BaseException:
            self._torn = True
            raise
        for tp in self._managed:
            # Messages of groups have numbers of their own, which offsets of logs must not be compared with.
            self._read_offset.pop(tp, None)
            self._committed_offset.pop(tp, None)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commit what is acked, forget the rest: its next owner begins at the committed offsets."""
        if self._groups:
            if self._before_revoked is not None:
                await self._before_revoked()
            await self.maybe_wait_for_commit_to_finish()
            await self.commit()
            self._managed = set()
            self._forget()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Begin with the assigned partitions."""
        self._managed = {tp for tp in assigned if tp.topic in self.groups_topics}
        self._forget()
        await super().on_partitions_assigned(assigned, generation_id)

    # -- committing ---------------------------------------------------------------------------------------------

    async def on_stop(self) -> None:
        """Commit what is acked."""
        # While a commit is under way another one does nothing, and the one under way may lack the last acks.
        await self.maybe_wait_for_commit_to_finish()
        await super().on_stop()

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what Faust tracks itself, then the acked chunks."""
        committed = await super().force_commit(topics, start_new_transaction)
        return await self._commit_chunks(start_new_transaction) or bool(committed)

    async def _commit_chunks(self, start_new_transaction: bool) -> bool:
        offsets: dict[TP, int] = {}
        for group in self._groups:
            group.collect_acked()
            offsets.update(group.uncommitted)
        for tp in self._managed:
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)
        if not offsets:
            return False
        if self._agent_commits:
            # Committed again it might be behind what the agent has committed since.
            for group in self._groups:
                group.uncommitted.clear()
            return False
        committed = await self._commit_offsets(offsets, start_new_transaction=start_new_transaction)
        for tp in offsets:
            self._committed_offset.pop(tp, None)
        self.commits_fail = not committed
        if not committed:
            return False  # still in `uncommitted`: tried again with the next commit
        for group in self._groups:
            group.uncommitted = {tp: offset for tp, offset in group.uncommitted.items() if offsets.get(tp) != offset}
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterable[TP]:
        return (tp for tp in super()._filter_tps_with_pending_acks(topics) if tp.topic not in self.groups_topics)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in self.groups_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's check of partitions; it does not know chunks, see `lag`."""
        if tp.topic not in self.groups_topics:
            super().verify_event_path(now, tp)
