"""Kafka's jars, fetched with Maven the first time and cached."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from pipeline.errors import BrokerUnavailableError

ROOT = Path(__file__).resolve().parents[3]
POM = Path(__file__).resolve().parents[2] / "data" / "kafka-pom.xml"
MAVEN_TIMEOUT_S = 300.0


def kafka_version() -> str:
    """The version that the pom asks for."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", POM.read_text(encoding="utf-8"))
    if found is None:
        raise BrokerUnavailableError(f"{POM} names no kafka.version")
    return found.group(1)


def default_jars_dir(version: str | None = None) -> Path:
    """Where the jars are cached: FAULTLINE_KAFKA_JARS, or a checkout's `.cache`, or the user's cache folder.

    FAULTLINE_KAFKA_JARS holds the version that the pom asks for; `version` chooses another.
    """
    if version is None and (chosen := os.environ.get("FAULTLINE_KAFKA_JARS")):
        return Path(chosen).resolve()
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faultline"
    folder = ROOT / ".cache" if (ROOT / "pyproject.toml").is_file() else user
    return folder / f"kafka-jars-{version or kafka_version()}"


def missing_tools(jars_dir: Path | None = None, version: str | None = None) -> str | None:
    """Why no broker can be started here, or None if nothing is missing."""
    if shutil.which("java") is None:
        return "java is not installed"
    folder = jars_dir or default_jars_dir(version)
    if not _has_jars(folder) and shutil.which("mvn") is None:
        return f"the Kafka jars are not in {folder} and mvn, which would fetch them, is not installed"
    return None


def ensure_jars(jars_dir: Path | None = None, version: str | None = None) -> Path:
    """The folder with the broker's jars, fetched with Maven the first time; `version` is the pom's if not given."""
    folder = jars_dir or default_jars_dir(version)
    if _has_jars(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Fetched beside the target and renamed, so an interrupted or a parallel fetch never leaves half a folder.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
        fetched = Path(scratch) / "jars"
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
        if version is not None:
            command.append(f"-Dkafka.version={version}")
        try:
            done = subprocess.run(
                [*command, f"-DoutputDirectory={fetched}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=MAVEN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerUnavailableError(f"Maven took over {MAVEN_TIMEOUT_S:.0f} s to fetch the jars") from error
        if done.returncode != 0 or not _has_jars(fetched):
            raise BrokerUnavailableError(f"Maven could not fetch the Kafka jars:\n{done.stdout[-2000:]}")
        try:
            fetched.rename(folder)
        except OSError:
            if not _has_jars(folder):
                raise
    return folder


def _has_jars(folder: Path) -> bool:
    return any(folder.glob("kafka_2.13-*.jar"))
