"""The whole streaming model: scaling, sensor encoder, text modality and fusion, as one network with a step form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.configs.diagnoser import DiagnoserConfig
from models.data.scaling import Scaling
from models.encoders.base import State, part_of
from models.encoders.event_ring import TextModality, empty_ring, push_texts, turn_ring
from models.encoders.experts.build import build_sensors
from models.encoders.experts.detector import Backing, Detected, Detector, Readings
from models.encoders.experts.groups import GroupEncoders
from models.encoders.messages import MessageInputs
from models.encoders.placed_texts import PlacedText, ring_plan
from models.encoders.tokenizer import Tokenizer
from models.fusion.build import build_fusion
from models.fusion.confidence import ConfidenceMap
from models.fusion.conformal import ConformalSets
from models.fusion.remaining_life import RemainingLife
from models.fusion.retrieval import build_retrieval
from models.fusion.unknown import UnknownFaults

_DETECTOR = "detector."
"""Before the names of the detector's states."""
_GROUPS = "groups."
"""Before those of the modalities that are groups of variables."""
_UNKNOWN = "unknown."
"""Before those of unknown faults."""


@dataclass(frozen=True, slots=True)
class RoundTexts:
    """K texts of one round, oldest first per row."""

    rows: Tensor  # (K,) which machine of the round
    vectors: Tensor  # (K, d)
    ages: Tensor  # (K,) frames between a text's time and the end of its frame


class RingReading(NamedTuple):
    """The text modality's answer for N rings; zeros where a ring is empty."""

    logits: Tensor  # (N, C)
    filled: Tensor  # (N,) whether there is any text
    features: Tensor  # (N, D)
    attention: Tensor  # (N, E)


@dataclass(frozen=True, slots=True)
class Answer:
    """The network's answer for N frames: M modalities, C classes, E places in the ring, D features.

    Of a model that calls faults unknown this is a class more in the probabilities, 0 for each modality.
    """

    probabilities: Tensor  # (N, C) fused
    modality_probabilities: Tensor  # (M, N, C)
    weights: Tensor  # (M, N)
    present: Tensor  # (M, N)
    logits: Tensor  # (M, N, C) before calibration; meaningless for absent modalities
    features: Tensor  # (N, D) of the sensor encoder
    scaled: Tensor  # (N, V) standard scores, not clipped, 0 where unknown
    text_attention: Tensor | None
    """(N, E) weight of each text in the ring, youngest first; None without the text modality."""
    attention: Tensor | None = None
    """(N, M, M) cross-modal attention, zeros in the rows of absent modalities; None for fusions without it."""
    embedding: Tensor | None = None
    """(N, D) what the fusion classifies; None for late fusion."""
    novelty: Tensor | None = None
    """(N,) how far a frame is from the normal state, in shares of the alarm limit; None without a detector."""
    deviations: Tensor | None = None
    """(N, V) what each variable contributes to the novelty."""
    remaining: Tensor | None = None
    """(N, 3) remaining life in frames: estimate, low, high; NaN where no reading is known; None without the head."""
    candidates: Tensor | None = None
    """(N, C) whether each class is a candidate; None for models without conformal sets."""


class ModalityReading(NamedTuple):
    """What one modality says of N frames."""

    logits: Tensor  # (N, C)
    present: Tensor  # (N,)
    features: Tensor  # (N, D)


class Sensed(NamedTuple):
    """What the sensors say of frames (B, T)."""

    logits: Tensor
    """(B, T, C), with what the detector adds."""
    features: Tensor  # (B, T, D)
    detected: Detected | None
    """None without a detector."""


