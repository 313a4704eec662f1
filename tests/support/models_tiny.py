"""A tiny machine type and untrained network for the tests of models/."""

from __future__ import annotations

import numpy as np
import torch

from models.configs.diagnoser import DiagnoserConfig
from models.configs.sensors import SeqLSTMConfig
from models.configs.text import TextConfig
from models.diagnoser import Diagnoser
from models.encoders.tokenizer import Tokenizer
from models.network_file import compile_network
from models.stepping.runner import CompiledRunner
from pipeline.config.profile import MachineType, parse_profile
from pipeline.frames import EventText, Frames

# Networks this small only lose by threads, most of all where other tests keep the cores busy.
torch.set_num_threads(1)

PERIOD_MS = 10_000
VARIABLES, CLASSES = 4, 3
PROFILE = """
plant: tiny
machine_types:
  - name: pump
    frame_period: 10s
    text_ttl_frames: 20
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load}, {name: heat}, {name: noise}]
"""
TEXTS = ("pump leaks badly", "shaft jam", "all is well again", "strange noise")
UNKNOWN_TEXT = "一切正常"
"""A text in which the network knows no word."""


def machine_type(text: str = PROFILE) -> MachineType:
    return parse_profile(text, where="test").machine_types[0]


def network(*, texts: bool = True, seed: int = 4, context: bool = True) -> Diagnoser:
    """An untrained network with scaling and fusion that are not trivial."""
    text = (
        TextConfig(embedding=8, hidden=6, head=(5,), ring=3, subword_buckets=128, bag=4, bag_buckets=64)
        if texts
        else None
    )
    config = DiagnoserConfig(
        variables=VARIABLES,
        classes=CLASSES,
        sensors=SeqLSTMConfig(
            hidden=(10, 8), head=(6,), trends=(10.0,) if context else (), spreads=(5.0,) if context else ()
        ),
        text=text,
        text_ttl_frames=20,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Diagnoser(config, Tokenizer.fit(TEXTS, text) if text else None)
    made.mean.copy_(torch.arange(VARIABLES) * 10.0)
    made.std.copy_(torch.tensor([1.0, 2.0, 0.5, 4.0]))
    made.fusion.prior.copy_(torch.tensor([0.6, 0.3, 0.1]))
    return made.eval()


def runner(*, texts: bool = True, seed: int = 4) -> CompiledRunner:
    return compile_network(
        network(texts=texts, seed=seed), name="tiny", digest=f"{seed:064x}", classes=machine_type().faults
    )


class Stream:
    """Frames of some machines with gaps, held values, silent frames and texts, all drawn from one seed."""

    def __init__(self, machines: int, frames: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.machines = machines
        self.frames = frames
        centre = np.arange(VARIABLES) * 10
        self.values = (centre + 3 * rng.standard_normal((machines, frames, VARIABLES))).astype(np.float32)
        self.values[rng.random(self.values.shape) < 0.1] = np.nan
        self.values[rng.random((machines, frames)) < 0.1] = np.nan
        self.observed = ~np.isnan(self.values) & (rng.random(self.values.shape) < 0.8)
        written = (*TEXTS, UNKNOWN_TEXT)
        self.texts: dict[tuple[int, int], list[tuple[float, str]]] = {}
        for machine in range(machines):
            for frame in np.flatnonzero(rng.random(frames) < 0.06):
                ages = np.sort(rng.uniform(0, 4, rng.integers(1, 3)))[::-1]
                self.texts[machine, int(frame)] = [(float(age), str(rng.choice(written))) for age in ages]

    def round(self, frame: int, machines: list[int] | None = None, *, reset: bool = False) -> Frames:
        """The round of one frame for some machines; machine k lives in slot k."""
        who = list(range(self.machines)) if machines is None else machines
        start = frame * PERIOD_MS
        texts = [
            (row, EventText(f"{machine}-{frame}", start + PERIOD_MS - round(age * PERIOD_MS), text))
            for row, machine in enumerate(who)
            for age, text in self.texts.get((machine, frame), [])
        ]
        count = len(who)
        return Frames(
            slots=np.array(who, np.int64),
            start_ms=np.full(count, start, np.int64),
            period_ms=PERIOD_MS,
            values=self.values[who, frame],
            observed=self.observed[who, frame],
            age_ms=np.zeros((count, VARIABLES), np.int64),
            reset=np.full(count, reset),
            reset_reason=np.zeros(count, np.int64),
            revision=np.zeros(count, np.int64),
            texts=texts,
        )
