"""The rules by which readings, texts and labels are taken in, one by one or many readings together.

`Intake.take_block` accepts readings by the same rules as `Intake.reading`, but only all or none; only the latter
rejects. So a block that is not taken costs its checks once more and changes nothing.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, overload

import numpy as np

from pipeline.alignment.batches import ArrivedText, ReadingBatch
from pipeline.arrays import Bools, Ints, Matrix
from pipeline.compiled import Notify
from pipeline.config.topics import EVENTS, LABELS
from pipeline.engine.machines import MAX_MACHINE_ID, Machine, MachineGroup, Machines, SourceColumns
from pipeline.engine.stats import Outcome
from pipeline.frames import EventText
from pipeline.wire import messages
from pipeline.wire.labels import LabelledSpan, read_label
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.reading_json import READ_ALL, read_readings
from pipeline.wire.records import Record

_MAX_TEXT = 2_000
_MAX_EVENT_HEADERS = 64 << 10
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_group_of = attrgetter("group")


class Columns(NamedTuple):
    """Fields of some records, each as one sequence."""

    partitions: list[int]
    offsets: Ints
    stamps: Ints
    keys: tuple[bytes | None, ...]
    values: tuple[bytes | None, ...]

    @staticmethod
    def of(records: Sequence[Record]) -> Columns:
        """At least one record."""
        _, partitions, offsets, stamps, keys, values, _ = zip(*records, strict=True)
        return Columns(list(partitions), np.array(offsets), np.array(stamps), keys, values)


@dataclass(frozen=True, slots=True)
class Block:
    """Readings of one topic that were taken in together."""

    records: list[Record]
    columns: Ints  # (5, n): slot, time, source, arrival, order
    values: Matrix  # (n, V)


@dataclass(slots=True)
class Inbox:
    """Readings and texts of one machine group, decoded but not yet aligned."""

    records: list[Record] = field(default_factory=list)
    columns: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # slot, time, source, arrival, order
    values: array[float] = field(default_factory=lambda: array("d"))  # row after row, NaN where there is none
    blocks: list[Block] = field(default_factory=list)
    texts: list[ArrivedText] = field(default_factory=list)

    def add(self, record: Record, columns: tuple[int, int, int, int, int], row: list[float | None]) -> None:
        """Take one reading in."""
        self.records.append(record)
        self.columns.append(columns)
        try:
            self.values.fromlist(row)  # type: ignore[arg-type]
        except TypeError:  # a null; nothing has been added then
            self.values.fromlist(_floats(row))

    def batch(self, group: MachineGroup, outcome: Outcome) -> tuple[ReadingBatch, list[Record]]:
        """All readings in the order in which they came, and their records, less those with values beyond float32."""
        columns = np.fromiter(chain.from_iterable(self.columns), np.int64, 5 * len(self.columns))
        columns = columns.reshape(len(self.columns), 5).T
        values = np.frombuffer(self.values, np.float64).reshape(len(self.columns), group.width)
        records = self.records
        if self.blocks and not records and len(self.blocks) == 1:
            (block,) = self.blocks
            columns, values, records = block.columns, block.values, block.records
        elif self.blocks:
            columns = np.concatenate([columns, *(block.columns for block in self.blocks)], axis=1)
            in_order = np.argsort(columns[4], kind="stable")
            columns = columns[:, in_order]
            values = np.concatenate([values, *(block.values for block in self.blocks)])[in_order]
            everything = [*records, *chain.from_iterable(block.records for block in self.blocks)]
            records = [everything[row] for row in in_order.tolist()]
        slots, time_ms, source, arrival_ms, order = np.ascontiguousarray(columns)
        return _without_too_large(ReadingBatch(slots, time_ms, source, arrival_ms, order, values), records, outcome)

    def __bool__(self) -> bool:
        return bool(self.columns or self.blocks or self.texts)


class Intake:
    """Takes records of known and new machines into inboxes, one for each machine group."""

    def __init__(self, machines: Machines, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._machines = machines
        self._notify = notify

    def load(self) -> Callable[..., None]:
        """The compiled reader of readings, at once if it was loaded before."""
        return READ_ALL.load(self._notify)

    # -- one record -------------------------------------------------------------------------------------------

    def reading(self, record: Record, order: int, inboxes: Mapping[str, Inbox]) -> bool:
        """Take one reading in; False if its effect is in the state already. Raises RejectedError or AppliedError."""
        topic, partition, offset, stamp_ms, key, value, _ = record
        if value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        machine_id, time, values = messages.decode_reading(value)
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
        time_ms, row = _time_of(time, stamp_ms, group), source.row(values, topic)
        machine.apply(topic, offset, stamp_ms, source.index)
        inboxes[group.name].add(record, (machine.slot, time_ms, source.index, stamp_ms, order), row)
        return True

    def event(self, record: Record, order: int, inboxes: Mapping[str, Inbox]) -> bool:
        """Take one text in; False if its effect is in the state already. Raises RejectedError or AppliedError."""
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        event = messages.decode_event(record.value)
        if record.headers and sum(len(name) + len(value or b"") for name, value in record.headers) > _MAX_EVENT_HEADERS:
            raise RejectedError(Reason.TOO_LARGE, f"its headers have more than {_MAX_EVENT_HEADERS} bytes")
        machine = self._machines.find_or_add(record, event.machine)
        if machine.has_applied(EVENTS, record.offset):
            return False
        group = machine.group
        if not group.machine_type.texts:
            raise RejectedError(Reason.NO_TEXTS, f"machine type {group.name} takes no texts")
        time_ms = _time_of(event.time, record.timestamp_ms, group)
        machine.apply(EVENTS, record.offset, record.timestamp_ms)
        self._machines.mark_changed([machine])
        id_ = event.id or f"{time_ms}-{zlib.crc32(event.text.encode(errors='replace')):08x}"
        text = EventText(
            id_[:MAX_MACHINE_ID], time_ms, event.text[:_MAX_TEXT], event.source, event.severity, record=record
        )
        inboxes[group.name].texts.append(ArrivedText(machine.slot, order, text))
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
        if machines is None:
            return False
        group = machines[0].group
        source = group.sources[topic]
        columns = np.empty((5, len(records)), np.int64)
        columns[0], columns[2] = [machine.slot for machine in machines], source.index
        columns[3], columns[4] = fields.stamps, orders
        if not messages.is_time_ms(columns[3]).all():
            return False
        try:
            columns[1], values = self._decode(records, fields.values, machines, source)
        except RejectedError:
            return False
        is_timely = _is_timely(columns[1], columns[3], group.max_skew_ms)
        if not is_timely.all() or not _apply_all(topic, fields.offsets, machines, columns):
            return False
        inboxes[group.name].blocks.append(Block(records, columns, values))
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
    ) -> tuple[Ints, Matrix]:
        """Times (n,) and full rows of values (n, V), which only `reading` may find fault with; raises RejectedError."""
        texts = [value for value in given if value is not None]
        if len(texts) < len(given):
            raise RejectedError(Reason.EMPTY, "a record has no value")
        names = [machine.quoted for machine in machines]
        times, numbers, is_usual = read_readings(self.load(), texts, names, source.length)
        values = source.rows(numbers)
        for at in np.flatnonzero(~is_usual).tolist():
            record, machine = records[at], machines[at]
            name, time, row = messages.decode_reading(texts[at])
            if name != machine.name:
                raise RejectedError(Reason.KEY_MISMATCH, "the key is another machine's")
            times[at] = _time_of(time, record.timestamp_ms, machine.group)
            values[at] = _floats(source.row(row, record.topic))
        return times, values


def take_labels(records: Sequence[Record], take: Callable[[LabelledSpan], None], outcome: Outcome) -> list[Record]:
    """Hand every label to `take`, reject what is none, and return the records of other topics."""
    others = []
    for record in records:
        if record.topic != LABELS:
            others.append(record)
            continue
        try:
            take(read_label(record))
        except RejectedError as rejected:
            outcome.reject(record, rejected)
    return others


@overload
def _is_timely(time_ms: int, stamp_ms: int, max_skew_ms: int) -> bool: ...
@overload
def _is_timely(time_ms: Ints, stamp_ms: Ints, max_skew_ms: int) -> Bools: ...
def _is_timely(time_ms: int | Ints, stamp_ms: int | Ints, max_skew_ms: int) -> bool | Bools:
    """Whether a time is one, and no further ahead of its record's time stamp than a machine's clock may be."""
    return messages.is_time_ms(time_ms) & (time_ms <= stamp_ms + max_skew_ms)


def _time_of(time: int | str, stamp_ms: int, group: MachineGroup) -> int:
    """The time of a reading or text in milliseconds; raises RejectedError."""
    time_ms = time if type(time) is int else messages.parse_time_ms(time)
    if not _is_timely(time_ms, stamp_ms, group.max_skew_ms):
        ahead, allowed = messages.parse_time_ms(time_ms) - stamp_ms, group.max_skew_ms
        text = f"its time is {ahead} ms ahead of its record's time stamp; {group.name} allows {allowed}"
        raise RejectedError(Reason.FUTURE_TIME, text)
    return time_ms


def _floats(row: Sequence[float | None]) -> list[float]:
    return [math.nan if number is None else number for number in row]


def _apply_all(topic: str, offsets: Ints, machines: Sequence[Machine], columns: Ints) -> bool:
    """Apply readings to their machines; False, and nothing is applied, if any has been applied before."""
    by_slot = np.argsort(columns[0], kind="stable")
    slot_of, offset_of = columns[0][by_slot], offsets[by_slot]
    same = slot_of[1:] == slot_of[:-1]
    if (same & (offset_of[1:] <= offset_of[:-1])).any():
        return False
    starts = np.flatnonzero(np.append(True, ~same))
    touched = [machines[row] for row in by_slot[starts].tolist()]
    for machine, offset in zip(touched, offset_of[starts].tolist(), strict=True):
        if machine.has_applied(topic, offset):
            return False
    ends = np.append(starts[1:], len(slot_of)) - 1
    newest = np.maximum.reduceat(columns[3][by_slot], starts)
    source = int(columns[2, 0])
    for machine, offset, stamp_ms in zip(touched, offset_of[ends].tolist(), newest.tolist(), strict=True):
        machine.apply(topic, offset, stamp_ms, source)
    return True


def _without_too_large(
    batch: ReadingBatch, records: list[Record], outcome: Outcome
) -> tuple[ReadingBatch, list[Record]]:
    """Frames are float32: a value beyond its range is rejected like an infinite one."""
    if not ((batch.values > _MAX_FLOAT32).any() or (batch.values < -_MAX_FLOAT32).any()):
        return batch, records
    too_large = (np.abs(batch.values) > _MAX_FLOAT32).any(axis=1)
    for row in np.flatnonzero(too_large).tolist():
        outcome.reject(records[row], RejectedError(Reason.NOT_FINITE, "a value is beyond 3.4e38"))
    keep = np.flatnonzero(~too_large)
    return batch.rows(keep), [records[row] for row in keep.tolist()]
