"""`faultline evaluate`: an experiment of docs/results/results.md from its data, over several seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.config.settings import load_settings
from pipeline.extras import require_modules

if TYPE_CHECKING:
    from models.experiments.base import Results
    from models.training.loop import Progress


def evaluate(
    descriptions: Annotated[
        list[Path], typer.Argument(help="YAML of one or more experiments, as in deploy/experiments")
    ],
    data: Annotated[
        Path, typer.Option("--data", help="folder of the data sets; FAULTLINE_DATA", envvar="FAULTLINE_DATA")
    ],
    out: Annotated[Path, typer.Option("--out", help="folder for results, plots, models and what is simulated")],
    work: Annotated[
        Path | None, typer.Option("--work", help="folder of inputs that other commands made; by default that of --out")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="how many seeds")] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="the others follow")] = 0,
    check: Annotated[bool, typer.Option("--check", help="only say which data is there and which is lacking")] = False,
) -> None:
    """Reproduce tables of docs/results/results.md: mean and 95 % interval over seeds. Resumes if interrupted."""
    require_modules("faultline evaluate", "torch")
    from models.experiments.base import lacking, require_data, write_results
    from models.experiments.load import load_experiment
    from models.training.threads import limit_threads

    # Training configurations name the folder in this way too, and the option says which one it is.
    os.environ["FAULTLINE_DATA"] = str(data.absolute())
    experiments = [
        (load_experiment(path, data=data, out=folder, work=work or out), folder)
        for path in descriptions
        for folder in (out / path.stem if len(descriptions) > 1 else out,)
    ]
    console = Console(stderr=True)
    if check:
        for experiment, _ in experiments:
            missing = lacking(experiment)
            typer.echo(f"{experiment.title}: {'data is lacking' if missing else 'ready'}")
            for need in missing:
                typer.echo(f"  {need.path} ({need.source})")
        raise typer.Exit(1 if any(lacking(experiment) for experiment, _ in experiments) else 0)
    for experiment, _ in experiments:
        require_data(experiment)
    limit_threads(load_settings().threads)
    chosen = range(first_seed, first_seed + seeds)
    for experiment, folder in experiments:
        folder.mkdir(parents=True, exist_ok=True)
        with _Bars(console) as bars:
            results = experiment.run(chosen, folder, bars.show)
        for path in write_results(results, folder):
            typer.echo(path)
        console.print(_table(results))


class _Bars:
    """One bar for each stage that runs."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.1f}/{task.total}"))
        self._bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, what: str, progress: Progress) -> None:
        name = f"{what}: {progress.stage}"
        if name not in self._tasks:
            # What came before is over, whether or not its last epoch was needed.
            for task in self._tasks.values():
                self._bars.update(task, visible=False)
            self._tasks[name] = self._bars.add_task(name, total=progress.epochs)
        self._bars.update(self._tasks[name], completed=progress.epoch + progress.done)


def _table(results: Results) -> Table:
    from models.experiments.base import shown

    table = Table(title=f"{results.title}, {len(results.seeds)} seeds", title_justify="left")
    table.add_column("")
    for column in results.columns:
        table.add_column(column.heading, justify="right")
    for row in results.rows:
        table.add_row(row, *(shown(results.interval(row, column.score), column) for column in results.columns))
    return table
