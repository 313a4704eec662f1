"""Processes that tests start, stop, suspend and kill: forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

# So that a start costs no seconds of imports. Every process of tests has one such server: it is set up here alone,
# because the list of what it imports is replaced, not extended.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.support.forked_before"])


class ForkedProcess:
    """One life of a worker or of an ingest process."""

    def __init__(self, run: Callable[[dict[str, str], str], None], environment: Mapping[str, str], log: Path) -> None:
        """`run` takes the environment and the name of the log; it has to be a function of a module."""
        self.log = log
        self._process = _processes.Process(target=run, args=(dict(environment), str(log)), daemon=True)
        self._process.start()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    @property
    def text(self) -> str:
        """What it has printed and logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float) -> int | None:
        """The exit code, None if it still lives after this time; negative for a signal."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """End it, whatever it is at."""
        if self.alive:
            self.signal(signal.SIGKILL)
        self._process.join()
