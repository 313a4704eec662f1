"""The training stages of the text modality: its encoder on single texts, then the event ring on frames with texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.data.augment import with_typos
from models.data.runs import UNLABELLED, Run
from models.data.text_pools import TextPool, run_events
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText, ring_plan
from models.training.config import TrainConfig
from models.training.fitting.evidence import text_answers
from models.training.loop import EpochRecord
from models.training.losses import Recovery, validation_scores, weighted_loss
from models.training.prepare import PreparedData, learnt_frames
from pipeline.arrays import Floats, Ints

_ENCODE_BATCH = 512
_LABEL_SMOOTHING = 0.05


class WordStage:
    """Trains the text encoder to classify single texts, with a linear head that is thrown away afterwards.

    Its categories are the classes, and two more: vague texts, and reports that a fault is over. Learning this from
    whole rings would take many times as long, because each ring mixes several texts.
    """

    name = "words"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        assert network.text is not None
        assert data.pools is not None
        self._modality = network.text
        self._train = data.pools.train
        self._validation = data.pools.validation
        self._config = config
        self._classes = network.config.classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            head = nn.Linear(network.text.config.size, self._classes + 2)
        self.module: nn.Module = nn.ModuleDict({"encoder": network.text.encoder, "head": head})
        self._head = nn.Sequential(nn.Dropout(network.text.config.dropout), head)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        self._head.train()
        categories = torch.from_numpy(self._categories(self._train))
        order = rng.permutation(len(self._train))
        batch_size = self._config.word_stage.batch_size
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            texts = [with_typos(self._train.texts[row], self._config.typo_share, rng) for row in rows]
            logits = self._head(self._modality.encode(texts))
            loss = cross_entropy(logits, categories[rows], label_smoothing=_LABEL_SMOOTHING)
            yield min(1.0, (start + len(rows)) / len(order)), loss

    def validate(self) -> EpochRecord:
        """Macro-F1 and loss over the distinct texts of the validation pool."""
        self._head.eval()
        if not len(self._validation):
            return validation_scores(np.zeros((0, self._classes + 2), np.float32), np.zeros(0, np.int64))
        with torch.inference_mode():
            logits = self._head(self._modality.encode(list(self._validation.texts))).numpy()
        return validation_scores(logits, self._categories(self._validation))

    def _categories(self, pool: TextPool) -> Ints:
        categories = np.where(pool.classes == UNLABELLED, self._classes, pool.classes)
        return np.where(pool.recovered, self._classes + 1, categories)


class TextStage:
    """Cross entropy on frames whose ring holds texts, with a new draw of texts onto the training runs each epoch.

    The encoder has been trained by `WordStage` and stays as it is, but its vectors keep the noise of training (dropout,
    lost words, typing errors): the encoder is too confident of texts that it has learnt, and the ring must not be.
    No text is about a plant that recovers; how probable `recovering` is beside the texts of a ring is learnt from the
    frames that hold them, so that texts do not speak against what the sensors show.
    """

    name = "text"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        assert network.text is not None
        self.module: nn.Module = network.text
        self._network = network
        self._modality = network.text
        self._data = data
        self._config = config
        self._pool = data.drawn_pools.train if data.drawn_pools else None
        self._validation_labels = learnt_frames(config, data.split.validation)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        config, runs, batch_size = self._config, self._data.split.train, self._config.text_stage.batch_size
        texts = run_events(runs, self._pool, config.events, rng)
        rings = _Rings.of_runs(self._network, runs, texts, config.recovery)
        if not rings.texts:
            return
        distorted = [with_typos(text, config.typo_share, rng) for text in rings.texts]
        with torch.no_grad():
            vectors = torch.cat(
                [
                    self._modality.encode(distorted[start : start + _ENCODE_BATCH])
                    for start in range(0, len(distorted), _ENCODE_BATCH)
                ]
            )
        chosen = rng.permutation(len(rings.labels))[: config.text_frames_per_epoch]
        for start in range(0, len(chosen), batch_size):
            frames = chosen[start : start + batch_size]
            age = torch.from_numpy(rings.ages[frames])
            ring = vectors[torch.from_numpy(rings.rows[frames])] * (age >= 0).unsqueeze(-1)
            logits, _ = self._modality(ring, age)
            labels, weights = (torch.from_numpy(column[frames]) for column in (rings.labels, rings.weights))
            loss = weighted_loss(logits, labels, self._data.class_weights, weights)
            yield min(1.0, (start + len(frames)) / len(chosen)), loss

    def validate(self) -> EpochRecord:
        """Macro-F1 and loss on all frames of the validation runs where a text is in the ring."""
        answers = text_answers(self._network, self._data.split.validation, self._data.texts["validation"])
        present = np.concatenate([answer.present for answer in answers])
        logits = np.concatenate([answer.logits for answer in answers])
        return validation_scores(logits[present], self._validation_labels[present])


class _Rings:
    """The rings of all frames that have texts and a weight: rows (N, E) into `texts`, ages (N, E), classes and
    weights (N,)."""

    def __init__(self, texts: list[str], rows: Ints, ages: Floats, labels: Ints, weights: Floats) -> None:
        self.texts = texts
        self.rows = rows
        self.ages = ages
        self.labels = labels
        self.weights = weights

    @classmethod
    def of_runs(
        cls, network: Diagnoser, runs: Sequence[Run], texts: Sequence[Sequence[PlacedText]], recovery: Recovery
    ) -> _Rings:
        assert network.config.text is not None
        size, ttl = network.config.text.ring, network.config.text_ttl_frames
        all_texts: list[str] = []
        rows, ages, labels, weights = (
            [np.zeros((0, size), np.int64)],
            [np.zeros((0, size), np.float32)],
            [np.zeros(0, np.int64)],
            [np.zeros(0, np.float32)],
        )
        for run, placed in zip(runs, texts, strict=True):
            row, age = ring_plan(placed, len(run), size=size, ttl=ttl)
            weight = recovery.weights(run.labels)
            useful = (age >= 0).any(axis=1) & (weight > 0)
            rows.append(row[useful] + len(all_texts))
            ages.append(age[useful].astype(np.float32))
            labels.append(run.learnt[useful])
            weights.append(weight[useful])
            all_texts += [text.text for text in placed]
        columns = (np.concatenate(rows), np.concatenate(ages), np.concatenate(labels), np.concatenate(weights))
        return cls(all_texts, *columns)
