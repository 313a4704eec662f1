"""The rules by which readings, texts and labels are taken in, one by one or many readings together.

`Intake.take_block` accepts readings by the same rules as `Intake.reading`, but only all or none; only the latter
rejects. So a block that is not taken costs its checks once more and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import overload

import numpy as np

from pipeline.alignment.batches import ArrivedText
from pipeline.arrays import Bools, Ints, Matrix
from pipeline.compiled import Notify
from pipeline.config.hints import describe_time
from pipeline.engine.inbox import Block, Columns, Inbox, floats
from pipeline.engine.machines import (
    Machine,
    MachineGroup,
    Machines,
    Row,
    SourceColumns,
)
from pipeline.engine.stats import Stats
from pipeline.frames import EventText
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.rows.layouts import READ_BY_LAYOUT
from pipeline.wire import messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.plain_text import plain_text
from pipeline.wire.reading_json import READ_ALL, read_readings
from pipeline.wire.readings import GivenReading, Reading, UnusedValue, ValueReason, decode_reading
from pipeline.wire.records import Record

_EARLIEST_MS = 946_684_800_000
"""The year 2000."""
_MAX_EVENT_HEADERS = 64 << 10
_group_of = attrgetter("group")


StatsOf = Callable[[], Stats]
"""The counts that hold now; warming up has its own."""


class Intake:
    """Takes records of known and new machines into inboxes, one for each machine group."""

    def __init__(self, machines: Machines, readers: Mapping[str, FormReader], stats: StatsOf, notify: Notify) -> None:
        """`readers` read topics that have a form of their own; `notify` gets a line if code has to be compiled."""
        self._machines = machines
        self._readers = readers
        self._stats = stats
        self._notify = notify

    def load(self) -> Callable[..., None]:
        """The compiled reader of readings, at once if it was loaded before; with foreign topics also theirs."""
        if self._readers:
            READ_BY_LAYOUT.load(self._notify)
        return READ_ALL.load(self._notify)

    # -- one record -------------------------------------------------------------------------------------------

    def reading(self, record: Record, order: int, inboxes: Mapping[str, Inbox]) -> bool:
        """Take a record's readings in; False if their effect is in the state already.

        Raises RejectedError or AppliedError. Of several readings those that can be used are, also if it raises.
        """
        topic, partition, offset, stamp_ms, key, _, _ = record
        readings, refused = self._given(record)
        machine_id = _only_machine(readings)
        machine = self._machines.by_key.get(key)  # type: ignore[arg-type]
        if machine is None or machine.name != machine_id or machine.partition != partition:
            machine = self._machines.find_or_add(record, machine_id)
        if machine.has_applied(topic, offset):
            return False
        group = machine.group
        source = group.sources.get(topic)
        if source is None:
            text = f"machine type {group.name} has no variables on {topic}"
            raise RejectedError(Reason.UNKNOWN_VARIABLE, text)
        taken, unused, rejected = self._rows(readings, source, record, machine)
        rejected = rejected or next(iter(refused), None)
        if taken:
            machine.apply(topic, offset, stamp_ms, source.index)
            for time_ms, row in taken:
                inboxes[group.name].add(record, (machine.slot, time_ms, source.index, stamp_ms, order), row)
        elif rejected is None:
            self._stats().readings_unused += not source.has_one_value
            self._machines.forget_if_new(record)
        self._stats().note_unused(unused)
        if rejected is not None:
            raise rejected
        return True

    def _given(self, record: Record) -> tuple[Sequence[GivenReading | Reading], Sequence[RejectedError]]:
        """The readings of a record, at least one, and what is wrong with its other entries; raises RejectedError."""
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        reader = self._readers.get(record.topic)
        if reader is None:
            return [decode_reading(record.value)], ()
        readings, refused = reader.read(record)
        if not readings:
            raise RejectedError(Reason.EMPTY, "it holds no reading")
        return readings, refused

    def _rows(
        self, readings: Sequence[GivenReading | Reading], source: SourceColumns, record: Record, machine: Machine
    ) -> tuple[list[tuple[int, Row]], list[UnusedValue], RejectedError | None]:
        """Time and row of each reading that can be used, the values that cannot, and the first reading's fault.

        Of a known machine whose source reports changes, a reading without any variable says that nothing has changed.
        """
        is_heartbeat = source.on_change and bool(machine.applied)
        taken: list[tuple[int, Row]] = []
        unused: list[UnusedValue] = []
        rejected: RejectedError | None = None
        for number, reading in enumerate(readings):
            try:
                time_ms = _time_of(reading[1], record.timestamp_ms, machine.group)
                row = source.row(reading.values, record.topic, unused)
            except RejectedError as error:
                where = f"reading {number + 1} of {len(readings)}: " if len(readings) > 1 else ""
                rejected = rejected or RejectedError(error.reason, f"{where}{error.detail}")
                continue
            if row is not None:
                taken.append((time_ms, row))
            elif is_heartbeat:
                taken.append((time_ms, [math.nan] * source.width))
        return taken, unused, rejected

    def texts_of(self, record: Record) -> tuple[list[messages.EventMessage], list[RejectedError]]:
        """A record's texts, and why others in it cannot be read; raises RejectedError if there is nothing to read."""
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        if record.headers and sum(len(name) + len(value or b"") for name, value in record.headers) > _MAX_EVENT_HEADERS:
            raise RejectedError(Reason.TOO_LARGE, f"its headers have more than {_MAX_EVENT_HEADERS} bytes")
        messages.check_event_bytes(record.value)
        reader = self._readers.get(record.topic)
        return ([messages.decode_event(record.value)], []) if reader is None else reader.read_texts(record)

    def event(self, record: Record, order: int, inboxes: Mapping[str, Inbox]) -> bool:
        """Take a record's texts in; False if their effect is in the state already. Raises as `reading` does."""
        events, refused = self.texts_of(record)
        machine = self._machines.find_or_add(record, _only_machine(events))
        if machine.has_applied(record.topic, record.offset):
            return False
        group = machine.group
        if not group.machine_type.texts:
            raise RejectedError(Reason.NO_TEXTS, f"machine type {group.name} takes no texts")
        texts: list[EventText] = []
        for event in events:
            try:
                texts.append(_event_text(event, record, group))
            except RejectedError as error:
                refused.append(error)
        if texts:
            machine.apply(record.topic, record.offset, record.timestamp_ms)
            self._machines.mark_changed([machine])
            inboxes[group.name].texts += [ArrivedText(machine.slot, order, text) for text in texts]
        if refused:
            raise refused[0]
        return True

    # -- many readings ----------------------------------------------------------------------------------------

    def take_block(
        self,
        topic: str,
        records: list[Record],
        fields: Columns,
        orders: Sequence[int],
        inboxes: Mapping[str, Inbox],
    ) -> bool:
        """Take readings of one topic in together, in a fraction of the time; or none, if any needs a closer look.

        That is so if a machine is new, if there are machines of two types, or if a record has been applied already
        or would be rejected.
        """
        machines = self._known(topic, fields)
        if machines is None or not messages.is_time_ms(fields.stamps).all():
            return False
        group = machines[0].group
        source = group.sources[topic]
        try:
            decoded = self._decode(records, fields.values, machines, source)
        except RejectedError:
            return False
        of_record = decoded.of_record
        stamps, order = fields.stamps[of_record], np.array(orders)[of_record]
        slots = np.array([machine.slot for machine in machines])
        if not _is_timely(decoded.times, stamps, group.max_skew_ms).all():
            return False
        used = np.unique(of_record)
        if not _apply_all(topic, source.index, slots[used], fields.offsets[used], fields.stamps[used], group):
            return False
        self._stats().note_unused(decoded.unused)
        columns = np.empty((5, len(of_record)), np.int64)
        columns[0], columns[1], columns[2] = slots[of_record], decoded.times, source.index
        columns[3], columns[4] = stamps, order
        if len(used) < len(records) or len(of_record) > len(records):
            records = [records[at] for at in of_record.tolist()]
        inboxes[group.name].blocks.append(Block(records, columns, decoded.values))
        return True

    def _known(self, topic: str, fields: Columns) -> list[Machine] | None:
        """The machine of each record, if all have a state, are of one type with this topic, and in their partitions."""
        by_key = self._machines.by_key
        try:
            machines = [by_key[key] for key in fields.keys]  # type: ignore[index]  # a record may have no key
        except KeyError:
            return None
        group = machines[0].group
        if topic not in group.sources or set(map(_group_of, machines)) != {group}:
            return None
        return machines if [machine.partition for machine in machines] == fields.partitions else None

    def _decode(
        self,
        records: Sequence[Record],
        given: Sequence[bytes | None],
        machines: Sequence[Machine],
        source: SourceColumns,
    ) -> _Decoded:
        """Readings of known machines; raises RejectedError, which only `reading` may do something about."""
        texts = [value for value in given if value is not None]
        if len(texts) < len(given):
            raise RejectedError(Reason.EMPTY, "a record has no value")
        if records[0].topic in self._readers:
            return self._decode_foreign(records, machines, source)
        names = [machine.quoted for machine in machines]
        times, numbers, is_usual = read_readings(self.load(), texts, names, source.length)
        values = source.rows(numbers)
        unused: list[UnusedValue] = []
        for at in np.flatnonzero(~is_usual).tolist():
            record, machine = records[at], machines[at]
            reading = decode_reading(texts[at])
            if reading.machine != machine.name:
                raise RejectedError(Reason.KEY_MISMATCH, "the key is another machine's")
            times[at] = _time_of(reading.time, record.timestamp_ms, machine.group)
            row = source.row(reading.values, record.topic, unused)
            if row is None:
                raise RejectedError(Reason.UNKNOWN_VARIABLE, "no value is of a variable")
            values[at] = floats(row)
        return _Decoded(np.arange(len(records)), times, values, unused)

    def _decode_foreign(
        self, records: Sequence[Record], machines: Sequence[Machine], source: SourceColumns
    ) -> _Decoded:
        rows = self._readers[records[0].topic].rows(records, source.sent_names)
        usual = None if rows is None or not source.may_ignore(rows.unknown) else rows.usual.copy()
        if rows is None or usual is None:
            return self._one_by_one(range(len(records)), records, machines, source)
        usual &= [name == machine.name for name, machine in zip(rows.machines, machines, strict=True)]
        unknown = [
            UnusedValue(name, ValueReason.UNKNOWN_VARIABLE)
            for name, count in rows.unknown.items()
            for _ in range(count)
        ]
        whole = _Decoded(np.flatnonzero(usual), rows.times[usual], source.rows(rows.values[usual]), unknown)
        if usual.all():
            return whole
        others = self._one_by_one(np.flatnonzero(~usual).tolist(), records, machines, source)
        of_record = np.concatenate([whole.of_record, others.of_record])
        in_order = np.argsort(of_record, kind="stable")
        return _Decoded(
            of_record[in_order],
            np.concatenate([whole.times, others.times])[in_order],
            np.concatenate([whole.values, others.values])[in_order],
            [*unknown, *others.unused],
        )

    def _one_by_one(
        self, places: Iterable[int], records: Sequence[Record], machines: Sequence[Machine], source: SourceColumns
    ) -> _Decoded:
        of_record: list[int] = []
        times: list[int] = []
        rows: list[list[float]] = []
        unused: list[UnusedValue] = []
        for at in places:
            record, machine = records[at], machines[at]
            readings, refused = self._given(record)
            if refused:
                raise refused[0]
            if _only_machine(readings) != machine.name:
                raise RejectedError(Reason.KEY_MISMATCH, "the key is another machine's")
            taken, of_values, rejected = self._rows(readings, source, record, machine)
            if rejected is not None:
                raise rejected
            unused += of_values
            for time_ms, row in taken:
                of_record.append(at)
                times.append(time_ms)
                rows.append(floats(row))
        values = np.array(rows, np.float64).reshape(len(rows), source.width)
        return _Decoded(np.array(of_record, np.int64), np.array(times, np.int64), values, unused)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """n readings of a block of records."""

    of_record: Ints  # (n,) which record each is of; never decreasing
    times: Ints  # (n,)
    values: Matrix  # (n, V) full rows
    unused: list[UnusedValue]


