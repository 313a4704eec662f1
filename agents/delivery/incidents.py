"""Books of incidents, and that of a worker: from its alarms and labels; raised alarms carry the most similar ones.

An alarm's value depends on its machine's records alone, and so is the same in every replay. What other machines had, as
far as this worker has read of it, is in the header `faultline-similar` (docs/decisions/0028-incidents.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from agents.delivery.states import StateStore
from models.stepping.retrieval_vectors import RetrievalVectors
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import ALARMS, DIAGNOSES
from pipeline.engine.diagnoses import DiagnosedMachine
from pipeline.engine.reports.incidents.book import IncidentBook
from pipeline.engine.reports.incidents.record import (
    SIMILAR,
    AlarmChange,
    Incident,
    SimilarIncident,
    decode_alarm_change,
    encode_similar,
    incident_output,
)
from pipeline.engine.reports.incidents.similarity import Vector
from pipeline.engine.rounds import Round
from pipeline.errors import DeliveryError
from pipeline.wire import messages
from pipeline.wire.labels import LabelledSpan
from pipeline.wire.messages import ModelRef, RejectedError
from pipeline.wire.records import Output, Record

OVER = frozenset({"cleared", "returned", "latched"})
"""States of an alarm whose fault is gone, whether or not somebody still has to acknowledge it."""

_FOLLOW_SECONDS = 10.0
"""How often a worker looks for incidents that others have written."""

log = logging.getLogger("faultline.worker")


class IncidentFollower:
    """Keeps a book of incidents as the topic says, beside what is added to it here."""

    def __init__(self, book: IncidentBook, partitions: int) -> None:
        """`partitions` is how many the topic has."""
        self.book = book
        self._partitions = partitions
        self._ends: dict[int, int] | None = None  # up to where each partition has been read; None before `restore`

    def begin_with(self, records: Iterable[Record]) -> None:
        """Put in what these records of the topic say."""
        for record in records:
            self.book.take(record.key, record.value)

    async def restore(self, store: StateStore) -> None:
        """Begin with what the whole topic says; raises DeliveryError."""
        records, self._ends = await store.incidents(dict.fromkeys(range(self._partitions), 0))
        self.book.clear()
        self.begin_with(records)

    async def follow(self, store: StateStore, working: asyncio.Lock, own: Callable[[], Collection[int]]) -> None:
        """Take in what has been added to the topic since; raises DeliveryError.

        `working` is held while the book changes. What belongs to this process's `own` partitions is known already, and
        may have changed since it was written.
        """
        since = self._ends
        if since is None:
            return
        records, ends = await store.incidents(since)
        async with working:
            if self._ends is since:  # else everything has been read again meanwhile
                partitions = own()
                self.begin_with(record for record in records if not self._is_own(record, partitions))
                self._ends = ends

    def _is_own(self, record: Record, partitions: Collection[int]) -> bool:
        """Whether this process wrote a record of the topic, if these are its partitions."""
        return record.partition in partitions

    async def follow_regularly(
        self, store: StateStore, working: asyncio.Lock, own: Callable[[], Collection[int]]
    ) -> None:
        """Do so from time to time, for ever."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            try:
                await self.follow(store, working, own)
            except DeliveryError as error:
                log.warning("incidents of other processes are read later: %s", error)


def with_similar(output: Output, similar: Sequence[SimilarIncident]) -> Output:
    """A raised alarm with the most similar incidents in its header."""
    return output._replace(headers=(*output.headers, (SIMILAR, encode_similar(similar)))) if similar else output


class IncidentDesk(IncidentFollower):
    """Keeps the book of incidents of a worker."""

    def __init__(
        self,
        profile: PlantProfile,
        partition_of: Callable[[bytes], int],
        partitions: int,
        retrieval: Mapping[str, RetrievalVectors | None],
    ) -> None:
        """`partitions` is how many the topic has; `retrieval` has the heads of the models by their hashes."""
        super().__init__(IncidentBook(self._type_of), partitions)
        self._retrieval = {digest: head for digest, head in retrieval.items() if head is not None}
        self._rounds: list[Round] = []  # of the chunk at hand, of models with a head
        self._partition_of = partition_of
        self._profile = profile
        self._labels: list[LabelledSpan] = []

    def _type_of(self, machine: str) -> str | None:
        kind = self._profile.type_of(machine)
        return None if kind is None else kind.name

    def diagnosed(self, diagnosed: Round) -> None:
        """See `Watcher`: a round is kept until its outputs come."""
        if diagnosed.model.hash in self._retrieval:
            self._rounds.append(diagnosed)

    def announced(
        self, model: ModelRef, modalities: tuple[str, ...], machine: DiagnosedMachine, start_ms: int, period_ms: int
    ) -> None:
        """See `Watcher`: without effect."""

    def labelled(self, label: LabelledSpan) -> None:
        """See `Watcher`: a label counts with the next outputs."""
        self._labels.append(label)

    def add(self, outputs: Sequence[Output]) -> list[Output]:
        """The outputs of a chunk, with similar incidents at each raised alarm, and the incidents that have changed."""
        labels, self._labels = self._labels, []
        rounds, self._rounds = self._rounds, []
        places = [place for place, output in enumerate(outputs) if output.topic == ALARMS]
        if not places and not labels:
            return list(outputs)
        after = list(outputs)
        # Outputs of several machines are not in the order of time, and an alarm should know of what was over before.
        places.sort(key=lambda place: outputs[place].timestamp_ms)
        wanted = {(outputs[place].key, outputs[place].timestamp_ms) for place in places}
        diagnoses = {
            where: one.value
            for one in (outputs if wanted else ())
            if one.topic == DIAGNOSES and (where := (one.key, one.timestamp_ms)) in wanted
        }
        changed: list[tuple[Incident, int, int]] = []
        for place in places:
            output = outputs[place]
            try:
                alarm = decode_alarm_change(output.value or b"")
                value = diagnoses.get((output.key, output.timestamp_ms))
                diagnosis = None if value is None else messages.decode_diagnosis(value)
            except RejectedError:
                continue  # an alarm that is not about a fault
            if alarm.state == "raised" and diagnosis is not None and diagnosis.probabilities:
                vector = self._vector(rounds, alarm)
                after[place] = with_similar(output, self.book.similar_to(diagnosis, vector))
                found = self.book.raised(alarm, diagnosis, vector)
            else:
                found = self.book.cleared(alarm) if alarm.state in OVER else []
            partition = self._partition_of(alarm.machine.encode())
            changed += [(incident, partition, alarm.time) for incident in found]
        for label in labels:
            partition = self._partition_of(label.machine.encode())
            changed += [(incident, partition, label.written_ms) for incident in self.book.labelled(label)]
        return after + [incident_output(*one) for one in changed]

    def _vector(self, rounds: Iterable[Round], alarm: AlarmChange) -> Vector | None:
        """The vector of the frame that raised an alarm, by its model's retrieval head; None without one."""
        for diagnosed in rounds:
            ends = diagnosed.frames.end_ms
            for row in np.flatnonzero(ends == alarm.time).tolist():
                if diagnosed.machines[row].name == alarm.machine and diagnosed.result.embeddings is not None:
                    present = diagnosed.result.present[:, row].tolist()
                    features = [
                        own[row].tolist() if there else None
                        for own, there in zip(diagnosed.result.embeddings, present, strict=True)
                    ]
                    vector = self._retrieval[diagnosed.model.hash].together(features)
                    return None if vector is None else Vector.of(diagnosed.model.hash, vector)
        return None
