"""Model files: what is saved is what is loaded, and whatever does not fit is refused in plain words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from agents.replay.shipped import demo_model
from models.configs.text import TextConfig
from models.fusion.late import LateFusion
from models.model_file import SUFFIX, Weights, read_model, write_model
from models.network_file import build_network, round_weights, save_model
from models.stepping.load import load_model
from pipeline.config.profile import MachineType, load_profile, parse_profile
from pipeline.errors import ModelFileError
from tests.support.models_tiny import PROFILE, Stream, machine_type, network
from tests.support.release_before import model_of_before


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / f"tiny{SUFFIX}"
    save_model(path, network(), machine_type(), name="tiny", training={"seed": 4})
    return path


def tampered(path: Path, *, header: dict[str, Any] | None = None, drop: str = "") -> Path:
    """The model file with parts of its header or weights changed, and its hash left as it was."""
    with safe_open(path, framework="np") as opened:
        changed = json.loads(opened.metadata()["faultline"]) | (header or {})
        keys: list[str] = opened.keys()
        tensors = {key: opened.get_tensor(key) for key in keys if key != drop}
    save_file(tensors, path, metadata={"faultline": json.dumps(changed)})
    return path


def rewritten(path: Path, **weights: Weights | None) -> Path:
    """A file of a release that knew other weights: some set, or left out where None is given."""
    model = read_model(path)
    tensors = {key: weight for key, weight in {**model.tensors, **weights}.items() if weight is not None}
    vocabulary = model.header.vocabulary
    write_model(path, tensors, model.header.network, vocabulary, machine_type(), name="tiny", training={})
    return path


def test_a_model_file_without_doubts_has_none(saved: Path) -> None:
    rewritten(saved, **{"fusion.doubts": None})
    with safe_open(saved, framework="np") as opened:
        assert not [key for key in list(opened.keys()) if key.endswith("doubts")]
    fusion = build_network(read_model(saved)).fusion
    assert isinstance(fusion, LateFusion)
    assert fusion.doubts.tolist() == [0, 0]
    assert load_model(saved, machine_type()).modalities == ("sensors", "text")


def test_a_text_encoder_without_a_bag_is_described_as_before_there_were_bags() -> None:
    assert not [name for name in TextConfig().model_dump() if name.startswith("bag")]
    bagged = TextConfig(bag=8)
    assert TextConfig.model_validate(bagged.model_dump()) == bagged


def test_a_loaded_model_answers_as_the_saved_one(saved: Path) -> None:
    stream = Stream(machines=2, frames=20)
    made = network()
    loaded = load_model(saved, machine_type())
    assert (loaded.name, loaded.classes) == ("tiny", machine_type().faults)
    texts = [made.state_dict()[key] for key in sorted(made.state_dict())]
    again = build_network(read_model(saved)).state_dict()
    assert all(torch.equal(mine, again[key]) for key, mine in zip(sorted(again), texts, strict=True))
    for t in range(20):
        assert np.isfinite(loaded.step(stream.round(t)).probabilities).all()


def test_the_hash_depends_on_weights_but_not_on_name_or_training_record(tmp_path: Path) -> None:
    def digest(seed: int, name: str, training: dict[str, Any]) -> str:
        return save_model(tmp_path / name, network(seed=seed), machine_type(), name=name, training=training)

    assert digest(4, "a", {"x": 1}) == digest(4, "b", {})
    assert digest(4, "a", {}) != digest(5, "a", {})
    assert load_model(tmp_path / "a", machine_type()).hash == digest(5, "c", {})


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, network(), machine_type(), name="tiny", training={})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_half_precision_halves_the_matrices_and_rounding_first_changes_nothing(tmp_path: Path, saved: Path) -> None:
    made = network()
    round_weights(made, "float16")
    path = tmp_path / "half"
    save_model(path, made, machine_type(), name="tiny", training={}, storage="float16")
    assert path.stat().st_size < 0.75 * saved.stat().st_size
    again = build_network(read_model(path)).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in made.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in again.values())
    torch.testing.assert_close(again["std"], network().std)


def test_the_header_tells_how_the_model_was_made(saved: Path) -> None:
    header = read_model(saved).header
    assert header.training == {"seed": 4, "units": {}}
    assert header.machine_type == "pump"
    assert header.essence.digest == machine_type().digest


def test_a_model_with_the_class_recovering_says_so_and_other_files_stay_as_they_were(
    saved: Path, tmp_path: Path
) -> None:
    with safe_open(saved, framework="np") as opened:
        assert "recovering" not in json.loads(opened.metadata()["faultline"])
    # A file of an earlier release: its hash is over what it had then.
    assert not read_model(model_of_before(tmp_path)).header.recovering
    three = network()
    two = parse_profile(PROFILE.replace(", jam", ""), where="test").machine_types[0]
    path = tmp_path / "recovers"
    digest = save_model(path, three, two, name="tiny", training={}, recovering=True)
    runner = load_model(path, two)
    assert (runner.classes, runner.hash) == (("normal", "leak", "recovering"), digest)
    # With as many classes and no word of it, the header contradicts itself.
    other = tmp_path / "other"
    assert save_model(other, three, two, name="tiny", training={}) != digest
    with pytest.raises(ModelFileError, match="3 classes in its network, 2 in its machine type"):
        read_model(other)
    with pytest.raises(ModelFileError, match="does not match its hash"):
        read_model(tampered(path, header={"recovering": False}))


def test_a_fault_named_recovering_and_the_class_do_not_go_together(tmp_path: Path) -> None:
    two = parse_profile(PROFILE.replace(", jam", ""), where="test").machine_types[0]
    named = parse_profile(PROFILE.replace("jam", "recovering"), where="test").machine_types[0]
    path = tmp_path / "recovers"
    save_model(path, network(), two, name="tiny", training={}, recovering=True)
    with pytest.raises(ModelFileError, match=r"has a class 'recovering' of its own, .* rename the fault"):
        load_model(path, named)
    save_model(path, network(), named, name="tiny", training={}, recovering=True)
    with pytest.raises(ModelFileError, match="has two classes 'recovering'"):
        read_model(path)
    # Without the class the fault is one like any other.
    save_model(path, network(), named, name="tiny", training={})
    assert load_model(path, named).classes == ("normal", "leak", "recovering")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no model file .*nowhere"):
        load_model(tmp_path / "nowhere", machine_type())


@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_a_truncated_file_is_refused(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ModelFileError, match="cut short"):
        load_model(saved, machine_type())


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a model at all, but long enough to have a header")
    with pytest.raises(ModelFileError, match="is no model file"):
        load_model(tmp_path / "text", machine_type())
    save_file({"w": np.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(ModelFileError, match="not of Faultline"):
        load_model(tmp_path / "foreign", machine_type())


def test_another_format_and_a_broken_header_are_refused(saved: Path) -> None:
    with pytest.raises(ModelFileError, match="format 99, this release reads 1"):
        load_model(tampered(saved, header={"format": 99}), machine_type())
    with pytest.raises(ModelFileError, match=r"broken at network\.classes"):
        load_model(tampered(saved, header={"format": 1, "network": {"variables": 4}}), machine_type())


def test_weights_that_are_missing_surplus_or_of_another_shape_are_refused(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(ModelFileError, match="lacks weight mean"):
        load_model(rewritten(saved, mean=None), machine_type())
    saved.write_bytes(before)
    with pytest.raises(ModelFileError, match="has a surplus weight zeal"):
        load_model(rewritten(saved, zeal=np.zeros(2, np.float32)), machine_type())
    saved.write_bytes(before)
    with pytest.raises(ModelFileError, match=r"weight std .* has shape \(3,\) instead of \(4,\)"):
        load_model(rewritten(saved, std=np.ones(3, np.float32)), machine_type())


def test_a_weight_that_was_taken_out_is_noticed(saved: Path) -> None:
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tampered(saved, drop="mean"), machine_type())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64])
def test_weights_of_another_type_are_refused_in_one_line(saved: Path, dtype: torch.dtype) -> None:
    with safe_open(saved, framework="pt") as opened:
        metadata, keys = opened.metadata(), list(opened.keys())
        tensors = {key: opened.get_tensor(key) for key in keys}
    save_torch_file(tensors | {"std": tensors["std"].to(dtype)}, saved, metadata=metadata)
    with pytest.raises(
        ModelFileError, match=r"weight std of model file \S+ is stored as (BF16|F64|I64), .*F32"
    ) as told:
        read_model(saved)
    assert "\n" not in str(told.value)


def test_the_shipped_model_reads_without_its_profile_and_writes_the_same_bytes(tmp_path: Path) -> None:
    model = read_model(demo_model())
    assert model.header.hash.startswith("b4cd4805fd12")
    assert model.tokenizer is not None and model.tokenizer.vocabulary == model.header.vocabulary
    kind, header = load_profile("tennessee_eastman").machine_types[0], model.header
    digest = write_model(
        tmp_path / "a",
        model.tensors,
        header.network,
        header.vocabulary,
        kind,
        name=header.name,
        training=header.training,
        recovering=header.recovering,
    )
    assert digest == header.hash
    assert (tmp_path / "a").read_bytes() == demo_model().read_bytes()


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(saved, machine_type())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("frame_period: 10s", "frame_period: 20s", r"frame period \(20000 ms instead of 10000 ms\)"),
        ("[normal, leak, jam]", "[normal, leak, jam, wear]", r"faults \(with wear\)"),
        ("[normal, leak, jam]", "[normal, jam, leak]", r"faults \(in another order\)"),
        ("{name: load}, ", "", r"variables \(without load/last/sensors\)"),
        ("text_ttl_frames: 20", "texts: false", r"texts \(off instead of on\)"),
    ],
)
def test_a_profile_that_differs_is_refused_and_the_difference_named(saved: Path, old: str, new: str, said: str) -> None:
    assert old in PROFILE
    with pytest.raises(ModelFileError, match=said):
        load_model(saved, machine_type(PROFILE.replace(old, new)))


def test_the_lifetime_of_texts_is_the_profiles(saved: Path) -> None:
    shorter: MachineType = machine_type(PROFILE.replace("text_ttl_frames: 20", "text_ttl_frames: 2"))
    stream = Stream(machines=1, frames=6)
    stream.texts = {(0, 0): [(0.0, "shaft jam")]}
    loaded = load_model(saved, shorter)
    present = [bool(loaded.step(stream.round(t)).present[1, 0]) for t in range(6)]
    assert present == [True, True, True, False, False, False]


def with_unit(unit: str) -> MachineType:
    return machine_type(PROFILE.replace("{name: heat}", f"{{name: heat, unit: {unit}}}"))


def test_a_profile_in_other_units_than_the_training_gives_the_same_answers(tmp_path: Path) -> None:
    path = tmp_path / f"tiny{SUFFIX}"
    save_model(path, network(), with_unit("degC"), name="tiny", training={"seed": 4})
    celsius, fahrenheit = load_model(path, with_unit("degC")), load_model(path, with_unit("degF"))
    assert celsius.hash == fahrenheit.hash
    stream = Stream(machines=2, frames=20)
    for t in range(20):
        frames = stream.round(t)
        expected = celsius.step(frames)
        values = frames.values.copy()
        values[:, 2] = values[:, 2] * 1.8 + 32
        answered = fahrenheit.step(replace(frames, values=values))
        np.testing.assert_allclose(answered.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(answered.scaled, expected.scaled, atol=1e-4)


@pytest.mark.parametrize("unit", ["bar", "kscmh"])
def test_a_profile_in_units_that_cannot_be_converted_is_refused(tmp_path: Path, unit: str) -> None:
    path = tmp_path / f"tiny{SUFFIX}"
    save_model(path, network(), with_unit("degC"), name="tiny", training={"seed": 4})
    with pytest.raises(ModelFileError, match=f"heat in 'degC', the profile has '{unit}'"):
        load_model(path, with_unit(unit))
    load_model(path, machine_type())  # a profile without units claims nothing


def test_the_shipped_model_knows_the_units_of_its_data() -> None:
    kind = load_profile("tennessee_eastman").machine_types[0]
    units = read_model(demo_model()).header.training["units"]
    assert units == {variable.name: variable.unit for variable in kind.variables}
