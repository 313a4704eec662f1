"""The experiment of Li et al. (2022): one label a run from the last step of an LSTM and from one text, fused late."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.configs.fusion import RULES, Rule
from models.configs.sensors import SeqLSTMConfig
from models.configs.text import TextConfig
from models.data.augment import with_typos
from models.data.runs import Run
from models.data.scaling import Scaling
from models.encoders.lstm import SeqLSTM
from models.encoders.text import TextEncoder
from models.encoders.tokenizer import Tokenizer, normalised
from models.evaluation.clustering import partition_scores
from models.evaluation.scoring import Scores, label_scores
from models.experiments.simulation import SimulationConfig
from models.training.calibration import Evidence, choose_rule, fit_fusion
from models.training.loop import OnProgress, Record, Stage, StageConfig, run_stage
from pipeline.errors import DataError
from pipeline.frames import Floats, Ints

_CLIP = 10.0
_EVALUATION_BATCH = 100
_PARAPHRASE_COSINE = 0.6


Draw = Literal["distinct", "paraphrase", "paper"]


class FaultType(BaseModel):
    """One class of the experiment: runs with this disturbance belong to reports of this category."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: int
    category: str


class LateFusionConfig(BaseModel):
    """Everything that determines the experiment, apart from seeds and places."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: dict[str, FaultType] = Field(min_length=2)
    runs_per_class: int = Field(default=500, ge=5)
    frames: int = Field(default=500, ge=2)
    onset_frame: int = Field(default=20, ge=0)
    first_seed: int = Field(default=700_000, ge=0)
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    sensors: SeqLSTMConfig = SeqLSTMConfig(mask_inputs=False)
    text: TextConfig = TextConfig()
    sensor_stage: StageConfig = StageConfig(epochs=12, batch_size=32, learning_rate=3e-3)
    text_stage: StageConfig = StageConfig(epochs=40, batch_size=32, learning_rate=5e-3, weight_decay=1e-2)
    loss: Literal["every_frame", "last_frame"] = "every_frame"
    """Whether every frame after the onset must tell the fault in training, or the last one alone, as in the paper."""
    chunk_frames: int = Field(default=100, ge=1)
    draw: Draw = "distinct"
    """`distinct`: reports are split by their words before runs draw them. `paraphrase`: so are groups of reports that
    say the same in almost the same words. `paper`: pairs are drawn and then split, so that test pairs hold reports that
    training has read."""
    text_folds: int = Field(default=5, ge=2)
    """Text models that are trained, each without another fold of the reports, and averaged. What validation says of a
    report comes from the one model that has not read it."""
    validation_draws: int = Field(default=5, ge=1)
    """Reports that each validation run is paired with, so that the fusion is fitted on more than a few."""
    typo_share: float = Field(default=0.1, ge=0, le=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)

    @property
    def simulation(self) -> SimulationConfig:
        """The runs that the experiment needs."""
        return SimulationConfig(
            faults=tuple(kind.fault for kind in self.classes.values()),
            runs_per_fault=self.runs_per_class,
            frames=self.frames,
            onset_frame=self.onset_frame,
            first_seed=self.first_seed,
        )


class Reports(NamedTuple):
    """Reports (N,) and their classes; the same words may come again."""

    texts: tuple[str, ...]
    classes: Ints  # (N,)

    def take(self, rows: Ints) -> Reports:
        """Some of the reports."""
        return Reports(tuple(self.texts[row] for row in rows), self.classes[rows])


class Heard(NamedTuple):
    """What one modality says: of validation for fitting the fusion, and of the test part."""

    validation: Floats  # (N, C) logits
    test: Floats  # (N, C)


@dataclass(frozen=True, slots=True)
class RunDeal:
    """Rows of the runs in three parts."""

    train: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True, slots=True)
class TextDeal:
    """Reports to learn from, and for each validation and test pair the report that it drew."""

    known: Reports
    groups: Ints
    """Of the known reports; reports of a group share a fold."""
    validation: Ints
    """Rows of `known`."""
    test: Reports
    drawn: Ints
    """Rows of `test`."""

    @property
    def seen_share(self) -> float:
        """Share of the test pairs whose report, but for case and punctuation, is among the known ones."""
        known = {normalised(text) for text in self.known.texts}
        return float(np.mean([normalised(self.test.texts[row]) in known for row in self.drawn]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed gives on its test pairs: the fusion rule that validation chose, and each system's answers."""

    rule: Rule
    classes: Ints  # (N,)
    probabilities: dict[str, Floats]  # (N, C)

    def scores(self) -> dict[str, Scores]:
        """Of each system."""
        return {name: answer_scores(self.classes, said) for name, said in self.probabilities.items()}


