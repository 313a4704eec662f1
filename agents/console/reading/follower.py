"""Follows the topics of a plant and folds their records into a book, over losses of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agents.console.book.console_book import ConsoleBook
from agents.console.reading.source import Gauge, Progress, TopicSource
from pipeline.config.profile import PlantProfile
from pipeline.errors import BrokerUnavailableError, FaultlineError

BACK_MS: Final = 28_800_000
"""How far back large topics are read, in time before the start."""
_RETRY_SECONDS: Final = 1.0
_MEASURE_SECONDS: Final = 10.0
_FIRST_RATE_SECONDS: Final = 2.0
_PROGRESS_SECONDS: Final = 0.2
_STILL_MS: Final = 30_000
"""How much longer than a plant's slowest frame may take a frame may be on its way until the plant stands still."""
_SLICE_SECONDS: Final = 0.02
"""For how long records are folded before others get their turn."""

log = logging.getLogger("faultline.console")


class Follower:
    """One task that reads a source into a book; another one measures the input topics."""

    def __init__(
        self,
        source: TopicSource,
        book: ConsoleBook,
        *,
        since_ms: int | None = None,
        back_ms: int = BACK_MS,
        wall_seconds: Callable[[], float] = time.time,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Large topics are read from `since_ms` on, or from `back_ms` before now; `seconds` only goes forward."""
        self.failed: FaultlineError | None = None
        """Why it has ended, if it has."""
        self._source = source
        self._book = book
        self._since_ms = since_ms
        self._back_ms = back_ms
        self._wall_seconds = wall_seconds
        self._seconds = seconds
        self._still_seconds = _longest_wait_ms(book.profile) / 1_000
        self._moved: tuple[int | None, float, int] = (None, 0.0, 0)
        """The newest frame, and when it came by both clocks."""
        self._gauge = Gauge(book.profile)
        self._tasks: list[asyncio.Task[None]] = []
        self._progress = Progress()
        self._looked = -_PROGRESS_SECONDS
        self._away_since_ms: int | None = None
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Begin. A broker that is away is no error; raises FaultlineError if it can never work."""
        if self._since_ms is None:
            self._since_ms = self._wall_ms() - self._back_ms
        started = await self._connect()
        self._tasks = [asyncio.create_task(self._follow(started)), asyncio.create_task(self._measure())]

    async def stop(self) -> None:
        """End, and disconnect."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        await self._source.stop()

    async def changed(self, since: int, timeout: float) -> bool:
        """Wait until the book has a newer version than this; False if it has none after so many seconds."""
        return await self._wait(lambda: self._book.version > since, timeout)

    async def caught_up(self, timeout: float | None = None) -> bool:
        """Wait until all that was there has been read; False if that takes longer than so many seconds."""
        return await self._wait(lambda: self._progress.caught_up, timeout)

    async def _wait(self, is_so: Callable[[], bool], timeout: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while not is_so():
                    await self._news.wait()
        except TimeoutError:
            return is_so()
        return True

    # -- the two tasks -------------------------------------------------------------------------------------------

    async def _follow(self, started: bool) -> None:
        try:
            while True:
                try:
                    started = started or await self._connect()
                    if started:
                        await self._take()
                    else:
                        await asyncio.sleep(_RETRY_SECONDS)
                except BrokerUnavailableError as error:
                    self._note_away(error)
                    await asyncio.sleep(_RETRY_SECONDS)
        except FaultlineError as error:
            self._fail(error)
        except Exception as error:
            log.exception("reading the topics failed")
            self._fail(FaultlineError(f"reading the topics failed: {error!r}; start the console again"))

    async def _connect(self) -> bool:
        assert self._since_ms is not None
        try:
            await self._source.start(self._since_ms)
        except BrokerUnavailableError as error:
            self._note_away(error)
            return False
        return True

    async def _take(self) -> None:
        records = await self._source.fetch()
        for topic in self._source.created_again():
            log.warning("topic %s was created again; it is read from its beginning", topic)
            self._book.begin_again(topic)
        until = time.monotonic() + _SLICE_SECONDS
        for count, record in enumerate(records):
            self._book.fold(record)
            if count % 32 == 31 and time.monotonic() > until:
                self._tell()
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE_SECONDS
        now = time.monotonic()
        if self._away_since_ms is not None or now - self._looked >= _PROGRESS_SECONDS:
            self._looked = now
            self._progress = await self._source.progress()
            if self._away_since_ms is not None:
                log.info("the broker is back")
                self._away_since_ms = None
            self._note(connected=True)
        self._tell()

    async def _measure(self) -> None:
        pause = _FIRST_RATE_SECONDS
        while True:
            try:
                spans = await self._source.spans()
            except FaultlineError as error:
                log.debug("cannot measure the input topics: %s", error)
            else:
                self._book.note_sources(self._gauge.measure(spans, time.monotonic(), self._wall_ms()))
                self._tell()
            await asyncio.sleep(pause)
            pause = _MEASURE_SECONDS

    def _fail(self, error: FaultlineError) -> None:
        self.failed = error
        log.error("%s", error)
        self._note_away(error)

    # -- what is said --------------------------------------------------------------------------------------------

    def _note_away(self, error: FaultlineError) -> None:
        if self._away_since_ms is None:
            self._away_since_ms = self._wall_ms()
            log.warning("%s", error)
        self._progress = replace(self._progress, caught_up=False)
        self._moved = (None, 0.0, 0)  # it is unknown what came meanwhile
        self._note(connected=False, why=str(error))
        self._tell()

    def _note(self, *, connected: bool, why: str | None = None) -> None:
        self._book.note_reading(
            connected=connected,
            caught_up=self._progress.caught_up,
            behind=self._progress.behind,
            missing=self._progress.missing,
            away_since_wall_ms=self._away_since_ms,
            why=why,
            since_ms=self._progress.since_ms,
            still_since_wall_ms=self._still_since() if connected else None,
        )

    def _still_since(self) -> int | None:
        """Since when no newer frame has come, if it is longer than that may take: no worker runs, or none gets data."""
        newest_ms = self._book.read_ms
        if newest_ms != self._moved[0] or not self._progress.caught_up:
            self._moved = newest_ms, self._seconds(), self._wall_ms()
        _, moved_seconds, moved_wall_ms = self._moved
        is_still = newest_ms is not None and self._seconds() - moved_seconds > self._still_seconds
        return moved_wall_ms if is_still else None

    def _tell(self) -> None:
        """Wake all who wait for news."""
        self._news.set()
        self._news = asyncio.Event()

    def _wall_ms(self) -> int:
        return int(self._wall_seconds() * 1000)


def _longest_wait_ms(profile: PlantProfile) -> int:
    """Within which a plant with data has a newer frame: silent sources hold one back for so long, but no longer."""
    waits = [
        kind.idle_after_ms(name) + 2 * kind.frame_period_ms
        for kind in profile.machine_types
        for name, source in kind.sources.items()
        if source.holds_frames
    ]
    return max(waits, default=0) + _STILL_MS
