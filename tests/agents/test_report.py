"""`faultline report`: its numbers are those of a replay, its page loads and runs nothing, whatever texts say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.replay.reports.page.markup import element
from agents.replay.shipped import demo_model, demo_recording
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, Evidence, Label, ModalityAnswer, ModelRef, TextEvidence
from pipeline.wire.recording import RecordingWriter, read_recording
from pipeline.wire.records import Record
from tests.support.builders import event, numbered
from tests.support.commands import Finished, assert_one_line, faultline
from tests.support.topics import topics_of

T0 = 1_763_600_000_000
MINUTE = 60_000
FRAMES = 100
HOSTILE = "<script>alert(1)</script> \" onload='x' &lt; \u202e\x1b[2J </title></svg><img src=//evil.example/x>"
PLANT = """
plant: small
machines: {p1: {title: "Feed <b>pump</b>", area: Hall & yard}}
machine_types:
  - name: pump
    frame_period: 1m
    faults: [normal, {name: leak, title: Leak <i>of</i> seal}, jam]
    variables: [{name: flow}]
"""
VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page's elements, each of which is closed where it has to be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def diagnosis(machine: str, frame: int, fault: str, texts: list[TextEvidence] | None = None) -> Record:
    start, end = T0 + frame * MINUTE, T0 + (frame + 1) * MINUTE
    others = {name: 0.1 for name in ("normal", "leak", "jam") if name != fault}
    body = Diagnosis(
        *(f"{machine}:{end}:0:0", machine, start, end, fault, 0.8, {fault: 0.8} | others),
        {"sensors": ModalityAnswer(fault, 0.8, 1.0, True, 0)},
        *(0.5, 0.0, Evidence([], texts or []), "ok", None, 0, ModelRef("small", "0" * 64)),
    )
    return Record("diagnoses", 0, 0, end, machine.encode(), messages.encode(body))


def alarm(machine: str, fault: str, raised: int, cleared: int, **more: Any) -> list[Record]:
    found = []
    for state, minute in (("raised", raised), ("cleared", cleared)):
        time = T0 + minute * MINUTE
        body = Alarm(f"{machine}:{time}:{fault}:{state}", machine, fault, state, time, 0.8, "", **more)
        found.append(Record("alarms", 0, 0, time, machine.encode(), messages.encode(body)))
    return found


def label(machine: str, fault: str, begin: int, end: int) -> Record:
    body = Label(machine, T0 + begin * MINUTE, fault, T0 + end * MINUTE)
    return Record("labels", 0, 0, T0, machine.encode(), messages.encode(body))


def published(leak_from: int = 25) -> list[Record]:
    """Four machines over 100 minutes: p1 leaks and alarms, p2 is well, p3's jam is missed, p4's has a wrong name."""
    told = [TextEvidence("t1", HOSTILE, MINUTE, late=False)]
    answers = {
        ("p1", frame): "leak" if leak_from <= frame < 45 else "normal" for frame in range(FRAMES)
    }  # the leak lasts from 20 to 40
    answers |= {("p2", frame): "unknown" if 50 <= frame < 53 else "normal" for frame in range(FRAMES)}
    answers |= {("p3", frame): "normal" for frame in range(FRAMES)}
    answers |= {("p4", frame): "leak" if 10 <= frame < 20 else "normal" for frame in range(FRAMES)}
    records = [diagnosis(*key, fault, told if key == ("p1", 30) else None) for key, fault in answers.items()]
    records += alarm("p1", "leak", leak_from, 46) + alarm("p1", "jam", 70, 75) + alarm("p1", "jam", 80, 85)
    records += alarm("p2", "leak", 60, 61) + alarm("p4", "leak", 13, 22)
    records += alarm("p2", "leak", 60, 61)  # the same records again
    records += alarm("p2", "offline", 62, 63) + alarm("p2", "jam", 64, 65, suppressed="shelved")
    records += [label("p1", "leak", 20, 40), label("p3", "jam", 10, 20), label("p4", "jam", 10, 20)]
    records += [
        event("p2", T0 + 55 * MINUTE, "nobody told the model this word"),
        event("p2", T0, "x")._replace(value=b"{"),
    ]
    records += [Record("diagnoses", 0, 0, T0, b"p1", b"{"), Record("alarms", 0, 0, T0, b"p1", b"\xff")]
    return numbered(sorted(records, key=lambda one: one.timestamp_ms))


def write(path: Path, records: list[Record]) -> Path:
    with RecordingWriter(path) as writer:
        writer.write(records)
    return path


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    path = tmp_path / "plant.yaml"
    path.write_text(PLANT, encoding="utf-8")
    return path


def check_page(path: Path) -> Page:
    """The page is well formed, and neither loads nor runs anything."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "use", "image"}
    for name, attributes in page.elements:
        assert not any(key.startswith("on") or key in ("style", "src", "href") for key in attributes), (
            name,
            attributes,
        )
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    policies = [one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy"]
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policies == [f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"]
    assert "url(" not in style[1]
    ids = {one["id"] for _, one in page.elements if "id" in one}
    used = {
        one for _, attributes in page.elements for one in re.findall(r"url\(#(\w+)\)", attributes.get("fill") or "")
    }
    assert used <= ids
    return page


def reported(*arguments: str | Path, out: Path) -> tuple[dict[str, Any], Page]:
    done = faultline("report", *arguments, "--out", out, "--force")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out), str(out.with_suffix(".json"))]
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8")), check_page(out)


