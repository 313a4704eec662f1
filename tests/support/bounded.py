"""Python code in a child process whose address space is limited: what would need more ends with MemoryError."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
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
"""

_TRIED = """
try:
{code}
except FaultlineError as error:
    print(type(error).__name__, error)
"""


def run_bounded(imports: str, *codes: str, mib: int, seconds: int = 60) -> Finished:
    """Import, and then run one code after the other with so much memory beyond what the imports took.

    FaultlineErrors are printed, and end only the code that raised them. `seconds` are those of the processor.
    """
    tried = (_TRIED.format(code="\n".join(f"    {line}" for line in code.splitlines())) for code in codes)
    text = _PREAMBLE.format(imports=imports, bytes=mib * MIB) + "".join(tried)
    done = subprocess.run(
        [sys.executable, "-c", text],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},  # Arrow's own reserves a gigabyte of addresses
        timeout=4 * seconds,  # a busy machine may let it wait
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def assert_refused(done: Finished, error: str, *parts: str) -> None:
    """The code ended with this one FaultlineError, whose text is one line that holds these parts."""
    assert_all_refused(done, error, [parts])


def assert_all_refused(done: Finished, error: str, refusals: Sequence[Sequence[str]]) -> None:
    """Each code ended with such a FaultlineError, whose text is one line that holds the parts of its refusal."""
    assert (done.returncode, done.stderr) == (0, ""), done
    for line, parts in zip(done.stdout.splitlines(), refusals, strict=True):
        assert line.startswith(f"{error} "), line
        for part in parts:
            assert part in line, line
