"""A model file as a runner: what a worker loads at its start."""

from __future__ import annotations

import logging
from pathlib import Path

from models.model_file import Model, in_units_of, read_model, require_profile
from models.stepping.runner import CompiledRunner
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType

_log = logging.getLogger(__name__)


def load_model(
    path: Path | str, machine_type: MachineType, notify: Notify = _log.warning, *, embeddings: bool = False
) -> CompiledRunner:
    """A runner for this machine type; raises ModelFileError if file and profile do not fit together.

    The profile's units and text lifetime are used, not those of the training. `notify` gets a line if compiling takes
    time or its result cannot be kept. With `embeddings` its results have them, as diagnoses of machines in areas need.
    """
    return runner_of(read_model(Path(path)), machine_type, notify, embeddings=embeddings)


def runner_of(model: Model, machine_type: MachineType, notify: Notify, *, embeddings: bool = False) -> CompiledRunner:
    """As `load_model`, of a file that has been read."""
    require_profile(model, machine_type)
    model = in_units_of(model, machine_type)
    header = model.header
    return CompiledRunner(
        header.network.model_copy(update={"text_ttl_frames": machine_type.text_ttl_frames}),
        model.tensors,
        model.tokenizer,
        path=model.path,
        name=header.name,
        digest=header.hash,
        classes=header.classes,
        notify=notify,
        embeddings=embeddings,
    )
