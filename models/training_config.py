"""Training configurations as YAML files, with paths relative to a data folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from models.training import TrainConfig
from pipeline.errors import DataError

_PATHS = frozenset({"paths", "events", "texts", "recordings"})


def load_train_config(
    path: Path,
    *,
    data: Path | None = None,
    output: Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
) -> TrainConfig:
    """Read a configuration; the other arguments take precedence over what it says.

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
        for stage in ("sensor_stage", "word_stage", "text_stage"):
            raw[stage] = (raw.get(stage) or {}) | {"epochs": epochs}
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()[:5])
        raise DataError(f"training configuration {path} does not fit: {details}") from error


def _rooted(value: Any, root: Path) -> Any:
    """The value with every listed path made to start from `root`."""
    if isinstance(value, list):
        return [_rooted(entry, root) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        name: [str(root / os.path.expandvars(str(entry))) for entry in part]
        if name in _PATHS and isinstance(part, list)
        else _rooted(part, root)
        for name, part in value.items()
    }
