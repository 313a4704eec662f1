"""The compiled functions of all modules, for processes of tests that load them before anything is timed."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from models.stepping import interpreter, text_vectors
from models.stepping.kernels import operations
from pipeline.alignment import last_values, value_rules
from pipeline.compiled import Compiled
from pipeline.engine import answers
from pipeline.mapping.rows import layouts
from pipeline.wire import diagnosis_json, reading_json

OF_THE_PIPELINE = (last_values, value_rules, answers, diagnosis_json, reading_json, layouts)
"""The modules that hold what a worker or an ingest process runs besides its models."""

OF_MODELS = (interpreter, text_vectors, operations)


def functions_of(modules: Iterable[ModuleType]) -> list[Compiled]:
    """All compiled functions of these modules."""
    return [value for module in modules for value in vars(module).values() if isinstance(value, Compiled)]
