"""`faultline explain`: why a diagnosis or an alarm says what it says, and what would change it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agents.audit.why.areas import AreaId
from agents.audit.why.explained import Explained
from agents.audit.why.explained_area import ExplainedArea
from agents.audit.why.from_log import published_diagnosis, replay_from_log
from agents.audit.why.replayed import DiagnosisId, Replayed, records_of_machine, replay_until
from agents.cli.evidence.explain_area import explained_area
from agents.cli.options import BrokerOption, JsonOption, ModelOption, ProfileOption, load_runners, model_of_each_type
from agents.cli.running.plant import AreaModelOption
from agents.cli.views.area_explain_view import show_explained_area
from agents.cli.views.explain_view import show_explained
from agents.cli.views.printable import say
from agents.cli.views.progress import records_progress
from agents.delivery.partitioning import partition_function
from agents.kafka.log import kafka_log
from agents.kafka.schema_registry import schema_registry
from agents.words import Words
from models.evaluation.explanations.explain import Explanation, Method, explain_by_gradients, explain_by_leaving_out
from models.evaluation.explanations.question import Against, Question
from models.evaluation.explanations.window import Window
from pipeline.config.profile import MachineType, PlantProfile, load_profile
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import CONTROL, DIAGNOSES, EVENTS, engine_topics
from pipeline.errors import SettingsError
from pipeline.extras import require_modules
from pipeline.frames import StepRunner
from pipeline.wire.messages import Diagnosis
from pipeline.wire.recording import has_topic, read_recording
from pipeline.wire.records import OnProgress, Record


def explain(
    diagnosis: Annotated[str, typer.Argument(metavar="ID", help="id of a diagnosis or of an alarm")],
    recording: Annotated[
        Path | None, typer.Option("--from", help="a recording with the inputs, instead of a broker")
    ] = None,
    method: Annotated[
        Method,
        typer.Option("--method", help="leave one group out through the compiled step, or integrated gradients (torch)"),
    ] = "leave-out",
    window: Annotated[int, typer.Option("--window", min=1, max=1_000, help="frames to explain the answer by")] = 60,
    against: Annotated[
        Against,
        typer.Option("--against", help="what a fault is held against: no fault, or all other answers"),
    ] = "no_fault",
    history: Annotated[
        str | None,
        typer.Option("--history", help="read the topics from so long before the frame, such as 2d; else all of them"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many of a kind to show")] = 8,
    in_area: Annotated[
        bool, typer.Option("--plant", help="of a machine: also what its area makes of its answer, and by what")
    ] = False,
    area_model: AreaModelOption = None,
    broker: BrokerOption = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a diagnosis or alarm rests on: variables, texts, components and modalities, and what would change it.

    Of an area or utility it is machines and texts. Machine or area are replayed from what their topics or a recording
    hold, up to the diagnosis; nothing is written.
    """
    settings = load_settings(broker=broker, profile=profile, area_model=area_model)
    plant = load_profile(settings.profile)

    def of_area(wanted: AreaId, machine: str | None = None) -> ExplainedArea:
        with records_progress("replaying", is_shown=not as_json) as progress:
            return explained_area(
                wanted,
                settings,
                plant,
                lambda: load_runners(settings, plant, model),
                recording=recording,
                frames=window,
                history_ms=None if history is None else _history_ms(history),
                machine=machine,
                on_progress=progress,
            )

    if (area_id := AreaId.parse(diagnosis, plant)) is not None:
        if method == "gradients":
            raise SettingsError("--method gradients is for machines; what an area rests on is found by leaving out")
        found_in_area = of_area(area_id)
        if as_json:
            typer.echo(json.dumps(found_in_area.as_dict(), indent=2))
        else:
            show_explained_area(found_in_area, Words(plant), Console(), limit)
        return
    wanted = DiagnosisId.parse(diagnosis)
    area = plant.area_of.get(wanted.machine)
    if in_area and area is None:
        raise SettingsError(f"machine {wanted.machine[:200]!r} is in no area of plant {plant.plant}; leave --plant out")
    runners = load_runners(settings, plant, model)
    with records_progress("replaying", is_shown=not as_json) as progress:
        if recording is not None:
            published, replayed = _from_recording(recording, settings, plant, runners, wanted, window, progress)
        else:
            published, replayed = _from_topics(settings, plant, runners, wanted, window, history, progress)
    kind = plant.type_of(wanted.machine)
    assert kind is not None
    question = Question.of(replayed.answer, runners[kind.name].classes, kind.faults, against)
    if method == "gradients":
        require_modules("--method gradients", "torch")
        path = model_of_each_type(settings, plant, model)[kind.name]
        found = _by_gradients(path, runners[kind.name], kind, replayed.window, question)
    else:
        found = explain_by_leaving_out(runners[kind.name], kind, replayed.window, question)
    explained = Explained.of(replayed, question, found, runners[kind.name], kind, published)
    corrected = None
    if in_area and area is not None:
        corrected = of_area(AreaId(area, wanted.end_ms, ""), wanted.machine)
    if as_json:
        shown = explained.as_dict() | ({} if corrected is None else {"in_area": corrected.as_dict()})
        typer.echo(json.dumps(shown, indent=2))
        return
    show_explained(explained, Words(plant), Console(), limit)
    if corrected is not None:
        say()
        show_explained_area(corrected, Words(plant), Console(), limit)


