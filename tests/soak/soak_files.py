"""The long form of tests/pipeline/test_file_fuzz.py: damaged states, model files and recordings by the thousand.

    python -m tests.soak.soak_files --rounds 100 --json

Each round is a process of its own, so that damage which ends a whole process is found and named as well.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.file_fuzz import FileFuzz, FuzzError, StateFuzz

STATES, FILES = 4_000, 1_000
"""Of each round: damaged states, and as many damaged model files as recordings."""


def one_round(number: int, progress: Connection) -> None:
    """Try the seeds of one round; says each kind and seed before it is tried, and at last what was found."""
    faulthandler.enable()
    problems: list[str] = []
    states = StateFuzz()
    with tempfile.TemporaryDirectory(prefix="faultline-fuzz-") as folder:
        files = FileFuzz(Path(folder))
        for kind, attempt, count in (
            ("state", states.one, STATES),
            ("model", files.model, FILES),
            ("recording", files.recording, FILES),
        ):
            for seed in range(number * count, (number + 1) * count):
                progress.send((kind, seed))
                try:
                    attempt(seed)
                except FuzzError as error:
                    problems.append(f"{kind}: {error}")
    refused = {"states": states.refused.total(), "files": files.refused.total()}
    progress.send({"problems": problems, "refused": refused})


def run_round(number: int) -> dict[str, Any]:
    """One round in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=one_round, args=(number, theirs))
    process.start()
    theirs.close()
    last: Any = None
    while not isinstance(last, dict):
        try:
            last = ours.recv()
        except EOFError:
            process.join()
            return {"problems": [f"{last[0] if last else 'start'}: seed {last and last[1]} ended the process with "
                                 f"{process.exitcode}"], "refused": {}}  # fmt: skip
    process.join()
    return last


def main() -> int:
    """Run the rounds and report; exits with 1 if anything but the readers' own errors came out."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak_files", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the report as JSON on one line")
    options = parser.parse_args()
    problems: list[str] = []
    refused: Counter[str] = Counter()
    for number in range(options.first_round, options.first_round + options.rounds):
        found = run_round(number)
        problems += found["problems"]
        refused.update(found["refused"])
    report = {
        "states": options.rounds * STATES,
        "model_files": options.rounds * FILES,
        "recordings": options.rounds * FILES,
        "refused": dict(refused),
        "problems": len(problems),
        "first_problems": problems[:10],
    }
    print(json.dumps(report, indent=None if options.json else 2))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
