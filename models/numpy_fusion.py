"""The fusions of the numpy backend: the late one and its rules, and the frame of the learned ones."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from models.configs.fusion import LEAST_TOLD
from models.diagnoser import Diagnoser
from models.fusion import LateFusion, LearnedFusion
from models.numpy_mixing import Told, known, mixer
from models.numpy_parts import Filling, Read, Sensed, array, softmax, turned
from pipeline.frames import Bools, Floats, Ints, StepResult

_TINY = np.float32(1e-12)


class Found(NamedTuple):
    """What the encoders found in `count` machines of a round."""

    sensed: Sensed  # with the columns that fill the round up
    known: Bools | None
    """(count,) which machines have any reading; None if all have all."""
    told: Ints  # (K,) which have any text
    text: Read | None
    """What those texts say; None if there are none."""


class Fuser(Protocol):
    """A fusion in numpy."""

    attends: bool
    """Whether its results have an attention."""

    def __call__(self, found: Found, filling: Filling, rows: slice, result: StepResult) -> None:
        """Write what is found in these rows of a round into its result."""
        ...


def unsupported_fusion(network: Diagnoser) -> str | None:
    """The network's fusion, in words, if it is not one that this module can compute."""
    fusion = network.fusion
    if isinstance(fusion, LateFusion) or known(fusion.network):
        return None
    return f"fusion {network.config.fusion.kind}"


def fuser(network: Diagnoser) -> Fuser:
    """The network's fusion in numpy."""
    if isinstance(network.fusion, LateFusion):
        return Late(network.fusion)
    return Learned(network.fusion, 0 if network.text is None else network.text.feature_size)


class Late:
    """A LateFusion."""

    attends = False

    def __init__(self, fusion: LateFusion) -> None:
        self._rules = LateRules(fusion)

    def __call__(self, found: Found, filling: Filling, rows: slice, result: StepResult) -> None:
        """What only one modality says passes through, so only the others have to be mixed."""
        rules, told = self._rules, found.told
        count = rows.stop - rows.start
        if found.known is None and rules.passes and not len(told):
            answer = found.sensed.answer[:, filling.place(count)].T
            result.probabilities[rows] = result.modality_probabilities[0, rows] = answer
            result.weights[0, rows], result.present[0, rows] = 1, True
            if len(result.present) > 1:
                result.modality_probabilities[1, rows] = rules.prior
                result.weights[1, rows], result.present[1, rows] = 0, False
            return
        said, present = _write_answers(found, filling, rows, rules.prior, result)
        result.probabilities[rows], result.weights[:, rows] = said[0], present
        mixed = told if rules.passes else np.arange(count)
        if not len(mixed):
            return
        here = filling.place(len(mixed))
        columns = np.full(filling.width(len(mixed)), mixed[0])
        columns[here] = mixed
        probabilities, shares = rules(said.transpose(0, 2, 1)[:, :, columns], present[:, columns])
        result.probabilities[rows][mixed] = probabilities[:, here].T
        result.weights[:, rows][:, mixed] = shares[:, here]


class Learned:
    """A LearnedFusion: a network on the encoders' features, beside the modalities' own calibrated answers."""

    def __init__(self, fusion: LearnedFusion, text_features: int) -> None:
        self._rules = LateRules(fusion.late)
        self._text_features = text_features
        self._inputs = fusion.config.inputs
        self._mixer = mixer(fusion.network, float(fusion.temperature))
        self.attends = self._mixer.attends

    def __call__(self, found: Found, filling: Filling, rows: slice, result: StepResult) -> None:
        """All columns are computed; what is absent is zero there, as in torch."""
        prior = self._rules.prior
        said, there = _write_answers(found, filling, rows, prior, result)
        here, columns = filling.place(rows.stop - rows.start), found.sensed.answer.shape[1]
        present = np.zeros((len(there), columns), bool)
        present[0] = True
        present[:, here] = there
        answers = None
        if self._mixer.asks_late or self._inputs != "features":
            answers = np.empty((len(said), len(prior), columns), np.float32)
            answers[:] = prior[:, None]
            answers[:, :, here] = said.transpose(0, 2, 1)
        features = self._features(found, here, present, answers)
        late = self._rules(answers, present) if answers is not None and self._mixer.asks_late else None
        mixture = self._mixer(Told(features, present, late), filling)
        softmax(mixture.logits, np.empty(columns, np.float32))
        result.probabilities[rows] = mixture.logits[:, here].T
        if found.known is not None:
            result.probabilities[rows][~np.logical_or.reduce(there, 0)] = prior
        result.weights[:, rows] = mixture.weights[:, here]
        if result.attention is not None and mixture.attention is not None:
            result.attention[rows] = mixture.attention[:, :, here].transpose(2, 0, 1)

    def _features(self, found: Found, here: slice, present: Bools, answers: Floats | None) -> list[Floats]:
        """What the network is told of each modality, with zeros where it is absent, and a row of ones."""
        told = [found.sensed.features]
        if len(present) > 1:
            text = np.zeros((self._text_features + 1, present.shape[1]), np.float32)
            text[-1] = 1
            if found.text is not None:
                text[:-1, found.told + here.start] = found.text.features.T
            told.append(text)
        if answers is not None and self._inputs != "features":
            # Features are about as large as 1, and so are these.
            scaled = np.log(np.maximum(answers, np.float32(LEAST_TOLD))) / np.float32(-math.log(LEAST_TOLD))
            kept = slice(-1 if self._inputs == "both" else 0)
            told = [np.concatenate([x[kept], y, x[-1:]]) for x, y in zip(told, scaled, strict=True)]
        for at, shown in enumerate(present):
            if not shown.all():
                told[at] = told[at].copy()
                told[at][:-1] *= shown
        return told


