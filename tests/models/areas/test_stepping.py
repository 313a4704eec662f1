"""The compiled networks of areas answer what torch answers, whatever is missing, and say from whom machines took."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.areas.config import AreaNetworkConfig
from models.areas.graph import MACHINE, RELATIONS, TEXT, AreaGraph
from models.areas.networks.base import NOT_A_CAUSE, AreaNetwork, Outputs
from models.areas.networks.batches import graph_batch
from models.areas.stepping.edges import step_edges
from models.areas.stepping.network import CompiledAreaNetwork, NetworkAnswer
from pipeline.arrays import Floats
from pipeline.errors import ModelFileError
from tests.models.areas.builders import CLASSES, SHAPE, random_features, random_network, small_graph
from tests.models.areas.test_networks import CONFIGS, NAMES


def compiled(network: AreaNetwork) -> CompiledAreaNetwork:
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    return CompiledAreaNetwork(network.config, SHAPE, tensors, path=Path("tiny"), notify=lambda line: None)


def log_probabilities(answer: NetworkAnswer, graph: AreaGraph) -> Floats:
    """As torch has them: no cause, each machine's own fault, each class of each utility."""
    shared = np.where(graph.faults, answer.shared, np.float32(NOT_A_CAUSE))
    scores = np.concatenate([[answer.none], answer.own, shared.ravel()]).astype(np.float64)
    found: Floats = (scores - np.logaddexp.reduce(scores)).astype(np.float32)
    return found


def taken(outputs: Outputs, edges: tuple[tuple[torch.Tensor, torch.Tensor], ...], graph: AreaGraph) -> Floats:
    """(N, N + U) by the attention of torch: of each relation into a machine the edges' weights, and their mean."""
    found = np.zeros((len(RELATIONS), graph.machines, graph.machines + graph.utilities), np.float32)
    for r, (relation, (source, target)) in enumerate(zip(RELATIONS, edges, strict=True)):
        if relation.target == MACHINE and relation.source != TEXT:
            column = source.numpy() + (graph.machines if relation.source else 0)
            np.add.at(found[r], (target.numpy(), column), outputs.attention[r].detach().numpy())
    summed: Floats = found.sum(axis=0)
    return summed


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_the_compiled_network_answers_what_torch_answers(config: AreaNetworkConfig) -> None:
    network = random_network(config)
    step = compiled(network)
    for seed, missing in enumerate((0.0, 0.4, 0.7, 1.0)):
        rng, graph = np.random.default_rng(seed), small_graph(3 + 4 * seed)
        features = random_features(rng, graph, missing=missing, texts=seed)
        batch = graph_batch([(graph, features)], SHAPE)
        with torch.no_grad():
            outputs = network(batch)
        edges = step_edges(graph, features.text_machines, features.text_utilities)
        answer = step.step(features, edges)
        possible = outputs.fused.causes.numpy() > NOT_A_CAUSE / 2
        expected = outputs.fused.causes.numpy()[possible]
        np.testing.assert_allclose(log_probabilities(answer, graph)[possible], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(answer.machines, outputs.fused.machines.exp().numpy(), rtol=1e-5, atol=1e-6)
        again = step.step(features, edges)
        assert (answer.machines.tobytes(), answer.shared.tobytes()) == (
            again.machines.tobytes(),
            again.shared.tobytes(),
        )
        _check_neighbours(config, answer, taken(outputs, batch.edges, graph))


def _check_neighbours(config: AreaNetworkConfig, answer: NetworkAnswer, expected: Floats) -> None:
    if not config.rounds or "nei" in config.without:
        assert answer.neighbours is None
        return
    assert answer.neighbours is not None
    if config.kind.startswith("hgt"):  # one softmax over all neighbours, to which texts belong
        np.testing.assert_allclose(answer.neighbours, expected, rtol=1e-5, atol=1e-6)
        assert (answer.neighbours.sum(axis=1) <= 1 + 1e-5).all()
    else:
        shares = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1e-9)
        found = answer.neighbours / np.maximum(answer.neighbours.sum(axis=1, keepdims=True), 1e-9)
        np.testing.assert_allclose(found, shares, rtol=1e-4, atol=1e-6)
        assert (answer.neighbours.sum(axis=1) <= 1 + 1e-5).all()


def test_a_machine_takes_from_those_that_it_is_related_to() -> None:
    rng, graph = np.random.default_rng(2), small_graph(6)
    features = random_features(rng, graph, texts=0)
    edges = step_edges(graph, features.text_machines, features.text_utilities)
    answer = compiled(random_network(AreaNetworkConfig(kind="hgt_early", width=8, heads=2))).step(features, edges)
    related = np.zeros((6, 8), np.bool_)
    for relation, (source, target) in zip(RELATIONS, graph.edges, strict=True):
        if relation.target == MACHINE:
            related[target, source + (6 if relation.source else 0)] = True
    assert answer.neighbours is not None and ((answer.neighbours > 0) == related).all()
    np.testing.assert_allclose(answer.neighbours.sum(axis=1), 1, rtol=1e-5)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    network = random_network(AreaNetworkConfig(kind="hgt_late", width=8, heads=2))
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    for change, wrong in (
        ({"graphs.1.0.key": tensors["graphs.1.0.key"][:2]}, "graphs.1.0.key"),
        ({"head.cause.bias": np.zeros(CLASSES + 1, np.float32)}, "head.cause.bias"),
        ({"other": np.zeros(1, np.float32)}, "other"),
    ):
        with pytest.raises(ModelFileError, match=wrong.replace(".", r"\.")):
            CompiledAreaNetwork(network.config, SHAPE, tensors | change, path=Path("x"), notify=lambda line: None)
    del tensors["encoder.layers.0.0.bias"]
    with pytest.raises(ModelFileError, match=r"lacks weight encoder\.layers\.0\.0\.bias"):
        CompiledAreaNetwork(network.config, SHAPE, tensors, path=Path("x"), notify=lambda line: None)
