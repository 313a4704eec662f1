"""What is fitted after everything else: how sure fused answers are, and their candidates."""

from __future__ import annotations

from torch import Tensor

from models.diagnoser import Diagnoser
from models.evaluation.calibration import class_meanings
from models.training.fitting.confidence import fit_confidence
from models.training.fitting.conformal import fit_conformal
from models.training.fitting.evidence import Evidence
from models.training.fitting.unknown import published_answers
from models.training.prepare import PreparedData
from pipeline.config.classes import UNKNOWN


def fit_published(
    network: Diagnoser, data: PreparedData, validation: Evidence, novelty: Tensor | None, coverage: float | None
) -> None:
    """Fit the confidence map, if the answers need one, and then the conformal sets for this coverage, if any is wanted.

    `validation` are all frames of the validation part, with their novelty (N,) if the network has a detector; margins,
    fusion and unknown faults are fitted and no longer change.
    """
    meanings = class_meanings(data.classes, data.faults)
    fused, present = validation.fused(network.fusion).probabilities, validation.present
    network.set_confidence(fit_confidence(fused, present, validation.labels, validation.runs, meanings))
    network.set_candidates(None, None)
    if coverage is not None:
        classes = data.classes if network.unknown is None else (*data.classes, UNKNOWN)
        meanings = class_meanings(classes, data.faults)
        final = published_answers(network, validation, novelty)
        sets = fit_conformal(final, present, validation.labels, validation.runs, meanings, coverage)
        network.set_candidates(sets, coverage)
