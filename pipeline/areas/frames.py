"""What the area engine hands to an area model and what that hands back: area frames, results, the runner contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from pipeline.areas.layout import AreaLayout
from pipeline.arrays import Bools, Floats, Ints
from pipeline.frames import EventText


class Presence(IntEnum):
    """What an area has of a machine in a frame."""

    ACTIVE = 0
    """A diagnosis from readings."""
    SILENT = 1
    """A diagnosis without new readings, from what the model remembers."""
    NO_EVIDENCE = 2
    """A diagnosis that knows nothing."""
    LATE = 3
    """No diagnosis: the machine is behind, and the frame has waited for it long enough."""
    MISSING = 4
    """No diagnosis, though the machine has later ones."""
    STALE = 5
    """The machine has been announced as silent."""
    OFFLINE = 6
    """The machine has been announced as silent for long."""
    UNHEARD = 7
    """Nothing has ever come from the machine."""


HAS_ANSWER = Presence.SILENT
"""Up to here a machine has an answer."""


class EmbeddingShape(NamedTuple):
    """The embeddings that a runner takes of one machine type."""

    model: str
    """Hash of the machines' model; embeddings of another one are left out."""
    modalities: tuple[str, ...]
    sizes: tuple[int, ...]
    """How many features each modality's embedding has."""


@dataclass(slots=True)
class AreaFrame:
    """One frame of one area: N machines and U utilities in the order of the layout, C classes, M modalities.

    Modalities are those of `AreaRunner.modalities`. Where a machine has no answer its probabilities are 0, and where a
    modality is absent its answer is -1, its confidence 0 and its embedding 0.
    """

    layout: AreaLayout
    slot: int  # where in the runner's arena the area's state lives
    start_ms: int
    reset: bool  # the area's state is reset before this frame
    skipped: int  # frames without any diagnosis since the frame before
    presence: Ints  # (N,) as Presence
    age_ms: Ints  # (N,) from the end of the machine's newest diagnosed frame to this one's; negative if there is none
    probabilities: Floats  # (N, C) fused; probabilities below 0.0005 are 0
    modality_present: Bools  # (N, M)
    modality_answer: Ints  # (N, M) the most probable class by each modality alone
    modality_confidence: Floats  # (N, M) and its probability
    modality_age_ms: Ints  # (N, M) age of its newest evidence, negative where there is none
    embedded: Bools  # (N, M) whether there is an embedding of the machines' model that the runner was trained with
    embeddings: tuple[Floats, ...]  # of each modality (N, D_m), the largest size of the types; () if none are wanted
    texts: list[tuple[int, EventText]] = field(default_factory=list)
    """(utility, text) that this frame takes, oldest first."""

    @property
    def end_ms(self) -> int:
        """The first millisecond after the frame."""
        return self.start_ms + self.layout.period_ms

    @property
    def has_answer(self) -> Bools:
        """Which machines have an answer, (N,)."""
        answered: Bools = self.presence <= HAS_ANSWER
        return answered


@dataclass(slots=True)
class AreaResult:
    """An area model's results for one frame: K causes, N machines, U utilities, C classes."""

    causes: Floats  # (K,) probabilities, in the order of the layout; they sum to 1
    probabilities: Floats  # (N, C) corrected; 0 where nothing is known of the machine
    support: Floats  # (N + U,) how much each node speaks for the most probable cause, >= 0; its sum is 1 or 0
    neighbours: Floats | None = None
    """(N, N + U) how much each machine (row) took from each node; None for models that do not say."""


class AreaRunner(Protocol):
    """An area model with the state of every area, one arena slot each; it steps one area at a time.

    The equality law holds: stepping frame by frame gives what one run over the whole sequence gives.
    """

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str:
        """Hexadecimal digest of all that results depend on; states are only valid under the same hash."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """The axis of modalities of its frames; those of diagnoses that are not among them are left out."""
        ...

    @property
    def embeddings(self) -> Mapping[str, EmbeddingShape]:
        """By machine type, the embeddings that it takes; empty if it takes none."""
        ...

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        """Raise ModelFileError if it cannot step one of these areas."""
        ...

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        ...

    def reserve(self, slots: int) -> None:
        """Make the arena hold at least this many slots, keeping the states it has."""
        ...

    def step(self, frame: AreaFrame) -> AreaResult:
        """Advance an area by one frame, honouring `frame.reset`."""
        ...

    def reset(self, slot: int) -> None:
        """Reset a slot to the initial state."""
        ...

    def save(self, slot: int) -> bytes:
        """The state of a slot as bytes, restorable bit for bit."""
        ...

    def load(self, slot: int, state: bytes) -> None:
        """Restore a slot; raises StateError if the bytes are not a state of this runner."""
        ...
