"""Networks and model files: weights rounded, saved, read into a Diagnoser, and compiled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from models.diagnoser import Diagnoser
from models.model_file import Model, Storage, require_weights, with_doubts, write_model
from models.stepping.runner import CompiledRunner, require_fitting_weights
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType

_log = logging.getLogger(__name__)

FITTED: Final = ("fusion.", "unknown.", "confidence.", "conformal.")
"""How the names of what is fitted after the encoders begin."""


def save_model(
    path: Path,
    network: Diagnoser,
    machine_type: MachineType,
    *,
    name: str,
    training: Mapping[str, Any],
    storage: Storage = "float32",
    recovering: bool = False,
) -> str:
    """Write the network's model file and return the model's hash; `recovering` says whether the last class is that.

    `float16` halves the weight matrices; scaling and fitted fusion numbers keep their precision. The network itself
    is not rounded: to score what was saved, load it.
    """
    tensors = {key: _stored(key, value, storage).numpy() for key, value in network.state_dict().items()}
    vocabulary = network.text.tokenizer.vocabulary if network.text is not None else None
    return write_model(
        path, tensors, network.config, vocabulary, machine_type, name=name, training=training, recovering=recovering
    )


def build_network(model: Model) -> Diagnoser:
    """The network of a model file, in float32 and `eval` mode; raises ModelFileError if a weight does not fit."""
    # torch allocates what the header asks for; the compiled step's program checks each weight's shape before.
    model = replace(model, tensors=with_doubts(model.tensors))
    require_fitting_weights(model.header.network, model.tensors, model.tokenizer, model.path)
    network = Diagnoser(model.header.network, model.tokenizer)
    require_weights(model, {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})
    network.load_state_dict({key: torch.from_numpy(weights).float() for key, weights in model.tensors.items()})
    return network.eval()


def compile_network(
    network: Diagnoser,
    *,
    name: str,
    digest: str,
    classes: tuple[str, ...],
    notify: Notify = _log.warning,
    embeddings: bool = False,
) -> CompiledRunner:
    """A runner that steps a network as it is in memory; `digest` is hexadecimal and stamps its states."""
    return CompiledRunner(
        network.config,
        {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()},
        network.text.tokenizer if network.text is not None else None,
        path=Path(name),
        name=name,
        digest=digest,
        classes=classes,
        notify=notify,
        embeddings=embeddings,
    )


def round_weights(network: Diagnoser, storage: Storage) -> None:
    """Round the network's weights to what `save_model` would store, so that it answers as its file will."""
    with torch.no_grad():
        for key, value in network.state_dict().items():
            value.copy_(_stored(key, value, storage))


def _stored(key: str, tensor: Tensor, storage: Storage) -> Tensor:
    # Limits of the detector and of unknown faults are fitted to their weights as they are.
    fitted = key.startswith((*FITTED, "detector.")) and not key.startswith("fusion.network.")
    halved = storage == "float16" and tensor.ndim >= 2 and not fitted
    return tensor.detach().to("cpu", torch.float16 if halved else torch.float32).contiguous()
