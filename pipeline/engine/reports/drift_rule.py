"""When a machine's readings and answers count as drifting: the rule, the kinds of drift and where each is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import numpy as np

from pipeline.arrays import Matrix
from pipeline.config.settings import Settings

MIN_WINDOW_FRAMES: Final = 24
"""Frames of a window at least; a machine with long frames has longer windows."""

SUM_DEVIATIONS: Final = 4.0
"""Windows whose excess over the tolerance sums up to so many usual deviations are no coincidence."""

DAY_MS: Final = 86_400_000

Reference = Literal["own", "training"]


class DriftKind(StrEnum):
    """What can drift; the first three of each variable, the others of a machine."""

    LEVEL = "level"
    SPREAD = "spread"
    MISSING = "missing"
    CONFIDENCE = "confidence"
    DISAGREEMENT = "disagreement"
    UNKNOWN = "unknown"


VARIABLE_KINDS: Final = (DriftKind.LEVEL, DriftKind.SPREAD, DriftKind.MISSING)
MACHINE_KINDS: Final = (DriftKind.CONFIDENCE, DriftKind.DISAGREEMENT, DriftKind.UNKNOWN)

_SMALLEST: Final = {
    DriftKind.MISSING: 0.1,
    DriftKind.CONFIDENCE: 0.05,
    DriftKind.DISAGREEMENT: 0.05,
    DriftKind.UNKNOWN: 0.05,
}
"""Excess over the tolerance must sum up to so much at least: shares, probabilities and nats."""


@dataclass(frozen=True, slots=True)
class DriftRule:
    """What a machine's windows are compared with, and how large a difference is drift."""

    window_ms: int = DAY_MS
    """Plant time of one window."""
    reference_windows: int = 7
    """So many of a machine's first windows are its reference."""
    limit: float = 0.5
    """What the excess of level and spread must sum up to, at least; in standard deviations of the training."""
    reference: Reference = "own"
    """Whether levels are compared with the machine's own first windows, or with the mean of the training."""

    def window_frames(self, period_ms: int) -> int:
        """How many frames a window has."""
        return max(MIN_WINDOW_FRAMES, (self.window_ms + period_ms // 2) // period_ms)


DEFAULT_DRIFT_RULE: Final = DriftRule()


def drift_rule_of(settings: Settings) -> DriftRule | None:
    """The rule that the settings describe; None if no drift is to be reported."""
    if not settings.drift:
        return None
    return DriftRule(
        settings.drift_window_ms, settings.drift_reference_windows, settings.drift_limit, settings.drift_reference
    )


@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics of a machine with V variables: level, spread and missing share of each, then those of the
    machine."""

    variables: int

    @property
    def count(self) -> int:
        """How many there are."""
        return len(VARIABLE_KINDS) * self.variables + len(MACHINE_KINDS)

    def kind(self, index: int) -> DriftKind:
        """What a statistic is about."""
        machine = index - len(VARIABLE_KINDS) * self.variables
        return MACHINE_KINDS[machine] if machine >= 0 else VARIABLE_KINDS[index // self.variables]

    def variable(self, index: int) -> int | None:
        """The column of the variable that a statistic is about; None of those of the machine."""
        return None if index >= len(VARIABLE_KINDS) * self.variables else index % self.variables

    def of_kind(self, kind: DriftKind) -> slice:
        """Where the statistics of a kind are."""
        if kind in VARIABLE_KINDS:
            begin = VARIABLE_KINDS.index(kind) * self.variables
            return slice(begin, begin + self.variables)
        begin = len(VARIABLE_KINDS) * self.variables + MACHINE_KINDS.index(kind)
        return slice(begin, begin + 1)

    def smallest(self, rule: DriftRule) -> Matrix:
        """The smallest sum of each statistic that is drift, (count,); half of it is the smallest tolerance."""
        kinds: Sequence[DriftKind] = [self.kind(index) for index in range(self.count)]
        return np.array([_SMALLEST.get(kind, rule.limit) for kind in kinds])
