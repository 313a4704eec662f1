"""ArenaRunner: the states of all machines in one arena, stepped in numpy around any way to step the sensor encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from models.arena_text import TextRings
from models.diagnoser import Diagnoser
from models.numpy_fusion import Found, fuser
from models.numpy_parts import Filling, Read, Sensed, array
from models.runner import TorchRunner
from pipeline.frames import Bools, Floats, Frames, Ints, StepResult

FILLINGS: Final = (Filling(2, 0, 0), Filling(4, 0, 0), Filling(8, 0, 0), Filling(16, 0, 0), Filling(24, 8, 8))
"""Ways to fill up a round, cheapest first; which one keeps a machine's bits apart from its company is tried out."""

_NOBODY = np.zeros(0, np.int64)


class SensorStep(Protocol):
    """One frame of a sensor encoder for some of an arena's machines."""

    most_rows: int
    """Machines that it computes at a time at most; what they need should fit into a core's own cache."""
    in_order: bool
    """Whether it wants the slots in ascending order."""

    def advance(self, states: Floats, slots: Ints, readings: Floats, observed: Bools, filling: Filling) -> Sensed:
        """Advance the machines in these slots: readings (count, V), clipped, 0 where unknown, and observed (count, V).

        `states` (slots, S) holds the states of the whole arena as they are saved, and those of these slots are
        overwritten with those after the frame. The next call may overwrite the answer.
        """
        ...

    def example(self, rng: np.random.Generator, size: int) -> Floats:
        """A state (S,) that a machine could have, to try the encoder out."""
        ...


