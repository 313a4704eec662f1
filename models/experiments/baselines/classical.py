"""Baselines on the split of a training: frames as rows of window statistics and of the words that were said last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from models.data.runs import Run
from models.data.text_pools import run_events
from models.encoders.placed_texts import PlacedText, ring_plan
from models.encoders.tokenizer import normalised
from models.evaluation.clustering import cluster, partition_scores
from models.evaluation.scoring import NO_EVIDENCE, Scores
from models.experiments.baselines.deep import MultimodalEncoder, StackedAutoencoder
from models.experiments.baselines.texts import TextSVM
from models.training.config import TrainConfig
from models.training.loop import OnProgress, Record
from models.training.report import sliced_scores
from models.training.train import prepare
from pipeline.errors import DataError
from pipeline.frames import Bools, Floats, Ints

Matrix = NDArray[np.float32]
BaselineKind = Literal[
    "boosting", "pca_logistic", "random_forest", "stacked_autoencoder", "multimodal_encoder", "tfidf_svm"
]

_MOST_WORDS = 40
_DOCUMENT_SIZE = 64
_PRINCIPAL = 64
_TREES = 200


class BaselineConfig(NamedTuple):
    """What the rows hold, and how many there are."""

    windows: tuple[int, ...] = (10, 60)
    most_frames: int = 100_000
    """Training frames that are drawn, run by run; held-out parts are never thinned."""
    epochs: int = 20
    """Passes of the deep baselines, each stage of them."""


@dataclass(frozen=True, slots=True)
class FrameRows:
    """N frames for a baseline that has no memory of its own."""

    sensors: Matrix  # (N, F) window statistics, NaN where nothing was measured
    ages: Matrix  # (N, W) frames since each word was written, NaN before the first time
    documents: tuple[str, ...]  # the texts in the ring, newest first; "" if there are none
    topics: Matrix  # (N, D) the documents as points, 0 where there is none
    labels: Ints  # (N,)
    runs: Ints  # (N,)
    frames: Ints  # (N,) index within the run
    sources: NDArray[np.str_]  # (N,) stem of the file that the run came from

    @property
    def told(self) -> Bools:
        """Where there is a text, (N,)."""
        found: Bools = np.array([bool(document) for document in self.documents], bool)
        return found


class Baseline(Protocol):
    """One baseline, which learns once and then answers."""

    history: list[Record]
    """One record for each pass, for those that learn in passes."""

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """Learn from labelled frames; validation frames may only choose among passes."""
        ...

    def predict(self, rows: FrameRows) -> Ints:
        """Class of each frame, or NO_EVIDENCE."""
        ...

    def features(self, rows: FrameRows) -> Floats | None:
        """What the baseline makes of each frame before it decides (N, D), if it makes anything."""
        ...


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


def ring_documents(texts: Sequence[PlacedText], frames: int, *, size: int, ttl: int) -> list[str]:
    """For each frame the texts that a model of this ring would still remember, newest first, as one document."""
    rows, ages = ring_plan(texts, frames, size=size, ttl=ttl)
    documents: list[str] = []
    for frame in range(frames):
        known = [texts[row].text for row, age in zip(rows[frame], ages[frame], strict=True) if age >= 0]
        documents.append("\n".join(known))
    return documents


def boosting_scores(config: TrainConfig, *, windows: Sequence[int]) -> dict[str, Scores]:
    """Train gradient boosting on all training frames of a configuration's split; scores of validation and test."""
    everything = BaselineConfig(windows=tuple(windows), most_frames=10**9)
    found = baseline_scores("boosting", config, everything, folder=None)[0]
    return {part: of["all"]["all_faults"]["fusion"] for part, of in found.items()}


def baseline_scores(
    kind: BaselineKind,
    config: TrainConfig,
    baseline: BaselineConfig,
    *,
    folder: Path | None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Scores], list[Record]]:
    """Train one baseline on the training runs of a configuration's split; scores of its validation and test runs, each
    as of a network: by source, by subset, and of the system `fusion`.

    Of all runs, `clusters` holds the scores of k-means on what the baseline makes of the frames. The deep ones leave
    checkpoints in `folder`.
    """
    classes, rows = baseline_rows(config, baseline)
    model = build_baseline(kind, len(classes), baseline, seed=config.seed, folder=folder, on_progress=on_progress)
    train = rows["train"]
    model.fit(train, rows["validation"])
    scores: dict[str, Scores] = {}
    for part in ("validation", "test"):
        if part not in rows:
            continue
        of = rows[part]
        said = model.predict(of)
        scores[part] = sliced_scores(
            of.runs, of.frames, of.labels, of.sources, {"fusion": said}, classes, config.hard_faults
        )
        features = model.features(of)
        if features is not None:
            parts = cluster(features, len(classes), seed=config.seed)
            scores[part]["all"]["all_faults"]["fusion"]["clusters"] = partition_scores(of.labels, parts)
    return scores, model.history


