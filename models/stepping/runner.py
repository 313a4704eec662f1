"""CompiledRunner: a model and the state of every machine in one arena, stepped a round at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from models.configs.diagnoser import DiagnoserConfig
from models.configs.groups import group_of_variables
from models.configs.messages import MessagesConfig
from models.encoders.tokenizer import Tokenizer, normalised
from models.model_file import Weights
from models.stepping import interpreter as layout_of
from models.stepping.interpreter import BLOCK_ROWS, DONE, LAYOUT_SIZE, STEP, TOO_SMALL, Arena, NewTexts, Result
from models.stepping.interpreter import Model as CompiledModel
from models.stepping.kernels.codes import padded
from models.stepping.programs.answers import emit_candidates, emit_confidence, emit_embeddings
from models.stepping.programs.builder import ProgramBuilder
from models.stepping.programs.detector import DetectorInputs, emit_detector
from models.stepping.programs.event_ring import RingState, emit_ring, ring_state
from models.stepping.programs.experts import emit_sensors
from models.stepping.programs.fusions import Evidence, Fused, emit_fusion
from models.stepping.programs.groups import emit_groups
from models.stepping.programs.messages import emit_messages, message_room
from models.stepping.programs.remaining_life import emit_remaining_life
from models.stepping.programs.sensors import SensorInputs
from models.stepping.programs.unknown import emit_unknown
from models.stepping.programs.weights import WeightReader
from models.stepping.retrieval_vectors import RetrievalVectors, take_retrieval
from models.stepping.saved_states import StateFormat
from models.stepping.text_vectors import TextEncoder, TextVectors, text_encoder
from pipeline.arrays import Floats, Ints
from pipeline.compiled import Notify
from pipeline.frames import Frames, StepResult
from pipeline.wire.diagnosis_columns import REMAINING_NUMBERS

_NO_FLOATS: Final[Floats] = np.zeros(0, np.float32)
_NO_INTS: Final[Ints] = np.zeros(0, np.int64)
_NO_TEXTS: Final = NewTexts(_NO_INTS, _NO_INTS, _NO_INTS, _NO_FLOATS, _NO_FLOATS)


class CompiledRunner:
    """Implements `pipeline.frames.StepRunner` by the compiled step.

    A machine's bits are the same alone and in any round, and on every processor. The arena holds a row for each slot,
    which a step changes in place.
    """

    def __init__(
        self,
        config: DiagnoserConfig,
        tensors: Mapping[str, Weights],
        tokenizer: Tokenizer | None,
        *,
        path: Path,
        name: str,
        digest: str,
        classes: tuple[str, ...],
        notify: Notify,
        embeddings: bool = False,
    ) -> None:
        """`tensors` are the weights of the model file at `path`, `digest` its hexadecimal SHA-256, which stamps states.

        Raises ModelFileError if the weights do not fit the network; `notify` gets a line if compiling takes time. With
        `embeddings` results have them; states and all else are the same with and without.
        """
        self._name, self._hash, self._classes = name, digest, classes
        self._modalities = config.modalities
        reader = WeightReader(path, tensors)
        # All of the weights are checked before anything is compiled.
        encoder = _text_encoder(config, tokenizer, reader)
        builder = ProgramBuilder(reader, len(self._modalities))
        self._layout, self._attends, self._embedding_sizes = _build(
            builder, config, embeddings=embeddings or config.retrieval is not None
        )
        self._retrieval = take_retrieval(
            reader, config.retrieval, self._embedding_sizes, has_texts=config.text is not None
        )
        reader.finish()
        self._program = builder.finish()
        counted = config.messages.messages if config.messages is not None else ()
        self._messages = {message: place for place, message in enumerate(counted)}
        self._text: TextVectors | None = None
        if encoder is not None and tokenizer is not None:
            self._text = TextVectors(encoder, tokenizer, notify)
        self._state_format = StateFormat(digest, len(self._program.saved))
        self._extra_columns = sum(width for _, width in _extras(self._layout))
        self._layout[layout_of.STATE_SIZE] = len(self._program.initial)
        self._layout[layout_of.WORK_SIZE] = self._program.work_size
        table = self._program.compiled([STEP], "the model's step", notify)
        self._step = STEP.compile()
        self._model = CompiledModel(self._layout, table, self._program.weights, self._program.initial)
        self._work = np.zeros(BLOCK_ROWS * self._program.work_size, np.float32)
        self._states = np.zeros((0, len(self._program.initial)), np.float32)
        self._arena = self._new_arena()
        self._vectors: Floats = _NO_FLOATS
        self._lines: dict[str, int] = {}
        """Where the vectors of the texts of the rounds at hand are; -1 of a text without a known word."""
        self._counted: dict[str, int] = {}
        """Which counted messages these texts are; -1 of others."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def hash(self) -> str:
        return self._hash

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._modalities

    @property
    def embedding_sizes(self) -> tuple[int, ...]:
        """How many features each modality's embedding has; empty without embeddings."""
        return self._embedding_sizes

    @property
    def retrieval(self) -> RetrievalVectors | None:
        """The projections of embeddings of a model that has a retrieval head; they are no part of the step."""
        return self._retrieval

    @property
    def capacity(self) -> int:
        """Slots that the arena holds now."""
        return len(self._states)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many slots; capacity doubles, so growing one by one stays cheap."""
        if slots <= self.capacity:
            return
        capacity = max(slots, 2 * self.capacity)
        states = np.empty((capacity, len(self._program.initial)), np.float32)
        states[: self.capacity], states[self.capacity :] = self._states, self._program.initial
        self._states = states
        self._arena = self._new_arena()

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Encode the texts of all these rounds together, and forget those of earlier rounds."""
        if self._reads:
            self._encode(list(dict.fromkeys(text.text for frames in rounds for _, text in frames.texts)))

    def step(self, frames: Frames) -> StepResult:
        """Advance each machine of the round by one frame; a slot may be in a round only once."""
        count, modalities = len(frames.slots), len(self._modalities)
        if not count:
            raise ValueError("a round needs at least one machine")
        classes = len(self._classes)
        result = StepResult(
            probabilities=np.empty((count, classes), np.float32),
            modality_probabilities=np.empty((modalities, count, classes), np.float32),
            weights=np.empty((modalities, count), np.float32),
            present=np.empty((modalities, count), np.bool_),
            scaled=np.empty(frames.values.shape, np.float32),
        )
        extras = np.empty((count, self._extra_columns), np.float32)
        attention = np.empty((count if self._attends else 0, modalities, modalities), np.float32)
        written = Result(
            result.probabilities,
            result.modality_probabilities,
            result.weights,
            result.present,
            result.scaled,
            attention,
            extras,
        )
        texts, result.unknown_texts = self._new_texts(frames)
        while True:
            status = self._step(
                *self._model,
                *self._arena,
                frames.slots,
                frames.values,
                frames.observed,
                frames.reset,
                *texts,
                *written,
            )
            if status == DONE:
                break
            if status != TOO_SMALL:
                raise ValueError("a slot is in this round twice; give it one frame per round")
            self.reserve(int(frames.slots.max()) + 1)
        if self._attends:
            result.attention = attention
        if self._extra_columns:
            _share_extras(self._layout, self._embedding_sizes, extras, result)
        return result

    def reset(self, slots: Ints) -> None:
        """Put the slots back to the initial state."""
        self.reserve(int(slots.max()) + 1 if len(slots) else 0)
        self._states[slots] = self._program.initial

    def save(self, slots: Ints) -> list[bytes]:
        """Header and raw little-endian float32 of each slot, always of the same length."""
        return self._state_format.write(self._states[slots[:, None], self._program.saved])

    def load(self, slot: int, state: bytes) -> None:
        """Restore one slot; raises StateError if the bytes are not a state of this very model."""
        numbers = self._state_format.read(state)
        self.reserve(slot + 1)
        self._states[slot] = self._program.initial
        self._states[slot, self._program.saved] = numbers

    def _new_arena(self) -> Arena:
        """What the compiled step is given of the states, after they have moved."""
        return Arena(self._states.reshape(-1), np.zeros(len(self._states) + 1, np.int64), self._work)

    def _new_texts(self, frames: Frames) -> tuple[NewTexts, list[int]]:
        """The texts that the model reads or counts, and the indices of those that it does not know."""
        if not self._reads or not frames.texts:
            return _NO_TEXTS, []
        if any(text.text not in self._lines for _, text in frames.texts):
            self._encode(list(dict.fromkeys(text.text for _, text in frames.texts)))
        lines, counted = self._lines, self._counted
        unknown = [
            index
            for index, (_, text) in enumerate(frames.texts)
            if lines[text.text] < 0 and (self._text is not None or counted[text.text] < 0)
        ]
        known = (one for one in frames.texts if lines[one[1].text] >= 0 or counted[one[1].text] >= 0)
        texts = sorted(known, key=lambda text: text[0])
        rows = np.array([row for row, _ in texts], np.int64)
        written = np.array([text.time_ms for _, text in texts], np.int64)
        ages = ((frames.end_ms[rows] - written) / frames.period_ms).astype(np.float32)
        at = np.array([lines[text.text] for _, text in texts], np.int64)
        messages = np.array([counted[text.text] for _, text in texts], np.int64)
        return NewTexts(rows, at, messages, ages, self._vectors), unknown

    def text_vectors(self, texts: Sequence[str]) -> Floats:
        """(X, D) what the text encoder makes of texts; 0 of those without a known word. D is 0 without one."""
        if self._text is None or not texts:
            return np.zeros((len(texts), 0 if self._text is None else self._text.size), np.float32)
        known = [place for place, text in enumerate(texts) if self._text.knows(text)]
        vectors = np.zeros((len(texts), self._text.size), np.float32)
        if known:
            vectors[known] = self._text.encode([texts[place] for place in known])
        return vectors

    @property
    def _reads(self) -> bool:
        """Whether the model does anything with texts."""
        return self._text is not None or bool(self._messages)

    def _encode(self, texts: list[str]) -> None:
        known = [text for text in texts if self._text is not None and self._text.knows(text)]
        self._lines = dict.fromkeys(texts, -1) | {text: line for line, text in enumerate(known)}
        self._vectors = self._text.encode(known).ravel() if self._text is not None and known else _NO_FLOATS
        self._counted = dict.fromkeys(texts, -1)
        if self._messages:
            self._counted = {text: self._messages.get(normalised(text), -1) for text in texts}


