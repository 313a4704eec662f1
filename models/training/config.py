"""Training configurations: what determines a training, and how it is read from YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from models.configs.detector import DetectorConfig
from models.configs.fusion import AdaptiveConfig, FusionChoice, FusionConfig, RuleChoice
from models.configs.groups import GroupConfig, GroupEncoder
from models.configs.retrieval import RetrievalChoice
from models.configs.sensors import COUNTING, ExpertsConfig, SensorConfig
from models.configs.text import TextConfig
from models.configs.unknown import UnknownRules
from models.configs.yaml_file import read_mapping
from models.data.augment import AugmentConfig
from models.data.messages import MessagesChoice
from models.data.recovery import RecoveryRule
from models.data.remaining_life import RemainingLifeChoice
from models.data.runs import RunFiles
from models.data.text_pools import EventDrawConfig
from models.model_file import Storage
from models.training.loop import StageConfig
from models.training.losses import ClassWeights, Recovery
from pipeline.config.profile import shipped_profiles
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.errors import DataError
from pipeline.files.yaml_fields import field_problems


class SplitConfig(BaseModel):
    """How the parts of a split are divided from each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["machine", "time"] = "machine"
    """`machine`: whole machines, or groups of runs. `time`: each machine's first frames are for training, its last ones
    for the test; for plants with few machines."""
    gap_frames: int | None = Field(default=None, ge=0)
    """Frames that are left out between two parts of a machine; as many as the model remembers, if unset."""

    @model_validator(mode="after")
    def _a_gap_is_between_times(self) -> SplitConfig:
        if self.by == "machine" and self.gap_frames is not None:
            raise ValueError("gap_frames is for `by: time`; leave it out, or split by time")
        return self


def _split(given: Any) -> Any:
    return {"by": given} if isinstance(given, str) else given


def _milliseconds(given: Any) -> Any:
    return given if given is None else parse_duration_ms(given)


def _recovering(given: Any) -> Any:
    if isinstance(given, bool):
        return {} if given else None
    if given is None or isinstance(given, Mapping | RecoveryRule):
        return given
    raise ValueError("give true, false, or the settings of the rule")


_CLEARING_REPEATS = 3


