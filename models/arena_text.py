"""The texts of the machines in an arena: each slot's ring of text vectors, and what it says, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from models.configs.text import EMPTY
from models.layers import LEAST_ROWS
from models.numpy_parts import Filling, Read, TextReader, TextRoom, array
from models.ring import TextModality
from pipeline.frames import Floats, Frames, Ints

MOST_TEXT_ROWS: Final = 64
"""Rings read at a time."""


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


class TextRings:
    """Each slot's newest texts with their ages, as `models.ring` keeps them."""

    def __init__(self, text: TextModality, temperature: float, ttl: int) -> None:
        self._reader, self._vectors = TextReader(text, temperature), TextVectors(text)
        self._ttl, self._classes = ttl, self._reader.head.classes
        self._rings = np.zeros((0, self._reader.places, self._reader.size), np.float32)
        self._ages = np.zeros((0, self._reader.places), np.float32)
        self._told = np.zeros(0, bool)
        """Slots that have a text in their ring."""
        self._rooms: dict[int, TextRoom] = {}

    @property
    def size(self) -> int:
        """Numbers that a slot's texts have in a saved state."""
        return self._reader.places * (self._reader.size + 1)

    def reserve(self, capacity: int) -> None:
        """Make room for exactly so many slots, which are more than before; new ones have no texts."""
        before, rings, ages, told = len(self._told), self._rings, self._ages, self._told
        self._rings = np.zeros((capacity, *rings.shape[1:]), np.float32)
        self._ages = np.full((capacity, *ages.shape[1:]), EMPTY, np.float32)
        self._told = np.zeros(capacity, bool)
        self._rings[:before], self._ages[:before], self._told[:before] = rings, ages, told

    def forget(self, slots: Ints) -> None:
        """Take these slots' texts away."""
        self._rings[slots], self._ages[slots], self._told[slots] = 0, EMPTY, False

    def save(self, slots: Ints) -> Floats:
        """These slots' texts, one row each."""
        return np.concatenate([self._rings[slots].reshape(len(slots), -1), self._ages[slots]], axis=1)

    def load(self, slot: int, row: Floats) -> None:
        """Restore one slot from such a row."""
        ring, ages = self._rings[slot], self._ages[slot]
        ring[:], ages[:] = row[: ring.size].reshape(ring.shape), row[ring.size :]
        self._told[slot] = bool((ages >= 0).any())

    def told(self, slots: Ints) -> Ints:
        """Which of these slots have any text."""
        which: Ints = self._told[slots].nonzero()[0]
        return which

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Encode the texts of all these rounds together."""
        self._vectors.prepare(rounds)

    def turn(self, slots: Ints) -> None:
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

    def take_up(self, frames: Frames) -> None:
        """Put the round's texts into the rings; each keeps its youngest, and of equals the later one counts as such."""
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

    def read(self, slots: Ints, filling: Filling) -> Read:
        """What the texts of these slots say; each slot has at least one."""
        answers = np.empty((len(slots), self._classes), np.float32)
        features = np.empty((len(slots), self._reader.features), np.float32)
        for begin in range(0, len(slots), MOST_TEXT_ROWS):
            part = slots[begin : begin + MOST_TEXT_ROWS]
            room, here = self._room(filling.width(len(part))), filling.place(len(part))
            room.ring[:, here] = self._rings[part].transpose(1, 0, 2)
            room.age[:, here] = self._ages[part].T
            room.step()
            answers[begin : begin + len(part)] = room.answer[:, here].T
            features[begin : begin + len(part)] = room.features[:, here].T
        return Read(answers, features)

    def example(self, filling: Filling) -> Read:
        """What one invented ring says."""
        room, at = self._example_room(filling.width(1)), filling.place(1)
        return Read(room.answer[:, at].T.copy(), room.features[:, at].T.copy())

    def is_steady(self, filling: Filling) -> bool:
        """Whether equal rings are read alike to the bit in every place of every width."""
        expected = np.concatenate(self.example(filling), axis=1).T
        for width in filling.widths(MOST_TEXT_ROWS):
            room = self._example_room(width)
            found = np.concatenate([room.answer, room.features])[:, filling.before : width - filling.after]
            if not (found == expected).all():
                return False
        return True

    def _example_room(self, columns: int) -> TextRoom:
        """A room that has read the same invented ring in every column."""
        room, reader = self._room(columns), self._reader
        ring = np.random.default_rng(0).uniform(-1, 1, (reader.places, 1, reader.size))
        room.ring[:], room.age[:] = ring, np.linspace(1.5, EMPTY, reader.places, dtype=np.float32)[:, None]
        room.step()
        return room

    def _room(self, columns: int) -> TextRoom:
        room = self._rooms.get(columns)
        if room is None:
            room = self._rooms[columns] = self._reader.room(columns)
        return room
