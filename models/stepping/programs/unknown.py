"""What calls a fault unknown as a program: see models.fusion.unknown for what it computes."""

from __future__ import annotations

import numpy as np

from models.configs.unknown import UnknownConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.programs.builder import ProgramBuilder, Vector
from models.stepping.programs.messages import in_lanes

_KEY = "unknown"


def emit_unknown(
    builder: ProgramBuilder, config: UnknownConfig, features: Vector, novelty: int, fused: int, classes: int
) -> int:
    """Append the operation that adds the class `unknown` to the fused probabilities; returns where they are then.

    `features` are all of the sensors', `classes` those that the fusion answers with.
    """
    reader, size, width = builder.reader, config.features, padded(config.features)
    root = reader.take(f"{_KEY}.root", size, size)
    centres = reader.take(f"{_KEY}.centres", config.centres, size)
    limit = reader.take(f"{_KEY}.limit")
    lengths = [reader.take(f"{_KEY}.{name}").item() if config.by_length else 0 for name in ("weight", "usual_length")]
    compared, where = 0, 0
    if config.centres:
        chosen = _columns(features, config.first_feature, size)
        if sum(piece.size for piece in chosen) != size:
            raise reader.error("compares features that its sensors do not have")
        compared = builder.dense(ALL, chosen, root, None)
        where = builder.numbers(in_lanes(centres.ravel(), size))
    rules = [limit.item(), 1 / config.smoothing_frames, config.frames_in_row, config.quiet_frames]
    rules += [config.by_distance, config.by_contradiction, config.always, *lengths]
    state, armed, target = builder.state(1, 3), builder.state(1, 1, 1.0), builder.work(classes + 1)
    builder.emit(
        operations.UNKNOWN,
        ALL,
        compared,
        width,
        where,
        config.centres,
        builder.numbers(np.array(rules, np.float32)),
        state,
        armed,
        novelty,
        fused,
        classes,
        classes - int(config.recovering),
        builder.modalities,
        target,
    )
    return target


def _columns(vector: Vector, start: int, size: int) -> Vector:
    """So many numbers of a vector from one on, as far as it has them."""
    chosen, begin, end = [], 0, start + size
    for piece in vector:
        first, last = max(start, begin), min(end, begin + piece.size)
        if first < last:
            chosen.append(piece._replace(start=piece.start + first - begin, size=last - first))
        begin += piece.size
    return tuple(chosen)
