"""A small plant with two areas: diagnoses of its machines, a rule with a memory, and plant agents that come and go."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from agents.audit.certificate import CertificateBuilder
from agents.memory.publisher import MemoryPublisher
from agents.memory.states import MemoryStateStore
from agents.worker.plant.agent import PlantAgent
from agents.worker.worker import Worker
from pipeline.areas.frames import AreaFrame, AreaResult, EmbeddingShape
from pipeline.areas.layout import AreaLayout, CauseKind
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.topics import ALARMS, AREA_CONTROL, AREAS, DEAD_LETTER, LATE, PLANT, PLANT_STATE
from pipeline.errors import StateError
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, Evidence, ModalityAnswer, ModelRef
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE
from tests.support.chaos import Probes
from tests.support.delivery_apps import until
from tests.support.plant import Plant

FRAME_MS = 10_000
T0_MS = 1_763_600_000_000
MACHINES = {"hall": ("pump-1", "pump-2", "pump-3", "pump-4"), "yard": ("pump-5", "pump-6")}

WITH_AREAS = (
    ONE_SOURCE
    + """
areas:
  hall:
    title: Hall 1
    utilities:
      water: {title: Water main, faults: [leak], machines: [pump-1, pump-2, pump-3]}
    machines: [pump-4]
  yard:
    utilities: {power: {faults: [jam], machines: [pump-5, pump-6]}}
"""
)


class VoteRunner:
    """Names the utility whose fault most of its machines have, smoothed over frames: its state is that average."""

    name = "votes"
    modalities = ("sensors",)
    embeddings: Mapping[str, EmbeddingShape] = {}

    def __init__(self, hash_: str = "7" * 64) -> None:
        self.hash = hash_
        self.state = np.zeros((0, 4), np.float64)

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        """Any area will do."""

    def load_code(self) -> None:
        """There is none."""

    def reserve(self, slots: int) -> None:
        self.state = np.zeros((slots, 4), np.float64)

    def step(self, frame: AreaFrame) -> AreaResult:
        layout, state = frame.layout, self.state[frame.slot]
        if frame.reset:
            state[:] = 0
        causes = np.zeros(len(layout.causes), np.float64)
        support = np.zeros(len(layout.machines) + len(layout.utilities), np.float64)
        for place, cause in enumerate(layout.causes):
            if cause.kind == CauseKind.UTILITY:
                utility = next(one for one in layout.utilities if one.name == cause.name)
                column = layout.classes_of(0).index(cause.fault or "")
                shares = frame.probabilities[utility.machines, column].astype(np.float64)
                state[place] = 0.5 * state[place] + 0.5 * shares.mean()
                causes[place] = state[place]
                support[utility.machines] += shares
        causes[0] = max(1 - causes.sum(), 0)
        total = support.sum()
        return AreaResult(
            (causes / causes.sum()).astype(np.float32),
            frame.probabilities.copy(),
            (support / total if total else support).astype(np.float32),
        )

    def reset(self, slot: int) -> None:
        self.state[slot] = 0

    def save(self, slot: int) -> bytes:
        saved: bytes = self.state[slot].tobytes()
        return saved

    def load(self, slot: int, state: bytes) -> None:
        if len(state) != 32:
            raise StateError("not a state of VoteRunner")
        self.state[slot] = np.frombuffer(state, np.float64)


def diagnosis(machine: str, frame: int, share: float = 0.0, fault: str = "leak", **changes: Any) -> Diagnosis:
    """A machine's diagnosis of the frame with this number; the fault has this share, the normal state the rest."""
    end_ms = T0_MS + (frame + 1) * FRAME_MS
    said = fault if share > 0.5 else "normal"
    sure = max(share, 1 - share)
    plain = Diagnosis(
        id=f"{machine}:{end_ms}:555555555555:0",
        machine=machine,
        frame_start=end_ms - FRAME_MS,
        frame_end=end_ms,
        fault=said,
        confidence=sure,
        probabilities={"normal": round(1 - share, 5), fault: share},
        modalities={"sensors": ModalityAnswer(said, sure, 1.0, True, 0)},
        entropy=0.1,
        disagreement=0.0,
        evidence=Evidence([], []),
        status="active",
        reset=None,
        revision=0,
        model=ModelRef("sum", "5" * 64),
    )
    return msgspec.structs.replace(plain, **changes)


def area_record(said: Diagnosis, partition_of: Callable[[bytes], int]) -> Record:
    """A diagnosis as a worker copies it for its machine's area."""
    area = next(area for area, machines in MACHINES.items() if said.machine in machines)
    key = area.encode()
    return Record(AREAS, partition_of(key), 0, said.frame_end, key, messages.encode(said))


def tick(time_ms: int, partition: int) -> Record:
    """Time passes in a partition."""
    return Record(AREAS, partition, 0, time_ms, None, messages.tick(time_ms, partition).value)


