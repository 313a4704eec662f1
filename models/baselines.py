"""A baseline without a neural network: gradient boosting on window statistics, on the same split as a training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from models.dataset import PlacedText, Run
from models.events import run_events
from models.scoring import Scores, stream_scores
from models.text import normalised
from models.training import TrainConfig, prepare
from pipeline.errors import DataError
from pipeline.frames import Floats

Matrix = NDArray[np.float32]

_MOST_WORDS = 40


def window_features(values: Floats, windows: Sequence[int]) -> Matrix:
    """Of readings (T, V): the reading and, over each trailing window, mean, standard deviation, least and greatest.

    Windows are cut at the run's start; NaN where nothing was measured. Returns (T, V * (1 + 4 W)).
    """
    frames, variables = values.shape
    parts = [values]
    for window in windows:
        padded = np.concatenate([np.full((window - 1, variables), np.nan, np.float32), values])
        view = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)  # (T, V, window)
        known = ~np.isnan(view)
        count = np.maximum(known.sum(axis=2), 1)
        mean = np.where(known, view, 0).sum(axis=2) / count
        apart = np.where(known, view - mean[:, :, None], 0)
        least = np.where(known, view, np.inf).min(axis=2)
        greatest = np.where(known, view, -np.inf).max(axis=2)
        parts += [mean, np.sqrt((apart**2).sum(axis=2) / count), least, greatest]
    features: Matrix = np.concatenate(parts, axis=1).astype(np.float32)
    features[~np.isfinite(features)] = np.nan
    return features.reshape(frames, -1)


def word_ages(texts: Sequence[PlacedText], frames: int, words: Sequence[str]) -> Matrix:
    """Frames since each word was last written (T, words); NaN before the first time."""
    ages = np.full((frames, len(words)), np.nan, np.float32)
    column = {word: index for index, word in enumerate(words)}
    for text in sorted(texts, key=lambda text: text.frame):
        for word in set(normalised(text.text).split()) & column.keys():
            rest = frames - text.frame
            ages[text.frame :, column[word]] = text.age + np.arange(rest, dtype=np.float32)
    return ages


def boosting_scores(config: TrainConfig, *, windows: Sequence[int]) -> dict[str, Scores]:
    """Train on the training runs of a configuration's split; scores of its validation and test runs.

    Features are `window_features` and `word_ages` of the most frequent words. Texts of training runs are drawn once.
    """
    machine_type, split, pools, fixed = prepare(config)
    drawn = run_events(split.train, pools.train if pools and config.texts else None, config.events, _rng(config))
    texts = {"train": drawn, **fixed}
    classes = machine_type.faults
    counts: dict[str, int] = {}
    for run_texts in texts["train"]:
        for text in run_texts:
            for word in set(normalised(text.text).split()):
                counts[word] = counts.get(word, 0) + 1
    words = sorted(counts, key=lambda word: (-counts[word], word))[:_MOST_WORDS]

    def features(runs: Sequence[Run], of: Sequence[Sequence[PlacedText]]) -> Matrix:
        if not runs:
            raise DataError("a part of the split has no runs; give more machines or other shares")
        made = [
            np.concatenate([window_features(run.values, windows), word_ages(own, len(run), words)], axis=1)
            for run, own in zip(runs, of, strict=True)
        ]
        return np.concatenate(made)

    labels = np.concatenate([run.labels for run in split.train])
    known = labels >= 0
    model = HistGradientBoostingClassifier(
        class_weight="balanced", early_stopping=True, random_state=config.seed, max_iter=300
    )
    model.fit(features(split.train, texts["train"])[known], labels[known])
    scores: dict[str, Scores] = {}
    for part in ("validation", "test"):
        runs: tuple[Run, ...] = getattr(split, part)
        if not runs:
            continue
        said = model.predict(features(runs, texts[part]))
        machines = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        frames = np.concatenate([np.arange(len(run)) for run in runs])
        truth = np.concatenate([run.labels for run in runs])
        scores[part] = stream_scores(machines, frames, truth, said, classes)
    return scores


def _rng(config: TrainConfig) -> np.random.Generator:
    return np.random.default_rng([config.seed, *b"baseline"])
