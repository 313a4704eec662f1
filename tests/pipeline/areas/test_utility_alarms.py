"""Alarms of utilities: settings, what people do with them, and that a restart or a repeated record changes nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.areas.engine import AreaEngine
from pipeline.config.topics import ALARMS, AREA_CONTROL, AREAS
from pipeline.engine.engine import Engine
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.wire.records import Output, Record
from tests.support.areas import MACHINES, PERIOD_MS, PROFILE, T0, CountingRunner, diagnosis, record
from tests.support.builders import SumRunner, profile, reasons

RULE = AlarmRule(k=2, n=3, confidence=0.5)
SENT_MS = 1_790_000_000_000
"""People act long after the data's own time."""


def area_engine(entries: str = "") -> AreaEngine:
    text = PROFILE + (f"alarms: [{entries}]\n" if entries else "")
    return AreaEngine(profile(text), CountingRunner(), alarm_rule=RULE)


def frames(script: Sequence[bool], begin: int = 0) -> list[Record]:
    """A record of each machine in each frame, in which the water leaks or not."""
    return [
        record(diagnosis(machine, begin + at, leak=0.9 if leaks else 0.1), 0)
        for at, leaks in enumerate(script)
        for machine in MACHINES
    ]


def said(kind: str, sent: int = 0, machine: str | None = "hall/water", **more: Any) -> Record:
    """What a worker passes on of somebody's control record."""
    body = {"kind": kind, "machine": machine, "by": "kim", "why": "seen", **more}
    return Record(AREAS, 0, 0, SENT_MS + sent, b"hall", json.dumps(body).encode(), (AREA_CONTROL,))


def numbered(records: Sequence[Record]) -> list[Record]:
    return [one._replace(offset=offset) for offset, one in enumerate(records)]


def bodies(outputs: Sequence[Output]) -> list[dict[str, Any]]:
    return [json.loads(output.value or b"") for output in outputs if output.topic == ALARMS]


