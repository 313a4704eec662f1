"""The event ring: newest texts of a machine with their ages, and the answer read from them (docs/guide/models.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.configs.text import AGE_FEATURES, AGE_SCALES, EMPTY, TextConfig
from models.encoders.base import State, mlp
from models.encoders.text import TextEncoder
from models.encoders.tokenizer import Tokenizer


def empty_ring(batch: int, config: TextConfig, like: Tensor) -> State:
    """Rings without texts: vectors `ring` (B, E, d) and `ring_age` (B, E) in frames, typed and placed as `like`."""
    return {
        "ring": like.new_zeros(batch, config.ring, config.size),
        "ring_age": like.new_full((batch, config.ring), EMPTY),
    }


def turn_ring(state: State, ttl: int) -> State:
    """One frame passes: every text ages by one frame, and those older than `ttl` frames are dropped."""
    age = state["ring_age"]
    age = torch.where(age >= 0, age + 1, age)
    alive = age <= ttl
    return {
        "ring": state["ring"] * alive.unsqueeze(-1),
        "ring_age": age.where(alive, age.new_tensor(EMPTY)),
    }


def push_texts(state: State, rows: Tensor, vectors: Tensor, ages: Tensor, ttl: int) -> State:
    """Put K texts into the rings of their rows; each ring keeps its E youngest, youngest first.

    rows (K,), vectors (K, d) and ages (K,) in frames, oldest first within a row. Negative ages (a clock ahead of
    ours) count as zero; texts older than `ttl` are left out. Of equally old texts the later one counts as younger.
    """
    touched, row_of, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    order = torch.argsort(row_of, stable=True)
    rank = torch.arange(len(rows)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    max_count = int(counts.max())
    place = counts[row_of[order]] - 1 - rank  # youngest first
    new_vectors = vectors.new_zeros(len(touched), max_count, vectors.shape[1])
    new_ages = ages.new_full((len(touched), max_count), EMPTY)
    new_vectors[row_of[order], place] = vectors[order]
    fresh = ages[order].clamp_min(0)
    new_ages[row_of[order], place] = torch.where(fresh <= ttl, fresh, ages.new_tensor(EMPTY))

    all_ages = torch.cat([new_ages, state["ring_age"][touched]], dim=1)
    all_vectors = torch.cat([new_vectors, state["ring"][touched]], dim=1)
    key = all_ages.where(all_ages >= 0, all_ages.new_tensor(torch.inf))
    kept = torch.argsort(key, dim=1, stable=True)[:, : state["ring_age"].shape[1]]
    kept_ages = all_ages.gather(1, kept)
    kept_vectors = all_vectors.gather(1, kept.unsqueeze(-1).expand(-1, -1, all_vectors.shape[2]))
    return {
        "ring": state["ring"].index_copy(0, touched, kept_vectors * (kept_ages >= 0).unsqueeze(-1)),
        "ring_age": state["ring_age"].index_copy(0, touched, kept_ages),
    }


class TextModality(nn.Module):
    """The answer of the texts alone: attention over the ring, scored by content and recency, into a dense head.

    Each text's weight is softmax_e(w·u_e + b - a_e / tau) with tau > 0 learned. It does not depend on the sensors, so
    that the modality can be trained, calibrated and explained by itself. Each text's
    value also depends on its age, so that an old report of a fault can fade into "no longer so".
    """

    def __init__(self, config: TextConfig, tokenizer: Tokenizer, *, classes: int) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        size = config.size
        self.encoder = TextEncoder(config, words=len(tokenizer))
        self.score = nn.Linear(size, 1)
        self.log_tau = nn.Parameter(torch.tensor(20.0).log())
        self.value = nn.Linear(size + AGE_FEATURES, size)
        self.dropout = nn.Dropout(config.dropout)
        self.feature_size = size + 2 * AGE_FEATURES
        self.head = mlp(self.feature_size, config.head, classes)

    def knows(self, text: str) -> bool:
        """Whether the model knows a word of the text; a text without one is no evidence."""
        return self.tokenizer.knows(text)

    def encode(self, texts: list[str]) -> Tensor:
        """Vectors (N, d) of at least one text."""
        vectors: Tensor = self.encoder(self.tokenizer(texts))
        return vectors

    def forward(self, ring: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
        """Rings (N, E, d) with ages (N, E) to logits (N, C) and attention (N, E), 0 on empty places.

        The logits of an empty ring are finite and meaningless.
        """
        pooled, attention = self.pool(ring, age)
        return self.head(pooled), attention

    def pool(self, ring: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
        """Rings to the input of the head, attended values and ages (N, D), and attention (N, E)."""
        filled = age >= 0
        text_age = age.clamp_min(0)
        score = self.score(ring).squeeze(-1) - text_age / self.log_tau.exp()
        lowest = torch.finfo(score.dtype).min
        attention = torch.softmax(score.masked_fill(~filled, lowest), dim=1) * filled
        age_features = self._age_features(text_age)
        value = torch.tanh(self.value(torch.cat([ring, age_features], dim=2)))
        weight = attention.unsqueeze(-1)
        pooled = torch.cat(
            [
                self.dropout((weight * value).sum(dim=1)),
                (weight * age_features).sum(dim=1),
                age_features[:, 0],
            ],
            dim=1,
        )
        return pooled, attention

    @staticmethod
    def _age_features(age: Tensor) -> Tensor:
        return torch.stack([age.log1p() / 4, *(torch.exp(-age / scale) for scale in AGE_SCALES)], dim=-1)
