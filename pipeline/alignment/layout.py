"""The layout of closed frames: those with readings and the masked ones between them, in rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.alignment.slot_table import SlotTable
from pipeline.arrays import Bools, Ints
from pipeline.frames import Resets


@dataclass(frozen=True, slots=True)
class Layout:
    """n frames that have closed."""

    slots: Ints  # (n,)
    start_ms: Ints  # (n,)
    group: Ints  # (n,) index among the frames with readings; -1 for a masked frame
    reset_reason: Ints  # (n,)

    def rounds(self) -> Iterator[Layout]:
        """Every machine's first frame, then every machine's second, and so on; the frames are sorted by machine."""
        total = len(self.slots)
        starts = np.flatnonzero(first_of_group(self.slots))
        round_of = np.arange(total) - np.repeat(starts, np.diff(np.append(starts, total)))
        by_round = np.argsort(round_of, kind="stable")
        bounds = np.flatnonzero(np.diff(round_of[by_round], prepend=-1, append=round_of.max() + 1))
        for low, high in pairwise(bounds.tolist()):
            rows = by_round[low:high]
            yield Layout(self.slots[rows], self.start_ms[rows], self.group[rows], self.reset_reason[rows])


def first_of_group(column: Ints) -> Bools:
    """Where each run of equal values begins."""
    first = np.empty(len(column), np.bool_)
    first[0] = True
    np.not_equal(column[1:], column[:-1], out=first[1:])
    return first


def lay_out(
    table: SlotTable, slots: Ints, group_slots: Ints, group_frames: Ints, period_ms: int, max_gap_frames: int
) -> Layout | None:
    """All frames of `slots` (sorted) up to where they have closed, given those with readings; None if there are none.

    A machine with a period of 10 and at most 2 masked frames in a row. Its newest frame with readings was 0, the next
    to hand out is 10. Now it has closed until 70, with readings in the frames 20 and 60:

        entry       20         60         70 (closed until)
        previous     0         20         60
        masked      [10, 20)   [30, 50)   none
        frames      10 20      30 40 60              frame 60 resets the state: the gap before it is longer
        round        1  2       3  4  5              than 2 frames, and 50 is left out

    Each entry gives the masked frames behind the previous one, then its own frame if it has readings. What is handed
    out is noted in the table, and resets that were due are used up.
    """
    gap_ms = max_gap_frames * period_ms
    entry_slot = np.concatenate([group_slots, slots])
    entry_frame = np.concatenate([group_frames, table.closed[slots]])
    entry_group = np.concatenate([np.arange(len(group_slots)), np.full(len(slots), -1)])
    order = np.lexsort((entry_frame, entry_slot))
    entry_slot, entry_frame, entry_group = entry_slot[order], entry_frame[order], entry_group[order]
    previous = np.empty(len(order), np.int64)
    previous[1:] = entry_frame[:-1]
    previous[first_of_group(entry_slot)] = table.data[slots]
    begin = np.maximum(previous + period_ms, table.next[entry_slot])
    until = np.minimum(previous + gap_ms + period_ms, entry_frame)
    masked = np.where(previous >= 0, np.maximum(until - begin, 0) // period_ms, 0)
    has_readings = entry_group >= 0
    is_behind_gap = has_readings & (previous >= 0) & (entry_frame - previous > gap_ms + period_ms)
    _note(table, slots, entry_slot[has_readings], entry_frame[has_readings])

    count = masked + has_readings
    total = int(count.sum())
    if not total:
        return None
    entry = np.repeat(np.arange(len(order)), count)
    within = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    is_masked = within < masked[entry]
    frame_slot = entry_slot[entry]
    start_ms = np.where(is_masked, begin[entry] + within * period_ms, entry_frame[entry])
    group = np.where(is_masked, -1, entry_group[entry])
    reset = np.where(~is_masked & is_behind_gap[entry], int(Resets.GAP), int(Resets.NONE))
    _use_resets(table, frame_slot, reset)
    return Layout(frame_slot, start_ms, group, reset)


def _note(table: SlotTable, slots: Ints, data_slots: Ints, data_frames: Ints) -> None:
    """Note the newest frame with readings, and that everything that has closed is handed out."""
    if len(data_slots):
        table.data[data_slots] = data_frames  # sorted by frame: the last write is the newest
    table.next[slots] = np.where(table.data[slots] >= 0, table.closed[slots], table.next[slots])


def _use_resets(table: SlotTable, frame_slot: Ints, reset: Ints) -> None:
    """Let the first frame of each machine reset its state if that was due."""
    starts = np.flatnonzero(first_of_group(frame_slot))
    due = table.reset[frame_slot[starts]]
    reset[starts] = np.where(due != Resets.NONE, due, reset[starts])
    table.reset[frame_slot[starts]] = Resets.NONE
