"""Several experts on a small made-up plant: trained, pooled, written, stepped; and what each of them sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import Tensor

from models.configs.messages import MessagesConfig
from models.configs.sensors import ExpertsConfig, SeqLSTMConfig, StatisticsConfig, TreesConfig
from models.data.messages import MessagesChoice, frequent_messages
from models.data.runs import Run, RunFiles
from models.encoders.experts.pool import PooledExperts
from models.encoders.experts.statistics import StatisticsNetwork
from models.encoders.experts.trees import Trees
from models.encoders.messages import MessageInputs
from models.encoders.placed_texts import PlacedText
from models.model_file import read_model, write_model
from models.network_file import build_network
from models.stepping.load import load_model
from models.training.config import TrainConfig
from models.training.experts.pool import fit_weights, hidden_faults
from models.training.experts.trees import Frames, fit_trees
from models.training.fitting.evidence import part_evidence
from models.training.loop import StageConfig
from models.training.prepare import prepare
from models.training.train import TrainReport, train
from pipeline.errors import ModelFileError
from tests.support.models_stepping import LAW, compiled, fold, made, reference
from tests.support.models_tiny import CLASSES, PROFILE, VARIABLES, Stream, machine_type
from tests.support.models_trees import shaped

SHAPE = TreesConfig(windows=(3, 8), own_start=10, rounds=20, forest=10)
LSTM = SeqLSTMConfig(hidden=(12,), head=(), squash=True)
EXPERTS = ExpertsConfig(experts=(LSTM, StatisticsConfig(spans=(3.0, 9.0), hidden=(16,)), SHAPE))
ALARM = "interlock 4 open"
"""Only this message announces a jam; no reading shows one."""
CHATTER = "door opened"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with profile, runs and messages: a leak lowers the flow, a jam only writes an alarm."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE.replace("frame_period: 10s", "frame_period: 10s\n    texts: true"))
    rng = np.random.default_rng(0)
    parts, written = [], []
    for seed in range(32):
        labels = np.zeros(100, np.int64)
        labels[40:] = 1 + seed % 2
        values = np.array([50.0, 20.0, 70.0, 0.0]) + rng.standard_normal((100, 4))
        values[labels == 1, 0] -= 4
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        parts.append(pa.table(columns | {"seed": [seed] * 100, "sample": np.arange(100), "label": labels}))
        frames = np.flatnonzero(rng.random(100) < np.where(labels == 2, 0.5, 0.0))
        written += [(seed, float(frame), ALARM) for frame in frames]
        written += [(seed, float(frame), CHATTER) for frame in np.flatnonzero(rng.random(100) < 0.05)]
    pyarrow.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    columns = {name: [row[at] for row in written] for at, name in enumerate(("seed", "sample", "text"))}
    pyarrow.parquet.write_table(pa.table(columns), folder / "messages.parquet")
    return folder


def config(plant: Path, output: Path, **options: Any) -> TrainConfig:
    chosen: dict[str, Any] = {
        "profile": str(plant / "plant.yaml"),
        "runs": (RunFiles(paths=(plant / "runs.parquet",), events=(plant / "messages.parquet",)),),
        "output": output,
        "sensors": EXPERTS,
        "sensor_stage": StageConfig(epochs=4, batch_size=8),
        "statistics_stage": StageConfig(epochs=3, batch_size=128),
        "validation": 0.2,
        "test": 0.2,
        "plots": False,
    }
    return TrainConfig(**chosen | options)


@pytest.fixture(scope="module")
def report(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return train(config(plant, tmp_path_factory.mktemp("experts")))


def test_experts_learn_what_only_messages_say(report: TrainReport) -> None:
    scores = report.scores["test"]["all"]["all_faults"]["fusion"]
    assert scores["macro_f1"] > 0.9
    model = read_model(report.model)
    assert model.header.network.messages is not None
    assert model.header.network.messages.messages == (CHATTER, ALARM)
    assert model.header.network.text is None, "nearly all texts are messages, so there is nothing left to read"
    weights = model.header.training["experts"]
    assert list(weights) == ["1 seq_lstm", "2 statistics", "3 trees"]
    assert sum(weights.values()) > 0


def test_without_messages_the_jam_is_hidden_and_raises_no_alarm(plant: Path, tmp_path: Path) -> None:
    files = RunFiles(paths=(plant / "runs.parquet",))
    silent = train(config(plant, tmp_path, runs=(files,)))
    model = read_model(silent.model)
    assert model.header.training["hidden_faults"] == ["jam"]
    scores = silent.scores["test"]["all"]["all_faults"]["fusion"]
    assert scores["per_fault"]["leak"]["detection_rate"] > 0.9
    assert scores["false_alarm_rate"] < 0.02
    assert scores["per_fault"]["jam"]["detection_rate"] < 0.02


def test_the_model_file_answers_as_the_network_that_was_trained(plant: Path, report: TrainReport) -> None:
    data = prepare(config(plant, report.model.parent))
    network = build_network(read_model(report.model))
    expected = part_evidence(network, data, "test").fused(network.fusion).probabilities.numpy()
    run, runner = data.split.test[0], load_model(report.model, data.machine_type)
    stream = Stream(1, len(run))
    stream.values, stream.observed = run.values[None], ~np.isnan(run.values[None])
    stream.texts = {}
    for text in run.texts or ():
        stream.texts.setdefault((0, text.frame), []).append((text.age, text.text))
    for t in range(len(run)):
        np.testing.assert_allclose(runner.step(stream.round(t)).probabilities[0], expected[t], rtol=0, atol=LAW)


def test_the_same_seed_gives_the_same_model(plant: Path, tmp_path: Path, report: TrainReport) -> None:
    assert train(config(plant, tmp_path)).hash == report.hash


def test_an_encoder_that_takes_no_messages_is_not_given_any(plant: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a causal_cnn does not count messages"):
        config(plant, tmp_path, sensors={"kind": "causal_cnn"}, messages=True)


def frames(rng: np.random.Generator, rows: int, columns: int, classes: int) -> Frames:
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    labels = (x[:, 0] > 0.5).astype(np.int64) + (x[:, 1] > 0)
    return Frames(x, np.minimum(labels, classes - 1), rng.uniform(0.5, 2, rows).astype(np.float32))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("learner", ["boosting", "forest"])
def test_trees_answer_as_the_learner_that_they_come_from(learner: Any, classes: int) -> None:
    rng = np.random.default_rng(3)
    shape = TreesConfig(windows=(2,), learner=learner, rounds=25, forest=12, leaf_nodes=9)
    trees = Trees(shape, variables=VARIABLES, classes=classes)
    train_on, held_out = (frames(rng, rows, shape.columns(VARIABLES, 0), classes) for rows in (900, 700))
    fitted = fit_trees(trees, train_on, held_out, seed=5)
    assert [one.learner for one in fitted] == [learner]
    model: Any
    if learner == "boosting":
        model = HistGradientBoostingClassifier(max_iter=25, max_leaf_nodes=9, early_stopping=True, random_state=5)
    else:
        model = RandomForestClassifier(12, min_samples_leaf=3, random_state=5)
    model.fit(train_on.columns, train_on.labels, sample_weight=train_on.weights)
    expected = np.maximum(model.predict_proba(held_out.columns), 1e-4 if learner == "forest" else 0)
    answered = torch.softmax(trees.answer(torch.from_numpy(held_out.columns)), dim=1).numpy()
    np.testing.assert_allclose(answered, expected / expected.sum(axis=1, keepdims=True), atol=2e-6)


def test_the_learner_with_the_smaller_loss_on_validation_is_kept() -> None:
    rng = np.random.default_rng(4)
    shape = TreesConfig(windows=(2,), rounds=30, forest=3)
    trees = Trees(shape, variables=VARIABLES, classes=3)
    train_on, held_out = (frames(rng, 600, shape.columns(VARIABLES, 0), 3) for _ in range(2))
    fitted = fit_trees(trees, train_on, held_out, seed=0)
    losses = [one.validation_loss for one in fitted]
    assert {one.learner for one in fitted} == {"boosting", "forest"}
    assert losses == sorted(losses, key=lambda loss: loss or 0)
    assert trees.config.shape == fitted[0].shape


def test_a_class_without_training_frames_gets_hardly_any_probability() -> None:
    rng = np.random.default_rng(5)
    shape = TreesConfig(windows=(2,), learner="boosting", rounds=5)
    trees = Trees(shape, variables=VARIABLES, classes=4)
    train_on = frames(rng, 400, shape.columns(VARIABLES, 0), 2)
    fit_trees(trees, train_on, train_on, seed=0)
    p = torch.softmax(trees.answer(torch.from_numpy(train_on.columns)), dim=1)
    assert p[:, 2:].max() < 1e-10


def test_what_trees_see_are_exact_statistics_of_windows() -> None:
    shape = TreesConfig(windows=(3, 7), own_start=5)
    trees = Trees(shape, variables=2, classes=2)
    x = torch.from_numpy(np.random.default_rng(6).standard_normal((1, 30, 2)).astype(np.float32))
    seen, _ = trees.columns(x, trees.init_state(1))
    assert seen.shape[2] == shape.columns(2, 0)
    for t in (0, 1, 4, 20, 29):
        parts = [x[0, t]]
        for window in shape.windows:
            recent = x[0, max(0, t + 1 - window) : t + 1]
            deviation = recent.std(dim=0, unbiased=False)
            parts += [recent.mean(dim=0), deviation, recent.min(dim=0).values, recent.max(dim=0).values]
        start = x[0, : min(t + 1, 5)]
        away = x[0, t] - start.mean(dim=0)
        parts += [away, away / start.std(dim=0, unbiased=False).clamp_min(1e-2), parts[1] - start.mean(dim=0)]
        torch.testing.assert_close(seen[0, t], torch.cat(parts), rtol=1e-3, atol=2e-5)


def test_the_statistics_are_running_means_and_variances() -> None:
    network = StatisticsNetwork(StatisticsConfig(spans=(4.0,), hidden=(3,)), variables=1, classes=2)
    x = torch.tensor([[[1.0], [3.0], [100.0]]])
    seen, state = network.statistics(x, network.init_state(1))
    mean, variance = 0.0, 1.0
    for t, value in enumerate((1.0, 3.0, 100.0)):
        variance += (min((value - mean) ** 2, 400.0) - variance) / 4
        mean += (value - mean) / 4
        expected = torch.tensor([value, mean, np.log(variance + 0.02)], dtype=torch.float32)
        torch.testing.assert_close(seen[0, t], expected)
    torch.testing.assert_close(state["means"].flatten(), torch.tensor([mean]))


def test_messages_are_counted_in_windows_and_grow_old() -> None:
    inputs = MessageInputs(MessagesConfig(messages=("a b", "c"), windows=(2, 4), longest_age=9))
    texts = [
        PlacedText(0, 7.0, "C!"),  # six frames before its own: too old to be counted, but its age is known
        PlacedText(3, 0.4, "A b"),
        PlacedText(3, 1.0, "a B."),
        PlacedText(4, 0.2, "something else"),
    ]
    seen = inputs.columns(texts, 8)
    assert seen[:, 0].tolist() == [0, 0, 0, 2, 2, 0, 0, 0]
    assert seen[:, 2].tolist() == [0, 0, 0, 2, 2, 2, 2, 0]
    assert not seen[:, [1, 3]].any()
    np.testing.assert_allclose(np.expm1(seen[:, 4]), [9, 9, 9, 0, 1, 2, 3, 4], atol=1e-5)
    np.testing.assert_allclose(np.expm1(seen[:, 5]), [6, 7, 8, 9, 9, 9, 9, 9], atol=1e-5)
    state = inputs.init_state(1)
    for t in range(8):
        stepped, state = inputs.step(inputs.brought([[(one.age, one.text) for one in texts if one.frame == t]]), state)
        torch.testing.assert_close(stepped[0], torch.asinh(torch.from_numpy(seen[t])))


def test_frequent_messages_are_those_of_several_groups() -> None:
    def run(group: str, *texts: str) -> Run:
        placed = tuple(PlacedText(0, 0.5, text) for text in texts)
        return Run(group, group, "file", np.zeros((1, 1), np.float32), np.zeros(1, np.int64), placed)

    runs = [run("a", *["Pump on"] * 6, *["only here"] * 20, "seldom"), run("b", *["pump  ON"] * 6, "seldom")]
    found = frequent_messages(runs, MessagesChoice(least=5))
    assert found is not None
    assert (found.config.messages, found.say_all) == (("pump on",), False)
    assert found.share == pytest.approx(12 / 34)
    assert frequent_messages(runs, MessagesChoice(least=13)) is None


def test_the_pool_trusts_the_expert_that_knows_and_equal_ones_alike() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    knowing = np.log(np.where(np.eye(3)[labels] > 0, 0.8, 0.1)).astype(np.float32)
    guessing = np.log(rng.dirichlet(np.ones(3), 500)).astype(np.float32)
    knows, guesses = fit_weights([knowing, guessing], labels)
    assert knows > 0.5
    assert guesses < 0.2
    first, second = fit_weights([guessing, guessing], labels)
    assert first == pytest.approx(second, abs=1e-4)
    assert fit_weights([knowing, guessing], np.full(500, -1)).tolist() == [0.5, 0.5]


def test_a_fault_is_hidden_if_its_frames_look_normal() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3, 0], [1000, 300, 300, 20, 500])
    normal = np.arange(len(labels)) < 1000  # the last frames are those of a plant that recovers
    logits = rng.standard_normal((len(labels), 5)).astype(np.float32)
    logits[labels == 2, 2] += 9
    logits[1620:, 1] += 20
    logits[:, 1] += 3  # what cannot be seen is guessed, and hides the other faults' odds
    found = hidden_faults(logits, labels, normal, 4, 0.01)
    assert found.tolist() == [False, True, False, False]  # of the last fault there are too few frames
    assert not hidden_faults(logits, labels, np.zeros(len(labels), bool), 4, 0.01).any()


def test_hidden_faults_keep_a_tenth_of_their_probability() -> None:
    network = made(sensors=ExpertsConfig(experts=(LSTM,)), texts=False)
    pool = network.sensors
    assert isinstance(pool, PooledExperts)
    pool.bias.zero_()
    pool.weights.fill_(1.0)
    pool.hidden.copy_(torch.tensor([0.0, 1.0, 0.0]))
    p = torch.tensor([0.2, 0.5, 0.3])
    torch.testing.assert_close(pool.pool(p.log()[None]).exp(), torch.tensor([0.65, 0.05, 0.3]))


@pytest.fixture
def forested(tmp_path: Path) -> Path:
    """A model file with trees."""
    network = made(sensors=shaped(TreesConfig(windows=(4,)), classes=CLASSES), texts=False)
    path = tmp_path / "trees.faultline"
    write_model(path, tensors_of(network), network.config, None, machine_type(), name="trees", training={})
    return path


def tensors_of(network: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    return {key: np.asarray(value.numpy(), np.float32) for key, value in network.state_dict().items()}


def changed(path: Path, key: str, place: int, value: float) -> Path:
    model = read_model(path)
    tensors = {name: np.array(weights, np.float32) for name, weights in model.tensors.items()}
    tensors[f"sensors.{key}"][place] = value
    write_model(path, tensors, model.header.network, None, machine_type(), name="trees", training={})
    return path


@pytest.mark.parametrize(
    ("key", "place", "value"),
    [
        ("left", 0, 0),  # back to itself
        ("right", 1, 0),  # back to its parent
        ("left", 0, 1e6),
        ("right", 0, 2.5),
        ("feature", 0, 999),
        ("feature", 0, -2),
        ("roots", 3, 1e7),
        ("roots", 0, -1),
        ("offsets", 1, CLASSES),
        ("left", 14, 1e5),  # of a leaf
    ],
)
def test_trees_that_lead_nowhere_are_refused(forested: Path, key: str, place: int, value: float) -> None:
    load_model(forested, machine_type())
    with pytest.raises(ModelFileError, match="train it again"):
        load_model(changed(forested, key, place, value), machine_type())


def test_trees_without_a_shape_are_refused(tmp_path: Path) -> None:
    network = made(sensors=TreesConfig(windows=(4,)), texts=False)
    path = tmp_path / "trees.faultline"
    write_model(path, tensors_of(network), network.config, None, machine_type(), name="trees", training={})
    with pytest.raises(ModelFileError, match="how many numbers its trees"):
        load_model(path, machine_type())


def test_the_count_of_frames_goes_on_in_its_place_however_long_a_machine_runs() -> None:
    shape = shaped(TreesConfig(windows=(4,), own_start=10), classes=CLASSES)
    network = made(sensors=shape, texts=False)
    stream = Stream(machines=2, frames=120, seed=8)
    assert fold(reference(network), compiled(network), stream, range(120)) <= LAW
    runner = compiled(network)
    for t in range(120):
        runner.step(stream.round(t))

    count: Tensor = torch.from_numpy(np.frombuffer(runner.save(np.arange(1))[0], "<f4", offset=44).copy())[16]
    assert 12 <= float(count) < 24
    assert float(count) % 4 == 120 % 4
