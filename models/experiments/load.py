"""Descriptions of experiments: which kinds there are, and how one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from models.experiments.areas import AreasExperiment
from models.experiments.base import read_description
from models.experiments.evidence.explanations import ExplanationsExperiment
from models.experiments.evidence.masking import MaskingExperiment
from models.experiments.evidence.retrieval import RetrievalExperiment
from models.experiments.late_fusion.experiment import LateFusionExperiment
from models.experiments.robustness import RobustnessExperiment
from models.experiments.trainings import TrainingsExperiment
from pipeline.errors import DataError
from pipeline.files.yaml_fields import field_problems

Described = (
    LateFusionExperiment
    | TrainingsExperiment
    | RobustnessExperiment
    | MaskingExperiment
    | AreasExperiment
    | ExplanationsExperiment
    | RetrievalExperiment
)


AnyExperiment = Annotated[Described, Field(discriminator="experiment")]


_PATHS = ("reports", "cache")


def load_experiment(path: Path, *, data: Path, out: Path, work: Path) -> Described:
    """Read a description. `$DATA`, `$OUT` and `$WORK` stand for the folders, other `$NAME` for environment variables.

    `train` and `model` start from the description's own folder, other paths from `data`. Raises DataError.
    """
    raw = read_description(path, {"DATA": str(data), "OUT": str(out), "WORK": str(work)})
    for name in _PATHS:
        if isinstance(raw.get(name), str):
            raw[name] = data / raw[name]
    if isinstance(raw.get("train"), str):
        raw["train"] = path.parent / raw["train"]
        raw["work"] = work
    if raw.get("experiment") == "areas":
        raw["work"] = work
    if isinstance(raw.get("model"), str):
        raw["model"] = str(path.parent / raw["model"])
    try:
        experiment: Described = TypeAdapter(AnyExperiment).validate_python(raw)
    except ValidationError as error:
        raise DataError(f"experiment {path} does not fit: {field_problems(error, Described)}") from error
    return experiment
