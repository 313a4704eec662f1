"""One area replayed up to one of its diagnoses, with the frames before it: what an explanation is made from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from agents.audit.log import PartitionLog
from agents.delivery.partitioning import partition_of
from models.evaluation.explanations.areas import AreaWindow
from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaFrame, AreaResult, AreaRunner, EmbeddingShape
from pipeline.areas.layout import AreaLayout
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREAS, PLANT
from pipeline.errors import DataError, SettingsError
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Output, Record


class AreaId(NamedTuple):
    """What the id of an area's diagnosis consists of."""

    area: str
    end_ms: int
    """End of its frame."""
    model: str
    """The first digits of the area model's hash."""

    @classmethod
    def parse(cls, text: str, plant: PlantProfile) -> Self | None:
        """Of an area's diagnosis, or of an alarm of a utility; None if it is about a machine. Raises SettingsError."""
        name, *parts = text.split(":")
        area = plant.area_of_utility.get(name)
        if area is None and name in plant.areas and len(parts) == 2:
            area = name
        if area is None:
            return None
        try:
            return cls(area, int(parts[0]), parts[1])
        except (IndexError, ValueError):
            raise SettingsError(
                f"{text[:200]!r} is no id of an area's diagnosis or of an alarm of a utility, such as "
                f"{area}:1763600220000:0123456789ab; copy it from `id` in topic plant or alarms"
            ) from None

    def __str__(self) -> str:
        return f"{self.area}:{self.end_ms}:{self.model}"


@dataclass(frozen=True, slots=True)
class ReplayedArea:
    """An area's diagnosis as it comes out again."""

    diagnosis: AreaDiagnosis
    window: AreaWindow


def area_from_log(
    log: PartitionLog, plant: PlantProfile, runner: AreaRunner, wanted: AreaId, *, frames: int, history_ms: int | None
) -> tuple[AreaDiagnosis | None, ReplayedArea]:
    """The diagnosis as it was published, if it is still there, and as it comes out again.

    The topic `areas` is read from so long before the frame, or else from its beginning. Raises as `replay_area_until`.
    """
    partition = partition_of(wanted.area.encode(), log.partitions(AREAS))
    log.begin_at([PLANT], wanted.end_ms)  # a diagnosis has the end of its frame for a time stamp
    published = published_area(log.records_of(PLANT, partition), wanted)
    if history_ms is not None:
        log.begin_at([AREAS], max(0, wanted.end_ms - history_ms))
    return published, replay_area_until(log.records_of(AREAS, partition), plant, runner, wanted, frames=frames)


def published_area(records: Iterable[Record], wanted: AreaId) -> AreaDiagnosis | None:
    """The published diagnosis, if it is still there."""
    key = wanted.area.encode()
    for record in records:
        if record.topic == PLANT and record.key == key and record.value is not None:
            try:
                found = decode_area(record.value)
            except RejectedError:
                continue
            if found.id == str(wanted):
                return found
    return None


def replay_area_until(
    records: Iterable[Record], plant: PlantProfile, runner: AreaRunner, wanted: AreaId, *, frames: int
) -> ReplayedArea:
    """Replay the records of an area, in the order of its partition, until its diagnosis comes out.

    `frames` is how many frames up to it are kept. Raises SettingsError if the model is not that of the diagnosis, and
    DataError if the diagnosis does not come out.
    """
    if wanted.area not in plant.areas:
        raise SettingsError(f"plant {plant.plant} has no area {wanted.area[:200]!r}; use --profile")
    if not runner.hash.startswith(wanted.model):
        raise SettingsError(
            f"{wanted} is of area model {wanted.model}, and {runner.name} is {runner.hash[:12]}; name the right one "
            "with --area-model"
        )
    keeping = _KeepingRunner(runner, wanted, frames)
    engine = AreaEngine(plant, keeping)
    newest: AreaDiagnosis | None = None
    for diagnosis in _diagnoses(engine, records, wanted.area):
        newest = diagnosis
        if diagnosis.frame_end >= wanted.end_ms:
            break
    if newest is None or newest.id != str(wanted):
        last = "" if newest is None else f": the last frame that comes out ends at {shown_time(newest.frame_end)}"
        raise DataError(f"the records do not lead to {wanted}{last}; check the id, and whether they are still there")
    return ReplayedArea(newest, keeping.window())


def _diagnoses(engine: AreaEngine, records: Iterable[Record], area: str) -> Iterator[AreaDiagnosis]:
    key = area.encode()
    for record in records:
        if record.key in (None, key):
            yield from _published(engine.process([record]), key)
    yield from _published(engine.finish(), key)


def _published(outputs: Iterable[Output], key: bytes) -> Iterator[AreaDiagnosis]:
    for output in outputs:
        if output.topic == PLANT and output.key == key:
            yield decode_area(output.value or b"")


class _KeepingRunner:
    """A runner that keeps the frames of one area up to one of them, each with the state before it."""

    def __init__(self, runner: AreaRunner, wanted: AreaId, frames: int) -> None:
        self._runner = runner
        self._wanted = wanted
        self._kept: deque[tuple[AreaFrame, bytes]] = deque(maxlen=frames)

    def window(self) -> AreaWindow:
        """The frames that were kept."""
        (_, state), *_ = self._kept
        return AreaWindow(tuple(frame for frame, _ in self._kept), state)

    @property
    def name(self) -> str:
        return self._runner.name

    @property
    def hash(self) -> str:
        return self._runner.hash

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._runner.modalities

    @property
    def embeddings(self) -> Mapping[str, EmbeddingShape]:
        return self._runner.embeddings

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        self._runner.require(layouts)

    def load_code(self) -> None:
        self._runner.load_code()

    def reserve(self, slots: int) -> None:
        self._runner.reserve(slots)

    def step(self, frame: AreaFrame) -> AreaResult:
        if frame.layout.name == self._wanted.area and frame.end_ms <= self._wanted.end_ms:
            if frame.reset:
                self._kept.clear()
            self._kept.append((frame, self._runner.save(frame.slot)))
        return self._runner.step(frame)

    def reset(self, slot: int) -> None:
        self._runner.reset(slot)

    def save(self, slot: int) -> bytes:
        return self._runner.save(slot)

    def load(self, slot: int, state: bytes) -> None:
        self._runner.load(slot, state)
