"""A loop written by hand on aiokafka: the model is batched over machines, the answers go out in whole batches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import job
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

RECORDS = 1024
"""Records that are taken at once, at most."""

COMMIT_SECONDS = 1.0


class Answers:
    """Batches under way, one growing for each partition."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._growing: dict[int, Any] = {}
        self._sent: list[asyncio.Future[Any]] = []

    async def add(self, partition: int, key: bytes, value: bytes) -> None:
        """Put one answer into its partition's batch; a full one is sent."""
        batch = self._growing.get(partition)
        if batch is None:
            batch = self._growing[partition] = self._producer.create_batch()
        if batch.append(key=key, value=value, timestamp=None) is None:
            await self._send(partition)
            batch = self._growing[partition] = self._producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)

    async def send(self) -> None:
        """Send what there is."""
        for partition in list(self._growing):
            await self._send(partition)

    async def confirmed(self) -> None:
        """Wait until the broker has everything; raises if it does not take it."""
        await asyncio.gather(*self._sent)
        self._sent.clear()

    async def _send(self, partition: int) -> None:
        batch = self._growing.pop(partition)
        self._sent.append(await self._producer.send_batch(batch, self._topic, partition=partition))


async def main() -> None:
    """Run until killed."""
    chosen = job.options()
    model = job.Model(chosen.weights, chosen.arithmetic)
    consumer = AIOKafkaConsumer(
        chosen.source,
        bootstrap_servers=chosen.bootstrap,
        group_id=chosen.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
    )
    producer = AIOKafkaProducer(bootstrap_servers=chosen.bootstrap, acks="all", max_batch_size=256 << 10)
    await consumer.start()
    await producer.start()
    answers = Answers(producer, chosen.target)
    committed = time.monotonic()
    while True:
        taken = await consumer.getmany(timeout_ms=200, max_records=RECORDS)
        records = [record for records in taken.values() for record in records]
        pairs = [(record, reading) for record in records if (reading := job.read(record.value)) is not None]
        for places in job.rounds([reading for _, reading in pairs]):
            answered = model.many([pairs[place][1] for place in places])
            for place, probabilities in zip(places, answered, strict=True):
                record, reading = pairs[place]
                await answers.add(record.partition, record.key, job.write(reading, probabilities))
        await answers.send()
        if time.monotonic() - committed > COMMIT_SECONDS:
            await answers.confirmed()
            await consumer.commit()
            committed = time.monotonic()


if __name__ == "__main__":
    run = asyncio.run
    with contextlib.suppress(ImportError):
        from uvloop import run
    run(main())
