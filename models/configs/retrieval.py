"""Configuration of the head that places sensors and texts in one space, so that each can be looked up by the other."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from models.configs.limits import Width


class RetrievalConfig(BaseModel):
    """Shape of the head (docs/guide/models.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Width = 64
    """Numbers of a vector in the shared space."""


class RetrievalChoice(RetrievalConfig):
    """The head, and how it is trained."""

    temperature: float = Field(default=0.07, gt=0, le=10)
    """Of the contrastive loss: cosines are divided by it."""
    frames_per_episode: int = Field(default=64, ge=1)
    """How many frames of each fault of a training run are learnt from, drawn once."""
    pairs_per_epoch: int = Field(default=50_000, ge=1)

    def network(self) -> RetrievalConfig:
        """The part that a model file records."""
        return RetrievalConfig(size=self.size)