def require_fitting_weights(
    config: DiagnoserConfig, tensors: Mapping[str, Weights], tokenizer: Tokenizer | None, path: Path
) -> None:
    """Raise ModelFileError unless the weights of a file are those of this network, before anything is allocated."""
    reader = WeightReader(path, tensors)
    _text_encoder(config, tokenizer, reader)
    *_, sizes = _build(ProgramBuilder(reader, len(config.modalities)), config, embeddings=config.retrieval is not None)
    take_retrieval(reader, config.retrieval, sizes, has_texts=config.text is not None)
    reader.finish()


def _text_encoder(config: DiagnoserConfig, tokenizer: Tokenizer | None, reader: WeightReader) -> TextEncoder | None:
    return None if config.text is None or tokenizer is None else text_encoder(config.text, len(tokenizer), reader)


def _build(
    builder: ProgramBuilder, config: DiagnoserConfig, *, embeddings: bool = False
) -> tuple[Ints, bool, tuple[int, ...]]:
    """Emit a whole model; returns its layout, but for the sizes that are known at the end, whether it attends, and the
    sizes of its embeddings if it gives any."""
    layout = np.full(LAYOUT_SIZE, -1, np.int64)
    variables, classes, modalities = config.variables, config.classes, builder.modalities
    presence = builder.work(modalities)
    readings = builder.work(padded(variables))
    masked, watched = config.sensors.mask_inputs, config.detector is not None
    observed = builder.work(variables) if masked or watched else None
    take = builder.reader.take
    scaling = [take("mean", variables), take("std", variables), np.array([config.clip], np.float32)]
    counts = message_room(builder, config.messages)
    messages = emit_messages(builder, config.messages, counts)
    inputs = SensorInputs(variables, readings, observed if masked else None, messages)
    sensed = emit_sensors(builder, config.sensors, inputs, classes)
    if config.detector is not None and observed is not None:
        known = layout[layout_of.KNOWN] = builder.work(variables)
        watching = DetectorInputs(variables, readings, known, observed)
        found = emit_detector(builder, config.detector, watching, sensed.logits, classes)
        layout[layout_of.NOVELTY], layout[layout_of.DEVIATIONS] = found
    evidence = [Evidence(*sensed)]
    if config.groups:
        evidence += [Evidence(*encoded) for encoded in emit_groups(builder, config.groups, inputs, classes)]
        layout[layout_of.GROUPS] = builder.numbers(np.array(group_of_variables(config.groups, variables), np.float32))
    ring: RingState | None = None
    if config.text is not None:
        ring = ring_state(builder, config.text)
        evidence.append(Evidence(*emit_ring(builder, config.text, ring, builder.present(modalities - 1), classes)))
    layout[layout_of.EMBEDDINGS], sizes = emit_embeddings(builder, [own.features for own in evidence if embeddings])
    layout[layout_of.EMBEDDING_SIZE] = sum(sizes)
    layout[layout_of.REMAINING] = emit_remaining_life(builder, config.remaining_life, inputs, sensed.features)
    fused = emit_fusion(builder, config.fusion, evidence, presence, classes)
    emit_confidence(builder, config, fused.probabilities, classes)
    if config.unknown is not None:
        if layout[layout_of.NOVELTY] < 0:
            raise builder.reader.error("calls faults unknown without a detector")
        novelty = int(layout[layout_of.NOVELTY])
        added = emit_unknown(builder, config.unknown, sensed.features, novelty, fused.probabilities, classes)
        fused = fused._replace(probabilities=added)
    answers = classes + int(config.unknown is not None)
    layout[layout_of.CANDIDATES] = emit_candidates(builder, config, fused.probabilities, answers)
    _describe(layout, config, fused, modalities)
    layout[layout_of.READINGS], layout[layout_of.PRESENT] = readings, presence
    layout[layout_of.OBSERVED] = -1 if observed is None else observed
    layout[layout_of.SCALING] = builder.numbers(np.concatenate(scaling))
    layout[layout_of.MESSAGE_COUNTS] = counts
    _describe_messages(layout, config.messages)
    layout[layout_of.PLACES] = 0
    if ring is not None:
        layout[layout_of.PLACES], layout[layout_of.RING], layout[layout_of.AGES] = ring.places, ring.ring, ring.ages
        layout[layout_of.RING_WIDTH], layout[layout_of.TEXT_SIZE] = ring.width, ring.size
        layout[layout_of.TEXT_TTL] = config.text_ttl_frames
    return layout, fused.attention is not None, sizes