def read_reports(path: Path, classes: Mapping[str, FaultType]) -> Reports:
    """The reports of the classes' categories; raises DataError on missing columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; it must be factoryReports.csv of MathWorks") from error
    if not rows or not {"Description", "Category"} <= rows[0].keys():
        raise DataError(f"{path} lacks the columns Description and Category; it must be factoryReports.csv")
    index = {kind.category: at for at, kind in enumerate(classes.values())}
    known = [row for row in rows if row["Category"] in index]
    if missing := index.keys() - {row["Category"] for row in known}:
        raise DataError(f"{path} has no report of category {sorted(missing)[0]!r}")
    return Reports(
        tuple(row["Description"] for row in known), np.array([index[row["Category"]] for row in known], np.int64)
    )


def distinct(reports: Reports) -> Reports:
    """Each text once, whatever its case and punctuation; texts that stand under two classes not at all."""
    seen: dict[str, set[int]] = {}
    first: dict[str, int] = {}
    for row, text in enumerate(reports.texts):
        name = normalised(text)
        seen.setdefault(name, set()).add(int(reports.classes[row]))
        first.setdefault(name, row)
    return reports.take(np.array([row for name, row in first.items() if len(seen[name]) == 1], np.int64))


def paraphrase_groups(reports: Reports) -> Ints:
    """Group of each report: those of one class whose character n-grams are much the same, directly or by others."""
    tfidf = TfidfVectorizer(preprocessor=normalised, analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    points = tfidf.fit_transform(reports.texts)
    alike = (points @ points.T).toarray() >= _PARAPHRASE_COSINE
    same_class = reports.classes[:, None] == reports.classes
    return np.asarray(connected_components(alike & same_class, directed=False)[1], np.int64)


def deal(classes: Ints, share: float, rng: np.random.Generator, groups: Ints | None = None) -> tuple[Ints, Ints]:
    """Rows in two parts, the second of about this share of every class; both in order; groups stay whole."""
    together = np.arange(len(classes)) if groups is None else groups
    held_out: set[int] = set()
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        enough, taken = max(1, round(share * len(rows))), 0
        for group in dict.fromkeys(together[rows].tolist()):
            if taken >= enough:
                break
            held_out.add(group)
            taken += int((together[rows] == group).sum())
    second = np.isin(together, sorted(held_out))
    return np.flatnonzero(~second), np.flatnonzero(second)


def draw_rows(of: Ints, classes: Ints, rng: np.random.Generator) -> Ints:
    """For each class in `classes` (N,) a row of `of` with that class, drawn with repetition."""
    rows = np.zeros(len(classes), np.int64)
    for label in np.unique(classes):
        wanted = classes == label
        rows[wanted] = rng.choice(np.flatnonzero(of == label), int(wanted.sum()))
    return rows


def deal_runs(config: LateFusionConfig, classes: Ints, seed: int) -> RunDeal:
    """The runs in three parts, each class by itself."""
    rng = np.random.default_rng([seed, *b"runs"])
    rest, test = deal(classes, config.test, rng)
    train, validation = deal(classes[rest], config.validation / (1 - config.test), rng)
    return RunDeal(rest[train], rest[validation], test)


def deal_texts(config: LateFusionConfig, reports: Reports, runs: RunDeal, classes: Ints, seed: int) -> TextDeal:
    """Reports dealt by `config.draw`; validation pairs draw from the known ones, which folds keep honest."""
    rng = np.random.default_rng([seed, *b"texts"])
    validation = np.repeat(classes[runs.validation], config.validation_draws)
    if config.draw != "paper":
        once = distinct(reports)
        groups = paraphrase_groups(once) if config.draw == "paraphrase" else np.arange(len(once.texts))
        rows, left_out = deal(once.classes, config.test, rng, groups)
        known, held_out, groups = once.take(rows), once.take(left_out), groups[rows]
        drawn = draw_rows(held_out.classes, classes[runs.test], rng)
    else:
        # Every run draws from all reports before anything is split, so most test reports are known ones.
        learning = np.unique(draw_rows(reports.classes, classes[np.concatenate([runs.train, runs.validation])], rng))
        known, held_out = reports.take(learning), reports
        drawn, groups = draw_rows(reports.classes, classes[runs.test], rng), np.arange(len(learning))
    return TextDeal(known, groups, draw_rows(known.classes, validation, rng), held_out, drawn)


class SequenceStage:
    """Cross entropy of runs (N, T, V) with one class each, by truncated back-propagation with carried state."""

    name = "sequences"

    def __init__(
        self, module: SeqLSTM, x: Tensor, classes: Ints, train: Ints, validation: Ints, config: LateFusionConfig
    ):
        self.module: nn.Module = module
        self._network = module
        self._x = x
        self._y = torch.from_numpy(classes)
        self._train = train
        self._validation = validation
        self._config = config

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        config, frames = self._config, self._x.shape[1]
        every = config.loss == "every_frame"
        chunk = config.chunk_frames if every else frames
        order = rng.permutation(self._train)
        size = config.sensor_stage.batch_size
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size])
            x, y = self._x[rows], self._y[rows]
            state = self._network.init_state(len(rows))
            for begin in range(0, frames, chunk):
                logits, _, state = self._network.advance(x[:, begin : begin + chunk], state)
                state = {key: tensor.detach() for key, tensor in state.items()}
                told = logits[:, max(config.onset_frame - begin, 0) :] if every else logits[:, -1:]
                if told.shape[1]:
                    repeated = y.unsqueeze(1).expand(told.shape[:2]).flatten()
                    loss = cross_entropy(told.flatten(0, 1), repeated, label_smoothing=config.label_smoothing)
                    done = (start + len(rows) * min(1.0, (begin + chunk) / frames)) / len(order)
                    yield min(1.0, done), loss

    def validate(self) -> Record:
        """Loss, as the score with its sign turned, and accuracy at the last frame."""
        return _scored(last_logits(self._network, self._x, self._validation), self._y.numpy()[self._validation])


class TextClassifier(nn.Module):
    """The text encoder with a dense head; one text, one answer."""

    def __init__(self, config: TextConfig, tokenizer: Tokenizer, *, classes: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(config, words=len(tokenizer))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, classes)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.head(self.dropout(self.encoder(self.tokenizer(texts))))
        return logits


class ReportStage:
    """Cross entropy of single reports, each class as often as the others, with typing errors drawn anew."""

    name = "texts"

    def __init__(self, module: TextClassifier, train: Reports, config: LateFusionConfig) -> None:
        self.module: nn.Module = module
        self._network = module
        self._train = train
        self._config = config

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        train, config = self._train, self._config
        y = torch.from_numpy(train.classes)
        weights = 1 / torch.bincount(y, minlength=len(config.classes)).clamp_min(1).float()
        weights = weights * len(y) / len(config.classes)
        order = rng.permutation(len(y))
        size = config.text_stage.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            said = [with_typos(train.texts[row], config.typo_share, rng) for row in rows]
            loss = cross_entropy(self._network(said), y[rows], weights, label_smoothing=config.label_smoothing)
            yield min(1.0, (start + len(rows)) / len(order)), loss

    def validate(self) -> Record:
        """Nothing: the left-out fold is for the fusion, so the last weights are the ones that count."""
        return {"score": 0.0, "validation_loss": None}


def last_logits(network: SeqLSTM, x: Tensor, rows: Ints) -> Floats:
    """Logits (N, C) at the last frame of some runs."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(x[torch.from_numpy(rows[at : at + _EVALUATION_BATCH])])[0][:, -1]
            for at in range(0, len(rows), _EVALUATION_BATCH)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def text_logits(network: TextClassifier, texts: Sequence[str]) -> Floats:
    """Logits (N, C) of texts."""
    network.eval()
    with torch.inference_mode():
        return np.asarray(network(texts).numpy(), np.float32)


