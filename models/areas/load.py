"""Area models by name: a rule, a file with a rule's values, or the file of a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from models.areas.rule_runner import RULES, AreaRuleConfig, RuleRunner
from models.areas.stepping.model_file import read_area_model
from models.areas.stepping.runner import AreaNetworkRunner
from models.areas.utility_texts import UtilityTexts
from models.configs.yaml_file import read_mapping
from models.model_file import SUFFIX, Model, read_model
from models.stepping.load import runner_of
from pipeline.areas.frames import AreaRunner
from pipeline.areas.layout import area_layouts
from pipeline.compiled import Notify
from pipeline.config.profile import PlantProfile
from pipeline.errors import DataError, ModelFileError
from pipeline.files.yaml_fields import field_problems

_RULE_FILES: Final = (".yaml", ".yml")


def load_area_runner(model: str, profile: PlantProfile, notify: Notify) -> AreaRunner:
    """The runner of a rule by its name or by a YAML file with its values, or of a trained network by its file, for the
    areas of a profile.

    Raises ModelFileError if there is none, or if it does not fit the areas; `notify` gets a line if compiling takes
    time.
    """
    runner: AreaRunner = (
        _network(Path(model), profile, notify) if model.endswith(SUFFIX) else _of_rule(model, profile, notify)
    )
    runner.require(list(area_layouts(profile).values()))
    return runner


def _network(path: Path, profile: PlantProfile, notify: Notify) -> AreaNetworkRunner:
    model = read_area_model(path)
    texts = None if model.machine_model is None else _texts(model.machine_model, profile, notify)
    return AreaNetworkRunner(model, texts, notify)


def _of_rule(model: str, profile: PlantProfile, notify: Notify) -> RuleRunner:
    rule = _rule(model)
    texts = None
    if rule.text_model is not None:
        texts = _texts(read_model(Path(model).parent / rule.text_model), profile, notify)
    return RuleRunner(rule, notify, texts)


def _rule(model: str) -> AreaRuleConfig:
    if model in RULES:
        return RULES[model]
    path = Path(model)
    if path.suffix not in _RULE_FILES:
        known = " and ".join(RULES)
        raise ModelFileError(
            f"area model {model} is neither a rule ({known}) nor a YAML file with a rule's values, nor the {SUFFIX} "
            "file of a trained network"
        )
    try:
        return AreaRuleConfig.model_validate(read_mapping(path, "area rule"))
    except DataError as error:
        raise ModelFileError(str(error)) from error
    except ValidationError as error:
        raise ModelFileError(f"area rule {path}: {field_problems(error, AreaRuleConfig)}") from error


def _texts(model: Model, profile: PlantProfile, notify: Notify) -> UtilityTexts:
    """A reader of the texts about utilities; raises ModelFileError if the model fits no machine type of the areas."""
    for machine_type in profile.machine_types:
        if machine_type.name == model.header.machine_type:
            runner = runner_of(model, machine_type, notify)
            return UtilityTexts(runner, len(machine_type.variables), machine_type.text_ttl_frames)
    raise ModelFileError(
        f"model {model.path} reads texts of machine type {model.header.machine_type}, which the profile does not have"
    )
