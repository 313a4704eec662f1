"""The text of an event: from its place, or rendered from the fields of an alarm or state log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline.config.expressions.template import Section, parse_template
from pipeline.config.form import Form
from pipeline.mapping.bodies import described
from pipeline.mapping.places import Entry, Find, as_text, path_finder
from pipeline.wire.messages import Reason, RejectedError

DEFAULT_TEXT: Final = "text"
MISSING: Final = "unknown"
"""Stands for a field that a record does not have, outside of brackets."""

WriteText = Callable[[Entry], str]


def text_writer(form: Form) -> WriteText:
    """The writer of a form's texts; it raises RejectedError if a record has none."""
    if form.template is None:
        return _of_path(form.text or DEFAULT_TEXT)
    template = parse_template(form.template)
    finders = {path: _rendered(path_finder(path), form.words.get(path, {})) for path in template.paths}

    def write(entry: Entry) -> str:
        fields = {path: find(entry) for path, find in finders.items()}
        if not any(fields.values()):
            raise RejectedError(
                Reason.SCHEMA, f"it has none of the fields {', '.join(fields)}; {described(entry.content)}"
            )
        return "".join(_section(section, fields) for section in template.sections).strip()

    return write


def _of_path(path: str) -> WriteText:
    find = path_finder(path)

    def write(entry: Entry) -> str:
        found = find(entry)
        text = as_text(found)
        if text is None or not text.strip():
            raise RejectedError(Reason.SCHEMA, f"there is no text at path {path}; {described(entry.content)}")
        return _clean(text)

    return write


def _rendered(find: Find, words: Mapping[str, str]) -> Callable[[Entry], str]:
    def render(entry: Entry) -> str:
        text = _as_words(find(entry))
        return words.get(text, text)

    return render


def _as_words(value: Any) -> str:
    """Empty for a field that is missing, null or blank."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = as_text(value)
    if text is None:
        if value in ([], {}):
            return ""
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (ValueError, RecursionError, TypeError):
            return ""
    return _clean(text).strip()


def _clean(text: str) -> str:
    """Without lone halves of characters, which cannot be written as UTF-8."""
    return text.encode(errors="replace").decode()


def _section(section: Section, fields: Mapping[str, str]) -> str:
    if section.is_optional and any(path is not None and not fields[path] for _, path in section.parts):
        return ""
    return "".join(literal + ("" if path is None else fields[path] or MISSING) for literal, path in section.parts)
