"""An area of pumps with two utilities, diagnoses of its machines, and an area model that is easy to foresee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaFrame, AreaResult, EmbeddingShape
from pipeline.areas.layout import AreaLayout
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.topics import AREA_TEXT, AREAS, PLANT
from pipeline.errors import StateError
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, EventMessage, Evidence, ModalityAnswer, ModelRef
from pipeline.wire.records import Output, Record
from tests.support.builders import profile

PERIOD_MS = 10_000
T0 = 1_763_600_000_000
MACHINES = ("pump-0", "pump-1", "pump-2", "pump-3")
MODEL = "a" * 64
PROFILE = """
plant: small
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load}]
areas:
  hall:
    title: Hall
    wait: 30s
    utilities:
      water: {title: Water main, faults: [leak, jam], machines: [pump-0, pump-1, pump-2]}
      power: {faults: [jam], machines: [pump-2, pump-3]}
    feeds: {pump-0: [pump-3]}
"""


class CountingRunner:
    """An area model whose state counts frames and answers; the utility `water` leaks as probably as its machines do."""

    name = "counting"
    hash = "c" * 64
    modalities: tuple[str, ...] = ("sensors", "text")
    embeddings: Mapping[str, EmbeddingShape] = {"pump": EmbeddingShape(MODEL, ("sensors",), (2,))}

    def __init__(self) -> None:
        self.state = np.zeros((0, 3), np.float32)
        self.frames: list[AreaFrame] = []

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        assert layouts

    def load_code(self) -> None:
        """There is no code to load."""

    def reserve(self, slots: int) -> None:
        self.state = np.concatenate([self.state, np.zeros((max(slots - len(self.state), 0), 3), np.float32)])

    def step(self, frame: AreaFrame) -> AreaResult:
        self.frames.append(frame)
        state = self.state[frame.slot]
        if frame.reset:
            state[:] = 0
        state += (1, frame.has_answer.sum(), frame.embeddings[0].sum())
        causes = np.zeros(len(frame.layout.causes), np.float32)
        water = frame.layout.utilities[0].machines
        causes[1] = frame.probabilities[water, 1].mean()
        causes[0] = 1 - causes[1]
        support = np.zeros(len(frame.layout.machines) + len(frame.layout.utilities), np.float32)
        support[water] = np.float32(1 / len(water))
        neighbours = np.zeros((len(frame.layout.machines), len(support)), np.float32)
        neighbours[:, 0] = state[1] / 1000
        return AreaResult(causes, frame.probabilities, support, neighbours)

    def reset(self, slot: int) -> None:
        self.state[slot] = 0

    def save(self, slot: int) -> bytes:
        return bytes(self.state[slot].tobytes())

    def load(self, slot: int, state: bytes) -> None:
        if len(state) != 12:
            raise StateError("not a state of CountingRunner")
        self.state[slot] = np.frombuffer(state, np.float32)


def engine(text: str = PROFILE, runner: Any = None, **options: Any) -> AreaEngine:
    """An area engine of a profile."""
    return AreaEngine(profile(text), runner or CountingRunner(), **options)


def diagnosis(machine: str, frame: int, **changes: Any) -> Diagnosis:
    """A machine's diagnosis of the frame with this number; `leak` is the probability of a leak."""
    end_ms, revision = T0 + (frame + 1) * PERIOD_MS, changes.get("revision", 0)
    leak = changes.pop("leak", 0.1)
    fault = changes.pop("fault", "leak" if leak > 0.5 else "normal")
    given: dict[str, Any] = {
        "id": f"{machine}:{end_ms}:{MODEL[:12]}:{revision}",
        "machine": machine,
        "frame_start": end_ms - PERIOD_MS,
        "frame_end": end_ms,
        "fault": fault,
        "confidence": max(leak, 1 - leak),
        "probabilities": {"normal": 1 - leak, "leak": leak},
        "modalities": {
            "sensors": ModalityAnswer(fault, 0.7, 1.0, True, 500),
            "text": ModalityAnswer("no_evidence", 0.0, 0.0, False, None),
        },
        "entropy": 0.0,
        "disagreement": 0.0,
        "evidence": Evidence([], []),
        "status": "active",
        "reset": None,
        "revision": revision,
        "model": ModelRef("pumps", MODEL),
        "embeddings": {"sensors": "AACAPwAAAEA="},  # 1, 2
    }
    return Diagnosis(**given | changes)


def announced(machine: str, frame: int, status: str) -> Diagnosis:
    """A frame that a silent machine lets pass."""
    return diagnosis(
        machine,
        frame,
        status=status,
        fault="no_evidence",
        confidence=0.0,
        probabilities={},
        modalities={},
        embeddings={},
    )


def record(content: Diagnosis | EventMessage | int, offset: int, *, area: str = "hall") -> Record:
    """A record of the topic `areas`: a diagnosis, a text, or a tick at a time."""
    if isinstance(content, int):
        tick = messages.tick(content, 0)
        return Record(AREAS, 0, offset, content, None, tick.value)
    value, headers = messages.encode(content), ()
    if isinstance(content, EventMessage):
        return Record(AREAS, 0, offset, T0, area.encode(), value, (AREA_TEXT,))
    return Record(AREAS, 0, offset, content.frame_end, area.encode(), value, headers)


def records(contents: Sequence[Diagnosis | EventMessage | int]) -> list[Record]:
    """Records in this order."""
    return [record(content, offset) for offset, content in enumerate(contents)]


def areas_of(outputs: Sequence[Output]) -> list[AreaDiagnosis]:
    """The diagnoses of areas among outputs."""
    return [decode_area(output.value or b"") for output in outputs if output.topic == PLANT]


def frames_of(outputs: Sequence[Output]) -> list[int]:
    """The numbers of the frames that outputs diagnose."""
    return [(one.frame_start - T0) // PERIOD_MS for one in areas_of(outputs)]
