"""Readings of many records at once as rows of numbers, for forms whose fields stand at plain places in JSON.

A record is only read here if it is as usual: any that needs a closer look is left to FormReader.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from pipeline.arrays import Bools, Ints, Matrix
from pipeline.config.form import Form
from pipeline.config.paths import simple_steps
from pipeline.mapping.bodies import Body, BodyReader
from pipeline.mapping.places import Entry, text_finder, time_finder
from pipeline.mapping.structs import Leaf, StructType, struct_type
from pipeline.mapping.times import YEAR_2000_MS, TimeReader
from pipeline.mapping.values import DEFAULT_VALUES
from pipeline.wire.messages import RejectedError, is_time_ms
from pipeline.wire.records import Record

_MAX_EXTRA: Final = 256
"""Names that nobody asked for, of which note is taken at most; records with others are not usual."""
_MAX_ORIGINS: Final = 100_000
_PART_RECORDS: Final = 256
"""So many decoded records fit into a processor's cache."""
_REGISTRY_BYTES: Final = 5
_NAN: Final = float("nan")
_NO_BODY: Final = Body(None, {})
_NOT_DECODED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
_MACHINE, _TIME, _LIST = "machine", "time", "values"


class Rows(NamedTuple):
    """Readings by columns, of which those of records that are not usual mean nothing."""

    machines: list[str]
    times: Ints  # (n,)
    values: Matrix  # (n, V), NaN where there is none
    usual: Bools  # (n,)
    unknown: dict[str, int]
    """How many of the usual records have a value of a name that nobody asked for, by name."""


def row_reader(form: Form, names: Sequence[str]) -> RowReader | None:
    """The reader of rows with the values of these names, as they are in the records; None if the form has none."""
    is_plain = form.encoding == "json" and form.charset == "utf-8" and form.compression == "none"
    is_whole = form.envelope != "cloudevents" and form.each is None and form.sample_period_ms is None
    if not (is_plain and is_whole and form.value is None and form.quality is None):
        return None
    reader = RowReader(form, names)
    return reader if reader.build() else None


