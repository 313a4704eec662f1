"""Plans of areas: which machines share which utility, what fails when, and which machines say nothing for a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from deploy.demo.phrases import Author, authors_of
from deploy.demo.simulate import FRAME_HOURS, LEARNT, Episode, Plan

Part = Literal["train", "validation", "test", "demo"]

FIRST_SEEDS: Final[Mapping[Part, int]] = {
    "train": 1_000_000,
    "validation": 1_100_000,
    "test": 1_200_000,
    "demo": 1_300_000,
}
"""Noise seeds of the first machine of a part's first area; no model has seen machines of these seeds."""
SEEDS_PER_AREA: Final = 100

UTILITY_FAULTS: Final[Mapping[str, tuple[int, ...]]] = {
    "cooling_water": (4, 5, 11, 12),
    "ac_feed": (1, 2, 7, 8, 10),
    "a_feed": (6,),
    "steam": (16,),
}
"""The disturbances that a failing utility is to a machine; the simulator has none that a power supply could be.

The D feed's, 3 and 9, are left out: hardly any measurement shows them.
"""
UTILITY_TITLES: Final = {
    "cooling_water": "Cooling water header",
    "ac_feed": "A and C feed header",
    "a_feed": "A feed header",
    "steam": "Steam header",
}
OWN_FAULTS: Final = tuple(fault for fault in range(1, LEARNT + 1) if fault != 6)
"""6 alone would trip its machine."""

MACHINES: Final = (8, 12)
LARGE_MACHINES: Final = (13, 16)
LARGE_EVERY: Final = 4
"""Of so many areas one is large, with two cooling water headers."""
MIN_MEMBERS: Final = 4
FIRST_ONSET_HOURS: Final = (2.0, 7.0)
SHARED_HOURS: Final = (3.0, 6.0)
CALM_HOURS: Final = (4.0, 7.0)
OWN_HOURS: Final = (2.5, 6.0)
LAST_ONSET_BEFORE_END_HOURS: Final = 3.0
MIN_HOURS: Final = 8.0
"""Of a recording: less would leave no room for faults."""
MARGIN_HOURS: Final = 2.0
"""Between two faults of one machine."""
DELAY_HOURS: Final = 10 * FRAME_HOURS
"""A utility's fault reaches a machine after up to so long, and leaves it as late."""
STRENGTHS: Final = (0.5, 1.0)
NORMAL_EVERY: Final = 6
"""Of so many areas one has no fault at all."""
ATTEMPTS: Final = 30

SILENT_SHARE: Final = 0.1
SILENT_HOURS: Final = (1.0, 6.0)
SENSOR_GAP_SHARE: Final = 0.1
SENSOR_GAP_HOURS: Final = (1.0, 4.0)
GATEWAY_SHARE: Final = 0.25
GATEWAY_HOURS: Final = (1.0, 3.0)
WITHOUT_TEXTS_SHARE: Final = 0.25


DEMO_HEADER: Final = Episode(5, 4.0, 8.0)
DEMO_OWN: Final = Episode(14, 9.5, 12.0)


class Gap(NamedTuple):
    """A machine sends no readings in `[start, end)`, in hours, and no texts either if it is `offline`."""

    start: float
    end: float
    offline: bool


@dataclass(frozen=True)
class Utility:
    """A header and the places of the machines that it supplies."""

    name: str
    faults: tuple[int, ...]
    machines: tuple[int, ...]


@dataclass(frozen=True)
class Cause:
    """What fails in `[start, end)`, in hours: a utility by its name, or a machine by its place; `reached` has the
    machines that it reaches, with their own times and strengths."""

    utility: str | None
    fault: int
    start: float
    end: float
    reached: Mapping[int, Episode]


