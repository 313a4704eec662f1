"""`faultline why` without Kafka: an engine works on topics in memory, and then it is asked about a machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

import pytest
from rich.console import Console

from agents.audit.source_check import declared_topics
from agents.audit.why.facts import Facts
from agents.audit.why.next_steps import next_steps
from agents.audit.why.search import Committed, gather_facts, similar_ids
from agents.audit.why.worker_page import parse_worker_page, read_worker_page
from agents.cli.views.why_view import show_why
from agents.delivery.partitioning import partition_function
from agents.memory.broker import MemoryBroker
from agents.words import Words
from pipeline.config.quantities.durations import shown_duration
from pipeline.config.topics import CONTROL, STATE, all_topics, engine_topics
from pipeline.engine.engine import Engine
from pipeline.errors import SettingsError
from pipeline.wire.records import Place, Record
from pipeline.wire.states import encode_state
from tests.support.builders import SumRunner, profile, reading

T0 = 1_763_600_000_000
S, MIN, H = 1_000, 60_000, 3_600_000
PARTITIONS = 4
PLANT = """
plant: yard
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    max_skew: 2h
    max_gap_frames: 3
    sources: {sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 30s}}
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load, valid: [0, 10]}]
ingest:
  - topic: /gateway
    form: {machine: dev, time: {path: ts, unit: ms}, name: tag, value: v}
"""


class Yard:
    """Topics in memory, an engine that works on them, and the log that is asked."""

    def __init__(self, text: str = PLANT) -> None:
        self.plant = profile(text)
        self.partition_of = partition_function(PARTITIONS)
        self.broker = MemoryBroker()
        self.topics = {topic.name for topic in all_topics(self.plant)} | {
            form.topic for _, form in declared_topics(self.plant)
        }
        for name in self.topics:
            self.broker.create(name, PARTITIONS)
        self.engine = Engine(self.plant, {"pump": SumRunner()}, partition_of=self.partition_of)
        self.done: dict[tuple[str, int], int] = {}
        self.read_ingest: dict[tuple[str, int], int] = {}

    def send(self, *records: Record) -> None:
        """Append records, in the partitions of their keys."""
        for topic, _, _, stamp, key, value, headers in records:
            self.broker.append(topic, self.partition_of(key or b""), key, value, stamp, headers)

    def readings(self, machine: str, begin_ms: int, count: int = 60, *, ahead_ms: int = 0) -> list[Record]:
        """One every ten seconds."""
        stamps = [begin_ms + 10 * S * number for number in range(count)]
        return [reading(machine, stamp + ahead_ms, [1.0 * (stamp % 7), 2.0], timestamp_ms=stamp) for stamp in stamps]

    def work(self) -> None:
        """Process what has come, in order of time, and save the states."""
        unread = []
        for topic in engine_topics(self.plant):
            for partition in range(PARTITIONS):
                log = self.broker.log(topic, partition)
                unread += log[self.done.get((topic, partition), 0) :]
                self.done[topic, partition] = len(log)
        for record in sorted(unread, key=lambda one: one.timestamp_ms):
            for output in self.engine.process([record]):
                self.broker.append(*output)
        for machine, state in self.engine.checkpoint().items():
            value = encode_state(self.engine.forgotten[machine]) if state is None else state
            self.broker.append(STATE, self.partition_of(machine.encode()), machine.encode(), value, T0)

    def ask(self, machine: str, now_ms: int = T0 + 10 * MIN, last: int = 100) -> tuple[Facts, list[str]]:
        """What is known, and what has to happen next."""
        committed = Committed(self.done, self.read_ingest)
        facts = gather_facts(_Tail(self), self.plant, machine, last=last, now_ms=now_ms, committed=committed)
        return facts, next_steps(facts)


class _Tail:
    """The topics as `faultline why` reads them."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard

    def records(self, *topics: str) -> Iterator[Record]:
        for topic in topics:
            for partition in range(PARTITIONS):
                yield from self._yard.broker.log(topic, partition)

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        return {place: self._yard.broker.log(*place[:2])[place.offset] for place in places}

    def newest(self, topic: str, count: int, partition: int | None = None) -> list[Record]:
        wanted = range(PARTITIONS) if partition is None else [partition]
        found = [record for one in wanted for record in self._yard.broker.log(topic, one)[-count:]]
        return sorted(found, key=lambda record: (record.timestamp_ms, record.offset))

    def records_of(self, topic: str, partition: int) -> Iterator[Record]:
        yield from self._yard.broker.log(topic, partition)

    def partitions(self, topic: str) -> int:
        assert topic in self._yard.topics
        return PARTITIONS

    def ends(self, topic: str) -> Mapping[int, int]:
        return {partition: len(self._yard.broker.log(topic, partition)) for partition in range(PARTITIONS)}


