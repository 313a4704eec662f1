"""Training networks of areas: composed areas and their labels, masks, losses, and a network that learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.areas.config import AreaNetworkConfig, Kind
from models.areas.data import NOT_ABOUT_ONE, AreaAnswers, AreaText
from models.areas.features import TEXT_FRAMES, area_shape
from models.areas.graph import AreaGraph, area_graph
from models.areas.networks.base import candidate_areas
from models.areas.networks.graphs import build_area_network
from models.areas.networks.scatter import scatter_sum
from models.areas.training.cases import AreaCase
from models.areas.training.compose import FRAMES, Composer
from models.areas.training.examples import Batch, batch_of, composed_batches, draw_mask, examples_of
from models.areas.training.networks import AreaTraining
from models.areas.training.predict import predict, sequence_batches, utility_scores
from models.areas.training.sequences import UNLABELLED, AreaSequence, area_sequence
from models.areas.training.stage import AreaStage, area_loss, cause_loss, right_causes
from models.evaluation.areas import NONE, AreaCause, AreaTruth
from models.evaluation.scoring import RECOVERY_FRAMES
from models.experiments.area_networks import Trained, named_by_networks, train_networks
from models.training.loop import StageConfig, run_stage
from pipeline.errors import DataError

LENGTH, MACHINES, CLASSES = 400, 3, 4
QUIET = (0,)
SHARED = AreaCause(0, NONE, 1, 100, 150, {0: (103, 153), 1: (108, 158)})
OWN = AreaCause(NONE, 2, 2, 250, 300, {2: (250, 300)})
TRUTH = AreaTruth(LENGTH, MACHINES, (SHARED, OWN))
GRAPH: AreaGraph = area_graph([[0, 1], [1, 2]], [[1], [3]], machines=MACHINES, classes=CLASSES, machine_types=["a"] * 3)
SHAPE = area_shape(CLASSES, (2, 1), text_size=CLASSES, text_modality=1, quiet=QUIET)


def notify(line: str) -> None:
    """Compiling takes long enough to be announced."""


def answers() -> AreaAnswers:
    """Answers that are right with a probability of 0.7 after a cause has reached a machine; a text about utility 0."""
    labels = np.zeros((LENGTH, MACHINES), np.int64)
    for cause in TRUTH.causes:
        for machine, (onset, cleared) in cause.reached.items():
            labels[onset:cleared, machine] = cause.fault
    sure = np.full((LENGTH, MACHINES, CLASSES), 0.1, np.float32)
    np.put_along_axis(sure, labels[..., None], 0.7, axis=2)
    present = np.ones((2, LENGTH, MACHINES), np.bool_)
    present[1, :, 1] = False
    said = np.zeros((LENGTH, 2, CLASSES), np.float32)
    said[105:150, 0, 1] = 1
    there = np.zeros((LENGTH, 2), np.bool_)
    there[105:150, 0] = True
    return AreaAnswers(
        area="hall",
        machines=("m0", "m1", "m2"),
        utilities=("water", "air"),
        classes=("normal", "f1", "f2", "f3"),
        modalities=("sensors", "text"),
        start_ms=np.arange(LENGTH) * 1000,
        fused=np.stack([0 * sure, sure, 0.5 * sure, sure]),
        modality_probabilities=np.stack([sure, sure]),
        present=present,
        embeddings=(np.ones((LENGTH, MACHINES, 2), np.float32), np.ones((LENGTH, MACHINES, 1), np.float32)),
        utility_probabilities=said,
        utility_present=there,
        texts=(AreaText(105, NOT_ABOUT_ONE, 0, "warm"), AreaText(110, 0, NOT_ABOUT_ONE, "hm")),
        text_vectors=np.ones((2, 1), np.float32),
    )


SEQUENCE: AreaSequence = area_sequence(answers(), TRUTH, GRAPH)


def test_labels_say_what_is_certain() -> None:
    labels = SEQUENCE.machines.labels
    assert labels[103:153, 0].tolist() == [1] * 50
    assert labels[153 : 153 + RECOVERY_FRAMES, 0].tolist() == [UNLABELLED] * RECOVERY_FRAMES
    assert labels[250:300, 2].tolist() == [2] * 50
    # The shared cause begins where it reaches the first machine; before, nobody can know.
    assert np.flatnonzero(SEQUENCE.shared[:, 0] == 0).tolist() == list(range(103, 153))
    assert not SEQUENCE.usable[100:103].any() and SEQUENCE.usable[103:153].all()
    assert not SEQUENCE.usable[153 : 158 + RECOVERY_FRAMES].any()
    assert SEQUENCE.own[:, 2].sum() == 50 and not SEQUENCE.own[:, :2].any()


def test_masked_inputs_are_the_answers_of_what_is_left() -> None:
    missing = np.array([[False, True], [True, False], [True, True]])
    inputs = SEQUENCE.inputs(200, missing)
    assert inputs.present.tolist() == [[True, False], [False, False], [False, False]]
    np.testing.assert_array_equal(inputs.probabilities[0], answers().fused[1, 200, 0])
    np.testing.assert_array_equal(SEQUENCE.inputs(200).probabilities[0], answers().fused[3, 200, 0])


def test_texts_about_utilities_are_nodes_for_a_while() -> None:
    about = [SEQUENCE.inputs(frame).text_utilities.tolist() for frame in (104, 105, 105 + TEXT_FRAMES - 1)]
    assert about == [[], [[True, False]], [[True, False]]]
    assert not len(SEQUENCE.inputs(105 + TEXT_FRAMES).texts)


def test_composed_areas_have_the_labels_of_what_was_spliced_into_them() -> None:
    composer, rng = Composer([SEQUENCE]), np.random.default_rng(0)
    kinds = set()
    for _ in range(30):
        area = composer.draw(rng)
        assert area.frames == FRAMES
        # Whatever a machine answers in this test is its label.
        np.testing.assert_array_equal(area.machines.fused[:, :, 3].argmax(2), area.machines.labels)
        failing = area.shared[:, 0] != UNLABELLED
        for machine in range(MACHINES):
            faulty = area.machines.labels[:, machine] > 0
            if failing.any() and GRAPH.members[area.shared[-1, 0], machine]:
                assert set(area.machines.labels[faulty, machine]) == {area.shared[-1, 1]}
                assert faulty.argmax() >= failing.argmax()
            else:
                np.testing.assert_array_equal(faulty, area.own[:, machine])
        assert area.utilities.present[:, 0].any() == failing.any()
        kinds.add((bool(failing.any()), bool(area.own.any())))
    assert len(kinds) == 4


def test_areas_too_short_to_compose_from_are_refused() -> None:
    truth = AreaTruth(LENGTH, MACHINES, (SHARED._replace(reached=dict.fromkeys(range(MACHINES), (0, LENGTH))),))
    with pytest.raises(DataError, match="no machine without faults for 88 frames"):
        Composer([area_sequence(answers(), truth, GRAPH)])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_masks_are_of_the_shape_asked_for(seed: int) -> None:
    mask = draw_mask(88, 5, 2, np.random.default_rng(seed))
    assert mask.shape == (88, 5, 2) and mask.dtype == np.bool_


def test_a_third_of_the_masks_is_empty_and_the_others_up_to_70_percent() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([draw_mask(600, 8, 2, rng).mean() for _ in range(300)])
    assert 0.25 < (shares == 0).mean() < 0.45
    assert 0.55 < shares.max() < 0.9


def test_batches_of_one_seed_are_always_the_same() -> None:
    one, other = (
        list(composed_batches(Composer([SEQUENCE]), SHAPE, areas=2, batch_size=16, seed=s, notify=notify))
        for s in (1, 1)
    )
    assert len(one) > 1
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.graph.evidence, b.graph.evidence) and torch.equal(a.causes, b.causes)


def test_the_loss_of_causes_is_that_of_all_that_are_right() -> None:
    frames = [20, 120, 260]
    batch = batch_of(examples_of(SEQUENCE, frames, None, QUIET, notify), SHAPE)
    areas = candidate_areas(batch.graph)
    rows = [np.flatnonzero((batch.causes & (areas == a)).numpy()).tolist() for a in range(3)]
    none, own, first = 0, 3, 3 + 9
    assert rows == [[none], [first + 2 * 4 + 0 * 4 + 1], [own + 2 * 3 + 2]]
    network = build_area_network(AreaNetworkConfig(kind="alone"), SHAPE).eval()
    answers_ = network(batch.graph).fused
    # Two right causes count with their sum.
    both = batch.causes.clone()
    both[1] = True
    merged = type(batch)(batch.graph, both, batch.labels)
    sums = scatter_sum(answers_.causes.exp() * both, areas, 3)
    assert cause_loss(answers_, merged).item() == pytest.approx(-float(sums.detach().log().mean()), abs=1e-5)
    named = right_causes(answers_._replace(causes=torch.where(batch.causes, 0.0, -5.0)), batch)
    assert named.tolist() == [True] * 3


def test_ablations_leave_their_losses_out() -> None:
    batch = batch_of(examples_of(SEQUENCE, [20, 120], None, QUIET, notify), SHAPE)
    losses = {}
    for without in ((), ("l_att",), ("l_ind",)):
        torch.manual_seed(0)
        network = build_area_network(AreaNetworkConfig(width=16, without=without), SHAPE).eval()
        for parameter in network.parameters():  # an untrained head answers the same whatever it is given
            parameter.data += 0.3 * torch.randn_like(parameter)
        outputs = network(batch.graph)
        losses[without] = area_loss(network, outputs, batch).item()
    attention = outputs.attention_loss.item()
    assert attention > 0
    assert losses[()] == pytest.approx(losses[("l_att",)] + attention, abs=1e-5)
    assert losses[("l_ind",)] != losses[()]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """Frames of a few composed areas."""
    return list(composed_batches(Composer([SEQUENCE]), SHAPE, areas=16, batch_size=64, seed=0, notify=notify))


@pytest.mark.parametrize("kind", ["hgt_early", "ima"])
def test_a_network_learns_the_causes(kind: Kind, batches: list[Batch], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_area_network(AreaNetworkConfig(kind=kind, width=16, dropout=0.0), SHAPE)
    history = run_stage(
        AreaStage(network, lambda: batches, lambda: batches[:2]),
        StageConfig(epochs=5, learning_rate=1e-2),
        seed=0,
        checkpoint=tmp_path / "checkpoint",
        fingerprint="",
        resume=False,
        on_progress=None,
    )
    assert history[-1]["validation_loss"] < history[0]["validation_loss"] - 0.1
    prediction = predict(network, list(sequence_batches(SEQUENCE, SHAPE, notify)))
    assert prediction.scores.shape == (LENGTH, 2) and prediction.machines.shape == (LENGTH, MACHINES, CLASSES)
    best = prediction.scores[:, 0]
    assert np.median(best[115:150]) > best[:90].max()
    assert prediction.scores[130].argmax() == 0


def test_scores_are_the_log_odds_of_a_utility() -> None:
    causes = np.log(np.array([[[1e-30, 0.3, 0.2], [1e-30, 0.1, 1e-30]]], np.float32))
    assert utility_scores(causes)[0].tolist() == pytest.approx([0.0, np.log(0.1 / 0.9)], abs=1e-5)


def test_networks_are_trained_once_and_their_answers_kept(tmp_path: Path) -> None:
    configs = {
        "no graph": AreaNetworkConfig(kind="alone", width=8, heads=1),
        "HAN": AreaNetworkConfig(kind="han_early", width=8, heads=1, layers=1),
    }
    training = AreaTraining(folder="train", areas=2, batch_size=16, stage=StageConfig(epochs=1))
    trained_parts: list[str] = []

    def train() -> Trained:
        return train_networks(
            configs,
            training,
            [SEQUENCE],
            [SEQUENCE],
            QUIET,
            seed=3,
            out=tmp_path,
            notify=notify,
            on_progress=lambda part, progress: trained_parts.append(part),
        )

    areas = [AreaCase(answers(), TRUTH, GRAPH)]
    one = named_by_networks(train(), areas, tmp_path / "test-0", notify)
    assert {"composing", "no graph", "HAN"} == set(trained_parts)
    trained_parts.clear()
    again = train()
    assert trained_parts == []
    kept = named_by_networks(again, areas, tmp_path / "test-0", notify)
    fresh = named_by_networks(again, areas, tmp_path / "elsewhere", notify)
    for name in configs:
        assert one[name][0].scores.shape == (LENGTH, 2)
        np.testing.assert_array_equal(one[name][0].scores, kept[name][0].scores)
        np.testing.assert_array_equal(one[name][0].scores, fresh[name][0].scores)
