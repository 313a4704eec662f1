"""Training runs from recordings, decoded and aligned as in live operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.data.runs import UNLABELLED, Run
from models.encoders.placed_texts import PlacedText
from pipeline.arrays import Floats
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import LABELS
from pipeline.engine.frame_stream import FrameStream
from pipeline.engine.machines import Machine, MachineGroup
from pipeline.engine.stats import Outcome
from pipeline.errors import DataError
from pipeline.frames import Frames
from pipeline.wire.labels import LabelBook
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Record

_CHUNK = 4096


@dataclass(slots=True)
class _OpenRun:
    start_ms: list[int] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    texts: list[PlacedText] = field(default_factory=list)


def runs_from_records(
    records: Iterable[Record], profile: PlantProfile, machine_type: MachineType, source: str
) -> list[Run]:
    """One run per stretch of a machine between resets, grouped by machine so that splits do not divide a machine.

    Values are NaN where a variable was not measured in its own frame. Frames without a label are UNLABELLED by the
    rule of `LabelBook`. Raises DataError if a label names a fault that the machine type does not have, or if there
    is no frame at all.
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

    stream = FrameStream(profile, take)
    book = LabelBook()
    chunk: list[Record] = []
    for record in records:
        if record.topic == LABELS:
            _label(book, record, machine_type, source)
            continue
        chunk.append(record)
        if len(chunk) == _CHUNK:
            stream.process(chunk)
            chunk.clear()
    stream.process(chunk)
    stream.finish()
    if not runs:
        raise DataError(f"{source} has no frame of machine type {machine_type.name}; does its profile fit?")
    index = {fault: number for number, fault in enumerate(machine_type.faults)}
    finished = []
    for machine, parts in sorted(runs.items()):
        for number, part in enumerate(parts):
            faults = [book.fault_at(machine, start) for start in part.start_ms]
            labels = np.array([UNLABELLED if fault is None else index[fault] for fault in faults], np.int64)
            texts = tuple(part.texts) if machine_type.texts else ()
            finished.append(Run(f"{machine}/{number}", machine, source, np.stack(part.values), labels, texts))
    return finished


def _label(book: LabelBook, record: Record, machine_type: MachineType, source: str) -> None:
    try:
        fault = book.add(record)
    except RejectedError as rejected:
        raise DataError(f"{source}, labels offset {record.offset}: {rejected.detail}") from rejected
    if fault not in machine_type.faults:
        raise DataError(
            f"{source}, labels offset {record.offset}: machine type {machine_type.name} has no fault {fault!r}; "
            f"it has {', '.join(machine_type.faults)}"
        )
