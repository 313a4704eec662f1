"""Texts without a network: a linear support vector machine on TF-IDF, and documents as vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from models.encoders.tokenizer import normalised
from pipeline.arrays import Floats, Ints

_DOCUMENT_SIZE = 64


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
        """Distance from each class's plane (N, C), for ROC; far below all others for classes without training texts."""
        distances = np.asarray(self._pipeline.decision_function(list(texts)), np.float32)
        if distances.ndim == 1:  # two classes have one plane between them
            distances = np.stack([-distances, distances], axis=1)
        scores = np.full((len(texts), classes), distances.min() - 1, np.float32)
        scores[:, self._classes] = distances
        return scores


class DocumentVectors:
    """Documents as vectors: TF-IDF of words and pairs of words, reduced by singular values; learned from training."""

    def __init__(self, documents: Sequence[str], *, seed: int) -> None:
        self._size = 0
        self._tfidf = TfidfVectorizer(preprocessor=normalised, ngram_range=(1, 2), sublinear_tf=True)
        tokenize = self._tfidf.build_analyzer()
        if len(documents) < 2 or not any(tokenize(document) for document in documents):
            return
        matrix = self._tfidf.fit_transform(documents)
        self._size = min(_DOCUMENT_SIZE, len(documents) - 1, matrix.shape[1])
        self._reduce = TruncatedSVD(self._size, random_state=seed).fit(matrix)

    def __call__(self, documents: Sequence[str]) -> Floats:
        """(N, D); 0 where a document is empty."""
        vectors = np.zeros((len(documents), self._size), np.float32)
        if self._size and (distinct := sorted({document for document in documents if document})):
            rows = {document: row for row, document in enumerate(distinct)}
            reduced = self._reduce.transform(self._tfidf.transform(distinct))
            row_of = np.array([rows.get(document, -1) for document in documents])
            vectors[row_of >= 0] = reduced[row_of[row_of >= 0]]
        return vectors