@overload
def _is_timely(time_ms: int, stamp_ms: int, max_skew_ms: int) -> bool: ...
@overload
def _is_timely(time_ms: Ints, stamp_ms: Ints, max_skew_ms: int) -> Bools: ...
def _is_timely(time_ms: int | Ints, stamp_ms: int | Ints, max_skew_ms: int) -> bool | Bools:
    """Whether a time is one, no further ahead of its record's time stamp than a machine's clock may be, and not of a
    time before there was any such plant while its record is of today: seconds look like that.
    """
    is_plausible = (time_ms >= _EARLIEST_MS) | (stamp_ms < _EARLIEST_MS)
    return messages.is_time_ms(time_ms) & is_plausible & (time_ms <= stamp_ms + max_skew_ms)


def _time_of(time: int | str, stamp_ms: int, group: MachineGroup) -> int:
    """The time of a reading or text in milliseconds; raises RejectedError."""
    time_ms = time if type(time) is int else _from_text(str(time), stamp_ms)
    if not _is_timely(time_ms, stamp_ms, group.max_skew_ms):
        hint = describe_time(time, stamp_ms)
        if messages.parse_time_ms(time_ms, hint) < _EARLIEST_MS <= stamp_ms:
            text = f"{time_ms} ms is before the year 2000, though its record is of today; {hint or 'check its unit'}"
            raise RejectedError(Reason.BAD_TIME, text)
        ahead, allowed = time_ms - stamp_ms, group.max_skew_ms
        text = f"its time is {ahead} ms ahead of its record's time stamp; {group.name} allows {allowed}"
        raise RejectedError(Reason.FUTURE_TIME, text)
    return time_ms


