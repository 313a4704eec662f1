"""Areas in profiles: which machines they have, how mistakes are named, and which digests depend on them."""

from __future__ import annotations

import pytest

from pipeline.config.sections.areas import utility_id
from pipeline.errors import ProfileError
from tests.support.builders import ONE_SOURCE, profile

PUMPS = ONE_SOURCE.replace("name: pump\n", 'name: pump\n    match: "pump-*"\n')
AREAS = """areas:
  hall:
    utilities:
      water: {faults: [leak], machines: [pump-1, pump-2]}
    feeds: {pump-2: [pump-3]}
    machines: [pump-0]
"""


def refusal(areas: str) -> str:
    with pytest.raises(ProfileError) as caught:
        profile(PUMPS + areas)
    return str(caught.value)


def test_the_machines_of_an_area_are_all_that_it_names() -> None:
    plant = profile(PUMPS + AREAS)
    assert plant.area_of == dict.fromkeys(["pump-0", "pump-1", "pump-2", "pump-3"], "hall")
    assert plant.has_areas(plant.machine_types[0])
    assert not profile(PUMPS).has_areas(profile(PUMPS).machine_types[0])
    assert utility_id("hall", "water") == "hall/water"


def test_digests_depend_on_members_and_not_on_words_or_relations() -> None:
    plain, with_areas = profile(PUMPS), profile(PUMPS + AREAS)
    assert with_areas.digest != plain.digest
    assert with_areas.machine_types[0].digest == plain.machine_types[0].digest
    titled = AREAS.replace("water: {", "water: {title: Water main, ").replace("hall:\n", "hall:\n    title: Hall\n")
    assert profile(PUMPS + titled).digest == with_areas.digest
    assert profile(PUMPS + AREAS.replace("{pump-2: [pump-3]}", "{pump-3: [pump-1]}")).digest == with_areas.digest
    assert profile(PUMPS + AREAS.replace("pump-0", "pump-9")).digest != with_areas.digest
    assert profile(PUMPS + AREAS.replace("water", "steam")).digest != with_areas.digest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("faults: [leak]", "faults: [laek]", "water.faults: 'laek' is no fault of machine type pump; did you mean"),
        ("faults: [leak]", "faults: [normal]", "'normal' is no fault"),
        ("faults: [leak]", "faults: [leak, leak]", "leak is named more than once"),
        ("faults: [leak]", "faults: []", "areas.hall.utilities.water.faults"),
        ("[pump-0]", "[fan-0]", "areas.hall.machines: 'fan-0' is of no machine type, whose ids match pump-*"),
        ("[pump-0]", "['pump-*']", "is a pattern; name each machine by its id"),
        ("[pump-0]", "[pump-0, pump-0]", "machines: pump-0 is named more than once"),
        ("{pump-2: [pump-3]}", "{pump-2: [pump-2]}", "feeds.pump-2: it feeds itself"),
        ("utilities:", "utilites:", "there is no such key; did you mean utilities?"),
        ("machines: [pump-0]", "wait: 0s", "areas.hall.wait"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(old: str, new: str, expected: str) -> None:
    assert old in AREAS
    assert expected in refusal(AREAS.replace(old, new))


def test_a_machine_is_in_one_area_and_an_area_has_two() -> None:
    second = "  yard: {machines: [pump-3, pump-8]}\n"
    assert "machine pump-3 is in hall and in yard; it can be in one" in refusal(AREAS + second)
    assert "an area needs two machines" in refusal("areas: {hall: {machines: [pump-1]}}")


def test_the_machines_of_an_area_have_one_frame_period() -> None:
    slow = PUMPS + PUMPS[PUMPS.index("  - name: pump") :].replace("pump", "fan").replace("10s", "20s")
    assert slow.count("frame_period") == 2
    with pytest.raises(ProfileError, match=r"need one frame_period"):
        profile(slow + "areas: {hall: {machines: [pump-1, fan-1]}}")
