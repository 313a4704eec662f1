"""The area engine: diagnoses of machines in, diagnoses of areas out; synchronous and deterministic like the engine.

It reads one topic, `areas`: diagnoses of machines, texts about utilities, what people do with utilities' alarms,
and how far workers are, keyed by area, and ticks, which have no key. Headers tell all these from diagnoses. It offers
what a worker needs of an engine with state, with areas in the place of machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from pipeline.areas.alarms import UtilityAlarms
from pipeline.areas.area import AreaState, OnRaised
from pipeline.areas.frames import AreaRunner
from pipeline.areas.layout import area_layouts
from pipeline.areas.progress import decode_progress
from pipeline.areas.stats import AreaStats
from pipeline.arrays import NEVER_MS
from pipeline.compiled import Notify
from pipeline.config.profile import PlantProfile
from pipeline.config.sections.titles import Priority
from pipeline.config.topics import AREA_CONTROL, AREA_PROGRESS, AREAS
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.errors import SettingsError, StateError
from pipeline.wire import letters, messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Output, Record
from pipeline.wire.states import Forgotten, StateOwner, decode_state

KIND: Final = "area"
"""What saved states have in the place of a machine type."""


class AreaEngine:
    """Diagnoses every area of a plant from the records of the topic `areas`."""

    def __init__(
        self,
        profile: PlantProfile,
        runner: AreaRunner,
        *,
        alarm_rule: AlarmRule | None = None,
        partition_of: Callable[[bytes], int] | None = None,
        on_raised: OnRaised = lambda *_: None,
        notify: Notify = lambda _: None,
    ) -> None:
        """`partition_of` detects wrongly partitioned keys; `on_raised` hears of each alarm of a utility before its
        outputs are returned; `notify` gets a line if code has to be compiled first.

        Raises SettingsError if the profile has no areas, and ModelFileError if the runner cannot step them.
        """
        self.layouts = area_layouts(profile)
        if not self.layouts:
            raise SettingsError(
                f"plant {profile.plant} has no areas; add `areas:` to its profile (docs/guide/profiles.md)"
            )
        runner.require(list(self.layouts.values()))
        self.runner = runner
        self.stats = AreaStats()
        self._partition_of = partition_of
        self._rule = alarm_rule or AlarmRule()
        self._profile = profile
        self._faults = {kind.name: kind.faults for kind in profile.machine_types}
        self._on_raised = on_raised
        self._notify = notify
        self._slots = {name: slot for slot, name in enumerate(self.layouts)}
        self._areas: dict[str, AreaState] = {}
        self._clocks_ms: dict[int, int] = {}
        self._ticked: set[int] = set()  # partitions whose newest record was a tick
        self._changed: dict[str, None] = {}
        self._log_ids: Mapping[str, str] = {}
        self._newest_frame_end_ms: dict[int, int] = {}
        runner.reserve(len(self._slots))

    def load(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        self.runner.load_code()

    # -- input ------------------------------------------------------------------------------------------------

    def process(self, records: Sequence[Record]) -> list[Output]:
        """Take records in the order given; return everything they lead to."""
        outputs: list[Output] = []
        for record in records:
            self.stats.records[record.topic] += 1
            try:
                self._take(record, outputs)
            except RejectedError as rejected:
                outputs.append(self._letter(record, rejected))
        return outputs

    def refuse(self, record: Record, rejected: RejectedError) -> Output:
        """Count a record that must not be processed; returns its dead letter."""
        self.stats.records[record.topic] += 1
        return self._letter(record, rejected)

    def finish(self) -> list[Output]:
        """The input has ended for good: close every frame that still waits."""
        outputs: list[Output] = []
        for area in self._areas.values():
            self._advance(area, outputs, everything=True)
        return outputs

    def warm_up(self, records: Sequence[Record]) -> None:
        """Let areas reach a state by the records that led to it; nothing is published or counted again."""
        stats, self.stats = self.stats, AreaStats()
        try:
            self.process(records)
        finally:
            self.stats = stats

    def _letter(self, record: Record, rejected: RejectedError) -> Output:
        self.stats.dead_letters[rejected.reason.value] += 1
        return letters.dead_letter(record, rejected)

    def _take(self, record: Record, outputs: list[Output]) -> None:
        if record.topic != AREAS:
            raise RejectedError(Reason.UNKNOWN_TOPIC, f"areas are diagnosed from {AREAS}, not from {record.topic}")
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        if not messages.is_time_ms(record.timestamp_ms):
            raise RejectedError(Reason.BAD_TIME, f"its own time stamp is {record.timestamp_ms}")
        if record.key is None:
            self._tick(record, record.value, outputs)
            return
        area = self._area_of(record, record.key)
        if record.offset <= area.applied.get(AREAS, -1):
            self.stats.skipped[record.topic] += 1
            return
        if AREA_CONTROL in record.headers:
            area.act(record, record.value, self._faults, outputs, self.stats)
            area.applied[AREAS] = record.offset  # which says nothing about the time of the area's data
            self._changed[area.layout.name] = None
            return
        if AREA_PROGRESS in record.headers:
            area.alignment.progress.take(decode_progress(record.value))
        else:
            area.take(record, record.value, self.stats)
        self._note(area, record)
        self._set_clock(area)
        self._advance(area, outputs)

    def _area_of(self, record: Record, key: bytes) -> AreaState:
        """The state of the area that a record is about, a new one if it has none; raises RejectedError."""
        name = key.decode(errors="replace")
        area = self._areas.get(name)
        if area is not None and area.partition == record.partition:
            return area
        if name not in self.layouts:
            raise RejectedError(Reason.UNKNOWN_MACHINE, f"the profile has no area {name[:80]!r}")
        expected = record.partition if self._partition_of is None else self._partition_of(key)
        if area is not None or record.partition != expected:
            text = f"area {name} belongs to partition {area.partition if area is not None else expected}"
            raise RejectedError(Reason.WRONG_PARTITION, text)
        return self._add(name, record.partition)

    def _add(self, name: str, partition: int) -> AreaState:
        layout = self.layouts[name]
        alarms = UtilityAlarms(
            layout, self._profile.alarms, self._priority_of, self.runner.hash, self._rule, self._notify
        )
        self._areas[name] = AreaState(layout, self.runner, self._slots[name], partition, alarms, self._on_raised)
        return self._areas[name]

    def _priority_of(self, machine: str, fault: str) -> Priority | None:
        """What the profile says of a fault, which counts once it has settings of alarms."""
        kind = self._profile.type_of(machine)
        if kind is None or not self._profile.alarms:
            return None
        return next((one.priority for one in kind.described_faults if one.name == fault), None)

    def _note(self, area: AreaState, record: Record) -> None:
        area.applied[AREAS] = record.offset
        area.last_ms = max(area.last_ms, record.timestamp_ms)
        self._changed[area.layout.name] = None

    def _tick(self, record: Record, value: bytes, outputs: list[Output]) -> None:
        """Time passes in a partition: frames that have waited long enough close."""
        control = messages.decode_control(value)
        if control.kind != "tick" or control.time is None:
            raise RejectedError(Reason.SCHEMA, "of records without a key only ticks with a time are read")
        now_ms = messages.parse_time_ms(control.time)
        for area in self._areas.values():
            is_new = record.offset > area.applied.get(AREAS, -1)
            if area.partition == record.partition and is_new and self._advance(area, outputs, now_ms):
                self._note(area, record)
        known_ms = self._clocks_ms.get(record.partition)
        if known_ms is not None:
            self._clocks_ms[record.partition] = max(known_ms, now_ms)
            self._ticked.add(record.partition)

    def _set_clock(self, area: AreaState) -> None:
        """The time of a partition is that of its areas, also where ticks had moved it beyond."""
        partition = area.partition
        if partition in self._ticked:
            self._ticked.remove(partition)
            times = [one.alignment.clock_ms for one in self._areas.values() if one.partition == partition]
        else:
            times = [self._clocks_ms.get(partition, NEVER_MS), area.alignment.clock_ms]
        if (newest := max(times)) > NEVER_MS:
            self._clocks_ms[partition] = newest

    def _advance(
        self, area: AreaState, outputs: list[Output], now_ms: int = NEVER_MS, *, everything: bool = False
    ) -> bool:
        """Diagnose what has closed; returns whether anything has."""
        newest = area.advance(outputs, self.stats, now_ms, everything=everything)
        if newest is None:
            return False
        self._changed[area.layout.name] = None
        known = self._newest_frame_end_ms
        known[area.partition] = max(known.get(area.partition, -1), newest)
        return True

    # -- state ------------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, bytes | None]:
        """The states of all areas that changed since the last call."""
        states: dict[str, bytes | None] = {}
        for name in self._changed:
            area = self._areas[name]
            states[name] = area.save(self._clocks_ms.get(area.partition), self._log_ids)
        self._changed.clear()
        return states

    def alignment_states(self) -> dict[str, bytes]:
        """Each area's open frames and times, which are exact however the input was cut."""
        return {name: area.saved_alignment() for name, area in self._areas.items()}

    def owner_of(self, area: str) -> StateOwner | None:
        """What the state of an area has to belong to; None if the profile has no such area."""
        layout = self.layouts.get(area)
        return None if layout is None else StateOwner(KIND, layout.digest, self.runner.hash, layout.period_ms)

    def restore(self, area: str, state: bytes, recreated: AbstractSet[str] = frozenset()) -> None:
        """Put an area back to where `checkpoint` saw it; raises StateError, leaving it without a state.

        If the topic was `recreated` since then, the state stays and no record of the new one counts as applied.
        """
        try:
            self._restore(area, state, recreated)
        except StateError:
            self.stats.states_refused += 1
            raise

    def _restore(self, name: str, state: bytes, recreated: AbstractSet[str]) -> None:
        self.forget(name)
        saved, owner = decode_state(name, state), self.owner_of(name)
        if isinstance(saved, Forgotten) or owner is None or (saved.type, saved.profile) != (KIND, owner.profile):
            raise StateError(f"state of {name} was saved under another profile")
        if saved.model != owner.model:
            raise StateError(f"state of {name} belongs to model {saved.model[:12]}, not {owner.model[:12]}")
        area = self._add(name, saved.partition)
        try:
            area.load(saved, recreated)
        except StateError:
            self.forget(name)
            raise
        if saved.clock is not None:
            self._clocks_ms[area.partition] = max(self._clocks_ms.get(area.partition, 0), saved.clock)
        if recreated:
            self._changed[name] = None

    def note_logs(self, ids: Mapping[str, str]) -> None:
        """By topic, the id of the log that is read: states say which one their offsets belong to."""
        self._log_ids = ids

    def note_applied(self, area: str, applied: Mapping[str, int]) -> None:
        """By topic, the last offset up to which records of an area must have no effect any more."""
        known = self._areas.get(area)
        if known is not None:
            known.applied = known.applied | {
                topic: max(offset, known.applied.get(topic, -1)) for topic, offset in applied.items()
            }
            self._changed[area] = None

    def forget(self, area: str) -> None:
        """Drop an area's state, if it has one."""
        if self._areas.pop(area, None) is not None:
            self.runner.reset(self._slots[area])
        self._changed.pop(area, None)

    def release(self, partitions: Sequence[int]) -> None:
        """Drop all areas of partitions that now belong to another process."""
        for name in [name for name, area in self._areas.items() if area.partition in partitions]:
            self.forget(name)
        for partition in partitions:
            self._clocks_ms.pop(partition, None)
            self._ticked.discard(partition)
            self._newest_frame_end_ms.pop(partition, None)

    @property
    def forgotten(self) -> Mapping[str, Forgotten]:
        """None: areas are those of the profile."""
        return {}

    def outdated(self) -> list[Forgotten]:
        """None, as no area is forgotten."""
        return []

    def drop_tombstoned(self, areas: Sequence[str]) -> None:
        """There is nothing to drop, as no area is forgotten."""

    # -- observation ------------------------------------------------------------------------------------------

    @property
    def areas(self) -> int:
        """How many areas have a state."""
        return len(self._areas)

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions of which the engine holds areas or a clock."""
        return frozenset(self._clocks_ms) | {area.partition for area in self._areas.values()}

    def clock_ms(self, partition: int) -> int | None:
        """How far time has come in a partition, from which its ticks go on; None before its first diagnosis."""
        return self._clocks_ms.get(partition)

    def held(self) -> dict[str, dict[str, int]]:
        """By area the machines whose workers it waits for, with how far each of these was when it spoke last."""
        return {
            name: {area.layout.machines[one]: area.alignment.progress.time_ms(one) for one in numbers}
            for name, area in self._areas.items()
            if (numbers := area.alignment.held_by())
        }

    def newest_frame_end_ms(self) -> dict[int, int]:
        """Per partition, the end of the newest frame of an area that was diagnosed."""
        return dict(self._newest_frame_end_ms)
