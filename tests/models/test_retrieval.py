"""Retrieval: the head is learnt from a small plant, its vectors are the same without torch, and rankings are scored."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.configs.retrieval import RetrievalChoice, RetrievalConfig
from models.diagnoser import Diagnoser
from models.evaluation.retrieval import retrieval_scores
from models.model_file import read_model
from models.network_file import build_network, compile_network
from models.stepping.load import load_model
from models.training.loop import StageConfig
from models.training.stages.retrieval import contrastive_loss
from models.training.train import train
from pipeline.errors import ModelFileError
from tests.models.test_training import config, plant  # noqa: F401
from tests.support.models_tiny import CLASSES, Stream, machine_type, network


def with_head(size: int = 8) -> Diagnoser:
    """The tiny network with an untrained head."""
    plain = network()
    assert plain.text is not None
    described = plain.config.model_copy(update={"retrieval": RetrievalConfig(size=size)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = Diagnoser(described, plain.text.tokenizer)
    made.load_state_dict(made.state_dict() | plain.state_dict())
    assert made.retrieval is not None
    made.retrieval.sensors.mean.fill_(0.1)
    made.retrieval.text.deviation.fill_(2.0)
    return made.eval()


def test_vectors_of_served_frames_are_those_of_the_network() -> None:
    made, stream = with_head(), Stream(machines=3, frames=30, seed=2)
    served = compile_network(made, name="tiny", digest="0" * 64, classes=machine_type().faults)
    plain = compile_network(network(), name="tiny", digest="0" * 64, classes=machine_type().faults)
    assert served.retrieval is not None and plain.retrieval is None and made.retrieval is not None
    with_text = 0
    for frame in range(stream.frames):
        result = served.step(stream.round(frame, reset=frame == 0))
        reference = plain.step(stream.round(frame, reset=frame == 0))
        assert result.probabilities.tobytes() == reference.probabilities.tobytes(), "diagnoses are not affected"
        assert result.embeddings is not None and reference.embeddings is None
        sensors, text = (torch.from_numpy(np.ascontiguousarray(own)) for own in result.embeddings)
        has_text = torch.from_numpy(result.present[1])
        with torch.inference_mode():
            expected = made.retrieval.together(sensors, text, has_text).numpy()
        for row in range(stream.machines):
            features = [sensors[row].tolist(), text[row].tolist() if has_text[row] else None]
            vector = served.retrieval.together(features)
            assert vector is not None and np.allclose(vector, expected[row], atol=1e-5)
            assert math.fsum(x * x for x in vector) == pytest.approx(1)
        with_text += int(has_text.sum())
    assert 0 < with_text < stream.machines * stream.frames
    assert served.retrieval.together([None, None]) is None


def test_the_loss_is_least_where_classes_are_apart() -> None:
    labels = torch.tensor([0, 0, 1])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Rows of the first class: two positives of logit 10 and one negative of 0, half of the target on each positive.
    first, third = -(10 - math.log(2 * math.exp(10) + 1)), -(10 - math.log(math.exp(10) + 2))
    expected = (2 * first + third) / 3
    assert contrastive_loss(apart, apart, labels, 0.1).item() == pytest.approx(expected, abs=1e-5)
    assert contrastive_loss(apart, apart.flip(1), labels, 0.1) > 5
    assert contrastive_loss(apart, torch.ones(3, 2) / 2**0.5, labels, 0.1) > expected


def test_rankings_are_scored_by_their_first_relevant_item() -> None:
    similarity = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.9, 0.5, 0.1]])
    queries, items = np.array([0, 1, 1, 7]), np.array([0, 2, 1])
    scores = retrieval_scores(similarity, queries, items, depths=(1, 2))
    assert scores["queries"] == 3, "nothing is relevant for the last one"
    assert scores["recall_1"] == pytest.approx(1 / 3)
    assert scores["recall_2"] == pytest.approx(1 / 3)
    assert scores["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3), "equal similarity gains nothing"
    assert retrieval_scores(similarity, np.array([7, 7, 7, 7]), items)["mrr"] is None


@pytest.mark.slow
def test_a_head_is_learnt_and_changes_no_diagnosis(plant: Path, tmp_path: Path) -> None:  # noqa: F811
    stage = StageConfig(epochs=6, batch_size=32, learning_rate=0.02)
    choice = RetrievalChoice(size=4, pairs_per_epoch=640)
    given = {"score_test": False, "detector": None}
    report = train(config(plant, tmp_path, retrieval=choice, retrieval_stage=stage, **given))
    served = load_model(report.model, machine_type())
    assert served.retrieval is not None and served.hash == report.hash
    found = read_model(report.model)
    # With the checkpoints of the encoders, on which the head has no effect.
    plain = read_model(train(config(plant, tmp_path, **given), resume=True).model)
    last = [record for record in report.history if record["stage"] == "retrieval"]
    assert max(record["score"] for record in last) > 0.9
    assert found.header.network.retrieval == RetrievalConfig(size=4)
    assert "retrieval" not in plain.header.network.model_dump()
    assert all(np.array_equal(found.tensors[key], plain.tensors[key]) for key in plain.tensors)
    built = build_network(found)
    assert built.retrieval is not None and built.config.classes == CLASSES


def test_a_head_without_texts_is_refused() -> None:
    described = network(texts=False).config.model_copy(update={"retrieval": RetrievalConfig()})
    alone = network(texts=False)
    alone.config = described
    with pytest.raises(ModelFileError, match="has a retrieval head, but no texts"):
        compile_network(alone, name="tiny", digest="0" * 64, classes=machine_type().faults)