def shown(facts: Facts, steps: list[str], plant: str = PLANT) -> str:
    console = Console(width=400, force_terminal=False)
    with console.capture() as capture:
        show_why(facts, steps, console, Words(profile(plant)))
    return capture.get()


def test_an_active_machine_needs_nothing() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0), *yard.readings("pump-8", T0))
    yard.work()
    facts, steps = yard.ask("pump-7")
    assert facts.is_active and steps == ["nothing: it is diagnosed with every frame that closes"]
    (sensors,) = [one for one in facts.inputs if one.topic == "sensors"]
    assert (sensors.found, sensors.fates, sensors.unprocessed, sensors.ahead_ms) == (60, {"used": 60}, 0, 0)
    assert facts.summary is not None and facts.diagnosis is not None
    newest_ms = T0 + 59 * 10 * S
    assert facts.summary.newest_ms == facts.summary.arrived_ms == {"sensors": newest_ms}
    assert facts.summary.watermark_ms == newest_ms - 5 * S
    assert facts.closed_until_ms == facts.diagnosis.frame_end_ms == newest_ms - 10 * S
    assert facts.partition == yard.partition_of(b"pump-7")
    text = shown(facts, steps)
    assert "pump of plant yard" in text and "active, as of 2025-11-20T01:03:10.000+00:00 (10 s ago)" in text
    assert "newest reading is of 2025-11-20T01:03:10.000+00:00, came 2025-11-20T01:03:10.000+00:00 (10 s ago)" in text
    assert "60 records of it (of the newest 120, since 2025-11-20T00:53:20.000+00:00): 60 used" in text
    assert len(text.splitlines()) < 30
    as_json = json.loads(json.dumps(facts.as_dict(steps)))
    assert [one["fates"] for one in as_json["inputs"] if one["topic"] == "sensors"] == [{"used": 60}]
    assert (as_json["state"], as_json["active"], as_json["next"]) == ("active", True, steps)
    assert as_json["summary"]["watermark_ms"] == newest_ms - 5 * S


def test_it_says_in_words_what_the_machine_has() -> None:
    titled = PLANT.replace(
        "faults: [normal, leak, jam]\n    variables: [{name: flow}, {name: load, valid: [0, 10]}]",
        """components: {pipe: {title: Pipe to the tank}}
    faults:
      - {name: normal, title: All is well, description: Nothing is wrong., check_first: [Nothing]}
      - &fault
        {name: leak, title: Water is lost, description: A seal leaks., component: pipe, priority: high,
         check_first: [Seals, Drain valve]}
      - {<<: *fault, name: jam}
    variables: [{name: flow, title: Flow of water, unit: m3/h}, {name: load}]
machines: {"pump-*": {title: Pump of the tank, area: North yard}}""",
    )
    yard = Yard(titled)
    stamps = [T0 + 10 * S * number for number in range(30)]
    yard.send(*(reading("pump-7", stamp, [-6.25, 0.5], timestamp_ms=stamp) for stamp in stamps))
    yard.work()
    facts, steps = yard.ask("pump-7")
    last = facts.diagnosis
    assert last is not None and last.fault in ("leak", "jam")
    assert last.components is not None and last.components["pipe"] >= last.confidence
    text = shown(facts, steps, titled)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "machine pump-7 Pump of the tank, North yard" in lines
    assert f"diagnosis {last.fault} Water is lost ({last.confidence:.0%}), active" in " ".join(lines)
    at = lines.index("meaning A seal leaks.")
    assert lines[at + 1 : at + 6] == [
        f"component Pipe to the tank {last.components['pipe']:.0%}",
        "priority high",
        "evidence Flow of water -6.25 m3/h, 6.2 sigma below normal",
        "check first Seals",
        "Drain valve",
    ]
    as_json = json.loads(json.dumps(facts.as_dict(steps)))
    assert (as_json["machine"], as_json["diagnosis"]["fault"]) == ("pump-7", last.fault)
    assert as_json["diagnosis"]["variables"] == [{"name": "flow", "value": -6.25, "deviation": -6.25}]


