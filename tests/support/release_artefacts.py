"""What a release leaves behind: the states of the shipped model's machines, and how that release went on from them.

`write` gives what this release leaves, `go-on` what it makes of what another left. It runs in the code of any release,
in a process of its own with the release's folder as the current one:

    python -m tests.support.release_artefacts write RECORDING STATES MODEL PROFILE
    python -m tests.support.release_artefacts go-on RECORDING STATES MODEL PROFILE

and so imports nothing that a release before lacks.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from models.stepping.load import load_model
from pipeline.config.profile import load_profile
from pipeline.engine.engine import Engine
from pipeline.errors import StateError
from pipeline.wire.recording import read_recording
from pipeline.wire.records import Record

Row = tuple[str, bytes, bytes]
"""Topic, key and value of an output."""


class Left(msgspec.Struct):
    """What a release left half way through a recording, and what it published of the other half."""

    states: dict[str, bytes]
    outputs: list[Row]


def shipped_engine(model: Path, profile: str = "tennessee_eastman") -> Engine:
    """An engine with a model and one of the shipped profiles."""
    plant = load_profile(profile)
    (kind,) = plant.machine_types
    return Engine(plant, {kind.name: load_model(model, kind, lambda _: None)})


def halves(records: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    """The records before and behind the checkpoint."""
    return records[: len(records) // 2], records[len(records) // 2 :]


def leave(engine: Engine, records: Sequence[Record]) -> Left:
    """The states in the middle, and the outputs of the second half."""
    first, second = halves(records)
    engine.process(first)
    states = {name: state for name, state in engine.checkpoint().items() if state is not None}
    return Left(states, _rows(engine, second))


def go_on(engine: Engine, states: dict[str, bytes], records: Sequence[Record]) -> tuple[dict[str, str], list[Row]]:
    """Restore states; returns the reasons against some, and the outputs of the second half."""
    refused = {}
    for name, state in states.items():
        try:
            engine.restore(name, state)
        except StateError as error:
            refused[name] = str(error)
    return refused, _rows(engine, halves(records)[1])


def _rows(engine: Engine, records: Sequence[Record]) -> list[Row]:
    """By machine: the order between machines is not part of any promise."""
    rows = [(out.topic, out.key or b"", out.value or b"") for out in engine.process(records)]
    return sorted(rows, key=lambda row: row[:2])


def load(path: Path) -> Left:
    """Read what a release left."""
    return msgspec.msgpack.decode(gzip.decompress(path.read_bytes()), type=Left)


def _write(recording: Path, states: Path, model: Path, profile: str) -> None:
    left = leave(shipped_engine(model, profile), list(read_recording(recording)))
    states.write_bytes(gzip.compress(msgspec.msgpack.encode(left), mtime=0))


def _go_on(recording: Path, states: Path, model: Path, profile: str) -> None:
    left = load(states)
    refused, rows = go_on(shipped_engine(model, profile), left.states, list(read_recording(recording)))
    same = sum(mine == before for mine, before in zip(rows, left.outputs, strict=False))
    print(json.dumps({"refused": refused, "outputs": len(rows), "expected": len(left.outputs), "same": same}))


_COMMANDS: dict[str, Callable[[Path, Path, Path, str], None]] = {"write": _write, "go-on": _go_on}


if __name__ == "__main__":
    _, command, recording_file, states_file, model_file, profile_name = sys.argv
    _COMMANDS[command](Path(recording_file), Path(states_file), Path(model_file), profile_name)
