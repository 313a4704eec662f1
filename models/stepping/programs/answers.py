"""What is done with a fused answer before it is published: its last calibration, and its candidates."""

from __future__ import annotations

from models.configs.diagnoser import DiagnoserConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL
from models.stepping.programs.builder import ProgramBuilder


def emit_confidence(builder: ProgramBuilder, config: DiagnoserConfig, answer: int, classes: int) -> None:
    """Append the confidence map of a fused answer of so many classes, if the model has one."""
    if not config.calibrated:
        return
    faultless = builder.numbers(builder.reader.take("confidence.faultless", classes))
    fitted = builder.numbers(builder.reader.take("confidence.fitted", 2, 3))
    builder.emit(operations.CONFIDENCE_MAP, ALL, answer, classes, faultless, fitted, builder.modalities)


def emit_candidates(builder: ProgramBuilder, config: DiagnoserConfig, answer: int, classes: int) -> int:
    """Append the conformal set of a final answer; returns where its marks are, -1 of a model without."""
    if config.coverage is None:
        return -1
    take = builder.reader.take
    fitted = builder.numbers([take(f"conformal.{name}").item() for name in ("threshold", "penalty", "free_ranks")])
    target = builder.work(classes)
    builder.emit(operations.CANDIDATES, ALL, answer, classes, fitted, builder.modalities, target)
    return target
