"""The sections of a report's page: headlines and differences, faults, answers, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agents.replay.reports.page.charts import reliability_chart, roc_chart
from agents.replay.reports.page.markup import Content, Markup, element
from agents.replay.reports.quality import ANY_FAULT
from agents.replay.reports.summary import HEADLINES, Side, headline
from agents.replay.scores import FUSED
from agents.words import Words

Cell = Content


def duration(seconds: float | None) -> str:
    """A time as people say it, exact enough to compare: `45 s`, `84.0 min`, `7.5 h`, `3.2 d`."""
    if seconds is None:
        return "-"
    for unit, size, least in (("d", 86_400, 3 * 86_400), ("h", 3_600, 2 * 3_600), ("min", 60, 120)):
        if abs(seconds) >= least:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def number(value: float | None) -> str:
    """A count, or a measure with three digits behind the point."""
    return "-" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:.3f}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "-" if value is None else f"{value:.1%}"


def hours(value: float | None) -> str:
    """A sum of times in hours."""
    return "-" if value is None else f"{value:,.1f} h"


class Measure(NamedTuple):
    """How a number is called and written, and whether more of it is better (1), worse (-1) or neither (0)."""

    name: str
    form: Callable[[float | None], str]
    better: int


MEASURES: Final[Mapping[str, Measure]] = {
    "faults": Measure("Labelled faults", number, 0),
    "faults_begun_before": Measure("Faults that were there before", number, 0),
    "missed": Measure("Faults without an alarm", number, -1),
    "misnamed": Measure("Faults with alarms of other faults only", number, -1),
    "alarm_delay_seconds_median": Measure("First alarm after a fault's start, median", duration, -1),
    "forewarning_seconds_median": Measure("Forewarning of a fault's end, median", duration, 1),
    "false_alarms_per_machine_day": Measure("False alarms per machine-day", number, -1),
    "alarms_per_machine_day": Measure("All alarms per machine-day", number, 0),
    "chatter": Measure("Alarms that came back within an hour", number, -1),
    "wrong_hours": Measure("Time in wrong diagnosis", hours, -1),
    "accuracy": Measure("Accuracy", share, 1),
    "macro_f1": Measure("Macro-F1", number, 1),
    "detection_rate": Measure("Detection rate, of frames", share, 1),
    "false_alarm_rate": Measure("False alarm rate, of frames", share, -1),
    "detection_delay_median_frames": Measure("Detection delay, median frames", number, -1),
    "ari": Measure("Adjusted Rand index", number, 1),
    "mutual_information": Measure("Mutual information, nats", number, 1),
    "ece": Measure("Expected calibration error", number, -1),
    "mean_entropy": Measure("Mean entropy of the answers, nats", number, 0),
}

_FAULT_COLUMNS: Final[Mapping[str, tuple[str, Callable[[float | None], str]]]] = {
    "faults": ("faults", number),
    "faults_begun_before": ("there before", number),
    "missed": ("missed", number),
    "misnamed": ("misnamed", number),
    "alarm_delay_seconds_median": ("first alarm, median", duration),
    "alarm_delay_seconds_max": ("latest", duration),
    "forewarning_seconds_median": ("forewarning, median", duration),
    "forewarning_seconds_min": ("shortest", duration),
}
_WRONG: Final = {
    "wrong_hours": "all wrong",
    "wrong_fault_hours": "another fault named",
    "unknown_hours": "an unknown fault named",
    "unseen_hours": "no fault named",
    "false_hours": "a fault named in the normal state",
}
_PARTITION: Final = {
    "ari": "adjusted Rand index",
    "mutual_information": "mutual information, nats",
    "conditional_entropy": "entropy of labels given answers, nats",
    "entropy": "entropy of labels, nats",
    "explained": "share explained",
}
_NO_TABLE: Final = frozenset({"per_fault"})


def table(
    head: Sequence[Cell], rows: Iterable[Sequence[Cell | Markup]], caption: str | None = None, *, small: bool = False
) -> Markup:
    """A table that scrolls by itself where it is too wide; cells that are markup stand as they are."""
    titles = element("thead", element("tr", [element("th", one, scope="col") for one in head]))
    body = [element("tr", [one if _is_cell(one) else element("td", one) for one in row]) for row in rows]
    named = element("caption", caption) if caption else None
    return element(
        "div", element("table", named, titles, element("tbody", body)), class_="wide small" if small else "wide"
    )


def _is_cell(content: Cell | Markup) -> bool:
    return isinstance(content, Markup) and content.startswith("<td")


def headlines(sides: Sequence[Side], differences: Mapping[str, float | None] | None) -> Markup:
    """The most important numbers, operators' units first."""
    rows: list[list[Cell | Markup]] = []
    for name in HEADLINES:
        measure = MEASURES[name]
        values = [headline(side.numbers, name) for side in sides]
        if all(value is None for value in values):
            continue
        row: list[Cell | Markup] = [measure.name, *map(measure.form, values)]
        if differences is not None:
            row.append(_difference(measure, differences[name]))
        rows.append(row)
    marks = [f"{'AB'[place]}" for place in range(len(sides))] if len(sides) > 1 else ["value"]
    head = ["", *marks, *(["B − A"] if differences is not None else [])]
    return element("section", element("h2", "At a glance"), table(head, rows))


def _difference(measure: Measure, value: float | None) -> Markup:
    verdict = "" if not value else ("", "better", "worse")[measure.better * (1 if value > 0 else -1)]
    sign = "+" if value is not None and value > 0 else ""
    return element("td", f"{sign}{measure.form(value)}", class_=verdict or None)


