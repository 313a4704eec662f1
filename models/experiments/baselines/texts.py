"""The baseline for texts: TF-IDF of words and character n-grams, and a linear support vector machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from models.encoders.tokenizer import normalised
from pipeline.frames import Floats, Ints


class TextSVM:
    """Words, pairs of words, and character 2-5-grams within words; classes count alike, however often they come."""

    def __init__(self, *, seed: int) -> None:
        self._pipeline = make_pipeline(
            make_union(
                TfidfVectorizer(preprocessor=normalised, ngram_range=(1, 2), sublinear_tf=True),
                TfidfVectorizer(preprocessor=normalised, analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
            ),
            LinearSVC(class_weight="balanced", random_state=seed),
        )

    def fit(self, texts: Sequence[str], classes: Ints) -> None:
        """Learn texts (N,) of classes (N,)."""
        self._pipeline.fit(list(texts), classes)
        self._classes = np.unique(classes)

    def predict(self, texts: Sequence[str]) -> Ints:
        """Class of each text."""
        return np.asarray(self._pipeline.predict(list(texts)), np.int64)

    def scores(self, texts: Sequence[str], classes: int) -> Floats:
        """Distance from each class's plane (N, C), for ROC; far below all others for classes never met."""
        found = np.asarray(self._pipeline.decision_function(list(texts)), np.float32)
        if found.ndim == 1:  # two classes have one plane between them
            found = np.stack([-found, found], axis=1)
        whole = np.full((len(texts), classes), found.min() - 1, np.float32)
        whole[:, self._classes] = found
        return whole
