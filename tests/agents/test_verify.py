"""`faultline verify`: what an engine says is proven, and whatever is taken away, changed or moved is found."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from agents.audit.log import RecordLog
from agents.audit.verify import MAX_SHOWN, VerifyReport, verify_diagnoses
from agents.audit.verify_inputs import verify_inputs
from agents.cli.audit import verify
from agents.delivery.partitioning import partition_of
from agents.kafka.admin import create_topics
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.topic_settings import TopicSpec
from agents.replay.replay import replay_in_memory
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.config.settings import load_settings
from pipeline.engine.engine import Engine
from pipeline.frames import Resets
from pipeline.wire import letters
from pipeline.wire.messages import Diagnosis, Reason, RejectedError, decode_diagnosis
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, TWO_SOURCES, SumRunner, control, event, numbered, profile, reading

T0 = 1_763_600_000_000
S = 1_000
PLANT = profile()
OTHER_PLANT = ONE_SOURCE.replace("- name: pump", "- name: pump\n    match: 'q*'")
Change = Callable[[dict[str, Any]], None]


def records_of(outputs: Iterable[Output]) -> list[Record]:
    """Outputs as they would lie in their topics."""
    return numbered(Record(out.topic, out.partition or 0, 0, *out[4:5], *out[2:4], out.headers) for out in outputs)


def check(records: list[Record], plant: PlantProfile = PLANT) -> VerifyReport:
    return verify_diagnoses(RecordLog(lambda: records), plant).report


def said_by_replay(folder: Path, seconds: int = 600) -> list[Record]:
    """What a real replay of five machines published."""
    rng = np.random.default_rng(3)
    records = [
        reading(f"p{number}", T0 + second * S, rng.normal(size=2).round(3).tolist())
        for number in range(5)
        for second in range(0, seconds, 5)
    ]
    records += [event("p1", T0 + 33 * S, "it drips"), event("p2", T0 + 50 * S, "noise")]
    path = folder / "recording.parquet"
    with RecordingWriter(path) as writer:
        writer.write(numbered(sorted(records, key=lambda record: record.timestamp_ms)))
    outputs: list[Output] = []
    asyncio.run(
        replay_in_memory(
            path,
            load_settings(),
            PLANT,
            {"pump": SumRunner()},
            lambda key: partition_of(key, 4),
            on_output=outputs.append,
        )
    )
    return records_of(outputs)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return [one for one in said_by_replay(tmp_path_factory.mktemp("replay")) if one.topic == "diagnoses"]


def of_machine(records: list[Record], machine: str) -> list[int]:
    return [row for row, one in enumerate(records) if one.key == machine.encode()]


def altered(record: Record, change: Change) -> Record:
    content = json.loads(record.value or b"")
    change(content)
    return record._replace(value=json.dumps(content).encode())


def kinds(report: VerifyReport) -> set[str]:
    return set(report.problems)


# -- what a replay says, and what is done to it ----------------------------------------------------------------


def test_a_replay_is_proven(said: list[Record]) -> None:
    report = check(said)
    assert report.proven
    assert (report.diagnoses, report.frames, report.machines) == (300, 300, 5)
    assert report.resets == {"start": 5}
    assert (report.repeated, report.announced, report.cut_partitions) == (0, 0, [])


def test_nothing_said_is_nothing_proven() -> None:
    report = check([])
    assert report.is_empty and not report.proven and report.diagnoses == 0
    assert report.as_dict()["empty"] is True and report.as_dict()["proven"] is False


def test_a_dropped_diagnosis_is_named(said: list[Record]) -> None:
    row = of_machine(said, "p2")[20]
    report = check(numbered(said[:row] + said[row + 1 :]))
    assert kinds(report) == {"missing"}
    (text,) = report.shown()
    assert "p2 lacks 1 frames" in text
    assert str(T0 + 21 * 10 * S) in text


def test_the_first_diagnosis_of_a_machine_is_missed_too(said: list[Record]) -> None:
    row = of_machine(said, "p2")[0]
    report = check(numbered(said[:row] + said[row + 1 :]))
    assert kinds(report) == {"missing"}
    assert "first frame of p2" in report.shown()[0]


def test_identical_repeats_are_counted_and_allowed(said: list[Record]) -> None:
    """A worker that is killed says again what it had said since its last commit."""
    rows = of_machine(said, "p1")
    again = [said[row] for row in rows[10:30]]
    report = check(numbered([said[row] for row in rows[:30]] + again + [said[row] for row in rows[30:]]))
    assert report.proven
    assert report.repeated == 20


def nudge(by: float) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["probabilities"]["leak"] += by

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (nudge(2e-5), "probabilities.leak"),
        (lambda content: content.update(fault="jam2"), "fault"),
        (lambda content: content["modalities"]["sensors"].update(age_ms=17), "modalities.sensors.age_ms"),
        (lambda content: content["modalities"]["text"].update(present=True), "modalities.text.present"),
        (lambda content: content["probabilities"].pop("jam"), "probabilities.jam"),
        (lambda content: content["probabilities"].update(other=0.00052), "probabilities.other"),
        (lambda content: content["modalities"].pop("text"), "the fields of modalities"),
        (lambda content: content.update(entropy=content["entropy"] + 0.01), "entropy"),
        (lambda content: content.update(status="stale"), "status"),
    ],
)
def test_an_id_with_two_contents_is_named_with_the_field(said: list[Record], change: Change, field: str) -> None:
    row = of_machine(said, "p3")[9]
    report = check(numbered([*said, altered(said[row], change)]))
    assert kinds(report) == {"two contents"}
    assert decode_diagnosis(said[row].value or b"").id in report.shown()[0]
    assert f"differs in {field}" in report.shown()[0]


def test_components_that_only_one_of_two_releases_writes_are_no_other_content(said: list[Record]) -> None:
    def placed(share: float) -> Change:
        return lambda content: content.update(components={"pipe": share})

    one, other = (altered(said[40], placed(share)) for share in (0.25, 0.26))
    assert check(numbered([*said, one])).proven
    report = check(numbered([*said[:40], one, *said[41:], other]))
    assert "differs in components.pipe" in report.shown()[0]


@pytest.mark.parametrize("by", [0.0, 1e-5, -9e-6])
def test_other_digits_within_the_tolerance_are_one_content(said: list[Record], by: float) -> None:
    """Decision 7: another processor may sum in another order. A space more in the JSON is no other content either."""
    report = check(numbered([*said, *(altered(record, nudge(by)) for record in said[40:50])]))
    assert report.proven
    assert (report.repeated, report.nearly_repeated) == (0, 10)


def test_many_contents_are_compared_in_parts(said: list[Record]) -> None:
    changed = [altered(record, nudge(0.1)) for record in said]
    report = check(numbered([*said, *changed * 4]))
    assert report.problems == {"two contents": 1200}
    assert len(report.shown()) == MAX_SHOWN


def test_swapped_diagnoses_are_out_of_order_but_not_missing(said: list[Record]) -> None:
    row, other = of_machine(said, "p4")[7:9]
    swapped = said.copy()
    swapped[row], swapped[other] = swapped[other], swapped[row]
    report = check(numbered(swapped))
    assert report.problems == {"order": 1}


def test_a_machine_in_two_partitions_is_out_of_order(said: list[Record]) -> None:
    row = of_machine(said, "p4")[-1]
    moved = said[row]._replace(partition=(said[row].partition + 1) % 4)
    report = check(numbered([*said[:row], moved, *said[row + 1 :]]))
    assert report.problems == {"order": 1}


@pytest.mark.parametrize("value", [None, b"", b"{", b"[" * 100_000, b'{"id": 7}', b"\xff\xfe"])
def test_what_is_no_diagnosis_is_told(said: list[Record], value: bytes | None) -> None:
    report = check(numbered([said[0]._replace(value=value), *said]))
    assert report.problems == {"unreadable": 1}
    assert "partition" in report.shown()[0] and "offset 0" in report.shown()[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content.update(id="p1:0"), "its id"),
        (lambda content: content.update(frame_start=content["frame_start"] + 1), "does not fit pump"),
        (lambda content: content.update(frame_end=-5), "out of range"),
        (lambda content: content.update(machine="p9", id=content["id"].replace("p1", "p9")), "its key"),
        (lambda content: content.update(status="asleep"), "status"),
        (lambda content: content.update(status="stale", reset="gap"), "announced"),
    ],
)
def test_a_diagnosis_that_contradicts_itself_is_told(said: list[Record], change: Change, word: str) -> None:
    row = of_machine(said, "p1")[-1]
    report = check(numbered([*said[:row], altered(said[row], change), *said[row + 1 :]]))
    assert report.problems == {"malformed": 1}
    assert word in report.shown()[0]


def test_machines_of_another_plant_are_told(said: list[Record]) -> None:
    report = check(said, profile(OTHER_PLANT))
    assert report.problems == {"malformed": 300}
    assert "--profile" in report.shown()[0]


def test_retention_may_have_deleted_the_beginning(said: list[Record]) -> None:
    """Wherever the beginning was cut off, also in the middle of what was repeated after a crash."""
    rows = of_machine(said, "p1")
    story = [said[row] for row in [*rows[:30], *rows[10:30], *rows[30:]]]
    for cut in range(1, len(story)):
        left = numbered(story)[cut:]
        report = check(left)
        assert report.proven, (cut, report.shown())
        assert report.cut_partitions == [left[0].partition]
    # The record at 20 comes again at 40, but behind what had to follow it.
    assert kinds(check([*numbered(story)[5:20], *numbered(story)[21:]])) == {"order"}
    assert not check([*numbered(story)[35:60], *numbered(story)[61:]]).proven


def test_another_model_goes_on_where_the_first_was() -> None:
    """The second refuses the first one's state: it starts afresh, or is warmed up and says no `start`."""
    outputs = engine_says([reading("p1", T0 + second * S, [1.0, 2.0]) for second in range(0, 300, 10)])
    story = records_of(outputs)

    def by_another(record: Record, first: bool) -> Record:
        def change(content: dict[str, Any]) -> None:
            content["model"]["hash"] = "7" * 64
            content["id"] = content["id"].replace("5" * 12, "7" * 12)
            content["reset"] = "start" if first else None

        return altered(record, change)

    warmed = [*story[:12], *(by_another(record, False) for record in story[12:20]), *story[20:]]
    assert check(numbered(warmed)).proven
    fresh = [*story[:12], *(by_another(record, at == 0) for at, record in enumerate(story[14:20])), *story[20:]]
    report = check(numbered(fresh))
    assert report.problems == {"missing": 1}  # the first model's own hole is only filled in part
    assert "p1 lacks 2 frames" in report.shown()[0]


