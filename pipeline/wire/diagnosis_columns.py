"""The columns of a diagnosis in whole numbers: how the model's answers are handed to what writes them as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNIT: Final = 100_000
"""Probabilities, weights, entropy and disagreement have five decimals: this many units are 1."""

HUNDREDTHS: Final = 100
"""Deviations have two decimals."""

UNDEFINED: Final = -1
"""Stands for a number that is not finite, and for an age where there is nothing."""

TOP_VARIABLES: Final = 3

# Columns of a row.
START_MS: Final = 0
END_MS: Final = 1
RESET: Final = 2
REVISION: Final = 3
FAULT: Final = 4  # class index; -1 = no evidence
CONFIDENCE: Final = 5  # 0 without evidence
LARGEST: Final = 6  # of the probabilities, which are the prior ones where there is no evidence
ENTROPY: Final = 7
DISAGREEMENT: Final = 8
SILENT: Final = 9  # 1 for a frame without readings
VARIABLES: Final = 10  # how many variables stand out
TOP: Final = 11  # their columns
DEVIATIONS: Final = TOP + TOP_VARIABLES
MODALITIES: Final = DEVIATIONS + TOP_VARIABLES

# Columns of each modality, from MODALITIES on.
PRESENT: Final = 0
OWN_FAULT: Final = 1  # class index; -1 = no evidence
OWN_CONFIDENCE: Final = 2
WEIGHT: Final = 3
AGE_MS: Final = 4
MODALITY_COLUMNS: Final = 5


def modality_column(modality: int, column: int) -> int:
    """The place of a modality's column in a row."""
    return MODALITIES + modality * MODALITY_COLUMNS + column


def first_probability(modalities: int) -> int:
    """The column of the first class's probability; what only some models have is behind the last one's."""
    return modality_column(modalities, 0)


REMAINING_NUMBERS: Final = 3
"""Estimate, low and high."""

# What a candidate's column says.
NO_CANDIDATE: Final = 0
FIRST_CANDIDATE: Final = 1
LATER_CANDIDATE: Final = 2


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model or its machines have of the numbers that only some have, and where a row holds them."""

    modalities: int
    classes: int
    attention: bool = False
    novelty: bool = False
    candidates: bool = False
    remaining: bool = False
    components: int = 0

    @property
    def attention_at(self) -> int:
        """The matrix's first column."""
        return first_probability(self.modalities) + self.classes

    @property
    def novelty_at(self) -> int:
        """Its column; UNDEFINED where nothing is known."""
        return self.attention_at + self.attention * self.modalities**2

    @property
    def candidates_at(self) -> int:
        """The column that is 1 if there is any candidate; one for each class is behind it."""
        return self.novelty_at + self.novelty

    @property
    def remaining_at(self) -> int:
        """The column that is 1 if the remaining life is known; its numbers are behind it."""
        return self.candidates_at + self.candidates * (1 + self.classes)

    @property
    def components_at(self) -> int:
        """The first component's column."""
        return self.remaining_at + self.remaining * (1 + REMAINING_NUMBERS)

    @property
    def columns(self) -> int:
        """How many columns a row has."""
        return self.components_at + self.components
