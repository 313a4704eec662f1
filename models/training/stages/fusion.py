"""The training stages of the learned fusions: on frames as the trained encoders see them, then encoders and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.data.augment import disturb, with_typos
from models.data.runs import UNLABELLED, Run
from models.data.text_pools import run_events
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.evaluation.clustering import partition_scores
from models.fusion.learned import LearnedFusion
from models.training.batches import batches_of_similar_length, draw_offsets, padded, sensor_batch
from models.training.config import TrainConfig
from models.training.fitting.evidence import Evidence, calibration_evidence, collect_evidence, learnt_classes
from models.training.loop import EpochRecord
from models.training.losses import validation_scores
from models.training.prepare import PreparedData
from pipeline.arrays import Bools, Floats, Ints


class FusionStage:
    """Trains the fusion network on single frames, while the encoders stay as they are.

    Each epoch draws as many runs as make up `fusion_frames_per_epoch`, disturbs them, draws texts onto them, and
    encodes them once; then their frames are shuffled. Texts are encoded with the noise of training, as in `TextStage`:
    the encoder is too confident of texts that it has learnt, and the fusion must not be.
    """

    name = "fusion"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        assert isinstance(network.fusion, LearnedFusion)
        self._network = network
        self._fusion = network.fusion
        self.module: nn.Module = network.fusion.network
        self._data = data
        self._config = config
        self._scaling = network.scaling()
        self._encoded_validation: Evidence | None = None
        self._pool = data.drawn_pools.unread if data.drawn_pools else None
        distractor_share = max(config.events.distractor_share, config.fusion_distractor_share)
        self._events = config.events.model_copy(update={"distractor_share": distractor_share})

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        evidence, weights = self._encode(self._draw_runs(rng), rng)
        # Frames of little weight are drawn less often, instead of each counting for less.
        frames = rng.permutation(np.flatnonzero(rng.random(len(weights)) < weights))
        labels = torch.from_numpy(evidence.labels)
        batch_size = self._config.fusion_stage.batch_size
        for start in range(0, len(frames), batch_size):
            rows = torch.from_numpy(frames[start : start + batch_size])
            present = drop_modalities(evidence.present[:, rows], self._fusion.config.modality_dropout, rng)
            features = [columns[rows] for columns in evidence.features]
            inputs = self._fusion.inputs(evidence.logits[:, rows], present, features)
            loss = self._fusion.network.loss(inputs, labels[rows], self._data.class_weights)
            yield min(1.0, (start + len(rows)) / len(frames)), loss

    def validate(self) -> EpochRecord:
        """Macro-F1, loss, and partition scores of the answers, on undisturbed validation runs."""
        if self._encoded_validation is None:
            self._encoded_validation = calibration_evidence(self._network, self._data)
        return self._scores(self._encoded_validation)

    def _scores(self, evidence: Evidence) -> EpochRecord:
        probabilities = evidence.fused(self._fusion).probabilities
        scores = validation_scores(probabilities.clamp_min(1e-12).log().numpy(), evidence.labels)
        predicted = np.asarray(probabilities.argmax(dim=1).numpy(), np.int64)
        return scores | partition_scores(evidence.labels, predicted)

    def _draw_runs(self, rng: np.random.Generator) -> list[Run]:
        """Some training runs, disturbed."""
        chosen: list[Run] = []
        frames = 0
        for row in rng.permutation(len(self._data.split.train)):
            if frames >= self._config.fusion_frames_per_epoch:
                break
            run = self._data.split.train[row]
            frames += len(run)
            chosen.append(
                replace(run, values=disturb(run.values, self._scaling, self._config.augment, self._data.cells, rng))
            )
        return chosen

    def _encode(self, runs: Sequence[Run], rng: np.random.Generator) -> tuple[Evidence, Floats]:
        """The runs' frames after the burn-in where there is any evidence, and the weight of each (N,)."""
        texts = self._draw_texts(runs, rng)
        text = self._network.text
        if text is not None:
            text.encoder.train()
        evidence = collect_evidence(self._network, runs, texts, self._data.hold_limit).relabelled(learnt_classes(runs))
        if text is not None:
            text.encoder.eval()
        later: Bools = np.concatenate([np.arange(len(run)) >= self._config.burn_in_frames for run in runs])
        rows = later & evidence.present.any(dim=0).numpy()
        weights = np.concatenate([self._config.recovery.weights(run.labels) for run in runs])
        return evidence.take(rows), weights[rows]

    def _draw_texts(self, runs: Sequence[Run], rng: np.random.Generator) -> list[tuple[PlacedText, ...]]:
        return [
            tuple(replace(text, text=with_typos(text.text, self._config.typo_share, rng)) for text in placed)
            for placed in run_events(runs, self._pool, self._events, rng)
        ]


class _ModalityChunk(NamedTuple):
    """One modality of a batch's chunk, N frames."""

    logits: Tensor  # (N, C)
    present: Tensor  # (N,)
    features: Tensor  # (N, D)
    answers: Tensor
    """(N, C) what the fusion gets as its logits: backed by the detector, and without gradient."""


