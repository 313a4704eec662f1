"""Writes the labelled pool of operators' texts as a parquet file: text, fault, group, split."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if not __package__:  # started as a script: the package's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.demo.event_texts import SPLITS, PoolRow, Split, write_pool


def make_pool(seed: int, counts: dict[Split, int]) -> pa.Table:
    """The pools of all splits in one table; each split has its own stream of random numbers."""
    rows: list[tuple[PoolRow, Split]] = []
    for index, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, index])
        rows.extend((row, split) for row in write_pool(split, rng, counts[split]))
    return pa.table(
        {
            "text": [row.text for row, _ in rows],
            "fault": [row.fault for row, _ in rows],
            "group": [row.group for row, _ in rows],
            "split": [split for _, split in rows],
        }
    )


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--train", type=int, default=120, help="texts a fault in the train split (default 120)")
    parser.add_argument("--validation", type=int, default=40, help="texts a fault for validation (default 40)")
    parser.add_argument("--test", type=int, default=60, help="texts a fault in the test split (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    options = parser.parse_args(argv)
    table = make_pool(options.seed, {"train": options.train, "validation": options.validation, "test": options.test})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.out.with_name(options.out.name + ".part")
    pq.write_table(table, unfinished)
    unfinished.replace(options.out)
    sys.stdout.write(f"{table.num_rows} texts -> {options.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
