"""Event time: readings and texts of many machines laid on the frame grid, in whole columns at a time.

All machines here are of one type. Every rule is decided record by record in arrival order, but computed for a
whole batch at once; so how the input is cut into batches changes nothing (tests/pipeline/test_alignment.py proves it).

    newest time of each source, less its allowed disorder     = the source's watermark
    least watermark of the sources that hold frames back      = the machine's watermark
    last grid point at or before the machine's watermark      = closed until; only ever grows
    a reading whose frame ends at or before "closed until"    = late
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.last_values import ADVANCE_VALUES
from pipeline.alignment.row_store import RowStore
from pipeline.arrays import NEVER_MS, Bools, Floats, Ints, Matrix
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType
from pipeline.errors import StateError
from pipeline.frames import EventText, Frames, Resets
from pipeline.wire.records import Record

Scalar = TypeVar("Scalar", bound=np.generic)

_GROUP_SHIFT = np.int64(2**43)
"""Above any time (messages.MAX_TIME_MS), so that one running maximum serves all machines of a batch."""

MAX_WAITING_TEXTS = 64
"""Texts that one machine may hold for frames to come; the oldest gives way."""

MAX_SEEN_TEXTS = 1_024
"""Texts of one machine that are remembered so that they count once; a flood makes the oldest forgotten."""

_FAR_MS = np.int64(2**42)


@dataclass(slots=True)
class ReadingBatch:
    """n readings in arrival order; variables that a reading does not give are NaN."""

    slots: Ints  # (n,)
    time_ms: Ints  # (n,)
    source: Ints  # (n,) index into the type's sources
    arrival_ms: Ints  # (n,) the records' own time stamps
    order: Ints  # (n,) position among all records of the input, texts included
    values: Matrix  # (n, V)

    def rows(self, rows: Ints | slice) -> ReadingBatch:
        """Some of the readings."""
        return ReadingBatch(
            self.slots[rows],
            self.time_ms[rows],
            self.source[rows],
            self.arrival_ms[rows],
            self.order[rows],
            self.values[rows],
        )


@dataclass(frozen=True, slots=True)
class ArrivedText:
    """A text with its machine's slot and its position among all records of the input."""

    slot: int
    order: int
    text: EventText


@dataclass(slots=True)
class LateReading:
    """Which reading of the batch came too late, and how far its machine's frames had closed by then."""

    row: int
    frame_end_ms: int
    closed_ms: int


@dataclass(slots=True)
class Aligned:
    """What a batch led to."""

    rounds: list[Frames] = field(default_factory=list)
    late: list[LateReading] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # rows that did not fit into their machine's buffer
    duplicate_readings: int = 0
    duplicate_texts: list[ArrivedText] = field(default_factory=list)
    expired_texts: list[tuple[int, EventText]] = field(default_factory=list)  # (slot, text)
    fell_idle: list[int] = field(default_factory=list)  # slots of machines of which a source fell idle


