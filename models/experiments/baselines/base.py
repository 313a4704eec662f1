"""What all baselines share: frames as rows without memory, and the contract of a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.training.loop import EpochRecord
from pipeline.arrays import Bools, Floats, Ints

BaselineKind = Literal[
    "boosting", "pca_logistic", "random_forest", "stacked_autoencoder", "multimodal_encoder", "tfidf_svm"
]


class BaselineConfig(NamedTuple):
    """What the rows hold, and how many there are."""

    windows: tuple[int, ...] = (10, 60)
    max_frames: int = 100_000
    """Maximum number of training frames, which are drawn; held-out parts are used whole."""
    epochs: int = 20
    """Epochs of each stage of the deep baselines."""


@dataclass(frozen=True, slots=True)
class FrameRows:
    """N frames for a baseline without memory."""

    sensors: Floats  # (N, F) window statistics, NaN where nothing was measured
    word_ages: Floats  # (N, W) frames since each word was written, NaN before the first time
    documents: tuple[str, ...]  # the texts in the ring, newest first; "" if there are none
    document_vectors: Floats  # (N, D), 0 where there is no document
    labels: Ints  # (N,)
    runs: Ints  # (N,)
    frames: Ints  # (N,) index within the run
    sources: NDArray[np.str_]  # (N,) stem of the file that the run came from

    @property
    def has_text(self) -> Bools:
        """Where there is a text, (N,)."""
        has_text: Bools = np.array([bool(document) for document in self.documents], bool)
        return has_text


class Baseline(Protocol):
    """One baseline: trained once, then asked for answers."""

    history: list[EpochRecord]
    """One record per epoch, of baselines that are trained in epochs."""

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """Learn from labelled frames; validation frames may only choose among epochs."""
        ...

    def predict(self, rows: FrameRows) -> Ints:
        """Class of each frame, or NO_EVIDENCE."""
        ...

    def features(self, rows: FrameRows) -> Floats | None:
        """Intermediate features of each frame (N, D), if the baseline has any."""
        ...
