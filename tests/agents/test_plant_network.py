"""A plant agent with a trained network: no death changes what it says, and a replay proves it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.audit.certificate import CertificateBuilder
from agents.replay.areas import PlantReplay, replay_areas
from models.areas.config import AreaNetworkConfig
from models.areas.load import load_area_runner
from models.areas.networks.graphs import build_area_network
from models.areas.stepping.model_file import write_area_model
from pipeline.config.profile import PlantProfile, parse_profile
from tests.support.area_plant import MACHINES, WITH_AREAS, AreaPlant, area_story, work_recorded
from tests.support.chaos import compare, differing_states
from tests.support.delivery_apps import run


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Agents die here, and each says so."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def network(folder: Path) -> Path:
    """The file of a network with random weights, which reads no texts."""
    path = folder / "net.faultline"
    fields: dict[str, Any] = {
        "name": "net",
        "machine_type": "pump",
        "frame_period_ms": 10_000,
        "machine_model": "5" * 64,
        "classes": ("normal", "leak", "jam"),
        "modalities": ("sensors",),
        "embeddings": (4,),
        "network": AreaNetworkConfig(kind="hgt_early", width=8, heads=2),
        "threshold": 1.0,
        "training": {},
    }
    shape = write_area_model(path, {}, None, **fields).shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = build_area_network(fields["network"], shape)
        tensors = {key: (value + 0.2 * torch.randn_like(value)).numpy() for key, value in made.state_dict().items()}
    write_area_model(path, tensors, None, **fields)
    return path


def runner(path: Path, profile: PlantProfile) -> Any:
    return load_area_runner(str(path), profile, lambda line: None)


def told() -> AreaPlant:
    plant = AreaPlant(partitions=2, chunk_records=30, checkpoint_records=60, checkpoint_interval_ms=20)
    plant.place(area_story(60, plant.partition_of, 2, seed=3))
    return plant


def test_an_agent_with_a_network_may_die_and_be_replayed(tmp_path: Path) -> None:
    path, recording = network(tmp_path), tmp_path / "areas.parquet"
    runner(path, parse_profile(WITH_AREAS, where="test")).load_code()  # the time limit is not for compiling

    async def test() -> None:
        expected, disturbed = told(), told()
        agent = expected.agent(runner=runner(path, expected.profile))
        live = CertificateBuilder({"areas": runner(path, expected.profile)})
        await work_recorded(agent, recording, live)
        states = await expected.agent_states()
        for point in ("output_send", "commit"):
            dead = await disturbed.live_agent(runner=runner(path, disturbed.profile), at={point: 2})
            assert disturbed.died(dead)
        await disturbed.live_agent(runner=runner(path, disturbed.profile))
        verdict = compare(expected.said_of_areas(), disturbed.said_of_areas())
        assert verdict.good and verdict.verified > 100, str(verdict)
        assert not differing_states(states, await disturbed.agent_states())
        live.add(agent.engine.finish())
        live.finish_areas(agent.engine)
        replayed = CertificateBuilder({"areas": runner(path, expected.profile)})
        replay = PlantReplay(expected.profile, runner(path, expected.profile), builder=replayed)
        await replay_areas(recording, expected.settings, expected.profile, replay, expected.partition_of)
        assert replayed.certificate.digest == live.certificate.digest
        said = [answer for one in expected.areas("hall") for answer in one.machines.values()]
        taken = [answer.neighbours for answer in said if answer.neighbours]
        nodes = {*MACHINES["hall"], "hall/water"}
        assert len(taken) > 100 and all(set(each) <= nodes for each in taken)
        np.testing.assert_allclose([sum(each.values()) for each in taken], 1, atol=1e-4)

    run(test(), seconds=90)
