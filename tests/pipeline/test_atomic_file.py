"""A file is replaced in one piece, or stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.files.atomic_file import replacing


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "scores.json"
    with replacing(path) as part:
        part.write_text("old")
        assert not path.exists()
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
