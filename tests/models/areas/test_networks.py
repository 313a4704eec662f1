"""Networks of areas: answers are probabilities, areas do not mix, neighbours have no order, gradients are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.areas.config import AreaNetworkConfig, Kind
from models.areas.graph import MACHINE, RELATIONS, UTILITY, AreaGraph, area_graph
from models.areas.networks.base import GraphBatch, Outputs, candidate_areas
from models.areas.networks.batches import graph_batch
from models.areas.networks.ima import InterModalGraph
from models.areas.networks.scatter import scatter_log_softmax, scatter_mean, scatter_softmax, scatter_sum
from tests.models.areas.builders import (
    CLASSES,
    SHAPE,
    random_batch,
    random_features,
    random_network,
    small_graph,
    tensors,
)

KINDS: tuple[Kind, ...] = ("ima", "hgt_early", "hgt_late", "han_early", "han_late", "alone")
CONFIGS = [
    *(AreaNetworkConfig(kind=kind, width=16) for kind in KINDS),
    AreaNetworkConfig(width=16, readout="tanh", renormalisation="softmax"),
    AreaNetworkConfig(width=16, without=("cross",)),
    AreaNetworkConfig(width=16, without=("adapt", "inf")),
    AreaNetworkConfig(width=16, without=("align",)),
    AreaNetworkConfig(width=16, without=("nei",), evidence=False, embeddings=True),
]
NAMES = [f"{c.kind}-{c.readout}-{c.renormalisation}-{'-'.join(c.without)}" for c in CONFIGS]


def answered(outputs: Outputs) -> list[torch.Tensor]:
    """Everything that an area's answer consists of."""
    return [outputs.fused.causes, outputs.fused.machines, *(a.causes for a in outputs.modalities), *outputs.attention]


def assert_close(one: Outputs, other: Outputs) -> None:
    for a, b in zip(answered(one), answered(other), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_answers_are_probabilities_whatever_is_missing(config: AreaNetworkConfig) -> None:
    network = random_network(config)
    for missing in (0.0, 0.6, 1.0):
        batch = random_batch([small_graph(3), small_graph(5)], missing=missing, texts=0 if missing == 1 else 2)
        outputs = network(batch)
        for answers in (outputs.fused, *outputs.modalities):
            sums = scatter_sum(answers.causes.exp(), candidate_areas(batch), batch.areas)
            torch.testing.assert_close(sums, torch.ones(2))
            torch.testing.assert_close(answers.machines.exp().sum(1), torch.ones(8))
            faults = answers.causes[batch.areas + 8 :].view(-1, CLASSES)
            assert (faults[~batch.faults] < -1e29).all()
            assert torch.isfinite(answers.causes[: batch.areas + 8]).all()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_an_area_is_answered_alike_alone_and_beside_others(config: AreaNetworkConfig) -> None:
    network = random_network(config)
    rng = np.random.default_rng(3)
    graphs = [small_graph(3), small_graph(6), small_graph(4)]
    frames = [(graph, random_features(rng, graph, missing=0.3, texts=t)) for t, graph in enumerate(graphs)]
    together = network(graph_batch(frames, SHAPE)).fused
    machines, candidates = 0, candidate_areas(graph_batch(frames, SHAPE))
    for number, frame in enumerate(frames):
        alone = network(graph_batch([frame], SHAPE)).fused
        mine = together.machines[machines : machines + frame[0].machines]
        torch.testing.assert_close(mine, alone.machines, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.causes[candidates == number], alone.causes, atol=2e-5, rtol=1e-4)
        machines += frame[0].machines


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_the_order_of_neighbours_changes_nothing(config: AreaNetworkConfig) -> None:
    network, batch = random_network(config), random_batch([small_graph(6)], missing=0.3, texts=3)
    order = [torch.randperm(len(source), generator=torch.Generator().manual_seed(1)) for source, _ in batch.edges]
    edges = tuple((s[o], t[o]) for (s, t), o in zip(batch.edges, order, strict=True))
    one, other = network(batch), network(replace(batch, edges=edges))
    assert_close(one._replace(attention=tuple(w[o] for w, o in zip(one.attention, order, strict=True))), other)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_differences_in_float64(kind: Kind) -> None:
    config = AreaNetworkConfig(kind=kind, width=8, heads=2, layers=1)
    network = random_network(config).double()
    batch = in_float64(random_batch([small_graph(3)], missing=0.3))
    # Only causes that can be, whose probabilities move.
    possible = network(batch).fused.causes > -1e29

    def loss() -> torch.Tensor:
        outputs = network(batch)
        summed: list[torch.Tensor] = [outputs.fused.causes[possible].sum(), outputs.fused.machines.square().sum()]
        summed += [answers.machines.sum() for answers in outputs.modalities]
        return torch.stack([*summed, outputs.attention_loss]).sum()

    network.zero_grad()
    loss().backward()  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    checked = 0
    for parameter in network.parameters():
        if parameter.grad is None:
            continue
        place = int(rng.integers(parameter.numel()))
        values = parameter.data.view(-1)
        kept, step = float(values[place]), 1e-6
        values[place] = kept + step
        above = float(loss().detach())
        values[place] = kept - step
        below = float(loss().detach())
        values[place] = kept
        assert float(parameter.grad.view(-1)[place]) == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-5)
        checked += 1
    assert checked > 10


