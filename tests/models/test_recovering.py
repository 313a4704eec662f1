"""A plant that recovers slowly after one of its faults: what is labelled, learnt, published, and raises no alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.configs.sensors import SeqLSTMConfig
from models.configs.text import TextConfig
from models.data.runs import RunFiles
from models.training.config import TrainConfig
from models.training.loop import StageConfig
from pipeline.arrays import Floats, Ints
from tests.models.test_training import CENTRE, WORDS
from tests.support.models_tiny import PROFILE, machine_type

FRAMES, ONSET, CLEARING, JAM, UNJAMMED = 130, 25, 45, 95, 110
SLOW = 12.0
"""Frames in which the flow comes back by a factor of e after a leak; a jam leaves nothing behind."""


def run_of(seed: int) -> tuple[Floats, Ints]:
    """Readings (T, 4) and labels (T,)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(FRAMES, np.int64)
    labels[ONSET:CLEARING], labels[JAM:UNJAMMED] = 1, 2
    values = CENTRE + rng.standard_normal((FRAMES, 4))
    values[ONSET:CLEARING, 0] -= 8
    values[CLEARING:, 0] -= 8 * np.exp(-np.arange(FRAMES - CLEARING) / SLOW)
    values[labels == 2, 1:3] += 4
    return values.astype(np.float32), labels


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with profile, runs and texts."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    parts = []
    for seed in range(24):
        values, labels = run_of(seed)
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        parts.append(pa.table(columns | {"seed": [seed] * FRAMES, "sample": np.arange(FRAMES), "label": labels}))
    pyarrow.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    rows = [
        (f"{text} {word}".strip(), fault, f"{fault}{at}")
        for fault, texts in WORDS.items()
        for at, text in enumerate(texts)
        for word in ("", "today", "at noon")
    ]
    rows += [
        (f"{text} all good", "normal", f"recovered/{at}") for at, text in enumerate(("fixed", "repaired", "done", "ok"))
    ]
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("text", "fault", "group"))}
    pyarrow.parquet.write_table(pa.table(columns), folder / "texts.parquet")
    return folder


def config(plant: Path, output: Path, **options: Any) -> TrainConfig:
    """A training that takes seconds."""
    chosen: dict[str, Any] = {
        "profile": str(plant / "plant.yaml"),
        "runs": (RunFiles(paths=(plant / "runs.parquet",)),),
        "output": output,
        "name": "tiny",
        "validation": 0.25,
        "test": 0.25,
        "sensors": SeqLSTMConfig(hidden=(16,), head=(8,)),
        "text": TextConfig(embedding=8, hidden=8, head=(8,), subword_buckets=64),
        "sensor_stage": StageConfig(epochs=8, batch_size=4, learning_rate=0.02),
        "word_stage": StageConfig(epochs=6, batch_size=16, learning_rate=0.02),
        "text_stage": StageConfig(epochs=4, batch_size=64, learning_rate=0.01),
        "chunk_frames": 30,
        "most_offset_frames": 10,
        "plots": False,
        "recovering": True,
    }
    return TrainConfig.model_validate(chosen | options)
