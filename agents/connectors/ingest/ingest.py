"""Ingest from Kafka: a Faust agent that rewrites foreign topics, each record's outputs exactly once.

What a chunk's records of one partition lead to is one transaction, which also commits the offset behind them
(agents/kafka/transactions.py); Faust's own commits are not used.

The topics may have any number of partitions, and a machine's records may be in any of them. All that are assigned to
this process are merged by time. The transactions of a chunk are open side by side, and written to in slices of a short
time, one slice after the other. So records of one partition stay in order, and those of different partitions, read by
one process, are out of order by no more than a slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from agents.connectors.ingest.metrics import IngestCollector
from agents.connectors.ingest.rewriting import OpenForm, Rewriter, Tally
from agents.delivery.app import stop_app, worker_app
from agents.delivery.groups import install
from agents.delivery.merging import TP, Chunk, Limits
from agents.kafka.transactions import ClaimLostError
from agents.worker.life import Life, LifeCollector, Phase, group_phase
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.ingest")

_HAND_OVER_SECONDS = 5.0
"""How long a stopping process, or one whose partitions are revoked, waits for transactions under way."""

_FIND_TOPICS_SECONDS = 5.0

_SHORTEST_SLICE_MS = 1_000
_SLICES = 64
"""Slices of one transaction, at most: each takes an answer of the broker, which aborts transactions after a minute."""


_CLAIM_AGAIN_SECONDS = 0.5
"""Pause before claiming a partition again: by then a process that was suspended knows that it has lost it."""


class PartitionClaim(Protocol):
    """The right to write what the records of one input partition lead to (agents/kafka/transactions.py)."""

    next_offset: int

    async def begin(self) -> None:
        """Begin a transaction; this and the next two raise ClaimLostError or DeliveryError."""

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Return when the broker has these outputs; nobody sees them before the commit."""

    async def commit(self, next_offset: int) -> None:
        """The outputs of all records before `next_offset` are published."""

    async def release(self) -> None:
        """Disconnect."""


class _Part:
    """A chunk's records of one partition, on their way through a transaction."""

    def __init__(self, place: TP, records: Sequence[Record], claim: PartitionClaim) -> None:
        self.place = place
        self.records = records
        self.tally = Tally()
        self.lost: ClaimLostError | None = None
        self.claim = claim

    async def attempt(self, step: Awaitable[None]) -> None:
        """Take a step of the transaction, unless the claim was or is lost."""
        try:
            await step
        except ClaimLostError as error:
            self.lost = error


