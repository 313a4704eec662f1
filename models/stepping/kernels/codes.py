"""The vocabulary that programs, operations and the interpreter share: sets of rows, spaces, rules."""

from __future__ import annotations

from typing import Final

from models.configs.fusion import RULES
from models.stepping.kernels.lanes import LANES

OPERANDS: Final = 16
"""Columns of a program: the address of the operation, the set of rows that it is for, and up to fourteen numbers."""

# Spaces that an operand can be in.
WORK: Final = 0
"""A row of the round's working memory."""
STATE: Final = 1
"""A machine's state."""

# Sets of rows. `PRESENT + m`, `ABSENT + m` and `ALONE + m` are about modality m, `PLACE + e` about place e of the
# event ring; how many modalities there are shifts the later ones (`models.stepping.programs.builder.Layout`).
ALL: Final = 0
NONE: Final = 1
"""No modality is present."""
SEVERAL: Final = 2
"""Two or more modalities are present."""
FIRST_OF_MODALITIES: Final = 3

# Rules of late fusion that are more than a weighted mean, by their place in models.configs.fusion.RULES.
PER_CLASS: Final = RULES.index("per_class")
PRODUCT: Final = RULES.index("product")
STACKED: Final = RULES.index("stacked")


def padded(size: int) -> int:
    """`size`, rounded up to whole lanes."""
    return -(-size // LANES) * LANES