class Diagnoser(nn.Module):
    """Sensors and texts of a machine to class probabilities, frame by frame or run by run."""

    def __init__(self, config: DiagnoserConfig, tokenizer: Tokenizer | None) -> None:
        super().__init__()
        if (tokenizer is None) != (config.text is None):
            raise ValueError("a tokenizer is needed with the text modality, and only then")
        self.config = config
        self.modalities = config.modalities
        self.register_buffer("mean", torch.zeros(config.variables))
        self.register_buffer("std", torch.ones(config.variables))
        self.mean: Tensor  # (V,)
        self.std: Tensor  # (V,)
        self.messages = None if config.messages is None else MessageInputs(config.messages)
        self.sensors = build_sensors(
            config.sensors,
            variables=config.variables,
            classes=config.classes,
            messages=0 if config.messages is None else config.messages.columns,
        )
        self.detector: Detector | None = None
        if config.detector is not None:
            self.detector = Detector(config.detector, variables=config.variables, classes=config.classes)
        self.groups: GroupEncoders | None = None
        if config.groups:
            self.groups = GroupEncoders(config.groups, variables=config.variables, classes=config.classes)
        self.text: TextModality | None = None
        if config.text is not None and tokenizer is not None:
            self.text = TextModality(config.text, tokenizer, classes=config.classes)
        sizes = [self.sensors.feature_size, *([] if self.groups is None else self.groups.feature_sizes)]
        sizes += [] if self.text is None else [self.text.feature_size]
        self.fusion = build_fusion(config.fusion, sizes=sizes, classes=config.classes)
        self.unknown: UnknownFaults | None = None
        if config.unknown is not None:
            self.unknown = UnknownFaults(config.unknown, classes=config.classes)
        self.remaining_life: RemainingLife | None = None
        if config.remaining_life is not None:
            self.remaining_life = RemainingLife(
                config.remaining_life,
                variables=config.variables,
                messages=0 if config.messages is None else config.messages.columns,
                features=self.sensors.feature_size,
            )
        self.retrieval = build_retrieval(None if self.text is None else config.retrieval, sizes)
        self.confidence = ConfidenceMap(config.classes) if config.calibrated else None
        self.conformal = ConformalSets() if config.coverage is not None else None

    def set_scaling(self, scaling: Scaling) -> None:
        """Use these statistics of the normal state."""
        self.mean.copy_(torch.from_numpy(scaling.mean))
        self.std.copy_(torch.from_numpy(scaling.std))

    def scaling(self) -> Scaling:
        """A copy of the statistics of the normal state."""
        return Scaling(self.mean.numpy().copy(), self.std.numpy().copy())

    def set_confidence(self, confidence: ConfidenceMap | None) -> None:
        """Publish fused answers through this map, or as they are."""
        self.confidence = confidence
        self.config = self.config.model_copy(update={"calibrated": confidence is not None})

    def set_candidates(self, conformal: ConformalSets | None, coverage: float | None) -> None:
        """Name candidates by these sets, which were fitted for this coverage; or none."""
        self.conformal = conformal
        self.config = self.config.model_copy(update={"coverage": None if conformal is None else coverage})

    def calibrated(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """A fusion's answers (N, C), with modalities present (M, N), through the confidence map if there is one."""
        return probabilities if self.confidence is None else self.confidence(probabilities, present)

    def candidates(self, probabilities: Tensor, present: Tensor) -> Tensor | None:
        """Which classes final answers (N, C) leave possible, (N, C); None without conformal sets."""
        return None if self.conformal is None else self.conformal(probabilities, present)

    def init_state(self, batch: int) -> State:
        """The state of `batch` machines before their first frame."""
        state = {} if self.messages is None else self.messages.init_state(batch)
        state |= self.sensors.init_state(batch)
        if self.detector is not None:
            state |= {f"{_DETECTOR}{key}": value for key, value in self.detector.init_state(batch).items()}
        if self.groups is not None:
            state |= {f"{_GROUPS}{key}": value for key, value in self.groups.init_state(batch).items()}
        if self.text is not None:
            state |= empty_ring(batch, self.text.config, self.mean)
        if self.remaining_life is not None:
            state |= self.remaining_life.init_state(batch)
        return state | self._unknown_state(batch)

    def sensor_inputs(self, values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Readings (…, V), NaN where unknown, and observed bits: standard scores (…, V), encoder input (…, F)."""
        scaled = ((values - self.mean) / self.std).nan_to_num(nan=0.0)
        x = scaled.clamp(-self.config.clip, self.config.clip)
        if self.config.sensors.mask_inputs:
            x = torch.cat([x, observed.to(x.dtype)], dim=-1)
        return scaled, x

    def readings(self, values: Tensor, observed: Tensor) -> Readings:
        """What the detector gets of readings (B, T, V), NaN where unknown, and their observed bits."""
        scaled, _ = self.sensor_inputs(values, observed)
        return Readings(scaled.clamp(-self.config.clip, self.config.clip), ~values.isnan(), observed)

    def step(
        self,
        values: Tensor,
        observed: Tensor,
        texts: RoundTexts | None,
        state: State,
        messages: Tensor | None = None,
    ) -> tuple[Answer, State]:
        """One frame of B machines: values (B, V) with NaN where unknown, observed (B, V), the frame's new texts, and
        its messages as `MessageInputs.brought` gives them (B, 2, K), if the network counts messages."""
        scaled, x = self.sensor_inputs(values, observed)
        counted: State = {}
        if self.messages is not None and messages is not None:
            columns, counted = self.messages.step(messages, state)
            x = torch.cat([x, columns], dim=1)
        logits, features, after = self.sensors.step(x, state)
        after |= counted
        detected: Detected | None = None
        if self.detector is not None:
            own = part_of(state, _DETECTOR)
            readings = self.readings(values[:, None], observed[:, None])
            detected, advanced = self.detector.advance(readings, own)
            backed, armed = self.detector.back(logits[:, None], detected.novelty, own)
            logits = backed[:, 0]
            after |= {f"{_DETECTOR}{key}": value for key, value in (advanced | armed).items()}
        measured = ~values.isnan().all(dim=1)
        remaining: Tensor | None = None
        if self.remaining_life is not None:
            remaining, lived = self.remaining_life.step(x, features, state)
            remaining, after = _where_known(remaining, measured), after | lived
        read = [ModalityReading(logits, measured, features)]
        if self.groups is not None:
            own = part_of(state, _GROUPS)
            encoded, grouped = self.groups.step(x, own)
            read += self._group_readings(values, encoded)
            after |= {f"{_GROUPS}{key}": value for key, value in grouped.items()}
        attention: Tensor | None = None
        if self.text is not None:
            ring = turn_ring(state, self.config.text_ttl_frames)
            if texts is not None:
                ring = push_texts(ring, texts.rows, texts.vectors, texts.ages, self.config.text_ttl_frames)
            texts_read = self.read_ring(ring["ring"], ring["ring_age"])
            read.append(ModalityReading(texts_read.logits, texts_read.filled, texts_read.features))
            attention, after = texts_read.attention, after | ring
        answer, own = self._answer(read, scaled, attention, detected, state)
        return replace(answer, remaining=remaining), after | own

    def _group_readings(self, values: Tensor, encoded: Sequence[tuple[Tensor, Tensor]]) -> list[ModalityReading]:
        """What each group of variables says of frames with these values (…, V)."""
        assert self.groups is not None
        return [
            ModalityReading(logits, self.groups.present(place, values), features)
            for place, (logits, features) in enumerate(encoded)
        ]

    def forward(self, values: Tensor, observed: Tensor, texts: Sequence[Sequence[PlacedText]] | None = None) -> Answer:
        """Whole runs: values and observed (B, T, V), and each run's texts; N = B * T, run after run."""
        batch, frames, _ = values.shape
        scaled, x = self.sensor_inputs(values, observed)
        if self.messages is not None:
            runs_texts = texts or [()] * batch
            x = torch.cat([x, torch.stack([self.message_columns(run, frames) for run in runs_texts])], dim=2)
        logits, features, detected = self.sense(values, observed, x)
        start = self._unknown_state(batch)
        measured = ~values.isnan().all(dim=2)
        flat_scaled = scaled.flatten(0, 1)
        read = [ModalityReading(logits.flatten(0, 1), measured.flatten(), features.flatten(0, 1))]
        remaining: Tensor | None = None
        if self.remaining_life is not None:
            lives, _ = self.remaining_life.advance(x, features, self.remaining_life.init_state(batch))
            remaining = _where_known(lives.flatten(0, 1), measured.flatten())
        if self.groups is not None:
            encoded, _ = self.groups.advance(x, self.groups.init_state(batch))
            groups = self._group_readings(values, encoded)
            read += [ModalityReading(*(part.flatten(0, 1) for part in group)) for group in groups]
        attention: Tensor | None = None
        if self.text is not None:
            runs = [self.ring_of_run(run, frames) for run in (texts or [()] * batch)]
            ring = torch.cat([vectors for vectors, _ in runs])
            texts_read = self.read_ring(ring, torch.cat([ages for _, ages in runs]))
            read.append(ModalityReading(texts_read.logits, texts_read.filled, texts_read.features))
            attention = texts_read.attention
        answer, _ = self._answer(read, flat_scaled, attention, detected, start)
        return replace(answer, remaining=remaining)

    def sense(self, values: Tensor, observed: Tensor, x: Tensor, *, armed: bool = False) -> Sensed:
        """What the sensors say of whole runs: values and observed (B, T, V), encoder inputs x (B, T, F); `armed`: with
        the detector armed throughout, as for fitting margins."""
        logits, features = self.sensors(x)
        if self.detector is None:
            return Sensed(logits, features, None)
        detected = self.detect(values, observed)
        logits, _ = self.detector.back(logits, detected.novelty, self.detector.init_state(len(values)), armed=armed)
        return Sensed(logits, features, detected)

    def backing(self, values: Tensor, observed: Tensor) -> Backing:
        """What the detector adds to the logits of whole runs (B, T, V), part by part."""
        if self.detector is None:
            return Backing(None, values.new_zeros(values.shape[:2]), {})
        novelty = self.detect(values, observed).novelty
        return Backing(self.detector, novelty, self.detector.init_state(len(values)))

    def detect(self, values: Tensor, observed: Tensor) -> Detected:
        """The novelty of whole runs (B, T, V); of a network with a detector."""
        assert self.detector is not None
        readings = self.readings(values, observed)
        detected, _ = self.detector.advance(readings, self.detector.init_state(len(values)))
        return detected

    def message_columns(self, texts: Sequence[PlacedText], frames: int) -> Tensor:
        """Scaled columns of messages (T, (W + 1) K) of one run; none without message inputs."""
        if self.messages is None:
            return self.mean.new_zeros(frames, 0)
        columns = torch.from_numpy(self.messages.columns(texts, frames)).to(self.mean.dtype)
        return self.messages.scaled(columns)

    def ring_of_run(self, texts: Sequence[PlacedText], frames: int) -> tuple[Tensor, Tensor]:
        """The ring at every frame of one run: vectors (T, E, d) and ages (T, E).

        Texts without a known word do not enter it.
        """
        assert self.text is not None
        texts = [text for text in texts if self.text.knows(text.text)]
        rows, ages = ring_plan(texts, frames, size=self.text.config.ring, ttl=self.config.text_ttl_frames)
        age = torch.from_numpy(ages).to(self.mean.dtype)
        if not texts:
            return age.new_zeros(*age.shape, self.text.config.size), age
        vectors = self.text.encode([text.text for text in texts])[torch.from_numpy(rows)]
        return vectors * (age >= 0).unsqueeze(-1), age

    def read_ring(self, ring: Tensor, age: Tensor) -> RingReading:
        """The text modality's answer for rings (N, E, d) with ages (N, E).

        Most machines have no text most of the time, so only rings with texts are computed.
        """
        assert self.text is not None
        filled = (age >= 0).any(dim=1)
        logits = ring.new_zeros(len(ring), self.config.classes)
        features = ring.new_zeros(len(ring), self.text.feature_size)
        attention = torch.zeros_like(age)
        rows = filled.nonzero().squeeze(1)
        if len(rows):
            pooled, ring_attention = self.text.pool(ring[rows], age[rows])
            logits = logits.index_copy(0, rows, self.text.head(pooled))
            features = features.index_copy(0, rows, pooled)
            attention = attention.index_copy(0, rows, ring_attention)
        return RingReading(logits, filled, features, attention)

    def _answer(
        self,
        read: Sequence[ModalityReading],
        scaled: Tensor,
        attention: Tensor | None,
        detected: Detected | None,
        state: State,
    ) -> tuple[Answer, State]:
        """The answer, and of the state after it what is of unknown faults."""
        logits, present = (
            torch.stack(parts) for parts in ([one.logits for one in read], [one.present for one in read])
        )
        features = [one.features for one in read]
        fused = self.fusion(logits, present, features)
        probabilities = self.calibrated(fused.probabilities, present)
        own = fused.modality_probabilities
        after: State = {}
        if self.unknown is not None and detected is not None:
            was = part_of(state, _UNKNOWN)
            probabilities, now = self.unknown(probabilities, detected.novelty, features[0], present, was)
            after = {f"{_UNKNOWN}{key}": value for key, value in now.items()}
            own = torch.cat([own, torch.zeros_like(own[..., :1])], dim=-1)
        answer = Answer(
            probabilities,
            own,
            fused.weights,
            present,
            logits,
            features[0],
            scaled,
            attention,
            fused.attention,
            fused.embedding,
            None if detected is None else detected.novelty.flatten(),
            None if detected is None else detected.deviations.flatten(0, 1),
            candidates=self.candidates(probabilities, present),
        )
        return answer, after

    def _unknown_state(self, batch: int) -> State:
        if self.unknown is None:
            return {}
        return {f"{_UNKNOWN}{key}": value for key, value in self.unknown.init_state(batch).items()}


def _where_known(remaining: Tensor, measured: Tensor) -> Tensor:
    """Remaining life (N, 3), NaN in frames without any known reading."""
    return torch.where(measured[:, None], remaining, torch.nan)
