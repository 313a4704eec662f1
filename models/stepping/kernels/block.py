"""What an operation works on: the model's numbers, working memory and states, and where each row of a block begins."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.arrays import Floats, Ints


class Block(NamedTuple):
    """Up to `BLOCK_ROWS` machines of a round; all arrays are flat. Rows are numbered within the block."""

    weights: Floats
    work: Floats
    states: Floats
    at: Ints
    """Where each row's working memory begins."""
    state_at: Ints
    """Where each row's machine state begins."""
    present_at: int
    """Where in a row's working memory each modality's 1 (present) or 0 (absent) stands."""
