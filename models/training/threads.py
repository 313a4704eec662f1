"""How many threads torch and numpy's BLAS may use in this process."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]


def limit_threads(threads: int) -> None:
    """Let torch and numpy's BLAS use at most `threads` threads in this process.

    By default each uses all cores for each product. The products of a step are far too small for that: on a busy
    machine a step then waits for its slowest thread and can take fifty times as long.
    """
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")
