"""What `faultline explain` does for areas: it replays one from a recording or its topics, and leaves out its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from agents.audit.why.areas import AreaId, area_from_log, published_area, replay_area_until
from agents.audit.why.explained_area import ExplainedArea
from agents.cli.running.plant import load_area_runner
from agents.delivery.partitioning import partition_function
from agents.kafka.log import kafka_log
from agents.kafka.schema_registry import schema_registry
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import AREAS, CONTROL, DIAGNOSES, PLANT
from pipeline.engine.engine import Engine
from pipeline.frames import StepRunner
from pipeline.wire.recording import has_topic, holds_only, read_recording
from pipeline.wire.records import OnProgress, Output, Record

LoadRunners = Callable[[], Mapping[str, StepRunner]]


def explained_area(
    wanted: AreaId,
    settings: Settings,
    plant: PlantProfile,
    load_runners: LoadRunners,
    *,
    recording: Path | None,
    frames: int,
    history_ms: int | None,
    machine: str | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> ExplainedArea:
    """Explain the cause in a frame of an area, or a machine's answer in it; raises FaultlineError.

    `load_runners` gives the machines' models, which a recording of readings needs. An id without a model is of the
    settings' area model.
    """
    runner = load_area_runner(settings, plant)
    wanted = wanted._replace(model=wanted.model or runner.hash[:12])
    if recording is None:
        with kafka_log(settings, [AREAS, PLANT], on_progress=on_progress) as log:
            published, replayed = area_from_log(log, plant, runner, wanted, frames=frames, history_ms=history_ms)
    else:
        published = None
        if has_topic(recording, PLANT):
            published = published_area(read_recording(recording), wanted)
        records = _area_records(recording, settings, plant, load_runners, wanted.area, on_progress)
        replayed = replay_area_until(records, plant, runner, wanted, frames=frames)
    return ExplainedArea.of(replayed, runner, published, machine)


def _area_records(
    recording: Path,
    settings: Settings,
    plant: PlantProfile,
    load_runners: LoadRunners,
    area: str,
    on_progress: OnProgress,
) -> Iterator[Record]:
    """What the plant agent would read of an area: as recorded, else by diagnosing the area's machines."""
    from agents.replay.areas import AreaSource

    to_partition = partition_function(settings.partitions)
    if has_topic(recording, AREAS) or holds_only(recording, [DIAGNOSES], plant.sensor_topics):
        return _numbered(AreaSource(recording, plant, to_partition, settings.partitions, on_progress))
    return _numbered(_diagnosed(recording, settings, plant, load_runners(), area, on_progress))


def _diagnosed(
    recording: Path,
    settings: Settings,
    plant: PlantProfile,
    runners: Mapping[str, StepRunner],
    area: str,
    on_progress: OnProgress,
) -> Iterator[Output]:
    """The area's records, from the readings and texts of its machines and utilities alone.

    As a replay does it, everything is processed after each frame period.
    """
    from agents.replay.replay import ReplaySource

    to_partition = partition_function(settings.partitions)
    engine = Engine(plant, runners, drift_rule=None, partition_of=to_partition, schemas=schema_registry(settings))
    own = {name.encode() for name, of in (plant.area_of | plant.area_of_utility).items() if of == area}
    step_ms = min(kind.frame_period_ms for kind in plant.machine_types)
    source = ReplaySource(recording, plant, to_partition, settings.partitions, on_progress=on_progress)
    wanted = (one for one in source if one.key in own or (one.topic == CONTROL and one.key is None))
    key, numbered = area.encode(), _numbered(wanted)
    for _, records in groupby(numbered, key=lambda record: record.timestamp_ms // step_ms):
        for output in engine.process(list(records)):
            if output.topic == AREAS and output.key == key:
                yield output._replace(partition=to_partition(key))


def _numbered(outputs: Iterable[Output]) -> Iterator[Record]:
    offsets: Counter[tuple[str, int]] = Counter()
    for output in outputs:
        place = output.topic, output.partition or 0
        yield Record(*place, offsets[place], output.timestamp_ms, output.key, output.value, output.headers)
        offsets[place] += 1