def _write_answers(
    found: Found, filling: Filling, rows: slice, prior: Floats, result: StepResult
) -> tuple[Floats, Bools]:
    """Write who is present and what each modality says by itself; the answer is both, (M, count, C) and (M, count)."""
    answer = found.sensed.answer[:, filling.place(rows.stop - rows.start)].T
    said, present = result.modality_probabilities[:, rows], result.present[:, rows]
    said[0] = answer if found.known is None else np.where(found.known[:, None], answer, prior)
    said[1:] = prior
    present[0], present[1:] = True if found.known is None else found.known, False
    if found.text is not None:
        present[1, found.told] = True
        said[1, found.told] = found.text.answers
    return said, present


class LateRules:
    """LateFusion's rules over calibrated answers; see there."""

    def __init__(self, fusion: LateFusion) -> None:
        self._rule = fusion.config.rule
        self.prior = array(fusion.prior)
        self._log_prior = np.log(self.prior + _TINY)[:, None]
        self._temperature = array(fusion.temperature)
        self._recalls = array(fusion.recalls)[:, :, None]
        stack = array(fusion.stack)
        modalities, classes, _ = stack.shape
        flat = np.concatenate([stack.reshape(modalities * classes, classes), array(fusion.stack_bias)[None]])
        self._stack = turned(np.ascontiguousarray(flat.T))
        self._shares = {
            "accuracy": array(fusion.accuracies),
            "stacked": np.abs(stack).mean(axis=(1, 2)),
        }.get(self._rule, np.ones(modalities, np.float32))
        single = {"per_class": self._recalls.min(), "product": np.float32(1)}.get(self._rule, self._shares.min())
        self.passes = bool(single > _TINY)
        """Whether the mixture of a single modality is that modality's answer; a weight of zero would prevent it."""

    def __call__(self, answers: Floats, present: Bools) -> tuple[Floats, Floats]:
        """Answers (M, C, columns), the prior where absent, and present (M, columns): mixture and weights (M, columns).

        The number of columns is one of the filling's widths.
        """
        mixed, weights = self._mix(answers, present)
        line = np.empty(mixed.shape[1], np.float32)
        sharpened = np.log(mixed + _TINY)
        sharpened /= self._temperature
        softmax(sharpened, line)
        mixed = np.where(np.add.reduce(present, 0, np.int64) > 1, sharpened, mixed)
        return np.where(np.logical_or.reduce(present, 0), mixed, self.prior[:, None]), weights

    def _mix(self, answers: Floats, present: Bools) -> tuple[Floats, Floats]:
        shown = present.astype(np.float32)
        weights = _shares(self._shares[:, None] * shown)
        if self._rule in ("accuracy", "uniform"):
            return np.add.reduce(weights[:, None] * answers, 0), weights
        line = np.empty(answers.shape[2], np.float32)
        if self._rule == "per_class":
            by_class = _shares(self._recalls * shown[:, None])
            mixed = np.add.reduce(by_class * answers, 0)
            mixed /= np.maximum(np.add.reduce(mixed, 0), _TINY)
            return mixed, np.add.reduce(by_class * mixed, 1)
        evidence = (np.log(answers + _TINY) - self._log_prior) * shown[:, None]
        if self._rule == "product":
            mixed = np.add.reduce(evidence, 0) + self._log_prior
            softmax(mixed, line)
            return mixed, weights
        modalities, classes, columns = evidence.shape
        x = np.ones((modalities * classes + 1, columns), np.float32)
        x[:-1] = evidence.reshape(-1, columns)
        stacked: Floats = np.matmul(self._stack, x)[:classes]
        softmax(stacked, line)
        single: Floats = np.add.reduce(weights[:, None] * answers, 0)
        return np.where(np.add.reduce(present, 0, np.int64) > 1, stacked, single), weights


def _shares(weights: Floats) -> Floats:
    """Weights (M, …) divided by their sum over M; columns without any weight stay 0."""
    shares: Floats = weights / np.maximum(np.add.reduce(weights, 0), _TINY)
    return shares
