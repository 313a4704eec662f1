"""The console's book: records in, documents out, whatever order partitions come in and however often records come."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.audit.dead_letters import DONE_OFFSET, REPLAYS
from agents.console.book.bounded import Limits
from agents.console.book.console_book import ConsoleBook
from agents.console.book.folding import FOLDED_TOPICS
from agents.console.book.rows.data import SourceState
from agents.console.book.rows.reasons import MEANINGS
from pipeline.config.topics import ALARMS, CONTROL, DEAD_LETTER, DIAGNOSES, INCIDENTS, LABELS, LATE
from pipeline.engine.reports.incidents.record import SIMILAR, Incident, SimilarIncident, encode_similar
from pipeline.wire import messages
from pipeline.wire.labels import label_output
from pipeline.wire.letters import LATE_BY, dead_letter, late_record
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Record
from tests.support.area_plant import FRAME_MS, T0_MS
from tests.support.console_records import MODEL, PROFILE, Log, alarm, diagnosis, only, plant, tile

DAY_MS = 86_400_000
LEAK = "pump-1:1763600020000:abcabcabcabc:leak:raised"


def built(document: Any) -> Any:
    """A document as a page gets it, without the version."""
    found = json.loads(msgspec.json.encode(document))
    found.pop("version", None)
    return found


# -- machines ------------------------------------------------------------------------------------------------------


def test_a_tile_shows_the_newest_frame_and_since_when_it_is_so() -> None:
    log = Log()
    log.diagnosis("pump-1", 0, reset="start")
    log.diagnosis("pump-1", 1, "leak")
    log.diagnosis("pump-1", 2, "leak", confidence=0.875, novelty=3.5)
    shown = tile(log.fold(), "pump-1")
    assert (shown.state, shown.fault, shown.confidence, shown.novelty) == ("fault", "leak", 0.875, 3.5)
    assert (shown.since_ms, shown.since_known) == (T0_MS + FRAME_MS, True)
    assert (shown.frame_end_ms, shown.type, shown.name) == (T0_MS + 3 * FRAME_MS, "pump", "pump-1 Any pump")
    assert (shown.area, shown.area_title, shown.diagnosis) == (
        "hall",
        "Hall 1",
        f"pump-1:{T0_MS + 30_000}:abcabcabcabc:0",
    )


def test_where_reading_began_it_is_said_that_the_state_may_be_older() -> None:
    log = Log()
    log.diagnosis("pump-1", 4, "leak")
    log.diagnosis("pump-1", 5, "leak")
    book = log.fold()
    assert (tile(book, "pump-1").since_ms, tile(book, "pump-1").since_known) == (T0_MS + 4 * FRAME_MS, False)


@pytest.mark.parametrize(
    ("fault", "status", "state"),
    [
        ("normal", "active", "normal"),
        ("normal", "silent", "silent"),
        ("leak", "silent", "fault"),
        ("no_evidence", "active", "no_evidence"),
        ("no_evidence", "stale", "stale"),
        ("no_evidence", "offline", "offline"),
        ("recovering", "active", "recovering"),
        ("unknown", "active", "unknown"),
    ],
)
def test_a_machines_state_is_how_it_is_before_what_its_model_says(fault: str, status: str, state: str) -> None:
    log = Log()
    log.diagnosis("pump-1", 0, fault, status=status)
    assert tile(log.fold(), "pump-1").state == state


def test_a_revision_of_a_frame_takes_its_place_and_an_older_frame_does_not() -> None:
    log = Log()
    log.diagnosis("pump-1", 0, "leak", reset="start")
    log.diagnosis("pump-1", 1, "no_evidence", status="stale")
    log.diagnosis("pump-1", 1, "leak", revision=1)
    log.diagnosis("pump-1", 0, "jam", revision=1)
    shown = tile(log.fold(), "pump-1")
    assert (shown.state, shown.fault, shown.since_ms) == ("fault", "leak", T0_MS)


def test_a_machine_that_is_blind_by_its_alarm_is_blind_since_then() -> None:
    log = Log()
    log.diagnosis("pump-1", 0, "no_evidence")
    log.alarm("pump-1", 1, "blind", "raised", priority="medium")
    shown = tile(log.fold(), "pump-1")
    assert (shown.state, shown.since_ms) == ("blind", T0_MS + 2 * FRAME_MS)


def test_machines_that_the_profile_names_are_shown_before_anything_is_heard_of_them() -> None:
    document = ConsoleBook(plant()).plant()
    assert [one.id for one in document.machines] == [f"pump-{number}" for number in range(1, 9)]
    assert {one.state for one in document.machines} == {"unheard"}
    assert document.counts.states == {"unheard": 8}
    assert [(one.id, one.declared, len(one.machines)) for one in document.areas] == [
        ("hall", True, 4),
        ("yard", True, 2),
        ("Basement", False, 1),
    ]


def test_a_machine_that_is_forgotten_is_gone_until_it_is_heard_again() -> None:
    log = Log()
    log.diagnosis("pump-9", 5, "leak")
    log.forget("pump-9", T0_MS + 70_000)
    book = log.fold()
    assert book.tile("pump-9") is None and not book.knows("pump-9")
    log.diagnosis("pump-9", 8, "normal", reset="start")
    assert tile(log.fold(), "pump-9").since_ms == T0_MS + 8 * FRAME_MS


def test_a_machine_whose_clock_was_ahead_starts_again_at_an_earlier_time() -> None:
    log = Log()
    log.diagnosis("pump-1", 900, "leak", reset="start")
    log.diagnosis("pump-1", 901, "leak")
    log.diagnosis("pump-1", 3, "normal", reset="start")
    log.diagnosis("pump-1", 4, "normal")
    log.diagnosis("pump-1", 3, "normal", reset="start")  # once more, after a crash
    shown = tile(log.fold(), "pump-1")
    assert (shown.state, shown.frame_end_ms) == ("normal", T0_MS + 5 * FRAME_MS)


def test_a_machine_is_known_for_as_long_as_workers_keep_its_state() -> None:
    log = Log()
    log.diagnosis("pump-9", 0)
    log.diagnosis("pump-1", 7 * DAY_MS // FRAME_MS)
    book = log.fold()
    assert book.tile("pump-9") is not None
    before = book.version
    log.diagnosis("pump-1", 7 * DAY_MS // FRAME_MS + 1)
    log.fold(book)
    updates = book.updates(before)
    assert updates.machines is not None and list(updates.machines.removed) == ["pump-9"]
    assert book.tile("pump-9") is None


def test_an_area_shows_its_cause_its_utilities_and_what_machines_are_in_its_light() -> None:
    log = Log()
    log.diagnosis("pump-1", 1, "leak")
    log.area("hall", 0, None, corrected=[("pump-1", "normal")])
    log.area("hall", 1, ("utility", "water", "leak"), corrected=[("pump-1", "leak"), ("pump-2", "leak")])
    log.area("hall", 2, ("utility", "water", "leak"), corrected=[("pump-1", "leak"), ("pump-2", "leak")])
    log.alarm("hall/water", 2, "leak", "raised", priority="critical")
    book = log.fold()
    area = book.plant().areas[0]
    assert area.cause is not None
    assert (area.cause.id, area.cause.title, area.cause.since_ms) == ("hall/water", "Water main", T0_MS + FRAME_MS)
    water = area.utilities[0]
    assert (water.state, water.fault, water.probability, water.priority) == ("fault", "leak", 0.9, "critical")
    assert water.alarm is not None and area.states == {"fault": 1, "unheard": 3}
    corrected = tile(book, "pump-2").corrected
    assert corrected is not None and corrected.fault == "leak"
    utility = only(book.alarms().active)
    assert (utility.utility, utility.area, utility.title) == (True, "hall", "Water main")
    assert book.plant().areas[1].cause is None


# -- alarms --------------------------------------------------------------------------------------------------------


def life() -> Log:
    """An alarm that is raised, acknowledged, shelved, commented on and cleared."""
    log = Log()
    similar = SimilarIncident("old", "pump-2", T0_MS - DAY_MS, None, "leak", True, "seal", 0.8)
    raised = messages.encode(alarm("pump-1", 1, "leak", "raised", priority="critical"))
    log.add(ALARMS, raised, headers=((SIMILAR, encode_similar([similar])),))
    log.alarm("pump-1", 3, "leak", "acknowledged", alarm=LEAK, priority="critical", by="kim", why="seen", sent=7)
    log.alarm("pump-1", 4, "leak", "shelved", alarm=LEAK, by="lee", why="repair", sent=8, until=T0_MS + DAY_MS)
    log.alarm("pump-1", 4, "leak", "commented", alarm=LEAK, by="lee", why="seal ordered", sent=9)
    return log


def test_an_alarm_has_its_state_its_life_and_what_people_said() -> None:
    log = life()
    one = only(log.fold().alarms().active)
    assert (one.key, one.state, one.priority, one.waiting) == (LEAK, "shelved", "critical", False)
    assert (one.raised_ms, one.acknowledged_ms, one.until_ms) == (T0_MS + 20_000, T0_MS + 40_000, T0_MS + DAY_MS)
    assert [(change.state, change.by) for change in one.changes] == [
        ("raised", None),
        ("acknowledged", "kim"),
        ("shelved", "lee"),
    ]
    assert [(comment.by, comment.text, comment.sent_ms) for comment in one.comments] == [("lee", "seal ordered", 9)]
    assert [(past.machine, past.fault, past.text) for past in one.similar] == [("pump-2", "leak", "seal")]
    log.alarm("pump-1", 5, "leak", "unshelved", alarm=LEAK)
    log.alarm("pump-1", 6, "leak", "cleared", alarm=LEAK, priority="critical")
    document = log.fold().alarms()
    over = only(document.recent)
    assert not document.active
    assert (over.key, over.state, over.over_ms, len(over.changes)) == (LEAK, "normal", T0_MS + 70_000, 5)
    assert document.counters.acknowledge_median_seconds == 20.0


def test_an_alarm_on_a_tile_is_the_most_urgent_one() -> None:
    log = life()
    log.diagnosis("pump-1", 6, "jam")
    log.alarm("pump-1", 6, "jam", "raised", priority="low")
    shown = tile(log.fold(), "pump-1")
    assert (shown.alarm_state, shown.priority, shown.shelved, shown.alarms) == ("unacknowledged", "low", True, 2)
    assert [one.fault for one in log.fold().history("pump-1")] == ["jam", "leak"]
    assert [one.fault for one in log.fold().alarms_of("pump-1")] == ["jam", "leak"]


def test_without_settings_of_alarms_the_priority_of_the_fault_counts_and_orders() -> None:
    text = PROFILE.replace(
        "[normal, leak, jam]", "[normal, {name: leak, priority: critical}, {name: jam, priority: low}]"
    )
    log = Log()
    log.alarm("pump-1", 1, "leak", "raised")
    log.alarm("pump-2", 2, "jam", "raised")
    document = log.fold(ConsoleBook(plant(text))).alarms()
    assert [(one.fault, one.priority) for one in document.active] == [("leak", "critical"), ("jam", "low")]
    assert document.active[0].changes[0].priority == "critical"
    assert document.counters.priorities == {"critical": 1, "low": 1}


def test_what_is_out_of_service_without_an_alarm_has_a_row_that_goes_when_it_is_in_service_again() -> None:
    log = Log()
    log.alarm("pump-1", 0, "*", "suppressed", by="lee", why="maintenance", sent=1)
    book = log.fold()
    row = only(book.alarms().active)
    assert (row.key, row.id, row.state) == ("pump-1:*:out-of-service", None, "out-of-service")
    assert (tile(book, "pump-1").suppressed, tile(book, "pump-1").priority) == (True, None)
    before = book.version
    log.alarm("pump-1", 1, "*", "unsuppressed", by="lee", why="done", sent=2)
    updates = log.fold(book).updates(before)
    assert updates.alarms is not None and list(updates.alarms.removed) == [row.key]


def test_floods_chatter_and_alarms_that_stand_are_counted() -> None:
    log = Log()
    log.alarm("pump-2", 0, "jam", "raised")
    first = DAY_MS // FRAME_MS + 1
    for number in range(12):
        log.alarm("pump-1", first + number, "leak", "raised")
        log.alarm("pump-1", first + number, "leak", "cleared")
    log.diagnosis("pump-1", first + 12)
    counters = log.fold().alarms().counters
    assert (counters.raised, counters.last_ten_minutes, counters.flood, counters.floods) == (12, 12, True, 1)
    assert (counters.standing, counters.waiting, counters.active) == (1, 1, 1)
    assert counters.longest_waiting_seconds == (first + 12) * 10.0
    assert [(one.machine, one.times) for one in counters.chattering] == [("pump-1", 12)]
    assert counters.chatter == 10
    assert log.fold().alarms().recent[0].chattering


def test_an_alarm_that_was_raised_before_reading_began_is_known_by_its_id() -> None:
    log = Log()
    log.alarm("pump-1", 3, "leak", "acknowledged", alarm=LEAK, by="kim", why="seen", sent=7)
    log.alarm("pump-2", 3, "jam", "cleared", alarm="pump-2:1:abcabcabcabc:jam:raised")
    document = log.fold().alarms()
    assert (only(document.active).id, only(document.active).raised_ms) == (LEAK, None)
    assert only(document.recent).id == "pump-2:1:abcabcabcabc:jam:raised"


def test_what_a_technician_found_is_shown_with_the_alarm_and_reaches_those_who_watch() -> None:
    log = Log()
    log.alarm("pump-1", 1, "leak", "raised")
    book = log.fold()
    before = book.version
    incident = Incident(LEAK, "alarm", "pump-1", "pump", T0_MS, None, diagnosed="leak", found="jam", note="stuck")
    log.add(INCIDENTS, messages.encode(incident), key=LEAK.encode())
    updates = log.fold(book).updates(before)
    assert updates.alarms is not None
    found = only(updates.alarms.alarms).found
    assert found is not None and (found.fault, found.note) == ("jam", "stuck")
    assert [one.found for one in book.incidents("pump-1").incidents] == ["jam"]
    log.add(INCIDENTS, None, key=LEAK.encode())
    assert not log.fold(book).incidents().incidents


# -- data and models -----------------------------------------------------------------------------------------------


def letter(topic: str, offset: int, value: bytes, reason: Reason, stamp_ms: int = T0_MS) -> tuple[bytes | None, Any]:
    """The value and headers of a dead letter."""
    record = Record(topic, 0, offset, stamp_ms, b"pump-1", value)
    output = dead_letter(record, RejectedError(reason, "what\x07was wrong"))
    return output.value, output.headers


def test_dead_letters_are_counted_by_reason_with_the_newest_as_a_safe_example() -> None:
    log = Log()
    hostile = b"<script>\x1b[2J\xe2\x80\xae" + b"x" * 5_000
    for offset, (value, stamp_ms) in enumerate([(b"{", T0_MS + 5), (hostile, T0_MS + 9), (b"\xff\xfe\x00", T0_MS + 7)]):
        value_, headers = letter("sensors", offset, value, Reason.NOT_JSON, stamp_ms)
        log.add(DEAD_LETTER, value_, headers=headers, key=b"pump-1")
    binary, headers = letter("sensors", 9, b"\xff\xfe\x00", Reason.SCHEMA)
    log.add(DEAD_LETTER, binary, headers=headers, key=b"\xff")
    log.add(DEAD_LETTER, None, headers=((DONE_OFFSET, b"0"),))
    log.add(DEAD_LETTER, b"something else")
    foreign, headers = letter("else", 9, b"{}", Reason.SCHEMA)
    replaced = tuple((name, b"made up" if name == "faultline-reason" else value) for name, value in headers)
    log.add(DEAD_LETTER, foreign, headers=replaced)
    letters = log.fold().data().dead_letters
    assert (letters.total, letters.foreign) == (5, 1)
    assert [(row.reason, row.count) for row in letters.reasons] == [("not_json", 3), ("other", 1), ("schema", 1)]
    example = letters.reasons[0].example
    assert (example.origin_topic, example.origin_offset, example.value_bytes) == ("sensors", 1, len(hostile))
    assert example.value is not None and example.value.startswith("<script>\\x1b[2J\\u202exxx")
    assert example.value.isprintable() and len(example.value) < 600 and example.detail == "what\\x07was wrong"
    assert (letters.reasons[2].example.value, letters.reasons[2].example.key) == ("0xfffe00", "0xff")
    assert letters.reasons[1].topics == {"other": 1}


def test_numbers_in_headers_that_are_none_of_ours_stop_nothing() -> None:
    log = Log()
    record = Record("sensors", 0, 4, T0_MS, b"pump-1", b"{}", ((REPLAYS, b"9" * 5_000),))
    output = late_record(record, "frame closed", reason=Reason.LATE, frame_end_ms=5, closed_ms=9, late_by_ms=1)
    long = tuple((name, b"9" * 5_000 if name == LATE_BY else value) for name, value in output.headers)
    log.add(LATE, output.value, headers=long)
    log.add(DEAD_LETTER, b"{}", headers=tuple((name, b"9" * 5_000) for name, _ in output.headers))
    data = log.fold().data()
    example = data.late.reasons[0].example
    assert (example.late_by_ms, example.replays, data.dead_letters.foreign) == (None, 1, 1)


def test_late_records_say_by_how_much_and_count_for_their_source() -> None:
    log = Log()
    record = Record("sensors", 0, 4, T0_MS, b"pump-1", b"{}")
    output = late_record(record, "frame closed", reason=Reason.LATE, frame_end_ms=5, closed_ms=9, late_by_ms=1_500)
    log.add(LATE, output.value, headers=output.headers)
    log.diagnosis("pump-1", 0)
    log.diagnosis("pump-2", 0, "no_evidence", status="offline")
    book = log.fold()
    before = book.version
    book.note_sources([SourceState("sensors", "readings", "workers", 2, 12.5, 3, 99)])
    data = book.data()
    assert data.late.reasons[0].example.late_by_ms == 1_500 and book.version > before
    source = data.sources[0]
    assert (source.topic, source.lag, source.late, source.dead_letters) == ("sensors", 3, 1, 0)
    assert (source.machine_types, source.machines, source.silent_machines) == (["pump"], 8, 1)
    assert book.status().lag == 3


def test_every_reason_has_words() -> None:
    assert {reason.value for reason in Reason} == set(MEANINGS)


def test_models_have_their_machines_and_scores_weighted_by_what_is_labelled() -> None:
    log = Log()
    log.diagnosis("pump-1", 0)
    log.metric(0, labelled=10, accuracy=0.5, macro_f1=0.4, confidence_mean=0.9, weights_mean={"sensors": 1.0})
    log.metric(1, labelled=30, accuracy=0.9, confidence_mean=0.7, no_evidence=50, weights_mean={"sensors": 1.0})
    log.metric(2, confidence_mean=None, no_evidence=100)
    model = log.fold().models().models[0]
    assert (model.hash, model.kind, model.machines, model.machine_types) == (MODEL.hash, "machine", 1, ["pump"])
    assert (model.diagnoses, model.labelled, model.scores["accuracy"]) == (300, 40, 0.8)
    assert (model.scores["macro_f1"], model.scores["ari"]) == (0.4, None)
    assert model.confidence_mean == pytest.approx((0.9 * 100 + 0.7 * 50) / 150)
    assert [one.accuracy for one in model.intervals] == [0.5, 0.9, None]


def test_open_drift_comes_first_and_shows_on_the_tile() -> None:
    log = Log()
    log.diagnosis("pump-1", 0)
    log.drift("pump-1", 0, "load", "started")
    log.drift("pump-1", 1, "flow", "started")
    log.drift("pump-1", 2, "load", "ended")
    book = log.fold()
    rows = book.models().drift
    assert [(row.variable, row.ended_ms is None) for row in rows] == [("flow", True), ("load", False)]
    assert tile(book, "pump-1").drifting == 1


def test_labels_say_who_wrote_them_and_what_they_correct() -> None:
    log = Log()
    for fault in ("leak", "jam"):
        output = label_output(
            "pump-1", fault, T0_MS, None, partition=0, written_ms=T0_MS + 5, by="kim", corrects="pump-1:1:abc:0"
        )
        log.add(LABELS, output.value, key=output.key, time_ms=output.timestamp_ms)
    labels = log.fold().models().labels
    assert labels.count == 2
    row = labels.newest[0]
    assert (len(labels.newest), row.fault, row.end_ms, row.by, row.corrects) == (
        1,
        "jam",
        None,
        "kim",
        "pump-1:1:abc:0",
    )


# -- updates, limits and records that are none of ours -------------------------------------------------------------


def test_updates_have_only_what_changed_since() -> None:
    log = Log()
    for number in range(1, 5):
        log.diagnosis(f"pump-{number}", 0)
    book = log.fold()
    assert book.updates(book.version).machines is None
    before = book.version
    book.fold(log.diagnosis("pump-2", 1))
    book.fold(log.diagnosis("pump-3", 0))  # nothing new
    updates = book.updates(before)
    assert updates.machines is not None and updates.areas is None and updates.alarms is None
    assert [one.id for one in updates.machines.machines] == ["pump-2"]
    assert updates.version == book.version and not updates.reload
    book.fold(log.diagnosis("pump-2", 2, "leak"))
    changed = book.updates(before)
    assert changed.areas is not None and [one.id for one in changed.areas.areas] == ["hall"]
    assert changed.machines is not None and changed.machines.counts.states["fault"] == 1


def test_a_page_that_was_away_for_too_long_loads_everything_again() -> None:
    log = Log()
    book = ConsoleBook(plant(), limits=Limits(changes=2))
    for number in range(1, 5):
        log.diagnosis(f"pump-{number}", 0)
    log.fold(book)
    assert book.updates(0).reload
    assert not book.updates(book.version - 1).reload
    assert book.updates(book.version + 1).reload, "of another console"


def test_a_plant_of_any_size_leaves_a_book_of_limited_size() -> None:
    limits = Limits(machines=10, names=4, ids=8, recent=5, alarm_changes=6, raised=7, incidents=5, models=2)
    book = ConsoleBook(plant(), limits=limits)
    log = Log()
    for number in range(60):
        machine, model = f"pump-{100 + number % 30}", messages.ModelRef("m", f"{number:02d}" * 32)
        log.diagnosis(machine, number, "leak", model=model)
        log.alarm(machine, number, f"fault-{number}", "raised")
        log.alarm("pump-1", number, "leak", "realarmed", alarm=LEAK)
        log.alarm(machine, number, f"fault-{number - 30}", "cleared")
        log.drift(machine, number, f"variable-{number}", "started")
        log.metric(0, model={"name": "m", "hash": f"{number:02d}"})
        incident = Incident(f"i-{number}", "alarm", machine, "pump", T0_MS + number, None)
        log.add(INCIDENTS, messages.encode(incident), key=b"i")
    log.fold(book)
    alarms, models = book.alarms(), book.models()
    heard = [one for one in book.plant().machines if one.state != "unheard"]
    assert (len(heard), alarms.incidents, len(alarms.recent)) == (10, 5, 5)
    assert alarms.counters.raised == 7 and len(alarms.active) <= 40
    assert max(len(one.changes) for one in alarms.active) == 6
    assert len(models.models) <= 10 + 2 and len(models.drift) <= 40


@given(st.sampled_from([*FOLDED_TOPICS, "state"]), st.none() | st.binary(max_size=60), st.integers(0, 2))
@settings(max_examples=40)
def test_a_record_that_is_none_of_ours_is_counted_and_stops_nothing(topic: str, value: bytes | None, kind: int) -> None:
    made = [diagnosis("pump-1", 0), b'{"id": 1}']
    value = value if kind == 0 else made[kind - 1]
    log = Log()
    log.add(topic, value, headers=(("faultline-reason", b"\xff"),))
    book = log.fold()
    quiet = (
        topic in (LATE, DEAD_LETTER, CONTROL)
        or (topic == DIAGNOSES and kind == 1)
        or (topic == INCIDENTS and value is None)
    )
    assert book.status().unreadable == (0 if quiet else 1)
    for document in (book.plant(), book.alarms(), book.data(), book.models()):
        assert msgspec.json.encode(document)


# -- order and repetition ------------------------------------------------------------------------------------------

_STATES = ("raised", "acknowledged", "returned", "cleared", "shelved", "unshelved", "realarmed", "escalated")


def history(machine: str, draw: random.Random) -> list[Record]:
    """What workers publish about one machine, whose partition has no other."""
    log, frame, raised = Log(), 0, None
    for step in range(draw.randrange(3, 14)):
        frame += draw.choice([1, 1, 1, 2, 70_000])
        fault, status = draw.choice(
            [("normal", "active"), ("leak", "active"), ("leak", "silent"), ("no_evidence", "stale")]
        )
        log.diagnosis(machine, frame, fault, status=status, reset="start" if step == 0 else None)
        if draw.random() < 0.2:
            log.diagnosis(machine, frame, draw.choice(["normal", "jam"]), revision=1)
        if draw.random() < 0.6:
            state = draw.choice(_STATES)
            more: dict[str, Any] = {} if state == "raised" else {"alarm": raised}
            if state in ("acknowledged", "shelved"):
                more |= {"by": "kim", "why": "seen", "sent": frame}
            record = log.alarm(machine, frame, draw.choice(["leak", "jam"]), state, **more)
            raised = json.loads(record.value or b"")["id"] if state == "raised" else raised
        if draw.random() < 0.2:
            log.drift(machine, frame, draw.choice(["flow", "load"]), draw.choice(["started", "ended"]))
        if draw.random() < 0.2:
            value, headers = letter("sensors", step, b"{", draw.choice(list(Reason)), T0_MS + frame)
            log.add(DEAD_LETTER, value, headers=headers)
    if draw.random() < 0.2:
        log.forget(machine, T0_MS + (frame + 1) * FRAME_MS)
    return log.records


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_order_of_partitions_and_any_repetition_gives_the_same_documents(seed: int) -> None:
    draw = random.Random(seed)
    partitions: list[list[Record]] = []
    for number in range(4):
        by_topic: dict[str, list[Record]] = {}
        for record in history(f"pump-{number + 1}", draw):
            by_topic.setdefault(record.topic, []).append(record._replace(partition=number))
        partitions += by_topic.values()
    plain = ConsoleBook(plant())
    for records in partitions:
        for record in records:
            plain.fold(record)
    mixed = ConsoleBook(plant())
    left = [list(records) for records in partitions]
    while waiting := [records for records in left if records]:
        records = draw.choice(waiting)
        record = records.pop(0)
        for _ in range(draw.choice([1, 1, 2])):
            mixed.fold(record)
        whole = next(one for one in partitions if record in one)
        if draw.random() < 0.2:  # read again from an earlier place
            for again in whole[: whole.index(record) + 1][-3:]:
                mixed.fold(again)
        if draw.random() < 0.1:
            mixed.plant(), mixed.updates(0)
    for name in ("plant", "alarms", "data", "models"):
        assert built(getattr(mixed, name)()) == built(getattr(plain, name)()), name


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_what_a_worker_publishes_again_after_a_crash_changes_nothing(seed: int) -> None:
    draw = random.Random(seed)
    records = [one for one in history("pump-1", draw) if one.topic not in (DEAD_LETTER, CONTROL)]
    died, back = draw.randrange(len(records)) + 1, draw.randrange(6)
    once, twice = ConsoleBook(plant()), ConsoleBook(plant())
    offsets: dict[str, int] = {}
    for record in records:
        once.fold(record)
    for record in [*records[:died], *records[max(0, died - back) : died], *records[died:]]:
        offset = offsets[record.topic] = offsets.get(record.topic, -1) + 1
        twice.fold(record._replace(offset=offset))
    for name in ("plant", "alarms", "models"):
        expected, found = built(getattr(once, name)()), built(getattr(twice, name)())
        assert found == expected, name


def test_a_topic_that_was_created_again_is_read_from_its_beginning() -> None:
    log = Log()
    log.diagnosis("pump-1", 0)
    log.diagnosis("pump-1", 1)
    book = log.fold()
    later = Log().diagnosis("pump-1", 2, "leak")
    book.fold(later)
    assert tile(book, "pump-1").fault == "normal", "it has been read"
    book.begin_again(DIAGNOSES)
    book.fold(later)
    assert tile(book, "pump-1").fault == "leak"
