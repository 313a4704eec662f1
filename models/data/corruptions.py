"""Corruptions of a model's inputs by level, from 0 to 1: readings that are noisy, lost or stuck; texts that are late,
misspelt, lost or wrong."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.data.augment import with_typos
from models.data.runs import Run
from models.data.scaling import Scaling
from models.data.text_pools import TextPool
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import normalised
from pipeline.arrays import Bools, Floats, Ints

CorruptionName = Literal[
    "white_noise",
    "sensor_drop",
    "frame_drop",
    "stuck_sensors",
    "clock_skew",
    "text_typos",
    "text_absent",
    "wrong_text",
    "silent_sensors",
]
EIGHT: tuple[CorruptionName, ...] = tuple(name for name in get_args(CorruptionName) if name != "silent_sensors")
"""Those of the published experiment (docs/results/results.md); `silent_sensors` is harder than `sensor_drop`."""


class CorruptionConfig(BaseModel):
    """What level 1 means, where the level is not a share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise_deviations: float = Field(default=2.0, gt=0)
    """Standard deviation of the white noise, in standard deviations of each variable in the normal state."""
    skew_frames: float = Field(default=40.0, gt=0)
    """Error of the clock that stamps texts."""


class RunInputs(NamedTuple):
    """A model's inputs for one run, T frames of V variables."""

    values: Floats  # (T, V), NaN where not measured
    texts: tuple[PlacedText, ...]


class TextClasses:
    """The texts of each class, and the class of each text."""

    def __init__(self, pool: TextPool | None) -> None:
        texts = pool.texts if pool is not None else ()
        classes = pool.classes.tolist() if pool is not None else []
        self.by_class: dict[int, list[str]] = {}
        self._class_of: dict[str, int] = {}
        for text, label in zip(texts, classes, strict=True):
            self.by_class.setdefault(label, []).append(text)
            self._class_of[normalised(text)] = label

    def class_of(self, text: str, label: int) -> int:
        """Class of a text; `label`, the class of its frame, if the text is not in the pool."""
        return self._class_of.get(normalised(text), label)


class Case(NamedTuple):
    """All that a corruption needs of one run; random numbers do not depend on the level, so that what is lost at one
    level is lost at every higher one too."""

    inputs: RunInputs
    labels: Ints  # (T,)
    level: float
    config: CorruptionConfig
    scaling: Scaling
    text_classes: TextClasses
    rng: np.random.Generator


def white_noise(case: Case) -> RunInputs:
    """Gaussian noise on every reading, its deviation `level * noise_deviations` normal deviations of the variable."""
    values = case.inputs.values
    noise = case.rng.standard_normal(values.shape, dtype=np.float32) * case.scaling.std
    return case.inputs._replace(values=values + noise * np.float32(case.level * case.config.noise_deviations))


def sensor_drop(case: Case) -> RunInputs:
    """Each reading is lost independently with probability `level`; alignment holds the last one for a while."""
    return _without(case.inputs, case.rng.random(case.inputs.values.shape) < case.level)


def silent_sensors(case: Case) -> RunInputs:
    """A share `level` of the variables, drawn for each run, never has a reading."""
    return _without(case.inputs, np.isin(np.arange(case.inputs.values.shape[1]), _chosen(case)))


def frame_drop(case: Case) -> RunInputs:
    """With probability `level` a frame loses all its readings, but not its texts."""
    return _without(case.inputs, (case.rng.random(len(case.inputs.values)) < case.level)[:, None])


def stuck_sensors(case: Case) -> RunInputs:
    """A share `level` of the variables, drawn for each run, repeats one value from a random moment on.

    It is the last value measured by then, or the first one if there is none yet. Readings that were missing stay so.
    """
    values = case.inputs.values.copy()
    moments = case.rng.integers(0, max(len(values), 1), values.shape[1:])
    for variable in _chosen(case):
        measured = np.flatnonzero(~np.isnan(values[:, variable]))
        if len(measured):
            first = max(int((measured <= moments[variable]).sum()) - 1, 0)
            values[measured[first:], variable] = values[measured[first], variable]
    return case.inputs._replace(values=values)


