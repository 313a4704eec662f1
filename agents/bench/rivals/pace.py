"""A producer of readings at a steady pace, which takes down when it handed over each of them.

Reading number i is the next one of machine i modulo the number of machines. The record's time stamp is the reading's
time. On SIGTERM it writes the times (nanoseconds of the monotonic clock, in the order of the readings) and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from array import array
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2


async def main() -> None:
    """Produce until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True, help="host:port of the broker")
    parser.add_argument("--target", required=True, help="topic of readings")
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--machines", required=True, help="file with a machine's name a line")
    parser.add_argument("--values", required=True, help="file with the JSON list of a reading's values a line")
    parser.add_argument("--period-ms", type=int, required=True, help="time between two readings of a machine")
    parser.add_argument("--begin-ms", type=int, required=True, help="time of the first reading")
    parser.add_argument("--per-second", type=float, required=True, help="readings a second, of all machines")
    parser.add_argument("--sent", required=True, help="file to write the times to")
    given = parser.parse_args()
    machines = Path(given.machines).read_text().split()
    values = [line.encode() for line in Path(given.values).read_text().splitlines()]
    keys = [name.encode() for name in machines]
    partitions = [(murmur2(key) & 0x7FFFFFFF) % given.partitions for key in keys]

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    producer = AIOKafkaProducer(bootstrap_servers=given.bootstrap, acks="all")
    await producer.start()
    sent = array("q")
    began = time.monotonic()
    while not stopped.is_set():
        number = len(sent)
        wait = began + number / given.per_second - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        machine, step = number % len(keys), number // len(keys)
        at = given.begin_ms + step * given.period_ms
        head = b'{"machine":"%s","time":%d,"values":' % (keys[machine], at)
        value = head + values[number % len(values)] + b"}"
        sent.append(time.monotonic_ns())
        await producer.send(given.target, value, key=keys[machine], partition=partitions[machine], timestamp_ms=at)
    await producer.stop()
    Path(given.sent).write_bytes(sent.tobytes())


if __name__ == "__main__":
    asyncio.run(main())
