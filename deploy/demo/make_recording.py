"""Turns simulated machines and the event writer's texts into the demo's recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq

if not __package__:  # started as a script: the package's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.demo.event_texts import write_events
from deploy.demo.phrases import Author, authors_of
from deploy.demo.simulate import VARIABLES
from pipeline.config.classes import UNKNOWN
from pipeline.config.profile import load_profile
from pipeline.wire.messages import EventMessage, Label, encode
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Record

START_MS = 1_793_491_200_000
"""2026-11-01T00:00:00Z, on the frame grid."""

DIGITS = 5
"""Significant digits of a reading: more than the plant's sensors resolve, and half the file."""

LATENCY_MS = 2_000
"""Readings arrive up to so long after they were taken, so machines overtake each other."""


def records_of(
    machine: str,
    values: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    authors: Sequence[Author] | None = None,
) -> Iterator[Record]:
    """All records of one machine, values (T, 52), labels (T,), in no particular order, with texts by these authors, by
    default those of the test.

    A label beyond the profile's faults is a disturbance that no model has learnt; technicians call it `unknown`.
    """
    kind = load_profile("tennessee_eastman").machine_types[0]
    period = kind.frame_period_ms
    key = machine.encode()
    writers = authors_of("test") if authors is None else authors
    for frame, row in enumerate(values):
        at = START_MS + frame * period
        numbers = [float(f"{number:.{DIGITS}g}") for number in row.tolist()]
        body = msgspec.json.encode({"machine": machine, "time": at, "values": numbers})
        yield Record("sensors", 0, 0, at + int(rng.integers(0, LATENCY_MS)), key, body)
    for number, event in enumerate(write_events(labels, writers, rng, period, START_MS)):
        message = EventMessage(machine, event.time_ms, event.text, f"{machine}-{number}", event.source, event.severity)
        yield Record("events", 0, 0, event.time_ms, key, encode(message))
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for begin, end in pairwise(edges):
        start, until = START_MS + begin * period, START_MS + end * period
        number = int(labels[begin])
        label = Label(machine, start, kind.faults[number] if number < len(kind.faults) else UNKNOWN, until)
        yield Record("labels", 0, 0, start, key, encode(label))


def write_recording(records: Sequence[Record], path: Path) -> int:
    """Write records in the order in which they arrive, with the offsets that this gives; returns how many there are."""
    offsets: dict[str, int] = {}
    with RecordingWriter(path) as writer:
        for record in sorted(records, key=lambda record: (record.timestamp_ms, record.topic, record.key)):
            offset = offsets.get(record.topic, 0)
            offsets[record.topic] = offset + 1
            writer.write([record._replace(offset=offset)])
    return writer.count


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="what simulate.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="recording to write")
    parser.add_argument("--seed", type=int, default=900_000, help="of texts and latencies (default 900000)")
    options = parser.parse_args(argv)
    table = pq.read_table(options.runs)
    runs = table["run"].to_numpy(zero_copy_only=False)
    labels = table["label"].to_numpy(zero_copy_only=False)
    values = np.stack([table[name].to_numpy(zero_copy_only=False) for name in VARIABLES], axis=1)
    records: list[Record] = []
    for index, run in enumerate(dict.fromkeys(runs.tolist())):
        rows = runs == run
        rng = np.random.default_rng([options.seed, index])
        records += records_of(f"te-{index + 1:02d}", values[rows], labels[rows], rng)
    count = write_recording(records, options.out)
    sys.stdout.write(f"{count} records -> {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
