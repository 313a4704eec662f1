"""Aligns the diagnoses of an area's machines by frame: which frame closes when, and what has come of each machine.

A frame closes as soon as every live machine has diagnosed it or a later one, or when the area's time has passed its end
by `wait`. A machine is live unless it has been announced as silent, or is behind the frame by more than `wait`. When an
area begins, and when it goes on after a pause, all of its machines are waited for, for as long. Machines whose worker
catches up are waited for until it has, as far as there is room (pipeline/areas/progress.py).

The area's time is the end of the newest frame that two machines have reached, so that one machine whose clock is ahead
closes nothing for the others; or that one machine has reached, if it alone has sent `wait` of frames since another one
sent something. Ticks close frames, too. Nothing here depends on when records are processed, or how they are cut into
chunks; and not on the order of the records of different machines, as long as none is behind by more than `wait`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from pipeline.areas.frames import Presence
from pipeline.areas.layout import AreaLayout
from pipeline.areas.progress import AreaProgress
from pipeline.arrays import NEVER_MS
from pipeline.config.classes import NO_EVIDENCE
from pipeline.errors import StateError
from pipeline.frames import EventText
from pipeline.wire.messages import Diagnosis, Reason, RejectedError, decode_diagnosis

_SEEN_FRAMES: Final = 64
"""Frames of a machine before its newest one in which repeated diagnoses are told from late ones."""
_MAX_PENDING: Final = 256
"""Diagnoses of one machine that wait, at most; more may wait for workers that catch up."""
_MAX_HELD: Final = 2_000
"""Diagnoses of one machine that wait for workers that catch up, at most."""
_MAX_HELD_BYTES: Final = 6 * 2**20
"""What diagnoses that wait for workers may take, so that the area's state can be saved."""
_MAX_TEXTS: Final = 1_000
"""Texts that wait, and ids of texts that are remembered."""


class Taken(IntEnum):
    """What became of a diagnosis."""

    ACCEPTED = 0
    REVISED = 1
    """It takes the place of an earlier one of its frame."""
    DUPLICATE = 2
    LATE = 3
    """Its frame has closed without it."""
    REVISED_LATE = 4
    """Its frame has closed with an earlier one."""


@dataclass(slots=True)
class Waiting:
    """A diagnosis whose frame is open."""

    diagnosis: Diagnosis
    value: bytes


@dataclass(slots=True)
class AreaMember:
    """A machine of an area."""

    newest_ms: int = NEVER_MS  # end of its newest frame
    revision: int = 0  # of that frame's diagnosis
    answered_ms: int = NEVER_MS  # end of the newest closed frame with an answer of it
    seen: int = 0  # bit k: it has diagnosed the frame k before the newest
    announced: Presence | None = None  # STALE or OFFLINE, if its newest diagnosis says so
    waiting: int = 0  # diagnoses whose frames are open


@dataclass(frozen=True, slots=True)
class ClosedFrame:
    """A frame that has closed: what came of each machine, in the order of the layout."""

    end_ms: int
    reset: bool
    skipped: int
    presence: list[Presence]
    age_ms: list[int]  # negative if it never had an answer
    diagnoses: list[Diagnosis | None]  # those with an answer
    texts: list[tuple[int, EventText]] = field(default_factory=list)


