"""The model file: one safetensors file with everything else as JSON in its header; no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.configs.diagnoser import DiagnoserConfig
from models.encoders.tokenizer import Tokenizer
from pipeline.config.classes import RECOVERING, model_classes
from pipeline.config.profile import MachineType
from pipeline.config.quantities.units import conversion
from pipeline.errors import ModelFileError
from pipeline.files.atomic_file import replacing

SUFFIX = ".faultline"
FORMAT = 1
_KEY = "faultline"
AREA_KEY: Final = "faultline_area"
"""What the header of a network of areas has instead (`models.areas.stepping.model_file`)."""
UNITS = "units"
"""Where the record of the training has the unit of each variable; older model files have none."""

MACHINES: Final = "machines"
"""Where it has the machines that the model has seen: names, and the starts of their first and last frame in ms."""

MAX_HEADER_BYTES: Final = 16 * 2**20
"""Names, shapes and JSON; the weights do not count."""

_DTYPES: Final = {"F32": np.float32, "F16": np.float16}
"""Number formats of stored weights, by their name in safetensors."""

Storage = Literal["float32", "float16"]
Weights = NDArray[np.float32] | NDArray[np.float16]


class Essence(BaseModel):
    """The parts of a machine type that a model depends on; they must equal the profile's for the model to be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variables: tuple[tuple[str, str, str], ...]
    """Name, aggregation and source of each."""
    frame_period_ms: int
    faults: tuple[str, ...]
    texts: bool
    digest: str

    @classmethod
    def of(cls, machine_type: MachineType) -> Essence:
        """Those of a machine type."""
        return cls(
            variables=tuple((v.name, v.aggregation, v.source) for v in machine_type.variables),
            frame_period_ms=machine_type.frame_period_ms,
            faults=machine_type.faults,
            texts=machine_type.texts,
            digest=machine_type.digest,
        )

    def differences(self, other: Essence) -> list[str]:
        """Differences of another essence from this one, in words."""
        differences = []
        for what in ("variables", "faults"):
            expected, actual = getattr(self, what), getattr(other, what)
            if expected == actual:
                continue
            missing, new = [x for x in expected if x not in actual], [x for x in actual if x not in expected]
            changes = [f"{word} {_listed(items)}" for word, items in (("without", missing), ("with", new)) if items]
            differences.append(f"{what} ({' and '.join(changes) or 'in another order'})")
        if self.frame_period_ms != other.frame_period_ms:
            differences.append(f"frame period ({other.frame_period_ms} ms instead of {self.frame_period_ms} ms)")
        if self.texts != other.texts:
            differences.append(f"texts ({'on' if other.texts else 'off'} instead of {'on' if self.texts else 'off'})")
        return differences


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
    """Seeds, names of the data, scores: information that is not part of the hash."""
    recovering: bool = False
    """Whether the network's last class, after the faults, is `recovering`; other files do not have this field."""

    @property
    def unknown(self) -> bool:
        """Whether the model calls faults `unknown`, its last class."""
        return self.network.unknown is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the model's classes."""
        return model_classes(self.essence.faults, recovering=self.recovering, unknown=self.unknown)


@dataclass(frozen=True, slots=True)
class Model:
    """The content of a model file."""

    path: Path
    header: Header
    tensors: Mapping[str, Weights]
    """Weights by name, as they are stored."""
    tokenizer: Tokenizer | None
    """None without the text modality."""


def write_model(
    path: Path,
    tensors: Mapping[str, Weights],
    network: DiagnoserConfig,
    vocabulary: tuple[str, ...] | None,
    machine_type: MachineType,
    *,
    name: str,
    training: Mapping[str, Any],
    recovering: bool = False,
) -> str:
    """Write a model file and return the model's hash; `recovering` says whether the network's last class is that."""
    essence = Essence.of(machine_type)
    header = Header(
        format=FORMAT,
        name=name,
        machine_type=machine_type.name,
        essence=essence,
        network=network,
        vocabulary=vocabulary,
        hash=_content_hash(essence, network, vocabulary, tensors, recovering=recovering),
        training={**training, UNITS: {v.name: v.unit for v in machine_type.variables if v.unit}},
        recovering=recovering,
    )
    # Earlier releases read the file if it has nothing that they do not know.
    text = header.model_dump_json(exclude=None if recovering else {RECOVERING})
    with replacing(path) as part:
        part.write_bytes(save(dict(tensors), metadata={_KEY: text}))
    return header.hash


def read_model(path: Path) -> Model:
    """A model file, whatever profile it was made for; raises ModelFileError.

    Whether it has the weights that its network needs, in the right shapes, is checked by the builder of the network.
    """
    metadata, tensors, others = read_container(path, _KEY)
    return model_of(path, metadata[_KEY], tensors, others)


