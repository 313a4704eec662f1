"""Operations of the fusions: late rules, weights, attention between modalities, experts (docs/guide/models.md).

Each modality's vectors of one kind stand `stride` numbers apart in a row. Absent modalities are skipped, whatever
stands in their places.
"""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.codes import PER_CLASS, PRODUCT, STACKED
from models.stepping.kernels.elementary import exp, log, sigmoid
from models.stepping.kernels.lanes import LANES, Lanes, broadcast, first, load, pick_less, splat, store, total
from models.stepping.kernels.vectors import masked, softmax_in_place
from pipeline.arrays import Floats, Ints
from pipeline.compiled import kernel

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TINY = np.float32(1e-12)
"""Keeps logarithms and quotients finite, as in models.fusion.base."""


@kernel
def _shares(work: Floats, start: int, count: int) -> None:
    """Divide numbers by their sum; they stay 0 if all are."""
    whole = _ZERO
    for m in range(count):
        whole += work[start + m]
    whole = max(whole, _TINY)
    for m in range(count):
        work[start + m] /= whole


@kernel
def doubt(op: Ints, block: Block, rows: Ints) -> None:
    """target = share * target + doubt * prior. Operands: target, prior, width, both shares in a row."""
    target, prior, width = op[2], op[3], op[4]
    share, doubted = broadcast(block.weights, op[5]), broadcast(block.weights, op[5] + 1)
    for row in rows:
        base = block.at[row]
        for j in range(0, width, LANES):
            mixed = share * load(block.work, base + target + j) + doubted * load(block.weights, prior + j)
            store(block.work, base + target + j, mixed)


