"""One machine replayed up to one of its diagnoses, with the frames before it: what an explanation is made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Self

import numpy as np

from models.evaluation.explanations.window import Window, WindowKeeper
from pipeline.arrays import Ints
from pipeline.compiled import Notify
from pipeline.config.classes import NO_EVIDENCE
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import CONTROL, DIAGNOSES, engine_topics
from pipeline.engine.engine import Engine
from pipeline.errors import DataError, SettingsError
from pipeline.frames import Frames, StepResult, StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import Diagnosis, decode_diagnosis
from pipeline.wire.records import Record

_CHUNK = 64


class DiagnosisId(NamedTuple):
    """What the id of a diagnosis consists of."""

    machine: str
    end_ms: int
    """End of its frame."""
    model: str
    """The first digits of the model's hash."""
    revision: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of a diagnosis, or of an alarm that it raised or cleared; raises SettingsError."""
        try:
            if text.rpartition(":")[2].isdecimal():
                machine, end, model, revision = text.rsplit(":", 3)
            else:  # an alarm's
                machine, end, model, _, _ = text.rsplit(":", 4)
                revision = "0"
            return cls(machine, int(end), model, int(revision))
        except ValueError:
            raise SettingsError(
                f"{text[:200]!r} is no id of a diagnosis or alarm, such as te-07:1763600220000:0123456789ab:0; "
                "copy it from `id` in topic diagnoses or alarms"
            ) from None

    def __str__(self) -> str:
        return f"{self.machine}:{self.end_ms}:{self.model}:{self.revision}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """A diagnosis as it comes out again."""

    diagnosis: Diagnosis
    answer: int
    """Class of its fault."""
    window: Window


def records_of_machine(
    records: Iterable[Record], profile: PlantProfile, machine: str, partition: int
) -> Iterator[Record]:
    """What an engine needs of records to diagnose one machine: its own, and the time of its partition."""
    topics, key = frozenset(engine_topics(profile)), machine.encode(errors="replace")
    for record in records:
        if record.topic not in topics:
            continue
        if record.key == key or (record.topic == CONTROL and record.key is None and record.partition == partition):
            yield record


def replay_until(
    records: Iterable[Record],
    profile: PlantProfile,
    runners: Mapping[str, StepRunner],
    wanted: DiagnosisId,
    *,
    frames: int,
    schemas: Schemas | None = None,
    notify: Notify = lambda _: None,
) -> Replayed:
    """Replay the records of a machine, in the order in which its worker took them, until its diagnosis comes out.

    `frames` is how many frames before it are kept. Raises SettingsError if the model is not that of the diagnosis,
    DataError if the diagnosis does not come out or was given without evidence.
    """
    kind = profile.type_of(wanted.machine)
    if kind is None:
        raise SettingsError(f"no machine type of plant {profile.plant} matches {wanted.machine[:200]!r}; use --profile")
    runner = runners[kind.name]
    if not runner.hash.startswith(wanted.model):
        raise SettingsError(
            f"{wanted} is of model {wanted.model}, and {runner.name} is {runner.hash[:12]}; give its file with --model"
        )
    keeping = _KeepingRunner(runner, wanted, frames)
    engine = Engine(profile, {**runners, kind.name: keeping}, drift_rule=None, schemas=schemas, notify=notify)
    keeping.machines = lambda slots: [machine.name for machine in engine.groups[kind.name].in_slots(slots)]
    diagnosis = _wait_for(engine, iter(records), str(wanted))
    window = keeping.keeper.window()
    if window is None or int(window.frames[-1].end_ms[0]) != wanted.end_ms:
        raise DataError(
            f"{wanted} was announced while the machine gave no readings ({diagnosis.status}): it repeats the answer of "
            "an earlier frame; explain the last diagnosis before it whose status is active or silent"
        )
    if diagnosis.fault == NO_EVIDENCE:
        raise DataError(f"{wanted} says {NO_EVIDENCE}: no reading and no text was known to explain it by")
    return Replayed(diagnosis, runner.classes.index(diagnosis.fault), window)


def _wait_for(engine: Engine, records: Iterator[Record], wanted: str) -> Diagnosis:
    """Process records until a diagnosis of this id comes out."""
    newest: Diagnosis | None = None
    while True:
        chunk = list(islice(records, _CHUNK))
        for output in engine.process(chunk) if chunk else engine.finish():
            if output.topic == DIAGNOSES and output.value is not None:
                newest = decode_diagnosis(output.value)
                if newest.id == wanted:
                    return newest
        if not chunk:
            break
    if newest is None:
        raise DataError(
            f"no record leads to a diagnosis of {wanted.rsplit(':', 3)[0]}; check the machine and the topics"
        )
    raise DataError(
        f"the records do not lead to {wanted}: the last diagnosis of the machine is {newest.id}, whose frame ends "
        f"at {shown_time(newest.frame_end)}; check the id, and whether the records of that time are still there"
    )


class _KeepingRunner:
    """A runner that keeps the frames of one machine up to one diagnosis, each with the state before it."""

    def __init__(self, runner: StepRunner, wanted: DiagnosisId, frames: int) -> None:
        self.keeper = WindowKeeper(frames)
        self.machines = _no_machines
        self._runner = runner
        self._wanted = wanted

    @property
    def name(self) -> str:
        return self._runner.name

    @property
    def hash(self) -> str:
        return self._runner.hash

    @property
    def classes(self) -> tuple[str, ...]:
        return self._runner.classes

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._runner.modalities

    def reserve(self, slots: int) -> None:
        self._runner.reserve(slots)

    def prepare(self, rounds: Sequence[Frames]) -> None:
        self._runner.prepare(rounds)

    def step(self, frames: Frames) -> StepResult:
        for row, machine in enumerate(self.machines(frames.slots)):
            if machine == self._wanted.machine and int(frames.end_ms[row]) <= self._wanted.end_ms:
                self._runner.reserve(int(frames.slots[row]) + 1)
                self.keeper.add(_row(frames, row), self._runner.save(frames.slots[row : row + 1])[0])
        return self._runner.step(frames)

    def reset(self, slots: Ints) -> None:
        self._runner.reset(slots)

    def save(self, slots: Ints) -> list[bytes]:
        return self._runner.save(slots)

    def load(self, slot: int, state: bytes) -> None:
        self._runner.load(slot, state)


def _no_machines(slots: Ints) -> list[str]:
    return []


def _row(frames: Frames, row: int) -> Frames:
    """One machine's frame out of a round; arrays are copied, because alignment uses them again."""

    def own(column: Any) -> Any:
        return np.array(column[row : row + 1])

    return Frames(
        slots=own(frames.slots),
        start_ms=own(frames.start_ms),
        period_ms=frames.period_ms,
        values=own(frames.values),
        observed=own(frames.observed),
        age_ms=own(frames.age_ms),
        reset=own(frames.reset),
        reset_reason=own(frames.reset_reason),
        revision=own(frames.revision),
        texts=[(0, text) for place, text in frames.texts if place == row],
    )
