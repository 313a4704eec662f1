"""Event time: readings and texts of many machines laid on the frame grid, in whole columns at a time.

All machines here are of one type. Every rule is decided record by record in arrival order, but computed for a
whole batch at once; so how the input is cut into batches changes nothing (tests/pipeline/test_alignment.py proves it).

    newest time of each source, less its allowed disorder     = the source's watermark
    minimum watermark of the sources that hold frames back    = the machine's watermark
    last grid point at or before the machine's watermark      = closed until; only ever grows
    a reading whose frame ends at or before "closed until"    = late
"""

from __future__ import annotations

import numpy as np

from pipeline.alignment.aggregation import aggregate, drop_repeats, mark_unchanged, newest_heard
from pipeline.alignment.batches import Aligned, ArrivedText, LateReading, ReadingBatch
from pipeline.alignment.last_values import ADVANCE_VALUES, ValueLimits
from pipeline.alignment.layout import Layout, first_of_group, lay_out
from pipeline.alignment.machine_states import machine_states
from pipeline.alignment.row_store import RowStore
from pipeline.alignment.running_maximum import RunningMaximum, last_of_group
from pipeline.alignment.slot_table import SlotTable
from pipeline.alignment.waiting_texts import WaitingTexts
from pipeline.arrays import NEVER_MS, Ints, Matrix
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType
from pipeline.errors import StateError
from pipeline.frames import Frames, Resets
from pipeline.wire.messages import is_time_ms

_FAR_MS = np.int64(2**42)
_NO_ROWS: Ints = np.empty(0, np.int64)