def test_numbers_are_those_of_a_replay_and_a_hostile_text_stays_a_text(tmp_path: Path) -> None:
    records = list(islice(read_recording(demo_recording()), 1_300))
    middle = records[600]
    told = event("te-01", middle.timestamp_ms, HOSTILE)
    recording = write(tmp_path / "short.parquet", [*records[:600], told, *records[600:]])
    found, page = reported(recording, out=tmp_path / "report.html")
    replayed = json.loads(faultline("replay", recording, "--json").stdout)
    side = found["sides"][0]
    assert side["scores"] == replayed["scores"]
    assert side["scores"]["fused"]["accuracy"] > 0.5
    for name in ("frames", "diagnoses", "late", "dead_letters", "trained"):
        assert side[name] == replayed[name]
    assert len(side["machines"]) == replayed["machines"] == 12
    wrong = side["operators"]["wrong_hours"] / side["operators"]["labelled_hours"]
    assert wrong == pytest.approx(1 - side["scores"]["fused"]["accuracy"])
    assert side["answers"]["calibration"]["ece"] == side["scores"]["fused"]["ece"]
    assert r"<script>alert(1)</script>" in page.text
    assert r"\u202e\x1b[2J" in page.text
    assert "idv_10 C feed temperature, random" in page.text
    assert found["differences"] is None


