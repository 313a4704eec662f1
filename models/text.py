"""Event texts: tokens with hashed character n-grams, and the LSTM that turns a text into one vector (MODELS.md 2.2)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

PAD, UNKNOWN = 0, 1
_TOKEN = re.compile(r"[a-z0-9]+")
_LONGEST_TOKEN = 32
"""Longer tokens are cut: they are serial numbers or noise, and must not cost more than words."""


class TextConfig(BaseModel):
    """Shape of the text modality: tokenizer, encoder and the head over the event ring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding: int = Field(default=64, ge=1)
    hidden: int = Field(default=80, ge=1)
    """Size d of a text's vector."""
    head: tuple[int, ...] = (64, 48, 32)
    dropout: float = Field(default=0.4, ge=0, lt=1)
    unknown_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of words that training replaces by the unknown word, so that new words do no harm."""
    max_tokens: int = Field(default=24, ge=1)
    ring: int = Field(default=8, ge=1)
    """Texts E that a machine remembers."""
    subword_buckets: int = Field(default=2**13, ge=0)
    """Hash buckets of character n-grams; 0 turns them off."""
    shortest_ngram: int = Field(default=3, ge=1)
    longest_ngram: int = Field(default=5, ge=1)


def normalised(text: str) -> str:
    """The text as the tokenizer sees it: lower-case words and numbers, one space apart."""
    return " ".join(_TOKEN.findall(text.lower()))


@dataclass(frozen=True, slots=True)
class Tokens:
    """N tokenised texts; W is the number of all their words together, S that of all n-grams."""

    words: Tensor  # (N, L) word ids, PAD beyond a text's end
    lengths: Tensor  # (N,)
    ngrams: Tensor  # (S,) buckets, word after word
    offsets: Tensor  # (W,) where each word's buckets start in `ngrams`


class Tokenizer:
    """Splits texts into words of `[a-z0-9]+` and knows each word's id and its n-gram buckets."""

    def __init__(self, vocabulary: Sequence[str], config: TextConfig) -> None:
        self.vocabulary = tuple(vocabulary)
        self.config = config
        self._ids = {word: at for at, word in enumerate(self.vocabulary, start=UNKNOWN + 1)}

    @classmethod
    def fit(cls, texts: Iterable[str], config: TextConfig) -> Self:
        """With every word of the texts, in alphabetical order."""
        return cls(sorted({word for text in texts for word in _TOKEN.findall(text.lower())}), config)

    def __len__(self) -> int:
        """Number of word ids, with those for padding and unknown words."""
        return len(self.vocabulary) + UNKNOWN + 1

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenise at least one text; a text without any word becomes one unknown word."""
        cut = [self.split(text) for text in texts]
        words = torch.full((len(cut), max(map(len, cut))), PAD)
        ngrams: list[int] = []
        offsets: list[int] = []
        for row, tokens in enumerate(cut):
            words[row, : len(tokens)] = torch.tensor([self._ids.get(token, UNKNOWN) for token in tokens])
            for token in tokens:
                offsets.append(len(ngrams))
                ngrams += self.buckets(token)
        lengths = torch.tensor([len(tokens) for tokens in cut])
        return Tokens(words, lengths, torch.tensor(ngrams, dtype=torch.int64), torch.tensor(offsets))

    def split(self, text: str) -> list[str]:
        """The words that count, at least one."""
        found = _TOKEN.findall(text.lower())[: self.config.max_tokens]
        return [token[:_LONGEST_TOKEN] for token in found] or [""]

    def buckets(self, token: str) -> list[int]:
        """Bucket of each character n-gram of `<token>`; the angle brackets tell word ends from middles."""
        config = self.config
        if not config.subword_buckets:
            return []
        marked = f"<{token}>".encode()
        return [
            zlib.crc32(marked[start : start + size]) % config.subword_buckets
            for size in range(config.shortest_ngram, config.longest_ngram + 1)
            for start in range(len(marked) - size + 1)
        ]


class TextEncoder(nn.Module):
    """Word and n-gram embeddings into an LSTM whose last state stands for the text."""

    def __init__(self, config: TextConfig, *, words: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.ngrams = (
            nn.EmbeddingBag(config.subword_buckets, config.embedding, mode="mean") if config.subword_buckets else None
        )
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():
            # Buckets and words that training never meets keep their first values: they must whisper, not shout.
            self.embedding.weight.mul_(0.3)
            if self.ngrams is not None:
                self.ngrams.weight.mul_(0.3)

    def forward(self, tokens: Tokens) -> Tensor:
        """Vectors u (N, d) of N texts."""
        words = tokens.words
        if self.training and self.config.unknown_dropout:
            lost = torch.rand(words.shape) < self.config.unknown_dropout
            words = words.masked_fill(lost & (words != PAD), UNKNOWN)
        x = self.embedding(words)
        if self.ngrams is not None:
            subwords = torch.zeros_like(x)
            subwords[tokens.words != PAD] = self.ngrams(tokens.ngrams, tokens.offsets)
            x = x + subwords
        packed = pack_padded_sequence(self.dropout(x), tokens.lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        vectors: Tensor = h[-1]
        return vectors
