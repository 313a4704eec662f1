"""Contributions to an answer: what is left out, what gradients add up to, and what would change the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.configs.detector import DetectorConfig
from models.configs.fusion import AdaptiveConfig
from models.configs.groups import GroupConfig
from models.configs.sensors import ExpertsConfig, RingAttentionConfig, SeqLSTMConfig, StatisticsConfig, TreesConfig
from models.configs.unknown import UnknownConfig
from models.evaluation.explanations.explain import explain_by_gradients, explain_by_leaving_out
from models.evaluation.explanations.gradients import integrated_gradients
from models.evaluation.explanations.leave_out import contributions, step_without, would_change
from models.evaluation.explanations.quadrature import integrate
from models.evaluation.explanations.question import Question
from models.evaluation.explanations.window import Group, Window, WindowKeeper, groups_of
from models.stepping.runner import CompiledRunner
from tests.support.models_stepping import compiled, made
from tests.support.models_tiny import CLASSES, TEXTS, VARIABLES, Stream, machine_type
from tests.support.models_trees import shaped

LSTM = SeqLSTMConfig(hidden=(10, 8), head=(6,))
DETECTOR = DetectorConfig(hidden=6, mean_spans=(3.0,), square_spans=(8.0,), warm_up_frames=2, quiet_frames=4)
TREES = shaped(TreesConfig(windows=(3, 6)), classes=CLASSES)
COMPONENTS = """
plant: tiny
machine_types:
  - name: pump
    frame_period: 10s
    text_ttl_frames: 20
    faults: [normal, leak, jam]
    components: {inlet: {title: Inlet}, motor: {}}
    variables:
      - {name: flow, component: inlet}
      - {name: load, component: motor}
      - {name: heat, component: motor}
      - {name: noise}
