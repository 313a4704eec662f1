"""Proves from the topic `areas` that no frame of an area is missing in the topic `plant`, and none has two contents.

What an area's frames are, and what each machine is in them, follows from the area's diagnoses, texts and ticks alone,
whatever model names the causes. So the alignment is run again over the topic `areas` without a model, and what was
published has to agree with it: every frame up to the newest that was published, with the same presence of each machine
and the same answers by themselves. An id must consist of area, frame end and model, the key must be the area, and all
records of an id must have the same bytes.

Where retention has deleted the beginning of the topic, or an area began again with a fresh state (another model), the
frames cannot be derived any more: such areas are named, and only their contents and order are checked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from agents.audit.log import Log
from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaFrame, AreaResult, EmbeddingShape
from pipeline.areas.layout import AreaLayout
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREAS, PLANT
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Record

MAX_SHOWN = 20


@dataclass(slots=True)
class AreaCheck:
    """What was found; proven if there are frames and no problems."""

    records: int = 0
    frames: int = 0
    repeated: int = 0
    """Records with an id that came before, and the same bytes."""
    ahead: int = 0
    """Frames at the end that are in one of the two topics only: not diagnosed yet, or written while this was read."""
    unchecked: list[str] = field(default_factory=list)
    """Areas whose frames cannot be derived, with reasons."""
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def problem(self, kind: str, text: str) -> None:
        """Count a problem, and keep it if it is one of the first."""
        self.problems[kind] += 1
        if len(self.examples) < MAX_SHOWN:
            self.examples.append(f"{kind}: {text}")

    @property
    def proven(self) -> bool:
        """Whether all that could be checked holds."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """One object of plain values."""
        plain = {name: getattr(self, name) for name in ("records", "frames", "repeated", "ahead", "unchecked")}
        return {"proven": self.proven, **plain, "problems": dict(self.problems), "first_problems": self.examples}


class _Content(msgspec.Struct, frozen=True):
    """What of an area's frame does not depend on the model."""

    presence: dict[str, str]
    own: dict[str, tuple[str, float]]


@dataclass(slots=True)
class _Area:
    """What was published of one area."""

    partition: int
    newest_ms: int = -1
    models: set[str] = field(default_factory=set)
    resets: int = 0
    frames: dict[int, _Content] = field(default_factory=dict)


def check_areas(log: Log, profile: PlantProfile) -> AreaCheck:
    """Check all that was published about a profile's areas."""
    check = AreaCheck()
    published = _published(log, profile, check)
    derived, cut = _derived(log, profile)
    for name, area in published.items():
        if area.partition in cut:
            check.unchecked.append(f"{name}: the beginning of partition {area.partition} of its input was deleted")
        elif len(area.models) > 1 or area.resets > _resets(derived.get(name, {})):
            check.unchecked.append(f"{name}: it began again with a fresh state")
        else:
            _compare(name, area, derived.get(name, {}), check)
    for name in derived.keys() - published.keys():
        check.ahead += len(derived[name])
    return check


def _published(log: Log, profile: PlantProfile, check: AreaCheck) -> dict[str, _Area]:
    areas: dict[str, _Area] = {}
    digests: dict[str, bytes] = {}
    for record in log.records(PLANT):
        check.records += 1
        where = f"partition {record.partition}, offset {record.offset}"
        try:
            said = decode_area(record.value or b"")
        except RejectedError as error:
            check.problem("unreadable", f"{where} is not the diagnosis of an area: {str(error)[:100]}")
            continue
        if (wrong := _malformed(said, record, profile)) is not None:
            check.problem("malformed", f"{where}: {wrong}")
            continue
        digest = hashlib.blake2b(record.value or b"", digest_size=16).digest()
        if digests.setdefault(said.id, digest) != digest:
            check.problem("two contents", f"{said.id} ({where}) differs from an earlier record")
            continue
        area = areas.setdefault(said.area, _Area(record.partition))
        if said.frame_end in area.frames and said.model.hash in area.models:
            check.repeated += 1
            continue
        if area.partition != record.partition:
            check.problem("order", f"{said.id} is in partition {record.partition}, others are in {area.partition}")
        if said.frame_end <= area.newest_ms and said.model.hash in area.models:
            check.problem("order", f"{said.id} comes after the frame that ends at {area.newest_ms}")
        area.newest_ms = max(area.newest_ms, said.frame_end)
        area.models.add(said.model.hash)
        area.resets += said.reset
        area.frames[said.frame_end] = _content(said)
        check.frames += 1
    return areas


