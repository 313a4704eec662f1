"""YAML files with a mapping, and what is wrong with a description in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.files.yaml_text import parse_yaml, read_text

_MAX_PROBLEMS = 5


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a file; `what` the file is, for errors. Raises DataError."""
    try:
        mapping = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{what} {path} cannot be read: {error}") from error
    if not isinstance(mapping, dict):
        raise DataError(f"{what} {path} is no mapping of names to values")
    return mapping


def problems(error: ValidationError) -> str:
    """The first fields that do not fit, and why."""
    first = error.errors()[:_MAX_PROBLEMS]
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in first)