def _from_text(time: str, stamp_ms: int) -> int:
    return messages.parse_time_ms(time, describe_time(time, stamp_ms) if time[:1].isdigit() else None)


def _apply_all(topic: str, source: int, slots: Ints, offsets: Ints, stamps: Ints, group: MachineGroup) -> bool:
    """Apply records to their machines; False, and nothing is applied, if any has been applied before."""
    if not len(slots):
        return True
    by_slot = np.argsort(slots, kind="stable")
    slot_of, offset_of = slots[by_slot], offsets[by_slot]
    same = slot_of[1:] == slot_of[:-1]
    if (same & (offset_of[1:] <= offset_of[:-1])).any():
        return False
    starts = np.flatnonzero(np.append(True, ~same))
    touched = [group.machines[slot] for slot in slot_of[starts].tolist()]
    for machine, offset in zip(touched, offset_of[starts].tolist(), strict=True):
        if machine is None or machine.has_applied(topic, offset):
            return False
    ends = np.append(starts[1:], len(slot_of)) - 1
    newest = np.maximum.reduceat(stamps[by_slot], starts)
    for machine, offset, stamp_ms in zip(touched, offset_of[ends].tolist(), newest.tolist(), strict=True):
        assert machine is not None
        machine.apply(topic, offset, stamp_ms, source)
    return True


def _only_machine(readings: Sequence[GivenReading | Reading | messages.EventMessage]) -> str:
    """The machine that all are about; raises RejectedError."""
    machines = {reading.machine for reading in readings}
    if len(machines) == 1:
        return machines.pop()
    if not machines:
        raise RejectedError(Reason.EMPTY, "it holds nothing")
    shown = ", ".join(repr(name[:80]) for name in sorted(machines)[:3])
    raise RejectedError(
        Reason.KEY_MISMATCH, f"it is about {len(machines)} machines ({shown}); `faultline ingest` reads such topics"
    )


def _event_text(event: messages.EventMessage, record: Record, group: MachineGroup) -> EventText:
    time_ms = _time_of(event.time, record.timestamp_ms, group)
    id_, content = _unicode(messages.text_id(event, time_ms)), plain_text(event.text)
    source = None if event.source is None else _unicode(event.source)
    severity = None if event.severity is None else _unicode(event.severity)
    return EventText(id_, time_ms, content, source, severity, record=record)


def _unicode(text: str) -> str:
    """A text without halves of surrogate pairs, which foreign records may have, and which cannot be saved."""
    return text.encode(errors="replace").decode()
