"""`faultline verify`: reads what was published, and proves that nothing is missing and nothing was said in two ways.

What is checked, for the diagnoses that lie in the topic when the command begins:

Contents: no id has two contents. Records with the same bytes are deliveries that were repeated after a crash, and only
counted. Others with the same id are compared field by field: numbers may differ by one in the last of their five
decimals (entropy and disagreement, which are computed from them by logarithms, by 1e-3), everything else must be equal.
An id must be the one that machine, frame end, model and revision make, the key must be the machine, and the frame one
of its machine type's.

Gaps: a machine's frames are stepped one after the other (status `active` or `silent`), so the end of each is one frame
period behind the last one's. There are two exceptions, and both must be told by `reset` of the frame behind the hole:

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
from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import msgspec

from agents.audit.dead_letters import shown_time
from agents.audit.log import Log
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import DIAGNOSES
from pipeline.wire import messages
from pipeline.wire.messages import LAST_DECIMAL, LEAST_PROBABILITY, ModelRef
from pipeline.wire.records import Place, Record

DERIVED_TOLERANCE = 1e-3
MAX_SHOWN = 20
_DERIVED = frozenset({"entropy", "disagreement"})
_FRESH = frozenset({"start", "model_changed"})
_ANNOUNCED = frozenset({"stale", "offline"})
_STEPPED = frozenset({"active", "silent"})
_DIGEST_BYTES = 16
_COMPARE_AT_ONCE = 1_000
_OFFSET_BITS = 47
_REVISION_BITS = 8


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


# -- the report ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class VerifyReport:
    """What was found; proven if there are no problems."""

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
        """Whether everything that was checked holds."""
        return not self.problems

    def shown(self) -> list[str]:
        """The first problems of every kind in turn, at most MAX_SHOWN."""
        rows = ([f"{kind}: {text}" for text in texts] for kind, texts in self.examples.items())
        return [text for row in zip_longest(*rows) for text in row if text is not None][:MAX_SHOWN]

    def as_dict(self) -> dict[str, Any]:
        """One object of plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("examples", "problems", "resets")}
        counts = {"resets": dict(self.resets), "problems": dict(self.problems)}
        return {"proven": self.proven, **plain, **counts, "first_problems": self.shown()}


# -- what has been said ----------------------------------------------------------------------------------------


class _Said:
    """Frames of one machine and model in order: 32 bytes each."""

    __slots__ = ("_digests", "_keys", "_places", "since_ms")

    def __init__(self) -> None:
        self.since_ms = messages.MAX_TIME_MS
        """End of the frame that was read first; older ones may come behind it if the beginning was deleted."""
        self._keys = array("q")  # frame end and revision
        self._digests = bytearray()
        self._places = array("q")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def first_ms(self) -> int:
        """End of the oldest frame; far ahead if there is none."""
        return self._keys[0] >> _REVISION_BITS if self._keys else messages.MAX_TIME_MS

    @property
    def last_ms(self) -> int:
        """End of the newest frame; negative if there is none."""
        return self._keys[-1] >> _REVISION_BITS if self._keys else -1

    def find(self, end_ms: int, revision: int) -> tuple[bytes, int] | None:
        """Digest and place of a frame in this revision."""
        key = end_ms << _REVISION_BITS | revision
        if not self._keys or key > self._keys[-1]:
            return None
        at = bisect_left(self._keys, key)
        if self._keys[at] != key:
            return None
        return bytes(self._digests[at * _DIGEST_BYTES : (at + 1) * _DIGEST_BYTES]), self._places[at]

    def next_ms(self, end_ms: int) -> int | None:
        """The least frame end at or behind this one."""
        at = bisect_left(self._keys, end_ms << _REVISION_BITS)
        return self._keys[at] >> _REVISION_BITS if at < len(self._keys) else None

    def add(self, end_ms: int, revision: int, digest: bytes, place: int) -> None:
        """Put a frame in its place; cheap at the end."""
        if not self._keys:
            self.since_ms = end_ms
        key = end_ms << _REVISION_BITS | revision
        at = len(self._keys) if key > (self._keys[-1] if self._keys else -1) else bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._digests[at * _DIGEST_BYTES : at * _DIGEST_BYTES] = digest
        self._places.insert(at, place)


