"""The live tables of a replay's areas: the cause of each, the evidence for it, and its machines with and without it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.cli.views.incidents_view import AlarmLines
from agents.cli.views.printable import cell
from agents.words import Words
from pipeline.areas.messages import AreaDiagnosis, AreaText, CauseAnswer, CorrectedAnswer
from pipeline.config.classes import NO_EVIDENCE
from pipeline.config.profile import NORMAL
from pipeline.wire.labels import LabelBook

_KINDS: Final = {"none": "green", "machine": "yellow", "utility": "bold red"}
_HAS_ANSWER: Final = frozenset({"active", "silent"})
_COLUMNS: Final = (
    ("machine", 7),
    ("by itself", None),
    ("sure", 4),
    ("in its area", None),
    ("sure", 4),
    ("evidence", 8),
    ("true", 6),
)
_SHOWN_EVIDENCE: Final = 4
_MIN_WEIGHT: Final = 0.005


class AreaView:
    """Keeps each area's newest diagnosis and renders them as tables."""

    def __init__(self, title: str, words: Words, alarms: AlarmLines) -> None:
        """`alarms` has the machines' alarms that are like past incidents, of which the newest is shown."""
        self._title = title
        self._alarms = alarms
        self._words = words
        self._newest: dict[str, AreaDiagnosis] = {}
        self._since_ms: dict[str, tuple[object, int]] = {}  # what an area's cause is, and since when
        self._texts: dict[str, tuple[AreaText, int]] = {}  # the newest of each area, and the end of its frame
        self.labels = LabelBook()
        self.frames = 0

    def add(self, diagnosis: AreaDiagnosis) -> None:
        """Show this diagnosis from now on."""
        cause = diagnosis.cause
        standing = cause.kind, cause.name, cause.fault
        if self._since_ms.get(diagnosis.area, (None, 0))[0] != standing:
            self._since_ms[diagnosis.area] = standing, diagnosis.frame_start
        self._newest[diagnosis.area] = diagnosis
        if diagnosis.texts:
            self._texts[diagnosis.area] = diagnosis.texts[-1], diagnosis.frame_end
        self.frames += 1

    def render(self) -> RenderableType:
        """The current tables."""
        newest = max((one.frame_end for one in self._newest.values()), default=0)
        moment = f"{_clock(newest, '%Y-%m-%d %H:%M')} UTC" if newest else "waiting"
        head = cell(f"{self._title}   plant time {moment}   {self.frames:,} frames of areas", "table.title")
        tables = (self._table(self._newest[area]) for area in sorted(self._newest))
        return Group(head, *tables, *(cell(line) for line in self._alarms.lines[-1:]))

    def _table(self, diagnosis: AreaDiagnosis) -> Table:
        table = Table(title=self._headline(diagnosis), title_justify="left", expand=True)
        table.caption, table.caption_justify = self._newest_text(diagnosis), "left"
        for heading, width in _COLUMNS:
            right = heading in ("sure", "evidence")
            # Without a width it is an answer, which shares what is left with the others.
            ratio = None if width else 1
            table.add_column(
                heading,
                justify="right" if right else "left",
                no_wrap=True,
                overflow="ellipsis",
                min_width=width,
                ratio=ratio,
            )
        weights = {one.name: one.weight for one in diagnosis.evidence if one.kind == "machine"}
        for machine, answer in diagnosis.machines.items():
            table.add_row(*self._row(diagnosis, machine, answer, weights.get(machine, 0.0)))
        return table

    def _headline(self, diagnosis: AreaDiagnosis) -> Text:
        cause = diagnosis.cause
        _, since_ms = self._since_ms[diagnosis.area]
        line = cell(f"{self._words.declared_area(diagnosis.area)}: ")
        line.append_text(cell(self.cause(diagnosis.area, cause), _KINDS[cause.kind]))
        line.append_text(cell(f"  {cause.probability:.0%}, since {_clock(since_ms, '%H:%M')}"))
        if cause.kind == "utility" and (component := self._component(diagnosis.area, cause)):
            line.append_text(cell(f", shows in: {component}"))
        supporting = sorted(diagnosis.evidence, key=lambda one: -one.weight)[:_SHOWN_EVIDENCE]
        shown = ", ".join(f"{one.name} {one.weight:.0%}" for one in supporting if one.weight >= _MIN_WEIGHT)
        if shown and cause.kind != "none":
            line.append_text(cell(f", by {shown}"))
        return line

    def _newest_text(self, diagnosis: AreaDiagnosis) -> Text | None:
        if (found := self._texts.get(diagnosis.area)) is None:
            return None
        text, end_ms = found
        age_min = (diagnosis.frame_end - end_ms) // 60_000
        return cell(f"{age_min} min: {self._words.utility(diagnosis.area, text.utility)}: {text.text}", "italic")

    def cause(self, area: str, cause: CauseAnswer) -> str:
        """A cause in words."""
        return cause_in_words(self._words, area, cause)

    def _component(self, area: str, cause: CauseAnswer) -> str | None:
        machines = self._newest[area].machines
        return next((found for one in machines if (found := self._words.component(one, cause.fault or ""))), None)

    def _row(self, diagnosis: AreaDiagnosis, machine: str, answer: CorrectedAnswer, weight: float) -> list[Text]:
        true = self.labels.fault_at(machine, diagnosis.frame_start)
        right = "dim" if true is None else "green" if true == answer.fault else "yellow"
        is_known = answer.fault != NO_EVIDENCE
        own = [self._fault(machine, answer.own_fault), cell(f"{answer.own_confidence:.0%}")]
        if answer.presence not in _HAS_ANSWER:
            own = [cell(answer.presence.replace("_", " "), "dim"), cell("")]
        return [
            cell(self._words.machine(machine)),
            *own,
            self._fault(machine, answer.fault) if is_known else cell(""),
            cell(f"{answer.confidence:.0%}" if is_known else ""),
            cell(f"{weight:.0%}" if weight >= _MIN_WEIGHT else ""),
            cell(true or "?", right),
        ]

    def _fault(self, machine: str, fault: str) -> Text:
        return cell(self._words.fault(machine, fault), "green" if fault == NORMAL else "bold red")


def cause_in_words(words: Words, area: str, cause: CauseAnswer) -> str:
    """What is wrong in an area, such as `cooling_water Cooling water header: idv_4 Cooling water, step`."""
    if cause.kind == "none" or cause.name is None:
        return "nothing in common"
    if cause.kind == "utility":
        fault = words.utility_fault(area, cause.name, cause.fault or "")
        return f"{words.utility(area, cause.name)}: {fault}"
    fault = words.fault(cause.name, cause.fault) if cause.fault else "a fault of its own"
    return f"{words.machine(cause.name)}: {fault}"


def _clock(time_ms: int, form: str) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime(form)
