"""Hostile records of foreign topics, and of machines with wild clocks: further kinds for `hostile.Fuzz`."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Callable
from typing import Any

from tests.support.hostile import KINDS, Fuzz, Make, Sent
from tests.support.hostile_forms import ALARMS, FORMS, ForeignForm, Steps, alarm

YEAR_MS = 365 * 86_400_000
_BOMB = gzip.compress(b" " * (17 << 20), 9, mtime=0)
"""Unpacked it is larger than any body may be."""
_BAD: tuple[Any, ...] = ("Bad", "", "NaN", "-", "1,5", "0x10", "null", math.nan, math.inf, -math.inf)
_BAD_JSON: tuple[Any, ...] = (*_BAD, [], [1.5], {}, {"value": 1.5}, 10**400)

MakeForeign = Callable[[Fuzz, ForeignForm, int], Sent]


# -- parts ---------------------------------------------------------------------------------------------------------


def machine_of(f: Fuzz, form: ForeignForm) -> str:
    """A machine of this form that has good traffic too."""
    return form.machine(f.rng.randrange(f.target.form_machines))


def decoy_of(f: Fuzz, form: ForeignForm) -> str:
    """A machine of this form without good traffic."""
    return f"{form.name}-decoy-{f.rng.randrange(4)}"


def right_values(f: Fuzz, form: ForeignForm) -> dict[str, Any]:
    """Values by variable as one record of this form has them."""
    names = f.target.variable_names
    return {name: round(f.rng.gauss(0, 1), 3) for name in f.rng.sample(names, form.values_a_record or len(names))}


def body_of(f: Fuzz, form: ForeignForm, machine: str, time_ms: int) -> Any:
    """The body of a record that is in order."""
    values = {form.tag(name): value for name, value in right_values(f, form).items()}
    return form.body(machine, form.time(time_ms), values)


def foreign(f: Fuzz, form: ForeignForm, now: int, machine: str, value: bytes | None, reasons: str, **more: Any) -> Sent:
    """A record in this form's topic; its key is the machine unless told otherwise."""
    return f.sent(now, more.pop("key", machine), value, reasons, topic=form.topic, **more)


