"""Evidence: what each modality of a network answers for the frames of runs, which fusions are fitted and scored on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.data.runs import Run
from models.diagnoser import Diagnoser
from models.encoders.base import SensorEncoder
from models.encoders.event_ring import TextModality
from models.encoders.experts.pool import PooledExperts
from models.encoders.placed_texts import PlacedText
from models.fusion.base import Fused
from models.fusion.late import LateFusion
from models.fusion.learned import LearnedFusion
from models.training.batches import padded, sensor_batch
from models.training.prepare import Part, PreparedData
from pipeline.arrays import Bools, Floats, Ints

_RUN_BATCH = 32
_RING_BATCH = 4096
_FUSION_BATCH = 8192
"""Frames that a fusion answers at a time, which bounds the memory."""


class Evidence:
    """Frames to fit on or to score: logits (M, N, C), present (M, N), true class (N,), the run of each frame (N,), and
    each modality's features (N, D_m) if a fusion needs them."""

    def __init__(
        self, logits: Tensor, present: Tensor, labels: Ints, runs: Ints, features: Sequence[Tensor] = ()
    ) -> None:
        self.logits = logits
        self.present = present
        self.labels = labels
        self.runs = runs
        self.features = tuple(features)

    def relabelled(self, labels: Ints) -> Evidence:
        """The same frames with other classes (N,)."""
        return Evidence(self.logits, self.present, labels, self.runs, self.features)

    def take(self, rows: Bools) -> Evidence:
        """Some of the frames."""
        chosen = torch.from_numpy(rows)
        features = [columns[chosen] for columns in self.features]
        return Evidence(self.logits[:, chosen], self.present[:, chosen], self.labels[rows], self.runs[rows], features)

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """The frames of all parts, one after another; with features if all parts have them."""
        features = [torch.cat(columns) for columns in zip(*(part.features for part in parts), strict=True)]
        return cls(
            torch.cat([part.logits for part in parts], dim=1),
            torch.cat([part.present for part in parts], dim=1),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.runs for part in parts]),
            features,
        )

    def fused(self, fusion: LateFusion | LearnedFusion) -> Fused:
        """The fusion's answer for all frames, without embeddings and attention, which would need much memory."""
        parts = [
            (part.probabilities, part.modality_probabilities, part.weights) for part in self._fused_in_parts(fusion)
        ]
        probabilities, modality_probabilities, weights = zip(*parts, strict=True)
        return Fused(torch.cat(probabilities), torch.cat(modality_probabilities, dim=1), torch.cat(weights, dim=1))

    def embedded(self, fusion: LateFusion | LearnedFusion) -> Floats:
        """What a learned fusion classifies in each frame, (N, D); the answers (N, C) of a late fusion."""
        return np.concatenate(
            [
                (part.probabilities if part.embedding is None else part.embedding).numpy()
                for part in self._fused_in_parts(fusion)
            ]
        )

    def _fused_in_parts(self, fusion: LateFusion | LearnedFusion) -> Iterator[Fused]:
        for start in range(0, len(self.labels), _FUSION_BATCH):
            part = slice(start, start + _FUSION_BATCH)
            with torch.inference_mode():
                yield fusion(self.logits[:, part], self.present[:, part], [columns[part] for columns in self.features])


class ModalityAnswer(NamedTuple):
    """One modality's answer for a run of T frames."""

    logits: Floats  # (T, C)
    present: Bools  # (T,)
    features: Floats  # (T, D)


def sensor_answers(
    network: Diagnoser,
    runs: Sequence[Run],
    hold_limit: int,
    encoder: SensorEncoder | None = None,
    *,
    armed: bool = False,
) -> list[ModalityAnswer]:
    """The sensors' answer for each run, as the detector backs it; or that of an encoder, such as one expert, alone.
    `armed`: with the detector armed in every frame, the most that it can add."""
    answers: list[ModalityAnswer] = []
    with torch.inference_mode():
        for start in range(0, len(runs), _RUN_BATCH):
            batch = runs[start : start + _RUN_BATCH]
            values, x = sensor_batch(
                network, [run.values for run in batch], [run.texts or () for run in batch], hold_limit
            )
            if encoder is None:
                observed = padded([~np.isnan(run.values) for run in batch], False)
                logits, features, _ = network.sense(values, observed, x, armed=armed)
            else:
                logits, features = encoder(expert_inputs(network, encoder, x))
            present = ~values.isnan().all(dim=2)
            for run, *columns in zip(batch, logits, present, features, strict=True):
                answers.append(ModalityAnswer(*(column[: len(run)].numpy() for column in columns)))
    return answers


