"""Titles in profiles: what may be said for people, how mistakes are named, and that no diagnosis depends on it."""

from __future__ import annotations

import pytest

from pipeline.config.profile import load_profile, shipped_profiles
from pipeline.config.sections.titles import machine_title
from pipeline.errors import ProfileError
from tests.support.builders import ONE_SOURCE, kind, profile

COMPONENTS = "components: {body: {title: Pump body, feeds: [pipe]}, pipe: {title: Pipe}}"
PUMP = ONE_SOURCE.replace("name: pump\n", 'name: pump\n    match: "pump-*"\n')
TITLED = PUMP.replace(
    "    faults: [normal, leak, jam]\n    variables: [{name: flow}, {name: load}]",
    f"""    {COMPONENTS}
    faults:
      - normal
      - name: leak
        title: Leak in the pipe
        description: Water is lost behind the pump.
        check_first: [Flanges, Drain valve]
        component: pipe
        priority: high
      - name: jam
    variables:
      - {{name: flow, title: Flow of water, component: pipe}}
      - {{name: load, component: body}}
machines:
  "pump-1*": {{title: Pump of the north line, area: North}}
  pump-12: {{title: Spare pump}}
  "pump-*": {{area: Yard}}""",
)


def test_words_are_read_and_ids_stay_what_they_were() -> None:
    plain, titled = kind(PUMP), kind(TITLED)
    assert titled.faults == plain.faults == ("normal", "leak", "jam")
    assert titled.variable_names == plain.variable_names
    leak, jam = titled.described_faults[1:]
    assert (leak.title, leak.check_first, leak.component, leak.priority) == (
        "Leak in the pipe", ("Flanges", "Drain valve"), "pipe", "high",
    )  # fmt: skip
    assert leak.description == "Water is lost behind the pump."
    assert (jam.title, jam.description, jam.check_first, jam.component, jam.priority) == (None, None, (), None, None)
    assert titled.components["body"].feeds == ("pipe",)
    assert [variable.component for variable in titled.variables] == ["pipe", "body"]


def test_no_digest_depends_on_words() -> None:
    plain, titled = profile(PUMP), profile(TITLED.replace("        component: pipe\n", ""))
    assert plain.digest == titled.digest
    assert plain.machine_types[0].digest == titled.machine_types[0].digest
    other = profile(TITLED.replace("name: jam", "name: block"))
    assert other.digest != titled.digest and other.machine_types[0].digest != titled.machine_types[0].digest


def test_where_faults_begin_is_in_the_digest_of_the_plant_alone_as_diagnoses_say_it() -> None:
    begins = "        component: pipe\n"
    assert TITLED.count(begins) == 1
    plants = [
        profile(TITLED.replace(begins, f"        {said}\n" if said else ""))
        for said in (
            "",
            "component: pipe",
            "component: body",
            "components: [pipe, body]",
            "components: {pipe: 1, body: 2}",
        )
    ]
    assert len({plant.digest for plant in plants}) == len(plants)
    assert len({plant.machine_types[0].digest for plant in plants}) == 1, "models and states stay valid"
    same = profile(TITLED.replace(begins, "        components: [pipe]\n"))
    assert same.digest == profile(TITLED).digest
    relative = profile(TITLED.replace(begins, "        components: {pipe: 3, body: 6}\n"))
    assert relative.machine_types[0].described_faults[1].shares == pytest.approx({"pipe": 1 / 3, "body": 2 / 3})


def test_a_profile_without_words_has_the_digest_of_earlier_releases() -> None:
    assert profile(ONE_SOURCE).digest == "56f656e754f613f6"
    assert load_profile("skab").digest == "e584c538709fb8e7"  # before it had any words


@pytest.mark.parametrize(
    ("machine", "title", "area"),
    [
        ("pump-12", "Spare pump", "North"),
        ("pump-13", "Pump of the north line", "North"),
        ("pump-2", None, "Yard"),
    ],
)
def test_a_machine_is_called_by_its_id_first_and_then_by_patterns(machine: str, title: str | None, area: str) -> None:
    found = machine_title(profile(TITLED).machines, machine)
    assert found is not None and (found.title, found.area) == (title, area)