@pytest.mark.parametrize(("key", "said"), [(b"4711", "are keyed 4711"), (None, "have no key")])
def test_a_wrong_key(key: bytes | None, said: str) -> None:
    yard = Yard()
    yard.send(*(one._replace(key=key) for one in yard.readings("pump-7", T0, 12)))
    yard.work()
    facts, steps = yard.ask("pump-7")
    assert (facts.state, facts.is_active, facts.dead.count) == ("unknown", False, 12)
    assert facts.dead.reasons == {"key_mismatch": 12}
    assert steps[0].startswith(f"12 of its 12 newest records in sensors {said} and not pump-7: let the producer use")
    assert "faultline ingest" in steps[0]
    assert "12 key_mismatch" in shown(facts, steps)


def test_a_wrong_partition() -> None:
    yard = Yard()
    right = yard.partition_of(b"pump-7")
    for one in yard.readings("pump-7", T0, 3):
        yard.broker.append("sensors", (right + 1) % PARTITIONS, one.key, one.value, one.timestamp_ms)
    yard.work()
    _, (step,) = yard.ask("pump-7")
    assert f"in partition {(right + 1) % PARTITIONS} and not in {right}" in step and "murmur2" in step


def test_a_producer_that_is_corrected_is_not_blamed() -> None:
    yard = Yard()
    wrong = [one._replace(key=b"4711") for one in yard.readings("pump-7", T0, 5)]
    yard.send(*wrong, *yard.readings("pump-7", T0 + MIN))
    yard.work()
    facts, steps = yard.ask("pump-7", T0 + 11 * MIN)
    assert facts.is_active and facts.dead.count == 5
    assert steps == ["nothing: it is diagnosed with every frame that closes"]


def test_late_by_a_clock_that_is_behind() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0), *yard.readings("pump-7", T0 + 10 * MIN, 100, ahead_ms=-H))
    yard.work()
    facts, steps = yard.ask("pump-7", T0 + 30 * MIN, last=1_000)
    assert (facts.state, facts.late.count) == ("blind", 100)
    assert steps[0].startswith(
        "its 100 newest records in sensors are late: its clock is 1 h behind their Kafka time stamps; correct"
    )
    assert "declare the time's zone" in steps[0]
    text = shown(facts, steps)
    assert "times inside 1 h behind their Kafka time stamps" in text and "100 late" in text


def test_readings_that_are_late_only_by_disorder() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0, 30))
    yard.send(*yard.readings("pump-7", T0 + 5 * MIN, 20, ahead_ms=-4 * MIN)[:20])
    yard.work()
    _, (step,) = yard.ask("pump-7")
    assert "they come after newer ones; raise `allowed_disorder`" in step


def test_a_clock_that_is_ahead_and_one_that_was() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0, ahead_ms=50 * MIN), *yard.readings("pump-8", T0))
    yard.work()
    facts, steps = yard.ask("pump-7")
    assert (facts.state, facts.is_active) == ("ahead", False)
    assert steps[0].startswith("its clock is 50 min ahead of its records' Kafka time stamps: correct it, then ")
    assert "`faultline machines reset pump-7`" in steps[0]
    yard.send(*yard.readings("pump-7", T0 + 10 * MIN, 100), *yard.readings("pump-8", T0 + 10 * MIN, 100))
    yard.work()
    facts, steps = yard.ask("pump-7", T0 + 27 * MIN, last=1_000)
    assert facts.late.count == 100 and not facts.is_active
    assert steps[0].startswith("its 100 newest records in sensors are late, though their times are right: its ")
    assert steps[0].endswith("free it with `faultline machines reset pump-7`")
    reset = json.dumps({"kind": "reset", "machine": "pump-7"}).encode()
    yard.send(Record(CONTROL, 0, 0, T0 + 27 * MIN, b"pump-7", reset), *yard.readings("pump-7", T0 + 27 * MIN))
    yard.work()
    facts, steps = yard.ask("pump-7", T0 + 37 * MIN, last=1_000)
    assert facts.is_active and steps == ["nothing: it is diagnosed with every frame that closes"]


