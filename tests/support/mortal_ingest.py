"""An ingest process, as `faultline ingest` starts it, that kills itself at a point chosen by the environment.

CHAOS_POINT and CHAOS_HIT choose where, CHAOS_PACE_S how slow it is; settings are FAULTLINE_...
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from agents.connectors.ingest import service
from agents.connectors.ingest.ingest import Ingest
from agents.kafka import transactions
from agents.kafka.transactions import TransactionalPublisher
from agents.worker.process import one_line_errors, run_process
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.errors import FaultlineError
from pipeline.wire.records import Output

POINTS = ("claimed", "begun", "published", "offsets", "committed", "acked")
"""Where an ingest process can be made to die: behind the claim of a partition, at the beginning of a transaction, when
some of its outputs are with the broker, when the offset is too, when it is committed, and when the chunk is
acknowledged."""

log = logging.getLogger("faultline.mortal")
_hits: Counter[str] = Counter()


def _hit(point: str) -> None:
    _hits[point] += 1
    if point == os.environ.get("CHAOS_POINT") and _hits[point] == int(os.environ["CHAOS_HIT"]):
        os.kill(os.getpid(), signal.SIGKILL)


class MortalPublisher(TransactionalPublisher):
    """A publisher that comes by every point of a transaction."""

    async def start(self) -> None:
        await super().start()
        producer: Any = self._producer
        send_offsets = producer.send_offsets_to_transaction

        async def probed_offsets(*arguments: Any) -> None:
            await send_offsets(*arguments)
            _hit("offsets")

        producer.send_offsets_to_transaction = probed_offsets
        _hit("claimed")

    async def begin(self) -> None:
        await asyncio.sleep(float(os.environ.get("CHAOS_PACE_S", "0")))
        await super().begin()
        _hit("begun")

    async def publish_all(self, outputs: Sequence[Output]) -> None:
        await super().publish_all(outputs)
        _hit("published")

    async def commit(self, *arguments: Any) -> None:
        await super().commit(*arguments)
        _hit("committed")


class MortalIngest(Ingest):
    """The process of `serve`, with probes around it."""

    async def _process(self, event: Any) -> None:
        await super()._process(event)
        _hit("acked")

    async def start(self) -> None:
        self.app.on_partitions_assigned.connect(self._tell, weak=False)
        await super().start()

    async def _tell(self, _: Any, assigned: Any, **__: Any) -> None:
        log.info("assigned %d partitions", len(assigned))


def main() -> int:
    """Serve until told to stop, or until death."""
    logging.basicConfig(level=logging.INFO, format="%(created).3f %(name)s: %(message)s", stream=sys.stderr)
    one_line_errors(logging.getLogger())
    transactions.TransactionalPublisher = MortalPublisher  # type: ignore[misc]
    service.Ingest = MortalIngest  # type: ignore[attr-defined]
    settings = load_settings()
    try:
        run_process(service.serve(settings, load_profile(settings.profile), os.environ.get("CHAOS_MQTT")))
    except FaultlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_forked(environment: dict[str, str], log_path: str) -> None:
    """The same in a process that was forked from one with everything imported."""
    os.environ.update(environment)
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main())
