"""Whether a description of tables, and the machines and faults in the tables, fit the plant's profile."""

from __future__ import annotations

from pathlib import Path

from agents.replay.tables.description import Conversion, Readings
from pipeline.config.classes import UNKNOWN
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.errors import DataError
from pipeline.files.yaml_fields import did_you_mean


class ProfileCheck:
    """Compares what becomes records with a profile; every method raises DataError with the nearest name."""

    def __init__(self, profile: PlantProfile) -> None:
        self._profile = profile
        self._types: dict[str, MachineType] = {}
        self._fitting: set[tuple[str, Path]] = set()
        """Types whose variables are those of a file."""

    def description(self, conversion: Conversion) -> None:
        """Topics and variables of all readings."""
        for number, table in enumerate(conversion.readings):
            topics = [topic.lstrip("/") for topic in self._profile.sensor_topics]
            where = f"readings.{number}"
            if table.topic.lstrip("/") not in topics:
                raise DataError(
                    f"{where}: plant {self._profile.plant} has no topic {table.topic!r}; "
                    f"{did_you_mean(table.topic, topics)}"
                )
            types = self._profile.machine_types
            known = list(dict.fromkeys(name for kind in types for name in _names_on(kind, table)))
            for name in table.values:
                if name not in known:
                    raise DataError(
                        f"{where}: plant {self._profile.plant} has no variable {name!r} on topic {table.topic}; "
                        f"{did_you_mean(name, known)}"
                    )

    def machine(self, machine: str, path: Path) -> MachineType:
        """The machine's type."""
        known = self._types.get(machine)
        if known is None:
            known = self._profile.type_of(machine)
            if known is None:
                patterns = ", ".join(kind.match for kind in self._profile.machine_types)
                raise DataError(
                    f"{path}: machine {machine!r} is of no type of plant {self._profile.plant}, whose machines match "
                    f"{patterns}; correct `machine` in the description, or `match` in the profile"
                )
            self._types[machine] = known
        return known

    def reading(self, machine: str, table: Readings, path: Path) -> None:
        """Whether the variables of a table are those of the machine's type."""
        kind = self.machine(machine, path)
        if (kind.name, path) in self._fitting:
            return
        self._fitting.add((kind.name, path))
        known = _names_on(kind, table)
        for name in table.values:
            if name not in known:
                raise DataError(
                    f"{path}: machine {machine!r} is of type {kind.name}, which has no variable {name!r} on topic "
                    f"{table.topic}; {did_you_mean(name, known)}"
                )

    def label(self, machine: str, fault: str, path: Path) -> None:
        """Whether the machine's type has a fault."""
        kind = self.machine(machine, path)
        if fault and fault not in (*kind.faults, UNKNOWN):
            raise DataError(
                f"{path}: machine {machine!r} is of type {kind.name}, which has no fault {fault!r}; "
                f"{did_you_mean(fault, kind.faults)}; `names` in the description says what the tables' words mean"
            )


def _names_on(kind: MachineType, table: Readings) -> list[str]:
    """The names, or tags, of the variables that a machine type gets from a table's topic."""
    topic = table.topic.lstrip("/")
    sources = {name for name, source in kind.sources.items() if source.topic.lstrip("/") == topic}
    variables = [variable for variable in kind.variables if variable.source in sources]
    return [name for variable in variables for name in (variable.name, variable.tag) if name is not None]
