"""Trainings that fit unknown faults: which rules they take, and that what is written is what was scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.model_file import read_model
from models.stepping.load import load_model
from models.training.config import TrainConfig
from models.training.fitting.evidence import part_evidence
from models.training.fitting.unknown import MOST_KNOWN, MOST_NORMAL, class_features, novelty_of, with_unknown
from models.training.prepare import prepare
from models.training.train import TrainReport
from pipeline.config.profile import load_profile
from pipeline.frames import Frames

# Fixtures of the detector's trainings.
from tests.models.test_detector_training import network_of, normal_only, plant, trained  # noqa: F401
from tests.support.models_tiny import machine_type

Trained = tuple[TrainConfig, TrainReport]


def test_rules_stay_within_their_limits_on_validation(trained: Trained) -> None:  # noqa: F811
    model = read_model(trained[1].model)
    recorded = model.header.training["unknown"]
    assert recorded["known_called_unknown"] <= MOST_KNOWN
    assert recorded["normal_called_unknown"] <= MOST_NORMAL
    assert model.header.unknown is bool(recorded["rules"])
    assert model.header.classes == (*machine_type().faults, *["unknown"] * model.header.unknown)


def test_normal_data_alone_give_normal_and_unknown(normal_only: Trained) -> None:  # noqa: F811
    model = read_model(normal_only[1].model)
    assert model.header.classes == ("normal", "unknown")
    assert model.header.training["unknown"]["rules"] == ["always"]


def test_the_model_file_calls_unknown_what_training_did(normal_only: Trained) -> None:  # noqa: F811
    config, report = normal_only
    data, network = prepare(config), network_of(report)
    (kind,) = load_profile(config.profile).machine_types
    evidence = part_evidence(network, data, "validation")
    expected = with_unknown(network, evidence, novelty_of(network, data.split.validation, data.hold_limit)).numpy()
    runner = load_model(report.model, kind, print)
    run = data.split.validation[0]
    for t in range(len(run)):
        values = run.values[t : t + 1]
        frames = Frames(
            np.zeros(1, np.int64),
            np.array([t * 1000]),
            1000,
            values,
            ~np.isnan(values),
            np.zeros(values.shape, np.int64),
            np.zeros(1, np.bool_),
            np.zeros(1, np.int64),
            np.zeros(1, np.int64),
        )
        np.testing.assert_allclose(runner.step(frames).probabilities[0], expected[t], atol=1e-4)


@pytest.mark.parametrize("size", [2, 5])
def test_classes_are_near_their_own_centre_and_far_from_others(size: int) -> None:
    rng = np.random.default_rng(size)
    shape = rng.standard_normal((size, size))
    classes = rng.integers(0, 3, 900)
    means = rng.standard_normal((3, size)) * 30
    features = (means[classes] + rng.standard_normal((900, size)) @ shape).astype(np.float32)
    classes[:5] = 3  # too few for a centre
    root, centres = class_features(features, classes, 4)
    assert centres.shape == (3, size)
    own = torch.from_numpy(features @ root.T)
    distances = torch.cdist(own, torch.from_numpy(centres)).numpy()[5:]
    assert (distances.argmin(axis=1) == classes[5:]).all()
    assert np.isclose((distances.min(axis=1) ** 2).mean(), size, rtol=0.1)
