"""A machine's time as strips: labels, diagnoses, alarms and texts over one axis, in SVG that fits any width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from agents.replay.reports.book import AlarmSpan, FrameTable, SeenText
from agents.replay.reports.page.colours import Painter
from agents.replay.reports.page.markup import Markup, element
from agents.replay.reports.summary import Side
from agents.words import Words
from pipeline.config.hints import shown_time

MAX_RUNS: Final = 600
"""Stretches that a strip shows one by one; of more, each pixel or so shows its longest fault."""
MAX_MARKS: Final = 400
"""Texts that a strip shows."""
LISTED: Final = 60
"""Texts that are listed below the strips."""
_HEIGHT: Final = 18
_TICKS: Final = 4
_TEXT_WIDTH: Final = 5.0
"""Percent of the strip that a name needs."""


class Run(NamedTuple):
    """A stretch of one state."""

    state: str
    begin_ms: int
    end_ms: int


class Axis(NamedTuple):
    """The time that all strips of a page show."""

    begin_ms: int
    end_ms: int

    def percent(self, time_ms: int) -> float:
        """Where a time is, from 0 to 100."""
        share = (time_ms - self.begin_ms) / max(self.end_ms - self.begin_ms, 1)
        return 100 * min(max(share, 0.0), 1.0)


def timeline(machine: str, sides: Sequence[Side], axis: Axis, words: Words, painter: Painter) -> Markup:
    """The strips of one machine: labels once, and what each side says."""
    rows: list[Markup] = []
    first = sides[0]
    strips = _Strips(machine, axis, words, painter)
    classes = first.book.scores.classes
    if labelled := _runs(first.table, machine, lambda row: _label(first.table, row, classes)):
        rows += strips.row("label", strips.states(labelled))
    for place, side in enumerate(sides):
        if machine not in side.table.edges:
            continue
        mark = f" {'AB'[place]}" if len(sides) > 1 else ""
        said = side.table.shown
        rows += strips.row(f"diagnosis{mark}", strips.states(_runs(side.table, machine, said.__getitem__)))
        alarms = [alarm for alarm in side.alarms if alarm.machine == machine]
        rows += strips.row(f"alarms{mark}", strips.alarms(alarms))
    texts = sorted(first.book.texts.get(machine, {}).values())
    if texts:
        rows += strips.row("texts", strips.texts(texts[:MAX_MARKS]))
    rows += [element("span", class_="name"), strips.scale()]
    area = words.area(machine)
    heading = element("h3", words.machine(machine), f" · {area}" if area else None)
    return element("section", heading, element("div", rows, class_="strips"), _listed(texts), class_="machine")


class _Strips:
    def __init__(self, machine: str, axis: Axis, words: Words, painter: Painter) -> None:
        self._machine, self._axis, self._words, self._painter = machine, axis, words, painter

    def row(self, name: str, shapes: Iterable[Markup]) -> list[Markup]:
        """A strip with its name."""
        drawn = element("svg", shapes, width="100%", height=_HEIGHT, role="img", aria_label=f"{self._machine} {name}")
        return [element("span", name, class_="name"), drawn]

    def states(self, runs: Sequence[Run]) -> list[Markup]:
        """Stretches in the colours of their faults."""
        return [self._box(run.state, run.begin_ms, run.end_ms) for run in _fitting(runs, self._axis)]

    def alarms(self, alarms: Sequence[AlarmSpan]) -> list[Markup]:
        """The time in which each alarm stood."""
        axis = self._axis
        runs = [
            Run(
                one.fault,
                axis.begin_ms if one.raised_ms is None else one.raised_ms,
                axis.end_ms if one.over_ms is None else one.over_ms,
            )
            for one in alarms
        ]
        return [self._box(run.state, run.begin_ms, run.end_ms) for run in _fitting(runs, axis)]

    def texts(self, texts: Sequence[SeenText]) -> list[Markup]:
        """A mark for each text, which shows it where there is a pointer."""
        marks = []
        for one in texts:
            at = f"{self._axis.percent(one.time_ms):.2f}%"
            title = element("title", f"{shown_time(one.time_ms)} {one.text}{' (late)' if one.late else ''}")
            marks.append(element("line", title, x1=at, x2=at, y1=2, y2=_HEIGHT - 2, class_="mark"))
        return marks

    def scale(self) -> Markup:
        """Times under the strips."""
        axis, shapes = self._axis, []
        for tick in range(_TICKS + 1):
            time_ms = axis.begin_ms + (axis.end_ms - axis.begin_ms) * tick // _TICKS
            at = f"{axis.percent(time_ms):.2f}%"
            anchor = "start" if tick == 0 else "end" if tick == _TICKS else "middle"
            shapes += [
                element("line", x1=at, x2=at, y1=0, y2=4, class_="axis"),
                element("text", _short_time(time_ms), x=at, y=15, text_anchor=anchor, class_="tick"),
            ]
        return element("svg", shapes, width="100%", height=_HEIGHT, aria_hidden="true")

    def _box(self, state: str, begin_ms: int, end_ms: int) -> Markup:
        left, right = self._axis.percent(begin_ms), self._axis.percent(end_ms)
        width = max(right - left, 0.1)
        said = self._words.fault(self._machine, state)
        title = element("title", f"{said}, {shown_time(begin_ms)} to {shown_time(end_ms)}")
        fill = self._painter.fill(state, width="100%", height="100%")
        name = None
        if width >= _TEXT_WIDTH:
            name = element("text", state, x=3, y=13, class_=self._painter.text_class(state))
        # An inner picture cuts a name that is longer than its stretch.
        return element("svg", title, fill, name, x=f"{left:.2f}%", width=f"{width:.2f}%", height=_HEIGHT)


def _label(table: FrameTable, row: int, classes: Sequence[str]) -> str | None:
    label = int(table.truth[row])
    return classes[label] if label >= 0 else None


def _runs(table: FrameTable, machine: str, state_of: Callable[[int], str | None]) -> list[Run]:
    """Stretches of equal states; where there is none, or no frame, there is no stretch."""
    runs: list[Run] = []
    rows = table.edges.get(machine, slice(0, 0))
    for row in range(rows.start, rows.stop):
        state, begin_ms = state_of(row), int(table.start_ms[row])
        end_ms = begin_ms + int(table.period_ms[row])
        if state is None:
            continue
        if runs and runs[-1].state == state and runs[-1].end_ms == begin_ms:
            runs[-1] = runs[-1]._replace(end_ms=end_ms)
        else:
            runs.append(Run(state, begin_ms, end_ms))
    return runs


def _fitting(runs: Sequence[Run], axis: Axis) -> Sequence[Run]:
    """These stretches, or where they are too many one for each part of the axis: its longest fault, or else state."""
    if len(runs) <= MAX_RUNS:
        return runs
    step = max((axis.end_ms - axis.begin_ms) / MAX_RUNS, 1.0)
    best: dict[int, Run] = {}
    for run in runs:
        for part in range(int((run.begin_ms - axis.begin_ms) / step), int((run.end_ms - 1 - axis.begin_ms) / step) + 1):
            if part not in best or _weight(run) > _weight(best[part]):
                best[part] = run
    fitted: list[Run] = []
    for part in sorted(best):
        begin_ms = int(axis.begin_ms + part * step)
        if fitted and fitted[-1].state == best[part].state and begin_ms - fitted[-1].end_ms <= 1:
            fitted[-1] = fitted[-1]._replace(end_ms=int(begin_ms + step))
        else:
            fitted.append(Run(best[part].state, begin_ms, int(begin_ms + step)))
    return fitted


def _weight(run: Run) -> tuple[bool, int]:
    return not Painter.is_quiet(run.state), run.end_ms - run.begin_ms


def _short_time(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%m-%d %H:%M}"


def _listed(texts: Sequence[SeenText]) -> Markup | None:
    """The newest texts as a list that can be opened, for where there is no pointer."""
    if not texts:
        return None
    shown = texts[-LISTED:]
    less = f", the last {len(shown)}" if len(shown) < len(texts) else ""
    items = [element("li", element("time", shown_time(one.time_ms)), " ", one.text) for one in shown]
    return element("details", element("summary", f"{len(texts)} texts{less}"), element("ul", items))
