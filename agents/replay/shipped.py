"""Shipped files: the recordings of the demo, their model, and the area that one of them is of."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.errors import RecordingError

_FOLDER = "data"


def shipped_file(name: str) -> Path:
    """Path of a shipped file; raises RecordingError if it is missing."""
    path = Path(str(resources.files("agents") / _FOLDER / name))
    if not path.is_file():
        raise RecordingError(f"this installation of Faultline has no {name}; build it with deploy/demo/build")
    return path


def demo_recording() -> Path:
    """Twelve machines of the Tennessee Eastman plant over 48 hours, with faults that come and go, and texts."""
    return shipped_file("demo.parquet")


def area_recording() -> Path:
    """Eight machines of `area_section` over 13 hours: a utility fails that six share, then one has its own fault."""
    return shipped_file("area.parquet")


def area_incidents() -> Path:
    """Past incidents of the utilities of `area_recording`, simulated like it."""
    return shipped_file("area_incidents.parquet")


def area_section() -> Path:
    """The section `areas` of a profile for the machines of `area_recording`."""
    return shipped_file("area.yaml")


def area_rule() -> Path:
    """The rule that names the cause in the area of `area_recording`; it reads texts by the model of `demo_model`."""
    return shipped_file("area_rule.yaml")


def area_profile() -> PlantProfile:
    """The shipped profile with the area of `area_recording`."""
    shipped = resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml"
    section = area_section().read_text("utf-8")
    return parse_profile(f"{shipped.read_text('utf-8')}\n{section}", where="of the demo's area")


def demo_model() -> Path:
    """The model trained for the shipped profile."""
    return shipped_file("tennessee_eastman.faultline")
