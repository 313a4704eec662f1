"""Delivery: Kafka records reach an agent in chunks, merged by time over topics, and are committed only when acked.

A *topic group* is the topics that one agent reads together. Faust delivers one message a *chunk*: the records of
all assigned partitions of a group. Chunks are committed in the order in which they were handed out, and only the
acked prefix of them, so an agent may hold events back and ack them after a checkpoint:

    app = faust.App("faultline", broker="memory://plant", stream_wait_empty=False, topic_disable_leader=True,
                    web_enabled=False, store="memory://")
    install(app, [["sensors", "events", "control"]], prefix="faultline.")
    topic = app.topic("faultline.sensors", "faultline.events", "faultline.control",
                      value_type=bytes, value_serializer="raw")

    @app.agent(topic)
    async def diagnose(stream):
        held = []
        async for event in stream.noack().events():
            chunk = event.value
            outputs = engine.process(chunk.records)   # must not raise: log, mark as failed, stop the worker
            chunk.processed = True                    # the next chunk may come
            await publisher.publish(outputs)
            held.append(event)
            if len(held) == 8:
                await publisher.flush()
                for event in held:                    # only now may these records be forgotten
                    event.ack()
                held.clear()

Without `noack()` an event is acked when the loop goes on to the next one. After a rebalance, and whenever reading
starts again from the committed offsets, `chunk.epoch` rises: acks of older chunks have no effect any more and their
records come again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from faust.transport.consumer import Consumer
from faust.transport.drivers import TRANSPORTS
from faust.types import TP, ConsumerMessage
from mode.utils.futures import notify

from agents.merging import Chunk, ChunkMerger, Mark
from pipeline.records import Record
