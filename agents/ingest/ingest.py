"""Ingest from Kafka: a Faust agent that rewrites foreign topics, each record's outputs exactly once.

The topics may have any number of partitions, and a machine's records may be in any of them. All that are assigned to
this process are merged by time and cut into slices of a short time. What a slice's records of one partition lead to is
one transaction, which also commits the offset behind them (agents/kafka/transactions.py); Faust's own commits are not
used. The transactions of a slice run side by side. So records of one partition stay in order, and those of different
partitions, read by one process, are out of order by no more than a slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from agents.delivery.app import worker_app
from agents.delivery.consumer import TP, Chunk, Limits, install
from agents.ingest.metrics import IngestCollector
from agents.ingest.rewriting import OpenForm, Rewriter, Tally
from agents.kafka.transactions import ClaimLostError
from agents.worker.progress import Progress
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import DeliveryError, FaultlineError
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.ingest")

_HAND_OVER_SECONDS = 5.0
"""How long a stopping process, or one whose partitions are revoked, waits for transactions under way."""

_SHORTEST_SLICE_MS = 1_000

_CLAIM_AGAIN_SECONDS = 0.5
"""Pause before claiming a partition again: by then a process that was suspended knows that it has lost it."""


class PartitionClaim(Protocol):
    """The right to write what the records of one input partition lead to (agents/kafka/transactions.py)."""

    next_offset: int

    async def write(self, outputs: Sequence[Output], next_offset: int) -> None:
        """Write the outputs of all records before `next_offset`; raises ClaimLostError or DeliveryError."""

    async def release(self) -> None:
        """Disconnect."""


class Ingest:
    """One process: reads foreign topics, writes our own, and measures."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        forms: Mapping[str, OpenForm],
        claim: Callable[[TP], Awaitable[PartitionClaim]],
        *,
        wall_seconds: Callable[[], float],
        credentials: Any = None,
    ) -> None:
        """`forms` are those of the topics to read, by short names; `settings.group` is ingest's own group."""
        self.registry = CollectorRegistry()
        self.tally = Tally()
        self.claims_lost = 0
        self._settings = settings
        self._forms = forms
        self._claim = claim
        self._claims: dict[TP, PartitionClaim] = {}
        self._epoch = 0  # in which claims were looked through
        self._rewriter = Rewriter(profile, settings.partitions)
        self._working = asyncio.Lock()  # one chunk at a time
        disorder = (s.allowed_disorder_ms for kind in profile.machine_types for s in kind.sources.values())
        self._slice_ms = max(_SHORTEST_SLICE_MS, min(disorder) // 2)
        self._progress = Progress(lambda: sum(self.lag().values()), lambda: self.app.consumer.positions, wall_seconds)
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self.app = worker_app(settings, credentials)
        limits = Limits(chunk_records=settings.chunk_records, buffered_records=2 * settings.chunk_records)
        install(
            self.app,
            [list(forms)],
            settings.topic_prefix,
            limits,
            before_revoked=self._hand_over,
            commits_itself=True,
            across_partitions=True,
        )
        self.app.transport.on_refusal = self._fail
        names = [full_topic_name(settings.topic_prefix, topic) for topic in forms]
        channel = self.app.topic(*names, value_type=bytes, value_serializer="raw")
        self.app.agent(channel, name="ingest")(self._run)
        collector = IngestCollector(
            profile, self.tally, tuple(forms), claims_lost=lambda: self.claims_lost, lag=self.lag
        )
        self.registry.register(collector)
        self.web = WebServer(self.registry, alive=self._alive, ready=self._ready)

    # -- start and stop -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin to consume."""
        await self.app.start()
        self._started = True
        self._tasks.append(asyncio.create_task(self._watch()))

    async def wait_failed(self) -> None:
        """Return when it has failed and only a restart helps; `stop` raises the error."""
        await self._failed.wait()

    async def stop(self) -> None:
        """End transactions under way and leave the group; raises the error if it has failed."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._hand_over()
        self._started = False
        await self.app.stop()
        await self._release(list(self._claims))
        self.web.stop()
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.error("ingest stops: %s", error)
            self._failure = error
        self._failed.set()

    # -- the agent ----------------------------------------------------------------------------------------------

    async def _run(self, stream: Any) -> None:
        # Faust acknowledges an event whose processing raised, so this loop must never raise.
        async for event in stream.noack().events():
            if self._failure is not None:
                continue
            try:
                await self._process(event)
            except FaultlineError as error:
                self._fail(error)
            except Exception as error:
                log.exception("unexpected error in the agent")
                self._fail(error)

    async def _process(self, event: Any) -> None:
        chunk: Chunk = event.value
        async with self._working:
            if self._epoch != chunk.epoch:
                self._epoch = chunk.epoch
                owned = self.app.consumer.assignment()
                await self._release([place for place in self._claims if place not in owned])
            for records in self._slices(chunk.records):
                if not await self._write_slice(records, chunk):
                    break  # its records come again, here or in another process
            else:
                event.ack()
        chunk.processed = True

    def _slices(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """A chunk's records, in parts that the order of transactions may mix up; of one partition it cannot."""
        if len(set(map(itemgetter(0, 1), records))) == 1:
            yield records
            return
        begin, newest = 0, records[0].timestamp_ms
        for at, record in enumerate(records):
            if abs(record.timestamp_ms - newest) > self._slice_ms:
                yield records[begin:at]
                begin, newest = at, record.timestamp_ms
        yield records[begin:]

    async def _write_slice(self, records: Sequence[Record], chunk: Chunk) -> bool:
        parts: dict[TP, list[Record]] = {}
        for record in records:
            name = full_topic_name(self._settings.topic_prefix, record.topic)
            parts.setdefault(TP(name, record.partition), []).append(record)
        written = await asyncio.gather(
            *(self._write(place, part, chunk) for place, part in parts.items()), return_exceptions=True
        )
        for found in written:
            if isinstance(found, BaseException):
                raise found
        return all(written)

    async def _write(self, place: TP, records: list[Record], chunk: Chunk) -> bool:
        """Write what records of one partition lead to; False if they come again, here or elsewhere."""
        while chunk.epoch == self.app.consumer.epoch:
            claim = self._claims.get(place)
            if claim is not None and records[0].offset < claim.next_offset:
                # Read again after a rebalance, or from a new topic of this name. The broker knows what is done.
                await self._release([place])
                claim = None
            if claim is None:
                claim = self._claims[place] = await self._claim(place)
            topic, fresh = records[0].topic, [record for record in records if record.offset >= claim.next_offset]
            outputs, tally = self._rewriter.rewrite(fresh, self._forms[topic], topic)
            try:
                if fresh:
                    await claim.write(outputs, records[-1].offset + 1)
            except ClaimLostError as error:
                self.claims_lost += 1
                log.warning("%s; claiming the partition again, unless it has gone to another process", error)
                await self._release([place])
                await asyncio.sleep(_CLAIM_AGAIN_SECONDS)
                continue
            self.tally.add(tally)
            return True
        return False

    async def _release(self, places: Sequence[TP]) -> None:
        claims = [claim for place in places if (claim := self._claims.pop(place, None)) is not None]
        await asyncio.gather(*(claim.release() for claim in claims))

    async def _hand_over(self) -> None:
        """Wait for transactions under way, so that the next owner need not abort and repeat them."""
        if self._failure is not None or not self._started:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HAND_OVER_SECONDS), self._working:
                pass

    async def _watch(self) -> None:
        """Fail if there are unread records and no progress: the supervisor has to start another process."""
        limit = self._settings.stall_timeout_ms / 1000
        while True:
            await asyncio.sleep(min(limit / 10, 1.0))
            if self.app.crashed:
                self._fail(DeliveryError("Faust has crashed; see its log for the reason"))
                return
            stalled = self._progress.stalled_seconds()
            if stalled > limit:
                behind = sum(self.lag().values())
                self._fail(DeliveryError(f"no progress in {stalled:.0f} s, with {behind:,} records unread"))
                return

    # -- status -------------------------------------------------------------------------------------------------

    def lag(self) -> dict[tuple[str, int], int]:
        """Unprocessed records by topic (short name) and partition."""
        consumer = self.app.consumer
        if not self._started or consumer is None:
            return {}
        names = consumer.groups_topics
        return {(names[place.topic], place.partition): records for place, records in consumer.lag().items()}

    def _alive(self) -> str | None:
        return None if self._failure is None else f"failed: {self._failure}"

    def _ready(self) -> str | None:
        if self._failure is not None:
            return f"failed: {self._failure}"
        if not self._started or not self.app.consumer.assignment():
            return "waiting for partitions"
        stalled = self._progress.stalled_seconds()
        if stalled > self._settings.stall_timeout_ms / 2000:
            return f"no progress in {stalled:.0f} s, with {sum(self.lag().values()):,} records unread"
        return None
