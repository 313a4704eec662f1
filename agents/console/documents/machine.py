"""The document of one machine over a span of time: trends, texts, answers, alarms, drift, labels."""

from __future__ import annotations

import msgspec


class MachineName(msgspec.Struct, frozen=True):
    """What a machine is called, and where it is."""

    id: str
    title: str | None
    type: str
    area: str | None


class ReadingStatus(msgspec.Struct, frozen=True):
    """How much of the span has been read."""

    complete: bool
    """False: the newest part is here, and the next request reads on."""
    from_ms: int
    """Since when records are here."""
    unreadable: int
    said: str
    """What is missing, in words; empty if nothing is."""


class ModelName(msgspec.Struct, frozen=True):
    """The model of a diagnosis."""

    name: str
    hash: str


class NormalBands(msgspec.Struct, frozen=True):
    """What the normal bands of trends are."""

    sigma: float
    """Half of their width, in the training's standard deviations."""
    model: str | None
    """Beginning of the hash of the model whose scaling it is; None without a model."""
    same_model: bool
    """Whether that model made the newest diagnosis."""


class FaultWords(msgspec.Struct, frozen=True):
    """What the profile says of a fault, or of another answer or alarm."""

    title: str | None
    description: str | None
    check_first: list[str]
    component: str | None
    priority: str | None


class Choice(msgspec.Struct, frozen=True):
    """Something that can be chosen."""

    name: str
    title: str | None


class VariableChoice(msgspec.Struct, frozen=True):
    """A variable whose trend can be asked for."""

    name: str
    title: str
    unit: str
    named: int
    """Frames of the span whose evidence names it."""


class NormalBand(msgspec.Struct, frozen=True):
    """Where a variable is in the normal state, in the profile's unit."""

    mean: float
    low: float
    high: float


class Trend(msgspec.Struct, frozen=True):
    """The measured values of one variable, in the profile's unit."""

    name: str
    title: str
    unit: str
    component: str | None
    aggregation: str
    """`last`: as they were measured; else what each frame makes of them, at its end."""
    steps: bool
    """Whether a value holds until the next one, because only changes are sent."""
    named: int
    deviation: float | None
    """Of the newest value, in standard deviations; None where nothing is known."""
    normal: NormalBand | None
    values: int
    """How many there are in the span."""
    thinned: bool
    """Whether only the first, last, smallest and largest value of each column of pixels is shown."""
    frozen: bool
    """Whether the newest diagnosis says that it has not changed for too long to be believed."""
    requested: bool
    points: list[tuple[int, float | None]]
    """Time and value; a value of None is a hole, across which nothing is known."""


class TextEvent(msgspec.Struct, frozen=True):
    """A text about the machine, as somebody wrote it, without markup: it is to be shown as text and never as markup."""

    id: str
    time_ms: int
    text: str
    source: str | None
    severity: str | None
    late: bool
    """It came after its frame had closed."""
    refused: bool
    """It came too late to count."""


class ModalityFrames(msgspec.Struct, frozen=True):
    """What one modality alone says, frame by frame; None in frames without it."""

    name: str
    title: str | None
    fault: list[str | None]
    confidence: list[float | None]
    weight: list[float | None]
    present: list[bool | None]
    age_ms: list[int | None]


class Frames(msgspec.Struct, frozen=True):
    """The diagnoses of the span in columns, oldest first."""

    id: list[str]
    end_ms: list[int]
    fault: list[str]
    confidence: list[float]
    status: list[str]
    reset: list[str | None]
    novelty: list[float | None]
    entropy: list[float]
    disagreement: list[float]
    every: int
    """Of long spans every so many frames, and each at which the answer changes."""
    modalities: list[ModalityFrames]


class Probability(msgspec.Struct, frozen=True):
    """How probable a class is."""

    fault: str
    title: str | None
    probability: float


class Measurement(msgspec.Struct, frozen=True):
    """A variable far from its normal range."""

    name: str
    title: str
    value: float
    unit: str
    deviation: float
    said: str


class TextSeen(msgspec.Struct, frozen=True):
    """A text that was in the model's memory."""

    id: str
    text: str
    time_ms: int
    late: bool


class Named(msgspec.Struct, frozen=True):
    """An id with its title."""

    name: str
    title: str


class ComponentShare(msgspec.Struct, frozen=True):
    """How probable it is that the fault begins in a component."""

    name: str
    title: str
    probability: float


class Remaining(msgspec.Struct, frozen=True):
    """How long the machine has until it fails: the estimate, and the ends of its interval."""

    frames: float
    low: float
    high: float
    ms: int
    low_ms: int
    high_ms: int
    said: str


class Newest(msgspec.Struct, frozen=True):
    """The newest diagnosis."""

    id: str
    frame_end_ms: int
    fault: str
    title: str | None
    confidence: float
    status: str
    entropy: float
    disagreement: float
    novelty: float | None
    probabilities: list[Probability]
    candidates: list[str]
    variables: list[Measurement]
    texts: list[TextSeen]
    frozen: list[Named]
    components: list[ComponentShare]
    remaining: Remaining | None


class OpenAlarm(msgspec.Struct, frozen=True):
    """An alarm that is not normal."""

    fault: str
    title: str | None
    state: str
    priority: str
    id: str | None
    raised_ms: int | None
    since_ms: int
    until_ms: int | None
    by: str | None
    why: str | None


class AlarmRecord(msgspec.Struct, frozen=True):
    """Something that happened to an alarm."""

    id: str
    fault: str
    title: str | None
    state: str
    time_ms: int
    priority: str
    alarm: str | None
    diagnosis: str | None
    suppressed: str | None
    by: str | None
    why: str | None
    sent_ms: int | None
    until_ms: int | None


class MachineAlarms(msgspec.Struct, frozen=True):
    """A machine's alarms: those that are not normal, and what happened, oldest first."""

    open: list[OpenAlarm]
    history: list[AlarmRecord]


class DriftSpell(msgspec.Struct, frozen=True):
    """A statistic of the machine that drifts, or did."""

    kind: str
    variable: str | None
    title: str
    direction: str
    size: float
    since_ms: int
    reported_ms: int | None
    ended_ms: int | None


class LabelGiven(msgspec.Struct, frozen=True):
    """What somebody said that the machine had."""

    fault: str
    title: str | None
    start_ms: int
    end_ms: int | None
    note: str | None
    by: str | None
    corrects: str | None
    written_ms: int


class MachineDocument(msgspec.Struct, frozen=True):
    """Everything about a machine in a span of event time, in milliseconds."""

    machine: MachineName
    from_ms: int
    until_ms: int
    newest_ms: int | None
    """End of the newest frame."""
    frame_period_ms: int
    reading: ReadingStatus
    model: ModelName | None
    normal: NormalBands
    faults: dict[str, FaultWords]
    variables: list[VariableChoice]
    """All of the machine type, those that matter most first."""
    trends: list[Trend]
    texts: list[TextEvent]
    frames: Frames
    newest: Newest | None
    alarms: MachineAlarms
    alarm_faults: list[Choice]
    label_faults: list[Choice]
    drift: list[DriftSpell]
    labels: list[LabelGiven]
