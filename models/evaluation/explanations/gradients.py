"""Contributions by integrated gradients (Sundararajan, Taly and Yan 2017) over the network in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diagnoser import Diagnoser, ModalityReading
from models.encoders.base import SensorEncoder, State
from models.encoders.event_ring import push_texts, turn_ring
from models.encoders.experts.pool import PooledExperts
from models.encoders.experts.trees import Trees
from models.evaluation.explanations.quadrature import Numbers, integrate
from models.evaluation.explanations.question import TINY, Question
from models.evaluation.explanations.window import Window
from models.evaluation.explanations.words import EmbeddedTexts
from models.evaluation.torch_reference import read_state
from pipeline.frames import Frames

SMALLEST_CHANGE = 0.1
"""Nats: errors are relative to at least this, because an answer that hardly differs from the baseline has no share."""
_TOLERANCE = 0.01
_MAX_EVALUATIONS = 2_048
_POINTS = 32
"""Of the path that are computed at a time."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """What moves the fused log odds of a class from a window without evidence to the window as it was, in nats.

    baseline + variables + messages + texts + held = fused, but for `completeness_error`.
    """

    fused: float
    """Log odds after the fusion, before a confidence map and the rules for unknown faults."""
    baseline: float
    """The same for readings at their training means, and without the window's texts."""
    variables: NDArray[np.float64]  # (V,)
    detector: float
    """The part of `variables` that the armed detector adds, shared out by the deviations."""
    messages: dict[str, float]
    """Of counted messages."""
    texts: dict[str, tuple[tuple[str, float], ...]]
    """Of each text its words."""
    presence: dict[str, float]
    """Of each text what it adds by being there, whatever it says."""
    held: float
    """What trees add: not differentiable, they are held as they answered, and this belongs to no variable."""
    completeness_error: float
    """|contributions - (fused - baseline - held)| relative to the latter."""
    evaluations: int

    def covered(self, evidence: float) -> float:
        """The share of the change from the baseline to the published evidence that has contributions: the rest is what
        trees add, and what a confidence map and the rules for unknown faults do after the fusion."""
        given = abs(self.fused - self.baseline - self.held)
        rest = abs(self.held) + abs(evidence - self.fused)
        return given / (given + rest) if given + rest > 0 else 1.0


def integrated_gradients(network: Diagnoser, digest: str, window: Window, question: Question) -> Gradients:
    """Contributions to one of the fusion's classes at the last frame of a window.

    `network` computes in float64. The state before the window is held fixed, and so are observed bits, the texts' ages
    and whether the detector is armed. Raises StateError if the state is not of the model `digest`.
    """
    function = _Path(network, digest, window, question)
    with torch.no_grad():
        ends = function.odds(torch.tensor([0.0, 1.0], dtype=torch.float64))
        without = float(function.odds(ends.new_zeros(1), texts=False)[0])
        lifted = float(function.odds(ends.new_ones(1), backing=True)[0])
        held = without - float(function.odds(ends.new_zeros(1), texts=False, trees=False)[0])
    gain = float(ends[1] - ends[0])
    jump = float(ends[0]) - without
    found = integrate(
        function.values,
        function.gradients,
        tolerance=_TOLERANCE * max(abs(gain), SMALLEST_CHANGE),
        max_evaluations=_MAX_EVALUATIONS,
    )
    variables, messages, words = function.split(found.parts)
    detector = lifted - float(ends[1])
    change = lifted - without
    total = found.parts.sum() + jump + detector
    return Gradients(
        fused=lifted,
        baseline=without - held,
        variables=variables + detector * function.shares,
        detector=detector,
        messages=messages,
        texts=words,
        presence=function.presence(jump),
        held=held,
        completeness_error=abs(float(total) - change) / max(abs(change), SMALLEST_CHANGE),
        evaluations=found.evaluations,
    )


