"""The order of the folders, what may import what, and how large a folder, a module and a function may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "models", "agents")

ORDER: dict[str, list[set[str]]] = {
    "": [{"pipeline"}, {"models"}, {"agents"}],
    "pipeline": [
        {"errors"},
        {"arrays", "compiled", "extras", "files"},
        {"config"},
        {"wire"},
        {"mapping"},
        {"frames"},
        {"alignment"},
        {"engine"},
        {"areas"},
    ],
    "models": [
        {"configs"},
        {"encoders"},
        {"data"},
        {"fusion"},
        {"diagnoser"},
        {"model_file"},
        {"stepping"},
        {"network_file"},
        {"evaluation"},
        {"training"},
        {"areas"},
        {"experiments"},
    ],
    "agents": [
        {"delivery", "words"},
        {"kafka", "memory"},
        {"audit"},
        {"worker"},
        {"connectors"},
        {"replay"},
        {"console"},
        {"bench"},
        {"cli"},
    ],
}
"""What a folder holds, lowest first. An entry imports only from the sets before its own."""

FORBIDDEN = {
    "pipeline": {"torch", "faust", "mode", "kafka", "aiokafka", "asyncio", "prometheus_client", "random"},
    "models": {"faust", "mode", "kafka", "aiokafka", "asyncio", "prometheus_client"},
}
"""Libraries that a package must not import."""

CLOCKS = {("time", "time"), ("time", "monotonic"), ("datetime", "now"), ("datetime", "utcnow")}
MAX_ENTRIES = 12
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
REASON = f"over {MAX_MODULE_LINES} lines because"
"""How the docstring of a longer module introduces its reason."""


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no modules"
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """A module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def known_modules() -> frozenset[str]:
    return frozenset(name_of(path) for package in PACKAGES for path in modules(package))


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports anywhere in it; of `from a import b`, a.b if that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports here are absolute"
            parent = node.module or ""
            for alias in node.names:
                child = f"{parent}.{alias.name}"
                yield child if child in known_modules() else parent


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules of ours that each module imports."""
    return {
        name_of(path): frozenset(known_modules().intersection(imported(parsed(path))))
        for package in PACKAGES
        for path in modules(package)
    }


def entry(folder: str, module: str) -> str | None:
    """The entry of a folder that a module is, or is in; None outside the folder and for the folder itself."""
    inside = module if not folder else module.removeprefix(f"{folder}.")
    return inside.split(".")[0] if not folder or inside != module else None


def entries(folder: str) -> dict[str, dict[str, set[str]]]:
    """For each entry of a folder the others that it imports, each with the modules that do so."""
    found: dict[str, dict[str, set[str]]] = {}
    for module, targets in imports().items():
        if (importer := entry(folder, module)) is None:
            continue
        others = found.setdefault(importer, {})
        for target in targets:
            other = entry(folder, target)
            if other is not None and other != importer:
                others.setdefault(other, set()).add(f"{module} imports {target}")
    return found


def folders() -> list[str]:
    return sorted({name_of(path.parent / "__init__.py") for package in PACKAGES for path in modules(package)})


@pytest.mark.parametrize("folder", ORDER, ids=lambda folder: folder or "root")
def test_a_folder_has_exactly_the_entries_that_its_order_names(folder: str) -> None:
    named = [name for rank in ORDER[folder] for name in rank]
    assert len(named) == len(set(named))
    assert sorted(named) == sorted(entries(folder))


@pytest.mark.parametrize("folder", ORDER, ids=lambda folder: folder or "root")
def test_imports_follow_the_order_of_the_folder(folder: str) -> None:
    below: set[str] = set()
    wrong: dict[str, set[str]] = {}
    found = entries(folder)
    for rank in ORDER[folder]:
        for importer in rank:
            for other, modules_that_do in found.get(importer, {}).items():
                if other not in below:
                    wrong[f"{importer} -> {other}"] = modules_that_do
        below |= rank
    assert wrong == {}


@pytest.mark.parametrize("folder", ["", *folders()], ids=lambda folder: folder or "root")
def test_no_folder_has_a_circle_of_imports(folder: str) -> None:
    left = {importer: dict(others) for importer, others in entries(folder).items()}
    outside: list[str] = [""]
    while outside:
        used = {other for others in left.values() for other in others}
        outside = [name for name, others in left.items() if name not in used or not others.keys() & left.keys()]
        for name in outside:
            del left[name]
    circle = {
        f"{importer} -> {other}": modules_that_do
        for importer, others in left.items()
        for other, modules_that_do in others.items()
        if other in left
    }
    assert circle == {}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_lower_layer_knows_no_broker_and_the_core_no_torch_or_chance(package: str) -> None:
    for path in modules(package):
        roots = {name.split(".")[0] for name in imported(parsed(path))}
        assert not roots & FORBIDDEN[package], path


def test_the_core_reads_no_clock() -> None:
    for path in modules("pipeline"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in CLOCKS, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_opens_with_one_sentence(package: str) -> None:
    for path in modules(package):
        summary = (ast.get_docstring(parsed(path)) or "").split("\n\n")[0]
        assert summary.endswith((".", ":")), path


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    roots = [*PACKAGES, "deploy", "docs"]
    inside = (path for root in roots for path in (ROOT / root).rglob("*"))
    counts: dict[Path, int] = {}
    for path in inside:
        generated = "__pycache__" in path.parts or path.name.endswith(".egg-info")
        # Decisions are a log, which only grows.
        if not generated and path.name not in ("__init__.py", "py.typed") and path.parent.name != "decisions":
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert counts
    too_full = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MAX_ENTRIES}
    assert too_full == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_is_short_or_says_why_not(package: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)}
    long = [path for path, count in lines.items() if count > MAX_MODULE_LINES]
    unexplained = [path for path in long if REASON not in " ".join((ast.get_docstring(parsed(path)) or "").split())]
    assert {str(path.relative_to(ROOT)): lines[path] for path in unexplained} == {}


@pytest.mark.parametrize("package", ["pipeline", "models/stepping"])
def test_functions_of_the_hot_path_are_short(package: str) -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in modules(package)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}
