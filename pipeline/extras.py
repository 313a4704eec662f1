"""Installed packages: the version of Faultline, and optional ones with the extra that brings each."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import Final, NamedTuple

from pipeline.errors import MissingExtraError


class _Package(NamedTuple):
    name: str
    """As people know it."""
    extra: str


_PACKAGES: Final = {
    "torch": _Package("PyTorch", "train"),
    "matplotlib": _Package("Matplotlib", "train"),
    "openpyxl": _Package("openpyxl", "excel"),
    "tep_studio": _Package("tep-studio", "demo"),
}
"""By the name of their module."""


def faultline_version() -> str:
    """The version that is installed; "unknown" for a source tree that is not."""
    try:
        return metadata.version("faultline")
    except metadata.PackageNotFoundError:
        return "unknown"


def require_modules(purpose: str, *modules: str) -> None:
    """Raise MissingExtraError if one of these optional modules is not installed; `purpose` is what needs it."""
    for module in modules:
        if not is_installed(module):
            name, extra = _PACKAGES[module]
            raise MissingExtraError(f"{purpose} needs {name}: run  pip install 'faultline[{extra}]'")


def is_installed(module: str) -> bool:
    """Whether this process can import it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # hidden from this process
        return False
