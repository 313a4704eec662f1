"""What a machine model answers along a recording of an area, as arrays for models of areas and for their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np

from models.configs.diagnoser import SENSORS, TEXT
from pipeline.arrays import Bools, Floats, Ints
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import EVENTS, LABELS
from pipeline.engine.frame_stream import FrameStream
from pipeline.engine.machines import MachineGroup
from pipeline.engine.stats import Outcome
from pipeline.errors import DataError
from pipeline.files.atomic_file import replacing
from pipeline.frames import EventText, Frames, StepRunner
from pipeline.wire.messages import decode_event, parse_time_ms
from pipeline.wire.records import Record

_CHUNK: Final = 4096
NOT_ABOUT_ONE: Final = -1

EncodeTexts = Callable[[Sequence[str]], Floats]


class AreaText(NamedTuple):
    """A text about a machine or a utility; of the other the place is NOT_ABOUT_ONE."""

    frame: int
    machine: int
    utility: int
    text: str


@dataclass(frozen=True, slots=True)
class AreaAnswers:
    """The answers of one area: T frames, N machines, U utilities, M modalities, C classes.

    Frames without a reading or text of a machine have no answer of it: nothing is present there.
    """

    area: str
    machines: tuple[str, ...]
    utilities: tuple[str, ...]
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    start_ms: Ints  # (T,)
    fused: Floats
    """(2^M, T, N, C) probabilities if only the modalities had been there whose bits are set; zeros if none is there."""
    modality_probabilities: Floats  # (M, T, N, C)
    present: Bools  # (M, T, N)
    embeddings: tuple[Floats, ...]  # of each modality (T, N, D_m), or none at all
    utility_probabilities: Floats
    """(T, U, C) what the text modality makes of the texts about a utility; zeros without one."""
    utility_present: Bools  # (T, U)
    texts: tuple[AreaText, ...]  # X of them, by frame
    text_vectors: Floats  # (X, D) as the text encoder gives them; zeros of texts without a known word

    @property
    def subsets(self) -> Ints:
        """(T, N) which modalities each machine has, as bits."""
        bits: Ints = (self.present * (1 << np.arange(len(self.modalities)))[:, None, None]).sum(axis=0)
        return bits

    def probabilities(self) -> Floats:
        """(T, N, C) each machine's answer; zeros where it has none."""
        subsets = self.subsets
        frames, machines = np.indices(subsets.shape)
        chosen: Floats = self.fused[subsets, frames, machines]
        return chosen

    def known(self) -> Bools:
        """(T, N) which machines have an answer."""
        known: Bools = np.logical_or.reduce(self.present, axis=0)
        return known

    def without(self, missing: Bools) -> AreaAnswers:
        """The same, had these modalities (M, T, N) not arrived."""
        present = self.present & ~missing
        embeddings = tuple(
            np.where(there[..., None], each, np.float32(0))
            for there, each in zip(present, self.embeddings, strict=False)
        )
        return replace(self, present=present, embeddings=embeddings)

    def save(self, path: Path) -> None:
        """Write all arrays to an npz file, which `load` reads."""
        arrays: dict[str, Any] = {
            "area": np.array(self.area),
            "machines": np.array(self.machines, np.str_),
            "utilities": np.array(self.utilities, np.str_),
            "classes": np.array(self.classes, np.str_),
            "modalities": np.array(self.modalities, np.str_),
            "start_ms": self.start_ms,
            "fused": self.fused,
            "modality_probabilities": self.modality_probabilities,
            "present": self.present,
            "utility_probabilities": self.utility_probabilities,
            "utility_present": self.utility_present,
            "text_places": np.array([text[:3] for text in self.texts], np.int64).reshape(-1, 3),
            "texts": np.array([text.text for text in self.texts], np.str_),
            "text_vectors": self.text_vectors,
        }
        for name, each in zip(self.modalities, self.embeddings, strict=False):
            arrays[f"embeddings_{name}"] = each
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as file:
            modalities = tuple(file["modalities"].tolist())
            places = file["text_places"].tolist()
            texts = zip(places, file["texts"].tolist(), strict=True)  # frame, machine and utility of each
            return cls(
                str(file["area"]),
                tuple(file["machines"].tolist()),
                tuple(file["utilities"].tolist()),
                tuple(file["classes"].tolist()),
                modalities,
                file["start_ms"],
                file["fused"],
                file["modality_probabilities"],
                file["present"],
                tuple(file[key] for name in modalities if (key := f"embeddings_{name}") in file),
                file["utility_probabilities"],
                file["utility_present"],
                tuple(AreaText(frame, machine, utility, text) for (frame, machine, utility), text in texts),
                file["text_vectors"],
            )


