"""The importance of variables: what a model reads matters, and what it does not read does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.data.runs import Run
from models.experiments.importance import variable_importance
from models.training.fitting.evidence import sensor_answers
from models.training.loop import Progress
from tests.support.models_tiny import VARIABLES, machine_type, network


def test_only_variables_that_change_the_answer_matter() -> None:
    made = network(texts=False)
    rng = np.random.default_rng(0)
    values = (made.mean.numpy() + 3 * made.std.numpy() * rng.standard_normal((6, 80, VARIABLES))).astype(np.float32)
    values[:, :, 2] = made.mean.numpy()[2]
    names = machine_type().variable_names
    # The network's own answers are the truth, so that whatever moves them costs.
    runs = [Run(str(at), str(at), "file", readings, np.zeros(80, np.int64)) for at, readings in enumerate(values)]
    last = [layer for layer in made.sensors.modules() if isinstance(layer, nn.Linear)][-1]
    logits = np.concatenate([answer.logits for answer in sensor_answers(made, runs, 3)])
    with torch.no_grad():  # untrained weights always name the same class, unless its lead is taken away
        last.bias.sub_(torch.from_numpy(logits.mean(axis=0)))
    truth = [answer.logits.argmax(axis=1) for answer in sensor_answers(made, runs, 3)]
    assert len(np.unique(np.concatenate(truth))) > 1
    runs = [Run(run.name, run.group, run.source, run.values, labels) for run, labels in zip(runs, truth, strict=True)]
    seen: list[Progress] = []
    importance = variable_importance(made, runs, names, 3, seed=1, on_progress=seen.append)
    assert importance == variable_importance(made, runs, names, 3, seed=1)
    assert set(importance) == set(names)
    assert list(importance.values()) == sorted(importance.values(), reverse=True)
    assert importance[names[2]] == pytest.approx(0)
    assert max(importance.values()) > 0.02
    assert seen[-1].epoch == seen[-1].epochs == VARIABLES
