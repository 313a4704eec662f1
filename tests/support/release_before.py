"""The release before this one: what it left, and its code where the history of the repository is at hand."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0af5b10000dd36e15cca349f09e0ec1973482cde"
"""The last commit of that release; what it left was written by its code."""

MODEL = "before.faultline"
LEFT = ROOT / "tests" / "agents" / "release_before"
RECORDING = LEFT / "recording.parquet"
STATES = LEFT / "states.msgpack.gz"
CERTIFICATE = LEFT / "certificate.parquet"


_COMPONENTS = re.compile(rb',"components":{[^}]*}(?=}$)')


def without_components(diagnosis: bytes) -> bytes:
    """A diagnosis of today as that release wrote it: it had no components."""
    return _COMPONENTS.sub(b"", diagnosis)


def model_of_before(folder: Path) -> Path:
    """A copy of the model file that it shipped, as `MODEL` in a folder."""
    return Path(shutil.copy(LEFT / "model.faultline", folder / MODEL))


def code_of_before(folder: Path) -> Path:
    """Its code, from the history; skips the test where there is none, such as in a shallow clone."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is missing, and with it the code of the release before")
    done = subprocess.run([git, "-C", str(ROOT), "archive", COMMIT], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the history of the repository is missing here: no commit {COMMIT}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(Path(__file__).parent / "release_artefacts.py", folder / "tests" / "support")
    return folder
