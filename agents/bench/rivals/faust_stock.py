"""Stock Faust: an agent that gets one message at a time, calls the model, and sends the answer."""

from __future__ import annotations

import sys

import faust
import job

chosen = job.options()
model = job.Model(chosen.weights, chosen.arithmetic)
app = faust.App(
    chosen.group,
    broker=f"kafka://{chosen.bootstrap}",
    store="memory://",
    topic_partitions=4,
    topic_allow_declare=False,
    topic_disable_leader=True,  # its leader's topic is always quiet, and would stall the busy one (STREAMING_NOTES)
    consumer_auto_offset_reset="earliest",
    producer_acks=-1,
    producer_linger_ms=5,
    web_enabled=False,
)
source = app.topic(chosen.source, value_type=bytes, value_serializer="raw", key_serializer="raw")
target = app.topic(chosen.target, value_type=bytes, value_serializer="raw", key_serializer="raw")


@app.agent(source)
async def diagnose(stream: faust.Stream[bytes]) -> None:
    """One reading after the other."""
    async for key, value in stream.items():
        reading = job.read(value)
        if reading is not None:
            await target.send(key=key, value=job.write(reading, model.one(reading)))


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--loglevel", "warn", "--without-web"]
    app.main()
