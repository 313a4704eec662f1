"""Foreign topics of several forms for the fuzzed plant: how each form's records are written.

Machines of a form share its name as prefix.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import yaml
from fastavro import parse_schema, schemaless_writer

SCHEMA_NUMBER = 7
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Measured",
    "fields": [
        {"name": "unit", "type": "string"},
        {"name": "at", "type": "long"},
        {"name": "values", "type": {"type": "map", "values": ["null", "double", "string"]}},
    ],
}
_PARSED = parse_schema(SCHEMA)
_FRAME = b"\x00" + SCHEMA_NUMBER.to_bytes(4, "big")

ALARMS = "/yard.alarms"
"""A foreign topic of alarms, which become texts."""

ALARM_FORM = {
    "machine": "tag",
    "time": {"path": "raised"},
    "template": "alarm {code} is {state}[, severity {severity}]",
    "words": {"state": {1: "active", 0: "gone"}},
    "id": "number",
}


class Schemas:
    """A registry with one schema."""

    def schema(self, number: int, /) -> dict[str, Any]:
        """Raises LookupError for any other number."""
        if number != SCHEMA_NUMBER:
            raise LookupError(f"there is no schema {number}")
        return SCHEMA


Steps = tuple[str | int, ...]


class ForeignForm(NamedTuple):
    """A form: its declaration, and how a record of it is written."""

    name: str
    declared: dict[str, Any]
    body: Callable[[str, Any, dict[str, Any]], Any]
    """Of machine, time as it is written, and values by tag."""
    time: Callable[[int], Any]
    """How milliseconds are written."""
    wrong_times: Sequence[Callable[[int], Any]]
    machine_at: Steps = ()
    """Where the machine stands in the body; nowhere if only the key has it."""
    time_at: Steps = ("time",)
    values_at: Steps = ("values",)
    pack: Callable[[Any], bytes] = lambda body: json.dumps(body).encode()
    unreadable: str = "not_json"
    """Reasons of bytes that are no body, or only the beginning of one."""
    values_a_record: int | None = None
    """So many of the variables stand in one record; all, unless said."""
    source: dict[str, Any] = {}  # noqa: RUF012  # never changed

    @property
    def topic(self) -> str:
        """Its topic, as the engine names it."""
        return f"/yard.{self.name}"

    def machine(self, number: int) -> str:
        """A machine of the good traffic."""
        return f"{self.name}-{number:05d}"

    def tag(self, variable: str) -> str:
        """What a variable is called in its records."""
        return f"Yard.{variable}" if self.name == "tags" else variable

    def written(self, machine: str, time_ms: int, values: dict[str, Any]) -> bytes:
        """A record's value, in order; `values` are by variable."""
        tags = {self.tag(variable): value for variable, value in values.items()}
        return self.pack(self.body(machine, self.time(time_ms), tags))


