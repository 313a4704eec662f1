"""Episodes of unknown faults in diagnoses, and which of them are alike by what deviates in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.config.classes import UNKNOWN
from pipeline.wire.messages import Diagnosis

GAP_FRAMES: Final = 5
"""So many frames with another answer do not end an episode."""

ALIKE: Final = 0.7
"""Cosine from which episodes are of one group."""

_LARGEST_DEVIATION: Final = 10.0
"""A larger one of a single frame counts as this."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Frames in which a machine's fault was unknown, with short gaps."""

    machine: str
    start_ms: int
    end_ms: int
    """Before the first frame that is not of it."""
    frames: int
    peak_novelty: float | None
    """None if the diagnoses have no novelty."""
    deviations: Mapping[str, float]
    """By variable, the deviations that its diagnoses show as evidence, added up."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": self.machine,
            "start": self.start_ms,
            "end": self.end_ms,
            "frames": self.frames,
            "peak_novelty": self.peak_novelty,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Episodes that are alike."""

    number: int
    """From 1 on, in the order of the groups' first episodes, so that new episodes renumber no group."""
    episodes: tuple[Episode, ...]
    """In the order of time."""
    variables: tuple[tuple[str, float], ...]
    """What deviates, the most first: mean deviation per frame in standard deviations."""

    @property
    def frames(self) -> int:
        """Of all episodes."""
        return sum(episode.frames for episode in self.episodes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "group": self.number,
            "frames": self.frames,
            "variables": [{"name": name, "deviation": round(mean, 2)} for name, mean in self.variables],
            "episodes": [episode.as_dict() for episode in self.episodes],
        }


def unknown_episodes(diagnoses: Iterable[Diagnosis], *, gap_frames: int = GAP_FRAMES) -> list[Episode]:
    """The episodes in diagnoses in any order, of which the last revision of a frame counts; in the order of time."""
    frames: dict[tuple[str, int], Diagnosis] = {}
    for diagnosis in diagnoses:
        key = diagnosis.machine, diagnosis.frame_start
        if key not in frames or frames[key].revision <= diagnosis.revision:
            frames[key] = diagnosis
    episodes: list[Episode] = []
    open_: list[Diagnosis] = []
    for key in sorted(key for key, diagnosis in frames.items() if diagnosis.fault == UNKNOWN):
        diagnosis = frames[key]
        if open_ and not _goes_on(open_[-1], diagnosis, gap_frames):
            episodes.append(_episode(open_))
            open_ = []
        open_.append(diagnosis)
    if open_:
        episodes.append(_episode(open_))
    return sorted(episodes, key=_order)


def _goes_on(last: Diagnosis, diagnosis: Diagnosis, gap_frames: int) -> bool:
    period_ms = diagnosis.frame_end - diagnosis.frame_start
    gap_ms = diagnosis.frame_start - last.frame_end
    return last.machine == diagnosis.machine and gap_ms <= gap_frames * period_ms


def _episode(diagnoses: Sequence[Diagnosis]) -> Episode:
    deviations: dict[str, float] = {}
    for diagnosis in diagnoses:
        for variable in diagnosis.evidence.variables:
            bounded = max(-_LARGEST_DEVIATION, min(variable.deviation, _LARGEST_DEVIATION))
            deviations[variable.name] = deviations.get(variable.name, 0.0) + bounded
    novelties = [diagnosis.novelty for diagnosis in diagnoses if diagnosis.novelty is not None]
    first, last = diagnoses[0], diagnoses[-1]
    peak = max(novelties, default=None)
    return Episode(first.machine, first.frame_start, last.frame_end, len(diagnoses), peak, deviations)


def _order(episode: Episode) -> tuple[int, str]:
    return episode.start_ms, episode.machine


def group_episodes(episodes: Iterable[Episode], *, alike: float = ALIKE) -> list[Group]:
    """Groups of episodes whose deviations point in one direction: the longest episode begins a group, and each further
    one joins the group with the most similar sum of directions if their cosine is at least `alike`."""
    sums: list[dict[str, float]] = []
    members: list[list[Episode]] = []
    for episode in sorted(episodes, key=lambda one: (-one.frames, *_order(one))):
        direction = _direction(episode.deviations)
        similar = [_cosine(direction, _direction(one)) for one in sums]
        best = max(range(len(sums)), key=lambda place: (similar[place], -place), default=-1)
        if best < 0 or similar[best] < alike:
            sums.append({})
            members.append([])
            best = len(sums) - 1
        members[best].append(episode)
        for name, share in direction.items():
            sums[best][name] = sums[best].get(name, 0.0) + share
    ordered = sorted((sorted(own, key=_order) for own in members), key=lambda own: _order(own[0]))
    return [Group(number, tuple(own), _variables(own)) for number, own in enumerate(ordered, start=1)]


def _direction(deviations: Mapping[str, float]) -> dict[str, float]:
    """Of length 1; empty where nothing deviates."""
    length = math.sqrt(math.fsum(value * value for value in deviations.values()))
    return {name: value / length for name, value in deviations.items()} if length else {}


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Of two directions; those of episodes in which nothing deviates are alike."""
    if not one and not other:
        return 1.0
    return math.fsum(value * other.get(name, 0.0) for name, value in one.items())


def _variables(episodes: Sequence[Episode]) -> tuple[tuple[str, float], ...]:
    frames = sum(episode.frames for episode in episodes)
    names = dict.fromkeys(name for episode in episodes for name in episode.deviations)
    means = {name: math.fsum(one.deviations.get(name, 0.0) for one in episodes) / frames for name in names}
    return tuple(sorted(means.items(), key=lambda item: (-abs(item[1]), item[0])))
