"""Hostile records, seeded and labelled: what each is, and which reasons for refusing it are right; and good traffic.

The labels are written by hand from docs/guide/messages.md and know nothing of the engine. A record's `reasons` are
those that its dead letter (or late record) may give. Without reasons it is legal, however odd, and is sent for machines
that get no good traffic; all that is asked is that it does no harm.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from aiokafka.partitioner import DefaultPartitioner

from agents.kafka.admin import create_topics
from agents.kafka.topic_settings import TopicSpec
from agents.kafka.topics import foreign_specs, topic_specs
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, DEAD_LETTER, EVENTS, LATE
from pipeline.wire.messages import tick
from pipeline.wire.records import Headers, Output, Record
from tests.support.hostile_forms import ALARMS, ForeignForm, alarm

BEGIN_MS = 1_763_600_000_000 // 180_000 * 180_000

INPUT_BYTES = 11 << 20
"""What the input topics take on a real broker."""

_partitioner = DefaultPartitioner()

PUMPS = """
plant: yard
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    max_gap_frames: 3
    text_ttl_frames: 6
    max_skew: 1m
    sources: {sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 30s}}
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load}, {name: heat}, {name: speed}]
"""


class Target(NamedTuple):
    """The plant that is attacked: its machines share a prefix, its readings have so many variables."""

    prefix: str = "pump-"
    machines: int = 20
    variables: int = 4
    variable: str = "flow"  # a name that it knows
    step_ms: int = 2_000  # from one reading of a machine to the next
    frame_ms: int = 10_000
    max_skew_ms: int = 60_000
    partitions: int = 4
    large_bytes: int = 10_000_000  # what `huge_value` goes up to
    variable_names: tuple[str, ...] = ("flow", "load", "heat", "speed")
    forms: tuple[ForeignForm, ...] = ()  # each with machines of its own
    form_machines: int = 3
    ticks: bool = False

    def machine(self, number: int) -> str:
        """A machine of the good traffic."""
        return f"{self.prefix}{number:05d}"

    def partition_of(self, key: bytes) -> int:
        """Where a key belongs, by Kafka's own partitioner."""
        numbers = [*range(self.partitions)]
        return int(_partitioner(key, numbers, numbers))


class Sent(NamedTuple):
    """A record to send; `kind` is "good" or what is wrong with it."""

    kind: str
    output: Output
    reasons: frozenset[str] = frozenset()
    unused: int = 0
    """How many of its values are not used, and counted."""


def good_traffic(target: Target, seed: int = 1) -> Iterator[list[Sent]]:
    """Step after step, a reading of every machine; now and then a text."""
    rng = random.Random(seed)
    keys = [target.machine(number).encode() for number in range(target.machines)]
    partitions = [target.partition_of(key) for key in keys]
    step = 0
    while True:
        now = BEGIN_MS + step * target.step_ms
        out = []
        for key, partition in zip(keys, partitions, strict=True):
            values = ",".join([f"{rng.gauss(0, 1):.4f}" for _ in range(target.variables)])
            value = f'{{"machine":"{key.decode()}","time":{now},"values":[{values}]}}'.encode()
            out.append(Sent("good", Output("sensors", partition, key, value, now)))
            if rng.random() < 0.02:
                text = json.dumps({"machine": key.decode(), "time": now, "text": f"noise {step}", "id": f"t{step}"})
                out.append(Sent("good", Output("events", partition, key, text.encode(), now)))
        for form in target.forms:
            out += _foreign_step(target, form, now, rng)
        if target.forms and rng.random() < 0.3:
            key = rng.choice(keys)
            raised = json.dumps(alarm(key.decode(), now, step, rng)).encode()
            out.append(Sent("good", Output(ALARMS, target.partition_of(key), key, raised, now)))
        if target.ticks:
            out += [Sent("good", tick(now + 1, partition)) for partition in range(target.partitions)]
        yield out
        step += 1


def _foreign_step(target: Target, form: ForeignForm, now: int, rng: random.Random) -> Iterator[Sent]:
    for number in range(target.form_machines):
        machine = form.machine(number)
        key = machine.encode()
        time_ms = now - rng.randrange(1_000)
        values = {name: round(rng.gauss(0, 1), 4) for name in target.variable_names}
        if form.values_a_record is None:
            records = [values]
        else:  # each by itself, and not every one at each step
            records = [{name: values[name]} for name in rng.sample(target.variable_names, min(4, len(values)) - 1)]
        for record in records:
            value = form.written(machine, time_ms, record)
            yield Sent("good", Output(form.topic, target.partition_of(key), key, value, now))


