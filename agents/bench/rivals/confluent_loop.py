"""A loop written by hand on confluent-kafka: the model is batched over machines."""

from __future__ import annotations

import time

import job
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

RECORDS = 1024
"""Records that are taken at once, at most."""

COMMIT_SECONDS = 1.0


def refuse(error: KafkaError | None, _: Message) -> None:
    """An answer that cannot be delivered ends the program."""
    if error is not None:
        raise KafkaException(error)


def main() -> None:
    """Run until killed."""
    chosen = job.options()
    model = job.Model(chosen.weights, chosen.arithmetic)
    consumer = Consumer(
        {
            "bootstrap.servers": chosen.bootstrap,
            "group.id": chosen.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": chosen.bootstrap,
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            "on_delivery": refuse,
        }
    )
    consumer.subscribe([chosen.source])
    committed = time.monotonic()
    while True:
        records = [record for record in consumer.consume(RECORDS, 0.05) if record.error() is None]
        pairs = [(record, reading) for record in records if (reading := job.read(record.value())) is not None]
        for places in job.rounds([reading for _, reading in pairs]):
            answered = model.many([pairs[place][1] for place in places])
            for place, probabilities in zip(places, answered, strict=True):
                record, reading = pairs[place]
                producer.produce(
                    chosen.target,
                    job.write(reading, probabilities),
                    key=record.key(),
                    partition=record.partition(),
                )
        producer.poll(0)
        if records and time.monotonic() - committed > COMMIT_SECONDS:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed = time.monotonic()


if __name__ == "__main__":
    main()
