"""Progress of commands: on standard error, not before it is wanted, as a bar on a terminal and as lines elsewhere."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from agents.cli.views import progress
from agents.cli.views.progress import StageBars, records_progress
from agents.replay.shipped import demo_recording
from models.training.loop import Progress
from pipeline.wire.recording import RecordingWriter, read_recording
from tests.support.commands import Finished, faultline
from tests.support.topics import topics_of

Command = Callable[..., Finished]


class Clock:
    """Seconds as a test wants them."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def lines_of(moments: dict[float, tuple[int, int | None]]) -> list[str]:
    """What is shown where there is no terminal, of progress at seconds after the beginning."""
    clock, shown = Clock(), io.StringIO()
    with records_progress("reading", console=Console(file=shown, width=20), monotonic_seconds=clock) as show:
        for seconds, (done, total) in moments.items():
            clock.seconds = 100.0 + seconds
            show(done, total)
    return shown.getvalue().splitlines()


def test_what_is_soon_over_shows_nothing() -> None:
    assert lines_of({0.1: (1, 2), 1.9: (2, 2)}) == []


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    moments: dict[float, tuple[int, int | None]] = {
        1: (10, None), 3: (2_000, None), 4: (3_000, 9_000), 13: (4_000, 9_000), 20: (9_000, 9_000), 23: (9_500, 9_000)
    }  # fmt: skip
    assert lines_of(moments) == [
        "reading: 2,000 records, 3 s",
        "reading: 4,000 of about 9,000 records, 13 s",
        "reading: 9,500 of about 9,500 records, 23 s",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    clock, shown = Clock(), io.StringIO()
    console = Console(file=shown, width=100, force_terminal=True)
    with records_progress("[b]reading", "rows", console=console, monotonic_seconds=clock) as show:
        show(1, 10)
        assert shown.getvalue() == ""
        clock.seconds += 2.5
        show(4, 10)
        show(9, None)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "4 of about 10 rows" in text or "9 rows" in text
    assert "[b]reading" in text


def test_an_experiment_without_a_terminal_says_what_it_is_at() -> None:
    clock, shown = Clock(), io.StringIO()
    with StageBars(Console(file=shown, width=100), clock) as bars:
        for epoch in range(4):
            bars.show("seed 1", Progress("sensors", epoch, 9, 0.5))
            clock.seconds += 6
    assert shown.getvalue().splitlines() == ["seed 1: sensors, epoch 2.5 of 9"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Commands that show all of their progress."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    return functools.partial(faultline, progress_after_seconds=0.0)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A few records of the demo, and what comes of them."""
    folder = tmp_path_factory.mktemp("progress")
    short, outputs = folder / "short.parquet", folder / "outputs.parquet"
    with RecordingWriter(short) as writer:
        writer.write(islice(read_recording(demo_recording()), 400))
    assert faultline("replay", short, "--out", outputs).returncode == 0
    yield short, outputs


def shows(done: Finished, what: str) -> None:
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^{what}: [\d,]+ of about [\d,]+ records, \d+ s$", done.stderr, re.MULTILINE), done.stderr
    assert what not in done.stdout


def test_every_command_that_reads_records_shows_how_far_it_is(
    at_once: Command, recordings: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, outputs = recordings
    records = [*read_recording(short), *read_recording(outputs)]
    shows(at_once("replay", short), "replaying")
    shows(at_once("report", short, "--out", tmp_path / "report.html"), "reading")
    shows(at_once("report", outputs, "--out", tmp_path / "again.html"), "reading")
    shows(at_once("drift", "--from", short), "reading")
    shows(at_once("verify", "--recording", outputs), "reading")
    shows(at_once("unknown", "list", "--from", outputs), "reading")
    said = next(json.loads(one.value or b"") for one in reversed(records) if one.topic == "diagnoses")
    shows(at_once("explain", said["id"], "--from", short), "replaying")
    monkeypatch.setattr("agents.audit.log.kafka_log", topics_of(records))
    shows(at_once("unknown", "list", "--broker", "kafka://broker:9092"), "reading")


def test_a_command_that_prints_json_shows_nothing_else(at_once: Command, recordings: tuple[Path, Path]) -> None:
    short, outputs = recordings
    for command in (("replay", short), ("verify", "--recording", outputs), ("unknown", "list", "--from", outputs)):
        done = at_once(*command, "--json")
        assert json.loads(done.stdout)
        assert done.stderr == ""


def test_tables_are_read_row_by_row_and_records_written_one_by_one(at_once: Command, tmp_path: Path) -> None:
    rows = "".join(f"{1_763_600_000 + 10 * row},{row}\n" for row in range(4_500))
    (tmp_path / "pump.csv").write_text(f"time,flow\n{rows}", encoding="utf-8")
    description = tmp_path / "tables.yaml"
    description.write_text(
        "readings: [{files: pump.csv, machine: p1, time: time, time_unit: s, values: {flow: flow}}]\n",
        encoding="utf-8",
    )
    done = at_once("convert", description, "--data", tmp_path, "--out", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    shown = [line.rpartition(",")[0] for line in done.stderr.splitlines()]
    assert shown == ["reading: 2,000 rows", "reading: 4,000 rows"] + [
        f"writing: {count} of about 4,500 records" for count in ("2,000", "4,000")
    ]
    assert done.stdout.splitlines()[0].startswith("4,500 records written to")
