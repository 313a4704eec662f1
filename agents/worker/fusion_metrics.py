"""Fusion metrics: what the diagnoses of an interval say of the models, and how right they were where labels exist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from models.evaluation.scoring import label_scores
from pipeline.arrays import Bools, Ints
from pipeline.config.classes import NO_EVIDENCE, RECOVERING, labelled_classes, unknown_class
from pipeline.config.profile import NORMAL
from pipeline.config.topics import METRICS
from pipeline.engine.diagnoses import DiagnosedMachine
from pipeline.engine.rounds import Round
from pipeline.frames import Frames
from pipeline.wire import messages
from pipeline.wire.labels import LabelBook, LabelledSpan
from pipeline.wire.messages import ModelRef
from pipeline.wire.records import Output

_DIGITS = 7
_NEVER = -(2**62)
_BEYOND_MS = 2**43
"""More than any time; partitions times this much still fit into 64 bits."""


class FusionMetric(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one model's diagnoses of one partition said in one interval of event time; null where undefined."""

    id: str
    model: messages.ModelRef
    partition: int
    interval_start: int
    interval_end: int
    diagnoses: int
    no_evidence: int
    confidence_mean: float | None
    entropy_mean: float | None
    disagreement_mean: float | None
    weights_mean: dict[str, float]
    labelled: int
    accuracy: float | None
    macro_f1: float | None
    ari: float | None
    mutual_information: float | None
    conditional_entropy: float | None
    candidates_mean: float | None = None
    """How many candidates a diagnosis with evidence has; absent for models without."""
    candidates_coverage: float | None = None
    """Share of the labelled frames with candidates that have the true class among them; absent where there are none."""


@dataclass(slots=True)
class _Interval:
    """Sums over the diagnoses of an interval, and what was said of each machine, in runs of equal answers."""

    model: ModelRef
    modalities: tuple[str, ...]
    diagnoses: int = 0
    no_evidence: int = 0
    confidence: float = 0.0
    entropy: float = 0.0
    disagreement: float = 0.0
    candidates: float = 0.0
    weights: list[float] = field(default_factory=list)
    said: dict[int, list[_Run]] = field(default_factory=lambda: defaultdict(list))  # by the machine's number


@dataclass(slots=True)
class _Run:
    """Frames in a row, from the first one's start to the last one's, with the same answer."""

    first_ms: int
    last_ms: int
    period_ms: int
    fault: int
    candidates: int = 0
    """Which of the sets of candidates."""


