"""A worker process, as `faultline run` starts it, that ends itself with SIGKILL at a point chosen by the environment.

CHAOS_POINT and CHAOS_HIT choose where (tests/support/chaos.py), CHAOS_PACE_S how slow it is, CHAOS_RESTORE_S how long
it reads states, CHAOS_BLOCK_S how long the engine keeps the event loop for itself; with CHAOS_CLOCK_S its clock is
ahead, and with CHAOS_DISK_FULL no file can be written. With CHAOS_SHIPPED_MODEL it serves the settings' profile, else
the plant of that module. Settings are FAULTLINE_...
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from agents.cli.options import load_runners
from agents.delivery.partitioning import partition_function
from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.worker import service
from agents.worker.process import one_line_errors, run_process
from agents.worker.worker import Worker
from pipeline.config.profile import load_profile, parse_profile
from pipeline.config.settings import load_settings
from pipeline.errors import FaultlineError
from pipeline.wire.records import Output, Record
from tests.support.builders import SumRunner
from tests.support.chaos import STORY_PLANT, Probes

log = logging.getLogger("faultline.mortal")


def _probes() -> Probes:
    point = os.environ.get("CHAOS_POINT")
    return Probes(
        {point: int(os.environ["CHAOS_HIT"])} if point else None,
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        _seconds("CHAOS_PACE_S"),
    )


def _seconds(name: str) -> float:
    return float(os.environ.get(name, "0"))


def _slow(store: StateStore) -> StateStore:
    read, seconds = store.read, _seconds("CHAOS_RESTORE_S")

    async def slow(partitions: Sequence[int]) -> dict[str, bytes]:
        await asyncio.sleep(seconds)
        return await read(partitions)

    store.read = slow  # type: ignore[method-assign]
    return store


class MortalWorker(Worker):
    """The worker of `serve`, with probes around it."""

    def __init__(self, *args: Any, store: StateStore, **options: Any) -> None:
        probes = _probes()
        settings, profile, runners, publisher = args
        ahead_s, wall_seconds = _seconds("CHAOS_CLOCK_S"), options.pop("wall_seconds")
        probed: Publisher = probes.publisher(publisher)
        super().__init__(
            settings,
            profile,
            runners,
            probed,
            store=_slow(probes.store(store)),
            wall_seconds=lambda: wall_seconds() + ahead_s,
            **options,
        )
        probes.attach(self)
        if block_s := _seconds("CHAOS_BLOCK_S"):
            process = self.engine.process

            def blocked(records: Sequence[Record]) -> list[Output]:
                time.sleep(block_s)
                return process(records)

            self.engine.process = blocked  # type: ignore[method-assign]
        self.app.on_partitions_assigned.connect(self._tell, weak=False)

    async def _tell(self, _: Any, assigned: Any, **__: Any) -> None:
        log.info("assigned %s", sorted({place.partition for place in assigned}))


def main() -> int:
    """Serve until told to stop, or until death."""
    logging.basicConfig(level=logging.INFO, format="%(created).3f %(name)s: %(message)s", stream=sys.stderr)
    one_line_errors(logging.getLogger())
    service.Worker = MortalWorker  # type: ignore[attr-defined, assignment]
    settings = load_settings()
    runners: dict[str, Any]
    if "CHAOS_SHIPPED_MODEL" in os.environ:
        profile = load_profile(settings.profile)
        runners = load_runners(settings, profile, None)
    else:
        profile = parse_profile(STORY_PLANT, where="tests/support/chaos.py")
        runners = {kind.name: SumRunner() for kind in profile.machine_types}
    try:
        run_process(service.serve(settings, profile, runners, partition_function(settings.partitions)))
    except FaultlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_forked(environment: dict[str, str], log_path: str) -> None:
    """The same in a process that was forked from one with everything imported."""
    os.environ.update(environment)
    if "CHAOS_DISK_FULL" in environment:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        log_path = os.devnull
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main())


if __name__ == "__main__":
    sys.exit(main())
