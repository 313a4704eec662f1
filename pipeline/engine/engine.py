"""The engine: records in, diagnoses out; synchronous and deterministic, with no clock, no broker and no torch.

The same engine runs under Faust on Kafka, under Faust on the in-memory transport, and in replay. Its front, the frame
stream, makes rounds of frames from records; here models step over them, which gives diagnoses and alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.machine_states import PlantCondition
from pipeline.arrays import Ints
from pipeline.compiled import Notify
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREAS, DIAGNOSES
from pipeline.engine.checkpoints import Checkpoints
from pipeline.engine.frame_stream import FrameStream
from pipeline.engine.machines import Machine, MachineGroup
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.engine.reports.drift_rule import DEFAULT_DRIFT_RULE, DriftRule
from pipeline.engine.reports.lifecycle.desk import AlarmDesk
from pipeline.engine.rounds import GroupModel, Watcher
from pipeline.engine.stats import Outcome, Stats
from pipeline.errors import SettingsError, StateError
from pipeline.frames import Frames, StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.labels import LabelledSpan
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Output, Record
from pipeline.wire.states import Forgotten, StateOwner


class Engine:
    """Diagnoses every machine of a plant from the records of its topics."""

    def __init__(
        self,
        profile: PlantProfile,
        runners: Mapping[str, StepRunner],
        *,
        alarm_rule: AlarmRule | None = None,
        drift_rule: DriftRule | None = DEFAULT_DRIFT_RULE,
        partition_of: Callable[[bytes], int] | None = None,
        watcher: Watcher | None = None,
        schemas: Schemas | None = None,
        notify: Notify = lambda _: None,
    ) -> None:
        """`runners` holds one model for each machine type; `partition_of` detects wrongly partitioned keys; `schemas`
        are needed for Avro; `notify` gets a line if code has to be compiled first. Without `drift_rule` no drift is
        reported.
        """
        missing = [name for name in (t.name for t in profile.machine_types) if name not in runners]
        if missing:
            raise SettingsError(f"no model is given for machine type {', '.join(missing)} of plant {profile.plant}")
        self._profile = profile
        self._watcher = watcher
        self.alarms = AlarmDesk(profile)
        self._stream = FrameStream(
            profile,
            self._diagnose,
            alarms=self.alarms,
            announce=self._announce,
            take_label=self._take_label,
            partition_of=partition_of,
            schemas=schemas,
            notify=notify,
        )
        self.groups = self._stream.machines.groups
        rule = alarm_rule or AlarmRule()
        embedded = frozenset(profile.area_of)
        areas = profile.area_of.items()
        self._area_keys: dict[bytes | None, bytes] = {machine.encode(): area.encode() for machine, area in areas}
        self.models = {
            name: GroupModel(group, runners[name], rule, profile.alarms, drift_rule, notify, embedded)
            for name, group in self.groups.items()
        }
        for name, model in self.models.items():
            self.alarms.attach(name, model.alarms)
        self._checkpoints = Checkpoints(profile, self._stream.machines, self._stream.progress, self.models)
        self._newest_frame_end_ms: dict[int, int] = {}
        self._last_machines: Sequence[Machine] = ()  # of the last round
        self._last_rows: list[tuple[int, NDArray[np.intp]]] = []  # of each partition in it

    def load(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        for model in self.models.values():
            model.load_code()
        self._stream.load()

    # -- input ------------------------------------------------------------------------------------------------

    def process(self, records: Sequence[Record]) -> list[Output]:
        """Take records in the order given; return everything they lead to."""
        return self._with_area_copies(self._stream.process(records))

    def refuse(self, record: Record, rejected: RejectedError) -> Output:
        """Count a record that must not be processed; returns its dead letter."""
        outcome = Outcome(self.stats)
        outcome.stats.records[record.topic] += 1
        outcome.reject(record, rejected)
        return outcome.outputs[0]

    def finish(self) -> list[Output]:
        """The input has ended for good: close every frame that still waits."""
        return self._with_area_copies(self._stream.finish())

    def _with_area_copies(self, outputs: list[Output]) -> list[Output]:
        """The outputs, and the diagnoses among them of machines that are in an area once more, keyed by area.

        The plant agent reads these: in one partition, and in an order that stays (decision 26).
        """
        if self._area_keys:
            outputs += [
                Output(AREAS, None, area, value, end_ms)
                for topic, _, machine, value, end_ms, _ in outputs
                if topic == DIAGNOSES and (area := self._area_keys.get(machine)) is not None
            ]
        return outputs

    def warm_up(self, records: Sequence[Record]) -> None:
        """Let machines reach a state by the records that led to it; nothing is published or counted again."""
        stats, self._stream.stats = self._stream.stats, Stats()
        watcher, self._watcher = self._watcher, None
        try:
            self.process(records)
        finally:
            self._stream.stats, self._watcher = stats, watcher

    # -- what the frame stream gives --------------------------------------------------------------------------

    def _diagnose(self, group: MachineGroup, rounds: Sequence[Frames], outcome: Outcome) -> None:
        model = self.models[group.name]
        model.runner.prepare(rounds)
        for frames in rounds:
            machines = group.in_slots(frames.slots)
            diagnosed = model.diagnose(frames, machines, outcome)
            if self._watcher is not None:
                self._watcher.diagnosed(diagnosed)
            self._note_newest(machines, frames.end_ms)

    def _note_newest(self, machines: Sequence[Machine], end_ms: Ints) -> None:
        """For each partition the newest end of a frame."""
        if machines is not self._last_machines:  # most rounds are about the same machines as the one before
            self._last_machines = machines
            partitions = np.array([machine.partition for machine in machines])
            self._last_rows = [(one, np.flatnonzero(partitions == one)) for one in set(partitions.tolist())]
        for partition, rows in self._last_rows:
            newest = max(self._newest_frame_end_ms.get(partition, -1), int(end_ms[rows].max()))
            self._newest_frame_end_ms[partition] = newest

    def _announce(self, machine: Machine, start_ms: int, offline: bool, outcome: Outcome) -> None:
        model = self.models[machine.group.name]
        fault, output = model.writer.announce(machine.name, machine.partition, start_ms, offline=offline)
        outcome.stats.diagnoses[fault] += 1
        outcome.outputs.append(output)
        self.alarms.announced(machine, start_ms, outcome, offline=offline)
        if self._watcher is not None:
            period_ms = machine.group.machine_type.frame_period_ms
            self._watcher.announced(model.writer.model, model.runner.modalities, machine, start_ms, period_ms)

    def _take_label(self, label: LabelledSpan) -> None:
        if self._watcher is not None:
            self._watcher.labelled(label)

    # -- state ------------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, bytes | None]:
        """The states of all machines that changed since the last call; None for one that was forgotten."""
        return self._checkpoints.take()

    def alignment_states(self) -> dict[str, bytes]:
        """Each machine's buffers, watermarks and last values, which are exact however the input was cut."""
        return self._checkpoints.alignment_states()

    def note_logs(self, ids: Mapping[str, str]) -> None:
        """By topic, the id of the log that is read: states say which one their offsets belong to."""
        self._checkpoints.log_ids = ids

    def restore(self, machine: str, state: bytes, recreated: AbstractSet[str] = frozenset()) -> None:
        """Put a machine back to where `checkpoint` saw it; raises StateError, leaving it without a state.

        `recreated` topics have another log since then.
        """
        try:
            self._checkpoints.restore(machine, state, recreated)
        except StateError:
            self.stats.states_refused += 1
            raise

    def owner_of(self, machine: str) -> StateOwner | None:
        """What the state of a machine has to belong to; None if no machine type matches it."""
        machine_type = self._profile.type_of(machine)
        if machine_type is None:
            return None
        model = self.models[machine_type.name].runner.hash
        return StateOwner(machine_type.name, self.groups[machine_type.name].digest, model, machine_type.frame_period_ms)

    def note_applied(self, machine: str, applied: Mapping[str, int]) -> None:
        """By topic, the last offset up to which records of a machine must have no effect any more."""
        self._checkpoints.note_applied(machine, applied)

    def forget(self, machine: str) -> None:
        """Drop a machine and its state, if it has one."""
        self._stream.machines.forget(machine)

    def release(self, partitions: Sequence[int]) -> None:
        """Drop all machines of partitions that now belong to another worker."""
        released = frozenset(partitions)
        self._stream.machines.release(released)
        self._stream.progress.release(released)
        self.alarms.release(released)
        for partition in released:
            self._newest_frame_end_ms.pop(partition, None)

    @property
    def forgotten(self) -> Mapping[str, Forgotten]:
        """Machines that were forgotten, until they are tombstoned; saved, they keep a crash from reviving them."""
        return self._stream.machines.forgotten

    def outdated(self) -> list[Forgotten]:
        """Forgotten machines of which nothing has to be known any more, as soon as their last records are committed."""
        clocks = self._stream.progress.clocks
        return [gone for gone in self.forgotten.values() if (clocks.now_ms(gone.partition) or -1) >= gone.keep_until]

    def drop_tombstoned(self, machines: Sequence[str]) -> None:
        """The last records of these forgotten machines are committed and will not come again."""
        self._stream.machines.drop_tombstoned(machines)

    # -- observation ------------------------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """Counts of everything since the engine was created."""
        return self._stream.stats

    @property
    def machines(self) -> int:
        """How many machines have a state."""
        return len(self._stream.machines.by_key)

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions of which the engine holds machines or a clock."""
        machines = self._stream.machines.by_key.values()
        return self._stream.progress.clocks.partitions | {machine.partition for machine in machines}

    def condition(self) -> PlantCondition:
        """How the machines are."""
        return self._stream.machines.condition()

    def slots(self, machine_type: str) -> Ints:
        """Where the machines of a type that have a state are in its group's arrays."""
        return np.array([machine.slot for machine in self.groups[machine_type].present()], np.int64)

    def clock_ms(self, partition: int) -> int | None:
        """How far the Kafka time stamps of a partition's records have come."""
        return self._stream.progress.clocks.now_ms(partition)

    def newest_frame_end_ms(self) -> dict[int, int]:
        """Per partition, the end of the newest frame that was diagnosed."""
        return dict(self._newest_frame_end_ms)