# -- what any engine says --------------------------------------------------------------------------------------


def engine_says(records: Iterable[Record], text: str = ONE_SOURCE, *, end: bool = False) -> list[Output]:
    plant = profile(text)
    made = Engine(plant, {plant.machine_types[0].name: SumRunner()})
    outputs = made.process(numbered(records))
    if end:
        outputs += made.finish()
    return [out for out in outputs if out.topic == "diagnoses"]


def plain(*seconds: float) -> list[Record]:
    return [reading("p1", T0 + int(second * S), [1.0, 2.0]) for second in seconds]


def tick(second: float) -> Record:
    return control("tick", time_ms=T0 + int(second * S))


def test_gaps_silence_and_what_comes_after_it_are_no_holes() -> None:
    gap = engine_says(plain(0, 10, 100, 110, 120))
    assert check(records_of(gap)).resets == {"start": 1, "gap": 1}
    assert check(records_of(gap)).proven
    silent = engine_says([*plain(0, 10), tick(60), tick(80), tick(200), *plain(20, 30, 40, 400, 410), tick(600)])
    report = check(records_of(silent))
    assert report.proven, report.shown()
    assert report.announced > 5 and report.revised > 2


def test_a_gap_is_only_believed_behind_its_masked_frames() -> None:
    outputs = engine_says(plain(0, 10, 100, 110, 120))
    for row, out in enumerate(outputs[1:-1], start=1):
        report = check(records_of(outputs[:row] + outputs[row + 1 :]))
        assert kinds(report) == {"missing"}, out.value


