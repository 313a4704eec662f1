"""The plant profile: which machine types a plant has, their variables, sources, frame period and faults."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.config.form import EventTopic, Form, Ingest, Topic
from pipeline.config.quantities.durations import DurationMs, parse_duration_ms
from pipeline.config.quantities.units import conversion
from pipeline.config.sections.alarms import AlarmEntry, alarm_essence, check_alarms
from pipeline.config.sections.areas import Area, check_areas, utility_id
from pipeline.config.sections.modalities import Modality, modality_columns
from pipeline.config.sections.titles import (
    Component,
    FaultEntry,
    MachineTitle,
    Name,
    Part,
    Placed,
    Title,
    check_components,
    is_pattern,
    without_words,
)
from pipeline.errors import ProfileError
from pipeline.files.yaml_fields import field_problems
from pipeline.files.yaml_text import YamlError, parse_yaml, read_text

NORMAL = "normal"
DEFAULT_SOURCE = "sensors"
MIN_WATCHED_VARIABLES = 4
_STATE_TTL_MS = 7 * 86_400_000
_LEAST_BLIND_MS = 300_000
Aggregation = Literal["last", "mean", "min", "max", "std", "count"]


class Variable(Part):
    """One measured quantity of a machine type."""

    name: Name
    unit: str = ""
    title: Title | None = None
    """What people call it; its description or else its name if unset."""
    description: str = ""
    component: Name | None = None
    """The part of the machine where it is measured."""
    source: Name = DEFAULT_SOURCE
    aggregation: Aggregation = "last"
    tag: str | None = Field(default=None, min_length=1, max_length=500)
    """What the variable is called in the records, if not by its name."""
    sent_unit: str | None = None
    """The unit of the values in the records, if not `unit`; they are converted."""
    missing: tuple[float, ...] = ()
    """Numbers, as they are in the records, that mean "no value"; besides those of the machine type."""
    valid: tuple[float, float] | None = None
    """The smallest and the largest possible value, in `unit`; others are not used."""
    frozen_after_ms: DurationMs | None = Field(default=None, alias="frozen_after")
    """After how long without any change its sensor counts as frozen; without it only whole sources are watched."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.valid is not None and not self.valid[0] <= self.valid[1]:
            raise ValueError(f"valid: {self.valid[0]:g} is more than {self.valid[1]:g}")
        if self.sent_unit is not None:
            if not self.unit:
                raise ValueError(f"sent_unit {self.sent_unit!r} needs unit, to which values are converted")
            conversion(self.sent_unit, self.unit)
        return self


class Source(Part):
    """One topic of readings: which topic, how often it is expected, and how far out of order it may be."""

    topic: Topic = "sensors"
    form: Form | None = None
    """How its records read, if not as Faultline's own messages."""
    strict: bool = False
    """True: a reading with any value that cannot be used is refused as a whole."""
    expected_period_ms: DurationMs | None = Field(default=None, alias="expected_period")
    allowed_disorder_ms: int = Field(default=0, alias="allowed_disorder", ge=0)
    idle_after_ms: DurationMs | None = Field(default=None, alias="idle_after")
    holds_frames: bool = True
    """False: like texts, a source that never holds a frame back (slow laboratory values)."""
    report: Literal["periodic", "on_change"] = "periodic"
    """`on_change`: sent only when a value changes; until then the last one holds."""
    heartbeat_ms: DurationMs = Field(default=86_400_000, alias="heartbeat")
    """How long a source that reports changes may send nothing before it counts as silent."""

    @model_validator(mode="before")
    @classmethod
    def _durations(cls, data: Any) -> Any:
        if isinstance(data, dict) and "allowed_disorder" in data:
            return data | {"allowed_disorder": parse_duration_ms(data["allowed_disorder"])}
        return data

    @property
    def has_one_value(self) -> bool:
        """Whether each of its records holds the value of one tag."""
        return self.form is not None and self.form.name is not None

    @property
    def on_change(self) -> bool:
        """Whether it sends only when a value changes."""
        return self.report == "on_change"


