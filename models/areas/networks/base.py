"""What all networks of areas share: the batch of graphs, the input layer, and the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.graph import MACHINE, NODE_TYPES, UTILITY
from models.areas.networks.scatter import scatter_log_softmax, scatter_mean


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """Frames of areas as one graph without edges between them; N machines, U utilities, X texts, A areas in total."""

    features: tuple[tuple[Tensor, ...], ...]
    """Of each node type and modality (nodes, D_m); 0 where it is absent."""
    present: tuple[Tensor, ...]
    """Of each node type (nodes, M): 1 where a node has the modality, else 0."""
    edges: tuple[tuple[Tensor, Tensor], ...]
    """Of each relation the sources and targets of its edges, numbers among the nodes of their types."""
    areas: int
    area: tuple[Tensor, Tensor]
    """The area of each machine, and of each utility."""
    log_probabilities: Tensor
    """(N, C) each machine's own answer."""
    evidence: Tensor
    """(U, C, P) sums over the machines of each utility, for each class; see `models.areas.features`."""
    faults: Tensor
    """(U, C) bool: classes that are faults of the utility."""

    def nodes(self, node_type: int) -> int:
        """How many nodes of a type there are."""
        return self.present[node_type].shape[0]


class CauseAnswers(NamedTuple):
    """Answers about a batch. The candidates of an area are: no cause; each machine's own fault; each utility's faults.

    The rows of `causes` are A of the first, then N, then U x C; those that are no fault of their utility have -1e30.
    """

    causes: Tensor
    """(A + N + U C,) log-probabilities; those of an area sum to 1."""
    machines: Tensor
    """(N, C) corrected log-probabilities."""


class Outputs(NamedTuple):
    """Answers and what the losses and explanations need."""

    fused: CauseAnswers
    modalities: tuple[CauseAnswers, ...]
    """Of each modality alone by the same classifier; empty for networks that have none."""
    attention_loss: Tensor
    """L_att; 0 for networks without."""
    attention: tuple[Tensor, ...]
    """Of each relation each edge's weight in the last layer, mean over modalities and heads."""


UNLIKELY = -5.0
"""Score of a utility's fault for which nothing speaks, beside 0 of no cause."""
NOT_A_CAUSE = -1e30
"""Score of what is no candidate."""


def typed_matrix(rows: int, columns: int, *leading: int) -> nn.Parameter:
    """A trainable matrix, or several, with entries of variance 1 / rows."""
    return nn.Parameter(torch.randn(*leading, rows, columns) * rows**-0.5)


def near_identity(size: int, *leading: int) -> nn.Parameter:
    """Trainable square matrices that begin near the identity."""
    return nn.Parameter(torch.eye(size).expand(*leading, size, size) + 0.05 * torch.randn(*leading, size, size))


def split_heads(values: Tensor, heads: int) -> Tensor:
    """(..., H, W / H) from (..., W)."""
    return values.reshape(*values.shape[:-1], heads, values.shape[-1] // heads)


def through_heads(matrix: Tensor, per_head: Tensor) -> Tensor:
    """A matrix (W, W) followed by one (W / H, W / H) on the columns of each of the H heads."""
    heads, size = per_head.shape[0], per_head.shape[1]
    split = matrix.view(matrix.shape[0], heads, size)
    return torch.einsum("wha,hab->whb", split, per_head).reshape(matrix.shape)


class NodeEncoder(nn.Module):
    """h = tanh(W_{type,modality} x + b), and 0 for a modality that a node lacks."""

    def __init__(self, config: AreaNetworkConfig, shape: AreaShape) -> None:
        super().__init__()
        self.width = config.width
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(max(size, 1), config.width) for size in sizes) for sizes in config.inputs(shape)
        )

    def forward(self, batch: GraphBatch) -> list[Tensor]:
        """Of each node type (nodes, M, W)."""
        encoded = []
        for layers, features, present in zip(self.layers, batch.features, batch.present, strict=True):
            assert isinstance(layers, nn.ModuleList)
            each = [
                torch.tanh(layer(x[:, : layer.in_features]))
                if x.shape[1]
                else present.new_zeros(present.shape[0], self.width)
                for layer, x in zip(layers, features, strict=True)
            ]
            encoded.append(torch.stack(each, 1) * present.unsqueeze(2))
        return encoded


