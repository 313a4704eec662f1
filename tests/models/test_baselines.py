"""The baselines on small made-up data: each learns, and each stands in the same harness."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.data.runs import RunFiles
from models.encoders.placed_texts import PlacedText
from models.evaluation.clustering import cluster, partition_scores
from models.experiments.baselines.base import BaselineConfig, BaselineKind
from models.experiments.baselines.deep import MultimodalEncoder, SharedNetwork
from models.experiments.baselines.rows import baseline_rows, ring_documents, window_features, word_ages
from models.experiments.baselines.scores import baseline_scores, boosting_scores
from models.experiments.baselines.texts import DocumentVectors, TextSVM
from models.training.config import TrainConfig
from pipeline.errors import DataError
from tests.support.models_tiny import PROFILE, machine_type

CENTRE = np.array([50.0, 20.0, 70.0, 0.0])
SAID = {
    "normal": ("shift handed over", "hall cleaned", "lamp replaced", "visitors in the hall", "tools counted"),
    "leak": ("water drips", "puddle below", "wet seal", "water on the floor", "seal drips"),
    "jam": ("shaft stuck", "motor hums", "shaft blocked", "motor hot and stuck", "blocked again"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """18 runs of a pump with a leak or a jam that texts tell of."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    rng = np.random.default_rng(1)
    parts = []
    for seed in range(18):
        labels = np.zeros(80, np.int64)
        labels[20:60] = 1 + seed % 2
        values = CENTRE + rng.standard_normal((80, 4))
        values[labels == 1, 0] -= 4
        values[labels == 2, 1:3] += 3
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        parts.append(pa.table(columns | {"seed": [seed] * 80, "sample": np.arange(80), "label": labels}))
    pyarrow.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    rows = [
        (f"{text} {word}", fault, f"{fault}{at}")
        for fault, texts in SAID.items()
        for at, text in enumerate(texts)
        for word in ("today", "at noon")
    ]
    names = ("text", "fault", "group")
    pyarrow.parquet.write_table(
        pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)}), folder / "texts.parquet"
    )
    return TrainConfig(
        profile=str(folder / "plant.yaml"),
        runs=(RunFiles(paths=(folder / "runs.parquet",)),),
        texts=(folder / "texts.parquet",),
        output=folder,
        validation=0.2,
        test=0.3,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(BaselineKind))
def test_every_baseline_is_scored_in_the_same_way(kind: BaselineKind, tiny: TrainConfig, tmp_path: Path) -> None:
    small = BaselineConfig(windows=(5,), max_frames=900, epochs=12)
    scores, history = baseline_scores(kind, tiny, small, folder=tmp_path)
    assert set(scores) == {"validation", "test"}
    assert set(scores["test"]) == {"all", "runs"}
    test = scores["test"]["all"]["all_faults"]["fusion"]
    # Texts alone say nothing about most frames; everything else sees the faults in the sensors.
    assert test["accuracy"] > (0.4 if kind == "tfidf_svm" else 0.85)
    parts = test["partition"]
    assert parts["mutual_information"] + parts["conditional_entropy"] == pytest.approx(parts["entropy"], abs=1e-9)
    if kind != "tfidf_svm":
        assert 0 <= test["clusters"]["explained"] <= 1
    if kind in ("stacked_autoencoder", "multimodal_encoder"):
        assert [record["ari"] for record in history if record["stage"] == "classes"]


def test_a_baseline_answers_the_same_for_the_same_seed(tiny: TrainConfig, tmp_path: Path) -> None:
    small = BaselineConfig(windows=(5,), max_frames=400, epochs=2)
    first = baseline_scores("multimodal_encoder", tiny, small, folder=tmp_path / "a")[0]
    again = baseline_scores("multimodal_encoder", tiny, small, folder=tmp_path / "b")[0]
    assert first == again
    other = tiny.model_copy(update={"seed": 3})
    assert baseline_scores("multimodal_encoder", other, small, folder=tmp_path / "c")[0] != first


def test_training_frames_are_thinned_and_held_out_ones_are_not(tiny: TrainConfig) -> None:
    classes, rows = baseline_rows(tiny, BaselineConfig(windows=(5,), max_frames=200))
    assert classes == machine_type().faults
    assert 100 < len(rows["train"].labels) < 300
    assert len(rows["test"].labels) % 80 == 0
    assert len(rows["test"].labels) == len(rows["test"].documents) == len(rows["test"].document_vectors)
    runs = [set(rows[part].runs) for part in ("train", "validation", "test")]
    assert all(runs)


@pytest.mark.slow
def test_boosting_uses_every_frame(tiny: TrainConfig) -> None:
    scores = boosting_scores(tiny, windows=(5,))
    assert scores["test"]["macro_f1"] > 0.85


def test_deep_baselines_need_a_folder(tiny: TrainConfig) -> None:
    with pytest.raises(DataError, match="folder"):
        baseline_scores("stacked_autoencoder", tiny, BaselineConfig(windows=(5,), max_frames=50), folder=None)


def test_window_features_see_only_the_past() -> None:
    values = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    values[3, 1] = np.nan
    whole = window_features(values, (4, 7))
    assert whole.shape == (30, 2 * (1 + 4 * 2))
    changed = values.copy()
    changed[20:] = 99
    np.testing.assert_array_equal(window_features(changed, (4, 7))[:20], whole[:20])
    assert whole[5, 2] == pytest.approx(values[2:6, 0].mean())
    assert whole[5, 3] == pytest.approx(np.nanmean(values[2:6, 1]))
    assert np.isnan(whole[3, 1])