def test_operators_numbers_of_published_records(tmp_path: Path, plant: Path) -> None:
    recording = write(tmp_path / "published.parquet", published())
    found, page = reported(recording, "--profile", plant, out=tmp_path / "report.html")
    side = found["sides"][0]
    operators = side["operators"]
    assert operators["per_fault"]["leak"] == {
        "title": "leak Leak <i>of</i> seal", "faults": 1, "faults_begun_before": 0, "missed": 0, "misnamed": 0,
        "alarm_delay_seconds_median": 300.0, "alarm_delay_seconds_max": 300.0,
        "forewarning_seconds_median": 900.0, "forewarning_seconds_min": 900.0,
    }  # fmt: skip
    assert operators["per_fault"]["jam"] == {
        "title": "jam", "faults": 2, "faults_begun_before": 0, "missed": 1, "misnamed": 1,
        "alarm_delay_seconds_median": 180.0, "alarm_delay_seconds_max": 180.0,
        "forewarning_seconds_median": None, "forewarning_seconds_min": None,
    }  # fmt: skip
    normal_days = (4 * FRAMES - 40) / 1_440
    assert operators["normal_machine_days"] == pytest.approx(normal_days)
    assert (operators["alarms"], operators["false_alarms"], operators["false_alarms_after_fault"]) == (5, 3, 2)
    assert operators["false_alarms_per_machine_day"] == pytest.approx(3 / normal_days)
    assert (operators["condition_alarms"], operators["suppressed_alarms"]) == (1, 1)
    assert operators["chatter"] == 1
    hours = [operators[f"{name}_hours"] for name in ("wrong", "wrong_fault", "unknown", "unseen", "false")]
    assert hours == pytest.approx([minutes / 60 for minutes in (33, 10, 0, 15, 8)])
    assert side["unreadable"] == 2
    assert side["scores"]["fused"]["accuracy"] == pytest.approx(1 - 33 / 400)
    assert side["answers"]["confusion"] == {
        "labels": ["normal", "leak", "jam"],
        "answers": ["normal", "leak", "unknown"],
        "frames": [[352, 5, 3], [5, 15, 0], [10, 10, 0]],
    }
    assert "p1 Feed <b>pump</b>" in page.text
    assert "Hall & yard" in page.text
    assert "2 records that cannot be read" in page.text
    assert page.text.count("2025-11-20T01:48:20Z nobody told the model this word") == 1
    assert page.text.count(f"{HOSTILE[:20]}") == 2  # at its mark and in the list


def test_the_json_keeps_its_keys(tmp_path: Path, plant: Path) -> None:
    recording = write(tmp_path / "published.parquet", published())
    found, _ = reported(recording, "--profile", plant, out=tmp_path / "report.html")
    assert found.keys() == {"format", "plant", "made_ms", "sides", "differences"}
    assert found["format"] == 1
    assert found["sides"][0].keys() == {
        "title", "source", "models", "begin_ms", "end_ms", "diagnoses", "labels", "bad_labels", "unreadable", "trained",
        "operators", "scores", "answers", "machines", "episodes", "alarms",
    }  # fmt: skip
    assert found["sides"][0]["answers"].keys() == {
        "mean_entropy", "mean_disagreement", "partition", "auc", "confusion", "calibration",
    }  # fmt: skip
    assert found["sides"][0]["episodes"][0] == {
        "machine": "p1", "fault": "leak", "start_ms": T0 + 20 * MINUTE, "end_ms": T0 + 40 * MINUTE,
        "began": True, "ended": True, "alarm_ms": T0 + 25 * MINUTE, "named_ms": T0 + 25 * MINUTE,
    }  # fmt: skip


