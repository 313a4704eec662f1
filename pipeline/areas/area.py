"""The state of one area: its open frames, its standing alarm, and where its model's state lives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from pipeline.areas.alarms import UtilityAlarms
from pipeline.areas.alignment import AreaAlignment, ClosedFrame, Taken
from pipeline.areas.frames import AreaRunner, Presence
from pipeline.areas.layout import AreaLayout, CauseKind
from pipeline.areas.stats import AreaStats
from pipeline.areas.writer import AreaWriter, FrameBuilder
from pipeline.arrays import NEVER_MS
from pipeline.config.topics import ALARMS, AREA_TEXT, AREAS
from pipeline.engine.reports.lifecycle.controls import check_control
from pipeline.engine.reports.lifecycle.records import Alarm, AlarmEvent
from pipeline.errors import StateError
from pipeline.frames import EventText
from pipeline.wire import messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.plain_text import plain_text
from pipeline.wire.records import Output, Record
from pipeline.wire.states import STATE_VERSION, SavedMachine, encode_state

OnRaised = Callable[[Alarm, list[str]], None]
"""Gets the record of a utility's alarm, and what was read about the utility lately, oldest first."""

_MAX_GAP_FRAMES: Final = 20
_KEPT_TEXTS: Final = 32
_TEXT_FRAMES: Final = 60
"""Frames before an alarm whose texts about its utility belong to the incident, among the _KEPT_TEXTS that are kept."""


