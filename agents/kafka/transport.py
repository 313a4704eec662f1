"""The `kafka://` transport: Faust's aiokafka driver, reading in chunks and without its stalls.

It uses names that are private to aiokafka and to Faust; tests/agents/test_private_names.py pins them. All were checked
with aiokafka 0.14.0 and faust-streaming 0.15.3.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import FetchResult, OffsetResetStrategy
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import TRANSPORTS, aiokafka
from mode.threads import WorkerThread

from agents.delivery.consumer import ChunkedConsumerMixin
from agents.delivery.groups import Delivery, Fetched
from agents.delivery.membership import membership_error
from agents.delivery.merging import TP, Mark
from agents.delivery.topic_logs import LogPosition
from agents.kafka import header_names
from pipeline.errors import DeliveryError
from pipeline.wire.records import Record

_FETCH_MAX_WAIT_MS = 20
"""How long the broker may hold an empty fetch; busy partitions wait for it too."""

_COMMIT_TIMEOUT_S = 5.0
"""aiokafka repeats a commit while the broker is away; Faultline tries again with the next one anyway."""

_STOP_TIMEOUT_S = 3.0
"""How long a stopping worker waits for the broker's answers."""

_RETRY_S = 0.1
"""Pause after the broker has refused an offset."""

_REFUSALS = (GroupAuthorizationFailedError, TopicAuthorizationFailedError)
"""After which retrying does not help."""


def register() -> None:
    """Register this transport under `kafka://` instead of Faust's own."""
    TRANSPORTS.aliases["kafka"] = TRANSPORTS.aliases["aiokafka"] = f"{__name__}:Transport"


class _Prefetched(OrderedDict[TopicPartition, Any]):
    """What aiokafka's fetcher has read and nobody has taken, by partition; records of topic groups become `Record`s.

    aiokafka makes a frozen dataclass with eleven fields of each record, which takes half as long as the rest of
    reading it.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    def __setitem__(self, place: TopicPartition, found: Any) -> None:
        super().__setitem__(place, found)
        name = self._names.get(place.topic)
        if name is None or not isinstance(found, FetchResult):
            return
        new, partition = tuple.__new__, place.partition

        def record(_: TopicPartition, raw: Any) -> Record:
            return new(Record, (name, partition, raw.offset, raw.timestamp, raw.key, raw.value, tuple(raw.headers)))

        found._partition_records._consumer_record = record  # private; aiokafka 0.14.0


class _DaemonThread(WorkerThread):
    """mode's thread, which cannot hold up the exit of the process, nor for long the event loop that stops it."""

    def __init__(self, service: Any, **options: Any) -> None:
        super().__init__(service, **options)
        self.daemon = True

    def stop(self) -> None:
        """Wait for its end, but not for ever: mode's own waits in the event loop that the thread may need to end."""
        self.is_stopped.wait(_STOP_TIMEOUT_S)


