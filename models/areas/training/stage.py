"""The training stage of all networks of areas, with the same losses and the same examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from models.areas.networks.base import AreaNetwork, CauseAnswers, Outputs, candidate_areas
from models.areas.networks.scatter import scatter_log_softmax, scatter_sum
from models.areas.training.examples import Batch
from models.training.loop import EpochRecord

MACHINE_SHARE = 0.5
"""How much the machines' corrected answers count beside the causes."""


class AreaStage:
    """Trains a network on batches, and validates it on others."""

    name = "areas"

    module: nn.Module

    def __init__(
        self, network: AreaNetwork, train: Callable[[], Sequence[Batch]], validation: Callable[[], Sequence[Batch]]
    ) -> None:
        """The batches are asked for in every epoch, and not if there is none left to train."""
        self.module = self._network = network
        self._train = train
        self._validation = validation

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """One epoch over the batches in a drawn order."""
        train = self._train()
        order = rng.permutation(len(train))
        for done, index in enumerate(order):
            batch = train[index]
            yield (done + 1) / len(order), area_loss(self._network, self._network(batch.graph), batch)

    def validate(self) -> EpochRecord:
        """Mean loss of the fused answers on validation, and the share of right causes."""
        losses, right, count = [], 0.0, 0
        with torch.no_grad():
            for batch in self._validation():
                answers = self.module(batch.graph).fused
                losses.append(float(cause_loss(answers, batch)))
                right += float(right_causes(answers, batch).sum())
                count += batch.graph.areas
        loss = float(np.mean(losses)) if losses else None
        score = 0.0 if loss is None else -loss
        return {"validation_loss": loss, "score": score, "accuracy": right / count if count else None}


def cause_loss(answers: CauseAnswers, batch: Batch) -> Tensor:
    """Mean over the areas of -log of the probability of all causes that are right."""
    areas = candidate_areas(batch.graph)[batch.causes]
    # -log sum p as the log-softmax over the right causes and the whole area's rest, which is stable.
    scores = answers.causes[batch.causes]
    largest = scores - scatter_log_softmax(scores, areas, batch.graph.areas)
    # Of each area the log of the sum is the same in all its rows.
    first = scatter_sum(torch.ones_like(scores), areas, batch.graph.areas).index_select(0, areas)
    return -(largest / first).sum() / batch.graph.areas


def right_causes(answers: CauseAnswers, batch: Batch) -> Tensor:
    """(A,) bool: whether the most probable cause of an area is right."""
    areas, count = candidate_areas(batch.graph), batch.graph.areas
    best = answers.causes.new_full((count,), -torch.inf).scatter_reduce(0, areas, answers.causes, "amax")
    named = answers.causes >= best.index_select(0, areas)
    return scatter_sum((named & batch.causes).float(), areas, count) > 0


def area_loss(network: AreaNetwork, outputs: Outputs, batch: Batch) -> Tensor:
    """L = (CE(O) + sum_m CE(O^m)) / (1 + M) + L_att, without what the configuration leaves out."""
    without = network.config.without
    answers = (outputs.fused,) if "l_ind" in without else (outputs.fused, *outputs.modalities)
    total = torch.stack([_answer_loss(each, batch) for each in answers]).mean()
    return total if "l_att" in without else total + outputs.attention_loss


def _answer_loss(answers: CauseAnswers, batch: Batch) -> Tensor:
    machines = nll_loss(answers.machines, batch.labels, ignore_index=-1)
    return cause_loss(answers, batch) + MACHINE_SHARE * machines