@st.composite
def stories(draw: st.DrawFn) -> tuple[str, list[Record]]:
    """Readings with gaps, out of order and late, ticks, resets and run ends, of machines with one or two sources."""
    text = draw(st.sampled_from([ONE_SOURCE, TWO_SOURCES]))
    happenings: list[tuple[float, Record]] = []
    for machine in ("p1", "p2")[: draw(st.integers(1, 2))]:
        second = 0.0
        for wait in draw(
            st.lists(st.sampled_from([1, 3, 5, 8, 10, 12, 20, 30, 60, 200, 700]), min_size=1, max_size=30)
        ):
            second += wait
            arrives = second + draw(st.sampled_from([0, 0, 0, 0, 2, 5, 40, 200]))
            values: list[float | None] = [1.0, draw(st.sampled_from([None, 2.0]))]
            topic = "sensors"
            if text is TWO_SOURCES:
                topic = draw(st.sampled_from(["sensors.fast", "sensors.fast", "sensors.slow"]))
                values = values if topic == "sensors.fast" else [3.0]
            made = reading(machine, T0 + int(second * S), values, topic=topic, timestamp_ms=T0 + int(arrives * S))
            happenings.append((arrives, made))
            if (word := draw(st.sampled_from([None] * 20 + ["reset", "end"]))) is not None:
                happenings.append((second, control(word, machine=machine)))
    end = max(at for at, _ in happenings) + draw(st.sampled_from([0, 100, 600]))
    every = draw(st.sampled_from([5, 20, 50, 10_000]))
    happenings += [(second, tick(second)) for second in range(every, int(end), every)]
    return text, numbered(record for _, record in sorted(happenings, key=lambda one: one[0]))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(stories(), st.booleans())
