"""Embeddings in diagnoses: those of machines in areas have them, all others are what they were."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.config.topics import AREA_TEXT, AREAS
from pipeline.engine.engine import Engine
from pipeline.frames import Frames, StepResult
from pipeline.wire.json.embeddings import embedding_of
from pipeline.wire.messages import EventMessage, RejectedError, decode_diagnosis, decode_event, encode
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, event, numbered, profile, reading, reasons

T0 = 1_763_600_000_000
HALL = "areas: {hall: {machines: [p1, p2]}}\n"


class Embedding(SumRunner):
    """SumRunner that gives a constant for its text and the machine's sum for its sensors."""

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        sums = self.state[frames.slots, 1].astype(np.float32)
        result.embeddings = (np.stack([sums, -sums], axis=1), np.full((len(sums), 1), 0.1, np.float32))
        return result


def records() -> list[Record]:
    # A value so large that msgspec writes the diagnosis, and not compiled code.
    readings = [
        reading(f"p{machine}", T0 + second * 1000, [1e17 if second == 20 else 0.5, 1.5])
        for second in range(0, 60, 10)
        for machine in range(3)
    ]
    return numbered([*readings[:9], event("p1", T0 + 25_000, "leak"), *readings[9:]])


def by_id(outputs: list[Output]) -> dict[str, bytes]:
    return {decode_diagnosis(value).id: value for output in outputs if (value := output.value or b"")}


def test_only_machines_in_areas_have_embeddings_and_those_of_modalities_that_are_present() -> None:
    plain = by_id(Engine(profile(), {"pump": SumRunner()}).process(records()))
    unused = by_id(Engine(profile(), {"pump": Embedding()}).process(records()))
    given = by_id(Engine(profile(ONE_SOURCE + HALL), {"pump": Embedding()}).process(records()))
    assert unused == plain
    assert given.keys() == plain.keys() and len(plain) > 9
    texts = 0
    for key, value in given.items():
        diagnosis = decode_diagnosis(value)
        assert encode(diagnosis) == value
        if diagnosis.machine == "p0":
            assert value == plain[key]
            continue
        assert value.startswith(plain[key][:-1])
        assert list(diagnosis.embeddings) == [name for name, own in diagnosis.modalities.items() if own.present]
        sensors = embedding_of(diagnosis.embeddings["sensors"])
        assert sensors.dtype == np.float32 and sensors[0] == -sensors[1] != 0
        if "text" in diagnosis.embeddings:
            texts += 1
            assert embedding_of(diagnosis.embeddings["text"]).tolist() == [np.float32(0.1)]
    assert texts > 0


@pytest.mark.parametrize("bad", ["AAA", "AAAA", "????", "AAAAAAAA", "AADAfw==", "é"])
def test_an_embedding_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(RejectedError):
        embedding_of(bad)
    assert math.isclose(embedding_of("zczMPQ==")[0], 0.1, rel_tol=1e-6)


def test_texts_about_utilities_go_to_their_area_and_no_machine_gets_them() -> None:
    plant = ONE_SOURCE + "areas: {hall: {machines: [p1, p2], utilities: {water: {faults: [leak], machines: [p1]}}}}\n"
    engine = Engine(profile(plant), {"pump": Embedding()})
    text = event("hall/water", T0, "header is warm", id="t1", offset=7)
    outputs = engine.process([*records(), text])
    (copy,) = [output for output in outputs if output.topic == AREAS]
    assert (copy.key, copy.partition, copy.headers) == (b"hall", None, (AREA_TEXT,))
    assert decode_event(copy.value or b"") == EventMessage("hall/water", T0, "header is warm", id="t1")
    assert [output for output in outputs if output is not copy] == engine_outputs_without(plant)
    other = event("hall/steam", T0, "no such utility", offset=8)
    about_another = event("hall/water", T0, "not about its key", offset=9)._replace(value=other.value)
    assert reasons(engine.process([about_another])) == ["key_mismatch"]
    assert reasons(engine.process([text._replace(value=None)])) == ["empty"]
    no_time = text._replace(value=b'{"machine":"hall/water","time":-1,"text":"when?"}')
    assert reasons(engine.process([no_time])) == ["bad_time"]


def engine_outputs_without(plant: str) -> list[Output]:
    return Engine(profile(plant), {"pump": Embedding()}).process(records())