def mixed_traffic(
    target: Target, hostile: int, seed: int = 7, *, per_good: float = 1.0, kinds: Kinds | None = None
) -> Iterator[Sent]:
    """Good traffic with `per_good` hostile records to each good one; it begins and ends with good frames alone."""
    fuzz, rng = Fuzz(target, seed, kinds), random.Random(seed)
    warm_up, left = 3 * target.frame_ms // target.step_ms, hostile
    for number, step in enumerate(good_traffic(target)):
        batch = step
        if number > warm_up:
            if not left:
                warm_up = number + warm_up + 1  # the last hostile texts expire when further frames close
                left = -1
            if left > 0:
                count = min(left, max(1, round(per_good * len(step))))
                left -= count
                batch = [*step, *(fuzz.one(step[0].output.timestamp_ms) for _ in range(count))]
                rng.shuffle(batch)
        elif left < 0 and number == warm_up - 1:
            return
        yield from batch


class Fuzz:
    """Makes hostile records."""

    def __init__(self, target: Target, seed: int, kinds: Kinds | None = None) -> None:
        """`kinds` are `KINDS` if unset."""
        self.target = target
        self.rng = random.Random(seed)
        self.kinds = KINDS if kinds is None else kinds
        self._count = 0
        self._names = list(self.kinds)
        self._weights = [weight for weight, _ in self.kinds.values()]

    def one(self, now_ms: int) -> Sent:
        """A record of a random kind."""
        return self.of_kind(self.rng.choices(self._names, self._weights)[0], now_ms)

    def of_kind(self, kind: str, now_ms: int) -> Sent:
        """A record of this kind."""
        self._count += 1
        made = self.kinds[kind][1](self, now_ms)
        return made._replace(kind=kind)

    # -- parts --------------------------------------------------------------------------------------------------

    def machine(self) -> str:
        """A machine that has good traffic too."""
        return self.target.machine(self.rng.randrange(self.target.machines))

    def decoy(self) -> str:
        """A machine without good traffic."""
        return f"{self.target.prefix}decoy-{self.rng.randrange(8)}"

    def reading(self, machine: object, time: object, values: object = None, **more: object) -> bytes:
        """A reading's value; it is in order unless told otherwise."""
        if values is None:
            values = [round(self.rng.gauss(0, 1), 3) for _ in range(self.target.variables)]
        return json.dumps({"machine": machine, "time": time, "values": values, **more}).encode()

    def sent(
        self,
        now_ms: int,
        key: str | bytes | None,
        value: bytes | None,
        reasons: str,
        *,
        topic: str = "sensors",
        partition: int | None = None,
        headers: Headers = (),
    ) -> Sent:
        """A record where its key belongs, unless told otherwise."""
        raw = key.encode() if isinstance(key, str) else key
        if partition is None:
            partition = self.rng.randrange(self.target.partitions) if raw is None else self.target.partition_of(raw)
        return Sent("", Output(topic, partition, raw, value, now_ms, headers), frozenset(reasons.split()))

    def raw(self, now_ms: int, template: str, reasons: str) -> Sent:
        """A reading from JSON text; `<machine>`, `<time>` and `<values>` stand for right ones."""
        machine = self.machine() if reasons else self.decoy()
        values = ",".join(["1.5"] * self.target.variables)
        text = template.replace("<machine>", machine).replace("<time>", str(now_ms)).replace("<values>", values)
        return self.sent(now_ms, machine, text.encode("latin-1"), reasons)

    def values_with(self, bad: str) -> str:
        """A list of values as JSON text, one of them bad."""
        values = ["1.5"] * self.target.variables
        values[self.rng.randrange(len(values))] = bad
        return f'{{"machine":"<machine>","time":<time>,"values":[{",".join(values)}]}}'


Make = Callable[[Fuzz, int], Sent]
Kinds = Mapping[str, tuple[float, Make]]


def _random_bytes(f: Fuzz, now: int) -> Sent:
    return f.sent(now, f.machine(), f.rng.randbytes(f.rng.randrange(1, 400)), "not_json schema")


