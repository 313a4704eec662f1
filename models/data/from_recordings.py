"""Training runs from recordings, decoded and aligned as in live operation."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from models.data.runs import UNLABELLED, Run
from models.encoders.placed_texts import PlacedText
from pipeline.arrays import Floats
from pipeline.config.classes import UNKNOWN
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import DEAD_LETTER, LABELS
from pipeline.engine.frame_stream import FrameStream
from pipeline.engine.machines import Machine, MachineGroup
from pipeline.engine.stats import Outcome
from pipeline.errors import DataError
from pipeline.files.yaml_fields import did_you_mean
from pipeline.frames import Frames
from pipeline.mapping.schemas import Schemas
from pipeline.wire.labels import LabelBook, LabelledSpan, read_label
from pipeline.wire.letters import origin_of
from pipeline.wire.messages import MAX_TIME_MS, RejectedError
from pipeline.wire.records import Output, Record

_CHUNK = 4096

logger = logging.getLogger("faultline.training")


@dataclass(slots=True)
class _OpenRun:
    start_ms: list[int] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    texts: list[PlacedText] = field(default_factory=list)


def runs_from_records(
    records: Iterable[Record],
    profile: PlantProfile,
    machine_type: MachineType,
    source: str,
    schemas: Schemas | None = None,
) -> list[Run]:
    """One run per stretch of a machine between resets, grouped by machine so that splits do not divide a machine.

    Values are NaN where a variable was not measured in its own frame. Frames without a label are UNLABELLED by the
    rule of `LabelBook`, and so are those whose fault is `unknown`. `schemas` are needed for Avro. Raises DataError if a
    label names a fault that the machine type does not have, or if there is no frame at all.
    """
    runs: dict[str, list[_OpenRun]] = defaultdict(list)

    def take(group: MachineGroup, rounds: Sequence[Frames], _: Outcome) -> None:
        if group.name == machine_type.name:
            for frames in rounds:
                add(frames, group.in_slots(frames.slots))

    def add(frames: Frames, machines: Sequence[Machine]) -> None:
        for row, machine in enumerate(machines):
            if frames.reset[row]:
                runs[machine.name].append(_OpenRun())
            run = runs[machine.name][-1]
            run.start_ms.append(int(frames.start_ms[row]))
            run.values.append(np.where(frames.observed[row], frames.values[row], np.float32(np.nan)))
        for row, text in frames.texts:
            run = runs[machines[row].name][-1]
            age = (int(frames.start_ms[row]) + frames.period_ms - text.time_ms) / frames.period_ms
            run.texts.append(PlacedText(len(run.start_ms) - 1, age, text.text))

    stream = FrameStream(profile, take, schemas=schemas)
    refused = _Refused(stream)
    newest: dict[tuple[str, int], tuple[int, LabelledSpan]] = {}
    chunk: list[Record] = []
    for record in records:
        if record.topic == LABELS:
            label = _label(record, source)
            newest[label.machine, label.start_ms] = record.offset, label
            continue
        chunk.append(record)
        if len(chunk) == _CHUNK:
            refused.add(stream.process(chunk))
            chunk.clear()
    refused.add(stream.process(chunk))
    stream.finish()
    book = LabelBook()
    for offset, label in newest.values():
        _require_fault(label, offset, profile, machine_type, source)
        book.insert(label)
    spans = [label for _, label in newest.values() if profile.type_of(label.machine) in (machine_type, None)]
    if not runs:
        raise DataError(f"{source} has no frame of machine type {machine_type.name}: {refused.why_none(profile)}")
    refused.warn(source)
    _require_use(spans, {name: [part.start_ms for part in parts] for name, parts in runs.items()}, source)
    index = {fault: number for number, fault in enumerate(machine_type.faults)}
    finished = []
    for machine, parts in sorted(runs.items()):
        for number, part in enumerate(parts):
            faults = [book.fault_at(machine, start) for start in part.start_ms]
            labels = np.array(
                [UNLABELLED if fault is None else index.get(fault, UNLABELLED) for fault in faults], np.int64
            )
            texts = tuple(part.texts) if machine_type.texts else ()
            starts = np.array(part.start_ms, np.int64)
            finished.append(
                Run(f"{machine}/{number}", machine, source, np.stack(part.values), labels, texts, starts, machine)
            )
    return finished


class _Refused:
    """What became of the records that gave no reading or text."""

    def __init__(self, stream: FrameStream) -> None:
        self._stats = stream.stats
        self._details: dict[str, str] = {}

    def add(self, outputs: Sequence[Output]) -> None:
        """Remember the first record that was refused for each reason."""
        for output in outputs:
            origin = origin_of(output.headers) if output.topic == DEAD_LETTER else None
            if origin is not None:
                self._details.setdefault(origin.reason, f"{origin.detail[:200]} ({origin.place.topic})")

    def __str__(self) -> str:
        """Counts and reasons, and in words what was wrong with the first record of the most frequent one."""
        counts = self._stats.dead_letters.most_common()
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts)
        return f"{reasons}; such as: {self._details.get(counts[0][0], counts[0][0])}"

    def why_none(self, profile: PlantProfile) -> str:
        """Why there is no frame."""
        if not self._stats.dead_letters:
            read = sum(self._stats.records[topic] for topic in profile.sensor_topics)
            return f"it has {read:,} readings in {', '.join(profile.sensor_topics)}; does the profile fit?"
        return (
            f"its records were refused ({self}); correct the profile, the tables (`faultline convert --profile` "
            "compares them) or what is sent (`faultline sources try` shows it field by field)"
        )

    def warn(self, source: str) -> None:
        """Say what was refused, if anything was."""
        if count := self._stats.dead_letters.total():
            logger.warning("%s: %s records were refused (%s)", source, f"{count:,}", self)


def _label(record: Record, source: str) -> LabelledSpan:
    """The label in a record; raises DataError if it is none."""
    try:
        return read_label(record)
    except RejectedError as rejected:
        raise DataError(f"{source}, labels offset {record.offset}: {rejected.detail}") from rejected


def _require_fault(
    label: LabelledSpan, offset: int, profile: PlantProfile, machine_type: MachineType, source: str
) -> None:
    """Raise DataError if a label names a fault that its machine cannot have."""
    kind = profile.type_of(label.machine) or machine_type
    if label.fault not in (*kind.faults, UNKNOWN):
        raise DataError(
            f"{source}, labels offset {offset}: machine type {kind.name} has no fault {label.fault!r}; "
            f"{did_you_mean(label.fault, kind.faults)} (a new fault goes into `faults` of the profile)"
        )


def _require_use(labels: Sequence[LabelledSpan], starts: Mapping[str, list[list[int]]], source: str) -> None:
    """Raise DataError if there are labels and none covers a frame; warn of those of a fault that do not."""
    unused: dict[str, list[LabelledSpan]] = {}
    for label in labels:
        parts = starts.get(label.machine, [])
        if not any(bisect_left(part, label.start_ms) < bisect_left(part, label.end_ms) for part in parts):
            unused.setdefault(label.fault, []).append(label)
    count = sum(map(len, unused.values()))
    if not count:
        return
    first = next(iter(unused.values()))[0]
    example = f"{first.fault} of {first.machine} from {_shown_time(first.start_ms)} until {_shown_time(first.end_ms)}"
    if count == len(labels):
        machine = first.machine if first.machine in starts else min(starts)
        frames = starts[machine]
        raise DataError(
            f"{source}: none of {count:,} labels covers the start of a frame, such as {example}, while {machine} has "
            f"frames from {_shown_time(frames[0][0])} until {_shown_time(frames[-1][-1])}; check machines, times and "
            "`before`"
        )
    logger.warning("%s: %d of %d labels cover the start of no frame, such as %s", source, count, len(labels), example)


def _shown_time(time_ms: int) -> str:
    if time_ms >= MAX_TIME_MS:
        return "the end"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
