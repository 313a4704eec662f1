"""Texts as people wrote them: without markup and control characters, long ones without their middle."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Final

MAX_TEXT = 2_000
"""Characters of a text that are used; a longer one keeps its beginning and its end."""

_GAP: Final = " … "
_PASSES: Final = 3
"""Markup may be escaped inside other markup, at most so deep."""

_INLINE: Final = (
    "a abbr b big cite code del em font i ins kbd mark nobr q s samp small span strike strong sub sup tt u var wbr"
)
"""Elements that may begin and end inside a word; all others separate words."""

_BARE: Final = (
    "big body br center dd div dl dt em font h1 h2 h3 h4 h5 h6 head hr html img li nobr ol p pre small span strong sub"
    " sup table tbody td tfoot th thead tr tt ul wbr"
)
"""Elements that count without attributes and end tag, which may be cut off; other names may be an operator's words."""

_INLINE_ELEMENTS: Final = frozenset(_INLINE.split())
_BARE_ELEMENTS: Final = frozenset(_BARE.split())

_OFFICE: Final = ("o:", "v:", "w:", "m:", "st1:")
"""Prefixes of the elements that office programs add to HTML."""

_SCRIPT_TAG: Final = re.compile(r"<(/?)(script|style)\b[^<>]*>", re.IGNORECASE)
_FLAGS: Final = ("checked", "compact", "controls", "disabled", "hidden", "noshade", "nowrap", "open", "selected")
"""Attributes that have no value."""

_TEXT_CHARACTER: Final = re.compile(
    r"&(?!(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)"  # begins no entity
    r"|<(?!/?[A-Za-z]|!--|!\[|![A-Za-z]|\?xml)"  # begins no tag, comment, section, declaration or instruction
)
_DECLARATION: Final = re.compile("<[!?]")
_DECLARATIONS: Final = (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">"))

_CONTROLS: Final[dict[int, str | None]] = {
    **{code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"},
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    # Characters that change the direction of the text around them, and the byte order mark.
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)),
}


def plain_text(text: str) -> str:
    """The text to read, to show and to compare, at most MAX_TEXT characters.

    Text without markup stays as it is; a `<` that begins no element is text.
    """
    for _ in range(_PASSES):
        if "<" not in text and "&" not in text:
            break
        before, text = text, _without_markup(text)
        if text == before:
            break
    if not text.isprintable():
        text = text.translate(_CONTROLS)
    if len(text) > MAX_TEXT:
        rest = MAX_TEXT - len(_GAP)
        text = text[: rest - rest // 2] + _GAP + text[len(text) - rest // 2 :]
    return text


def _without_markup(text: str) -> str:
    reader = _Reader(text)
    reader.feed(_prepared(_without_scripts(text)))
    reader.close()
    content = "".join(reader.parts)
    return text if content == text else " ".join(content.split())


def _without_scripts(text: str) -> str:
    """The text without what is between the tags of scripts and style sheets that have an end."""
    parts: list[str] = []
    at, element, content_at = 0, "", 0
    for match in _SCRIPT_TAG.finditer(text):
        is_end, name = bool(match[1]), match[2].lower()
        if not element and not is_end:
            element, content_at = name, match.end()
        elif element == name and is_end:
            parts.append(text[at:content_at])
            at, element = match.start(), ""
    return "".join(parts) + text[at:]


def _prepared(text: str) -> str:
    """The text with nothing but tags for the parser to decide, whose versions differ in the rest.

    What is text is escaped: sections, and a `&` or `<` that begins nothing. Comments and declarations are left out.
    """
    text = _TEXT_CHARACTER.sub(lambda match: html.escape(match[0]), text)
    parts: list[str] = []
    unclosed: set[str] = set()
    at = 0
    for match in _DECLARATION.finditer(text):
        begin = match.start()
        if begin < at:
            continue
        opening, closing = next(pair for pair in _DECLARATIONS if text.startswith(pair[0], begin))
        after = begin + len(opening)
        end = -1 if closing in unclosed else text.find(closing, after)
        parts.append(text[at:begin])
        if end < 0:
            unclosed.add(closing)
            parts.append(html.escape(opening))
            at = after
            continue
        if opening == "<![CDATA[":
            parts.append(html.escape(html.unescape(text[after:end])))
        at = end + len(closing)
    text = "".join(parts) + text[at:]
    last_tag = text.rfind(">") + 1  # a tag that is not closed is none
    return text[:last_tag] + text[last_tag:].replace("<", "&lt;")


class _Reader(HTMLParser):
    """Collects the text between elements; what only looks like an element is text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._text = text.lower()
        self._has_end: dict[str, bool] = {}
        self._elements: set[str] = set()

    def set_cdata_mode(self, elem: str, *, escapable: bool = False) -> None:
        """Not used: by the parser's own way with scripts, all that follows one without an end is lost."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        raw = self.get_starttag_text() or ""
        if self._is_element(tag, attrs, raw):
            self._elements.add(tag)
            self._separate(tag)
        else:
            self.parts.append(html.unescape(raw))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        if tag in self._elements or tag in _BARE_ELEMENTS:
            self._separate(tag)
        else:
            self.parts.append(html.unescape(f"</{tag}>"))

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        self.parts.append(data)

    def _separate(self, tag: str) -> None:
        if tag not in _INLINE_ELEMENTS:
            self.parts.append(" ")

    def _is_element(self, tag: str, attrs: list[tuple[str, str | None]], raw: str) -> bool:
        if any(value is None and name not in _FLAGS for name, value in attrs):
            return False
        return tag in _BARE_ELEMENTS or bool(attrs) or raw.endswith("/>") or tag.startswith(_OFFICE) or self._ends(tag)

    def _ends(self, tag: str) -> bool:
        if tag not in self._has_end:
            self._has_end[tag] = f"</{tag}>" in self._text
        return self._has_end[tag]
