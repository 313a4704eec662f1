"""`faultline convert`: tables (CSV, parquet, Excel) turned into a recording, by a description of their columns."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents.replay.tables.description import Conversion, Labels, Readings, Table, Texts
from agents.replay.tables.files.rows import Row
from agents.replay.tables.fitting import ProfileCheck
from agents.replay.tables.problems import CellError, Unused
from agents.replay.tables.reading import RowCount, TableReader, TimedRow
from pipeline.config.profile import PlantProfile
from pipeline.errors import DataError
from pipeline.wire.messages import EventMessage, Label, encode
from pipeline.wire.recording import new_recording
from pipeline.wire.records import OnProgress, Record

_SHOW_EVERY = 2_000


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion wrote, and what of the tables it did not use."""

    records: int
    unused: Unused


def convert(
    conversion: Conversion,
    data: Path,
    out: Path,
    profile: PlantProfile | None = None,
    *,
    on_read: OnProgress = lambda *_: None,
    on_written: OnProgress = lambda *_: None,
) -> ConversionReport:
    """Write the recording that a description makes of the tables under `data`.

    Records arrive in the order of their times; labels stand where they begin. `out` appears when it is complete. With a
    profile every machine, variable and fault must be one of its own. `on_read` hears of the rows of tables, and
    `on_written` of records. Raises DataError naming file, row and column.
    """
    unused, rows = Unused(), RowCount(on_read)
    check = None if profile is None else ProfileCheck(profile)
    if check is not None:
        check.description(conversion)
    streams: list[Iterator[Record]] = []
    for table in conversion.readings:
        reader = TableReader(table, conversion.machines, unused, rows)
        streams += [_readings(table, reader, path, check) for path in _files(data, table)]
    for texts in conversion.events:
        reader = TableReader(texts, conversion.machines, unused, rows)
        streams += [_texts(texts, reader, path, check) for path in _files(data, texts)]
    for labels in conversion.labels:
        ended: dict[str, Path] = {}
        reader = TableReader(labels, conversion.machines, unused, rows)
        streams += [_labels(labels, reader, path, check, ended) for path in _files(data, labels)]
    offsets: dict[str, int] = {}
    with new_recording(out) as writer:
        for count, record in enumerate(heapq.merge(*streams, key=lambda record: record.timestamp_ms), 1):
            offset = offsets.get(record.topic, 0)
            offsets[record.topic] = offset + 1
            writer.write([record._replace(offset=offset)])
            if count % _SHOW_EVERY == 0:
                on_written(count, rows.taken)
        if not offsets:
            raise DataError(f"the tables under {data} have no row that the description wants; nothing was written")
    return ConversionReport(writer.count, unused)


def _files(data: Path, table: Table) -> Sequence[Path]:
    try:
        found = sorted(data.glob(table.files))
    except (ValueError, NotImplementedError, OSError) as error:
        raise DataError(f"files: {table.files} is no pattern of files under {data}: {error}") from error
    if not found:
        raise DataError(f"no file matches {table.files} under {data}; set --data to the folder of the files")
    return found


def _readings(table: Readings, reader: TableReader, path: Path, check: ProfileCheck | None) -> Iterator[Record]:
    columns = list(table.values.values())

    def values(row: Row) -> array[float]:
        found = (reader.value(row, column) for column in columns)
        return array("d", [math.nan if value is None else value for value in found])

    rows = reader.rows(path, columns, values)
    if check is not None:
        for row in rows:
            check.reading(row.machine, table, path)
    for row in rows:
        observed = {
            name: None if math.isnan(value) else value for name, value in zip(table.values, row.content, strict=True)
        }
        body = msgspec.json.encode({"machine": row.machine, "time": row.time_ms, "values": observed})
        yield Record(table.topic, 0, 0, row.time_ms, row.machine.encode(), body)


def _texts(table: Texts, reader: TableReader, path: Path, check: ProfileCheck | None) -> Iterator[Record]:
    def text(row: Row) -> str:
        if table.text.is_empty(row.cells):
            raise CellError("holds no text", "holds no text; bad_rows: skip leaves such rows out").of(
                ", ".join(table.text.columns), None
            )
        return table.text.fill(row.cells)

    rows = reader.rows(path, table.text.columns, text)
    if check is not None:
        for row in rows:
            check.machine(row.machine, path)
    for row in rows:
        message = EventMessage(row.machine, row.time_ms, row.content, None, table.source, table.severity)
        yield Record("events", 0, 0, row.time_ms, row.machine.encode(), encode(message))


def _labels(
    table: Labels, reader: TableReader, path: Path, check: ProfileCheck | None, ended: dict[str, Path]
) -> Iterator[Record]:
    def fault(row: Row) -> str:
        said = table.fault.fill(row.cells) if table.fault.is_filled(row.cells) else ""
        return table.names.get(said, said)

    rows = reader.rows(path, table.fault.columns, fault)
    if table.rows == "last":
        rows = _last_rows(rows, path, ended)
    if check is not None:
        for row in rows:
            check.label(row.machine, row.content, path)
    spans = _runs(rows) if table.runs else _around(table, rows)
    for start, end, machine, said in sorted(spans):
        if said:
            yield Record("labels", 0, 0, start, machine.encode(), encode(Label(machine, start, said, end)))


def _last_rows(rows: Sequence[TimedRow[str]], path: Path, ended: dict[str, Path]) -> list[TimedRow[str]]:
    """Each machine's last row; `ended` has the file of every machine so far, because it can end only once."""
    last = {row.machine: row for row in rows}
    for machine in last:
        if machine in ended:
            raise DataError(
                f"machine {machine!r} is in {ended[machine]} and in {path}, so it is not known which row is its last; "
                "put its rows into one file"
            )
        ended[machine] = path
    return sorted(last.values(), key=lambda row: row.time_ms)


_Span = tuple[int, int, str, str]
"""Start, end, machine and fault."""


def _around(table: Labels, rows: Sequence[TimedRow[str]]) -> Iterator[_Span]:
    """A span around the time of each row, to which that time itself always belongs."""
    for row in rows:
        start = max(row.time_ms - table.before, 0)
        yield start, row.time_ms + max(table.after, 1), row.machine, row.content


def _runs(rows: Sequence[TimedRow[str]]) -> Iterator[_Span]:
    """A span for each machine's consecutive rows with the same fault; it ends where the next one begins."""
    open_run: dict[str, tuple[int, int, str]] = {}  # machine -> start, last time, fault
    step: dict[str, int] = {}
    for row in rows:
        run = open_run.get(row.machine)
        if run is not None:
            step[row.machine] = row.time_ms - run[1]
        if run is not None and run[2] == row.content:
            open_run[row.machine] = run[0], row.time_ms, row.content
            continue
        if run is not None:
            yield run[0], row.time_ms, row.machine, run[2]
        open_run[row.machine] = row.time_ms, row.time_ms, row.content
    for machine, (start, last, fault) in open_run.items():
        yield start, last + step.get(machine, 1), machine, fault
