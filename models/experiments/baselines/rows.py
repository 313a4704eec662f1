"""Frames as rows: statistics over trailing windows, ages of words, and the texts in the ring as a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from models.data.runs import Run
from models.data.text_pools import run_events
from models.encoders.placed_texts import PlacedText, ring_plan
from models.encoders.tokenizer import normalised
from models.experiments.baselines.base import BaselineConfig, FrameRows
from models.experiments.baselines.texts import DocumentVectors
from models.training.config import TrainConfig
from models.training.loop import OnProgress, Progress
from models.training.prepare import PARTS, PreparedData, prepare
from pipeline.arrays import Floats
from pipeline.errors import DataError

_MAX_WORDS = 40


def baseline_rows(
    config: TrainConfig,
    baseline: BaselineConfig,
    *,
    data: PreparedData | None = None,
    on_progress: OnProgress = lambda _: None,
) -> tuple[tuple[str, ...], dict[str, FrameRows]]:
    """Classes, and the rows of each part that has runs; those of the training part are labelled, and a sample.

    `data` is that of the configuration, if it has been prepared.
    """
    data = data or prepare(config)
    rng = np.random.default_rng([config.seed, *b"baseline"])
    pool = data.drawn_pools.known if data.drawn_pools else None
    drawn = run_events(data.split.train, pool, config.events, rng)
    texts = {"train": drawn, **data.texts}
    counts = Counter(word for placed in drawn for text in placed for word in set(normalised(text.text).split()))
    words = sorted(counts, key=lambda word: (-counts[word], word))[:_MAX_WORDS]
    documents = {
        part: [
            ring_documents(placed, len(run), size=config.text.ring, ttl=data.machine_type.text_ttl_frames)
            for run, placed in zip(getattr(data.split, part), texts[part], strict=True)
        ]
        for part in PARTS
    }
    vectors = DocumentVectors(
        sorted({document for run in documents["train"] for document in run if document}), seed=config.seed
    )
    rows: dict[str, FrameRows] = {}
    done_runs, all_runs = 0, sum(data.run_counts().values())
    for part in PARTS:
        runs: tuple[Run, ...] = getattr(data.split, part)
        if not runs and part == "test":
            continue
        if not runs:
            raise DataError("a part of the split has no runs; give more machines or other shares")
        total = sum(len(run) for run in runs)
        share = min(1.0, baseline.max_frames / total) if part == "train" else 1.0
        rows_of_runs: list[FrameRows] = []
        for index, (run, placed, documents_of_run) in enumerate(zip(runs, texts[part], documents[part], strict=True)):
            on_progress(Progress("windows", done_runs, all_runs, 0.0))
            done_runs += 1
            kept = np.flatnonzero(rng.random(len(run)) < share) if share < 1 else np.arange(len(run))
            if part == "train":
                kept = kept[run.labels[kept] >= 0]
            kept_documents = tuple(documents_of_run[frame] for frame in kept)
            rows_of_runs.append(
                FrameRows(
                    sensors=window_features(run.values, baseline.windows)[kept],
                    word_ages=word_ages(placed, len(run), words)[kept],
                    documents=kept_documents,
                    document_vectors=vectors(kept_documents),
                    labels=run.labels[kept],
                    runs=np.full(len(kept), index),
                    frames=kept,
                    sources=np.full(len(kept), run.source),
                )
            )
        rows[part] = _joined(rows_of_runs)
    on_progress(Progress("windows", all_runs, all_runs, 0.0))
    return data.faults, rows


def window_features(values: Floats, windows: Sequence[int]) -> Floats:
    """Of readings (T, V): the reading and, over each trailing window, mean, standard deviation, minimum and maximum.

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
        difference = np.where(known, view - mean[:, :, None], 0)
        minimum = np.where(known, view, np.inf).min(axis=2)
        maximum = np.where(known, view, -np.inf).max(axis=2)
        parts += [mean, np.sqrt((difference**2).sum(axis=2) / count), minimum, maximum]
    features: Floats = np.concatenate(parts, axis=1).astype(np.float32)
    features[~np.isfinite(features)] = np.nan
    return features.reshape(frames, -1)


def word_ages(texts: Sequence[PlacedText], frames: int, words: Sequence[str]) -> Floats:
    """Frames since each word was last written (T, words); NaN before the first time."""
    ages = np.full((frames, len(words)), np.nan, np.float32)
    column = {word: index for index, word in enumerate(words)}
    for text in sorted(texts, key=lambda text: text.frame):
        for word in set(normalised(text.text).split()) & column.keys():
            rest = frames - text.frame
            ages[text.frame :, column[word]] = text.age + np.arange(rest, dtype=np.float32)
    return ages


def ring_documents(texts: Sequence[PlacedText], frames: int, *, size: int, ttl: int) -> list[str]:
    """For each frame the texts in the ring of a model, newest first, as one document."""
    rows, ages = ring_plan(texts, frames, size=size, ttl=ttl)
    documents: list[str] = []
    for frame in range(frames):
        known = [texts[row].text for row, age in zip(rows[frame], ages[frame], strict=True) if age >= 0]
        documents.append("\n".join(known))
    return documents


def _joined(rows: Sequence[FrameRows]) -> FrameRows:
    return FrameRows(
        sensors=np.concatenate([part.sensors for part in rows]),
        word_ages=np.concatenate([part.word_ages for part in rows]),
        documents=tuple(document for part in rows for document in part.documents),
        document_vectors=np.concatenate([part.document_vectors for part in rows]),
        labels=np.concatenate([part.labels for part in rows]),
        runs=np.concatenate([part.runs for part in rows]),
        frames=np.concatenate([part.frames for part in rows]),
        sources=np.concatenate([part.sources for part in rows]),
    )
