"""Python code in a child process whose address space is limited: what would need more ends with MemoryError."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.commands import Finished

ROOT: Final = Path(__file__).parents[2]
MIB: Final = 2**20

_PREAMBLE = """
import resource, sys
{imports}
with open("/proc/self/status") as status:
    now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (now + {bytes}, now + {bytes}))
from pipeline.errors import FaultlineError
try:
{code}
except FaultlineError as error:
    print(type(error).__name__, error)
"""


def run_bounded(imports: str, code: str, *, mib: int, seconds: int = 60) -> Finished:
    """Import, and then run `code` with so much memory beyond what the imports took; FaultlineErrors are printed."""
    indented = "\n".join(f"    {line}" for line in code.splitlines())
    text = _PREAMBLE.format(imports=imports, code=indented, bytes=mib * MIB)
    done = subprocess.run(
        [sys.executable, "-c", text],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},  # Arrow's own reserves a gigabyte of addresses
        timeout=seconds,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def assert_refused(done: Finished, error: str, *parts: str) -> None:
    """The code ended with this one FaultlineError, whose text is one line that holds these parts."""
    assert (done.returncode, done.stderr) == (0, ""), done
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{error} "), line
    for part in parts:
        assert part in line, line