def clock_skew(case: Case) -> RunInputs:
    """The clock that stamps texts is `level * skew_frames` frames off: in half of the runs behind, in half ahead.

    As in alignment, a text stamped too early arrives at the same frame, but looks older; one stamped too late waits
    for the frame of its stamp, and is lost if the run ends before.
    """
    skew = case.level * case.config.skew_frames * case.rng.choice((-1.0, 1.0))
    placed = []
    for text in case.inputs.texts:
        stamp = text.frame + 1 - text.age + skew
        frame = max(text.frame, int(np.floor(stamp)))
        if frame < len(case.labels):
            placed.append(PlacedText(frame, frame + 1 - stamp, text.text))
    return case.inputs._replace(texts=tuple(sorted(placed, key=lambda text: (text.frame, -text.age))))


def text_typos(case: Case) -> RunInputs:
    """Each word of more than three letters gets a typing error with probability `level`: one letter dropped, doubled
    or swapped with the next."""
    placed = []
    for text in case.inputs.texts:
        words = text.text.split()
        hit = case.rng.random(len(words)) < case.level
        seeds = case.rng.integers(0, 2**32, len(words))
        if hit.any():
            for index in np.flatnonzero(hit):
                words[index] = with_typos(words[index], 1.0, np.random.default_rng(seeds[index]))
            text = replace(text, text=" ".join(words))
        placed.append(text)
    return case.inputs._replace(texts=tuple(placed))


def text_absent(case: Case) -> RunInputs:
    """Each text is lost with probability `level`."""
    texts = case.inputs.texts
    lost = case.rng.random(len(texts)) < case.level
    return case.inputs._replace(texts=tuple(text for text, gone in zip(texts, lost, strict=True) if not gone))


def wrong_text(case: Case) -> RunInputs:
    """With probability `level` a text is replaced by one of the same pool about a wrong class: neither that of the
    text nor the state at its frame, each such class with the same probability.

    A text stays if the pool has no such class.
    """
    placed = []
    draws = case.rng.random((len(case.inputs.texts), 3))
    for text, (hit, which, line) in zip(case.inputs.texts, draws, strict=True):
        label = int(case.labels[text.frame])
        about = case.text_classes.class_of(text.text, label)
        wrong = [other for other in sorted(case.text_classes.by_class) if other >= 0 and other not in (about, label)]
        if hit < case.level and wrong:
            lines = case.text_classes.by_class[wrong[int(which * len(wrong))]]
            text = replace(text, text=lines[int(line * len(lines))])
        placed.append(text)
    return case.inputs._replace(texts=tuple(placed))


_CORRUPTIONS: dict[CorruptionName, Callable[[Case], RunInputs]] = {
    "white_noise": white_noise,
    "sensor_drop": sensor_drop,
    "frame_drop": frame_drop,
    "stuck_sensors": stuck_sensors,
    "clock_skew": clock_skew,
    "text_typos": text_typos,
    "text_absent": text_absent,
    "wrong_text": wrong_text,
    "silent_sensors": silent_sensors,
}


class Corruptor:
    """Corrupts runs. With equal seeds a run is corrupted equally, whatever other runs there are."""

    def __init__(self, config: CorruptionConfig, scaling: Scaling, pool: TextPool | None, *, seed: int) -> None:
        """`scaling` is that of the normal state; wrong texts, and the classes of texts, come from `pool`."""
        self._config = config
        self._scaling = scaling
        self._text_classes = TextClasses(pool)
        self._seed = seed

    def __call__(
        self, name: CorruptionName, runs: Iterable[Run], texts: Iterable[Sequence[PlacedText]], level: float
    ) -> tuple[list[Run], list[tuple[PlacedText, ...]]]:
        """The runs and their texts at a level from 0, where nothing changes, to 1. Labels never change."""
        corrupted_runs, corrupted_texts = [], []
        for run, placed in zip(runs, texts, strict=True):
            inputs = RunInputs(run.values, tuple(placed))
            if level > 0:
                rng = np.random.default_rng([self._seed, *name.encode(), zlib.crc32(run.name.encode())])
                case = Case(inputs, run.labels, level, self._config, self._scaling, self._text_classes, rng)
                inputs = _CORRUPTIONS[name](case)
            corrupted_runs.append(replace(run, values=inputs.values))
            corrupted_texts.append(inputs.texts)
        return corrupted_runs, corrupted_texts


def _chosen(case: Case) -> Ints:
    """A share `level` of the variables; those of a lower level are among those of a higher one."""
    variables = case.inputs.values.shape[1]
    return case.rng.permutation(variables)[: round(case.level * variables)]


def _without(inputs: RunInputs, lost: Bools) -> RunInputs:
    """With NaN where readings are lost, (T, V) or broadcast to it."""
    return inputs._replace(values=np.where(lost, np.float32(np.nan), inputs.values))