"""
NETWORKS: dict[str, dict[str, object]] = {
    "one encoder, late fusion": {"sensors": LSTM, "rule": "product"},
    "attention over a ring, learned fusion": {
        "sensors": RingAttentionConfig(size=8, heads=2, layers=1, window=6),
        "fusion": AdaptiveConfig(size=6, scorer=4, head=(5,)),
    },
    "experts with a detector": {
        "sensors": ExpertsConfig(experts=(LSTM, StatisticsConfig(spans=(3.0,), hidden=(8, 6)))),
        "detector": DETECTOR,
        "rule": "product",
    },
    "counted messages": {"sensors": SeqLSTMConfig(hidden=(8,), head=()), "messages": (TEXTS[0], TEXTS[1])},
    "groups of variables": {
        "sensors": SeqLSTMConfig(hidden=(8,), head=()),
        "groups": (
            GroupConfig(name="flows", columns=(0, 2), encoder=StatisticsConfig(spans=(3.0,), hidden=(6, 5))),
            GroupConfig(name="rest", columns=(1, 3), encoder=SeqLSTMConfig(hidden=(6,), head=())),
        ),
        "rule": "product",
    },
    "no texts": {"sensors": LSTM, "texts": False},
}


def window_of(runner: CompiledRunner, frames: int, length: int, *, machine: int = 0, seed: int = 3) -> Window:
    """The last frames of one machine that has run for some; it is stepped in slot 0."""
    stream, keeper = Stream(machines=machine + 1, frames=frames, seed=seed), WindowKeeper(length)
    stream.texts[machine, frames - 4] = [(1.5, TEXTS[1]), (0.5, TEXTS[0])]
    runner.reserve(1)
    for frame in range(frames):
        one = stream.round(frame, [machine], reset=frame == 0)
        one.slots = np.zeros(1, np.int64)
        one.values[np.isnan(one.values)] = 11.0
        state = runner.save(one.slots)[0]
        keeper.add(one, state)
        runner.step(one)
    window = keeper.window()
    assert window is not None
    return window


def question_of(runner: CompiledRunner, window: Window) -> Question:
    answer = int(step_without(runner, window, [()]).probabilities[0].argmax())
    return Question.of(answer, runner.classes, machine_type().faults, "rest")


def test_what_is_left_out_is_what_a_machine_without_it_would_answer() -> None:
    runner = compiled(made())
    window = window_of(runner, frames=25, length=9)
    groups = groups_of(machine_type(COMPONENTS), runner.modalities, window)
    kinds = [group.kind for group in groups]
    assert kinds.count("variable") == VARIABLES and kinds.count("component") == 2 and kinds.count("modality") == 2
    assert "text" in kinds
    together = step_without(runner, window, [(group,) for group in groups])
    for row, group in enumerate(groups):
        alone = stepped_alone(runner, window, group)
        np.testing.assert_array_equal(together.probabilities[row], alone)
    np.testing.assert_array_equal(step_without(runner, window, [()]).probabilities[0], stepped_alone(runner, window))


def stepped_alone(runner: CompiledRunner, window: Window, group: Group | None = None) -> np.ndarray:
    """The last answer of one machine in a slot of its own, whose gateway never sent the group."""
    columns, texts = ([], frozenset()) if group is None else (list(group.columns), group.texts)
    runner.reserve(8)
    runner.load(7, window.state)
    for one in window.frames:
        frames = replace(one, slots=np.array([7]), values=one.values.copy(), observed=one.observed.copy())
        frames.values[:, columns], frames.observed[:, columns] = np.nan, False
        frames.texts = [(row, text) for row, text in one.texts if text.text not in texts]
        result = runner.step(frames)
    probabilities: np.ndarray = result.probabilities[0]
    return probabilities


@pytest.mark.parametrize("name", NETWORKS)
def test_integrated_gradients_add_up_to_the_answer(name: str) -> None:
    network = made(**NETWORKS[name])  # type: ignore[arg-type]
    runner, exact = compiled(network), made(**NETWORKS[name]).double()  # type: ignore[arg-type]
    for machine, length in ((0, 9), (1, 40)):
        window = window_of(runner, frames=30, length=length, machine=machine)
        question = question_of(runner, window)
        found = integrated_gradients(exact, runner.hash, window, question)
        assert found.completeness_error <= 0.02
        assert found.held == 0
        published = float(question.evidence(step_without(runner, window, [()]))[0])
        assert found.fused == pytest.approx(published, abs=1e-3)
        words = sum(amount for text in found.texts.values() for _, amount in text)
        total = found.variables.sum() + sum(found.messages.values()) + words + sum(found.presence.values())
        assert total == pytest.approx(found.fused - found.baseline, rel=0.02, abs=0.002)


def test_what_trees_add_is_held_and_said() -> None:
    options = {"sensors": ExpertsConfig(experts=(LSTM, TREES)), "rule": "product"}
    network, exact = made(**options), made(**options).double()  # type: ignore[arg-type]
    runner = compiled(network)
    window = window_of(runner, frames=30, length=12)
    question = question_of(runner, window)
    found = explain_by_gradients(runner, exact, machine_type(), window, question)
    assert found.covered is not None and 0 < found.covered < 1
    assert found.completeness_error is not None and found.completeness_error <= 0.02


def test_counted_messages_are_left_out_and_add_up_without_a_text_modality() -> None:
    options = {"sensors": LSTM, "texts": False, "messages": (TEXTS[0], TEXTS[1])}
    network, exact = made(**options), made(**options).double()  # type: ignore[arg-type]
    runner = compiled(network)
    window = window_of(runner, frames=25, length=9)
    question = question_of(runner, window)
    left_out = explain_by_leaving_out(runner, machine_type(), window, question)
    counted = {one.name: one.amount for one in left_out.of_kind("text")}
    assert counted[TEXTS[0]] != 0 and counted[TEXTS[1]] != 0
    assert [one.name for one in left_out.of_kind("modality")] == ["sensors"]
    found = integrated_gradients(exact, runner.hash, window, question)
    explained = explain_by_gradients(runner, exact, machine_type(), window, question)
    amounts = {one.name: one.amount for one in explained.of_kind("text")}
    assert {text: amounts[text] for text in TEXTS[:2]} == pytest.approx(found.messages)


def test_an_unknown_answer_is_explained_by_its_novelty() -> None:
    unknown = UnknownConfig(always=True, by_distance=False, by_contradiction=False, features=0, centres=0)
    network = made(sensors=LSTM, detector=DETECTOR, unknown=unknown, texts=False)
    classes = (*machine_type().faults, "unknown")
    runner = compiled(network, classes=classes)  # type: ignore[arg-type]
    window = window_of(runner, frames=30, length=10)
    result = step_without(runner, window, [()])
    assert result.novelty is not None and result.novelty[0] > 1
    question = Question.of(3, classes, machine_type().faults)
    assert question.by_novelty
    left_out = explain_by_leaving_out(runner, machine_type(COMPONENTS), window, question)
    assert left_out.evidence == pytest.approx(float(np.log(result.novelty[0])), rel=1e-6)
    by_name = {one.name: one.amount for one in left_out.of_kind("variable")}
    components = {one.name: one.amount for one in left_out.of_kind("component")}
    assert components["motor"] == pytest.approx(by_name["load"] + by_name["heat"])
    gradients = explain_by_gradients(runner, network, machine_type(), window, question)
    assert sum(one.amount for one in gradients.of_kind("variable")) == pytest.approx(gradients.evidence, rel=1e-4)


def test_what_would_change_an_answer_does_and_no_part_of_it_is_enough() -> None:
    changed = 0
    for seed in range(6):
        runner = compiled(made(seed=seed))
        window = window_of(runner, frames=25, length=9, seed=seed)
        question = question_of(runner, window)
        groups = groups_of(machine_type(), runner.modalities, window)
        found = would_change(runner, window, groups, question)
        if found is None:
            continue
        changed += 1
        result = step_without(runner, window, [found.groups])
        assert result.probabilities[0].argmax() == found.answer != question.answer
        for group in found.groups:
            fewer = [one for one in found.groups if one is not group]
            assert step_without(runner, window, [fewer]).probabilities[0].argmax() == question.answer
    assert changed


def test_a_group_that_holds_nothing_contributes_nothing() -> None:
    runner = compiled(made())
    window = window_of(runner, frames=25, length=9)
    question = question_of(runner, window)
    _, amounts = contributions(
        runner, window, [Group("text", "never written", texts=frozenset(["never written"]))], question
    )
    assert amounts == [0]


def test_integration_is_refined_where_the_path_has_a_kink() -> None:
    def values(points: np.ndarray) -> np.ndarray:
        kinked: np.ndarray = np.maximum(points - 0.337, 0) * 8 + points**3
        return kinked

    def gradients(points: np.ndarray) -> np.ndarray:
        return np.stack([8.0 * (points > 0.337), 3 * points**2], axis=1)

    found = integrate(values, gradients, tolerance=0.001, max_evaluations=4_096)
    assert found.parts == pytest.approx([8 * 0.663, 1], abs=0.001)
    assert found.evaluations > 32
    assert integrate(values, gradients, tolerance=0.0, max_evaluations=100).evaluations < 200
