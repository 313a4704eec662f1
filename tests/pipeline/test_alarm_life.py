"""Alarms from raising to clearing: delays, dead bands, acknowledgement, latching, shelving, suppression, escalation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.engine import Engine
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.errors import ProfileError
from pipeline.frames import Frames, StepResult
from pipeline.wire.records import Output, Record
from tests.pipeline.test_recovering import JAM, LEAK, NORMAL, PERIOD_MS, T0, ScriptedRunner
from tests.support.builders import ONE_SOURCE, numbered, profile, reading, reasons

RULE = AlarmRule(k=2, n=3, confidence=0.5)
SILENT = None
LOOKING = next(at for at in range(T0, T0 + 66_000, 5_000) if at // 5_000 % 13 == 0) - T0
"""How long after T0 a tick looks at alarms."""


class PatientRunner(ScriptedRunner):
    """Says that there is no evidence where nothing was measured."""

    def step(self, frames: Frames) -> StepResult:
        heard = ~np.isnan(frames.values).any(axis=1)
        result = super().step(replace(frames, values=np.nan_to_num(frames.values)))
        return replace(result, present=result.present & heard)


def engine(alarms: str = "", **options: Any) -> Engine:
    plant = profile(ONE_SOURCE + (f"alarms: [{alarms}]" if alarms else ""))
    return Engine(plant, {"pump": PatientRunner()}, alarm_rule=RULE, **options)


def frames(script: Sequence[int | None], machine: str = "p1", sure: float = 0.9) -> list[Record]:
    """One reading in each frame; none where the script says SILENT."""
    return [
        reading(machine, T0 + at * PERIOD_MS, [float(one), sure]) for at, one in enumerate(script) if one is not None
    ]


def said(kind: str, at: float, machine: str | None = "p1", **more: Any) -> Record:
    """Somebody sends a control record so many frames after T0."""
    body = {"kind": kind, "machine": machine, "by": "kim", "why": "seen", **more}
    time_ms = T0 + int(at * PERIOD_MS)
    return Record("control", 0, 0, time_ms, (machine or "").encode(), json.dumps(body).encode())


def tick(at_ms: int) -> Record:
    return Record("control", 0, 0, at_ms, None, json.dumps({"kind": "tick", "time": at_ms}).encode())


def ordered(*records: Record) -> list[Record]:
    return numbered(sorted(records, key=lambda one: one.timestamp_ms))


def bodies(outputs: Sequence[Output]) -> list[dict[str, Any]]:
    return [json.loads(output.value or b"") for output in outputs if output.topic == "alarms"]


def life(outputs: Sequence[Output]) -> list[tuple[int, str, str]]:
    """Frame, fault and state of each record."""
    return [((body["time"] - T0) // PERIOD_MS - 1, body["fault"], body["state"]) for body in bodies(outputs)]


def run(script: Sequence[int | None], *more: Record, alarms: str = "", sure: float = 0.9) -> list[Output]:
    return engine(alarms).process(ordered(*frames([*script, NORMAL, NORMAL], sure=sure), *more))


def test_an_alarm_waits_for_its_delay_and_stays_for_the_other() -> None:
    script = [NORMAL] + [LEAK] * 6 + [NORMAL] * 6
    assert life(run(script)) == [(2, "leak", "raised"), (8, "leak", "cleared")]
    delayed = "{fault: leak, on_delay: 30s, off_delay: 20s}"
    assert life(run(script, alarms=delayed)) == [(5, "leak", "raised"), (10, "leak", "cleared")]
    # The fault is gone before its delay is over, and one that comes back in time is still there.
    assert life(run([LEAK] * 3 + [NORMAL] * 9, alarms=delayed)) == []
    back = [LEAK] * 6 + [NORMAL] * 3 + [LEAK] * 6
    assert life(run(back, alarms=delayed)) == [(4, "leak", "raised")]


def test_a_standing_alarm_stays_until_the_next_fault_has_waited_for_its_own() -> None:
    script = [LEAK] * 4 + [JAM] * 6
    alarms = "{fault: jam, on_delay: 30s}, {fault: leak, off_delay: 1h}"
    assert life(run(script)) == [(1, "leak", "raised"), (5, "leak", "cleared"), (5, "jam", "raised")]
    assert life(run(script, alarms=alarms)) == [(1, "leak", "raised"), (8, "leak", "cleared"), (8, "jam", "raised")]


def test_a_dead_band_keeps_an_alarm_whose_confidence_sinks_a_little() -> None:
    sinking = [reading("p1", T0 + at * PERIOD_MS, [float(LEAK), sure]) for at, sure in enumerate([0.9] * 3 + [0.6] * 5)]
    plain, banded = "{confidence: 0.7}", "{confidence: 0.7, dead_band: 0.2}"
    assert life(engine(plain).process(ordered(*sinking))) == [(1, "leak", "raised"), (4, "leak", "cleared")]
    assert life(engine(banded).process(ordered(*sinking))) == [(1, "leak", "raised")]
    assert life(run([LEAK] * 5, alarms=banded, sure=0.6)) == []


def test_a_fault_without_alarm_and_one_with_other_frames() -> None:
    assert life(run([LEAK] * 5, alarms="{fault: leak, alarm: false}")) == []
    assert life(run([LEAK] * 5, alarms="{machine: 'p*', agree: 4, frames: 4}"))[:1] == [(3, "leak", "raised")]
    assert life(run([LEAK] * 5, alarms="{machine: 'q*', agree: 4, frames: 4}"))[:1] == [(1, "leak", "raised")]
    # The later entry counts, whichever is about more.
    assert life(run([LEAK] * 5, alarms="{fault: leak, agree: 1}, {agree: 4, frames: 4}"))[0][0] == 3


def test_an_acknowledged_alarm_clears_and_another_one_waits_for_somebody() -> None:
    script, needed = [LEAK] * 4 + [NORMAL] * 6, "{acknowledge: true}"
    seen = run(script, said("acknowledge", 3.5, fault="leak"), alarms=needed)
    assert life(seen) == [(1, "leak", "raised"), (1, "leak", "acknowledged"), (5, "leak", "cleared")]
    first, second, third = bodies(seen)
    assert (second["by"], second["why"], second["sent"]) == ("kim", "seen", T0 + 35_000)
    assert second["alarm"] == third["alarm"] == first["id"]
    assert {"by", "why", "sent", "alarm", "suppressed"}.isdisjoint(first)
    unseen = run(script, said("acknowledge", 9.5), alarms=needed)
    assert life(unseen) == [
        (1, "leak", "raised"),
        (5, "leak", "returned"),
        (7, "leak", "acknowledged"),
        (7, "leak", "cleared"),
    ]
    # What has been acknowledged, or is not there, has no second record.
    twice = [said("acknowledge", at, fault=fault) for at, fault in ((3.5, "leak"), (3.6, "leak"), (3.7, "jam"))]
    assert [state for _, _, state in life(run(script, *twice))] == ["raised", "acknowledged", "cleared"]


def test_a_comment_is_recorded_and_changes_nothing() -> None:
    script, needed = [LEAK] * 4 + [NORMAL] * 6, "{acknowledge: true}"
    notes = [said("comment", 3.5, fault="leak", why="hose ordered"), said("comment", 8.5, why="hose is here")]
    found = run(script, *notes, alarms=needed)
    assert life(found) == [
        (1, "leak", "raised"),
        (1, "leak", "commented"),
        (5, "leak", "returned"),
        (6, "*", "commented"),
    ]
    first, second, _, last = bodies(found)
    assert (second["alarm"], second["by"], second["why"]) == (first["id"], "kim", "hose ordered")
    assert (last["why"], last["sent"], "alarm" in last) == ("hose is here", T0 + 85_000, False)
    without = run(script, alarms=needed)
    assert [one for one in life(found) if one[2] != "commented"] == life(without)
    assert reasons(run(script, said("comment", 3.5, why=" "))) == ["schema"]


def test_an_alarm_that_returns_is_a_new_one() -> None:
    script = [LEAK] * 3 + [NORMAL] * 3 + [LEAK] * 3
    for alarms in ("", "{acknowledge: true}"):
        found = [body for body in bodies(run(script, alarms=alarms)) if body["state"] == "raised"]
        assert len({body["id"] for body in found}) == 2
    states = [state for _, _, state in life(run(script, alarms="{acknowledge: true}"))]
    assert states[:4] == ["raised", "returned", "cleared", "raised"]


def test_a_latched_alarm_stays_until_it_is_acknowledged_with_its_fault_gone() -> None:
    script = [LEAK] * 4 + [NORMAL] * 6
    twice = said("acknowledge", 3.5), said("acknowledge", 9.5)
    found = life(run(script, *twice, alarms="{fault: leak, latch: true}"))
    assert [state for _, _, state in found] == ["raised", "acknowledged", "latched", "acknowledged", "cleared"]
    again = life(run([*script[:7], *[LEAK] * 3], alarms="{fault: leak, latch: true}"))
    assert [state for _, _, state in again][:3] == ["raised", "latched", "realarmed"]


def test_a_shelved_alarm_calls_again_when_its_time_is_over() -> None:
    script = [LEAK] * 14
    found = run(script, said("shelve", 3.5, fault="leak", duration="50s"))
    assert life(found) == [
        (1, "leak", "raised"),
        (1, "leak", "shelved"),
        (6, "leak", "unshelved"),
        (6, "leak", "realarmed"),
    ]
    shelved, unshelved = bodies(found)[1:3]
    assert (shelved["until"], shelved["by"]) == (T0 + 70_000, "kim")
    assert "by" not in unshelved
    early = run(script, said("shelve", 3.5, duration="1h"), said("unshelve", 6.5))
    assert life(early)[1:] == [(1, "*", "shelved"), (4, "*", "unshelved"), (4, "leak", "realarmed")]
    refused = engine().process(
        ordered(*frames(script), said("shelve", 3.5, duration="13h"), said("shelve", 4, fault="leek", duration="1h"))
    )
    assert reasons(refused) == ["schema", "schema"]


def test_what_is_raised_while_shelved_or_out_of_service_says_so_and_counts_as_no_call() -> None:
    one = engine()
    stream = ordered(*frames([NORMAL] * 3 + [LEAK] * 4 + [NORMAL] * 4), said("suppress", 2.5))
    found = bodies(one.process(stream))
    assert [(body["state"], body.get("suppressed")) for body in found] == [
        ("suppressed", None),
        ("raised", "out_of_service"),
        ("cleared", "out_of_service"),
    ]
    assert found[0]["fault"] == "*"
    assert (one.stats.alarms.raised.total(), one.stats.alarms.states["raised"]) == (0, 1)
    by_design = bodies(run([LEAK] * 4 + [NORMAL] * 4, alarms="{fault: leak, suppress: true}"))
    assert {body["suppressed"] for body in by_design} == {"by_design"}


def test_what_nobody_acknowledges_rises_and_calls_again() -> None:
    alarms = "{fault: leak, priority: medium, escalate_after: 20s, re_alarm: 50s}"
    found = bodies(run([LEAK] * 14, alarms=alarms))
    assert [((body["time"] - T0) // 10_000, body["state"], body.get("priority", "high")) for body in found] == [
        (2, "raised", "medium"),
        (4, "escalated", "high"),
        (6, "escalated", "critical"),
        (7, "realarmed", "critical"),
        (12, "realarmed", "critical"),
    ]
    calm = life(run([LEAK] * 14, said("acknowledge", 3.5), alarms="{escalate_after: 20s, re_alarm: 80s}"))
    assert calm == [
        (1, "leak", "raised"),
        (1, "leak", "acknowledged"),
        (9, "leak", "realarmed"),
        (11, "leak", "escalated"),
    ]


def test_silent_machines_alarm_as_such_where_the_profile_speaks_of_alarms() -> None:
    script: list[int | None] = [NORMAL] * 3 + [SILENT] * 12 + [NORMAL] * 3
    ticks = [tick(T0 + at * PERIOD_MS) for at in range(3, 16)]
    assert bodies(engine().process(ordered(*frames(script), *ticks))) == []
    found = engine("{fault: offline, priority: critical}").process(ordered(*frames(script), *ticks))
    assert [(body["fault"], body["state"]) for body in bodies(found)] == [
        ("stale", "raised"),
        ("stale", "cleared"),
        ("offline", "raised"),
        ("offline", "cleared"),
    ]
    assert [body.get("priority", "high") for body in bodies(found)] == ["low", "low", "critical", "critical"]
    none = engine("{fault: leak, agree: 2}, {fault: stale, alarm: false}, {fault: offline, alarm: false}")
    assert bodies(none.process(ordered(*frames(script), *ticks))) == []


def test_a_blind_machine_alarms_until_its_readings_are_of_now() -> None:
    late = [reading("p1", T0 + at * 10, [0.0, 0.9], timestamp_ms=T0 + at * PERIOD_MS) for at in range(1, 80)]
    good = [reading("p1", T0 + at * PERIOD_MS, [0.0, 0.9]) for at in range(80, 100)]
    ticks = [tick(T0 + LOOKING + at * 65_000) for at in range(15)]
    stream = ordered(*frames([NORMAL]), *late, *good, *ticks)
    found = bodies(engine("{fault: blind, priority: high}").process(stream))
    assert [(body["fault"], body["state"]) for body in found] == [("blind", "raised"), ("blind", "cleared")]


def test_settings_change_while_running_and_say_who_why_and_when() -> None:
    change = {"fault": "leak", "on_delay": "30s", "priority": "low"}
    script = [NORMAL] * 4 + [LEAK] * 8
    stream = ordered(
        *frames(script), *frames(script, "q1"), said("configure", 2.5, None, settings=change | {"machine": "p*"})
    )
    one = engine()
    found = bodies(one.process(stream))
    audited = found[0]
    assert (audited["state"], audited["machine"], audited["fault"]) == ("configured", "p*", "leak")
    assert (audited["by"], audited["why"], audited["sent"]) == ("kim", "seen", T0 + 25_000)
    assert audited["settings"] == change | {"machine": "p*"}
    raised = {body["machine"]: body for body in found if body["state"] == "raised"}
    assert raised["p1"]["time"] - raised["q1"]["time"] == 30_000
    assert raised["p1"]["priority"] == "low"
    # A machine that comes later has them too, and so has one whose state another worker takes over.
    second = engine()
    for name, state in one.checkpoint().items():
        assert state is not None
        second.restore(name, state)
    late = [record._replace(offset=record.offset + 100) for record in ordered(*frames(script, "p9"))]
    assert bodies(second.process(late))[0]["time"] == raised["p1"]["time"]


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (said("acknowledge", 1, by=None), "needs `by`"),
        (said("acknowledge", 1, why="  "), "needs `why`"),
        (said("acknowledge", 1, machine=None), "needs a machine"),
        (said("shelve", 1, duration="soon"), "is not a duration"),
        (said("shelve", 1), "is not a duration"),
        (said("suppress", 1, fault="leek"), "it has leak, jam"),
        (said("configure", 1, settings={"fault": "leek", "latch": True}), "did you mean leak"),
        (said("configure", 1, settings={"latch": "perhaps"}), "latch"),
        (said("configure", 1), "it sets nothing"),
    ],
)
def test_what_cannot_be_applied_is_a_dead_letter(record: Record, detail: str) -> None:
    outputs = engine().process(ordered(*frames([NORMAL] * 3), record))
    (letter,) = [output for output in outputs if output.topic == "dead-letter"]
    assert detail in dict(letter.headers)["faultline-detail"].decode()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{fault: leek, latch: true}", "did you mean leak"),
        ("{fault: normal, latch: true}", "'normal' never has an alarm"),
        ("{machine_type: pomp, latch: true}", "did you mean pump"),
        ("{fault: leak}", "it sets nothing"),
        ("{agree: 4, frames: 3}", "agree 4 is more than frames 3"),
        ("{on_delay: 20}", "alarms.0.on_delay"),
    ],
)
def test_a_profile_whose_alarms_cannot_be_is_refused(entry: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile(f"{ONE_SOURCE}alarms: [{entry}]")


def test_words_are_in_no_digest_and_alarms_are() -> None:
    plain, titled = profile(), profile(ONE_SOURCE.replace("leak", "{name: leak, priority: low}"))
    assert plain.digest == titled.digest
    section = "alarms: [{latch: true}]"
    assert len({one.digest for one in (plain, profile(ONE_SOURCE + section))}) == 2
    assert titled.machine_types[0].digest == plain.machine_types[0].digest
    raised = Engine(
        profile(ONE_SOURCE.replace("leak", "{name: leak, priority: low}") + section),
        {"pump": PatientRunner()},
        alarm_rule=RULE,
    ).process(ordered(*frames([LEAK] * 4)))
    assert bodies(raised)[0]["priority"] == "low"


def test_floods_chatter_and_the_time_to_acknowledge_are_counted() -> None:
    many = [record for at in range(12) for record in frames([LEAK] * 6, f"p{at}")]
    one = engine()
    one.process(ordered(*many, said("acknowledge", 4.5, "p1"), said("acknowledge", 4.6, "p2")))
    counts = one.stats.alarms
    assert (counts.floods, counts.raised["high"], counts.chatter) == (1, 12, 0)
    assert (int(counts.acknowledged.sum()), counts.acknowledge_seconds) == (2, 20.0)
    restless = engine()
    restless.process(ordered(*frames(([LEAK] * 3 + [NORMAL] * 3) * 4)))
    assert (restless.stats.alarms.raised["high"], restless.stats.alarms.chatter) == (4, 2)


def test_a_forgotten_machine_leaves_no_alarm() -> None:
    found = bodies(engine().process(ordered(*frames([LEAK] * 4), said("forget", 3.5))))
    assert [(body["state"], body.get("why")) for body in found] == [
        ("raised", None),
        ("cleared", "the machine is forgotten"),
    ]


_ENTRIES = st.sampled_from(
    [
        "",
        "{acknowledge: true, re_alarm: 40s, escalate_after: 20s}",
        "{fault: leak, latch: true}, {fault: jam, on_delay: 20s, off_delay: 30s, dead_band: 0.2}",
        "{machine: p1, agree: 1}, {fault: offline, escalate_after: 70s}, {fault: stale, latch: true}",
    ]
)
_ACTS = st.sampled_from(
    [
        ("acknowledge", {}),
        ("acknowledge", {"fault": "leak"}),
        ("shelve", {"duration": "1m"}),
        ("shelve", {"fault": "leak", "duration": "30s"}),
        ("unshelve", {}),
        ("suppress", {"fault": "jam"}),
        ("unsuppress", {}),
        ("comment", {"fault": "leak"}),
        ("configure", {"settings": {"fault": "leak", "on_delay": "20s", "acknowledge": True}}),
        ("configure", {"settings": {"machine": "p1", "frames": 5, "agree": 4}}),
        ("forget", {}),
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    entries=_ENTRIES,
    script=st.lists(st.sampled_from([NORMAL, LEAK, LEAK, JAM, SILENT]), min_size=8, max_size=40),
    acts=st.lists(st.tuples(st.floats(2, 40), st.sampled_from(["p1", "p2"]), _ACTS), max_size=6),
    cuts=st.lists(st.integers(0, 140), max_size=6),
    with_ticks=st.booleans(),
)
def test_alarms_are_the_same_however_the_input_is_cut_and_after_any_restart(
    entries: str,
    script: list[int | None],
    acts: list[tuple[float, str, tuple[str, dict[str, Any]]]],
    cuts: list[int],
    with_ticks: bool,
) -> None:
    people = [said(kind, at, machine, **more) for at, machine, (kind, more) in acts]
    ticks = [tick(T0 + at * 5_000) for at in range(2, 80)] if with_ticks else []
    stream = ordered(*frames(script), *frames([LEAK, *script[::-1]], "p2"), *people, *ticks)
    whole = engine(entries)
    expected = whole.process(stream)
    cut, restarted = engine(entries), engine(entries)
    outputs, again = [], []
    bounds = [0, *sorted({min(one, len(stream)) for one in cuts}), len(stream)]
    states: dict[str, bytes | None] = {}
    for begin, end in pairwise(bounds):
        outputs += cut.process(stream[begin:end])
        again += restarted.process(stream[begin:end])
        states |= restarted.checkpoint()
        restarted = engine(entries)
        for name, state in states.items():
            if state is not None:
                restarted.restore(name, state)
        for name in [name for name, state in states.items() if state is None]:
            del states[name]

    def by_machine(outputs: Sequence[Output]) -> list[tuple[bytes | None, list[bytes | None]]]:
        keys = sorted({output.key or b"" for output in outputs if output.topic == "alarms"})
        return [(key, [o.value for o in outputs if o.topic == "alarms" and o.key == key]) for key in keys]

    assert by_machine(outputs) == by_machine(expected)
    assert by_machine(again) == by_machine(expected)
