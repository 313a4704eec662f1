"""HGNN-IMA: a heterogeneous graph transformer whose attention over neighbours nests an attention over modalities.

Li, Zhu et al., "Representation Learning with Mutual Influence of Modalities for Node Classification in Multi-Modal
Heterogeneous Networks", IJCAI 2025. Where the published equations contradict its text, the text is followed: keys are
typed by the source, l is normalised over the modalities, and consistent neighbours gain weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.graph import NODE_TYPES, RELATIONS
from models.areas.networks.base import (
    AreaNetwork,
    GraphBatch,
    Joined,
    Outputs,
    near_identity,
    split_heads,
    through_heads,
    typed_matrix,
)
from models.areas.networks.scatter import scatter_softmax, scatter_sum


class Attention(NamedTuple):
    """Attention over the edges of one relation; E edges, M modalities, H heads."""

    a: Tensor  # (E, M, H) of each modality over the neighbours
    l: Tensor  # (E, M, H) over the modalities of an edge  # noqa: E741
    k: Tensor  # (E, H) consistency, over the neighbours
    weights: Tensor  # (E, M, H) what the neighbours' values are weighted with


def nested_attention(g: Tensor, s: Tensor, target: Tensor, targets: int, config: AreaNetworkConfig) -> Attention:
    """The weights of a relation's edges, from scores between nodes g and between modalities s, (E, M, H) each.

    a = softmax over the neighbours of g; l = softmax over the modalities of s; b = sum_m l a;
    k = softmax over the neighbours of -sum_{m1<m2} |g_m1 - g_m2|; the weights are softmax(b k) or b k / sum(b k).
    """
    modalities = g.shape[1]
    a = scatter_softmax(g, target, targets)
    l = torch.full_like(s, 1 / modalities) if "adapt" in config.without else torch.softmax(s, 1)  # noqa: E741
    pairs = [(m1, m2) for m1 in range(modalities) for m2 in range(m1 + 1, modalities)]
    apart = [(g[:, m1] - g[:, m2]).abs() for m1, m2 in pairs]
    differing = torch.stack(apart).sum(0) if apart else torch.zeros_like(g[:, 0])
    k = scatter_softmax(-differing, target, targets)
    if "cross" in config.without:
        return Attention(a, l, k, a)
    b = a if "inf" in config.without else (l * a).sum(1, keepdim=True)
    scores = b if "align" in config.without else b * k.unsqueeze(1)
    if config.renormalisation == "softmax":
        weights = scatter_softmax(scores, target, targets)
    else:
        weights = scores / scatter_sum(scores, target, targets).clamp_min(1e-12).index_select(0, target)
    return Attention(a, l, k, weights.expand_as(a))


def attention_loss(l: Tensor, lacking: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
    """Sum and number of the weights l (E, M, H) on modalities that the source of their edge lacks (E, M)."""
    return (l * lacking.unsqueeze(2)).sum(), lacking.sum() * l.shape[2]


class InterModalLayer(nn.Module):
    """One round of messages along all relations, and the update of every node and modality."""

    def __init__(self, config: AreaNetworkConfig, modalities: int) -> None:
        super().__init__()
        self.config = config
        self.modalities = modalities
        types, relations, width, heads = len(NODE_TYPES), len(RELATIONS), config.width, config.heads
        head = width // heads
        self.key = typed_matrix(width, width, types)
        self.query = typed_matrix(width, width, types)
        self.value = typed_matrix(width, width, types)
        self.output = typed_matrix(width, width, types)
        self.node = near_identity(head, relations, heads)
        self.modality = near_identity(head, relations, modalities, heads)
        self.message = near_identity(head, relations, heads)
        self.relation = nn.Parameter(torch.ones(relations))
        """mu, how much a relation counts."""
        self.skip = nn.Parameter(torch.zeros(types))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, nodes: list[Tensor], batch: GraphBatch) -> tuple[list[Tensor], list[Attention | None]]:
        """Nodes (nodes, M, W) of each type after the round, and the attention of each relation that has edges."""
        received = [torch.zeros_like(h) for h in nodes]
        relations = [h.new_zeros(h.shape[0]) for h in nodes]
        found: list[Attention | None] = []
        for index, relation in enumerate(RELATIONS):
            source, target = batch.edges[index]
            if not len(source) or "nei" in self.config.without:
                found.append(None)
                continue
            attention, messages = self._relation(index, nodes, source, target)
            found.append(attention)
            weighted = messages * attention.weights.unsqueeze(3)
            into = relation.target
            received[into] = received[into].index_add(0, target, weighted.flatten(2))
            reached = torch.bincount(target, minlength=nodes[into].shape[0]) > 0
            relations[into] = relations[into] + reached.to(relations[into].dtype)
        return [self._updated(t, h, received[t], relations[t]) for t, h in enumerate(nodes)], found

    def _relation(self, index: int, nodes: list[Tensor], source: Tensor, target: Tensor) -> tuple[Attention, Tensor]:
        """Attention and messages (E, M, H, W / H) of one relation."""
        relation, heads = RELATIONS[index], self.config.heads
        h, targets = nodes[relation.source], nodes[relation.target]
        scale = self.relation[index] * (self.config.width // heads) ** -0.5
        key, value = self.key[relation.source], self.value[relation.source]
        queries = (targets @ self.query[relation.target]).index_select(0, target)
        g = _per_head(h @ (through_heads(key, self.node[index]) * scale), source, queries, heads)
        modal = torch.stack([through_heads(key, self.modality[index, m]) for m in range(self.modalities)])
        s = _per_head((h.transpose(0, 1) @ modal).transpose(0, 1), source, queries, heads)
        attention = nested_attention(g, s, target, targets.shape[0], self.config)
        values = (h @ through_heads(value, self.message[index])).index_select(0, source)
        return attention, split_heads(values, heads)

    def _updated(self, node_type: int, h: Tensor, received: Tensor, relations: Tensor) -> Tensor:
        """LN(sigma(e) A o + (1 - sigma(e)) h), with o the mean over the relations that reach a node."""
        mean = received / relations.clamp_min(1).view(-1, 1, 1)
        kept = torch.sigmoid(self.skip[node_type])
        changed: Tensor = self.norm(kept * self.dropout(mean @ self.output[node_type]) + (1 - kept) * h)
        return changed


class InterModalGraph(AreaNetwork):
    """HGNN-IMA over the nodes of areas, with the published readout or the repaired one."""

    def __init__(self, config: AreaNetworkConfig, shape: AreaShape) -> None:
        super().__init__(config, shape)
        self.layers = nn.ModuleList(InterModalLayer(config, shape.modalities) for _ in range(config.layers))
        self.score = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.joined = Joined(shape, config.width) if config.readout == "concatenation" else None

    def forward(self, batch: GraphBatch) -> Outputs:
        """Answers of all modalities together and, for the losses, of each alone."""
        nodes = self.encoder(batch)
        total, count, found = nodes[0].new_zeros(()), nodes[0].new_zeros(()), []
        for layer in self.layers:
            nodes, found = layer(nodes, batch)
            for index, attention in enumerate(found):
                if attention is not None:
                    lacking = 1 - batch.present[RELATIONS[index].source].index_select(0, batch.edges[index][0])
                    weights, number = attention_loss(attention.l, lacking)
                    total, count = total + weights, count + number
        if self.joined is None:
            fused = [(torch.softmax(torch.tanh(h @ self.score), 1).unsqueeze(2) * h).sum(1) for h in nodes]
        else:
            fused = self.joined(nodes, batch)
        alone = tuple(self.answers([h[:, m] for h in nodes], batch) for m in range(self.shape.modalities))
        weights_of_edges = tuple(
            a.weights.mean((1, 2)) if a is not None else nodes[0].new_zeros(len(batch.edges[r][0]))
            for r, a in enumerate(found)
        )
        return Outputs(self.answers(fused, batch), alone, total / count.clamp_min(1), weights_of_edges)


def _per_head(keys: Tensor, source: Tensor, queries: Tensor, heads: int) -> Tensor:
    """(E, M, H): products of the sources' keys (nodes, M, W) and the queries of the edges (E, M, W), per head."""
    products = keys.index_select(0, source) * queries
    return split_heads(products, heads).sum(3)
