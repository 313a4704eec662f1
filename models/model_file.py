"""The model file: one safetensors file whose header carries everything else as JSON, and never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.backends import BackendChoice, choose_runner
from models.diagnoser import Diagnoser, DiagnoserConfig
from models.text import Tokenizer
from pipeline.errors import ModelFileError
from pipeline.frames import StepRunner
from pipeline.profile import MachineType

SUFFIX = ".faultline"
FORMAT = 1
_KEY = "faultline"

Storage = Literal["float32", "float16"]


class Essence(BaseModel):
    """What a model takes from its machine type; the profile must agree with it for the model to be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variables: tuple[tuple[str, str, str], ...]
    """Name, aggregation and source of each."""
    frame_period_ms: int
    faults: tuple[str, ...]
    texts: bool
    digest: str

    @classmethod
    def of(cls, machine_type: MachineType) -> Essence:
        """As the profile states it."""
        return cls(
            variables=tuple((v.name, v.aggregation, v.source) for v in machine_type.variables),
            frame_period_ms=machine_type.frame_period_ms,
            faults=machine_type.faults,
            texts=machine_type.texts,
            digest=machine_type.digest,
        )

    def differences(self, other: Essence) -> list[str]:
        """How another essence differs from this one, in words."""
        found = []
        for what in ("variables", "faults"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine == theirs:
                continue
            gone, new = [x for x in mine if x not in theirs], [x for x in theirs if x not in mine]
            said = [f"{word} {_listed(items)}" for word, items in (("without", gone), ("with", new)) if items]
            found.append(f"{what} ({' and '.join(said) or 'in another order'})")
        if self.frame_period_ms != other.frame_period_ms:
            found.append(f"frame period ({other.frame_period_ms} ms instead of {self.frame_period_ms} ms)")
        if self.texts != other.texts:
            found.append(f"texts ({'on' if other.texts else 'off'} instead of {'on' if self.texts else 'off'})")
        return found


class Header(BaseModel):
    """The JSON part of a model file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    name: str
    machine_type: str
    essence: Essence
    network: DiagnoserConfig
    vocabulary: tuple[str, ...] | None
    hash: str
    training: dict[str, Any]
    """Seeds, names of the data, scores: for people, not part of the hash."""


@dataclass(frozen=True, slots=True)
class Model:
    """A network with what its file says about it."""

    network: Diagnoser
    header: Header


def save_model(
    path: Path,
    network: Diagnoser,
    machine_type: MachineType,
    *,
    name: str,
    training: Mapping[str, Any],
    storage: Storage = "float32",
) -> str:
    """Write a model file in one piece and return the model's hash.

    `float16` halves the weight matrices; scaling and fitted fusion numbers keep their precision. The network itself
    is not rounded: to score what was saved, load it.
    """
    tensors = {key: _stored(key, value, storage) for key, value in network.state_dict().items()}
    vocabulary = network.text.tokenizer.vocabulary if network.text is not None else None
    essence = Essence.of(machine_type)
    header = Header(
        format=FORMAT,
        name=name,
        machine_type=machine_type.name,
        essence=essence,
        network=network.config,
        vocabulary=vocabulary,
        hash=_content_hash(essence, network.config, vocabulary, tensors),
        training=dict(training),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(save(tensors, metadata={_KEY: header.model_dump_json()}))
    beside.replace(path)
    return header.hash


def load_model(path: Path | str, machine_type: MachineType, backend: BackendChoice = "auto") -> StepRunner:
    """A runner for this machine type; raises ModelFileError if file and profile do not fit together.

    The profile's text lifetime is used, not the one of the training.
    """
    model = read_model(Path(path))
    header, expected = model.header, Essence.of(machine_type)
    if header.essence.digest != expected.digest:
        what = "; ".join(header.essence.differences(expected)) or "the way profiles are hashed"
        raise ModelFileError(
            f"model {path} was trained for machine type {header.machine_type} and does not fit {machine_type.name}: "
            f"the profile differs in {what}; use the profile of the training, or train a model for this one"
        )
    config = model.network.config.model_copy(update={"text_ttl_frames": machine_type.text_ttl_frames})
    network = Diagnoser(config, model.network.text.tokenizer if model.network.text is not None else None)
    network.load_state_dict(model.network.state_dict())
    return choose_runner(network, name=header.name, digest=header.hash, classes=header.essence.faults, backend=backend)


def read_model(path: Path) -> Model:
    """A model file as network and header, whatever profile it was made for; raises ModelFileError."""
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}; train one, or name another")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            keys: list[str] = opened.keys()
            tensors = {key: opened.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no model file, or was cut short ({error}); copy or train it again") from error
    if _KEY not in metadata:
        raise ModelFileError(f"{path} is a safetensors file but not of Faultline; name a file made by training")
    try:
        data = json.loads(metadata[_KEY])
    except ValueError as error:
        raise ModelFileError(f"the header of model file {path} is not JSON ({error}); train it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ModelFileError(f"model file {path} has format {found}, this release reads {FORMAT}; train it again")
    try:
        header = Header.model_validate_json(metadata[_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"the header of model file {path} is broken at {field}: {first['msg']}") from error
    return Model(_built(path, header, tensors), header)


def _built(path: Path, header: Header, tensors: dict[str, Tensor]) -> Diagnoser:
    config = header.network
    if (config.text is None) != (header.vocabulary is None):
        raise ModelFileError(
            f"model file {path} has a vocabulary without a text modality, or the reverse; train it again"
        )
    tokenizer = Tokenizer(header.vocabulary, config.text) if config.text and header.vocabulary is not None else None
    network = Diagnoser(config, tokenizer)
    expected = network.state_dict()
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors or key not in expected:
            raise ModelFileError(f"model file {path} {'lacks' if key in expected else 'has a surplus'} weight {key}")
        if tensors[key].shape != expected[key].shape:
            shapes = f"{tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
            raise ModelFileError(f"weight {key} of model file {path} has shape {shapes}; train it again")
    if _content_hash(header.essence, config, header.vocabulary, tensors) != header.hash:
        raise ModelFileError(f"model file {path} is damaged: its content does not match its hash; copy it again")
    network.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in tensors.items()})
    return network.eval()


def round_weights(network: Diagnoser, storage: Storage) -> None:
    """Round the network's weights to what `save_model` would store, so that it answers as its file will."""
    with torch.no_grad():
        for key, value in network.state_dict().items():
            value.copy_(_stored(key, value, storage))


def _stored(key: str, tensor: Tensor, storage: Storage) -> Tensor:
    fitted = key.startswith("fusion.") and not key.startswith("fusion.network.")
    halved = storage == "float16" and tensor.ndim >= 2 and not fitted
    return tensor.detach().to("cpu", torch.float16 if halved else torch.float32).contiguous()


def _content_hash(
    essence: Essence,
    config: DiagnoserConfig,
    vocabulary: tuple[str, ...] | None,
    tensors: Mapping[str, Tensor],
) -> str:
    """SHA-256 over everything that shapes an answer; neither name nor training record counts."""
    described = [FORMAT, essence.digest, config.model_dump(mode="json"), vocabulary]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for key in sorted(tensors):
        array: np.ndarray[Any, Any] = tensors[key].numpy()
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _listed(items: list[Any]) -> str:
    names = [item if isinstance(item, str) else "/".join(item) for item in items]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
