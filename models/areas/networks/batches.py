"""Frames of areas put together into one batch of graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.areas.config import AreaShape
from models.areas.features import SCALE, AreaFeatures
from models.areas.graph import RELATIONS, AreaGraph
from models.areas.networks.base import GraphBatch
from pipeline.arrays import Floats, Ints


def graph_batch(frames: Sequence[tuple[AreaGraph, AreaFeatures]], shape: AreaShape) -> GraphBatch:
    """One batch from frames of areas, each with the area's graph."""
    graphs, features = [graph for graph, _ in frames], [found for _, found in frames]
    first = [_starts([graph.machines for graph in graphs]), _starts([graph.utilities for graph in graphs])]
    first.append(_starts([len(found.texts) for found in features]))
    sources: list[list[Ints]] = [[] for _ in RELATIONS]
    targets: list[list[Ints]] = [[] for _ in RELATIONS]
    for number, (graph, found) in enumerate(frames):
        for r, (source, target) in enumerate(_edges(graph, found)):
            sources[r].append(source + first[RELATIONS[r].source][number])
            targets[r].append(target + first[RELATIONS[r].target][number])
    utilities, modalities = sum(graph.utilities for graph in graphs), shape.modalities
    evidence = np.concatenate([found.evidence for found in features])
    texts = np.concatenate([found.texts for found in features])
    machines = np.concatenate([found.present for found in features]).astype(np.float32)
    about = np.concatenate([found.utility_present for found in features])
    of_utility = np.stack([about if size else np.zeros_like(about) for size in shape.utility_features], 1)
    of_utility[:, 0] = True
    said = np.concatenate([found.utility_probabilities for found in features])
    of_text = np.tile(np.array([size > 0 for size in shape.text_features], np.float32), (len(texts), 1))
    inputs: list[list[Floats]] = [
        [np.concatenate([found.machines[m] for found in features]) for m in range(modalities)],
        [SCALE * evidence.reshape(utilities, -1)]
        + [said if size else _nothing(utilities) for size in shape.utility_features[1:]],
        [texts if size else _nothing(len(texts)) for size in shape.text_features],
    ]
    return GraphBatch(
        features=tuple(tuple(_tensor(x) for x in group) for group in inputs),
        present=(_tensor(machines), _tensor(of_utility.astype(np.float32)), _tensor(of_text)),
        edges=tuple(
            (_indices(np.concatenate(s)), _indices(np.concatenate(t))) for s, t in zip(sources, targets, strict=True)
        ),
        areas=len(frames),
        area=(_owners([g.machines for g in graphs]), _owners([g.utilities for g in graphs])),
        log_probabilities=_tensor(np.concatenate([found.log_probabilities for found in features])),
        evidence=_tensor(evidence),
        faults=torch.from_numpy(np.concatenate([graph.faults for graph in graphs])),
    )


def _edges(graph: AreaGraph, features: AreaFeatures) -> list[tuple[Ints, Ints]]:
    """All edges of a frame: those of the area, and those of its event texts."""
    about_machine, about_utility = np.nonzero(features.text_machines), np.nonzero(features.text_utilities)
    texts = [about_machine, about_machine[::-1], about_utility, about_utility[::-1]]
    return [*((edges.source, edges.target) for edges in graph.edges[:5]), *((s, t) for s, t in texts)]


def _starts(counts: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def _owners(counts: Sequence[int]) -> Tensor:
    return _indices(np.repeat(np.arange(len(counts)), counts))


def _nothing(rows: int) -> Floats:
    return np.zeros((rows, 0), np.float32)


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _indices(values: Ints) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
