"""The life of a worker or of ingest: what it is at, its background tasks, and the one way in which it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from agents.worker.web import Answer
from pipeline.config.settings import Settings
from pipeline.errors import FaultlineError, NoProgressError, UnexpectedError


class LifeState(StrEnum):
    """What a process is at; the text of /healthz begins with it."""

    STARTING = "starting"
    JOINING = "joining"
    STANDBY = "standby"
    RESTORING = "restoring"
    WORKING = "working"
    STALLED = "stalled"
    STOPPING = "stopping"
    FAILED = "failed"


_NOT_READY = {
    LifeState.STARTING: "waiting for partitions",
    LifeState.JOINING: "waiting for partitions",
    LifeState.STANDBY: "waiting for partitions",
    LifeState.RESTORING: "restoring the states of its partitions",
    LifeState.STOPPING: "stopping",
}


class Phase(NamedTuple):
    """What a process is at by its own account, and how far it has come."""

    state: LifeState
    at: object = None
    """Different whenever there was progress; None if there is nothing to do."""
    doing: str = ""
    """In words that follow `no progress in 60 s, `."""


def group_phase(
    app: Any, settings: Settings, lag: Mapping[tuple[str, int], int], *, started: bool, joined: bool
) -> Phase:
    """The phase of a member of a consumer group; `joined` since its partitions were last revoked."""
    group = f"consumer group {settings.group} (FAULTLINE_GROUP)"
    if not (started or (app._consumer is not None and app._consumer.connected)):
        return Phase(LifeState.STARTING, "start", f"connecting to {settings.broker}")
    if not (started and joined):
        return Phase(LifeState.JOINING, "join", f"joining {group}")
    if not app.consumer.assignment():
        return Phase(LifeState.STANDBY, None, f"other members of {group} have all partitions")
    if app.consumer.commits_fail:
        return Phase(LifeState.WORKING, "commit", "with commits that the broker does not take")
    if unread := sum(lag.values()):
        return Phase(LifeState.WORKING, app.consumer.positions, f"with {unread:,} records unread")
    return Phase(LifeState.WORKING)


class Status(NamedTuple):
    """A phase, and how long it has been without progress."""

    state: LifeState
    stuck_seconds: float
    detail: str
    overdue: str | None
    """What is wrong if it is without progress for longer than its limit."""


class Life:
    """Holds a process's tasks, sees whether it makes progress, and remembers the first error, which ends it."""

    def __init__(
        self,
        name: str,
        phase: Callable[[], Phase],
        settings: Settings,
        *,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        unready: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`name` is that of the process in logs and metrics; `unready` may add a reason not to be ready."""
        self.failure: FaultlineError | None = None
        """Why it cannot continue, if it cannot."""
        self.stopping = False
        self._name = name
        self._phase = phase
        self._unready = unready
        self._log = logging.getLogger(f"faultline.{name}")
        start_s, stall_s = settings.start_timeout_ms / 1000, settings.stall_timeout_ms / 1000
        self._limits: Mapping[LifeState, float] = {
            LifeState.STARTING: start_s,
            LifeState.JOINING: start_s,
            LifeState.RESTORING: stall_s,
            LifeState.WORKING: stall_s,
        }
        self._look_seconds = min(start_s / 10, stall_s / 10, 1.0)
        self._monotonic_seconds = monotonic_seconds
        self._last: Phase | None = None
        self._since = monotonic_seconds()
        self._failed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # -- tasks --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Watch the progress from now on; to be called in the event loop."""
        self.run("watch", self._watch())

    def run(self, what: str, task: Coroutine[Any, Any, None]) -> None:
        """Run a background task until `end_tasks`; what it raises ends the process."""
        self._loop = asyncio.get_running_loop()
        started = asyncio.create_task(self._run(what, task), name=what)
        started.add_done_callback(lambda _: task.close())  # which was never begun if it is cancelled at once
        self._tasks.append(started)

    async def _run(self, what: str, task: Coroutine[Any, Any, None]) -> None:
        try:
            await task
        except Exception as error:
            self.fail(error, what)

    async def end_tasks(self) -> None:
        """Cancel all background tasks, and wait for them."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    async def _watch(self) -> None:
        """Fail if there is no progress: whoever supervises this process has to start another one."""
        while True:
            await asyncio.sleep(self._look_seconds)
            if (overdue := self.status().overdue) is not None:
                raise NoProgressError(overdue)

    # -- failing ------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException, what: str = "") -> None:
        """The process cannot continue: the first error is logged in one line, and ends it. May be called anywhere."""
        if self.failure is None:
            self.failure = error if isinstance(error, FaultlineError) else unexpected(error, what)
            self._log.error("%s stops: %s", self._name, self.failure)
            if not isinstance(error, FaultlineError):
                self._log.debug("%s", "".join(traceback.format_exception(error)))
        if self._loop is None or self._loop is _running_loop():
            self._failed.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._failed.set)

    def crash(self, reason: BaseException) -> None:
        """Faust has crashed; what happens while it stops has no consequences."""
        if not self.stopping:
            self.fail(reason, "Faust")

    async def wait_failed(self) -> None:
        """Return when the process has failed."""
        self._loop = asyncio.get_running_loop()
        if self.failure is None:
            await self._failed.wait()

    # -- status -------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """What the process is at; to be asked often, from any thread."""
        if self.failure is not None:
            return Status(LifeState.FAILED, 0.0, str(self.failure), None)
        if self.stopping:
            return Status(LifeState.STOPPING, 0.0, "", None)
        now = self._monotonic_seconds()
        phase = self._look()
        if phase.at is None or self._last is None or phase[:2] != self._last[:2]:
            self._last, self._since = phase, now
        stuck, limit = now - self._since, self._limits.get(phase.state)
        state, detail = phase.state, phase.doing
        text = f"no progress in {stuck:.0f} s, {phase.doing}"
        if limit is not None and state is LifeState.WORKING and stuck > limit / 2:
            state, detail = LifeState.STALLED, text
        return Status(state, stuck, detail, text if limit is not None and stuck > limit else None)

    def _look(self) -> Phase:
        for _ in range(3):
            # From another thread, what is counted may change in the middle of it.
            with contextlib.suppress(RuntimeError):
                return self._phase()
        return self._phase()

    def health(self) -> Answer:
        """For /healthz: the state in words, and whether there is still hope."""
        status = self.status()
        text = status.overdue or status.detail
        alive = status.state is not LifeState.FAILED and status.overdue is None
        return Answer(alive, f"{status.state}: {text}" if text else status.state)

    def ready(self) -> Answer:
        """For /readyz: whether it has partitions and works."""
        status = self.status()
        if status.state is LifeState.FAILED:
            return Answer(False, f"failed: {status.detail}")
        problem = _NOT_READY.get(status.state) or self._unready()
        if problem is None and status.state is LifeState.STALLED:
            problem = status.detail
        return Answer(problem is None, problem or "ok")


class LifeCollector(Collector):
    """The metric of what a process is at."""

    def __init__(self, life: Life, name: str) -> None:
        """`name` is the metric's."""
        self._life = life
        self._name = name

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """1 for the state, 0 for all others."""
        now = self._life.status().state
        family = GaugeMetricFamily(self._name, "1 for what the process is at.", labels=["state"])
        for state in LifeState:
            family.add_metric([state.value], float(state is now))
        yield family


def unexpected(error: BaseException, what: str) -> UnexpectedError:
    """An error that nobody foresaw, in one line: what it is, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = " ".join(repr(error).split())
    found = UnexpectedError(f"unexpected error{f' in {what}' if what else ''}: {text[:500]}{at}")
    found.__cause__ = error
    return found


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
