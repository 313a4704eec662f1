"""The host in a benchmark's report, and the processor time of its processes."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any


def host() -> dict[str, Any]:
    """Processor, cores and Python of this machine."""
    return {"processor": processor(), "cores": os.cpu_count(), "python": sys.version.split()[0]}


def processor() -> str:
    """The processor's name, with family and model where the name alone is vague (as in many virtual machines)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", text, re.MULTILINE))
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return name


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used so far, all threads together; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
