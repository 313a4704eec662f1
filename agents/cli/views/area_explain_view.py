"""What `faultline explain` shows of an area: the cause or a machine's answer in it, and what each node adds to it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from agents.audit.dead_letters import shown_time
from agents.audit.why.explained_area import ExplainedArea
from agents.cli.views.area_view import cause_in_words
from agents.cli.views.printable import cell, say
from agents.words import Words
from models.evaluation.explanations.areas import NodeContribution, NodeGroup

_KINDS = {"machine": "machine", "modality": "modality", "utility": "texts about", "text": "text"}
_BAR = 24


def show_explained_area(explained: ExplainedArea, words: Words, console: Console, limit: int) -> None:
    """Print an explanation; at most `limit` contributions of a kind."""
    one, found = explained.diagnosis, explained.explanation
    until = shown_time(one.frame_end)
    if explained.machine is None:
        cause = cause_in_words(words, one.area, one.cause)
        say(f"{words.declared_area(one.area)}, frame until {until}: {cause}, probability {one.cause.probability:.2f}")
    else:
        name, answer = explained.machine, one.machines[explained.machine]
        say(
            f"{words.machine(name)} in {words.declared_area(one.area)}, frame until {until}: "
            f"{words.fault(name, answer.fault)}, confidence {answer.confidence:.2f}; by itself "
            f"{words.fault(name, answer.own_fault)}, {answer.own_confidence:.2f}"
        )
    against = " and ".join(_answer(explained, number, words) for number in explained.question.against)
    if len(explained.question.against) > 2:
        against = "all other answers"
    say(
        f"evidence {found.evidence:.2f} nats over {against}; contributions of the last {found.frames} frames, by "
        "leaving each out"
    )
    table = Table("", "", "by itself", "contribution", "")
    largest = max((abs(each.amount) for each in found.contributions), default=0.0)
    last = ""
    for kind, name, own, amount in _rows(explained, words, limit):
        bar = "█" * round(_BAR * abs(amount) / largest) if largest else ""
        table.add_row(cell("" if kind == last else kind, "bold"), cell(name), cell(own), f"{amount:+.2f}", bar)
        last = kind
    console.print(table)
    say(_change_text(explained, words))
    if explained.differs is not None:
        say(f"NOT THE SAME: the published diagnosis differs from the replayed one in {explained.differs}")


def _rows(explained: ExplainedArea, words: Words, limit: int) -> Iterator[tuple[str, str, str, float]]:
    """Kind, name, the machine's own answer and amount of the largest contributions, in either direction."""
    for kind, heading in _KINDS.items():
        own = [each for each in explained.explanation.contributions if each.group.kind == kind]
        largest = sorted(own, key=lambda each: -abs(each.amount))[:limit]
        for one in sorted(largest, key=lambda each: -each.amount):
            yield heading, _name(one.group, words), _own(explained, one, words), one.amount


def _name(group: NodeGroup, words: Words) -> str:
    return f"“{group.name}”" if group.kind == "text" else words.machine(group.name)


def _own(explained: ExplainedArea, one: NodeContribution, words: Words) -> str:
    if one.group.kind != "machine":
        return ""
    answer = explained.diagnosis.machines[one.group.name]
    if answer.presence not in ("active", "silent"):
        return answer.presence.replace("_", " ")
    return f"{words.fault(one.group.name, answer.own_fault)} {answer.own_confidence:.2f}"


def _answer(explained: ExplainedArea, number: int, words: Words) -> str:
    answer = explained.answer(number)
    if isinstance(answer, str):
        return words.fault(explained.machine or "", answer)
    return cause_in_words(words, explained.diagnosis.area, answer)


def _change_text(explained: ExplainedArea, words: Words) -> str:
    change = explained.explanation.would_change
    if change is None:
        return "no small set of machines and texts would change the answer"
    names = " and ".join(_name(group, words) for group in change.groups)
    return f"without {names} it would be {_answer(explained, change.answer, words)}, {change.probability:.2f}"
