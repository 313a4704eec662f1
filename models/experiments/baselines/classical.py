"""Baselines without memory: boosting, random forest, logistic regression, and a linear machine on texts."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from models.evaluation.scoring import NO_EVIDENCE
from models.experiments.baselines.base import FrameRows
from models.experiments.baselines.deep import MultimodalEncoder, StackedAutoencoder
from models.experiments.baselines.texts import TextSVM
from models.training.loop import EpochRecord
from pipeline.arrays import Floats, Ints
from pipeline.errors import DataError

_PRINCIPAL = 64


_TREES = 200


class Standard:
    """Standard scores by the training rows' mean and deviation; unknown readings become the mean."""

    def fit(self, x: Floats) -> Floats:
        """Fit to (N, F), and scale it."""
        known = ~np.isnan(x)
        count = np.maximum(known.sum(axis=0), 1)
        self._mean = np.where(known, x, 0).sum(axis=0, dtype=np.float64) / count
        difference = np.where(known, x - self._mean, 0)
        spread = np.sqrt((difference**2).sum(axis=0) / count)
        self._spread = np.where(spread > 0, spread, 1)
        return self(x)

    def __call__(self, x: Floats) -> Floats:
        """Scale (N, F); outliers are clipped, which keeps linear models and gradients stable."""
        scaled = np.nan_to_num((x - self._mean) / self._spread, nan=0.0)
        return np.asarray(np.clip(scaled, -10, 10), np.float32)


class _Flat:
    """Rows as one matrix: scaled window statistics beside the documents' vectors."""

    def __init__(self, seed: int) -> None:
        self.history: list[EpochRecord] = []
        self._seed = seed
        self._standard = Standard()

    def _rows(self, rows: FrameRows) -> Floats:
        return np.concatenate([self._standard(rows.sensors), rows.document_vectors], axis=1)


class PrincipalLogistic(_Flat):
    """Principal components, then logistic regression."""

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`."""
        self._standard.fit(train.sensors)
        x = self._rows(train)
        self._pca = PCA(n_components=min(_PRINCIPAL, *x.shape), random_state=self._seed)
        self._model = LogisticRegression(max_iter=500, tol=1e-3).fit(self._pca.fit_transform(x), train.labels)

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        return np.asarray(self._model.predict(self.features(rows)), np.int64)

    def features(self, rows: FrameRows) -> Floats:
        """The principal components."""
        return np.asarray(self._pca.transform(self._rows(rows)), np.float32)


class Forest(_Flat):
    """Random forest."""

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`."""
        self._standard.fit(train.sensors)
        self._model = RandomForestClassifier(_TREES, min_samples_leaf=2, random_state=self._seed)
        self._model.fit(self._rows(train), train.labels)

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        return np.asarray(self._model.predict(self._rows(rows)), np.int64)

    def features(self, rows: FrameRows) -> Floats:
        """Shares of the trees' votes, the only thing between input and decision."""
        return np.asarray(self._model.predict_proba(self._rows(rows)), np.float32)


class Boosting:
    """Gradient boosting, on the words' ages instead of the documents' vectors; it needs no scaling."""

    def __init__(self, seed: int) -> None:
        self.history: list[EpochRecord] = []
        self._model = HistGradientBoostingClassifier(
            class_weight="balanced", early_stopping=True, random_state=seed, max_iter=300
        )

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`."""
        self._model.fit(np.concatenate([train.sensors, train.word_ages], axis=1), train.labels)

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        return np.asarray(self._model.predict(np.concatenate([rows.sensors, rows.word_ages], axis=1)), np.int64)

    def features(self, rows: FrameRows) -> Floats:
        """Class probabilities, the only thing between input and decision."""
        return np.asarray(self._model.predict_proba(np.concatenate([rows.sensors, rows.word_ages], axis=1)), np.float32)


class RingSVM:
    """TF-IDF and a linear support vector machine on the documents; no sensors."""

    def __init__(self, seed: int) -> None:
        self.history: list[EpochRecord] = []
        self._model = TextSVM(seed=seed)

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`; each document counts once per class of its frames."""
        has_text = train.has_text
        if not has_text.any():
            raise DataError("a text baseline needs texts; give the training a pool of texts or runs that have some")
        documents = np.array(train.documents)[has_text].tolist()
        pairs = sorted(set(zip(documents, train.labels[has_text].tolist(), strict=True)))
        self._model.fit([text for text, _ in pairs], np.array([label for _, label in pairs], np.int64))

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        predicted = np.full(len(rows.labels), NO_EVIDENCE, np.int64)
        has_text = rows.has_text
        if has_text.any():
            predicted[has_text] = self._model.predict([document for document in rows.documents if document])
        return predicted

    def features(self, rows: FrameRows) -> None:
        """None: most frames have no text."""


class Deep(_Flat):
    """A network of `models.experiments.baselines.deep` as a `Baseline`."""

    def __init__(self, network: StackedAutoencoder | MultimodalEncoder) -> None:
        super().__init__(0)
        self._network = network

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`."""
        self._standard.fit(train.sensors)
        known = validation.labels >= 0
        self.history = self._network.fit(
            self._modalities(train),
            train.labels,
            [x[known] for x in self._modalities(validation)],
            validation.labels[known],
        )

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        return self._network.predict(self._modalities(rows))

    def features(self, rows: FrameRows) -> Floats:
        """The code."""
        return self._network.code(self._modalities(rows))

    def _modalities(self, rows: FrameRows) -> list[Floats]:
        return [self._standard(rows.sensors), rows.document_vectors]
