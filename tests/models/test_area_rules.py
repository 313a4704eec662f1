"""Rules as area models: which cause they name, what they say of each machine, and where rules come from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from agents.replay.shipped import demo_model
from models.areas.exact import logarithms, softmax
from models.areas.load import load_area_runner
from models.areas.rule_runner import RULES, AreaRuleConfig, RuleRunner
from pipeline.areas.frames import AreaFrame, AreaResult, Presence
from pipeline.areas.layout import AreaLayout, Cause, CauseKind, Relation, area_layouts
from pipeline.arrays import Floats
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.errors import ModelFileError, StateError
from pipeline.frames import EventText
from tests.support.areas import PROFILE, engine
from tests.support.builders import profile

PLANT = """
plant: small
machine_types:
  - {name: pump, match: "pump-*", frame_period: 10s, faults: [normal, leak, jam], variables: [{name: flow}]}
  - {name: fan, match: "fan-*", frame_period: 10s, faults: [normal, jam], variables: [{name: speed}]}
areas:
  hall:
    utilities:
      water: {faults: [leak, jam], machines: [pump-0, pump-1, pump-2, pump-3]}
      power: {faults: [jam], machines: [fan-0, pump-2, pump-3]}
    feeds: {pump-0: [pump-1]}
"""


def layout() -> AreaLayout:
    return area_layouts(profile(PLANT))["hall"]


def frame(answers: dict[str, dict[str, float]]) -> AreaFrame:
    """A frame in which these machines have answers; what is left of 1 is normal."""
    area = layout()
    count = len(area.machines)
    probabilities, presence = np.zeros((count, area.widest), np.float32), np.full(count, Presence.OFFLINE)
    for machine, answer in answers.items():
        at = area.machines.index(machine)
        presence[at] = Presence.ACTIVE
        for name, probability in ({"normal": 1 - sum(answer.values())} | answer).items():
            probabilities[at, area.classes_of(at).index(name)] = probability
    nothing = np.zeros((count, 0))
    return AreaFrame(
        area, 0, 0, False, 0, presence.astype(np.int64), np.zeros(count, np.int64), probabilities,
        nothing.astype(np.bool_), nothing.astype(np.int64), nothing.astype(np.float32), nothing.astype(np.int64),
        nothing.astype(np.bool_), (),
    )  # fmt: skip


def step(config: AreaRuleConfig, answers: dict[str, dict[str, float]]) -> tuple[Cause, AreaResult]:
    result = RuleRunner(config, print).step(frame(answers))
    assert result.causes.sum() == pytest.approx(1, abs=1e-6)
    return layout().causes[int(result.causes.argmax())], result


def of(result: AreaResult, machine: str) -> dict[str, float]:
    area = layout()
    at = area.machines.index(machine)
    shares: Floats = result.probabilities[at]
    return {name: round(float(p), 3) for name, p in zip(area.classes_of(at), shares, strict=False) if p > 0.001}


def test_the_layout_has_every_relation_with_its_reverse() -> None:
    area = layout()
    names = (*area.machines, *(one.name for one in area.utilities))
    pairs = {
        relation: {(names[source], names[target]) for source, target in zip(e.sources, e.targets, strict=True)}
        for relation, e in area.edges.items()
    }
    assert area.machines == ("fan-0", "pump-0", "pump-1", "pump-2", "pump-3") and area.types == ("pump", "fan")
    assert pairs[Relation.FEEDS] == {("pump-0", "pump-1")} and pairs[Relation.FED_BY] == {("pump-1", "pump-0")}
    assert ("power", "fan-0") in pairs[Relation.SUPPLIES] and len(pairs[Relation.SUPPLIES]) == 7
    assert pairs[Relation.DRAWS_FROM] == {(target, source) for source, target in pairs[Relation.SUPPLIES]}
    assert ("fan-0", "pump-2") in pairs[Relation.SHARES] and ("fan-0", "pump-0") not in pairs[Relation.SHARES]
    assert len(pairs[Relation.SAME_TYPE]) == 4 * 3
    assert area.causes[:4] == (
        Cause(CauseKind.NONE),
        Cause(CauseKind.UTILITY, "water", "leak"),
        Cause(CauseKind.UTILITY, "water", "jam"),
        Cause(CauseKind.UTILITY, "power", "jam"),
    )
    assert [cause.name for cause in area.causes[area.own_causes]] == list(area.machines)


@pytest.mark.parametrize("rule", RULES)
def test_a_fault_of_all_is_the_utilitys_and_one_of_a_single_machine_its_own(rule: str) -> None:
    shared = {machine: {"leak": 0.98} for machine in ("pump-0", "pump-1", "pump-2")}
    cause, result = step(RULES[rule], shared | {"pump-3": {}, "fan-0": {}})
    assert cause == Cause(CauseKind.UTILITY, "water", "leak")
    assert result.support == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0])
    cause, result = step(RULES[rule], {"pump-0": {"leak": 0.98}} | {f"pump-{n}": {} for n in (1, 2, 3)})
    assert cause == Cause(CauseKind.MACHINE, "pump-0")
    assert result.support.tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert of(result, "pump-0") == {"normal": 0.02, "leak": 0.98} and of(result, "fan-0") == {}
    cause, _ = step(RULES[rule], {f"pump-{n}": {} for n in range(4)})
    assert cause == Cause(CauseKind.NONE)


def test_summed_log_odds_by_hand() -> None:
    config = AreaRuleConfig(rule="log_odds", threshold=1.0, low=-1.0, high=2.0)
    answers = {"pump-0": {"leak": 0.9}, "pump-1": {"leak": 0.6}, "pump-2": {"leak": 0.7}, "pump-3": {"leak": 0.01}}
    _, result = step(config, answers)
    # Clipped: 2 (left out), log 1.5 = 0.405, log 7/3 = 0.847, -1: the sum is 0.253, below the threshold of 1.
    water, none = result.causes[1], result.causes[0]
    assert np.log(water / none) == pytest.approx(0.405465 + 0.847298 - 1 - 1, abs=1e-4)
    lower = config.model_copy(update={"threshold": 0.2})
    assert step(lower, answers)[0] == Cause(CauseKind.UTILITY, "water", "leak")
    assert step(config, answers)[0].kind != CauseKind.UTILITY


def test_machines_that_are_missing_count_neither_for_nor_against_and_are_told_what_failed() -> None:
    cause, result = step(
        RULES["log_odds"], {"pump-0": {"leak": 0.98}, "pump-1": {"leak": 0.98}, "pump-2": {"leak": 0.98}}
    )
    assert cause.name == "water"
    share = float(result.causes[1])
    assert of(result, "pump-3") == pytest.approx({"normal": 1 - share, "leak": share}, abs=2e-3)
    assert step(RULES["log_odds"], {"pump-0": {"leak": 0.98}})[0] == Cause(CauseKind.MACHINE, "pump-0")
    assert step(RULES["log_odds"], {})[0] == Cause(CauseKind.NONE)


def test_types_with_other_classes_share_a_utilitys_fault_by_its_name() -> None:
    jammed = {"fan-0": {"jam": 0.99}, "pump-2": {"jam": 0.99}, "pump-3": {"jam": 0.99}}
    cause, result = step(RULES["log_odds"], jammed | {"pump-0": {}, "pump-1": {}})
    assert cause == Cause(CauseKind.UTILITY, "power", "jam")
    assert result.support[0] == result.support[3] == result.support[4]
    assert of(result, "fan-0")["jam"] > 0.98


def test_an_unknown_fault_is_the_machines_own() -> None:
    cause, result = step(RULES["agreeing"], {"pump-0": {"unknown": 0.9}, "pump-1": {}, "pump-2": {}, "pump-3": {}})
    assert cause == Cause(CauseKind.MACHINE, "pump-0") and of(result, "pump-0")["unknown"] == 0.9


def test_logarithms_and_softmax_are_what_they_should_be() -> None:
    rng = np.random.default_rng(1)
    values, scores = rng.random((7, 3), np.float32), rng.normal(0, 9, 11).astype(np.float32)
    np.testing.assert_allclose(logarithms(values, 1e-3), np.log(np.maximum(values, 1e-3)), rtol=1e-6)
    expected = np.exp(scores - scores.max())
    np.testing.assert_allclose(softmax(scores), expected / expected.sum(), rtol=1e-5)


def test_rules_are_loaded_by_name_or_from_a_file(tmp_path: Path) -> None:
    plant, path = profile(PROFILE), tmp_path / "rule.yaml"
    path.write_text("rule: agreeing\nthreshold: 2\n", encoding="utf-8")
    named, given = load_area_runner("log_odds", plant, print), load_area_runner(str(path), plant, print)
    assert (named.name, given.name) == ("log_odds", "agreeing") and named.hash != given.hash
    assert engine(runner=given).owner_of("hall") is not None
    given.load(0, given.save(0))
    with pytest.raises(StateError):
        given.load(0, b"x")
    path.write_text("rule: agreeing\nthreshold: 2\nmachnes: 2\n", encoding="utf-8")
    with pytest.raises(ModelFileError, match="did you mean machines"):
        load_area_runner(str(path), plant, print)
    with pytest.raises(ModelFileError, match="neither a rule"):
        load_area_runner("majority", plant, print)
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_area_runner(str(tmp_path / "none.yaml"), plant, print)


def texts_rule(folder: Path, texts: float = 8.0) -> str:
    """A file with a rule that reads texts by the shipped model."""
    path = folder / "rule.yaml"
    path.write_text(f"{{rule: log_odds, threshold: 1.2, low: 0, high: 6, texts: {texts}, text_model: {demo_model()}}}")
    return str(path)


HALL = """
areas:
  hall:
    utilities:
      cooling_water: {faults: [idv_4, idv_11], machines: [te-01, te-02]}
      steam: {faults: [idv_16], machines: [te-01, te-02]}
