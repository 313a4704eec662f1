"""TextEncoder: the LSTM that turns a tokenised text into one vector (docs/guide/models.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.configs.text import TextConfig
from models.encoders.tokenizer import PAD, UNKNOWN, Tokens


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
            # Buckets and words that training never sees keep their initial values, which must be small.
            self.embedding.weight.mul_(0.3)
            if self.ngrams is not None:
                self.ngrams.weight.mul_(0.3)

    def forward(self, tokens: Tokens) -> Tensor:
        """Vectors u (N, d) of N texts."""
        words = torch.from_numpy(tokens.words)
        written = words != PAD
        if self.training and self.config.unknown_dropout:
            lost = torch.rand(words.shape) < self.config.unknown_dropout
            words = words.masked_fill(lost & written, UNKNOWN)
        x = self.embedding(words)
        if self.ngrams is not None:
            subwords = torch.zeros_like(x)
            subwords[written] = self.ngrams(torch.from_numpy(tokens.ngrams), torch.from_numpy(tokens.offsets))
            x = x + subwords
        lengths = torch.from_numpy(tokens.lengths)
        packed = pack_padded_sequence(self.dropout(x), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        vectors: Tensor = h[-1]
        return vectors
