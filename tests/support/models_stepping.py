"""Networks, comparisons and crowded rounds for the tests of the compiled step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from models.configs.detector import DetectorConfig
from models.configs.diagnoser import DiagnoserConfig
from models.configs.fusion import FusionChoice, FusionConfig, Rule
from models.configs.groups import GroupConfig
from models.configs.messages import MessagesConfig
from models.configs.remaining_life import RemainingLifeConfig
from models.configs.sensors import SensorConfig, SeqLSTMConfig
from models.configs.text import TextConfig
from models.configs.unknown import UnknownConfig
from models.diagnoser import Diagnoser
from models.encoders.experts.detector import Detector
from models.encoders.experts.pool import PooledExperts
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import Tokenizer
from models.evaluation.torch_reference import TorchRunner
from models.fusion.confidence import ConfidenceMap
from models.fusion.conformal import ConformalSets
from models.fusion.learned import LearnedFusion
from models.fusion.unknown import UnknownFaults
from models.network_file import compile_network
from models.stepping.runner import CompiledRunner
from pipeline.frames import Frames, StepResult, StepRunner
from tests.support.models_tiny import CLASSES, TEXTS, VARIABLES, Stream, machine_type
from tests.support.models_trees import grow

LAW = 1e-5
"""How far a step may be from what torch computes."""

FACTS: dict[str, Any] = {"name": "tiny", "digest": "4" * 64, "classes": machine_type().faults}


def compiled(network: Diagnoser, **changes: str) -> CompiledRunner:
    return compile_network(network, **FACTS | changes)


def reference(network: Diagnoser) -> TorchRunner:
    return TorchRunner(network, **FACTS)


def made(
    *,
    sensors: SensorConfig | None = None,
    rule: Rule = "accuracy",
    texts: bool = True,
    seed: int = 4,
    variables: int = VARIABLES,
    fusion: FusionChoice | None = None,
    messages: tuple[str, ...] = (),
    detector: DetectorConfig | None = None,
    unknown: UnknownConfig | None = None,
    remaining_life: RemainingLifeConfig | None = None,
    candidates: bool = False,
    groups: tuple[GroupConfig, ...] = (),
) -> Diagnoser:
    """An untrained network whose scaling and fusion are drawn, and sure enough of itself to make errors count; with
    `candidates` also with a confidence map and conformal sets."""
    text = (
        TextConfig(embedding=8, hidden=6, head=(5,), ring=3, subword_buckets=128, bag=4, bag_buckets=64)
        if texts
        else None
    )
    config = DiagnoserConfig(
        variables=variables,
        classes=CLASSES,
        sensors=sensors or SeqLSTMConfig(hidden=(10, 8), head=(6,), trends=(10.0, 40.0), spreads=(5.0,)),
        groups=groups,
        text=text,
        text_ttl_frames=20,
        messages=MessagesConfig(messages=messages, windows=(3, 11), longest_age=40) if messages else None,
        detector=detector,
        unknown=unknown,
        fusion=fusion or FusionConfig(rule=rule),
        remaining_life=remaining_life,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Diagnoser(config, Tokenizer.fit(TEXTS, text) if text else None)
        with torch.no_grad():
            for parameter in network.sensors.parameters():
                parameter.mul_(2)
        grow(network.sensors, seed)
        if isinstance(network.sensors, PooledExperts):
            network.sensors.weights.uniform_(0.2, 1.2)
            network.sensors.bias.normal_()
            network.sensors.hidden[1] = 1
        if network.messages is not None:
            network.messages.shift.uniform_(-1, 1)
            network.messages.scale.uniform_(0.5, 2)
        if network.detector is not None:
            draw_detector(network.detector)
        if network.unknown is not None:
            draw_unknown(network.unknown)
        if network.remaining_life is not None:
            network.remaining_life.margin.fill_(0.05)
        late = network.fusion
        if isinstance(late, LearnedFusion):
            with torch.no_grad():
                for parameter in late.network.parameters():
                    # Gains and shifts too, which are all alike before training.
                    parameter.add_(torch.randn(parameter.shape) * 0.3)
            late.temperature.fill_(1.3)
            late = late.late
        late.prior.copy_(torch.tensor([0.6, 0.3, 0.1]))
        late.temperatures.uniform_(0.5, 2)
        late.temperature.fill_(0.7)
        late.doubts[1:] = 0.15
        late.accuracies.uniform_(0.5, 1)
        late.recalls.uniform_(0.3, 1)
        late.stack.add_(torch.randn(late.stack.shape) * 0.3)
        late.stack_bias.normal_()
    network.mean.copy_(torch.arange(variables) * 10.0)
    network.std.copy_(torch.linspace(0.5, 4, variables))
    if candidates:
        confidence, sets = ConfidenceMap(CLASSES), ConformalSets()
        confidence.faultless[0] = 1
        confidence.fitted.copy_(torch.tensor([[1.3, 1.6, -0.8], [0.7, 1.2, 0.5]]))
        sets.threshold.fill_(0.75)
        sets.penalty.fill_(0.1)
        network.set_confidence(confidence)
        network.set_candidates(sets, 0.9)
    return network.eval()


def draw_detector(detector: Detector) -> None:
    """Numbers as of a fitted detector, under which some frames are novel and others quiet."""
    variables, blocks = detector.variables, detector.config.blocks
    detector.whitening.add_(torch.randn(variables, variables) * 0.1)
    detector.centres.normal_(std=0.1)
    detector.shapes.add_(torch.randn(blocks, variables, variables) * 0.1)
    detector.limits.uniform_(4, 8)
    detector.quiet.fill_(0.9)
    detector.least_observed.fill_(1)
    detector.backing.zero_()
    detector.backing[1:] = 2.0


def draw_unknown(unknown: UnknownFaults) -> None:
    """Numbers as of a fitted model, by which some frames are far from every class and others near."""
    unknown.root.add_(torch.randn(unknown.root.shape) * 0.1)
    unknown.centres.normal_()
    unknown.limit.fill_(0.7 * unknown.config.features**0.5)
    if unknown.config.by_length:
        unknown.weight.fill_(0.6)
        unknown.usual_length.fill_(0.6)


EXTRAS = ("novelty", "deviations", "candidates", "remaining")
"""Fields of a StepResult that only some models have."""


def distance(one: StepResult, other: StepResult) -> float:
    np.testing.assert_array_equal(one.present, other.present)
    np.testing.assert_array_equal(one.scaled, other.scaled)
    pairs = [
        (one.probabilities, other.probabilities),
        (one.modality_probabilities, other.modality_probabilities),
        (one.weights, other.weights),
    ]
    assert (one.attention is None) == (other.attention is None)
    if one.attention is not None and other.attention is not None:
        pairs.append((one.attention, other.attention))
    for name in EXTRAS:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if name == "candidates":
            np.testing.assert_array_equal(mine, theirs)
        elif mine is not None:
            np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs))
            pairs.append((np.nan_to_num(mine), np.nan_to_num(theirs)))
    for mine, theirs in pairs:
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)


def fold(one: StepRunner, other: StepRunner, stream: Stream, frames: range) -> float:
    """Steps both through rounds of changing company with restarts; the answer is how far they were ever apart."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for t in frames:
        who = [int(machine) for machine in rng.permutation(stream.machines)[: rng.integers(1, stream.machines + 1)]]
        frame = stream.round(t, who)
        frame.reset = rng.random(len(who)) < 0.02
        for runner in (one, other):
            runner.prepare([frame])
        worst = max(worst, distance(one.step(frame), other.step(frame)))
    return worst


def numbers(state: bytes) -> np.ndarray:
    return np.frombuffer(state, "<f4", offset=44)


def everything(result: StepResult) -> list[np.ndarray]:
    parts = [result.probabilities, result.modality_probabilities, result.weights, result.present, result.scaled]
    return [*parts, *(part for name in ("attention", *EXTRAS) if (part := getattr(result, name)) is not None)]


def placed(stream: Stream, frames: int) -> list[list[PlacedText]]:
    """Each machine's texts of these frames, as `forward` takes them."""
    return [
        [PlacedText(t, age, text) for t in range(frames) for age, text in stream.texts.get((machine, t), [])]
        for machine in range(stream.machines)
    ]


def crowd(count: int, stream: Stream, t: int, place: int) -> Frames:
    """Machine 0 of the stream at this place of a round of so many, of whom the others vary."""
    who = [1 + (t * 7 + k) % (stream.machines - 1) for k in range(count)]
    who[place] = 0
    frame = stream.round(t, who)
    # The others get slots of their own, so that a stream's machine may stand in the round several times.
    frame.slots = np.arange(1, count + 1)
    frame.slots[place] = 0
    frame.texts = [(row, text) for row, text in frame.texts if row == place or row % 2]
    return frame
