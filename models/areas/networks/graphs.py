"""Networks of one vector per node: graphs over joined modalities, a graph per modality, and no graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.graph import RELATIONS
from models.areas.networks.base import AreaNetwork, CauseAnswers, GraphBatch, Joined, Outputs, candidate_areas
from models.areas.networks.ima import InterModalGraph
from models.areas.networks.layers import HierarchicalLayer, TransformerLayer
from models.areas.networks.scatter import scatter_log_softmax


def _layers(config: AreaNetworkConfig) -> nn.ModuleList:
    layer = HierarchicalLayer if config.kind.startswith("han") else TransformerLayer
    return nn.ModuleList(layer(config) for _ in range(config.rounds))


def _through_layers(
    layers: nn.ModuleList, nodes: list[Tensor], batch: GraphBatch
) -> tuple[list[Tensor], dict[int, Tensor]]:
    found: dict[int, Tensor] = {}
    for layer in layers:
        nodes, found = layer(nodes, batch)
    return nodes, found


def _all_edges(found: list[dict[int, Tensor]], batch: GraphBatch) -> tuple[Tensor, ...]:
    """Of each relation the edges' weights, mean of several graphs; 0 where a graph has none."""
    mean = []
    for r in range(len(RELATIONS)):
        nothing = batch.evidence.new_zeros(len(batch.edges[r][0]))
        mean.append(torch.stack([weights.get(r, nothing) for weights in found]).mean(0))
    return tuple(mean)


class EarlyGraph(AreaNetwork):
    """A node's modalities are joined first, then a graph of one vector per node; without layers there is no graph."""

    def __init__(self, config: AreaNetworkConfig, shape: AreaShape) -> None:
        super().__init__(config, shape)
        self.joined = Joined(shape, config.width)
        self.layers = _layers(config)

    def forward(self, batch: GraphBatch) -> Outputs:
        """Answers of all modalities together."""
        nodes, found = _through_layers(self.layers, self.joined(self.encoder(batch), batch), batch)
        answers = self.answers(nodes, batch)
        return Outputs(answers, (), batch.evidence.new_zeros(()), _all_edges([found], batch))


class LateGraph(AreaNetwork):
    """A graph per modality, whose answers are averaged as log-probabilities."""

    def __init__(self, config: AreaNetworkConfig, shape: AreaShape) -> None:
        super().__init__(config, shape)
        self.graphs = nn.ModuleList(_layers(config) for _ in range(shape.modalities))

    def forward(self, batch: GraphBatch) -> Outputs:
        """Answers of all modalities together and of each alone."""
        encoded = self.encoder(batch)
        alone, found = [], []
        for m, layers in enumerate(self.graphs):
            assert isinstance(layers, nn.ModuleList)
            nodes, weights = _through_layers(layers, [h[:, m] for h in encoded], batch)
            alone.append(self.answers(nodes, batch))
            found.append(weights)
        causes = torch.stack([a.causes for a in alone]).mean(0)
        fused = CauseAnswers(
            scatter_log_softmax(causes, candidate_areas(batch), batch.areas),
            torch.log_softmax(torch.stack([a.machines for a in alone]).mean(0), 1),
        )
        return Outputs(fused, tuple(alone), batch.evidence.new_zeros(()), _all_edges(found, batch))


def build_area_network(config: AreaNetworkConfig, shape: AreaShape) -> AreaNetwork:
    """An untrained network of the kind that the configuration names."""
    if config.kind == "ima":
        return InterModalGraph(config, shape)
    return LateGraph(config, shape) if config.kind.endswith("late") else EarlyGraph(config, shape)