class _Path:
    """The fused log odds along the straight path from no evidence, 0, to the window, 1."""

    def __init__(self, network: Diagnoser, digest: str, window: Window, question: Question) -> None:
        self._network = network
        self._answer = question.answer
        self._against = [number for number in question.against if number < network.config.classes]
        self._state = network.init_state(1) if window.starts_fresh else read_state(network, window.state, digest)
        values = torch.from_numpy(np.concatenate([one.values for one in window.frames])).double()
        observed = torch.from_numpy(np.concatenate([one.observed for one in window.frames]))
        scaled, x = network.sensor_inputs(values, observed)
        self._variables = network.config.variables
        self._readings = x[:, : self._variables]
        self._bits = x[:, self._variables :]
        self._last = values[-1:]
        self._present = bool((~self._last.isnan()).any())
        columns, blank = self._message_columns(window)
        self._columns, self._blank_columns = columns, blank
        self._names: list[str] = []
        self._embedded: EmbeddedTexts | None = None
        if network.text is not None:
            read = list(dict.fromkeys(text.text for _, text in window.texts if network.text.knows(text.text)))
            places = _ring(network, self._state, window, read).places.tolist()
            self._names = [text for place, text in enumerate(read) if place in places]
            self._ring = _ring(network, self._state, window, self._names)
            self._old_ring = _ring(network, self._state, window, ())
            if self._names:
                self._embedded = EmbeddedTexts(network.text.encoder, network.text.tokenizer, self._names)
        with torch.no_grad():
            self._trees = {True: self._tree_answers(1.0), False: self._tree_answers(0.0)}
            self._lift, self.shares = self._detected(values, observed)

    # -- what integration needs -----------------------------------------------------------------------------

    def values(self, points: Numbers) -> Numbers:
        """Log odds (N,) at points (N,)."""
        with torch.no_grad():
            parts = [self.odds(part) for part in torch.split(torch.from_numpy(points), _POINTS)]
        return torch.cat(parts).numpy()

    def gradients(self, points: Numbers) -> Numbers:
        """The derivative along the path by input, (N, K): variables, columns of messages, then words."""
        return np.concatenate([self._gradients(part) for part in torch.split(torch.from_numpy(points), _POINTS)])

    def _gradients(self, points: Tensor) -> Numbers:
        inputs = [one.requires_grad_() for one in self._inputs(points)]
        odds = self._odds(inputs, texts=True, backing=False, trees=True)
        found = torch.autograd.grad(odds.sum(), inputs, allow_unused=True)
        changes = [self._readings, self._columns - self._blank_columns]
        if self._embedded is not None:
            changes += [self._embedded.embedded, self._embedded.bag]
        moved = [
            one.new_zeros(one.shape) if gradient is None else gradient * change
            for one, gradient, change in zip(inputs, found, changes, strict=True)
        ]
        parts = [moved[0].sum(dim=1), moved[1].sum(dim=1)]
        if self._embedded is not None:
            parts.append((moved[2].sum(dim=3) + moved[3].sum(dim=3)).flatten(1))
        return torch.cat(parts, dim=1).numpy()

    def split(self, parts: Numbers) -> tuple[Numbers, dict[str, float], dict[str, tuple[tuple[str, float], ...]]]:
        """Integrals (K,) as those of variables, of messages and of texts' words."""
        columns = self._columns.shape[1]
        variables, counted, words = np.split(parts, [self._variables, self._variables + columns])
        messages: dict[str, float] = {}
        if columns and self._network.messages is not None:
            names = self._network.messages.config.messages
            messages = dict(zip(names, counted.reshape(-1, len(names)).sum(axis=0).tolist(), strict=True))
        texts: dict[str, tuple[tuple[str, float], ...]] = {}
        if self._embedded is not None:
            rows = words.reshape(len(self._names), -1)
            for name, tokens, row in zip(self._names, self._embedded.words, rows, strict=True):
                texts[name] = tuple(zip(tokens, row[: len(tokens)].tolist(), strict=True))
        return variables, messages, texts

    def presence(self, jump: float) -> dict[str, float]:
        """What texts add by being there, in equal parts."""
        return {name: jump / len(self._names) for name in self._names}

    # -- the answer -------------------------------------------------------------------------------------------

    def odds(self, points: Tensor, *, texts: bool = True, backing: bool = False, trees: bool = True) -> Tensor:
        """Log odds (N,) at points (N,); without the window's texts, with what the armed detector adds, or with trees
        that see the baseline."""
        return self._odds(self._inputs(points), texts=texts, backing=backing, trees=trees)

    def _inputs(self, points: Tensor) -> list[Tensor]:
        scale = points[:, None, None]
        inputs = [scale * self._readings, self._blank_columns + scale * (self._columns - self._blank_columns)]
        if self._embedded is not None:
            inputs += [scale[..., None] * self._embedded.embedded, scale[..., None] * self._embedded.bag]
        return inputs

    def _odds(self, inputs: list[Tensor], *, texts: bool, backing: bool, trees: bool) -> Tensor:
        network, count = self._network, len(inputs[0])
        x = self._sensor_inputs(inputs[0], inputs[1])
        logits, features = self._sense(x, self._trees[trees])
        if backing:
            logits = logits + self._lift
        read = [ModalityReading(logits, torch.full((count,), self._present), features), *self._read_groups(x)]
        if network.text is not None:
            ring = self._ring if texts else self._old_ring
            vectors = ring.vectors.expand(count, *ring.vectors.shape[1:])
            if texts and self._embedded is not None:
                new = self._embedded.vectors(inputs[2], inputs[3])
                vectors = torch.where(ring.places[:, None] >= 0, new[:, ring.places.clamp_min(0)], vectors)
            found = network.read_ring(vectors, ring.ages.expand(count, -1))
            read.append(ModalityReading(found.logits, found.filled, found.features))
        of_all, present = torch.stack([one.logits for one in read]), torch.stack([one.present for one in read])
        fused = network.fusion(of_all, present, tuple(one.features for one in read))
        own = fused.probabilities[:, self._answer]
        others = fused.probabilities[:, self._against].sum(dim=1)
        odds: Tensor = own.clamp_min(TINY).log() - others.clamp_min(TINY).log()
        return odds

    def _read_groups(self, x: Tensor) -> list[ModalityReading]:
        """What the modalities that are groups of variables say at the last frame."""
        groups = self._network.groups
        if groups is None:
            return []
        state = self._part("groups.", len(x))
        encoded, _ = groups.advance(x, state)
        return [
            ModalityReading(logits[:, -1], groups.present(place, self._last).expand(len(x)), features[:, -1])
            for place, (logits, features) in enumerate(encoded)
        ]

    def _part(self, prefix: str, count: int) -> State:
        """The state of a part of the network, for so many rows."""
        return {
            key.removeprefix(prefix): value.expand(count, *value.shape[1:])
            for key, value in self._state.items()
            if key.startswith(prefix)
        }

    def _sensor_inputs(self, readings: Tensor, columns: Tensor) -> Tensor:
        count = len(readings)
        return torch.cat([readings, self._bits.expand(count, *self._bits.shape), columns], dim=2)

    def _sense(self, x: Tensor, trees: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The sensors' logits (N, C) and features (N, D) at the last frame, without the detector."""
        count, sensors = len(x), self._network.sensors
        logits, features = [], []
        for place, expert in _experts(sensors):
            if place in trees:
                own, seen = (one.expand(count, -1) for one in trees[place])
            else:
                inputs = sensors.inputs(place, x) if isinstance(sensors, PooledExperts) else x
                own, seen = (one[:, -1] for one in expert.advance(inputs, self._of(place, count))[:2])
            logits.append(own)
            features.append(seen)
        if not isinstance(sensors, PooledExperts):
            return logits[0], features[0]
        return sensors.pool(sensors.log_probabilities(logits)), torch.cat(features, dim=1)

    def _of(self, place: int, count: int) -> State:
        """The state of the expert at a place."""
        return self._part(f"{place}." if isinstance(self._network.sensors, PooledExperts) else "", count)

    def _tree_answers(self, point: float) -> dict[int, tuple[Tensor, Tensor]]:
        """Logits (1, C) and features (1, C) of each expert of trees at a point of the path."""
        readings, columns = self._inputs(torch.tensor([point], dtype=torch.float64))[:2]
        x, sensors = self._sensor_inputs(readings, columns), self._network.sensors
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for place, expert in _experts(sensors):
            if isinstance(expert, Trees):
                inputs = sensors.inputs(place, x) if isinstance(sensors, PooledExperts) else x
                logits, features, _ = expert.advance(inputs, self._of(place, 1))
                found[place] = logits[:, -1], features[:, -1]
        return found

    def _detected(self, values: Tensor, observed: Tensor) -> tuple[Tensor, Numbers]:
        """What the detector adds to the logits of the last frame (C,), and each variable's share of it (V,)."""
        network = self._network
        detector = network.detector
        nothing = values.new_zeros(network.config.classes), np.zeros(self._variables)
        if detector is None:
            return nothing
        state = self._part("detector.", 1)
        found, _ = detector.advance(network.readings(values[None], observed[None]), state)
        x = self._sensor_inputs(self._readings[None], self._columns[None])
        logits, _, _ = network.sensors.advance(x, self._state)
        _, after = detector.back(logits, found.novelty, state)
        lift = detector.surprise(found.novelty[0, -1]) * detector.backing * after["armed"][0, 0]
        deviations = found.deviations[0, -1].numpy()
        return lift, deviations / max(deviations.sum(), TINY)

    # -- texts ------------------------------------------------------------------------------------------------

    def _message_columns(self, window: Window) -> tuple[Tensor, Tensor]:
        """Columns of counted messages (W, K) with the window's texts, and without them."""
        counted = self._network.messages
        if counted is None:
            none = self._network.mean.new_zeros(len(window.frames), 0)
            return none, none
        found: list[Tensor] = []
        for is_read in (True, False):
            state, frames = self._state, []
            for one in window.frames:
                texts = [(_age(one, text.time_ms), text.text) for _, text in one.texts] if is_read else []
                columns, state = counted.step(counted.brought([texts]), state)
                frames.append(columns)
            found.append(torch.cat(frames))
        return found[0], found[1]


class _Ring(NamedTuple):
    """The ring of texts at the end of a window."""

    vectors: Tensor  # (1, E, d)
    ages: Tensor  # (1, E)
    places: Tensor  # (E,) which of the window's texts, -1 of an older or no text


def _ring(network: Diagnoser, state: State, window: Window, names: Sequence[str]) -> _Ring:
    """The ring after a window of which only these texts are read; their vectors are zeros."""
    ttl, size = network.config.text_ttl_frames, state["ring"].shape[2]
    # One more column numbers the window's texts from 1 on.
    ring: State = {"ring": torch.nn.functional.pad(state["ring"], (0, 1)), "ring_age": state["ring_age"]}
    for one in window.frames:
        ring = turn_ring(ring, ttl)
        new = [(names.index(text.text), _age(one, text.time_ms)) for _, text in one.texts if text.text in names]
        if new:
            vectors = ring["ring"].new_zeros(len(new), size + 1)
            vectors[:, size] = torch.tensor([place + 1.0 for place, _ in new])
            ages = ring["ring"].new_tensor([age for _, age in new])
            ring = push_texts(ring, torch.zeros(len(new), dtype=torch.int64), vectors, ages, ttl)
    places = ring["ring"][0, :, size].round().long() - 1
    return _Ring(ring["ring"][:, :, :size], ring["ring_age"], places)


def _age(frames: Frames, time_ms: int) -> float:
    """Frames between a text's time and the end of its frame, as the step has it."""
    return float(np.float32((int(frames.end_ms[0]) - time_ms) / frames.period_ms))


def _experts(sensors: SensorEncoder) -> list[tuple[int, SensorEncoder]]:
    return list(sensors.members()) if isinstance(sensors, PooledExperts) else [(0, sensors)]
