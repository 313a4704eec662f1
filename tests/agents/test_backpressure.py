"""A slow output holds up the input; what waits in memory stays bounded however much there is to read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agents.delivery.merging import DEFAULT_LIMITS
from agents.memory.publisher import MemoryPublisher
from agents.worker.worker import Worker
from pipeline.wire.records import Output, Record
from tests.support.builders import reading
from tests.support.delivery_apps import run, until
from tests.support.plant import Plant

T0 = 1_763_600_000_000
READINGS = 60_000
CHUNK = 500
FETCH = 4_096
"""So many records of a partition come with one fetch of the memory transport at most."""


class SlowPublisher(MemoryPublisher):
    """Takes its time over every chunk's outputs."""

    def __init__(self, plant: Plant) -> None:
        super().__init__(plant.broker)
        self.waiting = self.most_waiting = self.published = 0

    async def publish(self, outputs: Sequence[Output]) -> None:
        self.waiting += len(outputs)
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0.05)
        await super().publish(outputs)
        self.waiting -= len(outputs)
        self.published += 1


def filled() -> Plant:
    plant = Plant(partitions=1, chunk_records=CHUNK, checkpoint_records=2_000)
    records: list[Record] = []
    for number in range(READINGS):
        records.append(reading(f"p{number % 50}", T0 + number // 50 * 5_000, [1.0, 2.0]))
    plant.append(records)
    return plant


def in_memory(worker: Worker) -> int:
    """Records that were fetched and are not processed."""
    consumer = worker.app.consumer
    fetched, processed = consumer._position, consumer.positions
    return sum(fetched[place] - processed[place] for place in fetched)


def test_a_slow_output_bounds_what_is_read_ahead() -> None:
    async def test() -> None:
        plant = filled()
        publisher = SlowPublisher(plant)
        worker = plant.worker(publisher=publisher)
        most = held = 0
        async with plant.running(worker):
            await until(lambda: publisher.published)
            while publisher.published < 30:
                most = max(most, in_memory(worker))
                held = max(held, worker._held_records)
                await asyncio.sleep(0.005)
        bound = DEFAULT_LIMITS.buffered_records + FETCH + (DEFAULT_LIMITS.chunks_in_flight + 1) * CHUNK
        assert CHUNK < most <= bound < READINGS / 2
        # One chunk's outputs at a time, and what is not acknowledged has been let go of but for its offsets.
        assert publisher.most_waiting < 2 * CHUNK
        assert held <= 2_000 + CHUNK
        assert plant.broker.committed("faultline")

    run(test())


def test_a_slow_broker_loses_nothing() -> None:
    async def test() -> None:
        plant, quick = filled_little(), filled_little()
        plant.broker.faults.delay_s = 0.0005
        await plant.work()
        await quick.work()
        assert plant.outputs() == quick.outputs()
        assert len(plant.log("diagnoses")) == len(quick.log("diagnoses")) > 100

    run(test())


def filled_little() -> Plant:
    plant = Plant(chunk_records=50)
    plant.append(reading(f"p{number % 5}", T0 + number // 5 * 5_000, [1.0, 2.0]) for number in range(1_000))
    return plant
