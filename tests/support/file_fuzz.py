"""Damaged states, model files and recordings against the code that reads them: only its own errors may come out."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from models.model_file import SUFFIX, read_model, write_model
from models.network_file import save_model
from models.stepping.load import load_model
from models.stepping.runner import CompiledRunner
from pipeline.engine.engine import Engine
from pipeline.errors import ModelFileError, RecordingError, StateError
from pipeline.wire.recording import count_records, has_topic, new_recording, read_recording
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, SumRunner, control, event, numbered, profile, reading
from tests.support.models_tiny import PROFILE, machine_type, network, runner
from tests.support.mutations import altered, altered_msgpack, damaged

START_MS: Final = 1_763_600_000_000
STEP_MS: Final = 2_000
PLANTS: Final = {"sum": ONE_SOURCE, "network": PROFILE}


class FuzzError(AssertionError):
    """Something else than the reader's own error came out; the message has the seed."""


def _new_engine(name: str) -> Engine:
    plant = profile(PLANTS[name])
    made: SumRunner | CompiledRunner = SumRunner() if name == "sum" else runner()
    return Engine(plant, {plant.machine_types[0].name: made})


def _stream(name: str) -> list[Record]:
    chance = np.random.default_rng(5)
    variables = 2 if name == "sum" else 4
    made = []
    for step in range(120):
        time_ms = START_MS + step * STEP_MS
        for machine in ("p1", "p2", "p3"):
            values = chance.normal(size=variables).round(2).tolist()
            made.append(reading(machine, time_ms, values))
        if step % 7 == 0:
            made.append(event("p1", time_ms, f"pump leaks {step}", id=f"e{step}", source="shift", severity="high"))
        if step % 30 == 29:
            made.append(control("tick", time_ms=time_ms))
    return numbered(made)


