"""`faultline --version`, which bug reports begin with."""

from __future__ import annotations

import platform
from importlib.metadata import version

from agents.bench.host import processor
from tests.support.commands import faultline


def test_the_version_is_shown_with_python_platform_and_processor() -> None:
    done = faultline("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"faultline {version('faultline')}, Python {platform.python_version()}, {platform.platform()}, {processor()}\n"
    )
