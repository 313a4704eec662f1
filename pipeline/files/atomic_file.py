"""Files that are replaced in one piece, so that an interruption leaves the old content and never half of the new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it replaces `path` if the block ends without an error, and else is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
