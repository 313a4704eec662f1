"""Model files that ask for too much or contradict themselves: one line each, and nothing is allocated for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from models.configs.diagnoser import DiagnoserConfig
from models.configs.sensors import CausalCNNConfig, LinearStateConfig, RingAttentionConfig, SensorConfig, SeqLSTMConfig
from models.configs.text import TextConfig
from models.diagnoser import Diagnoser
from models.model_file import MAX_HEADER_BYTES, SUFFIX, read_model, write_model
from models.network_file import save_model
from models.stepping.load import load_model
from pipeline.errors import ModelFileError
from tests.support.bounded import assert_all_refused, assert_refused, run_bounded
from tests.support.models_tiny import CLASSES, PROFILE, VARIABLES, machine_type, network

LOAD = """
from pathlib import Path
from models.stepping.load import load_model
from pipeline.config.profile import parse_profile
"""
BUILD = f"{LOAD}\nfrom models.network_file import build_network\nfrom models.model_file import read_model"


def load_code(path: Path) -> str:
    return f"load_model(Path({str(path)!r}), parse_profile({PROFILE!r}, where='test').machine_types[0])"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / f"tiny{SUFFIX}"
    save_model(path, network(), machine_type(), name="tiny", training={})
    return path


def with_header(path: Path, **changes: Any) -> Path:
    """The file with some fields of its JSON replaced."""
    with safe_open(path, framework="np") as opened:
        header = json.loads(opened.metadata()["faultline"]) | changes
        keys: list[str] = opened.keys()
        tensors = {key: opened.get_tensor(key) for key in keys}
    save_file(tensors, path, metadata={"faultline": json.dumps(header)})
    return path


def of_shape(path: Path, sensors: SensorConfig, **more: Any) -> Path:
    """The tiny weights with a header, hash and all, that describes another network."""
    model = read_model(path)
    config = model.header.network.model_copy(update={"sensors": sensors} | more)
    config = DiagnoserConfig.model_validate(config.model_dump())
    kind, vocabulary = machine_type(), model.header.vocabulary
    write_model(path, model.tensors, config, vocabulary, kind, name="tiny", training={})
    return path


@pytest.mark.parametrize(
    ("network_part", "field"),
    [
        ({"sensors": {"kind": "ring_attention", "window": 10**10}}, "window"),
        ({"sensors": {"kind": "ring_attention", "size": 800_000, "heads": 1}}, "size"),
        ({"sensors": {"kind": "causal_cnn", "dilations": [10**12]}}, "dilations"),
        ({"sensors": {"kind": "linear_state", "layers": 10**9}}, "layers"),
        ({"sensors": {"kind": "seq_lstm", "hidden": [10**6]}}, "hidden"),
        ({"sensors": {"kind": "seq_lstm", "hidden": [4] * 100_000}}, "hidden"),
        ({"sensors": {"kind": "seq_lstm", "trends": [0]}}, "trends"),
        ({"sensors": {"kind": "seq_lstm", "head": [-1]}}, "head"),
        ({"text": {"ring": 10**9}}, "ring"),
        ({"text": {"subword_buckets": 10**12}}, "subword_buckets"),
        ({"text": {"longest_ngram": 10**9}}, "longest_ngram"),
        ({"variables": 10**12}, "variables"),
        ({"classes": 10**12}, "classes"),
        ({"fusion": {"kind": "deep", "trunk": 10**12}}, "trunk"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused_by_its_field(
    saved: Path, network_part: dict[str, Any], field: str
) -> None:
    plain = read_model(saved).header.network.model_dump(mode="json")
    with_header(saved, network=plain | network_part)
    with pytest.raises(ModelFileError, match=rf"broken at network\..*{field}") as raised:
        load_model(saved, machine_type())
    assert "\n" not in str(raised.value)


WIDE: dict[str, SensorConfig] = {
    "lstm": SeqLSTMConfig(hidden=(65_536,) * 64),
    "attention": RingAttentionConfig(window=65_536, size=65_536, heads=1_024, layers=64),
    "convolution": CausalCNNConfig(channels=65_536, kernel=65_536, dilations=(65_536,) * 64),
    "memory": LinearStateConfig(size=65_536, heads=1, layers=64),
}


@pytest.mark.parametrize("door", ["load", "build"])
def test_shapes_are_checked_before_anything_is_allocated(tmp_path: Path, door: str) -> None:
    paths = [tmp_path / f"{name}{SUFFIX}" for name in WIDE]
    for path, sensors in zip(paths, WIDE.values(), strict=True):
        save_model(path, network(), machine_type(), name="tiny", training={})
        of_shape(path, sensors)
    codes = [load_code(path) if door == "load" else f"build_network(read_model(Path({str(path)!r})))" for path in paths]
    done = run_bounded(LOAD if door == "load" else BUILD, *codes, mib=256)
    assert_all_refused(done, "ModelFileError", [(str(path),) for path in paths])


def test_a_state_that_no_broker_could_keep_is_refused(tmp_path: Path) -> None:
    """All weights are there and fit: only the state of each machine would be 32 MiB and more."""
    config = DiagnoserConfig(
        variables=VARIABLES, classes=CLASSES, text=None, sensors=RingAttentionConfig(window=65_536, head=())
    )
    path = tmp_path / "model"
    save_model(path, Diagnoser(config, None), machine_type(), name="wide", training={})
    done = run_bounded(LOAD, load_code(path), mib=256)
    assert_refused(done, "ModelFileError", "needs 8,388,6", "numbers of state for each machine, more than 8,388,608")


def test_a_header_of_hundreds_of_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.write((300 * 2**20).to_bytes(8, "little"))
        file.truncate(400 * 2**20)
    done = run_bounded(LOAD, load_code(path), mib=64)
    assert_refused(done, "ModelFileError", "has 314,572,800 bytes, more than 16,777,216")


def test_a_weight_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    shapes = [[800_000, 800_000], [2**62], [2**63, 2**63], [-1], [0, 2**60]]
    paths = [tmp_path / f"model-{number}" for number in range(len(shapes))]
    for path, shape in zip(paths, shapes, strict=True):
        size = abs(int(np.prod([float(n) for n in shape]))) * 4
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    done = run_bounded(LOAD, *map(load_code, paths), mib=64)
    assert_all_refused(done, "ModelFileError", [(str(path),) for path in paths])


def test_deeply_nested_json_is_refused(saved: Path, tmp_path: Path) -> None:
    deep = "[" * 200_000
    save_file({"w": np.zeros(2)}, saved, metadata={"faultline": deep})
    with pytest.raises(ModelFileError, match="nested too deeply"):
        load_model(saved, machine_type())
    for header in (deep.encode(), b'{"__metadata__": ' + deep.encode(), b'{"w": {"shape": ' + deep.encode()):
        saved.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ModelFileError):
            load_model(saved, machine_type())


@pytest.mark.parametrize(
    "training", [{"units": ["flow"]}, {"units": {"flow": {"a": 1}}}, {"units": 5}, {"units": None}]
)
def test_a_strange_record_of_units_is_no_traceback(saved: Path, training: dict[str, Any]) -> None:
    with_header(saved, training=training)
    try:
        load_model(saved, machine_type(PROFILE.replace("{name: flow}", "{name: flow, unit: degC}")))
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_a_header_that_contradicts_itself_is_refused(saved: Path) -> None:
    model = read_model(saved)
    config = model.header.network.model_copy(update={"classes": CLASSES + 1})
    write_model(saved, model.tensors, config, model.header.vocabulary, machine_type(), name="x", training={})
    with pytest.raises(ModelFileError, match="contradicts itself: 4 classes in its network, 3 in its machine type"):
        load_model(saved, machine_type())


def test_an_essence_with_anothers_digest_is_refused(saved: Path) -> None:
    essence = read_model(saved).header.essence
    with_header(saved, essence=essence.model_dump(mode="json") | {"faults": ["normal", "leak", "theft"]})
    with pytest.raises(ModelFileError, match=r"the profile differs in faults \(without theft and with jam\)"):
        load_model(saved, machine_type())


def test_weights_that_are_no_numbers_are_refused(saved: Path) -> None:
    model = read_model(saved)
    tensors = {**model.tensors, "std": np.array([1, np.nan, 1, np.inf], np.float32)}
    write_model(saved, tensors, model.header.network, model.header.vocabulary, machine_type(), name="x", training={})
    with pytest.raises(ModelFileError, match=r"weight std of model file .* holds values that are no numbers"):
        load_model(saved, machine_type())


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "a\0b"):
        with pytest.raises(ModelFileError, match="there is no model file"):
            load_model(path, machine_type())


def test_the_limits_are_above_what_is_in_use() -> None:
    TextConfig(embedding=512, hidden=1_024, ring=64, subword_buckets=2**20)
    RingAttentionConfig(window=10_000, size=512, layers=12)
    assert 100 * len(json.dumps(network().config.model_dump(mode="json"))) < MAX_HEADER_BYTES