def test_an_id_that_no_type_matches() -> None:
    yard = Yard()
    yard.send(*yard.readings("PUMP-7", T0, 4), *yard.readings("pump-8", T0))
    yard.work()
    facts, steps = yard.ask("PUMP-7")
    assert (facts.state, facts.type, facts.dead.reasons) == ("no type", None, {"unknown_machine": 4})
    assert steps[0].startswith("no machine type of plant yard matches 'PUMP-7'; the patterns are pump-* (pump): corr")
    assert "`faultline dead-letters replay --machine PUMP-7`" in steps[0]
    assert "none: the patterns of plant yard are pump-* (pump)" in shown(facts, steps)
    _, (step,) = yard.ask("pump-07")
    assert step.startswith("no record of it has come in any topic of the profile, but records of PUMP-7 have")
    _, (step,) = yard.ask("pumps-8")
    assert step.endswith("did you mean pump-8?")


def test_the_nearest_of_several_patterns() -> None:
    second = PLANT[PLANT.index("  - name") : PLANT.index("ingest:")].replace("pump", "valve")
    yard = Yard()
    yard.plant = profile(PLANT.replace("ingest:", f"{second}ingest:", 1))
    _, (step,) = yard.ask("valv-7")
    assert "the patterns are pump-* (pump), valve-* (valve), nearest is valve-*: " in step


def test_a_machine_of_which_nothing_came() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-8", T0))
    yard.work()
    facts, (step,) = yard.ask("pump-1234567")
    assert (facts.state, facts.is_active) == ("unknown", False)
    assert step.startswith("no record of it has come in any topic of the profile: compare the id, the topic and ")
    assert "no record of it (of the newest 60, since 2025-11-20T00:53:20.000+00:00)" in shown(facts, [step])


def test_a_machine_whose_records_only_ingest_could_write() -> None:
    yard = Yard()
    for number in range(3):
        body = json.dumps({"dev": "pump-7", "ts": T0 + number * S, "tag": "flow", "v": 1.0}).encode()
        yard.broker.append("/gateway", number, None, body, T0 + number * S)
    yard.work()
    facts, (step,) = yard.ask("pump-7")
    assert step.startswith("its records are in gateway, and none has been written to the workers' topics")
    assert "(3 records are not processed)" in step
    assert "3 records of it" in shown(facts, [step]) and "3 not read" in shown(facts, [step])


def test_records_that_wait() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0, 12))
    facts, (step,) = yard.ask("pump-7")
    assert step.startswith(f"its newest records are not processed yet: 12 records wait in partition {facts.partition}")
    assert f"12 records in partition {facts.partition} not processed" in shown(facts, [step])


def test_dead_letters_say_their_reason() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0, 5, ahead_ms=5 * H))
    yard.work()
    facts, (step,) = yard.ask("pump-7")
    assert facts.dead.reasons == {"future_time": 5}
    assert step.startswith("its 5 newest records in sensors are dead letters (future_time: its time is 18000000 ")
    assert "correct its clock" in step and step.endswith("`faultline dead-letters list --machine pump-7` shows them")
    broken = [Record("sensors", 0, 0, T0 + n, b"pump-8", b'{"machine": "pump-8", ') for n in range(3)]
    yard.send(*broken)
    yard.work()
    facts, (step,) = yard.ask("pump-8")
    assert facts.dead.reasons == {"not_json": 3}
    assert step.startswith("its records are dead letters (not_json: ")


def test_blind_by_values_that_cannot_be_used() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0, 6))
    bad = [reading("pump-7", T0 + MIN + 10 * S * n, {"load": 11.0}) for n in range(60)]
    yard.send(*bad)
    yard.work()
    facts, (step,) = yard.ask("pump-7", T0 + 12 * MIN)
    assert facts.state == "blind"
    assert step == (
        "readings come, but none with a value that can be used: `faultline sources check` names the values and why"
    )


