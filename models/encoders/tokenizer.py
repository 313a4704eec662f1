"""The tokenizer of event texts: words with their ids, and hashed character n-grams (docs/guide/models.md)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from models.configs.text import TextConfig
from models.encoders.words import is_telling, is_unspaced, words
from pipeline.arrays import Ints

PAD, UNKNOWN = 0, 1
_MAX_TOKEN_LENGTH = 32
"""Longer tokens are truncated: they are serial numbers or noise, and must not cost more than words."""


def normalised(text: str) -> str:
    """The text as the tokenizer sees it: lower-case words and numbers, one space apart."""
    return " ".join(words(text))


@dataclass(frozen=True, slots=True)
class Tokens:
    """N tokenised texts; W is the total number of their words, S that of their n-grams."""

    words: Ints  # (N, L) word ids, PAD after the end of a text
    lengths: Ints  # (N,)
    ngrams: Ints  # (S,) buckets, word after word
    offsets: Ints  # (W,) where each word's buckets start in `ngrams`


class Tokenizer:
    """Splits texts into words and knows each word's id and its n-gram buckets."""

    def __init__(self, vocabulary: Sequence[str], config: TextConfig) -> None:
        self.vocabulary = tuple(vocabulary)
        self.config = config
        self._ids = {word: index for index, word in enumerate(self.vocabulary, start=UNKNOWN + 1)}

    @classmethod
    def fit(cls, texts: Iterable[str], config: TextConfig) -> Self:
        """With every word of the texts, in alphabetical order."""
        return cls(sorted({word for text in texts for word in words(text)}), config)

    def __len__(self) -> int:
        """Number of word ids, with those for padding and unknown words."""
        return len(self.vocabulary) + UNKNOWN + 1

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenise at least one text; a text without any word becomes one unknown word."""
        split = [self.split(text) for text in texts]
        words = np.full((len(split), max(map(len, split))), PAD, np.int64)
        ngrams: list[int] = []
        offsets: list[int] = []
        for row, tokens in enumerate(split):
            words[row, : len(tokens)] = [self._ids.get(token, UNKNOWN) for token in tokens]
            for token in tokens:
                offsets.append(len(ngrams))
                ngrams += self.buckets(token)
        lengths = np.array([len(tokens) for tokens in split], np.int64)
        return Tokens(words, lengths, np.array(ngrams, np.int64), np.array(offsets, np.int64))

    def split(self, text: str) -> list[str]:
        """The words that are used, at least one; of a long text as many from its beginning as from its end."""
        tokens, limit = words(text), self.config.max_tokens
        if len(tokens) > limit:
            tokens = tokens[: limit - limit // 2] + tokens[len(tokens) - limit // 2 :]
        return [token[:_MAX_TOKEN_LENGTH] for token in tokens] or [""]

    def knows(self, text: str) -> bool:
        """Whether the text has a known word; numbers and single letters count only where there is nothing else."""
        tokens = self.split(text)
        telling = [token for token in tokens if is_telling(token)]
        return any(token in self._ids for token in telling or tokens)

    def buckets(self, token: str) -> list[int]:
        """Bucket of each character n-gram of `<token>`; the angle brackets mark the ends of the word.

        A word of a script without spaces is a pair of characters already; its n-grams are the two characters.
        """
        config = self.config
        if not config.subword_buckets:
            return []
        if is_unspaced(token):
            ngrams = list(token)
        else:
            marked = f"<{token}>"
            ngrams = [
                marked[start : start + size]
                for size in range(config.shortest_ngram, config.longest_ngram + 1)
                for start in range(len(marked) - size + 1)
            ]
        return [zlib.crc32(ngram.encode()) % config.subword_buckets for ngram in ngrams]
