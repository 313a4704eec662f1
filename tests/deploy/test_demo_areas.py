"""Plans of simulated areas, without simulating anything, and what becomes of their records."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
import yaml

from agents.replay.shipped import area_recording, area_section
from deploy.demo.area_plans import (
    DELAY_HOURS,
    FIRST_SEEDS,
    NORMAL_EVERY,
    SEEDS_PER_AREA,
    STRENGTHS,
    UTILITY_FAULTS,
    Area,
    Part,
    area_authors,
    demo_area,
    plan_areas,
)
from deploy.demo.make_recording import START_MS
from deploy.demo.simulate import FRAME_HOURS, VARIABLES, Series
from deploy.demo.simulate_area import area_records, cause_rows, utility_records
from pipeline.config.profile import parse_profile
from pipeline.files.yaml_text import parse_yaml, read_text
from pipeline.wire.messages import decode_event, decode_label
from pipeline.wire.recording import read_recording

HOURS = 24.0
PARTS: tuple[Part, ...] = ("train", "validation", "test", "demo")


@pytest.fixture(scope="module")
def areas() -> list[Area]:
    return plan_areas("train", 24, HOURS)


def flat_series(area: Area) -> list[Series]:
    """Series without a simulation, whose labels are those of the plans."""
    frames = round(HOURS / FRAME_HOURS)
    made = []
    for plan in area.plans():
        labels = np.zeros(frames, np.int8)
        for episode in plan.episodes:
            labels[round(episode.start / FRAME_HOURS) : round(episode.end / FRAME_HOURS)] = episode.fault
        made.append(Series(plan, np.zeros((frames, len(VARIABLES)), np.float32), labels, 1))
    return made


def test_a_failing_utility_reaches_all_its_machines_each_in_its_own_way(areas: list[Area]) -> None:
    shared = [(area, cause) for area in areas for cause in area.causes if cause.utility is not None]
    for area, cause in shared:
        (utility,) = (one for one in area.utilities if one.name == cause.utility)
        assert cause.fault in utility.faults
        assert tuple(sorted(cause.reached)) == utility.machines
        for episode in cause.reached.values():
            assert 0 <= episode.start - cause.start <= DELAY_HOURS
            assert STRENGTHS[0] <= episode.strength <= STRENGTHS[1]
        assert len({episode.strength for episode in cause.reached.values()}) == len(cause.reached)
    counts = Counter(cause.fault for _, cause in shared)
    assert set(counts) == set(sum(UTILITY_FAULTS.values(), ())) and max(counts.values()) - min(counts.values()) <= 1


def test_no_machine_has_two_faults_at_once_and_own_faults_stay_with_one(areas: list[Area]) -> None:
    for area in areas:
        assert 8 <= len(area.machines) <= 16
        for plan in area.plans():
            assert all(one.end < other.start for one, other in pairwise(plan.episodes))
        assert all(len(cause.reached) == 1 for cause in area.causes if cause.utility is None)
    assert [bool(area.causes) for area in areas] == [number % NORMAL_EVERY != 5 for number in range(24)]


def test_parts_share_neither_seeds_nor_authors_and_more_areas_leave_the_first_as_they_are() -> None:
    assert plan_areas("test", 3, HOURS) == plan_areas("test", 9, HOURS)[:3]
    starts = sorted(FIRST_SEEDS.values())
    assert all(other - one >= 1000 * SEEDS_PER_AREA for one, other in pairwise(starts))
    authors = [author.name for part in PARTS[:3] for author in area_authors(part)]
    assert len(set(authors)) == len(authors)
    with pytest.raises(ValueError, match="at least 8 hours"):
        plan_areas("test", 1, 5)


def test_gaps_swallow_readings_and_offline_machines_write_no_texts(areas: list[Area]) -> None:
    area = next(area for area in areas if any(gap.offline for gaps in area.gaps for gap in gaps))
    records = area_records(area, flat_series(area), area_authors("train"))
    assert {record.key for record in records} == {machine.encode() for machine in area.machines}
    for place, machine in enumerate(area.machines):
        own = [record for record in records if record.key == machine.encode()]
        texts = [record for record in own if record.topic == "events"]
        assert area.with_texts[place] or not texts
        for gap in area.gaps[place]:
            inside = [one for one in own if gap.start <= (one.timestamp_ms - START_MS) / 3_600_000 < gap.end]
            assert not [one for one in inside if one.topic == "sensors" or (one.topic == "events" and gap.offline)]


def test_texts_about_a_utility_name_it_with_its_area(areas: list[Area]) -> None:
    area = areas[0]
    found = {
        decode_event(record.value or b"").machine for record in utility_records(area, HOURS, area_authors("train"))
    }
    assert found <= {f"{area.name}/{utility.name}" for utility in area.utilities}
    assert found


def test_the_table_of_causes_has_a_row_for_each_machine_that_is_reached(areas: list[Area]) -> None:
    area = areas[0]
    series = flat_series(area)
    tripped = next(iter(area.causes[0].reached))
    series[tripped] = Series(series[tripped].plan, series[tripped].values[:100], series[tripped].labels[:100], 1)
    rows = list(cause_rows(area, series, HOURS))
    assert len(rows) == sum(len(cause.reached) for cause in area.causes)
    for row in rows:
        assert row["start_ms"] <= row["onset_ms"] <= START_MS + HOURS * 3_600_000
        assert (row["tripped_ms"] is not None) == (row["machine"] == area.machines[tripped])
    section = area.section()
    assert set(section["utilities"]) == {utility.name for utility in area.utilities}


def test_the_shipped_area_fits_the_shipped_profile_and_its_recording() -> None:
    section = parse_yaml(read_text(area_section()))
    text = (resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml").read_text("utf-8")
    plant = parse_profile(text + yaml.safe_dump(section), where="the demo's area")
    records = list(read_recording(area_recording()))
    machines = {(record.key or b"").decode() for record in records if record.topic == "sensors"}
    assert machines == set(plant.area_of)
    labels = {decode_label(record.value or b"").fault for record in records if record.topic == "labels"}
    assert labels == {"normal", "idv_5", "idv_14"}
    assert section == {"areas": {"hall_1": demo_area().section()}}
