"""The text encoder as a function of its words' embeddings, which can be scaled from nothing to what they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from models.configs.text import BAG_SCALE
from models.encoders.text import TextEncoder
from models.encoders.tokenizer import PAD, Tokenizer


class EmbeddedTexts:
    """K texts as what their words enter the encoder with: embeddings (K, L, e), and parts of the bag (K, L, b)."""

    def __init__(self, encoder: TextEncoder, tokenizer: Tokenizer, texts: list[str]) -> None:
        """`texts` are at least one; of a long text only the words that the tokenizer uses."""
        self._encoder = encoder
        self.words = [tokenizer.split(text) for text in texts]
        tokens = tokenizer(texts)
        words = torch.from_numpy(tokens.words)
        written = words != PAD
        self._lengths = torch.from_numpy(tokens.lengths)
        with torch.no_grad():
            embedded = encoder.embedding(words)
            if encoder.ngrams is not None:
                subwords = torch.zeros_like(embedded)
                subwords[written] = encoder.ngrams(torch.from_numpy(tokens.ngrams), torch.from_numpy(tokens.offsets))
                embedded = embedded + subwords
            self.embedded: Tensor = embedded
            self.bag = embedded.new_zeros(*words.shape, 0)
            if encoder.bag is not None:
                buckets = torch.from_numpy(tokens.bag)
                ends = torch.cat([torch.from_numpy(tokens.bag_offsets)[1:], torch.tensor([len(buckets)])])
                counts = ends - torch.from_numpy(tokens.bag_offsets)
                of_word = embedded.new_zeros(int(written.sum()), encoder.bag.embedding_dim)
                of_word.index_add_(0, torch.from_numpy(tokens.bag_words), encoder.bag.weight[buckets])
                self.bag = embedded.new_zeros(*words.shape, encoder.bag.embedding_dim)
                self.bag[written] = of_word
                self.bag = self.bag / counts.clamp_min(1)[:, None, None]

    def vectors(self, embedded: Tensor, bag: Tensor) -> Tensor:
        """Vectors (N, K, d) of embeddings (N, K, L, e) and parts of the bag (N, K, L, b)."""
        points, texts = embedded.shape[:2]
        lengths = self._lengths.repeat(points)
        packed = pack_padded_sequence(embedded.flatten(0, 1), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self._encoder.lstm(packed)
        vectors: Tensor = h[-1].view(points, texts, -1)
        if self._encoder.bag is None:
            return vectors
        return torch.cat([vectors, bag.sum(dim=2) * BAG_SCALE], dim=2)
