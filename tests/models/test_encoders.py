"""The sensor encoders beside the LSTM: each obeys the equality law, is what it says it is, and can be trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad, scaled_dot_product_attention

from models.configs.diagnoser import DiagnoserConfig
from models.configs.sensors import (
    CausalCNNConfig,
    LinearStateConfig,
    RingAttentionConfig,
    SensorConfig,
    SeqLSTMConfig,
    StatisticsConfig,
)
from models.data.runs import RunFiles
from models.diagnoser import Diagnoser
from models.encoders.base import SensorEncoder, State
from models.encoders.causal_cnn import CausalCNN
from models.encoders.experts.build import build_sensors
from models.encoders.linear_state import LinearState
from models.encoders.ring_attention import RingAttention
from models.model_file import read_model
from models.network_file import compile_network
from models.stepping.load import load_model
from models.stepping.runner import CompiledRunner
from models.training.config import TrainConfig, load_train_config
from models.training.loop import StageConfig
from models.training.train import train
from pipeline.errors import DataError
from tests.support.models_tiny import CLASSES, PROFILE, VARIABLES, Stream, machine_type

RING = RingAttentionConfig(window=30, size=16, heads=4, layers=2, head=(8,))
CNN = CausalCNNConfig(channels=12, head=(8,))
LINEAR = LinearStateConfig(size=16, heads=2, layers=2, head=(8,))
STATISTICS = StatisticsConfig(spans=(3.0, 12.0), hidden=(12, 8))
CONFIGS: list[SensorConfig] = [RING, CNN, LINEAR, STATISTICS]
each_encoder = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


def encoder(config: SensorConfig, dtype: torch.dtype = torch.float64) -> SensorEncoder:
    """An untrained network with weights large enough for answers that are not all alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build_sensors(config, variables=VARIABLES, classes=CLASSES)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(2.5)
    return network.to(dtype).eval()


