"""Simulates areas of Tennessee Eastman machines that share utilities, and writes their recordings and what is true.

For each area a recording in Faultline's form, `NAME.parquet`; for all of them `areas.yaml` (who shares what, as in a
plant profile) and `causes.parquet` (a row for each cause and machine that it reaches). Texts about a utility are events
whose machine is AREA/UTILITY.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

if not __package__:  # started as a script: the package's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.demo.area_plans import Area, Part, area_authors, plan_areas
from deploy.demo.event_texts import write_events
from deploy.demo.make_recording import START_MS, records_of, write_recording
from deploy.demo.phrases import Author
from deploy.demo.simulate import FRAME_HOURS, Series, simulate_all
from pipeline.wire.messages import EventMessage, encode
from pipeline.wire.records import Record

FRAME_MS: Final = round(FRAME_HOURS * 3_600_000)


def area_records(area: Area, series: Sequence[Series], authors: Sequence[Author]) -> list[Record]:
    """All records of an area's machines, less what its gaps swallow."""
    records: list[Record] = []
    for place, one in enumerate(series):
        rng = np.random.default_rng([area.seed, place])
        made = records_of(area.machines[place], one.values, one.labels, rng, authors)
        records += (record for record in made if not _is_lost(record, area, place))
    return records


def utility_records(area: Area, hours: float, authors: Sequence[Author]) -> Iterator[Record]:
    """What people write of an area's utilities: of their faults, and of other things."""
    frames = round(hours / FRAME_HOURS)
    for number, utility in enumerate(area.utilities):
        labels = np.zeros(frames, np.int64)
        for cause in area.causes:
            if cause.utility == utility.name:
                labels[round(cause.start / FRAME_HOURS) : round(cause.end / FRAME_HOURS)] = cause.fault
        rng = np.random.default_rng([area.seed, len(area.machines), number])
        name = f"{area.name}/{utility.name}"
        for count, event in enumerate(write_events(labels, authors, rng, FRAME_MS, START_MS)):
            message = EventMessage(name, event.time_ms, event.text, f"{name}-{count}", event.source, event.severity)
            yield Record("events", 0, 0, event.time_ms, name.encode(), encode(message))


def cause_rows(area: Area, series: Sequence[Series], hours: float) -> Iterator[dict[str, Any]]:
    """A row for each cause and machine that it reaches; times in milliseconds, cut at the end of the recording."""

    def at(hour: float) -> int:
        return START_MS + round(min(hour, hours) * 3_600_000)

    for number, cause in enumerate(area.causes):
        for place, episode in sorted(cause.reached.items()):
            seen_until = START_MS + len(series[place].labels) * FRAME_MS
            yield {
                "area": area.name,
                "cause": number,
                "kind": "machine" if cause.utility is None else "utility",
                "id": area.machines[place] if cause.utility is None else cause.utility,
                "fault": f"idv_{cause.fault}",
                "start_ms": at(cause.start),
                "end_ms": at(cause.end),
                "machine": area.machines[place],
                "onset_ms": at(episode.start),
                "cleared_ms": at(episode.end),
                "strength": episode.strength,
                "tripped_ms": seen_until if seen_until < at(hours) else None,
            }


CAUSE_COLUMNS: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("area",)),
        ("cause", pa.int32()),
        *((name, pa.string()) for name in ("kind", "id", "fault")),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("machine", pa.string()),
        ("onset_ms", pa.int64()),
        ("cleared_ms", pa.int64()),
        ("strength", pa.float64()),
        ("tripped_ms", pa.int64()),
    ]
)


def write_areas(areas: Sequence[Area], hours: float, part: Part, folder: Path, workers: int) -> None:
    """Simulate areas one after another and write each as soon as it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = {area.name: area.section() for area in areas}
    (folder / "areas.yaml").write_text(yaml.safe_dump({"areas": sections}, sort_keys=False))
    authors = area_authors(part)
    began = time.monotonic()
    simulated = simulate_all([plan for area in areas for plan in area.plans()], hours, (), workers, whole=False)
    causes: list[dict[str, Any]] = []
    for area in areas:
        series = list(islice(simulated, len(area.machines)))
        records = area_records(area, series, authors)
        records += utility_records(area, hours, authors)
        write_recording(records, folder / f"{area.name}.parquet")
        causes += cause_rows(area, series, hours)
        _write(causes, CAUSE_COLUMNS, folder / "causes.parquet")
        found = ", ".join(f"{cause.utility or 'machine'} {cause.fault}" for cause in area.causes) or "no fault"
        sys.stdout.write(f"{area.name}: {len(series)} machines, {found}; {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=get_args(Part), required=True, help="whose seeds and authors to use")
    parser.add_argument("--areas", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--hours", type=float, default=24.0, help="length of each (default 24)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args(argv)
    try:
        areas = plan_areas(options.part, options.areas, options.hours)
    except ValueError as error:
        parser.error(f"--hours: {error}")
    write_areas(areas, options.hours, options.part, options.out, options.workers)
    return 0


def _is_lost(record: Record, area: Area, place: int) -> bool:
    """Whether a gap of its machine, or that it has no texts, keeps a record from arriving."""
    if record.topic == "labels":
        return False
    if record.topic == "events" and not area.with_texts[place]:
        return True
    hour = (record.timestamp_ms - START_MS) / 3_600_000
    return any(gap.start <= hour < gap.end and (gap.offline or record.topic == "sensors") for gap in area.gaps[place])


def _write(rows: Iterable[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    unfinished = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(list(rows), schema), unfinished)
    unfinished.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
