"""Networks as area models: their file, results in an area's layout, and a state that is the same after any restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from models.areas.config import AreaNetworkConfig
from models.areas.features import TEXT_FRAMES
from models.areas.load import load_area_runner
from models.areas.networks.graphs import build_area_network
from models.areas.stepping.model_file import read_area_model, write_area_model
from models.model_file import AREA_KEY, read_model
from models.network_file import save_model
from pipeline.areas.frames import AreaFrame, AreaResult, AreaRunner, Presence
from pipeline.areas.layout import AreaLayout, CauseKind, area_layouts
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.errors import ModelFileError, StateError
from pipeline.frames import EventText
from tests.support import models_tiny

AREAS = """
areas:
  hall:
    utilities:
      water: {faults: [leak, jam], machines: [a, b, c]}
      power: {faults: [jam], machines: [c, d]}
    feeds: {a: [d]}
  yard: {utilities: {power: {faults: [jam], machines: [e, f]}}}
"""
PROFILE: PlantProfile = parse_profile(models_tiny.PROFILE + AREAS, where="test")
HALL, YARD = area_layouts(PROFILE).values()
TEXTS = ("pump leaks badly", models_tiny.UNKNOWN_TEXT)
CONFIGS = (
    AreaNetworkConfig(kind="hgt_late", width=8, heads=2, embeddings=True),
    AreaNetworkConfig(width=8, heads=2, layers=1, readout="tanh"),
    AreaNetworkConfig(kind="alone", width=8, heads=2),
)


def quiet(line: str) -> None:
    """Compiling is announced."""


def write(folder: Path, config: AreaNetworkConfig, seed: int = 0) -> Path:
    """The file of a network with random weights, which reads texts by a tiny model of machines."""
    machines = folder / "machines.faultline"
    kind = models_tiny.machine_type()
    save_model(machines, models_tiny.network(), kind, name="tiny", training={})
    model = read_model(machines)
    fields = {
        "name": "net",
        "machine_type": kind.name,
        "frame_period_ms": kind.frame_period_ms,
        "machine_model": model.header.hash,
        "classes": model.header.classes,
        "modalities": ("sensors", "text"),
        "embeddings": (3, 2),
        "network": config,
        "threshold": 0.25,
        "training": {"seed": seed},
    }
    path = folder / f"net-{seed}.faultline"
    shape = write_area_model(path, {}, model, **fields).shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_area_network(config, shape)
        tensors = {key: (value + 0.3 * torch.randn_like(value)).numpy() for key, value in network.state_dict().items()}
    write_area_model(path, tensors, model, **fields)
    return path


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.kind)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("net"), request.param)


def runner_of(path: Path) -> AreaRunner:
    runner = load_area_runner(str(path), PROFILE, quiet)
    runner.reserve(2)
    return runner


def frames(layout: AreaLayout, slot: int, count: int, seed: int) -> Iterator[AreaFrame]:
    """Frames with machines and modalities missing, texts about utilities, pauses and resets."""
    rng = np.random.default_rng(seed)
    machines, period = len(layout.machines), layout.period_ms
    number = 0
    for place in range(count):
        skipped = int(rng.choice([0, 0, 0, 1, TEXT_FRAMES]))
        number += 1 + skipped
        presence = rng.choice(
            [Presence.ACTIVE, Presence.SILENT, Presence.LATE, Presence.OFFLINE], machines, p=[0.5, 0.2, 0.2, 0.1]
        )
        there = (presence <= Presence.SILENT)[:, None] & (rng.random((machines, 2)) < 0.7)
        shares = rng.dirichlet([0.3, 0.3, 0.3, 0.05], machines).astype(np.float32)
        probabilities = np.zeros((machines, layout.widest), np.float32)
        probabilities[:, :4] = np.where(np.asarray(there.any(axis=1))[:, None], shares, 0)
        texts = []
        for n in range(int(rng.random() < 0.3) * 2):
            text = EventText(f"{place}-{n}", number * period + n, str(rng.choice(TEXTS)))
            texts.append((int(rng.integers(len(layout.utilities))), text))
        yield AreaFrame(
            layout=layout,
            slot=slot,
            start_ms=number * period,
            reset=place == 0 or rng.random() < 0.04,
            skipped=skipped,
            presence=presence.astype(np.int64),
            age_ms=np.zeros(machines, np.int64),
            probabilities=probabilities,
            modality_present=there,
            modality_answer=np.where(there, rng.integers(0, 4, (machines, 2)), -1),
            modality_confidence=np.where(there, rng.random((machines, 2)), 0).astype(np.float32),
            modality_age_ms=np.zeros((machines, 2), np.int64),
            embedded=there,
            embeddings=tuple(
                np.where(there[:, m, None], rng.normal(size=(machines, size)), 0).astype(np.float32)
                for m, size in enumerate((3, 2))
            ),
            texts=texts,
        )  # fmt: skip


def said(result: AreaResult) -> bytes:
    shown = b"" if result.neighbours is None else result.neighbours.tobytes()
    return b"".join(part.tobytes() for part in (result.causes, result.probabilities, result.support)) + shown


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**16), stop=st.integers(0, 30))
def test_an_area_is_the_same_beside_others_and_after_a_restart(file: Path, seed: int, stop: int) -> None:
    alone, shared = runner_of(file), runner_of(file)
    whole = [said(alone.step(frame)) for frame in frames(HALL, 0, 30, seed)]
    found: list[bytes] = []
    others = frames(YARD, 0, 31, seed + 1)
    for number, frame in enumerate(frames(HALL, 1, 30, seed)):
        if number == stop:  # another process goes on
            states = [shared.save(slot) for slot in (0, 1)]
            shared = runner_of(file)
            for slot, state in enumerate(states):
                shared.load(slot, state)
                assert shared.save(slot) == state
        shared.step(next(others))
        found.append(said(shared.step(frame)))
    assert found == whole
    assert shared.save(1) == alone.save(0)


def test_results_are_in_the_layout_of_the_area(file: Path) -> None:
    runner = runner_of(file)
    model = read_area_model(file)
    for frame in frames(HALL, 0, 40, seed=5):
        result = runner.step(frame)
        assert result.causes.shape == (len(HALL.causes),)
        assert result.causes.sum() == pytest.approx(1, abs=1e-5)
        total = result.support.sum()
        best = HALL.causes[int(result.causes.argmax())]
        assert total == pytest.approx(1, abs=1e-5) if best.kind == CauseKind.MACHINE else total <= 1 + 1e-5
        known = frame.modality_present.any(axis=1) & frame.has_answer
        sums = result.probabilities.sum(axis=1)
        np.testing.assert_allclose(sums[known], 1, rtol=1e-5)
        if model.header.network.kind == "alone":
            assert result.neighbours is None and not sums[~known].any()
        else:
            assert result.neighbours is not None and result.neighbours.shape == (4, 6)
        # `recovering` and `unknown` are classes of the layout that this network does not have.
        assert not result.probabilities[:, 3:].any()


def test_what_is_no_state_is_refused(file: Path) -> None:
    runner = runner_of(file)
    runner.load(0, runner.save(0))  # before the first frame there is a state, too
    for frame in frames(HALL, 0, 20, seed=1):
        runner.step(frame)
    state = runner.save(0)
    nan = state[:12] + np.float32(np.nan).tobytes() + state[16:]
    for damaged in (b"", state[:-1], state + b"x", b"\xff" * 12 + state[12:], nan):
        with pytest.raises(StateError):
            runner.load(0, damaged)
    runner.load(0, state)
    assert runner.save(0) == state
    runner.reset(0)
    assert runner.save(0) == runner_of(file).save(0)


def test_a_network_fits_the_machines_it_was_trained_for(tmp_path: Path) -> None:
    path = write(tmp_path, CONFIGS[2])
    text = models_tiny.PROFILE + AREAS
    for other, wrong in (
        (text.replace("name: pump", "name: fan"), "reads texts of machine type pump"),
        (text.replace("jam]\n", "jam, ice]\n").replace("[leak, jam]", "[leak, ice]"), "was trained for machine type"),
    ):
        with pytest.raises(ModelFileError, match=wrong):
            load_area_runner(str(path), parse_profile(other, where="test"), quiet)


def test_the_file_says_what_it_is_and_is_refused_if_damaged(tmp_path: Path) -> None:
    path, other = write(tmp_path, CONFIGS[2]), write(tmp_path, CONFIGS[2], seed=1)
    one = load_area_runner(str(path), PROFILE, quiet)
    assert (one.name, one.modalities, one.embeddings) == ("net", ("sensors", "text"), {})
    assert one.hash == read_area_model(path).header.hash != read_area_model(other).header.hash
    with pytest.raises(ModelFileError, match="is a network of areas, not a model of machines"):
        read_model(path)
    with pytest.raises(ModelFileError, match="is a model of machines, no network of areas"):
        load_area_runner(str(tmp_path / "machines.faultline"), PROFILE, quiet)
    with pytest.raises(ModelFileError, match="there is no model file"):
        load_area_runner(str(tmp_path / "none.faultline"), PROFILE, quiet)
    model = read_area_model(path)
    header = model.header.model_dump_json()
    tensors = load_file(path)
    for change, weights, wrong in (
        (("0.25", "0.5"), {}, "does not match its hash"),
        (('"format":1', '"format":2'), {}, "has format 2"),
        (('"modalities":["sensors","text"]', '"modalities":["sensors"]'), {}, "contradicts itself"),
        (('"width":8', '"width":12'), {}, "network.width"),
        (("", ""), {"network.head.own.bias": np.ones(1, np.float32)}, "does not match its hash"),
        (("", ""), {"machine_model.mean": np.ones(4, np.float32)}, "does not match its hash"),
    ):
        save_file(tensors | weights, path, metadata={AREA_KEY: header.replace(*change), **_machine_header(model)})
        with pytest.raises(ModelFileError, match=wrong):
            read_area_model(path)


def _machine_header(model: object) -> dict[str, str]:
    return {"faultline_machine_model": model.machine_model.header.model_dump_json()}  # type: ignore[attr-defined]