def test_words_age_and_documents_are_forgotten() -> None:
    texts = [PlacedText(2, 0.5, "Pump leaks"), PlacedText(4, 1.0, "pump repaired")]
    ages = word_ages(texts, 6, ["pump", "leaks"])
    np.testing.assert_allclose(ages[:, 0], [np.nan, np.nan, 0.5, 1.5, 1.0, 2.0])
    np.testing.assert_allclose(ages[:, 1], [np.nan, np.nan, 0.5, 1.5, 2.5, 3.5])
    documents = ring_documents(texts, 8, size=2, ttl=3)
    both = "pump repaired\nPump leaks"
    assert documents == ["", "", "Pump leaks", "Pump leaks", both, "pump repaired", "pump repaired", ""]


def test_the_svm_reads_unseen_spellings() -> None:
    texts = [text for said in SAID.values() for text in said]
    classes = np.repeat(np.arange(3), 5)
    svm = TextSVM(seed=0)
    svm.fit(texts, classes)
    assert svm.predict(["Watter drips!", "shaftt STUCK", "hal cleaned"]).tolist() == [1, 2, 0]
    scores = svm.scores(["water drips"], 5)
    assert scores.shape == (1, 5)
    assert scores.argmax() == 1
    assert scores[0, 3:].max() < scores[0, :3].min()


def test_the_svm_tells_two_classes_apart() -> None:
    svm = TextSVM(seed=0)
    svm.fit(["water drips", "shaft stuck"], np.array([1, 2]))
    assert svm.scores(["drips of water", "stuck"], 3).argmax(axis=1).tolist() == [1, 2]


def test_the_shared_code_stands_any_subset_of_modalities() -> None:
    import torch

    network = SharedNetwork([4, 3], 2)
    both, one = torch.ones(2, 4), torch.ones(2, 3)
    none = torch.zeros(2, 3)
    alone = network.code([both, none])
    assert not torch.equal(alone, network.code([both, one]))
    assert torch.isfinite(network.code([torch.zeros(2, 4), none])).all()
    for modalities in ([both, none], [torch.zeros(2, 4), one]):
        assert torch.isfinite(network.loss(modalities, torch.tensor([0, 1])))


def test_a_code_is_learned_without_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    sensors = (rng.standard_normal((400, 3)) + 3 * labels[:, None]).astype(np.float32)
    empty = np.zeros((400, 0), np.float32)
    encoder = MultimodalEncoder(2, seed=0, epochs=25, folder=tmp_path)
    history = encoder.fit([sensors, empty], labels, [sensors, empty], labels)
    assert np.mean(encoder.predict([sensors, empty]) == labels) > 0.95
    assert encoder.code([sensors, empty]).shape[0] == 400
    assert history[-1]["explained"] > 0.8


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_information_and_what_is_left_add_up(parts: int) -> None:
    rng = np.random.default_rng(parts)
    classes, said = rng.integers(0, 5, 300), rng.integers(0, parts, 300)
    classes[:20] = -1
    scores = partition_scores(classes, said)
    shares = np.bincount(classes[20:]) / 280
    assert scores["entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert scores["mutual_information"] + scores["conditional_entropy"] == pytest.approx(scores["entropy"])
    assert scores["explained"] == pytest.approx(scores["mutual_information"] / scores["entropy"])


def test_a_perfect_partition_explains_everything_whatever_its_names() -> None:
    classes = np.array([0, 0, 1, 2, 2, 2])
    scores = partition_scores(classes, np.array([5, 5, 9, 1, 1, 1]))
    assert scores["ari"] == pytest.approx(1)
    assert scores["explained"] == pytest.approx(1)
    assert scores["conditional_entropy"] == pytest.approx(0, abs=1e-12)


def test_nothing_to_score_gives_no_score() -> None:
    assert set(partition_scores(np.array([-1]), np.array([0])).values()) == {None}
    assert partition_scores(np.array([1, 1]), np.array([0, 1]))["explained"] is None


def test_clusters_find_what_lies_apart_whatever_its_scale() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 600)
    features = np.stack([classes * 1000.0, 1e-3 * (classes == 1), np.zeros(600)], axis=1)
    features[:, 0] += rng.standard_normal(600)
    found = cluster(features.astype(np.float32), 3, seed=0)
    assert partition_scores(classes, found)["ari"] == pytest.approx(1)
    same = cluster(np.ones((10, 2), np.float32), 4, seed=0)
    assert set(same) == {0}


@pytest.mark.parametrize(
    ("documents", "size"),
    [
        ([f"code {a} then code {b}" for a in ("e1", "e2") for b in ("e1", "e2", "e3")], 5),
        ([" ".join(["error"] * count) for count in range(1, 200)], 2),
        (["1", "2", "x y"], 0),
        (["error"], 0),
        ([], 0),
    ],
)
def test_documents_of_few_words_become_short_vectors(documents: list[str], size: int) -> None:
    vectors = DocumentVectors(documents, seed=0)([*documents, "", "other"])
    assert vectors.shape == (len(documents) + 2, size)
    assert np.isfinite(vectors).all()
    assert not vectors[-2:].any()
