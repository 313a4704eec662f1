"""The frames that each model has diagnosed per machine, in order, and the holes between them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field

from pipeline.config.profile import MachineType
from pipeline.wire import messages

DIGEST_BYTES = 16
REVISION_BITS = 8


class FrameIndex:
    """Frames of one machine and model in order: 32 bytes each."""

    __slots__ = ("_digests", "_keys", "_places", "since_ms")

    def __init__(self) -> None:
        self.since_ms = messages.MAX_TIME_MS
        """End of the frame that was read first; older ones may come behind it if the beginning was deleted."""
        self._keys = array("q")  # frame end and revision
        self._digests = bytearray()
        self._places = array("q")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def first_ms(self) -> int:
        """End of the oldest frame; far ahead if there is none."""
        return self._keys[0] >> REVISION_BITS if self._keys else messages.MAX_TIME_MS

    @property
    def last_ms(self) -> int:
        """End of the newest frame; negative if there is none."""
        return self._keys[-1] >> REVISION_BITS if self._keys else -1

    def find(self, end_ms: int, revision: int) -> tuple[bytes, int] | None:
        """Digest and place of a frame in this revision."""
        key = end_ms << REVISION_BITS | revision
        if not self._keys or key > self._keys[-1]:
            return None
        at = bisect_left(self._keys, key)
        if self._keys[at] != key:
            return None
        return bytes(self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]), self._places[at]

    def next_ms(self, end_ms: int) -> int | None:
        """The smallest frame end at or after this one."""
        at = bisect_left(self._keys, end_ms << REVISION_BITS)
        return self._keys[at] >> REVISION_BITS if at < len(self._keys) else None

    def add(self, end_ms: int, revision: int, digest: bytes, place: int) -> None:
        """Put a frame in its place; cheap at the end."""
        if not self._keys:
            self.since_ms = end_ms
        key = end_ms << REVISION_BITS | revision
        at = len(self._keys) if key > (self._keys[-1] if self._keys else -1) else bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._digests[at * DIGEST_BYTES : at * DIGEST_BYTES] = digest
        self._places.insert(at, place)


@dataclass(slots=True)
class ModelTimeline:
    """The frames of one machine that one model has diagnosed."""

    stepped: FrameIndex = field(default_factory=FrameIndex)
    announced: FrameIndex = field(default_factory=FrameIndex)
    starts: set[int] = field(default_factory=set)
    """Frame ends that say `start`."""
    quiet: int = 0
    """Stepped frames without readings since the last one with some."""
    in_silence: bool = False
    """Whether nothing was stepped since the last announced frame."""
    announced_later: bool = False
    """Whether frames had been stepped when the first one was announced."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Frame ends: the first that is missing, and the next that is there."""
    doubtful: list[tuple[int, int]] = field(default_factory=list)
    """Holes before announced frames, which a `start` may yet explain."""

    @property
    def last_ms(self) -> int:
        """End of the newest frame."""
        return max(self.stepped.last_ms, self.announced.last_ms)


@dataclass(slots=True)
class MachineTimeline:
    """The frames of one machine, by the hash of the model."""

    machine_type: MachineType
    partition: int
    models: dict[str, ModelTimeline] = field(default_factory=dict)


def fill_hole(holes: list[tuple[int, int]], end_ms: int, period: int) -> None:
    """A frame that comes out of order is not missing."""
    for at in range(len(holes) - 1, -1, -1):
        begin, end = holes[at]
        if begin <= end_ms < end:
            holes[at : at + 1] = [part for part in ((begin, end_ms), (end_ms + period, end)) if part[0] < part[1]]
            return


def merged_holes(holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Holes in order, without overlap."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(holes):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def unexplained_holes(timeline: ModelTimeline, machine_type: MachineType) -> list[tuple[int, int]]:
    """Doubtful holes that nothing explains: not even that the machine had been forgotten after a long silence."""
    idle_ms = max(machine_type.idle_after_ms(name) for name in machine_type.source_names)
    announced_ms = idle_ms + (machine_type.gap_frames + 2) * machine_type.frame_period_ms
    return [(begin, end) for begin, end in timeline.doubtful if end - begin + announced_ms < machine_type.state_ttl_ms]
