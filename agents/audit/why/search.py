"""Looks for one machine in the newest records of every topic, outside any consumer group."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

import msgspec

from agents.audit.log import TailLog
from agents.audit.machine_list import summarize_machines
from agents.audit.source_check import declared_topics
from agents.audit.why.facts import Facts, Fate, InputFinds, LastDiagnosis, Letters, Searched, WorkerPage
from agents.delivery.partitioning import partition_of
from agents.delivery.states import newest_states
from pipeline.config.form import Form
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import DEAD_LETTER, DIAGNOSES, FOREIGN, LATE, STATE
from pipeline.errors import FaultlineError, StateError
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.schemas import Schemas
from pipeline.wire.letters import CLOSED_UNTIL, LATE_BY, Origin, late_header, origin_of
from pipeline.wire.messages import RejectedError, decode_diagnosis
from pipeline.wire.records import Place, Record
from pipeline.wire.states import Forgotten, decode_state

_NEWEST = 50
"""Records that stand for how the machine's records are now."""
_SIMILAR = 3


class Committed(NamedTuple):
    """Up to where groups have processed topics, by topic and partition."""

    workers: Mapping[tuple[str, int], int]
    ingest: Mapping[tuple[str, int], int]


def gather_facts(
    log: TailLog,
    profile: PlantProfile,
    machine: str,
    *,
    last: int,
    now_ms: int,
    committed: Committed,
    worker: WorkerPage | None = None,
    schemas: Schemas | None = None,
) -> Facts:
    """Read the newest `last` records of each partition; of the states, all of the machine's partition."""
    partition = partition_of(machine.encode(errors="replace"), log.partitions(STATE))
    patterns = {kind.name: kind.match for kind in profile.machine_types}
    facts = Facts(machine, profile.plant, profile.digest, now_ms, partition, patterns)
    facts.worker = worker
    machine_type = profile.type_of(machine)
    if machine_type is not None:
        facts.type = machine_type.name
        facts.wrong_clock_ms = machine_type.blind_after_ms
    _read_state(facts, log, profile)
    reader = _Reader(profile, schemas)
    letter_places = {}
    for topic, letters in ((LATE, facts.late), (DEAD_LETTER, facts.dead)):
        found = _letters_of(machine, _searched(log.newest(topic, last), letters.searched), reader)
        _sum_up(letters, found)
        letter_places[topic] = {origin.place for _, origin in found}
    for holds, declared in declared_topics(profile):
        finds = InputFinds(declared.topic.removeprefix(FOREIGN), holds)
        records = _searched(log.newest(declared.topic, last), finds.searched)
        named = [(record, named) for record in records for named in reader.read(record) if named.machine == machine]
        is_for_ingest = holds == "for ingest"
        done = committed.ingest if is_for_ingest else committed.workers
        finds.unprocessed = sum(
            max(0, end - done.get((declared.topic, partition), 0))
            for partition, end in log.ends(declared.topic).items()
            if is_for_ingest or partition == facts.partition
        )
        _sort(finds, named, facts, done, letter_places)
        facts.inputs.append(finds)
    _read_diagnosis(facts, log.newest(DIAGNOSES, last, facts.partition))
    facts.similar = similar_ids(machine, reader.seen - {machine})
    return facts


def _searched(records: list[Record], searched: Searched) -> list[Record]:
    searched.records = len(records)
    searched.since_ms = records[0].timestamp_ms if records else None
    return records


def _read_state(facts: Facts, log: TailLog, profile: PlantProfile) -> None:
    key = facts.machine.encode(errors="replace")
    records = log.records_of(STATE, facts.partition)
    state = newest_states((record.key, record.value) for record in records if record.key == key)
    for name, content in state.items():
        try:
            saved = decode_state(name, content)
        except StateError as error:
            facts.state_problem = str(error)
            return
        if isinstance(saved, Forgotten):
            facts.forgotten = True
            facts.closed_until_ms = saved.closed if saved.closed >= 0 else None
            return
    found, unreadable = summarize_machines(state, profile)
    facts.state_problem = unreadable.get(facts.machine)
    for summary in found:
        facts.summary, facts.closed_until_ms = summary, summary.closed_until_ms


class _Named(NamedTuple):
    machine: str
    time_ms: int | None
    """None where it cannot be read."""


class _Reader:
    """Reads which machines records are about, by the forms of the topics that they are from."""

    def __init__(self, profile: PlantProfile, schemas: Schemas | None) -> None:
        forms = {declared.topic: declared.form for _, declared in declared_topics(profile)}
        self._readers = {topic: FormReader(form, topic, schemas) for topic, form in forms.items()}
        self._own = FormReader(Form(), "")
        self.seen: set[str] = set()
        """Every machine that was read."""

    def read(self, record: Record) -> list[_Named]:
        """The machines of a record, each with the newest time; none if the record cannot be read."""
        reader = self._readers.get(record.topic, self._own)
        found: dict[str, int | None] = {}
        try:
            for entry in reader.entries(record):
                machine = reader.machine(entry)
                try:
                    time_ms: int | None = reader.time_ms(entry)
                except RejectedError:
                    time_ms = None
                before = found.get(machine)
                found[machine] = time_ms if before is None or (time_ms or 0) > before else before
        except FaultlineError:
            pass  # what cannot be read is told by its dead letter
        self.seen.update(found)
        return [_Named(*pair) for pair in found.items()]


