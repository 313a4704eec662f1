"""The topics: what each holds, how it is keyed, and how it has to be set up on a broker."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.profile import PlantProfile
from pipeline.errors import SettingsError

EVENTS = "events"
LABELS = "labels"
CONTROL = "control"
DIAGNOSES = "diagnoses"
ALARMS = "alarms"
DRIFT = "drift"
INCIDENTS = "incidents"
METRICS = "metrics"
LATE = "late"
DEAD_LETTER = "dead-letter"
STATE = "state"
AREAS = "areas"
PLANT = "plant"
PLANT_STATE = "plant-state"


AREA_TEXT = ("faultline-topic", EVENTS.encode())
"""The header of a record in `areas` that is a text about a utility; others are diagnoses, and ticks have no key."""

AREA_CONTROL = ("faultline-topic", CONTROL.encode())
"""The header of a record in `areas` that says what somebody does with alarms of utilities."""

AREA_PROGRESS = ("faultline-topic", b"progress")
"""The header of a record in `areas` that says how far the worker of some machines is."""


FOREIGN = "/"
"""Begins the short name of a topic that is not under the prefix; no topic's own name can have it."""


MQTT = "mqtt:"
"""Begins the name of an MQTT topic where that of a Kafka topic would stand: in metrics and in dead letters."""


def full_topic_name(prefix: str, topic: str) -> str:
    """The name that the broker knows."""
    return topic[len(FOREIGN) :] if topic.startswith(FOREIGN) else prefix + topic


def short_topic_name(prefix: str, name: str) -> str:
    """The name without prefix, or with a slash in front if it has none of ours."""
    if name.startswith(FOREIGN) or not name.startswith(prefix):
        return name if name.startswith(FOREIGN) else FOREIGN + name
    return name[len(prefix) :]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic by its short name: without the prefix, or with a slash in front if it is a foreign one."""

    name: str
    holds: str
    compacted: bool = False  # only the newest record of every key matters

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else creates it."""
        return self.name.startswith(FOREIGN)


def input_topics(profile: PlantProfile) -> tuple[Topic, ...]:
    """What plants write: readings, texts, labels."""
    sensors = tuple(Topic(name, "readings") for name in profile.sensor_topics)
    events = tuple(Topic(name, "event texts") for name in event_topics(profile))
    return (*sensors, *events, Topic(LABELS, "what technicians found"))


def event_topics(profile: PlantProfile) -> tuple[str, ...]:
    """Every topic of texts, our own first."""
    return (EVENTS, *(event_topic.topic for event_topic in profile.events))


def ingest_topics(profile: PlantProfile) -> tuple[str, ...]:
    """Every foreign Kafka topic that `faultline ingest` reads, in the profile's order."""
    return tuple(entry.topic for entry in profile.ingest if entry.topic is not None)


def require_names(prefix: str, profile: PlantProfile) -> None:
    """Raise SettingsError if a foreign topic has the name that one of Faultline's own has with this prefix."""
    topics = [topic.name for topic in all_topics(profile)]
    own = {full_topic_name(prefix, name): name for name in topics if not name.startswith(FOREIGN)}
    for name in (*topics, *ingest_topics(profile)):
        if name.startswith(FOREIGN) and (taken := own.get(name.removeprefix(FOREIGN))) is not None:
            raise SettingsError(
                f"the profile reads topic {name.removeprefix(FOREIGN)} of others; with topic_prefix {prefix!r} that is "
                f"Faultline's own topic of {taken}; set another FAULTLINE_TOPIC_PREFIX"
            )


def ingest_outputs(profile: PlantProfile) -> tuple[str, ...]:
    """Every topic that `faultline ingest` writes."""
    sensors = (name for name in profile.sensor_topics if not name.startswith(FOREIGN))
    return (*sensors, EVENTS, DEAD_LETTER)


def all_topics(profile: PlantProfile) -> tuple[Topic, ...]:
    """Every topic; all have the same partition count, so that a machine lives in one partition."""
    return (
        *input_topics(profile),
        Topic(CONTROL, "ticks, resets, run ends, and what people do with alarms"),
        Topic(DIAGNOSES, "one diagnosis a frame"),
        Topic(ALARMS, "alarms raised and cleared, and what happens to them in between"),
        Topic(DRIFT, "drift that started and ended"),
        Topic(INCIDENTS, "past and present incidents, each by its id", compacted=True),
        Topic(METRICS, "fusion metrics per interval"),
        Topic(LATE, "readings and texts that came too late"),
        Topic(DEAD_LETTER, "records that could not be used"),
        Topic(STATE, "each machine's state, for the worker that takes it over", compacted=True),
        *area_topics(profile),
    )


def area_topics(profile: PlantProfile) -> tuple[Topic, ...]:
    """What is needed besides by a plant that has areas."""
    if not profile.areas:
        return ()
    return (
        Topic(
            AREAS, "by area: diagnoses of machines, texts about utilities, and what people do with utilities' alarms"
        ),
        Topic(PLANT, "one diagnosis of an area a frame"),
        Topic(PLANT_STATE, "each area's state, for the process that takes it over", compacted=True),
    )


def engine_topics(profile: PlantProfile) -> tuple[str, ...]:
    """What the diagnosing agent reads, in the order in which equal time stamps are taken.

    Readings first: a text that arrives in the same millisecond as a reading is taken after it.
    """
    return (*profile.sensor_topics, *event_topics(profile), CONTROL)
