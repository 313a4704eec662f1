"""Where a report's diagnoses come from: a replay of a recording, or records of topics as a worker published them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.replay.replay import ReplayReport, replay_in_memory
from agents.replay.reports.book import ReportBook
from agents.replay.scores import diagnosis_of
from pipeline.config.settings import Settings
from pipeline.config.topics import ALARMS, DIAGNOSES, EVENTS, LABELS
from pipeline.frames import StepRunner
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import OnProgress, Output, Record


def replay_into(
    book: ReportBook,
    recording: Path,
    settings: Settings,
    runners: Mapping[str, StepRunner],
    partition_of: Callable[[bytes], int],
    *,
    on_progress: OnProgress,
) -> ReplayReport:
    """Replay a recording, and collect what is published; raises FaultlineError if it cannot be."""

    def watch(records: Sequence[Record]) -> None:
        for record in records:
            if record.topic == LABELS:
                book.add_label(record)
            elif record.topic == EVENTS:
                book.add_event(record.value)

    def take(output: Output) -> None:
        if output.topic == ALARMS:
            book.add_alarm(output.value)

    return asyncio.run(
        replay_in_memory(
            recording,
            settings,
            book.plant,
            runners,
            partition_of,
            on_records=watch,
            on_diagnosis=book.add,
            on_output=take,
            scored=False,
            on_progress=on_progress,
        )
    )


def read_into(book: ReportBook, records: Iterable[Record]) -> dict[str, Any]:
    """Collect diagnoses, alarms, labels and texts among records as they were published; returns their counts."""
    diagnoses = 0
    for record in records:
        if record.topic == LABELS:
            book.add_label(record)
        elif record.topic == ALARMS:
            book.add_alarm(record.value)
        elif record.topic == EVENTS:
            book.add_event(record.value)
        elif record.topic == DIAGNOSES:
            try:
                book.add(diagnosis_of(record.value))
            except RejectedError:
                book.unreadable += 1
            else:
                diagnoses += 1
    return {"diagnoses": diagnoses}
