"""Machines on demand: what a page asks for is read and explained in threads, a few at a time, and kept for a while."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from agents.console.documents.machine import MachineDocument, ReadingStatus
from agents.console.documents.why import WhyDocument
from agents.console.errors import BadRequestError, BusyError, NotFoundError, TookTooLongError
from agents.console.machine.document import MachineView, Span
from agents.console.machine.explainer import Explainer, LoadRunners
from agents.console.machine.history import MachineHistory
from agents.console.machine.logs import OpenLog
from agents.console.machine.normal import NormalState
from agents.console.machine.reader import DEFAULT_FRAMES, HistoryReader, StartOverError
from agents.words import Words
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.engine.machines import is_machine_id
from pipeline.frames import StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import is_time_ms

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much people can ask for."""

    read_seconds: float = 4.0
    """After which a request is answered with what has been read, to be continued by the next."""
    answer_seconds: float = 30.0
    """After which a request fails, as when the broker does not answer."""
    why_seconds: float = 60.0
    fresh_seconds: float = 2.0
    """For how long nothing is read again."""
    reads: int = 2
    """Machines that are read at the same time; more would keep the process from everything else."""
    waiting: int = 8
    """Requests that are being answered or wait for it, at most."""
    why_waiting: int = 4
    machines: int = 16
    """Machines whose history is kept."""
    cells: int = 4_000_000
    """Values of readings of one machine that are kept, about: 8 bytes each."""
    slice_records: int = 20_000
    """A span of more records is read in parts, the newest first."""
    explanations: int = 64
    span_ms: int = 31 * 86_400_000


@dataclass(slots=True)
class _Entry:
    """One machine's history, in a span that follows the newest frame or in one that ends at a certain time."""

    kind: MachineType
    until_ms: int | None
    reader: HistoryReader
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_at: float | None = None
    span_ms: int = 0
    """The longest that was asked for."""


