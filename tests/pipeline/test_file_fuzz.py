"""A short, seeded part of `make fuzz`: whatever is damaged, only the reader's own error comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.file_fuzz import FileFuzz, StateFuzz


def test_damaged_states_are_refused_and_leave_the_engine_usable() -> None:
    fuzz = StateFuzz()
    for seed in range(2_000):
        fuzz.one(seed)
    assert sum(fuzz.refused.values()) > 1_000
    assert fuzz.accepted > 20, "some damage cannot be seen, as in an older state's texts"
    assert len(fuzz.refused) > 10


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileFuzz:
    return FileFuzz(tmp_path_factory.mktemp("fuzz"))


def test_damaged_model_files_are_refused(files: FileFuzz) -> None:
    for seed in range(300):
        files.model(seed)
    assert sum(files.refused.values()) > 150


def test_damaged_recordings_are_refused(files: FileFuzz, tmp_path: Path) -> None:
    before = sum(files.refused.values())
    for seed in range(300):
        files.recording(seed)
    assert sum(files.refused.values()) - before > 100
