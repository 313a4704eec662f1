"""What is published besides a fused answer, and of it: its last calibration, its candidates, and embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from models.configs.diagnoser import DiagnoserConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, WORK
from models.stepping.programs.builder import ProgramBuilder, Vector, at_work


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


def emit_embeddings(builder: ProgramBuilder, features: Sequence[Vector]) -> tuple[int, tuple[int, ...]]:
    """Append the copying of each modality's features to one place, zeros where it is absent; returns where that is,
    -1 if no features are given, and how many each modality has."""
    if not features:
        return -1, ()
    sizes = tuple(sum(piece.size for piece in vector) for vector in features)
    target = at = builder.work(sum(sizes))
    for modality, vector in enumerate(features):
        builder.zero(builder.absent(modality), at_work(at, sizes[modality]))
        for piece in vector:
            assert piece.space == WORK, "features are in working memory"
            builder.emit(operations.COPY, builder.present(modality), piece.start, at, piece.size)
            at += piece.size
    return target, sizes
