"""A worker: Faust agents that carry records to the engine and its outputs back, and know when to give up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import faust
from prometheus_client import CollectorRegistry

from agents.delivery import Chunk, RawChunkCodec, install
from agents.fusion_metrics import FusionMetrics
from agents.metrics import EngineCollector, TimedRunner, step_seconds
from agents.publish import Publisher
from agents.web import WebServer
from pipeline import messages
from pipeline.alarms import AlarmRule
from pipeline.engine import Engine
from pipeline.errors import DeliveryError, FaultlineError
from pipeline.frames import StepRunner
from pipeline.profile import PlantProfile
from pipeline.records import Output, Record
from pipeline.settings import Settings
from pipeline.topics import CONTROL, DIAGNOSES, LABELS, engine_topics

log = logging.getLogger("faultline.worker")

_MAX_UNFLUSHED_CHUNKS = 8
_FLUSH_SECONDS = 0.1
"""Outputs are confirmed and inputs acknowledged this often, or after so many chunks."""
