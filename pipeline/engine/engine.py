"""The heart: records in, diagnoses out; synchronous and deterministic, with no clock, no broker and no torch.

The same engine runs under Faust on Kafka, under Faust on the in-memory transport, and in replay. Time is an input
(tick records of the control topic), so a recorded input gives the same output at any speed.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.aligner import Aligned, ArrivedText, ReadingBatch
from pipeline.alignment.last_values import ADVANCE_VALUES
from pipeline.arrays import Ints
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import CONTROL, EVENTS
from pipeline.engine.alarms import AlarmRule
from pipeline.engine.diagnoses import RememberedText
from pipeline.engine.intake import Columns, Inbox, take_block
from pipeline.engine.machines import EVIDENCE_TEXTS, Line, Machine
from pipeline.engine.rounds import Round, Watcher
from pipeline.errors import SettingsError, StateError
from pipeline.frames import EventText, Resets, StepRunner
from pipeline.wire import letters, messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.reading_json import READ_ALL
from pipeline.wire.records import Output, Record
from pipeline.wire.states import STATE_VERSION, Forgotten, SavedMachine, decode_state, encode_state

CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
_MAX_MACHINE_ID = 200
_MAX_TEXT = 2_000
_MAX_EVENT_HEADERS = 64 << 10


@dataclass(slots=True)
class Stats:
    """What has happened since the engine began; only ever grows."""

    records: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    masked_frames: int = 0
    diagnoses: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # records already applied before a restart
    alarms: Counter[str] = field(default_factory=Counter)
    states_refused: int = 0
    evicted: int = 0
    confidence_counts: Ints = field(default_factory=lambda: np.zeros(len(CONFIDENCE_BOUNDS) + 1, np.int64))
    confidence_sum: float = 0.0


class _AppliedError(Exception):
    """A record of a machine that was forgotten after it."""


class Engine:
    """Diagnoses every machine of a plant from the records of its topics."""

    def __init__(
        self,
        profile: PlantProfile,
        runners: Mapping[str, StepRunner],
        *,
        alarm_rule: AlarmRule | None = None,
        partition_of: Callable[[bytes], int] | None = None,
        watcher: Watcher | None = None,
        notify: Notify = lambda _: None,
    ) -> None:
        """`runners` holds one model for each machine type; `partition_of` detects wrongly partitioned keys; `notify`
        gets a line if code has to be compiled first.
        """
        missing = [kind.name for kind in profile.machine_types if kind.name not in runners]
        if missing:
            raise SettingsError(f"no model is given for machine type {', '.join(missing)} of plant {profile.plant}")
        self._profile = profile
        self._partition_of = partition_of
        self._watcher = watcher
        self._notify = notify
        rule = alarm_rule or AlarmRule()
        self.lines = {kind.name: Line(kind, runners[kind.name], rule, notify) for kind in profile.machine_types}
        self._machines: dict[bytes, Machine] = {}
        self._changed: dict[bytes, Machine] = {}
        self._forgotten: dict[str, Forgotten] = {}
        self._evicted: set[str] = set()  # forgotten since the last checkpoint
        self._controls: dict[int, int] = {}  # partition -> offset of the last control record that was applied
        self._clock_ms: dict[int, int] = {}
        self._newest_frame_end_ms: dict[int, int] = {}
        self._last_machines: Sequence[Machine] = ()  # of the last round
        self._last_rows: list[tuple[int, NDArray[np.intp]]] = []  # of each partition in it
        self._sensor_topics = frozenset(profile.sensor_topics)
        self._max_skew_ms = max(kind.max_skew_ms for kind in profile.machine_types)
        self.stats = Stats()

    def load(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        for line in self.lines.values():
            line.writer.load()
        ADVANCE_VALUES.load(self._notify)
        READ_ALL.load(self._notify)

    # -- input ------------------------------------------------------------------------------------------------

    def process(self, records: Sequence[Record]) -> list[Output]:
        """Take records in the order given; return everything they lead to.

        Order matters within a partition only. So where a control record has to wait for what came before it, its
        partition waits while the others go on, and the model steps machines of all partitions together.
        """
        outputs: list[Output] = []
        self.stats.records.update(Counter(map(_topic_of, records)))
        while records:
            held: dict[int, tuple[messages.Control, Record]] = {}
            behind = self._take(records, held, outputs)
            for control, record in held.values():
                try:
                    self._apply(control, record, outputs)
                except RejectedError as rejected:
                    self._reject(record, rejected, outputs)
            records = behind
        return outputs

    def _take(
        self, records: Sequence[Record], held: dict[int, tuple[messages.Control, Record]], outputs: list[Output]
    ) -> list[Record]:
        """Align and diagnose records up to the control records to apply then, `held`; returns those behind them."""
        inboxes: dict[str, Inbox] = {name: Inbox() for name in self.lines}
        behind: list[Record] = []
        for order, record in self._take_blocks(records, inboxes):
            topic, partition = record.topic, record.partition
            if partition in held:
                behind.append(record)
                continue
            try:
                if not 0 <= record.timestamp_ms < messages.MAX_TIME_MS:
                    raise RejectedError(Reason.BAD_TIME, f"its own time stamp is {record.timestamp_ms}")
                if topic in self._sensor_topics:
                    self._reading(record, order, inboxes)
                elif topic == EVENTS:
                    self._event(record, order, inboxes)
                elif topic == CONTROL:
                    control = self._control(record)
                    if record.offset <= self._controls.get(partition, -1):
                        self.stats.skipped[CONTROL] += 1
                        continue
                    self._controls[partition] = record.offset
                    if not self._is_idle_tick(control, partition):
                        held[partition] = control, record
                else:
                    raise RejectedError(Reason.UNKNOWN_TOPIC, f"the engine does not read topic {topic}")
            except RejectedError as rejected:
                self._reject(record, rejected, outputs)
                self._forget_if_new(record)
                continue
            except _AppliedError:
                self.stats.skipped[topic] += 1
                continue
            # Only by records that make sense: one wild time stamp must not make every machine look silent.
            if record.timestamp_ms > self._clock_ms.get(partition, -1):
                self._clock_ms[partition] = record.timestamp_ms
        self._align(inboxes, outputs)
        return behind

    def _take_blocks(self, records: Sequence[Record], inboxes: dict[str, Inbox]) -> Iterable[tuple[int, Record]]:
        """Take in together what can be; gives the rest, each with its place among all records."""
        topics = Counter(map(_topic_of, records))
        if CONTROL in topics or len(records) < _LEAST_BLOCK:
            return enumerate(records)  # a control record may have to wait for what is before it
        rest: list[tuple[int, Record]] = []
        for topic in topics:
            orders, mine = _of_topic(topic, records, alone=len(topics) == 1)
            columns = Columns.of(mine)
            stamps = columns.stamps
            sound = stamps.min() >= 0 and stamps.max() < messages.MAX_TIME_MS and topic in self._sensor_topics
            if not sound or not take_block(topic, mine, columns, orders, self._machines, inboxes, self._notify):
                rest += zip(orders, mine, strict=True)
                continue
            for partition in set(columns.partitions):
                newest = int(stamps[np.array(columns.partitions) == partition].max())
                self._clock_ms[partition] = max(self._clock_ms.get(partition, -1), newest)
        rest.sort(key=itemgetter(0))
        return rest

    def _reading(self, record: Record, order: int, inboxes: dict[str, Inbox]) -> None:
        topic, _, offset, stamp_ms, key, value, _ = record
        if value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        machine_id, time, values = messages.decode_reading(value)
        machine = self._machines.get(key)  # type: ignore[arg-type]
        if machine is None or machine.name != machine_id or machine.partition != record.partition:
            machine = self._machine(record, machine_id)
        applied = machine.applied
        if offset <= applied.get(topic, -1):
            self.stats.skipped[topic] += 1
            return
        line = machine.line
        source = line.sources.get(topic)
        if source is None:
            raise RejectedError(Reason.UNKNOWN_VARIABLE, f"machine type {line.kind.name} has no variables on {topic}")
        if type(time) is not int or not 0 <= time < messages.MAX_TIME_MS:
            time = messages.parse_time_ms(time)
        if time > stamp_ms + line.max_skew_ms:
            raise _future(time, record, line.kind)
        if type(values) is not list or len(values) != line.width:
            values = source.row(values, topic)
        applied[topic] = offset
        if stamp_ms > machine.last_ms:
            machine.last_ms = stamp_ms
        arrived = machine.arrived_ms
        if stamp_ms > arrived[source.index]:
            arrived[source.index] = stamp_ms
        inboxes[line.name].add(record, machine, time, source.index, order, values)

    def _event(self, record: Record, order: int, inboxes: dict[str, Inbox]) -> None:
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        event = messages.decode_event(record.value)
        if record.headers and sum(len(name) + len(value or b"") for name, value in record.headers) > _MAX_EVENT_HEADERS:
            raise RejectedError(Reason.TOO_LARGE, f"its headers have more than {_MAX_EVENT_HEADERS} bytes")
        machine = self._machine(record, event.machine)
        if record.offset <= machine.applied.get(EVENTS, -1):
            self.stats.skipped[EVENTS] += 1
            return
        kind = machine.line.kind
        if not kind.texts:
            raise RejectedError(Reason.NO_TEXTS, f"machine type {kind.name} takes no texts")
        time = messages.parse_time_ms(event.time)
        if time > record.timestamp_ms + kind.max_skew_ms:
            raise _future(time, record, kind)
        machine.applied[EVENTS] = record.offset
        machine.last_ms = max(machine.last_ms, record.timestamp_ms)
        self._changed[machine.key] = machine
        id_ = event.id or f"{time}-{zlib.crc32(event.text.encode(errors='replace')):08x}"
        text = EventText(
            id_[:_MAX_MACHINE_ID], time, event.text[:_MAX_TEXT], event.source, event.severity, record=record
        )
        inboxes[kind.name].texts.append(ArrivedText(machine.slot, order, text))

    def _machine(self, record: Record, name: str) -> Machine:
        """The machine that a record is about; a new one is given a slot."""
        key = record.key
        machine = self._machines.get(key) if key is not None else None
        if machine is not None and machine.name == name:
            if machine.partition != record.partition:
                text = f"machine {name[:80]} lives in partition {machine.partition}, this is {record.partition}"
                raise RejectedError(Reason.WRONG_PARTITION, text)
            return machine
        encoded = name.encode(errors="replace")
        if key != encoded:
            shown = "no key" if key is None else repr(key[:80])
            raise RejectedError(Reason.KEY_MISMATCH, f"the record is about {name[:80]!r} but has {shown}")
        if not name or len(name) > _MAX_MACHINE_ID or not name.isprintable():
            raise RejectedError(
                Reason.UNKNOWN_MACHINE, f"{name[:80]!r} is not a machine id of 1 to 200 printable characters"
            )
        if self._partition_of is not None and (right := self._partition_of(key)) != record.partition:
            text = f"key {name[:80]!r} belongs to partition {right} by murmur2, this is {record.partition}"
            raise RejectedError(Reason.WRONG_PARTITION, text)
        kind = self._profile.type_of(name)
        if kind is None:
            raise RejectedError(
                Reason.UNKNOWN_MACHINE, f"no machine type of plant {self._profile.plant} matches {name[:80]!r}"
            )
        before = self._forgotten.get(name)
        if before is not None and record.offset <= before.applied.get(record.topic, -1):
            raise _AppliedError
        machine = self._machines[encoded] = self.lines[kind.name].add(name, record.partition, record.timestamp_ms)
        if before is not None:
            machine.applied.update(before.applied)
        return machine

    def _forget_if_new(self, record: Record) -> None:
        """A record that makes no sense makes no machine."""
        machine = self._machines.get(record.key)  # type: ignore[arg-type]
        if machine is None:
            return
        before = self._forgotten.get(machine.name)
        if machine.applied == ({} if before is None else before.applied):
            self.forget(machine.name)

    def _reject(self, record: Record, rejected: RejectedError, outputs: list[Output]) -> None:
        self.stats.dead_letters[rejected.reason.value] += 1
        outputs.append(letters.dead_letter(record, rejected))

    # -- control records --------------------------------------------------------------------------------------

    def _control(self, record: Record) -> messages.Control:
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        control = messages.decode_control(record.value)
        if control.kind == "tick":
            if control.time is None:
                raise RejectedError(Reason.SCHEMA, "a tick needs a time")
            ahead = messages.parse_time_ms(control.time) - record.timestamp_ms
            if ahead > self._max_skew_ms:  # it would make every machine of the partition look silent
                raise RejectedError(Reason.FUTURE_TIME, f"a tick {ahead} ms ahead of its record's time stamp")
        if control.kind != "tick" and control.machine is None:
            raise RejectedError(Reason.SCHEMA, f"'{control.kind}' needs a machine")
        return control

    def _is_idle_tick(self, control: messages.Control, partition: int) -> bool:
        """Whether a tick changes nothing, because every source has spoken lately.

        Most ticks are such; acting on each would cut the input into small batches.
        """
        if control.kind != "tick":
            return False
        assert control.time is not None
        now_ms = messages.parse_time_ms(control.time)
        for line in self.lines.values():
            idle_after = line.idle_after_ms
            ttl = line.kind.state_ttl_ms
            for machine in line.machines:
                if machine is None or machine.partition != partition:
                    continue
                if now_ms - machine.last_ms > ttl:
                    return False
                if line.aligner.has_told_silence(machine.slot, max(machine.arrived_ms)):
                    continue
                for arrived_ms, limit_ms in zip(machine.arrived_ms, idle_after, strict=True):
                    if now_ms - arrived_ms > limit_ms:
                        return False
        return True

    def _apply(self, control: messages.Control, record: Record, outputs: list[Output]) -> None:
        if control.kind == "tick":
            assert control.time is not None
            self._tick(messages.parse_time_ms(control.time), record, outputs)
            return
        assert control.machine is not None
        machine = self._machines.get(control.machine.encode())
        if machine is None and control.kind == "end":
            return  # a machine that is not known has nothing to close
        before = self._forgotten.get(control.machine)
        if before is not None and record.offset <= before.applied.get(CONTROL, -1):
            self.stats.skipped[CONTROL] += 1
            return
        if machine is None or machine.partition != record.partition:
            text = f"no machine {control.machine[:80]!r} is known in partition {record.partition}"
            raise RejectedError(Reason.UNKNOWN_MACHINE, text)
        if record.offset <= machine.applied.get(CONTROL, -1):
            self.stats.skipped[CONTROL] += 1
            return
        machine.applied[CONTROL] = record.offset
        self._changed[control.machine.encode()] = machine
        slot = np.array([machine.slot])
        if control.kind == "end":
            self._step(machine.line, machine.line.aligner.finish(slot, Resets.RUN_END), outputs)
        else:
            machine.line.aligner.restart(slot, Resets.REQUESTED)

    def _tick(self, now_ms: int, record: Record, outputs: list[Output]) -> None:
        """Time passes in a partition: what waits for silent sources closes, silent machines are announced."""
        partition, offset = record.partition, record.offset
        for line in self.lines.values():
            # Restored states may have this tick in them, and others of the partition not.
            here = [
                m
                for m in line.machines
                if m is not None and m.partition == partition and m.applied.get(CONTROL, -1) < offset
            ]
            gone = [m for m in here if now_ms - m.last_ms > line.kind.state_ttl_ms]
            if gone:  # all at once: after a flood of ids there may be very many
                slots_gone = np.array([m.slot for m in gone], np.int64)
                self._step(line, line.aligner.finish(slots_gone, Resets.RUN_END), outputs)
                for machine in gone:
                    self.forget(machine.name)
                    applied = machine.applied | {CONTROL: offset}
                    self._forgotten[machine.name] = Forgotten(machine.name, partition, machine.last_ms, applied)
                    self._evicted.add(machine.name)
                    self.stats.evicted += 1
            slots = [m.slot for m in here if line.machines[m.slot] is m]
            aligned, announced = line.aligner.tick(now_ms, np.array(slots, np.int64))
            self._step(line, aligned, outputs)
            for slot in {*aligned.fell_idle, *(slot for slot, _, _ in announced)}:
                changed = line.machines[slot]
                assert changed is not None
                self._changed[changed.key] = changed
            for slot, start_ms, offline in announced:
                silent = line.machines[slot]
                assert silent is not None
                fault, output = line.writer.announce(silent.name, partition, start_ms, offline=offline)
                self.stats.diagnoses[fault] += 1
                outputs.append(output)
                if self._watcher is not None:
                    self._watcher.announced(
                        line.writer.model, line.runner.modalities, silent, start_ms, line.kind.frame_period_ms
                    )

    def finish(self) -> list[Output]:
        """The input has ended for good: close every frame that still waits."""
        outputs: list[Output] = []
        for line in self.lines.values():
            slots = np.array([machine.slot for machine in line.machines if machine is not None], np.int64)
            if len(slots):
                self._step(line, line.aligner.finish(slots, Resets.RUN_END), outputs)
        return outputs

    # -- alignment and model ----------------------------------------------------------------------------------

    def _align(self, inboxes: dict[str, Inbox], outputs: list[Output]) -> None:
        for name, inbox in inboxes.items():
            if not inbox:
                continue
            line = self.lines[name]
            batch, records = self._without_too_large(*inbox.batch(line), outputs)
            aligned = line.aligner.push(batch, inbox.texts)
            for late in aligned.late:
                record, time_ms = records[late.row], int(batch.time_ms[late.row])
                self._late(record, time_ms, late.frame_end_ms, late.closed_ms, outputs)
            for row in aligned.refused:
                limit = line.kind.buffer_limit_rows
                self._reject(
                    records[row],
                    RejectedError(Reason.BUFFER_FULL, f"the machine already holds back {limit} readings"),
                    outputs,
                )
            self.stats.duplicates["readings"] += aligned.duplicate_readings
            self.stats.duplicates["texts"] += len(aligned.duplicate_texts)
            for machine in line.in_slots(np.unique(batch.slots)):
                self._changed[machine.key] = machine
            self._step(line, aligned, outputs)

    def _without_too_large(
        self, batch: ReadingBatch, records: list[Record], outputs: list[Output]
    ) -> tuple[ReadingBatch, list[Record]]:
        """Frames are float32: what does not fit there is as useless as an infinite value."""
        limit = np.finfo(np.float32).max
        if not ((batch.values > limit).any() or (batch.values < -limit).any()):
            return batch, records
        too_large = (np.abs(batch.values) > limit).any(axis=1)
        for row in np.flatnonzero(too_large).tolist():
            self._reject(records[row], RejectedError(Reason.NOT_FINITE, "a value is beyond 3.4e38"), outputs)
        keep = np.flatnonzero(~too_large)
        batch = ReadingBatch(
            batch.slots[keep],
            batch.time_ms[keep],
            batch.source[keep],
            batch.arrival_ms[keep],
            batch.order[keep],
            batch.values[keep],
        )
        return batch, [records[row] for row in keep.tolist()]

    def _late(self, record: Record, time_ms: int, frame_end_ms: int, closed_ms: int, outputs: list[Output]) -> None:
        self.stats.late[record.topic] += 1
        by = closed_ms - time_ms
        detail = f"came {by} ms behind the machine's closed frames"
        outputs.append(
            letters.late_record(
                record, detail, reason=Reason.LATE, frame_end_ms=frame_end_ms, closed_ms=closed_ms, late_by_ms=by
            )
        )

    def _step(self, line: Line, aligned: Aligned, outputs: list[Output]) -> None:
        """Run the model over the rounds and write diagnoses and alarms."""
        for slot, text in aligned.expired_texts:
            self._expired(line, slot, text, outputs)
        line.runner.prepare(aligned.rounds)
        for frames in aligned.rounds:
            result = line.runner.step(frames)
            machines = line.in_slots(frames.slots)
            for row, text in frames.texts:
                machines[row].texts.append(RememberedText(text.id, text.text, text.time_ms, text.late))
            for row in np.flatnonzero(frames.reset).tolist():
                machine = machines[row]
                fresh = {text.id for at, text in frames.texts if at == row}
                machine.texts = deque((t for t in machine.texts if t.id in fresh), maxlen=EVIDENCE_TEXTS)
            self.stats.frames += len(machines)
            self.stats.masked_frames += int((~frames.observed.any(axis=1)).sum())
            answers = line.writer.write(frames, result, machines, outputs, self.stats.diagnoses)
            if self._watcher is not None:
                runner = line.runner
                self._watcher.diagnosed(
                    Round(line.writer.model, runner.classes, runner.modalities, machines, frames, result, answers)
                )
            faults, confidence = answers.faults, answers.confidence
            self.stats.confidence_counts += np.bincount(
                np.searchsorted(CONFIDENCE_BOUNDS, confidence), minlength=len(CONFIDENCE_BOUNDS) + 1
            )
            self.stats.confidence_sum += float(confidence.sum())
            for change in line.alarms.step(frames.slots, faults, confidence):
                machine = machines[change.row]
                self.stats.alarms["raised" if change.raised else "cleared"] += 1
                outputs.append(
                    line.writer.alarm(machine, int(frames.start_ms[change.row]), change, float(confidence[change.row]))
                )
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

    def _expired(self, line: Line, slot: int, text: EventText, outputs: list[Output]) -> None:
        """A text that no frame could take in time goes to the late topic."""
        assert text.record is not None
        self.stats.late[EVENTS] += 1
        closed = line.aligner.closed_until_ms(slot)
        detail = f"older than {line.kind.text_ttl_frames} frames, or too many texts wait"
        outputs.append(
            letters.late_record(
                text.record,
                detail,
                reason=Reason.EXPIRED,
                frame_end_ms=(text.time_ms // line.kind.frame_period_ms + 1) * line.kind.frame_period_ms,
                closed_ms=closed,
                late_by_ms=max(closed - text.time_ms, 0),
            )
        )

    # -- state ------------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, bytes | None]:
        """The states of all machines that changed since the last call; None for one that was forgotten."""
        self.bury([machine.name for machine in self._changed.values()])  # those that came back
        states: dict[str, bytes | None] = dict.fromkeys(self._evicted)
        changed: dict[str, list[Machine]] = {}
        for machine in self._changed.values():
            changed.setdefault(machine.line.name, []).append(machine)
        for name, machines in changed.items():
            line, slots = self.lines[name], np.array([machine.slot for machine in machines], np.int64)
            parts = zip(
                machines, line.aligner.save(slots), line.runner.save(slots), line.alarms.save(slots), strict=True
            )
            for machine, aligner, runner, alarms in parts:
                states[machine.name] = self._save(machine, aligner, runner, alarms)
        self._changed.clear()
        self._evicted.clear()
        return states

    def _save(self, machine: Machine, aligner: dict[str, object], runner: bytes, alarms: bytes) -> bytes:
        line = machine.line
        applied = machine.applied
        # Control records apply to every machine of the partition, also to those that they leave as they are.
        control = max(applied.get(CONTROL, -1), self._controls.get(machine.partition, -1))
        if control >= 0:
            applied = applied | {CONTROL: control}
        saved = SavedMachine(
            version=STATE_VERSION,
            machine=machine.name,
            type=line.kind.name,
            profile=line.digest,
            model=line.runner.hash,
            partition=machine.partition,
            last=machine.last_ms,
            arrived=machine.arrived_ms,
            applied=applied,
            aligner=aligner,
            runner=runner,
            alarms=alarms,
            texts=[(t.id, t.text, t.time_ms, t.late) for t in machine.texts],
        )
        return encode_state(saved)

    def alignment_states(self) -> dict[str, bytes]:
        """Each machine's buffers, watermarks and last values: what is exact whatever the batches were."""
        states = {}
        for machine in self._machines.values():
            (state,) = machine.line.aligner.save(np.array([machine.slot]))
            texts = state["texts"]
            assert isinstance(texts, list)
            state["texts"] = [text[:-1] for text in texts]  # without the record, whose offset is the broker's
            states[machine.name] = msgspec.msgpack.encode(state)
        return states

    def restore(self, machine: str, state: bytes) -> None:
        """Put a machine back to where `checkpoint` saw it; raises StateError, leaving the machine unknown."""
        try:
            saved = decode_state(machine, state)
            if isinstance(saved, Forgotten):
                self.forget(machine)
                self._forgotten[machine] = saved
                self._clock_ms[saved.partition] = max(self._clock_ms.get(saved.partition, -1), saved.last)
                return
            line = self._line_of(saved)
            self.forget(machine)
            entry = line.add(machine, saved.partition, saved.last)
            try:
                line.aligner.load(entry.slot, saved.aligner)
                line.runner.load(entry.slot, saved.runner)
                line.alarms.load(entry.slot, saved.alarms)
            except StateError:
                line.remove(entry)
                raise
        except StateError:
            self.stats.states_refused += 1
            raise
        self._forgotten.pop(machine, None)
        entry.applied, entry.arrived_ms = saved.applied, saved.arrived
        entry.texts.extend(RememberedText(*text) for text in saved.texts)
        self._machines[machine.encode()] = entry
        # Time goes on from here, so that a machine that stays silent is announced after a restart too.
        self._clock_ms[saved.partition] = max(self._clock_ms.get(saved.partition, -1), saved.last)

    def _line_of(self, saved: SavedMachine) -> Line:
        """Where a saved machine belongs; raises StateError if it was saved under another profile or model."""
        kind = self._profile.type_of(saved.machine)
        if kind is None or kind.name != saved.type or self.lines[kind.name].digest != saved.profile:
            raise StateError(f"state of {saved.machine} was saved under another profile")
        line = self.lines[kind.name]
        if saved.model != line.runner.hash:
            raise StateError(
                f"state of {saved.machine} belongs to model {saved.model[:12]}, not {line.runner.hash[:12]}"
            )
        return line

    def warm_up(self, records: Sequence[Record]) -> None:
        """Let machines find back into a state by what led to it; nothing is said or counted a second time."""
        stats, self.stats = self.stats, Stats()
        watcher, self._watcher = self._watcher, None
        try:
            self.process(records)
        finally:
            self.stats, self._watcher = stats, watcher

    def forget(self, machine: str) -> None:
        """Drop a machine and its state, if it is known."""
        entry = self._machines.pop(machine.encode(), None)
        self._changed.pop(machine.encode(), None)
        if entry is not None:
            entry.line.remove(entry)

    def release(self, partitions: Sequence[int]) -> None:
        """Drop all machines of partitions that now belong to another worker."""
        gone = frozenset(partitions)
        for name in [m.name for m in self._machines.values() if m.partition in gone]:
            self.forget(name)
        for partition in gone:
            self._clock_ms.pop(partition, None)
            self._newest_frame_end_ms.pop(partition, None)
            self._controls.pop(partition, None)
        self.bury([name for name, forgotten in self._forgotten.items() if forgotten.partition in gone])

    @property
    def forgotten(self) -> Mapping[str, Forgotten]:
        """Machines that were forgotten, until they are buried; what is saved of them keeps crashes from reviving it."""
        return self._forgotten

    def bury(self, machines: Sequence[str]) -> None:
        """The last records of these forgotten machines will not come again."""
        for machine in machines:
            self._forgotten.pop(machine, None)
            self._evicted.discard(machine)

    # -- what others may know ---------------------------------------------------------------------------------

    @property
    def machines(self) -> int:
        """How many machines have a state."""
        return len(self._machines)

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions of which the engine holds machines or a clock."""
        return frozenset(self._clock_ms) | {machine.partition for machine in self._machines.values()}

    def clock_ms(self, partition: int) -> int | None:
        """The newest Kafka time stamp seen in a partition: where its arrival clock stands."""
        return self._clock_ms.get(partition)

    def newest_frame_end_ms(self) -> dict[int, int]:
        """Per partition, the end of the newest frame that was diagnosed."""
        return dict(self._newest_frame_end_ms)


_LEAST_BLOCK = 16
"""Fewer records are not worth the preparation."""

_topic_of = itemgetter(Record._fields.index("topic"))


def _of_topic(topic: str, records: Sequence[Record], *, alone: bool) -> tuple[list[int], list[Record]]:
    """The records of one topic, and the place of each among all; `alone` if there are no others."""
    if alone:
        return list(range(len(records))), list(records)
    orders = [order for order, record in enumerate(records) if record.topic == topic]
    return orders, [records[order] for order in orders]


def _future(time_ms: int, record: Record, kind: MachineType) -> RejectedError:
    ahead = time_ms - record.timestamp_ms
    text = f"its time is {ahead} ms ahead of its record's time stamp; {kind.name} allows {kind.max_skew_ms}"
    return RejectedError(Reason.FUTURE_TIME, text)