def read_container(path: Path, key: str) -> tuple[dict[str, str], dict[str, Weights], dict[str, str]]:
    """The texts in the header of a safetensors file, one of them under this key; its weights; and the formats of those
    that no release reads. Raises ModelFileError."""
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}; train one, or name another")
    _require_small_header(path)
    try:
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            names: list[str] = opened.keys()
            dtypes = {name: str(opened.get_slice(name).get_dtype()) for name in names}
            tensors: dict[str, Weights] = {name: opened.get_tensor(name) for name in names if dtypes[name] in _DTYPES}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is no model file, or was cut short ({error}); copy or train it again") from error
    if key not in metadata:
        raise _other_file(path, metadata)
    others = {name: dtype for name, dtype in dtypes.items() if dtype not in _DTYPES}
    return metadata, tensors, others


def _other_file(path: Path, metadata: Mapping[str, str]) -> ModelFileError:
    """The error for a safetensors file of another kind than is read."""
    if AREA_KEY in metadata:
        return ModelFileError(f"{path} is a network of areas, not a model of machines; name it with --area-model")
    if _KEY in metadata:
        return ModelFileError(
            f"{path} is a model of machines, no network of areas; name a file of `faultline train-area`"
        )
    return ModelFileError(f"{path} is a safetensors file but not of Faultline; name a file made by training")


def model_of(path: Path, text: str, tensors: Mapping[str, Weights], others: Mapping[str, str] | None = None) -> Model:
    """The model whose header is this text, with these weights, and `others` as of `read_container`; `path` is for
    messages. Raises ModelFileError."""
    header = _header(path, text)
    require_formats(path, others or {})
    found = _content_hash(header.essence, header.network, header.vocabulary, tensors, recovering=header.recovering)
    if found != header.hash:
        raise ModelFileError(f"model file {path} is damaged: its content does not match its hash; copy it again")
    require_numbers(path, tensors)
    _require_consistent(path, header)
    config = header.network.text
    if (config is None) != (header.vocabulary is None):
        raise ModelFileError(
            f"model file {path} has a vocabulary without a text modality, or the reverse; train it again"
        )
    tokenizer = Tokenizer(header.vocabulary, config) if config is not None and header.vocabulary is not None else None
    return Model(path, header, tensors, tokenizer)


def require_formats(path: Path, others: Mapping[str, str]) -> None:
    """Raise ModelFileError if there are weights in formats that are not read."""
    for key, dtype in sorted(others.items()):
        raise ModelFileError(
            f"weight {key} of model file {path} is stored as {dtype}, this release reads {' and '.join(_DTYPES)}; "
            "convert it, or train it again"
        )


def require_numbers(path: Path, tensors: Mapping[str, Weights]) -> None:
    """Raise ModelFileError if a weight is infinite or no number."""
    for key, weights in sorted(tensors.items()):
        if not np.isfinite(weights).all():
            raise ModelFileError(f"weight {key} of model file {path} holds values that are no numbers; train it again")


def require_profile(model: Model, machine_type: MachineType) -> None:
    """Raise ModelFileError if the model was trained for a machine type that differs from this one."""
    header, expected = model.header, Essence.of(machine_type)
    for added in _added_classes(header):
        if added in machine_type.faults:
            raise ModelFileError(
                f"model {model.path} has a class {added!r} of its own, and machine type {machine_type.name} has a "
                f"fault of that name; rename the fault, or use a model that was trained without `{added}`"
            )
    if header.essence != expected:
        what = "; ".join(header.essence.differences(expected)) or "modalities, or the way profiles are hashed"
        raise ModelFileError(
            f"model {model.path} was trained for machine type {header.machine_type} and does not fit "
            f"{machine_type.name}: the profile differs in {what}; use the profile of the training, or train a model "
            "for this one"
        )


def in_units_of(model: Model, machine_type: MachineType) -> Model:
    """The model for values in the profile's units, where these are not the training's.

    Scaling takes the conversion in: (scale * x + offset - mean) / std. Raises ModelFileError if a unit cannot be
    converted.
    """
    trained, shape = model.header.training.get(UNITS), (len(machine_type.variables),)
    scaling = (model.tensors.get("mean"), model.tensors.get("std"))
    if not isinstance(trained, dict) or not trained or any(part is None or part.shape != shape for part in scaling):
        return model  # if weights are missing or of another shape, the builder of the network says so
    mean, std = (model.tensors[name].astype(np.float64) for name in ("mean", "std"))
    changed = False
    for column, variable in enumerate(machine_type.variables):
        try:
            found = conversion(variable.unit, str(trained.get(variable.name, "")))
        except ValueError as error:
            raise ModelFileError(
                f"model {model.path} was trained with {variable.name} in {trained.get(variable.name)!r}, the profile "
                f"has {variable.unit!r}: {error}; correct the profile's unit, or train a model for it"
            ) from None
        if found is not None:
            mean[column] = (mean[column] - found.offset) / found.scale
            std[column] /= found.scale
            changed = True
    if not changed:
        return model
    return replace(model, tensors={**model.tensors, "mean": mean.astype(np.float32), "std": std.astype(np.float32)})


