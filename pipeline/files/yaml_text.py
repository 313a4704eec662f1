"""Reads YAML written by others: plain values only, within limits, and no key twice."""

from __future__ import annotations

import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.composer import ComposerError
from yaml.error import Mark, MarkedYAMLError
from yaml.events import AliasEvent
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

MAX_BYTES: Final = 4 * 2**20
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 100_000
"""Values of a text, those of an alias counted wherever it stands."""

MAX_PLAIN: Final = 4_096
"""Characters of a value that may be a number or a time; only quoted and block texts are longer."""


_TOO_MANY: Final = f"has more than {MAX_VALUES:,} values"


class YamlError(ValueError):
    """What is wrong with a text, and where, in one line."""


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The content of a small text file; raises YamlError or OSError, and never waits for a pipe or a device."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise YamlError("it is a folder" if stat.S_ISDIR(found.st_mode) else "it is not a regular file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)  # its size may have changed, and some files do not state it
    if len(content) > max_bytes:
        raise YamlError(f"it has more than {max_bytes:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise YamlError(f"byte {error.start} is not UTF-8") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises YamlError."""
    if len(text) > MAX_BYTES:
        raise YamlError(f"it has more than {MAX_BYTES:,} characters")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        raise YamlError(f"{_where(mark)}{', '.join(parts)}") from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None


def _where(mark: Mark | None) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML, with limits that hold before anything is built."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}  # of the nodes that are complete, by id

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        is_alias, mark = self.check_event(AliasEvent), self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"is nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._count += 1
        if self._count > MAX_VALUES:
            raise ComposerError(None, None, _TOO_MANY, mark)
        if is_alias:
            if id(node) not in self._sizes:
                raise ComposerError(None, None, "an alias stands inside what it names", mark)
        elif node is not None:
            self._sizes[id(node)] = self._checked_size(node)
        return node

    def _checked_size(self, node: Node) -> int:
        """How many values the node has; a scalar is one."""
        if isinstance(node, ScalarNode):
            if node.style is None and len(node.value) > MAX_PLAIN:
                text = f"a value without quotes has more than {MAX_PLAIN:,} characters"
                raise ComposerError(None, None, text, node.start_mark)
            return 1
        if isinstance(node, MappingNode):
            _require_unique_keys(node)
            children = [child for pair in node.value for child in pair]
        else:
            assert isinstance(node, CollectionNode)
            children = node.value
        size = 1 + sum(self._sizes[id(child)] for child in children)
        if size > MAX_VALUES:
            raise ComposerError(None, None, _TOO_MANY, node.start_mark)
        return size

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, KeyError, AttributeError) as error:  # 2025-13-45, 0x, or thousands of digits
            if not isinstance(node, ScalarNode):
                raise
            kind = node.tag.rpartition(":")[2]
            text = f"{node.value[:40]!r} looks like a value of type {kind} but is none ({str(error)[:80]}); quote it"
            raise ComposerError(None, None, text, node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > 64:
            text = f"{node.value[:40]!r} is a whole number of more than 64 bits; quote it if it is a text"
            raise ComposerError(None, None, text, node.start_mark)
        if isinstance(value, str) and not value.isascii() and value.encode(errors="replace").decode() != value:
            raise ComposerError(None, None, "a text holds half of a character (\\ud800 to \\udfff)", node.start_mark)
        return value


def _require_unique_keys(node: MappingNode) -> None:
    seen: dict[Hashable, Mark] = {}
    for key, _ in node.value:
        if isinstance(key, ScalarNode):
            same = key.tag, key.value
            if same in seen:
                text = f"key {key.value[:80]!r} stands here again; it is in line {seen[same].line + 1} already"
                raise ComposerError(None, None, text, key.start_mark)
            seen[same] = key.start_mark
