"""Configuration of message inputs: frequent messages of a plant as counts and ages."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from models.configs.limits import WholeFrames


class MessageWindows(BaseModel):
    """Over how many frames messages are counted, and for how many they are remembered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: tuple[WholeFrames, ...] = Field(default=(24, 72), min_length=1, max_length=8)
    """Frames over which each message is counted."""
    longest_age: int = Field(default=8_760, ge=1, le=10**7)
    """Frames after which a message counts as never having been written."""


class MessagesConfig(MessageWindows):
    """Which messages are counted, and how."""

    messages: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_024)]
    """Normalised texts, in the order of the columns."""

    @property
    def columns(self) -> int:
        """Numbers that the sensor experts get: of each message a count for each window, and its age."""
        return len(self.messages) * (len(self.windows) + 1)
