"""Training configurations as YAML files, with paths relative to a data folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from models.training import TrainConfig
from pipeline.errors import DataError

_PATHS = frozenset({"paths", "events", "texts", "recordings", "encoders"})


def load_train_config(
    path: Path,
    *,
    data: Path | None = None,
    output: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    fusion: str | None = None,
) -> TrainConfig:
    """Read a configuration; the other arguments take precedence over what it says.

    `fusion` is a kind of fusion; what the configuration says about this very kind stays.

    Relative paths start from `data`, or from the configuration's own folder; `$NAME` stands for an environment
    variable. Raises DataError with file and field.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"training configuration {path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"training configuration {path} is no mapping of names to values")
    raw = _rooted(raw, data or path.parent)
    if output is not None:
        raw["output"] = output
    if seed is not None:
        raw["seed"] = seed
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
        details = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()[:5])
        raise DataError(f"training configuration {path} does not fit: {details}") from error


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
