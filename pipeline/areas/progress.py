"""How far workers are, as they say in the topic of areas: what tells a machine that is away from one whose worker lags.

A worker says for each of its partitions how far the partition's time has come, and whether there is more to read. While
a partition is behind the furthest one by more than the area's `wait`, its machines are waited for: their worker
catches up, or has stopped without a word. How long that may take is not decided here, where there is no clock: a plant
agent that has heard nothing of a partition for long writes that its machines are away, and that is a record like others
(docs/decisions/0032-areas-wait-for-workers.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.config.topics import AREA_PROGRESS, AREAS
from pipeline.wire.messages import Reason, RejectedError, decoded, is_time_ms
from pipeline.wire.records import Output


class Progress(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How far the worker of some machines of an area is."""

    machines: list[str]
    """Those of one partition."""
    time: int = 0
    """How far the partition's time has come, milliseconds; 0 if nothing is known of it yet."""
    behind: bool = False
    """Whether there are more records to read."""
    away: bool = False
    """Instead of all that: nothing has been heard of their worker for long."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Progress).decode


def progress_output(area: str, progress: Progress, stamp_ms: int) -> Output:
    """The record that says so in the topic of areas."""
    return Output(AREAS, None, area.encode(), _encode(progress), stamp_ms, (AREA_PROGRESS,))


def decode_progress(value: bytes) -> Progress:
    """Raises RejectedError."""
    progress = decoded(_decode, value)
    if progress.time and not is_time_ms(progress.time):
        raise RejectedError(Reason.BAD_TIME, f"the time of its worker is {progress.time}")
    return progress


@dataclass(slots=True)
class _Member:
    """What was said last of a machine's worker."""

    time_ms: int
    behind: bool
    away: bool
    newest_ms: int
    """How far the furthest partition was then."""


class AreaProgress:
    """How far the workers of an area's machines are."""

    def __init__(self, machines: Sequence[str], wait_ms: int) -> None:
        self._machines = machines
        self._wait_ms = wait_ms
        self._numbers = {machine: number for number, machine in enumerate(machines)}
        self._members: dict[int, _Member] = {}
        self._newest_ms = 0

    def take(self, progress: Progress) -> None:
        """Take in what a worker says; machines that are not of this area are of another profile, and left out."""
        self._newest_ms = max(self._newest_ms, progress.time)
        for machine in progress.machines:
            if (number := self._numbers.get(machine)) is None:
                continue
            known = self._members.get(number)
            time_ms = known.time_ms if progress.away and known is not None else progress.time
            self._members[number] = _Member(time_ms, progress.behind, progress.away, self._newest_ms)

    def is_behind(self, number: int, area_ms: int) -> bool:
        """Whether a machine's worker catches up with the others, or has said nothing since they went on; `area_ms` is
        how far the machines' diagnoses have come."""
        if not self._members:
            return False  # workers of this plant do not say how far they are
        member = self._members.get(number)
        if member is None:
            return True
        limit_ms = max(self._newest_ms, area_ms) - self._wait_ms
        return not member.away and member.time_ms < limit_ms and (member.behind or member.newest_ms < limit_ms)

    def time_ms(self, number: int) -> int:
        """How far a machine's worker was when it spoke last; 0 if it never did."""
        member = self._members.get(number)
        return 0 if member is None else member.time_ms

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """All that the future depends on, for `load`; empty as long as no worker has spoken."""
        if not self._members:
            return {}
        members = [
            [number, one.time_ms, one.behind, one.away, one.newest_ms] for number, one in sorted(self._members.items())
        ]
        return {"progress": [self._newest_ms, members]}

    def load(self, saved: dict[str, Any]) -> None:
        """Put back what `save` gave; raises TypeError or ValueError if it is none."""
        self._newest_ms, members = saved.get("progress", (0, ()))
        self._members = {int(number): _Member(*values) for number, *values in members}
