"""The live table of a replay: the diagnosis of each machine, its evidence, and the true fault."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import compress
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from agents.cli.views.printable import cell
from agents.words import Words
from pipeline.config.classes import NO_EVIDENCE, RECOVERING, UNKNOWN
from pipeline.config.profile import NORMAL
from pipeline.wire.labels import LabelBook
from pipeline.wire.messages import Diagnosis

_STYLES: Final = {NO_EVIDENCE: "dim", NORMAL: "green", RECOVERING: "yellow", UNKNOWN: "bold magenta"}
"""Colours of diagnoses that name no fault."""
_MAX_SHARE: Final = 4
"""At most one part in so many of the terminal is for machines, whose titles may be long."""
_ONLY_IF_WIDE: Final = frozenset({"sensors say", "component", "text says"})
_COMPONENT_WIDTH: Final = 20
_WIDE: Final = 120
"""On narrower terminals the answers of single modalities and the component give way to words."""


class LiveView:
    """Keeps each machine's newest diagnosis and renders them as a table."""

    def __init__(self, title: str, words: Words) -> None:
        self._title = title
        self._words = words
        self._newest: dict[str, Diagnosis] = {}
        self.labels = LabelBook()
        self.frames = 0

    def add(self, diagnosis: Diagnosis) -> None:
        """Show this diagnosis from now on."""
        self._newest[diagnosis.machine] = diagnosis
        self.frames += 1

    def table(self, width: int | None = None) -> Table:
        """The current table with all that fits in this many characters; None where there is no limit."""
        newest = max((d.frame_end for d in self._newest.values()), default=0)
        moment = datetime.fromtimestamp(newest / 1000, UTC).strftime("%Y-%m-%d %H:%M") if newest else "waiting"
        table = Table(
            title=cell(f"{self._title}   plant time {moment} UTC   {self.frames:,} diagnoses", "table.title"),
            expand=True,
            title_justify="left",
        )
        wide = {"no_wrap": True, "overflow": "ellipsis"}
        columns: dict[str, dict[str, Any]] = {
            "machine": {"no_wrap": True, "max_width": None if width is None else max(width // _MAX_SHARE, 1)},
            "diagnosis": wide | {"ratio": 4},
            "sure": {"justify": "right"},
            "sensors say": {"no_wrap": True},
            "evidence": wide | {"ratio": 3},
            "component": wide | {"max_width": _COMPONENT_WIDTH},
            "text says": {"no_wrap": True},
            "newest text": wide | {"ratio": 3},
            "true": {"no_wrap": True},
        }
        left_out = set() if width is None or width >= _WIDE else set(_ONLY_IF_WIDE)
        if not self._words.has_components:
            left_out.add("component")
        shown = [heading not in left_out for heading in columns]
        for heading, options in compress(columns.items(), shown):
            table.add_column(heading, **options)
        for machine in sorted(self._newest):
            table.add_row(*compress(self._row(self._newest[machine]), shown))
        return table

    def _row(self, diagnosis: Diagnosis) -> list[Text]:
        machine, words = diagnosis.machine, self._words
        true = self.labels.fault_at(machine, diagnosis.frame_start)
        answers = diagnosis.modalities
        sensors, text = answers.get("sensors"), answers.get("text")
        deviations = "  ".join(words.short_measurement(machine, one) for one in diagnosis.evidence.variables)
        texts = diagnosis.evidence.texts
        newest = f"{texts[-1].age_ms // 60_000} min: {texts[-1].text}" if texts else ""
        style = _STYLES.get(diagnosis.fault, "bold red")
        right = "dim" if true is None else "green" if true == diagnosis.fault else "yellow"
        return [
            cell(words.machine(machine)),
            cell(words.fault(machine, diagnosis.fault), style),
            cell(f"{diagnosis.confidence:.0%}" if diagnosis.fault != NO_EVIDENCE else ""),
            cell(f"{sensors.fault} {sensors.confidence:.0%}" if sensors and sensors.present else "-"),
            cell(deviations),
            cell(words.likely_components(machine, diagnosis.components, 1)),
            cell(f"{text.fault} {text.confidence:.0%}" if text and text.present else "-"),
            cell(newest),
            cell(true or "?", right),
        ]
