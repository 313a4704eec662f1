"""The ONNX backend, where its extra is installed: every encoder's exported step gives what torch gives."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from models.backends import choose_runner
from models.configs.sensors import CausalCNNConfig, LinearStateConfig, RingAttentionConfig, SensorConfig, SeqLSTMConfig
from models.onnx_runner import OnnxRunner, missing
from models.runner import TorchRunner
from pipeline.errors import MissingExtraError, SettingsError
from tests.models_tiny import Stream, machine_type
from tests.test_models_backends import LAW, fold, made, numbers

FACTS: dict[str, Any] = {"name": "tiny", "digest": "4" * 64, "classes": machine_type().faults}

installed = pytest.mark.skipif(bool(missing()), reason=f"the extra onnx lacks {', '.join(missing())}")


@installed
@pytest.mark.parametrize(
    "sensors",
    [
        SeqLSTMConfig(hidden=(10, 8), head=(6,), trends=(10.0,), spreads=(5.0,)),
        SeqLSTMConfig(hidden=(7,), head=(5,), mask_inputs=False),
        CausalCNNConfig(channels=4, dilations=(1, 2)),
        LinearStateConfig(size=8, heads=2, layers=1),
    ],
)
def test_the_exported_step_gives_what_torch_gives(sensors: SensorConfig) -> None:
    network, stream = made(sensors=sensors), Stream(5, 150)
    reference, exported = TorchRunner(network, **FACTS), OnnxRunner(network, **FACTS)
    assert fold(reference, exported, stream, range(150)) <= LAW
    everyone = np.arange(5)
    for mine, theirs in zip(exported.save(everyone), reference.save(everyone), strict=True):
        assert mine[:44] == theirs[:44]
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=LAW, atol=LAW)
    for slot, state in enumerate(reference.save(everyone)):
        exported.load(slot, state)
    assert exported.save(everyone) == reference.save(everyone)


@installed
def test_an_encoder_whose_export_has_a_fixed_size_is_refused_or_works() -> None:
    network = made(sensors=RingAttentionConfig(size=8, heads=2, layers=1, window=5))
    try:
        exported = OnnxRunner(network, **FACTS)
    except SettingsError as refused:
        assert "one number of machines" in str(refused)
        assert isinstance(choose_runner(network, **FACTS), TorchRunner)
    else:
        assert fold(TorchRunner(network, **FACTS), exported, Stream(5, 50), range(50)) <= LAW


@installed
def test_arithmetic_outside_the_session_keeps_its_smallest_numbers() -> None:
    # ONNX Runtime can be told to flush them to zero, and then does so for the whole thread that made the session.
    OnnxRunner(made(sensors=LinearStateConfig(size=8, heads=2, layers=1)), **FACTS)
    smallest = np.nextafter(np.float32(0), np.float32(1))
    assert smallest * np.float32(1) == smallest > 0


def test_without_the_extra_the_error_names_it() -> None:
    # In a Python of its own that cannot find the packages, whether or not they are installed.
    program = """
import importlib.util
found = importlib.util.find_spec
hidden = ("onnx", "onnxscript", "onnxruntime")
importlib.util.find_spec = lambda name, *rest: None if name in hidden else found(name, *rest)
from models.backends import choose_runner
from pipeline.errors import MissingExtraError
from tests.models_tiny import network
try:
    choose_runner(network(), name="tiny", digest="4" * 64, classes=("a", "b", "c"), backend="onnx")
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'faultline[onnx]'" in done.stdout
    assert "onnx and onnxscript and onnxruntime" in done.stdout


@pytest.mark.skipif(not missing(), reason="the extra onnx is installed")
def test_where_the_extra_lacks_auto_does_without_it() -> None:
    network = made(sensors=CausalCNNConfig(channels=4, dilations=(1, 2)))
    assert isinstance(choose_runner(network, **FACTS), TorchRunner)
    with pytest.raises(MissingExtraError, match=r"faultline\[onnx\]"):
        choose_runner(network, **FACTS, backend="onnx")
