"""A model file as a runner: what a worker loads at its start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from models.backends import BackendChoice, choose_runner
from models.model_file import read_model, require_profile
from models.network_file import build_network
from pipeline.frames import StepRunner
from pipeline.profile import MachineType


def load_model(path: Path | str, machine_type: MachineType, backend: BackendChoice = "auto") -> StepRunner:
    """A runner for this machine type; raises ModelFileError if file and profile do not fit together.

    The profile's text lifetime is used, not the one of the training.
    """
    model = read_model(Path(path))
    require_profile(model, machine_type)
    header = model.header
    config = header.network.model_copy(update={"text_ttl_frames": machine_type.text_ttl_frames})
    network = build_network(replace(model, header=header.model_copy(update={"network": config})))
    return choose_runner(network, name=header.name, digest=header.hash, classes=header.essence.faults, backend=backend)
