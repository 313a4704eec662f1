"""Retrieval between sensors, texts and incidents: trained heads against words, nearest windows and the diagnoses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.configs.retrieval import RetrievalChoice
from models.data.runs import Run, class_runs
from models.data.scaling import hold
from models.data.text_pools import TextPool, run_events
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.evaluation.retrieval import retrieval_scores
from models.evaluation.scoring import Scores
from models.experiments.base import Column, Need, OnPartProgress, Results, above_seed, folder_of_seed, report_part
from models.experiments.trainings import model_in
from models.fusion.retrieval import Retrieval
from models.model_file import Model, read_model
from models.network_file import build_network
from models.training.config import TrainConfig, load_train_config
from models.training.fitting.evidence import sensor_answers, text_answers
from models.training.loop import Progress, run_stage
from models.training.prepare import Part, PreparedData, prepare, require_same_split
from models.training.stages.retrieval import RetrievalStage, faulty_texts, text_features
from pipeline.arrays import Floats, Ints
from pipeline.engine.reports.incidents.bm25 import BM25
from pipeline.engine.reports.incidents.similarity import SignatureIndex, diagnosis_signature
from pipeline.errors import DataError

Similarity = NDArray[np.float64]
_SHOWN_VARIABLES = 3
_NOTABLE_DEVIATION = 3.0
_CLIP = 10.0
"""Standard scores of raw windows are cut at this."""
_NEIGHBOURS = 5
"""Nearest windows whose texts become a query."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """N faults of runs as they were a while after their onset."""

    classes: Ints  # (N,)
    sensors: Tensor  # (N, D_s) features
    text: Tensor  # (N, D_t) features, 0 without a text
    has_text: Tensor  # (N,)
    sensor_answers: Tensor  # (N, C) probabilities by the sensors alone
    answers: Tensor  # (N, C) fused
    window: Floats  # (N, V) standard scores, means over the window
    deviations: Floats  # (N, V) standard scores of the frame
    words: tuple[str, ...]
    """The texts that were written from the onset on, joined."""


class RetrievalExperiment(BaseModel):
    """Trained models with a retrieval head on their encoders, scored on faults and texts that are held out.

    sensors -> text: of all texts about faults of the part, those of the same fault. text -> sensors: of the part's
    episodes. fused -> incident: an episode with its texts, to the episodes of the training part with theirs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["retrieval"]
    title: str
    train: Path
    """Training configuration of the models; its relative paths start from `work`."""
    work: Path
    made_by: str
    """What makes the inputs in `work`."""
    models_made_by: str
    """What trains the models."""
    model: str
    """Folder that a training wrote its model to; `{seed}` stands for the seed."""
    columns: tuple[Column, ...] = Field(min_length=1)
    settings: RetrievalChoice = RetrievalChoice()
    part: Part = "test"
    frames_after_onset: int = Field(default=30, ge=0)
    """When an episode is looked at; at its last frame if it is shorter."""
    window: int = Field(default=10, ge=1)
    """Frames of the raw windows that are compared."""
    hard_faults: tuple[str, ...] = ()
    """Every score is also given without them, as `without_hard.…`."""
    variables_weights: tuple[float, ...] = (0.25,)
    """Of signatures, one row each."""

    def needs(self) -> list[Need]:
        """See `Experiment.needs`."""
        config = load_train_config(self.train, data=self.work, output=Path())
        needed = [Need(path, self.made_by) for path in config.inputs]
        return [*needed, Need(above_seed(self.model), self.models_made_by)]

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """See `Experiment.run`."""
        rows: dict[str, list[Scores]] = {}
        for seed in seeds:
            for name, scores in self._of_seed(seed, out / f"seed-{seed}", on_progress).items():
                rows.setdefault(name, []).append(scores)
        return Results(self.title, tuple(seeds), rows, self.columns)

    def _of_seed(self, seed: int, folder: Path, on_progress: OnPartProgress) -> dict[str, Scores]:
        folder.mkdir(parents=True, exist_ok=True)
        config = load_train_config(self.train, data=self.work, output=folder, seed=seed)
        config = config.model_copy(update={"retrieval": self.settings})
        on_progress(f"seed {seed}, data", Progress("data", 0, 1, 0.0))
        data = prepare(config)
        model = self._model(seed)
        require_same_split(model, config, data)
        network = self._with_head(model, data, config, on_progress)
        assert network.retrieval is not None and data.drawn_pools is not None
        known, held_out = data.drawn_pools.unread, getattr(data.drawn_pools, self.part)
        on_progress(f"seed {seed}, episodes", Progress("episodes", 0, 1, 0.0))
        rng = np.random.default_rng([seed, *b"incidents"])
        drawn = run_events(data.split.train, known, config.events, rng)
        past = self._episodes(network, data, data.split.train, drawn)
        now = self._episodes(network, data, data.runs(self.part), data.texts[self.part])
        comparison = _Comparison(network, network.retrieval, data, held_out, past, now)
        hard = [data.faults.index(fault) for fault in self.hard_faults]
        similar = comparison.similarities(self.variables_weights)
        return {name: _with_easy(given, hard) for name, given in similar.items()}

    def _model(self, seed: int) -> Model:
        folder = folder_of_seed(self.model, seed)
        return read_model(model_in(folder, self.title, self.models_made_by))

    def _with_head(
        self, model: Model, data: PreparedData, config: TrainConfig, on_progress: OnPartProgress
    ) -> Diagnoser:
        """The model's network with a head trained on its encoders, as `faultline train` does it."""
        network = build_network(model)
        if network.text is None or len(network.modalities) != 2:
            raise DataError(
                f"{self.title}: model {model.path} has the modalities {', '.join(network.modalities)}, and sensors and "
                "text are compared here; name models of a training with these"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network.retrieval = Retrieval(
                self.settings.network(),
                sensor_features=network.sensors.feature_size,
                text_features=network.text.feature_size,
            )
        network.eval()
        stage = RetrievalStage(network, data, config)
        described = f"{self.settings.model_dump_json()} {config.retrieval_stage.model_dump_json()} {model.header.hash}"
        run_stage(
            stage,
            config.retrieval_stage,
            seed=config.seed,
            checkpoint=config.output / "retrieval.checkpoint",
            fingerprint=hashlib.sha256(described.encode()).hexdigest(),
            resume=True,
            on_progress=report_part(on_progress, f"seed {config.seed}"),
        )
        return network

    def _episodes(
        self, network: Diagnoser, data: PreparedData, runs: Sequence[Run], texts: Sequence[Sequence[PlacedText]]
    ) -> Episodes:
        parts: list[tuple[object, ...]] = []
        chunk = 32
        for start in range(0, len(runs), chunk):
            some, placed = runs[start : start + chunk], texts[start : start + chunk]
            sensed, read = sensor_answers(network, some, data.hold_limit), text_answers(network, some, placed)
            for run, own, sensors, text in zip(some, placed, sensed, read, strict=True):
                held, _ = hold(run.values, data.hold_limit)
                scaled = np.nan_to_num((held - network.mean.numpy()) / network.std.numpy())
                for begin, end, label in class_runs(run.labels):
                    if label <= 0:
                        continue
                    at = min(begin + self.frames_after_onset, end - 1)
                    written = " ".join(one.text for one in own if begin <= one.frame <= at)
                    window = scaled[max(0, at + 1 - self.window) : at + 1].clip(-_CLIP, _CLIP).mean(axis=0)
                    logits = np.stack([sensors.logits[at], text.logits[at]])
                    present = np.array([True, text.present[at]])
                    parts.append(
                        (label, sensors.features[at], text.features[at], present, logits, window, scaled[at], written)
                    )
        labels, features, text_columns, present_, logits_, windows, deviations, words = zip(*parts, strict=True)
        answers = torch.from_numpy(np.stack(logits_)).transpose(0, 1)
        present_rows = torch.from_numpy(np.stack(present_)).T
        both = (torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(text_columns)))
        with torch.inference_mode():
            fused = network.fusion(answers, present_rows, both)
        return Episodes(
            np.array(labels, np.int64),
            *both,
            present_rows[1],
            fused.modality_probabilities[0],
            fused.probabilities,
            np.stack(windows),
            np.stack(deviations),
            tuple(str(one) for one in words),
        )