@dataclass(frozen=True)
class Area:
    """One area: its machines' plans, and what they share."""

    name: str
    machines: tuple[str, ...]
    utilities: tuple[Utility, ...]
    causes: tuple[Cause, ...]
    gaps: tuple[tuple[Gap, ...], ...]
    """Of each machine."""
    with_texts: tuple[bool, ...]
    seed: int
    title: str

    def plans(self) -> list[Plan]:
        """What each machine goes through."""
        episodes: list[list[Episode]] = [[] for _ in self.machines]
        for cause in self.causes:
            for place, episode in cause.reached.items():
                episodes[place].append(episode)
        return [Plan(place, self.seed + place, tuple(sorted(each, key=_start))) for place, each in enumerate(episodes)]

    def section(self) -> dict[str, Any]:
        """The area as the section `areas` of a plant profile describes it."""
        utilities = {
            utility.name: {
                "title": UTILITY_TITLES[utility.name.removesuffix("_1").removesuffix("_2")],
                "faults": [f"idv_{fault}" for fault in utility.faults],
                "machines": [self.machines[place] for place in utility.machines],
            }
            for utility in self.utilities
        }
        return {"title": self.title, "machines": list(self.machines), "utilities": utilities}


def area_authors(part: Part) -> tuple[Author, ...]:
    """Who writes in the areas of a part; no author writes in two of them, except that the demo has the test's.

    Authors whose texts the shipped model has learnt write in none: a model of areas would learn to trust texts too
    much.
    """
    first, second = authors_of("validation")
    return {"train": (first,), "validation": (second,), "test": authors_of("test"), "demo": authors_of("test")}[part]


def plan_areas(part: Part, count: int, hours: float) -> list[Area]:
    """Plans of a part's areas; shared faults are dealt from a shuffled deck, so each comes before any comes again.

    The demo has one area, by `demo_area`. Raises ValueError if the recordings are to be shorter than MIN_HOURS.
    """
    if hours < MIN_HOURS:
        raise ValueError(f"an area needs at least {MIN_HOURS:g} hours")
    if part == "demo":
        return [demo_area()]
    first = FIRST_SEEDS[part]
    rng = np.random.default_rng(first)
    shared, own = _deck(sum(UTILITY_FAULTS.values(), ()), rng), _deck(OWN_FAULTS, rng)
    prefix = {"train": "a", "validation": "v", "test": "t"}[part]
    areas: list[Area] = []
    for number in range(count):
        fewest, most = MACHINES if number % LARGE_EVERY else LARGE_MACHINES
        machine_count = int(rng.integers(fewest, most + 1))
        name = f"{prefix}{number + 1:02d}"
        machines = tuple(f"te-{name}-{place + 1:02d}" for place in range(machine_count))
        utilities = _draw_utilities(rng, machine_count)
        causes: list[Cause] = []
        if number % NORMAL_EVERY != NORMAL_EVERY - 1:
            causes = _shared_causes(rng, utilities, shared, hours)
            causes += _own_causes(rng, causes, machine_count, own, hours)
        gaps = _draw_gaps(rng, machine_count, hours)
        texts = tuple(bool(drawn >= WITHOUT_TEXTS_SHARE) for drawn in rng.random(machine_count))
        seed = first + SEEDS_PER_AREA * number
        areas.append(Area(name, machines, utilities, tuple(causes), gaps, texts, seed, f"Area {name}"))
    return areas


def demo_area() -> Area:
    """The demo's area of eight machines: its cooling water header fails, and later one machine has a fault of its own.

    One machine is offline when the header fails, and two have no texts.
    """
    rng = np.random.default_rng(FIRST_SEEDS["demo"])
    machines = tuple(f"te-{place + 1:02d}" for place in range(8))
    members = {"cooling_water": (0, 1, 2, 3, 4, 5), "ac_feed": (2, 3, 4, 5, 6, 7), "steam": (0, 1, 4, 5, 6, 7)}
    utilities = tuple(Utility(name, UTILITY_FAULTS[name], places) for name, places in members.items())
    fault, start, end, _ = DEMO_HEADER
    reached: dict[int, Episode] = {}
    for place in members["cooling_water"]:
        delay = float(rng.uniform(0, DELAY_HOURS))
        reached[place] = Episode(fault, start + delay, end + delay, float(rng.uniform(*STRENGTHS)))
    header = Cause("cooling_water", fault, start, end, reached)
    own = Cause(None, DEMO_OWN.fault, DEMO_OWN.start, DEMO_OWN.end, {2: DEMO_OWN})
    gaps = tuple((Gap(start - 0.5, start + 1.5, True),) if place == 4 else () for place in range(8))
    texts = tuple(place not in (1, 6) for place in range(8))
    return Area("hall_1", machines, utilities, (header, own), gaps, texts, FIRST_SEEDS["demo"], "Hall 1")


