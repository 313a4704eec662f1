"""The normal state of a machine type's variables, as its model was trained with it, in the profile's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.model_file import in_units_of, read_model, require_profile
from pipeline.config.profile import MachineType, PlantProfile

SIGMA = 3.0
"""Half of a normal band's width, in standard deviations: of a normal distribution it holds 99.7 %."""


@dataclass(frozen=True, slots=True)
class NormalState:
    """Mean and standard deviation (V,) of each variable in the normal frames of a training."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    model_hash: str

    @classmethod
    def of(cls, model_file: Path, machine_type: MachineType) -> NormalState | None:
        """That of a model, by which its diagnoses give deviations; None if it has no scaling.

        Raises ModelFileError if file and profile do not fit together.
        """
        model = read_model(model_file)
        require_profile(model, machine_type)
        model = in_units_of(model, machine_type)
        mean, std = model.tensors.get("mean"), model.tensors.get("std")
        if mean is None or std is None or mean.shape != (len(machine_type.variables),) or mean.shape != std.shape:
            return None
        return cls(mean.astype(np.float64), std.astype(np.float64), model.header.hash)

    def deviation(self, column: int, value: float) -> float:
        """How far a value is from the mean, in standard deviations."""
        return float((value - self.mean[column]) / self.std[column])

    def band(self, column: int) -> tuple[float, float, float]:
        """Mean, and the ends of the normal band."""
        mean, half = float(self.mean[column]), SIGMA * float(self.std[column])
        return mean, mean - half, mean + half


def normal_states(profile: PlantProfile, model_files: Mapping[str, Path]) -> dict[str, NormalState]:
    """By machine type, as far as its model file has one; raises ModelFileError."""
    found = {
        kind.name: NormalState.of(model_files[kind.name], kind)
        for kind in profile.machine_types
        if kind.name in model_files
    }
    return {name: state for name, state in found.items() if state is not None}