class Ingest:
    """One process: reads foreign topics, writes our own, and measures."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        forms: Mapping[str, OpenForm],
        claim: Callable[[TP], Awaitable[PartitionClaim]],
        *,
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
        self.life = Life("ingest", self._phase, settings)
        self._started = self._joined = False
        self.app = worker_app(settings, credentials, on_crash=self.life.crash)
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
        self.app.transport.on_failure = self.life.fail
        self.app.on_partitions_revoked.connect(self._note_revoked, weak=False)
        self.app.on_partitions_assigned.connect(self._note_assigned, weak=False)
        names = [full_topic_name(settings.topic_prefix, topic) for topic in forms]
        channel = self.app.topic(*names, value_type=bytes, value_serializer="raw")
        self.app.agent(channel, name="ingest")(self._run)
        collector = IngestCollector(
            self.tally,
            tuple(forms),
            claims_lost=lambda: self.claims_lost,
            lag=self.lag,
            lost=lambda: self.app.consumer.records_lost if self._started else {},
        )
        self.registry.register(collector)
        self.registry.register(LifeCollector(self.life, "faultline_ingest_state"))
        self.web = WebServer(self.registry, health=self.life.health, ready=self.life.ready)

    # -- start and stop -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin to consume."""
        self.life.begin()
        await self.app.start()
        self._started = True
        self.life.run("the watch of topics", self._find_topics_regularly())

    async def stop(self) -> None:
        """End transactions under way and leave the group; raises the error if it has failed."""
        self.life.stopping = True
        await self.life.end_tasks()
        await self._hand_over()
        self._started = False
        await stop_app(self.app)
        await self._release(list(self._claims))
        self.web.stop()
        if self.life.failure is not None:
            raise self.life.failure

    # -- the agent ----------------------------------------------------------------------------------------------

    async def _run(self, stream: Any) -> None:
        # Faust acknowledges an event whose processing raised, so this loop must never raise.
        async for event in stream.noack().events():
            if self.life.failure is not None:
                continue
            try:
                await self._process(event)
            except Exception as error:
                self.life.fail(error, "the agent")

    async def _process(self, event: Any) -> None:
        chunk: Chunk = event.value
        async with self._working:
            if self._epoch != chunk.epoch:
                self._epoch = chunk.epoch
                owned = self.app.consumer.assignment()
                await self._release([place for place in self._claims if place not in owned])
            slices = list(self._slices(chunk.records))
            for at in range(0, len(slices), _SLICES):
                records: Sequence[Record] = list(chain.from_iterable(slices[at : at + _SLICES]))
                while records and chunk.epoch == self.app.consumer.epoch:
                    records = await self._write(records)
            if chunk.epoch == self.app.consumer.epoch:  # else its records come again, here or in another process
                event.ack()
        chunk.processed = True

    async def _write(self, records: Sequence[Record]) -> Sequence[Record]:
        """Write what records lead to; returns those of partitions of which the claim was lost."""
        found = await asyncio.gather(*(self._part(place, own) for place, own in self._by_place(records).items()))
        parts = {part.place: part for part in found if part.records}
        fresh = {record[:3] for part in parts.values() for record in part.records}
        await _all(part.attempt(part.claim.begin()) for part in parts.values())
        for some in self._slices([record for record in records if record[:3] in fresh]):
            await self._publish(some, parts)
        await _all(
            part.attempt(part.claim.commit(part.records[-1].offset + 1)) for part in parts.values() if not part.lost
        )
        again: list[Record] = []
        for part in parts.values():
            if part.lost is None:
                self.tally.add(part.tally)
                continue
            await self._release([part.place])
            await self._note_lost(part.lost)
            again += part.records
        return again

    async def _note_lost(self, error: ClaimLostError) -> None:
        self.claims_lost += 1
        log.warning("%s; claiming the partition again, unless it has gone to another process", error)
        await asyncio.sleep(_CLAIM_AGAIN_SECONDS)

    async def _part(self, place: TP, records: Sequence[Record]) -> _Part:
        """The records of a partition that are not done yet."""
        claim = self._claims.get(place)
        if claim is not None and records[0].offset < claim.next_offset:
            # Read again after a rebalance, or from a new topic of this name. The broker knows what is done.
            await self._release([place])
            claim = None
        while claim is None:
            try:
                claim = self._claims[place] = await self._claim(place)
            except ClaimLostError as error:
                await self._note_lost(error)
        return _Part(place, [record for record in records if record.offset >= claim.next_offset], claim)

    def _slices(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """Records that are in order of time, cut into slices; those of one partition need no slices."""
        if len(set(map(itemgetter(0, 1), records))) <= 1:
            yield from (records,) if records else ()
            return
        begin = 0
        for at, record in enumerate(records):
            if abs(record.timestamp_ms - records[begin].timestamp_ms) > self._slice_ms:
                yield records[begin:at]
                begin = at
        yield records[begin:]

    async def _publish(self, records: Sequence[Record], parts: Mapping[TP, _Part]) -> None:
        steps = []
        for place, own in self._by_place(records).items():
            part = parts[place]
            if part.lost is None:
                topic = own[0].topic
                outputs, tally = self._rewriter.rewrite(own, self._forms[topic], topic)
                part.tally.add(tally)
                steps.append(part.attempt(part.claim.publish(outputs)))
        await _all(steps)

    def _by_place(self, records: Sequence[Record]) -> dict[TP, list[Record]]:
        found: dict[TP, list[Record]] = {}
        for record in records:
            place = TP(full_topic_name(self._settings.topic_prefix, record.topic), record.partition)
            found.setdefault(place, []).append(record)
        return found

    async def _release(self, places: Sequence[TP]) -> None:
        claims = [claim for place in places if (claim := self._claims.pop(place, None)) is not None]
        await asyncio.gather(*(claim.release() for claim in claims))

    async def _hand_over(self) -> None:
        """Wait for transactions under way, so that the next owner need not abort and repeat them."""
        if self.life.failure is not None or not self._started:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HAND_OVER_SECONDS), self._working:
                pass

    async def _note_revoked(self, *_: Any, **__: Any) -> None:
        self._joined = False

    async def _note_assigned(self, *_: Any, **__: Any) -> None:
        self._joined = True

    async def _find_topics_regularly(self) -> None:
        """Look for topics of which there is nothing to read: they may have been deleted, and created again."""
        consumer = self.app.consumer
        while True:
            await asyncio.sleep(_FIND_TOPICS_SECONDS)
            if consumer.groups_topics.keys() - {place.topic for place in consumer.assignment()}:
                await consumer.find_topics()

    # -- status -------------------------------------------------------------------------------------------------

    def lag(self) -> dict[tuple[str, int], int]:
        """Unprocessed records by topic (short name) and partition."""
        return self.app.consumer.lag_by_name() if self._started else {}  # made with the start, in its event loop

    def _phase(self) -> Phase:
        return group_phase(self.app, self._settings, self.lag(), started=self._started, joined=self._joined)


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """Take steps side by side; raises the first error when all have ended."""
    for found in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