def _truncated(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    value = f.reading(machine, now)
    return f.sent(now, machine, value[: f.rng.randrange(1, len(value))], "not_json")


def _with_a_tail(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    return f.sent(now, machine, f.reading(machine, now) + f.rng.choice([b"{}", b"\x00", b",", b"]"]), "not_json")


def _deep(f: Fuzz, now: int) -> Sent:
    depth = f.rng.choice([2_000, 20_000, 100_000])
    opening, closing = f.rng.choice([("[", "]"), ('{"a":', "}")])
    nested = opening * depth + "1" + f.rng.choice(["", closing * depth])
    where = f.rng.choice(
        ["<deep>", '{"machine":"<machine>","time":<time>,"values":<deep>}', '{"machine":<deep>,"time":1,"values":[]}']
    )
    return f.raw(now, where.replace("<deep>", nested), "not_json schema not_a_number")


def _huge_number(f: Fuzz, now: int) -> Sent:
    bad = f.rng.choice(["1e999", "-1e999", "1e" + "9" * 30, "9" * 400, "-" + "9" * 30_000, "1e39", "-3.5e38"])
    return f.raw(now, f.values_with(bad), "")._replace(unused=1)


def _not_a_number(f: Fuzz, now: int) -> Sent:
    return f.raw(now, f.values_with(f.rng.choice(["NaN", "Infinity", "-Infinity"])), "")._replace(unused=1)


def _no_json_number(f: Fuzz, now: int) -> Sent:
    bad = f.rng.choice(["nan", "inf", "NULL", "0x10", "01", "+1", ".5", "1.", "1e", "--1", "1_0"])
    return f.raw(now, f.values_with(bad), "not_json")


def _wrong_value_type(f: Fuzz, now: int) -> Sent:
    bad = f.rng.choice(['"1.5"', "true", "false", "{}", "[]", "[1.5]", '""', '"NaN"'])
    return f.raw(now, f.values_with(bad), "")._replace(unused=1)


def _wrong_type(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    choice = f.rng.randrange(4)
    if choice == 0:
        value = f.rng.choice([b"null", b"7", b'"text"', b"true", b"[]", b"{}", b"[1,2,3]", b'{"machine":"x"}'])
    elif choice == 1:
        value = f.reading(f.rng.choice([None, 7.5, True, [machine], {"id": machine}]), now)
    elif choice == 2:
        return f.sent(now, machine, f.reading(machine, f.rng.choice([None, 1.5, True, [now], {"ms": now}])), "bad_time")
    else:
        value = f.reading(machine, now, f.rng.choice([True, 7, "1,2", 1.5]))
    return f.sent(now, machine, value, "schema")


def _wrong_length(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    length = f.rng.choice([0, 1, f.target.variables - 1, f.target.variables + 1, 1_000, 20_000])
    return f.sent(now, machine, f.reading(machine, now, [1.0] * length), "wrong_length")


def _unknown_variable(f: Fuzz, now: int) -> Sent:
    machine = f.decoy()
    name = f.rng.choice(["", "nothing", "x" * 10_000, f.target.variable + " ", f.target.variable.upper(), "\x00"])
    values = f.rng.choice([{f.target.variable: 1.0, name: 2.0}, {name: 2.0}])
    return f.sent(now, machine, f.reading(machine, now, values), "")._replace(unused=1)


def _huge_value(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    size = f.target.large_bytes
    shape = f.rng.randrange(4)
    if shape == 0:
        return f.sent(now, machine, f.rng.randbytes(size), "not_json schema")
    if shape == 1:
        return f.sent(now, machine, b" " * (size - 1) + b"x", "not_json")
    if shape == 2:
        value = f.reading(machine, now)
        return f.sent(now, machine, value[:-2] + b",1.5" * ((size - len(value)) // 4) + b"]}", "wrong_length")
    value = b'{"machine":"' + b"m" * (size - 40) + b'","time":1,"values":[]}'
    return f.sent(now, machine, value, "key_mismatch")


def _key(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    key = f.rng.choice([None, b"", b"\xff\xfe", machine.encode() + b"\x00", b"k" * 50_000, f.rng.randbytes(8)])
    return f.sent(now, key, f.reading(machine, now), "key_mismatch")


def _empty(f: Fuzz, now: int) -> Sent:
    topic = f.rng.choice(["sensors", "events", "control"])
    if f.rng.random() < 0.3:
        return f.sent(now, f.machine(), b"", "not_json", topic=topic)
    return f.sent(now, f.rng.choice([None, f.machine()]), None, "empty", topic=topic)


def _wrong_partition(f: Fuzz, now: int) -> Sent:
    machine = f.machine() if f.rng.random() < 0.5 else f.decoy()
    right = f.target.partition_of(machine.encode())
    wrong = (right + f.rng.randrange(1, f.target.partitions)) % f.target.partitions
    return f.sent(now, machine, f.reading(machine, now), "wrong_partition", partition=wrong)


def _unknown_machine(f: Fuzz, now: int) -> Sent:
    prefix = f.target.prefix
    names = ["", "nobody", prefix[:-1], " " + prefix + "1", prefix.upper() + "1", "../" + prefix, f"x{f.rng.random()}"]
    names += [prefix + end for end in ("\n", "\x00", "\u202e", "x" * 200, "é" * 300, "x" * 100_000)]
    name = f.rng.choice(names)
    return f.sent(now, name, f.reading(name, now), "unknown_machine")


def _future_time(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    ahead = f.rng.choice([1, 60_000, 86_400_000, 20 * 365 * 86_400_000])
    return f.sent(now, machine, f.reading(machine, now + f.target.max_skew_ms + ahead), "future_time")


def _no_time(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    if f.rng.random() < 0.3:
        digits = f.rng.choice([b"1" + b"0" * 20, b"9" * 4_000, b"9" * 6_000, b"-1", b"4398046511104"])
        return f.sent(now, machine, f.reading(machine, 0).replace(b'"time": 0', b'"time": ' + digits), "bad_time")
    texts = ["", "now", "2025-11-20", "2025-11-20T00:00:00", "2025-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00"]
    texts += [
        "9999-12-31T23:59:59-14:00",
        "1969-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
        "9" * 20,
        "\x00",
        "T" * 100_000,
    ]
    text = f.rng.choice(texts)
    return f.sent(now, machine, f.reading(machine, text), "bad_time")


def _past_time(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    time = f.rng.choice([now - 3 * f.target.frame_ms, now - 365 * 86_400_000, "2001-01-01T00:00:00Z"])
    return f.sent(now, machine, f.reading(machine, time), "late")


def _other_unit(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    time = f.rng.choice([0, 1, now // 1000, now // 60_000, now * 1_000, now * 1_000_000, "1970-01-01T00:00:00Z"])
    return f.sent(now, machine, f.reading(machine, time), "bad_time")


def _duplicate_keys(f: Fuzz, now: int) -> Sent:
    if f.rng.random() < 0.5:  # of two the last counts
        return f.raw(now, '{"machine":"<machine>","time":<time>,"machine":"other","values":[<values>]}', "key_mismatch")
    return f.raw(
        now, '{"machine":"<machine>","values":[<values>],"time":<time>,"values":[1,2,3,4,5,6]}', "wrong_length"
    )


def _not_utf8(f: Fuzz, now: int) -> Sent:
    bad = f.rng.choice(["\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\x80"])
    return f.raw(now, f'{{"machine":"<machine>{bad}","time":<time>,"values":[<values>]}}', "not_json")


def _surrogate(f: Fuzz, now: int) -> Sent:
    bad = f.rng.choice(["\\ud800", "\\udfff", "\\ud800\\ud800", "\\ud83d", "\\u12", "\\x41", "\\"])
    return f.raw(now, f'{{"machine":"<machine>{bad}","time":<time>,"values":[<values>]}}', "not_json")


def _other_encoding(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    encoding = f.rng.choice(["utf-16", "utf-32", "utf-16-le", "utf-8-sig", "cp037"])
    return f.sent(now, machine, f.reading(machine, now).decode().encode(encoding), "not_json")


def _headers(f: Fuzz, now: int) -> Sent:
    headers: list[tuple[str, bytes]] = [("faultline-reason", b"forged"), ("faultline-offset", b"0"), ("", b"")]
    headers += [(f"h{i}", f.rng.randbytes(20)) for i in range(f.rng.randrange(100))]
    headers += [("é" * 500, b"\x00" * f.rng.choice([0, 20_000]))]
    return f.sent(now, f.machine(), b"{", "not_json", headers=tuple(headers))


_MARKUP = ("<", "<!", "<a b='", "</", "&", "&lt;", "<![CDATA[", "<!--", "<p>", "<script>", "\x00\u202e", "\ud800", "ﷺ")
"""What a reader of markup may take too long over, or lose."""


def _event(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    body: dict[str, object] = {"machine": machine, "time": now, "text": "smells", "id": f"h{f._count}"}
    wrong: list[tuple[dict[str, object], str]] = [
        ({"text": None}, "schema"),
        ({"text": ["smells"]}, "schema"),
        ({"machine": None}, "schema"),
        ({"id": [7]}, "schema"),
        ({"id": True}, "schema"),
        ({"severity": {}}, "schema"),
        ({"time": "late"}, "bad_time"),
        ({"time": "0001-01-01T00:00:00+14:00"}, "bad_time"),
        ({"time": now + f.target.max_skew_ms + 1}, "future_time"),
        ({"machine": "nobody"}, "key_mismatch"),
        ({"time": now - 10**8}, "expired"),
        ({"time": now - 10**8, "id": 10**400 + f._count}, "expired"),
        ({"time": now - 10**8, "text": f.rng.choice(_MARKUP) * f.rng.randrange(2_000)}, "expired"),
    ]
    changes, reasons = f.rng.choice(wrong)
    return f.sent(now, machine, json.dumps(body | changes).encode(), reasons, topic="events")


def _huge_text(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    text = f.rng.choice(["x", "ö", "\x00", "𝕏"]) * 250_000
    body = {"machine": machine, "time": now, "text": text, "id": f"h{f._count}"}
    return f.sent(
        now, machine, json.dumps(body, ensure_ascii=f.rng.random() < 0.5).encode(), "too_large", topic="events"
    )


def _control(f: Fuzz, now: int) -> Sent:
    value, reasons = f.rng.choice(
        [
            (b"\x00\x01", "not_json"),
            (b"tick", "not_json"),
            (b"[" * 50_000, "schema not_json"),
            (b'{"kind":"stop"}', "schema"),
            (b'{"kind":"tick"}', "schema"),
            (b'{"kind":"tick","time":true}', "schema"),
            (b'{"kind":"tick","time":-1}', "bad_time"),
            (b'{"kind":"tick","time":"soon"}', "bad_time"),
            (b'{"kind":"tick","time":"9999-12-31T23:59:59-14:00"}', "bad_time"),
            (b'{"kind":"tick","time":%s}' % (b"9" * 5_000), "bad_time"),
            (b'{"kind":"tick","time":""}', "bad_time"),
            (b'{"kind":"tick","time":4000000000000}', "future_time"),
            (b'{"kind":"reset"}', "schema"),
            (b'{"kind":"end","machine":7}', "schema"),
            (b'{"kind":"reset","machine":"nobody"}', "unknown_machine"),
            (b'{"kind":"reset","machine":"%s"}' % (b"m" * 100_000), "unknown_machine"),
        ]
    )
    return f.sent(now, None, value, reasons, topic="control")


def _forged_stamp(f: Fuzz, now: int) -> Sent:
    machine = f.machine()
    # Not -1: where a batch begins with it, aiokafka's producer writes the next record's time stamp instead.
    stamp = f.rng.choice([-2, 2**42, 2**62, 2**63 - 1])
    return f.sent(stamp, machine, f.reading(machine, now), "bad_time")


def _odd_but_legal(f: Fuzz, now: int) -> Sent:
    machine = f.decoy()
    nulls = [None] * f.target.variables
    value = f.rng.choice(
        [
            f.reading(machine, now, unknown={"a": ["field"] * 50}, values2=[1]),
            f.reading(machine, now, nulls),
            f.reading(machine, now, {}),
            f.reading(machine, now, [1e-320, -0.0, 3.4e38, *nulls][: f.target.variables]),
            b" \n\t" * 5_000 + f.reading(machine, now),
            f.reading(machine, now, x="\x00" * 1_000),
            f.reading(machine, f.rng.choice([now - 10**9, now - 1, now + f.target.max_skew_ms])),
        ]
    )
    return f.sent(now, machine, value, "")


KINDS: dict[str, tuple[float, Make]] = {
    "random_bytes": (10, _random_bytes),
    "truncated": (10, _truncated),
    "with_a_tail": (4, _with_a_tail),
    "deep": (0.2, _deep),
    "huge_number": (4, _huge_number),
    "not_a_number": (4, _not_a_number),
    "no_json_number": (5, _no_json_number),
    "wrong_value_type": (5, _wrong_value_type),
    "wrong_type": (6, _wrong_type),
    "wrong_length": (2, _wrong_length),
    "unknown_variable": (4, _unknown_variable),
    "huge_value": (0.002, _huge_value),
    "key": (5, _key),
    "empty": (5, _empty),
    "wrong_partition": (5, _wrong_partition),
    "unknown_machine": (5, _unknown_machine),
    "future_time": (5, _future_time),
    "no_time": (5, _no_time),
    "past_time": (5, _past_time),
    "other_unit": (5, _other_unit),
    "duplicate_keys": (4, _duplicate_keys),
    "not_utf8": (4, _not_utf8),
    "surrogate": (4, _surrogate),
    "other_encoding": (4, _other_encoding),
    "headers": (2, _headers),
    "event": (6, _event),
    "huge_text": (0.02, _huge_text),
    "control": (6, _control),
    "forged_stamp": (1, _forged_stamp),
    "odd_but_legal": (3, _odd_but_legal),
}
"""How often each kind comes, and what makes it."""


# -- what has become of them --------------------------------------------------------------------------------------


def fingerprint(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """A record's bytes in brief."""
    digest = hashlib.blake2b(repr((key, tuple(headers))).encode(), digest_size=12)
    digest.update(b"none" if value is None else value)
    return digest.digest()


class Ledger:
    """Which records were sent, where each lies, and which of them have come back as dead letters."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.letters: dict[str, int] = {}  # by reason
        self.problems: list[str] = []
        self.unused = 0  # values that cannot be used, of records that otherwise can
        self._open: dict[tuple[str, int, int], tuple[str, frozenset[str], bytes]] = {}
        self._next: dict[tuple[str, int], int] = {}

    def sent(self, one: Sent) -> tuple[str, int, int]:
        """Take a record down in the order of sending; returns its place: topic, partition, offset."""
        output = one.output
        assert output.partition is not None
        log = output.topic, output.partition
        offset = self._next.get(log, 0)
        self._next[log] = offset + 1
        self.kinds[one.kind] = self.kinds.get(one.kind, 0) + 1
        self.unused += one.unused
        if one.reasons:
            self._open[*log, offset] = one.kind, one.reasons, fingerprint(output.key, output.value, output.headers)
        return *log, offset

    def letter(self, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Take down a dead letter or late record: it must be of a hostile record, with its bytes and a right reason."""
        names = [name for name, _ in headers]
        begin = max((at for at, name in enumerate(names) if name == "faultline-reason"), default=None)
        if begin is None:
            self._problem(f"a letter gives no reason: {headers!r:.200}")
            return
        own = dict(headers[begin:])
        reason = own["faultline-reason"].decode()
        self.letters[reason] = self.letters.get(reason, 0) + 1
        place = own["faultline-topic"].decode(), int(own["faultline-partition"]), int(own["faultline-offset"])
        entry = self._open.pop(place, None)
        if entry is None:
            if not (key or b"").find(b"decoy") >= 0:
                self._problem(f"{place}: a letter ({reason}) for a record that is in order, or a second one")
            return
        kind, reasons, expected = entry
        if reason not in reasons:
            self._problem(f"{place}: {kind} was refused as {reason}, not {'/'.join(sorted(reasons))}")
        if "faultline-truncated" in own or fingerprint(key, value, headers[:begin]) != expected:
            self._problem(f"{place}: {kind} is not as it was")
        if not own["faultline-detail"]:
            self._problem(f"{place}: {kind} has no detail")

    @property
    def open(self) -> int:
        """How many hostile records have not come back yet."""
        return len(self._open)

    def close(self) -> list[str]:
        """All problems, missing letters among them."""
        for place, (kind, _, _) in self._open.items():
            self._problem(f"{place}: {kind} has no letter")
        return self.problems

    def _problem(self, text: str) -> None:
        self.problems.append(text)


def record_of(one: Sent, place: tuple[str, int, int]) -> Record:
    """The record as a consumer sees it."""
    output = one.output
    return Record(*place, output.timestamp_ms, output.key, output.value, output.headers)


def create_wide_topics(bootstrap: str, settings: Settings, profile: PlantProfile) -> None:
    """A plant's topics on a real broker, foreign ones too; input topics and those for letters take large records."""
    any_time = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    limit = {"max.message.bytes": str(INPUT_BYTES)} | any_time
    wide = {settings.topic_prefix + name for name in (*profile.sensor_topics, EVENTS, CONTROL, DEAD_LETTER, LATE)}
    specs = [
        TopicSpec(spec.name, spec.partitions, 1, (limit if spec.name in wide else {}) | dict(spec.config))
        for spec in topic_specs(settings, profile)
    ]
    # With its default the broker deletes records of last year at its next look, every five minutes.
    foreign = limit | {"retention.ms": "-1"}
    specs += [TopicSpec(spec.name, spec.partitions, 1, foreign) for spec in foreign_specs(settings, profile)]
    create_topics(bootstrap, specs)
