"""A process that works until it is told to stop, and that ends in any case: in order, or by a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol, TypeVar

from aiokafka.errors import KafkaError

from agents.worker.life import Life, unexpected
from agents.worker.web import WebServer
from pipeline.config.settings import Settings
from pipeline.errors import FaultlineError

log = logging.getLogger("faultline.process")

FORCED_EXIT_CODE = 5
"""Of a process that could not stop in time."""

_LOOK_SECONDS = 0.25

_LEFT_SECONDS = 1.0
"""How long what is left of a process may take to end."""

T = TypeVar("T")


class Process(Protocol):
    """A worker or ingest."""

    web: WebServer
    life: Life

    async def start(self) -> None:
        """Begin; raises FaultlineError."""

    async def stop(self) -> None:
        """End in order; raises FaultlineError if it has failed."""


class Guard:
    """A thread that hears signals and watches the time, whatever the event loop and the main thread are at.

    The first SIGTERM or SIGINT asks the process to stop, a second one ends it at once. It also ends when stopping
    takes too long, or when it is without progress for long and does not fail by itself.
    """

    def __init__(self, stop_seconds: float, exit_process: Callable[[int], None] = os._exit) -> None:
        self.requested = asyncio.Event()
        self.life: Life | None = None
        self._stop_seconds = stop_seconds
        self._exit_process = exit_process
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._overdue_since: float | None = None
        self._ears, self._mouth = socket.socketpair()
        self._told = self._closed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are for this guard; before and behind, they are as they were."""
        self._mouth.setblocking(False)
        before = {number: signal.signal(number, _leave_to_guard) for number in (signal.SIGTERM, signal.SIGINT)}
        # Python writes the number there at once, while a handler would wait for the main thread.
        descriptor = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, name="guard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._closed = True
            self._mouth.close()
            thread.join()
            self._ears.close()

    def stop_begins(self) -> None:
        """From now on the process has its time to stop, also if it stops because it has failed."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._stop_seconds

    def _listen(self) -> None:
        self._ears.settimeout(_LOOK_SECONDS)
        while not self._closed:
            with suppress(TimeoutError):
                for number in self._ears.recv(16):
                    self._hear(number)
            self._watch()

    def _hear(self, number: int) -> None:
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        if self._told:
            self._end(128 + number, "told twice to stop")
        self._told = True
        self.stop_begins()
        self._loop.call_soon_threadsafe(self.requested.set)

    def _watch(self) -> None:
        now = time.monotonic()
        if self._deadline is not None:
            if now > self._deadline:
                self._end(FORCED_EXIT_CODE, f"not stopped within {self._stop_seconds:g} s (FAULTLINE_STOP_TIMEOUT_MS)")
            return
        overdue = None if self.life is None else self.life.status().overdue
        if overdue is None:
            self._overdue_since = None
        elif self._overdue_since is None:
            self._overdue_since = now
        elif now > self._overdue_since + self._stop_seconds:
            self._end(FORCED_EXIT_CODE, f"{overdue}, and the process does not stop by itself")

    def _end(self, code: int, reason: str) -> None:
        failure = "" if self.life is None or self.life.failure is None else f"; it failed before: {self.life.failure}"
        print(
            f"error: {reason}: ends at once, and what is not committed will be read again{failure}",
            file=sys.stderr,
            flush=True,
        )
        self._exit_process(code)


def _leave_to_guard(_: int, __: FrameType | None) -> None:
    """The number of the signal is with the guard already."""


def one_line_errors(root: logging.Logger) -> None:
    """Let errors of libraries take one line, unless everything is logged."""

    def shorten(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and record.levelno > logging.DEBUG:
            error = " ".join(repr(record.exc_info[1]).split())
            record.msg, record.args = f"{record.getMessage()} ({error[:500]})", ()
            record.exc_info = record.exc_text = None
        return True

    for handler in root.handlers:
        handler.addFilter(shorten)


async def in_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What a function returns that waits for a broker; unlike `asyncio.to_thread` it cannot hold up the exit."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(result)  # type: ignore[arg-type]
        else:
            found.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = function(*arguments, **options)
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name=getattr(function, "__name__", "call"), daemon=True).start()
    return await found


def run_process(serving: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, but tasks and threads that do not end cannot hold up the exit of the process."""
    loop, before, code = asyncio.new_event_loop(), threading.enumerate(), 0
    executor = ThreadPoolExecutor(thread_name_prefix="call")
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(serving)
    except FaultlineError as error:
        code = error.exit_code
        raise
    except BaseException:
        code = 1
        raise
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=_LEFT_SECONDS))
        executor.shutdown(wait=False, cancel_futures=True)
        threads = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        until = time.monotonic() + _LEFT_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        threads = [thread for thread in threads if thread.is_alive()]
        if threads or any(not task.done() for task in left):
            names = ", ".join(one.name for one in threads)
            log.warning("ends at once: %s", f"threads {names}" if names else "tasks do not end")
            ending = threading.Timer(_LEFT_SECONDS, _exit_at_once, (code,))
            ending.daemon = True
            ending.start()
        else:
            loop.close()


