"""The repeated hour at the end of summer time, decided by the order of a machine's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise

from agents.replay.tables.problems import CellError
from agents.replay.tables.times import Ambiguous

_GOES_BACK_TWICE = "comes after rows that go back a second time within the repeated hour"
_AS_NEAR = "is as near to the row before it as to the one after it, in either hour"


def decided_by_order(moments: Sequence[int | Ambiguous]) -> list[int | CellError]:
    """The times of one machine's rows in the order of their file, which may begin with the newest.

    Where rows go back within the repeated hour, its second pass begins. Where they do not, the hour is the pass that
    leaves the smaller gap to the rows before and after it. What the order does not decide is an error.
    """
    firsts = [moment if isinstance(moment, int) else moment.earlier for moment in moments]
    decided: list[int | CellError] = list(firsts)
    backwards = sum((a < b) - (a > b) for a, b in pairwise(firsts)) < 0
    indices = range(len(moments) - 1, -1, -1) if backwards else range(len(moments))
    groups = [list(group) for _, group in groupby(indices, lambda at: isinstance(moments[at], int))]
    for number, group in enumerate(groups):
        pairs = [moment for at in group if isinstance(moment := moments[at], Ambiguous)]
        if pairs:
            before = firsts[groups[number - 1][-1]] if number else None
            after = firsts[groups[number + 1][0]] if number + 1 < len(groups) else None
            for at, time in zip(group, _passes(pairs, before, after), strict=True):
                decided[at] = time
    return decided


def _passes(pairs: Sequence[Ambiguous], before: int | None, after: int | None) -> list[int | CellError]:
    """The times of ambiguous rows that follow each other, between two rows whose times are certain."""
    returns = [at for at in range(1, len(pairs)) if pairs[at].earlier <= pairs[at - 1].earlier]
    if len(returns) > 1:
        return [_undecided(_GOES_BACK_TWICE) for _ in pairs]
    if returns:
        (second,) = returns
    else:
        gap_before, gap_after = _gap(before, pairs[0].earlier), _gap(pairs[-1].later, after)
        if gap_before == gap_after:
            return [_undecided(_AS_NEAR) for _ in pairs]
        second = len(pairs) if gap_before < gap_after else 0
    return [pair.earlier if at < second else pair.later for at, pair in enumerate(pairs)]


def _undecided(detail: str) -> CellError:
    return CellError("is ambiguous", f"{detail}, so the order of rows does not decide; set ambiguous: earlier or later")


def _gap(before: int | None, after: int | None) -> float:
    return math.inf if before is None or after is None or after < before else after - before