def test_whatever_an_engine_says_is_proven(story: tuple[str, list[Record]], end: bool) -> None:
    text, records = story
    said = records_of(engine_says(records, text, end=end))
    report = check(said, profile(text))
    assert not report.problems, report.shown()
    assert report.proven == any(record.topic == "diagnoses" for record in said)


def is_hidden(outputs: list[Diagnosis], row: int) -> bool:
    """Whether this is one of the frames of which the module's docstring says that nothing shows their absence."""
    gone = outputs[row]
    mine = [one for one in outputs if one.machine == gone.machine]
    at = mine.index(gone)
    is_announced = gone.status in ("stale", "offline")
    alike = [one for one in mine if (one.status in ("stale", "offline")) == is_announced]
    place = alike.index(gone)
    if place == len(alike) - 1:
        return True  # nothing of its kind follows
    behind = alike[place + 1]
    if not is_announced:
        return gone.reset is not None and behind.reset in ("requested", "run_end")
    before = mine[at - 1] if at else None
    first = before is None or before.status not in ("stale", "offline")
    last = mine[at + 1].status not in ("stale", "offline") or mine[at + 1].frame_start != gone.frame_end
    return first or last


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(stories(), st.data())
def test_any_one_dropped_frame_is_found(story: tuple[str, list[Record]], data: st.DataObject) -> None:
    text, records = story
    outputs = engine_says(records, text)
    decoded = [decode_diagnosis(out.value or b"") for out in outputs]
    rows = [row for row in range(len(outputs)) if not is_hidden(decoded, row)]
    if not rows:
        return
    row = data.draw(st.sampled_from(rows))
    report = check(records_of(outputs[:row] + outputs[row + 1 :]), profile(text))
    assert kinds(report) == {"missing"}, decoded[row]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(stories(), st.data())
def test_identical_repeats_anywhere_are_no_problem(story: tuple[str, list[Record]], data: st.DataObject) -> None:
    text, records = story
    outputs = engine_says(records, text)
    if not outputs:
        return
    end = data.draw(st.integers(1, len(outputs)))
    begin = data.draw(st.integers(0, end - 1))
    report = check(records_of(outputs[:end] + outputs[begin:]), profile(text))
    assert report.proven, report.shown()
    assert report.repeated == end - begin