def _describe_messages(layout: Ints, messages: MessagesConfig | None) -> None:
    layout[layout_of.MESSAGES] = layout[layout_of.MESSAGE_WIDTH] = 0
    if messages is not None:
        layout[layout_of.MESSAGES] = len(messages.messages)
        layout[layout_of.MESSAGE_WIDTH] = padded(len(messages.messages))
        layout[layout_of.SHORTEST_WINDOW] = min(messages.windows)


def _extras(layout: Ints) -> list[tuple[int, int]]:
    """What the model has of that which only some models have: its place in the layout, and how many numbers it is."""
    widths = {
        layout_of.NOVELTY: 1,
        layout_of.DEVIATIONS: int(layout[layout_of.VARIABLES]),
        layout_of.CANDIDATES: int(layout[layout_of.CLASSES]),
        layout_of.REMAINING: REMAINING_NUMBERS,
        layout_of.EMBEDDINGS: int(layout[layout_of.EMBEDDING_SIZE]),
    }
    return [(place, width) for place, width in widths.items() if layout[place] >= 0]


def _share_extras(layout: Ints, embedding_sizes: Sequence[int], extras: Floats, result: StepResult) -> None:
    """Fill in what the interpreter has written of `_extras`."""
    begin = 0
    for place, width in _extras(layout):
        columns = extras[:, begin : begin + width]
        begin += width
        if place == layout_of.NOVELTY:
            result.novelty = columns[:, 0]
        elif place == layout_of.DEVIATIONS:
            result.deviations = columns
        elif place == layout_of.CANDIDATES:
            result.candidates = columns != 0
        elif place == layout_of.REMAINING:
            result.remaining = columns
        else:
            result.embeddings = tuple(np.split(columns, np.cumsum(embedding_sizes)[:-1], axis=1))


def _describe(layout: Ints, config: DiagnoserConfig, fused: Fused, modalities: int) -> None:
    layout[layout_of.VARIABLES], layout[layout_of.OWN_CLASSES] = config.variables, config.classes
    layout[layout_of.CLASSES] = config.classes + int(config.unknown is not None)
    layout[layout_of.MODALITIES] = modalities
    layout[layout_of.PROBABILITIES], layout[layout_of.ANSWERS] = fused.probabilities, fused.answers
    layout[layout_of.ANSWER_STRIDE], layout[layout_of.WEIGHTS] = fused.answer_stride, fused.weights
    layout[layout_of.ATTENTION] = -1 if fused.attention is None else fused.attention