@dataclass(slots=True)
class _Voice:
    """What one model has said about one machine."""

    stepped: _Said = field(default_factory=_Said)
    announced: _Said = field(default_factory=_Said)
    starts: set[int] = field(default_factory=set)
    """Frame ends that say `start`."""
    quiet: int = 0
    """Stepped frames without readings since the last one with some."""
    in_silence: bool = False
    """Whether nothing was stepped since the last announced frame."""
    announced_later: bool = False
    """Whether frames had been stepped when the first one was announced."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Frame ends: the first that is missing, and the next that is there."""
    doubtful: list[tuple[int, int]] = field(default_factory=list)
    """Holes before announced frames, which a `start` may yet explain."""

    @property
    def last_ms(self) -> int:
        """End of the newest frame that was said at all."""
        return max(self.stepped.last_ms, self.announced.last_ms)


@dataclass(slots=True)
class _MachineSaid:
    kind: MachineType
    partition: int
    voices: dict[str, _Voice] = field(default_factory=dict)


class Verifier:
    """Takes diagnoses record by record; holds 32 bytes a diagnosis, and some hundred a machine."""

    def __init__(self, profile: PlantProfile, log: Log) -> None:
        """`log` is asked for records that have to be compared."""
        self.report = VerifyReport()
        self._profile = profile
        self._log = log
        self._machines: dict[str, _MachineSaid] = {}
        self._cut: dict[int, bool] = {}  # partition -> whether its beginning is gone
        self._apart: list[tuple[int, int]] = []  # places of records with the same id and other bytes

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
            kind = self._profile.type_of(head.machine)
            if kind is None:
                text = f"{where(record)}: no machine type of plant {self._profile.plant} matches {head.machine[:80]!r}"
                report.problem("malformed", f"{text}; use --profile to name the right plant")
                return
            machine = self._machines[head.machine] = _MachineSaid(kind, record.partition)
        if (wrong := _malformed(head, record, machine.kind)) is not None:
            report.problem("malformed", f"{where(record)}: {wrong}")
            return
        if machine.partition != record.partition:
            text = f"{head.id} is in partition {record.partition}, earlier ones are in {machine.partition}"
            report.problem("order", text)
        assert record.value is not None
        self._place(head, machine, cut, record.value, record.partition << _OFFSET_BITS | record.offset)

    def _place(self, head: _Head, machine: _MachineSaid, cut: bool, value: bytes, place: int) -> None:
        voice = machine.voices.get(head.model.hash)
        if voice is None:
            voice = machine.voices[head.model.hash] = _Voice()
        digest = hashlib.blake2b(value, digest_size=_DIGEST_BYTES).digest()
        end, revision = head.frame_end, head.revision
        known = voice.stepped.find(end, revision) or voice.announced.find(end, revision)
        if known is not None:
            if known[0] == digest:
                self.report.repeated += 1
            else:
                self._apart.append((known[1], place))
                if len(self._apart) >= _COMPARE_AT_ONCE:
                    self._compare()
            return
        if head.status in _ANNOUNCED:
            self._announced(head, machine.kind, voice, cut)
            voice.announced.add(end, revision, digest, place)
            return
        self._stepped(head, machine, voice, cut)
        voice.stepped.add(end, revision, digest, place)
        if head.reset is not None:
            self.report.resets[head.reset] += 1
            if head.reset in _FRESH:
                voice.starts.add(end)

    def _stepped(self, head: _Head, machine: _MachineSaid, voice: _Voice, cut: bool) -> None:
        end, period, limit = head.frame_end, machine.kind.frame_period_ms, machine.kind.max_gap_frames
        last, fresh = voice.stepped.last_ms, head.reset in _FRESH
        self.report.revised += head.revision > 0
        if end <= last:
            # Deliveries may be repeated from before the oldest record that retention has left.
            if not (cut and end < voice.stepped.since_ms):
                self.report.problem("order", f"{head.id} comes after the frame that ends at {last}")
                _fill(voice.holes, end, period)
            return
        if last < 0:
            if head.reset is None and not cut and len(machine.voices) == 1:
                text = f"{head.id} is the first frame of {head.machine}, but continues earlier ones, which are missing"
                self.report.problem("missing", text)
        elif end > last + period and not fresh:
            if head.reset is None:
                voice.holes.append((last + period, end))
            elif voice.quiet < limit:
                voice.holes.append((last + period, min(end, last + (limit - voice.quiet + 1) * period)))
        # A machine may fall silent before its first frame closed: what it held from before that is not announced.
        told = len(voice.announced) and (voice.announced_later or end > voice.announced.first_ms)
        if head.revision and told and not cut and voice.announced.find(end, 0) is None:
            voice.holes.append((end, end + period))
        if not fresh:
            voice.holes.extend(voice.doubtful)
        voice.doubtful.clear()
        voice.in_silence = False
        if head.status == "active":
            voice.quiet = 0
        else:
            # How long the machine had been quiet before the oldest record that is left, nobody knows.
            voice.quiet = limit if last < 0 and not fresh else voice.quiet + 1

    def _announced(self, head: _Head, kind: MachineType, voice: _Voice, cut: bool) -> None:
        end, period, last = head.frame_end, kind.frame_period_ms, voice.last_ms
        if not len(voice.announced):
            voice.announced_later = len(voice.stepped) > 0
        if end <= last:
            if not (cut and end < min(voice.stepped.since_ms, voice.announced.since_ms)):
                self.report.problem("order", f"{head.id}, announced, comes after the frame that ends at {last}")
                _fill(voice.holes, end, period)
                _fill(voice.doubtful, end, period)
        elif last >= 0 and end > last + period:
            limit = kind.max_gap_frames
            if voice.quiet < limit or (limit and voice.in_silence):
                # A `start` may yet explain it; but before the first stepped frame there was no state to be lost.
                (voice.doubtful if len(voice.stepped) else voice.holes).append((last + period, end))
        voice.in_silence = True

    def _compare(self) -> None:
        """Compare records with the same id field by field; the digests only say that their bytes differ."""
        pairs = [(_place_of(first), _place_of(second)) for first, second in self._apart]
        self._apart.clear()
        records = self._log.at({place for pair in pairs for place in pair})
        for first, second in pairs:
            if first not in records or second not in records:
                gone = first if first not in records else second
                text = f"partition {second.partition}, offset {second.offset}: its id is not new, its bytes are, but "
                self.report.problem("two contents", f"{text}the record at offset {gone.offset} has just been deleted")
                continue
            one, other = (msgspec.json.decode(records[place].value or b"") for place in (first, second))
            if (where := _difference(one, other)) is None:
                self.report.nearly_repeated += 1
            else:
                offsets = f"partition {first.partition}, offsets {first.offset} and {second.offset}"
                self.report.problem("two contents", f"{one['id']} ({offsets}) differs in {where}")

    def finish(self) -> VerifyReport:
        """Look at what could only be judged at the end."""
        if self._apart:
            self._compare()
        report = self.report
        report.machines = len(self._machines)
        report.cut_partitions = sorted(partition for partition, cut in self._cut.items() if cut)
        for name, machine in self._machines.items():
            for model, voice in machine.voices.items():
                report.frames += len(voice.stepped)
                report.announced += len(voice.announced)
                others = [other for hash_, other in machine.voices.items() if hash_ != model]
                for begin, end in _merged(voice.holes + _forgotten(voice, machine.kind)):
                    self._missing(name, machine.kind.frame_period_ms, begin, end, others)
        return report

    def _missing(self, name: str, period: int, begin: int, end: int, others: list[_Voice]) -> None:
        ends = range(begin, end, period)
        gone = [at for at in ends if not any(voice.stepped.next_ms(at) == at for voice in others)] if others else ends
        if gone:
            text = f"{name} lacks {len(gone)} frames: ends from {gone[0]} ({shown_time(gone[0])}) to {gone[-1]}"
            self.report.problem("missing", text)

    # -- what the check of the inputs asks ----------------------------------------------------------------------

    def is_cut(self, machine: str) -> bool:
        """Whether the beginning of what was said about a machine may have been deleted."""
        said = self._machines.get(machine)
        return any(self._cut.values()) if said is None else self._cut[said.partition]

    def is_stepped(self, machine: str, end_ms: int) -> bool:
        """Whether this frame went through a model."""
        said = self._machines.get(machine)
        return said is not None and any(voice.stepped.next_ms(end_ms) == end_ms for voice in said.voices.values())

    def is_before_all(self, machine: str, end_ms: int) -> bool:
        """Whether this frame is older than every one that was stepped."""
        said = self._machines.get(machine)
        return said is None or all(end_ms < voice.stepped.first_ms for voice in said.voices.values())

    def is_let_go(self, machine: str, end_ms: int) -> bool:
        """Whether a later `start` of a machine that was known before says what became of this frame."""
        said = self._machines.get(machine)
        if said is None or self.is_before_all(machine, end_ms):
            return False
        behind = [(at, voice) for voice in said.voices.values() if (at := voice.stepped.next_ms(end_ms)) is not None]
        if not behind:
            return False
        at, voice = min(behind, key=lambda pair: pair[0])
        return at in voice.starts


