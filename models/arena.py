"""ArenaRunner: states, event ring and late fusion in numpy, for any way to step the sensor encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from models.diagnoser import Diagnoser
from models.fusion import LateFusion
from models.layers import LEAST_ROWS
from models.numpy_parts import Filling, Fusion, TextReader, TextRoom, array
from models.ring import EMPTY, TextModality
from models.runner import TorchRunner
from pipeline.frames import Bools, Floats, Frames, Ints, StepResult

MOST_ROWS: Final = 256
"""Machines computed at a time; what they need fits into a core's own cache."""

MOST_TEXT_ROWS: Final = 64
"""Rings read at a time."""

FILLINGS: Final = (Filling(2, 0, 0), Filling(4, 0, 0), Filling(8, 0, 0), Filling(16, 0, 0), Filling(24, 8, 8))
"""Ways to fill up a round, cheapest first; which one keeps a machine's bits apart from its company is tried out."""

_NOBODY = np.zeros(0, np.int64)


def unsupported_fusion(network: Diagnoser) -> str | None:
    """The network's fusion, in words, if it is not one that this module can compute."""
    return None if isinstance(network.fusion, LateFusion) else f"fusion {network.config.fusion.kind}"


class TextVectors:
    """The vectors of the texts of the rounds at hand, encoded by torch once for each text."""

    def __init__(self, text: TextModality) -> None:
        self._text = text
        self._encoded: dict[str, Floats] = {}

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Encode the texts of all these rounds together, and forget those of earlier rounds."""
        self._encoded = self._encode([text.text for frames in rounds for _, text in frames.texts])

    def of(self, frames: Frames) -> list[Floats]:
        """The vector of each of the round's texts."""
        said = [text.text for _, text in frames.texts]
        known = self._encoded if all(text in self._encoded for text in said) else self._encode(said)
        return [known[text] for text in said]

    def _encode(self, texts: Sequence[str]) -> dict[str, Floats]:
        """In batches of equal length and at least `LEAST_ROWS`, so that a text's company cannot matter."""
        by_length: dict[int, list[str]] = {}
        for text in dict.fromkeys(texts):
            by_length.setdefault(len(self._text.tokenizer.split(text)), []).append(text)
        encoded: dict[str, Floats] = {}
        with torch.inference_mode():
            for group in by_length.values():
                filled = group + group[:1] * (LEAST_ROWS - len(group))
                encoded |= zip(group, array(self._text.encode(filled)), strict=False)
        return encoded


