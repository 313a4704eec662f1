"""How far a command is: bars on a terminal and lines elsewhere, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from agents.cli.views.printable import cell
from agents.words import printable
from pipeline.wire.records import OnProgress as OnRecords

if TYPE_CHECKING:
    from models.training.loop import OnProgress, Progress

FIRST_SECONDS: Final = 2.0
"""Before that nothing is shown of records."""
LINE_SECONDS: Final = 10.0
"""Between two lines where there is no terminal."""


def _name_column() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


@contextmanager
def training_progress(console: Console) -> Iterator[OnProgress]:
    """One progress bar per stage and one line per epoch: give what it yields to `train`."""
    score = TextColumn("{task.fields[score]}", markup=False)
    with Bars(_name_column(), BarColumn(), score, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(printable(progress.stage), total=progress.epochs, score="")
            bar.update(tasks[progress.stage], completed=progress.epoch + progress.done)
            if progress.record is not None:
                record = progress.record
                score = f"macro-F1 {record['score']:.3f}"
                if "accuracy" not in record:
                    # A stage that names no class, such as a forecast, is judged by its loss.
                    held_out = record.get("validation_loss")
                    score = f"validation loss {'-' if held_out is None else f'{held_out:.3f}'}"
                bar.update(tasks[progress.stage], score=score)
                loss = "-" if record["loss"] is None else f"{record['loss']:.3f}"
                line = f"{progress.stage} epoch {progress.epoch + 1}: loss {loss}, {score}"
                console.print(cell(line, limit=None))

        yield show


@contextmanager
def records_progress(
    what: str,
    unit: str = "records",
    *,
    is_shown: bool = True,
    console: Console | None = None,
    monotonic_seconds: Callable[[], float] = time.monotonic,
) -> Iterator[OnRecords]:
    """How many records were read or written, on standard error: a bar on a terminal, else a line now and then.

    What is over within two seconds shows nothing, and neither does anything that is not `is_shown`.
    """
    if not is_shown:
        yield _show_nothing
        return
    shown = _Shown(what, unit, console or Console(stderr=True), monotonic_seconds)
    try:
        yield shown
    finally:
        shown.end()


def _show_nothing(done: int, total: int | None) -> None:
    pass


class _Shown:
    """The progress of one command."""

    def __init__(self, what: str, unit: str, console: Console, monotonic_seconds: Callable[[], float]) -> None:
        self._what, self._unit = what, unit
        self._console = console
        self._monotonic_seconds = monotonic_seconds
        self._began = monotonic_seconds()
        self._due_seconds = FIRST_SECONDS
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        seconds = self._monotonic_seconds() - self._began
        if self._bars is not None:
            self._update(self._bars, done, total)
        elif seconds >= self._due_seconds:
            if self._console.is_terminal:
                count = TextColumn("{task.fields[count]}", markup=False)
                columns = (_name_column(), BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn())
                self._bars = Bars(*columns, console=self._console)
                self._bars.start()
                self._update(self._bars, done, total)
            else:
                self._due_seconds = seconds + LINE_SECONDS
                line = f"{self._what}: {self._count(done, total)}, {seconds:.0f} s"
                self._console.print(cell(line, limit=None), soft_wrap=True)

    def _update(self, bars: Bars, done: int, total: int | None) -> None:
        if self._task is None:
            self._task = bars.add_task(printable(self._what), total=total, count="")
        bars.update(self._task, completed=done, total=total, count=self._count(done, total))

    def _count(self, done: int, total: int | None) -> str:
        return f"{done:,} {self._unit}" if total is None else f"{done:,} of about {max(done, total):,} {self._unit}"

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()


class StageBars:
    """The stage that runs, of the trainings of an experiment: a bar on a terminal, else a line now and then."""

    def __init__(self, console: Console, monotonic_seconds: Callable[[], float] = time.monotonic) -> None:
        count = TextColumn("{task.completed:.1f}/{task.total}")
        columns = (_name_column(), BarColumn(), count)
        self._console = console
        self._monotonic_seconds = monotonic_seconds
        self._line_seconds = monotonic_seconds()
        self._bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageBars:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def show(self, what: str, progress: Progress) -> None:
        """Show how far a training is."""
        name = f"{what}: {progress.stage}"
        if not self._console.is_terminal:
            now = self._monotonic_seconds()
            if now - self._line_seconds >= LINE_SECONDS:
                self._line_seconds = now
                line = f"{name}, epoch {progress.epoch + progress.done:.1f} of {progress.epochs}"
                self._console.print(cell(line, limit=None), soft_wrap=True)
            return
        if name not in self._tasks:
            # What came before is over, whether or not its last epoch was needed.
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[name] = self._bars.add_task(printable(name), total=progress.epochs)
        self._bars.update(self._tasks[name], completed=progress.epoch + progress.done)
