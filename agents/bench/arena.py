"""The test bed of `faultline bench stream`: a synthetic plant, its topics on a broker, and the processes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.bench.host import cpu_seconds
from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.jars import missing_tools
from agents.delivery.partitioning import partition_of
from agents.kafka.admin import create_topics, translated_errors
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.topic_settings import TopicSpec
from agents.kafka.topics import topic_specs
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import DataError, FaultlineError, MissingExtraError
from pipeline.wire.messages import decode_diagnosis
from pipeline.wire.records import Output

PROGRAMS = Path(__file__).resolve().parent / "rivals"

FAULTLINE = "faultline"
MACHINES = 200
PARTITIONS = 4
HIDDEN = (52, 40, 25)
PERIOD_MS = 200
"""Time between two readings of a machine, and the frame period: 200 machines make 1,000 readings per second."""

BEGIN_MS = 1_763_600_000_000
_VALUE_ROWS = 256
_STOP_SECONDS = 15.0

Vectors = dict[tuple[str, int], list[list[float]]]
"""Probability vectors by machine and time of the reading."""


@dataclass(frozen=True)
class Plant:
    """The files of one synthetic plant: 52 variables, one frame per reading, and one model in two forms."""

    profile: Path
    model: Path
    weights: Path
    machines: Path
    values: Path

    @property
    def names(self) -> list[str]:
        """Its machines."""
        return self.machines.read_text().split()


FAULTS = ("normal", "cooling", "feed", "valve")
"""Four classes, as the design's own measurements have them."""


def make_plant(folder: Path, *, texts: bool = False, seed: int = 0) -> Plant:
    """Write profile, model file and the same weights for the rivals; `texts` adds a text modality."""
    import torch

    from models.configs.diagnoser import DiagnoserConfig
    from models.configs.sensors import SeqLSTMConfig
    from models.configs.text import TextConfig
    from models.diagnoser import Diagnoser
    from models.encoders.tokenizer import Tokenizer
    from models.network_file import save_model

    folder.mkdir(parents=True, exist_ok=True)
    shipped = load_profile("tennessee_eastman").machine_types[0]
    plant = Plant(*(folder / name for name in ("plant.yaml", "plant.faultline", "plant.npz", "machines", "values")))
    kind = {
        "name": "bench",
        "frame_period": f"{PERIOD_MS}ms",
        "texts": texts,
        "sources": {"sensors": {"topic": "sensors", "expected_period": f"{PERIOD_MS}ms"}},
        "faults": FAULTS,
        "variables": [{"name": name} for name in shipped.variable_names],
    }
    # JSON is YAML too.
    plant.profile.write_bytes(msgspec.json.encode({"plant": "bench", "machine_types": [kind]}))
    machine_type = load_profile(plant.profile).machine_types[0]
    sensors = SeqLSTMConfig(hidden=HIDDEN, head=(), mask_inputs=False)
    text = TextConfig() if texts else None
    config = DiagnoserConfig(variables=len(shipped.variables), classes=len(FAULTS), sensors=sensors, text=text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Diagnoser(config, Tokenizer.fit(["pump leaks", "shaft jam"], text) if text else None).eval()
    save_model(plant.model, network, machine_type, name="bench", training={"seed": seed})
    tensors = {name: tensor.numpy() for name, tensor in network.sensors.state_dict().items()}
    parts = {"input": "weight_ih", "state": "weight_hh", "input_bias": "bias_ih", "state_bias": "bias_hh"}
    weights = {
        f"{part}_{layer}": tensors[f"layers.{layer}.{name}_l0"]
        for layer in range(len(HIDDEN))
        for part, name in parts.items()
    }
    np.savez(plant.weights, head=tensors["head.0.weight"], head_bias=tensors["head.0.bias"], **weights)
    plant.machines.write_text("\n".join(f"machine-{number:03d}" for number in range(MACHINES)) + "\n")
    rows = np.random.default_rng(seed).standard_normal((_VALUE_ROWS, config.variables)).round(4).tolist()
    plant.values.write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")
    return plant


class Arena:
    """The topics of one round on a broker: one input for all, an output for each."""

    def __init__(self, bootstrap: str, plant: Plant, rivals: Iterable[str]) -> None:
        self.bootstrap = bootstrap
        self.plant = plant
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.settings: Settings = load_settings(
            broker=f"kafka://{bootstrap}",
            topic_prefix=f"{self.name}.",
            group=self.name,
            partitions=PARTITIONS,
            profile=str(plant.profile),
            model=plant.model,
            web_port=0,
        )
        self.profile: PlantProfile = load_profile(plant.profile)
        self.specs = topic_specs(self.settings, self.profile)
        like = next(spec for spec in self.specs if spec.name == self.source)
        self.specs += [TopicSpec(self.target(rival), PARTITIONS, like.replication, like.config) for rival in rivals]

    @property
    def source(self) -> str:
        """The topic of readings."""
        return f"{self.name}.sensors"

    def target(self, candidate: str) -> str:
        """The topic of one candidate's probabilities."""
        return f"{self.name}.diagnoses" if candidate == FAULTLINE else f"{self.name}.out-{candidate}"

    def __enter__(self) -> Arena:
        from kafka import KafkaConsumer, TopicPartition

        create_topics(self.bootstrap, self.specs)
        # A topic that is a moment old may have no leader yet. What asks first waits for it; aiokafka also complains.
        with translated_errors(self.bootstrap):
            consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=None, enable_auto_commit=False)
            try:
                consumer.end_offsets([TopicPartition(spec.name, p) for spec in self.specs for p in range(PARTITIONS)])
            finally:
                consumer.close()
        return self

    def __exit__(self, *_: object) -> None:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        with contextlib.suppress(KafkaError):  # it only frees space
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
            try:
                admin.delete_topics([spec.name for spec in self.specs])
            finally:
                admin.close()

    async def fill(self, readings: int) -> None:
        """Readings of all machines in turn, and one more of each: Faultline's last frames close with it."""
        machines = [(key, partition_of(key, PARTITIONS)) for key in map(str.encode, self.plant.names)]
        rows = self.plant.values.read_bytes().splitlines()
        publisher = KafkaPublisher(self.bootstrap, f"{self.name}.")
        await publisher.start()
        try:
            batch: list[Output] = []
            for number in range(readings + len(machines)):
                (machine, partition), at = (
                    machines[number % len(machines)],
                    BEGIN_MS + number // len(machines) * PERIOD_MS,
                )
                value = b'{"machine":"%s","time":%d,"values":%s}' % (machine, at, rows[number % len(rows)])
                batch.append(Output("sensors", partition, machine, value, at))
                if len(batch) == 10_000:
                    await publisher.publish(batch)
                    batch = []
            await publisher.publish(batch)
            await publisher.flush()
        finally:
            await publisher.stop()


