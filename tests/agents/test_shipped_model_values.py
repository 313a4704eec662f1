"""The shipped model under a worker, with values as plants really send them: what they cost, and what is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

import pytest

from agents.replay.shipped import demo_model, demo_recording
from agents.worker.worker import Worker
from models.stepping.load import load_model
from pipeline.config.profile import parse_profile
from pipeline.wire.messages import Diagnosis, decode_diagnosis
from pipeline.wire.recording import read_recording
from pipeline.wire.records import Record
from tests.support.plant import Plant

pytestmark = pytest.mark.slow

PROFILE = (resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml").read_text(encoding="utf-8")
READINGS = 100
PERIOD_MS = 180_000

Change = Callable[[int, list[Any]], Any]
"""Makes the values of a reading from its number and its right values."""


@cache
def right_readings() -> list[dict[str, Any]]:
    """The first readings of one machine of the demo."""
    found: dict[bytes | None, list[dict[str, Any]]] = {}
    for record in read_recording(demo_recording()):
        if record.topic == "sensors":
            own = found.setdefault(record.key, [])
            own.append(json.loads(record.value or b""))
            if len(own) == READINGS:
                return own
    raise AssertionError("no machine of the demo has so many readings")


class Told:
    """What a worker said of these readings."""

    def __init__(self, worker: Worker, plant: Plant) -> None:
        self.said = [record.value for record in plant.log("diagnoses")]
        self.diagnoses: list[Diagnosis] = [decode_diagnosis(value or b"") for value in self.said]
        self.letters = plant.log("dead-letter") + plant.log("late")
        self._value_of = worker.registry.get_sample_value

    def unused(self, variable: str, reason: str) -> float | None:
        """The counter of values that were not used."""
        return self._value_of("faultline_values_unused_total", {"variable": variable, "reason": reason})

    def metric(self, name: str, **labels: str) -> float | None:
        """Any other one."""
        return self._value_of(name, labels)


def told(change: Change, profile: str = PROFILE) -> Told:
    """Let a worker with the shipped model read a machine's readings, changed."""
    plant = Plant(profile, partitions=1)
    kind = parse_profile(profile, where="test").machine_types[0]
    for number, reading in enumerate(right_readings()):
        body = reading | {"values": change(number, list(reading["values"]))}
        key = reading["machine"].encode()
        plant.append([Record("sensors", 0, 0, reading["time"], key, json.dumps(body).encode())])
    worker = asyncio.run(plant.work(runner=load_model(demo_model(), kind)))
    return Told(worker, plant)


def names() -> tuple[str, ...]:
    return parse_profile(PROFILE, where="test").machine_types[0].variable_names


def with_value(variable: str, value: Any) -> Change:
    """One value is another in all readings."""
    column = names().index(variable)

    def change(_: int, values: list[Any]) -> Any:
        return [*values[:column], value, *values[column + 1 :]]

    return change


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "not_finite"),
        (float("-inf"), "not_finite"),
        (1e39, "not_finite"),
        ("Bad", "not_a_number"),
        ("2705.0", "not_a_number"),
        ({"value": None, "quality": 24}, "not_a_number"),
        ([2705.0], "not_a_number"),
        (True, "not_a_number"),
    ],
)
def test_one_bad_value_of_52_costs_only_itself(value: Any, reason: str) -> None:
    """Case 10: what is said is what is said if the sensor is not there."""
    without = told(with_value("xmeas_7", None))
    bad = told(with_value("xmeas_7", value))
    assert bad.letters == []
    assert bad.said == without.said and len(bad.said) >= READINGS - 2
    assert {one.status for one in bad.diagnoses} == {"active"}
    assert bad.unused("xmeas_7", reason) == READINGS
    assert all("xmeas_7" not in [evidence.name for evidence in one.evidence.variables] for one in bad.diagnoses)


def test_a_new_tag_changes_nothing_and_is_counted() -> None:
    """Case 11."""
    by_name = told(lambda _, values: dict(zip(names(), values, strict=True)))
    more = told(lambda n, values: dict(zip(names(), values, strict=True)) | {"rssi": -61, "fw": f"1.{n}"})
    assert more.letters == []
    assert more.said == by_name.said
    assert more.unused("", "unknown_variable") == 2 * READINGS


def test_a_new_tag_refuses_the_record_only_where_the_source_is_strict() -> None:
    strict = PROFILE.replace("{topic: sensors,", "{topic: sensors, strict: true,")
    refused = told(lambda _, values: dict(zip(names(), values, strict=True)) | {"rssi": -61}, strict)
    assert (len(refused.letters), refused.said) == (READINGS, [])


@pytest.mark.parametrize(
    ("declared", "reason"), [("missing: [6553.5]", "missing"), ("valid: [-50, 400]", "out_of_range")]
)
def test_a_code_for_no_sensor_is_no_evidence_where_it_is_declared(declared: str, reason: str) -> None:
    """Case 12."""
    column = names().index("xmeas_9")

    def coded(number: int, values: list[Any]) -> list[Any]:
        broken = 40 <= number < 50
        return [*values[:column], 6553.5 if broken else values[column], *values[column + 1 :]]

    def absent(number: int, values: list[Any]) -> list[Any]:
        return [None if value == 6553.5 else value for value in coded(number, values)]

    declaring = PROFILE.replace("{name: xmeas_9,", f"{{name: xmeas_9, {declared},")
    expected, found, undeclared = told(absent), told(coded, declaring), told(coded)
    assert found.letters == undeclared.letters == []
    assert found.said == expected.said != undeclared.said
    assert found.unused("xmeas_9", reason) == 10
    assert [one.fault for one in found.diagnoses] != [one.fault for one in undeclared.diagnoses]


def test_a_frozen_gateway_is_told_as_evidence_and_in_a_metric() -> None:
    """Case 13: 52 values identical to the last bit for 4 hours, in between a few nulls."""
    first = right_readings()[0]["values"]
    frozen = told(lambda n, values: values if n < 10 else [None] * 52 if n % 7 == 0 else first)
    assert {len(one.evidence.frozen) for one in frozen.diagnoses} == {0, 52}
    begin = next(one.frame_start for one in frozen.diagnoses if one.evidence.frozen)
    assert 18 <= (begin - right_readings()[10]["time"]) // PERIOD_MS <= 22
    assert frozen.diagnoses[-1].evidence.frozen == list(names())
    assert frozen.metric("faultline_machines_frozen") == 1
    assert told(lambda _, values: values).metric("faultline_machines_frozen") == 0