"""


def header_plant(folder: Path) -> PlantProfile:
    """Two machines of the shipped profile on one header."""
    path = folder / "plant.yaml"
    shipped = resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml"
    path.write_text(shipped.read_text("utf-8") + HALL)
    return load_profile(path)


def quiet_frame(area: AreaLayout, number: int, *texts: tuple[int, str]) -> AreaFrame:
    """A frame in which both machines are normal, with texts about utilities."""
    end_ms = (number + 1) * area.period_ms
    normal = np.zeros((2, area.widest), np.float32)
    normal[:, 0] = 1
    nothing = np.zeros((2, 0))
    return AreaFrame(
        area, 0, end_ms - area.period_ms, False, 0, np.zeros(2, np.int64), np.zeros(2, np.int64), normal,
        nothing.astype(np.bool_), nothing.astype(np.int64), nothing.astype(np.float32), nothing.astype(np.int64),
        nothing.astype(np.bool_), (), [(u, EventText(str(number), end_ms - 1, text)) for u, text in texts],
    )  # fmt: skip


def test_what_is_written_about_a_utility_names_it_and_survives_a_restart(tmp_path: Path) -> None:
    plant = header_plant(tmp_path)
    area = area_layouts(plant)["hall"]
    one, other = (load_area_runner(texts_rule(tmp_path), plant, lambda line: None) for _ in range(2))
    assert one.hash == other.hash != RuleRunner(RULES["log_odds"], print).hash
    one.reserve(1)
    other.load(0, one.save(0))  # a checkpoint may come before the first frame
    assert area.causes[int(one.step(quiet_frame(area, 0)).causes.argmax())].kind == CauseKind.NONE
    warm = quiet_frame(
        area, 1, (0, "reactor cooling water inlet temperature has stepped up, cooling water is too warm")
    )
    found = one.step(warm)
    assert area.causes[int(found.causes.argmax())] == Cause(CauseKind.UTILITY, "cooling_water", "idv_4")
    assert found.support.tolist() == [0, 0, 1, 0]
    other.load(0, one.save(0))
    for number in (2, 3):
        later, again = one.step(quiet_frame(area, number)), other.step(quiet_frame(area, number))
        assert later.causes.tobytes() == again.causes.tobytes()
    assert one.save(0) == other.save(0)
    one.reset(0)
    assert area.causes[int(one.step(quiet_frame(area, 4)).causes.argmax())].kind == CauseKind.NONE
    with pytest.raises(StateError, match="no state of the texts"):
        one.load(0, b"short")


def test_a_rule_that_reads_texts_needs_a_model_that_does(tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    path.write_text("{rule: log_odds, threshold: 1.2, texts: 8}")
    with pytest.raises(ModelFileError, match="`texts` needs `text_model`"):
        load_area_runner(str(path), header_plant(tmp_path), print)
    with pytest.raises(ModelFileError, match="reads texts of machine type tennessee_eastman"):
        load_area_runner(texts_rule(tmp_path), profile(PLANT), print)
