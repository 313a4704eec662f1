"""Reads the topics of a Kafka without a consumer group: nothing is committed, and any number of consoles may read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError, UnsupportedCodecError
from aiokafka.structs import TopicPartition

from agents.console.reading.memory import reader_settings
from agents.console.reading.source import Progress, Span, Spans, folded_topics, input_sources, readers
from agents.delivery.topic_logs import TopicLog
from agents.kafka.admin import topic_logs
from agents.kafka.log import group_spans, require_kafka
from agents.kafka.security import client_security
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, DEAD_LETTER, DIAGNOSES, LATE, PLANT, full_topic_name
from pipeline.errors import AuthorizationError, BrokerUnavailableError, FaultlineError
from pipeline.wire.records import Record

_SINCE_TOPICS: Final = frozenset({DIAGNOSES, PLANT, LATE, DEAD_LETTER, CONTROL})
"""Topics that are read from a time on; of the others, which are small, standing alarms and models need everything."""
_MIN_RECORDS: Final = 2_000
_OLD_RECORDS: Final = 20_000
"""Records of a partition that are read at least, and where no partition of the topic has newer ones."""
_MAX_RECORDS: Final = 200_000
"""Records of a partition that are read at most."""
_FETCH_MS: Final = 250
_FETCH_RECORDS: Final = 500
_FETCH_BYTES: Final = 256 << 10
"""Of a partition at once; there may be hundreds of them."""
_LOOK_SECONDS: Final = 5.0
"""How often it is looked whether the broker answers, and whether topics are still the same."""
_REQUEST_MS: Final = 10_000

log = logging.getLogger("faultline.console")


class KafkaSource:
    """The output topics of a plant, and the groups that read its inputs."""

    def __init__(self, settings: Settings, profile: PlantProfile) -> None:
        """Raises SettingsError if the settings name no Kafka, or the security settings cannot be used."""
        require_kafka(settings)
        self._settings = settings
        self._security: dict[str, Any] = client_security(settings)
        self._names = {full_topic_name(settings.topic_prefix, topic): topic for topic in folded_topics(profile)}
        self._readers = readers(input_sources(profile))
        self._consumer: AIOKafkaConsumer | None = None
        self._since_ms = 0
        self._logs: dict[str, TopicLog] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._again: list[str] = []
        self._look: asyncio.Task[Mapping[str, TopicLog]] | None = None
        self._looked = 0.0
        self._denied: set[str] = set()
        self._away = False

    async def start(self, since_ms: int) -> None:
        """Connect; raises BrokerUnavailableError, or another FaultlineError if that is refused."""
        self._since_ms = since_ms
        logs = await self._topic_logs()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.address,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # should the beginning be deleted meanwhile
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
            request_timeout_ms=_REQUEST_MS,
            **self._security,
        )
        try:
            await consumer.start()
            self._consumer = consumer
            await self._assign(logs)
        except KafkaError as error:
            self._consumer = None
            await consumer.stop()
            raise self._translated(error) from error
        self._looked = time.monotonic()

    async def stop(self) -> None:
        """Disconnect."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
        if self._consumer is not None:
            stopping = asyncio.create_task(self._consumer.stop())
            await asyncio.wait({stopping})
            if not stopping.cancelled():  # as aiokafka may be by a request of its own to a broker that is away
                stopping.result()

    async def fetch(self) -> Sequence[Record]:
        """The next records, or none after a moment; raises BrokerUnavailableError while the broker is away."""
        consumer = self._consumer
        assert consumer is not None
        try:
            if await self._has_changed():
                return []
            if not self._positions:
                await asyncio.sleep(_FETCH_MS / 1_000)
                return []
            polled = await consumer.getmany(timeout_ms=_FETCH_MS, max_records=_FETCH_RECORDS)
        except KafkaError as error:
            raise self._translated(error) from error
        found: list[Record] = []
        for place, entries in polled.items():
            if entries[0].offset < self._positions.get(place, 0):  # a broker without ids of logs has another log now
                await self._begin_again({place.topic}, self._logs)
                return []
            self._positions[place] = entries[-1].offset + 1
            topic = self._names[place.topic]
            found += [
                Record(topic, place.partition, one.offset, one.timestamp, one.key, one.value, _headers(one.headers))
                for one in entries
            ]
        return found

    def created_again(self) -> Sequence[str]:
        """Topics that have another log than before."""
        again, self._again = self._again, []
        return again

    async def progress(self) -> Progress:
        """How far reading is, by the ends that the broker gave with the last answers."""
        consumer = self._consumer
        behind: dict[str, int] = {}
        for place in list(self._positions) if consumer is not None else ():
            assert consumer is not None
            stable, high = consumer.last_stable_offset(place), consumer.highwater(place)
            end = max(self._ends[place], -1 if high is None else high if stable in (None, -1) else stable)
            try:
                # What ends a transaction is no record, and moves only the consumer's own position.
                async with asyncio.timeout(1.0):
                    at = await consumer.position(place)
            except (KafkaError, TimeoutError):
                at = self._positions[place]
            topic = self._names[place.topic]
            behind[topic] = behind.get(topic, 0) + max(0, end - max(at, self._positions[place]))
        missing = [topic for topic in self._names.values() if topic not in behind]
        return Progress(not any(behind.values()), behind, missing, self._since_ms)

    async def spans(self) -> Spans:
        """The input topics, and what the groups of their readers have committed; raises FaultlineError."""
        found: dict[str, dict[str, dict[int, Span]]] = {}
        for reader, topics in self._readers.items():
            settings = reader_settings(self._settings, reader)
            try:
                spans = await asyncio.to_thread(partial(group_spans, settings, topics, optional=True))
            except AuthorizationError as error:
                log.log(logging.DEBUG if reader in self._denied else logging.WARNING, "%s", error)
                self._denied.add(reader)
                continue
            own = found.setdefault(reader, {})
            for (topic, number), span in spans.items():
                own.setdefault(topic, {})[number] = Span(*span)
        return found

    # -- topics that come, go and are created again --------------------------------------------------------------

    async def _topic_logs(self) -> Mapping[str, TopicLog]:
        return await asyncio.to_thread(topic_logs, self._settings.address, list(self._names), self._security)

    async def _has_changed(self) -> bool:
        """Look from time to time; returns whether records are read from other places now."""
        if self._look is None:
            if not self._away and time.monotonic() - self._looked < _LOOK_SECONDS:
                return False
            self._look = asyncio.create_task(self._topic_logs())
        if self._away:
            await asyncio.wait([self._look])
        if not self._look.done():
            return False
        look, self._look, self._looked, self._away = self._look, None, time.monotonic(), True
        logs = look.result()
        self._away = False
        again = {
            name
            for name, log in logs.items()
            if name in self._logs and "" not in (log.id, self._logs[name].id) and log.id != self._logs[name].id
        }
        if again or {name: log.partitions for name, log in logs.items()} != {
            name: log.partitions for name, log in self._logs.items()
        }:
            await self._begin_again(again, logs)
            return True
        return False

    async def _begin_again(self, names: set[str], logs: Mapping[str, TopicLog]) -> None:
        """Read these topics from the beginnings of the logs that they have now, and the others as before."""
        for place in [place for place in self._positions if place.topic in names]:
            del self._positions[place], self._ends[place]
        self._again += [self._names[name] for name in sorted(names)]
        await self._assign(logs)

    async def _assign(self, logs: Mapping[str, TopicLog]) -> None:
        consumer = self._consumer
        assert consumer is not None
        places = [TopicPartition(name, number) for name, log in logs.items() for number in range(log.partitions)]
        new = [place for place in places if place not in self._positions]
        is_first = not self._logs
        known = self._logs.keys()
        if new:
            ends = await consumer.end_offsets(new)
            begins = await consumer.beginning_offsets(new)
            late = [place for place in new if is_first and self._names[place.topic] in _SINCE_TOPICS]
            begins |= await self._begin_since(consumer, late, begins, ends)
            self._positions |= {place: max(begin, ends[place] - _MAX_RECORDS) for place, begin in begins.items()}
            self._ends |= ends
        if gone := [place for place in self._positions if place not in set(places)]:
            for place in gone:
                del self._positions[place], self._ends[place]
        # What was gone for a while has another log, whether or not the broker gives ids.
        self._again += [self._names[name] for name in logs if not is_first and name not in known]
        self._logs = dict(logs)
        consumer.assign(places)
        for place, at in self._positions.items():
            consumer.seek(place, at)

    async def _begin_since(
        self,
        consumer: AIOKafkaConsumer,
        places: Sequence[TopicPartition],
        begins: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> dict[TopicPartition, int]:
        """Where to begin with topics that are read from a time on.

        The newest records are read in any case: of machines that have been silent for longer, and of a recording that
        was replayed with its old time stamps.
        """
        if not places:
            return {}
        found = await consumer.offsets_for_times(dict.fromkeys(places, self._since_ms))
        newer = {place.topic for place in places if found[place] is not None}
        result = {}
        for place in places:
            at, end = found[place], ends[place]
            least = _MIN_RECORDS if place.topic in newer else _OLD_RECORDS
            wanted = min(end if at is None else at.offset, end - least)
            result[place] = max(wanted, begins[place])
        return result

    def _translated(self, error: KafkaError) -> FaultlineError:
        address = self._settings.address
        if isinstance(error, TopicAuthorizationFailedError):
            return AuthorizationError(
                f"the Kafka broker at {address} denies this user rights that the console needs: {error}; grant them "
                "(docs/operations/security.md)"
            )
        if isinstance(error, UnsupportedCodecError):
            return FaultlineError(f"records at {address} cannot be read: {error}")
        kind = "no Kafka broker answers" if isinstance(error, KafkaConnectionError) else "Kafka does not answer"
        return BrokerUnavailableError(f"{kind} at {address}: {error!r}")


def _headers(given: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value or b"") for name, value in given)


def kafka_source(settings: Settings, profile: PlantProfile) -> KafkaSource:
    """A source for the plant of the settings' broker; raises SettingsError."""
    return KafkaSource(settings, profile)