@kernel
def late_rule(op: Ints, block: Block, rows: Ints) -> None:
    """The rules of models.fusion.base.LateFusion over calibrated answers.

    Operands: answers, width of one, classes, modalities, rule, parameters (see programs/fusions.py), mask, target
    for the mixture, target for the weights, room for one answer.
    """
    answers, width, classes, modalities, rule = op[2], op[3], op[4], op[5], op[6]
    parameters, mask, target, weights, room = op[7], load(block.weights, op[8]), op[9], op[10], op[11]
    work, numbers = block.work, block.weights
    prior = parameters + LANES
    modality_shares = prior + width
    recalls = modality_shares + -(-modalities // LANES) * LANES
    stack_bias = recalls + modalities * width
    for row in rows:
        base = block.at[row]
        present, shares, mixture, own = base + block.present_at, base + weights, base + target, base + answers
        several = _ZERO
        for m in range(modalities):
            several += work[present + m]
            work[shares + m] = numbers[modality_shares + m] * work[present + m]
        _shares(work, shares, modalities)
        if rule == PER_CLASS:
            _mix_per_class(block, base, own, width, modalities, recalls, mixture, shares, base + room)
        elif rule == PRODUCT:
            _add_evidence(block, present, own, width, modalities, prior, mixture)
            softmax_in_place(work, mixture, width, mask)
        elif rule == STACKED and several > _ONE:
            _stack_evidence(block, present, own, width, classes, modalities, prior, stack_bias, mixture, base + room)
            softmax_in_place(work, mixture, width, mask)
        else:
            for j in range(0, width, LANES):
                mixed = splat(_ZERO)
                for m in range(modalities):
                    mixed = mixed + broadcast(work, shares + m) * load(work, own + m * width + j)
                store(work, mixture + j, mixed)
        if several > _ONE:
            for j in range(0, width, LANES):
                sharpened = log(load(work, mixture + j) + splat(_TINY)) / broadcast(numbers, parameters)
                store(work, mixture + j, sharpened)
            softmax_in_place(work, mixture, width, mask)
        elif several == _ZERO:
            for j in range(0, width, LANES):
                store(work, mixture + j, load(numbers, prior + j))


@kernel
def _evidence(block: Block, own: int, prior: int) -> Lanes:
    """log p - log prior."""
    return log(load(block.work, own) + splat(_TINY)) - log(load(block.weights, prior) + splat(_TINY))


@kernel
def _add_evidence(
    block: Block, present: int, answers: int, width: int, modalities: int, prior: int, mixture: int
) -> None:
    """mixture = log prior + the evidence of every present modality."""
    for j in range(0, width, LANES):
        mixed = log(load(block.weights, prior + j) + splat(_TINY))
        for m in range(modalities):
            if block.work[present + m] != _ZERO:
                mixed = mixed + _evidence(block, answers + m * width + j, prior + j)
        store(block.work, mixture + j, mixed)


@kernel
def _stack_evidence(
    block: Block,
    present: int,
    answers: int,
    width: int,
    classes: int,
    modalities: int,
    prior: int,
    stack_bias: int,
    mixture: int,
    room: int,
) -> None:
    """mixture = bias + the evidence of every present modality times its matrix, which stands behind the bias."""
    work, numbers = block.work, block.weights
    for j in range(0, width, LANES):
        store(work, mixture + j, load(numbers, stack_bias + j))
    for m in range(modalities):
        if work[present + m] == _ZERO:
            continue
        for j in range(0, width, LANES):
            store(work, room + j, _evidence(block, answers + m * width + j, prior + j))
        for c in range(classes):
            column = stack_bias + (1 + m * classes + c) * width
            counted = broadcast(work, room + c)
            for j in range(0, width, LANES):
                store(work, mixture + j, load(work, mixture + j) + counted * load(numbers, column + j))


@kernel
def _mix_per_class(
    block: Block,
    base: int,
    answers: int,
    width: int,
    modalities: int,
    recalls: int,
    mixture: int,
    shares: int,
    room: int,
) -> None:
    """Each class weighs the modalities by its own recalls; the weights to show are averages over likely classes."""
    work, numbers = block.work, block.weights
    whole = splat(_ZERO)
    for j in range(0, width, LANES):
        weight, mixed = splat(_ZERO), splat(_ZERO)
        for m in range(modalities):
            recall = load(numbers, recalls + m * width + j) * broadcast(work, base + block.present_at + m)
            weight = weight + recall
            mixed = mixed + recall * load(work, answers + m * width + j)
        weight = pick_less(weight, splat(_TINY), splat(_TINY), weight)
        store(work, room + j, weight)
        mixed = mixed / weight
        store(work, mixture + j, mixed)
        whole = whole + mixed
    divisor = splat(max(total(whole), _TINY))
    for j in range(0, width, LANES):
        store(work, mixture + j, load(work, mixture + j) / divisor)
    for m in range(modalities):
        shown = splat(_ZERO)
        for j in range(0, width, LANES):
            recall = load(numbers, recalls + m * width + j) * broadcast(work, base + block.present_at + m)
            shown = shown + recall / load(work, room + j) * load(work, mixture + j)
        work[shares + m] = total(shown)


@kernel
def even_weights(op: Ints, block: Block, rows: Ints) -> None:
    """The same weight for each present modality. Operands: modalities, target."""
    modalities, target = op[2], op[3]
    for row in rows:
        base = block.at[row]
        for m in range(modalities):
            block.work[base + target + m] = block.work[base + block.present_at + m]
        _shares(block.work, base + target, modalities)


@kernel
def diagonal(op: Ints, block: Block, rows: Ints) -> None:
    """Attention of modalities that only see themselves. Operands: modalities, target."""
    modalities, target = op[2], op[3]
    for row in rows:
        base = block.at[row]
        for m in range(modalities):
            for n in range(modalities):
                shown = block.work[base + block.present_at + m] if m == n else _ZERO
                block.work[base + target + m * modalities + n] = shown


@kernel
def modality_attention(op: Ints, block: Block, rows: Ints) -> None:
    """A_mn = softmax_n(H_m . H_n / divisor), H'_m = sum_n A_mn H_n, over what is present.

    Operands: H, stride, width, modalities, divisor, target for H', target for A (modalities^2 numbers), room for a
    score per modality in whole lanes.
    """
    joint, stride, width, modalities, attended = op[2], op[3], op[4], op[5], op[7]
    divisor, target, room = block.weights[op[6]], op[8], op[9]
    work = block.work
    for row in rows:
        base = block.at[row]
        present, scores = base + block.present_at, base + room
        for m in range(modalities):
            own, line = base + joint + m * stride, base + target + m * modalities
            high = np.float32(-np.inf)
            for n in range(modalities):
                work[line + n] = _ZERO
                if work[present + m] == _ZERO or work[present + n] == _ZERO:
                    continue
                products = splat(_ZERO)
                for j in range(0, width, LANES):
                    products = products + load(work, own + j) * load(work, base + joint + n * stride + j)
                work[scores + n] = total(products) / divisor
                high = max(high, work[scores + n])
            if work[present + m] == _ZERO:
                continue
            for n in range(modalities):
                if work[present + n] != _ZERO:
                    work[line + n] = first(exp(splat(work[scores + n] - high)))
            _shares(work, line, modalities)
            for j in range(0, width, LANES):
                found = splat(_ZERO)
                for n in range(modalities):
                    if work[present + n] != _ZERO:
                        found = found + broadcast(work, line + n) * load(work, base + joint + n * stride + j)
                store(work, base + attended + m * stride + j, found)


@kernel
def weigh(op: Ints, block: Block, rows: Ints) -> None:
    """target = sum over present modalities of weight * vector; weights are softmax(scores), or even without scores.

    Operands: vectors, stride, width, modalities, scores (-1: none), numbers from one score to the next, target,
    weights (room for them).
    """
    vectors, stride, width, modalities, scores, step = op[2], op[3], op[4], op[5], op[6], op[7]
    target, weights = op[8], op[9]
    work = block.work
    for row in rows:
        base = block.at[row]
        present, shares = base + block.present_at, base + weights
        high = np.float32(-np.inf)
        for m in range(modalities):
            if scores >= 0 and work[present + m] != _ZERO:
                high = max(high, work[base + scores + m * step])
        for m in range(modalities):
            work[shares + m] = work[present + m]
            if scores >= 0 and work[present + m] != _ZERO:
                work[shares + m] = first(exp(splat(work[base + scores + m * step] - high)))
        _shares(work, shares, modalities)
        for j in range(0, width, LANES):
            found = splat(_ZERO)
            for m in range(modalities):
                if work[present + m] != _ZERO:
                    found = found + broadcast(work, shares + m) * load(work, base + vectors + m * stride + j)
            store(work, base + target + j, found)


@kernel
def blend(op: Ints, block: Block, rows: Ints) -> None:
    """target = s target + (1 - s) log(mixture), with s the sigmoid of a gate.

    Operands: target, mixture, width, gate.
    """
    target, mixture, width = op[2], op[3], op[4]
    share = sigmoid(broadcast(block.weights, op[5]))
    for row in rows:
        base = block.at[row]
        for j in range(0, width, LANES):
            late = load(block.work, base + mixture + j)
            late = log(pick_less(late, splat(_TINY), splat(_TINY), late))
            own = share * load(block.work, base + target + j)
            store(block.work, base + target + j, own + (splat(_ONE) - share) * late)


@kernel
def experts(op: Ints, block: Block, rows: Ints) -> None:
    """Mean of a product of Gaussians with the prior N(0, 1), and each modality's share of the precision (3.4).

    Operands: means, log-variances, stride, width, size, modalities, bounds of the log-variances, mask, target for the
    mean, target for the weights.
    """
    means, variances, stride, width, size, modalities = op[2], op[3], op[4], op[5], np.float32(op[6]), op[7]
    low, high = broadcast(block.weights, op[8]), broadcast(block.weights, op[8] + 1)
    mask, target, weights = load(block.weights, op[9]), op[10], op[11]
    work = block.work
    for row in rows:
        base = block.at[row]
        for m in range(modalities):
            work[base + weights + m] = _ZERO
        for j in range(0, width, LANES):
            mean, precision = splat(_ZERO), splat(_ONE)
            for m in range(modalities):
                if work[base + block.present_at + m] == _ZERO:
                    continue
                spread = load(work, base + variances + m * stride + j)
                spread = pick_less(spread, low, low, pick_less(high, spread, high, spread))
                own = exp(splat(_ZERO) - spread)
                if j + LANES == width:
                    own = masked(own, mask, splat(_ZERO))
                precision = precision + own
                mean = mean + own * load(work, base + means + m * stride + j)
                work[base + weights + m] += total(own)
            store(work, base + target + j, mean / precision)
        for m in range(modalities):
            work[base + weights + m] /= size
        _shares(work, base + weights, modalities)


@kernel
def log_answers(op: Ints, block: Block, rows: Ints) -> None:
    """target = log(max(answer, least)) / -log(least). Operands: answer, width, least, target."""
    answer, width, target = op[2], op[3], op[5]
    least = broadcast(block.weights, op[4])
    divisor = splat(_ZERO) - log(least)
    for row in rows:
        base = block.at[row]
        for j in range(0, width, LANES):
            x = load(block.work, base + answer + j)
            store(block.work, base + target + j, log(pick_less(x, least, least, x)) / divisor)
