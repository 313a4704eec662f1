"""What a model makes of texts in which it knows no word, and that it learns words of any script."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from torch.nn.functional import cross_entropy

from agents.worker.metrics import EngineCollector
from agents.worker.states.metrics import InputCounts
from models.configs.diagnoser import DiagnoserConfig
from models.configs.sensors import SeqLSTMConfig
from models.configs.text import EMPTY, TextConfig
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from models.encoders.tokenizer import Tokenizer
from models.evaluation.torch_reference import TorchRunner
from models.network_file import compile_network
from models.stepping.runner import CompiledRunner
from pipeline.config.profile import parse_profile
from pipeline.engine.engine import Engine
from pipeline.wire.messages import Diagnosis
from pipeline.wire.records import Record
from tests.support.builders import diagnoses, numbered, reading
from tests.support.models_stepping import compiled, reference
from tests.support.models_tiny import PROFILE, UNKNOWN_TEXT, VARIABLES, Stream, machine_type, network

T0 = 1_763_600_000_000

LEAKS = ["反应器冷却水回水温度偏高", "冷却水温度高", "回水温度偏高，请检查", "反应器温度升高"]
NORMAL = ["一切正常", "运行正常", "设备运行正常，无异常", "巡检正常"]


def runners() -> list[CompiledRunner | TorchRunner]:
    return [compiled(network()), reference(network())]


@pytest.mark.parametrize("index", range(2), ids=["compiled", "torch"])
def test_a_text_without_a_known_word_is_as_if_it_had_not_come(index: int) -> None:
    stream = Stream(machines=2, frames=3)
    stream.texts = {(0, 0): [(0.5, UNKNOWN_TEXT), (0.4, "shaft jam"), (0.3, "?!")], (1, 0): [(0.5, UNKNOWN_TEXT)]}
    made, expected = runners()[index], runners()[index]
    frame = stream.round(0)
    made.prepare([frame])
    result = made.step(frame)
    unknown = [frame.texts[number][1].text for number in result.unknown_texts]
    assert unknown == [UNKNOWN_TEXT, "?!", UNKNOWN_TEXT]
    stream.texts = {(0, 0): [(0.4, "shaft jam")]}
    without = expected.step(stream.round(0))
    assert list(without.unknown_texts) == []
    assert result.present[1].tolist() == [True, False]
    np.testing.assert_array_equal(result.present, without.present)
    np.testing.assert_array_equal(result.probabilities, without.probabilities)
    assert made.save(np.arange(2)) == expected.save(np.arange(2))


def test_a_run_with_unknown_texts_only_has_an_empty_ring() -> None:
    ring, age = network().ring_of_run([PlacedText(frame, 0.5, UNKNOWN_TEXT) for frame in range(4)], 4)
    assert (age == EMPTY).all()
    assert not ring.any()


@pytest.fixture(scope="module")
def chinese() -> CompiledRunner:
    """A network whose text modality has learnt a few Chinese texts of a leak and of the normal state."""
    text = TextConfig(embedding=16, hidden=16, head=(16,), ring=2, subword_buckets=512, dropout=0, unknown_dropout=0)
    config = DiagnoserConfig(
        variables=VARIABLES,
        classes=3,
        sensors=SeqLSTMConfig(hidden=(4,), head=(4,), trends=(), spreads=()),
        text=text,
        text_ttl_frames=20,
    )
    texts, labels = LEAKS + NORMAL, torch.tensor([1] * len(LEAKS) + [0] * len(NORMAL))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Diagnoser(config, Tokenizer.fit(texts, text))
        assert made.text is not None
        optimiser = torch.optim.Adam(made.text.parameters(), lr=0.01)
        for _ in range(60):
            ring, age = made.text.encode(texts).unsqueeze(1), torch.full((len(texts), 1), 0.5)
            loss = cross_entropy(made.text(ring, age)[0], labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    assert loss.item() < 0.05
    return compile_network(made.eval(), name="chinese", digest="c" * 64, classes=machine_type().faults)


def diagnosed(runner: CompiledRunner, *texts: str) -> tuple[Engine, Diagnosis]:
    """The diagnosis of a frame in which these texts were written."""
    engine = Engine(parse_profile(PROFILE, where="test"), {"pump": runner})
    sent = [
        Record("events", 0, 0, T0, b"p1", json.dumps({"machine": "p1", "time": T0 + n, "text": text}).encode())
        for n, text in enumerate(texts)
    ]
    first, last = (reading("p1", T0 + second * 1_000, [0.0] * VARIABLES) for second in (0, 30))
    found = diagnoses(engine.process(numbered([first, *sent, last])))
    return engine, found[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("反应器冷却水回水温度偏高", "leak"),
        ("<p>冷却水&nbsp;回水温度高！</p>", "leak"),
        ("一切正常", "normal"),
        ("今天运行一切正常。", "normal"),
    ],
)
def test_chinese_texts_are_distinguished(chinese: CompiledRunner, text: str, fault: str) -> None:
    engine, diagnosis = diagnosed(chinese, text)
    answer = diagnosis.modalities["text"]
    assert answer.present
    assert answer.fault == fault
    assert engine.stats.unknown_texts == 0


def test_a_text_in_another_language_is_no_evidence_and_counted(chinese: CompiledRunner) -> None:
    engine, diagnosis = diagnosed(chinese, "pump leaks at flange 3", "<p>&nbsp;</p>", "...", "")
    answer = diagnosis.modalities["text"]
    assert (answer.present, answer.weight, answer.age_ms) == (False, 0, None)
    assert diagnosis.evidence.texts == []
    assert engine.stats.unknown_texts == 4
    registry = CollectorRegistry()
    plant = parse_profile(PROFILE, where="test")
    registry.register(
        EngineCollector(engine, plant, InputCounts(lag=dict, lost=dict, recreated=dict, now_ms=lambda: T0))
    )
    assert registry.get_sample_value("faultline_texts_without_known_words_total") == 4
    assert registry.get_sample_value("faultline_texts_total") == 4
    _, without = diagnosed(chinese)
    assert (diagnosis.probabilities, diagnosis.fault) == (without.probabilities, without.fault)


def test_only_the_texts_that_are_read_are_shown_as_evidence(chinese: CompiledRunner) -> None:
    engine, diagnosis = diagnosed(chinese, "leaks", "一切正常")
    assert [text.text for text in diagnosis.evidence.texts] == ["一切正常"]
    assert engine.stats.unknown_texts == 1