def area_story(frames: int, partition_of: Callable[[bytes], int], partitions: int, seed: int = 0) -> list[Record]:
    """Machines ahead and behind, repeated, silent and broken diagnoses, texts about utilities, failures and ticks."""
    rng = random.Random(seed)
    lagging: dict[str, list[Record]] = {}
    records: list[Record] = []
    for frame in range(frames):
        failing = frame % 40 >= 25
        for area, machines in MACHINES.items():
            for machine in machines:
                if rng.random() < 0.03:
                    continue
                share = round(0.9 - 0.3 * rng.random() if failing else 0.2 * rng.random(), 5)
                status = "offline" if rng.random() < 0.02 else "active"
                said = diagnosis(machine, frame, share, "leak" if area == "hall" else "jam", status=status)
                lagging.setdefault(machine, []).append(area_record(said, partition_of))
                if rng.random() < 0.8:
                    records += lagging.pop(machine)
                if rng.random() < 0.05 and records:
                    records.append(records[-1])
        end_ms = T0_MS + (frame + 1) * FRAME_MS
        if rng.random() < 0.1:
            value = {"machine": "hall/water", "time": end_ms - 500, "text": f"low pressure {frame}", "id": f"t{frame}"}
            text = msgspec.json.encode(value)
            header = (("faultline-topic", b"events"),)
            records.append(Record(AREAS, partition_of(b"hall"), 0, end_ms, b"hall", text, header))
        if rng.random() < 0.02:
            records.append(Record(AREAS, partition_of(b"yard"), 0, end_ms, b"yard", b"{"))
        if frame % 9 == 5:
            kind = ("acknowledge", "suppress", "unsuppress")[frame // 9 % 3]
            act = {"kind": kind, "machine": "hall/water", "by": "kim", "why": f"frame {frame}"}
            acted = Record(AREAS, partition_of(b"hall"), 0, end_ms, b"hall", msgspec.json.encode(act), (AREA_CONTROL,))
            records += [acted, acted]
        if rng.random() < 0.05:
            records += [tick(end_ms + FRAME_MS, partition) for partition in range(partitions)]
    return records


class AreaPlant(Plant):
    """The plant's topics on a memory broker, and plant agents that are started, killed and followed."""

    def __init__(self, text: str = WITH_AREAS, partitions: int = 2, **settings: Any) -> None:
        super().__init__(text, partitions, **settings)
        self.agent_settings = self.settings.of_plant

    def agent_store(self) -> MemoryStateStore:
        return MemoryStateStore(self.broker, "", self.partition_of, PLANT_STATE)

    def agent(
        self,
        runner: VoteRunner | None = None,
        *,
        at: Mapping[str, int] | None = None,
        ticks: bool = False,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> PlantAgent:
        """A plant agent that dies when it comes to one of the points `at`."""
        probes = Probes(at)
        agent = PlantAgent(
            self.agent_settings.model_copy(update=settings),
            self.profile,
            runner or VoteRunner(),
            probes.publisher(MemoryPublisher(self.broker)),
            partition_of=self.partition_of,
            wall_seconds=time.time,
            store=probes.store(self.agent_store()),
            ticks=ticks,
            monotonic_seconds=monotonic_seconds,
        )
        worker = cast(Worker, agent)  # they live and die alike
        probes.attach(worker)
        self._probes[worker] = probes
        return agent

    async def live_agent(self, **options: Any) -> PlantAgent:
        """One life of a plant agent: until it dies, else until all of its input is processed."""
        agent = self.agent(**options)
        await self.live(lambda: not any(agent.lag().values()), worker=cast(Worker, agent))
        return agent

    def died(self, agent: PlantAgent) -> bool:
        return self.probes(cast(Worker, agent)).dead

    def said_of_areas(self) -> dict[str, list[Record]]:
        """All outputs of plant agents by topic, as `chaos.compare` wants them."""
        return {topic: self.log(topic) for topic in (PLANT, ALARMS, LATE, DEAD_LETTER)}

    def areas(self, area: str) -> list[AreaDiagnosis]:
        """What was said of an area, in the order in which it was published."""
        key = area.encode()
        return [decode_area(record.value or b"") for record in self.log(PLANT) if record.key == key]

    async def agent_states(self) -> dict[str, bytes]:
        """What the next plant agent would begin with."""
        return await self.agent_store().read(range(self.partitions))


async def work_recorded(agent: PlantAgent, recording: Path, live: CertificateBuilder) -> None:
    """Let an agent work until it has read all there is, record what it reads, and certify what it says."""
    with RecordingWriter(recording) as recorder:

        def observe(records: Sequence[Record], outputs: Sequence[Output]) -> None:
            recorder.write(records)
            live.add(outputs)

        agent._observer = observe
        await agent.start()
        await until(lambda: agent.life.ready().ok and not any(agent.lag().values()))
        await agent.stop()
