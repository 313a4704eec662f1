"""Types for msgspec made of paths, so that it decodes what stands there and skips the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec


class Leaf(NamedTuple):
    """A field at a path, as the attribute of this name."""

    steps: tuple[str, ...]
    attribute: str
    kind: Any
    default: Any = msgspec.NODEFAULT


class StructType(NamedTuple):
    """A type of nested objects, and the attribute path of each leaf and each object."""

    kind: type[msgspec.Struct]
    leaves: dict[str, str]
    objects: dict[tuple[str, ...], str]


def struct_type(leaves: Sequence[Leaf], closed: tuple[str, ...] | None) -> StructType | None:
    """The type of objects with these leaves; None if one path goes through another's field, or has an odd name.

    The object at the path `closed` is to have no other fields.
    """
    paths = [leaf.steps for leaf in leaves]
    if len(set(paths)) < len(paths) or () in paths:
        return None
    through = {path[:depth] for path in paths for depth in range(len(path))}
    if through.intersection(paths):
        return None
    found = StructType(msgspec.Struct, {}, {})
    try:
        return found._replace(kind=_object(leaves, (), "", closed, found))
    except ValueError:  # a name with a sign that has to be escaped
        return None


def _object(
    leaves: Sequence[Leaf], at: tuple[str, ...], prefix: str, closed: tuple[str, ...] | None, found: StructType
) -> type[msgspec.Struct]:
    found.objects[at] = prefix.removesuffix(".")
    depth = len(at)
    fields: list[tuple[str, Any, Any]] = []
    names: dict[str, str] = {}
    inner: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        if len(leaf.steps) > depth + 1:
            inner.setdefault(leaf.steps[depth], []).append(leaf)
            continue
        fields.append((leaf.attribute, leaf.kind, leaf.default))
        names[leaf.attribute] = leaf.steps[depth]
        found.leaves[leaf.attribute] = prefix + leaf.attribute
    for number, (name, below) in enumerate(inner.items()):
        attribute = f"inner{number}"
        kind = _object(below, (*at, name), f"{prefix}{attribute}.", closed, found)
        fields.append((attribute, kind, msgspec.NODEFAULT))
        names[attribute] = name
    return msgspec.defstruct(
        "Fields",
        [field if field[2] is not msgspec.NODEFAULT else field[:2] for field in fields],
        rename=names,
        kw_only=True,
        gc=False,
        forbid_unknown_fields=at == closed,
    )
