"""The training stages of the learned fusions: on frames as the trained encoders see them, and together with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.data.augment import AugmentConfig, disturb, with_typos
from models.data.runs import UNLABELLED, Run
from models.data.scaling import Scaling, hold
from models.data.text_pools import EventDrawConfig, TextPool, run_events
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.evaluation.clustering import partition_scores
from models.fusion.base import LearnedFusion
from models.training.calibration import Evidence
from models.training.loop import Record
from models.training.stages.encoders import Recovery, batches_of_like_length, drawn_offsets, evidence_of, padded, scored
from pipeline.frames import Bools, Floats, Ints


class FusionStage:
    """Trains the fusion network on single frames, while the encoders stay as they are.

    Each epoch takes as many runs, drawn anew, as make up `frames_per_epoch`, disturbs them, draws texts onto them, and
    encodes them once; then their frames are shuffled. Texts are encoded with the noise of training, as in `TextStage`:
    the fusion must not learn to trust texts that the encoder knows by heart.
    """

    name = "fusion"

    def __init__(
        self,
        network: Diagnoser,
        train: Sequence[Run],
        validation: Callable[[], Evidence],
        *,
        pool: TextPool | None,
        draw: EventDrawConfig,
        scaling: Scaling,
        weights: Tensor,
        augment: AugmentConfig,
        hold_limit: int,
        batch_size: int,
        frames_per_epoch: int,
        typo_share: float,
        burn_in: int,
        chunk: int,
        most_offset: int,
        recovery: Recovery,
    ) -> None:
        assert isinstance(network.fusion, LearnedFusion)
        self._network = network
        self._fusion = network.fusion
        self.module: nn.Module = network.fusion.network
        self._train = train
        self._validation = validation
        self._encoded_validation: Evidence | None = None
        self._pool = pool
        self._draw = draw
        self._scaling = scaling
        self._weights = weights
        self._augment = augment
        self._hold_limit = hold_limit
        self._batch_size = batch_size
        self._frames_per_epoch = frames_per_epoch
        self._typo_share = typo_share
        self._burn_in = burn_in
        self._chunk = chunk
        self._most_offset = most_offset
        self._recovery = recovery

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        evidence, weights = self._encoded(self._drawn_runs(rng), rng)
        # Of the frames that weigh little there are few, rather than many that move little.
        frames = rng.permutation(np.flatnonzero(rng.random(len(weights)) < weights))
        labels = torch.from_numpy(evidence.labels)
        for start in range(0, len(frames), self._batch_size):
            rows = torch.from_numpy(frames[start : start + self._batch_size])
            left = some_taken_away(evidence.present[:, rows], self._fusion.config.modality_dropout, rng)
            inputs = self._fusion.inputs(evidence.logits[:, rows], left, [of[rows] for of in evidence.features])
            loss = self._fusion.network.loss(inputs, labels[rows], self._weights)
            yield min(1.0, (start + len(rows)) / len(frames)), loss

    def validate(self) -> Record:
        """Macro-F1, loss, and the scores of the answers as a partition, on undisturbed validation runs."""
        if self._encoded_validation is None:
            self._encoded_validation = self._validation()
        return self._scored(self._encoded_validation)

    def _scored(self, evidence: Evidence) -> Record:
        said = evidence.fused(self._fusion).probabilities
        found = scored(said.clamp_min(1e-12).log().numpy(), evidence.labels)
        return found | partition_scores(evidence.labels, np.asarray(said.argmax(dim=1).numpy(), np.int64))

    def _drawn_runs(self, rng: np.random.Generator) -> list[Run]:
        """Some training runs, disturbed."""
        chosen: list[Run] = []
        frames = 0
        for at in rng.permutation(len(self._train)):
            if frames >= self._frames_per_epoch:
                break
            run = self._train[at]
            frames += len(run)
            chosen.append(replace(run, values=disturb(run.values, self._scaling, self._augment, rng)))
        return chosen

    def _encoded(self, runs: Sequence[Run], rng: np.random.Generator) -> tuple[Evidence, Floats]:
        """The runs' frames from the burn-in on where there is any evidence, and the weight of each (N,)."""
        texts = self._drawn_texts(runs, rng)
        text = self._network.text
        if text is not None:
            text.encoder.train()
        evidence = evidence_of(self._network, runs, texts, self._hold_limit)
        if text is not None:
            text.encoder.eval()
        later: Bools = np.concatenate([np.arange(len(run)) >= self._burn_in for run in runs])
        rows = later & evidence.present.any(dim=0).numpy()
        return evidence.take(rows), np.concatenate([self._recovery.weights(run.labels) for run in runs])[rows]

    def _drawn_texts(self, runs: Sequence[Run], rng: np.random.Generator) -> list[tuple[PlacedText, ...]]:
        return [
            tuple(replace(text, text=with_typos(text.text, self._typo_share, rng)) for text in placed)
            for placed in run_events(runs, self._pool, self._draw, rng)
        ]


