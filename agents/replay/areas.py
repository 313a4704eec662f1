"""A plant agent in a replay: beside the worker, or alone on recorded diagnoses; and a summary of what it says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.audit.certificate import CertificateBuilder
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from agents.replay.feed import Pace, feed, replay_broker
from agents.worker.plant.agent import PlantAgent
from pipeline.areas.frames import AreaRunner
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import ALARMS, AREAS, DIAGNOSES, PLANT
from pipeline.engine.reports.lifecycle.records import Alarm, decode_alarm
from pipeline.errors import RecordingError
from pipeline.wire.recording import has_topic, read_recording
from pipeline.wire.records import OnProgress, Output, Record


@dataclass(slots=True)
class AreaSummary:
    """What was said of one area."""

    frames: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """Frames by kind of the cause."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    """Alarms of utilities, raised and cleared."""


class PlantReplay:
    """The plant agent of one replay, and what it says."""

    def __init__(
        self,
        profile: PlantProfile,
        runner: AreaRunner,
        *,
        on_diagnosis: Callable[[AreaDiagnosis], None] | None = None,
        on_output: Callable[[Output], None] | None = None,
        builder: CertificateBuilder | None = None,
        past: Sequence[Record] = (),
    ) -> None:
        """`past` are records of the topic `incidents`: what there was before."""
        self.step_ms = min(kind.frame_period_ms for kind in profile.machine_types)
        """Record time after which worker and plant agent have to be in step."""
        self._profile = profile
        self._runner = runner
        self._on_diagnosis = on_diagnosis
        self._on_output = on_output
        self._builder = builder
        self._past = past
        self._summaries = {area: AreaSummary() for area in profile.areas}
        self._agent: PlantAgent | None = None

    def agent(self, settings: Settings, broker: MemoryBroker, partition_of: Callable[[bytes], int]) -> PlantAgent:
        """The agent, on this broker."""
        self._agent = PlantAgent(
            settings.of_plant,
            self._profile,
            self._runner,
            MemoryPublisher(broker, settings.topic_prefix),
            partition_of=partition_of,
            wall_seconds=time.time,
            observer=self._observe,
            ticks=False,
        )
        self._agent.desk.begin_with(self._past)
        return self._agent

    def finish(self) -> None:
        """The input has ended: close the frames that still wait."""
        assert self._agent is not None
        self._observe((), self._agent.finish())
        if self._builder is not None:
            self._builder.finish_areas(self._agent.engine)

    def _observe(self, _: Sequence[Record], outputs: Sequence[Output]) -> None:
        if self._builder is not None:
            self._builder.add(outputs)
        for output in outputs:
            if self._on_output is not None:
                self._on_output(output)
            if output.topic == PLANT:
                self._add(decode_area(output.value or b""))
            elif output.topic == ALARMS:
                self._add_alarm(decode_alarm(output.value or b""))

    def _add(self, diagnosis: AreaDiagnosis) -> None:
        summary = self._summaries[diagnosis.area]
        summary.frames += 1
        summary.causes[diagnosis.cause.kind] += 1
        if self._on_diagnosis is not None:
            self._on_diagnosis(diagnosis)

    def _add_alarm(self, alarm: Alarm) -> None:
        area, _, utility = alarm.machine.partition("/")
        self._summaries[area].alarms.append(
            {"time": alarm.time, "utility": utility, "fault": alarm.fault, "state": alarm.state}
        )

    def report(self) -> dict[str, Any]:
        """The summaries as plain values, by area."""
        return {
            area: {"frames": one.frames, "causes": dict(sorted(one.causes.items())), "alarms": one.alarms}
            for area, one in self._summaries.items()
        }


class AreaSource:
    """The records of a recording that a plant agent reads: those of the topic `areas`, else recorded diagnoses."""

    def __init__(
        self,
        path: Path,
        profile: PlantProfile,
        partition_of: Callable[[bytes], int],
        partitions: int,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._path = path
        self._on_progress = on_progress
        self._area_of = profile.area_of
        self._partition_of = partition_of
        self._partitions = partitions
        self._topic = AREAS if has_topic(path, AREAS) else DIAGNOSES

    def __iter__(self) -> Iterator[Output]:
        for record in read_recording(self._path, on_progress=self._on_progress):
            if record.topic != self._topic:
                continue
            if record.topic == AREAS:
                partition = record.partition % self._partitions if record.key is None else self._of(record.key)
                yield Output(AREAS, partition, record.key, record.value, record.timestamp_ms, record.headers)
                continue
            area = self._area_of.get((record.key or b"").decode(errors="replace"))
            if area is not None:
                yield Output(AREAS, self._of(area.encode()), area.encode(), record.value, record.timestamp_ms)

    def _of(self, key: bytes) -> int:
        return self._partition_of(key)


async def replay_areas(
    recording: Path,
    settings: Settings,
    profile: PlantProfile,
    plant: PlantReplay,
    partition_of: Callable[[bytes], int],
    *,
    speed: float | None = None,
    on_progress: OnProgress | None = None,
) -> float:
    """Replay recorded diagnoses through the plant agent alone; returns how many seconds it took.

    Raises RecordingError if the recording has none, and FaultlineError if it cannot be replayed.
    """
    if not (has_topic(recording, AREAS) or has_topic(recording, DIAGNOSES)):
        raise RecordingError(f"recording {recording} has neither topic areas nor diagnoses; name another file")
    source = AreaSource(recording, profile, partition_of, settings.partitions, on_progress)
    with replay_broker(recording, settings, profile) as (local, broker):
        agent = plant.agent(local, broker, partition_of)
        seconds = await feed([agent], source, broker, local.topic_prefix, Pace(speed))
    plant.finish()
    return seconds
