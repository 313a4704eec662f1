"""What the records of one machine say, in any order of reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from agents.console.machine.readings import ReadingRows
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import ALARMS, DIAGNOSES, DRIFT, LABELS, LATE, event_topics
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.schemas import Schemas
from pipeline.wire import messages
from pipeline.wire.labels import LabelledSpan, read_label
from pipeline.wire.letters import origin_of
from pipeline.wire.messages import Diagnosis, EventMessage, ModalityAnswer, RejectedError
from pipeline.wire.plain_text import plain_text
from pipeline.wire.records import Place, Record


class Frame(NamedTuple):
    """What a page needs of a diagnosis."""

    id: str
    end_ms: int
    revision: int
    fault: str
    confidence: float
    status: str
    reset: str | None
    novelty: float | None
    entropy: float
    disagreement: float
    modalities: Mapping[str, ModalityAnswer]
    named: tuple[str, ...]
    """Variables in its evidence."""

    @classmethod
    def of(cls, one: Diagnosis) -> Frame:
        """Without what only the newest one is shown with."""
        return cls(
            one.id,
            one.frame_end,
            one.revision,
            one.fault,
            one.confidence,
            one.status,
            one.reset,
            one.novelty,
            one.entropy,
            one.disagreement,
            one.modalities,
            tuple(variable.name for variable in one.evidence.variables),
        )


class Text(NamedTuple):
    """A text about the machine."""

    id: str
    time_ms: int
    text: str
    source: str | None
    severity: str | None
    place: Place


class MachineHistory:
    """The readings, texts, diagnoses, alarms, drift and labels of one machine, as far as they have been read."""

    def __init__(
        self,
        machine: str,
        machine_type: MachineType,
        profile: PlantProfile,
        schemas: Schemas | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`schemas` are those of topics whose form is Avro."""
        readers = {topic: FormReader(form, topic, schemas) for topic, form in profile.forms.items()}
        self.machine = machine
        self.machine_type = machine_type
        self.readings = ReadingRows(machine, machine_type, readers, notify)
        self.frames: dict[int, Frame] = {}
        self.newest: Diagnosis | None = None
        self.texts: dict[str, Text] = {}
        self.late_texts: set[str] = set()
        """Ids of texts that evidence says came after their frame had closed."""
        self.refused: set[Place] = set()
        """Where texts are that came too late to count."""
        self.labels: dict[int, tuple[Place, LabelledSpan]] = {}
        """By start, the last one that was written."""
        self.alarms: dict[int, bytes | None] = {}
        """Records by their offsets."""
        self.drift: dict[int, bytes | None] = {}
        self._unreadable = 0
        self._sensor_topics = {source.topic for source in machine_type.sources.values()}
        self._event_topics = event_topics(profile)
        self._readers = readers

    @property
    def unreadable(self) -> int:
        """Records of the machine that could not be read."""
        return self._unreadable + self.readings.unreadable

    def add(self, records: Sequence[Record]) -> None:
        """Take in records; those that are not of the machine are passed over."""
        key = self.machine.encode(errors="replace")
        of_topic: dict[str, list[Record]] = {}
        for record in records:
            if record.key == key:
                of_topic.setdefault(record.topic, []).append(record)
        for topic, own in of_topic.items():
            if topic in self._sensor_topics:
                self.readings.add(topic, own)
                continue
            for record in own:
                try:
                    self._take(record)
                except RejectedError:
                    self._unreadable += 1

    def _take(self, record: Record) -> None:
        if record.topic == DIAGNOSES:
            self._take_diagnosis(messages.decode_diagnosis(record.value or b""))
        elif record.topic in self._event_topics:
            self._take_texts(record)
        elif record.topic == LATE:
            origin = origin_of(record.headers)
            if origin is not None and origin.place.topic in self._event_topics:
                self.refused.add(origin.place)
        elif record.topic == ALARMS:
            self.alarms[record.offset] = record.value
        elif record.topic == DRIFT:
            self.drift[record.offset] = record.value
        elif record.topic == LABELS:
            label, place = read_label(record), Place(*record[:3])
            before = self.labels.get(label.start_ms)
            if before is None or before[0].offset <= place.offset:
                self.labels[label.start_ms] = place, label

    def _take_diagnosis(self, diagnosis: Diagnosis) -> None:
        before = self.frames.get(diagnosis.frame_end)
        if before is None or before.revision <= diagnosis.revision:
            self.frames[diagnosis.frame_end] = Frame.of(diagnosis)
        newest = self.newest
        if newest is None or (newest.frame_end, newest.revision) <= (diagnosis.frame_end, diagnosis.revision):
            self.newest = diagnosis
        self.late_texts.update(text.id for text in diagnosis.evidence.texts if text.late)

    def _take_texts(self, record: Record) -> None:
        reader = self._readers.get(record.topic)
        found: Sequence[EventMessage]
        found = [messages.decode_event(record.value or b"")] if reader is None else reader.read_texts(record)[0]
        place = Place(*record[:3])
        for event in found:
            if event.machine != self.machine:
                continue
            time_ms = messages.parse_time_ms(event.time)
            id_ = messages.text_id(event, time_ms).encode(errors="replace").decode()  # as diagnoses have it
            before = self.texts.get(id_)
            if before is None or before.place.offset <= place.offset:
                details = [None if one is None else plain_text(one) for one in (event.source, event.severity)]
                self.texts[id_] = Text(id_, time_ms, plain_text(event.text), details[0], details[1], place)

    def drop_before(self, time_ms: int) -> None:
        """Forget readings, texts and diagnoses that are older; the newest diagnosis stays."""
        self.readings.drop_before(time_ms)
        self.frames = {end_ms: frame for end_ms, frame in self.frames.items() if end_ms >= time_ms}
        self.texts = {id_: text for id_, text in self.texts.items() if text.time_ms >= time_ms}
        self.refused &= {text.place for text in self.texts.values()}
