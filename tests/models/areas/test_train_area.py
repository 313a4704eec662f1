"""`faultline train-area`: from recordings of areas to a file that a plant agent runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from agents.cli.main import app
from models.areas.load import load_area_runner
from models.areas.stepping.model_file import read_area_model
from models.network_file import save_model
from pipeline.areas.engine import AreaEngine
from pipeline.config.profile import parse_profile
from pipeline.errors import FaultlineError
from pipeline.wire.recording import RecordingWriter
from tests.support import models_tiny
from tests.support.builders import event, numbered, reading

PERIOD_MS = models_tiny.PERIOD_MS
FRAMES = 170
MACHINES = ("m0", "m1", "m2")
AREA = "{utilities: {water: {faults: [leak], machines: [m0, m1]}}, feeds: {m1: [m2]}}"
CAUSES = (  # cause, kind, id, fault, first and last frame, and by machine when it begins and ends
    (0, "utility", "water", "leak", 100, 120, {"m0": (102, 122), "m1": (104, 124)}),
    (1, "machine", "m2", "jam", 140, 150, {"m2": (140, 150)}),
)


def write_part(folder: Path, area: str, seed: int) -> None:
    """One recorded area: three pumps whose flow says what they have, and a text about the water."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    ids = {machine: f"{area}-{machine}" for machine in MACHINES}
    section = AREA
    for machine, name in ids.items():
        section = section.replace(machine, name)
    (folder / "areas.yaml").write_text(f"areas: {{{area}: {section}}}")
    rows, records = [], []
    ill = {
        (machine, frame)
        for *_, reached in CAUSES
        for machine, (onset, cleared) in reached.items()
        for frame in range(onset, cleared)
    }
    for frame in range(FRAMES):
        for machine, name in ids.items():
            level = 4.0 if (machine, frame) in ill else 0.0
            values = [level + rng.normal(), 10 + rng.normal(), 20 + rng.normal(), 30 + rng.normal()]
            records.append(reading(name, frame * PERIOD_MS + 1, values))
    records.append(event(f"{area}/water", 103 * PERIOD_MS, "pump leaks badly"))
    with RecordingWriter(folder / f"{area}.parquet") as writer:
        writer.write(numbered(sorted(records, key=lambda record: record.timestamp_ms)))
    for cause, kind, name, fault, start, end, reached in CAUSES:
        for machine, (onset, cleared) in reached.items():
            rows.append(
                {
                    "area": area,
                    "cause": cause,
                    "kind": kind,
                    "id": ids.get(name, name),
                    "fault": fault,
                    "start_ms": start * PERIOD_MS,
                    "end_ms": end * PERIOD_MS,
                    "machine": ids[machine],
                    "onset_ms": onset * PERIOD_MS,
                    "cleared_ms": cleared * PERIOD_MS,
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), folder / "causes.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Areas to learn from and to fit thresholds on, the profile of their machines, and their model."""
    folder = tmp_path_factory.mktemp("data")
    write_part(folder / "areas" / "train", "a1", seed=0)
    write_part(folder / "areas" / "validation", "v1", seed=1)
    (folder / "plant.yaml").write_text(models_tiny.PROFILE)
    save_model(folder / "tiny.faultline", models_tiny.network(), models_tiny.machine_type(), name="tiny", training={})
    return folder


def train(data: Path, out: Path, *options: str) -> str:
    given = [str(data / "areas"), "--profile", str(data / "plant.yaml"), "--model", str(data / "tiny.faultline")]
    done = CliRunner().invoke(app, ["train-area", *given, "--out", str(out), *options], catch_exceptions=True)
    if isinstance(done.exception, FaultlineError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_network_is_trained_scored_and_run(data: Path, tmp_path: Path) -> None:
    network = tmp_path / "network.yaml"
    network.write_text("{kind: hgt_early, width: 8, heads: 2, layers: 1}")
    found = json.loads(train(data, tmp_path, "--network", str(network), "--areas", "3", "--epochs", "1", "--json"))
    model = read_area_model(Path(found["file"]))
    assert (found["hash"], found["threshold"]) == (model.header.hash, model.header.threshold)
    assert set(found["scores"]) == {"validation"}
    by_share = found["scores"]["validation"]["network"]
    assert len(by_share) == 4 and all(0 <= scores["false_frames"] <= 1 for scores in by_share)
    assert by_share[0]["machine_delay_mean"] == found["scores"]["validation"]["log_odds"][0]["machine_delay_mean"]
    assert model.header.training["areas"] == {"train": ["a1"], "validation": ["v1"]}
    assert json.loads((tmp_path / "scores.json").read_text())["threshold"] == found["threshold"]
    profile = parse_profile(models_tiny.PROFILE + f"areas: {{hall: {AREA}}}", where="test")
    engine = AreaEngine(profile, load_area_runner(found["file"], profile, lambda line: None))
    assert engine.runner.hash == found["hash"]
    with pytest.raises(FaultlineError, match=r"areas\.faultline exists; name another folder, or replace it"):
        train(data, tmp_path)


def test_what_cannot_be_trained_on_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FaultlineError, match="neither ima, hgt_early"):
        train(data, tmp_path, "--network", "gnn")
    wrong = tmp_path / "network.yaml"
    wrong.write_text("{kind: alone, widht: 8}")
    with pytest.raises(FaultlineError, match="did you mean width"):
        train(data, tmp_path, "--network", str(wrong))
    lonely = tmp_path / "lonely"
    write_part(lonely / "areas" / "train", "a1", seed=0)
    (lonely / "areas" / "train" / "areas.yaml").write_text("areas: {a1: {machines: [a1-m0, a1-m1]}}")
    for name in ("plant.yaml", "tiny.faultline"):
        (lonely / name).write_bytes((data / name).read_bytes())
    with pytest.raises(FaultlineError, match="no utility, so none can be named"):
        train(lonely, tmp_path / "out")
    (lonely / "areas" / "train" / "areas.yaml").write_text("areas: {a1: {machines: [a1-m0, a1-m1], utilitys: {}}}")
    with pytest.raises(FaultlineError, match="did you mean utilities"):
        train(lonely, tmp_path / "out")
    with pytest.raises(FaultlineError, match="there is no model file"):
        train(lonely, tmp_path / "out", "--profile", str(data / "plant.yaml"), "--model", str(tmp_path / "none"))
