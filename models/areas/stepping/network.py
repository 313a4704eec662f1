"""A network of areas as compiled functions: from the features of one frame to scores of causes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.features import SCALE, AreaFeatures
from models.areas.graph import UTILITY
from models.areas.stepping.answers import ANSWER
from models.areas.stepping.edges import StepEdges, neighbours
from models.areas.stepping.inter_modal import INTER_MODAL
from models.areas.stepping.kernels import ENCODE, JOIN, READ_OUT
from models.areas.stepping.layers import HIERARCHICAL, TRANSFORM, Edges
from models.areas.stepping.weights import nesting, take_weights
from models.model_file import Weights
from models.stepping.kernels.codes import padded
from models.stepping.programs.weights import WeightReader
from pipeline.arrays import Floats
from pipeline.compiled import CompiledFunction, Notify, compile_all

_WHAT: Final = "the networks of areas"


class NetworkAnswer(NamedTuple):
    """About one frame of one area; N machines, U utilities, C classes."""

    none: float
    """Score of no cause; probabilities are the softmax of all scores of causes."""
    own: Floats  # (N,) of each machine's own fault
    shared: Floats  # (U, C) of each utility's classes, of which only its faults are candidates
    machines: Floats  # (N, C) corrected probabilities
    neighbours: Floats | None
    """(N, N + U) how much each machine took from each node in the last round; None without rounds."""


class CompiledAreaNetwork:
    """Steps a network; what it remembers is in the features."""

    def __init__(
        self,
        config: AreaNetworkConfig,
        shape: AreaShape,
        tensors: Mapping[str, Weights],
        *,
        path: Path,
        notify: Notify,
    ) -> None:
        """`tensors` are named as in torch, `path` is for messages; raises ModelFileError if one does not fit."""
        reader = WeightReader(path, tensors)
        self.config, self.shape = config, shape
        self._weights = take_weights(reader, config, shape)
        reader.finish()
        self._nesting = nesting(config)
        self._notify = notify

    @property
    def evidence_weights(self) -> tuple[np.float32, np.float32]:
        """How much machines' log odds of a utility's fault count in its score, and those by texts; 1 if they do not."""
        if not self.config.evidence:
            return np.float32(1), np.float32(1)
        shared = self._weights.head.shared
        return max(shared[0], np.float32(0)), max(shared[-1], np.float32(0))

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        layer = {"ima": INTER_MODAL, "han": HIERARCHICAL, "hgt": TRANSFORM}.get(self.config.kind[:3])
        needed: list[CompiledFunction] = [ENCODE, ANSWER, *([] if layer is None else [layer])]
        needed.append(JOIN if self.config.joins else READ_OUT)
        compile_all(needed, _WHAT, self._notify)

    def step(self, features: AreaFeatures, edges: StepEdges) -> NetworkAnswer:
        """What the network makes of one frame; `edges` are those of the area and of the frame's texts."""
        h, present = self._encoded(features, edges.edges)
        taken: Floats | None
        if self.config.kind == "ima":
            h, taken = self._inter_modal(h, edges.edges)
            h = self._joined(h, present, edges.edges)
        else:
            if self.config.joins:
                h = self._joined(h, present, edges.edges)
            h, taken = self._graphs(h, edges.edges)
        return self._answer(h, features, edges, taken)

    def _encoded(self, features: AreaFeatures, edges: Edges) -> tuple[Floats, Floats]:
        """Vectors (M, V, W) of all nodes, and which modalities they have, (V, M)."""
        shape, (utilities, texts, nodes) = self.shape, (int(place) for place in edges.first[1:])
        present = np.zeros((nodes, shape.modalities), np.float32)
        present[:utilities] = features.present
        for modality in range(shape.modalities):
            if shape.utility_features[modality]:
                present[utilities:texts, modality] = features.utility_present
            if shape.text_features[modality]:
                present[texts:, modality] = 1
        present[utilities:texts, 0] = 1
        of_utilities = SCALE * features.evidence.reshape(texts - utilities, -1)
        h = np.zeros((shape.modalities, nodes, self.config.width), np.float32)
        encode = ENCODE.compile()
        for node_type, modality, matrix, bias in self._weights.encoders:
            begin, end = edges.first[node_type], edges.first[node_type + 1]
            if end > begin:
                given = (features.machines[modality], of_utilities, features.texts)[node_type]
                if node_type == UTILITY and modality:
                    given = features.utility_probabilities
                x = np.ascontiguousarray(given, np.float32)
                there = np.ascontiguousarray(present[begin:end, modality])
                at = int(modality * nodes + begin) * self.config.width
                encode(x.ravel(), x.shape[1], matrix, bias, there, at, h.ravel())
        return h, present

    def _joined(self, h: Floats, present: Floats, edges: Edges) -> Floats:
        """One vector of each node, (1, V, W)."""
        joined = np.zeros((1, *h.shape[1:]), np.float32)
        weights = self._weights
        if weights.joined is not None:
            JOIN.compile()(h.ravel(), present.ravel(), edges.first, *weights.joined, h.shape[2], joined.ravel())
        else:
            READ_OUT.compile()(h.ravel(), weights.score, len(h), joined.ravel())
        return joined

    def _inter_modal(self, h: Floats, edges: Edges) -> tuple[Floats, Floats | None]:
        """Vectors (M, V, W) after all rounds, and the edges' weights in the last one."""
        isolated = "nei" in self.config.without
        if isolated:
            edges = edges._replace(starts=np.zeros_like(edges.starts))
        taken = np.empty(len(edges.sources), np.float32)
        for layer in self._weights.graphs[0]:
            changed = np.empty_like(h)
            INTER_MODAL.compile()(
                h.ravel(), edges, layer, len(h), self.config.heads, self._nesting, changed.ravel(), taken
            )
            h = changed
        return h, None if isolated else taken

    def _graphs(self, h: Floats, edges: Edges) -> tuple[Floats, Floats | None]:
        """Vectors (G, V, W) of every graph after all rounds, and the edges' weights, means of the graphs."""
        if not self.config.rounds:
            return h, None
        step = (HIERARCHICAL if self.config.kind.startswith("han") else TRANSFORM).compile()
        total = np.zeros(len(edges.sources), np.float32)
        size = h[0].size
        for number in range(self.config.rounds):
            changed, total = np.empty_like(h), np.zeros(len(edges.sources), np.float32)
            for g, layers in enumerate(self._weights.graphs):
                taken = np.empty(len(edges.sources), np.float32)
                step(h.ravel(), g * size, edges, layers[number], self.config.heads, changed.ravel(), taken)
                total += taken
            h = changed
        return h, total / np.float32(len(h))

    def _answer(self, h: Floats, features: AreaFeatures, edges: StepEdges, taken: Floats | None) -> NetworkAnswer:
        utilities, classes, _ = features.evidence.shape
        machines = len(features.log_probabilities)
        corrected = np.empty((machines, padded(classes)), np.float32)
        causes = np.empty(1 + machines + utilities * classes, np.float32)
        logs, evidence = features.log_probabilities.ravel(), features.evidence.ravel()
        ANSWER.compile()(
            h.ravel(), len(h), edges.edges.first, logs, evidence, self._weights.head, corrected.ravel(), causes
        )
        own, shared = causes[1 : 1 + machines], causes[1 + machines :].reshape(utilities, classes)
        by_relation = not self.config.kind.startswith("hgt")
        shown = None if taken is None else neighbours(edges, taken, over_relations=by_relation)
        return NetworkAnswer(float(causes[0]), own, shared, corrected[:, :classes], shown)
