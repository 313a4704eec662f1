"""Unknown faults: stepped as they are run, called by the rules alone, and never by a model that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.configs.diagnoser import DiagnoserConfig
from models.configs.fusion import FusionConfig
from models.configs.sensors import NoClassifierConfig, SensorConfig
from models.configs.unknown import UnknownConfig
from models.diagnoser import Diagnoser
from models.fusion.unknown import UnknownFaults
from models.network_file import compile_network
from tests.models.test_detector import SMALL
from tests.models.test_stepping import ADAPTIVE, EXPERTS, LSTM
from tests.support.models_stepping import FACTS, LAW, crowd, everything, fold, made, placed, reference
from tests.support.models_tiny import Stream

CLASSES = ("normal", "leak", "jam", "unknown")
NAMED: dict[str, Any] = FACTS | {"classes": CLASSES}


def rules(features: int, first: int = 0, **options: Any) -> UnknownConfig:
    defaults: dict[str, Any] = {
        "by_distance": True,
        "by_contradiction": True,
        "smoothing_frames": 3,
        "frames_in_row": 2,
        "quiet_frames": 3,
    }
    return UnknownConfig(features=features, first_feature=first, centres=3, **defaults | options)


def size_of(sensors: SensorConfig) -> int:
    return made(sensors=sensors).sensors.feature_size


CASES: dict[str, tuple[SensorConfig, UnknownConfig]] = {
    "lstm": (LSTM, rules(size_of(LSTM))),
    "recovering": (LSTM, rules(size_of(LSTM), recovering=True)),
    "part of the experts' features": (EXPERTS, rules(7, 3)),
    "distance": (LSTM, rules(size_of(LSTM), by_contradiction=False)),
    "length": (LSTM, rules(size_of(LSTM), by_contradiction=False, by_length=True)),
    "contradiction": (LSTM, UnknownConfig(by_contradiction=True, frames_in_row=1, quiet_frames=1)),
    "always": (NoClassifierConfig(), UnknownConfig(always=True)),
}
each_case = pytest.mark.parametrize(("sensors", "unknown"), CASES.values(), ids=CASES)


def unsure(sensors: SensorConfig, unknown: UnknownConfig, **options: Any) -> Diagnoser:
    return made(sensors=sensors, detector=SMALL, unknown=unknown, **options)


def compiled(network: Diagnoser) -> Any:
    return compile_network(network, **NAMED)


@each_case
@pytest.mark.parametrize("fusion", [FusionConfig(rule="product"), ADAPTIVE], ids=["late", "adaptive"])
def test_the_compiled_step_gives_what_torch_gives(sensors: SensorConfig, unknown: UnknownConfig, fusion: Any) -> None:
    network, stream = unsure(sensors, unknown, fusion=fusion), Stream(6, 200)
    assert fold(reference(network), compiled(network), stream, range(200)) <= 20 * LAW
    runner = compiled(network)
    shares = np.concatenate([runner.step(stream.round(t)).probabilities[:, -1] for t in range(200)])
    assert (shares > 0.5).any()
    assert (shares < 0.5).any()


@each_case
def test_a_run_in_one_go_gives_what_steps_give(sensors: SensorConfig, unknown: UnknownConfig) -> None:
    network, stream = unsure(sensors, unknown), Stream(machines=4, frames=80, seed=9)
    runner = reference(network)
    rounds = [stream.round(t) for t in range(80)]
    steps = np.stack([runner.step(frames).probabilities for frames in rounds], axis=1)
    values, observed = (
        torch.from_numpy(np.stack([getattr(frames, name) for frames in rounds], axis=1))
        for name in ("values", "observed")
    )
    with torch.inference_mode():
        whole = network(values, observed, placed(stream, 80))
    np.testing.assert_allclose(whole.probabilities.numpy().reshape(steps.shape), steps, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(steps.sum(axis=2), 1, atol=1e-5)
    assert whole.modality_probabilities.shape[-1] == 4
    assert not whole.modality_probabilities[..., -1].any()


@each_case
def test_a_machines_bits_do_not_depend_on_its_company(sensors: SensorConfig, unknown: UnknownConfig) -> None:
    network, stream = unsure(sensors, unknown), Stream(machines=30, frames=40, seed=6)
    lonely, together = compiled(network), compiled(network)
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 35), 65, 300]):
        place = int(rng.integers(count))
        one, other = lonely.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[place])
        np.testing.assert_array_equal(one.modality_probabilities[:, 0], other.modality_probabilities[:, place])
        assert lonely.save(np.array([0])) == together.save(np.array([0]))


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 39), seed=st.integers(0, 1000))
def test_saving_and_restoring_anywhere_is_identical_to_the_bit(cut: int, seed: int) -> None:
    network, stream = unsure(*CASES["lstm"]), Stream(machines=3, frames=40, seed=seed)
    first, second = compiled(network), compiled(network)
    for t in range(cut):
        first.step(stream.round(t))
    for machine, state in enumerate(first.save(np.arange(3))):
        second.load(5 + machine, state)
    for t in range(cut, 40):
        moved = stream.round(t)
        moved.slots = 5 + moved.slots
        for mine, theirs in zip(everything(first.step(stream.round(t))), everything(second.step(moved)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert first.save(np.arange(3)) == second.save(5 + np.arange(3))


def called(answers: list[int], novelty: list[float], config: UnknownConfig, distance: float = 0.0) -> list[bool]:
    """In which frames a fault is unknown, of answers of three classes, or of four with `recovering`."""
    classes = 3 + config.recovering
    overlay = UnknownFaults(config, classes=classes)
    overlay.limit.fill_(0.5)
    p = torch.nn.functional.one_hot(torch.tensor(answers), classes).float()
    features = torch.full((len(answers), max(config.features, 1)), distance)
    present = torch.ones(1, len(answers), dtype=torch.bool)
    fused, _ = overlay(p, torch.tensor([novelty]), features, present, overlay.init_state(1))
    return [bool(place == classes) for place in fused.argmax(dim=1)]


CONTRADICTION = UnknownConfig(by_contradiction=True, frames_in_row=3, quiet_frames=4)
DISTANCE = UnknownConfig(by_distance=True, features=1, centres=1, smoothing_frames=1, recovering=True)


def test_an_answer_without_a_fault_is_contradicted_after_some_novel_frames() -> None:
    assert called([0] * 6, [2, 2, 2, 2, 0.5, 2], CONTRADICTION) == [False, False, True, True, False, False]
    assert not any(called([0] * 6, [2, 2, 1, 2, 2, 1], CONTRADICTION))
    assert not any(called([1] * 6, [2] * 6, CONTRADICTION))


def test_contradiction_is_off_after_a_fault_until_the_novelty_has_been_quiet() -> None:
    after = [1, *[0] * 9]
    assert not any(called(after, [2] * 10, CONTRADICTION))
    assert called(after, [2, 0, 0, 0, 0, 2, 2, 2, 2, 2], CONTRADICTION) == [False] * 7 + [True] * 3
    assert not any(called(after, [2, 0, 0, 0, 2, 2, 2, 2, 2, 2], CONTRADICTION))


def test_a_fault_far_from_every_class_is_unknown_whatever_it_is_taken_for_but_not_while_recovering() -> None:
    answers, novelty = [0, 1, 2, 3, 1], [2.0, 2.0, 2.0, 2.0, 0.9]
    assert called(answers, novelty, DISTANCE, distance=1.0) == [True, True, True, False, False]
    assert not any(called(answers, novelty, DISTANCE, distance=0.1))


def test_without_evidence_no_fault_is_unknown() -> None:
    overlay = UnknownFaults(UnknownConfig(always=True), classes=2)
    p, novelty = torch.tensor([[0.9, 0.1]] * 2), torch.tensor([[3.0, 3.0]])
    fused, _ = overlay(p, novelty, torch.zeros(2, 1), torch.tensor([[True, False]]), overlay.init_state(1))
    torch.testing.assert_close(fused, torch.tensor([[0.225, 0.025, 0.75], [0.9, 0.1, 0.0]]))


def test_rules_that_have_nothing_to_go_by_are_refused() -> None:
    for options in ({"by_distance": True}, {"always": True, "by_contradiction": True}):
        with pytest.raises(ValidationError):
            UnknownConfig(**options)


def test_a_model_without_unknown_faults_is_described_as_before() -> None:
    described = DiagnoserConfig(variables=2, classes=2).model_dump()
    assert "unknown" not in described
    assert "unknown" in DiagnoserConfig(variables=2, classes=2, unknown=CONTRADICTION).model_dump()
