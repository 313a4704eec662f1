"""Rewriting: a foreign record becomes Faultline's own messages, keyed by machine, or a dead letter.

Every reading is split by the sources to which its variables belong, and its values get the variables' own names. A
value that cannot be used becomes null, and one that no variable of the machine is named or tagged after is left out;
both are counted here, by variable and reason, because a worker no longer sees them. Where a source is `strict`, they
make the record a dead letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import EVENTS, FOREIGN
from pipeline.engine.machines import MAX_MACHINE_ID
from pipeline.mapping.form_reader import FormReader
from pipeline.wire import messages
from pipeline.wire.letters import dead_letter
from pipeline.wire.messages import MAX_EVENT_BYTES, EventMessage, Reason, RejectedError
from pipeline.wire.readings import Given, Reading, Unused, ValueReason
from pipeline.wire.records import Output, Record

UNKNOWN = ""
"""Where values are counted, stands for all names that the profile does not have: there may be any number of them."""

_STRICT_REASONS = {
    ValueReason.NOT_A_NUMBER: Reason.NOT_A_NUMBER,
    ValueReason.NOT_FINITE: Reason.NOT_FINITE,
    ValueReason.UNKNOWN_VARIABLE: Reason.UNKNOWN_VARIABLE,
}

_encode = msgspec.json.Encoder().encode


class OpenForm(NamedTuple):
    """How the records of a topic are read, and whether they hold texts or readings."""

    reader: FormReader
    holds_texts: bool


@dataclass(slots=True)
class Tally:
    """What came of some records."""

    records: Counter[str] = field(default_factory=Counter)  # by topic
    without_use: Counter[str] = field(default_factory=Counter)  # by topic: nothing in them is in the profile
    written: Counter[str] = field(default_factory=lambda: Counter(readings=0, texts=0))
    dead_letters: Counter[str] = field(default_factory=Counter)  # by reason
    unused: Counter[tuple[str, str]] = field(default_factory=Counter)  # values by variable and reason

    def add(self, other: Tally) -> None:
        """Count what the other one counts as well."""
        for name in self.__slots__:
            getattr(self, name).update(getattr(other, name))


class _Target(NamedTuple):
    topic: str
    variable: str
    strict: bool


class _Machines:
    """Where the values of machines of one type go."""

    def __init__(self, machine_type: MachineType) -> None:
        self.names = machine_type.variable_names
        self.any_strict = any(source.strict for source in machine_type.sources.values())
        self.targets: dict[str, _Target] = {}
        for variable in machine_type.variables:
            source = machine_type.sources[variable.source]
            if not source.topic.startswith(FOREIGN):  # else the worker reads it itself
                target = _Target(source.topic, variable.name, source.strict)
                self.targets[variable.name] = target
                if variable.tag is not None:
                    self.targets[variable.tag] = target


class Rewriter:
    """Rewrites records for one plant."""

    def __init__(self, profile: PlantProfile, partitions: int) -> None:
        """`partitions` is how many the topic of dead letters has."""
        self._profile = profile
        self._partitions = partitions
        self._types = {machine_type.name: _Machines(machine_type) for machine_type in profile.machine_types}
        self._of_machine: dict[str, _Machines] = {}

    def rewrite(
        self, records: Iterable[Record], form: OpenForm, label: str, *, origin: str = FOREIGN
    ) -> tuple[list[Output], Tally]:
        """What to publish in place of these records of one form, which are counted under a label.

        Of a record with several readings or texts those that can be used are; it is a dead letter for the others.
        `origin` begins the name of its topic in that letter.
        """
        outputs: list[Output] = []
        tally = Tally()
        for record in records:
            tally.records[label] += 1
            before = len(outputs)
            refused: list[RejectedError] = []
            count = 0
            try:
                if form.holds_texts:
                    texts, unread = form.reader.read_texts(record)
                    refused += unread
                    count = len(unread)
                    for text in texts:
                        count += 1
                        self._or_refuse(refused, self._rewrite_text, record, text, outputs)
                    tally.written["texts"] += len(outputs) - before
                else:
                    contents = form.reader.read(record)
                    refused += contents.refused
                    count = len(contents.refused)
                    for reading in contents.readings:
                        count += 1
                        self._or_refuse(refused, self._rewrite_reading, record, reading, outputs, tally.unused)
                    tally.written["readings"] += len(outputs) - before
            except RejectedError as rejected:
                refused.append(rejected)
            if refused:
                topic = origin + record.topic.removeprefix(FOREIGN)
                outputs.append(self._letter(record._replace(topic=topic), refused, count))
                tally.dead_letters[refused[0].reason.value] += 1
            elif len(outputs) == before:
                tally.without_use[label] += 1
        return outputs, tally

    @staticmethod
    def _or_refuse(refused: list[RejectedError], rewrite: Callable[..., None], *arguments: object) -> None:
        try:
            rewrite(*arguments)
        except RejectedError as rejected:
            refused.append(rejected)

    def _letter(self, record: Record, refused: list[RejectedError], count: int) -> Output:
        first = refused[0]
        if count > 1:
            first = RejectedError(first.reason, f"{len(refused)} of {count} entries are not used: {first.detail}")
        # A foreign topic may have more partitions than that of dead letters.
        return dead_letter(record, first)._replace(partition=record.partition % self._partitions)

    # -- readings -----------------------------------------------------------------------------------------------

    def _rewrite_reading(
        self, record: Record, reading: Reading, outputs: list[Output], unused: Counter[tuple[str, str]]
    ) -> None:
        machines = self._machines(reading.machine)
        targets = machines.targets
        parts: dict[str, dict[str, float | None]] = {}
        found: list[tuple[str, str]] = []
        for name, value in self._named(reading, machines).items():
            target = targets.get(name)
            if target is None:
                if machines.any_strict:
                    raise RejectedError(Reason.UNKNOWN_VARIABLE, f"{reading.machine[:80]!r} has no {name[:200]}")
                found.append((UNKNOWN, ValueReason.UNKNOWN_VARIABLE.value))
                continue
            if isinstance(value, Unused):
                if target.strict:
                    reason = _STRICT_REASONS.get(value.reason, Reason.SCHEMA)
                    raise RejectedError(reason, f"{target.variable}: {value.reason}: {value.given[:200]}")
                found.append((target.variable, value.reason.value))
                value = None
            parts.setdefault(target.topic, {})[target.variable] = value
        unused.update(found)
        stamp = record.timestamp_ms if record.timestamp_ms >= 0 else reading.time_ms
        key = reading.machine.encode()
        for topic, values in parts.items():
            body = _encode({"machine": reading.machine, "time": reading.time_ms, "values": values})
            outputs.append(Output(topic, None, key, body, stamp))

    def _named(self, reading: Reading, machines: _Machines) -> Mapping[str, Given]:
        values = reading.values
        if isinstance(values, dict):
            return values
        if len(values) != len(machines.names):
            raise RejectedError(
                Reason.WRONG_LENGTH,
                f"{len(values)} values; machines like {reading.machine[:80]!r} have {len(machines.names)} variables",
            )
        return dict(zip(machines.names, values, strict=True))

    def _machines(self, machine: str) -> _Machines:
        found = self._of_machine.get(machine)
        if found is not None:
            return found
        if not machine or len(machine) > MAX_MACHINE_ID or not machine.isprintable():
            raise RejectedError(
                Reason.UNKNOWN_MACHINE, f"{machine[:80]!r} is not a machine id of 1 to 200 printable characters"
            )
        machine_type = self._profile.type_of(machine)
        if machine_type is None:
            raise RejectedError(
                Reason.UNKNOWN_MACHINE, f"no machine type of plant {self._profile.plant} matches {machine[:80]!r}"
            )
        if len(self._of_machine) >= 100_000:  # names are the producers' to choose
            self._of_machine.clear()
        found = self._of_machine[machine] = self._types[machine_type.name]
        return found

    # -- texts --------------------------------------------------------------------------------------------------

    def _rewrite_text(self, record: Record, text: EventMessage, outputs: list[Output]) -> None:
        self._machines(text.machine)
        found = {name: content for name in text.__struct_fields__ if (content := getattr(text, name)) is not None}
        body = _encode(found)
        if len(body) > MAX_EVENT_BYTES:
            raise RejectedError(Reason.TOO_LARGE, f"{len(body)} bytes; an event may have {MAX_EVENT_BYTES}")
        stamp = record.timestamp_ms if record.timestamp_ms >= 0 else messages.parse_time_ms(text.time)
        outputs.append(Output(EVENTS, None, text.machine.encode(), body, stamp))
