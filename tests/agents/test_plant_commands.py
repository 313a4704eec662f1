"""`faultline plant` and replays with --plant: what they refuse, and what a terminal shows of an area."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from agents.cli.running.plant import load_area_runner
from agents.cli.views.area_view import AreaView
from agents.cli.views.incidents_view import AlarmLines
from agents.words import Words
from pipeline.areas.engine import AreaEngine
from pipeline.areas.messages import decode_area
from pipeline.config.profile import parse_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import PLANT
from pipeline.engine.reports.incidents.record import SIMILAR, SimilarIncident, encode_similar
from pipeline.errors import ModelFileError, SettingsError
from pipeline.wire import messages
from pipeline.wire.recording import RecordingWriter, holds_only
from pipeline.wire.records import Output, Record
from tests.support.area_plant import MACHINES, WITH_AREAS, VoteRunner, area_record, diagnosis
from tests.support.builders import ONE_SOURCE, numbered
from tests.support.commands import assert_one_line, faultline

_HEADER_FAILS_MS = 1_793_505_600_000  # 2026-11-01 04:00 UTC

TITLED = WITH_AREAS.replace(
    "faults: [normal, leak, jam]",
    "components: {seal: {title: Shaft seal}}\n"
    "    faults: [normal, {name: leak, title: Water leaks, component: seal}, jam]",
)


def test_the_view_shows_the_cause_the_evidence_and_who_is_missing() -> None:
    profile = parse_profile(TITLED, where="test")
    engine = AreaEngine(profile, VoteRunner())
    words = Words(profile)
    view = AreaView("areas", words, AlarmLines(words, SIMILAR))
    label = {"machine": "pump-1", "start": 0, "fault": "leak"}
    view.labels.add(Record("labels", 0, 0, 0, b"pump-1", json.dumps(label).encode()))
    for frame in range(8):
        for place, machine in enumerate(MACHINES["hall"]):
            changes = {"status": "offline"} if machine == "pump-3" else {}
            said = diagnosis(machine, frame, 0.9 if machine != "pump-4" else 0.05, **changes)
            record = area_record(said, lambda _: 0)._replace(offset=4 * frame + place)
            for output in engine.process([record]):
                if output.topic == PLANT:
                    view.add(decode_area(output.value or b""))
    console = Console(file=io.StringIO(), width=160)
    console.print(view.render())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    headline = next(line for line in shown.splitlines() if "Hall 1" in line)
    assert "hall Hall 1: water Water main: leak Water leaks  6" in headline
    assert "shows in: Shaft seal, by pump-1 50%, pump-2 50%" in headline
    rows = {line.split()[1]: line for line in shown.splitlines() if "pump-" in line and line is not headline}
    assert "leak Water leaks" in rows["pump-1"] and "50%" in rows["pump-1"]
    assert "offline" in rows["pump-3"]
    assert "normal" in rows["pump-4"]


def test_alarms_of_utilities_have_words_too() -> None:
    words = Words(parse_profile(TITLED, where="test"))
    assert words.machine("hall/water") == "hall/water Water main" and words.machine("yard/power") == "yard/power"
    assert words.fault("hall/water", "leak") == "leak Water leaks"
    assert words.component("hall/water", "leak") == "Shaft seal"
    assert (words.area("hall/water"), words.area("yard/power")) == ("Hall 1", None)


def test_a_recording_of_diagnoses_is_for_the_plant_agent_alone(tmp_path: Path) -> None:
    profile, path = parse_profile(WITH_AREAS, where="test"), tmp_path / "diagnoses.parquet"
    said = [diagnosis(machine, frame) for frame in range(4) for machine in MACHINES["yard"]]
    with RecordingWriter(path) as writer:
        writer.write(
            numbered([Record("diagnoses", 0, 0, d.frame_end, d.machine.encode(), messages.encode(d)) for d in said])
        )
    assert holds_only(path, ["areas", "diagnoses"], profile.sensor_topics)
    plant = tmp_path / "plant.yaml"
    plant.write_text(WITH_AREAS, encoding="utf-8")
    done = faultline("replay", str(path), "--profile", str(plant), "--plant", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["areas"]["yard"] == {"frames": 4, "causes": {"none": 4}, "alarms": []}
    assert report["areas"]["hall"]["frames"] == 0


def test_the_demo_names_the_header_that_fails_and_no_other() -> None:
    done = faultline("demo", "--plant", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    hall = report["areas"]["hall_1"]
    assert report["machines"] == 8 and report["dead_letters"] == 0
    assert hall["frames"] == 260 and sum(hall["causes"].values()) == 260
    said = [(one["utility"], one["fault"], one["state"]) for one in hall["alarms"]]
    assert said == [("cooling_water", "idv_5", "raised"), ("cooling_water", "idv_5", "cleared")]
    failed_ms = hall["alarms"][0]["time"] - _HEADER_FAILS_MS
    assert 0 < failed_ms < 60 * 60_000


def test_a_line_says_which_past_incident_an_alarm_is_like() -> None:
    alarms = AlarmLines(Words(parse_profile(TITLED, where="test")), SIMILAR)
    past = SimilarIncident("id", "pump-1", 60_000, 120_000, "leak", True, "wet\x1b[2J below the seal " * 9, 0.91)
    value = b'{"id":"i","machine":"pump-2","fault":"leak","state":"raised","time":600000,"diagnosis":"d"}'
    for topic, score in (("alarms", 0.91), ("alarms", 0.4), ("diagnoses", 0.91)):
        header = (SIMILAR, encode_similar([msgspec.structs.replace(past, score=score)]))
        alarms.add(Output(topic, 0, b"pump-2", value, 0, (header,)))
    alarms.add(Output("alarms", 0, b"pump-2", value, 0))
    (line,) = alarms.lines
    assert line.startswith("1970-01-01T00:10:00Z  pump-2: leak Water leaks; most similar (0.91): pump-1 from")
    assert line.endswith("…”") and line.count("below the seal") == 2


def test_what_has_no_areas_or_no_such_rule_is_refused() -> None:
    without = parse_profile(ONE_SOURCE, where="test")
    with pytest.raises(SettingsError, match=r"profile small has no areas.*docs/operations/areas\.md"):
        load_area_runner(load_settings(), without)
    with pytest.raises(ModelFileError, match="votes"):
        load_area_runner(load_settings(area_model="votes"), parse_profile(WITH_AREAS, where="test"))


def test_an_agent_without_a_broker_says_so(tmp_path: Path) -> None:
    plant = tmp_path / "plant.yaml"
    plant.write_text(WITH_AREAS, encoding="utf-8")
    done = faultline("plant", "--broker", "memory://x", "--profile", str(plant))
    assert_one_line(done, "memory:// is for `faultline replay --plant`")