def expert_inputs(network: Diagnoser, encoder: SensorEncoder | None, x: Tensor) -> Tensor:
    """What an expert of the network's pool, or the encoder of a group of variables, gets of the input x (…, F) of all
    variables; x itself for any other encoder."""
    if network.groups is not None:
        for place, member in network.groups.members():
            if member is encoder:
                return network.groups.inputs(place, x)
    if isinstance(network.sensors, PooledExperts):
        for place, expert in network.sensors.members():
            if expert is encoder:
                return network.sensors.inputs(place, x)
    return x


def group_answers(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> list[list[ModalityAnswer]]:
    """Of each modality that is a group of variables its answer for each run."""
    groups = network.groups
    if groups is None:
        return []
    answers: list[list[ModalityAnswer]] = [[] for _ in groups.groups]
    with torch.inference_mode():
        for start in range(0, len(runs), _RUN_BATCH):
            batch = runs[start : start + _RUN_BATCH]
            values, x = sensor_batch(
                network, [run.values for run in batch], [run.texts or () for run in batch], hold_limit
            )
            for place, encoder in groups.members():
                logits, features = encoder(groups.inputs(place, x))
                present = groups.present(place, values)
                for run, *columns in zip(batch, logits, present, features, strict=True):
                    answers[place].append(ModalityAnswer(*(column[: len(run)].numpy() for column in columns)))
    return answers


def text_answers(
    network: Diagnoser, runs: Sequence[Run], texts: Sequence[Sequence[PlacedText]]
) -> list[ModalityAnswer]:
    """The text modality's answer for each run."""
    answers: list[ModalityAnswer] = []
    assert isinstance(network.text, TextModality)
    with torch.inference_mode():
        for run, placed in zip(runs, texts, strict=True):
            ring, age = network.ring_of_run(placed, len(run))
            parts = [
                network.read_ring(ring[start : start + _RING_BATCH], age[start : start + _RING_BATCH])
                for start in range(0, len(run), _RING_BATCH)
            ]
            logits = torch.cat([part.logits for part in parts]).numpy()
            filled = torch.cat([part.filled for part in parts]).numpy()
            answers.append(ModalityAnswer(logits, filled, torch.cat([part.features for part in parts]).numpy()))
    return answers


def collect_evidence(
    network: Diagnoser,
    runs: Sequence[Run],
    texts: Sequence[Sequence[PlacedText]],
    hold_limit: int,
    *,
    armed: bool = False,
) -> Evidence:
    """The answers of all modalities for every frame of the runs, run after run; `armed` as in `sensor_answers`."""
    modalities = [sensor_answers(network, runs, hold_limit, armed=armed), *group_answers(network, runs, hold_limit)]
    if network.text is not None:
        modalities.append(text_answers(network, runs, texts))
    logits = np.stack([np.concatenate([answer.logits for answer in answers]) for answers in modalities])
    present = np.stack([np.concatenate([answer.present for answer in answers]) for answers in modalities])
    features = [torch.from_numpy(np.concatenate([answer.features for answer in answers])) for answers in modalities]
    labels = np.concatenate([run.labels for run in runs])
    index = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    return Evidence(torch.from_numpy(logits), torch.from_numpy(present), labels, index, features)


def part_evidence(network: Diagnoser, data: PreparedData, part: Part) -> Evidence:
    """The evidence of a held-out part."""
    return collect_evidence(network, data.runs(part), data.texts[part], data.hold_limit)


def calibration_evidence(network: Diagnoser, data: PreparedData) -> Evidence:
    """The evidence of the validation frames that fusions are fitted on, with the classes to learn."""
    return for_calibration(part_evidence(network, data, "validation"), data)


def for_calibration(validation: Evidence, data: PreparedData) -> Evidence:
    """Those of the validation frames that fusions are fitted on, with the classes to learn."""
    return validation.relabelled(learnt_classes(data.split.validation)).take(data.calibration_rows)


def learnt_classes(runs: Sequence[Run]) -> Ints:
    """The classes to learn of all frames, run after run."""
    return np.concatenate([run.learnt for run in runs])


def visible_faults(network: Diagnoser, faults: int) -> Bools:
    """Which classes are faults that the sensors can see, (C,), of a model for the first `faults` classes of labels."""
    visible = np.zeros(network.config.classes, bool)
    visible[1:faults] = True
    if isinstance(network.sensors, PooledExperts):
        visible &= ~network.sensors.hidden.bool().numpy()
    return visible