class Aligner:
    """Buffers, watermarks and last known values of all machines of one type, one slot each."""

    def __init__(self, machine_type: MachineType, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._notify = notify
        self._type = machine_type
        self._period_ms = machine_type.frame_period_ms
        names = machine_type.source_names
        sources = [machine_type.sources[name] for name in names]
        self._disorder_ms = np.array([source.allowed_disorder_ms for source in sources], np.int64)
        self._on_change = np.array([source.on_change for source in sources], np.bool_)
        # Where some sources send regularly, those that report changes hold nothing back.
        self._by_time = machine_type.closes_by_time
        self._holds_back = np.array([source.holds_frames for source in sources], np.bool_)
        if not self._by_time:
            self._holds_back &= ~self._on_change
        self._gap_frames = machine_type.gap_frames
        self._idle_after_ms = np.array([machine_type.idle_after_ms(name) for name in names], np.int64)
        self._limits = ValueLimits.of(machine_type)
        self._rows = RowStore(len(machine_type.variables))
        self._texts = WaitingTexts(self._period_ms, machine_type.text_ttl_frames * self._period_ms)
        self._blank = SlotTable.blank(1, len(sources), len(machine_type.variables))
        self._table = self._blank
        self.readings_in_frames = 0
        self.reserve(64)

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        ADVANCE_VALUES.load(self._notify)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        if slots > len(self._table):
            self._table = self._table.grown(max(slots, 2 * len(self._table)))
            self._rows.reserve_machines(len(self._table))

    # -- input ------------------------------------------------------------------------------------------------

    def push(self, batch: ReadingBatch, texts: list[ArrivedText]) -> Aligned:
        """Take readings and texts in; give back every frame that closed, in rounds, oldest first."""
        result = Aligned()
        if len(batch) > 1 and self._rows.could_overflow(batch.slots, self._type.buffer_limit_rows):
            # Whether a reading still fits depends on the frames closed just before it: decide one at a time.
            for row in range(len(batch)):
                until = int(batch.order[row])
                earlier = [text for text in texts if text.order < until]
                texts = [text for text in texts if text.order >= until]
                result.extend(self.push(batch.rows(slice(row, row + 1)), earlier), row)
            result.extend(self.push(batch.rows(slice(0)), texts), 0)
            return result
        touched, by_slot, closed_after = _NO_ROWS, _NO_ROWS, _NO_ROWS
        if len(batch):
            by_slot = np.argsort(batch.slots, kind="stable")
            touched, closed_after = self._take_readings(batch, by_slot, result)
        for text in texts:
            self._texts.add(text, self._closed_before(text, batch, by_slot, closed_after), result)
        if len(touched):
            ends = np.searchsorted(batch.slots[by_slot], touched, side="right") - 1
            self._table.closed[touched] = closed_after[ends]
            self._close(touched, result)
        return result

    def _take_readings(self, batch: ReadingBatch, by_slot: Ints, result: Aligned) -> tuple[Ints, Ints]:
        """Buffer what is not late; returns the touched slots and, per sorted row, "closed until" after it."""
        table, period_ms = self._table, self._period_ms
        slots, times, source = batch.slots[by_slot], batch.time_ms[by_slot], batch.source[by_slot]
        arrival = batch.arrival_ms[by_slot]
        first = first_of_group(slots)
        starts = np.flatnonzero(first)
        touched = slots[starts]
        running = RunningMaximum(first, starts)
        self._wake(touched, arrival[starts])
        watermark, own_newest = self._watermarks(touched, times, source, running)
        self._note_arrivals(slots, touched, source, arrival, starts)

        closed = watermark // period_ms * period_ms
        closed[watermark == _FAR_MS] = -1  # only sources that hold nothing back have sent anything
        closed = running.of(np.maximum(closed, -1), table.closed[touched])
        before = np.empty_like(closed)
        before[1:] = closed[:-1]
        before[starts] = table.closed[touched]

        frame_end = (times // period_ms + 1) * period_ms
        late = frame_end <= before
        if self._on_change.any():
            # A change that comes after its frame has closed holds from the first frame that is open.
            held = late & self._on_change[source] & (times >= own_newest - self._disorder_ms[source])
            times, late = np.where(held, before, times), late & ~held
        if late.any():
            for position in np.flatnonzero(late).tolist():
                row = int(by_slot[position])
                result.late.append(LateReading(row, int(frame_end[position]), int(before[position])))
            result.late.sort(key=lambda reading: reading.row)
        keep = by_slot[~late]
        limit = self._type.buffer_limit_rows
        values = batch.values[keep]
        if self._on_change.any():
            values = mark_unchanged(values, self._limits.holds & (source[~late][:, None] == self._limits.source))
        refused = self._rows.add(batch.slots[keep], times[~late], values, limit)
        result.refused.extend(keep[refused].tolist())
        return touched, closed

    def _wake(self, touched: Ints, arrival: Ints) -> None:
        """A silent machine that comes back brings all its sources back: a gateway sends them one after the other."""
        table = self._table
        is_silent = ~table.active[touched].any(axis=1)
        if is_silent.any():
            silent, back = touched[is_silent], arrival[is_silent][:, None]
            table.active[silent] = table.seen[silent]
            table.arrived[silent] = np.where(table.seen[silent], back, table.arrived[silent])
            table.offline[silent] = False

    def _watermarks(self, touched: Ints, times: Ints, source: Ints, running: RunningMaximum) -> tuple[Ints, Ints]:
        """The machine's watermark after each sorted row, _FAR_MS where no source holds frames back; and the newest time
        of the row's own source.
        """
        table, starts = self._table, running.starts
        machine_watermark = np.full(len(times), _FAR_MS, np.int64)
        own_newest = times.copy()
        for index in range(len(self._disorder_ms)):
            is_own = source == index
            newest = running.of(np.where(is_own, times, -1), table.newest[touched, index])
            own_newest[is_own] = newest[is_own]
            table.newest[touched, index] = last_of_group(newest, starts)
            active = running.of(np.where(is_own, 1, 0), table.active[touched, index]) > 0
            table.active[touched, index] = last_of_group(active, starts)
            table.seen[touched, index] |= last_of_group(newest, starts) >= 0
            if self._holds_back[index]:
                watermark = np.where(newest >= 0, newest - self._disorder_ms[index], -1)
                np.minimum(machine_watermark, np.where(active, watermark, _FAR_MS), out=machine_watermark)
        return machine_watermark, own_newest

    def _note_arrivals(self, slots: Ints, touched: Ints, source: Ints, arrival: Ints, starts: Ints) -> None:
        arrived, evidence = self._table.arrived, self._table.evidence
        is_first = evidence[touched] == NEVER_MS
        evidence[touched[is_first]] = arrival[starts][is_first]
        np.maximum.at(arrived, (slots, source), arrival)
        is_new = arrived[touched] == NEVER_MS
        if is_new.any():
            # Sources that have sent nothing yet hold frames back until they have been awaited for their idle time.
            began = np.broadcast_to(arrival[starts][:, None], is_new.shape)
            arrived[touched] = np.where(is_new, began, arrived[touched])

    def _closed_before(self, text: ArrivedText, batch: ReadingBatch, by_slot: Ints, closed_after: Ints) -> int:
        """Up to where a text's machine had closed when the text came."""
        if len(by_slot):
            begin, end = np.searchsorted(batch.slots[by_slot], [text.slot, text.slot + 1])
            earlier = int(np.searchsorted(batch.order[by_slot[begin:end]], text.order))
            if earlier:
                return int(closed_after[begin + earlier - 1])
        return int(self._table.closed[text.slot])

    # -- time without data ------------------------------------------------------------------------------------

    def tick(self, now_ms: int, slots: Ints) -> tuple[Aligned, list[tuple[int, int, bool]]]:
        """Time passes for these machines: sources fall idle, and silent machines are announced.

        Returns what closed, and `(slot, frame start, offline)` for every frame period that a silent machine let
        pass. Such a frame is only announced, not closed: if its readings come after all (a gateway that had
        buffered them), they are used, and the frame's diagnosis has the next revision number.
        """
        result, table = Aligned(), self._table
        slots = slots[(table.newest[slots] >= 0).any(axis=1)]
        if not len(slots):
            return result, []
        idle = table.active[slots] & (now_ms - table.arrived[slots] > self._idle_after_ms)
        changed = idle.any(axis=1)
        result.moved.extend(slots[changed].tolist())
        table.active[slots] &= ~idle
        is_active = table.active[slots].any(axis=1)
        moved = slots[changed & is_active]
        if len(moved):
            holds = table.active[moved] & self._holds_back
            watermark = np.where(table.newest[moved] >= 0, table.newest[moved] - self._disorder_ms, -1)
            minimum = np.where(holds, watermark, _FAR_MS).min(axis=1)
            closed = np.where(minimum == _FAR_MS, -1, minimum // self._period_ms * self._period_ms)
            table.closed[moved] = np.maximum(table.closed[moved], closed)
            self._close(np.sort(moved), result)
        if self._by_time:
            self._pass_time(now_ms, np.sort(slots[is_active]), result)
        return result, self._announce(now_ms, slots[~is_active])

    def _pass_time(self, now_ms: int, slots: Ints, result: Aligned) -> None:
        """Close frames of machines that only report changes: as much time has passed for them as since their last."""
        table, period_ms = self._table, self._period_ms
        passed = np.maximum(now_ms - table.arrived[slots].max(axis=1), 0)
        watermark = table.newest[slots].max(axis=1) + passed - self._disorder_ms.max()
        closed = watermark // period_ms * period_ms
        moved = closed > table.closed[slots]
        slots, closed = slots[moved], closed[moved]
        if len(slots):
            table.closed[slots] = closed
            result.moved.extend(slots.tolist())
            self._close(slots, result)

    @property
    def closes_by_time(self) -> bool:
        """Whether every tick may close frames, because sources report changes only."""
        return self._by_time

    def _announce(self, now_ms: int, silent: Ints) -> list[tuple[int, int, bool]]:
        announcements: list[tuple[int, int, bool]] = []
        table, period_ms = self._table, self._period_ms
        offline_after_ms = int(self._idle_after_ms.max()) + self._gap_frames * period_ms
        for slot in silent[~table.offline[silent]].tolist():
            last_arrival = int(table.arrived[slot][table.seen[slot]].max())
            reach = int(table.newest[slot].max()) + min(now_ms - last_arrival, offline_after_ms)
            start = int(max(table.announced[slot], table.closed[slot], table.next[slot]))
            if start < 0:
                start = int(table.newest[slot].max()) // period_ms * period_ms
            is_offline = now_ms - last_arrival >= offline_after_ms
            if is_offline:
                reach += period_ms  # at least one frame says that the machine is offline
            while start + period_ms <= reach:
                is_last = start + 2 * period_ms > reach
                announcements.append((slot, start, is_offline and is_last))
                start += period_ms
            table.announced[slot] = start
            table.offline[slot] = is_offline
        return announcements

    def finish(self, slots: Ints, reason: Resets) -> Aligned:
        """Close everything that these machines hold, and reset them before their next reading."""
        result, table = Aligned(), self._table
        slots = np.sort(slots)
        newest = table.newest[slots].max(axis=1)
        until = np.where(newest >= 0, (newest // self._period_ms + 1) * self._period_ms, table.closed[slots])
        table.closed[slots] = np.maximum(table.closed[slots], until)
        self._close(slots, result)
        table.reset[slots] = reason
        return result

    def reset(self, slots: Ints, reason: Resets) -> None:
        """The state of these machines is reset before their next frame."""
        self._table.reset[slots] = reason

    def begin_after(self, slot: int, closed_ms: int) -> None:
        """The frames of a machine that is new to this slot had closed up to here before it was forgotten."""
        self._table.closed[slot] = self._table.next[slot] = closed_ms

    # -- closing frames ---------------------------------------------------------------------------------------

    def _close(self, slots: Ints, result: Aligned) -> None:
        """Turn the buffered readings of these slots (sorted) into all frames that have ended by now."""
        table, period_ms = self._table, self._period_ms
        slots = slots[table.closed[slots] > table.next[slots]]
        if not len(slots):
            return
        row_slots, times, values = self._rows.take_until(slots, table.closed[slots], period_ms)
        group_slots = group_frames = _NO_ROWS
        aggregated: Matrix = values
        observed_ms: Ints = np.empty(values.shape, np.int64)
        heard_ms = observed_ms
        if len(times):
            frame_of_row = times // period_ms * period_ms
            starts = np.flatnonzero(first_of_group(row_slots) | first_of_group(frame_of_row))
            if self._on_change.any():
                heard_ms = newest_heard(times, values, starts)
            duplicates = drop_repeats(row_slots, times, values, self._limits.holds)
            result.duplicate_readings += duplicates
            self.readings_in_frames += len(times) - duplicates
            aggregated, observed_ms = aggregate(times, values, starts, self._type.variables)
            if not self._on_change.any():
                heard_ms = observed_ms
            group_slots, group_frames = row_slots[starts], frame_of_row[starts]
        layout = lay_out(table, slots, group_slots, group_frames, period_ms, self._gap_frames)
        if layout is not None:
            for part in layout.rounds():
                frames = self._frames(part, aggregated, observed_ms, heard_ms)
                self._texts.join(frames, result)
                result.rounds.append(frames)

    def _frames(self, part: Layout, aggregated: Matrix, observed_ms: Ints, heard_ms: Ints) -> Frames:
        """One round: observed values, and last known ones within their hold limit."""
        table, shape = self._table, (len(part.slots), len(self._limits.hold_ms))
        frames = Frames(
            slots=part.slots,
            start_ms=part.start_ms,
            period_ms=self._period_ms,
            values=np.empty(shape, np.float32),
            observed=np.empty(shape, np.bool_),
            age_ms=np.empty(shape, np.int64),
            reset=part.reset_reason != Resets.NONE,
            reset_reason=part.reset_reason,
            revision=(part.start_ms < table.announced[part.slots]).astype(np.int64),
            frozen=np.empty(shape, np.bool_),
        )
        ADVANCE_VALUES.load(self._notify)(
            *(part.slots, frames.end_ms, frames.reset, part.group, aggregated, observed_ms, heard_ms, *self._limits),
            *(table.value, table.value_ms, table.heard_ms, table.changed_ms),
            *(frames.values, frames.observed, frames.age_ms, frames.frozen),
        )
        assert frames.frozen is not None
        table.frozen[part.slots] = frames.frozen.sum(axis=1)
        told = frames.observed.any(axis=1)
        table.evidence[part.slots[told]] = np.maximum(table.evidence[part.slots[told]], frames.end_ms[told])
        return frames

    # -- observation ------------------------------------------------------------------------------------------

    def closed_until_ms(self, slot: int) -> int:
        """Up to where the frames of a machine have closed; negative before the first."""
        return int(self._table.closed[slot])

    def states(self, slots: Ints) -> Ints:
        """How each of these machines is, as an index into `STATES`."""
        return machine_states(self._table, slots, self._type.blind_after_ms)

    def frozen(self, slots: Ints) -> Ints:
        """How many values of the newest frame of each of these machines count as frozen."""
        return self._table.frozen[slots]

    def handed_out_ms(self, slots: Ints) -> Ints:
        """The end of the newest frame of each of these machines; negative before the first."""
        return self._table.next[slots]

    def has_announced_silence(self, slot: int, since_ms: int) -> bool:
        """Whether the silence of a machine whose newest reading arrived at `since_ms` is announced to its end."""
        return bool(self._table.offline[slot]) and int(self._table.arrived[slot].max()) >= since_ms

    # -- state ------------------------------------------------------------------------------------------------

    def save(self, slots: Ints) -> list[dict[str, object]]:
        """Everything about each of these machines, as plain values and bytes."""
        states = self._table.save(slots)
        rows = self._rows.of_machines(slots)
        for slot, state, (times, values) in zip(slots.tolist(), states, rows, strict=True):
            state["row_times"], state["row_values"] = times.tobytes(), values.tobytes()
            state.update(self._texts.save(slot))
        return states

    def load(self, slot: int, state: dict[str, object]) -> None:
        """Put back what `save` gave; raises StateError if it belongs to another profile."""
        self.drop(slot)
        try:
            self._table.load(slot, state)
            times, values = state["row_times"], state["row_values"]
            texts, seen, digests = state["texts"], state["seen_texts"], state.get("text_versions", [])
            assert isinstance(times, bytes) and isinstance(values, bytes)
            time_ms = np.frombuffer(times, np.int64)
            matrix = np.frombuffer(values, np.float64).reshape(len(time_ms), len(self._type.variables))
            if len(time_ms) and not is_time_ms(time_ms).all():
                raise ValueError("a waiting reading has no time")
            self._texts.load(slot, texts, seen, digests)
        except (KeyError, ValueError, TypeError, OverflowError, AssertionError) as error:
            self.drop(slot)
            raise StateError(f"saved alignment state does not fit machine type {self._type.name}: {error!r}") from error
        self._rows.add(np.full(len(time_ms), slot, np.int64), time_ms, matrix, len(time_ms))

    def drop(self, slot: int) -> None:
        """Forget a machine; its slot can serve another."""
        self._table.clear(slot, self._blank)
        self._rows.drop(slot)
        self._texts.drop(slot)
