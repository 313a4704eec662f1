"""What alignment hands to a model and what the model hands back: frames, step results and the runner contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from pipeline.arrays import Bools, Floats, Ints
from pipeline.wire.records import Record


class Resets(IntEnum):
    """Why a machine's state is reset."""

    NONE = 0
    START = 1
    GAP = 2
    REQUESTED = 3
    RUN_END = 4
    MODEL_CHANGED = 5


@dataclass(frozen=True, slots=True)
class EventText:
    """One operator's text about one machine."""

    id: str
    time_ms: int
    text: str
    source: str | None = None
    severity: str | None = None
    late: bool = False
    """True if the frame it belongs to had closed before the text arrived."""
    record: Record | None = None
    """As it was in its topic."""


@dataclass(slots=True)
class Frames:
    """One round: at most one frame per machine, B machines of one type, V variables.

    `values` holds the last known value of each variable, NaN where none is known within the hold limit;
    `observed` is true if it was measured inside this frame. A text belongs to exactly one frame.
    """

    slots: Ints  # (B,) where in the arena the machine's state lives
    start_ms: Ints  # (B,)
    period_ms: int
    values: Floats  # (B, V)
    observed: Bools  # (B, V)
    age_ms: Ints  # (B, V) age of `values` at the frame's end; negative where nothing is known
    reset: Bools  # (B,) the machine's state is reset before this frame
    reset_reason: Ints  # (B,) why, as Resets
    revision: Ints  # (B,) 0, or how often this frame was announced before
    texts: list[tuple[int, EventText]] = field(default_factory=list)  # (row, text), oldest first in a row
    frozen: Bools | None = None  # (B, V) the values have not changed for too long to be believed; None if unknown

    @property
    def end_ms(self) -> Ints:
        """The first millisecond after each frame, (B,)."""
        return self.start_ms + self.period_ms


@dataclass(slots=True)
class StepResult:
    """A model's results for a round: M modalities, C classes (class 0 is the normal state, and the last
    ones may be `recovering` and `unknown`, of which a modality alone says nothing)."""

    probabilities: Floats  # (B, C) fused
    modality_probabilities: Floats  # (M, B, C) of each modality alone; the prior where it is absent
    weights: Floats  # (M, B) fusion weights, 0 where the modality is absent, else summing to 1
    present: Bools  # (M, B) which modalities had evidence
    scaled: Floats  # (B, V) readings in training standard deviations from the normal state; 0 where unknown
    attention: Floats | None = None
    """(B, M, M) how much each modality (row) took from each; None for models without cross-modal attention."""
    novelty: Floats | None = None
    """(B,) how unlike the normal state the machine is, >= 0; 1 is the alarm limit. None for models without a
    detector, NaN where it knows nothing."""
    deviations: Floats | None = None
    """(B, V) how much each variable contributes to the novelty, >= 0; None for models without a detector."""
    candidates: Bools | None = None
    """(B, C) the classes that the answer may be at the coverage that was asked for, none where nothing is known; None
    for models without conformal sets."""
    remaining: Floats | None = None
    """(B, 3) remaining life in frames: estimate, and the ends of its interval; NaN where nothing is known. None for
    models without."""
    embeddings: tuple[Floats, ...] | None = None
    """For each modality (B, D_m): the features that its encoder gives, zeros where it is absent. None unless they were
    asked for when the model was loaded."""
    unknown_texts: Sequence[int] = ()
    """Indices of the frames' texts in which the model knows no word; they have no effect."""


class StepRunner(Protocol):
    """A trained model with the state of every machine, one arena slot each.

    The equality law holds: stepping frame by frame gives what one run over the whole sequence gives.
    """

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str:
        """Hexadecimal digest of the weights and configuration; states are only valid under the same hash."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def reserve(self, slots: int) -> None:
        """Make the arena hold at least this many slots, keeping the states it has."""
        ...

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Called before these rounds are stepped; what does not depend on the state may be computed for all at once."""
        ...

    def step(self, frames: Frames) -> StepResult:
        """Advance the machines in `frames` by one frame each, honouring `frames.reset`."""
        ...

    def reset(self, slots: Ints) -> None:
        """Reset the slots to the initial state."""
        ...

    def save(self, slots: Ints) -> list[bytes]:
        """The states of the slots as bytes, restorable bit for bit."""
        ...

    def load(self, slot: int, state: bytes) -> None:
        """Restore one slot; raises StateError if the bytes are not a state of this model."""
        ...
