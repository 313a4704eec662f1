"""What ingest makes of a foreign record: our own messages, what is left out of them and counted, and dead letters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agents.connectors.ingest.forms import kafka_forms, mqtt_forms
from agents.connectors.ingest.metrics import IngestCollector
from agents.connectors.ingest.rewriting import Rewriter, Tally
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.errors import ProfileError, SettingsError
from pipeline.wire.letters import origin_of
from pipeline.wire.records import Output, Record

T0_MS = 1_763_600_000_000
TOPIC = "/plant7.values"

PLANT = """
plant: plant7
machine_types:
  - name: mill
    match: "mill-*"
    frame_period: 10s
    sources: {fast: {topic: sensors.fast}, slow: {topic: sensors.slow}}
    faults: [normal, jam]
    variables:
      - {name: shake, source: fast, tag: V.01}
      - {name: peak, source: fast, tag: V.02}
      - {name: heat, source: slow, tag: T.01}
  - name: pump
    match: "pump-*"
    frame_period: 10s
    sources: {sensors: {strict: true}}
    faults: [normal, leak]
    variables: [{name: flow}]
ingest:
  - topic: plant7.values
    form: {each: "@", machine: m, time: t, values: v}
"""


def plant(text: str = PLANT) -> PlantProfile:
    return parse_profile(text, where="test")


def rewritten(*entries: dict[str, Any], partition: int = 9) -> tuple[list[Output], Tally]:
    profile = plant()
    value = json.dumps(entries).encode()
    record = Record(TOPIC, partition, 17, T0_MS + 5, b"gateway", value, (("trace", b"1"),))
    return Rewriter(profile, 4).rewrite([record], kafka_forms(profile, None)[TOPIC], TOPIC)


def entry(machine: str, **values: Any) -> dict[str, Any]:
    return {"m": machine, "t": T0_MS, "v": {name.replace("_", "."): value for name, value in values.items()}}


def body(output: Output) -> Any:
    return json.loads(output.value or b"")


def test_a_reading_goes_to_the_topics_of_its_sources_under_the_variables_names() -> None:
    outputs, tally = rewritten(entry("mill-1", V_01=1.5, T_01=80.0))
    assert [(output.topic, output.partition, output.key, output.timestamp_ms) for output in outputs] == [
        ("sensors.fast", None, b"mill-1", T0_MS + 5),
        ("sensors.slow", None, b"mill-1", T0_MS + 5),
    ]
    assert body(outputs[0]) == {"machine": "mill-1", "time": T0_MS, "values": {"shake": 1.5}}
    assert body(outputs[1])["values"] == {"heat": 80.0}
    assert tally.written["readings"] == 2


def test_a_bad_value_costs_itself_and_an_unknown_name_is_left_out() -> None:
    outputs, tally = rewritten(entry("mill-1", V_01="Bad", V_02=2.0, rssi=-61))
    (output,) = outputs
    assert body(output)["values"] == {"shake": None, "peak": 2.0}
    assert dict(tally.unused) == {("shake", "not_a_number"): 1, ("", "unknown_variable"): 1}
    assert not tally.dead_letters and not tally.without_use


def test_a_record_of_which_nothing_is_known_is_counted() -> None:
    outputs, tally = rewritten(entry("mill-1", rssi=-61))
    assert outputs == []
    assert tally.without_use[TOPIC] == 1


@pytest.mark.parametrize("values", [{"flow": "Bad"}, {"flow": 1.0, "rssi": -61}])
def test_a_strict_source_refuses_the_whole_reading(values: dict[str, Any]) -> None:
    outputs, tally = rewritten(entry("pump-1", **values))
    (letter,) = outputs
    assert letter.topic == "dead-letter"
    assert sum(tally.dead_letters.values()) == 1 and not tally.unused


def test_the_good_readings_of_a_record_are_used_and_the_record_is_a_letter_for_the_others() -> None:
    outputs, tally = rewritten(entry("mill-1", V_01=1.0), entry("nobody", V_01=1.0), entry("mill-2", V_01=2.0))
    assert [output.key for output in outputs] == [b"mill-1", b"mill-2", b"gateway"]
    letter = outputs[-1]
    origin = origin_of(letter.headers)
    assert origin is not None
    assert origin.place == (TOPIC, 9, 17)
    assert origin.reason == "unknown_machine" and "1 of 3 entries" in origin.detail and "'nobody'" in origin.detail
    assert letter.headers[0] == ("trace", b"1")
    assert letter.partition == 9 % 4, "the topic of dead letters has four partitions"
    assert tally.dead_letters == {"unknown_machine": 1}


def test_what_cannot_be_read_at_all_is_a_letter_with_its_bytes() -> None:
    profile = plant()
    record = Record(TOPIC, 1, 3, -1, None, b"\xff\x00")
    (letter,), tally = Rewriter(profile, 4).rewrite([record], kafka_forms(profile, None)[TOPIC], TOPIC)
    assert (letter.topic, letter.key, letter.value, letter.timestamp_ms) == ("dead-letter", None, b"\xff\x00", 0)
    assert sum(tally.dead_letters.values()) == 1


def test_a_text_without_room_is_a_letter() -> None:
    profile = plant(PLANT.split("ingest:", maxsplit=1)[0] + "ingest: [{topic: plant7.notes, form: {text: note}}]")
    form = kafka_forms(profile, None)["/plant7.notes"]

    def rewrite(note: str) -> tuple[list[Output], Tally]:
        value = json.dumps({"machine": "mill-1", "time": T0_MS, "note": note}).encode()
        return Rewriter(profile, 4).rewrite([Record("/plant7.notes", 0, 0, T0_MS, b"17", value)], form, "/plant7.notes")

    (text,), tally = rewrite("jammed")
    assert (text.topic, text.key, body(text)) == (
        "events", b"mill-1", {"machine": "mill-1", "time": T0_MS, "text": "jammed"}
    )  # fmt: skip
    assert tally.written["texts"] == 1
    (letter,), _ = rewrite("x" * (64 << 10))
    assert letter.topic == "dead-letter"


def test_everything_is_in_the_metrics() -> None:
    _, tally = rewritten(entry("mill-1", V_01="Bad", rssi=1), entry("nobody"))
    total = Tally()
    total.add(tally)
    total.add(tally)
    registry = CollectorRegistry()
    registry.register(IngestCollector(total, [TOPIC], lost=lambda: {TOPIC: 7}, claims_lost=lambda: 1))
    text = generate_latest(registry).decode()
    for line in (
        'faultline_records_total{topic="/plant7.values"} 2.0',
        'faultline_records_lost_total{topic="/plant7.values"} 7.0',
        'faultline_ingested_total{kind="readings"} 2.0',
        'faultline_values_unused_total{reason="not_a_number",variable="shake"} 2.0',
        'faultline_values_unused_total{reason="unknown_variable",variable=""} 2.0',
        'faultline_dead_letters_total{reason="unknown_machine"} 2.0',
        'faultline_dead_letters_total{reason="not_json"} 0.0',
        "faultline_claims_lost_total 1.0",
    ):
        assert line in text, text


def test_a_profile_without_what_is_asked_for_is_refused() -> None:
    nothing = plant(PLANT.split("ingest:", maxsplit=1)[0])
    with pytest.raises(ProfileError, match="no `ingest` with a topic"):
        kafka_forms(nothing, None)
    with pytest.raises(ProfileError, match="no `ingest` with mqtt"):
        mqtt_forms(plant(), None)
    avro = plant(PLANT.split("ingest:", maxsplit=1)[0] + "ingest: [{topic: plant7.avro, form: {encoding: avro}}]")
    with pytest.raises(SettingsError, match=r"plant7\.avro is Avro; set FAULTLINE_SCHEMA_REGISTRY"):
        kafka_forms(avro, None)
    with pytest.raises(ProfileError, match=r"plant7\.values is named more than once"):
        plant(PLANT + "  - {topic: plant7.values}\n")
