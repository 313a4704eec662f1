"""The console's pages as files: modules that are found, cannot set markup, and load nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import agents.console

PAGES: Final = Path(agents.console.__file__).parent / "pages"
SCRIPTS: Final = sorted(PAGES.rglob("*.js"))
STYLES: Final = sorted(PAGES.rglob("*.css"))
SETS_MARKUP: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|setHTML|srcdoc"
)
MAX_LINES: Final = 300


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(PAGES)) for path in paths]


def test_there_are_pages() -> None:
    assert len(SCRIPTS) > 30
    assert len(STYLES) > 5


@pytest.mark.parametrize("path", [*SCRIPTS, *STYLES], ids=names([*SCRIPTS, *STYLES]))
def test_a_file_opens_with_a_sentence_and_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(r"/\*\*? [A-Z][^*]+[.:]\s*\*/", text), "no sentence"
    assert len(text.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SCRIPTS, ids=names(SCRIPTS))
def test_a_script_makes_texts_only_and_imports_what_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not SETS_MARKUP.search(text)
    for target in re.findall(r'from "([^"]+)"', text):
        imported = (path.parent / target).resolve()
        assert imported in SCRIPTS, target
        for name in re.search(rf'{{([^}}]*)}} from "{re.escape(target)}"', text)[1].split(","):  # type: ignore[index]
            assert re.search(rf"export (const|class|function|async function) {name.strip()}\b", imported.read_text()), (
                name
            )


@pytest.mark.parametrize("path", [*SCRIPTS, *STYLES, PAGES / "index.html"], ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[^\s\"')]*", path.read_text(encoding="utf-8"))
    assert [address for address in addresses if address != "http://www.w3.org/2000/svg"] == []


def test_the_page_has_no_code_or_style_in_it_and_loads_every_style_sheet() -> None:
    page = (PAGES / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*>[^<]|<style|\sstyle=|\son\w+=", page)
    loaded = re.findall(r'(?:href|src)="/static/([^"]+)"', page)
    assert [name for name in loaded if not (PAGES / name).is_file()] == []
    assert sorted(name for name in loaded if name.endswith(".css")) == names(STYLES)
