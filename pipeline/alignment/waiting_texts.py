"""Texts that wait for a frame to close, and the ids by which a repeated text is recognised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.alignment.batches import Aligned, ArrivedText
from pipeline.frames import EventText, Frames
from pipeline.wire.records import Record

MAX_WAITING_TEXTS = 64
"""Texts that one machine may hold for frames to come; the oldest gives way."""

MAX_SEEN_TEXTS = 1_024
"""Text ids of one machine that are remembered, so that each text counts once; beyond that the oldest is forgotten."""


class WaitingTexts:
    """The texts of all machines of one type, by slot."""

    def __init__(self, period_ms: int, ttl_ms: int) -> None:
        self._period_ms = period_ms
        self._ttl_ms = ttl_ms
        self._waiting: dict[int, list[tuple[int, EventText]]] = {}  # slot -> [(first frame that may take it, text)]
        self._seen: dict[int, dict[str, int]] = {}  # slot -> id -> time

    def add(self, arrived: ArrivedText, closed_ms: int, result: Aligned) -> None:
        """Let a text wait for the first frame that may take it: its own, or the next if that has closed."""
        slot, text = arrived.slot, arrived.text
        seen = self._seen.setdefault(slot, {})
        if text.id in seen:
            result.duplicate_texts.append(arrived)
            return
        for old in [id_ for id_, time_ms in seen.items() if time_ms < text.time_ms - self._ttl_ms]:
            del seen[old]
        seen[text.id] = text.time_ms
        if len(seen) > MAX_SEEN_TEXTS:
            del seen[next(iter(seen))]
        own = text.time_ms // self._period_ms * self._period_ms
        if own + self._period_ms <= closed_ms:
            text = replace(text, late=True)
        waiting = self._waiting.setdefault(slot, [])
        waiting.append((max(own, closed_ms), text))
        waiting.sort(key=lambda entry: (entry[1].time_ms, entry[1].id))
        if len(waiting) > MAX_WAITING_TEXTS:
            result.expired_texts.append((slot, waiting.pop(0)[1]))

    def join(self, frames: Frames, result: Aligned) -> None:
        """Move texts into the frames that take them; those that are too old by then expire."""
        if not self._waiting:
            return
        holders = np.fromiter(self._waiting, np.int64, len(self._waiting))
        for row in np.flatnonzero(np.isin(frames.slots, holders)).tolist():
            slot, start_ms = int(frames.slots[row]), int(frames.start_ms[row])
            stay = []
            for first_frame, text in self._waiting[slot]:
                if first_frame > start_ms:
                    stay.append((first_frame, text))
                elif start_ms + self._period_ms - text.time_ms > self._ttl_ms:
                    result.expired_texts.append((slot, text))
                else:
                    frames.texts.append((row, text))
            if stay:
                self._waiting[slot] = stay
            else:
                del self._waiting[slot]

    def save(self, slot: int) -> dict[str, object]:
        """A machine's texts and ids as plain values."""
        waiting = [
            [first_frame, t.id, t.time_ms, t.text, t.source, t.severity, t.late, t.record]
            for first_frame, t in self._waiting.get(slot, [])
        ]
        return {"texts": waiting, "seen_texts": self._seen.get(slot, {})}

    def load(self, slot: int, waiting: list[Any], seen: dict[str, int]) -> None:
        """Put back what `save` gave."""
        if waiting:
            self._waiting[slot] = [(first_frame, _text_from(saved)) for first_frame, *saved in waiting]
        if seen:
            self._seen[slot] = dict(seen)

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._waiting.pop(slot, None)
        self._seen.pop(slot, None)


def _text_from(saved: list[Any]) -> EventText:
    id_, time_ms, text, source, severity, late, record = saved
    topic, partition, offset, timestamp_ms, key, value, headers = record
    pairs = tuple((name, content) for name, content in headers)
    return EventText(
        id_, time_ms, text, source, severity, late, Record(topic, partition, offset, timestamp_ms, key, value, pairs)
    )
