"""Notices input topics that were deleted and created again, or were given more partitions, and what follows from that.

Offsets in saved states, and committed ones, are those of the log that a topic had then. A topic that was created again
has another log, and reading on at the old offset would skip records without a word. Brokers since Kafka 2.8 give every
log an id, which goes with each state and each commit; with older ones only a log that ends before an offset shows it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from agents.delivery.merging import TP
from agents.delivery.topic_logs import LogPosition, TopicLog, TopicLogs
from pipeline.config.topics import full_topic_name
from pipeline.errors import FaultlineError, TopicMismatchError
from pipeline.wire.states import saved_at

log = logging.getLogger("faultline.worker")

LOOK_SECONDS = 10.0
"""How often a worker looks whether its input topics are still the same."""


class TopicWatch:
    """The logs of a worker's input topics, as they were when it last began to read them."""

    def __init__(
        self,
        topic_logs: TopicLogs,
        topics: Sequence[str],
        prefix: str,
        *,
        partition_of: Callable[[bytes], int],
        consumer: Callable[[], Any],
    ) -> None:
        self.recreated: Counter[str] = Counter()
        """How often each topic was found to be another one."""
        self.missing: list[str] = []
        """Topics that do not exist just now, by their names on the broker."""
        self._topic_logs = topic_logs
        self._names = {topic: full_topic_name(prefix, topic) for topic in topics}
        self._partition_of = partition_of
        self._consumer = consumer
        self._logs: dict[str, TopicLog] = {}
        self._behind: set[TP] = set()

    def log_ids(self) -> dict[str, str]:
        """By topic, the id of the log that is read, where the broker gives one."""
        return {topic: log.id for topic, name in self._names.items() if (log := self._logs.get(name)) and log.id}

    def note_behind(self, partitions: AbstractSet[TP]) -> None:
        """The logs of these partitions end before what was read of them."""
        self._behind |= partitions

    def is_back(self, places: Iterable[TP]) -> bool:
        """Whether records come from a topic that did not exist when this was last looked at."""
        return bool(self.missing) and any(place.topic in self.missing for place in places)

    async def has_changed(self) -> bool:
        """Whether a topic has another log than is read; raises TopicMismatchError if one has other partitions."""
        consumer = self._consumer()
        assigned = {place.topic for place in consumer.assignment()}
        try:
            found = await self._describe()
        except TopicMismatchError:
            raise
        except FaultlineError as error:
            log.debug("cannot look at the input topics: %s", error)
            return False
        if assigned and not found.keys() <= assigned:
            await consumer.find_topics()  # one that was missing
        return bool(self._behind) or any(
            name in self._logs and found[name].id != self._logs[name].id for name in found.keys() & assigned
        )

    async def _describe(self) -> Mapping[str, TopicLog]:
        found = await self._topic_logs()
        missing = [name for name in self._names.values() if name not in found]
        if gone := [name for name in missing if name not in self.missing]:
            log.warning("topic %s does not exist any more; waiting until it is created again", ", ".join(gone))
        self.missing = missing
        for name, topic in found.items():
            before = self._logs.get(name)
            if before is not None and before.partitions != topic.partitions:
                raise TopicMismatchError(
                    f"topic {name} has {topic.partitions} partitions now, and had {before.partitions} when this worker "
                    "began: its keys have moved to other partitions; give all topics of the plant the same number, set "
                    "FAULTLINE_PARTITIONS to it, and start the workers again (docs/operations/brokers.md)"
                )
        return found

    async def settle(self, partitions: Sequence[int], states: Mapping[str, bytes]) -> dict[str, set[str]]:
        """Begin to read these partitions of the logs that there are now: other logs than before at their beginnings.

        Returns, by machine, the topics to whose present logs the offsets in its state do not belong. Raises
        FaultlineError.
        """
        consumer, before = self._consumer(), dict(self._logs)
        found = await self._describe()
        topics = {name: topic for topic, name in self._names.items() if name in found}
        # One that is not assigned yet comes with the next rebalance.
        places = [TP(*place) for place in consumer.assignment() if place.topic in topics and place[1] in partitions]
        self._logs |= {place.topic: found[place.topic] for place in places}
        consumer.log_ids = {name: log.id for name, log in self._logs.items() if log.id}
        positions: Mapping[TP, LogPosition] = await consumer.log_positions(places)
        saved = [
            (machine, topic, TP(self._names.get(topic, topic), self._partition_of(machine.encode())), offset, at)
            for machine, state in states.items()
            for at in (saved_at(state),)
            for topic, offset in at.applied.items()
        ]
        others = self._others(positions, before)
        others |= {
            place
            for _, topic, place, offset, at in saved
            if place in positions
            and (offset >= positions[place].end or _differ(self._logs[place.topic].id, at.logs.get(topic, "")))
        }
        # A topic is created again with all its partitions, but where ids show that only records of one are lost.
        again = {place.topic for place in others if not self._is_of_this_log(place, positions[place])}
        others |= {place for place in positions if place.topic in again}
        # Where the present log is committed already, reading began at its beginning before.
        begin = frozenset(place for place in others if not self._is_committed(place, positions[place]))
        self._behind.clear()
        if begin:
            self._tell(begin, topics)
            if not await consumer.read_again(begin):
                self._behind |= begin  # tried again
        stale: dict[str, set[str]] = {}
        for machine, topic, place, offset, at in saved:
            if place in others and not (
                offset < positions[place].end and _same(self._logs[place.topic].id, at.logs.get(topic, ""))
            ):
                stale.setdefault(machine, set()).add(topic)
        return stale

    def _others(self, positions: Mapping[TP, LogPosition], before: Mapping[str, TopicLog]) -> set[TP]:
        """Partitions whose logs are not those that were read before, by what is known without the states."""
        return {
            place
            for place, position in positions.items()
            if place in self._behind
            or (place.topic in before and before[place.topic].id != self._logs[place.topic].id)
            or position.committed > position.end
            or _differ(position.committed_log, self._logs[place.topic].id)
        }

    def _is_of_this_log(self, place: TP, position: LogPosition) -> bool:
        return _same(position.committed_log, self._logs[place.topic].id)

    def _is_committed(self, place: TP, position: LogPosition) -> bool:
        return self._is_of_this_log(place, position) and position.committed <= position.end

    def _tell(self, begin: AbstractSet[TP], topics: Mapping[str, str]) -> None:
        for name in sorted({place.topic for place in begin}):
            self.recreated[topics[name]] += 1
            numbers = ", ".join(str(place.partition) for place in sorted(begin) if place.topic == name)
            log.warning(
                "topic %s was deleted and created again, or has lost records: partition %s is read from its beginning",
                name,
                numbers,
            )


def _differ(id_: str, other: str) -> bool:
    return "" not in (id_, other) and id_ != other


def _same(id_: str, other: str) -> bool:
    return id_ == other != ""
