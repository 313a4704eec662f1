"""Texts to vectors, compiled: embeddings through an LSTM, and a bag of n-grams, each text as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from models.configs.text import BAG_SCALE, TextConfig
from models.encoders.tokenizer import Tokenizer
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.kernels.operation import SOURCES, call
from models.stepping.programs.builder import Program, ProgramBuilder, at_state, at_work
from models.stepping.programs.sensors import emit_lstm_gates
from models.stepping.programs.weights import WeightReader
from pipeline.arrays import Floats, Ints
from pipeline.compiled import CompiledFunction, Notify, kernel

_TEXTS: Final = 16
"""Texts that are taken through the LSTM together."""

_KEY: Final = "text.encoder"
_ZERO = np.float32(0)


@kernel
def add_bag(target: Floats, bag: Floats, buckets: Ints) -> None:
    """The mean (b,) of the rows of a table (B, b) that the buckets name, summed in their order."""
    target[:] = _ZERO
    for bucket in buckets:
        for j in range(len(target)):
            target[j] += bag[bucket, j]
    for j in range(len(target)):
        target[j] /= np.float32(len(buckets))


def encode(
    table: Ints,
    weights: Floats,
    embedding: Floats,
    ngrams: Floats,
    bag: Floats,
    work_size: int,
    state_size: int,
    input_at: int,
    words: Ints,
    lengths: Ints,
    order: Ints,
    first_words: Ints,
    first_buckets: Ints,
    buckets: Ints,
    bag_starts: Ints,
    bag_buckets: Ints,
    vectors: Floats,
) -> None:
    """Vectors (N, d) of texts: words (N, L), of which `lengths` count, in an `order` from the longest to the shortest.

    The n-grams of the w-th word of all texts are `buckets` from first_buckets[w] to the next; text n begins with
    word first_words[n] of all. Each machine state of the LSTM begins with its h, the first part of a vector. The bag of
    text n, the second part, has bag_buckets[bag_starts[n]] to the next.
    """
    work, states = np.zeros(_TEXTS * work_size, np.float32), np.zeros(_TEXTS * state_size, np.float32)
    at, state_at, rows = np.arange(_TEXTS) * work_size, np.arange(_TEXTS) * state_size, np.arange(_TEXTS)
    size, hidden = embedding.shape[1], vectors.shape[1] - bag.shape[1]
    for begin in range(0, len(order), _TEXTS):
        count = min(_TEXTS, len(order) - begin)
        states[:] = _ZERO
        active = count
        for t in range(lengths[order[begin]]):
            while lengths[order[begin + active - 1]] <= t:
                active -= 1
            for r in range(active):
                text, x = order[begin + r], at[r] + input_at
                word = first_words[text] + t
                first, last = first_buckets[word], first_buckets[word + 1]
                for j in range(size):
                    total = _ZERO
                    for b in range(first, last):
                        total += ngrams[buckets[b], j]
                    if last > first:
                        total /= np.float32(last - first)
                    work[x + j] = embedding[words[text, t], j] + total
            for i in range(len(table)):
                call(table[i, 0], table[i], weights, work, states, at, state_at, rows, active, 0)
        for r in range(count):
            text = order[begin + r]
            for j in range(hidden):
                vectors[text, j] = states[state_at[r] + j]
            add_bag(vectors[text, hidden:], bag, bag_buckets[bag_starts[text] : bag_starts[text + 1]])


_INTS, _FLOATS, _TABLE = "int64[::1]", "float32[::1]", "float32[:, ::1]"
ENCODE: Final = CompiledFunction(
    encode,
    f"void(int64[:, ::1], {_FLOATS}, {_TABLE}, {_TABLE}, {_TABLE}, int64, int64, int64, int64[:, ::1], {_INTS},"
    f" {_INTS}, {_INTS}, {_INTS}, {_INTS}, {_INTS}, {_INTS}, {_TABLE})",
    SOURCES,
)


class TextEncoder(NamedTuple):
    """The text encoder of a model file."""

    size: int
    """Of a text's vector."""
    embedding: Floats
    ngrams: Floats
    bag: Floats
    program: Program
    input_at: int


def text_encoder(config: TextConfig, words: int, reader: WeightReader) -> TextEncoder:
    """Take the weights of the text encoder; raises ModelFileError if one is missing or misshapen."""
    embedding = reader.take(f"{_KEY}.embedding.weight", words, config.embedding)
    ngrams = np.zeros((0, config.embedding), np.float32)
    if config.subword_buckets:
        ngrams = reader.take(f"{_KEY}.ngrams.weight", config.subword_buckets, config.embedding)
    bag = np.zeros((0, 0), np.float32)
    if config.bag:
        bag = reader.take(f"{_KEY}.bag.weight", config.bag_buckets, config.bag) * np.float32(BAG_SCALE)
    builder = ProgramBuilder(reader, 0)
    h, c = builder.state(1, config.hidden), builder.state(1, config.hidden)
    input_at = builder.work(config.embedding)
    x = at_work(input_at, config.embedding)
    gates = emit_lstm_gates(builder, f"{_KEY}.lstm", x, at_state(h, config.hidden), config.hidden)
    output = builder.work(config.hidden)
    builder.emit(operations.LSTM_CELL, ALL, gates, padded(config.hidden), h, c, output)
    return TextEncoder(config.size, embedding, ngrams, bag, builder.finish(), input_at)


class TextVectors:
    """Encodes texts."""

    def __init__(self, encoder: TextEncoder, tokenizer: Tokenizer, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._tokenizer = tokenizer
        self.size = encoder.size
        self._embedding, self._ngrams, self._bag = encoder.embedding, encoder.ngrams, encoder.bag
        self._program, self._input_at = encoder.program, encoder.input_at
        self._table = self._program.compiled([ENCODE], "the text encoder", notify)
        self._encode = ENCODE.compile()

    def knows(self, text: str) -> bool:
        """Whether the model knows a word of the text."""
        return self._tokenizer.knows(text)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors (N, d) of at least one text."""
        tokens = self._tokenizer(texts)
        vectors = np.empty((len(texts), self.size), np.float32)
        self._encode(
            self._table,
            self._program.weights,
            self._embedding,
            self._ngrams,
            self._bag,
            self._program.work_size,
            len(self._program.initial),
            self._input_at,
            tokens.words,
            tokens.lengths,
            np.argsort(-tokens.lengths, kind="stable"),
            np.cumsum(tokens.lengths) - tokens.lengths,
            np.append(tokens.offsets, len(tokens.ngrams)),
            tokens.ngrams,
            np.append(tokens.bag_offsets, len(tokens.bag)),
            tokens.bag,
            vectors,
        )
        return vectors
