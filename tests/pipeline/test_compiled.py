"""Compiled functions: kept between starts, or compiled in memory; never run from files that others can write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.compiled import CACHE_VARIABLE, cache_folder

PROGRAM = """
import sys
from pathlib import Path
from pipeline.compiled import CompiledFunction
def double(x):
    return x + x
lines = []
function = CompiledFunction(double, "int64(int64)", [Path(sys.argv[1])]).load(lines.append)
assert function(21) == 42
print(*lines, sep="\\n")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.py"
    path.write_text("1")
    return path


def compile_in(folder: Path | str, source: Path) -> str:
    """What a process says that compiles with this cache folder."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source)],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), CACHE_VARIABLE: str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A busy processor may take so long that compiling is worth a line.
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith("compiling a function"))


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


def test_code_is_kept_until_a_source_changes(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "cache"
    assert compile_in(folder, source) == ""
    (first,) = kept(folder)
    written = first.stat().st_mtime_ns
    assert compile_in(folder, source) == ""
    assert kept(folder) == [first] and first.stat().st_mtime_ns == written
    source.write_text("2")
    assert compile_in(folder, source) == ""
    assert len(kept(folder)) == 2


def test_damaged_code_is_compiled_again(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "cache"
    compile_in(folder, source)
    (file,) = kept(folder)
    whole = len(file.read_bytes())
    file.write_bytes(file.read_bytes()[: whole // 2])
    assert compile_in(folder, source) == ""
    assert abs(len(file.read_bytes()) - whole) < whole // 10


def test_a_folder_that_cannot_be_written_costs_a_line_and_no_more(tmp_path: Path, source: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    said = compile_in(blocked / "cache", source)
    assert "cannot be kept" in said and CACHE_VARIABLE in said and len(said.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to stand for a full disk")
def test_a_full_disk_costs_a_line_and_no_more(tmp_path: Path, source: Path) -> None:
    program = PROGRAM.replace(
        "lines = []",
        "import builtins, pipeline.compiled, numba.core.caching as caching\n"
        "caching.open = lambda path, mode='r': builtins.open('/dev/full' if 'w' in mode else path, mode)\n"
        "lines = []",
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(source)],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), CACHE_VARIABLE: str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "cache"
    compile_in(folder, source)
    (file,) = kept(folder)
    file.parent.chmod(0o777)
    assert "can be written by other users" in compile_in(folder, source)


def test_the_folder_is_the_named_one_or_the_users() -> None:
    assert cache_folder({CACHE_VARIABLE: "/a"}) == Path("/a")
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/faultline")
    assert cache_folder({}) == Path.home() / ".cache" / "faultline"
