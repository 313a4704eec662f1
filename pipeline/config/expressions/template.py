"""Templates of texts: literal parts and paths in braces, and in brackets what may be left out."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.config.expressions.paths import compile_path, without_root


class Section(NamedTuple):
    """Literals and paths one after the other, left out as a whole if it is optional and a path finds nothing."""

    parts: tuple[tuple[str, str | None], ...]
    """Each a literal and the path that follows it, if any."""
    is_optional: bool


class Template(NamedTuple):
    """A template by its sections."""

    sections: tuple[Section, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all fields, in their order."""
        return tuple(path for section in self.sections for _, path in section.parts if path is not None)


def parse_template(text: str) -> Template:
    """Raises ValueError, which names the template, if it is none."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._literal = ""
        self._parts: list[tuple[str, str | None]] = []
        self._sections: list[Section] = []
        self._is_optional = False

    def parse(self) -> Template:
        while self._at < len(self._text):
            letter = self._text[self._at]
            if letter in "{}[]" and self._text.startswith(letter * 2, self._at):
                self._literal += letter
                self._at += 2
            elif letter == "{":
                self._field()
            elif letter in "[]":
                if self._is_optional != (letter == "]"):
                    raise self._error("brackets cannot stand inside brackets" if letter == "[" else "']' without '['")
                self._end_section(is_optional=letter == "]")
                self._is_optional = letter == "["
                self._at += 1
            elif letter == "}":
                raise self._error("'}' without '{'")
            else:
                self._literal += letter
                self._at += 1
        if self._is_optional:
            raise self._error("'[' without ']'")
        self._end_section(is_optional=False)
        template = Template(tuple(self._sections))
        if not template.paths:
            raise self._error("it has no field such as {code}")
        return template

    def _field(self) -> None:
        end = self._text.find("}", self._at)
        if end < 0:
            raise self._error("'{' without '}'")
        path = self._text[self._at + 1 : end].strip()
        try:
            compile_path(without_root(path))
        except ValueError as error:
            raise self._error(f"{{{path}}} is not a field: {error}") from None
        self._parts.append((self._literal, path))
        self._literal = ""
        self._at = end + 1

    def _end_section(self, *, is_optional: bool) -> None:
        if self._literal:
            self._parts.append((self._literal, None))
        if self._parts:
            self._sections.append(Section(tuple(self._parts), is_optional))
        self._parts, self._literal = [], ""

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"template {self._text!r}: {problem} (a brace or bracket that is meant is written twice)")