def _by_gradients(path: Path, runner: StepRunner, kind: MachineType, window: Window, question: Question) -> Explanation:
    from models.model_file import in_units_of, read_model
    from models.network_file import build_network

    network = build_network(in_units_of(read_model(path), kind)).double()
    network.config = network.config.model_copy(update={"text_ttl_frames": kind.text_ttl_frames})
    return explain_by_gradients(runner, network, kind, window, question)


def _from_recording(
    recording: Path,
    settings: Settings,
    plant: PlantProfile,
    runners: dict[str, StepRunner],
    wanted: DiagnosisId,
    window: int,
    on_progress: OnProgress,
) -> tuple[Diagnosis | None, Replayed]:
    from agents.replay.replay import ReplaySource

    published: Diagnosis | None = None
    if has_topic(recording, DIAGNOSES):
        published = published_diagnosis(read_recording(recording, on_progress=on_progress), wanted)
    to_partition = partition_function(settings.partitions)
    offsets: Counter[tuple[str, int]] = Counter()

    def records() -> Iterator[Record]:
        source = ReplaySource(recording, plant, to_partition, settings.partitions, on_progress=on_progress)
        for output in source:
            place = output.topic, output.partition or 0
            yield Record(*place, offsets[place], output.timestamp_ms, output.key, output.value, output.headers)
            offsets[place] += 1

    partition = to_partition(wanted.machine.encode(errors="replace"))
    own = records_of_machine(records(), plant, wanted.machine, partition)
    return published, replay_until(
        own, plant, runners, wanted, frames=window, schemas=schema_registry(settings), notify=_to_stderr
    )


def _from_topics(
    settings: Settings,
    plant: PlantProfile,
    runners: dict[str, StepRunner],
    wanted: DiagnosisId,
    window: int,
    history: str | None,
    on_progress: OnProgress,
) -> tuple[Diagnosis | None, Replayed]:
    history_ms = None if history is None else _history_ms(history)
    topics = [topic for topic in engine_topics(plant) if topic not in (EVENTS, CONTROL)]
    with kafka_log(settings, [*topics, DIAGNOSES], [EVENTS, CONTROL], on_progress) as log:
        return replay_from_log(
            log,
            plant,
            runners,
            wanted,
            frames=window,
            history_ms=history_ms,
            schemas=schema_registry(settings),
            notify=_to_stderr,
        )


def _history_ms(text: str) -> int:
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise SettingsError(f"--history {text!r}: {error}") from error


def _to_stderr(line: str) -> None:
    say(line, err=True)
