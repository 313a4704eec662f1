"""NumpyRunner: a diagnoser stepped in plain numpy, because in small rounds torch's cost a call is most of it."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.arena import FILLINGS, ArenaRunner, SensorStep
from models.attention import RingAttention
from models.diagnoser import Diagnoser
from models.lstm import SeqLSTM
from models.numpy_attention import AttentionSensors
from models.numpy_fusion import unsupported_fusion
from models.numpy_parts import Filling, Sensed, SensorNetwork, SensorRoom
from pipeline.frames import Bools, Floats, Ints


def unsupported(network: Diagnoser) -> str | None:
    """What of this network the numpy backend does not know, or None."""
    if not isinstance(network.sensors, SeqLSTM | RingAttention):
        return f"sensor encoder {network.config.sensors.kind}"
    return unsupported_fusion(network)


class NumpyRunner(ArenaRunner):
    """An ArenaRunner for SeqLSTM and RingAttention."""

    def __init__(self, network: Diagnoser, *, name: str, digest: str, classes: tuple[str, ...]) -> None:
        """Raises ValueError for a network that `unsupported` names."""
        if what := unsupported(network):
            raise ValueError(f"the numpy backend does not know {what}")
        temperature = float(network.fusion.temperatures[0])
        sensors: SensorStep
        if isinstance(network.sensors, RingAttention):
            sensors = AttentionSensors(network.sensors, temperature)
        else:
            assert isinstance(network.sensors, SeqLSTM)
            sensors = LSTMSensors(network.sensors, temperature)
        super().__init__(network, sensors, name=name, digest=digest, classes=classes)


class _Seats(NamedTuple):
    """A round's machines in a room, one row each as everywhere outside."""

    room: SensorRoom
    readings: Floats
    observed: Floats | None
    hs: list[Floats]
    rest: Floats
    sensed: Sensed


class LSTMSensors:
    """A SeqLSTM: a round's states are turned into columns, advanced and turned back."""

    most_rows = 256
    in_order = False

    def __init__(self, sensors: SeqLSTM, temperature: float) -> None:
        self._network = SensorNetwork(sensors, temperature)
        self._total = sum(sensors.config.hidden)
        at = np.cumsum([0, *sensors.config.hidden]).tolist()
        self._layer_columns = [slice(begin, end) for begin, end in pairwise(at)]
        most = max(filling.width(self.most_rows) for filling in FILLINGS)
        self._memory = np.zeros(self._network.rows * most, np.float32)
        self._gathered = np.zeros((most, self._network.state_size), np.float32)
        self._rooms: dict[int, SensorRoom] = {}
        self._seats: dict[tuple[int, int, int], _Seats] = {}
        self._here: SensorRoom | None = None

    def advance(self, states: Floats, slots: Ints, readings: Floats, observed: Bools, filling: Filling) -> Sensed:
        """See `models.arena.SensorStep`."""
        seats = self._seats_of(len(slots), filling)
        if seats.room is not self._here:
            seats.room.enter()
            self._here = seats.room
        total, parts, own = self._total, self._layer_columns, self._gathered[: len(slots)]
        states.take(slots, 0, own, "clip")
        seats.readings[...] = readings
        if seats.observed is not None:
            seats.observed[...] = observed
        for h, columns in zip(seats.hs, parts, strict=True):
            h[...] = own[:, columns]
        seats.rest[...] = own[:, total:]
        seats.room.step()
        for h, columns in zip(seats.hs, parts, strict=True):
            own[:, columns] = h
        own[:, total:] = seats.rest
        states[slots] = own
        return seats.sensed

    def example(self, rng: np.random.Generator, size: int) -> Floats:
        """See `models.arena.SensorStep`."""
        return rng.uniform(-1, 1, size).astype(np.float32)

    def _seats_of(self, count: int, filling: Filling) -> _Seats:
        """Rooms lie in the same memory, whatever their width, so that small rounds keep to a warm piece of it."""
        width, here = filling.width(count), filling.place(count)
        key = (width, here.start, here.stop)
        seats = self._seats.get(key)
        if seats is None:
            room = self._rooms.get(width)
            if room is None:
                room = self._rooms[width] = self._network.room(self._memory, width)
            seats = self._seats[key] = _Seats(
                room,
                room.readings[:, here].T,
                None if room.observed is None else room.observed[:, here].T,
                [h[:, here].T for h in room.hs],
                room.rest[:, here].T,
                Sensed(room.answer, room.features),
            )
        return seats
