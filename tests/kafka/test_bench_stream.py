"""`bench stream` in small: every candidate answers each reading once, and the report says what was measured."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.bench.arena import BEGIN_MS, MACHINES, PERIOD_MS, PROGRAMS, Arena, make_plant
from agents.bench.local_kafka.jars import default_jars_dir, missing_tools
from agents.bench.stream import CANDIDATES, RIVALS, Bench, bench_stream
from agents.bench.stream_measures import Sample, difference, latency, pace
from pipeline.errors import DataError, SettingsError
from tests.support.kafka_fixtures import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]

READINGS = 2_000
PAIR = ("faultline", "aiokafka")


@pytest.fixture(scope="module", autouse=True)
def rivals_need_these() -> None:
    """Of the extra `bench`; aiokafka itself comes with Faultline."""
    pytest.importorskip("orjson")


@pytest.mark.kafka
def test_faultline_and_a_rival_publish_the_same_probabilities_once_a_reading(kafka: str, tmp_path: Path) -> None:
    bench = Bench(kafka, sys.executable, "torch", tmp_path, print)
    plant = make_plant(tmp_path / "plant")
    with Arena(kafka, plant, RIVALS) as arena:
        asyncio.run(arena.fill(READINGS))
        ours, theirs = (bench.answers(name, arena, READINGS) for name in PAIR)
    places = {(name, BEGIN_MS + step * PERIOD_MS) for step in range(READINGS // MACHINES) for name in plant.names}
    assert len(places) == READINGS
    assert ours.keys() == places
    # The last reading of each machine only closes Faultline's last frames; the rivals answer to it too.
    assert {place for place in theirs if place[1] < BEGIN_MS + READINGS // MACHINES * PERIOD_MS} == places
    assert len(theirs) == READINGS + MACHINES
    for place in places:
        assert len(ours[place]) == len(theirs[place]) == 1
        assert ours[place][0] == pytest.approx(theirs[place][0], abs=1e-5)
        assert sum(ours[place][0]) == pytest.approx(1.0, abs=3e-5)
    # Machines and times differ, so equal answers are not equal because all are.
    assert len({tuple(vectors[0]) for vectors in ours.values()}) > READINGS * 0.9


@pytest.mark.long
@pytest.mark.kafka
def test_the_report(kafka: str) -> None:
    told: list[str] = []
    report = bench_stream(
        readings=20_000, rounds=2, only=PAIR, skip_latency=True, kafka=f"kafka://{kafka}", say=told.append
    )
    assert json.loads(json.dumps(report)) == report
    assert report["faultline"] > 0
    assert report["aiokafka"] > 0
    assert [len(report["every_round"][name]) for name in PAIR] == [2, 2]
    ratios = [ours / theirs for ours, theirs in zip(*(report["every_round"][name] for name in PAIR), strict=True)]
    assert report["vs_aiokafka"] == pytest.approx(sum(ratios) / 2, abs=0.01)
    for left_out in ("faust", "quix", "bytewax", "confluent"):
        assert report[left_out] is None
        assert report[f"vs_{left_out}"] is None
    assert report["latency_p50_ms"] is report["quix_latency_p99_ms"] is None
    assert (report["readings"], report["rounds"], report["machines"]) == (20_000, 2, 200)
    assert all(microseconds > 0 for microseconds in report["cpu_microseconds"].values())
    assert report["versions"].keys() >= {"torch", "aiokafka", "quixstreams"}
    assert any("round 2" in line and "aiokafka" in line for line in told)


@pytest.mark.kafka
def test_latency_is_measured_beside_a_steady_producer(kafka: str, tmp_path: Path) -> None:
    bench = Bench(kafka, sys.executable, "torch", tmp_path, print)
    found = bench.latencies("faultline", make_plant(tmp_path / "plant"), 1.0)
    assert len(found.caused) > 100
    assert (found.caused > 0).all()
    # The reading that a frame is about was sent a frame before the one that closes it.
    assert (found.own > found.caused).all()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of this version installs, and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("installed")
    source, wheels = folder / "source", folder / "wheels"
    for package in ("pipeline", "models", "agents"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(wheels)], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    shutil.rmtree(source)
    return folder / "site"


@pytest.mark.long
@pytest.mark.kafka
def test_an_installed_command_finds_the_broker_and_the_rivals(installed: Path, tmp_path: Path) -> None:
    if (reason := missing_tools()) is not None:
        skip_or_fail(reason)
    env = os.environ | {"PYTHONPATH": str(installed), "FAULTLINE_KAFKA_JARS": str(default_jars_dir())}

    def python(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], check=False, cwd=tmp_path, env=env, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(python("-c", "import agents; print(agents.__file__)").strip()).is_relative_to(installed)
    options = ("--json", "--only", "aiokafka", "--readings", "40000", "--rounds", "1", "--skip-latency")
    report = json.loads(python("-m", "agents.cli", "bench", "stream", *options))
    assert report["aiokafka"] > 0
    assert report["faultline"] is None
    assert report["processor"]


def test_a_reading_at_a_time_or_many_with_torch_or_numpy_the_rivals_compute_the_same(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bench_job", PROGRAMS / "job.py")
    assert spec is not None and spec.loader is not None
    job: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = job  # dataclasses look their module up
    spec.loader.exec_module(job)
    plant = make_plant(tmp_path)
    rows = plant.values.read_bytes().splitlines()
    readings = [
        job.read(b'{"machine":"%s","time":%d,"values":%s}' % (machine, time, rows[7 * time + place]))
        for time in range(5)
        for place, machine in enumerate((b"a", b"b", b"c")[: time + 1])
    ]
    rounds = job.rounds(readings)
    # Machine a has five readings, b four, c three.
    assert [len(places) for places in rounds] == [3, 3, 3, 2, 1]
    with torch.no_grad():  # entered here, so that what the job switches off is on again afterwards
        one = [job.Model(plant.weights, name) for name in ("torch", "numpy")]
        singly = [np.array([model.one(reading) for reading in readings]) for model in one]
        together = []
        for name in ("torch", "numpy"):
            model, answers = job.Model(plant.weights, name), np.zeros_like(singly[0])
            for places in rounds:
                answers[places] = model.many([readings[place] for place in places])
            together.append(answers)
    for other in (singly[1], *together):
        np.testing.assert_allclose(other, singly[0], rtol=0, atol=1e-6)
    for bad in (
        None,
        b"",
        b"{",
        rows[0],
        b'{"machine":"a","time":1,"values":[1.0]}',
        b'{"machine":"","time":1,"values":%s}' % rows[0],
    ):
        assert job.read(bad) is None


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(SettingsError, match="flink"):
        bench_stream(only=["flink"])
    with pytest.raises(SettingsError, match="--readings"):
        bench_stream(readings=100)
    with pytest.raises(SettingsError, match="no-such-python"):
        bench_stream(python="/no-such-python")
    assert CANDIDATES[0] == "faultline"


def test_answers_that_differ_are_found() -> None:
    right = {("a", 0): [[0.5, 0.5]], ("b", 0): [[0.1, 0.9]]}
    assert difference(right, right, set(right)) is None
    assert "no answer" in (difference({("a", 0): [[0.5, 0.5]]}, right, set(right)) or "")
    assert "several" in (difference(right | {("b", 0): [[0.1, 0.9]] * 2}, right, set(right)) or "")
    assert "other" in (difference(right | {("b", 0): [[0.2, 0.8]]}, right, set(right)) or "")
    assert "other" in (difference(right | {("b", 0): [[0.10002, 0.89998]]}, right, set(right)) or "")
    assert difference(right | {("b", 0): [[0.10001, 0.89999]]}, right, set(right)) is None
    small = {("a", 0): [[0.0004, 0.9996]]}
    assert difference({("a", 0): [[0.0, 0.9996]]}, small, set(small)) is None
    assert "other" in (difference({("a", 0): [[0.0, 0.9996]]}, {("a", 0): [[0.0006, 0.9996]]}, set(small)) or "")


def test_the_pace_leaves_start_and_warming_up_out() -> None:
    counts = [(10.0, 40), (10.5, 100), (11.0, 400), (11.5, 400), (12.0, 900), (12.5, 1_000)]
    samples = [Sample(at, answers, 3.0 + answers / 10_000) for at, answers in counts]
    measured = pace(samples, 1_000)
    assert measured.per_second == pytest.approx(900 / 2.0)
    assert measured.longest_pause_ms == pytest.approx(1_000.0)
    assert measured.cpu_microseconds == pytest.approx(100.0)
    assert pace([Sample(*count) for count in counts], 1_000).cpu_microseconds is None
    with pytest.raises(DataError, match="--readings"):
        pace([Sample(10.0, 1_000)], 1_000)


def test_latency_counts_from_the_reading_that_causes_the_answer() -> None:
    second = 1_000_000_000
    machines = ["a", "b"]
    sent = [n * second // 2 for n in range(40)]  # a, b, a, b, ... half a second apart

    def reply(number: int) -> bytes:
        at = number // 2 * PERIOD_MS
        return json.dumps({"machine": machines[number % 2], "time": at, "probabilities": [1.0]}).encode()

    heard = [(sent[number] + 7_000_000, reply(number)) for number in range(40) if number != 10]
    found = latency("aiokafka", heard, sent, machines, begin_ms=0, seconds=5.0)
    # Sent from 3.007 s to 8.007 s: ten readings. The one that was never answered counts until the listening ended.
    assert len(found.caused) == 10
    assert sorted(found.caused)[:9] == pytest.approx([7.0] * 9)
    assert found.caused.max() > 3_000
