"""The measures of `faultline bench stream`: rates, latencies, equality of answers, and the report of all rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from agents.bench.arena import FAULTLINE, PERIOD_MS, Vectors, answer
from pipeline.errors import DataError
from pipeline.wire.messages import LAST_DECIMAL, MIN_PROBABILITY

PER_SECOND = 1_000.0
SETTLE_SECONDS = 3.0
PATIENCE_SECONDS = 3.0
_WARM_UP_SHARE = 0.1

Milliseconds = np.ndarray[Any, np.dtype[np.float64]]


def difference(vectors: Vectors, reference: Vectors, wanted: set[tuple[str, int]]) -> str | None:
    """How the answers about the wanted readings differ from the reference, or None."""
    if missing := wanted - vectors.keys():
        return f"{len(missing)} readings have no answer, such as {min(missing)}"
    if twice := [place for place in wanted if len(vectors[place]) != 1]:
        return f"{len(twice)} readings have several answers, such as {min(twice)}"
    for place in sorted(wanted):
        one, other = np.array(vectors[place][0]), np.array(reference[place][0])
        allowed = np.where((one == 0) | (other == 0), MIN_PROBABILITY, 1.5 * LAST_DECIMAL)
        if (np.abs(one - other) > allowed).any():
            return f"other probabilities for {place}: {vectors[place][0]} instead of {reference[place][0]}"
    return None


class Sample(NamedTuple):
    """How many answers there were at a time, and how much processor time the candidate had used."""

    at: float
    answers: int
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Pace:
    """Answers per second, the longest pause between two, and the processor time of one."""

    per_second: float
    longest_pause_ms: float
    cpu_microseconds: float | None


def pace(samples: Sequence[Sample], readings: int) -> Pace:
    """The pace from counts of answers over time; the first tenth is warm-up."""
    warm = min(readings, max(samples[0].answers, int(_WARM_UP_SHARE * min(readings, samples[-1].answers))))
    measured = [sample for sample in samples if sample.answers >= warm]
    first, last = measured[0], measured[-1]
    answers = last.answers - first.answers
    if not answers:
        raise DataError(f"{readings:,} readings are too few to measure; use more (--readings)")
    grew = [first.at, *(later.at for earlier, later in pairwise(measured) if later.answers > earlier.answers)]
    pauses = [later - earlier for earlier, later in pairwise(grew)]
    cpu = None
    if first.cpu_seconds is not None and last.cpu_seconds is not None:
        cpu = 1e6 * (last.cpu_seconds - first.cpu_seconds) / answers
    return Pace(answers / (last.at - first.at), 1000 * max(pauses), cpu)


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the reading that causes an answer, and from the reading that the answer is about."""

    caused: Milliseconds
    own: Milliseconds


def latency(
    candidate: str,
    heard: Sequence[tuple[int, bytes]],
    sent: Sequence[int],
    machines: Sequence[str],
    *,
    begin_ms: int,
    seconds: float,
) -> Latency:
    """Latencies of all readings that were sent within `seconds` after the candidate had settled.

    A rival answers per reading. Faultline answers per frame, when the machine's next reading closes it; that reading
    causes the answer. A reading that was not answered in
    time counts as answered when the listening ended.
    """
    places = {name: number for number, name in enumerate(machines)}
    later = len(machines) if candidate == FAULTLINE else 0
    since = heard[0][0] + int(SETTLE_SECONDS * 1e9)
    until = since + int(seconds * 1e9)
    came: dict[int, int] = {}
    for at, value in heard:
        machine, time_ms, _ = answer(candidate, value)
        came.setdefault((time_ms - begin_ms) // PERIOD_MS * len(machines) + places[machine], at)
    end = until + int(PATIENCE_SECONDS * 1e9)
    caused, own = [], []
    for cause, at in enumerate(sent):
        if since <= at < until and cause >= later:
            arrived = came.get(cause - later, end)
            caused.append((arrived - at) / 1e6)
            own.append((arrived - sent[cause - later]) / 1e6)
    if not caused:
        raise DataError(f"no reading was sent in the {seconds:g} s in which the latency of {candidate} was measured")
    return Latency(np.array(caused), np.array(own))


def rates_report(paces: dict[str, list[Pace]], candidates: Sequence[str]) -> dict[str, Any]:
    """Medians of readings per second, and of ratios within a round; None for what was not measured."""
    rates = {name: [one.per_second for one in found] for name, found in paces.items()}
    report: dict[str, Any] = {}
    for name in candidates:
        report[name] = round(median(rates[name]), 1) if name in rates else None
    ours = rates.get(FAULTLINE)
    for name in (one for one in candidates if one != FAULTLINE):
        both = name in rates and ours is not None
        # Rounds see different loads of the machine; a ratio within one round does not.
        pairs = zip(ours or (), rates.get(name, ()), strict=False)
        report[f"vs_{name}"] = round(median(mine / theirs for mine, theirs in pairs), 3) if both else None
    report["every_round"] = {name: [round(rate, 1) for rate in found] for name, found in rates.items()}
    report["cpu_microseconds"] = {
        name: round(median(times), 2)
        for name, found in paces.items()
        if (times := [one.cpu_microseconds for one in found if one.cpu_microseconds is not None])
    }
    return report


def latency_report(waits: dict[str, list[Latency]]) -> dict[str, Any]:
    """Medians of the latencies' percentiles; None for what was not measured."""

    def middle(name: str, percent: float, part: str) -> float | None:
        found = waits.get(name)
        return round(median(float(np.percentile(getattr(one, part), percent)) for one in found), 2) if found else None

    report: dict[str, Any] = {}
    for name, prefix in ((FAULTLINE, ""), ("quix", "quix_")):
        for percent in (50, 99):
            report[f"{prefix}latency_p{percent}_ms"] = middle(name, percent, "caused")
    report["own_reading_latency_p50_ms"] = middle(FAULTLINE, 50, "own")
    report["frame_period_ms"] = PERIOD_MS
    report["latency_readings_per_second"] = PER_SECOND
    return report


def quiet_report(quiet: dict[bool, list[Pace]]) -> dict[str, Any]:
    """The rate and the longest pause with an empty events topic, compared with a full one."""
    return {
        "quiet_topic_ratio": round(
            median(w.per_second / o.per_second for w, o in zip(quiet[True], quiet[False], strict=True)), 3
        ),
        "quiet_topic_longest_pause_ms": round(max(one.longest_pause_ms for one in quiet[True]), 1),
        "no_quiet_topic_longest_pause_ms": round(max(one.longest_pause_ms for one in quiet[False]), 1),
    }
