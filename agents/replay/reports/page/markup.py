"""HTML elements from Python values; a text is escaped, and only what was made here counts as markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "meta", "circle", "line", "path", "rect"})


class Markup(str):
    """HTML that was made here."""

    __slots__ = ()


Content = str | Markup | int | float | None
"""What may stand in an element; None is nothing."""


def element(name: str, /, *content: Content | Iterable[Content], **attributes: Content) -> Markup:
    """One element. In names of attributes `_` stands for `-`, and at the end for nothing; None leaves one out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not content:
        return Markup(f"<{name}{shown}/>" if name not in {"br", "meta"} else f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{joined(content)}</{name}>")


def joined(content: Iterable[Content | Iterable[Content]]) -> Markup:
    """Several contents behind each other."""
    parts = []
    for one in content:
        if isinstance(one, str | int | float) or one is None:
            parts.append(text(one))
        else:
            parts.append(joined(one))
    return Markup("".join(parts))


def text(value: Content) -> Markup:
    """A text that a page shows as it is: markup is escaped, and hidden characters stand as their codes."""
    if isinstance(value, Markup):
        return value
    shown = "" if value is None else str(value)
    if not shown.isprintable():
        shown = "".join(map(_visible, shown))
    return Markup(escape(shown))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
