"""A machine's bits: the same alone, in any round and any order, after saving and restoring, and on any processor."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from agents.audit.certificate import read_certificate
from agents.replay.shipped import demo_recording
from models.configs.fusion import FusionChoice
from models.configs.sensors import SensorConfig
from tests.models.test_stepping import ADAPTIVE, ENCODERS, FUSIONS, RING, each_encoder, some_fusions
from tests.support.commands import faultline
from tests.support.models_stepping import compiled, crowd, everything, made
from tests.support.models_tiny import Stream


@each_encoder
@some_fusions
def test_a_machines_bits_do_not_depend_on_its_company(sensors: SensorConfig, fusion: FusionChoice) -> None:
    network = made(sensors=sensors, fusion=fusion)
    stream = Stream(machines=30, frames=40, seed=6)
    alone, together = compiled(network), compiled(network)
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 35), 64, 65, 128, 300, 700]):
        place = int(rng.integers(count))
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[place])
        np.testing.assert_array_equal(one.modality_probabilities[:, 0], other.modality_probabilities[:, place])
        np.testing.assert_array_equal(one.weights[:, 0], other.weights[:, place])
        if one.attention is not None and other.attention is not None:
            np.testing.assert_array_equal(one.attention[0], other.attention[place])
        assert alone.save(np.array([0])) == together.save(np.array([0]))


def test_slots_in_any_order_and_with_gaps_between_them_give_the_same_bits() -> None:
    stream, network = Stream(machines=40, frames=30, seed=2), made(sensors=RING, fusion=ADAPTIVE)
    dense, sparse = compiled(network), compiled(network)
    slots = np.random.default_rng(0).permutation(1000)[:40]
    for t in range(30):
        there = stream.round(t)
        there.slots = slots[there.slots]
        for mine, theirs in zip(everything(dense.step(stream.round(t))), everything(sparse.step(there)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert dense.save(np.arange(40)) == sparse.save(slots)


@each_encoder
@some_fusions
def test_saving_and_restoring_mid_run_is_identical_to_the_bit(sensors: SensorConfig, fusion: FusionChoice) -> None:
    stream, network = Stream(machines=4, frames=60, seed=5), made(sensors=sensors, fusion=fusion)
    first, second = compiled(network), compiled(network)
    for t in range(30):
        first.step(stream.round(t))
    for machine, state in enumerate(first.save(np.arange(4))):
        second.load(10 + 3 * machine, state)
    for t in range(30, 60):
        there = stream.round(t)
        there.slots = 10 + 3 * there.slots
        for mine, theirs in zip(everything(first.step(stream.round(t))), everything(second.step(there)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert first.save(np.arange(4)) == second.save(10 + 3 * np.arange(4))


def replay_of_steps(certificate: str) -> str:
    """The hash of what every encoder and fusion answers and keeps; and the demo's certificate is written."""
    digest, stream = hashlib.sha256(), Stream(machines=5, frames=25, seed=7)
    cases = [(sensors, "late") for sensors in ENCODERS] + [("lstm", fusion) for fusion in FUSIONS]
    for sensors, fusion in cases:
        runner = compiled(made(sensors=ENCODERS[sensors], fusion=FUSIONS[fusion], candidates=fusion == "late"))
        for t in range(25):
            for part in everything(runner.step(stream.round(t))):
                digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(b"".join(runner.save(np.arange(5))))
    done = faultline("replay", demo_recording(), "--json", "--certify", certificate)
    assert done.returncode == 0, done.stderr
    return json.dumps({"hash": digest.hexdigest(), "diagnoses": json.loads(done.stdout)["diagnoses"]})


IN_A_PROCESS = (
    "import sys; from tests.models.test_stepping_bits import replay_of_steps; print(replay_of_steps(sys.argv[1]))"
)


def test_bits_and_certificates_are_the_same_with_the_fewest_instructions_and_with_all(tmp_path: Path) -> None:
    fewest, everything_there_is = tmp_path / "fewest", tmp_path / "all"
    other = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS, str(fewest)],
        env=os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    here = json.loads(replay_of_steps(str(everything_there_is)))
    out, errors = other.communicate()
    assert other.returncode == 0, errors
    assert json.loads(out) == here
    assert len(here["hash"]) == 64 and here["diagnoses"] == 12 * 960
    one, two = map(read_certificate, (fewest, everything_there_is))
    assert one.differences(two) == []
    assert one.digest == two.digest