class AreaAlignment:
    """The open frames of one area."""

    def __init__(self, layout: AreaLayout, max_gap_frames: int) -> None:
        """A gap of more frames without any diagnosis resets the area's state."""
        self._layout = layout
        self._max_gap_frames = max_gap_frames
        self._numbers = {machine: index for index, machine in enumerate(layout.machines)}
        self.members = [AreaMember() for _ in layout.machines]
        self.progress = AreaProgress(layout.machines, layout.wait_ms)
        self._open: dict[int, dict[int, Waiting]] = {}  # by the frame's end, by machine
        self._open_bytes = 0
        self._texts: list[tuple[int, EventText]] = []
        self._text_ids: dict[str, None] = {}  # in the order in which they came
        self._closed_ms = NEVER_MS
        self._begun_ms = NEVER_MS  # start of the first frame after a pause
        self._alone = 0  # frames that the leading machine has sent since another one sent something
        self._time_ms = NEVER_MS

    @property
    def clock_ms(self) -> int:
        """How far time has come in the area, or in its only machine so far; NEVER_MS at first."""
        heard = [one.newest_ms for one in self.members if one.newest_ms > NEVER_MS]
        return max(self._time_ms, min(heard, default=NEVER_MS))

    @property
    def closed_ms(self) -> int:
        """The end of the newest closed frame; NEVER_MS at first."""
        return self._closed_ms

    # -- input ------------------------------------------------------------------------------------------------

    def take(self, diagnosis: Diagnosis, value: bytes) -> Taken:
        """Take a diagnosis in; raises RejectedError if the area has no such machine or frame, or holds too many."""
        number = self._numbers.get(diagnosis.machine)
        if number is None:
            text = f"machine {diagnosis.machine[:80]!r} is not in area {self._layout.name}"
            raise RejectedError(Reason.KEY_MISMATCH, text)
        start_ms, end_ms, period_ms = diagnosis.frame_start, diagnosis.frame_end, self._layout.period_ms
        if end_ms - start_ms != period_ms or start_ms % period_ms:
            raise RejectedError(
                Reason.SCHEMA,
                f"the frame from {start_ms} to {end_ms} is none of {period_ms} ms, which is the profile's frame_period",
            )
        member = self.members[number]
        before = self._open.get(end_ms, {}).get(number)
        if before is not None and before.diagnosis.revision >= diagnosis.revision:
            return Taken.DUPLICATE
        is_new = before is None and end_ms > self._closed_ms
        if is_new and member.waiting >= _MAX_PENDING and not self.held_by():
            raise RejectedError(
                Reason.BUFFER_FULL, f"{member.waiting} diagnoses of {diagnosis.machine} wait for others"
            )
        was_seen = self._note(number, diagnosis)
        if end_ms <= self._closed_ms:
            if not was_seen:
                return Taken.LATE
            return Taken.REVISED_LATE if diagnosis.revision else Taken.DUPLICATE
        self._open.setdefault(end_ms, {})[number] = Waiting(diagnosis, value)
        self._open_bytes += len(value) - (0 if before is None else len(before.value))
        member.waiting += before is None
        return Taken.ACCEPTED if before is None else Taken.REVISED

    def _note(self, number: int, diagnosis: Diagnosis) -> bool:
        """Let a machine's diagnosis move time; returns whether its frame was seen before, which then moves nothing."""
        member, end_ms, revision = self.members[number], diagnosis.frame_end, diagnosis.revision
        leader = max(range(len(self.members)), key=lambda one: self.members[one].newest_ms)
        was_seen = _mark_seen(member, end_ms, self._layout.period_ms)
        if end_ms == member.newest_ms and (not was_seen or revision > member.revision):
            member.revision, member.announced = revision, _ANNOUNCED.get(diagnosis.status)
        if was_seen:
            return True
        first, second, *_ = sorted((one.newest_ms for one in self.members), reverse=True)
        self._alone = self._alone + 1 if number == leader else 0
        is_alone = self._alone > 1 and self._alone * self._layout.period_ms >= self._layout.wait_ms
        self._time_ms = max(self._time_ms, first if is_alone else second)
        return False

    def add_text(self, utility: int, text: EventText) -> bool:
        """Take a text about a utility in, for the first frame that ends after it; False if its id came before."""
        if text.id in self._text_ids:
            return False
        if len(self._texts) >= _MAX_TEXTS:
            raise RejectedError(Reason.BUFFER_FULL, f"{len(self._texts)} texts wait for frames of {self._layout.name}")
        self._text_ids[text.id] = None
        if len(self._text_ids) > _MAX_TEXTS:
            del self._text_ids[next(iter(self._text_ids))]
        self._texts.append((utility, text))
        return True

    # -- frames -----------------------------------------------------------------------------------------------

    def close(self, now_ms: int = NEVER_MS, *, everything: bool = False) -> Iterator[ClosedFrame]:
        """Every frame that closes now, the oldest first; with `everything` all that are open.

        A tick says how far time has come, `now_ms`. It counts for the frames that are open, not for later ones: where
        the machines' worker has paused, many frames come late together.
        """
        wait_ms, time_ms = self._layout.wait_ms, max(self._time_ms, now_ms)
        while self._open:
            end_ms = min(self._open)
            if end_ms - self._closed_ms > wait_ms + self._layout.period_ms:
                self._begun_ms = end_ms - self._layout.period_ms
            if not everything:
                is_early = time_ms < end_ms + wait_ms
                if (is_early and self._is_awaited(end_ms)) or self.held_by():
                    return
            yield self._closed(end_ms)

    def _is_awaited(self, end_ms: int) -> bool:
        """Whether a live machine has neither diagnosed a frame nor a later one."""
        came, since_ms = self._open[end_ms], end_ms - self._layout.wait_ms
        for number, member in enumerate(self.members):
            if number in came or member.newest_ms >= end_ms:
                continue
            is_live = member.announced is None and member.newest_ms >= since_ms
            if is_live or (self._begun_ms > since_ms and member.newest_ms <= self._begun_ms):
                return True
        return False

    def held_by(self) -> list[int]:
        """The machines whose workers have to catch up before the oldest open frame closes."""
        is_full = self._open_bytes >= _MAX_HELD_BYTES or max(one.waiting for one in self.members) >= _MAX_HELD
        if is_full or not self._open:
            return []
        end_ms = min(self._open)
        came = self._open[end_ms]
        return [
            number
            for number, member in enumerate(self.members)
            if number not in came
            and member.newest_ms < end_ms
            and member.announced is None
            and self.progress.is_behind(number, self._time_ms)
        ]

    def _closed(self, end_ms: int) -> ClosedFrame:
        came, period_ms = self._open.pop(end_ms), self._layout.period_ms
        self._open_bytes -= sum(len(waiting.value) for waiting in came.values())
        is_first = self._closed_ms == NEVER_MS
        skipped = 0 if is_first else (end_ms - self._closed_ms) // period_ms - 1
        self._closed_ms = end_ms
        presence, ages, diagnoses = [], [], []
        for number, member in enumerate(self.members):
            waiting = came.get(number)
            member.waiting -= waiting is not None
            here = _presence(member, None if waiting is None else waiting.diagnosis, end_ms)
            has_answer = waiting is not None and here in (Presence.ACTIVE, Presence.SILENT)
            if has_answer:
                member.answered_ms = end_ms
            presence.append(here)
            ages.append(-1 if member.answered_ms == NEVER_MS else end_ms - member.answered_ms)
            diagnoses.append(waiting.diagnosis if waiting is not None and has_answer else None)
        texts = sorted((one for one in self._texts if one[1].time_ms < end_ms), key=lambda one: _order(one[1]))
        self._texts = [one for one in self._texts if one[1].time_ms >= end_ms]
        return ClosedFrame(
            end_ms, is_first or skipped > self._max_gap_frames, skipped, presence, ages, diagnoses, texts
        )

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """All that the future depends on, for `load`."""
        return {
            "times": [self._closed_ms, self._begun_ms, self._time_ms, self._alone],
            "members": [
                [one.newest_ms, one.revision, one.answered_ms, one.seen, _saved(one.announced)] for one in self.members
            ],
            "open": [waiting.value for _, came in sorted(self._open.items()) for _, waiting in sorted(came.items())],
            "texts": [
                [utility, one.id, one.time_ms, one.text, one.source, one.severity, one.late]
                for utility, one in self._texts
            ],
            "ids": list(self._text_ids),
            **self.progress.save(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Put back what `save` gave; raises StateError if it is none of this area."""
        try:
            self._closed_ms, self._begun_ms, self._time_ms, self._alone = map(int, saved["times"])
            members = [
                AreaMember(newest, revision, answered, seen, None if announced is None else Presence(announced))
                for newest, revision, answered, seen, announced in saved["members"]
            ]
            if len(members) != len(self.members):
                raise StateError(f"saved area {self._layout.name} has {len(members)} machines")
            self.members = members
            self._open, self._open_bytes = {}, sum(len(value) for value in saved["open"])
            for value in saved["open"]:
                diagnosis = decode_diagnosis(value)
                number = self._numbers[diagnosis.machine]
                self._open.setdefault(diagnosis.frame_end, {})[number] = Waiting(diagnosis, value)
                self.members[number].waiting += 1
            self._texts = [
                (utility, EventText(id_, time_ms, text, source, severity, late))
                for utility, id_, time_ms, text, source, severity, late in saved["texts"]
            ]
            self._text_ids = dict.fromkeys(saved["ids"])
            self.progress.load(saved)
        except (KeyError, TypeError, ValueError, RejectedError) as error:
            raise StateError(f"saved area {self._layout.name} cannot be used: {error!r}") from error


_ANNOUNCED: Final = {"stale": Presence.STALE, "offline": Presence.OFFLINE}


def _saved(announced: Presence | None) -> int | None:
    return None if announced is None else int(announced)


def _mark_seen(member: AreaMember, end_ms: int, period_ms: int) -> bool:
    """Note that a frame of a machine has come; returns whether it had come before, as very old ones are taken to."""
    if end_ms > member.newest_ms:
        frames = (end_ms - member.newest_ms) // period_ms
        shifted = member.seen << frames if frames < _SEEN_FRAMES else 0
        member.seen = shifted & ((1 << _SEEN_FRAMES) - 1) | 1
        member.newest_ms = end_ms
        return False
    place = (member.newest_ms - end_ms) // period_ms
    if place >= _SEEN_FRAMES or member.seen >> place & 1:
        return True
    member.seen |= 1 << place
    return False


def _order(text: EventText) -> tuple[int, str]:
    return text.time_ms, text.id


def _presence(member: AreaMember, diagnosis: Diagnosis | None, end_ms: int) -> Presence:
    if diagnosis is not None:
        if (announced := _ANNOUNCED.get(diagnosis.status)) is not None:
            return announced
        if diagnosis.fault == NO_EVIDENCE:
            return Presence.NO_EVIDENCE
        return Presence.SILENT if diagnosis.status == "silent" else Presence.ACTIVE
    if member.newest_ms == NEVER_MS:
        return Presence.UNHEARD
    if member.newest_ms > end_ms:
        return Presence.MISSING
    return Presence.LATE if member.announced is None else member.announced
