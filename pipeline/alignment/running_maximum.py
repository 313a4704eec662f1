"""Running maxima over the rows of many machines at once."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools, Ints

Scalar = TypeVar("Scalar", bound=np.generic)

_GROUP_SHIFT = np.int64(2**43)
"""Above any time (messages.MAX_TIME_MS), so that one running maximum serves all machines of a batch."""


class RunningMaximum:
    """Running maxima over sorted rows, machine by machine, each from a value that the machine had before."""

    def __init__(self, first: Bools, starts: Ints) -> None:
        self.starts = starts
        self._base = (np.cumsum(first) - 1) * _GROUP_SHIFT

    def of(self, column: Ints, before: Ints | Bools) -> Ints:
        """The maximum of a machine's value before and its rows so far."""
        starts, base = self.starts, self._base
        shifted = column + base
        shifted[starts] = np.maximum(shifted[starts], before + base[starts])
        maximum: Ints = np.maximum.accumulate(shifted) - base
        return maximum


def last_of_group(column: NDArray[Scalar], starts: Ints) -> NDArray[Scalar]:
    """The last entry of each machine's rows, which begin at `starts`."""
    last: NDArray[Scalar] = column[np.append(starts[1:], len(column)) - 1]
    return last
