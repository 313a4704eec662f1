"""Inputs of the networks of areas: log odds, running means and evidence, by hand and frame by frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.areas.features import AreaInputs, FeatureBuilder
from models.areas.graph import area_graph
from pipeline.arrays import Bools
from tests.models.areas.builders import CLASSES, QUIET, random_inputs, small_graph

GRAPH = area_graph([[0, 1, 2]], [(1,)], machines=3, classes=2, machine_types=["a"] * 3)


def notify(line: str) -> None:
    """Compiling takes long enough to be announced."""


def frame(odds: list[float], present: list[bool] | None = None) -> AreaInputs:
    """A frame of three machines with one modality, whose only fault has these log odds."""
    normal = 1 / (1 + np.exp(np.array(odds, np.float64)))
    answers = np.stack([normal, 1 - normal], 1).astype(np.float32)
    return AreaInputs(
        probabilities=answers,
        answers=answers.argmax(1)[:, None],
        confidence=answers.max(1)[:, None],
        utility_probabilities=np.zeros((1, 2), np.float32),
        utility_present=np.array([False]),
        present=np.array(present or [True] * 3)[:, None],
        embeddings=(np.zeros((3, 1), np.float32),),
        texts=np.zeros((0, 1), np.float32),
        text_machines=np.zeros((0, 3), np.bool_),
        text_utilities=np.zeros((0, 1), np.bool_),
    )


def test_evidence_by_hand() -> None:
    builder = FeatureBuilder(GRAPH, (0,), notify)
    first = builder.step(frame([2, 4, -9])).evidence[0, 1]
    # Now: -9 is no evidence against a fault, and the most certain machine is left out.
    np.testing.assert_allclose(first[:2], [2, 2], rtol=1e-5)
    # Fast and slow running means start at -4.
    np.testing.assert_array_equal(first[2:6], [0, 0, 0, 0])
    for _ in range(3):
        builder.step(frame([2, 4, 2]))
    means = [-4 * 0.75**5 + odds * (1 - 0.75**5) for odds in (2, 4)]
    second = builder.step(frame([2, 4, 3], [True, True, False])).evidence[0, 1]
    np.testing.assert_allclose(second[:2], [2, 2], rtol=1e-5)
    np.testing.assert_allclose(second[2:4], [means[0], means[0]], rtol=1e-4)


def test_evidence_of_texts_by_hand() -> None:
    said = replace(frame([0, 0, 0]), utility_probabilities=np.array([[0.2, 0.8]], np.float32))
    builder = FeatureBuilder(GRAPH, (0,), notify)
    assert builder.step(said).evidence[0, 1, 6] == 0
    told = builder.step(replace(said, utility_present=np.array([True])))
    np.testing.assert_allclose(told.evidence[0, 1, 6], np.log(4), rtol=1e-6)
    np.testing.assert_allclose(told.utility_probabilities, [[0.2, 0.8]], rtol=1e-6)


def test_fewer_than_two_machines_are_no_evidence() -> None:
    found = FeatureBuilder(GRAPH, (0,), notify).step(frame([5, 5, 5], [True, False, False])).evidence[0, 1]
    np.testing.assert_array_equal(found, [0] * 7)


def test_running_means_stand_still_while_a_modality_is_absent() -> None:
    rng, graph = np.random.default_rng(0), small_graph()
    builder = FeatureBuilder(graph, QUIET, notify)
    builder.step(random_inputs(rng, graph))
    before = builder.averages.copy()
    inputs = random_inputs(rng, graph)
    present = np.array([[True, True], [True, False], [False, False], [False, True]])
    features = builder.step(replace(inputs, present=present))
    moved = np.any(builder.averages != before, (1, 2))
    np.testing.assert_array_equal(moved, present.any(1))
    for m, values in enumerate(features.machines):
        np.testing.assert_array_equal(values.any(1), present[:, m])
    np.testing.assert_allclose(features.log_probabilities[2], -np.log(CLASSES), rtol=1e-5)


def test_what_stands_in_the_place_of_absent_modalities_is_not_read() -> None:
    rng, graph = np.random.default_rng(1), small_graph()
    inputs = random_inputs(rng, graph, missing=0.5)
    absent: Bools = np.asarray(~inputs.present)
    nonsense = replace(
        inputs,
        probabilities=np.where(np.all(absent, 1, keepdims=True), np.float32(np.nan), inputs.probabilities),
        confidence=np.where(absent, np.float32(np.nan), inputs.confidence),
        embeddings=tuple(
            np.where(np.stack([absent[:, m]], 1), np.float32(np.nan), x) for m, x in enumerate(inputs.embeddings)
        ),
    )
    one, other = (FeatureBuilder(graph, QUIET, notify).step(x) for x in (inputs, nonsense))
    for a, b in zip(one.machines, other.machines, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.evidence, other.evidence)
    np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