def test_the_rules_know_every_reset() -> None:
    """A new reason has to be thought about in agents/audit/verify.py."""
    assert {one.name for one in Resets} == {"NONE", "START", "GAP", "REQUESTED", "RUN_END", "MODEL_CHANGED"}


# -- inputs ----------------------------------------------------------------------------------------------------


def plant_run(records: list[Record]) -> list[Record]:
    """Inputs and everything that came of them."""
    outputs = Engine(PLANT, {"pump": SumRunner()}).process(records)
    return records + records_of(outputs)


def account(everything: list[Record], committed: int = 10**9) -> VerifyReport:
    log = RecordLog(lambda: everything)
    verifier = verify_diagnoses(log, PLANT)
    verify_inputs(log, PLANT, verifier, {("sensors", 0): committed})
    return verifier.report


@pytest.fixture
def everything() -> list[Record]:
    inputs = [
        *plain(0, 10, 20, 30),
        reading("p1", T0 + 1 * S, [1.0, 2.0], timestamp_ms=T0 + 31 * S),  # late
        reading("p1", T0 + 30 * S, [1.0, 2.0]),  # a duplicate
        Record("sensors", 0, 0, T0 + 40 * S, b"p1", b"{"),
        reading("p1", T0 + 900 * S, [1.0, 2.0], timestamp_ms=T0 + 41 * S),  # from the future
        reading("p1", T0 + 42 * S, [1.0, 2.0]),
        reading("p1", T0 + 50 * S, [1.0, 2.0]),
    ]
    return plant_run(numbered(inputs))


def test_every_reading_is_accounted_for(everything: list[Record]) -> None:
    report = account(everything)
    assert report.proven, report.shown()
    assert report.readings == {"read": 10, "diagnosed": 5, "late": 1, "dead_letter": 2, "frame_open": 2}


def test_a_lost_dead_letter_is_found(everything: list[Record]) -> None:
    lost = next(record for record in everything if record.topic == "dead-letter")
    report = account([record for record in everything if record != lost])
    assert report.problems == {"unaccounted": 1}
    assert "offset 6 cannot be used, but is not in the dead-letter topic" in report.shown()[0]


def test_lost_last_diagnoses_show_by_their_readings(everything: list[Record]) -> None:
    last = [record for record in everything if record.topic == "diagnoses"][-1]
    kept = [record for record in everything if record != last]
    assert check(kept).proven
    report = account(kept)
    assert report.problems == {"unaccounted": 2}
    assert "a reading of p1" in report.shown()[0]


def test_what_is_not_committed_may_still_be_on_its_way(everything: list[Record]) -> None:
    inputs = [record for record in everything if record.topic == "sensors"]
    report = account(inputs, committed=0)
    assert report.is_empty and not report.problems
    assert report.readings == {"read": 10, "not_committed": 10}
    assert account(inputs, committed=3).problems == {"unaccounted": 1}


def test_a_state_that_was_lost_lets_go_what_it_held_back() -> None:
    inputs = numbered(plain(*range(0, 200, 10)))
    first, second = (Engine(PLANT, {"pump": SumRunner()}) for _ in range(2))
    outputs = first.process(inputs[:10]) + second.process(inputs[10:])
    report = account(inputs + records_of(outputs))
    assert report.proven, report.shown()
    assert report.readings == {"read": 20, "diagnosed": 16, "let_go_at_start": 2, "frame_open": 2}


def test_readings_of_deleted_diagnoses_are_no_problem() -> None:
    everything = plant_run(numbered(plain(*range(0, 200, 10))))
    gone = [record for record in everything if record.topic == "diagnoses" and record.offset < 7]
    report = account([record for record in everything if record not in gone])
    assert report.proven
    assert report.readings is not None and report.readings["diagnosis_deleted"] == 7


# -- the command -----------------------------------------------------------------------------------------------

app = typer.Typer()
app.command()(verify)


@app.callback()
def _several() -> None:
    """Makes the command one of several, as in the product."""


