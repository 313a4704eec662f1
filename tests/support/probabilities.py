"""How far the probabilities of two diagnoses are apart."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.wire.messages import MIN_PROBABILITY


def probability_difference(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest difference between two diagnoses' probabilities; one that is left out may be up to the minimum."""
    largest = 0.0
    for name in one.keys() | other.keys():
        low, high = sorted((one.get(name, MIN_PROBABILITY), other.get(name, MIN_PROBABILITY)))
        largest = max(largest, high - low)
    return largest
