"""`faultline convert` on a table of a test: bytes and a description in, records or one line of error out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pipeline.wire.recording import read_recording
from tests.support.commands import Finished, faultline


class Converted(NamedTuple):
    """What a conversion printed, and machine, time and values of its readings."""

    said: str
    readings: list[tuple[str, int, dict[str, float | None]]]

    @property
    def times(self) -> list[int]:
        return [time for _, time, _ in self.readings]

    @property
    def flows(self) -> list[float | None]:
        """The values of the variable `flow`."""
        return [values["flow"] for _, _, values in self.readings]


def run_convert(folder: Path, content: bytes | str, options: str = "", *, name: str = "readings.csv") -> Finished:
    """Convert one table with the columns at, id and Flow; `options` are further ones of its description."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    table = {"files": name, "machine": '"p{id}"', "time": "at", "values": "{flow: Flow}"}
    for option in filter(None, options.split("\n")):
        key, _, value = option.partition(":")
        table[key.strip()] = value.strip()
    fields = "\n    ".join(f"{key}: {value}" for key, value in table.items())
    (folder / "tables.yaml").write_text(f"readings:\n  - {fields}\n", encoding="utf-8")
    return faultline("convert", folder / "tables.yaml", "--data", folder, "--out", folder / "out.parquet", "--force")


def converted(folder: Path, content: bytes | str, options: str = "", *, name: str = "readings.csv") -> Converted:
    """The readings of a table that can be converted."""
    done = run_convert(folder, content, options, name=name)
    assert done.returncode == 0, done.stderr
    bodies = [json.loads(record.value or b"") for record in read_recording(folder / "out.parquet")]
    return Converted(done.stdout, [(body["machine"], body["time"], body["values"]) for body in bodies])
