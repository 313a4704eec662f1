"""Readings of many records at once as rows of numbers, for forms whose fields stand at plain places in JSON.

A record is only read here if it is as usual: any that needs a closer look is left to FormReader.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from pipeline.arrays import Bools, Ints, Matrix
from pipeline.config.expressions.paths import simple_steps
from pipeline.config.form import Form
from pipeline.mapping.bodies import Body, BodyReader
from pipeline.mapping.places import Entry, text_finder, time_finder
from pipeline.mapping.rows.layouts import MACHINE, READ_BY_LAYOUT, SKIPPED, TIME, Layout, Steps
from pipeline.mapping.rows.structs import Leaf, StructType, struct_type
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

    @staticmethod
    def empty(count: int, width: int) -> Rows:
        """Rows of which none is usual yet."""
        values = np.full((count, width), np.nan)
        return Rows([""] * count, np.zeros(count, np.int64), values, np.zeros(count, np.bool_), {})

    def take(self, part: Rows, chosen: Bools) -> None:
        """Put rows in the places that are chosen: as many as these are, or of as many from their own places."""
        source = chosen if len(part.usual) == len(self.usual) else np.ones(len(part.usual), np.bool_)
        self.times[chosen], self.values[chosen] = part.times[source], part.values[source]
        self.usual[chosen] = part.usual[source]
        for to, origin in zip(np.flatnonzero(chosen).tolist(), np.flatnonzero(source).tolist(), strict=True):
            self.machines[to] = part.machines[origin]
        for name, count in part.unknown.items():
            self.unknown[name] = self.unknown.get(name, 0) + count


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
        self._layout: Layout | None = None
        self._layout_unknown: tuple[str, ...] = ()
        self._machine_of = text_finder(form.machine, BodyReader(form, None))
        self._machine_by_origin: dict[Any, str] = {}
        self._times = TimeReader(form.time)
        self._find_time = time_finder(form.time)
        self._prefix = ("payload",) if form.envelope == "connect" else ()

    def rows(self, records: Sequence[Record]) -> Rows:
        """The readings of these records."""
        payloads = self._payloads(records)
        others: Sequence[int] = range(len(records))
        found: Rows | None = None
        if self._layout is not None:
            found, fits = self._by_layout(self._layout, records, payloads)
            others = np.flatnonzero(~fits).tolist()
        if found is None:
            found = Rows.empty(len(records), len(self._names))
        last_usual: int | None = None
        for begin in range(0, len(others), _PART_RECORDS):
            places = others[begin : begin + _PART_RECORDS]
            part = self._decoded_part([records[at] for at in places], [payloads[at] for at in places])
            chosen = np.zeros(len(records), np.bool_)
            chosen[places] = True
            found.take(part, chosen)
            if part.usual.any():
                last_usual = places[int(np.flatnonzero(part.usual)[-1])]
        if last_usual is not None and 2 * len(others) > len(records):
            self._learn_layout(payloads[last_usual] or b"")
        return found

    def _payloads(self, records: Sequence[Record]) -> list[bytes | None]:
        """Their JSON."""
        values = [record.value for record in records]
        if not self._form.registry:
            return values
        return [None if value is None or value[:1] != b"\x00" else value[_REGISTRY_BYTES:] for value in values]

    def _by_layout(
        self, layout: Layout, records: Sequence[Record], payloads: Sequence[bytes | None]
    ) -> tuple[Rows, Bools]:
        """Rows of the records with a layout, and which these are."""
        read = layout.read(READ_BY_LAYOUT.load(lambda _: None), [payload or b"" for payload in payloads])
        names = None if read.machines is None else [_text(name) for name in read.machines]
        times = None if read.times is None else [_text(at) if isinstance(at, bytes) else at for at in read.times]
        rows = self._checked(read.values, names, times, records)
        good = rows.usual & read.fits
        count = int(good.sum())
        return rows._replace(usual=good, unknown=dict.fromkeys(self._layout_unknown, count) if count else {}), read.fits

    def _decoded_part(self, records: Sequence[Record], payloads: Sequence[bytes | None]) -> Rows:
        """Rows of records that are decoded by msgspec."""
        usual, decoded = self._decoded(payloads)
        kept = records if len(decoded) == len(records) else [records[at] for at in np.flatnonzero(usual).tolist()]
        tuples, fits = self._tuples(decoded), np.ones(len(decoded), np.bool_)
        if self._is_list:
            fits = np.array([len(row) == len(self._names) for row in tuples], np.bool_)
            tuples = [row if len(row) == len(self._names) else [_NAN] * len(self._names) for row in tuples]
        values = _matrix(tuples, len(self._names), self._columns)
        names = None if self._get_machine is None else list(map(self._get_machine, decoded))
        times = None if self._get_time is None else list(map(self._get_time, decoded))
        rows = self._checked(values, names, times, kept)
        good = rows.usual & fits
        rows = rows._replace(usual=good, unknown=self._counts(tuples, good))
        if len(decoded) == len(records):
            return rows
        found = Rows.empty(len(records), len(self._names))
        found.take(rows, usual)
        return found

    def _checked(
        self, values: Matrix, names: list[Any] | None, times: list[Any] | None, records: Sequence[Record]
    ) -> Rows:
        """Rows, of which those are usual that have a machine, a time and any value."""
        machines, times_ms = self._machines(names, records), self._read_times(times, records)
        # Whether a record has any value that is known is for others to say.
        usual = ~np.isnan(values).all(axis=1) & (times_ms >= 0) & np.array(list(map(bool, machines)), np.bool_)
        return Rows(machines, times_ms, values, usual, {})

    # -- types ------------------------------------------------------------------------------------------------

    def build(self) -> bool:
        """Make the type that records are decoded to; False if the form's paths are not plain."""
        form = self._form
        found = self._value_leaves()
        if found is None:
            return False
        leaves, closed = found
        places = ((_MACHINE, form.machine.path, str | int), (_TIME, form.time.path, int | float | str))
        for attribute, path, kind in places:
            if path is not None:
                steps = simple_steps(path)
                if steps is None:
                    return False
                leaves.append(Leaf((*self._prefix, *steps), attribute, kind))
        self._kinds: dict[Steps, int] = {leaf.steps: _kind(leaf, self._columns) for leaf in leaves}
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
            self._list_steps = (*self._prefix, *array_steps)
            return [Leaf(self._list_steps, _LIST, list[float | None])], None
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

    def _decoded(self, given: Sequence[bytes | None]) -> tuple[Bools, list[Any]]:
        """Which of these can be decoded, and these decoded."""
        decode: Callable[[Any], Any] = self._decode
        try:
            return np.ones(len(given), np.bool_), [decode(_valid(value)) for value in given]
        except _NOT_DECODED:
            usual, decoded = np.zeros(len(given), np.bool_), []
        for at, value in enumerate(given):
            try:
                decoded.append(decode(_valid(value)))
            except _NOT_DECODED as error:
                if self._learns(error, value):
                    return self._decoded(given)
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
            self._is_list = True
            return self.build()
        if type(content) is not dict:
            return False
        new = [name for name in content if name not in self._known]
        if not new or len(new) + len(self._extra) > _MAX_EXTRA:
            return False
        self._extra += new
        if not (is_built := self.build()):
            self._extra = self._extra[: -len(new)]
            self.build()
        return is_built

    def _machines(self, names: list[Any] | None, records: Sequence[Record]) -> list[str]:
        """Their machines, of what stands in the bodies if it does so there; empty where that is unclear."""
        if names is not None and self._form.machine.pattern is None:
            return [name.strip() if type(name) is str else str(name) for name in names]
        if names is None and self._form.machine.header is not None:
            return [self._machine(record, None) for record in records]
        origins: list[Any] = [(record.topic, record.key) for record in records] if names is None else names
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

    def _read_times(self, times: list[Any] | None, records: Sequence[Record]) -> Ints:
        """Their times, of what stands in the bodies if it does so there; -1 where there is none."""
        if times is None:
            times = [self._find_time(Entry(None, _NO_BODY, record)) for record in records]
        if self._times.is_milliseconds and set(map(type, times)) == {int}:
            try:
                times_ms = np.array(times, np.int64)
            except OverflowError:
                pass
            else:
                return np.where((times_ms >= YEAR_2000_MS) & is_time_ms(times_ms), times_ms, -1)
        read = self._times.read
        return np.array(
            [_time_or_none(read, time, record.timestamp_ms) for time, record in zip(times, records, strict=True)],
            np.int64,
        )

    def _learn_layout(self, payload: bytes) -> None:
        """Read further records by the layout of a usual one, if that is possible."""
        self._layout, self._layout_unknown = None, ()
        if self._form.fields is not None and self._extra:
            return

        def kind_of(path: Steps) -> int:
            if self._is_list and path[:-1] == self._list_steps:
                return int(path[-1])
            return self._kinds.get(path, SKIPPED)

        try:
            content = msgspec.json.decode(payload)
            for step in self._closed or ():
                content = content[step]
            layout = Layout(payload, kind_of, len(self._names))
        except (*_NOT_DECODED, ValueError):  # numbers beyond float64, for one, where nobody looks
            return
        self._layout_unknown = () if self._closed is None else tuple(name for name in content if name in self._extra)
        self._layout = layout

    def _counts(self, tuples: Sequence[Sequence[Any]], good: Bools) -> dict[str, int]:
        """How many of the good ones have each extra name; a path that leads to null leads to nothing."""
        absent = (msgspec.UNSET,) if self._form.fields is None else (msgspec.UNSET, None)
        rows = [row for row, is_good in zip(tuples, good.tolist(), strict=True) if is_good] if self._extra else []
        counts = {
            name: sum(not any(row[at] is nothing for nothing in absent) for row in rows)
            for at, name in enumerate(self._extra, len(self._columns))
        }
        return {name: count for name, count in counts.items() if count}


def _kind(leaf: Leaf, columns: Sequence[int]) -> int:
    """What a layout does with the scalar of a leaf."""
    if leaf.attribute in (_MACHINE, _TIME):
        return MACHINE if leaf.attribute == _MACHINE else TIME
    number = leaf.attribute.removeprefix("v")
    return columns[int(number)] if number.isdecimal() and int(number) < len(columns) else SKIPPED


def _valid(value: bytes | None) -> bytes | str:
    """UTF-8, also where msgspec does not look; raises UnicodeDecodeError, or TypeError if there is no value."""
    if value is None:
        raise TypeError("there is no value")
    return value if value.isascii() else value.decode()


def _text(found: bytes) -> str:
    try:
        return found.decode()
    except UnicodeDecodeError:
        return ""


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