def scaled(values: Floats, train: Ints, onset_frame: int) -> Tensor:
    """Standard scores of runs (N, T, V) against the frames before the onset of the training runs."""
    before = [Run("", "", "", values[row, :onset_frame], np.zeros(onset_frame, np.int64)) for row in train]
    scaling = Scaling.fit(before)
    return torch.from_numpy(np.clip((values - scaling.mean) / scaling.std, -_CLIP, _CLIP))


def hear_sequences(
    config: LateFusionConfig,
    x: Tensor,
    classes: Ints,
    runs: RunDeal,
    *,
    seed: int,
    folder: Path,
    on_progress: OnProgress | None = None,
) -> tuple[Heard, list[Record]]:
    """Train the sequence model on runs x (N, T, V); what it says of validation and test runs, and its history."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SeqLSTM(config.sensors, variables=x.shape[2], classes=len(config.classes))
    stage = SequenceStage(network, x, classes, runs.train, runs.validation, config)
    data = hashlib.sha256(x.numpy().tobytes() + classes.tobytes()).hexdigest()
    history = _trained(
        stage, config.sensor_stage, f"{seed} {config.model_dump_json()} {data}", seed, folder, on_progress
    )
    return Heard(last_logits(network, x, runs.validation), last_logits(network, x, runs.test)), history


def hear_texts(
    config: LateFusionConfig, texts: TextDeal, *, seed: int, folder: Path, on_progress: OnProgress | None = None
) -> Heard:
    """Train one text model a fold; log probabilities of the validation and test pairs' reports."""
    known = texts.known
    fold = _folds(known.classes, texts.groups, config.text_folds, np.random.default_rng([seed, *b"folds"]))
    unread = np.zeros((len(fold), len(config.classes)), np.float32)
    mean = np.zeros((len(texts.test.texts), len(config.classes)), np.float64)
    for at in range(config.text_folds):
        read, left_out = known.take(np.flatnonzero(fold != at)), known.take(np.flatnonzero(fold == at))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * config.text_folds + at)
            tokenizer = Tokenizer.fit(read.texts, config.text)
            network = TextClassifier(config.text, tokenizer, classes=len(config.classes))
        stage = ReportStage(network, read, config)
        stage.name = f"texts {at + 1} of {config.text_folds}"
        made_of = f"{seed} {config.model_dump_json()} {read}"
        _trained(stage, config.text_stage, made_of, seed, folder, on_progress)
        unread[fold == at] = text_logits(network, left_out.texts)
        mean += np.exp(_log_softmax(text_logits(network, texts.test.texts))) / config.text_folds
    test = np.log(mean + 1e-12).astype(np.float32)
    return Heard(_log_softmax(unread)[texts.validation], test[texts.drawn])


