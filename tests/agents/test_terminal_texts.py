"""What people see of ids, texts and file names: never markup, links, commands to a terminal, or a second line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.audit.dead_letters import Summary
from agents.audit.machine_list import MachineSummary
from agents.audit.source_check import SourceReport
from agents.audit.verify import VerifyReport
from agents.audit.why.facts import Facts, InputFinds, LastDiagnosis, Letters, WorkerPage
from agents.audit.why.next_steps import next_steps
from agents.cli.audit import show_letters, show_verified
from agents.cli.machines import machines_table
from agents.cli.options import load_runners
from agents.cli.topics.sources import show_reports
from agents.cli.training import results_table
from agents.cli.views.live_view import LiveView
from agents.cli.views.printable import PrintableFormatter
from agents.cli.views.progress import StageBars, training_progress
from agents.cli.views.scores_table import faults_table
from agents.cli.views.why_view import show_why
from agents.delivery.partitioning import partition_function
from agents.replay.replay import replay_in_memory
from agents.words import Words, printable
from models.experiments.base import Column, Results
from models.training.loop import EpochRecord, Progress
from pipeline.config.profile import load_profile
from pipeline.config.settings import load_settings
from pipeline.wire.messages import Diagnosis, Evidence, ModalityAnswer, ModelRef, TextEvidence, VariableEvidence
from pipeline.wire.recording import new_recording
from tests.support.builders import ONE_SOURCE, event, numbered, profile, reading
from tests.support.commands import faultline

ESCAPES = "\x1b]8;;http://x\x1b\\z \x1b[2J\u202eabc\x9b"
NASTY = f"valve [/opened] [link=http://x]y[/link] :boom: {ESCAPES}\r\nover\x07\u2028end"
SHOWN = (
    "valve [/opened] [link=http://x]y[/link] :boom: "
    r"\x1b]8;;http://x\x1b\z \x1b[2J\u202eabc\x9b  over\x07 end"
)
LAST = LastDiagnosis(NASTY, 0.5, NASTY, NASTY, 0, 1_000, NASTY, (NASTY,))
MEASURES = (
    "episodes", "undetected_share", "detection_delay_median_frames", "detection_rate", "accuracy",
)  # fmt: skip
WORDS = Words(profile())
OWN_COLOURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K|\r")
"""What rich itself writes in these tests: colours, and the moves of its progress bars."""


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=2_000, color_system="truecolor")


def written(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return OWN_COLOURS.sub("", where.file.getvalue())


def check(text: str, times: int = 1) -> None:
    """The nasty text is there, whole, on one line, and nothing else that a terminal would obey."""
    assert text.count(SHOWN) >= times, text
    assert all(character.isprintable() or character == "\n" for character in text), ascii(text)
    for line in text.splitlines():
        assert not line.startswith("over")


def test_a_printable_text_is_left_as_it_is() -> None:
    for text in ("valve 7 [open]", "反应器冷却水", "Fuite à la bride nº 3", "مضخة", "a\\x1bb", "🔧"):
        assert printable(text) == text
    assert printable("a\u00a0b\u3000c") == "a b c"
    assert printable("x" * 300, 200) == "x" * 200 + "…"
    assert printable("\ud800") == "\\ud800"


def test_the_live_table_shows_it() -> None:
    view = LiveView(NASTY, WORDS)
    diagnosis = Diagnosis(
        id="x", machine=NASTY, frame_start=0, frame_end=1_000, revision=0, status="active", fault=NASTY,
        confidence=0.5, probabilities={NASTY: 0.5},
        modalities={name: ModalityAnswer(NASTY, 0.5, 0.5, True, None) for name in ("sensors", "text")}, entropy=0.0,
        disagreement=0.0, reset=None, model=ModelRef(NASTY, "5" * 64),
        evidence=Evidence([VariableEvidence(NASTY, 1.0, 3.0)], [TextEvidence(NASTY, NASTY, 0, False)]),
    )  # fmt: skip
    view.add(diagnosis)
    where = terminal()
    where.print(view.table())
    check(written(where), times=7)


def test_tables_of_machines_and_sources_show_it() -> None:
    where = terminal()
    machine = MachineSummary(NASTY, NASTY, 0, "active", 0, 0, 0, 1, {NASTY: 0}, {NASTY: 0}, [NASTY], 0, 0)
    where.print(machines_table([machine], 1_000, WORDS))
    check(written(where), times=2)
    facts = Facts(NASTY, NASTY, "", 1_000, 0, {NASTY: NASTY}, NASTY, machine, diagnosis=LAST, similar=[NASTY])
    facts.inputs = [InputFinds(NASTY, "readings", found=1, wrong_keys=Counter([NASTY]))]
    facts.late = Letters(reasons=Counter([NASTY]), newest_detail=NASTY, newest_place=NASTY)
    facts.worker = WorkerPage(NASTY, not_ready=NASTY, version=NASTY, plant=NASTY, profile=NASTY)
    where = terminal()
    show_why(facts, next_steps(facts), where, WORDS)
    check(written(where), times=16)
    report = SourceReport(NASTY, "readings")
    report.reasons[NASTY] = report.unused[NASTY] = report.unknown[NASTY] = 3
    report.absent = [NASTY]
    where = terminal()
    show_reports([report], where)
    check(written(where), times=9)


def test_titles_of_a_profile_are_shown_as_data() -> None:
    title = NASTY[:60]  # a title has at most 100 characters, blanks at its ends left out
    quoted = json.dumps(title)
    plant = profile(
        ONE_SOURCE.replace("[normal, leak, jam]", f"[normal, {{name: leak, title: {quoted}, component: c}}, jam]")
        .replace("{name: flow}", f"{{name: flow, title: {quoted}, unit: {quoted}}}")
        .replace("    variables", f"    components: {{c: {{title: {quoted}}}}}\n    variables")
        + f"machines: {{p1: {{title: {quoted}, area: {quoted}}}}}\n"
    )
    words, where = Words(plant), terminal()
    evidence = VariableEvidence("flow", 1.0, 3.0)
    view = LiveView("plant", words)
    view.add(
        Diagnosis(
            id="x", machine="p1", frame_start=0, frame_end=1_000, revision=0, status="active", fault="leak",
            confidence=0.5, probabilities={"leak": 0.5}, modalities={}, entropy=0.0, disagreement=0.0, reset=None,
            model=ModelRef("tiny", "5" * 64), evidence=Evidence([evidence], []),
        )
    )  # fmt: skip
    where.print(view.table())
    where.print(faults_table("faults", {"leak": dict.fromkeys(MEASURES)}, words))
    machine = MachineSummary("p1", "pump", 0, "active", 0, 0, 0, 1, {"sensors": 0}, {"sensors": 0}, [], 0, 0)
    where.print(machines_table([machine], 1_000, words))
    facts = Facts("p1", "small", "", 1_000, 0, {"pump": "*"}, "pump", machine)
    facts.diagnosis = LastDiagnosis("leak", 0.5, "active", None, 0, 1_000, "tiny", ("flow",), (evidence,))
    show_why(facts, next_steps(facts), where, words)
    shown = written(where)
    assert shown.count(printable(title)) == 4 + 1 + 2 + 2 + 1 + 1 + 2 + 1
    assert all(character.isprintable() or character == "\n" for character in shown), ascii(shown)


def test_dead_letters_and_findings_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    letter: dict[str, Any] = {
        "time": None, "reason": NASTY, "topic": NASTY, "partition": 0, "offset": 0, "key": NASTY, "detail": NASTY,
        "replayed_to": [NASTY], "replays_before": 0, "first_bytes": NASTY, "bytes": 1, "truncated": False,
    }  # fmt: skip
    found = Summary(matched=1, reasons={NASTY: {"count": 1, "oldest_ms": 0, "newest_ms": 0}})
    show_letters(found, [letter], "dead letters")
    check(capsys.readouterr().out, times=4)
    report = VerifyReport()
    report.problem("order", NASTY)
    report.resets[NASTY] = 1
    show_verified(report)
    check(capsys.readouterr().out, times=2)


def test_progress_and_results_of_trainings_show_it() -> None:
    where = terminal()
    with training_progress(where) as show:
        show(Progress(NASTY, 0, 2, 0.0))
        show(Progress(NASTY, 0, 2, 0.0, EpochRecord(stage=NASTY, epoch=0, loss=0.5, score=0.5)))
    check(written(where))
    where = terminal()
    with StageBars(where) as bars:
        bars.show(NASTY, Progress(NASTY, 0, 2, 0.0))
    check(written(where))
    where = terminal()
    where.print(results_table(Results(NASTY, (0,), {NASTY: [{"f1": 0.5}]}, (Column(score="f1", heading=NASTY),))))
    check(written(where), times=3)


def test_log_lines_and_tracebacks_show_it() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("about %s", NASTY)
    assert len(out.getvalue().splitlines()) == 1
    check(out.getvalue())
    try:
        raise ValueError(ESCAPES)
    except ValueError:
        logger.exception("about %s", NASTY)
    check(out.getvalue(), times=2)
    assert r"ValueError: \x1b]8;;http://x" in out.getvalue()


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "NASTY"),
        ("replay", "x.parquet", "--profile", "NASTY"),
        ("stress", "NASTY"),
        ("verify", "--recording", "NASTY"),
        ("convert", "NASTY", "--data", ".", "--out", "out.parquet"),
        ("train", "NASTY"),
        ("record", "--out", "out.parquet", "--broker", "NASTY"),
        ("machines", "list", "--profile", "NASTY"),
        ("why", "te-01", "--profile", "NASTY"),
        ("sources", "try", "NASTY", "--topic", "x"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_errors_show_it_on_one_line(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = faultline(*(NASTY if part == "NASTY" else part for part in command))
    assert done.returncode == 1, done
    assert "opened]" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.rstrip("\n").isprintable(), ascii(done.stderr)


def test_a_replay_whose_newest_text_looks_like_markup_goes_to_its_end(tmp_path: Path) -> None:
    """The case from the field: `valve [/opened]` ended a replay with a traceback."""
    start = 1_763_600_000_000
    records = [reading("te-[/1]", start + 180_000 * n, {"xmeas_1": 0.2}) for n in range(4)]
    records.insert(1, event("te-[/1]", start + 1_000, "valve [/opened]"))
    path = tmp_path / "plant [x].parquet"
    with new_recording(path) as writer:
        writer.write(numbered(records))
    done = faultline("replay", path)
    assert done.returncode == 0, done.stderr
    assert "1 machines" in done.stdout
    plant, settings = load_profile("tennessee_eastman"), load_settings()
    runners, partition_of = load_runners(settings, plant, None), partition_function(settings.partitions)
    view = LiveView(path.name, Words(plant))
    asyncio.run(replay_in_memory(path, settings, plant, runners, partition_of, on_diagnosis=view.add))
    where = terminal()
    where.print(view.table())
    assert "valve [/opened]" in written(where)
    assert "te-[/1]" in written(where)
    assert "plant [x].parquet" in written(where)
