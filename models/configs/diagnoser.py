"""Configuration of the whole network, and the names of its modalities."""

from __future__ import annotations

from typing import Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from models.configs.detector import DetectorConfig
from models.configs.fusion import FusionChoice, FusionConfig
from models.configs.groups import GroupConfig, group_of_variables
from models.configs.limits import Width
from models.configs.messages import MessagesConfig
from models.configs.remaining_life import RemainingLifeConfig
from models.configs.retrieval import RetrievalConfig
from models.configs.sensors import SensorConfig, SeqLSTMConfig
from models.configs.text import TextConfig
from models.configs.unknown import UnknownConfig

SENSORS: Final = "sensors"
TEXT: Final = "text"


class DiagnoserConfig(BaseModel):
    """Everything needed to rebuild the network, except vocabulary and weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variables: Width
    classes: Width
    sensors: SensorConfig = SeqLSTMConfig()
    groups: tuple[GroupConfig, ...] = Field(default=(), max_length=16)
    """Modalities that are groups of variables, each with an encoder of its own; `sensors` still sees all variables."""
    text: TextConfig | None = TextConfig()
    """None for machine types without texts."""
    messages: MessagesConfig | None = None
    """Frequent messages that the sensor experts get as numbers; None for plants without them."""
    detector: DetectorConfig | None = None
    """What watches for states that differ from the normal one; None for models without it."""
    fusion: FusionChoice = FusionConfig()
    unknown: UnknownConfig | None = None
    """What calls a fault unknown after the fusion, a class more; None for models without it."""
    clip: float = Field(default=10.0, gt=0, le=1e6)
    """Readings further than this many standard deviations from the normal state enter the network at this distance."""
    text_ttl_frames: int = Field(default=60, ge=1)
    """Age at which a text is forgotten."""
    remaining_life: RemainingLifeConfig | None = None
    """The head that estimates remaining life; None for models without."""
    retrieval: RetrievalConfig | None = None
    """The head that places sensors and texts in one space; None for models without. Only with texts."""
    calibrated: bool = False
    """Whether fused answers go through a confidence map."""
    coverage: float | None = Field(default=None, gt=0, lt=1)
    """In which share of frames the true class shall be among the candidates; None without candidates."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of a step's answers."""
        return (SENSORS, *(group.name for group in self.groups), *(() if self.text is None else (TEXT,)))

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        group_of_variables(self.groups, self.variables)
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("two modalities have the same name")
        masked = any(group.encoder.mask_inputs for group in self.groups)
        if masked and not self.sensors.mask_inputs:
            raise ValueError("encoders of groups get observed bits only if `sensors` do; set mask_inputs alike")
        return self

    @model_serializer(mode="wrap")
    def _as_in_older_files(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older model files lack, if it says the same: their hash goes over this."""
        described: dict[str, Any] = serialize(self)
        if not described.get("groups", True):
            del described["groups"]
        unsaid = ("messages", "detector", "unknown", "remaining_life", "retrieval", "coverage")
        for name, default in (dict.fromkeys(unsaid) | {"calibrated": False}).items():
            if name in described and described[name] == default:
                del described[name]
        return described