def _state_ttl_ms(given: dict[str, Any]) -> int:
    """How long machines are kept if their profile does not say so; a type with an invalid field has gaps in `given`."""
    if not given.get("texts"):
        return _STATE_TTL_MS
    lifetime_ms: int = given.get("text_ttl_frames", 0) * given.get("frame_period_ms", 0)
    return max(_STATE_TTL_MS, lifetime_ms)


class MachineType(Part):
    """Machines that share variables, frame period and model."""

    name: Name
    match: str = "*"
    """Shell pattern over machine ids; the first type that matches owns the machine."""
    frame_period_ms: DurationMs = Field(alias="frame_period")
    variables: tuple[Variable, ...] = Field(min_length=1)
    sources: dict[Name, Source] = Field(default_factory=lambda: {DEFAULT_SOURCE: Source()})
    described_faults: tuple[FaultEntry, ...] = Field(alias="faults")
    """Classes by name; the first is the normal state."""
    components: dict[Name, Component] = Field(default_factory=dict)
    modalities: dict[Name, Modality] = Field(default_factory=dict)
    """Groups of variables that a model answers from one by one, besides from all of them."""
    texts: bool = True
    text_ttl_frames: int = Field(default=60, ge=1)
    hold_limit_ms: DurationMs | None = Field(default=None, alias="hold_limit")
    """How long the last value of a variable stands in for a missing one; three expected periods if unset."""
    max_gap_frames: int = Field(default=20, ge=0)
    """Frames without any reading that are stepped through masked; a longer gap resets the machine's state."""
    missing: tuple[float, ...] = ()
    """Numbers, as they are in the records, that mean "no value" for any variable."""
    frozen_after_ms: DurationMs | None = Field(default=None, alias="frozen_after")
    """After how long without a change of any of its values a source counts as frozen; 20 frames if unset."""
    max_skew_ms: DurationMs = Field(default=3_600_000, alias="max_skew")
    """How far a reading's time may lie ahead of its record's Kafka time stamp."""
    state_ttl_ms: DurationMs = Field(default_factory=_state_ttl_ms, alias="state_ttl")
    """A machine that has sent nothing for so long is forgotten, with its state; seven days if unset, or as long as its
    texts count, if that is longer."""
    buffer_limit_rows: int = Field(default=100_000, ge=16, alias="buffer_limit")
    """Readings that one machine may hold back before further ones are refused."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [variable.name for variable in self.variables]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"variables named more than once: {', '.join(twice)}")
        if len(set(self.faults)) != len(self.faults):
            raise ValueError("faults are named more than once")
        if not self.faults:
            raise ValueError("faults: name the normal state, and the faults if there are any, as [normal, failing]")
        if self.faults[0] != NORMAL:
            raise ValueError(f"the first fault must be '{NORMAL}', not '{self.faults[0]}'")
        unknown = sorted({variable.source for variable in self.variables} - set(self.sources))
        if unknown:
            raise ValueError(f"variables name sources that are not declared: {', '.join(unknown)}")
        if not any(source.holds_frames for source in self.sources.values()):
            raise ValueError("at least one source must hold frames back, or none would ever close in order")
        topics = [source.topic for source in self.sources.values()]
        if len(set(topics)) != len(topics):
            raise ValueError("two sources share one topic")
        tags = [variable.tag for variable in self.variables if variable.tag is not None]
        if twice := sorted({tag for tag in tags if tags.count(tag) > 1}):
            raise ValueError(f"tags given to more than one variable: {', '.join(twice)}")
        placed = [Placed(f"variable {variable.name}", variable.component) for variable in self.variables]
        placed += [Placed(f"fault {fault.name}", name) for fault in self.described_faults for name in fault.shares]
        check_components(self.components, placed)
        modality_columns(self.modalities, names)
        return self

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of the classes, in the order of models' answers; the first is the normal state."""
        return tuple(fault.name for fault in self.described_faults)

    @property
    def variable_names(self) -> tuple[str, ...]:
        """Names in the order of the list form."""
        return tuple(variable.name for variable in self.variables)

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources, in the profile's order."""
        return tuple(self.sources)

    def idle_after_ms(self, source: str) -> int:
        """Silence after which a source no longer holds frames back."""
        declared = self.sources[source]
        if declared.idle_after_ms is not None:
            return declared.idle_after_ms
        if declared.on_change:
            return declared.heartbeat_ms
        return 3 * max(declared.expected_period_ms or 0, self.frame_period_ms) + declared.allowed_disorder_ms

    @property
    def closes_by_time(self) -> bool:
        """Whether frames close by time alone, because all sources that hold frames back report changes only."""
        return all(source.on_change for source in self.sources.values() if source.holds_frames)

    @property
    def blind_after_ms(self) -> int:
        """How much older a machine's newest evidence may be than its newest arrival; clocks may be behind a little."""
        limits = [self.idle_after_ms(name) + source.allowed_disorder_ms for name, source in self.sources.items()]
        return max(max(limits) + 2 * self.frame_period_ms, _LEAST_BLIND_MS)

    @property
    def gap_frames(self) -> int:
        """Frames without any reading that are stepped through before a machine's state is reset."""
        if not self.closes_by_time:
            return self.max_gap_frames
        silent_ms = max(self.idle_after_ms(name) for name, source in self.sources.items() if source.holds_frames)
        return max(self.max_gap_frames, -(-silent_ms // self.frame_period_ms))

    def frozen_after(self, source: str) -> int | None:
        """After how many ms without a change of any of its values a source counts as frozen; None for never.

        Few variables may well stay the same for hours, so without a declaration only sources of several are watched.
        """
        own = sum(variable.source == source and variable.aggregation != "count" for variable in self.variables)
        if self.frozen_after_ms is None and own < MIN_WATCHED_VARIABLES:
            return None
        return self.frozen_after_ms or 20 * self.frame_period_ms

    def hold_ms(self, source: str) -> int:
        """How long a value of this source stands in for a missing one."""
        if self.sources[source].on_change:
            return max(self.idle_after_ms(source), self.frame_period_ms)
        if self.hold_limit_ms is not None:
            return self.hold_limit_ms
        return 3 * max(self.sources[source].expected_period_ms or 0, self.frame_period_ms)

    @property
    def digest(self) -> str:
        """Hash of what a model depends on: variables, aggregations, frame period, faults, texts, modalities."""
        essence: dict[str, Any] = {
            "variables": [[v.name, v.aggregation, v.source] for v in self.variables],
            "frame_period_ms": self.frame_period_ms,
            "faults": self.faults,
            "texts": self.texts,
        }
        if self.modalities:  # profiles without any have the digest that they had before there were modalities
            essence["modalities"] = list(modality_columns(self.modalities, self.variable_names).items())
        return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()[:16]


class PlantProfile(Part):
    """A plant: its machine types, in the order in which machine ids are matched against them."""

    plant: Name
    machine_types: tuple[MachineType, ...] = Field(min_length=1)
    events: tuple[EventTopic, ...] = ()
    ingest: tuple[Ingest, ...] = ()
    machines: dict[str, MachineTitle] = Field(default_factory=dict)
    """Names and areas of machines, by id or by shell pattern over ids."""
    alarms: tuple[AlarmEntry, ...] = ()
    """Settings of alarms; of two entries that give the same setting the later one counts."""
    areas: dict[Name, Area] = Field(default_factory=dict)
    """Machines that are diagnosed together, because they share utilities or feed each other."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [machine_type.name for machine_type in self.machine_types]
        if len(set(names)) != len(names):
            raise ValueError("machine types are named more than once")
        forms: dict[str, Form | None] = {}
        for machine_type in self.machine_types:
            for source in machine_type.sources.values():
                if forms.setdefault(source.topic, source.form) != source.form:
                    raise ValueError(f"topic {source.topic.lstrip('/')} is declared with two forms")
        for event_topic in self.events:
            if not event_topic.topic.startswith("/") or event_topic.topic in forms:
                raise ValueError(f"events: topic {event_topic.topic.lstrip('/')} is one of readings")
            forms[event_topic.topic] = event_topic.form
        if taken := sorted({entry.topic for entry in self.ingest if entry.topic in forms and entry.topic is not None}):
            raise ValueError(f"ingest: topic {taken[0].lstrip('/')} is read by the worker already")
        origins = [entry.topic or entry.mqtt or "" for entry in self.ingest]
        if twice := sorted({origin for origin in origins if origins.count(origin) > 1}):
            raise ValueError(f"ingest: {twice[0].lstrip('/')} is named more than once")
        for machine in self.machines:
            if not is_pattern(machine) and self.type_of(machine) is None:
                patterns = ", ".join(machine_type.match for machine_type in self.machine_types)
                raise ValueError(f"machines: {machine!r} is of no machine type, whose ids match {patterns}")
        check_alarms(self.alarms, {machine_type.name: machine_type.faults for machine_type in self.machine_types})
        check_areas(self.areas, self.machine_types, self.type_of)
        return self

    @property
    def digest(self) -> str:
        """Hash of what the profile says, but for people: two workers with the same one read and diagnose alike."""
        plant = self.model_dump(mode="json", exclude={"areas"})
        essence = without_words(plant) | alarm_essence(plant)
        if self.areas:
            essence["areas"] = {name: area.members for name, area in self.areas.items()}
        return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()[:16]

    def type_of(self, machine: str) -> MachineType | None:
        """The type that owns a machine id, or None if no type's pattern matches."""
        for machine_type in self.machine_types:
            if fnmatch.fnmatchcase(machine, machine_type.match):
                return machine_type
        return None

    @property
    def area_of(self) -> dict[str, str]:
        """The area of every machine that is in one, in the order of their ids."""
        areas = {machine: name for name, area in self.areas.items() for machine in area.all_machines}
        return dict(sorted(areas.items()))

    @property
    def area_of_utility(self) -> dict[str, str]:
        """The area of every utility, by the id that texts about it have."""
        return {utility_id(name, utility): name for name, area in self.areas.items() for utility in area.utilities}

    def has_areas(self, machine_type: MachineType) -> bool:
        """Whether machines of this type are in areas, so that their diagnoses carry embeddings."""
        return any(self.type_of(machine) == machine_type for machine in self.area_of)

    def machine_type(self, name: str) -> MachineType:
        """The machine type of this name; raises ProfileError if there is none."""
        for machine_type in self.machine_types:
            if machine_type.name == name:
                return machine_type
        known = ", ".join(machine_type.name for machine_type in self.machine_types)
        raise ProfileError(f"plant {self.plant} has no machine type '{name}'; it has {known}")

    @property
    def sensor_topics(self) -> tuple[str, ...]:
        """Every topic of readings, each once, in the profile's order."""
        topics = (source.topic for machine_type in self.machine_types for source in machine_type.sources.values())
        return tuple(dict.fromkeys(topics))

    @property
    def forms(self) -> dict[str, Form]:
        """How the records of topics read that are not written as Faultline's own messages."""
        sources = (source for machine_type in self.machine_types for source in machine_type.sources.values())
        forms = {source.topic: source.form for source in sources if source.form is not None}
        return forms | {event_topic.topic: event_topic.form for event_topic in self.events}


def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with Faultline."""
    folder = resources.files("pipeline.config") / "profiles"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_profile(name_or_path: str | Path) -> PlantProfile:
    """Read a shipped profile by name, or any profile by path; raises ProfileError with file and field."""
    path = Path(name_or_path)
    if str(name_or_path) in shipped_profiles():
        text = (resources.files("pipeline.config") / "profiles" / f"{name_or_path}.yaml").read_text("utf-8")
    else:
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name, too
            shipped = ", ".join(shipped_profiles())
            reason = error.strerror if isinstance(error, OSError) else error
            raise ProfileError(
                f"profile {path}: {reason}; give a file, or one of the shipped profiles: {shipped}"
            ) from error
    return parse_profile(text, where=str(name_or_path))


def parse_profile(text: str, *, where: str) -> PlantProfile:
    """Validate a profile's YAML text; `where` names it in errors."""
    try:
        data = parse_yaml(text)
    except YamlError as error:
        raise ProfileError(f"profile {where} is not YAML that can be used: {error}") from error
    try:
        return PlantProfile.model_validate(data)
    except ValidationError as error:
        details = field_problems(error, PlantProfile, "profile")
        raise ProfileError(f"profile {where} does not fit: {details}") from error
