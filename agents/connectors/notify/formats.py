"""The bodies of notifications: our own JSON, Alertmanager's alerts, and the text of a chat message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, Final

from agents.words import Words
from pipeline.config.form import Form
from pipeline.config.hints import shown_time
from pipeline.config.sections.alarms import PRIORITIES
from pipeline.config.topics import ALARMS
from pipeline.engine.reports.lifecycle.life import ALL_FAULTS
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.errors import SettingsError
from pipeline.mapping.bodies import Body
from pipeline.mapping.places import Entry
from pipeline.mapping.texts import text_writer
from pipeline.wire.records import Record

_time = partial(shown_time, milliseconds=True)

DEFAULT_TEMPLATE: Final = (
    "[{priority} ]{what}: {alarm} on machine {machine}[, {area}][, {component}][ (by {by}: {why})]"
)
_NO_RECORD: Final = Record(ALARMS, 0, 0, 0, None, None)
_OPEN_MS: Final = 7 * 86_400_000
"""For how long Alertmanager takes an alarm to be there, if nothing else is said of it."""

_WHAT: Final[Mapping[str, str]] = {
    "raised": "alarm",
    "realarmed": "alarm again",
    "escalated": "alarm not acknowledged",
    "returned": "fault gone, not acknowledged",
    "latched": "fault gone, alarm latched",
    "cleared": "cleared",
    "acknowledged": "acknowledged",
    "shelved": "shelved",
    "unshelved": "no longer shelved",
    "suppressed": "out of service",
    "unsuppressed": "in service again",
    "configured": "settings changed",
}
_FIRING: Final = frozenset({"raised", "realarmed", "escalated", "acknowledged"})
_RESOLVED: Final = frozenset({"cleared", "returned", "latched", "shelved", "suppressed"})


class NotificationFormat(StrEnum):
    """What the receiver takes."""

    JSON = "json"
    """The alarm's record, and its words."""
    ALERTMANAGER = "alertmanager"
    """Prometheus Alertmanager, API v2: a list of alerts."""
    CHAT = "chat"
    """Slack, Mattermost and what takes the same: an object with `text`."""


Write = Callable[[Alarm, int], bytes | None]
"""Gives the body for an alarm, None if the receiver has no use for it; takes the wall clock, milliseconds."""


def body_writer(kind: NotificationFormat, words: Words, plant: str, template: str | None = None) -> Write:
    """The writer of a format's bodies; raises SettingsError if the template is none.

    The template is one as in a form of texts; its fields are those of `fields_of`.
    """
    try:
        write_text = text_writer(Form(template=template or DEFAULT_TEMPLATE))
    except ValueError as error:
        raise SettingsError(f"--template: {error}") from error

    def write(alarm: Alarm, now_ms: int) -> bytes | None:
        fields = fields_of(alarm, words, plant)
        text = " ".join(write_text(Entry(fields, Body(fields, {}), _NO_RECORD)).split())
        if kind is NotificationFormat.ALERTMANAGER:
            alerts = _alerts(alarm, words, fields, text, now_ms)
            return _encoded(alerts) if alerts else None
        if kind is NotificationFormat.CHAT:
            return _encoded({"text": _for_chat(text)})
        return _encoded({"text": text, **fields})

    return write


def fields_of(alarm: Alarm, words: Words, plant: str) -> dict[str, Any]:
    """What is known of an alarm, in words where there are any."""
    fault = words.about_fault(alarm.machine, alarm.fault)
    fields = {
        "id": alarm.id,
        "plant": plant,
        "machine": words.machine(alarm.machine),
        "machine_id": alarm.machine,
        "area": words.area(alarm.machine),
        "alarm": words.alarm(alarm.machine, alarm.fault),
        "fault": alarm.fault,
        "component": words.component(alarm.machine, alarm.fault),
        "description": fault.description if fault else None,
        "check_first": list(fault.check_first) if fault else [],
        "what": _WHAT.get(alarm.state, alarm.state),
        "state": alarm.state,
        "priority": alarm.priority,
        "time": _time(alarm.time),
        "time_ms": alarm.time,
        "confidence": alarm.confidence,
        "diagnosis": alarm.diagnosis,
        "first": alarm.alarm or alarm.id,
        "by": alarm.by,
        "why": alarm.why,
        "until": None if alarm.until is None else _time(alarm.until),
        "suppressed": alarm.suppressed,
    }
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def _alerts(alarm: Alarm, words: Words, fields: Mapping[str, Any], text: str, now_ms: int) -> list[dict[str, Any]]:
    """An alert that fires or is resolved; one whose priority rises is resolved with the lower one, which is a label."""
    if alarm.fault == ALL_FAULTS or alarm.state not in _FIRING | _RESOLVED:
        return []
    labels = {
        "alertname": "FaultlineAlarm",
        "plant": fields["plant"],
        "machine": alarm.machine,
        "fault": alarm.fault,
        "priority": alarm.priority,
        **({"area": fields["area"]} if "area" in fields else {}),
    }
    annotations = {
        "summary": text,
        "first": fields["first"],
        **({"description": fields["description"]} if "description" in fields else {}),
        **({"check_first": "\n".join(fields["check_first"])} if "check_first" in fields else {}),
    }
    is_firing = alarm.state in _FIRING and alarm.suppressed is None
    end_ms = now_ms + _OPEN_MS if is_firing else now_ms
    alert = {
        "labels": labels,
        "annotations": annotations,
        "startsAt": _time(min(alarm.time, now_ms)),
    }
    alerts = [alert | {"endsAt": _time(end_ms)}]
    if alarm.state == "escalated":
        recorded = PRIORITIES[max(PRIORITIES.index(alarm.priority) - 1, 0)]
        lower = labels | {"priority": words.priority(alarm.machine, alarm.fault, recorded)}
        alerts.insert(0, alert | {"labels": lower, "endsAt": _time(now_ms)})
    return alerts


def _for_chat(text: str) -> str:
    """Without what a chat system takes for a mention, a link or markup: ids and titles may come from anywhere."""
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escaped)
    return text.replace("@", "@\u200b").replace("](", "]\u200b(")


def _encoded(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode(errors="replace")
