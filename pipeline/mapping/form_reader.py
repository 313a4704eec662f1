"""Reads the records of a foreign topic as its form says, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from pipeline.config.form import Form, Place
from pipeline.mapping.bodies import Body, BodyReader, described
from pipeline.mapping.numbers import value_reader
from pipeline.mapping.places import Entry, path_finder, place_name, text_finder, time_finder
from pipeline.mapping.rows.reader import RowReader, Rows, row_reader
from pipeline.mapping.schemas import Schemas
from pipeline.mapping.texts import text_writer
from pipeline.mapping.times import TimeReader
from pipeline.mapping.values import spread, value_finder
from pipeline.wire.messages import EventMessage, Reason, RejectedError
from pipeline.wire.readings import Given, Reading
from pipeline.wire.records import Record

MAX_READINGS: Final = 65_536
"""Readings of one record, at most."""


class Contents(NamedTuple):
    """What was read from one record, and what was wrong with those of its entries that could not be read."""

    readings: list[Reading]
    refused: list[RejectedError]


class FormReader:
    """Reads readings and texts from the records of a topic."""

    def __init__(self, form: Form, topic: str, schemas: Schemas | None = None) -> None:
        """`schemas` are needed for Avro only."""
        self.form = form
        self.topic = topic
        self._row_readers: dict[tuple[str, ...], RowReader | None] = {}
        self._bodies = BodyReader(form, schemas)
        self._find_each = None if form.each is None else path_finder(form.each)
        self._find_machine = text_finder(form.machine, self._bodies)
        self.given_time, self._read_time = time_finder(form.time), TimeReader(form.time).read
        self._find_values = value_finder(form, self._bodies)
        self._read_value = value_reader(form.decimal)
        self._write_text = text_writer(form)
        is_own = form.text is None and form.template is None  # as Faultline's own texts are written
        self._find_details = [
            text_finder(place or Place(path=name), self._bodies) if place is not None or is_own else None
            for name, place in (("id", form.id), ("source", form.source), ("severity", form.severity))
        ]

    def readings(self, record: Record) -> list[Reading]:
        """The readings of a record; raises RejectedError if it, or any of its entries, cannot be read."""
        contents = self.read(record)
        if contents.refused:
            raise contents.refused[0]
        return contents.readings

    def read(self, record: Record) -> Contents:
        """As `readings`, but an entry that cannot be read does not cost the others; raises if none can be read."""
        readings: list[Reading] = []
        merged: dict[tuple[str, int], dict[str, Given]] = {}
        refused: list[RejectedError] = []
        for number, entry in enumerate(self.entries(record), 1):
            try:
                for reading in self.of_entry(entry):
                    _add(reading, readings, merged)
            except RejectedError as error:
                refused.append(error if self._find_each is None else _in_entry(number, error))
            if len(readings) > MAX_READINGS:
                raise RejectedError(Reason.TOO_LARGE, f"it has more than {MAX_READINGS} readings")
        if refused and not readings:
            raise refused[0]
        return Contents(readings, refused)

    def rows(self, records: Sequence[Record], names: Sequence[str]) -> Rows | None:
        """The readings of many records at once, as rows of the values of these names, in a fraction of the time.

        `names` are those in the records. None if the form has no such rows; records that are not usual are to be read
        one by one.
        """
        wanted = tuple(names)
        if wanted not in self._row_readers:
            self._row_readers[wanted] = row_reader(self.form, wanted)
        reader = self._row_readers[wanted]
        return None if reader is None else reader.rows(records)

    def texts(self, record: Record) -> list[EventMessage]:
        """The texts of a record; raises RejectedError if it, or any of its entries, cannot be read."""
        texts, refused = self.read_texts(record)
        if refused:
            raise refused[0]
        return texts

    def read_texts(self, record: Record) -> tuple[list[EventMessage], list[RejectedError]]:
        """As `texts`, but an entry that cannot be read does not cost the others; raises if none can be read."""
        texts: list[EventMessage] = []
        refused: list[RejectedError] = []
        for number, entry in enumerate(self.entries(record), 1):
            try:
                texts.append(self.text_of(entry))
            except RejectedError as error:
                refused.append(error if self._find_each is None else _in_entry(number, error))
        if refused and not texts:
            raise refused[0]
        return texts, refused

    def text_of(self, entry: Entry) -> EventMessage:
        """The text of one entry; raises RejectedError."""
        details = [None if find is None else find(entry) for find in self._find_details]
        return EventMessage(self.machine(entry), self.time_ms(entry), self._write_text(entry), *details)

    def entries(self, record: Record) -> Iterator[Entry]:
        """What each reading or text of a record is read from, at least one; raises RejectedError."""
        count = 0
        for body in self._bodies.bodies(record):
            for content in self._contents(body, record):
                count += 1
                yield Entry(content, body, record)
        if count == 0:
            raise RejectedError(Reason.EMPTY, f"there are no entries at path {self.form.each}")

    def _contents(self, body: Body, record: Record) -> list[Any]:
        if self._find_each is None:
            return [body.content]
        found = self._find_each(Entry(body.content, body, record))
        if found is None:
            raise RejectedError(
                Reason.SCHEMA, f"there are no entries at path {self.form.each}; {described(body.content)}"
            )
        return found if type(found) is list else [found]

    def machine(self, entry: Entry) -> str:
        """Raises RejectedError."""
        machine = self._find_machine(entry)
        if machine is None:
            where = place_name(self.form.machine)
            raise RejectedError(Reason.SCHEMA, f"there is no machine at {where}; {described(entry.content)}")
        try:
            machine.encode()
        except UnicodeEncodeError:
            raise RejectedError(Reason.SCHEMA, "the machine's name is not valid Unicode") from None
        return machine

    def time_ms(self, entry: Entry) -> int:
        """Raises RejectedError."""
        given = self.given_time(entry)
        if given is None:
            where = place_name(self.form.time)
            raise RejectedError(Reason.BAD_TIME, f"there is no time at {where}; {described(entry.content)}")
        return self._read_time(given, entry.record.timestamp_ms)

    def of_entry(self, entry: Entry) -> Iterator[Reading]:
        """The readings of one entry; raises RejectedError."""
        machine = self.machine(entry)
        if self.form.value_time is not None:
            yield from self._by_time(machine, entry)
            return
        time_ms, values = self.time_ms(entry), self._find_values(entry).values
        if self.form.sample_period_ms is not None:
            yield from spread(
                machine, time_ms, values, self._read_value, self.form.sample_period_ms, self.form.sample_time
            )
        elif isinstance(values, list):
            yield Reading(machine, time_ms, [self._read_value(value) for value in values])
        elif _are_numbers(values.values()):
            yield Reading(machine, time_ms, values)
        else:
            yield Reading(machine, time_ms, {name: self._read_value(value) for name, value in values.items()})

    def _by_time(self, machine: str, entry: Entry) -> Iterator[Reading]:
        """Readings of values with times of their own; the entry's time is that of those without."""
        found = self._find_values(entry)
        by_time: dict[int, dict[str, Given]] = {}
        assert isinstance(found.values, dict)
        for name, value in found.values.items():
            time_ms = found.times.get(name)
            by_time.setdefault(self.time_ms(entry) if time_ms is None else time_ms, {})[name] = self._read_value(value)
        for time_ms, values in by_time.items():
            yield Reading(machine, time_ms, values)


def _are_numbers(values: Iterable[Any]) -> bool:
    """Whether all are finite float64; the sum of some that are may be infinite, which only costs time."""
    return set(map(type, values)) <= {float} and math.isfinite(sum(values))


def _add(reading: Reading, readings: list[Reading], merged: dict[tuple[str, int], dict[str, Given]]) -> None:
    """Values by name of one machine and time, which may stand in several entries, are one reading."""
    machine, time_ms, values = reading
    if isinstance(values, list):
        readings.append(reading)
    elif (known := merged.get((machine, time_ms))) is not None:
        known.update(values)
    else:
        merged[machine, time_ms] = values
        readings.append(reading)


def _in_entry(number: int, error: RejectedError) -> RejectedError:
    return RejectedError(error.reason, f"entry {number}: {error.detail}")
