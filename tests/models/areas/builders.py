"""Small areas with random answers, for tests of the networks of areas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.features import AreaFeatures, AreaInputs, FeatureBuilder, area_shape
from models.areas.graph import AreaGraph, area_graph
from models.areas.networks.base import AreaNetwork, GraphBatch
from models.areas.networks.batches import graph_batch
from models.areas.networks.graphs import build_area_network

CLASSES, EMBEDDINGS, TEXT_SIZE, QUIET = 5, (6, 3), 8, (0, 4)
SHAPE: AreaShape = area_shape(CLASSES, EMBEDDINGS, text_size=TEXT_SIZE, text_modality=1, quiet=QUIET)


def small_graph(machines: int = 4) -> AreaGraph:
    """Machines of two types, two utilities that share all but the last machine and the last two, and one feed."""
    return area_graph(
        [range(machines - 1), range(machines - 2, machines)],
        [(1, 2), (3,)],
        machines=machines,
        classes=CLASSES,
        machine_types=["reactor" if m % 2 else "column" for m in range(machines)],
        feeds={0: [1]},
    )


def random_inputs(rng: np.random.Generator, graph: AreaGraph, *, missing: float = 0.0, texts: int = 1) -> AreaInputs:
    """A frame with random answers, a share of the modalities missing, and texts about random machines or utilities."""
    machines, modalities = graph.machines, len(EMBEDDINGS)
    scores = rng.normal(size=(machines, 1 + modalities, CLASSES)) * 3
    answers = (scores - np.log(np.exp(scores).sum(2, keepdims=True))).astype(np.float32)
    about = rng.integers(0, machines + graph.utilities, texts)
    return AreaInputs(
        probabilities=np.exp(answers[:, 0]),
        answers=answers[:, 1:].argmax(2),
        confidence=np.exp(answers[:, 1:].max(2)),
        utility_probabilities=np.exp(answers[: graph.utilities, 0]),
        utility_present=rng.random(graph.utilities) >= missing,
        present=rng.random((machines, modalities)) >= missing,
        embeddings=tuple(rng.normal(size=(machines, size)).astype(np.float32) for size in EMBEDDINGS),
        texts=rng.normal(size=(texts, TEXT_SIZE)).astype(np.float32),
        text_machines=about[:, None] == np.arange(machines),
        text_utilities=about[:, None] == machines + np.arange(graph.utilities),
    )


def random_features(
    rng: np.random.Generator, graph: AreaGraph, *, missing: float = 0.0, texts: int = 1
) -> AreaFeatures:
    """Features of the third frame of an area."""
    builder = FeatureBuilder(graph, QUIET, lambda line: None)
    for _ in range(2):
        builder.step(random_inputs(rng, graph))
    return builder.step(random_inputs(rng, graph, missing=missing, texts=texts))


def random_batch(areas: Sequence[AreaGraph], *, seed: int = 0, missing: float = 0.0, texts: int = 1) -> GraphBatch:
    """One frame of each area."""
    rng = np.random.default_rng(seed)
    frames = [(graph, random_features(rng, graph, missing=missing, texts=texts)) for graph in areas]
    return graph_batch(frames, SHAPE)


def random_network(config: AreaNetworkConfig, seed: int = 0) -> AreaNetwork:
    """A network in eval mode all of whose weights are random, also those that start at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_area_network(config, SHAPE).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def tensors(batch: GraphBatch) -> Iterator[Tensor]:
    """The floating point inputs of a batch."""
    for group in batch.features:
        yield from group
    yield from (*batch.present, batch.log_probabilities, batch.evidence)