@dataclass(frozen=True, slots=True)
class Given:
    """How similar queries are to items, and the classes of both."""

    similarity: Similarity  # (Q, N)
    queries: Ints  # (Q,)
    items: Ints  # (N,)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Everything that is compared for one seed: the part's texts and episodes, and the episodes of the past."""

    network: Diagnoser
    head: Retrieval
    data: PreparedData
    pool: TextPool
    past: Episodes
    now: Episodes

    def similarities(self, variables_weights: Sequence[float]) -> dict[str, Given]:
        """Of each direction by each system."""
        past, now, head = self.past, self.now, self.head
        assert self.network.text is not None
        vectors, classes = faulty_texts(self.network, self.pool)
        rows = [row for row in np.flatnonzero(self.pool.classes > 0) if self.network.text.knows(self.pool.texts[row])]
        texts = [self.pool.texts[row] for row in rows]
        with torch.inference_mode():
            read = text_features(self.network.text, vectors, torch.ones(len(classes)))
            to_texts = (head.sensors(now.sensors) @ head.text(read).T).double().numpy()
            own = torch.softmax(self.network.text.head(read), dim=1)
            by_answers = _cosines(now.sensor_answers[:, 1:].sqrt(), own[:, 1:].sqrt())
            together = head.together(now.sensors, now.text, now.has_text.float())
            earlier = head.together(past.sensors, past.text, past.has_text.float())
        index = BM25(texts)
        by_titles = np.stack([index.scores(title) for title in self._titles(now)])
        near = -torch.cdist(torch.from_numpy(now.window).double(), torch.from_numpy(past.window).double()).numpy()
        hops = [" ".join(past.words[row] for row in np.argsort(-line)[:_NEIGHBOURS]) for line in near]
        titles = BM25(self._titles(now))
        there: dict[str, Similarity] = {
            "head": to_texts,
            "class probabilities": by_answers,
            "BM25 from titles": by_titles,
            "nearest windows, then BM25": np.stack([index.scores(query) for query in hops]),
        }
        back: dict[str, Similarity] = {
            "head": to_texts.T,
            "class probabilities": by_answers.T,
            "BM25 to titles": np.stack([titles.scores(text) for text in texts]),
        }
        written = BM25(past.words)
        among: dict[str, Similarity] = {
            "head": (together @ earlier.T).double().numpy(),
            "head, sensors alone": self._alone(),
            "class probabilities": _cosines(now.answers[:, 1:].sqrt(), past.answers[:, 1:].sqrt()),
            "nearest windows": near,
            "windows by cosine": _cosines(torch.from_numpy(now.window), torch.from_numpy(past.window)),
            "BM25": np.stack([written.scores(query) for query in now.words]),
        }
        for weight in variables_weights:
            among[f"signatures, variables {weight:g}"] = self._signatures(weight)
        found = {f"sensors -> text, {name}": Given(one, now.classes, classes) for name, one in there.items()}
        found |= {f"text -> sensors, {name}": Given(one, classes, now.classes) for name, one in back.items()}
        return found | {
            f"fused -> incident, {name}": Given(one, now.classes, past.classes) for name, one in among.items()
        }

    def _alone(self) -> Similarity:
        with torch.inference_mode():
            similar = self.head.sensors(self.now.sensors) @ self.head.sensors(self.past.sensors).T
        return np.asarray(similar.double().numpy())

    def _signatures(self, weight: float) -> Similarity:
        make: Callable[[Episodes], list[dict[str, int]]] = lambda episodes: [  # noqa: E731
            diagnosis_signature(
                {name: p for name, p in zip(self.data.classes, answers, strict=False) if p >= 0.0005},
                self._shown(deviations),
                variables_weight=weight,
            )
            for answers, deviations in zip(episodes.answers.tolist(), episodes.deviations, strict=True)
        ]
        index = SignatureIndex({str(row): one for row, one in enumerate(make(self.past))})
        return np.stack([index.scores(signature) for signature in make(self.now)])

    def _shown(self, deviations: Floats) -> list[tuple[str, float]]:
        """What a diagnosis shows: up to three variables far from their normal range."""
        order = np.argsort(-np.abs(deviations), kind="stable")[:_SHOWN_VARIABLES]
        names = self.data.machine_type.variable_names
        return [(names[row], float(deviations[row])) for row in order if abs(deviations[row]) >= _NOTABLE_DEVIATION]

    def _titles(self, episodes: Episodes) -> list[str]:
        """What the profile calls the most probable fault by the sensors, and the variables that stand out."""
        kind = self.data.machine_type
        faults = {
            fault.name: f"{fault.title or fault.name} {fault.description or ''}" for fault in kind.described_faults
        }
        variables = {variable.name: variable.title or variable.name for variable in kind.variables}
        titles = []
        for answers, deviations in zip(episodes.sensor_answers, episodes.deviations, strict=True):
            best = 1 + int(answers[1 : len(kind.faults)].argmax())
            shown = " ".join(variables[name] for name, _ in self._shown(deviations))
            titles.append(f"{faults[kind.faults[best]]} {shown}")
        return titles


def _with_easy(given: Given, hard: Sequence[int]) -> Scores:
    """The scores, and as `without_hard` those without these classes."""
    scores = retrieval_scores(given.similarity, given.queries, given.items)
    queries, items = ~np.isin(given.queries, hard), ~np.isin(given.items, hard)
    easy = given.similarity[queries][:, items]
    return scores | {"without_hard": retrieval_scores(easy, given.queries[queries], given.items[items])}


def _cosines(left: Tensor, right: Tensor) -> Similarity:
    """Between the rows of (Q, D) and (N, D)."""
    left, right = left.double(), right.double()
    lengths = left.norm(dim=1)[:, None] * right.norm(dim=1)[None, :]
    return np.asarray((left @ right.T / lengths.clamp_min(1e-12)).numpy())