class Process:
    """A child process with its log."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: dict[str, str]) -> None:
        self._name = name
        self._log = log
        with log.open("wb") as out:
            self._child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time that it has used so far."""
        return cpu_seconds(self._child.pid)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._child.poll() is not None

    def stop(self) -> None:
        """In order if it can, else by force."""
        if not self.ended:
            self._child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_STOP_SECONDS)
        self._child.kill()
        self._child.wait()

    def error(self, what: str) -> FaultlineError:
        """What to raise when it does not do what it should."""
        tail = self._log.read_text(errors="replace").strip()[-1500:]
        return DataError(f"{self._name} {what}; the end of its log:\n{tail}")


class Counter:
    """How many answers a candidate has published."""

    def __init__(self, arena: Arena, candidate: str) -> None:
        self._bootstrap = arena.bootstrap
        self._topic = arena.target(candidate)
        self._consumer: Any = None

    def __enter__(self) -> Counter:
        from kafka import KafkaConsumer, TopicPartition

        with translated_errors(self._bootstrap):
            self._consumer = KafkaConsumer(
                bootstrap_servers=self._bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
            )
        self._places = [TopicPartition(self._topic, partition) for partition in range(PARTITIONS)]
        self._consumer.assign(self._places)
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def count(self) -> int:
        """As the broker knows it now."""
        with translated_errors(self._bootstrap):
            return sum(self._consumer.end_offsets(self._places).values())

    def read(self, candidate: str) -> Vectors:
        """All of them."""
        vectors: Vectors = {}
        total, found = self.count(), 0
        while found < total:
            for records in self._consumer.poll(timeout_ms=500).values():
                found += len(records)
                for record in records:
                    machine, at, probabilities = answer(candidate, record.value)
                    vectors.setdefault((machine, at), []).append(probabilities)
        return vectors


def answer(candidate: str, value: bytes) -> tuple[str, int, list[float]]:
    """Machine, time of the reading, and probabilities of one answer; 0 for those that it leaves out."""
    if candidate == FAULTLINE:
        diagnosis = decode_diagnosis(value)
        shares = [diagnosis.probabilities.get(name, 0.0) for name in FAULTS]
        return diagnosis.machine, diagnosis.frame_start, shares
    message = json.loads(value)
    return message["machine"], message["time"], message["probabilities"]


@contextlib.contextmanager
def broker(address: str | None) -> Iterator[str]:
    """A broker's address: the given one's, or that of one which lives as long as this context."""
    if address:
        yield address.removeprefix("kafka://")
        return
    if reason := missing_tools():
        raise MissingExtraError(f"no broker can be started here: {reason}; or give --kafka host:port")
    with KafkaBroker.start() as started:
        yield started.bootstrap
