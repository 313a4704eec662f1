"""The network that a training begins with: untrained, or with the encoders of another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.configs.diagnoser import DiagnoserConfig
from models.configs.groups import GroupConfig
from models.configs.sensors import CellsConfig, ExpertsConfig, NoClassifierConfig, SensorConfig
from models.data.runs import before_first_fault
from models.diagnoser import Diagnoser
from models.encoders.tokenizer import Tokenizer
from models.model_file import read_model
from models.network_file import FITTED, build_network
from models.training.config import TrainConfig
from models.training.fitting.false_alarms import FUSED, apply_margins
from models.training.prepare import PreparedData, require_same_split
from models.training.stages.detector import wanted_detector
from pipeline.config.classes import RECOVERING
from pipeline.config.sections.modalities import modality_columns
from pipeline.errors import DataError


def build_untrained(config: TrainConfig, data: PreparedData) -> Diagnoser:
    """A network with weights drawn from the seed, scaled by the training runs; or the encoders of `config.encoders`
    with an untrained fusion."""
    if config.encoders is not None:
        return _with_encoders(config, config.encoders, data)
    texts = [text.text for run in data.split.train for text in run.texts or ()]
    texts += data.pools.train.texts if data.pools else ()
    scaling = data.fit_scaling()
    described = DiagnoserConfig(
        variables=len(data.machine_type.variables),
        classes=len(data.classes),
        sensors=NoClassifierConfig() if data.normal_only else _with_cells(config.sensors, data),
        groups=_groups(config, data),
        detector=wanted_detector(config, data),
        text=config.text if data.pools else None,
        messages=None if data.messages is None else data.messages.config,
        fusion=config.fusion,
        text_ttl_frames=data.machine_type.text_ttl_frames,
        remaining_life=None if config.remaining_life is None else config.remaining_life.network(data.machine_type),
        retrieval=config.retrieval.network() if config.retrieval is not None and data.pools else None,
    )
    network = _seeded(described, Tokenizer.fit(texts, config.text) if described.text else None, config.seed)
    network.set_scaling(scaling)
    if network.messages is not None:
        runs = [before_first_fault(run) for run in data.split.train]
        network.messages.fit_scaling(
            np.concatenate([network.messages.columns(run.texts or (), len(run)) for run in runs])
        )
    return network


def _with_cells(sensors: SensorConfig, data: PreparedData) -> SensorConfig:
    """The sensor encoder with the profile's cells in every network that encodes cells."""
    cells = {"cells": data.cells.columns}
    if isinstance(sensors, CellsConfig):
        return sensors.model_copy(update=cells)
    if isinstance(sensors, ExpertsConfig):
        experts = [one.model_copy(update=cells) if isinstance(one, CellsConfig) else one for one in sensors.experts]
        return sensors.model_copy(update={"experts": tuple(experts)})
    return sensors


def _groups(config: TrainConfig, data: PreparedData) -> tuple[GroupConfig, ...]:
    """The modalities that the profile declares; none where there is no fault to learn."""
    machine_type = data.machine_type
    if data.normal_only or config.modality is None or not machine_type.modalities:
        return ()
    if config.modality.mask_inputs and not config.sensors.mask_inputs:
        raise DataError(
            f"machine type {machine_type.name} declares modalities, whose encoders get observed bits, and `sensors` "
            "gets none; set mask_inputs of `sensors` to true, or that of `modality` to false"
        )
    columns = modality_columns(machine_type.modalities, machine_type.variable_names)
    return tuple(GroupConfig(name=name, columns=own, encoder=config.modality) for name, own in columns.items())


def _with_encoders(config: TrainConfig, path: Path, data: PreparedData) -> Diagnoser:
    """A network with the encoders of a model file, without their false-alarm margins; raises DataError if its training
    saw what is held out here."""
    model = read_model(path)
    if model.header.recovering != (data.recoveries is not None):
        has = "has" if model.header.recovering else "lacks"
        raise DataError(
            f"model {path} {has} the class {RECOVERING}, and its encoders answer with that; set `recovering: "
            f"{str(model.header.recovering).lower()}`, or name another model"
        )
    require_same_split(model, config, data)
    life = None if config.remaining_life is None else config.remaining_life.network(data.machine_type)
    described = model.header.network.model_copy(
        update={
            "fusion": config.fusion,
            "unknown": None,
            "remaining_life": life,
            "retrieval": config.retrieval.network() if config.retrieval is not None and model.tokenizer else None,
            "calibrated": False,
            "coverage": None,
        }
    )
    network = _seeded(described, model.tokenizer, config.seed)
    trained = build_network(model).state_dict()
    left_out = (*FITTED, "remaining_life.", "retrieval.")
    taken = {key: value for key, value in trained.items() if not key.startswith(left_out)}
    network.load_state_dict(network.state_dict() | taken)
    if (margins := model.header.training.get("caution")) and FUSED not in margins:
        applied = [[margins[modality][fault] for fault in data.classes] for modality in network.modalities]
        apply_margins(network, -torch.tensor(applied))
    return network


def _seeded(described: DiagnoserConfig, tokenizer: Tokenizer | None, seed: int) -> Diagnoser:
    """A network whose weights are drawn from the seed, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Diagnoser(described, tokenizer)