def test_a_machine_of_which_nothing_is_said_has_no_title() -> None:
    assert machine_title(profile(TITLED).machines, "mill-1") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("component: pipe\n", "component: pip\n", "fault leak: there is no component 'pip'; did you mean pipe"),
        ("component: body}", "component: boddy}", "variable load: there is no component 'boddy'; did you mean body"),
        ("feeds: [pipe]", "feeds: [pipes]", "component body feeds: there is no component 'pipes'; did you mean pipe"),
        ("feeds: [pipe]", "feeds: [body]", "component body feeds itself"),
        ("feeds: [pipe]", "feeds: [pipe, pipe]", "component body feeds one component more than once"),
        (COMPONENTS, "missing: []", "variable flow: component 'pipe' is not declared; add `components:`"),
        ("check_first:", "chek_first:", r"faults\.1\.chek_first: there is no such key; did you mean check_first"),
        ("feeds: [pipe]", "feds: [pipe]", r"components\.body\.feds: there is no such key; did you mean feeds"),
        ("area: Yard", "aera: Yard", r"machines\.pump-\*\.aera: there is no such key; did you mean area"),
        ("{area: Yard}", "{}", r"machines\.pump-\*: it has neither a title nor an area"),
        ("  pump-12:", "  pmup-12:", r"machines: 'pmup-12' is of no machine type, whose ids match pump-\*"),
        ("priority: high", "priority: urgent", r"faults\.1\.priority: .*'low', 'medium', 'high' or 'critical'"),
        (
            "component: pipe\n",
            "components: [pipe, bod]\n",
            "fault leak: there is no component 'bod'; did you mean body",
        ),
        ("component: pipe\n", "components: [pipe, pipe]\n", "pipe is in the list more than once; give weights"),
        ("component: pipe\n", "components: {pipe: 0}\n", r"faults\.1\.components\.pipe: .*greater than 0"),
        ("component: pipe\n", "component: pipe\n        components: [body]\n", "give component for one place, or"),
        ("title: Leak in the pipe", "title: ' '", r"faults\.1\.title"),
        ("title: Leak in the pipe", f"title: {'x' * 101}", r"faults\.1\.title: .*at most 100"),
        ("- name: jam", "- 7", r"faults\.2: 7 is neither a name, such as leak, nor a mapping"),
        ("- name: jam", "- title: Jam", r"faults\.2\.name"),
        ("- name: jam", "- name: leak", "faults are named more than once"),
        ("- name: jam", "- name: a b", r"faults\.2\.name"),
    ],
)
def test_a_mistake_in_words_is_named_with_its_place(old: str, new: str, message: str) -> None:
    assert TITLED.count(old) == 1
    with pytest.raises(ProfileError, match=message) as raised:
        profile(TITLED.replace(old, new))
    assert str(raised.value).count("machine_types.0") <= 1  # one mistake is one problem


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_say_everything_in_words(name: str) -> None:
    for machine_type in load_profile(name).machine_types:
        for fault in machine_type.described_faults[1:]:
            assert fault.title and fault.description and len(fault.check_first) >= 2 and fault.priority, fault.name
        assert all(variable.title or variable.description for variable in machine_type.variables)
        used = {variable.component for variable in machine_type.variables}
        used |= {name for fault in machine_type.described_faults for name in fault.shares}
        assert used >= machine_type.components.keys()
        titles = [fault.title for fault in machine_type.described_faults[1:]]
        assert len(set(titles)) == len(titles)


def test_all_faults_of_tennessee_eastman_begin_in_a_component() -> None:
    (machine_type,) = load_profile("tennessee_eastman").machine_types
    several = [fault.name for fault in machine_type.described_faults if fault.component is None]
    assert several == ["normal", "idv_19"]
    shares = machine_type.described_faults[-2].shares
    assert shares == pytest.approx(
        dict.fromkeys(("compressor", "separator", "stripper"), 1 / 3)
    )  # four valves of three
    assert all(variable.component for variable in machine_type.variables)