def fuse(sequences: Heard, texts: Heard, validation: Ints, test: Ints, draws: int, *, seed: int) -> Outcome:
    """Fit every rule on the validation pairs, choose one by them, and answer about the test pairs."""
    classes = sequences.test.shape[1]
    known = Evidence(
        torch.from_numpy(np.stack([np.repeat(sequences.validation, draws, axis=0), texts.validation])),
        torch.ones(2, len(validation) * draws, dtype=torch.bool),
        np.repeat(validation, draws),
        np.repeat(np.arange(len(validation)), draws),
    )
    prior = np.full(classes, 1 / classes)
    chosen, _ = choose_rule("auto", known, prior, seed=seed)
    held_out = torch.from_numpy(np.stack([sequences.test, texts.test]))
    everywhere = torch.ones(2, len(test), dtype=torch.bool)
    probabilities: dict[str, Floats] = {}
    with torch.inference_mode():
        fused = chosen(held_out, everywhere)
        probabilities["sequences"], probabilities["texts"] = (of.numpy() for of in fused.modality_probabilities)
        probabilities["fused"] = fused.probabilities.numpy()
        for rule in RULES:
            fitted = fit_fusion(rule, known, prior, seed=seed)
            probabilities[f"fused, {rule}"] = fitted(held_out, everywhere).probabilities.numpy()
    return Outcome(chosen.config.rule, test, probabilities)


def answer_scores(classes: Ints, probabilities: Floats) -> Scores:
    """Accuracy, macro-F1 and partition scores of the likeliest class; AUC of each class against the rest."""
    said = np.asarray(probabilities.argmax(axis=1), np.int64)
    areas = [float(roc_auc_score(classes == at, probabilities[:, at])) for at in range(probabilities.shape[1])]
    areas_found = {"least_auc": min(areas), "mean_auc": float(np.mean(areas))}
    return label_scores(classes, said) | partition_scores(classes, said) | areas_found


def _trained(
    stage: Stage,
    stage_config: StageConfig,
    made_of: str,
    seed: int,
    folder: Path,
    on_progress: OnProgress | None,
) -> list[Record]:
    return run_stage(
        stage,
        stage_config,
        seed=seed,
        checkpoint=folder / f"{stage.name.replace(' ', '-')}.checkpoint",
        fingerprint=hashlib.sha256(made_of.encode()).hexdigest(),
        resume=True,
        on_progress=on_progress,
    )


def _folds(classes: Ints, groups: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Fold of each row (N,), each class spread evenly, groups whole."""
    fold = np.zeros(len(classes), np.int64)
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        for rank, group in enumerate(dict.fromkeys(groups[rows].tolist())):
            fold[groups == group] = rank % folds
    return fold


def _log_softmax(logits: Floats) -> Floats:
    return np.asarray(torch.log_softmax(torch.from_numpy(logits), dim=1).numpy())


def _scored(logits: Floats, y: Ints) -> Record:
    loss = float(cross_entropy(torch.from_numpy(logits), torch.from_numpy(y)))
    said = np.asarray(logits.argmax(axis=1), np.int64)
    return {"score": -loss, "validation_loss": loss, "accuracy": float(np.mean(said == y))} | partition_scores(y, said)
