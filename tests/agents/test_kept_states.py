"""A model or profile that comes back finds the states that were kept for it, while others worked on the machines."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest

from agents.delivery.kept_states import KEPT_MS, KEPT_PER_MACHINE, is_kept, of_machines, wrap
from pipeline.config.profile import parse_profile
from pipeline.wire.records import Record
from tests.agents.test_worker_state import T0, OtherModel, S, readings
from tests.support.builders import ONE_SOURCE, SumRunner, control
from tests.support.delivery_apps import run, until
from tests.support.plant import Plant

pytestmark = pytest.mark.slow

MODEL, OTHER = SumRunner.hash, OtherModel.hash


def said(plant: Plant, model: str) -> dict[tuple[bytes | None, int], bytes | None]:
    """What a model said about which frame of which machine; it says nothing twice with two contents."""
    found: dict[tuple[bytes | None, int], bytes | None] = {}
    for record in plant.log("diagnoses"):
        body = json.loads(record.value or b"")
        if body["model"]["hash"] == model:
            assert found.setdefault((record.key, body["frame_end"]), record.value) == record.value
    return found


def starts(plant: Plant, model: str) -> int:
    return sum(json.loads(value or b"").get("reset") == "start" for value in said(plant, model).values())


def kept_names(states: dict[str, bytes]) -> list[str]:
    return sorted(name for name in states if is_kept(name))


async def expected(*parts: list[Record]) -> dict[tuple[bytes | None, int], bytes | None]:
    """What the first model would have said if it had been there all the time."""
    reference = Plant()
    for part in parts:
        reference.append(part)
    await reference.work()
    return said(reference, MODEL)


def test_a_model_that_comes_back_goes_on_as_if_it_had_never_left() -> None:
    async def test() -> None:
        parts = [readings(begin, begin + 300) for begin in range(0, 1500, 300)]
        plant = Plant()
        for part, runner in zip(parts, (SumRunner, OtherModel, SumRunner, OtherModel, SumRunner), strict=True):
            plant.append(part)
            worker = await plant.work(runner=runner())
            again = part is not parts[0] and part is not parts[1]
            assert worker.restored == (6 if again else 0)
            assert worker.engine.stats.states_refused == (6 if part is parts[1] else 0)
            assert worker.engine.stats.records["sensors"] == len([r for r in part if r.topic == "sensors"])
        assert starts(plant, MODEL) == 6, "it has begun once with each machine"
        assert starts(plant, OTHER) == 6
        ids = Counter(json.loads(record.value or b"")["id"] for record in plant.log("diagnoses"))
        assert set(ids.values()) == {1}
        mine, undisturbed = said(plant, MODEL), await expected(*parts)
        assert mine == {place: value for place, value in undisturbed.items() if place in mine}
        for begin in (0, 600, 1200):
            inside = range(T0 + (begin + 20) * S, T0 + (begin + 280) * S)
            assert {place for place in undisturbed if place[1] in inside} <= mine.keys()

    run(test())


def test_states_that_are_kept_are_bounded_by_number_and_by_age() -> None:
    async def test() -> None:
        plant = Plant()
        for number in range(KEPT_PER_MACHINE + 3):
            plant.append(readings(number * 60, number * 60 + 60, machines=1))
            runner = SumRunner()
            runner.hash = f"{number:x}" * 64
            await plant.work(runner=runner)
        states = await plant.states()
        models = [name.split("-")[1][:1] for name in kept_names(states)]
        assert models == [f"{number:x}" for number in range(2, KEPT_PER_MACHINE + 2)], "those before the last"
        assert of_machines(states).keys() == {"p5"}
        later = 600 + KEPT_MS // S
        plant.append(readings(later, later + 60, machines=1))
        await plant.work(runner=runner)
        await plant.work(runner=runner)
        assert kept_names(await plant.states()) == []

    run(test())


def test_a_machine_that_was_forgotten_does_not_come_back_with_its_model() -> None:
    async def test() -> None:
        plant = Plant(ONE_SOURCE.replace("max_skew: 1m", "max_skew: 1m\n    state_ttl: 2m"), partitions=1)
        plant.append(readings(0, 100, machines=2))
        await plant.work()
        plant.append(readings(100, 200, machines=2))
        await plant.work(runner=OtherModel())
        assert [name[:2] for name in kept_names(await plant.states())] == ["p5", "p6"]
        plant.append([control("forget", machine="p5")._replace(timestamp_ms=T0 + 200 * S)])
        plant.append(record for record in readings(200, 500, machines=2) if record.key == b"p6")
        worker = plant.worker(OtherModel())
        async with plant.running(worker):
            await until(lambda: any(record.key == b"p5" and record.value is None for record in plant.log("state")))
        plant.append(readings(500, 600, machines=2))
        worker = await plant.work()
        assert worker.restored == 1 and starts(plant, MODEL) == 3, "p5 has begun again"
        assert "p5" not in worker.engine.forgotten
        assert {name[:2] for name in kept_names(await plant.states())} == {"p6"}

    run(test())


@pytest.mark.parametrize("change", [("period: 10s", "period: 20s"), ("name: pump", "name: engine")])
def test_another_profile_and_back(change: tuple[str, str]) -> None:
    async def test() -> None:
        plant = Plant()
        parts = [readings(begin, begin + 200) for begin in range(0, 600, 200)]
        first, other = plant.profile, parse_profile(ONE_SOURCE.replace(*change), where="test")
        assert first.machine_types != other.machine_types
        for part, profile in zip(parts, (first, other, first), strict=True):
            plant.append(part)
            plant.profile = profile
            worker = await plant.work()
        assert worker.restored == 6
        last = [json.loads(record.value or b"") for record in plant.log("diagnoses")]
        assert not [one for one in last if one["frame_end"] > T0 + 420 * S and one["reset"] == "start"]

    run(test())


def test_a_worker_that_dies_while_it_goes_on_from_kept_states_is_followed_by_one_that_does() -> None:
    async def test() -> None:
        parts = [readings(begin, begin + 300) for begin in range(0, 900, 300)]
        plant = Plant()
        plant.append(parts[0])
        await plant.work()
        plant.append(parts[1])
        worker = plant.worker(OtherModel())
        await worker.start()
        await until(lambda: len(said(plant, OTHER)) > 60)
        await plant.kill(worker)
        await plant.work(runner=OtherModel())
        plant.append(parts[2])
        for point in ("state_write", "decode", "output_send", "ack"):
            await plant.live(at={point: 1})
        worker = await plant.work()
        assert worker.restored == 6
        assert starts(plant, MODEL) == 6
        mine, undisturbed = said(plant, MODEL), await expected(*parts)
        assert mine == {place: value for place, value in undisturbed.items() if place in mine}
        assert {place for place in undisturbed if place[1] > T0 + 620 * S} <= mine.keys()

    run(test())


def test_two_models_in_one_group_leave_each_other_their_states() -> None:
    async def test() -> None:
        plant = Plant()
        parts = [readings(begin, begin + 200) for begin in range(0, 1000, 200)]
        one, two = plant.worker(), plant.worker(OtherModel())
        async with plant.running(one):
            plant.append(parts[0])
            await until(lambda: plant.read_by(one))
            async with plant.running(two):
                await until(lambda: all(worker.app.consumer.assignment() for worker in (one, two)))
                plant.append(parts[1])
                await until(lambda: plant.read_by(one, two))
                assert 0 < two.engine.machines < 6
            plant.append(parts[2])
            await until(lambda: plant.read_by(one))
        assert starts(plant, MODEL) == 6 and 0 < starts(plant, OTHER) < 6
        mine, undisturbed = said(plant, MODEL), await expected(*parts)
        assert mine == {place: value for place, value in undisturbed.items() if place in mine}

    run(test())


def test_kept_states_that_cannot_be_used_and_states_of_a_later_format_stop_nobody() -> None:
    async def test() -> None:
        plant = Plant()
        plant.append(readings(0, 100, machines=4))
        await plant.work()
        plant.append(readings(100, 200, machines=4))
        await plant.work(runner=OtherModel())
        kept = {name.split("\0")[0]: name for name in kept_names(await plant.states())}
        later = msgspec.msgpack.encode({"version": 99, "model": "m" * 64, "machine": "p8", "partition": "none"})
        damaged = {kept["p5"]: b"junk", kept["p6"]: wrap(b"\x81"), "p7\0what is this": b"\xff", "p8": later}
        await plant.store().write(damaged)
        plant.append(readings(200, 300, machines=4))
        worker = await plant.work()
        assert worker.restored == 1, "p7 alone; p8 was written by a release that is not known"
        assert starts(plant, MODEL) == 4 + 3
        names = kept_names(await plant.states())
        assert any(name.startswith("p8\099-") for name in names) and "p7\0what is this" not in names

    run(test())
