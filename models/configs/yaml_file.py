"""YAML files that hold a mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files.yaml_text import parse_yaml, read_text


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a file; `what` the file is, for errors. Raises DataError."""
    try:
        mapping = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{what} {path} cannot be read: {error}") from error
    if not isinstance(mapping, dict):
        raise DataError(f"{what} {path} is no mapping of names to values")
    return mapping
