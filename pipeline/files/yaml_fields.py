"""What is wrong with the fields of a YAML file, in words: where, what, and which key was probably meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_MAX_PROBLEMS = 5
_MAX_SHOWN_KEYS = 40


def field_problems(error: ValidationError, model: Any, whole: str = "file") -> str:
    """The first fields that do not fit a model, or any of a union's, and why; `whole` is the word for all of it."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or whole}: {_message(problem, model)}"
        for problem in _causes(error)[:_MAX_PROBLEMS]
    )


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The keys that a mapping described by a model may have."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def did_you_mean(name: object, known: Sequence[str]) -> str:
    """A question with the nearest known name, or all of them."""
    folded = {key.casefold(): key for key in known}
    if close := get_close_matches(str(name).casefold(), folded, 1, 0.7):
        return f"did you mean {folded[close[0]]}?"
    more = f" and {len(known) - _MAX_SHOWN_KEYS} more" if len(known) > _MAX_SHOWN_KEYS else ""
    return f"there are {', '.join(known[:_MAX_SHOWN_KEYS])}{more}"


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong, without the lists that only lack what was wrong in them, and defaults that follow from it."""
    problems = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
    inside = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inside]


def _message(problem: ErrorDetails, model: Any) -> str:
    if problem["type"] != "extra_forbidden":
        return problem["msg"].removeprefix("Value error, ")
    *place, name = problem["loc"]
    keys = dict.fromkeys(key for found in _models_at(model, place) for key in keys_of(found))
    return f"there is no such key; {did_you_mean(name, tuple(keys))}" if keys else "there is no such key"


def _models_at(annotation: Any, place: Sequence[int | str]) -> list[type[BaseModel]]:
    """The models that may describe what stands at a place of a value with this annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not place:
            return [annotation]
        by_key = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        return _models_at(by_key[str(place[0])], place[1:]) if place[0] in by_key else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _models_at(arguments[0], place)
    if origin in (Union, UnionType):
        found = [model for part in arguments for model in _models_at(part, place)]
        # Where a key decides between models, the place names the decision too.
        return found or [model for part in _named(arguments, place) for model in _models_at(part, place[1:])]
    if isinstance(origin, type) and issubclass(origin, list | tuple | Mapping) and place:
        return [model for part in arguments for model in _models_at(part, place[1:])]
    return []


def _named(arguments: Sequence[Any], place: Sequence[int | str]) -> list[Any]:
    """The models of a union that have a field with just this value."""
    models = [part for part in arguments if isinstance(part, type) and issubclass(part, BaseModel)]
    return [
        model
        for model in models
        if place and any(get_args(field.annotation) == (place[0],) for field in model.model_fields.values())
    ]
