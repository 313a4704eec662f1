"""Texts that wait for a frame to close, and the ids by which repeated and revised texts are recognised."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from pipeline.alignment.batches import Aligned, ArrivedText
from pipeline.frames import EventText, Frames
from pipeline.wire.records import Record

MAX_WAITING_TEXTS = 64
"""Texts that one machine may hold for frames to come; the oldest gives way."""

MAX_SEEN_TEXTS = 1_024
"""Text ids of one machine that are remembered, so that each text counts once; beyond that the oldest is forgotten."""

MAX_VERSIONS = 8
"""Contents of one text id that are remembered; beyond that the oldest is forgotten."""

_DIGEST_BYTES = 8


_Headers = list[tuple[str, bytes]]
_SavedRecord = tuple[str, int, int, int, bytes | None, bytes | None, _Headers]
_Saved = tuple[int, str, int, str, str | None, str | None, bool, _SavedRecord]
"""A text as it is saved, behind the first frame that may take it."""


class WaitingTexts:
    """The texts of all machines of one type, by slot."""

    def __init__(self, period_ms: int, ttl_ms: int) -> None:
        self._period_ms = period_ms
        self._ttl_ms = ttl_ms
        self._waiting: dict[int, list[tuple[int, EventText]]] = {}  # slot -> [(first frame that may take it, text)]
        self._seen: dict[int, dict[str, int]] = {}  # slot -> id -> time
        self._versions: dict[int, dict[str, bytes]] = {}  # slot -> id -> digests of its contents, oldest first

    def add(self, arrived: ArrivedText, closed_ms: int, result: Aligned) -> None:
        """Let a text wait for the first frame that may take it: its own, or the next if that has closed.

        A text whose id has come before is a duplicate if its content has, too; else it is a revision, and replaces
        the earlier text if no frame may have taken that yet.
        """
        slot, text = arrived.slot, arrived.text
        seen, versions = self._seen.setdefault(slot, {}), self._versions.setdefault(slot, {})
        digest = _digest(text.text)
        if text.id in seen:
            if _has(versions.get(text.id, b""), digest):
                result.duplicate_texts.append(arrived)
                return
            result.revised_texts += 1
            self._withdraw(slot, text.id, closed_ms)
        for old in [id_ for id_, time_ms in seen.items() if time_ms < text.time_ms - self._ttl_ms]:
            _forget(old, seen, versions)
        seen[text.id] = text.time_ms
        versions[text.id] = (versions.get(text.id, b"") + digest)[-MAX_VERSIONS * _DIGEST_BYTES :]
        if len(seen) > MAX_SEEN_TEXTS:
            _forget(next(iter(seen)), seen, versions)
        own = text.time_ms // self._period_ms * self._period_ms
        if own + self._period_ms <= closed_ms:
            text = replace(text, late=True)
        waiting = self._waiting.setdefault(slot, [])
        waiting.append((max(own, closed_ms), text))
        waiting.sort(key=lambda entry: (entry[1].time_ms, entry[1].id))
        # Texts of earlier frames are on their way into these, and are still here only because the batch is not closed.
        still_open = [entry for entry in waiting if entry[0] >= closed_ms]
        if len(still_open) > MAX_WAITING_TEXTS:
            waiting.remove(still_open[0])
            result.expired_texts.append((slot, still_open[0][1]))

    def _withdraw(self, slot: int, id_: str, closed_ms: int) -> None:
        """Remove the texts of this id whose first frame is still open.

        Only by that, and not by whether a text still waits, does it not matter how the input is cut into batches.
        """
        waiting = self._waiting.get(slot, [])
        waiting[:] = [entry for entry in waiting if entry[1].id != id_ or entry[0] < closed_ms]

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
        seen, versions = self._seen.get(slot, {}), self._versions.get(slot, {})
        digests = [versions.get(id_, b"") for id_ in seen]
        return {"texts": waiting, "seen_texts": seen, "text_versions": digests}

    def load(self, slot: int, waiting: object, seen: object, digests: object) -> None:
        """Put back what `save` gave; an earlier release did not save `digests`. Raises msgspec.ValidationError."""
        texts = msgspec.convert(waiting, list[_Saved])
        seen, digests = msgspec.convert(seen, dict[str, int]), msgspec.convert(digests, list[bytes])
        if texts:
            self._waiting[slot] = [(first_frame, _text_from(saved)) for first_frame, *saved in texts]
        if seen:
            self._seen[slot] = seen
            versions = {text.id: _digest(text.text) for _, text in self._waiting.get(slot, [])}
            versions.update((id_, own) for id_, own in zip(seen, digests, strict=False) if own)
            self._versions[slot] = versions

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._waiting.pop(slot, None)
        self._seen.pop(slot, None)
        self._versions.pop(slot, None)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=_DIGEST_BYTES).digest()


def _has(digests: bytes, digest: bytes) -> bool:
    """Whether a content has come before; of an id without digests, which an earlier version saved, any has."""
    starts = range(0, len(digests), _DIGEST_BYTES)
    return not digests or any(digests.startswith(digest, start) for start in starts)


def _forget(id_: str, seen: dict[str, int], versions: dict[str, bytes]) -> None:
    del seen[id_]
    versions.pop(id_, None)


def _text_from(saved: list[Any]) -> EventText:
    id_, time_ms, text, source, severity, late, record = saved
    topic, partition, offset, timestamp_ms, key, value, headers = record
    pairs = tuple((name, content) for name, content in headers)
    return EventText(
        id_, time_ms, text, source, severity, late, Record(topic, partition, offset, timestamp_ms, key, value, pairs)
    )
