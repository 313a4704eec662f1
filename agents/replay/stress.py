"""Seeded disturbances of a recording, which show how much accuracy disorder costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.config.topics import EVENTS
from pipeline.errors import SettingsError
from pipeline.wire.messages import RejectedError, parse_time_ms
from pipeline.wire.records import Record

_EXAMPLE = "late=0.1:10m,drop=0.2,duplicate=0.05,shuffle=30s,skew=te-03:+5m,silence=te-04:2h,no-text"


@dataclass(frozen=True)
class Stress:
    """Disturbances of a recording; the defaults change nothing."""

    late_share: float = 0.0
    late_ms: int = 0
    drop_share: float = 0.0
    duplicate_share: float = 0.0
    shuffle_ms: int = 0
    skew_ms: tuple[tuple[str, int], ...] = ()
    silence_ms: tuple[tuple[str, int], ...] = ()
    no_text: bool = False


def parse_stress(text: str) -> Stress:
    """A stress from its text form; raises SettingsError that names the invalid part."""
    stress = Stress()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = part.partition("=")
        try:
            stress = _with(stress, name, value)
        except ValueError as error:
            raise SettingsError(f"--stress: {part!r} is invalid ({error}); example: {_EXAMPLE}") from None
    return stress


def _with(stress: Stress, name: str, value: str) -> Stress:
    if name == "no-text" and not value:
        return replace(stress, no_text=True)
    if name == "late":
        share, _, by = value.partition(":")
        return replace(stress, late_share=_share(share), late_ms=parse_duration_ms(by))
    if name == "drop":
        return replace(stress, drop_share=_share(value))
    if name == "duplicate":
        return replace(stress, duplicate_share=_share(value))
    if name == "shuffle":
        return replace(stress, shuffle_ms=parse_duration_ms(value))
    if name in ("skew", "silence"):
        match = re.fullmatch(r"(.+):([+-]?)(\w[\w.]*)", value)
        if match is None:
            raise ValueError("expected machine:duration")
        ms = parse_duration_ms(match[3]) * (-1 if match[2] == "-" else 1)
        if name == "skew":
            return replace(stress, skew_ms=(*stress.skew_ms, (match[1], ms)))
        return replace(stress, silence_ms=(*stress.silence_ms, (match[1], ms)))
    raise ValueError("unknown kind of stress")


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError("a share must be between 0 and 1")
    return share


def apply_stress(records: Iterable[Record], stress: Stress, rng: np.random.Generator) -> Iterator[Record]:
    """The records as they would have arrived, in their new order; labels and control records stay as they are.

    `late` and `shuffle` delay readings on their way, never their own times; `skew` changes the times that a machine
    writes; `silence` takes a machine's readings away for a stretch in the middle of the recording.
    """
    known = list(records)
    if not known:
        return
    stamps = [record.timestamp_ms for record in known]
    middle = (min(stamps) + max(stamps)) // 2
    silent = {machine.encode(): ms for machine, ms in stress.silence_ms}
    skewed = {machine.encode(): ms for machine, ms in stress.skew_ms}
    arriving: list[tuple[int, int, Record]] = []
    for number, record in enumerate(known):
        if record.topic == EVENTS and stress.no_text:
            continue
        if not record.topic.startswith("sensors"):
            arriving.append((record.timestamp_ms, number, record))
            continue
        # Every reading draws the same number of random values, so that kinds of stress are independent.
        drop, late, twice, jitter, again = rng.random(5).tolist()
        key = record.key or b""
        gone = abs(record.timestamp_ms - middle) * 2 < silent.get(key, 0)
        if gone or drop < stress.drop_share:
            continue
        if key in skewed:
            record = _skewed(record, skewed[key])
        delay = int(jitter * stress.shuffle_ms) + (stress.late_ms if late < stress.late_share else 0)
        for extra in [0, int(again * stress.shuffle_ms)] if twice < stress.duplicate_share else [0]:
            at = record.timestamp_ms + delay + extra
            arriving.append((at, number, record._replace(timestamp_ms=at)))
    arriving.sort(key=lambda entry: entry[:2])
    yield from (record for _, _, record in arriving)


def _skewed(record: Record, by_ms: int) -> Record:
    """The reading with its own time shifted; the record as it is if it cannot be read."""
    try:
        body = msgspec.json.decode(record.value or b"")
        time_ms = parse_time_ms(body["time"])
    except (msgspec.DecodeError, RejectedError, KeyError, TypeError):
        return record
    return record._replace(value=msgspec.json.encode(body | {"time": time_ms + by_ms}))
