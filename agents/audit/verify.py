"""`faultline verify`: proves from the published diagnoses that none is missing and none has two contents.

What is checked, for the diagnoses that are in the topic when the command begins:

Contents: no id has two contents. Records with the same bytes are deliveries repeated after a crash, and only
counted. Others with the same id are compared field by field: numbers may differ by one in the last of their five
decimals (entropy and disagreement, which are computed from them by logarithms, by 1e-3), everything else must be equal.
An id must consist of machine, frame end, model and revision, the key must be the machine, and the frame one
of its machine type's.

Gaps: a machine's frames are stepped one after the other (status `active` or `silent`), so the end of each is one frame
period behind the last one's. There are two exceptions, and both must be named in `reset` of the frame after the hole:

* `start` (and `model_changed`): the worker did not know the machine, or could not use its state. Any hole goes.
* `gap` (and `requested`, `run_end`, which may hide it): the machine gave no readings. Before frames may be left out
  there, `max_gap_frames` frames without readings must have been stepped, and they must all be there.

Frames that were only announced (status `stale` or `offline`) do not count as stepped: if their readings come after all,
they are stepped in their turn, as revision 1, and a revision has its announcement. Each begins where the last frame,
announced or stepped, ended; except where the machine had already been without readings for `max_gap_frames` frames, and
where the next stepped frame says `start`. The first frame of a machine says a `reset`, unless retention has deleted
what lay before, or another model spoke first. Where two models have spoken about a machine, a frame of either closes a
hole of the other.

Order: stepped frames of a machine ascend, and so do announced ones; all lie in one partition.

What diagnoses alone cannot show: that the last frames of a machine are missing, or those just before a `start`, or the
one that says `gap` if the next says `requested` or `run_end`. With the inputs (verify_inputs.py) that shows, except for
frames just before a `start`, whose readings may have been let go together with the state. Nothing shows that
the first or the last announced frames of a silence are missing whose readings never came.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import msgspec

from agents.audit.dead_letters import shown_time
from agents.audit.log import Log
from agents.audit.timelines import (
    DIGEST_BYTES,
    REVISION_BITS,
    MachineTimeline,
    ModelTimeline,
    fill_hole,
    merged_holes,
    unexplained_holes,
)
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import DIAGNOSES
from pipeline.wire import messages
from pipeline.wire.messages import LAST_DECIMAL, MIN_PROBABILITY, ModelRef
from pipeline.wire.records import Place, Record

DERIVED_TOLERANCE = 1e-3
MAX_SHOWN = 20
_DERIVED = frozenset({"entropy", "disagreement"})
_FRESH = frozenset({"start", "model_changed"})
_ANNOUNCED = frozenset({"stale", "offline"})
_STEPPED = frozenset({"active", "silent"})
_COMPARE_AT_ONCE = 1_000
_OFFSET_BITS = 47


class _Head(msgspec.Struct, gc=False):
    """What of a diagnosis is needed to place it; the rest is skipped, which is much faster."""

    id: str
    machine: str
    frame_start: int
    frame_end: int
    status: str
    reset: str | None
    revision: int
    model: ModelRef


_decode_head = msgspec.json.Decoder(_Head).decode


# -- the report -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class VerifyReport:
    """What was found; proven if there are diagnoses and no problems."""

    diagnoses: int = 0
    machines: int = 0
    frames: int = 0
    """Frames that were stepped through a model, each counted once."""
    announced: int = 0
    revised: int = 0
    repeated: int = 0
    """Records with an id that came before, and the same bytes."""
    nearly_repeated: int = 0
    """Records with an id that came before, whose numbers differ within the tolerance."""
    resets: Counter[str] = field(default_factory=Counter)
    cut_partitions: list[int] = field(default_factory=list)
    """Partitions of which retention has deleted the beginning."""
    readings: dict[str, int] | None = None
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, kind: str, text: str) -> None:
        """Count a problem, and keep it if it is one of the first of its kind."""
        self.problems[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < MAX_SHOWN:
            kept.append(text)

    @property
    def proven(self) -> bool:
        """Whether there was something to check, and all of it holds."""
        return not self.problems and not self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to verify."""
        return not self.diagnoses and not self.problems

    def shown(self) -> list[str]:
        """The first problems of every kind in turn, up to MAX_SHOWN."""
        rows = ([f"{kind}: {text}" for text in texts] for kind, texts in self.examples.items())
        return [text for row in zip_longest(*rows) for text in row if text is not None][:MAX_SHOWN]

    def as_dict(self) -> dict[str, Any]:
        """One object of plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("examples", "problems", "resets")}
        counts = {"resets": dict(self.resets), "problems": dict(self.problems)}
        return {"proven": self.proven, "empty": self.is_empty, **plain, **counts, "first_problems": self.shown()}


class Verifier:
    """Takes diagnoses record by record; needs 32 bytes per diagnosis, and some hundred per machine."""

    def __init__(self, profile: PlantProfile, log: Log) -> None:
        """`log` is asked for records that have to be compared."""
        self.report = VerifyReport()
        self._profile = profile
        self._log = log
        self._machines: dict[str, MachineTimeline] = {}
        self._cut: dict[int, bool] = {}  # partition -> whether its beginning is gone
        self._differing: list[tuple[int, int]] = []  # places of records with the same id and other bytes

    def add(self, record: Record) -> None:
        """Check one record of the diagnoses topic."""
        report = self.report
        report.diagnoses += 1
        cut = self._cut.setdefault(record.partition, record.offset > 0)
        try:
            head = _decode_head(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            report.problem("unreadable", f"{where(record)} is not a diagnosis: {str(error)[:100]}")
            return
        machine = self._machines.get(head.machine)
        if machine is None:
            machine_type = self._profile.type_of(head.machine)
            if machine_type is None:
                text = f"{where(record)}: no machine type of plant {self._profile.plant} matches {head.machine[:80]!r}"
                report.problem("malformed", f"{text}; use --profile to name the right plant")
                return
            machine = self._machines[head.machine] = MachineTimeline(machine_type, record.partition)
        if (wrong := _malformed(head, record, machine.machine_type)) is not None:
            report.problem("malformed", f"{where(record)}: {wrong}")
            return
        if machine.partition != record.partition:
            text = f"{head.id} is in partition {record.partition}, earlier ones are in {machine.partition}"
            report.problem("order", text)
        assert record.value is not None
        self._place(head, machine, cut, record.value, record.partition << _OFFSET_BITS | record.offset)

    def _place(self, head: _Head, machine: MachineTimeline, cut: bool, value: bytes, place: int) -> None:
        timeline = machine.models.get(head.model.hash)
        if timeline is None:
            timeline = machine.models[head.model.hash] = ModelTimeline()
        digest = hashlib.blake2b(value, digest_size=DIGEST_BYTES).digest()
        end, revision = head.frame_end, head.revision
        known = timeline.stepped.find(end, revision) or timeline.announced.find(end, revision)
        if known is not None:
            if known[0] == digest:
                self.report.repeated += 1
            else:
                self._differing.append((known[1], place))
                if len(self._differing) >= _COMPARE_AT_ONCE:
                    self._compare()
            return
        if head.status in _ANNOUNCED:
            self._announced(head, machine.machine_type, timeline, cut)
            timeline.announced.add(end, revision, digest, place)
            return
        self._stepped(head, machine, timeline, cut)
        timeline.stepped.add(end, revision, digest, place)
        if head.reset is not None:
            self.report.resets[head.reset] += 1
            if head.reset in _FRESH:
                timeline.starts.add(end)

    def _stepped(self, head: _Head, machine: MachineTimeline, timeline: ModelTimeline, cut: bool) -> None:
        end, period, limit = head.frame_end, machine.machine_type.frame_period_ms, machine.machine_type.gap_frames
        last, fresh = timeline.stepped.last_ms, head.reset in _FRESH
        self.report.revised += head.revision > 0
        if end <= last:
            # Deliveries may be repeated from before the oldest record that retention has left.
            if not (cut and end < timeline.stepped.since_ms):
                self.report.problem("order", f"{head.id} comes after the frame that ends at {last}")
                fill_hole(timeline.holes, end, period)
            return
        if last < 0:
            if head.reset is None and not cut and len(machine.models) == 1:
                text = f"{head.id} is the first frame of {head.machine}, but continues earlier ones, which are missing"
                self.report.problem("missing", text)
        elif end > last + period and not fresh:
            if head.reset is None:
                timeline.holes.append((last + period, end))
            elif timeline.quiet < limit:
                timeline.holes.append((last + period, min(end, last + (limit - timeline.quiet + 1) * period)))
        # A machine may fall silent before its first frame closes; what it held from before is not announced.
        was_announced = len(timeline.announced) and (timeline.announced_later or end > timeline.announced.first_ms)
        if head.revision and was_announced and not cut and timeline.announced.find(end, 0) is None:
            timeline.holes.append((end, end + period))
        if not fresh:
            timeline.holes.extend(timeline.doubtful)
        timeline.doubtful.clear()
        timeline.in_silence = False
        if head.status == "active":
            timeline.quiet = 0
        else:
            # It is unknown how long the machine had been quiet before the oldest record that is left.
            timeline.quiet = limit if last < 0 and not fresh else timeline.quiet + 1

    def _announced(self, head: _Head, machine_type: MachineType, timeline: ModelTimeline, cut: bool) -> None:
        end, period, last = head.frame_end, machine_type.frame_period_ms, timeline.last_ms
        if not len(timeline.announced):
            timeline.announced_later = len(timeline.stepped) > 0
        if end <= last:
            if not (cut and end < min(timeline.stepped.since_ms, timeline.announced.since_ms)):
                self.report.problem("order", f"{head.id}, announced, comes after the frame that ends at {last}")
                fill_hole(timeline.holes, end, period)
                fill_hole(timeline.doubtful, end, period)
        elif last >= 0 and end > last + period:
            limit = machine_type.gap_frames
            if timeline.quiet < limit or (limit and timeline.in_silence):
                # A `start` may yet explain it; but before the first stepped frame there was no state to be lost.
                (timeline.doubtful if len(timeline.stepped) else timeline.holes).append((last + period, end))
        timeline.in_silence = True

    def _compare(self) -> None:
        """Compare records with the same id field by field; the digests only say that their bytes differ."""
        pairs = [(_place_of(first), _place_of(second)) for first, second in self._differing]
        self._differing.clear()
        records = self._log.at({place for pair in pairs for place in pair})
        for first, second in pairs:
            if first not in records or second not in records:
                gone = first if first not in records else second
                text = f"partition {second.partition}, offset {second.offset}: its id is not new, its bytes are, but "
                self.report.problem("two contents", f"{text}the record at offset {gone.offset} has just been deleted")
                continue
            one, other = (msgspec.json.decode(records[place].value or b"") for place in (first, second))
            if (where := difference(one, other)) is None:
                self.report.nearly_repeated += 1
            else:
                offsets = f"partition {first.partition}, offsets {first.offset} and {second.offset}"
                self.report.problem("two contents", f"{one['id']} ({offsets}) differs in {where}")

    def finish(self) -> VerifyReport:
        """Look at what could only be judged at the end."""
        if self._differing:
            self._compare()
        report = self.report
        report.machines = len(self._machines)
        report.cut_partitions = sorted(partition for partition, cut in self._cut.items() if cut)
        for name, machine in self._machines.items():
            for model, timeline in machine.models.items():
                report.frames += len(timeline.stepped)
                report.announced += len(timeline.announced)
                others = [other for hash_, other in machine.models.items() if hash_ != model]
                for begin, end in merged_holes(timeline.holes + unexplained_holes(timeline, machine.machine_type)):
                    self._missing(name, machine.machine_type.frame_period_ms, begin, end, others)
        return report

    def _missing(self, name: str, period: int, begin: int, end: int, others: list[ModelTimeline]) -> None:
        ends = range(begin, end, period)
        gone = [end_ms for end_ms in ends if not any(other.stepped.next_ms(end_ms) == end_ms for other in others)]
        if gone:
            text = f"{name} lacks {len(gone)} frames: ends from {gone[0]} ({shown_time(gone[0])}) to {gone[-1]}"
            self.report.problem("missing", text)

    # -- for the check of the inputs ----------------------------------------------------------------------

    def is_cut(self, machine: str) -> bool:
        """Whether the first diagnoses of a machine may have been deleted."""
        history = self._machines.get(machine)
        return any(self._cut.values()) if history is None else self._cut[history.partition]

    def is_stepped(self, machine: str, end_ms: int) -> bool:
        """Whether this frame went through a model."""
        history = self._machines.get(machine)
        return history is not None and any(
            timeline.stepped.next_ms(end_ms) == end_ms for timeline in history.models.values()
        )

    def is_before_all(self, machine: str, end_ms: int) -> bool:
        """Whether this frame is older than every one that was stepped."""
        history = self._machines.get(machine)
        return history is None or all(end_ms < timeline.stepped.first_ms for timeline in history.models.values())

    def is_let_go(self, machine: str, end_ms: int) -> bool:
        """Whether a later `start` of a known machine explains that this frame is missing."""
        history = self._machines.get(machine)
        if history is None or self.is_before_all(machine, end_ms):
            return False
        behind = [
            (at, timeline)
            for timeline in history.models.values()
            if (at := timeline.stepped.next_ms(end_ms)) is not None
        ]
        if not behind:
            return False
        at, timeline = min(behind, key=lambda pair: pair[0])
        return at in timeline.starts


def where(record: Record) -> str:
    """Partition and offset, in words."""
    return f"partition {record.partition}, offset {record.offset}"


def _place_of(packed: int) -> Place:
    return Place(DIAGNOSES, packed >> _OFFSET_BITS, packed & (1 << _OFFSET_BITS) - 1)


def _malformed(head: _Head, record: Record, machine_type: MachineType) -> str | None:
    """What is wrong with a diagnosis taken by itself."""
    end, period = head.frame_end, machine_type.frame_period_ms
    if not (0 < end < messages.MAX_TIME_MS + period and 0 <= head.revision < 1 << REVISION_BITS):
        return f"frame end {end} or revision {head.revision} is out of range"
    if head.frame_start != end - period or end % period:
        text = f"frame {head.frame_start} to {end} does not fit {machine_type.name}, whose frames are {period} ms long"
        return f"{text}; use --profile to name the profile of this plant"
    if head.id != (right := f"{head.machine}:{end}:{head.model.hash[:12]}:{head.revision}"):
        return f"its id is {head.id[:200]!r}, but must be {right!r}"
    if record.key != head.machine.encode(errors="replace"):
        return f"its key is {record.key!r:.80}, but it is about {head.machine[:80]!r}"
    if head.status not in _STEPPED | _ANNOUNCED:
        return f"status {head.status[:80]!r} is unknown"
    if head.status in _ANNOUNCED and (head.revision or head.reset is not None):
        return "it is announced, but has a revision or a reset"
    return None


def difference(one: Any, other: Any, name: str = "") -> str | None:
    """The first field in which two decoded diagnoses differ by more than is allowed; None if there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        if name in ("probabilities", "components"):  # one that is left out is a small one
            one, other = ({key: content.get(key, MIN_PROBABILITY) for key in one | other} for content in (one, other))
        elif not name and ("components" in one) != ("components" in other):
            # A release or a profile from before there were components of faults, and one with them.
            one, other = ({key: content[key] for key in content if key != "components"} for content in (one, other))
        if one.keys() != other.keys():
            return f"the fields of {name or 'the diagnosis'}"
        parts = ((f"{name}.{key}".lstrip("."), one[key], other[key]) for key in one)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = ((f"{name}[{at}]", *pair) for at, pair in enumerate(zip(one, other, strict=True)))
    elif isinstance(one, float | int) and isinstance(other, float | int):
        if isinstance(one, int) and isinstance(other, int):
            return None if one == other else f"{name} ({one} and {other})"
        allowed = DERIVED_TOLERANCE if name in _DERIVED else LAST_DECIMAL
        # Both are decimals with few digits: what they have of rounding error must not decide.
        return None if abs(one - other) <= allowed * (1 + 1e-6) else f"{name} ({one} and {other})"
    else:
        return None if one == other else f"{name} ({str(one)[:60]!r} and {str(other)[:60]!r})"
    return next((found for part, a, b in parts if (found := difference(a, b, part)) is not None), None)


def verify_diagnoses(log: Log, profile: PlantProfile) -> Verifier:
    """Check all diagnoses of a log; the result's `report` has the findings."""
    verifier = Verifier(profile, log)
    for record in log.records(DIAGNOSES):
        verifier.add(record)
    verifier.finish()
    return verifier
