"""Configuration of the text modality, and the constants of the event ring."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from models.configs.limits import Width, Widths

EMPTY: Final = -1.0
"""Age of an empty place in the event ring."""

AGE_SCALES: Final = (5.0, 20.0, 60.0)
"""Time constants, in frames, of the exponential features of a text's age; log(1 + age) / 4 comes before them."""

AGE_FEATURES: Final = 1 + len(AGE_SCALES)

BAG_SCALE: Final = 4.0
"""Factor on the bag, whose many averaged n-grams are otherwise small beside the state of the LSTM."""


class TextConfig(BaseModel):
    """Shape of the text modality: tokenizer, encoder and the head over the event ring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding: Width = 64
    hidden: Width = 80
    """Size of the LSTM's state, the first part of a text's vector."""
    head: Widths = (64, 48, 32)
    dropout: float = Field(default=0.4, ge=0, lt=1)
    unknown_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of words that training replaces by the unknown word, so that new words do no harm."""
    max_tokens: Width = 24
    ring: int = Field(default=8, ge=1, le=1_024)
    """Texts E that a machine remembers."""
    subword_buckets: int = Field(default=2**13, ge=0, le=2**24)
    """Hash buckets of character n-grams; 0 turns them off."""
    shortest_ngram: int = Field(default=3, ge=1, le=64)
    longest_ngram: int = Field(default=5, ge=1, le=64)
    bag: int = Field(default=0, ge=0, le=65_536)
    """Size of the bag, the second part of a text's vector: the mean over all its words, pairs of neighbouring words and
    character n-grams, in no order. It reads authors unknown to training better than the LSTM; 0 leaves it out."""
    bag_buckets: int = Field(default=2**15, ge=1, le=2**24)
    """Hash buckets of what is in the bag."""
    bag_shortest_ngram: int = Field(default=2, ge=1, le=64)

    @property
    def size(self) -> int:
        """Size d of a text's vector."""
        return self.hidden + self.bag

    @model_serializer(mode="wrap")
    def _described(self, describe: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a bag as before there were bags: the hash of a model file covers its configuration."""
        fields: dict[str, Any] = describe(self)
        return {name: value for name, value in fields.items() if self.bag or not name.startswith("bag")}