def test_topics_are_read_as_they_are_since_a_time(tmp_path: Path, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.kafka.log.kafka_log", topics_of(published()))
    given_options = ("--from", "kafka://broker:9092", "--profile", plant)
    whole, _ = reported(*given_options, out=tmp_path / "whole.html")
    recording = write(tmp_path / "published.parquet", published())
    same, _ = reported(recording, "--profile", plant, out=tmp_path / "same.html")
    for key in ("operators", "scores", "answers", "episodes"):
        assert whole["sides"][0][key] == same["sides"][0][key]
    options = (*given_options, "--since", str(T0 + 50 * MINUTE), "--machine", "p[12]")
    part, page = reported(*options, out=tmp_path / "part.html")
    side = part["sides"][0]
    assert [one["machine"] for one in side["machines"]] == ["p1", "p2"]
    assert side["begin_ms"] == T0 + 49 * MINUTE  # its record came when it ended
    assert side["operators"]["faults"] == 0
    assert side["operators"]["false_alarms"] == 3
    assert side["diagnoses"] == 4 * 51
    assert "p3" not in page.text


def test_a_fault_that_began_before_what_is_read_has_no_delay_and_is_not_missed(
    tmp_path: Path, plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.kafka.log.kafka_log", topics_of(published()))
    options = ("--from", "kafka://broker:9092", "--profile", plant, "--machine", "p1")
    for since, begun_before in ((15, 0), (30, 1)):
        found, _ = reported(*options, "--since", str(T0 + since * MINUTE), out=tmp_path / "part.html")
        side = found["sides"][0]
        counted = side["operators"], side["scores"]["fused"]["per_fault"]["leak"]
        assert counted[0]["faults_begun_before"] == begun_before
        assert counted[0]["faults"] == counted[1]["episodes"] == 1 - begun_before
        assert counted[0]["missed"] == 0
        assert (counted[0]["alarm_delay_seconds_median"] is None) == (begun_before == 1)
        assert (counted[1]["detection_delay_median_frames"] is None) == (begun_before == 1)


def test_two_recordings_stand_beside_each_other_with_their_differences(tmp_path: Path, plant: Path) -> None:
    first = write(tmp_path / "first.parquet", published())
    second = write(tmp_path / "second.parquet", published(leak_from=22))
    found, page = reported(first, "--against", second, "--profile", plant, out=tmp_path / "report.html")
    assert [side["title"] for side in found["sides"]] == ["first.parquet", "second.parquet"]
    changed = {name: value for name, value in found["differences"].items() if value}
    assert changed["wrong_hours"] == pytest.approx(-3 / 60)
    assert changed["accuracy"] == pytest.approx(3 / 400)
    assert changed["forewarning_seconds_median"] == 180.0
    assert "false_alarms_per_machine_day" not in changed
    assert "B − A" in page.text


def test_a_second_model_is_compared_with_the_first(tmp_path: Path) -> None:
    recording = write(tmp_path / "short.parquet", list(islice(read_recording(demo_recording()), 300)))
    models = ("--model", demo_model(), "--model", demo_model())
    found, page = reported(recording, *models, out=tmp_path / "report.html")
    assert len(found["sides"]) == 2
    assert set(found["differences"].values()) <= {0.0, None}
    assert "diagnosis A" in page.text
    assert "diagnosis B" in page.text
    more = faultline("report", recording, *models, "--model", demo_model(), "--out", tmp_path / "x.html")
    assert_one_line(more, "more than two models are given for machine type")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to report on; name a recording, or topics with --from"),
        (("--from", "kafka://localhost:1", "--model", "m.faultline"), "--model: not with --from"),
        (("r.parquet", "--since", "7d"), "--since: not without --from"),
        (("r.parquet",), "recording r.parquet does not exist"),
        (("--from", "memory://x"), "memory://x exists in one process only"),
    ],
)
def test_what_cannot_be_reported_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    out = tmp_path / "report.html"
    assert_one_line(faultline("report", *arguments, "--out", out), message)
    assert not out.exists()


def test_a_file_is_not_replaced_unasked(tmp_path: Path, plant: Path) -> None:
    recording = write(tmp_path / "published.parquet", published())
    out = tmp_path / "report.html"
    out.with_suffix(".json").write_text("mine", encoding="utf-8")

    def run(*options: str | Path) -> Finished:
        return faultline("report", recording, "--profile", plant, *options)

    assert_one_line(run("--out", out), "report.json exists; name another file, or replace it with --force")
    assert_one_line(run("--out", tmp_path / "x.json"), "give it another ending, such as .html")
    assert out.with_suffix(".json").read_text(encoding="utf-8") == "mine"


@settings(max_examples=25, deadline=None)
@given(st.text())
@example("</p><script>x</script>&amp;'\"")
def test_any_text_is_one_text_in_an_element(text: str) -> None:
    page = Page(element("p", text, title=text))
    assert [name for name, _ in page.elements] == ["p"]
    shown = "".join(page.texts)
    assert page.elements[0][1]["title"] == shown
    if text.isprintable():
        assert shown == text
    assert shown.isprintable()