class StateFuzz:
    """States of two plants, one with a network, in the middle of a stream that goes on after each restoring."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.accepted = 0
        self._states: dict[str, dict[str, bytes]] = {}
        self._rest: dict[str, list[Record]] = {}
        self._expected: dict[str, list[Any]] = {}
        self._engines: dict[str, Engine] = {}
        for name in PLANTS:
            stream = _stream(name)
            engine = _new_engine(name)
            engine.process(stream[: len(stream) // 2])
            engine.forget("p3")
            engine.process([])
            self._states[name] = {key: value for key, value in engine.checkpoint().items() if value is not None}
            self._rest[name] = stream[len(stream) // 2 :]
            self._engines[name] = _new_engine(name)
            whole = _new_engine(name)
            whole.restore("p2", self._states[name]["p2"])
            self._expected[name] = self._of_p2(whole.process(self._rest[name]) + whole.finish())

    def one(self, seed: int) -> None:
        """Restore a damaged state of p1 beside a whole one of p2; raises FuzzError."""
        chance = random.Random(seed)
        name = chance.choice(list(PLANTS))
        state = self._states[name]["p1"]
        kind = chance.randrange(3)
        if kind == 0:
            bad = damaged(chance, state)
        else:
            # Without its checksum, as an older release wrote it, so that every part is put to the test.
            plain = msgspec.msgpack.decode(state)
            del plain["check"]
            bad = altered_msgpack(chance, msgspec.msgpack.encode(plain))
            if kind == 2:
                bad = altered_msgpack(chance, bad)
        if bad == state:
            return
        engine = self._engines[name]
        try:
            engine.restore("p1", bad)
        except StateError as error:
            if "\n" in str(error):
                raise FuzzError(f"seed {seed}: {error!r} has more than one line") from error
            refused = True
            self.refused[str(error)[:40]] += 1
            if chance.random() < 0.98:  # an engine that has refused goes on; to see how costs a hundred times as much
                return
        except Exception as error:
            raise FuzzError(f"seed {seed}: restoring ended with {error!r}") from error
        else:
            refused = False
            self.accepted += 1
        try:
            engine.restore("p2", self._states[name]["p2"])
            said = self._of_p2(engine.process(self._rest[name]) + engine.finish())
            engine.checkpoint()
        except Exception as error:
            raise FuzzError(f"seed {seed}: going on ended with {error!r}") from error
        self._engines[name] = _new_engine(name)
        if refused and said != self._expected[name]:
            raise FuzzError(f"seed {seed}: a refused state has changed another machine's diagnoses")

    @staticmethod
    def _of_p2(outputs: list[Any]) -> list[Any]:
        return [output for output in outputs if output.key == b"p2" and output.topic == "diagnoses"]


class FileFuzz:
    """A model file and a recording, damaged in a folder."""

    def __init__(self, folder: Path) -> None:
        self.refused: Counter[str] = Counter()
        self.accepted = 0
        self._folder = folder
        self._kind = machine_type()
        self._model = folder / f"whole{SUFFIX}"
        save_model(self._model, network(), self._kind, name="tiny", training={"seed": 4, "units": {"flow": "degC"}})
        self._model_bytes = self._model.read_bytes()
        with safe_open(self._model, framework="np") as opened:
            self._header = json.loads(opened.metadata()["faultline"])
            keys: list[str] = opened.keys()
            self._tensors = {key: opened.get_tensor(key) for key in keys}
        recording = folder / "whole.parquet"
        with new_recording(recording) as writer:
            headers = (("faultline-reason", b"x"),)
            writer.write(record._replace(headers=headers) for record in _stream("sum") * 3)
        self._recording_bytes = recording.read_bytes()

    def model(self, seed: int) -> None:
        """Load a damaged model file; raises FuzzError."""
        chance = random.Random(seed)
        path = self._folder / f"bad{SUFFIX}"
        match chance.randrange(4):
            case 0:
                path.write_bytes(damaged(chance, self._model_bytes))
            case 1:
                header = json.dumps(altered(chance, self._header), default=str)
                save_file(self._tensors, path, metadata={"faultline": header})
            case 2:
                # The beginning holds all but the weights, whose damage the hash shows anyway.
                size = 8 + int.from_bytes(self._model_bytes[:8], "little")
                path.write_bytes(damaged(chance, self._model_bytes[:size]) + self._model_bytes[size:])
            case 3:
                self._write_other_network(chance, path)
        self._check(seed, ModelFileError, lambda: load_model(path, self._kind))

    def _write_other_network(self, chance: random.Random, path: Path) -> None:
        """A file that is whole, hash and all, but whose header describes another network than its weights."""
        model = read_model(self._model)
        config = altered(chance, model.header.network.model_dump(mode="json"))
        try:
            network_config = type(model.header.network).model_validate(config)
        except ValueError:
            network_config = model.header.network
        tensors = dict(model.tensors)
        key = chance.choice(sorted(tensors))
        weight = tensors[key]
        not_numbers = np.full(weight.shape, np.nan, np.float32)
        choices: list[Any] = [weight.astype(np.float16), weight.ravel(), weight[..., None], not_numbers]
        tensors[key] = chance.choice(choices)
        write_model(path, tensors, network_config, model.header.vocabulary, self._kind, name="x", training={})

    def recording(self, seed: int) -> None:
        """Read a damaged recording; raises FuzzError."""
        chance = random.Random(seed)
        path, content = self._folder / "bad.parquet", self._recording_bytes
        if chance.random() < 0.5:  # in the footer, which describes all others
            footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
            path.write_bytes(content[:footer] + damaged(chance, content[footer:]))
        else:
            path.write_bytes(damaged(chance, content))

        def read() -> None:
            count_records(path)
            has_topic(path, "control")
            for record in read_recording(path):
                assert isinstance(record.topic, str) and isinstance(record.partition, int)

        self._check(seed, RecordingError, read)

    def _check(self, seed: int, own: type[Exception], read: Callable[[], object]) -> None:
        try:
            read()
        except own as error:
            if "\n" in str(error):
                raise FuzzError(f"seed {seed}: {error!r} has more than one line") from error
            self.refused[str(error)[-40:]] += 1
        except Exception as error:
            raise FuzzError(f"seed {seed}: reading ended with {error!r}") from error
        else:
            self.accepted += 1
