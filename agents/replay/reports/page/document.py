"""The report as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents.replay.reports.page.colours import Painter
from agents.replay.reports.page.markup import Markup, element, joined
from agents.replay.reports.page.sections import answers_section, faults_section, headlines, trust_section
from agents.replay.reports.page.style import STYLE
from agents.replay.reports.page.timelines import Axis, timeline
from agents.replay.reports.summary import Side
from agents.words import Words
from pipeline.config.classes import UNKNOWN
from pipeline.config.hints import shown_time
from pipeline.config.profile import NORMAL
from pipeline.extras import faultline_version

MAX_MACHINES: Final = 60
"""Machines whose timelines are shown: those with faults and alarms first."""

_POLICY: Final = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"

_MEANINGS: Final = {
    "First alarm": "from the labelled start of a fault to the first alarm in it, of any fault; missed ones have none.",
    "Forewarning": "from the first alarm of the right fault to the labelled end of the fault. Where labels end at the "
    "failure, this is the time that was left to act.",
    "Missed": "faults in whose time no alarm was raised.",
    "Misnamed": "faults whose alarms all named other faults.",
    "False alarms": "alarms raised where the label says normal, per day of a machine in the normal state.",
    "Came back within an hour": "alarms of the same fault and machine, raised within an hour of the end of the last.",
    "Time in wrong diagnosis": "labelled time in which the diagnosis is not the label.",
    "Scores of frames": "as faultline replay gives them; reliability and confusion are of the fusion.",
}


def html_page(sides: Sequence[Side], report: Mapping[str, Any], words: Words) -> str:
    """The page of a report and of what it was made from."""
    title = f"Faultline report: {report['plant']}"
    policy = _POLICY.format(base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode())
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        Painter.patterns(),
        _heading(sides, title, report["made_ms"]),
        headlines(sides, report["differences"]),
        faults_section(sides),
        _timelines(sides, words),
        answers_section(sides, words),
        trust_section(sides, words),
        _meanings(),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _heading(sides: Sequence[Side], title: str, made_ms: int) -> Markup:
    made = f"Made {shown_time(made_ms)} by Faultline {faultline_version()}. All times are UTC."
    said = [element("h1", title), element("p", made, class_="soft")]
    for place, side in enumerate(sides):
        numbers = side.numbers
        mark = f"{'AB'[place]}: " if len(sides) > 1 else ""
        begin, end = numbers["begin_ms"], numbers["end_ms"]
        span = "no frames" if begin is None else f"{shown_time(begin)} to {shown_time(end)}"
        counts = f"{len(side.table.edges)} machines, {len(side.table.frames):,} frames, {numbers['labels']:,} labels"
        models = ", ".join(numbers["models"]) or "none"
        said.append(
            element(
                "p",
                element("strong", f"{mark}{side.title}"),
                f" · {numbers['source']} · {span} · {counts} · model {models}",
            )
        )
        if trained := numbers["trained"]:
            said.append(
                element(
                    "p",
                    f"{mark}{len(trained['machines'])} of the machines trained this model, with {trained['frames']:,} "
                    f"of {trained['frames_scored']:,} frames here: their scores are too good.",
                    class_="warn",
                )
            )
        for key, what in (("bad_labels", "labels that cannot be used"), ("unreadable", "records that cannot be read")):
            if numbers[key]:
                said.append(element("p", f"{mark}{numbers[key]:,} {what}.", class_="warn"))
    return element("header", said)


def _timelines(sides: Sequence[Side], words: Words) -> Markup:
    """One after another the machines of both sides, or of each, if they do not show the same source."""
    faults = [side.book.scores.classes[one.fault] for side in sides for one in side.episodes]
    faults += [name for side in sides for name in dict.fromkeys(side.table.shown)]
    faults += [alarm.fault for side in sides for alarm in side.alarms]
    known = {name: place for place, name in enumerate(sides[0].book.scores.classes)}
    ordered = sorted(dict.fromkeys(faults), key=lambda name: (known.get(name, len(known)), name))
    painter = Painter(ordered)
    same = len({side.numbers["source"] for side in sides}) == 1
    groups = [list(sides)] if same else [[side] for side in sides]
    shown = [_timelines_of(group, words, painter, None if same else group[0].title) for group in groups]
    legend = [
        element("li", element("svg", painter.fill(name, width="18", height="12"), width=18, height=12), " ", said)
        for name in (NORMAL, *(one for one in ordered if one not in (NORMAL, UNKNOWN)), UNKNOWN)
        if (said := words.fault_of_plant(name))
    ]
    return element("section", element("h2", "Timelines"), element("ul", legend, class_="legend"), shown)


def _timelines_of(sides: Sequence[Side], words: Words, painter: Painter, title: str | None) -> Markup:
    machines = list(dict.fromkeys(machine for side in sides for machine in side.table.edges))
    begins = [side.numbers["begin_ms"] for side in sides if side.numbers["begin_ms"] is not None]
    if not begins:
        return element("p", "No machine was diagnosed.", class_="soft")
    axis = Axis(min(begins), max(side.numbers["end_ms"] or 0 for side in sides))
    busy = {one.machine for side in sides for one in side.episodes}
    busy |= {one.machine for side in sides for one in side.alarms}
    chosen = sorted(machines, key=lambda machine: (machine not in busy, machine))[:MAX_MACHINES]
    left = len(machines) - len(chosen)
    more = f"{left} more machines are not drawn; --machine chooses some." if left else None
    return joined(
        [
            element("h3", title) if title else None,
            [timeline(machine, sides, axis, words, painter) for machine in sorted(chosen)],
            element("p", more, class_="soft") if more else None,
        ]
    )


def _meanings() -> Markup:
    terms = [joined([element("dt", term), element("dd", meaning)]) for term, meaning in _MEANINGS.items()]
    return element("section", element("h2", "What the numbers mean"), element("dl", terms))
