"""A model with the class `recovering` in the engine: it raises no alarm, lets one clear, and is counted by its name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from agents.cli.views.live_view import LiveView
from agents.words import Words
from agents.worker.fusion_metrics import FusionMetrics
from agents.worker.metrics import EngineCollector
from agents.worker.states.metrics import InputCounts
from pipeline.engine.engine import Engine
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.errors import SettingsError
from pipeline.frames import Frames, StepResult
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, diagnoses, numbered, profile, reading

T0 = 1_763_600_000_000
PERIOD_MS = 10_000
NORMAL, LEAK, JAM, RECOVERING = range(4)
ALARM_RULE = AlarmRule(k=3, n=5, confidence=0.5)


class ScriptedRunner(SumRunner):
    """Answers with the class that the first value names, and is as sure of it as the second one says."""

    classes: tuple[str, ...] = ("normal", "leak", "jam", "recovering")  # type: ignore[assignment]
    modalities: tuple[str, ...] = ("sensors",)  # type: ignore[assignment]

    def step(self, frames: Frames) -> StepResult:
        classes = len(self.classes)
        sure = frames.values[:, 1:]
        p = np.repeat((1 - sure) / (classes - 1), classes, axis=1)
        p[np.arange(len(p)), frames.values[:, 0].astype(int)] = sure[:, 0]
        one = np.ones((1, len(p)), np.float32)
        return StepResult(p.astype(np.float32), p[None].astype(np.float32), one, one > 0, np.zeros_like(frames.values))


def records(script: list[int], sure: float = 0.9) -> list[Record]:
    readings = [reading("p1", T0 + at * PERIOD_MS, [float(one), sure]) for at, one in enumerate(script)]
    return numbered([*readings, reading("p1", T0 + len(script) * PERIOD_MS + 9_000, [0.0, sure])])


def said(script: list[int], engine: Engine | None = None, **options: Any) -> list[Output]:
    engine = engine or Engine(profile(), {"pump": ScriptedRunner()}, alarm_rule=ALARM_RULE)
    return engine.process(records(script, **options))


def alarms(outputs: list[Output]) -> list[tuple[int, str, str]]:
    """Frame, fault and state of each change."""
    bodies = [json.loads(output.value or b"") for output in outputs if output.topic == "alarms"]
    return [((body["time"] - T0) // PERIOD_MS - 1, body["fault"], body["state"]) for body in bodies]


def test_recovering_is_published_and_raises_nothing() -> None:
    outputs = said([NORMAL] * 3 + [RECOVERING] * 12)
    found = diagnoses(outputs)
    assert [one.fault for one in found[:15]] == ["normal"] * 3 + ["recovering"] * 12
    assert found[5].modalities["sensors"].fault == "recovering"
    assert found[5].probabilities.keys() == {"normal", "leak", "jam", "recovering"}
    assert found[5].probabilities["recovering"] == found[5].confidence == pytest.approx(0.9)
    assert alarms(outputs) == []


@pytest.mark.parametrize("answers", [[RECOVERING] * 3, [NORMAL, RECOVERING, NORMAL], [RECOVERING, NORMAL, RECOVERING]])
def test_an_alarm_clears_as_in_the_normal_state(answers: list[int]) -> None:
    outputs = said([LEAK] * 4 + answers + [RECOVERING] * 8)
    assert alarms(outputs) == [(2, "leak", "raised"), (6, "leak", "cleared")]
    assert alarms(said([LEAK] * 4 + [NORMAL] * 11)) == alarms(outputs)
    # How sure the model is plays no part, as it does not for the normal state.
    assert alarms(said([LEAK] * 4 + [RECOVERING] * 4, sure=0.6)) == alarms(said([LEAK] * 4 + [NORMAL] * 4, sure=0.6))


def test_another_fault_takes_over_from_a_recovering_plant() -> None:
    outputs = said([LEAK] * 3 + [RECOVERING] * 2 + [JAM] * 3)
    assert alarms(outputs) == [(2, "leak", "raised"), (7, "leak", "cleared"), (7, "jam", "raised")]


def test_alarms_go_on_from_a_saved_state_amid_recovery() -> None:
    script = [LEAK] * 4 + [RECOVERING] * 2
    first = Engine(profile(), {"pump": ScriptedRunner()}, alarm_rule=ALARM_RULE)
    stream = records([*script, RECOVERING, NORMAL, NORMAL])
    outputs = first.process(stream[:6])
    second = Engine(profile(), {"pump": ScriptedRunner()}, alarm_rule=ALARM_RULE)
    for name, state in first.checkpoint().items():
        assert state is not None
        second.restore(name, state)
    assert alarms(outputs + second.process(stream[6:])) == alarms(said([*script, RECOVERING, NORMAL, NORMAL]))


def test_it_is_counted_by_name_and_scored_as_normal() -> None:
    metrics = FusionMetrics(10 * PERIOD_MS)
    engine = Engine(profile(), {"pump": ScriptedRunner()}, alarm_rule=ALARM_RULE, watcher=metrics)
    span = {"machine": "p1", "start": T0, "end": T0 + 2 * PERIOD_MS, "fault": "leak"}
    assert engine.process([Record("labels", 0, 0, T0, b"p1", json.dumps(span).encode())]) == []
    said([LEAK] * 2 + [RECOVERING] * 20, engine)
    told = [json.loads(output.value or b"") for output in metrics.tell()]
    assert told[0]["labelled"] > 0
    assert (told[0]["accuracy"], told[0]["macro_f1"]) == (1, 1)
    registry = CollectorRegistry()
    registry.register(
        EngineCollector(engine, profile(), InputCounts(lag=dict, lost=dict, recreated=dict, now_ms=lambda: T0))
    )
    for fault, count in (("leak", 2), ("recovering", 20), ("jam", 0)):
        assert registry.get_sample_value("faultline_diagnoses_total", {"fault": fault}) == count


def test_the_live_table_does_not_show_it_as_a_fault() -> None:
    view = LiveView("plant", Words(profile()))
    styles = {}
    for one in diagnoses(said([NORMAL, LEAK, RECOVERING])):
        view.add(one)
        (_, shown, *_) = view._row(one)
        styles[one.fault] = str(shown.style)
    assert "red" in styles["leak"]
    assert "red" not in styles["recovering"]


def test_a_plant_whose_own_fault_is_called_recovering_has_no_model_with_the_class() -> None:
    plant = profile(ONE_SOURCE.replace("jam", "recovering"))

    class Own(ScriptedRunner):
        classes = ("normal", "leak", "recovering")

    class Both(ScriptedRunner):
        classes = ("normal", "leak", "recovering", "recovering")

    with pytest.raises(SettingsError, match="knows other faults"):
        Engine(plant, {"pump": Both()})
    # Its own fault raises alarms as any other.
    engine = Engine(plant, {"pump": Own()}, alarm_rule=ALARM_RULE)
    assert alarms(said([NORMAL] + [2] * 3, engine)) == [(3, "recovering", "raised")]
