"""Bytewax: a dataflow with a step for every message; its place in the input is kept in its recovery store."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import job
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

BATCH = 1_000
"""Messages that are taken from a partition at once; the sink waits for the broker after every batch."""


def main() -> None:
    """Run until killed."""
    chosen = job.options()
    model = job.Model(chosen.weights, chosen.arithmetic)

    def diagnose(message: KafkaSourceMessage) -> KafkaSinkMessage | None:
        reading = job.read(message.value)
        if reading is None:
            return None
        return KafkaSinkMessage(message.key, job.write(reading, model.one(reading)))

    flow = Dataflow("diagnose")
    source = kop.input("source", flow, brokers=[chosen.bootstrap], topics=[chosen.source], batch_size=BATCH)
    answers = op.filter_map("diagnose", source.oks, diagnose)
    kop.output(
        "target",
        answers,
        brokers=[chosen.bootstrap],
        topic=chosen.target,
        add_config={"partitioner": "murmur2_random"},
    )
    with tempfile.TemporaryDirectory() as folder:
        init_db_dir(Path(folder), 1)
        cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(folder))


if __name__ == "__main__":
    main()
