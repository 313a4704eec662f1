"""Records of a small plant's output topics, as workers would have published them, for books of the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from agents.console.book.console_book import ConsoleBook
from agents.console.documents.alarms import Alarm
from agents.console.documents.plant import Tile
from pipeline.areas.messages import AreaDiagnosis, CauseAnswer, CorrectedAnswer, Support, encode_area
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.config.topics import ALARMS, CONTROL, DIAGNOSES, DRIFT, METRICS, PLANT
from pipeline.engine.reports.drift_report import DriftReport
from pipeline.engine.reports.lifecycle.records import Alarm as AlarmRecord
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, Evidence, ModalityAnswer, ModelRef
from pipeline.wire.records import Headers, Record
from tests.support.area_plant import FRAME_MS, T0_MS, WITH_AREAS

PROFILE = (
    WITH_AREAS
    + """
machines:
  pump-7: {title: Spare pump}
  pump-8: {area: Basement}
  "pump-*": {title: Any pump}
"""
)
Cause = tuple[Literal["utility", "machine"], str, str]
"""Kind, name and fault."""

MODEL = ModelRef("small", "abc" * 21 + "a")


def plant(text: str = PROFILE) -> PlantProfile:
    """Eight pumps: six in two areas, two that are named besides."""
    return parse_profile(text, where="test")


class Log:
    """Topics with one partition, in which records get their offsets."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._ends: dict[str, int] = {}

    def add(
        self, topic: str, value: bytes | None, *, time_ms: int = T0_MS, key: bytes | None = None, headers: Headers = ()
    ) -> Record:
        """Append a record to a topic."""
        offset = self._ends.get(topic, 0)
        self._ends[topic] = offset + 1
        self.records.append(Record(topic, 0, offset, time_ms, key, value, headers))
        return self.records[-1]

    def diagnosis(
        self, machine: str, frame: int, fault: str = "normal", *, model: ModelRef = MODEL, **more: Any
    ) -> Record:
        """The diagnosis of the frame with this number."""
        value = diagnosis(machine, frame, fault, model=model, **more)
        return self.add(DIAGNOSES, value, time_ms=T0_MS + (frame + 1) * FRAME_MS)

    def alarm(self, machine: str, frame: int, fault: str, state: str, **more: Any) -> Record:
        """A change of an alarm at the end of a frame."""
        record = alarm(machine, frame, fault, state, **more)
        return self.add(ALARMS, messages.encode(record), time_ms=record.time)

    def area(self, area: str, frame: int, cause: Cause | None = None, **more: Any) -> Record:
        """An area's diagnosis, with kind, name and fault of the cause."""
        return self.add(PLANT, area_diagnosis(area, frame, cause, **more), time_ms=T0_MS + (frame + 1) * FRAME_MS)

    def drift(self, machine: str, frame: int, variable: str, state: Literal["started", "ended"]) -> Record:
        """A report of drift."""
        time_ms = T0_MS + (frame + 1) * FRAME_MS
        id_ = f"{machine}:{time_ms}:{MODEL.hash[:12]}:level:{variable}:{state}"
        report = DriftReport(id_, machine, "level", variable, state, time_ms, T0_MS, "up", 0.6, 0.6, 0.0, 0.25, MODEL)
        return self.add(DRIFT, messages.encode(report), time_ms=time_ms)

    def metric(self, interval: int, **numbers: Any) -> Record:
        """What the model's diagnoses of an interval say."""
        start_ms = T0_MS + interval * 100 * FRAME_MS
        value = {
            "id": f"{MODEL.hash}:{interval}",
            "model": {"name": MODEL.name, "hash": MODEL.hash},
            "partition": 0,
            "interval_start": start_ms,
            "interval_end": start_ms + 100 * FRAME_MS,
            "diagnoses": 100,
            "no_evidence": 0,
            "labelled": 0,
        } | numbers
        return self.add(METRICS, msgspec.json.encode(value), time_ms=start_ms)

    def forget(self, machine: str, time_ms: int) -> Record:
        """Somebody asks workers to forget a machine."""
        value = messages.encode(messages.Control("forget", machine=machine))
        return self.add(CONTROL, value, time_ms=time_ms, key=machine.encode())

    def fold(self, book: ConsoleBook | None = None) -> ConsoleBook:
        """A book with all records."""
        book = ConsoleBook(plant()) if book is None else book
        for record in self.records:
            book.fold(record)
        return book


def diagnosis(
    machine: str,
    frame: int,
    fault: str = "normal",
    *,
    model: ModelRef = MODEL,
    status: str = "active",
    reset: str | None = None,
    revision: int = 0,
    confidence: float = 0.75,
    **more: Any,
) -> bytes:
    """The value of a diagnosis of the frame with this number."""
    start_ms = T0_MS + frame * FRAME_MS
    end_ms = start_ms + FRAME_MS
    return messages.encode(
        Diagnosis(
            id=f"{machine}:{end_ms}:{model.hash[:12]}:{revision}",
            machine=machine,
            frame_start=start_ms,
            frame_end=end_ms,
            fault=fault,
            confidence=confidence,
            probabilities={fault: confidence},
            modalities={"sensors": ModalityAnswer(fault, confidence, 1.0, True, 0)},
            entropy=0.5,
            disagreement=0.0,
            evidence=Evidence([], []),
            status=status,
            reset=reset,
            revision=revision,
            model=model,
            **more,
        )
    )


def alarm(machine: str, frame: int, fault: str, state: str, **more: Any) -> AlarmRecord:
    """A change of an alarm; what somebody did has a time stamp, `sent`."""
    time_ms = T0_MS + (frame + 1) * FRAME_MS
    sent = f":{more['sent']}" if "sent" in more else ""
    id_ = f"{machine}:{time_ms}:{MODEL.hash[:12]}:{fault}:{state}{sent}"
    return AlarmRecord(id_, machine, fault, state, time_ms, 0.9, f"{machine}:{time_ms}:d", **more)


def area_diagnosis(area: str, frame: int, cause: Cause | None, *, corrected: Sequence[tuple[str, str]] = ()) -> bytes:
    """The value of an area's diagnosis; `corrected` has machines and their answers."""
    start_ms = T0_MS + frame * FRAME_MS
    answer = CauseAnswer("none", 0.9) if cause is None else CauseAnswer(cause[0], 0.9, *cause[1:])
    machines = {machine: CorrectedAnswer("active", said, 0.8, "normal", 0.6, 0) for machine, said in corrected}
    end_ms = start_ms + FRAME_MS
    id_ = f"{area}:{end_ms}:{MODEL.hash[:12]}"
    evidence = [Support("machine", machine, 0.5) for machine in machines]
    return encode_area(AreaDiagnosis(id_, area, start_ms, end_ms, answer, [answer], evidence, machines, False, MODEL))


def tile(book: ConsoleBook, machine: str) -> Tile:
    """A machine of which is known that it is known."""
    found = book.tile(machine)
    assert found is not None, machine
    return found


def only(alarms: Sequence[Alarm]) -> Alarm:
    """The one alarm that there is."""
    assert len(alarms) == 1, alarms
    return alarms[0]
