"""How many threads torch and numpy's BLAS may use in this process."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]


def limit_threads(threads: int) -> None:
    """Let torch and numpy's BLAS use so many threads, in this process and from now on.

    Left alone, each takes every core for each product. The products of a step are far too small for that: where other
    programs keep the cores busy, a step then waits for its slowest thread and can take fifty times as long.
    """
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")
