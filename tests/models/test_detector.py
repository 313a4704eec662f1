"""The detector: stepped as it is run, blind to what was not measured, and backing the classifier by the armed rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.configs.detector import DetectorConfig
from models.configs.diagnoser import DiagnoserConfig
from models.configs.fusion import FusionConfig
from models.configs.sensors import NoClassifierConfig, SensorConfig
from models.diagnoser import Diagnoser
from models.encoders.experts.detector import Detector, Readings
from models.model_file import SUFFIX
from models.network_file import save_model
from models.stepping.load import load_model
from pipeline.errors import ModelFileError
from tests.models.test_stepping import ADAPTIVE, EXPERTS, LSTM
from tests.support.models_stepping import (
    LAW,
    compiled,
    crowd,
    draw_detector,
    everything,
    fold,
    made,
    numbers,
    placed,
    reference,
)
from tests.support.models_tiny import VARIABLES, Stream, machine_type

SMALL = DetectorConfig(hidden=9, mean_spans=(1.0, 4.0), square_spans=(3.0, 8.0), warm_up_frames=3, quiet_frames=4)
ENCODERS: dict[str, SensorConfig] = {"lstm": LSTM, "experts": EXPERTS, "none": NoClassifierConfig()}
each_encoder = pytest.mark.parametrize("sensors", ENCODERS.values(), ids=ENCODERS)


def alone(config: DetectorConfig = SMALL, *, classes: int = 3) -> Detector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        detector = Detector(config, variables=VARIABLES, classes=classes)
        draw_detector(detector)
    return detector.eval()


def readings(scaled: Tensor) -> Readings:
    return Readings(scaled, torch.ones_like(scaled, dtype=torch.bool), torch.ones_like(scaled, dtype=torch.bool))


@each_encoder
@pytest.mark.parametrize("fusion", [FusionConfig(rule="product"), ADAPTIVE], ids=["late", "adaptive"])
def test_the_compiled_step_gives_what_torch_gives(sensors: SensorConfig, fusion: Any) -> None:
    network = made(sensors=sensors, fusion=fusion, detector=SMALL)
    assert fold(reference(network), compiled(network), Stream(6, 200), range(200)) <= 20 * LAW


@each_encoder
def test_a_run_in_one_go_gives_what_steps_give(sensors: SensorConfig) -> None:
    network, stream = made(sensors=sensors, detector=SMALL), Stream(machines=4, frames=80, seed=9)
    runner = reference(network)
    values, observed = [], []
    novelty: list[np.ndarray] = []
    deviations: list[np.ndarray] = []
    probabilities = []
    for t in range(80):
        frames = stream.round(t)
        step = runner.step(frames)
        values.append(frames.values)
        observed.append(frames.observed)
        assert step.novelty is not None and step.deviations is not None
        novelty.append(step.novelty)
        deviations.append(step.deviations)
        probabilities.append(step.probabilities)
    with torch.inference_mode():
        whole = network(
            torch.from_numpy(np.stack(values, 1)), torch.from_numpy(np.stack(observed, 1)), placed(stream, 80)
        )
    assert whole.novelty is not None and whole.deviations is not None
    np.testing.assert_allclose(whole.novelty.numpy().reshape(4, 80), np.stack(novelty, 1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        whole.deviations.numpy().reshape(4, 80, VARIABLES), np.stack(deviations, 1), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        whole.probabilities.numpy().reshape(4, 80, -1), np.stack(probabilities, 1), rtol=1e-3, atol=1e-4
    )


@each_encoder
def test_a_machines_bits_do_not_depend_on_its_company(sensors: SensorConfig) -> None:
    network, stream = made(sensors=sensors, detector=SMALL), Stream(machines=30, frames=40, seed=6)
    lonely, together = compiled(network), compiled(network)
    rng = np.random.default_rng(1)
    for t, count in enumerate([*range(1, 35), 64, 65, 300]):
        place = int(rng.integers(count))
        one, other = lonely.step(stream.round(t, [0])), together.step(crowd(count, stream, t, place))
        assert one.novelty is not None and other.novelty is not None
        assert one.deviations is not None and other.deviations is not None
        assert one.novelty[0] == other.novelty[place]
        np.testing.assert_array_equal(one.deviations[0], other.deviations[place])
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[place])
        assert lonely.save(np.array([0])) == together.save(np.array([0]))


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 39), seed=st.integers(0, 1000))
def test_saving_and_restoring_anywhere_is_identical_to_the_bit(cut: int, seed: int) -> None:
    network, stream = made(detector=SMALL), Stream(machines=3, frames=40, seed=seed)
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


def test_states_go_from_torch_to_the_compiled_step() -> None:
    network, stream = made(sensors=EXPERTS, detector=SMALL), Stream(machines=4, frames=30, seed=3)
    one, other = reference(network), compiled(network)
    for t in range(30):
        one.step(stream.round(t))
        other.step(stream.round(t))
    for mine, theirs in zip(one.save(np.arange(4)), other.save(np.arange(4)), strict=True):
        assert mine[:44] == theirs[:44]
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=20 * LAW, atol=20 * LAW)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 30))
def test_deviations_are_shares_of_the_novelty(seed: int, frames: int) -> None:
    detector = alone()
    scaled = torch.randn(2, frames, VARIABLES, generator=torch.Generator().manual_seed(seed)) * 3
    with torch.inference_mode():
        found, _ = detector.advance(readings(scaled), detector.init_state(2))
    assert bool((found.deviations >= 0).all())
    torch.testing.assert_close(found.deviations.sum(dim=-1), found.novelty)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_was_not_measured_changes_no_statistic(seed: int) -> None:
    detector, drawn = alone(), torch.Generator().manual_seed(seed)
    start, _ = detector.advance(readings(torch.randn(1, 12, VARIABLES, generator=drawn)), detector.init_state(1))
    _, state = detector.advance(readings(torch.randn(1, 12, VARIABLES, generator=drawn)), detector.init_state(1))
    wild = torch.randn(1, 20, VARIABLES, generator=drawn) * 50
    known = torch.rand(wild.shape, generator=drawn) < 0.5
    with torch.inference_mode():
        found, after = detector.advance(Readings(wild, known, torch.zeros_like(known)), state | {})
    assert start.novelty.shape == (1, 12)
    torch.testing.assert_close(after["means"], state["means"], rtol=0, atol=0)
    torch.testing.assert_close(after["squares"], state["squares"], rtol=0, atol=0)
    assert len(set(found.novelty.flatten().tolist())) == 1


def test_a_frame_without_many_readings_and_those_after_it_say_nothing() -> None:
    detector, scaled = alone(), torch.randn(1, 30, VARIABLES, generator=torch.Generator().manual_seed(3)) * 3
    detector.least_observed.fill_(VARIABLES - 1)
    observed = torch.ones_like(scaled, dtype=torch.bool)
    observed[0, 12, 0] = False  # one may be missing
    observed[0, 20, :2] = False
    seen = Readings(scaled, torch.ones_like(observed), observed)
    with torch.inference_mode():
        novelty = detector.advance(seen, detector.init_state(1))[0].novelty[0]
        deviations = detector.advance(seen, detector.init_state(1))[0].deviations[0]
    said = (novelty > 0).tolist()
    # Three frames of warm-up after the start, and after the frame with two missing.
    assert said == [t >= 3 and not 20 <= t <= 22 for t in range(30)]
    assert (deviations.sum(dim=1) > 0).tolist() == said


def test_a_machines_first_frames_are_no_evidence() -> None:
    detector = alone()
    state = detector.init_state(1)
    wild = torch.full((1, SMALL.warm_up_frames, VARIABLES), 100.0)
    with torch.inference_mode():
        residuals, evidence, _ = detector.residuals(readings(wild), state)
    assert not evidence.any() and not residuals.any()
    with torch.inference_mode():
        _, evidence, _ = detector.residuals(
            readings(torch.full((1, SMALL.warm_up_frames + 1, VARIABLES), 100.0)), state
        )
    assert bool(evidence[0, -1].all())


def test_a_variable_that_leaves_the_normal_state_deviates_most() -> None:
    detector = alone(SMALL.model_copy(update={"mean_spans": (4.0,), "square_spans": ()}))
    detector.whitening.copy_(torch.eye(VARIABLES))
    detector.shapes.copy_(torch.eye(VARIABLES)[None])
    detector.centres.zero_()
    for parameter in detector.parameters():
        parameter.data.zero_()
    scaled = torch.zeros(1, 30, VARIABLES)
    scaled[0, 10:, 2] = 3
    with torch.inference_mode():
        found, _ = detector.advance(readings(scaled), detector.init_state(1))
    assert not found.novelty[0, :10].any()
    assert bool((found.deviations[0, 10:].argmax(dim=1) == 2).all())
    assert bool((found.novelty[0, 11:] > found.novelty[0, 10:-1]).all())


def test_the_armed_rule_as_a_timeline() -> None:
    """novel       0 1 1 1 1 0 0 0 0 1
    classifier  - - - F - - - - - -
    armed       1 1 1 0 0 0 0 0 1 1    with quiet_frames 4"""
    detector = alone()
    surprise = float(np.log(2.0 / 0.9))
    novelty = torch.tensor([[0.1, 2, 2, 2, 2, 0.1, 0.1, 0.1, 0.1, 2]])
    logits = torch.tensor([[[5.0, 0, 0]] * 10])
    logits[0, 3] = torch.tensor([0.0, 0, 5])
    backed, after = detector.back(logits, novelty, detector.init_state(1))
    added = (backed - logits)[0, :, 1]
    torch.testing.assert_close(added, 2 * surprise * torch.tensor([0.0, 1, 1, 0, 0, 0, 0, 0, 0, 1]))
    assert after["armed"].item() == 1 and after["calm"].item() == 0
    always, _ = detector.back(logits, novelty, detector.init_state(1), armed=True)
    torch.testing.assert_close((always - logits)[0, :, 1] > 0, novelty[0] > 0.9)


def test_only_visible_faults_are_backed() -> None:
    detector = alone()
    detector.backing.copy_(torch.tensor([0.0, 2.0, 0.0]))
    logits = torch.zeros(1, 5, 3)
    backed, _ = detector.back(logits, torch.full((1, 5), 3.0), detector.init_state(1))
    assert bool((backed[..., 1] > 0).all())
    assert not backed[..., [0, 2]].any()


def test_a_model_without_faults_answers_normal_and_says_how_novel_a_frame_is() -> None:
    config = DiagnoserConfig(variables=VARIABLES, classes=1, sensors=NoClassifierConfig(), text=None, detector=SMALL)
    network = Diagnoser(config, None).eval()
    result = compiled(network, classes=("normal",)).step(Stream(3, 5).round(2))  # type: ignore[arg-type]
    assert result.novelty is not None and result.novelty.shape == (3,)
    np.testing.assert_array_equal(result.probabilities, np.ones((3, 1), np.float32))


def test_a_model_file_brings_the_detector_back(tmp_path: Path) -> None:
    network, path = made(texts=False, detector=SMALL), tmp_path / f"tiny{SUFFIX}"
    digest = save_model(path, network, machine_type(), name="tiny", training={})
    loaded, kept = load_model(path, machine_type()), compiled(network, digest=digest)
    stream = Stream(4, 20)
    for t in range(20):
        for mine, theirs in zip(
            everything(loaded.step(stream.round(t))), everything(kept.step(stream.round(t))), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("limits", 0.0, "without a limit"),
        ("limits", -1.0, "without a limit"),
        ("quiet", 0.0, "cannot"),
        ("quiet", -1.0, "cannot"),
        ("backing", -2.0, "cannot"),
        ("backing", 2.0, "cannot"),
        ("whitening", float("nan"), "no numbers"),
    ],
)
def test_a_hostile_detector_is_refused(tmp_path: Path, name: str, value: float, said: str) -> None:
    network, path = made(texts=False, detector=SMALL), tmp_path / f"tiny{SUFFIX}"
    assert network.detector is not None
    network.detector.get_buffer(name).fill_(value)
    save_model(path, network, machine_type(), name="tiny", training={})
    with pytest.raises(ModelFileError, match=said):
        load_model(path, machine_type())


def test_a_model_without_a_detector_is_described_as_before() -> None:
    config = DiagnoserConfig(variables=VARIABLES, classes=3)
    assert "detector" not in config.model_dump()
    assert DiagnoserConfig.model_validate(config.model_dump()) == config


def test_a_detector_that_watches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is watched"):
        DetectorConfig(mean_spans=(), square_spans=())
