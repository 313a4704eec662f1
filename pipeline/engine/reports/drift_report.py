"""The record of a drift that started or ended, as published."""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.wire.messages import ModelRef, decoded


class DriftReport(msgspec.Struct, frozen=True, gc=False):
    """A statistic of a machine began to drift, or came back; times are integer milliseconds UTC."""

    id: str
    machine: str
    kind: str
    variable: str | None
    state: Literal["started", "ended"]
    time: int
    since: int
    direction: Literal["up", "down"]
    size: float
    value: float
    reference: float
    tolerance: float
    model: ModelRef


_decode = msgspec.json.Decoder(DriftReport).decode


def decode_drift_report(value: bytes) -> DriftReport:
    """A published report from its JSON bytes; raises RejectedError."""
    return decoded(_decode, value)
