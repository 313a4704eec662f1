"""Remaining life: which frames have one, what the head learns and states, and that its compiled step is torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.configs.remaining_life import RemainingLifeConfig
from models.configs.sensors import SensorConfig
from tests.models.test_stepping import EXPERTS, LSTM
from tests.support.models_stepping import LAW, compiled, crowd, everything, fold, made, placed, reference
from tests.support.models_tiny import TEXTS, Stream

STATISTICS = RemainingLifeConfig(cap_frames=2, spans=(3.0, 15.0), hidden=(9, 7))
FEATURES = RemainingLifeConfig(cap_frames=2, inputs="features", hidden=(8,))
each_head = pytest.mark.parametrize("head", [STATISTICS, FEATURES], ids=["statistics", "features"])


@each_head
@pytest.mark.parametrize("sensors", [LSTM, EXPERTS], ids=["lstm", "experts"])
@pytest.mark.parametrize("texts", [True, False])
def test_the_compiled_step_gives_what_torch_gives(
    head: RemainingLifeConfig, sensors: SensorConfig, texts: bool
) -> None:
    network = made(sensors=sensors, texts=texts, remaining_life=head)
    assert fold(reference(network), compiled(network), Stream(6, 200), range(200)) <= LAW


def test_messages_count_for_the_head_as_for_the_sensors() -> None:
    network = made(sensors=EXPERTS, messages=TEXTS[:2], remaining_life=STATISTICS)
    assert fold(reference(network), compiled(network), Stream(5, 150), range(150)) <= LAW


@each_head
def test_stepping_frame_by_frame_gives_what_one_run_gives(head: RemainingLifeConfig) -> None:
    frames, stream, network = 300, Stream(4, 300, seed=3), made(sensors=EXPERTS, remaining_life=head)
    runner = compiled(network)
    values, observed = torch.from_numpy(stream.values), torch.from_numpy(stream.observed)
    with torch.inference_mode():
        whole = network(values, observed, placed(stream, frames)).remaining
    assert whole is not None
    expected = whole.view(4, frames, 3).numpy()
    worst = 0.0
    for t in range(frames):
        stated = runner.step(stream.round(t)).remaining
        assert stated is not None
        unknown = np.asarray(np.isnan(stream.values[:, t]).all(axis=1))
        np.testing.assert_array_equal(np.isnan(stated), np.repeat(unknown[:, None], 3, axis=1))
        worst = max(worst, float(np.abs(stated - expected[:, t])[~unknown].max(initial=0)))
    assert worst <= LAW


@each_head
def test_bits_do_not_depend_on_company_and_survive_a_restart(head: RemainingLifeConfig) -> None:
    network, stream = made(sensors=EXPERTS, remaining_life=head), Stream(machines=30, frames=60, seed=6)
    alone, together, restored = compiled(network), compiled(network), compiled(network)
    alone.reserve(1)
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 35), 64, 65, 128, 300]):
        place = int(rng.integers(count))
        restored.load(7, alone.save(np.array([0]))[0])
        moved = stream.round(t, [0])
        moved.slots = np.array([7])
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        assert one.remaining is not None and other.remaining is not None
        np.testing.assert_array_equal(one.remaining[0], other.remaining[place])
        for mine, theirs in zip(everything(one), everything(restored.step(moved)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert alone.save(np.array([0])) == restored.save(np.array([7]))