def inputs(machines: int, frames: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Readings with masked gaps, some of them whole frames, and the observed bits: (B, T, 2V)."""
    generator = torch.Generator().manual_seed(2)
    readings = 2 * torch.randn(machines, frames, VARIABLES, generator=generator, dtype=dtype)
    observed = torch.rand(machines, frames, VARIABLES, generator=generator) > 0.2
    observed &= torch.rand(machines, frames, 1, generator=generator) > 0.1
    return torch.cat([readings * observed, observed.to(dtype)], dim=2)


def fold(network: SensorEncoder, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """The step form over x (B, T, F): logits (B, T, C) and the last state."""
    state = network.init_state(len(x)) if state is None else state
    said = []
    with torch.inference_mode():
        for frame in x.unbind(dim=1):
            logits, _, state = network.step(frame, state)
            said.append(logits)
    return torch.stack(said, dim=1), state


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        RING,
        RING.model_copy(update={"window": 1}),
        RING.model_copy(update={"window": 100, "heads": 1, "layers": 1}),
        CNN,
        CausalCNNConfig(channels=6, kernel=2, dilations=(3,), head=(), mask_inputs=False),
        LINEAR,
        LinearStateConfig(size=6, heads=1, layers=1, head=()),
    ],
    ids=lambda config: config.kind,
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_stepping_2000_frames_equals_one_forward_run(
    config: SensorConfig, dtype: torch.dtype, tolerance: float
) -> None:
    network = encoder(config, dtype)
    x = inputs(3, 2000, dtype)[:, :, : VARIABLES * (1 + config.mask_inputs)]
    with torch.inference_mode():
        whole = network(x)[0].softmax(dim=2)
    assert whole.std(dim=1).min() > 0.01  # an encoder that always says the same would pass with ease
    assert (fold(network, x)[0].softmax(dim=2) - whole).abs().max() <= tolerance


@each_encoder
def test_advancing_by_chunks_equals_forward_and_leaves_the_state_that_stepping_leaves(config: SensorConfig) -> None:
    network = encoder(config)
    x = inputs(2, 250)
    state, parts = network.init_state(2), []
    with torch.inference_mode():
        for chunk in torch.split(x, [1, 37, 30, 29, 31, 2, 100, 20], dim=1):
            logits, features, state = network.advance(chunk, state)
            assert features.shape == (2, chunk.shape[1], network.feature_size)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), network(x)[0], rtol=0, atol=1e-12)
    _, stepped = fold(network, x)
    assert state.keys() == stepped.keys()
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, stepped[key], rtol=0, atol=1e-12)


@each_encoder
def test_steps_and_chunks_may_alternate(config: SensorConfig) -> None:
    network = encoder(config)
    x = inputs(2, 120)
    first, state = fold(network, x[:, :45])
    with torch.inference_mode():
        second, _, state = network.advance(x[:, 45:85], state)
        third, _ = fold(network, x[:, 85:], state)
        torch.testing.assert_close(torch.cat([first, second, third], dim=1), network(x)[0], rtol=0, atol=1e-12)


@each_encoder
def test_a_batch_of_many_equals_each_machine_alone_in_any_company(config: SensorConfig) -> None:
    network = encoder(config)
    x = inputs(5, 80)
    together, _ = fold(network, x)
    for machine in range(5):
        torch.testing.assert_close(fold(network, x[machine : machine + 1])[0][0], together[machine], rtol=0, atol=1e-12)
    order = [3, 0, 4]
    torch.testing.assert_close(fold(network, x[order])[0], together[order], rtol=0, atol=1e-12)


@each_encoder
def test_machines_of_different_age_share_a_batch(config: SensorConfig) -> None:
    network = encoder(config)
    x = inputs(2, 150)
    _, older = fold(network, x[:1, :95])
    mixed = {key: torch.cat([tensor, network.init_state(1)[key]]) for key, tensor in older.items()}
    frames = torch.cat([x[:1, 95:], x[1:, :55]])
    with torch.inference_mode():
        expected = torch.cat([network(x[:1])[0][:, 95:], network(x[1:, :55])[0]])
        chunk = network.advance(frames, mixed)[0]
    torch.testing.assert_close(fold(network, frames, mixed)[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(chunk, expected, rtol=0, atol=1e-12)


@each_encoder
def test_a_state_is_not_changed_by_going_on_from_it(config: SensorConfig) -> None:
    network = encoder(config)
    x = inputs(2, 60)
    _, state = fold(network, x[:, :40])
    before = {key: tensor.clone() for key, tensor in state.items()}
    once, _ = fold(network, x[:, 40:], state)
    with torch.inference_mode():
        network.advance(x[:, 40:], state)
    for key, tensor in state.items():
        assert torch.equal(tensor, before[key])
    assert torch.equal(fold(network, x[:, 40:], state)[0], once)


@each_encoder
def test_the_future_does_not_change_the_past(config: SensorConfig) -> None:
    network = encoder(config)
    x = inputs(2, 90)
    changed = x.clone()
    changed[:, 50:] += 5
    with torch.inference_mode():
        before, after = network(x)[0], network(changed)[0]
    torch.testing.assert_close(after[:, :50], before[:, :50], rtol=0, atol=1e-13)
    assert not torch.allclose(after[:, 50:], before[:, 50:])


@each_encoder
def test_gradients_of_advancing_from_a_carried_state_are_right(config: SensorConfig) -> None:
    small: dict[str, dict[str, object]] = {
        "ring_attention": {"window": 4, "size": 4, "heads": 2},
        "causal_cnn": {"channels": 3},
        "linear_state": {"size": 4},
        "statistics": {"hidden": (4,)},
    }
    headless = {"head": ()} if "head" in type(config).model_fields else {}
    network = encoder(config.model_copy(update=small[config.kind] | headless))
    x = inputs(1, 17)
    with torch.no_grad():
        state = network.advance(x[:, :6], network.init_state(1))[2]
    chunk = x[:, 6:].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda frames: network.advance(frames, state)[0], (chunk,), atol=1e-6)


def reach(network: SensorEncoder, frames: int) -> int:
    """How many frames the last answer depends on."""
    x = inputs(1, frames).requires_grad_()
    network(x)[0][0, -1].square().sum().backward()
    assert x.grad is not None
    return frames - int(x.grad[0].abs().amax(dim=1).nonzero()[0])


def test_how_far_each_encoder_looks_back() -> None:
    assert reach(encoder(RING.model_copy(update={"window": 6, "layers": 3})), 40) == 3 * (6 - 1) + 1
    assert reach(encoder(CNN), 60) == 1 + 2 * (1 + 2 + 4 + 8)
    assert reach(encoder(LINEAR), 200) == 200


def shapes(config: SensorConfig) -> dict[str, tuple[int, ...]]:
    state = build_sensors(config, variables=VARIABLES, classes=CLASSES).init_state(6)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_the_states_have_the_promised_sizes() -> None:
    assert shapes(RingAttentionConfig(layers=1)) == {"count": (6, 1), "inputs0": (6, 100, 64)}
    assert shapes(CausalCNNConfig()) == {f"inputs{at}": (6, 2 * 2**at, 64) for at in range(4)}
    assert shapes(LinearStateConfig()) == {"memory0": (6, 4, 16, 16), "memory1": (6, 4, 16, 16)}


def test_ring_attention_is_banded_attention_with_slopes() -> None:
    network = encoder(RING)
    assert isinstance(network, RingAttention)
    x = inputs(2, 200)
    distance = torch.arange(200)[:, None] - torch.arange(200)
    slopes = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256], dtype=torch.float64)
    banded = (-slopes[:, None, None] * distance).masked_fill((distance < 0) | (distance >= 30), -torch.inf)
    with torch.inference_mode():
        y = network.input(x)
        for layer in network._layers():
            q, k, v = layer.project_in(layer.norm(y)).chunk(3, dim=2)
            q, k, v = (part.unflatten(2, (4, 4)).transpose(1, 2) for part in (q, k, v))
            attended = scaled_dot_product_attention(q, k, v, attn_mask=banded)
            y = y + layer.project_out(attended.transpose(1, 2).flatten(2))
            y = y + layer.inner(layer.inner_norm(y))
        torch.testing.assert_close(network(x)[1], network.norm(y), rtol=0, atol=1e-12)


def test_the_counter_of_the_ring_stays_small_however_long_a_machine_runs() -> None:
    config = RING.model_copy(update={"window": 7})
    network = encoder(config, torch.float32)
    x = inputs(1, 100, torch.float32)
    state = network.init_state(1)
    for t, frame in enumerate(x.unbind(dim=1)):
        with torch.inference_mode():
            _, _, state = network.step(frame, state)
            chunked = network.advance(x[:, : t + 1], network.init_state(1))[2]
        count = int(state["count"])
        assert count == int(chunked["count"])
        assert count == (t + 1 if t + 1 < 14 else 7 + (t + 1) % 7)


def test_the_causal_cnn_is_four_dilated_convolutions_padded_on_the_left() -> None:
    network = encoder(CNN)
    assert isinstance(network, CausalCNN)
    x = inputs(2, 70)
    with torch.inference_mode():
        y = network.input(x)
        for layer, norm, dilation in zip(network.layers, network.norms, (1, 2, 4, 8), strict=True):
            assert isinstance(layer, nn.Conv1d)
            padded = pad(y.transpose(1, 2), (2 * dilation, 0))
            y = y + norm(conv1d(padded, layer.weight, layer.bias, dilation=dilation).relu().transpose(1, 2))
        torch.testing.assert_close(network(x)[1], y, rtol=0, atol=1e-12)


def test_linear_state_is_the_recurrence_of_the_specification() -> None:
    network = encoder(LINEAR)
    assert isinstance(network, LinearState)
    x = inputs(1, 50)
    with torch.inference_mode():
        y = network.input(x[0])  # (T, d)
        for layer in network._layers():
            z = layer.norm(y)
            q, k, v = (part.unflatten(1, (2, 8)) for part in layer.project_in(z).chunk(3, dim=1))
            gate = torch.sigmoid(layer.gate(z)).view(50, 2, 8)
            memory, read = torch.zeros(2, 8, 8).double(), []
            for t in range(50):
                memory = gate[t, :, :, None] * memory + ((1 - gate[t]) * k[t])[:, :, None] * v[t, :, None, :]
                read.append(torch.einsum("hk,hkv->hv", q[t], memory) / 8**0.5)
            y = y + layer.project_out(torch.stack(read).flatten(1))
            y = y + layer.inner(layer.inner_norm(y))
        torch.testing.assert_close(network(x)[1][0], network.norm(y), rtol=0, atol=1e-12)


def test_rows_of_a_linear_state_begin_with_time_constants_between_the_horizons() -> None:
    network = build_sensors(LinearStateConfig(horizons=(5.0, 80.0)), variables=VARIABLES, classes=CLASSES)
    assert isinstance(network, LinearState)
    kept = torch.sigmoid(network._layers()[0].gate.bias.detach()).view(4, 16)
    tau = -1 / kept.log()
    torch.testing.assert_close(tau[:, [0, -1]], torch.tensor([[5.0, 80.0]] * 4), rtol=1e-3, atol=0)
    assert bool((tau.diff(dim=1) > 0).all())


def test_a_linear_state_neither_overflows_nor_forgets_to_fade() -> None:
    network = encoder(LINEAR, torch.float32)
    assert isinstance(network, LinearState)
    x = inputs(1, 300, torch.float32)
    x[:, 100:200] *= 1e4
    with torch.inference_mode():
        for gate in (200.0, -200.0):
            for layer in network.layers:
                gates = layer.get_submodule("gate")
                assert isinstance(gates, torch.nn.Linear)
                gates.bias.fill_(gate)
            whole = network(x)[0]
            assert whole.isfinite().all()
            torch.testing.assert_close(fold(network, x)[0], whole, rtol=0, atol=1e-4)


def diagnoser(config: SensorConfig) -> Diagnoser:
    described = DiagnoserConfig(variables=VARIABLES, classes=CLASSES, sensors=config, text=None)
    network = Diagnoser(described, None)
    network.sensors.load_state_dict(encoder(config, torch.float32).state_dict())
    network.mean.copy_(torch.arange(VARIABLES) * 10.0)
    return network.eval()


def runner(config: SensorConfig) -> CompiledRunner:
    return compile_network(diagnoser(config), name="tiny", digest="7" * 64, classes=machine_type().faults)


@each_encoder
def test_saving_and_restoring_mid_run_is_identical_to_the_bit(config: SensorConfig) -> None:
    stream = Stream(machines=5, frames=130, seed=3)
    first, second = runner(config), runner(config)
    for t in range(70):
        first.step(stream.round(t))
    saved = first.save(np.arange(5))
    for slot, state in enumerate(saved):
        second.load(slot, state)
    assert second.save(np.arange(5)) == saved
    for t in range(70, 130):
        one, other = first.step(stream.round(t)), second.step(stream.round(t))
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert first.save(np.arange(5)) == second.save(np.arange(5))


@each_encoder
def test_a_reset_touches_its_machine_only(config: SensorConfig) -> None:
    stream = Stream(machines=3, frames=80, seed=4)
    made, undisturbed, fresh = runner(config), runner(config), runner(config)
    for t in range(40):
        made.step(stream.round(t))
        undisturbed.step(stream.round(t))
    made.reset(np.array([1]))
    for t in range(40, 80):
        said, expected = made.step(stream.round(t)), undisturbed.step(stream.round(t))
        alone = fresh.step(stream.round(t, [1]))
        np.testing.assert_array_equal(said.probabilities[[0, 2]], expected.probabilities[[0, 2]])
        np.testing.assert_allclose(said.probabilities[1], alone.probabilities[0], rtol=0, atol=1e-6)


@each_encoder
def test_the_runner_gives_machines_in_changing_company_what_forward_gives(config: SensorConfig) -> None:
    stream = Stream(machines=6, frames=100, seed=1)
    made = runner(config)
    with torch.inference_mode():
        answer = diagnoser(config)(torch.from_numpy(stream.values), torch.from_numpy(stream.observed))
    expected = answer.probabilities.reshape(6, 100, CLASSES).numpy()
    rng = np.random.default_rng(0)
    for t in range(100):
        order = [int(machine) for machine in rng.permutation(6)]
        for part in (order[:2], order[2:]):
            said = made.step(stream.round(t, part)).probabilities
            np.testing.assert_allclose(said, expected[part, t], rtol=0, atol=1e-5)


def test_a_description_without_a_kind_is_an_lstm() -> None:
    old = DiagnoserConfig.model_validate_json('{"variables": 4, "classes": 3, "sensors": {"hidden": [5]}}')
    assert old.sensors == SeqLSTMConfig(hidden=(5,))
    assert DiagnoserConfig(variables=4, classes=3).sensors == SeqLSTMConfig()


@each_encoder
def test_descriptions_survive_json(config: SensorConfig) -> None:
    described = DiagnoserConfig(variables=4, classes=3, sensors=config)
    again = DiagnoserConfig.model_validate_json(described.model_dump_json())
    assert again == described
    assert type(again.sensors) is type(config)


def test_wrong_descriptions_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("profile: tiny.yaml\noutput: out\nsensors: {kind: transformer}\n")
    with pytest.raises(DataError, match=r"sensors: Input tag 'transformer' .*'seq_lstm', 'causal_cnn'"):
        load_train_config(path)
    path.write_text("profile: tiny.yaml\noutput: out\nsensors: {kind: causal_cnn, window: 5}\n")
    with pytest.raises(
        DataError, match=r"sensors\.causal_cnn\.window: there is no such key; there are kind, channels, kernel"
    ):
        load_train_config(path)
    for kind in (RingAttentionConfig, LinearStateConfig):
        with pytest.raises(ValidationError, match="size 10 cannot be divided among 4 heads"):
            kind(size=10)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile and runs: a leak lowers the flow, a jam raises load and heat."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(16):
        labels = np.zeros(90, np.int64)
        labels[25:50] = 1 + seed % 2
        labels[70:] = 2 - seed % 2
        values = rng.standard_normal((90, 4))
        values[labels == 1, 0] -= 4
        values[labels == 2, 1:3] += 3
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        parts.append(pa.table(columns | {"seed": [seed] * 90, "sample": np.arange(90), "label": labels}))
    pyarrow.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    return folder


@pytest.mark.slow
@each_encoder
def test_training_saves_a_model_that_streams(config: SensorConfig, plant: Path, tmp_path: Path) -> None:
    chosen = TrainConfig.model_validate(
        {
            "profile": str(plant / "plant.yaml"),
            "runs": (RunFiles(paths=(plant / "runs.parquet",)),),
            "output": tmp_path,
            "validation": 0.25,
            "test": 0.25,
            "sensors": config.model_dump(),
            "sensor_stage": StageConfig(epochs=6, batch_size=4, learning_rate=0.02),
            "statistics_stage": StageConfig(epochs=10, batch_size=64, learning_rate=0.01),
            "chunk_frames": 30,
            "most_offset_frames": 10,
            "storage": "float16",
            "plots": False,
        }
    )
    report = train(chosen)
    assert report.scores["test"]["all"]["all_faults"]["sensors"]["accuracy"] > 0.85
    assert read_model(report.model).header.network.sensors == config
    streaming = load_model(report.model, machine_type())
    rng = np.random.default_rng(5)
    stream = Stream(machines=1, frames=60)
    stream.values = rng.standard_normal((1, 60, 4)).astype(np.float32)
    stream.values[:, 30:, 0] -= 4
    stream.observed[:] = True
    said = [int(streaming.step(stream.round(t)).probabilities[0].argmax()) for t in range(60)]
    assert said[5:30].count(0) >= 22
    assert said[35:].count(1) >= 22
