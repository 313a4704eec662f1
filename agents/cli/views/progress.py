"""Progress bars of trainings on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from agents.cli.views.printable import cell
from agents.words import printable

if TYPE_CHECKING:
    from models.training.loop import OnProgress, Progress


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
def recording_progress(console: Console, what: str = "recording") -> Iterator[Callable[[int, int], None]]:
    """A bar of how many records are written or read, and about how many there are."""
    count = TextColumn("{task.completed:,.0f} of about {task.total:,.0f} records")
    with Bars(_name_column(), BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        task: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not task:
                task.append(bars.add_task(what, total=total))
            bars.update(task[0], completed=done, total=total)

        yield show


class StageBars:
    """One bar for the stage that runs, of the trainings of an experiment."""

    def __init__(self, console: Console) -> None:
        count = TextColumn("{task.completed:.1f}/{task.total}")
        columns = (_name_column(), BarColumn(), count)
        self._bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, what: str, progress: Progress) -> None:
        """Show how far a training is."""
        name = f"{what}: {progress.stage}"
        if name not in self._tasks:
            # What came before is over, whether or not its last epoch was needed.
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[name] = self._bars.add_task(printable(name), total=progress.epochs)
        self._bars.update(self._tasks[name], completed=progress.epoch + progress.done)