def write_profile(folder: Path) -> str:
    path = folder / "plant.yaml"
    path.write_text(ONE_SOURCE)
    assert parse_profile(ONE_SOURCE, where="test") == PLANT
    return str(path)


def test_the_command_on_a_recording(said: list[Record], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    for path, records in ((good, said), (bad, numbered(said[:50] + said[51:]))):
        with RecordingWriter(path) as writer:
            writer.write(records)
    options = ["verify", "--profile", write_profile(tmp_path), "--recording"]
    done = CliRunner().invoke(app, [*options, str(good)])
    assert done.exit_code == 0
    assert "300 diagnoses of 5 machines" in done.stdout and "proven" in done.stdout
    done = CliRunner().invoke(app, [*options, str(bad)])
    assert done.exit_code == 1
    assert "NOT PROVEN: 1 missing" in done.stdout
    done = CliRunner().invoke(app, [*options, str(bad), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"] == {"missing": 1}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--recording", "x", "--inputs"], "--inputs"),
        (["--recording", "nowhere.parquet"], "nowhere.parquet"),
        (["--broker", "memory://x"], "kafka://host:port"),
        (["--broker", "kafka://127.0.0.1:1"], "127.0.0.1:1"),
        (["--broker", "nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(options: list[str], word: str) -> None:
    done = CliRunner().invoke(app, ["verify", *options])
    assert type(done.exception).__module__ == "pipeline.errors"
    assert word in str(done.exception)


def test_a_recording_of_inputs_holds_nothing_to_verify(tmp_path: Path) -> None:
    path = tmp_path / "inputs.parquet"
    with RecordingWriter(path) as writer:
        writer.write(plain(1, 2))
    done = CliRunner().invoke(app, ["verify", "--recording", str(path)])
    assert "has no topic 'diagnoses'" in str(done.exception)


@pytest.mark.kafka
def test_topics_of_a_real_broker_are_verified(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"verify-{uuid.uuid4().hex[:8]}."
    monkeypatch.setenv("FAULTLINE_TOPIC_PREFIX", prefix)
    options = ["verify", "--broker", f"kafka://{kafka}", "--profile", write_profile(tmp_path)]
    done = CliRunner().invoke(app, options)
    assert "topics create" in str(done.exception)

    topics = ("sensors", "diagnoses", "late", "dead-letter")
    create_topics(kafka, [TopicSpec(prefix + topic, 2) for topic in topics])
    done = CliRunner().invoke(app, [*options, "--inputs"])
    assert done.exit_code == 3, done.exception
    assert "0 diagnoses" in done.stdout and "NOTHING TO VERIFY" in done.stdout
    assert "proven:" not in done.stdout

    inputs = numbered(plain(*range(0, 300, 10)))
    outputs = engine_says(inputs)
    rejected = letters.dead_letter(inputs[0], RejectedError(Reason.SCHEMA, "as a test"))
    publish(kafka, prefix, [Output("sensors", 0, *record[4:6], record.timestamp_ms) for record in inputs])
    publish(kafka, prefix, [*outputs, *outputs[5:], rejected])
    done = CliRunner().invoke(app, [*options, "--inputs", "--json"])
    assert done.exit_code == 0, done.stdout
    report = json.loads(done.stdout)
    assert (report["repeated"], report["frames"]) == (len(outputs) - 5, len(outputs))
    assert report["readings"] == {"read": 30, "dead_letter": 1, "not_committed": 29}

    lie = altered(records_of(outputs)[3], nudge(0.1))
    publish(kafka, prefix, [Output("diagnoses", 0, lie.key, lie.value, lie.timestamp_ms)])
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 1
    assert "two contents" in done.stdout and "probabilities.leak" in done.stdout


def publish(bootstrap: str, prefix: str, outputs: list[Output]) -> None:
    async def send() -> None:
        publisher = KafkaPublisher(bootstrap, prefix)
        await publisher.start()
        try:
            await publisher.publish(outputs)
            await publisher.flush()
        finally:
            await publisher.stop()

    asyncio.run(send())
