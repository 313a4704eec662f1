"""`faultline convert`: tables (CSV, parquet) turned into a recording, by a description of their columns in YAML."""

from __future__ import annotations

import heapq
import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.config.durations import parse_duration_ms
from pipeline.errors import DataError
from pipeline.wire.messages import EventMessage, Label, encode
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Record

Duration = Annotated[int, BeforeValidator(parse_duration_ms)]

_OF_PATH = ("file", "folder")
"""Names that templates may use beside columns: the file's stem and its folder."""

_UNIT_MS = {"ms": 1, "s": 1_000}


class _Table(BaseModel):
    """Where rows come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: str
    """A path or glob pattern under the data folder."""
    machine: str
    """Template of the machine id: `{column}` is a row's value, `{file}` and `{folder}` the table's file and folder."""
    time: str
    """Column of the time: a timestamp, ISO text, or a number (`time_unit`)."""
    time_unit: Literal["ms", "s"] = "ms"
    time_zone: str = "UTC"
    """Zone of times without one."""
    delimiter: str = ","
    where: dict[str, str] = Field(default_factory=dict)
    """Only rows whose column has this text."""


class Readings(_Table):
    """Rows that are readings."""

    topic: str = "sensors"
    values: dict[str, str] = Field(min_length=1)
    """Variable of the profile: column."""


class Texts(_Table):
    """Rows that are texts."""

    text: str
    source: str | None = None
    severity: str | None = None


class Labels(_Table):
    """Rows that give a machine's fault: for a span around their time, or as runs of equal values of a column."""

    fault: str
    """Template of the fault's name."""
    names: dict[str, str] = Field(default_factory=dict)
    """What the template gives: the profile's name for it."""
    before: Duration = 0
    """How long before the row's time the fault begins."""
    after: Duration = 0
    runs: bool = False
    """True: consecutive rows of a machine with the same fault are one label."""