def test_silent_and_forgotten_machines() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0, 6), *yard.readings("pump-8", T0, 100))
    tick = json.dumps({"kind": "tick", "time": T0 + 16 * MIN}).encode()
    for partition in range(PARTITIONS):
        yard.broker.append(CONTROL, partition, None, tick, T0 + 16 * MIN)
    yard.work()
    facts, (step,) = yard.ask("pump-7", T0 + 17 * MIN)
    assert facts.state in ("stale", "offline") and facts.summary is not None
    assert facts.summary.silent_sources == ["sensors"]
    assert step.startswith("nothing has come from it since 2025-11-20T00:54:10Z: look at its gateway")
    assert "(16 min ago), silent" in shown(facts, [step])
    forget = json.dumps({"kind": "forget", "machine": "pump-7"}).encode()
    yard.send(Record(CONTROL, 0, 0, T0 + 17 * MIN, b"pump-7", forget))
    yard.work()
    facts, (step,) = yard.ask("pump-7", T0 + 18 * MIN)
    assert facts.state == "forgotten" and facts.closed_until_ms == T0 + 40 * S
    assert step == "it was forgotten, by a command or after long silence; its next reading starts it again"
    assert "forgotten; it had been diagnosed until 2025-11-20T00:54:00.000+00:00" in shown(facts, [step])


def test_a_state_that_cannot_be_read() -> None:
    yard = Yard()
    yard.broker.append(STATE, yard.partition_of(b"pump-7"), b"pump-7", b"\xc1 not a state", T0)
    facts, (step,) = yard.ask("pump-7")
    assert facts.state == "unreadable" and step.startswith("its saved state cannot be used (state of pump-7 ")


def test_ids_are_alike_but_for_case_punctuation_and_zeros() -> None:
    seen = {"TE_07", "te-8", "te-17", "other"}
    assert similar_ids("te-7", seen) == ["TE_07"]
    assert similar_ids("te-007", seen) == ["TE_07"]
    assert similar_ids("otter", seen) == ["other"]
    assert similar_ids("pump", seen) == []


def test_durations_are_shown_about() -> None:
    cases = {0: "0 ms", 1_500: "1500 ms", 2 * S: "2 s", 50 * MIN: "50 min", 62 * MIN: "1 h", 90 * MIN: "90 min"}
    assert {ms: shown_duration(ms) for ms in cases} == cases
    assert [shown_duration(ms) for ms in (-H, 49 * H, 30 * H)] == ["-1 h", "2 d", "30 h"]


METRICS = """# TYPE faultline_build_info gauge
faultline_build_info{version="9.9.9"} 1.0
# TYPE faultline_profile_info gauge
faultline_profile_info{digest="abc",plant="elsewhere"} 1.0
# TYPE faultline_consumer_lag_records gauge
faultline_consumer_lag_records{partition="0",topic="sensors"} 3.0
faultline_consumer_lag_records{partition="0",topic="events"} 4.0
"""


def test_what_a_workers_page_adds() -> None:
    yard = Yard()
    yard.send(*yard.readings("pump-7", T0))
    yard.work()
    facts, _ = yard.ask("pump-7")
    facts.worker = parse_worker_page("http://w:1", METRICS, "restoring the states of its partitions")
    assert facts.worker.lag == {0: 7}
    steps = next_steps(facts)
    assert steps[1].startswith("the worker at http://w:1 has another profile (plant elsewhere) than the one this was ")
    text = shown(facts, steps)
    assert "version 9.9.9; restoring the states of its partitions" in text
    facts.worker = parse_worker_page("http://w:1", METRICS.replace("abc", yard.plant.digest), "waiting for partitions")
    assert next_steps(facts)[1] == "the worker at http://w:1 is not ready: waiting for partitions"
    facts.worker = parse_worker_page("http://w:1", "up 1", "ok")
    assert "these are not the metrics of a worker" in shown(facts, [])
    assert parse_worker_page("http://w:1", "<html>", "").problem is not None


def test_a_worker_that_does_not_answer() -> None:
    page = read_worker_page("http://127.0.0.1:1/metrics")
    assert (page.url, page.lag) == ("http://127.0.0.1:1", {}) and page.problem is not None and "refused" in page.problem
    with pytest.raises(SettingsError, match="--metrics 'file:///etc/hosts' is not http://host:port"):
        read_worker_page("file:///etc/hosts")