def _deck(faults: Sequence[int], rng: np.random.Generator) -> Callable[[], int]:
    """Deals faults without end, each before any comes again."""
    cards: list[int] = []

    def deal() -> int:
        if not cards:
            cards.extend(int(fault) for fault in rng.permutation(faults))
        return cards.pop()

    return deal


def _draw_utilities(rng: np.random.Generator, machines: int) -> tuple[Utility, ...]:
    """Headers with the machines that they supply; two cooling water headers share a large area between them."""
    utilities: list[Utility] = []
    for name, faults in UTILITY_FAULTS.items():
        order = rng.permutation(machines)
        if name == "cooling_water" and machines >= LARGE_MACHINES[0]:
            half = machines // 2
            for number, places in enumerate((order[:half], order[half:]), start=1):
                utilities.append(Utility(f"{name}_{number}", faults, _places(places)))
            continue
        members = int(rng.integers(max(MIN_MEMBERS, machines // 2), machines + 1))
        utilities.append(Utility(name, faults, _places(order[:members])))
    return tuple(utilities)


def _shared_causes(
    rng: np.random.Generator, utilities: Sequence[Utility], deal: Callable[[], int], hours: float
) -> list[Cause]:
    """One cause after another while there is time; about half of the areas have two."""
    causes: list[Cause] = []
    start = float(rng.uniform(*FIRST_ONSET_HOURS))
    while start <= hours - LAST_ONSET_BEFORE_END_HOURS and len(causes) < 2:
        end = start + float(rng.uniform(*SHARED_HOURS))
        fault = deal()
        candidates = [utility for utility in utilities if fault in utility.faults]
        utility = candidates[int(rng.integers(len(candidates)))]
        reached: dict[int, Episode] = {}
        for place in utility.machines:
            delay = float(rng.uniform(0, DELAY_HOURS))
            reached[place] = Episode(fault, start + delay, end + delay, float(rng.uniform(*STRENGTHS)))
        causes.append(Cause(utility.name, fault, start, end, reached))
        start = end + DELAY_HOURS + float(rng.uniform(*CALM_HOURS))
    return causes


def _own_causes(
    rng: np.random.Generator, shared: Sequence[Cause], machines: int, deal: Callable[[], int], hours: float
) -> list[Cause]:
    """One to three faults of single machines, of which the others see nothing."""
    taken: list[list[Episode]] = [
        [cause.reached[place] for cause in shared if place in cause.reached] for place in range(machines)
    ]
    causes: list[Cause] = []
    for _ in range(int(rng.integers(1, 4))):
        fault = deal()
        for _ in range(ATTEMPTS):
            place = int(rng.integers(machines))
            start = float(rng.uniform(FIRST_ONSET_HOURS[0], hours - LAST_ONSET_BEFORE_END_HOURS))
            end = start + float(rng.uniform(*OWN_HOURS))
            if all(end + MARGIN_HOURS < one.start or one.end + MARGIN_HOURS < start for one in taken[place]):
                episode = Episode(fault, start, end)
                taken[place].append(episode)
                causes.append(Cause(None, fault, start, end, {place: episode}))
                break
    return causes


def _draw_gaps(rng: np.random.Generator, machines: int, hours: float) -> tuple[tuple[Gap, ...], ...]:
    """Machines offline, sensors without readings, and a gateway that takes several machines' sensors with it."""
    gaps: list[list[Gap]] = [[] for _ in range(machines)]

    def draw(lengths: tuple[float, float], offline: bool) -> Gap:
        start = float(rng.uniform(1.0, hours - 1.0))
        return Gap(start, start + float(rng.uniform(*lengths)), offline)

    for place in range(machines):
        if rng.random() < SILENT_SHARE:
            gaps[place].append(draw(SILENT_HOURS, True))
        if rng.random() < SENSOR_GAP_SHARE:
            gaps[place].append(draw(SENSOR_GAP_HOURS, False))
    if rng.random() < GATEWAY_SHARE:
        gap = draw(GATEWAY_HOURS, False)
        for place in rng.permutation(machines)[: int(rng.integers(2, 5))]:
            gaps[int(place)].append(gap)
    return tuple(tuple(each) for each in gaps)


def _places(places: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(int(place) for place in places))


def _start(episode: Episode) -> float:
    return episode.start