def _malformed(said: AreaDiagnosis, record: Record, profile: PlantProfile) -> str | None:
    if said.area not in profile.areas:
        return f"plant {profile.plant} has no area {said.area[:80]!r}; use --profile to name the right plant"
    if said.id != (right := f"{said.area}:{said.frame_end}:{said.model.hash[:12]}"):
        return f"its id is {said.id[:200]!r}, but must be {right!r}"
    if record.key != said.area.encode():
        return f"its key is {record.key!r:.80}, but it is about {said.area!r}"
    return None


def _content(said: AreaDiagnosis) -> _Content:
    machines = said.machines.items()
    return _Content(
        {name: one.presence for name, one in machines},
        {name: (one.own_fault, one.own_confidence) for name, one in machines},
    )


def _derived(log: Log, profile: PlantProfile) -> tuple[dict[str, dict[int, tuple[_Content, bool]]], set[int]]:
    """By area and frame end what follows from the diagnoses; and partitions whose beginning was deleted."""
    engine = AreaEngine(profile, _NoModel())
    frames: dict[str, dict[int, tuple[_Content, bool]]] = {}
    firsts: dict[int, int] = {}
    for record in log.records(AREAS):
        firsts.setdefault(record.partition, record.offset)
        for output in engine.process([record]):
            if output.topic == PLANT:
                said = decode_area(output.value or b"")
                frames.setdefault(said.area, {})[said.frame_end] = _content(said), said.reset
    return frames, {partition for partition, first in firsts.items() if first > 0}


def _resets(frames: Mapping[int, tuple[_Content, bool]]) -> int:
    return sum(reset for _, reset in frames.values())


def _compare(name: str, area: _Area, derived: Mapping[int, tuple[_Content, bool]], check: AreaCheck) -> None:
    for end_ms in sorted(derived.keys() - area.frames.keys()):
        if end_ms > area.newest_ms:
            check.ahead += 1
        else:
            check.problem("missing", f"{name} lacks the frame that ends at {end_ms} ({shown_time(end_ms)})")
    newest_ms = max(derived, default=-1)
    for end_ms, content in area.frames.items():
        if end_ms > newest_ms:
            check.ahead += 1  # its diagnoses were written after the end of what is read here
        elif end_ms not in derived:
            check.problem("unexpected", f"{name}: no diagnoses lead to the frame that ends at {end_ms}")
        elif content != derived[end_ms][0]:
            machine = _first_difference(content, derived[end_ms][0])
            text = f"{name}, the frame that ends at {end_ms}: {machine} is not what its diagnoses make of it"
            check.problem("differing", text)


def _first_difference(one: _Content, other: _Content) -> str:
    names = sorted(one.presence.keys() | other.presence.keys())
    return next(
        (
            name
            for name in names
            if (one.presence.get(name), one.own.get(name)) != (other.presence.get(name), other.own.get(name))
        ),
        "a machine",
    )


class _NoModel:
    """Names nothing: frames alone are of interest."""

    name, hash = "none", "0" * 64
    modalities: tuple[str, ...] = ()
    embeddings: Mapping[str, EmbeddingShape] = {}

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        """Any area will do."""

    def load_code(self) -> None:
        """There is none."""

    def reserve(self, slots: int) -> None:
        """There is no state."""

    def step(self, frame: AreaFrame) -> AreaResult:
        """No cause."""
        layout = frame.layout
        causes = np.zeros(len(layout.causes), np.float32)
        causes[0] = 1
        return AreaResult(
            causes, frame.probabilities, np.zeros(len(layout.machines) + len(layout.utilities), np.float32)
        )

    def reset(self, slot: int) -> None:
        """There is no state."""

    def save(self, slot: int) -> bytes:
        """There is no state."""
        return b""

    def load(self, slot: int, state: bytes) -> None:
        """There is no state."""
