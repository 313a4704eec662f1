"""Array types of the columns that all packages work with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEVER_MS = -(2**62)
"""Stands for "has not happened yet" in integer millisecond columns."""
