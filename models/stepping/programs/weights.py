"""Weights of a model file, taken by name and shape, so that none is missing, misshapen or left over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from models.model_file import Weights, misshapen_weight, missing_weight, surplus_weight, with_doubts
from pipeline.arrays import Floats
from pipeline.errors import ModelFileError

MAX_NUMBERS: Final = 2**23
"""Numbers of a machine's state, or of the working memory for one of its frames: 32 MiB."""


class WeightReader:
    """Hands out the tensors of one model file; every error is a ModelFileError that names the weight."""

    def __init__(self, path: Path, tensors: Mapping[str, Weights]) -> None:
        self._path = path
        self._tensors = with_doubts(tensors)
        self._taken: set[str] = set()

    def take(self, key: str, *shape: int) -> Floats:
        """The weight of this name in float32; raises ModelFileError if it is missing or has another shape."""
        if key not in self._tensors:
            raise missing_weight(self._path, key)
        tensor = self._tensors[key]
        if tensor.shape != shape:
            raise misshapen_weight(self._path, key, tensor.shape, shape)
        self._taken.add(key)
        return np.array(tensor, np.float32, order="C")

    def linear(self, key: str, size_in: int, size_out: int) -> tuple[Floats, Floats]:
        """Matrix (out, in) and bias (out,) of a linear layer."""
        return self.take(f"{key}.weight", size_out, size_in), self.take(f"{key}.bias", size_out)

    def error(self, what: str) -> ModelFileError:
        """The error for a file that `what` is wrong with."""
        return ModelFileError(f"model file {self._path} {what}; train it again")

    def require_size(self, what: str, size: int) -> None:
        """Raise ModelFileError if the network needs more numbers than any that is of use, before they are allocated."""
        if size > MAX_NUMBERS:
            raise ModelFileError(
                f"the network of model file {self._path} needs {size:,} numbers of {what} for each machine, more than "
                f"{MAX_NUMBERS:,}; train a smaller one"
            )

    def finish(self) -> None:
        """Raise ModelFileError if a weight has not been taken."""
        if left := sorted(self._tensors.keys() - self._taken):
            raise surplus_weight(self._path, left[0])
