"""Embeddings: what the compiled step gives of each modality's encoder, and that nothing else depends on it."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from models.configs.fusion import AdaptiveConfig, FusionChoice, FusionConfig
from models.configs.sensors import CausalCNNConfig, SensorConfig, SeqLSTMConfig
from models.diagnoser import RingReading
from models.network_file import compile_network
from tests.support.models_stepping import FACTS, LAW, made, reference
from tests.support.models_tiny import Stream

SENSORS: dict[str, SensorConfig] = {
    "seq_lstm": SeqLSTMConfig(hidden=(10, 8), head=(6,)),
    "causal_cnn": CausalCNNConfig(),
}
FUSIONS: tuple[FusionChoice, ...] = (FusionConfig(rule="product"), AdaptiveConfig())


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: fusion.kind)
@pytest.mark.parametrize("sensors", SENSORS)
def test_embeddings_are_the_encoders_features_and_zero_where_a_modality_is_absent(
    sensors: str, fusion: FusionChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = made(sensors=SENSORS[sensors], fusion=fusion)
    runner, torch_runner = compile_network(network, **FACTS, embeddings=True), reference(network)
    readings: list[RingReading] = []
    read_ring = network.read_ring

    def keep(ring: Tensor, age: Tensor) -> RingReading:
        readings.append(read_ring(ring, age))
        return readings[-1]

    monkeypatch.setattr(network, "read_ring", keep)
    stream, absent = Stream(machines=5, frames=25), 0
    for t in range(stream.frames):
        result, expected = runner.step(stream.round(t)), torch_runner.answer(stream.round(t))
        assert result.embeddings is not None
        assert tuple(own.shape[1] for own in result.embeddings) == runner.embedding_sizes
        features = (expected.features.numpy(), readings[-1].features.numpy())
        for own, present, feature in zip(result.embeddings, result.present, features, strict=True):
            np.testing.assert_allclose(own[present], feature[present], atol=LAW, rtol=LAW)
            assert not own[~present].any()
            absent += int((~present).sum())
    assert absent > 0


def test_answers_and_states_are_the_same_with_and_without_embeddings() -> None:
    network, stream = made(), Stream(machines=3, frames=12)
    plain, embedding = compile_network(network, **FACTS), compile_network(network, **FACTS, embeddings=True)
    slots = np.arange(3)
    for t in range(stream.frames):
        one, other = plain.step(stream.round(t)), embedding.step(stream.round(t))
        assert one.embeddings is None
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        np.testing.assert_array_equal(one.weights, other.weights)
        embedding.load(1, plain.save(slots)[1])
    assert plain.save(slots) == embedding.save(slots)


def test_a_machines_embedding_has_the_same_bits_alone_and_in_company() -> None:
    network, stream = made(), Stream(machines=40, frames=6)
    alone, together = (compile_network(network, **FACTS, embeddings=True) for _ in range(2))
    for t in range(stream.frames):
        one, all_ = alone.step(stream.round(t, [33])).embeddings, together.step(stream.round(t)).embeddings
        assert one is not None and all_ is not None
        for own, everyone in zip(one, all_, strict=True):
            np.testing.assert_array_equal(own[0], everyone[33])