class ArenaRunner(ABC):
    """Implements `pipeline.frames.StepRunner`, but for the sensor encoder, with event ring and late fusion in numpy.

    It gives what TorchRunner gives, within float32's rounding, and reads and writes the same states.
    """

    def __init__(self, network: Diagnoser, *, name: str, digest: str, classes: tuple[str, ...]) -> None:
        """`digest` is the model's hexadecimal SHA-256. The subclass is ready to step when this is called."""
        late = network.fusion
        if not isinstance(late, LateFusion):
            raise ValueError(f"this backend does not know {unsupported_fusion(network)}")
        self._reference = TorchRunner(network, name=name, digest=digest, classes=classes)
        self._reference.reserve(1)
        temperatures = array(late.temperatures).tolist()
        self._fusion = Fusion(late)
        self._mean, self._std = array(network.mean), array(network.std)
        clip = network.config.clip
        self._lowest, self._highest = np.full((), -clip, np.float32), np.full((), clip, np.float32)
        self._ttl = network.config.text_ttl_frames
        self._text, self._vectors = None, None
        places = size = 0
        if network.text is not None:
            self._text, self._vectors = TextReader(network.text, temperatures[1]), TextVectors(network.text)
            places, size = self._text.places, self._text.size

        saved = self._reference.save(np.array([0]))[0]
        state_size = sum(part.numel() for part in network.sensors.init_state(1).values())
        self._header = saved[: len(saved) - 4 * (state_size + places * (size + 1))]
        self._initial = np.frombuffer(saved, "<f4", offset=len(self._header)).astype(np.float32)
        self._states = np.zeros((0, state_size), np.float32)
        self._rings = np.zeros((0, places, size), np.float32)
        self._ages = np.zeros((0, places), np.float32)
        self._told = np.zeros(0, bool)
        """Slots that have a text in their ring."""

        self._gathered = np.zeros((MOST_ROWS, state_size), np.float32)
        self._clipped = np.zeros((MOST_ROWS, len(self._mean)), np.float32)
        self._text_rooms: dict[int, TextRoom] = {}
        self._filling = FILLINGS[-1]
        self.steady = any(self._is_steady(filling) for filling in FILLINGS)
        """Whether a machine's bits are, on this processor, the same whatever other machines are in its round."""

    @abstractmethod
    def _advance_sensors(self, readings: Floats, observed: Bools, states: Floats) -> Floats:
        """Advance some machines by one frame: readings (count, V), clipped, 0 where unknown, and observed (count, V).

        `states` (count, S) holds their states as they are saved and is overwritten with those after the frame. The
        sensors' calibrated probabilities (count, C) are returned; the next call may overwrite them.
        """

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
        state, ring, age = self._split(self._initial)
        self._states = _grown(self._states, capacity, state)
        self._rings = _grown(self._rings, capacity, ring)
        self._ages = _grown(self._ages, capacity, age)
        self._told = np.concatenate([self._told, np.zeros(capacity - len(self._told), bool)])

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Encode the texts of all these rounds in one batch; one by one would cost several times as much."""
        if self._vectors is not None:
            self._vectors.prepare(rounds)

    def step(self, frames: Frames) -> StepResult:
        """Advance each machine of the round by one frame; a slot may stand in a round only once."""
        slots = frames.slots
        listed = slots.tolist()
        count = len(listed)
        if not count:
            raise ValueError("a round needs at least one machine")
        if len(set(listed)) < count:
            raise ValueError("a slot stands in this round twice; give it one frame a round")
        self.reserve(max(listed) + 1)
        if np.count_nonzero(frames.reset):
            self.reset(slots[frames.reset])
        if self._text is not None:
            self._turn_rings(slots)
            if frames.texts:
                self._take_up(frames)

        modalities, classes, variables = len(self.modalities), len(self._fusion.prior), len(self._mean)
        result = StepResult(
            probabilities=np.empty((count, classes), np.float32),
            modality_probabilities=np.empty((modalities, count, classes), np.float32),
            weights=np.empty((modalities, count), np.float32),
            present=np.empty((modalities, count), bool),
            scaled=np.empty((count, variables), np.float32),
        )
        part = -(-count // -(-count // MOST_ROWS))
        for begin in range(0, count, part):
            self._advance(frames, slice(begin, min(begin + part, count)), result)
        return result

    def reset(self, slots: Ints) -> None:
        """Put the slots back to the initial state."""
        self.reserve(int(slots.max()) + 1 if len(slots) else 0)
        self._states[slots], self._rings[slots], self._ages[slots] = self._split(self._initial)
        self._told[slots] = False

    def save(self, slots: Ints) -> list[bytes]:
        """As TorchRunner's, so that either can continue from the other's."""
        count = len(slots)
        rings = self._rings[slots].reshape(count, self._rings[0].size if len(self._rings) else 0)
        rows = np.concatenate([self._states[slots], rings, self._ages[slots]], axis=1).astype("<f4", copy=False)
        return [self._header + row.tobytes() for row in rows]

    def load(self, slot: int, state: bytes) -> None:
        """Restore one slot; raises StateError if the bytes are not a state of this very model."""
        self._reference.load(0, state)  # checks it
        self.reserve(slot + 1)
        row = np.frombuffer(state, "<f4", offset=len(self._header)).astype(np.float32)
        self._states[slot], self._rings[slot], self._ages[slot] = self._split(row)
        self._told[slot] = bool((self._ages[slot] >= 0).any())

    def _split(self, row: Floats) -> tuple[Floats, Floats, Floats]:
        """A state as one row of numbers: the sensor network's part, ring and ages."""
        size, places = self._states.shape[1], self._ages.shape[1]
        return row[:size], row[size : len(row) - places].reshape(self._rings.shape[1:]), row[len(row) - places :]

    def _advance(self, frames: Frames, rows: slice, result: StepResult) -> None:
        """Step some of the round's rows and write what is said about them."""
        slots = frames.slots[rows]
        count = len(slots)
        scaled, clipped, states = result.scaled[rows], self._clipped[:count], self._gathered[:count]
        known = self._scale(frames.values[rows], scaled)
        np.minimum(scaled, self._highest, out=clipped)
        np.maximum(clipped, self._lowest, out=clipped)
        self._states.take(slots, 0, states, "clip")
        answer = self._advance_sensors(clipped, frames.observed[rows], states)
        self._states[slots] = states

        told = _NOBODY if self._text is None else self._told[slots].nonzero()[0]
        if known is None and self._fusion.passes and not len(told):
            result.probabilities[rows] = result.modality_probabilities[0, rows] = answer
            result.weights[0, rows], result.present[0, rows] = 1, True
            if self._text is not None:
                result.modality_probabilities[1, rows] = self._fusion.prior
                result.weights[1, rows], result.present[1, rows] = 0, False
            return
        self._fuse(answer, known, slots, told, rows, result)

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

    def _fuse(
        self, answer: Floats, known: Bools | None, slots: Ints, told: Ints, rows: slice, result: StepResult
    ) -> None:
        """Mix the modalities of rows that are not all plain: `answer` (count, C) is what the sensors say."""
        prior = self._fusion.prior
        count, classes = answer.shape
        known = np.ones(count, bool) if known is None else known
        said = result.modality_probabilities[:, rows]
        weights, present = result.weights[:, rows], result.present[:, rows]
        said[0] = np.where(known[:, None], answer, prior)
        said[1:] = prior
        present[0], present[1:] = known, False
        present[1:, told] = True
        if len(told):
            said[1, told] = self._read_rings(slots[told])
        # What only one modality says passes through, so only the others have to be mixed.
        result.probabilities[rows], weights[:] = said[0], present
        mixed = told if self._fusion.passes else np.arange(count)
        if not len(mixed):
            return
        here = self._filling.place(len(mixed))
        columns = np.full(self._filling.width(len(mixed)), mixed[0])
        columns[here] = mixed
        probabilities, shares = self._fusion(said.transpose(0, 2, 1)[:, :, columns], present[:, columns])
        result.probabilities[rows][mixed] = probabilities[:, here].T
        weights[:, mixed] = shares[:, here]

    def _turn_rings(self, slots: Ints) -> None:
        """One frame passes for these slots: their texts grow older, and too old ones are dropped."""
        turned = slots[self._told[slots]]
        if not len(turned):
            return
        age = self._ages[turned]
        age[age >= 0] += 1
        rows, places = (age > self._ttl).nonzero()
        if len(rows):
            age[rows, places] = EMPTY
            self._rings[turned[rows], places] = 0
            self._told[turned] = (age >= 0).any(axis=1)
        self._ages[turned] = age

    def _take_up(self, frames: Frames) -> None:
        """Put the round's texts into the rings; each keeps its youngest, and of equals the later one counts as such."""
        assert self._vectors is not None
        by_row: dict[int, list[tuple[Floats, float]]] = {}
        for (row, text), vector in zip(frames.texts, self._vectors.of(frames), strict=True):
            age = max((int(frames.start_ms[row]) + frames.period_ms - text.time_ms) / frames.period_ms, 0.0)
            if np.float32(age) <= self._ttl:
                by_row.setdefault(row, []).insert(0, (vector, age))
        for row, fresh in by_row.items():
            slot = frames.slots[row]
            ring, ages = self._rings[slot], self._ages[slot]
            alive = ages >= 0
            all_ages = np.concatenate([np.array([age for _, age in fresh], np.float32), ages[alive]])
            all_vectors = np.concatenate([np.stack([vector for vector, _ in fresh]), ring[alive]])
            kept = np.argsort(all_ages, kind="stable")[: len(ages)]
            ring[:], ages[:] = 0, EMPTY
            ring[: len(kept)], ages[: len(kept)] = all_vectors[kept], all_ages[kept]
            self._told[slot] = True

    def _read_rings(self, slots: Ints) -> Floats:
        """What the texts of these slots say, (K, C); each slot has at least one."""
        answers = np.empty((len(slots), len(self._fusion.prior)), np.float32)
        for begin in range(0, len(slots), MOST_TEXT_ROWS):
            part = slots[begin : begin + MOST_TEXT_ROWS]
            room = self._text_room(self._filling.width(len(part)))
            here = self._filling.place(len(part))
            room.ring[:, here] = self._rings[part].transpose(1, 0, 2)
            room.age[:, here] = self._ages[part].T
            room.step()
            answers[begin : begin + len(part)] = room.answer[:, here].T
        return answers

    def _text_room(self, columns: int) -> TextRoom:
        assert self._text is not None
        room = self._text_rooms.get(columns)
        if room is None:
            room = self._text_rooms[columns] = self._text.room(columns)
        return room

    def _is_steady(self, filling: Filling) -> bool:
        """Try out, with the model's own weights, whether equal machines get equal bits in every place and width."""
        self._filling = filling
        rng = np.random.default_rng(0)
        reading = rng.standard_normal(len(self._mean), np.float32)
        state = rng.uniform(-1, 1, self._states.shape[1]).astype(np.float32)
        # What is left of each width when it is full.
        counts = [width - filling.before - filling.after for width in filling.widths(MOST_ROWS)]
        expected: list[Floats] = []
        for count in counts:
            states = np.tile(state, (count, 1))
            answer = self._advance_sensors(np.tile(reading, (count, 1)), np.ones((count, len(reading)), bool), states)
            if not _all_alike(expected, [answer, states]):
                return False
        if self._text is None:
            return True
        ring = rng.uniform(-1, 1, (self._text.places, 1, self._text.size)).astype(np.float32)
        age = np.linspace(1.5, EMPTY, self._text.places, dtype=np.float32)[:, None]
        expected = []
        for width in filling.widths(MOST_TEXT_ROWS):
            room = self._text_room(width)
            room.ring[:], room.age[:] = ring, age
            room.step()
            if not _all_alike(expected, [room.answer[:, filling.before : width - filling.after].T]):
                return False
        expected = []
        answers = rng.dirichlet(np.ones(len(self._fusion.prior)), 2).astype(np.float32)[:, :, None]
        for width in filling.widths(MOST_ROWS):
            mixed, _ = self._fusion(np.repeat(answers, width, axis=2), np.ones((2, width), bool))
            if not _all_alike(expected, [mixed[:, filling.before : width - filling.after].T]):
                return False
        return True


def _grown(rows: Floats, capacity: int, initial: Floats) -> Floats:
    """The rows, and after them as many initial ones as fit.

    Concatenating with a broadcast row would store the result column by column, and every gathering copy it whole.
    """
    grown = np.empty((capacity, *initial.shape), np.float32)
    grown[: len(rows)], grown[len(rows) :] = rows, initial
    return grown


def _all_alike(expected: list[Floats], found: list[Floats]) -> bool:
    """Whether all rows equal, bit for bit, the expected ones, which the first call sets."""
    if not expected:
        expected += [block[:1].copy() for block in found]
    return all((block == wanted).all() for block, wanted in zip(found, expected, strict=True))
