"""Classes of a model's answers: a machine type's normal state and faults, and `recovering` if it has learnt that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pipeline.arrays import Ints

RECOVERING: Final = "recovering"
"""The class after the last fault: a fault has cleared, and the plant is not in its normal state yet. Labels lack it."""

UNKNOWN: Final = "unknown"
"""The last class: the plant is not in its normal state, and not in one that the model has learnt. In labels it is a
fault that has no name yet."""


def model_classes(faults: Sequence[str], *, recovering: bool) -> tuple[str, ...]:
    """The classes of a model for these faults, of which the first is the normal state."""
    return (*faults, RECOVERING) if recovering else tuple(faults)


def has_recovering(classes: Sequence[str], faults: Sequence[str]) -> bool:
    """Whether a model's classes are these faults and `recovering`, which then must not be the name of a fault."""
    return RECOVERING not in faults and tuple(classes) == (*faults, RECOVERING)


def labelled_classes(classes: Ints, faults: int) -> Ints:
    """Answers as labels would name them: `recovering`, the class after this many faults, is the normal state."""
    return np.where(classes >= faults, 0, classes)