class JointStage(FusionStage):
    """Trains sensor encoder, event ring, heads and fusion together, from where the stages before have brought them.

    By truncated back-propagation with carried state, as in `SensorStage`. The loss is the fusion's, and each
    modality's own, so that their answers stay their own. Texts' vectors are as in `TextStage`, without gradient.
    """

    name = "joint"

    def __init__(
        self, network: Diagnoser, train: Sequence[Run], validation: Callable[[], Evidence], **options: Any
    ) -> None:
        super().__init__(network, train, validation, **options)
        parts = {"sensors": network.sensors, "text": network.text, "fusion": self._fusion.network}
        self.module = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        chosen = self._drawn_runs(rng)
        offsets = drawn_offsets(chosen, self._most_offset, rng)
        runs = [_from_frame(run, at) for run, at in zip(chosen, offsets, strict=True)]
        texts = self._drawn_texts(runs, rng)
        lengths = np.array([len(run) for run in runs])
        total, seen = lengths.sum(), 0
        for batch in batches_of_like_length(lengths, self._batch_size, 2 * self._chunk, rng):
            filled = [hold(runs[at].values, self._hold_limit) for at in batch]
            held = padded([values for values, _ in filled], np.nan)
            y = padded([self._learnt(runs[at].labels, rng) for at in batch], UNLABELLED)
            with torch.no_grad():
                _, x = self._network.sensor_inputs(held, padded([measured for _, measured in filled], False))
                rings = self._rings([texts[at] for at in batch], x.shape[1])
            known = ~held.isnan().all(dim=2)
            state = self._network.sensors.init_state(len(batch))
            for start in range(0, x.shape[1], self._chunk):
                part = slice(start, start + self._chunk)
                logits, features, state = self._network.sensors.advance(x[:, part], state)
                state = {key: tensor.detach() for key, tensor in state.items()}
                told = [(logits.flatten(0, 1), known[:, part].flatten(), features.flatten(0, 1))]
                if rings is not None:
                    read = self._network.read_ring(*(of[:, part].flatten(0, 1) for of in rings))
                    told.append((read.logits, read.filled, read.features))
                if bool((y[:, part] >= 0).any()):
                    ended = np.minimum(lengths[batch], start + self._chunk).sum()
                    yield float((seen + ended) / total), self._loss(told, y[:, part].flatten(), rng)
            seen += lengths[batch].sum()

    def validate(self) -> Record:
        """As `FusionStage.validate`."""
        return self._scored(self._validation())

    def _loss(self, told: list[tuple[Tensor, Tensor, Tensor]], labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Of the fusion and of each modality, over the labelled frames with evidence."""
        logits, present, features = zip(*told, strict=True)
        there = torch.stack(present)
        rows = (labels >= 0) & there.any(dim=0)
        y, there = labels[rows], there[:, rows]
        # The late fusion's numbers come from validation; no gradient goes through the answers that it calibrates.
        answers = torch.stack([of[rows].detach() for of in logits])
        left = some_taken_away(there, self._fusion.config.modality_dropout, rng)
        inputs = self._fusion.inputs(answers, left, [of[rows] for of in features])
        loss = self._fusion.network.loss(inputs, y, self._weights)
        for own, shown in zip(logits, there, strict=True):
            if bool(shown.any()):
                loss = loss + cross_entropy(own[rows][shown], y[shown], self._weights)
        return loss

    def _learnt(self, labels: Ints, rng: np.random.Generator) -> Ints:
        """Labels (T,) of the frames that are learnt from, the others UNLABELLED; of those that weigh little there are
        few."""
        there = (rng.random(len(labels)) < self._recovery.weights(labels)) & (np.arange(len(labels)) >= self._burn_in)
        return np.where(there, labels, UNLABELLED)

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
    return replace(run, values=run.values[first:], labels=run.labels[first:], texts=texts)


def some_taken_away(present: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Presence (M, N) with a `share` of the modalities taken away, but never all that a frame has."""
    left = present & torch.from_numpy(rng.random(tuple(present.shape)) >= share)
    return left.where(left.any(dim=0), present)