def _iso(time_ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return moment.astimezone(timezone(timedelta(hours=1))).isoformat()


def _local(time_ms: int) -> str:
    """Of Berlin in winter."""
    moment = datetime(1970, 1, 1) + timedelta(milliseconds=time_ms + 3_600_000)
    return f"{moment:%d.%m.%Y %H:%M:%S}.{time_ms % 1000:03d}"


def _seconds(time_ms: int) -> float:
    return time_ms / 1_000


def _times(factor: int) -> Callable[[int], int]:
    return lambda time_ms: time_ms * factor


def _whole_seconds(time_ms: int) -> int:
    return time_ms // 1_000


def _hours(time_ms: int) -> int:
    return time_ms // 3_600_000


def _no_time(_: int) -> str:
    return "soon"


_ISO_WRONG = (_whole_seconds, _no_time, _local, _hours)
_MS_WRONG = (_whole_seconds, _times(1_000), _times(1_000_000), _no_time, _hours)


def _one_tag(machine: str, time: Any, values: dict[str, Any]) -> Any:
    ((tag, value),) = values.items()
    return {"device": machine, "tag": tag, "v": value, "q": 192, "ts": time}


def _enveloped(machine: str, time: Any, values: dict[str, Any]) -> Any:
    return {"schema": {"type": "struct"}, "payload": {"machine": machine, "time": time, "values": values}}


def _event(machine: str, time: Any, values: dict[str, Any]) -> Any:
    head = {"specversion": "1.0", "id": "1", "source": "/yard", "type": "reading", "subject": machine, "time": time}
    return head | {"data": {"values": values}}


def _native(machine: str, time: Any, values: dict[str, Any]) -> Any:
    return {"machine": machine, "time": time, "values": values}


def _framed(body: Any) -> bytes:
    return _FRAME + json.dumps(body).encode()


def _avro(body: Any) -> bytes:
    out = io.BytesIO(_FRAME)
    out.seek(0, io.SEEK_END)
    schemaless_writer(out, _PARSED, body)
    return out.getvalue()


def _gzip(body: Any) -> bytes:
    return gzip.compress(json.dumps(body).encode(), 1, mtime=0)


FORMS = (
    ForeignForm(
        "tags",
        {
            "machine": "device",
            "name": "tag",
            "value": "v",
            "quality": {"path": "q", "good": "opc_da"},
            "time": {"path": "ts"},
        },
        _one_tag,
        _iso,
        _ISO_WRONG,
        machine_at=("device",),
        time_at=("ts",),
        values_at=("v",),
        values_a_record=1,
    ),
    ForeignForm(
        "wide",
        {"machine": "asset", "time": {"path": "at", "unit": "s"}, "values": "@"},
        lambda machine, time, values: {"asset": machine, "at": time} | values,
        _seconds,
        (_times(1), _times(1_000), _hours, _no_time),
        machine_at=("asset",),
        time_at=("at",),
        values_at=(),
    ),
    ForeignForm(
        "arrays",
        {"each": "rows", "machine": "id", "time": {"path": "t", "unit": "us"}, "values": "data"},
        lambda machine, time, values: {"rows": [{"id": machine, "t": time, "data": values}]},
        _times(1_000),
        (_times(1), _whole_seconds, _times(1_000_000), _no_time),
        machine_at=("rows", 0, "id"),
        time_at=("rows", 0, "t"),
        values_at=("rows", 0, "data"),
    ),
    ForeignForm(
        "connect",
        {"envelope": "connect", "machine": {"key": True}},
        _enveloped,
        _times(1),
        _MS_WRONG,
        time_at=("payload", "time"),
        values_at=("payload", "values"),
    ),
    ForeignForm(
        "clouds",
        {"envelope": "cloudevents", "machine": {"header": "ce_subject"}, "time": {"header": "ce_time"}},
        _event,
        _iso,
        _ISO_WRONG,
        machine_at=("subject",),
        time_at=("time",),
        values_at=("data", "values"),
        unreadable="not_json unreadable",
    ),
    ForeignForm(
        "packed",
        {"compression": "gzip", "time": {"path": "time", "unit": "ns"}},
        _native,
        _times(1_000_000),
        (_times(1), _whole_seconds, _times(1_000), _no_time),
        machine_at=("machine",),
        pack=_gzip,
        unreadable="unreadable",
    ),
    ForeignForm(
        "framed",
        {
            "registry": True,
            "machine": {"path": "name", "pattern": "^plant/(.+)$"},
            "time": {"path": "time", "format": "%d.%m.%Y %H:%M:%S.%f", "zone": "Europe/Berlin"},
        },
        lambda machine, time, values: {"name": f"plant/{machine}", "time": time, "values": values},
        _local,
        (_times(1), _iso, _no_time),
        machine_at=("name",),
        pack=_framed,
        unreadable="unreadable not_json",
    ),
    ForeignForm(
        "avro",
        {"encoding": "avro", "machine": "unit", "time": {"path": "at", "unit": "ms"}},
        lambda machine, time, values: {"unit": machine, "at": time, "values": values},
        _times(1),
        (_whole_seconds, _times(1_000), _hours),
        time_at=("at",),
        pack=_avro,
        unreadable="unreadable",
    ),
)

CHANGES = ForeignForm(
    "changes",
    {},
    _native,
    _times(1),
    _MS_WRONG,
    machine_at=("machine",),
    values_a_record=1,
    source={"report": "on_change", "heartbeat": "5m"},
)
"""A source that sends one value whenever it has changed; its frames close when ticks say that time has passed."""


def foreign_plant(base: str, forms: Sequence[ForeignForm], prefix: str) -> str:
    """A profile with a machine type for each form besides its own one, whose machines have this prefix."""
    plant = yaml.safe_load(base)
    (own,) = plant["machine_types"]
    own["match"] = f"{prefix}*"
    for form in forms:
        variables = [{**variable, "tag": form.tag(variable["name"])} for variable in own["variables"]]
        ((name, source),) = own["sources"].items()
        sources = {name: {**source, "topic": form.topic.removeprefix("/"), "form": form.declared, **form.source}}
        other = {"name": form.name, "match": f"{form.name}-*", "sources": sources, "variables": variables}
        plant["machine_types"].append({**own, **other})
    plant["events"] = [{"topic": ALARMS.removeprefix("/"), "form": ALARM_FORM}]
    return yaml.safe_dump(plant, sort_keys=False)


def alarm(machine: str, time_ms: int, number: int, rng: random.Random) -> dict[str, Any]:
    """An alarm as a control system logs it, in order."""
    body = {"tag": machine, "raised": _iso(time_ms), "code": f"HH{rng.randrange(9)}", "state": rng.randrange(2)}
    return body | {"number": number} | ({"severity": rng.randrange(4)} if rng.random() < 0.5 else {})