class ConsumerThread(aiokafka.AIOKafkaConsumerThread):
    """aiokafka's consumer in its thread, whose state only code in that thread may look at."""

    Worker = _DaemonThread
    consumer: Consumer

    def __post_init__(self) -> None:
        super().__post_init__()
        delivery: Delivery | None = self.transport.delivery
        self._lost: list[tuple[TP, int, int]] = []
        self._at_most = None if delivery is None else delivery.limits.buffered_records
        self._assignment: Any = None
        self._answers = 0
        self._answered: dict[TP, tuple[int | None, int]] = {}  # when the last answer came, and its number

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        header_names.install()
        consumer = super()._create_worker_consumer(transport)
        # Private; aiokafka 0.14.0. Faust 0.15.3 sets 1,500 and has no setting for it.
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        # Records of an aborted transaction never happened. Faust sets this for its exactly-once mode only. Private;
        # aiokafka 0.14.0.
        consumer._isolation_level = "read_committed"
        if self.consumer.groups_topics:
            # Without tables Faust assigns partitions topic by topic, and a machine's texts may go to another worker
            # than its readings. Its own assignor keeps partitions of one number together. Private; aiokafka 0.14.0
            # and faust-streaming 0.15.3.
            self._assignor = self.app.assignor
            consumer._partition_assignment_strategy = [self._assignor]
        # aiokafka reports that it cannot be in the group only to those who wait for records at that moment. Without
        # partitions nobody does, and it would silently wait for ever. Private; aiokafka 0.14.0.
        abort_waiters = consumer._subscription.abort_waiters

        def tell(error: BaseException) -> None:
            self.parent_loop.call_soon_threadsafe(self.consumer.refuse, error)
            abort_waiters(error)

        consumer._subscription.abort_waiters = tell
        return consumer

    def _note_refusal(self, error: BaseException) -> bool:
        if isinstance(error, _REFUSALS):
            self.parent_loop.call_soon_threadsafe(self.consumer.refuse, error)
            return True
        return False

    def on_crash(self, msg: str, *fmt: Any, **options: Any) -> None:
        """The app is told of it."""
        self.log.debug(msg.format(*fmt), exc_info=True)

    async def on_start(self) -> None:
        """Start aiokafka's consumer."""
        await super().on_start()
        # aiokafka does not fetch quiet partitions for this long while records of busy ones are not taken. Here they
        # are taken as fast as possible, and merging needs the quiet ones soon. Private; aiokafka 0.14.0.
        fetcher = self._ensure_consumer()._fetcher
        fetcher._prefetch_backoff = 0.0
        # aiokafka would go to the beginning of a log whatever the reason is, and tell nobody. Private; aiokafka 0.14.0.
        fetcher._default_reset_strategy = OffsetResetStrategy.NONE
        fetcher._records = _Prefetched(self.consumer.groups_topics)
        self.consumer.connected = True

    async def on_thread_stop(self) -> None:
        """Leave the group and close the connections; without a broker too."""
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await super().on_thread_stop()
        except (TimeoutError, asyncio.CancelledError):
            # While the broker is away aiokafka's stop ends half done, with the cancellation of its own fetch. Raised,
            # it would end this thread without telling Faust, which then waits for a minute.
            self.log.warning("closed without leaving the group: the broker does not answer")
            if self._consumer is not None:
                await self._consumer._client.close()  # private; aiokafka 0.14.0

    async def fetch(self, wanted: AbstractSet[TP], timeout: float) -> Fetched:
        """Records and marks, taken together."""
        fetched: Fetched = await self.call_thread(self._fetch, wanted, timeout)
        return fetched

    async def _fetch(self, wanted: AbstractSet[TP], timeout: float) -> Fetched:
        found: Mapping[TP, list[Any]] = {}
        behind: set[TP] = set()
        if wanted:  # to aiokafka none means all
            consumer = self._ensure_consumer()
            try:
                found = await self._fetch_records(consumer, wanted, timeout=timeout, max_records=self._at_most)
            except OffsetOutOfRangeError as error:
                behind = await self._find_positions(consumer, error.args[0])
            except NoOffsetForPartitionError as error:
                await consumer._fetcher.request_offset_reset([error.args[0]], OffsetResetStrategy.EARLIEST)
            # aiokafka returns records of one partition until none are left, so others would wait for long.
            # Private; aiokafka 0.14.0.
            for place in found:
                if place in consumer._fetcher._records:
                    consumer._fetcher._records.move_to_end(place)
        # Nothing is awaited from here on, so the marks belong to the moment at which the records were taken.
        marks = self._marks()
        names = self.consumer.groups_topics
        records: dict[TP, list[Record]] = {}
        others: dict[TP, list[Any]] = {}
        for topic_partition, taken in found.items():
            tp = ensure_TP(topic_partition)
            (records if tp.topic in names else others)[tp] = taken
        lost, self._lost = self._lost, []
        return Fetched(records, others, marks, lost, behind)

    async def _find_positions(self, consumer: AIOKafkaConsumer, places: Mapping[TopicPartition, int]) -> set[TP]:
        """Go on where the broker deleted what should be read next; returns partitions that end before that."""
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        behind = set()
        for place, position in places.items():
            if position < begins[place]:
                if place.topic in self.consumer.groups_topics:
                    self._lost.append((ensure_TP(place), position, begins[place]))
                consumer.seek(place, begins[place])
            elif position > ends[place]:
                behind.add(ensure_TP(place))
        await asyncio.sleep(_RETRY_S)
        return behind

    def _marks(self) -> dict[TP, Mark]:
        subscription = self._ensure_consumer()._subscription.subscription  # private; aiokafka 0.14.0
        assignment = None if subscription is None else subscription.assignment
        if assignment is None:
            return {}
        if assignment is not self._assignment:
            self._assignment = assignment
            self._answered.clear()
        self._answers += 1
        marks = {}
        for topic_partition in assignment.tps:
            if topic_partition.topic not in self.consumer.groups_topics:
                continue
            tp = ensure_TP(topic_partition)
            state = assignment.state_value(topic_partition)
            if state.timestamp != self._answered.get(tp, (None, 0))[0]:
                self._answered[tp] = (state.timestamp, self._answers)
            # Brokers before Kafka 0.11, which know no transactions, send no last stable offset.
            end = state.highwater if state.lso is None else state.lso
            if end is not None and state.has_valid_position:
                marks[tp] = Mark(state.position, end, self._answered[tp][1])
        return marks

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Back to the committed offsets, or to where a new group begins."""
        committed: Mapping[TP, int | None] = await self.call_thread(self._seek_to_committed)
        return committed

    async def _seek_to_committed(self) -> Mapping[TP, int | None]:
        consumer = self._ensure_consumer()
        committed: Mapping[TP, int | None] = await consumer.seek_to_committed()
        # aiokafka does not seek where nothing was committed; what was fetched and dropped would be lost. Private;
        # aiokafka 0.14.0.
        if fresh := [tp for tp, offset in committed.items() if not offset and tp.topic in self.consumer.groups_topics]:
            await consumer._fetcher.request_offset_reset(fresh, OffsetResetStrategy.EARLIEST)
        return committed

    async def find_topics(self) -> None:
        """Ask the broker now which topics there are; aiokafka does it every five minutes."""
        await self.call_thread(self._find_topics)

    async def _find_topics(self) -> None:
        self._ensure_consumer()._client.force_metadata_update()  # private; aiokafka 0.14.0

    async def log_positions(self, places: Sequence[TP]) -> Mapping[TP, LogPosition]:
        """Ends and committed offsets of partitions; raises DeliveryError."""
        found: Mapping[TP, LogPosition] = await self.call_thread(self._log_positions, places)
        return found

    async def _log_positions(self, places: Sequence[TP]) -> Mapping[TP, LogPosition]:
        consumer, partitions = self._ensure_consumer(), [TopicPartition(*place) for place in places]
        try:
            ends = await consumer.end_offsets(partitions)
            # Private; aiokafka 0.14.0, whose `committed` leaves the metadata out.
            committed = await consumer._coordinator.fetch_committed_offsets(partitions)
        except KafkaError as error:
            raise DeliveryError(f"cannot find out how far the input topics were read: {error!r}") from error
        nothing = OffsetAndMetadata(-1, "")
        found = {}
        for place, partition in zip(places, partitions, strict=True):
            at = committed.get(partition, nothing)
            found[place] = LogPosition(ends[partition], at.offset, at.metadata or "")
        return found

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # As Faust's 0.15.3, which crashes with a traceback if the broker refuses or does not answer.
        consumer, assigned = self._ensure_consumer(), self.assignment()
        places = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(offset, self.consumer.log_ids.get(tp.topic, ""))
            for tp, offset in offsets.items()
            if tp in assigned
        }
        if not places:
            return False
        self.tp_last_committed_at.update(dict.fromkeys(offsets, time.monotonic()))
        try:
            await asyncio.wait_for(consumer.commit(places), _COMMIT_TIMEOUT_S)
        except TimeoutError:
            self.log.warning("the broker did not answer a commit within %.0f s", _COMMIT_TIMEOUT_S)
            return False
        except Exception as error:
            moved = isinstance(error, CommitFailedError) and "already rebalanced" in str(error)
            if not moved and not self._note_refusal(error):
                self.log.exception("cannot commit")
                await self.crash(error)
            return False
        return True


class Consumer(ChunkedConsumerMixin, aiokafka.Consumer):
    """Faust's Kafka consumer with topic groups."""

    _thread: ConsumerThread

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _fetch(self, wanted: AbstractSet[TP], timeout: float) -> Fetched:
        try:
            return await self._thread.fetch(wanted, timeout)
        except _REFUSALS as error:
            self.refuse(error)
            await asyncio.sleep(timeout)
            return Fetched({}, {}, {})

    async def find_topics(self) -> None:
        """Ask the broker now which topics there are, and let the group share out the partitions of new ones."""
        await self._thread.find_topics()

    async def log_positions(self, places: Sequence[TP]) -> Mapping[TP, LogPosition]:
        """Ends and committed offsets of partitions; raises DeliveryError."""
        return await self._thread.log_positions(places)

    def refuse(self, error: BaseException) -> None:
        """Fail: the broker refuses a topic or the group, and retrying would not help."""
        conf = self.app.conf
        self._fail(membership_error(error, conf.id, conf.broker_session_timeout, conf.consumer_group_instance_id))

    def _fail(self, reason: BaseException) -> None:
        if self.transport.on_failure is not None:
            self.transport.on_failure(reason)
        else:
            self.app.loop.call_soon_threadsafe(self.app.loop.create_task, self.crash(reason))

    async def threadsafe_partitions_revoked(self, receiver_loop: Any, revoked: AbstractSet[TP]) -> None:
        """Tell Faust's loop, from the consumer's thread."""
        await self._unless_stopped(super().threadsafe_partitions_revoked(receiver_loop, revoked))

    async def threadsafe_partitions_assigned(
        self, receiver_loop: Any, assigned: AbstractSet[TP], generation_id: int = 0
    ) -> None:
        """Tell Faust's loop, from the consumer's thread."""
        await self._unless_stopped(super().threadsafe_partitions_assigned(receiver_loop, assigned, generation_id))

    async def _unless_stopped(self, callback: Coroutine[Any, Any, None]) -> None:
        # A worker that is stopped in the middle of a rebalance no longer answers callbacks. aiokafka would wait for
        # ever, and the worker could neither stop nor leave its group.
        answered = asyncio.ensure_future(callback)
        while not answered.done() and not self.should_stop:
            await asyncio.wait({answered}, timeout=0.1)
        if not answered.done():
            answered.cancel()
            return
        try:
            await answered
        except Exception as error:
            # aiokafka would only log it, and the partitions would have nobody.
            self._fail(error)


class Transport(aiokafka.Transport):
    """What `broker="kafka://host:port"` becomes."""

    Consumer = Consumer
    delivery: Delivery | None = None
    on_failure: Callable[[BaseException], None] | None = None  # may be called in any thread; else the app crashes
