"""`faultline sources try`: how records of a topic would be read, shown field by field; records are data, not markup."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from agents.audit.source_trial import Trial, topic_form, try_records
from agents.cli.topics.sources import show_trial
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.errors import SettingsError
from pipeline.wire.records import Record
from tests.support.commands import assert_one_line, faultline
from tests.support.forms import T, foreign_record

PROFILE = """
plant: works
machine_types:
  - name: reactor
    match: "te-*"
    frame_period: 10s
    faults: [normal, leak]
    sources:
      sensors:
        topic: plant.line1
        form: {machine: device, time: {path: ts, unit: s}, values: tags, decimal: ","}
      slow: {topic: plant.lab, form: {values: v}}
    variables:
      - {name: temp, tag: Reactor.Temp}
      - {name: level, tag: "[red]Level[/red]"}
      - {name: purity, source: slow}
events:
  - {topic: plant.alarms, form: {machine: unit, time: at, template: "{code} {state}"}}
ingest:
  - {topic: plant.raw, form: {each: "@", machine: d, time: t, name: n, value: v}}
"""


@pytest.fixture
def plant() -> PlantProfile:
    return parse_profile(PROFILE, where="plant.yaml")


def trial_of(plant: PlantProfile, topic: str, *records: Record) -> Trial:
    return try_records(plant, topic_form(plant, topic, "faultline."), records)


def shown(trial: Trial) -> str:
    out = io.StringIO()
    show_trial(trial, Console(file=out, width=200, force_terminal=False))
    return out.getvalue()


def readings(tags: dict[str, Any], device: str = "te-01") -> Record:
    return foreign_record({"device": device, "ts": T // 1000, "tags": tags}, key=b"k", topic="/plant.line1")


def test_each_field_is_shown_with_what_is_wrong(plant: PlantProfile) -> None:
    good = readings({"Reactor.Temp": "120,4", "rssi": -61, "level": float("nan")})
    late = foreign_record({"device": "te-01", "ts": T, "tags": {}}, topic="/plant.line1")
    trial = trial_of(plant, "plant.line1", good, late, readings({"Reactor.Temp": 1}, "xy-1"))
    text = shown(trial)
    lines = [line for line in text.splitlines() if "│" in line]
    assert any("machine" in line and "path device" in line and "te-01" in line for line in lines)
    assert any("2025-11-20T00:53:20.000Z" in line and "1763600000" in line for line in lines)
    assert any("temp (Reactor.Temp)" in line and "120.4" in line for line in lines)
    assert any("level" in line and "nan" in line.lower() and "not_finite" in line for line in lines)
    assert any("rssi" in line and "-61" in line and "unknown_variable" in line for line in lines)
    assert "refused: bad_time: time 1763600000000 looks like milliseconds since 1970" in text
    assert "2 of 3 records of topic plant.line1 can be read" in text
    assert "machines: te-01 (1), xy-1 (1)" in text
    assert "of no machine type, so their records would be refused: xy-1" in text
    assert "values: 2 used; not used: rssi unknown_variable (1), level not_finite (1)" in text
    assert "variables without any value: level" in text
    assert "purity" not in text


def test_json_holds_the_same(plant: PlantProfile) -> None:
    found = trial_of(plant, "plant.line1", readings({"Reactor.Temp": 1, "x": 2})).as_dict()
    assert (found["topic"], found["refused"], found["machines"]) == ("plant.line1", 0, {"te-01": 1})
    assert found["values_used"] == 1
    assert found["values_unused"] == [{"name": "x", "reason": "unknown_variable", "count": 1}]
    assert found["variables_absent"] == ["level"]
    (record,) = found["records"]
    assert (record["key"], record["refused"]) == ("k", None)
    assert record["fields"][0] == {
        "name": "machine",
        "place": "path device",
        "given": "",
        "read": "te-01",
        "problem": "",
    }


def test_what_records_hold_is_no_markup(plant: PlantProfile) -> None:
    hostile = "[/red]\x1b[2J\u202e[bold]x"
    record = foreign_record(
        {"device": hostile, "ts": T // 1000, "tags": {"[red]Level[/red]": hostile, hostile: 1}},
        key=hostile.encode(),
        topic="/plant.line1",
    )
    text = shown(trial_of(plant, "plant.line1", record))
    assert "[/red]" in text
    assert "[bold]x" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_texts_are_shown(plant: PlantProfile) -> None:
    good = foreign_record({"unit": "te-01", "at": T, "code": "P-1", "state": "on"}, topic="/plant.alarms")
    bad = foreign_record({"unit": "te-01", "at": T}, topic="/plant.alarms")
    text = shown(trial_of(plant, "plant.alarms", good, bad))
    assert "P-1 on" in text
    assert "refused: schema: it has none of the fields code, state" in text
    assert "1 of 2 records" in text


def test_topics_of_ingest_and_faultlines_own_are_read_as_well(plant: PlantProfile) -> None:
    entries = [{"d": "te-01", "t": T, "n": "temp", "v": 1}, {"d": "te-01", "t": T + 1, "n": "temp", "v": 2}]
    trial = trial_of(plant, "plant.raw", foreign_record(entries, topic="/plant.raw"))
    assert (trial.used, trial.absent) == (2, ["level", "purity"])
    own = foreign_record({"machine": "te-01", "time": T, "text": "hi"}, topic="events")
    for name in ("events", "faultline.events"):
        assert "hi" in shown(trial_of(plant, name, own))


def test_no_records_and_other_topics(plant: PlantProfile) -> None:
    assert "topic plant.line1 holds no records" in shown(trial_of(plant, "plant.line1"))
    with pytest.raises(SettingsError) as caught:
        topic_form(plant, "nowhere", "faultline.")
    assert "declares no topic nowhere; it has plant.line1, plant.lab, events, plant.alarms, plant.raw" in str(
        caught.value
    )


def test_the_command_says_what_it_cannot_do(tmp_path: Any) -> None:
    (tmp_path / "plant.yaml").write_text(PROFILE)
    command = ("sources", "try", tmp_path / "plant.yaml", "--topic")
    assert_one_line(faultline(*command, "nowhere"), "declares no topic nowhere")
    assert_one_line(faultline(*command, "plant.line1", "--broker", "memory://x"), "exists in one process only")
    assert_one_line(faultline("sources", "try", "nofile.yaml", "--topic", "t"), "nofile.yaml")