def answers_of_recording(
    records: Iterable[Record],
    profile: PlantProfile,
    runner: StepRunner,
    encode: EncodeTexts | None = None,
    *,
    area: str,
    machines: Sequence[str],
    utilities: Sequence[str],
) -> AreaAnswers:
    """Align a recording of an area as in live operation, and step a machine model over it.

    The model is stepped for every set of its modalities, and over the texts of each utility as if that were a machine
    without readings. Events whose machine is AREA/UTILITY are about a utility. `runner` is reset before; if it gives no
    embeddings, there are none. `encode` gives the vectors (X, D) of texts; without it D is 0. Raises DataError if the
    machines are of several types, if the model has other modalities than sensors and texts, or if there is no frame.
    """
    machine_type = _machine_type(profile, machines)
    if runner.modalities not in ((SENSORS,), (SENSORS, TEXT)):
        raise DataError(f"model {runner.name} has the modalities {', '.join(runner.modalities)}, not sensors and texts")
    inputs = _align(records, profile, machine_type, area, machines, utilities)
    return _step_all(inputs, runner, encode)


@dataclass(slots=True)
class _Inputs:
    """The aligned frames of an area: for each frame and machine its row among them, or none."""

    area: str
    machines: tuple[str, ...]
    utilities: tuple[str, ...]
    period_ms: int
    variables: int
    rows: dict[int, dict[int, tuple[Frames, int]]] = field(default_factory=dict)
    """By a frame's start and machine."""
    utility_texts: list[tuple[int, int, EventText]] = field(default_factory=list)
    """Start of the frame, utility, text."""

    @property
    def start_ms(self) -> Ints:
        """All frames from the first to the last, (T,)."""
        starts: Ints = np.arange(min(self.rows), max(self.rows) + 1, self.period_ms, dtype=np.int64)
        return starts


def _machine_type(profile: PlantProfile, machines: Sequence[str]) -> MachineType:
    kinds = {machine: profile.type_of(machine) for machine in machines}
    if unknown := [machine for machine, kind in kinds.items() if kind is None]:
        raise DataError(f"machine {unknown[0]} is of no machine type of the profile")
    first = kinds[machines[0]]
    assert first is not None
    if others := [machine for machine, kind in kinds.items() if kind != first]:
        raise DataError(f"machines {machines[0]} and {others[0]} of one area are of different types; only one can be")
    return first


def _align(
    records: Iterable[Record],
    profile: PlantProfile,
    machine_type: MachineType,
    area: str,
    machines: Sequence[str],
    utilities: Sequence[str],
) -> _Inputs:
    """The frames of an area's machines, and the texts about its utilities."""
    inputs = _Inputs(area, tuple(machines), tuple(utilities), machine_type.frame_period_ms, len(machine_type.variables))
    places = {machine: place for place, machine in enumerate(machines)}
    keys = {f"{area}/{utility}": place for place, utility in enumerate(utilities)}

    def take(group: MachineGroup, rounds: Sequence[Frames], _: Outcome) -> None:
        if group.name != machine_type.name:
            return
        for frames in rounds:
            for row, machine in enumerate(group.in_slots(frames.slots)):
                if machine.name in places:
                    at_start = inputs.rows.setdefault(int(frames.start_ms[row]), {})
                    at_start[places[machine.name]] = frames, row

    stream = FrameStream(profile, take)
    chunk: list[Record] = []
    for record in records:
        if record.topic == LABELS:
            continue
        if record.topic == EVENTS and (record.key or b"").decode(errors="replace") in keys:
            event = decode_event(record.value or b"")
            time_ms = parse_time_ms(event.time)
            text = EventText(event.id or "", time_ms, event.text)
            inputs.utility_texts.append((time_ms - time_ms % inputs.period_ms, keys[event.machine], text))
            continue
        chunk.append(record)
        if len(chunk) == _CHUNK:
            stream.process(chunk)
            chunk.clear()
    stream.process(chunk)
    stream.finish()
    if not inputs.rows:
        raise DataError(f"the recording of area {area} has no frame of its machines")
    return inputs