def where(record: Record) -> str:
    """Partition and offset, in words."""
    return f"partition {record.partition}, offset {record.offset}"


def _place_of(packed: int) -> Place:
    return Place(DIAGNOSES, packed >> _OFFSET_BITS, packed & (1 << _OFFSET_BITS) - 1)


def _malformed(head: _Head, record: Record, kind: MachineType) -> str | None:
    """What is wrong with a diagnosis taken by itself."""
    end, period = head.frame_end, kind.frame_period_ms
    if not (0 < end < messages.MAX_TIME_MS + period and 0 <= head.revision < 1 << _REVISION_BITS):
        return f"frame end {end} or revision {head.revision} is out of range"
    if head.frame_start != end - period or end % period:
        text = f"frame {head.frame_start} to {end} does not fit {kind.name}, whose frames are {period} ms long"
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


def _fill(holes: list[tuple[int, int]], end_ms: int, period: int) -> None:
    """A frame that comes out of order is not missing."""
    for at in range(len(holes) - 1, -1, -1):
        begin, end = holes[at]
        if begin <= end_ms < end:
            holes[at : at + 1] = [part for part in ((begin, end_ms), (end_ms + period, end)) if part[0] < part[1]]
            return


def _merged(holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Holes in order, without overlap."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(holes):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _forgotten(voice: _Voice, kind: MachineType) -> list[tuple[int, int]]:
    """Doubtful holes that nothing explains: not even that the machine had been forgotten after a long silence."""
    idle_ms = max(kind.idle_after_ms(name) for name in kind.source_names)
    told_ms = idle_ms + (kind.max_gap_frames + 2) * kind.frame_period_ms
    return [(begin, end) for begin, end in voice.doubtful if end - begin + told_ms < kind.state_ttl_ms]


def _difference(one: Any, other: Any, name: str = "") -> str | None:
    """The first field in which two decoded diagnoses differ by more than is allowed; None if there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        if name == "probabilities":  # one that is left out is a small one
            one, other = ({key: content.get(key, LEAST_PROBABILITY) for key in one | other} for content in (one, other))
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
    return next((found for part, a, b in parts if (found := _difference(a, b, part)) is not None), None)


def verify_diagnoses(log: Log, profile: PlantProfile) -> Verifier:
    """Read all diagnoses of a log; `report` of the result says what was found."""
    verifier = Verifier(profile, log)
    for record in log.records(DIAGNOSES):
        verifier.add(record)
    verifier.finish()
    return verifier
