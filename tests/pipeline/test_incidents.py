"""Incidents: made from alarms and labels whatever their order, and found again by diagnoses and words."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.reports.incidents.bm25 import BM25
from pipeline.engine.reports.incidents.book import IncidentBook
from pipeline.engine.reports.incidents.record import AlarmChange, Incident, incident_output
from pipeline.engine.reports.incidents.similarity import SignatureIndex, Vector, diagnosis_signature
from pipeline.wire.labels import LabelledSpan
from pipeline.wire.messages import MAX_TIME_MS, Diagnosis, Evidence, ModelRef, TextEvidence, VariableEvidence

HASH = "a" * 64


def diagnosis(
    fault: str = "leak", share: float = 0.9, deviation: float = 5.0, texts: Sequence[str] = ("water on the floor",)
) -> Diagnosis:
    return Diagnosis(
        id="d",
        machine="p1",
        frame_start=0,
        frame_end=10,
        fault=fault,
        confidence=share,
        probabilities={"normal": 1 - share, fault: share},
        modalities={},
        entropy=0.0,
        disagreement=0.0,
        evidence=Evidence(
            [VariableEvidence("flow", 1.0, deviation)], [TextEvidence(str(n), t, 0, False) for n, t in enumerate(texts)]
        ),
        status="active",
        reset=None,
        revision=0,
        model=ModelRef("m", HASH),
    )


def alarm(state: str, time: int, machine: str = "p1", fault: str = "leak") -> AlarmChange:
    return AlarmChange(f"{machine}:{time}:{fault}:{state}", machine, fault, state, time)


def label(
    start: int, end: int | None, fault: str = "leak", machine: str = "p1", note: str | None = None
) -> LabelledSpan:
    return LabelledSpan(machine, start, MAX_TIME_MS if end is None else end, fault, 1_000, note)


def book() -> IncidentBook:
    return IncidentBook(lambda machine: None if machine == "stranger" else machine[0])


def episode(
    one: IncidentBook, start: int, end: int | None, machine: str = "p1", fault: str = "leak", **what: float
) -> list[Incident]:
    changed = one.raised(alarm("raised", start, machine, fault), diagnosis(fault, **what))  # type: ignore[arg-type]
    return changed + ([] if end is None else one.cleared(alarm("cleared", end, machine, fault)))


def test_an_alarm_becomes_an_incident_and_ends_when_it_is_cleared() -> None:
    one = book()
    (begun,) = one.raised(alarm("raised", 100), diagnosis())
    assert (begun.end, begun.diagnosed, begun.fault, begun.words) == (None, "leak", "leak", "water on the floor")
    (ended,) = one.cleared(alarm("cleared", 200))
    assert (ended.id, ended.start, ended.end) == (begun.id, 100, 200)
    assert one.cleared(alarm("cleared", 300)) == [], "it has ended already"
    assert one.raised(alarm("raised", 400, "stranger"), diagnosis()) == []


def test_a_label_says_what_was_found_and_may_be_corrected() -> None:
    one = book()
    episode(one, 100, 200)
    own, named = one.labelled(label(90, 250, "jam", note="bearing was dry"))
    assert own.kind == "label" and (named.found, named.diagnosed, named.fault) == ("jam", "leak", "jam")
    assert named.words.splitlines() == ["bearing was dry", "water on the floor"]
    _, corrected = one.labelled(label(90, 250, "normal"))
    assert (corrected.found, corrected.note) == ("normal", None)
    _, freed = one.labelled(label(90, 95, "jam"))
    assert freed.found is None, "the label is about another time now"
    assert [incident.kind for incident in one.incidents()] == ["label", "alarm"]


def test_the_label_that_overlaps_an_alarm_most_names_it() -> None:
    one = book()
    one.labelled(label(0, 120, "jam"))
    one.labelled(label(120, 300, "leak"))
    one.labelled(label(0, 110, "normal", machine="p2"))
    *_, incident = episode(one, 100, 200, fault="jam")
    assert incident.found == "leak"
    assert [(shown.machine, shown.kind, shown.start) for shown in one.incidents()] == [
        ("p1", "label", 0),
        ("p1", "alarm", 100),
    ], "time that is labelled as normal is no incident, and a label that names an alarm is shown by that"


def test_an_alarm_that_was_never_cleared_ends_with_the_next_of_its_fault() -> None:
    one = book()
    episode(one, 100, None)
    lost, begun = one.raised(alarm("raised", 500), diagnosis())
    assert (lost.start, lost.end, begun.start, begun.end) == (100, 500, 500, None)


Fact = Callable[[IncidentBook], list[Incident]]


def raising(machine: str, time: int, fault: str) -> Fact:
    return lambda one: one.raised(alarm("raised", time, machine, fault), diagnosis(fault))


def clearing(machine: str, time: int, fault: str) -> Fact:
    return lambda one: one.cleared(alarm("cleared", time, machine, fault))


def labelling(machine: str, start: int, frames: int | None, fault: str) -> Fact:
    return lambda one: one.labelled(label(start, None if frames is None else start + frames, fault, machine))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Fact], list[Fact]]:
    """The alarms of two machines in their order, and labels in theirs."""
    machines, faults = st.sampled_from(("p1", "p2")), st.sampled_from(("normal", "leak", "jam"))
    alarms: list[Fact] = []
    for machine in ("p1", "p2"):
        times = sorted(draw(st.sets(st.integers(0, 40), max_size=6)))
        for place in range(0, len(times), 2):
            fault = draw(st.sampled_from(("leak", "jam")))
            alarms.append(raising(machine, times[place], fault))
            alarms += [clearing(machine, end, fault) for end in times[place + 1 : place + 2]]
    spans = st.tuples(machines, st.integers(0, 40), st.none() | st.integers(1, 20), faults)
    return alarms, [labelling(*span) for span in draw(st.lists(spans, max_size=5))]


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(0, 2**32 - 1))
def test_incidents_do_not_depend_on_when_labels_come_nor_on_repetitions_nor_on_restarts(
    history: tuple[list[Fact], list[Fact]], seed: int
) -> None:
    alarms, labels = history
    calm = book()
    for fact in (*alarms, *labels):
        fact(calm)
    chance = random.Random(seed)
    total = len(alarms) + len(labels)
    places = frozenset(chance.sample(range(total), len(alarms)))
    order = [0 if at in places else 1 for at in range(total)]
    queues = [list(alarms), list(labels)]
    facts = [queues[which].pop(0) for which in order]
    disturbed, topic = book(), dict[str, Incident]()
    crash = chance.randint(0, len(facts))
    again = chance.randint(0, crash)
    for fact in facts[:crash]:
        topic.update((incident.id, incident) for incident in fact(disturbed))
    disturbed = book()
    for incident in topic.values():
        output = incident_output(incident, 0, 0)
        disturbed.take(output.key, output.value)
    for fact in facts[again:]:
        topic.update((incident.id, incident) for incident in fact(disturbed))
    assert disturbed.incidents() == calm.incidents()
    rebuilt = book()
    for incident in topic.values():
        rebuilt.take(incident.id.encode(), incident_output(incident, 0, 0).value)
    assert rebuilt.incidents() == calm.incidents(), "the topic alone says all of it"


def test_what_is_no_incident_is_counted_and_a_tombstone_removes_one() -> None:
    one = book()
    (begun,) = episode(one, 100, None)
    one.take(b"x", b"{")
    one.take(b"y", b'{"id": 5}')
    assert (one.unreadable, len(one)) == (2, 1)
    one.take(begun.id.encode(), None)
    one.take(b"unheard of", None)
    assert len(one) == 0


def test_only_incidents_that_were_over_are_similar_and_only_of_the_same_type() -> None:
    one = book()
    episode(one, 100, 200)
    episode(one, 300, 400, "p2")
    episode(one, 500, None, "p3")
    episode(one, 100, 150, "q1")
    signature = diagnosis_signature({"leak": 0.9}, [("flow", 5.0)])

    def found(before_ms: int) -> list[str]:
        return [like.machine for like in one.similar(signature, machine_type="p", before_ms=before_ms)]

    assert found(199) == []
    assert found(200) == ["p1"]
    assert found(10_000) == ["p2", "p1"], "of equally similar ones the newest"
    assert [like.machine for like in one.similar(signature, machine_type="q", before_ms=10_000)] == ["q1"]


def test_the_fault_counts_first_and_then_where_it_shows() -> None:
    one = book()
    episode(one, 0, 10, "p1", "leak", deviation=6.0)
    episode(one, 0, 10, "p2", "leak", deviation=-6.0)
    episode(one, 0, 10, "p3", "jam", deviation=6.0)
    signature = diagnosis_signature({"leak": 0.6, "normal": 0.4}, [("flow", 4.0)])
    similar = one.similar(signature, machine_type="p", before_ms=100)
    assert [like.machine for like in similar] == ["p1", "p2", "p3"]
    assert similar[0].score == pytest.approx(1.0, abs=1e-3), "neither length nor the normal state is of account"
    assert similar[2].score < 0.1 < similar[1].score


def test_vectors_of_one_model_are_compared_and_those_of_others_by_what_diagnoses_say() -> None:
    one = book()
    for machine, angle in (("p1", 0.0), ("p2", 1.0)):
        vector = Vector.of(HASH, [math.cos(angle), math.sin(angle)])
        one.raised(alarm("raised", 0, machine), diagnosis(), vector)
        one.cleared(alarm("cleared", 10, machine))
    signature = diagnosis_signature({"leak": 0.9}, [("flow", 5.0)])
    near = Vector.of(HASH, [math.cos(0.9), math.sin(0.9)])
    similar = one.similar(signature, near, machine_type="p", before_ms=10)
    assert [(like.machine, round(like.score, 2)) for like in similar] == [
        ("p2", round(math.cos(0.1), 2)),
        ("p1", round(math.cos(0.9), 2)),
    ]
    other = one.similar(signature, Vector.of("b" * 64, [1.0, 0.0]), machine_type="p", before_ms=10)
    assert {like.score for like in other} == {1.0}


def test_words_find_what_was_written_and_what_a_fault_is_called() -> None:
    one = book()
    episode(one, 0, 10)
    one.labelled(label(0, 10, "jam", machine="p2", note="Bearing was dry, greased"))
    one.labelled(label(20, None, "jam", machine="p3", note="bearing dry again"))
    assert [like.machine for like in one.similar_to_text("dry bearing")] == ["p2"], "p3 is not over"
    titles = {"leak": "Seal leaks", "jam": "Shaft blocked"}
    found = one.similar_to_text("seal", title_of=lambda _, fault: titles[fault])
    assert [(like.machine, like.score) for like in found] == [("p1", 1.0)]
    assert one.similar_to_text("完全") == []


def test_a_long_text_is_cut() -> None:
    one = book()
    one.labelled(label(0, 10, note="word " * 300))
    (like,) = one.similar_to_text("word")
    assert len(like.text) == 300 and like.text.endswith("…")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.none() | st.dictionaries(st.sampled_from("uvwxyz"), st.integers(-4096, 4096), max_size=4),
        ),
        max_size=30,
    ),
    st.dictionaries(st.sampled_from("uvwxyz"), st.integers(-4096, 4096), max_size=4),
)
def test_the_index_gives_the_cosines_of_what_is_in_it(
    changes: list[tuple[str, dict[str, int] | None]], query: dict[str, int]
) -> None:
    index, kept = SignatureIndex(), dict[str, dict[str, int]]()
    for id_, signature in changes:
        if signature is None:
            index.remove(id_)
            kept.pop(id_, None)
        else:
            index.put(id_, signature)
            kept[id_] = signature
    found = dict(zip(index.ids, index.scores(query).tolist(), strict=True))
    assert found.keys() == kept.keys()
    for id_, signature in kept.items():
        product = sum(units * query.get(name, 0) for name, units in signature.items())
        lengths = math.hypot(*signature.values()) * math.hypot(*query.values())
        assert found[id_] == pytest.approx(product / lengths if lengths else 0.0, abs=1e-12)


def test_bm25_prefers_rare_words_and_short_documents() -> None:
    index = BM25(["pump leaks", "pump leaks and the pump is wet and loud today", "pump runs", "fan runs"])
    leaks, pump = index.scores("leaks"), index.scores("pump")
    assert leaks[0] > leaks[1] > leaks[2] == 0
    assert leaks[0] > pump[0] > 0, "fewer documents have it"
    # idf ln(1 + 2.5 / 2.5), once in a document of 2 words where the mean is 4
    expected = math.log(1 + 2.5 / 2.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 4))
    assert leaks[0] == pytest.approx(expected)
    assert not BM25([]).scores("pump").size and not np.any(BM25([""]).scores("pump"))