def require_weights(model: Model, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelFileError unless the model has exactly the weights of these names and shapes."""
    for key in sorted(expected.keys() | model.tensors.keys()):
        if key not in model.tensors:
            raise missing_weight(model.path, key)
        if key not in expected:
            raise surplus_weight(model.path, key)
        if model.tensors[key].shape != expected[key]:
            raise misshapen_weight(model.path, key, model.tensors[key].shape, expected[key])


def missing_weight(path: Path, key: str) -> ModelFileError:
    """The error for a weight that a network needs and its file does not have."""
    return ModelFileError(f"model file {path} lacks weight {key}; train it again")


def surplus_weight(path: Path, key: str) -> ModelFileError:
    """The error for a weight that a network does not have."""
    return ModelFileError(f"model file {path} has a surplus weight {key}; train it again")


def misshapen_weight(path: Path, key: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> ModelFileError:
    """The error for a weight of another shape than the network needs."""
    return ModelFileError(f"weight {key} of model file {path} has shape {shape} instead of {expected}; train it again")


def _require_small_header(path: Path) -> None:
    """Raise ModelFileError if the file says that its header is longer than any is, before it is read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise ModelFileError(f"model file {path} cannot be read: {error.strerror}") from error
    # If the whole file is smaller than that, it was cut short, or is no model file.
    if size > MAX_HEADER_BYTES and path.stat().st_size > MAX_HEADER_BYTES:
        raise ModelFileError(
            f"the header of model file {path} has {size:,} bytes, more than {MAX_HEADER_BYTES:,}; copy it again"
        )


def _require_consistent(path: Path, header: Header) -> None:
    network, essence = header.network, header.essence
    for added in _added_classes(header):
        if added in essence.faults:
            raise ModelFileError(f"model file {path} has two classes {added!r}; rename the fault, and train it again")
    if network.unknown is not None and network.unknown.recovering != header.recovering:
        raise ModelFileError(f"the header of model file {path} contradicts itself about {RECOVERING!r}; train it again")
    for what, stated, listed in (
        ("classes", network.classes + header.unknown, len(header.classes)),
        ("variables", network.variables, len(essence.variables)),
    ):
        if stated != listed:
            raise ModelFileError(
                f"the header of model file {path} contradicts itself: {stated} {what} in its network, {listed} in its "
                "machine type; train it again"
            )


def _added_classes(header: Header) -> tuple[str, ...]:
    """The classes that labels do not have."""
    return model_classes((), recovering=header.recovering, unknown=header.unknown)


def _header(path: Path, text: str) -> Header:
    try:
        data = json.loads(text)
    except RecursionError:
        raise ModelFileError(f"the header of model file {path} is nested too deeply; train it again") from None
    except ValueError as error:
        raise ModelFileError(f"the header of model file {path} is not JSON ({error}); train it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        stated = data.get("format") if isinstance(data, dict) else None
        raise ModelFileError(f"model file {path} has format {stated}, this release reads {FORMAT}; train it again")
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"the header of model file {path} is broken at {field}: {first['msg']}") from error


def _content_hash(
    essence: Essence,
    config: DiagnoserConfig,
    vocabulary: tuple[str, ...] | None,
    tensors: Mapping[str, Weights],
    *,
    recovering: bool,
) -> str:
    """SHA-256 over everything that affects an answer; not the name or the training record."""
    described = [FORMAT, essence.digest, config.model_dump(mode="json"), vocabulary]
    if recovering:
        described.append(RECOVERING)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for key in sorted(tensors):
        array = tensors[key]
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def with_doubts(tensors: Mapping[str, Weights]) -> dict[str, Weights]:
    """The weights; of model files from before late fusions had doubts, with none of any modality."""
    filled = dict(tensors)
    for fusion in ("fusion", "fusion.late"):
        temperatures = tensors.get(f"{fusion}.temperatures")
        if temperatures is not None:
            filled.setdefault(f"{fusion}.doubts", np.zeros(temperatures.shape, np.float32))
    return filled


def _listed(items: list[Any]) -> str:
    names = [item if isinstance(item, str) else "/".join(item) for item in items]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
