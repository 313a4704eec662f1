"""What a published diagnosis carries beyond its probabilities."""

from __future__ import annotations

import json

import numpy as np

from pipeline.engine import Engine
from pipeline.frames import Frames, StepResult
from tests.builders import SumRunner, diagnoses, numbered, profile, reading

T0 = 1_763_600_000_000


class Attentive(SumRunner):
    """SumRunner with cross-modal attention, another for every row."""

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        share = (frames.slots / 10).astype(np.float32)
        result.attention = np.stack([np.stack([1 - share, share], 1), np.stack([share, 1 - share], 1)], 1)
        return result


def test_attention_is_written_where_the_model_has_it() -> None:
    records = numbered(
        reading(f"p{machine}", T0 + second * 1000, [0.5, 1.5]) for second in range(0, 60, 10) for machine in range(3)
    )
    plain = Engine(profile(), {"pump": SumRunner()}).process(records)
    attentive = Engine(profile(), {"pump": Attentive()}).process(records)
    assert all("attention" not in json.loads(output.value or b"") for output in plain)
    found = diagnoses(attentive)
    assert len(found) == len(diagnoses(plain)) > 9
    for one in found:
        share = int(one.machine[1:]) / 10
        assert one.attention is not None
        np.testing.assert_allclose(one.attention, [[1 - share, share], [share, 1 - share]], atol=1e-6)
