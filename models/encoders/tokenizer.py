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
    """N tokenised texts with W words together, S n-grams of these, and Q buckets in their bags."""

    words: Ints  # (N, L) word ids, PAD after the end of a text
    lengths: Ints  # (N,)
    ngrams: Ints  # (S,) buckets, word after word
    offsets: Ints  # (W,) where each word's buckets start in `ngrams`
    bag: Ints  # (Q,) buckets of the bags, text after text
    bag_words: Ints  # (Q,) which of the W words each of these belongs to
    bag_offsets: Ints  # (N,) where each text's buckets start in `bag`


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
        bag: list[int] = []
        bag_words: list[int] = []
        bag_offsets: list[int] = []
        for row, tokens in enumerate(split):
            bag_offsets.append(len(bag))
            words[row, : len(tokens)] = [self._ids.get(token, UNKNOWN) for token in tokens]
            for place, token in enumerate(tokens):
                if self.config.bag:
                    buckets = self.bag_buckets(token, tokens[place - 1] if place else None)
                    bag_words += [len(offsets)] * len(buckets)
                    bag += buckets
                offsets.append(len(ngrams))
                ngrams += self.buckets(token)
        lengths = [len(tokens) for tokens in split]
        columns = (lengths, ngrams, offsets, bag, bag_words, bag_offsets)
        return Tokens(words, *(np.array(column, np.int64) for column in columns))

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
        ngrams = _ngrams(token, config.shortest_ngram, config.longest_ngram)
        return [zlib.crc32(ngram.encode()) % config.subword_buckets for ngram in ngrams]

    def bag_buckets(self, token: str, before: str | None) -> list[int]:
        """Bucket of everything that a word adds to the bag: its n-grams, itself, and it with the word before.

        What is no n-gram has a space in it, so that only hashing can take one for the other.
        """
        config = self.config
        parts = [*_ngrams(token, config.bag_shortest_ngram, config.longest_ngram), f" {token}"]
        if before is not None:
            parts.append(f"{before} {token}")
        return [zlib.crc32(part.encode()) % config.bag_buckets for part in parts]


def _ngrams(token: str, shortest: int, longest: int) -> list[str]:
    if is_unspaced(token):
        return list(token)
    marked = f"<{token}>"
    return [
        marked[start : start + size] for size in range(shortest, longest + 1) for start in range(len(marked) - size + 1)
    ]