class RowReader:
    """Reads the usual records of one form."""

    def __init__(self, form: Form, names: Sequence[str]) -> None:
        """Only for `row_reader`, which knows for which forms there is one."""
        self._form = form
        self._names = tuple(names)
        self._extra = [] if form.fields is None else [name for name in form.fields if name not in self._names]
        self._is_list = False
        self._machine_of = text_finder(form.machine, BodyReader(form, None))
        self._machine_by_origin: dict[Any, str] = {}
        self._times = TimeReader(form.time)
        self._find_time = time_finder(form.time)
        self._prefix = ("payload",) if form.envelope == "connect" else ()

    def rows(self, records: Sequence[Record]) -> Rows:
        """The readings of these records."""
        parts = [self._part(records[at : at + _PART_RECORDS]) for at in range(0, max(len(records), 1), _PART_RECORDS)]
        if len(parts) == 1:
            return parts[0]
        unknown: Counter[str] = Counter()
        for part in parts:
            unknown.update(part.unknown)
        return Rows(
            [machine for part in parts for machine in part.machines],
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.usual for part in parts]),
            dict(unknown),
        )

    def _part(self, records: Sequence[Record]) -> Rows:
        usual, decoded = self._decoded(records)
        kept = records if len(decoded) == len(records) else [records[at] for at in np.flatnonzero(usual).tolist()]
        tuples, fits = self._tuples(decoded), np.ones(len(decoded), np.bool_)
        if self._is_list:
            fits = np.array([len(row) == len(self._names) for row in tuples], np.bool_)
            tuples = [row if len(row) == len(self._names) else [_NAN] * len(self._names) for row in tuples]
        values = _matrix(tuples, len(self._names), self._columns)
        machines, times = self._machines(decoded, kept), self._read_times(decoded, kept)
        fits &= ~np.isnan(values).all(axis=1)  # whether it has any value that is known is for others to say
        good = fits & (times >= 0) & np.array(list(map(bool, machines)), np.bool_)
        counts = self._counts(tuples, good)
        if len(decoded) == len(records):
            return Rows(machines, times, values, good, counts)
        places = np.flatnonzero(usual)
        all_machines, all_times = [""] * len(records), np.zeros(len(records), np.int64)
        all_values = np.full((len(records), len(self._names)), np.nan)
        all_times[places], all_values[places], usual[places] = times, values, good
        for at, machine in zip(places.tolist(), machines, strict=True):
            all_machines[at] = machine
        return Rows(all_machines, all_times, all_values, usual, counts)

    # -- types ------------------------------------------------------------------------------------------------

    def build(self) -> bool:
        """Make the type that records are decoded to; False if the form's paths are not plain."""
        form = self._form
        found = self._value_leaves()
        if found is None:
            return False
        leaves, closed = found
        time_kind = int if self._times.is_milliseconds else int | float | str
        for attribute, path, kind in ((_MACHINE, form.machine.path, str | int), (_TIME, form.time.path, time_kind)):
            if path is not None:
                steps = simple_steps(path)
                if steps is None:
                    return False
                leaves.append(Leaf((*self._prefix, *steps), attribute, kind))
        depth = 0 if closed is None else len(closed)
        self._closed, self._known = closed, {leaf.steps[depth] for leaf in leaves if leaf.steps[:depth] == closed}
        built = struct_type(leaves, closed)
        if built is None:
            return False
        self._decode = msgspec.json.Decoder(built.kind).decode
        self._machine_steps = () if form.machine.path is None else simple_steps(form.machine.path) or ()
        self._get_machine = None if form.machine.path is None else attrgetter(built.leaves[_MACHINE])
        self._get_time = None if form.time.path is None else attrgetter(built.leaves[_TIME])
        self._tuples = self._maker_of_tuples(built, closed)
        return True

    def _value_leaves(self) -> tuple[list[Leaf], tuple[str, ...] | None] | None:
        """The leaves of the values, and the path of the object that has no others."""
        number, fields = float | None, self._form.fields
        if self._is_list:
            array_steps = simple_steps(self._form.values or DEFAULT_VALUES) or ()
            self._columns = list(range(len(self._names)))
            return [Leaf((*self._prefix, *array_steps), _LIST, list[float | None])], None
        if fields is None:
            steps = simple_steps(self._form.values or DEFAULT_VALUES)
            if steps is None:
                return None
            closed = (*self._prefix, *steps)
            self._columns = list(range(len(self._names)))
            values = [Leaf((*closed, name), f"v{at}", number, _NAN) for at, name in enumerate(self._names)]
            others = [Leaf((*closed, name), f"x{at}", Any, msgspec.UNSET) for at, name in enumerate(self._extra)]
            return [*values, *others], closed
        self._columns = [at for at, name in enumerate(self._names) if name in fields]
        asked = [self._names[at] for at in self._columns]
        paths = [simple_steps(fields[name]) for name in (*asked, *self._extra)]
        kinds = [*[(number, _NAN)] * len(asked), *[(Any, msgspec.UNSET)] * len(self._extra)]
        leaves = [
            Leaf((*self._prefix, *path), f"v{at}", *kind)
            for at, (path, kind) in enumerate(zip(paths, kinds, strict=True))
            if path is not None
        ]
        return (leaves, None) if asked and len(leaves) == len(paths) else None

    def _maker_of_tuples(self, built: StructType, closed: tuple[str, ...] | None) -> Callable[[list[Any]], list[Any]]:
        """What makes a tuple of each decoded record, which begins with the values and the extra ones."""
        if self._is_list:
            values = attrgetter(built.leaves[_LIST])
            return lambda decoded: list(map(values, decoded))
        if closed is None:
            paths = [built.leaves[f"v{at}"] for at in range(len(self._columns) + len(self._extra))]
            fields = attrgetter(*paths)
            return lambda decoded: list(map(fields, decoded)) if len(paths) > 1 else [(fields(one),) for one in decoded]
        as_tuple = msgspec.structs.astuple
        if not built.objects[closed]:
            return lambda decoded: list(map(as_tuple, decoded))
        holder = attrgetter(built.objects[closed])
        return lambda decoded: list(map(as_tuple, map(holder, decoded)))

    # -- records ----------------------------------------------------------------------------------------------

    def _decoded(self, records: Sequence[Record]) -> tuple[Bools, list[Any]]:
        """Which records can be decoded, and these decoded."""
        given = [record.value for record in records]
        if self._form.registry:
            given = [None if value is None or value[:1] != b"\x00" else value[_REGISTRY_BYTES:] for value in given]
        decode: Callable[[Any], Any] = self._decode
        try:
            return np.ones(len(given), np.bool_), [decode(value) for value in given]
        except _NOT_DECODED:
            usual, decoded = np.zeros(len(given), np.bool_), []
        for at, value in enumerate(given):
            try:
                decoded.append(decode(value))
            except _NOT_DECODED as error:
                if self._learns(error, value):
                    return self._decoded(records)
            else:
                usual[at] = True
        return usual, decoded

    def _learns(self, error: Exception, value: bytes | None) -> bool:
        """Take note of what nobody expected, other names or an array: records with it are usual from now on."""
        if value is None or self._closed is None or not isinstance(error, msgspec.ValidationError):
            return False
        try:
            content = msgspec.json.decode(value)
        except _NOT_DECODED:  # it is broken behind what is unexpected
            return False
        for step in self._closed:
            content = content.get(step) if type(content) is dict else None
        if type(content) is list and self._closed and not self._extra:
            self._is_list, self._closed = True, None
            return self.build()
        if type(content) is not dict:
            return False
        new = [name for name in content if name not in self._known]
        if not new or len(new) + len(self._extra) > _MAX_EXTRA:
            return False
        self._extra += new
        return self.build()

    def _machines(self, decoded: Sequence[Any], records: Sequence[Record]) -> list[str]:
        """Their machines; empty where that is unclear."""
        if self._get_machine is not None and self._form.machine.pattern is None:
            return [name.strip() if type(name) is str else str(name) for name in map(self._get_machine, decoded)]
        if self._get_machine is not None:
            origins: list[Any] = list(map(self._get_machine, decoded))
        elif self._form.machine.header is not None:
            return [self._machine(record, None) for record in records]
        else:
            origins = [(record.topic, record.key) for record in records]
        known = self._machine_by_origin
        if len(known) > _MAX_ORIGINS:
            known.clear()
        for origin, record in zip(origins, records, strict=True):
            if origin not in known:
                known[origin] = self._machine(record, origin)
        return [known[origin] for origin in origins]

    def _machine(self, record: Record, origin: Any) -> str:
        content: Any = origin
        for step in reversed(self._machine_steps):
            content = {step: content}
        try:
            return self._machine_of(Entry(content, Body(content, {}), record)) or ""
        except RejectedError:
            return ""

    def _read_times(self, decoded: Sequence[Any], records: Sequence[Record]) -> Ints:
        """Their times; -1 where there is none."""
        get_time, read = self._get_time, self._times.read
        if get_time is None:
            given = [self._find_time(Entry(None, _NO_BODY, record)) for record in records]
        else:
            given = list(map(get_time, decoded))
        if self._times.is_milliseconds:
            try:
                times = np.array(given, np.int64)
            except (OverflowError, TypeError, ValueError):
                pass
            else:
                return np.where((times >= YEAR_2000_MS) & is_time_ms(times), times, -1)
        return np.array(
            [_time_or_none(read, time, record.timestamp_ms) for time, record in zip(given, records, strict=True)],
            np.int64,
        )

    def _counts(self, tuples: Sequence[Sequence[Any]], good: Bools) -> dict[str, int]:
        begin = len(self._columns)
        if not self._extra:
            return {}
        counts = {
            name: sum(
                row[at] is not msgspec.UNSET for row, is_good in zip(tuples, good.tolist(), strict=True) if is_good
            )
            for at, name in enumerate(self._extra, begin)
        }
        return {name: count for name, count in counts.items() if count}


def _time_or_none(read: Callable[[Any, int], int], time: Any, stamp_ms: int) -> int:
    try:
        return -1 if time is None else read(time, stamp_ms)
    except RejectedError:
        return -1


def _matrix(tuples: Sequence[Sequence[Any]], width: int, columns: Sequence[int]) -> Matrix:
    """The values of decoded records, which stand at the beginning of each tuple."""
    count = len(columns)
    numbers = array("d")
    if tuples and len(tuples[0]) > count:
        tuples = [row[:count] for row in tuples]
    for row in tuples:
        try:
            numbers.fromlist(list(row))
        except TypeError:  # a null; nothing has been added then
            numbers.fromlist([_NAN if number is None else number for number in row])
    found = np.frombuffer(numbers, np.float64).reshape(len(tuples), count)
    if count == width:
        return found
    values = np.full((len(tuples), width), np.nan)
    values[:, columns] = found
    return values
