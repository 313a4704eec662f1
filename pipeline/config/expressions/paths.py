"""Paths into the body of a record: JMESPath, the usual ones compiled to something faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError

Find = Callable[[Any], Any]
"""Finds what a path stands for in a body; None if there is nothing."""

ROOT: Final = "$"
"""Begins a path that starts at the whole body, also where others start at an entry of `each`."""


def compile_path(path: str) -> Find:
    """The finder of a path without its root sign; raises ValueError if it is no path."""
    if not path.strip():
        raise ValueError("a path is empty")
    try:
        compiled = jmespath.compile(path)
    except JMESPathError as error:
        at = getattr(error, "lex_position", None)
        where = (
            "" if at is None else f" (see what stands before {path[at:]!r})" if path[at:] else " (it ends too early)"
        )
        raise ValueError(
            f"{path!r} is not a JMESPath{where}; a name with other signs than letters, digits and _ stands in double "
            'quotes, such as "te-01"'
        ) from None
    steps = _steps(compiled.parsed)
    if steps is None:
        return _searching(compiled)
    if not steps:
        return _itself
    if len(steps) == 1 and isinstance(steps[0], str):
        return _member(steps[0])
    return _walking(steps)


def simple_steps(path: str) -> tuple[str, ...] | None:
    """The names of a path that is made of nothing else; None for any other."""
    steps = _steps(jmespath.compile(path.removeprefix(ROOT).removeprefix(".") or "@").parsed)
    names = tuple(step for step in steps or () if isinstance(step, str))
    return names if steps is not None and len(names) == len(steps) else None


def is_from_root(path: str) -> bool:
    """Whether a path starts at the whole body."""
    return path == ROOT or path.startswith((f"{ROOT}.", f"{ROOT}["))


def without_root(path: str) -> str:
    """A path as JMESPath writes it, which knows no sign for the root."""
    if not is_from_root(path):
        return path
    return path.removeprefix(ROOT).removeprefix(".") or "@"


def _steps(node: Any) -> tuple[str | int, ...] | None:
    """Names and indexes one after the other; None if the path is more than that."""
    kind = node["type"]
    if kind in ("field", "index"):
        return (node["value"],)
    if kind in ("identity", "current"):
        return ()
    if kind in ("subexpression", "index_expression"):
        parts = [_steps(child) for child in node["children"]]
        found: tuple[str | int, ...] = ()
        for part in parts:
            if part is None:
                return None
            found += part
        return found
    return None


def _itself(body: Any) -> Any:
    return body


def _member(name: str) -> Find:
    def find(body: Any) -> Any:
        return body.get(name) if type(body) is dict else None

    return find


def _walking(steps: tuple[str | int, ...]) -> Find:
    kinds: list[tuple[Any, Any]] = [(step, dict if isinstance(step, str) else list) for step in steps]

    def find(body: Any) -> Any:
        found: Any = body
        for step, kind in kinds:
            if type(found) is not kind:
                return None
            try:
                found = found[step]
            except (KeyError, IndexError):
                return None
        return found

    return find


def _searching(compiled: Any) -> Find:
    def find(body: Any) -> Any:
        try:
            return compiled.search(body)
        except (JMESPathError, RecursionError, ArithmeticError, TypeError, ValueError, AttributeError):
            return None  # a function that does not take what stands there

    return find