def changed(body: Any, at: Steps, value: Any) -> Any:
    """A copy of a body with another value there; without it if that is Ellipsis."""
    copied = copy.deepcopy(body)
    inner = copied
    for step in at[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return copied


def any_form(make: MakeForeign, *names: str, but: tuple[str, ...] = ()) -> Make:
    """Of one of these forms, or of any but some."""
    forms = [form for form in FORMS if (not names or form.name in names) and form.name not in but]

    def made(f: Fuzz, now: int) -> Sent:
        return make(f, f.rng.choice(forms), now)

    return made


# -- bodies that are none ------------------------------------------------------------------------------------------


def _bytes(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    value = f.rng.randbytes(f.rng.randrange(1, 300))
    return foreign(f, form, now, machine_of(f, form), value, f"{form.unreadable} schema unreadable bad_time")


def _cut(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    value = form.pack(body_of(f, form, machine, now))
    return foreign(f, form, now, machine, value[: f.rng.randrange(1, len(value))], form.unreadable)


def _tail(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    value = form.pack(body_of(f, form, machine, now)) + f.rng.choice([b"{}", b",", b"]", b"\x01"])
    return foreign(f, form, now, machine, value, form.unreadable)


def _nothing(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    if f.rng.random() < 0.5:
        return foreign(f, form, now, machine, None, "empty")
    return foreign(f, form, now, machine, b"", f"{form.unreadable} empty")


def _nested(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    depth = f.rng.choice([2_000, 50_000])
    opening, closing = f.rng.choice([("[", "]"), ('{"payload":', "}"), ('{"rows":', "}"), ('{"data":', "}")])
    value = (opening * depth + "1" + closing * depth).encode()
    return foreign(f, form, now, machine_of(f, form), value, "not_json schema unreadable bad_time empty")


def _wrapped_otherwise(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    """In order, but as another form has it."""
    machine = machine_of(f, form)
    other = f.rng.choice([one for one in FORMS if one.name != form.name])
    value = other.pack(body_of(f, other, machine, now))
    return foreign(f, form, now, machine, value, "not_json schema unreadable bad_time")


def _frame(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    value = form.pack(body_of(f, form, machine, now))
    wrong = f.rng.choice([value[5:], b"\x01" + value[1:], value[:5], b"\x00" + b"\xff" * 4 + value[9:]])
    return foreign(f, form, now, machine, wrong, "unreadable not_json")


def _unpackable(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    value = form.pack(body_of(f, form, machine, now))
    choice = f.rng.randrange(40)
    if choice == 0:
        return foreign(f, form, now, machine, _BOMB, "too_large")
    if choice < 20:  # its checksum is wrong
        return foreign(f, form, now, machine, value[:-8] + bytes([value[-8] ^ 1]) + value[-7:], "unreadable")
    return foreign(f, form, now, machine, gzip.decompress(value), "unreadable")


def _envelope(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    body = body_of(f, form, machine, now)
    if form.name == "connect":
        wrong: Any = f.rng.choice([{"payload": None}, {"schema": {}}, {"payload": "x"}, [], "payload", 7, None])
        return foreign(f, form, now, machine, form.pack(wrong), "empty unreadable bad_time")
    without = changed(body, ("data",), ...)
    several = [without, {**without, "data_base64": "!"}, {**body, "data": None}, changed(body, ("specversion",), ...)]
    several += [{**body, "data": "x"}, [body, {**body, "subject": "nobody"}], [], 7, None]
    reasons = "empty unreadable schema key_mismatch"
    return foreign(f, form, now, machine, form.pack(f.rng.choice(several)), reasons)


def _entries(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    right = body_of(f, form, machine, now)["rows"]
    other = body_of(f, form, decoy_of(f, form), now)["rows"]
    wrong, reasons = f.rng.choice(
        [
            ({"rows": []}, "empty"),
            ({"rows": None}, "schema"),
            ({}, "schema"),
            ({"rows": 7}, "schema"),
            ({"rows": [[], None, "x"]}, "schema"),
            ({"rows": right + other}, "key_mismatch"),
        ]
    )
    return foreign(f, form, now, machine, form.pack(wrong), reasons)


def _entry(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    """One entry is wrong; the others, of a machine without good traffic, are used."""
    machine = decoy_of(f, form)
    (right,) = body_of(f, form, machine, now)["rows"]
    wrong, reasons = f.rng.choice(
        [
            ({**right, "t": "soon"}, "bad_time"),
            ({**right, "id": None}, "schema"),
            ({**right, "data": 7}, "schema"),
            (None, "schema"),
            ({**right, "data": [1.0] * 99}, "wrong_length"),
        ]
    )
    rows = [right, wrong, {**right, "t": right["t"] + 1_000_000}]
    f.rng.shuffle(rows)
    return foreign(f, form, now, machine, form.pack({"rows": rows}), reasons)


# -- fields that are wrong -----------------------------------------------------------------------------------------


def _no_machine(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    body = changed(body_of(f, form, machine, now), form.machine_at, f.rng.choice([..., None, [], {}, "", "\ud800"]))
    return foreign(f, form, now, machine, form.pack(body), "schema")


def _other_key(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    value = form.pack(body_of(f, form, machine, now))
    if form.name == "connect":
        unusable = f.rng.choice([None, b"", b"\xff\xfe", b'{"a": 1}', b" ", b'""', b"{}"])
        return foreign(f, form, now, machine, value, "schema", key=unusable)
    key = f.rng.choice([None, b"", b"\xff", b"k" * 20_000, f"{machine} ".encode(), machine.upper().encode(), b"4711"])
    return foreign(f, form, now, machine, value, "key_mismatch", key=key)


def _unknown(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    name = f.rng.choice(["nobody", "x" * 300, form.name, form.name.upper() + "-1", f"{form.name}-\x01", "7", "é" * 250])
    return foreign(f, form, now, name, form.pack(body_of(f, form, name, now)), "unknown_machine")


def _foreign_type(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    """Of a machine of another type, whose readings come in another topic."""
    other = f.rng.choice([one for one in FORMS if one.name != form.name])
    machine = f.rng.choice([f.machine(), f.decoy(), machine_of(f, other), decoy_of(f, other)])
    return foreign(f, form, now, machine, form.pack(body_of(f, form, machine, now)), "unknown_variable")


def _partition(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = f.rng.choice([machine_of(f, form), decoy_of(f, form)])
    right = f.target.partition_of(machine.encode())
    wrong = (right + f.rng.randrange(1, f.target.partitions)) % f.target.partitions
    value = form.pack(body_of(f, form, machine, now))
    return foreign(f, form, now, machine, value, "wrong_partition", partition=wrong)


def _wrong_time(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    body = changed(body_of(f, form, machine, now), form.time_at, f.rng.choice(form.wrong_times)(now))
    return foreign(f, form, now, machine, form.pack(body), "bad_time")


def _no_time(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    wrong: Any = f.rng.choice([..., None, [], {}, "", True, "9" * 400, "x" * 5_000, math.nan, -1, 10**400])
    return foreign(
        f, form, now, machine, form.pack(changed(body_of(f, form, machine, now), form.time_at, wrong)), "bad_time"
    )


def _other_time(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    ahead = f.rng.random() < 0.5
    if ahead:
        time_ms = now + f.target.max_skew_ms + f.rng.choice([1_000, 86_400_000, 20 * YEAR_MS])
    else:
        time_ms = now - f.rng.choice([3 * f.target.frame_ms, YEAR_MS, 20 * YEAR_MS])
    value = form.pack(body_of(f, form, machine, time_ms))
    return foreign(f, form, now, machine, value, "future_time" if ahead else "late")


def _no_values(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = machine_of(f, form)
    body = changed(body_of(f, form, machine, now), form.values_at, f.rng.choice([..., None, 7, "x", True]))
    return foreign(f, form, now, machine, form.pack(body), "schema")


# -- legal: values that are not used, and counted ------------------------------------------------------------------


def _bad_values(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = decoy_of(f, form)
    values = right_values(f, form)
    wrong = f.rng.sample(sorted(values), f.rng.randrange(1, len(values) + 1))
    for name in wrong:
        values[name] = f.rng.choice(_BAD if form.name == "avro" else _BAD_JSON)
    sent = foreign(f, form, now, machine, form.written(machine, now, values), "")
    return sent._replace(unused=len(wrong))


def _bad_quality(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = decoy_of(f, form)
    body = body_of(f, form, machine, now) | {"q": f.rng.choice([0, 24, 64, 191, 256, -1, "Bad", None, [], True, 192.5])}
    return foreign(f, form, now, machine, form.pack(body), "")._replace(unused=1)


def _unknown_tags(f: Fuzz, form: ForeignForm, now: int) -> Sent:
    machine = decoy_of(f, form)
    values: dict[str, Any] = {form.tag(name): value for name, value in right_values(f, form).items()}
    new = [f"new {f.rng.randrange(10**6)}", f.target.variable.upper(), "x" * 3_000][: f.rng.randrange(1, 4)]
    if f.rng.random() < 0.3:
        values = {}
    values |= {name: f.rng.choice([1.0, "Bad", None]) for name in new}
    body = form.body(machine, form.time(now), values)
    return foreign(f, form, now, machine, form.pack(body), "")._replace(unused=len(new))


# -- texts ---------------------------------------------------------------------------------------------------------


def _alarm(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    body = alarm(machine, now, f.rng.randrange(10**9), f.rng)
    bare = {"tag": machine, "raised": body["raised"]}
    late = alarm(machine, now - 10**8, f.rng.randrange(10**9), f.rng)
    far = alarm(machine, now + f.target.max_skew_ms + 1_000, 1, f.rng)
    wrong: Any
    wrong, reasons = f.rng.choice(
        [
            (bare, "schema"),
            (bare | {"code": None, "state": "", "severity": []}, "schema"),
            (body | {"tag": None}, "schema"),
            (body | {"tag": "nobody"}, "key_mismatch"),
            (body | {"raised": "soon"}, "bad_time"),
            (body | {"raised": now // 1_000}, "bad_time"),
            (body | {"number": [7]}, "schema"),
            (body | {"code": "x" * 70_000}, "too_large"),
            (late, "expired"),
            (late | {"state": {"a": ["\ud800", None]}}, "expired"),
            (far, "future_time"),
            ([], "schema"),
        ]
    )
    return f.sent(now, machine, json.dumps(wrong).encode(), reasons, topic=ALARMS)


# -- clocks --------------------------------------------------------------------------------------------------------


def _wild_clock(f: Fuzz, now: int) -> Sent:
    """Reading and record of a machine without good traffic are of another time; a few machines share that gateway."""
    machine = f"{f.target.prefix}decoy-wild-{f.rng.randrange(2)}"
    stamp = f.rng.choice([1_930_000_000_000, 4_070_908_800_000, now + 10 * 86_400_000, now + 7_200_000, now - YEAR_MS])
    stamp += f.rng.randrange(-(10**7), 10**7)  # not in order either
    return f.sent(stamp, machine, f.reading(machine, stamp - f.rng.randrange(1_000)), "")


FOREIGN_KINDS: dict[str, tuple[float, Make]] = {
    "foreign_bytes": (6, any_form(_bytes)),
    "foreign_cut": (6, any_form(_cut)),
    "foreign_tail": (4, any_form(_tail)),
    "foreign_nothing": (3, any_form(_nothing)),
    "foreign_nested": (0.2, any_form(_nested)),
    "foreign_wrapped_otherwise": (6, any_form(_wrapped_otherwise)),
    "foreign_frame": (4, any_form(_frame, "framed", "avro")),
    "foreign_unpackable": (3, any_form(_unpackable, "packed")),
    "foreign_envelope": (5, any_form(_envelope, "connect", "clouds")),
    "foreign_entries": (4, any_form(_entries, "arrays")),
    "foreign_entry": (4, any_form(_entry, "arrays")),
    "foreign_no_machine": (4, any_form(_no_machine, but=("connect", "avro"))),
    "foreign_other_key": (5, any_form(_other_key)),
    "foreign_unknown": (4, any_form(_unknown)),
    "foreign_type": (4, any_form(_foreign_type)),
    "foreign_partition": (4, any_form(_partition)),
    "foreign_wrong_time": (6, any_form(_wrong_time)),
    "foreign_no_time": (5, any_form(_no_time, but=("avro",))),
    "foreign_other_time": (6, any_form(_other_time)),
    "foreign_no_values": (4, any_form(_no_values, but=("tags", "wide", "avro"))),
    "foreign_bad_values": (10, any_form(_bad_values)),
    "foreign_bad_quality": (3, any_form(_bad_quality, "tags")),
    "foreign_unknown_tags": (4, any_form(_unknown_tags, but=("tags",))),
    "foreign_alarm": (8, _alarm),
    "wild_clock": (2, _wild_clock),
}
"""How often each kind comes, and what makes it."""

ALL_KINDS = KINDS | FOREIGN_KINDS