def baseline_rows(config: TrainConfig, baseline: BaselineConfig) -> tuple[tuple[str, ...], dict[str, FrameRows]]:
    """Classes, and the rows of each part that has runs; those of the training part are labelled, and thinned."""
    machine_type, split, pools, fixed = prepare(config)
    rng = np.random.default_rng([config.seed, *b"baseline"])
    drawn = run_events(split.train, pools.known if pools and config.texts else None, config.events, rng)
    texts = {"train": drawn, **fixed}
    counts = Counter(word for told in drawn for text in told for word in set(normalised(text.text).split()))
    words = sorted(counts, key=lambda word: (-counts[word], word))[:_MOST_WORDS]
    documents = {
        part: [
            ring_documents(told, len(run), size=config.text.ring, ttl=machine_type.text_ttl_frames)
            for run, told in zip(getattr(split, part), texts[part], strict=True)
        ]
        for part in ("train", "validation", "test")
    }
    topics = Topics(sorted({said for of in documents["train"] for said in of if said}), seed=config.seed)
    rows: dict[str, FrameRows] = {}
    for part in ("train", "validation", "test"):
        runs: tuple[Run, ...] = getattr(split, part)
        if not runs and part == "test":
            continue
        if not runs:
            raise DataError("a part of the split has no runs; give more machines or other shares")
        total = sum(len(run) for run in runs)
        share = min(1.0, baseline.most_frames / total) if part == "train" else 1.0
        made: list[FrameRows] = []
        for at, (run, told, said) in enumerate(zip(runs, texts[part], documents[part], strict=True)):
            kept = np.flatnonzero(rng.random(len(run)) < share) if share < 1 else np.arange(len(run))
            if part == "train":
                kept = kept[run.labels[kept] >= 0]
            document = tuple(said[frame] for frame in kept)
            made.append(
                FrameRows(
                    sensors=window_features(run.values, baseline.windows)[kept],
                    ages=word_ages(told, len(run), words)[kept],
                    documents=document,
                    topics=topics(document),
                    labels=run.labels[kept],
                    runs=np.full(len(kept), at),
                    frames=kept,
                    sources=np.full(len(kept), run.source),
                )
            )
        rows[part] = _joined(made)
    return machine_type.faults, rows


def build_baseline(
    kind: BaselineKind,
    classes: int,
    baseline: BaselineConfig,
    *,
    seed: int,
    folder: Path | None,
    on_progress: OnProgress | None,
) -> Baseline:
    """An untrained baseline of this kind."""
    match kind:
        case "boosting":
            return Boosting(seed)
        case "pca_logistic":
            return PrincipalLogistic(seed)
        case "random_forest":
            return Forest(seed)
        case "tfidf_svm":
            return RingSVM(seed)
        case "stacked_autoencoder" | "multimodal_encoder":
            if folder is None:
                raise DataError(f"{kind} needs a folder for its checkpoints; give an output folder")
            made = StackedAutoencoder if kind == "stacked_autoencoder" else MultimodalEncoder
            network = made(classes, seed=seed, epochs=baseline.epochs, folder=folder, on_progress=on_progress)
            return Deep(network)


class Standard:
    """Standard scores by the training rows' mean and deviation; what is not known becomes the mean."""

    def fit(self, x: Matrix) -> Matrix:
        """Learn from (N, F), and scale it."""
        known = ~np.isnan(x)
        count = np.maximum(known.sum(axis=0), 1)
        self._mean = np.where(known, x, 0).sum(axis=0, dtype=np.float64) / count
        apart = np.where(known, x - self._mean, 0)
        spread = np.sqrt((apart**2).sum(axis=0) / count)
        self._spread = np.where(spread > 0, spread, 1)
        return self(x)

    def __call__(self, x: Matrix) -> Matrix:
        """Scale (N, F); far outliers are cut off, which keeps linear models and gradients sane."""
        scaled = np.nan_to_num((x - self._mean) / self._spread, nan=0.0)
        return np.asarray(np.clip(scaled, -10, 10), np.float32)


