"""The topics: what each holds, how it is keyed, and how it has to be set up on a broker."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.profile import PlantProfile

EVENTS = "events"
LABELS = "labels"
CONTROL = "control"
DIAGNOSES = "diagnoses"
ALARMS = "alarms"
METRICS = "metrics"
LATE = "late"
DEAD_LETTER = "dead-letter"
STATE = "state"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, named without its prefix."""

    name: str
    holds: str
    compacted: bool = False  # only the newest record of every key matters


def input_topics(profile: PlantProfile) -> tuple[Topic, ...]:
    """What plants write: readings, texts, labels."""
    sensors = tuple(Topic(name, "readings") for name in profile.sensor_topics)
    return (*sensors, Topic(EVENTS, "event texts"), Topic(LABELS, "what technicians found"))


def all_topics(profile: PlantProfile) -> tuple[Topic, ...]:
    """Every topic; all have the same partition count, so that a machine lives in one partition."""
    return (
        *input_topics(profile),
        Topic(CONTROL, "ticks, resets and run ends"),
        Topic(DIAGNOSES, "one diagnosis a frame"),
        Topic(ALARMS, "alarms raised and cleared"),
        Topic(METRICS, "fusion metrics per interval"),
        Topic(LATE, "readings and texts that came too late"),
        Topic(DEAD_LETTER, "records that could not be used"),
        Topic(STATE, "each machine's state, for the worker that takes it over", compacted=True),
    )


def engine_topics(profile: PlantProfile) -> tuple[str, ...]:
    """What the diagnosing agent reads, in the order in which equal time stamps are taken.

    Readings first: a text that arrives in the same millisecond as a reading is taken after it.
    """
    return (*profile.sensor_topics, EVENTS, CONTROL)