class FusionMetrics:
    """Watches the engine; an interval is told when the next one is over.

    Labels count if they were written by then. Sums are per partition, so that they do not depend on which worker
    reads which partitions; `diagnoses`, `labelled` and means let a reader combine them. A frame that is diagnosed
    again, because its input was read again after a rebalance, counts once; one whose interval has been told does not.
    """

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._open: dict[tuple[str, int, int], _Interval] = {}  # (model hash, partition, start)
        self._newest_ms: dict[int, int] = {}
        self._told_ms: dict[int, int] = {}  # intervals that begin earlier have been told, by partition
        self._labels = LabelBook()
        self._faults: dict[str, int] = {NO_EVIDENCE: 0}
        self._sets: list[frozenset[int]] = [frozenset()]  # of faults' numbers: the candidates that there were
        self._set_numbers: dict[tuple[Sequence[str], bytes], int] = {}
        self._numbers: dict[str, int] = {}  # machine -> its number, for good
        self._partition: Ints = np.zeros(0, np.int64)  # of the machine with that number
        self._newest_frame: Ints = np.zeros(0, np.int64)
        self._machines: Sequence[DiagnosedMachine] = ()  # of the last round
        self._who: Ints = np.zeros(0, np.int64)  # their numbers
        self._partitions: list[int] = []  # theirs, each once
        self._place: Ints = np.zeros(0, np.int64)  # of each machine's partition among them
        self._run: list[_Run | None] = []  # the one that goes on
        self._run_last: Ints = np.zeros(0, np.int64)
        self._run_fault: Ints = np.zeros(0, np.int64)
        self._run_candidates: Ints = np.zeros(0, np.int64)

    # -- what happens -------------------------------------------------------------------------------------------

    def diagnosed(self, diagnosed: Round) -> None:
        """A round of frames has been diagnosed."""
        frames, answers = diagnosed.frames, diagnosed.answers
        # No label says `recovering`; it counts as the normal state. `unknown` agrees with no label.
        places = labelled_classes(
            np.arange(len(diagnosed.classes)),
            len(diagnosed.faults),
            unknown_class(diagnosed.classes, diagnosed.faults),
        )
        named = [diagnosed.classes[place] for place in places.tolist()]
        fault_of = np.array([*map(self._fault, named), 0])  # the last one is found at -1: no evidence
        faults, start = fault_of[answers.faults], frames.start_ms
        if diagnosed.machines is not self._machines:  # most rounds are about the same machines as the one before
            self._machines = diagnosed.machines
            self._who = np.array([self._number(machine) for machine in self._machines], np.int64)
            self._partitions, self._place = _numbered(self._partition[self._who])
        who = self._who
        begin = start // self._interval_ms * self._interval_ms
        fresh = (start > self._newest_frame[who]) | (frames.revision > 0)
        self._newest_frame[who] = np.maximum(self._newest_frame[who], start)
        if begin.min() == begin.max():
            place, pairs = self._place, [(partition, int(begin[0])) for partition in self._partitions]
        else:
            # One number for partition and interval: numpy is much slower at finding equal pairs.
            keys, place = _numbered(self._partition[who] * _BEYOND_MS + begin)
            pairs = [divmod(key, _BEYOND_MS) for key in keys]
        intervals = [
            self._interval(diagnosed.model, diagnosed.modalities, partition, interval_start)
            for partition, interval_start in pairs
        ]
        newest = np.full(len(pairs), _NEVER)
        np.maximum.at(newest, place, frames.end_ms)
        fused = fresh & (answers.faults >= 0)
        counted = np.bincount(place[fresh], minlength=len(pairs)).tolist()
        candidates, sizes = self._candidates(diagnosed)
        columns = [answers.confidence, answers.entropy, answers.disagreement, sizes, *diagnosed.result.weights]
        fused_place = place
        if not fused.all():
            fused_place, columns = place[fused], [column[fused] for column in columns]
        known = np.bincount(fused_place, minlength=len(pairs)).tolist()
        sums = [np.bincount(fused_place, column, len(pairs)).tolist() for column in columns]
        for at, ((partition, _), interval) in enumerate(zip(pairs, intervals, strict=True)):
            interval.diagnoses += counted[at]
            interval.no_evidence += counted[at] - known[at]
            interval.confidence += sums[0][at]
            interval.entropy += sums[1][at]
            interval.disagreement += sums[2][at]
            interval.candidates += sums[3][at]
            for modality, column in enumerate(sums[4:]):
                interval.weights[modality] += column[at]
            self._newest_ms[partition] = max(self._newest_ms.get(partition, 0), int(newest[at]))
        self._extend_runs(who, start, faults, candidates, frames, intervals, place)

    def _candidates(self, diagnosed: Round) -> tuple[Ints, Ints]:
        """The number of each row's set of candidates, and how many these are, (B,); 0 for models without."""
        marks = diagnosed.result.candidates
        if marks is None:
            return (np.zeros(len(diagnosed.machines), np.int64),) * 2
        packed = np.packbits(marks, axis=1)
        rows = packed.view(f"V{packed.shape[1]}").ravel().tolist()
        classes = tuple(diagnosed.classes)
        for row in set(rows):
            if (classes, row) not in self._set_numbers:
                # Labels do not say `recovering`; it counts as the normal state.
                names = [NORMAL if name == RECOVERING else name for name in classes]
                bits = np.unpackbits(np.frombuffer(row, np.uint8), count=len(classes))
                self._set_numbers[classes, row] = len(self._sets)
                self._sets.append(frozenset(self._fault(names[place]) for place in np.flatnonzero(bits).tolist()))
        numbers = np.array([self._set_numbers[classes, row] for row in rows], np.int64)
        return numbers, marks.sum(axis=1)

    def _extend_runs(
        self,
        who: Ints,
        start: Ints,
        faults: Ints,
        candidates: Ints,
        frames: Frames,
        intervals: Sequence[_Interval],
        place: Ints,
    ) -> None:
        """Most frames say what the one before said; only the others begin a run."""
        goes_on: Bools = (start == self._run_last[who] + frames.period_ms) & (faults == self._run_fault[who])
        goes_on &= candidates == self._run_candidates[who]
        goes_on &= start // self._interval_ms == self._run_last[who] // self._interval_ms
        for row in np.flatnonzero(~goes_on).tolist():
            number, first = int(who[row]), int(start[row])
            self._settle(number)
            run = self._run[number] = _Run(first, first, frames.period_ms, int(faults[row]), int(candidates[row]))
            intervals[place[row]].said[number].append(run)
        self._run_last[who], self._run_fault[who], self._run_candidates[who] = start, faults, candidates

    def announced(
        self, model: ModelRef, modalities: tuple[str, ...], machine: DiagnosedMachine, start_ms: int, period_ms: int
    ) -> None:
        """A frame of a silent machine has been announced: no evidence."""
        number = self._number(machine)
        interval = self._interval(
            model, modalities, machine.partition, start_ms // self._interval_ms * self._interval_ms
        )
        if start_ms > self._newest_frame[number]:
            self._newest_frame[number] = start_ms
            interval.diagnoses += 1
            interval.no_evidence += 1
        self._settle(number)
        self._run[number], self._run_last[number] = None, _NEVER
        interval.said[number].append(_Run(start_ms, start_ms, period_ms, 0))
        end = start_ms + period_ms
        self._newest_ms[machine.partition] = max(self._newest_ms.get(machine.partition, 0), end)

    def labelled(self, label: LabelledSpan) -> None:
        """A label has come."""
        self._labels.insert(label)

    # -- what is told -------------------------------------------------------------------------------------------

    def tell(self) -> list[Output]:
        """The metrics of every interval that is over."""
        outputs = []
        for partition, newest in self._newest_ms.items():
            self._told_ms[partition] = newest // self._interval_ms * self._interval_ms - self._interval_ms
        over = [key for key in self._open if key[2] < self._told_ms[key[1]]]
        for key in sorted(over):
            metric = self._metric(key, self._open.pop(key))
            value = messages.encode(metric)
            outputs.append(Output(METRICS, key[1], metric.model.name.encode(), value, metric.interval_end))
        return outputs

    def release(self, partitions: Sequence[int]) -> None:
        """Drop the open intervals of partitions that now belong to another worker."""
        gone = frozenset(partitions)
        self._open = {key: interval for key, interval in self._open.items() if key[1] not in gone}
        for partition in gone:
            self._newest_ms.pop(partition, None)
            self._told_ms.pop(partition, None)

    def _metric(self, key: tuple[str, int, int], interval: _Interval) -> FusionMetric:
        model_hash, partition, start = key
        truth, said, candidates = self._compared(interval, start + 2 * self._interval_ms)
        named = [self._sets[number] for number in candidates.tolist()]
        covered = [int(fault) in one for fault, one in zip(truth, named, strict=True) if one]
        scores = {
            name: None if score is None else round(float(score), _DIGITS)
            for name, score in label_scores(truth, said).items()
        }
        fused = interval.diagnoses - interval.no_evidence

        def mean(total: float) -> float | None:
            return round(total / fused, _DIGITS) if fused else None

        weights = {name: mean(total) for name, total in zip(interval.modalities, interval.weights, strict=True)}
        return FusionMetric(
            id=f"{interval.model.name}:{model_hash[:12]}:{partition}:{start + self._interval_ms}",
            model=interval.model,
            partition=partition,
            interval_start=start,
            interval_end=start + self._interval_ms,
            diagnoses=interval.diagnoses,
            no_evidence=interval.no_evidence,
            confidence_mean=mean(interval.confidence),
            entropy_mean=mean(interval.entropy),
            disagreement_mean=mean(interval.disagreement),
            weights_mean={name: weight for name, weight in weights.items() if weight is not None},
            labelled=len(truth),
            accuracy=scores["accuracy"],
            macro_f1=scores["macro_f1"],
            ari=scores["ari"],
            mutual_information=scores["mutual_information"],
            conditional_entropy=scores["conditional_entropy"],
            candidates_mean=mean(interval.candidates) if interval.candidates else None,
            candidates_coverage=round(sum(covered) / len(covered), _DIGITS) if covered else None,
        )

    def _compared(self, interval: _Interval, known_by_ms: int) -> tuple[Ints, Ints, Ints]:
        """Of all labelled frames what was true and what was said, as numbers of faults, and the number of the set of
        candidates; each frame once."""
        names = {number: name for name, number in self._numbers.items() if number in interval.said}
        truth, said, candidates = ([np.empty(0, np.int64)] for _ in range(3))
        for number, runs in interval.said.items():
            self._settle(number)
            frames = np.concatenate([np.arange(run.first_ms, run.last_ms + 1, run.period_ms) for run in runs])
            counts = [(run.last_ms - run.first_ms) // run.period_ms + 1 for run in runs]
            answers = np.repeat([run.fault for run in runs], counts)
            sets = np.repeat([run.candidates for run in runs], counts)
            # A frame may have been answered more than once; the last answer stands.
            _, last = np.unique(frames[::-1], return_index=True)
            frames, answers, sets = frames[::-1][last], answers[::-1][last], sets[::-1][last]
            true = self._labels.faults_at(names[number], frames, self._fault, known_by_ms)
            truth.append(true[true >= 0])
            said.append(answers[true >= 0])
            candidates.append(sets[true >= 0])
        return np.concatenate(truth), np.concatenate(said), np.concatenate(candidates)

    # -- numbers of things --------------------------------------------------------------------------------------

    def _fault(self, name: str) -> int:
        return self._faults.setdefault(name, len(self._faults))

    def _number(self, machine: DiagnosedMachine) -> int:
        number = self._numbers.get(machine.name)
        if number is None:
            number = self._numbers[machine.name] = len(self._numbers)
            if number >= len(self._partition):
                more = max(64, len(self._partition))
                self._partition = np.concatenate([self._partition, np.zeros(more, np.int64)])
                self._newest_frame = np.concatenate([self._newest_frame, np.full(more, _NEVER)])
                self._run_last = np.concatenate([self._run_last, np.full(more, _NEVER)])
                self._run_fault = np.concatenate([self._run_fault, np.full(more, _NEVER)])
                self._run_candidates = np.concatenate([self._run_candidates, np.full(more, _NEVER)])
                self._run += [None] * more
            self._partition[number] = machine.partition
        return number

    def _settle(self, number: int) -> None:
        """Write down how far a machine's run has come."""
        run = self._run[number]
        if run is not None:
            run.last_ms = int(self._run_last[number])

    def _interval(self, model: ModelRef, modalities: tuple[str, ...], partition: int, start: int) -> _Interval:
        key = (model.hash, partition, start)
        interval = self._open.get(key)
        if interval is None:
            interval = _Interval(model, modalities, weights=[0.0] * len(modalities))
            if start >= self._told_ms.get(partition, 0):
                self._open[key] = interval
        return interval


def _numbered(keys: Ints) -> tuple[list[int], Ints]:
    """The distinct keys in order, and the place of each key among them; quick where there are few."""
    distinct = sorted(set(keys.tolist()))
    return distinct, np.searchsorted(np.array(distinct), keys)