class Joined(nn.Module):
    """One vector per node: tanh of a linear map of all its modalities and of which it has, per node type."""

    def __init__(self, shape: AreaShape, width: int) -> None:
        super().__init__()
        modalities = shape.modalities
        self.layers = nn.ModuleList(nn.Linear(modalities * width + modalities, width) for _ in NODE_TYPES)

    def forward(self, nodes: list[Tensor], batch: GraphBatch) -> list[Tensor]:
        """Of each node type (nodes, W), from (nodes, M, W)."""
        return [
            torch.tanh(layer(torch.cat([h.flatten(1), present], 1)))
            for layer, h, present in zip(self.layers, nodes, batch.present, strict=True)
        ]


class AreaHead(nn.Module):
    """Scores of causes, and corrections of the machines' own answers, from one vector per machine and utility."""

    def __init__(self, config: AreaNetworkConfig, shape: AreaShape) -> None:
        super().__init__()
        width = config.width
        self.machine = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout))
        self.utility = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout))
        self.correction = nn.Linear(width, shape.classes)
        self.own = nn.Linear(width, 1)
        self.cause = nn.Linear(width, shape.classes)
        self.none = nn.Linear(2 * width, 1)
        self.faulty: Tensor
        self.own_evidence = nn.Parameter(torch.full((1,), 0.5))
        # Of the sum of the log odds now, and of what texts say: the best rule has these weights.
        weights = [1.0] + [0.0] * (shape.evidence - 2) + [8.0]
        self.shared_evidence = nn.Parameter(torch.tensor(weights)) if config.evidence else None
        faulty = [c not in shape.quiet for c in range(shape.classes)]
        self.register_buffer("faulty", torch.tensor(faulty), persistent=False)
        # Untrained, a network answers what each machine answers, and of utilities what the rule does.
        for layer in (self.correction, self.own, self.cause, self.none):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cause.bias, UNLIKELY)

    def forward(self, machines: Tensor, utilities: Tensor, batch: GraphBatch) -> CauseAnswers:
        """Answers from (N, W) and (U, W)."""
        of_machine, of_utility = batch.area
        own = batch.log_probabilities
        z, u = self.machine(machines), self.utility(utilities)
        corrected = torch.log_softmax(own + self.correction(z), 1)
        faulty, quiet = own[:, self.faulty].logsumexp(1), own[:, ~self.faulty].logsumexp(1)
        own_score = self.own(z).squeeze(1) + self.own_evidence * (faulty - quiet).clamp(-8, 8)
        cause = self.cause(u)
        if self.shared_evidence is not None:
            cause = cause + batch.evidence @ self.shared_evidence
        cause = torch.where(batch.faults, cause, cause.new_tensor(NOT_A_CAUSE))
        area = torch.cat([scatter_mean(z, of_machine, batch.areas), scatter_mean(u, of_utility, batch.areas)], 1)
        scores = torch.cat([self.none(area).squeeze(1), own_score, cause.flatten()])
        causes = scatter_log_softmax(scores, candidate_areas(batch), batch.areas)
        return CauseAnswers(causes, corrected)


def candidate_areas(batch: GraphBatch) -> Tensor:
    """The area of each row of `CauseAnswers.causes`."""
    of_machine, of_utility = batch.area
    classes = batch.log_probabilities.shape[1]
    return torch.cat([torch.arange(batch.areas), of_machine, of_utility.repeat_interleave(classes)])


class AreaNetwork(nn.Module):
    """A network of areas; without state, frame by frame."""

    def __init__(self, config: AreaNetworkConfig, shape: AreaShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.encoder = NodeEncoder(config, shape)
        self.head = AreaHead(config, shape)

    def forward(self, batch: GraphBatch) -> Outputs:
        """Answers about every area of the batch."""
        raise NotImplementedError

    def answers(self, nodes: list[Tensor], batch: GraphBatch) -> CauseAnswers:
        """The head's answers from one vector per node (nodes, W) of each type."""
        found: CauseAnswers = self.head(nodes[MACHINE], nodes[UTILITY], batch)
        return found
