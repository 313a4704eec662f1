"""SeqLSTM: step equals forward, machines do not touch each other, and the future does not touch the past."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.configs.sensors import SeqLSTMConfig
from models.encoders.base import State, lstm_step
from models.encoders.lstm import SeqLSTM
from tests.support.models_tiny import CLASSES, VARIABLES

PLAIN = SeqLSTMConfig(hidden=(12, 9, 7), head=(8,))
WITH_CONTEXT = SeqLSTMConfig(hidden=(12, 9), head=(8,), trends=(5.0, 40.0), spreads=(10.0,))
PAPER = SeqLSTMConfig(mask_inputs=False)


def encoder(config: SeqLSTMConfig, dtype: torch.dtype = torch.float64) -> SeqLSTM:
    torch.manual_seed(1)
    return SeqLSTM(config, variables=VARIABLES, classes=CLASSES).to(dtype).eval()


def inputs(network: SeqLSTM, machines: int, frames: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Readings with masked gaps, some of them whole frames."""
    generator = torch.Generator().manual_seed(2)
    readings = 3 * torch.randn(machines, frames, VARIABLES, generator=generator, dtype=dtype)
    observed = torch.rand(machines, frames, VARIABLES, generator=generator) > 0.2
    observed &= torch.rand(machines, frames, 1, generator=generator) > 0.1
    masked = readings * observed
    return torch.cat([masked, observed.to(dtype)], dim=2) if network.config.mask_inputs else masked


def fold(network: SeqLSTM, x: Tensor) -> Tensor:
    state = network.init_state(len(x))
    said = []
    with torch.inference_mode():
        for frame in x.unbind(dim=1):
            logits, _, state = network.step(frame, state)
            said.append(logits)
    return torch.stack(said, dim=1)


@pytest.mark.parametrize("config", [PLAIN, WITH_CONTEXT, PAPER])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_stepping_2000_frames_equals_one_forward_run(
    config: SeqLSTMConfig, dtype: torch.dtype, tolerance: float
) -> None:
    network = encoder(config, dtype)
    x = inputs(network, 3, 2000, dtype)
    with torch.inference_mode():
        whole = network(x)[0].softmax(dim=2)
    assert (fold(network, x).softmax(dim=2) - whole).abs().max() <= tolerance


@pytest.mark.parametrize("config", [PLAIN, WITH_CONTEXT])
def test_advancing_by_chunks_equals_one_forward_run(config: SeqLSTMConfig) -> None:
    network = encoder(config)
    x = inputs(network, 2, 100)
    state = network.init_state(2)
    parts = []
    with torch.inference_mode():
        for chunk in torch.split(x, [1, 37, 50, 12], dim=1):
            logits, features, state = network.advance(chunk, state)
            assert features.shape[2] == network.feature_size
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), network(x)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [PLAIN, WITH_CONTEXT])
def test_a_batch_of_many_equals_each_machine_alone_in_any_company(config: SeqLSTMConfig) -> None:
    network = encoder(config)
    x = inputs(network, 5, 60)
    together = fold(network, x)
    for machine in range(5):
        torch.testing.assert_close(fold(network, x[machine : machine + 1])[0], together[machine], rtol=0, atol=1e-12)
    order = [3, 0, 4]
    torch.testing.assert_close(fold(network, x[order]), together[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [PLAIN, WITH_CONTEXT])
def test_the_future_does_not_change_the_past(config: SeqLSTMConfig) -> None:
    network = encoder(config)
    x = inputs(network, 2, 50)
    changed = x.clone()
    changed[:, 30:] += 5
    with torch.inference_mode():
        before, after = network(x)[0], network(changed)[0]
    torch.testing.assert_close(after[:, :30], before[:, :30], rtol=0, atol=1e-13)
    assert not torch.allclose(after[:, 30:], before[:, 30:])


def test_the_state_holds_tensors_with_the_machines_in_front() -> None:
    state: State = encoder(WITH_CONTEXT).init_state(6)
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == {
        "h": (6, 21),
        "c": (6, 21),
        "means": (6, 3, VARIABLES),
        "last": (6, VARIABLES),
    }


def test_layers_take_weights_of_nn_lstm() -> None:
    reference = nn.LSTM(2 * VARIABLES, 12, batch_first=True).double()
    network = encoder(PLAIN)
    layer = network.layers[0]
    layer.load_state_dict(reference.state_dict())
    assert isinstance(layer, nn.LSTM)
    x = inputs(network, 2, 9)
    h = c = torch.zeros(2, 12, dtype=torch.float64)
    for frame in x.unbind(dim=1):
        h, c = lstm_step(layer, frame, h, c)
    torch.testing.assert_close(h, reference(x)[0][:, -1], rtol=0, atol=1e-12)


def test_the_default_is_the_network_of_the_paper() -> None:
    network = SeqLSTM(PAPER, variables=52, classes=4)
    assert [layer.hidden_size for layer in network.layers if isinstance(layer, nn.LSTM)] == [52, 40, 25]
    assert [layer.out_features for layer in network.head if isinstance(layer, nn.Linear)] == [64, 48, 32, 4]
    assert network.init_state(1)["h"].numel() + network.init_state(1)["c"].numel() == 234


def test_trends_show_the_distance_from_a_running_mean_and_spreads_its_unrest() -> None:
    network = encoder(SeqLSTMConfig(hidden=(4,), trends=(10.0,), spreads=(10.0,)))
    generator = torch.Generator().manual_seed(0)
    readings = torch.randn(1, 400, 1, generator=generator, dtype=torch.float64)
    readings[:, 200:] += 3
    x = torch.cat([readings.expand(-1, -1, VARIABLES), torch.ones(1, 400, VARIABLES).double()], dim=2)
    state = network.init_state(1)
    mean = spread = last = 0.0
    rate = 1 - torch.tensor(-0.1, dtype=torch.float64).exp().item()
    for t in range(400):
        _, _, state = network.step(x[:, t], state)
        reading = readings[0, t, 0].item()
        mean += rate * (reading - mean)
        spread += rate * (abs(reading - last) - spread)
        last = reading
    torch.testing.assert_close(
        state["means"][0, :, 0], torch.tensor([mean, spread], dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_gradients_of_the_step_form_are_right() -> None:
    network = encoder(WITH_CONTEXT)
    x = inputs(network, 1, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda frames: network(frames)[0], (x,), atol=1e-6)
