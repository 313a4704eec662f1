"""Dependencies point one way: pipeline <- models <- agents, and the core knows no torch, broker, clock or chance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "pipeline": {
        "models",
        "agents",
        "torch",
        "faust",
        "mode",
        "kafka",
        "aiokafka",
        "asyncio",
        "prometheus_client",
        "random",
    },
    "models": {"agents", "faust", "mode", "kafka", "aiokafka", "asyncio", "prometheus_client"},
}
FOLDERS = {
    "agents": ("delivery", "kafka", "memory", "local_kafka", "audit", "worker", "replay", "bench", "cli"),
}
"""The folders of a package; each may import from those before it."""
MAX_ENTRIES = 12
MAX_LINES = 400
CLOCKS = {("time", "time"), ("time", "monotonic"), ("datetime", "now"), ("datetime", "utcnow")}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no modules"
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_lower_layer_never_imports_a_higher_one(package: str) -> None:
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            roots = {name.split(".")[0] for name in names}
            assert not roots & FORBIDDEN[package], f"{path.name}:{getattr(node, 'lineno', 0)}"


def test_the_core_reads_no_clock() -> None:
    for path in modules("pipeline"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in CLOCKS, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("package", ["pipeline", "models", "agents"])
def test_every_module_opens_with_one_sentence(package: str) -> None:
    for path in modules(package):
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        assert summary.endswith((".", ":")), path


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_folders_import_only_from_those_before_them(package: str) -> None:
    order = FOLDERS[package]
    for path in modules(package):
        folder = path.relative_to(ROOT / package).parts[0]
        if folder.endswith(".py"):
            continue
        assert folder in order, f"{package}/{folder} has no place in the order of folders"
        allowed = order[: order.index(folder) + 1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
                assert (node.module or "").split(".")[1] in allowed, f"{path}:{node.lineno}"


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_folders_and_modules_are_small(package: str) -> None:
    for path in modules(package):
        assert len(path.read_text().splitlines()) <= MAX_LINES, path
        assert len([*path.parent.glob("[!_]*.py")]) <= MAX_ENTRIES, path.parent
