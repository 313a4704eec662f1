"""What commands send to Kafka, without one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agents.console.actions.sending import KafkaSender, Sent
from pipeline.wire.records import Output


def sending_to(monkeypatch: pytest.MonkeyPatch, sent: list[Output], partitions: int) -> None:
    """From now on commands send to this list, and every topic has so many partitions."""

    async def count(_: object, topic: str) -> int:
        return partitions

    async def send(_: object, outputs: Sequence[Output]) -> list[Sent]:
        places = [Sent(f"faultline.{one.topic}", one.partition or 0, len(sent) + at) for at, one in enumerate(outputs)]
        sent.extend(outputs)
        return places

    monkeypatch.setattr(KafkaSender, "partitions", count)
    monkeypatch.setattr(KafkaSender, "send", send)