def life(outputs: Sequence[Output]) -> list[tuple[int, str]]:
    """Frame and state of each record."""
    return [((body["time"] - T0) // PERIOD_MS - 1, body["state"]) for body in bodies(outputs)]


LEAKS = [False] + [True] * 5 + [False] * 4


def test_without_settings_alarms_are_raised_and_cleared_as_ever() -> None:
    outputs = area_engine().process(numbered(frames(LEAKS)))
    raised, cleared = bodies(outputs)
    assert raised == {
        "id": f"hall/water:{raised['time']}:cccccccccccc:leak:raised",
        "machine": "hall/water",
        "fault": "leak",
        "state": "raised",
        "time": T0 + 3 * PERIOD_MS,
        "confidence": raised["confidence"],
        "diagnosis": f"hall:{raised['time']}:cccccccccccc",
    }
    assert cleared.keys() == raised.keys() and cleared["state"] == "cleared"
    assert life(outputs) == [(2, "raised"), (7, "cleared")]


def test_the_profiles_settings_hold_for_utilities_too() -> None:
    def process(entries: str) -> list[tuple[int, str]]:
        return life(area_engine(entries).process(numbered(frames(LEAKS))))

    assert process("{on_delay: 20s}") == [(4, "raised"), (7, "cleared")]
    assert process("{machine: 'hall/*', fault: leak, latch: true}") == [(2, "raised"), (7, "latched")]
    assert process("{machine: hall/water, alarm: false}") == []
    assert process("{machine: hall/power, alarm: false}, {machine_type: pump, alarm: false}") == [
        (2, "raised"),
        (7, "cleared"),
    ]
    assert process("{acknowledge: true, escalate_after: 20s}") == [
        (2, "raised"),
        (4, "escalated"),
        (7, "returned"),
    ]


def test_an_alarm_is_acknowledged_shelved_and_suppressed_in_the_areas_time() -> None:
    before, after = frames(LEAKS[:4]), frames(LEAKS[4:], 4)
    entries = "{acknowledge: true}"
    acknowledged = area_engine(entries).process(numbered([*before, said("acknowledge", fault="leak"), *after]))
    assert life(acknowledged) == [(2, "raised"), (3, "acknowledged"), (7, "cleared")]
    record = bodies(acknowledged)[1]
    assert (record["by"], record["why"], record["sent"]) == ("kim", "seen", SENT_MS)
    assert record["alarm"] == bodies(acknowledged)[0]["id"]
    shelved = area_engine().process(numbered([*before, said("shelve", duration="20s"), *after]))
    assert life(shelved) == [(2, "raised"), (3, "shelved"), (5, "unshelved"), (5, "realarmed"), (7, "cleared")]
    suppress, unsuppress = said("suppress"), said("unsuppress", 1)
    served = area_engine().process(numbered([suppress, *before, unsuppress, *after]))
    assert [body["state"] for body in bodies(served)][:4] == ["suppressed", "raised", "unsuppressed", "realarmed"]
    assert bodies(served)[1]["suppressed"] == "out_of_service"


def test_settings_that_come_while_the_agent_runs_count_from_there_on_and_are_audited() -> None:
    entry = {"machine": "hall/water", "fault": "leak", "latch": True}
    outputs = area_engine().process(numbered([said("configure", machine=None, settings=entry), *frames(LEAKS)]))
    assert [body["state"] for body in bodies(outputs)] == ["configured", "raised", "latched"]
    assert bodies(outputs)[0]["settings"] == entry


def test_what_cannot_be_done_is_a_dead_letter() -> None:
    wrong = [
        said("acknowledge", fault="drip"),
        said("acknowledge", machine="hall/steam"),
        said("shelve", duration="3d"),
        said("shelve", duration="soon"),
        said("suppress", by=" "),
        said("configure", machine=None, settings={"fault": "drip", "latch": True}),
    ]
    outputs = area_engine().process(numbered([*frames(LEAKS[:4]), *wrong]))
    assert reasons(outputs) == ["schema", "unknown_machine", *["schema"] * 4]
    assert life(outputs) == [(2, "raised")]


_ACTS: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.sampled_from(["acknowledge", "suppress", "unsuppress", "unshelve"]).map(lambda kind: (kind, {})),
    st.sampled_from(["20s", "1m"]).map(lambda duration: ("shelve", {"duration": duration})),
    st.sampled_from(["latch", "acknowledge"]).map(lambda name: ("configure", {"settings": {name: True}})),
)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.none() | _ACTS), min_size=6, max_size=18),
    st.sampled_from(["", "{acknowledge: true, on_delay: 10s, off_delay: 20s}", "{latch: true, re_alarm: 20s}"]),
)
def test_a_restart_at_any_record_and_repeated_acts_change_nothing(
    script: list[tuple[bool, tuple[str, dict[str, Any]] | None]], entries: str
) -> None:
    records: list[Record] = []
    for at, (leaks, act) in enumerate(script):
        records += frames([leaks], at)
        if act is not None:
            records.append(said(act[0], at, **act[1]))
    sent = numbered(records)
    whole, cut = area_engine(entries), area_engine(entries)
    expected, found = whole.process(sent), list[Output]()
    for place, one in enumerate(sent):
        found += cut.process([one])
        if place % 3 == 0:
            states, cut = cut.checkpoint(), area_engine(entries)
            for area, state in states.items():
                assert state is not None
                cut.restore(area, state)
                cut.note_applied(area, {})  # as changed, so that the next checkpoint has it again
    assert [(one.topic, one.value) for one in found] == [(one.topic, one.value) for one in expected]
    acts = [one for one in sent if one.headers]
    again = [one._replace(offset=len(sent) + place) for place, one in enumerate(acts)]
    assert cut.process(again) == [] or not acts


def test_a_worker_passes_on_what_is_for_utilities_and_keeps_what_is_for_machines() -> None:
    worker = Engine(profile(PROFILE), {"pump": SumRunner()}, partition_of=lambda key: 1 if key == b"hall" else 0)

    offsets = itertools.count()

    def passed(partition: int, kind: str, **more: Any) -> list[tuple[bytes | None, bytes | None]]:
        body = json.dumps({"kind": kind, "by": "kim", "why": "seen", **more}).encode()
        outputs = worker.process([Record("control", partition, next(offsets), SENT_MS, None, body)])
        assert all(one.value == body for one in outputs if one.topic == AREAS)
        return [(one.key, one.headers[0][1]) for one in outputs if one.topic == AREAS]

    to_hall = [(b"hall", b"control")]
    assert passed(0, "acknowledge", machine="hall/water") == to_hall
    assert passed(0, "configure", settings={"machine": "hall/water", "latch": True}) == to_hall
    assert passed(1, "configure", settings={"latch": True}) == to_hall
    assert passed(0, "configure", settings={"latch": True}) == [], "it comes once, from the area's partition"
    assert passed(0, "acknowledge", machine="pump-0") == []
