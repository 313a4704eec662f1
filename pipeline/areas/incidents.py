"""Incidents of utilities: what their alarms leave behind, and by what an area's frame is compared with them.

An incident keeps which faults took part: of each fault its share as the cause and, with a small weight, its share
among the answers that the utility's machines gave by themselves. And it keeps who spoke for the utility: each machine,
and the texts about the utility. Faults come first in the comparison; who spoke orders incidents of the same faults
(docs/evidence/incidents.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pipeline.areas.layout import AreaLayout, CauseKind
from pipeline.areas.messages import AreaDiagnosis
from pipeline.config.classes import NO_EVIDENCE
from pipeline.engine.reports.incidents.book import SHOWN, IncidentBook
from pipeline.engine.reports.incidents.record import AlarmChange, Incident, SimilarIncident
from pipeline.engine.reports.incidents.similarity import area_signature

UTILITY_TYPE: Final = "utility"
"""What incidents of utilities have in the place of a machine type."""

_OWN_WEIGHT: Final = 0.1
"""How much the machines' own answers count beside the cause, of 1 (docs/decisions/0028-incidents.md)."""
_DECIMALS: Final = 5


def utility_incident(
    alarm: AlarmChange, diagnosis: AreaDiagnosis, layout: AreaLayout, texts: Iterable[str] = ()
) -> Incident:
    """The incident of a utility that begins with an alarm, by the area's diagnosis of that frame; `texts` are those
    about the utility that were read lately."""
    faults, support = _evidence(diagnosis, layout, alarm.machine)
    return Incident(
        id=alarm.id,
        kind="alarm",
        machine=alarm.machine,
        machine_type=UTILITY_TYPE,
        start=alarm.time,
        end=None,
        diagnosed=alarm.fault,
        texts=list(texts),
        probabilities=faults,
        model=diagnosis.model,
        support=support,
    )


def similar_to_utility(
    book: IncidentBook, diagnosis: AreaDiagnosis, layout: AreaLayout, utility: str, *, count: int = SHOWN
) -> list[SimilarIncident]:
    """The incidents of utilities that were over at the end of an area's frame and are most like what a utility, by its
    id, was then; the most similar first."""
    signature = area_signature(*_evidence(diagnosis, layout, utility))
    return book.similar(signature, machine_type=UTILITY_TYPE, before_ms=diagnosis.frame_end, count=count)


def _evidence(
    diagnosis: AreaDiagnosis, layout: AreaLayout, utility_id: str
) -> tuple[dict[str, float], dict[str, float]]:
    """The faults that took part in a frame of a utility, with their shares; and who spoke for the cause."""
    utility = next(one for one in layout.utilities if one.id == utility_id)
    answers = [diagnosis.machines.get(layout.machines[machine]) for machine in utility.machines.tolist()]
    own = [one for one in answers if one is not None and one.own_fault != NO_EVIDENCE]
    faults: dict[str, float] = {}
    for answer in own:
        share = _OWN_WEIGHT * answer.own_confidence / len(own)
        faults[answer.own_fault] = faults.get(answer.own_fault, 0.0) + share
    for cause in diagnosis.causes:
        if cause.kind == CauseKind.UTILITY.value and cause.name == utility.name and cause.fault is not None:
            faults[cause.fault] = faults.get(cause.fault, 0.0) + (1 - _OWN_WEIGHT) * cause.probability
    rounded = {name: round(share, _DECIMALS) for name, share in sorted(faults.items())}
    return rounded, {one.name: one.weight for one in diagnosis.evidence}
