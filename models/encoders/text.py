"""TextEncoder: an LSTM and a bag of n-grams that turn a tokenised text into one vector (docs/guide/models.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.configs.text import BAG_SCALE, TextConfig
from models.encoders.tokenizer import PAD, UNKNOWN, Tokens


class TextEncoder(nn.Module):
    """Word and n-gram embeddings into an LSTM, whose last state is the first part of a text's vector.

    The second part, the bag, is a mean over all words, word pairs and n-grams: what is linear in it reads a text by its
    pieces, whoever put them together.
    """

    def __init__(self, config: TextConfig, *, words: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(words, config.embedding, padding_idx=PAD)
        self.ngrams = (
            nn.EmbeddingBag(config.subword_buckets, config.embedding, mode="mean") if config.subword_buckets else None
        )
        self.bag = nn.EmbeddingBag(config.bag_buckets, config.bag, mode="mean") if config.bag else None
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():
            # Buckets and words that training never sees keep their initial values, which must be small.
            self.embedding.weight.mul_(0.3)
            if self.ngrams is not None:
                self.ngrams.weight.mul_(0.3)
            if self.bag is not None:
                self.bag.weight.mul_(0.1)

    def forward(self, tokens: Tokens) -> Tensor:
        """Vectors u (N, d) of N texts."""
        words = torch.from_numpy(tokens.words)
        written = words != PAD
        lost = torch.zeros_like(written)
        if self.training and self.config.unknown_dropout:
            lost = (torch.rand(words.shape) < self.config.unknown_dropout) & written
            words = words.masked_fill(lost, UNKNOWN)
        x = self.embedding(words)
        if self.ngrams is not None:
            subwords = torch.zeros_like(x)
            subwords[written] = self.ngrams(torch.from_numpy(tokens.ngrams), torch.from_numpy(tokens.offsets))
            x = x + subwords
        lengths = torch.from_numpy(tokens.lengths)
        packed = pack_padded_sequence(self.dropout(x), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        vectors: Tensor = h[-1]
        if self.bag is not None:
            vectors = torch.cat([vectors, self._bag(self.bag, tokens, lost[written])], dim=1)
        return vectors

    @staticmethod
    def _bag(bag: nn.EmbeddingBag, tokens: Tokens, lost: Tensor) -> Tensor:
        """The bags (N, b) of the texts, without what belongs to lost words, (W,)."""
        buckets, offsets = torch.from_numpy(tokens.bag), torch.from_numpy(tokens.bag_offsets)
        if bool(lost.any()):
            kept = ~lost[torch.from_numpy(tokens.bag_words)]
            buckets, offsets = buckets[kept], (kept.cumsum(0) - kept.long())[offsets]
        found: Tensor = bag(buckets, offsets)
        return found * BAG_SCALE