def faults_section(sides: Sequence[Side]) -> Markup:
    """Per fault what alarms made of it, and where labelled time went wrong."""
    return _section("Faults and alarms", sides, _faults)


def _faults(side: Side) -> list[Markup]:
    operators = side.numbers["operators"]
    per_fault = operators["per_fault"]
    alarms = [
        ["of faults", number(operators["alarms"])],
        ["false", number(operators["false_alarms"])],
        ["false, soon after a fault", number(operators["false_alarms_after_fault"])],
        ["came back within an hour", number(operators["chatter"])],
        ["of machines that are not heard of", number(operators["condition_alarms"])],
        ["suppressed or shelved", number(operators["suppressed_alarms"])],
        ["machine-days", number(round(operators["machine_days"], 1))],
    ]
    wrong = [
        [name, hours(operators[key]), share(_ratio(operators[key], operators["labelled_hours"]))]
        for key, name in _WRONG.items()
    ]
    rows = [
        [found["title"], *(form(found[key]) for key, (_, form) in _FAULT_COLUMNS.items())]
        for found in per_fault.values()
    ]
    small = [table(["", "alarms"], alarms)]
    if operators["labelled_hours"]:
        small.append(table(["time in wrong diagnosis", "machine-hours", "of labelled time"], wrong))
    faults = [table(["fault", *(name for name, _ in _FAULT_COLUMNS.values())], rows)] if rows else []
    return [*faults, element("div", small, class_="group")]


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def answers_section(sides: Sequence[Side], words: Words) -> Markup:
    """Scores of the fusion beside each modality alone."""
    return _section("Answers: each modality against the fusion", sides, lambda side: _answers(side, words))


def _answers(side: Side, words: Words) -> list[Markup]:
    scores = {name: found for name, found in side.numbers["scores"].items() if found is not None}
    if not scores:
        return [element("p", "There are no labels for these frames, so there are no scores.", class_="soft")]
    measures = [name for name in next(iter(scores.values())) if name not in _NO_TABLE]
    rows = [
        [measure.replace("_", " "), *(number(found.get(measure)) for found in scores.values())]
        for measure in measures
        if any(found.get(measure) is not None for found in scores.values())
    ]
    partition = side.numbers["answers"]["partition"] or {}
    rows += [[name, *(number(partition.get(one, {}).get(key)) for one in scores)] for key, name in _PARTITION.items()]
    per_fault = scores[FUSED]["per_fault"] if FUSED in scores else {}
    of_faults = [
        [
            words.fault_of_plant(fault),
            number(found["frames"]),
            share(found["detection_rate"]),
            share(found["accuracy"]),
            number(found["detection_delay_median_frames"]),
            share(found["undetected_share"]),
        ]
        for fault, found in per_fault.items()
    ]
    head = "fault", "frames", "detected", "right", "delay, frames", "undetected"
    return [table(["", *scores], rows), *([table(head, of_faults, "of the fusion")] if of_faults else [])]


def trust_section(sides: Sequence[Side], words: Words) -> Markup:
    """ROC, calibration and confusion of the fusion."""
    return _section("How far answers can be trusted", sides, lambda side: _trust(side, words))


def _trust(side: Side, words: Words) -> list[Markup]:
    answers = side.numbers["answers"]
    uncertainty = (
        f"Mean entropy of the answers {number(answers['mean_entropy'])} nats, mean disagreement of the modalities "
        f"{number(answers['mean_disagreement'])} nats."
    )
    if answers["calibration"] is None:
        return [element("p", uncertainty)]
    calibration, confusion = answers["calibration"], answers["confusion"]
    charts = element(
        "div",
        element(
            "figure",
            roc_chart(side.curves),
            element("figcaption", f"ROC; thick: any fault, AUC {number(answers['auc'].get(ANY_FAULT))}", class_="soft"),
        ),
        element(
            "figure",
            reliability_chart(calibration["bins"]),
            element("figcaption", f"reliability; calibration error {number(calibration['ece'])}", class_="soft"),
        ),
        class_="charts",
    )
    areas = [[_fault(words, name), f"{area:.4f}"] for name, area in answers["auc"].items()]
    reliability = [
        [
            f"{one['low']:.2f} to {one['high']:.2f}",
            number(one["frames"]),
            share(one["confidence"]),
            share(one["correct"]),
        ]
        for one in calibration["bins"]
    ]
    head = "confidence", "frames", "mean confidence", "right"
    return [
        element("p", uncertainty),
        charts,
        _confusion(confusion, words),
        element("div", table(["class against the rest", "AUC"], areas), table(head, reliability), class_="group"),
    ]


def _fault(words: Words, name: str) -> str:
    return name if name == ANY_FAULT else words.fault_of_plant(name)


def _confusion(confusion: Mapping[str, Any], words: Words) -> Markup:
    rows = []
    for name, counts in zip(confusion["labels"], confusion["frames"], strict=True):
        total = sum(counts)
        cells = [
            element("td", f"{100 * count / total:.0f}" if count else "", class_=f"h{min(int(10 * count / total), 9)}")
            for count in counts
        ]
        rows.append([words.fault_of_plant(name), *cells])
    return table(
        ["label", *confusion["answers"]], rows, "answers of the fusion to each label, percent of its frames", small=True
    )


def _section(title: str, sides: Sequence[Side], content: Callable[[Side], Iterable[Markup]]) -> Markup:
    """A section of all sides, beside each other where there is room."""
    marks = [f"{'AB'[place]}: {side.title}" for place, side in enumerate(sides)] if len(sides) > 1 else [None]
    shown = [
        element("div", element("h3", mark) if mark else None, content(side))
        for mark, side in zip(marks, sides, strict=True)
    ]
    return element("section", element("h2", title), element("div", shown, class_="sides"))