class AreaState:
    """One area of a plant, from records to outputs."""

    def __init__(
        self,
        layout: AreaLayout,
        runner: AreaRunner,
        slot: int,
        partition: int,
        alarms: UtilityAlarms,
        on_raised: OnRaised,
    ) -> None:
        """`slot` is where in the runner's arena its state lives; `on_raised` hears of each alarm of a utility."""
        self.layout, self.partition = layout, partition
        self.alignment = AreaAlignment(layout, _MAX_GAP_FRAMES)
        self.applied: dict[str, int] = {}
        self.last_ms = NEVER_MS
        self._runner, self._slot = runner, slot
        self._builder, self._writer = FrameBuilder(layout, runner), AreaWriter(layout, runner)
        self._utilities = {one.id: place for place, one in enumerate(layout.utilities)}
        self._alarms = alarms
        self._on_raised = on_raised
        self._read_texts: deque[tuple[str, EventText]] = deque(maxlen=_KEPT_TEXTS)  # with the utility's id

    # -- input ------------------------------------------------------------------------------------------------

    def take(self, record: Record, value: bytes, stats: AreaStats) -> None:
        """Take a diagnosis of one of its machines or a text about a utility in; raises RejectedError."""
        if AREA_TEXT in record.headers:
            self._take_text(record, value, stats)
            return
        diagnosis = messages.decode_diagnosis(value)
        shares = [diagnosis.confidence, *diagnosis.probabilities.values()]
        shares += [own.confidence for own in diagnosis.modalities.values()]
        if not all(0 <= share <= 1 for share in shares):
            raise RejectedError(Reason.OUT_OF_RANGE, "a probability is not from 0 to 1")
        if not (messages.is_time_ms(diagnosis.frame_start) and messages.is_time_ms(diagnosis.frame_end)):
            raise RejectedError(Reason.BAD_TIME, f"its frame ends at {diagnosis.frame_end}")
        taken = self.alignment.take(diagnosis, value)
        if taken is Taken.DUPLICATE:
            stats.duplicates["diagnoses"] += 1
        elif taken is Taken.LATE:
            stats.late[self.layout.name] += 1
        elif taken is not Taken.ACCEPTED:
            stats.revised += 1

    def _take_text(self, record: Record, value: bytes, stats: AreaStats) -> None:
        event = messages.decode_event(value)
        utility = self._utilities.get(event.machine)
        if utility is None:
            detail = f"area {self.layout.name} has no utility {event.machine[:80]!r}"
            raise RejectedError(Reason.UNKNOWN_MACHINE, detail)
        time_ms = messages.parse_time_ms(event.time)
        text = EventText(
            id=messages.text_id(event, time_ms),
            time_ms=time_ms,
            text=plain_text(event.text),
            source=event.source,
            severity=event.severity,
            late=time_ms < self.alignment.closed_ms,
        )
        stats.duplicates["texts"] += not self.alignment.add_text(utility, text)

    def act(
        self, record: Record, value: bytes, faults: Mapping[str, Sequence[str]], outputs: list[Output], stats: AreaStats
    ) -> None:
        """Do what somebody asks for with alarms of its utilities; raises RejectedError."""
        control = messages.decode_control(value)
        check_control(control, faults)
        # People may be of another time than the data.
        closed_ms, sent_ms = self.alignment.closed_ms, record.timestamp_ms
        time_ms = sent_ms if closed_ms == NEVER_MS else closed_ms
        self._publish(self._alarms.apply(control, value, time_ms, sent_ms, faults), outputs, stats)

    # -- frames -----------------------------------------------------------------------------------------------

    def advance(
        self, outputs: list[Output], stats: AreaStats, now_ms: int = NEVER_MS, *, everything: bool = False
    ) -> int | None:
        """Diagnose every frame that closes now, or with a tick at `now_ms`, or all that are open; returns the newest
        end."""
        newest = None
        for closed in self.alignment.close(now_ms, everything=everything):
            self._diagnose(closed, outputs, stats)
            newest = closed.end_ms
        return newest

    def _diagnose(self, closed: ClosedFrame, outputs: list[Output], stats: AreaStats) -> None:
        frame = self._builder.build(closed, self._slot)
        result = self._runner.step(frame)
        output, cause, probability = self._writer.write(frame, result, self.partition)
        outputs.append(output)
        stats.frames += 1
        stats.texts += len(frame.texts)
        self._read_texts.extend((self.layout.utilities[utility].id, text) for utility, text in frame.texts)
        stats.causes[cause.kind.value] += 1
        for presence in closed.presence:
            stats.presence[presence.name.lower()] += 1
        number = self.layout.causes.index(cause) if cause.kind == CauseKind.UTILITY else 0
        if not any(presence in (Presence.ACTIVE, Presence.SILENT) for presence in closed.presence):
            number = -1
        diagnosis = self._writer.diagnosis_id(frame.end_ms)
        events = self._alarms.step(number, probability, result.causes, frame.end_ms, diagnosis)
        self._publish(events, outputs, stats)

    def _publish(self, events: Iterable[AlarmEvent], outputs: list[Output], stats: AreaStats) -> None:
        for event in events:
            record = event.record
            stats.alarms[record.state] += 1
            if record.state == "raised":
                self._on_raised(record, self._texts_about(record.machine, record.time))
            outputs.append(Output(ALARMS, None, record.machine.encode(), messages.encode(record), record.time))

    def _texts_about(self, utility: str, time_ms: int) -> list[str]:
        """What was read about a utility lately, oldest first."""
        since_ms = time_ms - _TEXT_FRAMES * self.layout.period_ms
        return [text.text for own, text in self._read_texts if own == utility and text.time_ms >= since_ms]

    # -- state ------------------------------------------------------------------------------------------------

    def save(self, clock_ms: int | None, log_ids: Mapping[str, str]) -> bytes:
        """All that its future depends on."""
        detected, life = self._alarms.save()
        saved = SavedMachine(
            version=STATE_VERSION,
            machine=self.layout.name,
            type="area",
            profile=self.layout.digest,
            model=self._runner.hash,
            partition=self.partition,
            last=self.last_ms,
            clock=clock_ms,
            arrived=[],
            applied=dict(self.applied),
            aligner=self.alignment.save(),
            runner=self._runner.save(self._slot),
            alarms=detected,
            texts=[(utility, text.text, text.time_ms, text.late) for utility, text in self._read_texts],
            alarm_life=life,
            logs={topic: log_ids[topic] for topic in self.applied if topic in log_ids},
        )
        return encode_state(saved)

    def saved_alignment(self) -> bytes:
        """Its open frames and times."""
        return msgspec.msgpack.encode(self.alignment.save())

    def load(self, saved: SavedMachine, recreated: AbstractSet[str]) -> None:
        """Put back what `save` gave; raises StateError if it cannot be used."""
        self.alignment.load(saved.aligner)
        self._runner.load(self._slot, saved.runner)
        self._alarms.load(saved.alarms, saved.alarm_life)
        self._read_texts.extend(
            (utility, EventText("", time_ms, text, None, None, late)) for utility, text, time_ms, late in saved.texts
        )
        self.applied = {topic: offset for topic, offset in saved.applied.items() if topic not in recreated}
        self.last_ms = saved.last
        if AREAS not in saved.applied:
            raise StateError(f"state of {self.layout.name} says nothing of topic {AREAS}")
