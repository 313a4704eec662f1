"""Episodes of unknown faults: what belongs to one, and which of them are alike."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from models.evaluation.unknown_episodes import Episode, group_episodes, unknown_episodes
from pipeline.wire.messages import Diagnosis, Evidence, ModelRef, VariableEvidence

PERIOD_MS = 1_000


def diagnosis(
    machine: str,
    frame: int,
    fault: str = "unknown",
    revision: int = 0,
    novelty: float | None = 1.5,
    **deviations: float,
) -> Diagnosis:
    variables = [VariableEvidence(name, 0.0, value) for name, value in deviations.items()]
    return Diagnosis(
        f"{machine}:{frame}",
        machine,
        frame * PERIOD_MS,
        (frame + 1) * PERIOD_MS,
        fault,
        0.6,
        {},
        {},
        0.0,
        0.0,
        Evidence(variables, []),
        "active",
        None,
        revision,
        ModelRef("m", "0" * 64),
        novelty=novelty,
    )


def test_frames_with_short_gaps_are_one_episode() -> None:
    frames = [0, 1, 2, 8, 9, 15]
    (one,) = unknown_episodes([diagnosis("a", frame, flow=2.0, heat=-20.0) for frame in frames])
    assert one == Episode("a", 0, 16_000, 6, 1.5, {"flow": 12.0, "heat": -60.0})


def test_a_longer_gap_or_another_machine_is_another_episode() -> None:
    found = unknown_episodes([diagnosis("b", 0), diagnosis("a", 0, novelty=None), diagnosis("a", 7, novelty=3.0)])
    assert [(one.machine, one.start_ms, one.peak_novelty) for one in found] == [
        ("a", 0, None),
        ("b", 0, 1.5),
        ("a", 7_000, 3.0),
    ]


def test_the_last_revision_of_a_frame_counts() -> None:
    assert unknown_episodes([diagnosis("a", 0), diagnosis("a", 0, "normal", revision=1)]) == []
    assert len(unknown_episodes([diagnosis("a", 0, revision=1), diagnosis("a", 0, "normal")])) == 1


def episode(machine: str, start: int, frames: int = 5, **deviations: float) -> Episode:
    return Episode(machine, start, start + frames, frames, 2.0, deviations)


def test_episodes_are_alike_by_what_deviates_and_in_which_direction() -> None:
    episodes = [
        episode("a", 10, flow=5, heat=4),
        episode("b", 30, 50, flow=50, heat=45),
        episode("a", 20, flow=-5, heat=-4),
        episode("c", 40, load=1),
        episode("d", 50),
        episode("e", 60),
    ]
    groups = group_episodes(episodes)
    assert [[one.machine for one in group.episodes] for group in groups] == [["a", "b"], ["a"], ["c"], ["d", "e"]]
    assert [group.number for group in groups] == [1, 2, 3, 4]
    assert groups[0].variables == (("flow", 1.0), ("heat", 49 / 55))
    assert groups[3].variables == ()


DEVIATIONS = st.dictionaries(st.sampled_from("abcdef"), st.floats(-9, 9), max_size=3)
EPISODES = st.lists(
    st.builds(
        Episode,
        st.sampled_from(["m", "n", "o"]),
        st.integers(0, 10**6),
        st.just(10**7),
        st.integers(1, 90),
        st.none(),
        DEVIATIONS,
    ),
    max_size=12,
    unique_by=lambda one: (one.start_ms, one.machine),
)


@settings(deadline=None)
@given(EPISODES, st.randoms(use_true_random=False))
def test_groups_hold_each_episode_once_whatever_the_order(episodes: list[Episode], rng: random.Random) -> None:
    groups = group_episodes(episodes)
    placed = [one for group in groups for one in group.episodes]
    assert sorted(placed, key=repr) == sorted(episodes, key=repr)
    firsts = [(group.episodes[0].start_ms, group.episodes[0].machine) for group in groups]
    assert firsts == sorted(firsts)
    shuffled = episodes.copy()
    rng.shuffle(shuffled)
    assert group_episodes(shuffled) == groups
