"""Classes of a model's answers: a machine type's normal state and faults, and `recovering` and `unknown` if known."""

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

NO_EVIDENCE: Final = "no_evidence"
"""Not a class: what a diagnosis says where nothing is known of the frame."""

NO_CLASS: Final = -1


def model_classes(faults: Sequence[str], *, recovering: bool, unknown: bool = False) -> tuple[str, ...]:
    """The classes of a model for these faults, of which the first is the normal state."""
    return (*faults, *([RECOVERING] if recovering else []), *([UNKNOWN] if unknown else []))


def are_classes_for(classes: Sequence[str], faults: Sequence[str]) -> bool:
    """Whether a model's classes are these faults and possibly `recovering` and `unknown`, which then must not be names
    of faults."""
    added = tuple(classes)[len(faults) :]
    expected = model_classes((), recovering=RECOVERING in added, unknown=UNKNOWN in added)
    return tuple(classes) == (*faults, *expected) and added == expected and not set(added) & set(faults)


def unknown_class(classes: Sequence[str], faults: Sequence[str]) -> int:
    """The place of `unknown` among a model's classes for these faults; NO_CLASS if it has none."""
    return len(classes) - 1 if len(classes) > len(faults) and classes[-1] == UNKNOWN else NO_CLASS


def faultless_classes(classes: Sequence[str], faults: Sequence[str] = ()) -> list[int]:
    """The places of the classes without a fault: the normal state, and `recovering` unless it is one of `faults`."""
    return [0, *(place for place, name in enumerate(classes) if name == RECOVERING and name not in faults)]


def labelled_classes(classes: Ints, faults: int, unknown: int = NO_CLASS) -> Ints:
    """Answers as labels would name them: `recovering`, a class after this many faults, is the normal state. `unknown`,
    whose place is given if there is the class, is no class of labels and stays."""
    return np.where((classes >= faults) & (classes != unknown), 0, classes)
