"""Diagnoses in the words of people, wherever commands show them; JSON has the ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from agents.audit.machine_list import MachineSummary
from agents.audit.reports.drift_list import DriftEpisode
from agents.cli.machines import machines_table
from agents.cli.views.drift_view import drift_table
from agents.cli.views.live_view import LiveView
from agents.words import Words, shown_value
from pipeline.config.profile import load_profile, parse_profile
from pipeline.wire.messages import Diagnosis, Evidence, ModalityAnswer, ModelRef, VariableEvidence
from pipeline.wire.recording import new_recording
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, numbered, profile, reading
from tests.support.commands import faultline

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "profiles.md"
T0 = 1_763_600_000_000
FRAME_MS = 180_000
PLANT = ONE_SOURCE.replace(
    "    faults: [normal, leak, jam]\n    variables: [{name: flow}, {name: load}]",
    """    match: "p*"
    components: {pipe: {title: Pipe}, body: {}}
    faults:
      - normal
      - {name: leak, title: Water is lost, component: pipe}
      - {name: jam, component: body}
    variables:
      - {name: flow, title: Flow of water, description: Behind the pump, unit: m3/h}
      - {name: load, description: Load of the motor, unit: "%"}
      - {name: starts, title: Starts, unit: rpm, aggregation: count}
      - {name: plain}