class TrainConfig(BaseModel):
    """Everything that determines a training; with the same files it gives the same model."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    profile: str
    """Name of a shipped profile, or path of one from the configuration's folder."""
    machine_type: str | None = None
    """Which of the profile's types; optional if there is only one."""
    runs: tuple[RunFiles, ...] = ()
    recordings: tuple[Path, ...] = ()
    """Labelled recordings, decoded and aligned as live; their runs are split by machine."""
    repeated_texts: bool | None = None
    """True for texts that machines write: the same words appear in every part, and that is no leak. If unset, true
    where frequent messages are nearly all that training runs have."""
    messages: MessagesChoice | bool | None = None
    """Whether the sensor encoder counts frequent messages of the runs, and which; if unset, several experts do, and a
    single encoder does not. Where they are nearly all that machines write, the model has no text modality."""
    texts: tuple[Path, ...] = ()
    """Pools of labelled texts; without texts the model has no text modality."""
    output: Path
    name: str | None = None
    """Name of the model and its file; by default that of the machine type."""
    seed: int = 0
    budget_ms: Annotated[int | None, Field(alias="budget", ge=1), BeforeValidator(_milliseconds)] = None
    """Time that the training may take, such as `20m`; stages get as many epochs, and trees as many frames, as fit in.
    If unset, all that the configuration says."""
    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.15, ge=0, lt=1)
    split: Annotated[SplitConfig, BeforeValidator(_split)] = SplitConfig()
    sensors: SensorConfig = ExpertsConfig()
    modality: GroupEncoder | None = GroupConfig.model_fields["encoder"].default
    """The encoder of each modality that the profile declares as a group of variables; `sensors` still sees all. `null`
    for a model that answers from no group alone."""
    text: TextConfig = TextConfig()
    fusion: FusionChoice = FusionConfig()
    """How the modalities become one answer; for a late fusion, a `rule` given here counts as `rule` below."""
    rule: RuleChoice = "auto"
    encoders: Path | None = None
    """A model file whose encoders are used unchanged, with their scaling; `sensors` and `text` then have no effect, and
    only the fusion is trained."""
    sensor_stage: StageConfig = StageConfig()
    statistics_stage: StageConfig = StageConfig(
        epochs=16, batch_size=512, learning_rate=2e-3, weight_decay=1e-2, patience=6
    )
    """Of an expert on streaming statistics; its batches are of frames."""
    detector: DetectorConfig | None = DetectorConfig()
    """What watches for states that differ from the normal one, and backs the sensor encoder; fitted where there are
    enough normal frames. `null` for a model without."""
    detector_stage: StageConfig = StageConfig(epochs=12, batch_size=24)
    """Of the detector's forecast; its batches are of chunks of normal frames."""
    unknown: UnknownRules | None = UnknownRules()
    """When the model calls a fault unknown; `null` for a model that never does. Needs the detector."""
    normal_data: bool = False
    """True if all frames without a label are of the normal state: without any label a model is then trained that tells
    normal from unknown."""
    hidden_faults: Literal["auto"] | tuple[str, ...] = "auto"
    """Faults that the sensors cannot see, whose probability a pool of experts gives to the normal state; `auto` finds
    them on validation."""
    word_stage: StageConfig = StageConfig(epochs=20, batch_size=64, learning_rate=5e-3, weight_decay=1e-2)
    text_stage: StageConfig = StageConfig(epochs=20, batch_size=256, learning_rate=2e-3)
    fusion_stage: StageConfig = StageConfig(epochs=20, batch_size=512, learning_rate=1e-3, patience=6)
    joint_stage: StageConfig | None = None
    """If given, a learned fusion and its encoders are trained together afterwards; its batches are of runs."""
    remaining_life: RemainingLifeChoice | None = None
    """If given, a head estimates the remaining life of machines, from runs to failure."""
    remaining_life_stage: StageConfig = StageConfig(
        epochs=40, batch_size=512, learning_rate=2e-3, weight_decay=1e-2, average=0.99
    )
    """Of that head; its batches are of frames."""
    retrieval: RetrievalChoice | None = None
    """If given, a head learns to look up sensors by texts and texts by sensors; without effect on diagnoses."""
    retrieval_stage: StageConfig = StageConfig(epochs=10, batch_size=256, learning_rate=2e-3, weight_decay=1e-2)
    """Of that head; its batches are of pairs."""
    class_weights: ClassWeights = "none"
    chunk_frames: int = Field(default=120, ge=1)
    most_offset_frames: int = Field(default=60, ge=0)
    """Runs start at a random frame up to this one, but within their first quarter."""
    burn_in_frames: int = Field(default=5, ge=0)
    """First frames of a run, which the loss leaves out."""
    recovery_frames: int = Field(default=0, ge=0)
    """First normal frames after a fault, which calibration leaves out and networks learn with `recovery_weight`,
    because the plant still looks faulty while it recovers. They count in every score."""
    recovery_weight: float = Field(default=0.0, ge=0, le=1)
    recovering: Annotated[RecoveryRule | None, BeforeValidator(_recovering)] = None
    """If given (`true`, or with settings), the network learns a class more, `recovering`: the frames from a clearing
    until the readings are those of the normal state again. It takes the place of the two settings above."""
    clearing_repeats: int | None = Field(default=None, ge=1)
    """How often in each epoch the sensor stage sees a run in which a fault clears; if unset, 3 times with `recovering`
    and once without."""
    false_alarms: float | None = Field(default=None, gt=0, lt=1)
    """If given, a late or adaptive fusion reports a fault only with a margin over the normal state. Margins are fitted
    so that at most this share of the validation frames before a run's first fault is diagnosed as faulty, by the
    sensors alone and by the fusion."""
    candidates: float | None = Field(default=0.9, gt=0, lt=1)
    """In which share of the frames of a run the true class shall be among the candidates that a diagnosis names; null
    for a model that names none."""
    augment: AugmentConfig = AugmentConfig()
    events: EventDrawConfig = EventDrawConfig()
    typo_share: float = Field(default=0.1, ge=0, le=1)
    text_frames_per_epoch: int = Field(default=40_000, ge=1)
    kept_texts: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training texts, by groups, that text encoders do not learn from. Learned fusions then learn on these
    alone, and false-alarm margins are fitted on these too: an encoder is more confident of texts that it has learnt."""
    fusion_frames_per_epoch: int = Field(default=150_000, ge=1)
    fusion_distractor_share: float = Field(default=0.25, ge=0, le=1)
    """`events.distractor_share` while a learned fusion is trained, if that is less: encoders err more often on texts
    that they have not learnt from."""
    storage: Storage = "float32"
    plots: bool = True
    score_test: bool = True
    """False while configurations are compared: the test part is then held out but not scored."""
    hard_faults: tuple[str, ...] = ()
    """Faults that are hard to detect; every score is also given without them."""
    left_out: tuple[str, ...] = ()
    """Faults that are not learnt, so that the test part shows how the model meets an unknown fault: training and
    validation lack the runs in which they occur, and the test's frames of them have the label `unknown`."""

    @model_validator(mode="after")
    def _not_every_fusion_limits_false_alarms(self) -> TrainConfig:
        if self.false_alarms is not None and not isinstance(self.fusion, FusionConfig | AdaptiveConfig):
            raise ValueError("false_alarms is for a late or adaptive fusion; leave it out, or the other kind of fusion")
        return self

    @model_validator(mode="after")
    def _messages_are_counted_by_some(self) -> TrainConfig:
        if self.counted_messages is not None and not isinstance(self.sensors, (*COUNTING, ExpertsConfig)):
            raise ValueError(
                f"a {self.sensors.kind} does not count messages; leave `messages` out, or use a seq_lstm, statistics, "
                "trees or experts"
            )
        return self

    @model_validator(mode="after")
    def _recovery_is_learnt_in_one_way(self) -> TrainConfig:
        if self.recovering is not None and (self.recovery_frames or self.recovery_weight):
            raise ValueError("recovering takes the place of recovery_frames and recovery_weight; leave these out")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> TrainConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation:g} and test {self.test:g} leave nothing to train on")
        return self

    @model_validator(mode="after")
    def _normal_data_need_a_detector(self) -> TrainConfig:
        if self.normal_data and (self.detector is None or self.encoders is not None):
            raise ValueError(
                "normal_data trains a detector and nothing else; leave out `encoders` and `detector: null`"
            )
        return self

    @model_validator(mode="after")
    def _texts_are_kept_of_some(self) -> TrainConfig:
        if self.kept_texts and not self.texts:
            raise ValueError("kept_texts is a share of `texts`; name files of texts, or leave it out")
        return self

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Every file that is read."""
        runs = (path for files in self.runs for path in (*files.paths, *files.events))
        return (*runs, *self.texts, *self.recordings)

    @property
    def recovery(self) -> Recovery:
        """How training treats frames in which a plant recovers."""
        return Recovery(self.recovery_frames, self.recovery_weight)

    @property
    def counted_messages(self) -> MessagesChoice | None:
        """Which messages are counted, if any."""
        if isinstance(self.messages, MessagesChoice):
            return self.messages
        wanted = isinstance(self.sensors, ExpertsConfig) if self.messages is None else self.messages
        return MessagesChoice() if wanted else None

    @property
    def repeats(self) -> int:
        """How often in each epoch the sensor stage sees a run in which a fault clears."""
        return self.clearing_repeats or (1 if self.recovering is None else _CLEARING_REPEATS)

    @property
    def late_rule(self) -> RuleChoice:
        """The requested rule, from `fusion` or from `rule`."""
        return self.fusion.rule if "rule" in self.fusion.model_fields_set else self.rule


def config_of_recordings(recordings: Sequence[Path], profile: str, output: Path, **settings: Any) -> TrainConfig:
    """A training of recordings with nothing but defaults and these settings; raises DataError for a wrong one."""
    given = {name: value for name, value in settings.items() if value is not None}
    raw = {"profile": profile, "recordings": list(recordings), "output": output, **given}
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"the training does not fit: {field_problems(error, TrainConfig)}") from error


_PATHS = frozenset({"paths", "events", "texts", "recordings", "encoders"})


def load_train_config(
    path: Path,
    *,
    data: Path | None = None,
    output: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    fusion: str | None = None,
    budget: str | None = None,
) -> TrainConfig:
    """Read a configuration; the other arguments take precedence over the file.

    `fusion` is a kind of fusion; settings of the file are kept if they are for the same kind.

    Relative paths start from `data`, or from the configuration's own folder, where a profile always is; `$NAME` stands
    for an environment variable. Raises DataError with file and field.
    """
    raw = _rooted(read_mapping(path, "training configuration"), data or path.parent)
    if isinstance(profile := raw.get("profile"), str) and profile not in shipped_profiles():
        raw["profile"] = _from(path.parent, profile)
    if output is not None:
        raw["output"] = output
    if seed is not None:
        raw["seed"] = seed
    if budget is not None:
        raw["budget"] = budget
    if epochs is not None:
        for stage in ("sensor_stage", "word_stage", "text_stage", "fusion_stage"):
            raw[stage] = (raw.get(stage) or {}) | {"epochs": epochs}
        if raw.get("joint_stage"):
            raw["joint_stage"] |= {"epochs": epochs}
    if fusion is not None and (not isinstance(raw.get("fusion"), dict) or raw["fusion"].get("kind") != fusion):
        raw["fusion"] = {"kind": fusion}
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"training configuration {path} does not fit: {field_problems(error, TrainConfig)}") from error


def _rooted(value: Any, root: Path) -> Any:
    """The value with every path in it made to start from `root`."""
    if isinstance(value, list):
        return [_rooted(entry, root) for entry in value]
    if not isinstance(value, dict):
        return value
    rooted = {}
    for name, part in value.items():
        if name not in _PATHS or not isinstance(part, list | str):
            rooted[name] = _rooted(part, root)
        elif isinstance(part, str):
            rooted[name] = _from(root, part)
        else:
            rooted[name] = [_from(root, str(entry)) for entry in part]
    return rooted


def _from(root: Path, entry: str) -> str:
    return str(root / os.path.expandvars(entry))
