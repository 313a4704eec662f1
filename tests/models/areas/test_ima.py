"""The equations of HGNN-IMA: small cases by hand, and what must hold of its attention."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch

from models.areas.config import AreaNetworkConfig
from models.areas.networks.ima import InterModalGraph, InterModalLayer, attention_loss, nested_attention
from models.areas.networks.scatter import scatter_sum
from tests.models.areas.builders import SHAPE, random_batch, random_network, small_graph

PRODUCT = AreaNetworkConfig(width=16)
SOFTMAX = AreaNetworkConfig(width=16, renormalisation="softmax")
TARGET = torch.tensor([0, 0])


def one_head(*rows: tuple[float, float]) -> torch.Tensor:
    """Scores (edges, two modalities, one head)."""
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(2)


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_a_case_by_hand() -> None:
    """Two neighbours; g = (1, 0) and (0, 0), s = (0, 1) and (0, 0)."""
    found = nested_attention(one_head((1, 0), (0, 0)), one_head((0, 1), (0, 0)), TARGET, 1, PRODUCT)
    a = [[sigmoid(1), 0.5], [sigmoid(-1), 0.5]]
    l = [[sigmoid(-1), sigmoid(1)], [0.5, 0.5]]  # noqa: E741
    k = [sigmoid(-1), sigmoid(1)]  # the first neighbour's modalities differ by 1, the other's agree
    b = [a[j][0] * l[j][0] + a[j][1] * l[j][1] for j in range(2)]
    bk = [b[j] * k[j] for j in range(2)]
    np.testing.assert_allclose(found.a.squeeze(2), a, rtol=1e-6)
    np.testing.assert_allclose(found.l.squeeze(2), l, rtol=1e-6)
    np.testing.assert_allclose(found.k.squeeze(1), k, rtol=1e-6)
    for m in range(2):
        np.testing.assert_allclose(found.weights[:, m, 0], [bk[j] / sum(bk) for j in range(2)], rtol=1e-6)

    published = nested_attention(one_head((1, 0), (0, 0)), one_head((0, 1), (0, 0)), TARGET, 1, SOFTMAX)
    np.testing.assert_allclose(published.weights[:, 0, 0], [sigmoid(bk[0] - bk[1]), sigmoid(bk[1] - bk[0])], rtol=1e-6)


def test_ablations_by_hand() -> None:
    g, s = one_head((1, 0), (0, 0)), one_head((0, 1), (0, 0))

    def weights(*without: str) -> list[list[float]]:
        config = AreaNetworkConfig(width=16, without=without)
        found: list[list[float]] = nested_attention(g, s, TARGET, 1, config).weights.squeeze(2).tolist()
        return found

    a = [[sigmoid(1), 0.5], [sigmoid(-1), 0.5]]
    k = [sigmoid(-1), sigmoid(1)]
    mean = [(a[j][0] + a[j][1]) / 2 for j in range(2)]
    adapted = [mean[j] * k[j] for j in range(2)]
    np.testing.assert_allclose(weights("cross"), a, rtol=1e-6)
    np.testing.assert_allclose(weights("adapt"), [[adapted[j] / sum(adapted)] * 2 for j in range(2)], rtol=1e-6)
    np.testing.assert_allclose(weights("adapt", "align"), [[mean[j] / sum(mean)] * 2 for j in range(2)], rtol=1e-6)
    each = [[a[j][m] * k[j] for m in range(2)] for j in range(2)]
    sums = [each[0][m] + each[1][m] for m in range(2)]
    np.testing.assert_allclose(weights("inf"), [[each[j][m] / sums[m] for m in range(2)] for j in range(2)], rtol=1e-6)


@pytest.mark.parametrize("config", [PRODUCT, SOFTMAX], ids=["product", "softmax"])
def test_every_attention_sums_to_1_on_its_axis(config: AreaNetworkConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    g, s = (3 * torch.randn(9, 3, 2, generator=generator) for _ in range(2))
    target = torch.tensor([0, 2, 1, 0, 2, 2, 4, 2, 0])
    found = nested_attention(g, s, target, 5, config)
    reached = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    for attention in (found.a, found.k, found.weights):
        sums = scatter_sum(attention, target, 5)
        expected = reached.view(-1, *(1,) * (sums.dim() - 1)).expand_as(sums)
        torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(found.l.sum(1), torch.ones(9, 2))


def test_consistent_neighbours_gain_weight() -> None:
    """Neighbours that all modalities rank alike count more than those about which they differ."""
    g = one_head((0.5, 0.5), (1, 0))
    found = nested_attention(g, torch.zeros_like(g), TARGET, 1, PRODUCT)
    without = nested_attention(g, torch.zeros_like(g), TARGET, 1, AreaNetworkConfig(width=16, without=("align",)))
    assert found.weights[0, 0, 0] > without.weights[0, 0, 0]


def test_the_attention_loss_is_the_mean_weight_on_lacking_modalities() -> None:
    l = torch.tensor([[[0.9], [0.1]], [[0.3], [0.7]]])  # noqa: E741
    total, count = attention_loss(l, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert float(total / count) == pytest.approx((0.9 + 0.7) / 2)


def test_without_missing_modalities_there_is_no_attention_loss() -> None:
    network = random_network(PRODUCT)
    assert network(random_batch([small_graph()], missing=0.5, texts=0)).attention_loss.item() > 0
    batch = random_batch([small_graph()], missing=0.0, texts=0)
    for nodes in batch.present:
        nodes.fill_(1)
    assert network(batch).attention_loss.item() == 0.0


def test_a_node_that_nothing_reaches_keeps_its_direction() -> None:
    layer = InterModalLayer(PRODUCT, 2).eval()
    batch = random_batch([small_graph()], texts=0)
    nothing = torch.zeros(0, dtype=torch.int64)
    alone = type(batch)(**{f: getattr(batch, f) for f in batch.__slots__} | {"edges": ((nothing, nothing),) * 9})
    nodes = [torch.randn(x.shape[0], 2, 16) for x in batch.present]
    changed, found = layer(nodes, alone)
    torch.testing.assert_close(changed[0], layer.norm(nodes[0] / 2))
    assert found == [None] * 9


def test_the_published_readout_cannot_silence_a_modality() -> None:
    """Weights are softmax(tanh), so of two modalities each has at least 1 / (1 + e^2) of it."""
    network = random_network(AreaNetworkConfig(width=16, readout="tanh"))
    assert isinstance(network, InterModalGraph)
    with torch.no_grad():
        network.score.mul_(1e4)
    scores = torch.softmax(torch.tanh(torch.randn(50, SHAPE.modalities, 16) @ network.score), 1)
    assert scores.min().item() >= 1 / (1 + exp(2)) - 1e-6