class Machines:
    """Answers what pages ask about single machines."""

    def __init__(
        self,
        open_log: OpenLog,
        profile: PlantProfile,
        *,
        normal: Mapping[str, NormalState],
        load_runners: LoadRunners,
        schemas: Schemas | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`normal` is by machine type; `load_runners` is called with the first explanation, in a thread."""
        self._open_log = open_log
        self._profile = profile
        self._words = Words(profile)
        self._normal = normal
        self._schemas = schemas
        self._limits = limits or Limits()
        self._clock = clock
        self._entries: OrderedDict[tuple[str, int | None], _Entry] = OrderedDict()
        self._asked = 0
        self._stopping = False
        self._explainer = Explainer(open_log, profile, load_runners, schemas)
        self._runners: Mapping[str, StepRunner] | None = None
        self._explanations: OrderedDict[str, WhyDocument] = OrderedDict()
        self._explaining: dict[str, asyncio.Future[WhyDocument]] = {}
        self._reading_threads = ThreadPoolExecutor(self._limits.reads, "console-read")
        self._why_thread = ThreadPoolExecutor(1, "console-why")

    # -- history ----------------------------------------------------------------------------------------------

    async def machine(
        self, machine: str, from_ms: int | None, until_ms: int | None, variables: Sequence[str]
    ) -> MachineDocument:
        """The document of a machine; the newest frames without `from_ms` and `until_ms`.

        Raises NotFoundError, BadRequestError, BusyError, TookTooLongError, or the errors of a log.
        """
        kind = self._profile.type_of(machine)
        if kind is None or machine in self._profile.area_of_utility or not is_machine_id(machine):
            raise NotFoundError(f"{machine[:80]!r} is no machine of plant {self._profile.plant}")
        self._check_span(from_ms, until_ms)
        if unknown := [name for name in variables if name not in kind.variable_names]:
            raise BadRequestError(f"machine type {kind.name} has no variable {unknown[0][:80]!r}", do="choose another")
        if self._asked >= self._limits.waiting:
            raise BusyError("too many machine pages are being loaded", do="try again in some seconds")
        self._asked += 1
        try:
            for _ in range(2):
                entry = self._entry(machine, kind, until_ms)
                async with entry.turn:
                    try:
                        return await self._answered(machine, entry, from_ms, variables)
                    except StartOverError:
                        self._forget(machine, entry)
            raise BusyError("the machine's topics change while they are read", do="try again in some seconds")
        finally:
            self._asked -= 1

    def _check_span(self, from_ms: int | None, until_ms: int | None) -> None:
        for name, time_ms in (("from", from_ms), ("until", until_ms)):
            if time_ms is not None and not is_time_ms(time_ms):
                raise BadRequestError(f"{name} {time_ms} is no time in milliseconds", do="give milliseconds since 1970")
        if from_ms is not None and until_ms is not None and not 0 < until_ms - from_ms <= self._limits.span_ms:
            days = self._limits.span_ms // 86_400_000
            raise BadRequestError(f"the span must end after it begins, and be {days} days at most", do="change it")

    def _entry(self, machine: str, kind: MachineType, until_ms: int | None) -> _Entry:
        key = machine, until_ms
        entry = self._entries.get(key)
        if entry is None:
            history = MachineHistory(machine, kind, self._profile, self._schemas)
            limits = self._limits
            reader = HistoryReader(history, self._profile, max_cells=limits.cells, slice_records=limits.slice_records)
            entry = _Entry(kind, until_ms, reader)
            self._entries[key] = entry
            while len(self._entries) > self._limits.machines:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return entry

    def _forget(self, machine: str, entry: _Entry) -> None:
        if self._entries.get((machine, entry.until_ms)) is entry:
            del self._entries[machine, entry.until_ms]

    async def _answered(
        self, machine: str, entry: _Entry, from_ms: int | None, variables: Sequence[str]
    ) -> MachineDocument:
        limits = self._limits

        def answer() -> MachineDocument:
            self._read(entry, from_ms)
            return self._document(entry, from_ms, variables)

        try:
            return await _in_thread(self._reading_threads, answer, limits.answer_seconds)
        except TimeoutError:
            # The thread may yet change this history: nobody else may have it.
            self._forget(machine, entry)
            raise TookTooLongError(
                f"no record of {machine} arrived within {limits.answer_seconds:.0f} s", do="check the broker"
            ) from None
        except BaseException:
            self._forget(machine, entry)
            raise

    def _read(self, entry: _Entry, from_ms: int | None) -> None:
        """Read what is new and what is missing, for a limited time."""
        reader, now = entry.reader, self._clock()
        is_there = reader.from_ms is not None and (from_ms is None or reader.from_ms <= from_ms or reader.is_full)
        is_fresh = entry.read_at is not None and now - entry.read_at < self._limits.fresh_seconds
        if is_fresh and is_there and reader.is_complete:
            return
        with self._open_log() as log:
            until = self._clock() + self._limits.read_seconds
            reader.read(log, from_ms, entry.until_ms, lambda: self._stopping or self._clock() > until)
        entry.read_at = self._clock()

    def _document(self, entry: _Entry, from_ms: int | None, variables: Sequence[str]) -> MachineDocument:
        reader, history = entry.reader, entry.reader.history
        span = _span(reader, from_ms, entry.until_ms)
        said = "" if reader.is_complete else "older records are still being read"
        if reader.is_full:
            said = "older records are left out: there are too many readings"
        elif history.newest is None and reader.is_complete:
            said = "there is no diagnosis of this machine in this span"
        covered_ms = span.until_ms if reader.from_ms is None else reader.from_ms
        status = ReadingStatus(reader.is_complete, covered_ms, history.unreadable, said)
        view = MachineView(history, self._words, self._normal.get(entry.kind.name))
        document = view.document(span, status, variables)
        # A page that follows the newest frame for hours asks for the same length of time, and no longer for the rest.
        entry.span_ms = max(entry.span_ms, span.until_ms - span.from_ms)
        reader.drop_before(span.until_ms - 2 * entry.span_ms)
        return document

    # -- why --------------------------------------------------------------------------------------------------

    async def why(self, diagnosis_id: str) -> WhyDocument:
        """Why a diagnosis says what it says, or that which raised an alarm; the same one is explained once.

        Raises BadRequestError, NotFoundError, ConflictError, BusyError, TookTooLongError, or the errors of a log.
        """
        if (kept := self._explanations.get(diagnosis_id)) is not None:
            self._explanations.move_to_end(diagnosis_id)
            return kept
        running = self._explaining.get(diagnosis_id)
        if running is None:
            if len(self._explaining) >= self._limits.why_waiting:
                raise BusyError("other diagnoses are being explained", do="try again in some seconds")
            running = asyncio.get_running_loop().run_in_executor(self._why_thread, self._explain, diagnosis_id)
            self._explaining[diagnosis_id] = running
            running.add_done_callback(lambda done: self._explained(diagnosis_id, done))
        try:
            return await asyncio.wait_for(asyncio.shield(running), self._limits.why_seconds)
        except TimeoutError:
            raise TookTooLongError(
                f"the explanation takes longer than {self._limits.why_seconds:.0f} s",
                do="ask again: it may be ready by then",
            ) from None

    def _explain(self, diagnosis_id: str) -> WhyDocument:
        if self._runners is None:
            self._runners = self._explainer.load_runners()
        until = self._clock() + self._limits.why_seconds
        return self._explainer.explain(
            diagnosis_id, self._runners, lambda: math.inf if self._stopping else self._clock(), until
        )

    def _explained(self, diagnosis_id: str, done: asyncio.Future[WhyDocument]) -> None:
        self._explaining.pop(diagnosis_id, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._explanations[diagnosis_id] = done.result()
        while len(self._explanations) > self._limits.explanations:
            self._explanations.popitem(last=False)

    async def stop(self) -> None:
        """Wait for nothing that still runs, which ends soon; what has not begun does not begin."""
        self._stopping = True
        self._reading_threads.shutdown(wait=False, cancel_futures=True)
        self._why_thread.shutdown(wait=False, cancel_futures=True)


async def _in_thread(threads: ThreadPoolExecutor, call: Callable[[], _Result], seconds: float) -> _Result:
    """Raises TimeoutError after so long, while the thread goes on."""
    running = asyncio.get_running_loop().run_in_executor(threads, call)
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.wait_for(asyncio.shield(running), seconds)


def _span(reader: HistoryReader, from_ms: int | None, until_ms: int | None) -> Span:
    history = reader.history
    if until_ms is None:
        times = history.readings.rows().times
        newest_ms = reader.newest_ms if history.newest is None else history.newest.frame_end
        until_ms = max(newest_ms, int(times[-1]) if len(times) else 0, from_ms or 0)
    if from_ms is None:
        from_ms = max(0, until_ms - DEFAULT_FRAMES * history.machine_type.frame_period_ms)
    return Span(from_ms, until_ms)
