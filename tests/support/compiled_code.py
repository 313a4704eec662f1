"""The compiled functions of all modules, for processes of tests that load them before anything is timed; run as a
program, it compiles them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from types import ModuleType

from models.areas import exact, features
from models.areas.stepping import answers as area_answers
from models.areas.stepping import inter_modal, kernels, layers
from models.stepping import interpreter, text_vectors
from models.stepping.kernels import operations
from pipeline.alignment import last_values, value_rules
from pipeline.compiled import Compiled, cache_folder, compile_all
from pipeline.engine import answers
from pipeline.mapping.rows import layouts
from pipeline.wire import diagnosis_json, reading_json

OF_THE_PIPELINE = (last_values, value_rules, answers, diagnosis_json, reading_json, layouts)
"""The modules that hold what a worker or an ingest process runs besides its models."""

OF_AREAS = (exact, features, kernels, layers, inter_modal, area_answers)

OF_MODELS = (interpreter, text_vectors, operations, *OF_AREAS)


def functions_of(modules: Iterable[ModuleType]) -> list[Compiled]:
    """All compiled functions of these modules."""
    return [value for module in modules for value in vars(module).values() if isinstance(value, Compiled)]


def compile_what_tests_run() -> None:
    """By one process, while others wait and then load what it has kept: functions have kernels in common, which each
    process would compile for itself."""
    folder = cache_folder(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compile_all(functions_of((*OF_MODELS, *OF_THE_PIPELINE)), "what the tests run", lambda _: None)


if __name__ == "__main__":
    compile_what_tests_run()