class JointStage(FusionStage):
    """Trains sensor encoder, event ring, heads and fusion together, starting from the earlier stages.

    By truncated back-propagation with carried state, as in `SensorStage`. The loss is the fusion's and each modality's
    own, so that each modality still answers on its own. Vectors of texts are as in `TextStage`, without gradient.
    """

    name = "joint"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        super().__init__(network, data, config)
        assert config.joint_stage is not None
        self._batch_size = config.joint_stage.batch_size
        parts = {
            "sensors": network.sensors,
            "groups": network.groups,
            "text": network.text,
            "fusion": self._fusion.network,
        }
        self.module = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        chunk_frames = self._config.chunk_frames
        chosen = self._draw_runs(rng)
        offsets = draw_offsets(chosen, self._config.most_offset_frames, rng)
        runs = [_from_frame(run, offset) for run, offset in zip(chosen, offsets, strict=True)]
        texts = self._draw_texts(runs, rng)
        lengths = np.array([len(run) for run in runs])
        total, finished = lengths.sum(), 0
        for batch in batches_of_similar_length(lengths, self._batch_size, 2 * chunk_frames, rng):
            y = padded([self._drawn_labels(runs[row], rng) for row in batch], UNLABELLED)
            with torch.no_grad():
                own = [runs[row].texts or () for row in batch]
                readings = [runs[row].values for row in batch]
                values, x = sensor_batch(self._network, readings, own, self._data.hold_limit)
                rings = self._rings([texts[row] for row in batch], x.shape[1])
                observed = padded([~np.isnan(run) for run in readings], False)
                backing = self._network.backing(values, observed)
            present = ~values.isnan().all(dim=2)
            state = self._network.sensors.init_state(len(batch))
            groups = self._network.groups
            group_state = {} if groups is None else groups.init_state(len(batch))
            for start in range(0, x.shape[1], chunk_frames):
                part = slice(start, start + chunk_frames)
                logits, features, state = self._network.sensors.advance(x[:, part], state)
                state = {key: tensor.detach() for key, tensor in state.items()}
                encoded, answers = logits.flatten(0, 1), backing.add(logits.detach(), part).flatten(0, 1)
                chunks = [_ModalityChunk(encoded, present[:, part].flatten(), features.flatten(0, 1), answers)]
                if groups is not None:
                    encodings, group_state = groups.advance(x[:, part], group_state)
                    group_state = {key: tensor.detach() for key, tensor in group_state.items()}
                    for place, (own_logits, own_features) in enumerate(encodings):
                        there = groups.present(place, values[:, part]).flatten()
                        own_logits = own_logits.flatten(0, 1)
                        chunk = (own_logits, there, own_features.flatten(0, 1), own_logits.detach())
                        chunks.append(_ModalityChunk(*chunk))
                if rings is not None:
                    read = self._network.read_ring(*(tensor[:, part].flatten(0, 1) for tensor in rings))
                    answers = read.logits.detach()
                    chunks.append(_ModalityChunk(read.logits, read.filled, read.features, answers))
                if bool((y[:, part] >= 0).any()):
                    ended = np.minimum(lengths[batch], start + chunk_frames).sum()
                    yield float((finished + ended) / total), self._loss(chunks, y[:, part].flatten(), rng)
            finished += lengths[batch].sum()

    def validate(self) -> EpochRecord:
        """As `FusionStage.validate`, with the encoders as they are now."""
        return self._scores(calibration_evidence(self._network, self._data))

    def _loss(self, chunks: Sequence[_ModalityChunk], labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Loss of the fusion and of each modality, over the labelled frames with evidence."""
        present = torch.stack([chunk.present for chunk in chunks])
        rows = (labels >= 0) & present.any(dim=0)
        y, present = labels[rows], present[:, rows]
        # The late fusion is fitted on validation frames; no gradient goes through the answers that it calibrates.
        answers = torch.stack([chunk.answers[rows] for chunk in chunks])
        kept = drop_modalities(present, self._fusion.config.modality_dropout, rng)
        inputs = self._fusion.inputs(answers, kept, [chunk.features[rows] for chunk in chunks])
        class_weights = self._data.class_weights
        loss = self._fusion.network.loss(inputs, y, class_weights)
        for chunk, there in zip(chunks, present, strict=True):
            if bool(there.any()):
                loss = loss + cross_entropy(chunk.logits[rows][there], y[there], class_weights)
        return loss

    def _drawn_labels(self, run: Run, rng: np.random.Generator) -> Ints:
        """Classes (T,) of the frames to learn from, the others UNLABELLED; frames are drawn by weight."""
        drawn = rng.random(len(run)) < self._config.recovery.weights(run.labels)
        return np.where(drawn & (np.arange(len(run)) >= self._config.burn_in_frames), run.learnt, UNLABELLED)

    def _rings(self, texts: Sequence[Sequence[PlacedText]], frames: int) -> tuple[Tensor, Tensor] | None:
        """Rings (B, T, E, d) and ages (B, T, E) of a batch."""
        if self._network.text is None:
            return None
        rings = [self._network.ring_of_run(placed, frames) for placed in texts]
        return torch.stack([ring for ring, _ in rings]), torch.stack([age for _, age in rings])


def _from_frame(run: Run, first: int) -> Run:
    """The run from this frame on."""
    texts = run.texts
    if texts is not None:
        texts = tuple(replace(text, frame=text.frame - first) for text in texts if text.frame >= first)
    targets = None if run.targets is None else run.targets[first:]
    return replace(run, values=run.values[first:], labels=run.labels[first:], texts=texts, targets=targets)


def drop_modalities(present: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Presence (M, N) with a `share` of the modalities taken away, but never all of a frame."""
    kept = present & torch.from_numpy(rng.random(tuple(present.shape)) >= share)
    return kept.where(kept.any(dim=0), present)