def _exit_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def live(settings: Settings, prepare: Callable[[Guard], Coroutine[Any, Any, None]]) -> None:
    """Run what `prepare` does until SIGTERM or SIGINT, which cancel it while it has not begun to work."""
    guard = Guard(settings.stop_timeout_ms / 1000)
    with guard.listening():
        preparing = asyncio.create_task(prepare(guard))
        requested = asyncio.create_task(guard.requested.wait())
        try:
            await asyncio.wait({preparing, requested}, return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done() and guard.life is None:
                preparing.cancel()
            with suppress(asyncio.CancelledError):
                await preparing
            if preparing.cancelled():
                print("faultline: stopped before it had begun", flush=True)
        finally:
            requested.cancel()
            preparing.cancel()
            await asyncio.wait({preparing, requested})


async def work(process: Process, guard: Guard, settings: Settings, reading: str, *, commits: bool = True) -> bool:
    """Start a process, let it work until it is told to stop or fails, and stop it; raises FaultlineError.

    `commits` is whether it has anything to commit. Returns whether it had begun to work.
    """
    life = guard.life = process.life
    port = process.web.start(settings.web_host, settings.web_port)
    print(f"faultline: metrics on http://{settings.web_host}:{port}/metrics, reading {reading}", flush=True)
    starting = asyncio.create_task(process.start())
    ends = {asyncio.create_task(guard.requested.wait()), asyncio.create_task(life.wait_failed())}
    with _nothing_lost(life):
        try:
            await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            guard.stop_begins()
            for task in ends:
                task.cancel()
            begun = await _cancelled(starting)
            await process.stop()
    ended = "" if not commits else ", everything committed" if begun else " before it had begun"
    print(f"faultline: stopped{ended}", flush=True)
    return begun


async def _cancelled(starting: asyncio.Task[None]) -> bool:
    """Whether a start had come to its end; cancels it if not."""
    starting.cancel()
    await asyncio.wait({starting})
    return not starting.cancelled() and starting.exception() is None


@contextmanager
def _nothing_lost(life: Life) -> Iterator[None]:
    """What is raised where nobody waits for it, in callbacks, tasks and threads, ends the process too."""

    def in_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error, message = context.get("exception"), context.get("message", "")
        if error is None or life.stopping or isinstance(error, KafkaError | OSError | asyncio.CancelledError):
            # Connections that end leave such errors behind; what needs the connection notices it.
            log.warning("%s: %r", message, error)
        else:
            life.fail(error, message)

    def in_thread(context: threading.ExceptHookArgs) -> None:
        name = "a thread" if context.thread is None else f"thread {context.thread.name}"
        error = context.exc_value or context.exc_type()
        if life.stopping:
            log.warning("%s", unexpected(error, name))
        else:
            life.fail(error, name)

    loop, hook = asyncio.get_running_loop(), threading.excepthook
    loop.set_exception_handler(in_loop)
    threading.excepthook = in_thread
    try:
        yield
    finally:
        loop.set_exception_handler(None)
        threading.excepthook = hook
