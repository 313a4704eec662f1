"""A model with the class `unknown` in the engine: its alarms have a priority of their own; no label agrees with it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.cli.views.live_view import LiveView
from agents.replay.scores import ScoreBook
from agents.words import Words
from agents.worker.fusion_metrics import FusionMetrics
from pipeline.config.classes import are_classes_for, labelled_classes, model_classes, unknown_class
from pipeline.engine.engine import Engine
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.errors import SettingsError
from pipeline.wire.messages import encode
from pipeline.wire.records import Output, Record
from tests.pipeline.test_recovering import T0, ScriptedRunner, alarms, records
from tests.support.builders import ONE_SOURCE, diagnoses, profile

NORMAL, LEAK, JAM, RECOVERING, UNKNOWN = range(5)
ALARM_RULE = AlarmRule(k=3, n=5, confidence=0.5)
PERIOD_MS = 10_000


class Unsure(ScriptedRunner):
    """Has both classes that labels lack."""

    classes = ("normal", "leak", "jam", "recovering", "unknown")


class Plain(ScriptedRunner):
    """Does not learn how a plant recovers."""

    classes = ("normal", "leak", "jam", "unknown")


def engine(runner: ScriptedRunner | None = None, **options: Any) -> Engine:
    return Engine(profile(), {"pump": runner or Unsure()}, alarm_rule=ALARM_RULE, **options)


def bodies(outputs: list[Output]) -> list[dict[str, Any]]:
    return [json.loads(output.value or b"") for output in outputs if output.topic == "alarms"]


def test_an_unknown_fault_raises_an_alarm_of_its_own_priority_and_clears_it() -> None:
    outputs = engine().process(records([NORMAL] * 2 + [UNKNOWN] * 4 + [NORMAL] * 4))
    assert alarms(outputs) == [(4, "unknown", "raised"), (8, "unknown", "cleared")]
    assert [body["priority"] for body in bodies(outputs)] == ["medium", "medium"]
    assert diagnoses(outputs)[3].fault == "unknown"


def test_the_alarm_of_a_known_fault_is_written_as_before() -> None:
    (raised,) = bodies(engine().process(records([LEAK] * 4)))[:1]
    assert list(raised) == ["id", "machine", "fault", "state", "time", "confidence", "diagnosis"]
    old = Alarm("i", "m", "leak", "raised", 1, 0.5, "d")
    assert b"priority" not in encode(old)
    assert old.priority == "high"


def test_a_fault_that_gets_a_name_takes_over_and_recovering_clears() -> None:
    outputs = engine().process(records([UNKNOWN] * 3 + [JAM] * 4 + [RECOVERING] * 4))
    changes = [(2, "unknown", "raised"), (5, "unknown", "cleared"), (5, "jam", "raised"), (9, "jam", "cleared")]
    assert alarms(outputs) == changes


def test_without_recovering_the_last_class_is_not_taken_for_it() -> None:
    outputs = engine(Plain()).process(records([3] * 4 + [NORMAL] * 4))
    assert alarms(outputs) == [(2, "unknown", "raised"), (6, "unknown", "cleared")]


def test_an_unknown_alarm_goes_on_from_a_saved_state() -> None:
    script = [UNKNOWN] * 4 + [NORMAL] * 2
    first, second = engine(), engine()
    stream = records([*script, NORMAL, NORMAL])
    outputs = first.process(stream[:6])
    for name, state in first.checkpoint().items():
        assert state is not None
        second.restore(name, state)
    assert alarms(outputs + second.process(stream[6:])) == alarms(engine().process(records([*script, NORMAL, NORMAL])))


def label(fault: str, begin: int, end: int) -> Record:
    span = {"machine": "p1", "start": T0 + begin * PERIOD_MS, "end": T0 + end * PERIOD_MS, "fault": fault}
    return Record("labels", 0, 0, T0, b"p1", json.dumps(span).encode())


def test_unknown_is_detected_but_not_correct_and_false_on_a_normal_machine() -> None:
    outputs = engine().process(records([NORMAL] * 4 + [UNKNOWN] * 2 + [LEAK] * 2 + [RECOVERING] * 2 + [UNKNOWN] * 2))
    book = ScoreBook(profile())
    book.add_labels([label("leak", 4, 8)])
    for one in diagnoses(outputs)[:12]:
        book.add(one)
    scores = book.scores()["fused"]
    assert (scores["detection_rate"], scores["correct_diagnosis_rate"]) == (1, 0.5)
    assert scores["false_alarm_rate"] == 2 / 8


def test_metrics_count_unknown_as_agreeing_with_no_label() -> None:
    metrics = FusionMetrics(12 * PERIOD_MS)
    watched = engine(watcher=metrics)
    watched.process([label("leak", 0, 4)])
    watched.process(records([UNKNOWN] * 2 + [LEAK] * 2 + [RECOVERING] * 30))
    told = [json.loads(output.value or b"") for output in metrics.tell()]
    assert told[0]["accuracy"] == 1 - 2 / told[0]["labelled"]


def test_the_live_table_tells_it_from_faults_and_from_normal() -> None:
    view = LiveView("plant", Words(profile()))
    styles = {}
    for one in diagnoses(engine().process(records([NORMAL, LEAK, UNKNOWN]))):
        view.add(one)
        (_, shown, *_) = view._row(one)
        styles[one.fault] = str(shown.style)
    assert len({styles["normal"], styles["leak"], styles["unknown"]}) == 3


def test_a_plant_whose_own_fault_is_called_unknown_has_no_model_with_the_class() -> None:
    plant = profile(ONE_SOURCE.replace("jam", "unknown"))

    class Both(ScriptedRunner):
        classes = ("normal", "leak", "unknown", "unknown")

    with pytest.raises(SettingsError, match="knows other faults"):
        Engine(plant, {"pump": Both()})


FAULTS = st.lists(st.sampled_from(["normal", "leak", "jam", "recovering", "unknown"]), min_size=1, unique=True)


@settings(deadline=None)
@given(FAULTS, st.booleans(), st.booleans())
def test_classes_fit_the_faults_that_they_were_made_for(faults: list[str], recovering: bool, unknown: bool) -> None:
    classes = model_classes(faults, recovering=recovering, unknown=unknown)
    clash = (recovering and "recovering" in faults) or (unknown and "unknown" in faults)
    assert are_classes_for(classes, faults) is not clash
    assert not are_classes_for((*classes, "more"), faults)
    assert clash or not are_classes_for(classes[1:], faults)
    place = unknown_class(classes, faults)
    assert place == (len(classes) - 1 if unknown else -1)
    named = labelled_classes(np.arange(len(classes)), len(faults), place)
    extra = [0] * recovering + [len(classes) - 1] * unknown
    assert named.tolist() == [*range(len(faults)), *extra]