def in_float64(batch: GraphBatch) -> GraphBatch:
    return replace(
        batch,
        features=tuple(tuple(x.double() for x in group) for group in batch.features),
        present=tuple(x.double() for x in batch.present),
        log_probabilities=batch.log_probabilities.double(),
        evidence=batch.evidence.double(),
    )


def test_untrained_a_network_answers_what_each_machine_answers() -> None:
    config = AreaNetworkConfig(width=16)
    batch = random_batch([small_graph()])
    network = InterModalGraph(config, SHAPE).eval()
    torch.testing.assert_close(network(batch).fused.machines, torch.log_softmax(batch.log_probabilities, 1))


@pytest.mark.parametrize("kind", ["ima", "hgt_early", "hgt_late", "han_early", "han_late"])
def test_a_machine_hears_of_a_machine_two_hops_away_and_alone_of_none(kind: Kind) -> None:
    """Machines 0 and 2 share a utility and nothing else connects them."""
    graph = area_graph([[0, 2]], [(1,)], machines=3, classes=CLASSES, machine_types=["a", "b", "c"])
    for config, connected in ((AreaNetworkConfig(kind=kind, width=16), True), (AreaNetworkConfig(kind="alone"), False)):
        network, batch = random_network(config), random_batch([graph], texts=0)
        changed = batch.features[MACHINE][0].clone()
        changed[2] += 1
        features = ((changed, *batch.features[MACHINE][1:]), *batch.features[UTILITY:])
        one, other = network(batch).fused.machines, network(replace(batch, features=features)).fused.machines
        assert torch.equal(one[0], other[0]) is not connected
        assert not torch.equal(one[2], other[2])
        assert torch.equal(one[1], other[1])


def test_absent_inputs_are_not_read() -> None:
    """Whatever stands in the place of an absent modality, the answers are the same."""
    rng, graph = np.random.default_rng(5), small_graph()
    network = random_network(AreaNetworkConfig(width=16))
    features = random_features(rng, graph, missing=0.5)
    batch = graph_batch([(graph, features)], SHAPE)
    lacking = (batch.present[MACHINE] == 0).unsqueeze(2)
    assert lacking.any()
    filled = tuple(x + 7 * lacking[:, m] for m, x in enumerate(batch.features[MACHINE]))
    assert_close(network(batch), network(replace(batch, features=(filled, *batch.features[1:]))))


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ValidationError, match="no multiple of the 3 heads"):
        AreaNetworkConfig(width=40, heads=3)
    with pytest.raises(ValidationError, match="hgt_early has no 'align' to leave out"):
        AreaNetworkConfig(kind="hgt_early", without=("align",))


@pytest.mark.parametrize(
    ("members", "faults", "types", "feeds"),
    [
        ([[3]], [[1]], ["a"] * 3, {}),
        ([[0]], [[0]], ["a"] * 3, {}),
        ([[0]], [[1]], ["a"] * 2, {}),
        ([[0]], [[1]], ["a"] * 3, {0: [3]}),
    ],
)
def test_graphs_of_what_is_not_there_are_refused(
    members: list[list[int]], faults: list[list[int]], types: list[str], feeds: dict[int, list[int]]
) -> None:
    with pytest.raises(ValueError, match=r"machine|type"):
        area_graph(members, faults, machines=3, classes=CLASSES, machine_types=types, feeds=feeds)


def test_every_relation_has_its_reverse() -> None:
    graph: AreaGraph = small_graph(6)
    pairs = [set(zip(e.source.tolist(), e.target.tolist(), strict=True)) for e in graph.edges]
    assert all(pairs[:5])
    for one, other in ((0, 1), (2, 3), (4, 4)):
        assert pairs[one] == {(target, source) for source, target in pairs[other]}
        assert RELATIONS[one].source == RELATIONS[other].target


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-50, 50, width=32)), min_size=1, max_size=12))
def test_softmax_over_groups_is_the_softmax_of_each_group(rows: list[tuple[int, float]]) -> None:
    group, values = torch.tensor([g for g, _ in rows]), torch.tensor([v for _, v in rows])
    found, logs, means = (
        scatter_softmax(values, group, 4),
        scatter_log_softmax(values, group, 4),
        scatter_mean(values, group, 4),
    )
    for g in range(4):
        torch.testing.assert_close(found[group == g], torch.softmax(values[group == g], 0))
        torch.testing.assert_close(logs[group == g], torch.log_softmax(values[group == g], 0))
        expected = values[group == g].mean() if (group == g).any() else torch.tensor(0.0)
        torch.testing.assert_close(means[g], expected)


def test_inputs_of_a_batch_are_finite() -> None:
    for missing in (0.0, 1.0):
        assert all(torch.isfinite(x).all() for x in tensors(random_batch([small_graph()], missing=missing)))


def test_frames_hold_what_they_say() -> None:
    rng, graph = np.random.default_rng(0), small_graph()
    features = random_features(rng, graph, texts=2)
    assert [x.shape for x in features.machines] == [(4, 4 * CLASSES + 6), (4, 4 * CLASSES + 3)]
    assert features.evidence.shape == (2, CLASSES, 7)
