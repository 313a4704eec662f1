"""What is installed is what was locked: versions, hashes, images; and what a container may do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-docs.lock", "requirements-audit.lock")
OURS = ("topics", "worker", "ingest", "plant", "notify", "console", "replay")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

_REQUIREMENT = re.compile(r"([a-z0-9-]+)==[\w.]+( ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def locked(text: str) -> dict[str, set[str]]:
    """Names in a lock file, each with its entries: there may be one for each version of Python."""
    entries: dict[str, set[str]] = {}
    end = 0
    for found in _REQUIREMENT.finditer(text):
        assert found.start() == end, f"not a pinned requirement with hashes: {text[end : end + 100]}"
        end = found.end()
        entries.setdefault(found[1], set()).add(found[0])
    assert end == len(text), f"not a pinned requirement with hashes: {text[end : end + 100]}"
    return entries


def lock(file: str) -> dict[str, set[str]]:
    return locked((ROOT / file).read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", line)[0].lower() for line in requirements}


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


# -- lock files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", LOCKS)
def test_every_requirement_is_pinned_with_the_hashes_of_its_files_and_no_registry_is_named(file: str) -> None:
    assert len(lock(file)) > 30


def test_an_entry_without_a_hash_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="not a pinned requirement"):
        locked("aiohttp==3.14.5\n")


def test_whatever_is_installed_from_a_lock_file_needs_its_hash() -> None:
    installing = [line for line in MAKEFILE.splitlines() if " -r requirements" in line and "cyclonedx" not in line]
    assert len(installing) == len(LOCKS)
    assert all(line.startswith("\t$(INSTALL_LOCKED) ") for line in installing)
    assert re.search(r"^INSTALL_LOCKED := .*--require-hashes$", MAKEFILE, re.MULTILINE)
    assert re.search(r"^LOCK := .*--no-emit-index-url .*--generate-hashes$", MAKEFILE, re.MULTILINE)
    in_image = re.findall(r"pip install [^&;\n]*-r [^&;\n]*", DOCKERFILE)
    assert len(in_image) == 2 and all("--require-hashes" in command for command in in_image)


def test_pip_refuses_a_file_with_another_hash(tmp_path: Path) -> None:
    (tmp_path / "tampered-1.0-py3-none-any.whl").write_bytes(b"not what was locked")
    wanted = tmp_path / "lock"
    wanted.write_text(f"tampered==1.0 \\\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "--no-index"]
    if subprocess.run([*install[:3], "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this environment has no pip")
    done = subprocess.run(
        [*install, "--find-links", str(tmp_path), "--target", str(tmp_path / "site"), "-r", str(wanted)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.parametrize("file", LOCKS[1:])
def test_all_lock_files_have_the_same_versions_of_what_serves(file: str) -> None:
    serving, other = lock("requirements.lock"), lock(file)
    assert {name: other.get(name) for name in serving} == serving


def test_the_lock_files_cover_every_extra_that_make_installs() -> None:
    extras = project()["optional-dependencies"]
    assert names(project()["dependencies"]) <= lock("requirements.lock").keys()
    for extra in ("dev", "docs", "audit"):
        assert names(extras[extra]) - {"faultline"} <= lock(f"requirements-{extra}.lock").keys()


def test_the_image_serves_without_torch_and_tools() -> None:
    training = ("cuda", "matplotlib", "nvidia", "onnx", "pytest", "ruff", "torch", "triton")
    assert not {name for name in lock("requirements.lock") if name.startswith(training)}


def test_the_image_trains_if_asked_with_the_same_versions_and_without_tools() -> None:
    (program,) = re.findall(r"awk '([^']+)' requirements-dev.lock", DOCKERFILE)
    awk = shutil.which("awk")
    assert awk is not None
    command = [awk, program, str(ROOT / "requirements-dev.lock")]
    kept = locked(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {name: lock("requirements-dev.lock")[name] for name in kept} == kept
    assert names(project()["optional-dependencies"]["train"]) <= kept.keys()
    assert not {name for name in kept if name.startswith(("hypothesis", "mypy", "pytest", "ruff"))}
    assert 'if [ "$WITH_TRAINING" = 1 ]; then' in DOCKERFILE


@pytest.mark.slow
def test_the_bill_of_materials_has_everything_that_serves(tmp_path: Path) -> None:
    tool = shutil.which("cyclonedx-py", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("cyclonedx-py is missing; `make sbom` installs it")
    (recipe,) = re.findall(r"^\t\$\(BIN\)/cyclonedx-py (.+)$", MAKEFILE, re.MULTILINE)
    out = tmp_path / "sbom.json"
    subprocess.run([tool, *recipe.replace("build/sbom.json", str(out)).split()], cwd=ROOT, check=True)
    bill = json.loads(out.read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "faultline"
    assert {one["name"] for one in bill["components"]} == lock("requirements.lock").keys()


# -- images and containers ------------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return found


def is_pinned(image: str) -> bool:
    """Whether an image is named by its digest, or by a version of three parts."""
    return (
        re.fullmatch(r"[\w./-]+(:[\w.-]+)?@sha256:[0-9a-f]{64}|[\w./-]+:v?\d+\.\d+\.\d+(-[\w-]+)?", image) is not None
    )


def test_images_are_pinned() -> None:
    images = [service["image"] for service in services().values() if service["image"] != "faultline"]
    images += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(images) == 4
    assert [image for image in images if not is_pinned(image)] == []
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["${PYTHON_IMAGE}"] * 2, "both stages have the same base"
    assert not is_pinned("python:3.11-slim") and not is_pinned("grafana/grafana")


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_may_do_no_more_than_it_has_to(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=64m"]
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    (cache,) = re.findall(r"^ENV .*(?:\n .*)*FAULTLINE_CACHE_DIR=(/opt\S+)", DOCKERFILE, re.MULTILINE)
    writable = [mount for mount in service["volumes"] if not mount.endswith(":ro")]
    assert writable == [f"cache:{cache}"], "compiled code is kept in a volume"


def test_all_services_of_ours_are_examined() -> None:
    assert [name for name, service in services().items() if service["image"] == "faultline"] == list(OURS)
