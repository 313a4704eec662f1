"""What `faultline explain` shows: the answer, contributions to it by kind, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from agents.audit.dead_letters import shown_time
from agents.audit.why.explained import Explained
from agents.cli.views.printable import cell, say
from agents.words import Words
from models.evaluation.explanations.explain import Explanation
from models.evaluation.explanations.window import Kind

_HEADINGS: Mapping[Kind, str] = {
    "modality": "modality",
    "component": "component",
    "variable": "variable",
    "text": "text",
    "word": "word",
}
_BAR = 24


def show_explained(explained: Explained, words: Words, console: Console, limit: int) -> None:
    """Print an explanation."""
    one, found = explained.diagnosis, explained.explanation
    machine = one.machine
    say(
        f"{words.machine(machine)}, frame until {shown_time(one.frame_end)}: {words.fault(machine, one.fault)}, "
        f"confidence {one.confidence:.2f}"
    )
    say(f"{explained.evidence_said()}; contributions of the last {found.frames} frames, by {_method(found)}")
    table = Table("", "", "contribution", "")
    rows = [row for kind in _HEADINGS for row in _rows(explained, kind, words, limit)]
    largest = max((abs(amount) for _, _, amount in rows), default=0.0)
    last = ""
    for heading, name, amount in rows:
        bar = "█" * round(_BAR * abs(amount) / largest) if largest else ""
        table.add_row(cell("" if heading == last else heading, "bold"), cell(name), f"{amount:+.2f}", bar)
        last = heading
    console.print(table)
    if found.covered is not None:
        text = f"these cover {found.covered:.0%} of the change from no evidence, with a completeness error of "
        say(f"{text}{found.completeness_error or 0:.2%}")
    say(explained.change_said(words))
    if explained.differs is not None:
        say(f"NOT THE SAME: the published diagnosis differs from the replayed one in {explained.differs}")


def _method(found: Explanation) -> str:
    return "leaving each out" if found.method == "leave-out" else "integrated gradients"


def _rows(explained: Explained, kind: Kind, words: Words, limit: int) -> Iterator[tuple[str, str, float]]:
    """Heading, name in people's words and amount of the largest contributions of a kind, in either direction."""
    largest = sorted(explained.explanation.of_kind(kind), key=lambda each: -abs(each.amount))[:limit]
    for one in sorted(largest, key=lambda each: -each.amount):
        yield _HEADINGS[kind], explained.said(one, words), one.amount
