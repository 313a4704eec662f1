"""Replay: a recording through the same agents on the in-memory transport, or into the topics of a real Kafka."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.audit.certificate import CertificateBuilder
from agents.delivery.publisher import Publisher
from agents.memory.publisher import MemoryPublisher
from agents.replay.areas import PlantReplay
from agents.replay.feed import Pace, feed, replay_broker
from agents.replay.scores import ScoreBook, diagnosis_of
from agents.worker.stateful import StatefulAgent
from agents.worker.worker import Worker
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import (
    ALARMS,
    AREAS,
    CONTROL,
    DEAD_LETTER,
    DIAGNOSES,
    DRIFT,
    INCIDENTS,
    LABELS,
    LATE,
    METRICS,
    PLANT,
    input_topics,
)
from pipeline.errors import DeliveryError, RecordingError
from pipeline.frames import StepRunner
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis
from pipeline.wire.recording import has_topic, read_recording
from pipeline.wire.records import OnProgress, Output, Record

_OUTPUT_TOPICS = {DIAGNOSES, AREAS, PLANT, ALARMS, DRIFT, INCIDENTS, METRICS, LATE, DEAD_LETTER}
_PUBLISH_RECORDS = 2_000
_LOOK_AHEAD = 8


@dataclass(slots=True)
class ReplayReport:
    """The counts and scores of a replay."""

    recording: str
    model: str
    machines: int = 0
    frames: int = 0
    diagnoses: int = 0
    late: int = 0
    dead_letters: int = 0
    seconds: float = 0.0
    readings_per_second: float = 0.0
    scores: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] | None = None
    """Which of the machines, and how many of the frames, are of the model's training; None if none."""
    areas: dict[str, Any] | None = None
    """What was found in each area; None without a plant agent."""

    def as_dict(self) -> dict[str, Any]:
        """The report as one object of plain values; without areas where there was no plant agent."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return found if self.areas is not None else {name: found[name] for name in found if name != "areas"}


class ReplaySource:
    """A recording's records as a producer would send them: inputs only, partitioned by key, with ticks.

    A live worker writes ticks to the control topic while partitions are quiet. A recording made elsewhere has none, so
    they are inserted here, from the records' own time stamps: the result does not depend on replay speed. At the end
    every machine's run is ended, which closes its last frame. A recording with control records is replayed unchanged.
    """

    def __init__(
        self,
        path: str | Path,
        profile: PlantProfile,
        partition_of: Callable[[bytes], int],
        partitions: int,
        change: Callable[[Iterator[Record]], Iterator[Record]] = iter,
        on_progress: OnProgress | None = None,
    ) -> None:
        """`change` may rearrange the records (agents/replay/stress.py); `on_progress` hears how many are read."""
        self._path = Path(path)
        self._on_progress = on_progress
        self._change = change
        self._partition_of = partition_of
        self._partitions = partitions
        self._inputs = {topic.name for topic in input_topics(profile)} | {CONTROL}
        self._sensors = frozenset(profile.sensor_topics)
        self._period_ms = max(1_000, min(kind.frame_period_ms for kind in profile.machine_types))
        self.readings = 0

    def __iter__(self) -> Iterator[Output]:
        newest_ms = -1
        next_tick: list[int | None] = [None] * self._partitions
        machines: dict[bytes, int] = {}
        recorded_ticks = has_topic(self._path, CONTROL)
        self.readings = 0
        records = self._change(read_recording(self._path, on_progress=self._on_progress))
        for row, (record, settled_ms) in enumerate(_settled(records)):
            if record.topic in _OUTPUT_TOPICS:
                continue
            if record.topic not in self._inputs:
                known = ", ".join(sorted(self._inputs))
                raise RecordingError(
                    f"recording {self._path}, row {row}: topic '{record.topic}' is not an input of this plant "
                    f"({known}); topic names must have no prefix, and --profile must name the plant"
                )
            partition = self._partition(record)
            newest_ms = max(newest_ms, settled_ms)
            if not recorded_ticks and record.topic != LABELS:
                yield from self._ticks(next_tick, partition, settled_ms)
            if record.topic in self._sensors:
                self.readings += 1
                if record.key is not None:
                    machines.setdefault(record.key, partition)
            yield Output(record.topic, partition, record.key, record.value, record.timestamp_ms, record.headers)
        if recorded_ticks:
            return  # the recording of a live run is complete
        for key, partition in machines.items():
            try:
                end = messages.Control("end", newest_ms, key.decode())
            except UnicodeDecodeError:
                continue  # no machine has such a key
            yield Output(CONTROL, partition, key, messages.encode(end), newest_ms)

    def _partition(self, record: Record) -> int:
        if record.key is None or record.topic == CONTROL:
            return record.partition % self._partitions
        return self._partition_of(record.key)

    def _ticks(self, next_tick: list[int | None], partition: int, now_ms: int) -> Iterator[Output]:
        due = next_tick[partition]
        if due is not None and now_ms < due:
            return
        if due is not None:
            # One tick is as good as many; it comes just before the record that shows that time has passed.
            yield messages.tick(now_ms - 1, partition)
        next_tick[partition] = now_ms + self._period_ms


def _settled(records: Iterator[Record]) -> Iterator[tuple[Record, int]]:
    """Each record with the smallest time stamp among it and the next few, so that single wild ones have no effect."""
    ahead: deque[Record] = deque(itertools.islice(records, _LOOK_AHEAD))
    while ahead:
        yield ahead[0], min(record.timestamp_ms for record in ahead)
        ahead.popleft()
        ahead.extend(itertools.islice(records, 1))


async def replay_in_memory(
    recording: Path,
    settings: Settings,
    profile: PlantProfile,
    runners: Mapping[str, StepRunner],
    partition_of: Callable[[bytes], int],
    *,
    speed: float | None = None,
    change: Callable[[Iterator[Record]], Iterator[Record]] = iter,
    on_records: Callable[[Sequence[Record]], None] | None = None,
    on_diagnosis: Callable[[Diagnosis], None] | None = None,
    on_output: Callable[[Output], None] | None = None,
    builder: CertificateBuilder | None = None,
    trained: Mapping[str, tuple[int, int]] | None = None,
    plant: PlantReplay | None = None,
    past: Sequence[Record] = (),
    scored: bool = True,
    on_progress: OnProgress | None = None,
) -> ReplayReport:
    """Replay a file through the agents on a broker in this process; raises FaultlineError if it cannot be.

    `on_records` gets the inputs when they have been processed, and before what comes of them is observed. `trained` has
    the machines that the model's training has seen, with the starts of their first and last frame; `plant` is a plant
    agent to run beside the worker, and `past` are records of the topic `incidents`: what there was before. Unless it is
    `scored`, the report has no scores, for who needs none or has a book.
    """
    book = ScoreBook(profile, trained) if scored else None
    machines: set[bytes | None] = set()

    def observe(records: Sequence[Record], outputs: Sequence[Output]) -> None:
        if on_records is not None:
            on_records(records)
        if book is not None:
            book.add_labels(record for record in records if record.topic == LABELS)
        if builder is not None:
            builder.add(outputs)
        for output in outputs:
            if on_output is not None:
                on_output(output)
            if output.topic != DIAGNOSES:
                continue
            machines.add(output.key)
            if book is not None or on_diagnosis is not None:
                diagnosis = diagnosis_of(output.value)
                if book is not None:
                    book.add(diagnosis)
                if on_diagnosis is not None:
                    on_diagnosis(diagnosis)

    with replay_broker(recording, settings, profile) as (local, broker):
        worker = Worker(
            local,
            profile,
            runners,
            MemoryPublisher(broker, local.topic_prefix),
            partition_of=partition_of,
            wall_seconds=time.time,
            observer=observe,
            ticks=False,
        )
        worker.desk.begin_with(past)
        source = ReplaySource(recording, profile, partition_of, settings.partitions, change, on_progress)
        agents: list[StatefulAgent] = [worker]
        if plant is not None:
            agents.append(plant.agent(local, broker, partition_of))
        step_ms = None if plant is None else plant.step_ms
        seconds = await feed(agents, source, broker, local.topic_prefix, Pace(speed), step_ms)
    if plant is not None:
        plant.finish()
    if builder is not None:
        builder.finish(worker.engine)
    stats = worker.engine.stats
    return ReplayReport(
        recording=str(recording),
        model=", ".join(f"{runner.name} {runner.hash[:12]}" for runner in runners.values()),
        machines=len(machines),
        frames=stats.frames,
        diagnoses=sum(stats.diagnoses.values()),
        late=sum(stats.late.values()),
        dead_letters=sum(stats.dead_letters.values()),
        seconds=round(seconds, 3),
        readings_per_second=round(source.readings / seconds, 1) if seconds else 0.0,
        scores={} if book is None else book.scores(),
        trained=None if book is None else book.trained(),
        areas=None if plant is None else plant.report(),
    )


async def replay_to_topics(
    recording: Path,
    settings: Settings,
    profile: PlantProfile,
    publisher: Publisher,
    partition_of: Callable[[bytes], int],
    *,
    speed: float | None = None,
    on_progress: OnProgress | None = None,
) -> int:
    """Send a recording's inputs to real topics; returns how many records were sent and confirmed."""
    source = ReplaySource(recording, profile, partition_of, settings.partitions, on_progress=on_progress)
    pace = Pace(speed)
    sent = 0
    batch: list[Output] = []
    await publisher.start()
    try:
        for record in source:
            if speed is not None:
                await publisher.publish(batch)
                sent, batch = sent + len(batch), []
                await pace.until(record.timestamp_ms)
            batch.append(record)
            if len(batch) >= _PUBLISH_RECORDS:
                await publisher.publish(batch)
                sent, batch = sent + len(batch), []
        await publisher.publish(batch)
        await publisher.flush()
    except DeliveryError as error:
        raise DeliveryError(f"after {sent} records of {recording}: {error}") from error
    finally:
        await publisher.stop()
    return sent + len(batch)