def _step_all(inputs: _Inputs, runner: StepRunner, encode: EncodeTexts | None) -> AreaAnswers:
    """Step the model over the frames: each machine once for every set of modalities, each utility with its texts."""
    start_ms = inputs.start_ms
    modalities, classes = runner.modalities, len(runner.classes)
    count, machines, utilities = len(start_ms), len(inputs.machines), len(inputs.utilities)
    subsets = 1 << len(modalities)
    fused = np.zeros((subsets, count, machines, classes), np.float32)
    alone = np.zeros((len(modalities), count, machines, classes), np.float32)
    present = np.zeros((len(modalities), count, machines), np.bool_)
    of_utilities = np.zeros((count, utilities, classes), np.float32)
    utility_present = np.zeros((count, utilities), np.bool_)
    embeddings: list[Floats] = []
    texts: list[AreaText] = []
    slots = np.arange(machines * subsets + utilities)
    runner.reserve(len(slots))
    runner.reset(slots)
    for frame, start in enumerate(start_ms.tolist()):
        round_, rows = _round(inputs, start, modalities)
        texts += _texts_of(round_, rows, frame)
        if not rows:
            continue
        runner.prepare([round_])
        result = runner.step(round_)
        given = result.embeddings or ()
        if not embeddings:
            embeddings = [np.zeros((count, machines, each.shape[1]), np.float32) for each in given]
        for row, (subset, place) in enumerate(rows):
            if subset == _UTILITY:
                of_utilities[frame, place] = result.modality_probabilities[-1, row]
                utility_present[frame, place] = result.present[-1, row]
            elif result.present[:, row].any():
                fused[subset, frame, place] = result.probabilities[row]
        whole = [row for row, (subset, _) in enumerate(rows) if subset == subsets - 1]
        places = [rows[row][1] for row in whole]
        alone[:, frame, places] = result.modality_probabilities[:, whole]
        present[:, frame, places] = result.present[:, whole]
        for kept, each in zip(embeddings, given, strict=True):
            kept[frame, places] = each[whole]
    return AreaAnswers(
        inputs.area,
        inputs.machines,
        inputs.utilities,
        runner.classes,
        modalities,
        start_ms,
        fused,
        alone * present[..., None],
        present,
        tuple(embeddings),
        of_utilities * utility_present[..., None],
        utility_present,
        tuple(texts),
        np.zeros((len(texts), 0), np.float32) if encode is None else encode([text.text for text in texts]),
    )


_UTILITY: Final = 0
"""In the place of the set of modalities, which is never empty: the row is a utility's."""


def _round(inputs: _Inputs, start_ms: int, modalities: Sequence[str]) -> tuple[Frames, list[tuple[int, int]]]:
    """One round of all the rows of a frame, and for each its set of modalities and machine, or _UTILITY and utility."""
    machines, subsets = len(inputs.machines), 1 << len(modalities)
    rows: list[tuple[int, int]] = []
    slots: list[int] = []
    sources: list[tuple[Frames, int] | None] = []
    texts: list[tuple[int, EventText]] = []
    for place, (frames, row) in sorted(inputs.rows.get(start_ms, {}).items()):
        own = [text for of, text in frames.texts if of == row]
        for subset in range(1, subsets):
            slots.append(place * subsets + subset)
            sources.append((frames, row))
            if subset >> modalities.index(TEXT) & 1 if TEXT in modalities else False:
                texts += ((len(rows), text) for text in own)
            rows.append((subset, place))
    if TEXT in modalities:
        for place in range(len(inputs.utilities)):
            slots.append(machines * subsets + place)
            sources.append(None)
            texts += ((len(rows), text) for start, of, text in inputs.utility_texts if (start, of) == (start_ms, place))
            rows.append((_UTILITY, place))
    values = np.full((len(rows), inputs.variables), np.nan, np.float32)
    observed = np.zeros(values.shape, np.bool_)
    age_ms = np.full(values.shape, -1, np.int64)
    reset = np.zeros(len(rows), np.bool_)
    for number, ((subset, _), source) in enumerate(zip(rows, sources, strict=True)):
        if source is None:
            continue
        frames, row = source
        reset[number] = frames.reset[row]
        if subset & 1:  # sensors are the first modality
            values[number], observed[number] = frames.values[row], frames.observed[row]
            age_ms[number] = frames.age_ms[row]
    nothing = np.zeros(len(rows), np.int64)
    starts = np.full(len(rows), start_ms, np.int64)
    order = np.array(slots, np.int64)
    return Frames(order, starts, inputs.period_ms, values, observed, age_ms, reset, nothing, nothing, texts), rows


def _texts_of(round_: Frames, rows: Sequence[tuple[int, int]], frame: int) -> list[AreaText]:
    """The texts of a round, each once."""
    found: list[AreaText] = []
    whole = max((subset for subset, _ in rows), default=_UTILITY)
    for row, text in round_.texts:
        subset, place = rows[row]
        if subset == _UTILITY:
            found.append(AreaText(frame, NOT_ABOUT_ONE, place, text.text))
        elif subset == whole:
            found.append(AreaText(frame, place, NOT_ABOUT_ONE, text.text))
    return found
