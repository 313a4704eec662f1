"""Operations on fused answers: their last calibration, and which classes are candidates."""

from __future__ import annotations

import numpy as np

from models.configs.fusion import JUST_BELOW, LEAST_LEAD
from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import log, sigmoid
from models.stepping.kernels.lanes import first, splat
from models.stepping.kernels.vectors import largest_of
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO, _ONE, _TINY = np.float32(0), np.float32(1), np.float32(1e-12)
_LEAD, _BELOW = np.float32(LEAST_LEAD), np.float32(JUST_BELOW)


@kernel
def confidence_map(op: Ints, block: Block, rows: Ints) -> None:
    """See models.fusion.confidence. Operands: answer, classes, which of them name no fault, parameters, modalities."""
    answer, classes, faultless, parameters, modalities = op[2], op[3], op[4], op[5], op[6]
    work, numbers = block.work, block.weights
    for row in rows:
        base = block.at[row]
        start, present = base + answer, _ZERO
        for m in range(modalities):
            present += work[base + block.present_at + m]
        best = largest_of(work, start, classes)
        quiet = numbers[faultless + best] != _ZERO
        confidence, rest, second = _ZERO, _ZERO, _ZERO
        for c in range(classes):
            if c == best or (quiet and numbers[faultless + c] != _ZERO):
                confidence += work[start + c]
            else:
                rest += work[start + c]
                second = max(second, work[start + c])
        if not present > _ZERO or not rest > _ZERO:
            continue
        own = parameters if quiet else parameters + 3
        odds = numbers[own] * first(log(splat(max(confidence, _TINY))))
        odds = odds - numbers[own + 1] * first(log(splat(max(rest, _TINY))))
        mapped = first(sigmoid(splat(odds + numbers[own + 2])))
        growth = (mapped / max(confidence, _TINY)) / max((_ONE - mapped) / max(rest, _TINY), _TINY)
        least = second / work[start + best]
        growth = max(growth, least + _LEAD * (_ONE - least))
        scale = _ONE / max(growth * confidence + rest, _TINY)
        grown = growth * scale
        limit = work[start + best] * grown
        for c in range(classes):
            mine = c == best or (quiet and numbers[faultless + c] != _ZERO)
            p = work[start + c] * (grown if mine else scale)
            work[start + c] = min(p, limit * _BELOW if c < best else limit)


@kernel
def candidates(op: Ints, block: Block, rows: Ints) -> None:
    """See models.fusion.conformal. Operands: answer, classes, threshold with penalty and free ranks behind it,
    modalities, target for a mark for each class."""
    answer, classes, fitted, modalities, target = op[2], op[3], op[4], op[5], op[6]
    work = block.work
    threshold, penalty, free = block.weights[fitted], block.weights[fitted + 1], block.weights[fitted + 2]
    for row in rows:
        base = block.at[row]
        start, marks, present = base + answer, base + target, _ZERO
        for m in range(modalities):
            present += work[base + block.present_at + m]
        for c in range(classes):
            work[marks + c] = _ZERO
        before = _ZERO
        for rank in range(1, classes + 1):
            if present == _ZERO or before + penalty * max(np.float32(rank) - free, _ZERO) > threshold:
                break
            best = -1
            for c in range(classes):
                if work[marks + c] == _ZERO and (best < 0 or work[start + c] > work[start + best]):
                    best = c
            work[marks + best] = _ONE
            before += work[start + best]
