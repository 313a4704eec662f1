"""Writes the labelled pool of operators' texts as a parquet file: text, fault, author, group, split."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if not __package__:  # started as a script: the package's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.demo.event_texts import PoolRow, write_pool
from deploy.demo.phrases import SPLITS, Split, authors_of


def make_pool(seed: int, counts: dict[Split, int], held_out: int = 0) -> pa.Table:
    """The pools of all authors in one table, with their splits in rotation `held_out`; each author has its own stream
    of random numbers."""
    rows: list[tuple[PoolRow, Split]] = []
    for split in SPLITS:
        for author in authors_of(split, held_out):
            rng = np.random.default_rng([seed, *author.name.encode()])
            rows.extend((row, split) for row in write_pool(author, rng, counts[split]))
    return pa.table(
        {
            "text": [row.text for row, _ in rows],
            "fault": [row.fault for row, _ in rows],
            "author": [row.author for row, _ in rows],
            "group": [row.group for row, _ in rows],
            "split": [split for _, split in rows],
        }
    )


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--train", type=int, default=60, help="texts per fault and author of training (default 60)")
    parser.add_argument(
        "--validation", type=int, default=40, help="texts per fault and author of validation (default 40)"
    )
    parser.add_argument("--test", type=int, default=60, help="texts per fault of the test author (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--held-out", type=int, default=0, help="place of the author to test with (default 0)")
    options = parser.parse_args(argv)
    counts: dict[Split, int] = {"train": options.train, "validation": options.validation, "test": options.test}
    table = make_pool(options.seed, counts, options.held_out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.out.with_name(options.out.name + ".part")
    pq.write_table(table, unfinished)
    unfinished.replace(options.out)
    sys.stdout.write(f"{table.num_rows} texts -> {options.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
