"""A plant agent's process, as `faultline plant` starts it, that ends itself with SIGKILL at a chosen point.

CHAOS_POINT and CHAOS_HIT choose it, as for tests/support/mortal_worker.py; settings are FAULTLINE_...
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any, cast

from agents.delivery.partitioning import partition_function
from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.worker.plant import service
from agents.worker.plant.agent import PlantAgent
from agents.worker.process import one_line_errors, run_process
from agents.worker.worker import Worker
from pipeline.areas.frames import AreaRunner
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import FaultlineError
from tests.support.area_plant import WITH_AREAS, VoteRunner
from tests.support.chaos import Probes


class MortalPlantAgent(PlantAgent):
    """The plant agent of `serve`, with probes around it."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        runner: AreaRunner,
        publisher: Publisher,
        *,
        store: StateStore,
        **options: Any,
    ) -> None:
        point = os.environ.get("CHAOS_POINT")
        at = {point: int(os.environ["CHAOS_HIT"])} if point else None
        probes = Probes(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        probed = probes.publisher(publisher)
        super().__init__(settings, profile, runner, probed, store=probes.store(store), **options)
        probes.attach(cast(Worker, self))


def run_forked(environment: dict[str, str], log_path: str) -> None:
    """Serve until told to stop, or until death, in a process that was forked from one with everything imported."""
    os.environ.update(environment)
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.INFO, format="%(created).3f %(name)s: %(message)s", stream=sys.stderr)
    one_line_errors(logging.getLogger())
    service.PlantAgent = MortalPlantAgent  # type: ignore[attr-defined, assignment]
    settings, profile = load_settings(), parse_profile(WITH_AREAS, where="tests/support/area_plant.py")
    try:
        run_process(service.serve(settings, profile, VoteRunner(), partition_function(settings.partitions)))
    except FaultlineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)