class Conversion(BaseModel):
    """A description of tables as the inputs of a plant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machines: list[str] | None = None
    """Only these machines, if given."""
    readings: list[Readings] = Field(min_length=1)
    events: list[Texts] = []
    labels: list[Labels] = []


@dataclass(frozen=True, slots=True)
class _Row:
    machine: str
    time_ms: int
    values: dict[str, Any]


def load_conversion(path: Path) -> Conversion:
    """Read a description; raises DataError with file and field."""
    try:
        return Conversion.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"conversion {path} cannot be read: {error}") from error
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()[:5])
        raise DataError(f"conversion {path} is invalid: {details}") from error


def convert(conversion: Conversion, data: Path, out: Path) -> int:
    """Write the recording that a description makes of the tables under `data`; returns its number of records.

    Records arrive in the order of their times; labels stand where they begin. Raises DataError naming file and column.
    """
    streams: list[Iterator[Record]] = []
    for table in conversion.readings:
        streams += [_readings(conversion, table, path) for path in _files(data, table)]
    for texts in conversion.events:
        streams += [_texts(conversion, texts, path) for path in _files(data, texts)]
    for labels in conversion.labels:
        streams += [_labels(conversion, labels, path) for path in _files(data, labels)]
    offsets: dict[str, int] = {}
    with RecordingWriter(out) as writer:
        for record in heapq.merge(*streams, key=lambda record: record.timestamp_ms):
            offset = offsets.get(record.topic, 0)
            offsets[record.topic] = offset + 1
            writer.write([record._replace(offset=offset)])
    return writer.count


def _files(data: Path, table: _Table) -> Sequence[Path]:
    found = sorted(data.glob(table.files))
    if not found:
        raise DataError(f"no file matches {table.files} under {data}; set --data to the folder of the files")
    return found


def _readings(conversion: Conversion, table: Readings, path: Path) -> Iterator[Record]:
    for row in _rows(conversion, table, path, [*table.values.values()]):
        values = {name: _number(row.values[column], path, column) for name, column in table.values.items()}
        body = msgspec.json.encode({"machine": row.machine, "time": row.time_ms, "values": values})
        yield Record(table.topic, 0, 0, row.time_ms, row.machine.encode(), body)


def _texts(conversion: Conversion, table: Texts, path: Path) -> Iterator[Record]:
    for row in _rows(conversion, table, path, _columns(table.text)):
        text = table.text.format_map(row.values)
        message = EventMessage(row.machine, row.time_ms, text, None, table.source, table.severity)
        yield Record("events", 0, 0, row.time_ms, row.machine.encode(), encode(message))


def _labels(conversion: Conversion, table: Labels, path: Path) -> Iterator[Record]:
    spans: list[tuple[int, int, str, str]] = []
    open_run: dict[str, tuple[int, int, str]] = {}  # machine -> start, last time, fault
    step: dict[str, int] = {}
    for row in _rows(conversion, table, path, _columns(table.fault)):
        said = table.fault.format_map(row.values)
        fault = table.names.get(said, said)
        if not table.runs:
            spans.append(
                (
                    row.time_ms - table.before,
                    row.time_ms + (table.after or (0 if table.before else 1)),
                    row.machine,
                    fault,
                )
            )
            continue
        run = open_run.get(row.machine)
        if run is not None:
            step[row.machine] = row.time_ms - run[1]
        if run is not None and run[2] == fault:
            open_run[row.machine] = run[0], row.time_ms, fault
            continue
        if run is not None:
            spans.append((run[0], row.time_ms, row.machine, run[2]))
        open_run[row.machine] = row.time_ms, row.time_ms, fault
    for machine, (start, last, fault) in open_run.items():
        spans.append((start, last + step.get(machine, 1), machine, fault))
    for start, end, machine, fault in sorted(spans):
        yield Record("labels", 0, 0, max(start, 0), machine.encode(), encode(Label(machine, start, fault, end)))


def _rows(conversion: Conversion, table: _Table, path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    """The wanted rows of a file, in the order of their times."""
    needed = [*dict.fromkeys([*columns, *_columns(table.machine), table.time, *table.where])]
    needed = [name for name in needed if name not in _OF_PATH]
    data = _read(path, table)
    if missing := [name for name in needed if name not in data.column_names]:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has {', '.join(data.column_names)}")
    wanted = None if conversion.machines is None else frozenset(conversion.machines)
    zone = _zone(table.time_zone)
    found = []
    for number, values in enumerate(data.select(needed).to_pylist()):
        if any(str(values[name]) != text for name, text in table.where.items()):
            continue
        values |= {"file": path.stem, "folder": path.parent.name}
        machine = table.machine.format_map(values)
        if wanted is None or machine in wanted:
            time_ms = _time_ms(values[table.time], table, zone, path, number)
            found.append(_Row(machine, time_ms, values))
    found.sort(key=lambda row: row.time_ms)
    return iter(found)


def _columns(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _read(path: Path, table: _Table) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pacsv.read_csv(path, parse_options=pacsv.ParseOptions(delimiter=table.delimiter))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise DataError(f"unknown time_zone {name!r}; use a name such as UTC or Europe/Berlin") from error


def _time_ms(value: object, table: _Table, zone: ZoneInfo, path: Path, row: int) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise DataError(f"{path}, row {row}, column {table.time}: {value!r} is not an ISO 8601 time") from None
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=zone)
        delta = aware.astimezone(UTC).replace(tzinfo=None) - datetime(1970, 1, 1)
        return delta.days * 86_400_000 + delta.seconds * 1_000 + delta.microseconds // 1_000
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * _UNIT_MS[table.time_unit])
    raise DataError(f"{path}, row {row}, column {table.time}: {value!r} is not a time")


def _number(value: object, path: Path, column: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if math.isnan(value) else float(value)  # NaN is how tables write "not observed"
    raise DataError(f"{path}, column {column}: {value!r} is not a number")
