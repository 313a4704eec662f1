"""Limits of a network's shape: far above any network that is of use, and low enough that adding them up stays cheap."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(ge=1, le=65_536)]
"""Numbers of a layer, places of a ring or taps of a queue."""

Widths = Annotated[tuple[Width, ...], Field(max_length=64)]
"""One for each layer."""

Column = Annotated[int, Field(ge=0, lt=65_536)]
"""The place of a variable among all."""

Layers = Annotated[int, Field(ge=1, le=64)]
Heads = Annotated[int, Field(ge=1, le=1_024)]
FrameCount = Annotated[float, Field(ge=1e-3, le=1e9)]
FrameCounts = Annotated[tuple[FrameCount, ...], Field(max_length=64)]

WholeFrames = Annotated[int, Field(ge=1, le=4_096)]
"""Frames that are kept, each as a vector of a machine's state."""
