"""The file of a network of areas: a safetensors file like those of machines' models, one of which may be inside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import save

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.features import area_shape
from models.configs.diagnoser import TEXT
from models.model_file import AREA_KEY, Model, Weights, model_of, read_container, require_formats, require_numbers
from pipeline.config.classes import faultless_classes
from pipeline.errors import ModelFileError
from pipeline.files.atomic_file import replacing

FORMAT: Final = 1
_MACHINE_KEY: Final = "faultline_machine_model"
_NETWORK, _MACHINE = "network.", "machine_model."
"""How the names of the weights begin."""
_MAX_FEATURES: Final = 2**16


class AreaModelHeader(BaseModel):
    """The JSON part of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    name: str
    machine_type: str
    """Of all machines of its areas."""
    frame_period_ms: int = Field(gt=0)
    machine_model: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the machines' model, whose answers the network has learnt from."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Of that model."""
    modalities: tuple[str, ...] = Field(min_length=1)
    embeddings: tuple[Annotated[int, Field(ge=0, le=_MAX_FEATURES)], ...]
    """How many features each modality's embedding has."""
    network: AreaNetworkConfig
    threshold: float = Field(allow_inf_nan=False)
    """A utility is named where the score of one of its faults is by more than this over those of no cause and of
    machines' own faults."""
    hash: str
    training: dict[str, Any]
    """Seed, data, scores: information that is not part of the hash."""

    @property
    def shape(self) -> AreaShape:
        """Sizes of what the network is given and answers."""
        reads_texts = TEXT in self.modalities
        return area_shape(
            len(self.classes),
            self.embeddings,
            text_size=len(self.classes) if reads_texts else 0,
            text_modality=self.modalities.index(TEXT) if reads_texts else 0,
            quiet=faultless_classes(self.classes),
        )


@dataclass(frozen=True, slots=True)
class AreaModel:
    """The content of the file of a network of areas."""

    path: Path
    header: AreaModelHeader
    tensors: Mapping[str, Weights]
    """Of the network, by the names that they have in torch."""
    machine_model: Model | None
    """What reads the texts about utilities; None if no texts are read."""


def write_area_model(
    path: Path, tensors: Mapping[str, Weights], reader: Model | None, **fields: Any
) -> AreaModelHeader:
    """Write the file of a network, with the machines' model that reads its texts if it reads any; `fields` are those of
    the header but for format and hash."""
    unsigned = AreaModelHeader(format=FORMAT, hash="", **fields)
    header = unsigned.model_copy(update={"hash": _content_hash(unsigned, tensors)})
    metadata = {AREA_KEY: header.model_dump_json()}
    named = {_NETWORK + key: weights for key, weights in tensors.items()}
    if reader is not None:
        metadata[_MACHINE_KEY] = reader.header.model_dump_json()
        named |= {_MACHINE + key: weights for key, weights in reader.tensors.items()}
    with replacing(path) as part:
        part.write_bytes(save(named, metadata=metadata))
    return header


def read_area_model(path: Path) -> AreaModel:
    """The file of a network of areas; raises ModelFileError.

    Whether it has the weights that its network needs, in the right shapes, is checked by who builds the network.
    """
    metadata, tensors, strange = read_container(path, AREA_KEY)
    header = _header(path, metadata[AREA_KEY])
    require_formats(path, strange)
    network = {key.removeprefix(_NETWORK): value for key, value in tensors.items() if key.startswith(_NETWORK)}
    others = {key.removeprefix(_MACHINE): value for key, value in tensors.items() if not key.startswith(_NETWORK)}
    if header.hash != _content_hash(header, network):
        raise ModelFileError(f"model file {path} is damaged: its content does not match its hash; copy it again")
    require_numbers(path, network)
    reads_texts = TEXT in header.modalities
    if reads_texts != (_MACHINE_KEY in metadata):
        raise ModelFileError(f"model file {path} reads texts without a machines' model, or the reverse; train it again")
    machine_model = model_of(path, metadata[_MACHINE_KEY], others) if reads_texts else None
    if machine_model is not None and machine_model.header.hash != header.machine_model:
        raise ModelFileError(f"model file {path} has another machines' model than it was trained with; train it again")
    return AreaModel(path, header, network, machine_model)


def _header(path: Path, text: str) -> AreaModelHeader:
    try:
        header = AreaModelHeader.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"the header of model file {path} is broken at {field}: {first['msg']}") from error
    if header.format != FORMAT:
        raise ModelFileError(f"model file {path} has format {header.format}, this release reads {FORMAT}")
    if len(header.embeddings) != len(header.modalities) or len(set(header.modalities)) != len(header.modalities):
        raise ModelFileError(f"the header of model file {path} contradicts itself about its modalities; train it again")
    if len(set(header.classes)) != len(header.classes):
        raise ModelFileError(f"the header of model file {path} has a class twice; train it again")
    return header


def _content_hash(header: AreaModelHeader, tensors: Mapping[str, Weights]) -> str:
    """SHA-256 over everything that affects an answer; not the name or the training record."""
    described = header.model_dump(mode="json", exclude={"name", "hash", "training"})
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for key in sorted(tensors):
        array = tensors[key]
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