class _Flat:
    """Rows as one matrix: scaled window statistics beside the documents' points."""

    def __init__(self, seed: int) -> None:
        self.history: list[Record] = []
        self._seed = seed
        self._standard = Standard()

    def _rows(self, rows: FrameRows) -> Matrix:
        return np.concatenate([self._standard(rows.sensors), rows.topics], axis=1)


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
    """Gradient boosting, which is told the words' ages instead of topics and needs no scaling."""

    def __init__(self, seed: int) -> None:
        self.history: list[Record] = []
        self._model = HistGradientBoostingClassifier(
            class_weight="balanced", early_stopping=True, random_state=seed, max_iter=300
        )

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`."""
        self._model.fit(np.concatenate([train.sensors, train.ages], axis=1), train.labels)

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        return np.asarray(self._model.predict(np.concatenate([rows.sensors, rows.ages], axis=1)), np.int64)

    def features(self, rows: FrameRows) -> Floats:
        """Class probabilities, the only thing between input and decision."""
        return np.asarray(self._model.predict_proba(np.concatenate([rows.sensors, rows.ages], axis=1)), np.float32)


class RingSVM:
    """TF-IDF and a linear support vector machine on the documents; no sensors."""

    def __init__(self, seed: int) -> None:
        self.history: list[Record] = []
        self._model = TextSVM(seed=seed)

    def fit(self, train: FrameRows, validation: FrameRows) -> None:
        """See `Baseline.fit`; each document counts once for each class at whose frames it stands."""
        told = train.told
        if not told.any():
            raise DataError("a text baseline needs texts; give the training a pool of texts or runs that have some")
        pairs = sorted(set(zip(np.array(train.documents)[told].tolist(), train.labels[told].tolist(), strict=True)))
        self._model.fit([text for text, _ in pairs], np.array([label for _, label in pairs], np.int64))

    def predict(self, rows: FrameRows) -> Ints:
        """See `Baseline.predict`."""
        said = np.full(len(rows.labels), NO_EVIDENCE, np.int64)
        told = rows.told
        if told.any():
            said[told] = self._model.predict([document for document in rows.documents if document])
        return said

    def features(self, rows: FrameRows) -> None:
        """None: most frames have no text."""


class Deep(_Flat):
    """A network of `models.experiments.baselines.deep` behind the same door."""

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

    def _modalities(self, rows: FrameRows) -> list[Matrix]:
        return [self._standard(rows.sensors), rows.topics]


class Topics:
    """Documents as points: TF-IDF of words and pairs of words, reduced by singular values; learned from training."""

    def __init__(self, documents: Sequence[str], *, seed: int) -> None:
        self._size = min(_DOCUMENT_SIZE, len(documents) - 1)
        if self._size < 1:
            self._size = 0
            return
        self._tfidf = TfidfVectorizer(preprocessor=normalised, ngram_range=(1, 2), sublinear_tf=True)
        self._reduce = TruncatedSVD(self._size, random_state=seed).fit(self._tfidf.fit_transform(documents))

    def __call__(self, documents: Sequence[str]) -> Matrix:
        """(N, D); 0 where a document is empty."""
        points = np.zeros((len(documents), self._size), np.float32)
        if self._size and (said := sorted({document for document in documents if document})):
            index = {document: at for at, document in enumerate(said)}
            reduced = self._reduce.transform(self._tfidf.transform(said))
            at = np.array([index.get(document, -1) for document in documents])
            points[at >= 0] = reduced[at[at >= 0]]
        return points


def _joined(rows: Sequence[FrameRows]) -> FrameRows:
    return FrameRows(
        sensors=np.concatenate([of.sensors for of in rows]),
        ages=np.concatenate([of.ages for of in rows]),
        documents=tuple(document for of in rows for document in of.documents),
        topics=np.concatenate([of.topics for of in rows]),
        labels=np.concatenate([of.labels for of in rows]),
        runs=np.concatenate([of.runs for of in rows]),
        frames=np.concatenate([of.frames for of in rows]),
        sources=np.concatenate([of.sources for of in rows]),
    )
