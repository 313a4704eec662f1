"""The live table of a replay: the diagnosis of each machine, its evidence, and the true fault."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from rich.table import Table
from rich.text import Text

from agents.cli.views.printable import cell
from pipeline.config.classes import RECOVERING, UNKNOWN
from pipeline.config.profile import NORMAL
from pipeline.engine.diagnoses import NO_EVIDENCE
from pipeline.wire.labels import LabelBook
from pipeline.wire.messages import Diagnosis

_STYLES: Final = {NO_EVIDENCE: "dim", NORMAL: "green", RECOVERING: "yellow", UNKNOWN: "bold magenta"}
"""Colours of diagnoses that name no fault."""


class LiveView:
    """Keeps each machine's newest diagnosis and renders them as a table."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._newest: dict[str, Diagnosis] = {}
        self.labels = LabelBook()
        self.frames = 0

    def add(self, diagnosis: Diagnosis) -> None:
        """Show this diagnosis from now on."""
        self._newest[diagnosis.machine] = diagnosis
        self.frames += 1

    def table(self) -> Table:
        """The current table."""
        newest = max((d.frame_end for d in self._newest.values()), default=0)
        moment = datetime.fromtimestamp(newest / 1000, UTC).strftime("%Y-%m-%d %H:%M") if newest else "waiting"
        table = Table(
            title=cell(f"{self._title}   plant time {moment} UTC   {self.frames:,} diagnoses", "table.title"),
            expand=True,
            title_justify="left",
        )
        table.add_column("machine", no_wrap=True)
        table.add_column("diagnosis", no_wrap=True)
        table.add_column("sure", justify="right")
        table.add_column("sensors say", no_wrap=True)
        table.add_column("evidence", no_wrap=True, ratio=2, overflow="ellipsis")
        table.add_column("text says", no_wrap=True)
        table.add_column("newest text", no_wrap=True, ratio=3, overflow="ellipsis")
        table.add_column("true", no_wrap=True)
        for machine in sorted(self._newest):
            table.add_row(*self._row(self._newest[machine]))
        return table

    def _row(self, diagnosis: Diagnosis) -> list[Text]:
        true = self.labels.fault_at(diagnosis.machine, diagnosis.frame_start)
        answers = diagnosis.modalities
        sensors, text = answers.get("sensors"), answers.get("text")
        deviations = "  ".join(f"{v.name} {v.deviation:+.1f}σ" for v in diagnosis.evidence.variables)
        texts = diagnosis.evidence.texts
        newest = f"{texts[-1].age_ms // 60_000} min: {texts[-1].text}" if texts else ""
        style = _STYLES.get(diagnosis.fault, "bold red")
        right = "dim" if true is None else "green" if true == diagnosis.fault else "yellow"
        return [
            cell(diagnosis.machine),
            cell(diagnosis.fault, style),
            cell(f"{diagnosis.confidence:.0%}" if diagnosis.fault != NO_EVIDENCE else ""),
            cell(f"{sensors.fault} {sensors.confidence:.0%}" if sensors and sensors.present else "-"),
            cell(deviations),
            cell(f"{text.fault} {text.confidence:.0%}" if text and text.present else "-"),
            cell(newest),
            cell(true or "?", right),
        ]
