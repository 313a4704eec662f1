"""How many episodes and frames of each class a split's parts have, and whether that is enough to learn and to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.data.runs import Run, class_runs
from pipeline.errors import DataError

FEW_EPISODES = 5
"""With fewer of a class, what is learnt or scored is mostly chance."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How often a class occurs in a part."""

    episodes: int
    """Stretches of frames of this class."""
    frames: int


@dataclass(frozen=True, slots=True)
class PartCounts:
    """One part of a split."""

    groups: int
    """Machines, or other groups of runs that stay together."""
    runs: int
    frames: int
    unlabelled: int
    classes: Mapping[str, ClassCount]
    """By name, the normal state first."""

    @property
    def faulty_episodes(self) -> int:
        """Episodes of any fault."""
        return sum(count.episodes for count in list(self.classes.values())[1:])

    def __str__(self) -> str:
        present = [
            f"{name} {_counted(count.episodes, 'episode')} of {_counted(count.frames, 'frame')}"
            for name, count in self.classes.items()
            if count.frames
        ]
        unlabelled = [f"{_counted(self.unlabelled, 'frame')} without a label"] if self.unlabelled else []
        return ", ".join([*present, *unlabelled]) or "no frames"


Counts = Mapping[str, PartCounts]
"""By part, in the order of a split."""


def count_part(runs: Sequence[Run], faults: Sequence[str]) -> PartCounts:
    """The counts of one part."""
    episodes, frames = [0] * len(faults), [0] * len(faults)
    for run in runs:
        for start, end, label in class_runs(run.labels):
            if label >= 0:
                episodes[label] += 1
                frames[label] += end - start
    total = sum(len(run) for run in runs)
    classes = {name: ClassCount(episodes[at], frames[at]) for at, name in enumerate(faults)}
    return PartCounts(len({run.group for run in runs}), len(runs), total, total - sum(frames), classes)


def require_classes(counts: Counts) -> None:
    """Raise DataError, with all counts, if a part cannot teach or score: without labels, normal state or fault.

    Such a part would be learnt or scored perfectly by a model that always says the same.
    """
    shown = "; ".join(f"{part}: {count}" for part, count in counts.items())
    if not any(count.frames > count.unlabelled for count in counts.values()):
        raise DataError(
            f"no frame has a label, so there is nothing to learn; label faults, or the normal state too; or, if all "
            f"of them are normal, train a detector on them with `normal_data: true` or --normal ({shown})"
        )
    if not any(count.faulty_episodes for count in counts.values()):
        raise DataError(
            "there are only normal frames, and a model learns a fault from examples; label faults, and check that "
            "their machines and times are those of the readings; or train a detector of what is not normal, with "
            f"`normal_data: true` or --normal ({shown})"
        )
    for part, count in counts.items():
        normal = next(iter(count.classes))
        lacks = [f"episode of any {word}" for word, has in (("fault", count.faulty_episodes),) if not has]
        if not count.classes[normal].frames:
            lacks.insert(0, "normal frame")
        if count.frames == count.unlabelled:
            lacks = ["labelled frame"]
        if lacks:
            raise DataError(
                f"the {part} part has no {' and no '.join(lacks)}, so its scores would mean nothing; add machines or "
                f"labels, change its share or the seed, or try `split: {{by: time}}` ({shown})"
            )


def few_episodes(counts: Counts) -> list[str]:
    """A sentence for each fault that hardly occurs, and how often it does."""
    warnings = []
    train = next(iter(counts))
    for fault in list(counts[train].classes)[1:]:
        episodes = {part: count.classes[fault].episodes for part, count in counts.items()}
        if not any(episodes.values()):
            warnings.append(f"{fault} never occurs: a model cannot learn it")
        elif not episodes[train]:
            warnings.append(f"{fault} does not occur in the {train} part: a model cannot learn it")
        elif min(episodes.values()) < FEW_EPISODES:
            few = ", ".join(f"{number} in {part}" for part, number in episodes.items())
            warnings.append(f"{fault} has few episodes ({few}): its scores depend on chance")
    return warnings


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
