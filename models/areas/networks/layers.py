"""Layers of one vector per node: the heterogeneous graph transformer, and the hierarchical attention of HAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, leaky_relu

from models.areas.config import AreaNetworkConfig
from models.areas.graph import NODE_TYPES, RELATIONS
from models.areas.networks.base import GraphBatch, near_identity, split_heads, through_heads, typed_matrix
from models.areas.networks.scatter import scatter_softmax, scatter_sum


def relations_into(node_type: int, batch: GraphBatch) -> list[int]:
    """Relations that end at nodes of a type and have edges."""
    return [r for r, relation in enumerate(RELATIONS) if relation.target == node_type and len(batch.edges[r][0])]


class TransformerLayer(nn.Module):
    """HGT (Hu et al., WWW 2020): attention over all neighbours of a node, whatever their relation."""

    def __init__(self, config: AreaNetworkConfig) -> None:
        super().__init__()
        types, relations, width, heads = len(NODE_TYPES), len(RELATIONS), config.width, config.heads
        self.heads = heads
        self.key = typed_matrix(width, width, types)
        self.query = typed_matrix(width, width, types)
        self.value = typed_matrix(width, width, types)
        self.output = typed_matrix(width, width, types)
        self.attention = near_identity(width // heads, relations, heads)
        self.message = near_identity(width // heads, relations, heads)
        self.relation = nn.Parameter(torch.ones(relations))
        self.skip = nn.Parameter(torch.zeros(types))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, nodes: list[Tensor], batch: GraphBatch) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Nodes (nodes, W) of each type after the round, and per relation each edge's weight, mean of the heads."""
        changed: list[Tensor] = []
        found: dict[int, Tensor] = {}
        for node_type, h in enumerate(nodes):
            received = torch.zeros_like(h)
            if relations := relations_into(node_type, batch):
                target = torch.cat([batch.edges[r][1] for r in relations])
                parts = [self._relation(r, nodes, batch) for r in relations]
                keys, messages = torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts])
                queries = split_heads(h @ self.query[node_type], self.heads).index_select(0, target)
                weights = scatter_softmax((keys * queries).sum(2), target, h.shape[0])
                received = scatter_sum(messages * weights.unsqueeze(2), target, h.shape[0]).flatten(1)
                sizes = [len(k) for k, _ in parts]
                found |= dict(zip(relations, torch.split(weights.mean(1), sizes), strict=True))
            kept = torch.sigmoid(self.skip[node_type])
            message = self.dropout(received @ self.output[node_type])
            changed.append(self.norm(kept * message + (1 - kept) * h))
        return changed, found

    def _relation(self, index: int, nodes: list[Tensor], batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Keys and messages (E, H, W / H) of the edges of one relation."""
        source = RELATIONS[index].source
        h, edges = nodes[source], batch.edges[index][0]
        scale = self.relation[index] * (self.key.shape[1] // self.heads) ** -0.5
        keys = h @ (through_heads(self.key[source], self.attention[index]) * scale)
        values = h @ through_heads(self.value[source], self.message[index])
        return (
            split_heads(keys, self.heads).index_select(0, edges),
            split_heads(values, self.heads).index_select(0, edges),
        )


class HierarchicalLayer(nn.Module):
    """HAN (Wang et al., WWW 2019): attention over the neighbours of each relation, then over the relations.

    Each relation is a meta-path, and so is a node itself. The attention over relations is a node's own: its mean over
    all nodes, as published, would make the answer about an area depend on the other areas of its batch.
    """

    def __init__(self, config: AreaNetworkConfig) -> None:
        super().__init__()
        types, relations, width, heads = len(NODE_TYPES), len(RELATIONS), config.width, config.heads
        self.heads = heads
        self.project = typed_matrix(width, width, types)
        self.from_source = typed_matrix(width // heads, heads, relations)
        self.from_target = typed_matrix(width // heads, heads, relations)
        self.semantic = nn.Linear(width, width)
        self.query = nn.Parameter(torch.randn(width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, nodes: list[Tensor], batch: GraphBatch) -> tuple[list[Tensor], dict[int, Tensor]]:
        """As of `TransformerLayer`."""
        projected = [split_heads(h @ w, self.heads) for h, w in zip(nodes, self.project, strict=True)]
        changed: list[Tensor] = []
        found: dict[int, Tensor] = {}
        for node_type, h in enumerate(nodes):
            paths, there = [projected[node_type].flatten(1)], [h.new_ones(h.shape[0])]
            for r in relations_into(node_type, batch):
                source, target = batch.edges[r]
                values = projected[RELATIONS[r].source].index_select(0, source)
                scores = torch.einsum("ehd,dh->eh", values, self.from_source[r]) + torch.einsum(
                    "ehd,dh->eh", projected[node_type].index_select(0, target), self.from_target[r]
                )
                weights = scatter_softmax(leaky_relu(scores, 0.2), target, h.shape[0])
                found[r] = weights.mean(1)
                paths.append(elu(scatter_sum(values * weights.unsqueeze(2), target, h.shape[0]).flatten(1)))
                there.append((torch.bincount(target, minlength=h.shape[0]) > 0).to(h.dtype))
            stacked, reached = torch.stack(paths, 1), torch.stack(there, 1)
            scores = torch.tanh(self.semantic(stacked)) @ self.query
            shares = torch.softmax(scores.masked_fill(reached == 0, -torch.inf), 1)
            changed.append(self.norm(h + self.dropout((stacked * shares.unsqueeze(2)).sum(1))))
        return changed, found