machines:
  p1: {title: North pump, area: Yard}""",
)
WORDS = Words(profile(PLANT))


def diagnosis(machine: str, fault: str, variables: Sequence[VariableEvidence] = ()) -> Diagnosis:
    return Diagnosis(
        id="x", machine=machine, frame_start=0, frame_end=FRAME_MS, revision=0, status="active", fault=fault,
        confidence=0.87, probabilities={fault: 0.87}, components={"condenser": 0.014, "reactor": 0.86},
        modalities={name: ModalityAnswer(fault, 0.8, 0.5, True, None) for name in ("sensors", "text")}, entropy=0.0,
        disagreement=0.0, reset=None, model=ModelRef("tiny", "5" * 64), evidence=Evidence(list(variables), []),
    )  # fmt: skip


def printed(table: Table, width: int) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("evidence", "long", "short"),
    [
        (("flow", 122.94, 4.12), "Flow of water 122.9 m3/h, 4.1 sigma above normal", "Flow of water 122.9 m3/h +4.1σ"),
        (("load", 45.368, -6.31), "Load of the motor 45.37%, 6.3 sigma below normal", "Load of the motor 45.37% -6.3σ"),
        (("starts", 3.0, 5.0), "Starts 3, 5.0 sigma above normal", "Starts 3 +5.0σ"),
        (("plain", 0.25, 3.0), "plain 0.25, 3.0 sigma above normal", "plain 0.25 +3.0σ"),
        (("renamed", 1.0, 3.0), "renamed 1, 3.0 sigma above normal", "renamed 1 +3.0σ"),
    ],
)
def test_a_measurement_says_what_how_much_and_how_unusual(
    evidence: tuple[str, float, float], long: str, short: str
) -> None:
    found = VariableEvidence(*evidence)
    assert (WORDS.measurement("p1", found), WORDS.short_measurement("p1", found)) == (long, short)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(122.9, "122.9"), (2705.4, "2705"), (123456.7, "123457"), (-0.012349, "-0.01235"), (0.0, "0"), (1e12, "1e+12")],
)
def test_a_value_has_four_digits_and_all_before_the_point(value: float, shown: str) -> None:
    assert shown_value(value) == shown


def test_what_has_no_title_is_called_by_its_id() -> None:
    assert (WORDS.machine("p1"), WORDS.area("p1")) == ("p1 North pump", "Yard")
    assert (WORDS.machine("p2"), WORDS.area("p2")) == ("p2", None)
    assert [WORDS.fault("p1", fault) for fault in ("leak", "jam", "normal", "recovering", "no_evidence")] == [
        "leak Water is lost", "jam", "normal", "recovering", "no_evidence",
    ]  # fmt: skip
    assert [WORDS.component("p1", fault) for fault in ("leak", "jam", "normal")] == ["Pipe", "body", None]
    likely = {"body": 0.2, "pipe": 0.5, "gone": 0.2, "little": 0.009}
    assert WORDS.likely_components("p1", likely, 3) == "Pipe 50%, body 20%, gone 20%"
    assert WORDS.likely_components("p1", likely, 1) == "Pipe 50%"
    # A machine of no type, as after a change of the profile.
    assert (WORDS.fault("mill-1", "leak"), WORDS.component("mill-1", "leak")) == ("leak", None)
    assert WORDS.variables("p1", ["flow", "plain"]) == "Flow of water (flow), plain"


def test_a_fault_of_two_types_is_called_as_the_first_that_names_it() -> None:
    second = PLANT.replace("plant: small\nmachine_types:\n", "").replace("  - name: pump", "  - name: mill")
    types, machines = second.split("machines:\n")
    both = ONE_SOURCE.replace("name: pump\n", 'name: pump\n    match: "q*"\n') + types + "machines:\n" + machines
    words = Words(profile(both))
    assert words.fault_of_plant("leak") == "leak Water is lost"
    assert (words.fault("q1", "leak"), words.fault("p1", "leak")) == ("leak", "leak Water is lost")


def test_the_page_shows_what_its_example_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    example, shown = (
        text.split(fence, 1)[1].split("```", 1)[0] for fence in ("```yaml\nplant: ", "says, among the rest:\n\n```\n")
    )
    words, machine = Words(parse_profile(f"plant: {example}", where=PAGE.name)), "filler-07"
    fault = words.about_fault(machine, "leak")
    assert fault is not None and fault.description is not None and fault.priority is not None
    expected = [
        ("machine", f"{words.machine(machine)}, {words.area(machine)}"),
        ("diagnosis", f"{words.fault(machine, 'leak')} (97%), active, frame until …"),
        ("meaning", fault.description),
        ("component", words.likely_components(machine, {"pump": 0.97}, 3)),
        ("priority", fault.priority),
        ("evidence", words.measurement(machine, VariableEvidence("pressure", 1.82, -4.6))),
        ("check first", fault.check_first[0]),
        ("", fault.check_first[1]),
    ]
    assert shown.rstrip("\n").split("\n") == [f"{label:<12} {said}" for label, said in expected]


def test_the_live_table_shows_titles_beside_ids_as_far_as_there_is_room() -> None:
    view = LiveView("faultline", Words(load_profile("tennessee_eastman")))
    view.add(diagnosis("te-01", "idv_4", [VariableEvidence("xmeas_9", 122.9, 4.1)]))
    view.add(diagnosis("te-02", "normal"))
    wide = printed(view.table(200), 200)
    assert "idv_4 Reactor cooling water inlet temperature, step" in wide
    assert "Reactor temperature 122.9 degC +4.1σ" in wide
    assert "idv_4 80%" in wide and "Reactor 86%" in wide
    assert "component" not in printed(LiveView("faultline", Words(profile(ONE_SOURCE))).table(200), 200)
    for width in (80, 119):
        narrow = printed(view.table(width), width)
        assert "idv_4 Reactor" in narrow and "Reactor tem" in narrow and "80%" not in narrow
        assert max(map(len, narrow.splitlines())) == width


def test_the_list_of_machines_shows_titles_and_areas() -> None:
    def summary(machine: str) -> MachineSummary:
        return MachineSummary(machine, "pump", 0, "active", 0, 0, 0, 1, {"sensors": 0}, {"sensors": 0}, [], 0, 0)

    shown = printed(machines_table([summary("p1"), summary("p2")], 1_000, WORDS), 200)
    assert "p1 North pump" in shown and "Yard" in shown
    assert "area" not in printed(machines_table([summary("p1")], 1_000, Words(profile(ONE_SOURCE))), 200)


def test_the_list_of_drift_shows_titles_of_machines_and_variables() -> None:
    moved = [
        DriftEpisode("p1", kind, variable, "up", 1.0, 1.0, 0.0, 0, 0, None, "tiny")
        for kind, variable in (("mean", "flow"), ("confidence", None))
    ]
    shown = printed(drift_table(moved, WORDS), 200)
    assert shown.count("p1 North pump") == 2 and shown.count("Flow of water (flow)") == 1


def test_a_replay_lists_faults_in_words_and_its_json_has_ids(tmp_path: Path) -> None:
    records = [reading("te-01", T0 + FRAME_MS * number, {"xmeas_1": 0.25}) for number in range(12)]
    label = {"machine": "te-01", "start": T0 + 3 * FRAME_MS, "end": T0 + 9 * FRAME_MS, "fault": "idv_4"}
    records.append(Record("labels", 0, 0, T0 + 12 * FRAME_MS, b"te-01", json.dumps(label).encode()))
    path = tmp_path / "plant.parquet"
    with new_recording(path) as writer:
        writer.write(numbered(records))
    done = faultline("replay", path, env={"COLUMNS": "150"})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "idv_4" in line]
    assert line.split("│")[1].strip() == "idv_4 Reactor cooling water inlet temperature, step"
    assert line.split("│")[2].strip() == "1"
    report = json.loads(faultline("replay", path, "--json").stdout)
    assert list(report["scores"]["fused"]["per_fault"]) == ["idv_4"]
    assert "Reactor cooling" not in json.dumps(report)
