"""Imported by the process that tests fork others from: what each of those would import and load for itself."""

from __future__ import annotations

import importlib
import inspect

import tests.support.mortal_ingest
import tests.support.mortal_plant
import tests.support.mortal_worker  # noqa: F401
from pipeline.compiled import compile_all
from tests.support.compiled_code import OF_THE_PIPELINE, functions_of

# What Faust imports no earlier than an app needs it.
for _name in (
    "agents.kafka.transport",
    "faust.app.router",
    "faust.assignor.leader_assignor",
    "faust.fixups.django",
    "faust.tables.objects",
    "faust.tables.sets",
    "faust.topics",
    "faust.transport.conductor",
    "faust.transport.drivers.aiokafka",
    "faust.worker",
):
    importlib.import_module(_name)

compile_all(functions_of(OF_THE_PIPELINE), "what a worker runs", lambda _: None)
# An app asks in which module its agents are; the answer is looked up among all modules, and kept.
inspect.getmodule(inspect.currentframe())
