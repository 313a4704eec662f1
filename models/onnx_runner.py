"""OnnxRunner: the sensor encoder's single step exported to ONNX and run by ONNX Runtime (the extra `onnx`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.arena import ArenaRunner
from models.diagnoser import Diagnoser, SensorNetwork
from models.numpy_fusion import unsupported_fusion
from models.numpy_parts import Filling, Sensed
from pipeline.errors import MissingExtraError, SettingsError
from pipeline.frames import Bools, Floats, Ints

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_EXAMPLE_ROWS = 3


def missing() -> list[str]:
    """Which packages of the extra `onnx` are not installed."""
    return [package for package in _PACKAGES if find_spec(package) is None]


def unsupported(network: Diagnoser) -> str | None:
    """What of this network the ONNX backend does not know, or None."""
    return unsupported_fusion(network)


class SingleStep(nn.Module):
    """One frame of the sensor encoder, with each machine's whole state in one row, as it is exported."""

    def __init__(self, sensors: SensorNetwork, temperature: Tensor) -> None:
        super().__init__()
        self.sensors = sensors
        self.register_buffer("temperature", temperature.clone())
        self.temperature: Tensor
        self.shapes = {key: part.shape[1:] for key, part in sensors.init_state(1).items()}

    def forward(self, readings: Tensor, observed: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Readings (B, V), observed (B, V) and states (B, S) to calibrated probabilities (B, C), features (B, D) and
        states (B, S)."""
        x = torch.cat([readings, observed.to(readings.dtype)], dim=1) if self.sensors.config.mask_inputs else readings
        parts = torch.split(states, [shape.numel() for shape in self.shapes.values()], dim=1)
        state = {key: part.reshape(-1, *shape) for (key, shape), part in zip(self.shapes.items(), parts, strict=True)}
        logits, features, after = self.sensors.step(x, state)
        rows = torch.cat([after[key].flatten(1) for key in self.shapes], dim=1)
        return torch.softmax(logits / self.temperature, dim=1), features, rows


class OnnxRunner(ArenaRunner):
    """An ArenaRunner for every sensor encoder, on one thread of ONNX Runtime."""

    def __init__(self, network: Diagnoser, *, name: str, digest: str, classes: tuple[str, ...]) -> None:
        """Raises MissingExtraError without the extra, and ValueError for a network that `unsupported` names."""
        if absent := missing():
            raise MissingExtraError(
                f"backend onnx needs {' and '.join(absent)}: run  pip install 'faultline[onnx]'  or set another backend"
            )
        if what := unsupported(network):
            raise ValueError(f"the onnx backend does not know {what}")
        step = SingleStep(network.sensors, network.fusion.temperatures[0]).eval()
        session = _session(exported(step, network.config.variables))
        if any(not isinstance(given.shape[0], str) for given in session.get_inputs()):
            raise SettingsError(
                f"backend onnx cannot run model {name}: the export of its sensor encoder {network.config.sensors.kind} "
                "works for one number of machines only; set the backend to torch or auto"
            )
        super().__init__(network, ExportedSensors(session), name=name, digest=digest, classes=classes)


class ExportedSensors:
    """A sensor encoder as a session of ONNX Runtime; a round's states are gathered and scattered."""

    most_rows = 256
    in_order = False

    def __init__(self, session: Any) -> None:
        self._session = session

    def advance(self, states: Floats, slots: Ints, readings: Floats, observed: Bools, filling: Filling) -> Sensed:
        """See `models.arena.SensorStep`."""
        count = len(slots)
        here, width = filling.place(count), filling.width(count)
        feed: dict[str, Any] = {"readings": readings, "observed": observed, "states": states[slots]}
        if width > count:
            rows = np.zeros(width, np.int64)
            rows[here] = np.arange(count)
            feed = {key: part[rows] for key, part in feed.items()}
        answer, features, after = self._session.run(None, feed)
        states[slots] = after[here]
        columns = np.ones((features.shape[1] + 1, width), np.float32)
        columns[:-1] = features.T
        return Sensed(answer.T, columns)

    def example(self, rng: np.random.Generator, size: int) -> Floats:
        """See `models.arena.SensorStep`."""
        return rng.uniform(-1, 1, size).astype(np.float32)


def exported(step: SingleStep, variables: int) -> bytes:
    """The step as an ONNX model with any number of rows."""
    size = sum(shape.numel() for shape in step.shapes.values())
    example = (
        torch.zeros(_EXAMPLE_ROWS, variables),
        torch.ones(_EXAMPLE_ROWS, variables, dtype=torch.bool),
        torch.zeros(_EXAMPLE_ROWS, size),
    )
    rows = torch.export.Dim("rows", min=2)
    with _quiet():
        program = torch.onnx.export(
            step,
            example,
            dynamo=True,
            verbose=False,
            input_names=["readings", "observed", "states"],
            output_names=["probabilities", "features", "after"],
            dynamic_shapes=({0: rows}, {0: rows}, {0: rows}),
        )
        assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's remarks about packages that it does not need, and about names of axes, from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _session(model: bytes) -> Any:
    import onnxruntime  # type: ignore[import-not-found, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
