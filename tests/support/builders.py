"""Builders that tests share: small profiles, records, and a runner whose answers are simple arithmetic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.arrays import Ints
from pipeline.config.profile import MachineType, PlantProfile, parse_profile
from pipeline.errors import StateError
from pipeline.frames import Frames, StepResult
from pipeline.wire.messages import Diagnosis, decode_diagnosis
from pipeline.wire.records import Output, Record

ONE_SOURCE = """
plant: small
machine_types:
  - name: pump
    frame_period: 10s
    max_gap_frames: 3
    text_ttl_frames: 6
    max_skew: 1m
    sources: {sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 30s}}
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load}]
"""

TWO_SOURCES = """
plant: mixed
machine_types:
  - name: mill
    frame_period: 10s
    max_gap_frames: 3
    max_skew: 1h
    sources:
      fast: {topic: sensors.fast, expected_period: 1s, allowed_disorder: 2s, idle_after: 20s}
      slow: {topic: sensors.slow, expected_period: 10s, allowed_disorder: 5s, idle_after: 60s}
    faults: [normal, leak, jam]
    variables:
      - {name: shake, source: fast, aggregation: mean}
      - {name: peak, source: fast, aggregation: max}
      - {name: heat, source: slow}
"""


def profile(text: str = ONE_SOURCE) -> PlantProfile:
    """A profile from YAML text."""
    return parse_profile(text, where="test")


def kind(text: str = ONE_SOURCE) -> MachineType:
    """The first machine type of a profile from YAML text."""
    return profile(text).machine_types[0]


class SumRunner:
    """A runner whose state is the number of frames and the sum of all values; easy to foresee, order-sensitive."""

    name = "sum"
    hash = "5" * 64
    classes = ("normal", "leak", "jam")
    modalities = ("sensors", "text")

    def __init__(self) -> None:
        self.state = np.zeros((0, 3), np.float64)  # frames, decayed sum, texts

    def reserve(self, slots: int) -> None:
        if slots > len(self.state):
            self.state = np.concatenate([self.state, np.zeros((slots - len(self.state), 3))])

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """There is nothing to prepare."""

    def step(self, frames: Frames) -> StepResult:
        assert len(np.unique(frames.slots)) == len(frames.slots), "a machine stands twice in one round"
        state = self.state[frames.slots]
        state[frames.reset] = 0
        state[:, 0] += 1
        values = np.nan_to_num(frames.values.astype(np.float64))
        state[:, 1] = 0.5 * state[:, 1] + values.sum(axis=1) + 0.25 * frames.observed.sum(axis=1)
        for row, text in frames.texts:
            state[row, 2] += len(text.text)
        self.state[frames.slots] = state
        sensors = _softmax(np.stack([np.zeros(len(state)), np.sin(state[:, 1]), np.cos(state[:, 0])], axis=1))
        texts = _softmax(np.stack([np.zeros(len(state)), state[:, 2] % 3, state[:, 2] % 2], axis=1))
        present = np.stack([~np.isnan(frames.values).all(axis=1), state[:, 2] > 0])
        weights = present / np.maximum(present.sum(axis=0), 1)
        both = np.stack([sensors, texts])
        fused = (weights[:, :, None] * both).sum(axis=0)
        scaled = np.nan_to_num(frames.values)
        return StepResult(
            fused.astype(np.float32), both.astype(np.float32), weights.astype(np.float32), present, scaled
        )

    def reset(self, slots: Ints) -> None:
        self.state[slots] = 0

    def save(self, slots: Ints) -> list[bytes]:
        return [self.state[slot].tobytes() for slot in slots.tolist()]

    def load(self, slot: int, state: bytes) -> None:
        if len(state) != 24:
            raise StateError("not a state of SumRunner")
        self.state[slot] = np.frombuffer(state, np.float64)


def _softmax(logits: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray[Any, np.dtype[np.float64]] = e / e.sum(axis=1, keepdims=True)
    return shares


def reading(
    machine: str,
    time_ms: int,
    values: Sequence[float | None] | dict[str, float | None],
    *,
    topic: str = "sensors",
    offset: int = 0,
    partition: int = 0,
    timestamp_ms: int | None = None,
) -> Record:
    """A reading's record; it arrives at its own time unless told otherwise."""
    value = json.dumps({"machine": machine, "time": time_ms, "values": values}).encode()
    stamp = time_ms if timestamp_ms is None else timestamp_ms
    return Record(topic, partition, offset, stamp, machine.encode(), value)


def event(machine: str, time_ms: int, text: str, *, offset: int = 0, partition: int = 0, **more: Any) -> Record:
    """An event text's record."""
    stamp = more.pop("timestamp_ms", time_ms)
    value = json.dumps({"machine": machine, "time": time_ms, "text": text, **more}).encode()
    return Record("events", partition, offset, stamp, machine.encode(), value)


def control(kind: str, *, time_ms: int | None = None, machine: str | None = None, offset: int = 0) -> Record:
    """A control record."""
    body = {"kind": kind, "time": time_ms, "machine": machine}
    return Record("control", 0, offset, time_ms or 0, None, json.dumps(body).encode())


def numbered(records: Iterable[Record]) -> list[Record]:
    """The records with offsets as a broker gives them: counting up in each topic and partition."""
    next_offset: dict[tuple[str, int], int] = {}
    out = []
    for record in records:
        at = record.topic, record.partition
        offset = next_offset.get(at, 0)
        next_offset[at] = offset + 1
        out.append(record._replace(offset=offset))
    return out


def diagnoses(outputs: Iterable[Output]) -> list[Diagnosis]:
    """The diagnoses among outputs, decoded."""
    return [decode_diagnosis(out.value or b"") for out in outputs if out.topic == "diagnoses"]


def reasons(outputs: Iterable[Output]) -> list[str]:
    """The reasons of the dead letters and late records among outputs."""
    return [dict(out.headers)["faultline-reason"].decode() for out in outputs if out.topic in ("dead-letter", "late")]