class Aligner:
    """Buffers, watermarks and last known values of all machines of one type, one slot each."""

    def __init__(self, kind: MachineType, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._kind = kind
        self._notify = notify
        self._period = kind.frame_period_ms
        self._sources = [kind.sources[name] for name in kind.source_names]
        self._disorder = np.array([source.allowed_disorder_ms for source in self._sources], np.int64)
        self._holds_back = np.array([source.holds_frames for source in self._sources], np.bool_)
        self._idle_after = np.array([kind.idle_after_ms(name) for name in kind.source_names], np.int64)
        self._hold = np.array([kind.hold_ms(variable.source) for variable in kind.variables], np.int64)
        self._ttl_ms = kind.text_ttl_frames * self._period
        self._rows = RowStore(len(kind.variables))
        self._columns: dict[str, NDArray[np.generic]] = {}
        self._size = 0
        self.readings_in_frames = 0
        self._texts: dict[int, list[tuple[int, EventText]]] = {}  # slot -> [(first frame that may take it, text)]
        self._seen_texts: dict[int, dict[str, int]] = {}  # slot -> id -> time
        self.reserve(64)

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        ADVANCE_VALUES.load(self._notify)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        if slots <= self._size:
            return
        size = max(slots, 2 * self._size)
        sources, variables = len(self._sources), len(self._kind.variables)
        fresh: dict[str, NDArray[np.generic]] = {
            "newest": np.full((size, sources), -1, np.int64),
            "arrived": np.full((size, sources), NEVER_MS, np.int64),
            "active": np.ones((size, sources), np.bool_),
            "seen": np.zeros((size, sources), np.bool_),
            "closed": np.full(size, -1, np.int64),
            "next": np.full(size, -1, np.int64),
            "data": np.full(size, -1, np.int64),
            "announced": np.full(size, -1, np.int64),
            "offline": np.zeros(size, np.bool_),
            "reset": np.full(size, Resets.START, np.int64),
            "value": np.full((size, variables), np.nan, np.float32),
            "value_ms": np.full((size, variables), NEVER_MS, np.int64),
        }
        self._blank = {name: column[-1:].copy() for name, column in fresh.items()}
        for name, column in self._columns.items():
            fresh[name][: self._size] = column
        self._columns = fresh
        self._newest: Ints = fresh["newest"]  # type: ignore[assignment]
        self._arrived: Ints = fresh["arrived"]  # type: ignore[assignment]
        self._active: Bools = fresh["active"]  # type: ignore[assignment]
        self._seen: Bools = fresh["seen"]  # type: ignore[assignment]
        self._closed: Ints = fresh["closed"]  # type: ignore[assignment]
        self._next: Ints = fresh["next"]  # type: ignore[assignment]
        self._data: Ints = fresh["data"]  # type: ignore[assignment]
        self._announced: Ints = fresh["announced"]  # type: ignore[assignment]
        self._offline: Bools = fresh["offline"]  # type: ignore[assignment]
        self._reset: Ints = fresh["reset"]  # type: ignore[assignment]
        self._value: Floats = fresh["value"]  # type: ignore[assignment]
        self._value_ms: Ints = fresh["value_ms"]  # type: ignore[assignment]
        self._rows.reserve_machines(size)
        self._size = size

    # -- input ------------------------------------------------------------------------------------------------

    def push(self, batch: ReadingBatch, texts: list[ArrivedText]) -> Aligned:
        """Take readings and texts in; give back every frame that closed, in rounds, oldest first."""
        result = Aligned()
        limit = self._kind.buffer_limit_rows
        if len(batch.slots) > 1 and self._rows.could_overflow(batch.slots, limit):
            # Whether a reading still fits depends on the frames closed just before it: decide one at a time.
            for row in range(len(batch.slots)):
                until = int(batch.order[row])
                earlier = [text for text in texts if text.order < until]
                texts = [text for text in texts if text.order >= until]
                one = self.push(batch.rows(slice(row, row + 1)), earlier)
                _append(result, one, row)
            _append(result, self.push(batch.rows(slice(0)), texts), 0)
            return result
        touched = np.empty(0, np.int64)
        closed_after: Ints = touched
        by_slot: Ints = touched
        if len(batch.slots):
            by_slot = np.argsort(batch.slots, kind="stable")
            touched, closed_after = self._take_readings(batch, by_slot, result)
        for text in texts:
            self._take_text(text, batch, by_slot, closed_after, result)
        if len(touched):
            self._advance(touched, closed_after, batch.slots[by_slot])
            self._close(touched, result)
        return result

    def _take_readings(self, batch: ReadingBatch, by_slot: Ints, result: Aligned) -> tuple[Ints, Ints]:
        """Buffer what is not late; returns the touched slots and, per sorted row, "closed until" after it."""
        slots, times, source = batch.slots[by_slot], batch.time_ms[by_slot], batch.source[by_slot]
        first = np.empty(len(slots), np.bool_)
        first[0] = True
        np.not_equal(slots[1:], slots[:-1], out=first[1:])
        starts = np.flatnonzero(first)
        touched = slots[starts]
        base = (np.cumsum(first) - 1) * _GROUP_SHIFT

        arrival = batch.arrival_ms[by_slot]
        is_silent = ~self._active[touched].any(axis=1)
        if is_silent.any():
            # A machine that comes back brings all its sources back: a gateway sends them one after the other.
            silent, back = touched[is_silent], arrival[starts][is_silent][:, None]
            self._active[silent] = self._seen[silent]
            self._arrived[silent] = np.where(self._seen[silent], back, self._arrived[silent])
            self._offline[silent] = False

        machine_watermark = np.full(len(slots), _FAR_MS, np.int64)
        for index in range(len(self._sources)):
            mine = source == index
            newest = np.where(mine, times, -1) + base
            newest[starts] = np.maximum(newest[starts], self._newest[touched, index] + base[starts])
            newest = np.maximum.accumulate(newest) - base
            self._newest[touched, index] = _last_of_group(newest, starts)
            spoke = np.where(mine, 1, 0) + base
            spoke[starts] = np.maximum(spoke[starts], self._active[touched, index] + base[starts])
            active = np.maximum.accumulate(spoke) > base
            self._active[touched, index] = _last_of_group(active, starts)
            self._seen[touched, index] |= _last_of_group(newest, starts) >= 0
            if self._holds_back[index]:
                watermark = np.where(newest >= 0, newest - self._disorder[index], -1)
                np.minimum(machine_watermark, np.where(active, watermark, _FAR_MS), out=machine_watermark)
        np.maximum.at(self._arrived, (slots, source), arrival)
        fresh = self._arrived[touched] == NEVER_MS
        if fresh.any():
            # Sources that have not spoken yet hold frames back until they have been awaited for their idle time.
            began = np.broadcast_to(arrival[starts][:, None], fresh.shape)
            self._arrived[touched] = np.where(fresh, began, self._arrived[touched])

        closed = machine_watermark // self._period * self._period
        closed[machine_watermark == _FAR_MS] = -1  # only sources that hold nothing back have spoken
        closed = np.maximum(closed, -1) + base
        closed[starts] = np.maximum(closed[starts], self._closed[touched] + base[starts])
        closed = np.maximum.accumulate(closed) - base
        before = np.empty_like(closed)
        before[1:] = closed[:-1]
        before[starts] = self._closed[touched]

        frame_end = (times // self._period + 1) * self._period
        late = frame_end <= before
        if late.any():
            for position in np.flatnonzero(late).tolist():
                row = int(by_slot[position])
                result.late.append(LateReading(row, int(frame_end[position]), int(before[position])))
            result.late.sort(key=lambda reading: reading.row)
        keep = by_slot[~late]
        refused = self._rows.add(
            batch.slots[keep], batch.time_ms[keep], batch.values[keep], self._kind.buffer_limit_rows
        )
        result.refused.extend(keep[refused].tolist())
        return touched, closed

    def _take_text(
        self, arrived: ArrivedText, batch: ReadingBatch, by_slot: Ints, closed_after: Ints, result: Aligned
    ) -> None:
        """Put a text before the first frame that may take it: its own, or the next if that has closed."""
        slot, text = arrived.slot, arrived.text
        closed = int(self._closed[slot])
        if len(by_slot):
            slots = batch.slots[by_slot]
            begin, end = np.searchsorted(slots, [slot, slot + 1])
            earlier = int(np.searchsorted(batch.order[by_slot[begin:end]], arrived.order))
            if earlier:
                closed = int(closed_after[begin + earlier - 1])
        seen = self._seen_texts.setdefault(slot, {})
        if text.id in seen:
            result.duplicate_texts.append(arrived)
            return
        for old in [id_ for id_, time_ms in seen.items() if time_ms < text.time_ms - self._ttl_ms]:
            del seen[old]
        seen[text.id] = text.time_ms
        if len(seen) > MAX_SEEN_TEXTS:
            del seen[next(iter(seen))]
        own = text.time_ms // self._period * self._period
        if own + self._period <= closed:
            text = replace(text, late=True)
        waiting = self._texts.setdefault(slot, [])
        waiting.append((max(own, closed), text))
        waiting.sort(key=lambda entry: (entry[1].time_ms, entry[1].id))
        if len(waiting) > MAX_WAITING_TEXTS:
            result.expired_texts.append((slot, waiting.pop(0)[1]))

    def _advance(self, touched: Ints, closed_after: Ints, sorted_slots: Ints) -> None:
        ends = np.searchsorted(sorted_slots, touched, side="right") - 1
        self._closed[touched] = closed_after[ends]

    # -- time without data ------------------------------------------------------------------------------------

    def tick(self, now_ms: int, slots: Ints) -> tuple[Aligned, list[tuple[int, int, bool]]]:
        """Time passes for these machines: sources fall idle, and silent machines are announced.

        Returns what closed, and `(slot, frame start, offline)` for every frame period that a silent machine let
        pass. Such a frame is only announced, not closed: if its readings come after all (a gateway that had
        buffered them), they are used, and the frame's diagnosis has the next revision number.
        """
        result = Aligned()
        slots = slots[(self._newest[slots] >= 0).any(axis=1)]
        if not len(slots):
            return result, []
        idle = self._active[slots] & (now_ms - self._arrived[slots] > self._idle_after)
        changed = idle.any(axis=1)
        result.fell_idle.extend(slots[changed].tolist())
        self._active[slots] &= ~idle
        alive = self._active[slots].any(axis=1)
        moved = slots[changed & alive]
        if len(moved):
            holds = self._active[moved] & self._holds_back
            watermark = np.where(self._newest[moved] >= 0, self._newest[moved] - self._disorder, -1)
            least = np.where(holds, watermark, _FAR_MS).min(axis=1)
            closed = np.where(least == _FAR_MS, -1, least // self._period * self._period)
            self._closed[moved] = np.maximum(self._closed[moved], closed)
            self._close(np.sort(moved), result)
        return result, self._announce(now_ms, slots[~alive])

    def _announce(self, now_ms: int, silent: Ints) -> list[tuple[int, int, bool]]:
        announcements: list[tuple[int, int, bool]] = []
        offline_after = int(self._idle_after.max()) + self._kind.max_gap_frames * self._period
        for slot in silent[~self._offline[silent]].tolist():
            last_arrival = int(self._arrived[slot][self._seen[slot]].max())
            reach = int(self._newest[slot].max()) + min(now_ms - last_arrival, offline_after)
            start = int(max(self._announced[slot], self._closed[slot], self._next[slot]))
            if start < 0:
                start = int(self._newest[slot].max()) // self._period * self._period
            gone = now_ms - last_arrival >= offline_after
            if gone:
                reach += self._period  # at least one frame says that the machine is offline
            while start + self._period <= reach:
                last = start + 2 * self._period > reach
                announcements.append((slot, start, gone and last))
                start += self._period
            self._announced[slot] = start
            self._offline[slot] = gone
        return announcements

    def finish(self, slots: Ints, reason: Resets) -> Aligned:
        """Close everything that these machines hold, and start them anew with their next reading."""
        result = Aligned()
        slots = np.sort(slots)
        newest = self._newest[slots].max(axis=1)
        until = np.where(newest >= 0, (newest // self._period + 1) * self._period, self._closed[slots])
        self._closed[slots] = np.maximum(self._closed[slots], until)
        self._close(slots, result)
        self._reset[slots] = reason
        return result

    def reset(self, slots: Ints, reason: Resets) -> None:
        """The state of these machines is reset before their next frame."""
        self._reset[slots] = reason

    # -- closing frames ---------------------------------------------------------------------------------------

    def _close(self, slots: Ints, result: Aligned) -> None:
        """Turn the buffered readings of these slots (sorted) into all frames that have ended by now."""
        period = self._period
        slots = slots[self._closed[slots] > self._next[slots]]
        if not len(slots):
            return
        row_slots, times, values = self._rows.take_until(slots, self._closed[slots], period)
        duplicates = _drop_repeats(row_slots, times, values)
        result.duplicate_readings += duplicates
        self.readings_in_frames += len(times) - duplicates
        frame_of_row = times // period * period
        if len(times):
            first = np.empty(len(times), np.bool_)
            first[0] = True
            first[1:] = (row_slots[1:] != row_slots[:-1]) | (frame_of_row[1:] != frame_of_row[:-1])
            starts = np.flatnonzero(first)
            aggregated, observed_ms = self._aggregate(times, values, starts)
            group_slots, group_frames = row_slots[starts], frame_of_row[starts]
        else:
            group_slots = group_frames = np.empty(0, np.int64)
            aggregated = np.empty((0, values.shape[1]))
            observed_ms = np.empty((0, values.shape[1]), np.int64)
        self._emit(slots, group_slots, group_frames, aggregated, observed_ms, result)

    def _aggregate(self, times: Ints, values: Matrix, starts: Ints) -> tuple[Matrix, Ints]:
        """Per frame and variable, its aggregate and when it was last observed; NaN and NEVER_MS where never."""
        if len(starts) == len(times):  # one reading a frame
            known = ~np.isnan(values)
            aggregated = values.copy()
            last_ms = np.where(known, times[:, None], NEVER_MS)
        else:
            known = ~np.isnan(values)
            index = np.where(known, np.arange(len(times))[:, None], -1)
            last = np.maximum.reduceat(index, starts, axis=0)
            aggregated = np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=0), np.nan)
            last_ms = np.where(last >= 0, times[np.maximum(last, 0)], NEVER_MS)
        for how in {variable.aggregation for variable in self._kind.variables} - {"last"}:
            columns = [i for i, variable in enumerate(self._kind.variables) if variable.aggregation == how]
            part, some = values[:, columns], known[:, columns]
            count = np.add.reduceat(some.astype(np.float64), starts, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                if how == "min":
                    out = np.minimum.reduceat(np.where(some, part, np.inf), starts, axis=0)
                elif how == "max":
                    out = np.maximum.reduceat(np.where(some, part, -np.inf), starts, axis=0)
                elif how == "count":
                    out = count
                else:
                    out = np.add.reduceat(np.where(some, part, 0.0), starts, axis=0) / count
                    if how == "std":
                        members = np.diff(np.append(starts, len(times)))
                        apart = np.where(some, part - np.repeat(out, members, axis=0), 0.0)
                        out = np.sqrt(np.add.reduceat(apart * apart, starts, axis=0) / count)
            aggregated[:, columns] = np.where(count > 0, out, np.nan)
        return aggregated, last_ms

    def _emit(
        self, slots: Ints, group_slots: Ints, group_frames: Ints, aggregated: Matrix, observed_ms: Ints, result: Aligned
    ) -> None:
        """Lay frames with data and the masked ones between them into rounds, one frame a machine each."""
        period, gap = self._period, self._kind.max_gap_frames * self._period
        data = self._data[slots]
        # One entry a frame with data, and one a slot for the masked frames behind its last data.
        entry_slot = np.concatenate([group_slots, slots])
        entry_frame = np.concatenate([group_frames, self._closed[slots]])
        entry_group = np.concatenate([np.arange(len(group_slots)), np.full(len(slots), -1)])
        order = np.lexsort((entry_frame, entry_slot))
        entry_slot, entry_frame, entry_group = entry_slot[order], entry_frame[order], entry_group[order]
        first = np.empty(len(order), np.bool_)
        first[0] = True
        first[1:] = entry_slot[1:] != entry_slot[:-1]
        previous = np.empty(len(order), np.int64)
        previous[1:] = entry_frame[:-1]
        previous[first] = data
        begin = np.maximum(previous + period, self._next[entry_slot])
        until = np.minimum(previous + gap + period, entry_frame)  # masked frames lie in [begin, until)
        masked = np.where(previous >= 0, np.maximum(until - begin, 0) // period, 0)
        is_data = entry_group >= 0
        has_gap = is_data & (previous >= 0) & (entry_frame - previous > gap + period)

        count = masked + is_data
        total = int(count.sum())
        last_data = entry_frame[is_data]
        if len(last_data):
            self._data[entry_slot[is_data]] = last_data  # sorted by frame: the last write is the newest
        self._next[slots] = np.where(self._data[slots] >= 0, self._closed[slots], self._next[slots])
        if not total:
            return
        entry = np.repeat(np.arange(len(order)), count)
        within = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
        frame_slot = entry_slot[entry]
        in_gap = within < masked[entry]
        frame_start = np.where(in_gap, begin[entry] + within * period, entry_frame[entry])
        frame_group = np.where(in_gap, -1, entry_group[entry])
        reset = np.where(~in_gap & has_gap[entry], int(Resets.GAP), int(Resets.NONE))
        slot_first = np.empty(total, np.bool_)
        slot_first[0] = True
        slot_first[1:] = frame_slot[1:] != frame_slot[:-1]
        slot_starts = np.flatnonzero(slot_first)
        asked = self._reset[frame_slot[slot_starts]]
        reset[slot_starts] = np.where(asked != Resets.NONE, asked, reset[slot_starts])
        self._reset[frame_slot[slot_starts]] = Resets.NONE

        round_of = np.arange(total) - np.repeat(slot_starts, np.diff(np.append(slot_starts, total)))
        by_round = np.argsort(round_of, kind="stable")
        bounds = np.flatnonzero(np.diff(round_of[by_round], prepend=-1, append=round_of.max() + 1))
        for low, high in pairwise(bounds.tolist()):
            rows = by_round[low:high]
            result.rounds.append(
                self._frames(
                    frame_slot[rows], frame_start[rows], frame_group[rows], reset[rows], aggregated, observed_ms, result
                )
            )

    def _frames(
        self,
        slots: Ints,
        start: Ints,
        group: Ints,
        reset: Ints,
        aggregated: Matrix,
        observed_ms: Ints,
        result: Aligned,
    ) -> Frames:
        """One round: observed values, and last known ones within their hold limit."""
        shape = len(slots), len(self._kind.variables)
        frames = Frames(
            slots=slots,
            start_ms=start,
            period_ms=self._period,
            values=np.empty(shape, np.float32),
            observed=np.empty(shape, np.bool_),
            age_ms=np.empty(shape, np.int64),
            reset=reset != Resets.NONE,
            reset_reason=reset,
            revision=(start < self._announced[slots]).astype(np.int64),
        )
        ADVANCE_VALUES.load(self._notify)(
            *(slots, frames.end_ms, frames.reset, group, aggregated, observed_ms, self._hold),
            *(self._value, self._value_ms, frames.values, frames.observed, frames.age_ms),
        )
        if self._texts:
            self._join_texts(frames, result)
        return frames

    def _join_texts(self, frames: Frames, result: Aligned) -> None:
        holders = np.fromiter(self._texts, np.int64, len(self._texts))
        for row in np.flatnonzero(np.isin(frames.slots, holders)).tolist():
            slot, start = int(frames.slots[row]), int(frames.start_ms[row])
            waiting = self._texts[slot]
            stay = []
            for first_frame, text in waiting:
                if first_frame > start:
                    stay.append((first_frame, text))
                elif start + self._period - text.time_ms > self._ttl_ms:
                    result.expired_texts.append((slot, text))
                else:
                    frames.texts.append((row, text))
            if stay:
                self._texts[slot] = stay
            else:
                del self._texts[slot]

    # -- what others may know ---------------------------------------------------------------------------------

    def closed_until_ms(self, slot: int) -> int:
        """Up to where the frames of a machine have closed; negative before the first."""
        return int(self._closed[slot])

    def has_announced_silence(self, slot: int, since_ms: int) -> bool:
        """Whether the silence of a machine whose newest reading arrived at `since_ms` is announced to its end."""
        return bool(self._offline[slot]) and int(self._arrived[slot].max()) >= since_ms

    def newest_ms(self, slots: Ints) -> Ints:
        """The newest event time of each machine, (B,); negative where there is none."""
        newest: Ints = self._newest[slots].max(axis=1)
        return newest

    # -- state ------------------------------------------------------------------------------------------------

    def save(self, slots: Ints) -> list[dict[str, object]]:
        """Everything about each of these machines, as plain values and bytes."""
        states: list[dict[str, object]] = [{} for _ in slots]
        for name, column in self._columns.items():
            raw = column[slots].tobytes()
            size = len(raw) // len(slots)
            for index, state in enumerate(states):
                state[name] = raw[index * size : (index + 1) * size]
        rows = self._rows.of_machines(slots)
        for slot, state, (times, values) in zip(slots.tolist(), states, rows, strict=True):
            state["row_times"], state["row_values"] = times.tobytes(), values.tobytes()
            state["texts"] = [
                [first, t.id, t.time_ms, t.text, t.source, t.severity, t.late, t.record]
                for first, t in self._texts.get(slot, [])
            ]
            state["seen_texts"] = self._seen_texts.get(slot, {})
        return states

    def load(self, slot: int, state: dict[str, object]) -> None:
        """Put back what `save` gave; raises StateError if it belongs to another profile."""
        self.drop(slot)
        try:
            for name, column in self._columns.items():
                raw = state[name]
                assert isinstance(raw, bytes)
                column[slot] = np.frombuffer(raw, column.dtype).reshape(column.shape[1:])
            times, values = state["row_times"], state["row_values"]
            texts, seen = state["texts"], state["seen_texts"]
            assert isinstance(times, bytes) and isinstance(values, bytes)
            assert isinstance(texts, list) and isinstance(seen, dict)
            time_ms = np.frombuffer(times, np.int64)
            matrix = np.frombuffer(values, np.float64).reshape(len(time_ms), len(self._kind.variables))
        except (KeyError, ValueError, AssertionError) as error:
            self.drop(slot)
            raise StateError(f"saved alignment state does not fit machine type {self._kind.name}: {error!r}") from error
        self._rows.add(np.full(len(time_ms), slot, np.int64), time_ms, matrix, len(time_ms))
        if texts:
            self._texts[slot] = [(first, _text_from(saved)) for first, *saved in texts]
        if seen:
            self._seen_texts[slot] = dict(seen)

    def drop(self, slot: int) -> None:
        """Forget a machine; its slot can serve another."""
        for name, column in self._columns.items():
            column[slot] = self._blank[name][0]
        self._rows.drop(slot)
        self._texts.pop(slot, None)
        self._seen_texts.pop(slot, None)


def _last_of_group(column: NDArray[Scalar], starts: Ints) -> NDArray[Scalar]:
    last: NDArray[Scalar] = column[np.append(starts[1:], len(column)) - 1]
    return last


def _drop_repeats(slots: Ints, times: Ints, values: Matrix) -> int:
    """Blank values given before for the same machine, time and variable; counts readings that gave nothing new.

    Rows are sorted by machine and time, and by arrival among equals: the first to arrive stands.
    """
    same = np.flatnonzero((slots[1:] == slots[:-1]) & (times[1:] == times[:-1])) + 1
    repeats = 0
    given: NDArray[np.bool_] | None = None
    previous = -1
    for row in same.tolist():
        if previous != row - 1 or given is None:
            given = ~np.isnan(values[row - 1])
        new = ~np.isnan(values[row]) & ~given
        repeats += not new.any()
        values[row, ~new] = np.nan
        given |= new
        previous = row
    return repeats


def _text_from(saved: list[Any]) -> EventText:
    id_, time_ms, text, source, severity, late, record = saved
    topic, partition, offset, timestamp_ms, key, value, headers = record
    pairs = tuple((name, content) for name, content in headers)
    return EventText(
        id_, time_ms, text, source, severity, late, Record(topic, partition, offset, timestamp_ms, key, value, pairs)
    )


def _append(result: Aligned, more: Aligned, row: int) -> None:
    result.rounds.extend(more.rounds)
    result.late.extend(LateReading(row, late.frame_end_ms, late.closed_ms) for late in more.late)
    result.refused.extend(row for _ in more.refused)
    result.duplicate_readings += more.duplicate_readings
    result.duplicate_texts.extend(more.duplicate_texts)
    result.expired_texts.extend(more.expired_texts)