def _letters_of(machine: str, records: Iterable[Record], reader: _Reader) -> list[tuple[Record, Origin]]:
    """Letters that are about a machine by their value or, where that cannot be read, by their key or bytes."""
    key = machine.encode(errors="replace")
    found = []
    for record in records:
        origin = origin_of(record.headers)
        if origin is None:
            continue
        names = [named.machine for named in reader.read(record._replace(topic=origin.place.topic))]
        if machine in names or (not names and (record.key == key or b'"%s"' % key in (record.value or b""))):
            found.append((record, origin))
    return found


def _sum_up(letters: Letters, found: Sequence[tuple[Record, Origin]]) -> None:
    letters.reasons.update(origin.reason for _, origin in found)
    if not found:
        return
    record, newest = found[-1]
    letters.newest_reason, letters.newest_detail, letters.newest_stamp_ms = newest.reason, newest.detail, newest[3]
    letters.newest_place = f"{newest.place.topic.removeprefix(FOREIGN)}/{newest.place.partition}/{newest.place.offset}"
    letters.closed_until_ms = late_header(record.headers, CLOSED_UNTIL)
    late_by = [late_header(record.headers, LATE_BY) for record, _ in found[-_NEWEST:]]
    if known := [ms for ms in late_by if ms is not None]:
        letters.late_by_ms = median_low(known)


def _sort(
    finds: InputFinds,
    named: Sequence[tuple[Record, _Named]],
    facts: Facts,
    done: Mapping[tuple[str, int], int],
    letter_places: Mapping[str, set[Place]],
) -> None:
    """Note where the machine's records are, how they are keyed, and what became of them."""
    key, is_for_ingest = facts.machine.encode(errors="replace"), finds.holds == "for ingest"
    finds.found = len(named)
    run: list[int] = []  # how much times are ahead, of the newest records with one fate
    for record, one in named:
        fate = _fate(record, letter_places, done)
        if fate is None:
            finds.waiting += 1
            finds.waiting_since_ms = min(record.timestamp_ms, finds.waiting_since_ms or record.timestamp_ms)
        else:
            finds.newest_run = finds.newest_run + 1 if fate == finds.newest_fate else 1
            run = run if finds.newest_run > 1 else []
            finds.newest_fate = fate
            finds.fates[fate] += 1
        if one.time_ms is not None:
            run.append(one.time_ms - record.timestamp_ms)
        is_key, is_partition = record.key == key, record.partition == facts.partition
        finds.is_newest_right = is_key and is_partition
        if not is_for_ingest and not is_key:
            finds.wrong_keys["no key" if record.key is None else record.key.decode(errors="backslashreplace")] += 1
        elif not is_for_ingest and not is_partition:
            finds.wrong_partitions[record.partition] += 1
    if named:
        finds.newest_stamp_ms, finds.newest_time_ms = named[-1][0].timestamp_ms, named[-1][1].time_ms
    finds.ahead_ms = median_low(run[-_NEWEST:]) if run else None


def _fate(record: Record, letter_places: Mapping[str, set[Place]], done: Mapping[tuple[str, int], int]) -> Fate | None:
    """What became of a record; None if it is not processed yet."""
    place = Place(*record[:3])
    if place in letter_places[LATE]:
        return "late"
    if place in letter_places[DEAD_LETTER]:
        return "dead"
    return None if record.offset >= done.get((record.topic, record.partition), 0) else "used"


def _read_diagnosis(facts: Facts, records: Sequence[Record]) -> None:
    key = facts.machine.encode(errors="replace")
    for record in reversed(_searched(list(records), facts.diagnoses_searched)):
        if record.key != key or record.value is None:
            continue
        try:
            found = decode_diagnosis(record.value)
        except msgspec.DecodeError:
            continue
        facts.diagnosis = LastDiagnosis(
            found.fault,
            found.confidence,
            found.status,
            found.reset,
            found.frame_start,
            found.frame_end,
            f"{found.model.name} {found.model.hash[:12]}",
            tuple(found.evidence.frozen),
            tuple(found.evidence.variables),
            found.components,
        )
        return


def similar_ids(machine: str, seen: Iterable[str]) -> list[str]:
    """Ids that are the same but for case, punctuation and leading zeros; else those that are spelled nearly so."""
    by_plain: dict[str, list[str]] = {}
    for name in sorted(seen):
        by_plain.setdefault(_plain(name), []).append(name)
    plain = _plain(machine)
    if same := by_plain.get(plain):
        return same[:_SIMILAR]
    near = difflib.get_close_matches(plain, by_plain, n=_SIMILAR, cutoff=0.75)
    return [name for one in near for name in by_plain[one]][:_SIMILAR]


def _plain(name: str) -> str:
    words = re.findall(r"[^\W\d_]+|\d+", name.casefold())
    return "".join(word.lstrip("0") if word.isdigit() else word for word in words)
