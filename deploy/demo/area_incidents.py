"""Puts failures of other simulated areas into the past of the demo's hall, as incidents that the plant agent has made.

Reads recordings of outputs (`faultline replay --plant --out`) and the section `areas` that they belong to. A utility
becomes that of the hall with the same name, and its machines become the hall's, in their order. Each area is some days
further back. Incidents that the hall could not have, or that were not over, are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from agents.replay.shipped import area_section
from pipeline.areas.incidents import UTILITY_TYPE
from pipeline.engine.reports.incidents.record import Incident, decode_incident, incident_output
from pipeline.wire.recording import new_recording, read_recording
from pipeline.wire.records import Record

DAYS_APART: Final = 4
DAY_MS: Final = 86_400_000
HALL: Final = "hall_1"


def past_incidents(recording: Path, areas: Mapping[str, Any], days: int) -> Iterator[Incident]:
    """The incidents of utilities in a recording, so many days earlier and in the hall."""
    newest: dict[str, Incident] = {}
    for record in read_recording(recording):
        if record.topic == "incidents":
            incident = decode_incident(record.value or b"")
            newest[incident.id] = incident
    hall = yaml.safe_load(area_section().read_text("utf-8"))["areas"][HALL]["utilities"]
    for incident in newest.values():
        if incident.machine_type != UTILITY_TYPE or incident.end is None:
            continue
        area, _, utility = incident.machine.partition("/")
        name = utility.rstrip("_123456789")
        if incident.diagnosed in hall.get(name, {}).get("faults", ()):
            members = sorted(areas[area]["utilities"][utility]["machines"]), sorted(hall[name]["machines"])
            yield _moved(incident, f"{HALL}/{name}", {utility: name, **dict(zip(*members, strict=False))}, days)


def _moved(incident: Incident, machine: str, names: Mapping[str, str], days: int) -> Incident:
    start, shift_ms = incident.start - days * DAY_MS, days * DAY_MS
    assert incident.model is not None and incident.end is not None
    return msgspec.structs.replace(
        incident,
        id=f"{machine}:{start}:{incident.model.hash[:12]}:{incident.diagnosed}:raised",
        machine=machine,
        start=start,
        end=incident.end - shift_ms,
        support={names[name]: weight for name, weight in incident.support.items() if name in names},
    )


def main() -> None:
    """Write the recording of past incidents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path, nargs="+", help="recordings of outputs, the newest past first")
    parser.add_argument("--areas", type=Path, required=True, help="the section `areas` of these recordings")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    areas = yaml.safe_load(options.areas.read_text("utf-8"))["areas"]
    found = [
        incident
        for number, recording in enumerate(options.recordings)
        for incident in past_incidents(recording, areas, (number + 1) * DAYS_APART)
    ]
    with new_recording(options.out) as writer:
        for offset, incident in enumerate(sorted(found, key=lambda one: one.start)):
            output = incident_output(incident, 0, incident.end or 0)
            writer.write([Record(output.topic, 0, offset, output.timestamp_ms, output.key, output.value)])
    sys.stdout.write(f"{len(found)} incidents written to {options.out}\n")


if __name__ == "__main__":
    main()
