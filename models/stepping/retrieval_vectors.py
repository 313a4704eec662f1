"""The retrieval head without torch: vectors of features, the same to the last bit on every processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from models.configs.retrieval import RetrievalConfig
from models.stepping.programs.weights import WeightReader
from pipeline.arrays import Floats

_PARTS: Final = ("sensors", "text")


class Projection(NamedTuple):
    """One modality's scaling (D,) and linear layer (size, D)."""

    mean: Floats
    deviation: Floats
    weight: Floats
    bias: Floats

    def vector(self, features: Sequence[float]) -> list[float]:
        """The unit vector of features (D,)."""
        # Python's floats: numpy's sums depend on the processor.
        pairs = zip(features, self.mean.tolist(), self.deviation.tolist(), strict=True)
        scaled = [(value - mean) / deviation for value, mean, deviation in pairs]
        rows = zip(self.weight.tolist(), self.bias.tolist(), strict=True)
        return _unit([math.fsum([*map(float.__mul__, row, scaled), bias]) for row, bias in rows])


class RetrievalVectors:
    """The projections of a model that has a retrieval head."""

    def __init__(self, projections: Sequence[Projection]) -> None:
        self._projections = projections

    def together(self, features: Sequence[Sequence[float] | None]) -> list[float] | None:
        """The unit vector of a frame by the features (D_m,) of its modalities, of which the first are the sensors and
        the last the texts, None where absent; None if both are.

        See `models.fusion.retrieval`.
        """
        known = zip(self._projections, (features[0], features[-1]), strict=True)
        vectors = [one.vector(own) for one, own in known if own is not None]
        return _unit([math.fsum(column) for column in zip(*vectors, strict=True)]) if vectors else None


def take_retrieval(
    reader: WeightReader, config: RetrievalConfig | None, sizes: Sequence[int], *, has_texts: bool
) -> RetrievalVectors | None:
    """The head of a model file; None if it has none. `sizes` are those of each modality's features, of which the first
    are the sensors and the last the texts.

    Raises ModelFileError.
    """
    if config is None:
        return None
    if not has_texts:
        raise reader.error("has a retrieval head, but no texts")
    found = []
    for part, size in zip(_PARTS, (sizes[0], sizes[-1]), strict=True):
        key = f"retrieval.{part}"
        mean, deviation = reader.take(f"{key}.mean", size), reader.take(f"{key}.deviation", size)
        found.append(Projection(mean, deviation, *reader.linear(f"{key}.linear", size, config.size)))
    return RetrievalVectors(found)


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector] if length > 0 else list(vector)
