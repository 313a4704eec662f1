"""What workers and plant agents write of workers' progress: how far each partition is, and which machines are away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pipeline.areas.progress import Progress, progress_output
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import CONTROL
from pipeline.wire.records import Output

_UNKNOWN_STAMP_MS: Final = 2**40
"""The time stamp of a record where no time is known yet; long ago."""


class ProgressReporter:
    """Says to areas how far a worker is in the partitions of their machines, once in each frame period."""

    def __init__(
        self,
        profile: PlantProfile,
        partition_of: Callable[[bytes], int],
        clock_ms: Callable[[int], int | None],
        lag: Callable[[], Mapping[tuple[str, int], int]],
    ) -> None:
        """`clock_ms` gives how far a partition's time has come, `lag` unread records by topic and partition."""
        self._clock_ms = clock_ms
        self._lag = lag
        self._step_ms = min(kind.frame_period_ms for kind in profile.machine_types)
        self._areas: dict[int, dict[str, list[str]]] = {}  # by partition, the machines of each area
        for machine, area in profile.area_of.items():
            in_partition = self._areas.setdefault(partition_of(machine.encode()), {})
            in_partition.setdefault(area, []).append(machine)
        self._said: dict[int, tuple[int, bool]] = {}

    def begin(self, partitions: Iterable[int]) -> list[Output]:
        """What to write before the first records of partitions are processed."""
        new = [one for one in partitions if one in self._areas and one not in self._said]
        return [output for one in new for output in self._say(one, self._clock_ms(one) or 0, behind=True)]

    def after(self, partitions: Iterable[int]) -> list[Output]:
        """What to write behind what records of partitions have led to."""
        own = [
            (one, time_ms) for one in partitions if one in self._areas and (time_ms := self._clock_ms(one)) is not None
        ]
        if not own:
            return []
        unread = {place for (topic, place), count in self._lag().items() if count and topic != CONTROL}
        outputs: list[Output] = []
        for partition, time_ms in own:
            behind = partition in unread
            said_ms, was_behind = self._said.get(partition, (0, False))
            if time_ms >= said_ms + self._step_ms or (was_behind and not behind):
                outputs += self._say(partition, time_ms, behind=behind)
        return outputs

    def due(self) -> list[Output]:
        """What to write because time has passed."""
        return self.after(tuple(self._said))

    def _say(self, partition: int, time_ms: int, *, behind: bool) -> list[Output]:
        self._said[partition] = time_ms, behind
        return [
            progress_output(area, Progress(machines, time_ms, behind), time_ms or _UNKNOWN_STAMP_MS)
            for area, machines in self._areas[partition].items()
        ]

    def release(self, partitions: Iterable[int]) -> None:
        """These partitions belong to other workers now."""
        for partition in partitions:
            self._said.pop(partition, None)


class Patience:
    """Knows of which workers nothing has been heard for too long while areas wait for them."""

    def __init__(self, seconds: float, monotonic_seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._monotonic_seconds = monotonic_seconds
        self._since: dict[tuple[str, str], tuple[int, float]] = {}

    def due(self, held: Mapping[str, Mapping[str, int]], stamp_ms: Callable[[str], int | None]) -> list[Output]:
        """Records that machines are away; `held` gives by area the machines that it waits for, and how far their
        workers were when they spoke last, `stamp_ms` the time of an area."""
        now, before = self._monotonic_seconds(), self._since
        self._since, outputs = {}, list[Output]()
        for area, machines in held.items():
            away = []
            for machine, time_ms in machines.items():
                known = before.get((area, machine))
                since = known[1] if known is not None and known[0] == time_ms else now
                if now - since >= self._seconds:
                    away.append(machine)
                else:
                    self._since[area, machine] = time_ms, since
            if away:
                outputs.append(progress_output(area, Progress(away, away=True), stamp_ms(area) or _UNKNOWN_STAMP_MS))
        return outputs

    def forget(self) -> None:
        """This process itself is behind: what it has not read may say more."""
        self._since = {}
