"""The engine's front: records in, rounds of frames out; what training and benchmarks use without a model.

Time is an input (tick records of the control topic), so a recorded input gives the same rounds at any speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

import numpy as np

from pipeline.alignment.batches import Aligned
from pipeline.compiled import Notify
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREA_CONTROL, AREA_TEXT, AREAS, CONTROL, LABELS, event_topics
from pipeline.engine.control import OPERATOR_KINDS, Announce, Controller, PartitionProgress
from pipeline.engine.inbox import Columns, Inbox
from pipeline.engine.intake import Intake
from pipeline.engine.machines import AppliedError, MachineGroup, Machines
from pipeline.engine.reports.lifecycle.desk import AlarmDesk
from pipeline.engine.stats import Outcome, Stats
from pipeline.frames import EventText, Frames, Resets
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.schemas import Schemas
from pipeline.wire import letters, messages
from pipeline.wire.labels import LabelledSpan, read_label
from pipeline.wire.messages import Control, Reason, RejectedError
from pipeline.wire.records import Output, Record

TakeRounds = Callable[[MachineGroup, Sequence[Frames], Outcome], None]

_MIN_BLOCK = 16
"""Fewer records are not worth the preparation."""

_topic_of = itemgetter(Record._fields.index("topic"))


class FrameStream:
    """Decodes and aligns the records of a plant and hands over every round of frames as soon as it has closed."""

    def __init__(
        self,
        profile: PlantProfile,
        take: TakeRounds,
        *,
        announce: Announce = lambda *_: None,
        take_label: Callable[[LabelledSpan], None] = lambda _: None,
        alarms: AlarmDesk | None = None,
        partition_of: Callable[[bytes], int] | None = None,
        schemas: Schemas | None = None,
        notify: Notify = lambda _: None,
    ) -> None:
        """`take` gets rounds, `announce` frames that silent machines let pass; `alarms` control records about
        alarms; `schemas` are needed for Avro; see `Machines` and `Intake` for the others.
        """
        self.stats = Stats()
        self.machines = Machines(profile, partition_of, notify)
        self.progress = PartitionProgress(self.machines)
        self._take_rounds = take
        self._take_label = take_label
        readers = {topic: FormReader(form, topic, schemas) for topic, form in profile.forms.items()}
        self._intake = Intake(self.machines, readers, lambda: self.stats, notify)
        self._controller = Controller(
            self.machines, self.progress.clocks, self._advance, announce, alarms or AlarmDesk(profile)
        )
        self._sensor_topics = frozenset(profile.sensor_topics)
        self._event_topics = frozenset(event_topics(profile))
        self._partition_of = partition_of
        self._area_of_utility = {utility.encode(): area for utility, area in profile.area_of_utility.items()}

    def load(self) -> None:
        """Load compiled code now, instead of with the first reading."""
        self._intake.load()
        for group in self.machines.groups.values():
            group.aligner.load_code()
            group.value_rules.load()

    def process(self, records: Sequence[Record]) -> list[Output]:
        """Take records in the order given; returns everything they lead to.

        Order matters within a partition only. So where a control record has to wait for what came before it, its
        partition waits while the others go on, and machines of all partitions share rounds.
        """
        outcome = Outcome(self.stats)
        topics = Counter(map(_topic_of, records))
        self.stats.records.update(topics)
        if LABELS in topics:
            records = _take_labels(records, self._take_label, outcome)
        while records:
            held: dict[int, tuple[Control, Record]] = {}
            behind = self._take(records, held, outcome)
            for control, record in held.values():
                try:
                    self._controller.apply(control, record, outcome)
                except RejectedError as rejected:
                    outcome.reject(record, rejected)
            records = behind
        return outcome.outputs

    def finish(self) -> list[Output]:
        """The input has ended for good: close every frame that still waits."""
        outcome = Outcome(self.stats)
        for group in self.machines.groups.values():
            slots = np.array([machine.slot for machine in group.present()], np.int64)
            if len(slots):
                self._advance(group, group.aligner.finish(slots, Resets.RUN_END), outcome)
        return outcome.outputs

    # -- intake -----------------------------------------------------------------------------------------------

    def _take(
        self, records: Sequence[Record], held: dict[int, tuple[Control, Record]], outcome: Outcome
    ) -> list[Record]:
        """Align records up to the control records to apply then, `held`; returns those behind them."""
        inboxes = {name: Inbox() for name in self.machines.groups}
        behind: list[Record] = []
        clocks = self.progress.clocks
        for order, record in self._take_blocks(records, inboxes):
            topic, partition = record.topic, record.partition
            if partition in held:
                behind.append(record)
                continue
            control: Control | None = None
            try:
                if not messages.is_time_ms(record.timestamp_ms):
                    raise RejectedError(Reason.BAD_TIME, f"its own time stamp is {record.timestamp_ms}")
                if topic == CONTROL:
                    control = self._controller.read(record)
                    is_new = record.offset > self.progress.controls.get(partition, -1)
                else:
                    is_new = self._take_one(record, order, inboxes, outcome)
            except RejectedError as rejected:
                outcome.reject(record, rejected)
                self.machines.forget_if_new(record)
                continue
            except AppliedError:
                outcome.stats.skipped[topic] += 1
                continue
            if not is_new:
                outcome.stats.skipped[topic] += 1
            # Only by valid records: what is refused says nothing about the time.
            if control is None:
                clocks.heard(partition, record.key or b"", record.timestamp_ms)
            else:
                if is_new and not self._pass_on(control, record, outcome):
                    self._hold(control, record, held)
                if control.kind == "tick":  # others are sent by people, who may be of another time than the data
                    clocks.tick(partition, record.timestamp_ms)
        self._align(inboxes, outcome)
        return behind

    def _take_one(self, record: Record, order: int, inboxes: dict[str, Inbox], outcome: Outcome) -> bool:
        """Take a reading or text in; False if its effect is in the state already.

        Raises RejectedError or AppliedError.
        """
        if record.topic in self._sensor_topics:
            return self._intake.reading(record, order, inboxes)
        if record.topic in self._event_topics:
            if record.key in self._area_of_utility:
                outcome.outputs += self._utility_texts(record, self._area_of_utility[record.key])
                return True
            return self._intake.event(record, order, inboxes)
        raise RejectedError(Reason.UNKNOWN_TOPIC, f"the engine does not read topic {record.topic}")

    def _utility_texts(self, record: Record, area: str) -> list[Output]:
        """Texts about a utility, for whoever diagnoses its area; raises RejectedError."""
        events, refused = self._intake.texts_of(record)
        if refused:
            raise refused[0]
        for event in events:
            if event.machine.encode() != record.key:
                raise RejectedError(Reason.KEY_MISMATCH, f"the key is not {event.machine[:80]!r}")
            messages.parse_time_ms(event.time)
        key, stamp_ms = area.encode(), record.timestamp_ms
        return [Output(AREAS, None, key, messages.encode(event), stamp_ms, (AREA_TEXT,)) for event in events]

    def _pass_on(self, control: Control, record: Record, outcome: Outcome) -> bool:
        """Pass on to areas what somebody does with alarms of utilities; returns whether machines have no part in it."""
        if control.kind not in OPERATOR_KINDS or record.value is None:
            return False
        selector = control.machine if control.kind != "configure" else (control.settings or {}).get("machine")
        area = self._area_of_utility.get(str(selector).encode())
        areas = [area] if area is not None else self._areas_of(record.partition) if control.kind == "configure" else []
        outcome.outputs += [
            Output(AREAS, None, name.encode(), record.value, record.timestamp_ms, (AREA_CONTROL,)) for name in areas
        ]
        return area is not None

    def _areas_of(self, partition: int) -> list[str]:
        """The areas that live in a partition, in the order of the profile."""
        names = dict.fromkeys(self._area_of_utility.values())
        return [name for name in names if self._partition_of is None or self._partition_of(name.encode()) == partition]

    def _hold(self, control: Control, record: Record, held: dict[int, tuple[Control, Record]]) -> None:
        """Hold a control record until what came before it is aligned."""
        partition = record.partition
        self.progress.controls[partition] = record.offset
        if not self._controller.is_idle_tick(control, partition):
            held[partition] = control, record

    def _take_blocks(self, records: Sequence[Record], inboxes: dict[str, Inbox]) -> Iterable[tuple[int, Record]]:
        """Take in together what can be; gives the rest, each with its place among all records."""
        topics = Counter(map(_topic_of, records))
        if CONTROL in topics or len(records) < _MIN_BLOCK:
            return enumerate(records)  # a control record may have to wait for what is before it
        rest: list[tuple[int, Record]] = []
        for topic in topics:
            orders, block = _of_topic(topic, records, alone=len(topics) == 1)
            columns = Columns.of(block)
            if topic in self._sensor_topics and self._intake.take_block(topic, block, columns, orders, inboxes):
                self.progress.clocks.heard_all(columns.partitions, columns.keys, columns.stamps)
            else:
                rest += zip(orders, block, strict=True)
        rest.sort(key=itemgetter(0))
        return rest

    # -- alignment --------------------------------------------------------------------------------------------

    def _align(self, inboxes: dict[str, Inbox], outcome: Outcome) -> None:
        for name, inbox in inboxes.items():
            if not inbox:
                continue
            group = self.machines.groups[name]
            batch, records = inbox.batch(group, outcome)
            aligned = group.aligner.push(batch, inbox.texts)
            for late in aligned.late:
                record = records[late.row]
                late_by_ms = late.closed_ms - int(batch.time_ms[late.row])
                outcome.stats.late[record.topic] += 1
                outcome.outputs.append(
                    letters.late_record(
                        record,
                        f"came {late_by_ms} ms behind the machine's closed frames",
                        reason=Reason.LATE,
                        frame_end_ms=late.frame_end_ms,
                        closed_ms=late.closed_ms,
                        late_by_ms=late_by_ms,
                    )
                )
            for row in aligned.refused:
                text = f"the machine already holds back {group.machine_type.buffer_limit_rows} readings"
                outcome.reject(records[row], RejectedError(Reason.BUFFER_FULL, text))
            outcome.stats.duplicates["readings"] += aligned.duplicate_readings
            outcome.stats.duplicates["texts"] += len(aligned.duplicate_texts)
            outcome.stats.revised_texts += aligned.revised_texts
            self.machines.mark_changed(group.in_slots(np.unique(batch.slots)))
            self._advance(group, aligned, outcome)

    def _advance(self, group: MachineGroup, aligned: Aligned, outcome: Outcome) -> None:
        """Hand over rounds that have closed."""
        for slot, text in aligned.expired_texts:
            _expire(group, slot, text, outcome)
        self._take_rounds(group, aligned.rounds, outcome)


def _take_labels(records: Sequence[Record], take: Callable[[LabelledSpan], None], outcome: Outcome) -> list[Record]:
    """Hand every label to `take`, reject what is none, and return the records of other topics."""
    others = []
    for record in records:
        if record.topic != LABELS:
            others.append(record)
            continue
        try:
            take(read_label(record))
        except RejectedError as rejected:
            outcome.reject(record, rejected)
    return others


def _of_topic(topic: str, records: Sequence[Record], *, alone: bool) -> tuple[list[int], list[Record]]:
    """The records of one topic, and the place of each among all; `alone` if there are no others."""
    if alone:
        return list(range(len(records))), list(records)
    orders = [order for order, record in enumerate(records) if record.topic == topic]
    return orders, [records[order] for order in orders]


def _expire(group: MachineGroup, slot: int, text: EventText, outcome: Outcome) -> None:
    """A text that no frame could take in time goes to the late topic."""
    assert text.record is not None
    outcome.stats.late[text.record.topic] += 1
    closed_ms, period_ms = group.aligner.closed_until_ms(slot), group.machine_type.frame_period_ms
    outcome.outputs.append(
        letters.late_record(
            text.record,
            f"older than {group.machine_type.text_ttl_frames} frames, or too many texts wait",
            reason=Reason.EXPIRED,
            frame_end_ms=(text.time_ms // period_ms + 1) * period_ms,
            closed_ms=closed_ms,
            late_by_ms=max(closed_ms - text.time_ms, 0),
        )
    )
