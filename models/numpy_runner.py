"""NumpyRunner: an LSTM diagnoser stepped in plain numpy, because in small rounds torch's cost a call is most of it."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.arena import FILLINGS, MOST_ROWS, ArenaRunner, unsupported_fusion
from models.diagnoser import Diagnoser
from models.fusion import LateFusion
from models.lstm import SeqLSTM
from models.numpy_parts import SensorNetwork, SensorRoom, array
from pipeline.frames import Bools, Floats


def unsupported(network: Diagnoser) -> str | None:
    """What of this network the numpy backend does not know, or None."""
    if not isinstance(network.sensors, SeqLSTM):
        return f"sensor encoder {network.config.sensors.kind}"
    return unsupported_fusion(network)


class _Seats(NamedTuple):
    """A round's machines in a room, one row each as everywhere outside."""

    room: SensorRoom
    readings: Floats
    observed: Floats | None
    hs: list[Floats]
    rest: Floats
    answer: Floats


class NumpyRunner(ArenaRunner):
    """An ArenaRunner for SeqLSTM: a round's states are turned into columns, advanced and turned back."""

    def __init__(self, network: Diagnoser, *, name: str, digest: str, classes: tuple[str, ...]) -> None:
        """Raises ValueError for a network that `unsupported` names."""
        if what := unsupported(network):
            raise ValueError(f"the numpy backend does not know {what}")
        assert isinstance(network.sensors, SeqLSTM)
        assert isinstance(network.fusion, LateFusion)
        self._sensors = SensorNetwork(network.sensors, float(array(network.fusion.temperatures)[0]))
        self._total = sum(network.sensors.config.hidden)
        at = np.cumsum([0, *network.sensors.config.hidden]).tolist()
        self._layer_columns = [slice(begin, end) for begin, end in pairwise(at)]
        most = max(filling.width(MOST_ROWS) for filling in FILLINGS)
        self._memory = np.zeros(self._sensors.rows * most, np.float32)
        self._rooms: dict[int, SensorRoom] = {}
        self._seats: dict[tuple[int, int, int], _Seats] = {}
        self._here: SensorRoom | None = None
        super().__init__(network, name=name, digest=digest, classes=classes)

    def _advance_sensors(self, readings: Floats, observed: Bools, states: Floats) -> Floats:
        seats = self._seats_of(len(readings))
        if seats.room is not self._here:
            seats.room.enter()
            self._here = seats.room
        total, parts = self._total, self._layer_columns
        seats.readings[...] = readings
        if seats.observed is not None:
            seats.observed[...] = observed
        for h, columns in zip(seats.hs, parts, strict=True):
            h[...] = states[:, columns]
        seats.rest[...] = states[:, total:]
        seats.room.step()
        for h, columns in zip(seats.hs, parts, strict=True):
            states[:, columns] = h
        states[:, total:] = seats.rest
        return seats.answer

    def _seats_of(self, count: int) -> _Seats:
        """Rooms lie in the same memory, whatever their width, so that small rounds keep to a warm piece of it."""
        width, here = self._filling.width(count), self._filling.place(count)
        key = (width, here.start, here.stop)
        seats = self._seats.get(key)
        if seats is None:
            room = self._rooms.get(width)
            if room is None:
                room = self._rooms[width] = self._sensors.room(self._memory, width)
            seats = self._seats[key] = _Seats(
                room,
                room.readings[:, here].T,
                None if room.observed is None else room.observed[:, here].T,
                [h[:, here].T for h in room.hs],
                room.rest[:, here].T,
                room.answer[:, here].T,
            )
        return seats
