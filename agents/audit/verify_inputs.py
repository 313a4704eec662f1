"""`faultline verify --inputs`: accounts for every reading that the workers have committed.

Each is in a frame that was stepped, or is in the late or the dead-letter topic with its topic, partition and offset.
It may also be in a frame that is still open (every source that holds frames back must have passed its end by more than
its disorder, before the frame counts as closed), in one whose diagnosis retention has deleted, or before a `start`,
where a lost or refused state let go what it held back.
A reading that came too late, or could not be used, for a frame that was stepped is not missed in the other two topics.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from agents.audit.dead_letters import shown_time
from agents.audit.log import Log
from agents.audit.verify import Verifier, where
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import DEAD_LETTER, LATE
from pipeline.wire import messages
from pipeline.wire.letters import origin_of
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Place, Record


class _ReadingHead(msgspec.Struct, gc=False):
    machine: str
    time: int | str


_decode_reading = msgspec.json.Decoder(_ReadingHead).decode


def verify_inputs(
    log: Log, profile: PlantProfile, verifier: Verifier, committed: Mapping[tuple[str, int], int]
) -> None:
    """Account for every reading, and add what is found to the verifier's report.

    `committed` gives, by topic and partition, up to where the workers have committed. It must be older than the log,
    so that it contains what led to a commit.
    """
    report = verifier.report
    late, dead = _origins(log, LATE), _origins(log, DEAD_LETTER)
    counts = Counter[str]()
    newest: dict[str, dict[str, int]] = {}  # machine -> topic -> newest time
    unseen: dict[str, tuple[array[int], list[Place]]] = {}
    for record in log.records(*profile.sensor_topics):
        place = Place(*record[:3])
        counts["read"] += 1
        if _is_among(dead, place):
            counts["dead_letter"] += 1
            continue
        if place.offset >= committed.get((place.topic, place.partition), 0):
            counts["not_committed"] += 1
            continue
        found = _frame_of(record, profile)
        if found is None:
            text = f"{place.topic}, {where(record)} cannot be used, but is not in the dead-letter topic"
            report.problem("unaccounted", text)
            continue
        machine, time_ms, end_ms = found
        times = newest.setdefault(machine, {})
        times[place.topic] = max(times.get(place.topic, -1), time_ms)
        if _is_among(late, place):
            counts["late"] += 1
        elif verifier.is_stepped(machine, end_ms):
            counts["diagnosed"] += 1
        elif verifier.is_cut(machine) and verifier.is_before_all(machine, end_ms):
            counts["diagnosis_deleted"] += 1
        elif verifier.is_let_go(machine, end_ms):
            counts["let_go_at_start"] += 1
        else:
            ends, places = unseen.setdefault(machine, (array("q"), []))
            ends.append(end_ms)
            places.append(place)
    for machine, (ends, places) in unseen.items():
        kind = profile.type_of(machine)
        assert kind is not None
        closed = _surely_closed_ms(kind, newest[machine])
        for end_ms, place in zip(ends, places, strict=True):
            if end_ms > closed:
                counts["frame_open"] += 1
                continue
            text = f"{place.topic}, partition {place.partition}, offset {place.offset}: a reading of {machine} for the "
            text += f"frame that ends at {end_ms} ({shown_time(end_ms)}), which closed but was never diagnosed"
            report.problem("unaccounted", text)
    report.readings = dict(counts)


def _origins(log: Log, topic: str) -> dict[tuple[str, int], array[int]]:
    """Where the records of the late or the dead-letter topic came from: sorted offsets by topic and partition."""
    found: dict[tuple[str, int], array[int]] = {}
    for record in log.records(topic):
        origin = origin_of(record.headers)
        if origin is not None:
            found.setdefault(origin.place[:2], array("q")).append(origin.place.offset)
    return {at: array("q", sorted(offsets)) for at, offsets in found.items()}


def _is_among(origins: Mapping[tuple[str, int], array[int]], place: Place) -> bool:
    offsets = origins.get(place[:2])
    if offsets is None:
        return False
    at = bisect_left(offsets, place.offset)
    return at < len(offsets) and offsets[at] == place.offset


def _frame_of(record: Record, profile: PlantProfile) -> tuple[str, int, int] | None:
    """Machine, time and frame end of a reading; None if it cannot be used."""
    try:
        head = _decode_reading(record.value or b"")
        time_ms = messages.parse_time_ms(head.time)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RejectedError):
        return None
    kind = profile.type_of(head.machine)
    if kind is None:
        return None
    period = kind.frame_period_ms
    return head.machine, time_ms, (time_ms // period + 1) * period


def _surely_closed_ms(kind: MachineType, newest: Mapping[str, int]) -> int:
    """Up to where a machine's frames have closed, whichever sources are idle; negative if one has no readings."""
    marks: Iterator[int] = (
        newest[source.topic] - source.allowed_disorder_ms if source.topic in newest else -1
        for source in kind.sources.values()
        if source.holds_frames
    )
    return min(marks) // kind.frame_period_ms * kind.frame_period_ms