class ArenaRunner:
    """Implements `pipeline.frames.StepRunner`: scaling, event rings and fusion in numpy, the sensor encoder as given.

    It gives what TorchRunner gives, within float32's rounding, and reads and writes the same states.
    """

    def __init__(
        self, network: Diagnoser, sensors: SensorStep, *, name: str, digest: str, classes: tuple[str, ...]
    ) -> None:
        """`digest` is the model's hexadecimal SHA-256."""
        self._reference = TorchRunner(network, name=name, digest=digest, classes=classes)
        self._reference.reserve(1)
        self._sensors, self._fuse = sensors, fuser(network)
        self._number_of_classes = network.config.classes
        self._mean, self._std = array(network.mean), array(network.std)
        clip = network.config.clip
        self._lowest, self._highest = np.full((), -clip, np.float32), np.full((), clip, np.float32)
        self._text: TextRings | None = None
        if network.text is not None:
            temperature = float(network.fusion.temperatures[1])
            self._text = TextRings(network.text, temperature, network.config.text_ttl_frames)

        saved = self._reference.save(np.array([0]))[0]
        state_size = sum(part.numel() for part in network.sensors.init_state(1).values())
        told_size = 0 if self._text is None else self._text.size
        self._header = saved[: len(saved) - 4 * (state_size + told_size)]
        row = np.frombuffer(saved, "<f4", offset=len(self._header)).astype(np.float32)
        self._initial = row[:state_size]
        self._states = np.zeros((0, state_size), np.float32)
        self._clipped = np.zeros((sensors.most_rows, len(self._mean)), np.float32)
        self._filling = FILLINGS[-1]
        self.steady = any(self._is_steady(filling) for filling in FILLINGS)
        """Whether a machine's bits are, on this processor, the same whatever other machines are in its round."""

    @property
    def name(self) -> str:
        return self._reference.name

    @property
    def hash(self) -> str:
        return self._reference.hash

    @property
    def classes(self) -> tuple[str, ...]:
        return self._reference.classes

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._reference.modalities

    @property
    def filling(self) -> Filling:
        """How rounds are filled up on this processor."""
        return self._filling

    @property
    def capacity(self) -> int:
        """Slots that the arena holds now."""
        return len(self._states)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many slots; capacity doubles, so growing one by one stays cheap."""
        if slots <= self.capacity:
            return
        capacity = max(slots, 2 * self.capacity)
        states = np.empty((capacity, len(self._initial)), np.float32)
        states[: self.capacity], states[self.capacity :] = self._states, self._initial
        self._states = states
        if self._text is not None:
            self._text.reserve(capacity)

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Encode the texts of all these rounds in one batch; one by one would cost several times as much."""
        if self._text is not None:
            self._text.prepare(rounds)

    def step(self, frames: Frames) -> StepResult:
        """Advance each machine of the round by one frame; a slot may stand in a round only once."""
        slots = frames.slots
        listed = slots.tolist()
        if not listed:
            raise ValueError("a round needs at least one machine")
        if len(set(listed)) < len(listed):
            raise ValueError("a slot stands in this round twice; give it one frame a round")
        self.reserve(max(listed) + 1)
        if np.count_nonzero(frames.reset):
            self.reset(slots[frames.reset])
        if self._text is not None:
            self._text.turn(slots)
            if frames.texts:
                self._text.take_up(frames)
        if self._sensors.in_order and len(listed) > 1:
            order = np.argsort(slots)
            found = self._advance_all(slots[order], frames.values[order], frames.observed[order])
            return _put_back(found, order)
        return self._advance_all(slots, frames.values, frames.observed)

    def reset(self, slots: Ints) -> None:
        """Put the slots back to the initial state."""
        self.reserve(int(slots.max()) + 1 if len(slots) else 0)
        self._states[slots] = self._initial
        if self._text is not None:
            self._text.forget(slots)

    def save(self, slots: Ints) -> list[bytes]:
        """As TorchRunner's, so that either can continue from the other's."""
        parts = [self._states[slots]] if self._text is None else [self._states[slots], self._text.save(slots)]
        rows = np.concatenate(parts, axis=1).astype("<f4", copy=False)
        return [self._header + row.tobytes() for row in rows]

    def load(self, slot: int, state: bytes) -> None:
        """Restore one slot; raises StateError if the bytes are not a state of this very model."""
        self._reference.load(0, state)  # checks it
        self.reserve(slot + 1)
        row = np.frombuffer(state, "<f4", offset=len(self._header)).astype(np.float32)
        size = len(self._initial)
        self._states[slot] = row[:size]
        if self._text is not None:
            self._text.load(slot, row[size:])

    def _advance_all(self, slots: Ints, values: Floats, observed: Bools) -> StepResult:
        """Step machines whose texts have been taken up, some at a time."""
        count = len(slots)
        result = self._no_result(count)
        part = -(-count // -(-count // self._sensors.most_rows))
        for begin in range(0, count, part):
            rows = slice(begin, min(begin + part, count))
            scaled, clipped = result.scaled[rows], self._clipped[: rows.stop - begin]
            known = self._scale(values[rows], scaled)
            np.minimum(scaled, self._highest, out=clipped)
            np.maximum(clipped, self._lowest, out=clipped)
            sensed = self._sensors.advance(self._states, slots[rows], clipped, observed[rows], self._filling)
            told, read = _NOBODY, None
            if self._text is not None:
                told = self._text.told(slots[rows])
                if len(told):
                    read = self._text.read(slots[rows][told], self._filling)
            self._fuse(Found(sensed, known, told, read), self._filling, rows, result)
        return result

    def _no_result(self, count: int) -> StepResult:
        """Room for what is to be said about so many machines."""
        modalities, classes = len(self.modalities), self._number_of_classes
        return StepResult(
            probabilities=np.empty((count, classes), np.float32),
            modality_probabilities=np.empty((modalities, count, classes), np.float32),
            weights=np.empty((modalities, count), np.float32),
            present=np.empty((modalities, count), bool),
            scaled=np.empty((count, len(self._mean)), np.float32),
            attention=np.empty((count, modalities, modalities), np.float32) if self._fuse.attends else None,
        )

    def _scale(self, values: Floats, scaled: Floats) -> Bools | None:
        """Write the standard scores; the answer is which machines have any reading, or None if all have all."""
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(values, self._mean, scaled)
            np.divide(scaled, self._std, scaled)
        if np.logical_and.reduce(np.isfinite(scaled), None):
            return None
        np.nan_to_num(scaled, copy=False, nan=0.0)
        known: Bools = ~np.logical_and.reduce(np.isnan(values), 1)
        return known

    def _is_steady(self, filling: Filling) -> bool:
        """Try out, with the model's own weights, whether equal machines get equal bits in every place and width."""
        self._filling = filling
        rng = np.random.default_rng(0)
        reading = rng.standard_normal(len(self._mean), np.float32)
        state = self._sensors.example(rng, len(self._initial))
        widths = filling.widths(self._sensors.most_rows)
        states = np.empty((max(widths), len(state)), np.float32)
        text = None if self._text is None else self._text.example(filling)
        kept: list[Floats] = []
        expected: list[list[Floats]] = [[], []]
        # Widths that are full.
        for count in (width - filling.before - filling.after for width in widths):
            states[:count] = state
            readings, observed = np.tile(reading, (count, 1)), np.ones((count, len(reading)), bool)
            sensed = self._sensors.advance(states, np.arange(count), readings, observed, filling)
            if not _all_alike(kept, [states[:count]]):
                return False
            found = [Found(sensed, None, _NOBODY, None)]
            if text is not None:
                read = Read(*(np.repeat(part, count, 0) for part in text))
                found.append(Found(sensed, None, np.arange(count), read))
            for wanted, case in zip(expected, found, strict=False):
                result = self._no_result(count)
                self._fuse(case, filling, slice(0, count), result)
                blocks = [result.probabilities, result.modality_probabilities[0], result.weights.T]
                blocks += [] if result.attention is None else [result.attention]
                if not _all_alike(wanted, blocks):
                    return False
        return self._text is None or self._text.is_steady(filling)


def _put_back(found: StepResult, order: Ints) -> StepResult:
    """The result of a round whose rows had been taken in this order."""
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return StepResult(
        probabilities=found.probabilities[back],
        modality_probabilities=found.modality_probabilities[:, back],
        weights=found.weights[:, back],
        present=found.present[:, back],
        scaled=found.scaled[back],
        attention=None if found.attention is None else found.attention[back],
    )


def _all_alike(expected: list[Floats], found: list[Floats]) -> bool:
    """Whether all rows equal, bit for bit, the expected ones, which the first call sets."""
    if not expected:
        expected += [block[:1].copy() for block in found]
    return all((block == wanted).all() for block, wanted in zip(found, expected, strict=True))
