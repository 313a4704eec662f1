"""The merge of topics by time: exact whatever way logs are fetched, bounded, and unmoved by wild clocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.delivery.merging import TP, Chunk, ChunkMerger, Limits, Mark, order_keys
from pipeline.wire.records import Record

TOPICS = ("sensors", "events", "control")
PARTITIONS = (0, 1)
TPS = [TP(topic, partition) for topic in TOPICS for partition in PARTITIONS]


class Log:
    """A broker and a client as the merger sees them: answers come, and are taken in piece by piece."""

    def __init__(self, merger: ChunkMerger) -> None:
        self.merger = merger
        self.records: dict[TP, list[Record]] = {tp: [] for tp in TPS}
        self.answers = 0
        self.positions = dict.fromkeys(TPS, 0)
        self.answered: dict[TP, tuple[int, int, int]] = {}  # (number, end of log then, end of what came)
        self.chunks: list[Chunk] = []
        merger.assign(TPS)

    def append(self, tp: TP, timestamp_ms: int) -> None:
        log = self.records[tp]
        log.append(Record(tp.topic, tp.partition, len(log), timestamp_ms, b"machine", b"value"))

    def answer(self, tps: Iterable[TP], records: int) -> None:
        """One answer of the broker; as aiokafka does, asks only for partitions whose last answer is used up."""
        self.answers += 1
        for tp in tps:
            if tp not in self.answered or self.answered[tp][2] == self.positions[tp]:
                end = len(self.records[tp])
                self.answered[tp] = (self.answers, end, min(end, self.positions[tp] + records))

    def take(self, tps: Iterable[TP], records: int) -> None:
        """Give the merger some of what has come, with the marks of all partitions at this moment."""
        taken = {}
        for tp in tps:
            if tp in self.answered and tp not in self.merger.full:
                begin = self.positions[tp]
                self.positions[tp] = min(self.answered[tp][2], begin + records)
                taken[tp] = self.records[tp][begin : self.positions[tp]]
        marks = {tp: Mark(self.positions[tp], end, number) for tp, (number, end, _) in self.answered.items()}
        self.merger.feed(taken, marks)
        self.chunks += self.merger.release()

    def read_to_end(self, records: int = 7) -> None:
        for _ in range(10_000):
            self.answer(TPS, records)
            self.take(TPS, records)
            if not self.merger.waiting and all(self.positions[tp] == len(self.records[tp]) for tp in TPS):
                return
        pytest.fail("reading does not come to an end")

    def released(self, partition: int) -> list[Record]:
        return [record for chunk in self.chunks for record in chunk.records if record.partition == partition]

    def merged(self, partition: int) -> list[Record]:
        """All records of a partition in the order that they should have."""
        ranked = [(rank, record) for rank, topic in enumerate(TOPICS) for record in self.records[TP(topic, partition)]]
        return [record for _, record in sorted(ranked, key=lambda it: (it[1].timestamp_ms, it[0], it[1].offset))]


some_tps = st.lists(st.sampled_from(TPS), unique=True)
reads = st.lists(st.tuples(st.booleans(), some_tps, st.integers(1, 9)), max_size=30)


def read(log: Log, steps: Sequence[tuple[bool, list[TP], int]]) -> None:
    for answers, tps, count in steps:
        if answers:
            log.answer(tps, count)
        else:
            log.take(tps, count)


@settings(max_examples=150, deadline=None)
@given(
    stamps=st.lists(st.lists(st.integers(0, 20), max_size=25), min_size=len(TPS), max_size=len(TPS)),
    steps=reads,
    buffered=st.integers(1, 40),
)
def test_any_way_of_fetching_a_backlog_gives_the_same_order(
    stamps: list[list[int]], steps: list[tuple[bool, list[TP], int]], buffered: int
) -> None:
    log = Log(ChunkMerger(TOPICS, limits=Limits(chunk_records=5, buffered_records=buffered)))
    for tp, times in zip(TPS, stamps, strict=True):
        for time in sorted(times):
            log.append(tp, time)
    read(log, steps)
    log.read_to_end()
    for partition in PARTITIONS:
        assert log.released(partition) == log.merged(partition)


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.one_of(st.sampled_from(TPS), st.tuples(st.booleans(), some_tps, st.integers(1, 9))), max_size=80)
)
def test_live_order_is_replay_order_when_the_broker_sets_the_time(
    steps: list[TP | tuple[bool, list[TP], int]],
) -> None:
    log = Log(ChunkMerger(TOPICS))
    for clock, step in enumerate(steps):
        if isinstance(step, TP):
            log.append(step, clock)
        else:
            read(log, [step])
    log.read_to_end()
    for partition in PARTITIONS:
        assert log.released(partition) == log.merged(partition)


@settings(max_examples=150, deadline=None)
@given(
    stamps=st.lists(
        st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 9), max_size=60), min_size=len(TPS), max_size=len(TPS)
    ),
    steps=reads,
    limits=st.builds(Limits, st.integers(1, 20), st.integers(1, 40)),
)
def test_wild_time_stamps_lose_nothing_and_reorder_no_partition(
    stamps: list[list[int]], steps: list[tuple[bool, list[TP], int]], limits: Limits
) -> None:
    log = Log(ChunkMerger(TOPICS, limits=limits))
    for tp, times in zip(TPS, stamps, strict=True):
        for time in times:
            log.append(tp, time)
    read(log, steps)
    log.read_to_end()
    released = [record for partition in PARTITIONS for record in log.released(partition)]
    for tp in TPS:
        assert [record for record in released if (record.topic, record.partition) == tp] == log.records[tp]


@settings(max_examples=100, deadline=None)
@given(
    stamps=st.lists(st.lists(st.integers(0, 50), max_size=25), min_size=len(TPS), max_size=len(TPS)),
    steps=reads,
    chunk_records=st.integers(1, 12),
)
def test_what_a_chunk_commits_is_what_was_handed_out(
    stamps: list[list[int]], steps: list[tuple[bool, list[TP], int]], chunk_records: int
) -> None:
    log = Log(ChunkMerger(TOPICS, limits=Limits(chunk_records=chunk_records)))
    for tp, times in zip(TPS, stamps, strict=True):
        for time in times:
            log.append(tp, time)
    read(log, steps)
    log.read_to_end()
    handed_out = dict.fromkeys(TPS, 0)
    for chunk in log.chunks:
        assert 0 < len(chunk.records) <= chunk_records + len(PARTITIONS)
        for record in chunk.records:
            assert record.offset == handed_out[TP(record.topic, record.partition)]
            handed_out[TP(record.topic, record.partition)] += 1
        for tp, offset in chunk.next_offsets.items():
            assert offset == handed_out[tp]
    assert all(handed_out[tp] == len(log.records[tp]) for tp in TPS)


def test_a_quiet_topic_holds_nothing_back() -> None:
    log = Log(ChunkMerger(TOPICS))
    for time in range(5):
        log.append(TP("sensors", 0), time)
    log.answer(TPS, 100)
    log.take(TPS, 100)
    assert [record.offset for record in log.released(0)] == [0, 1, 2, 3, 4]


def test_a_quiet_topic_is_asked_again_when_its_answer_is_older_than_the_record() -> None:
    log = Log(ChunkMerger(("sensors", "events")))
    sensors, events = TP("sensors", 0), TP("events", 0)
    log.answer([events], 100)
    log.append(events, 1)  # the broker has it, but the client cannot know yet
    log.append(sensors, 2)
    log.answer([sensors], 100)
    log.take(TPS, 100)
    assert log.chunks == [] and log.merger.waiting
    log.answer([sensors, events], 100)
    log.take(TPS, 100)
    assert [record.topic for record in log.released(0)] == ["events", "sensors"]


def test_a_busy_topic_whose_answers_are_always_newer_still_flows() -> None:
    log = Log(ChunkMerger(("sensors", "events")))
    sensors, events = TP("sensors", 0), TP("events", 0)
    for time in range(1, 50):
        log.append(sensors, time)
        log.answer([events], 100)
        log.answer([sensors], 100)
        log.take(TPS, 100)
        assert len(log.released(0)) >= time - 1


def test_a_backlog_holds_the_other_topics_back_within_the_bound() -> None:
    merger = ChunkMerger(("sensors", "events"), limits=Limits(buffered_records=10))
    log = Log(merger)
    sensors, events = TP("sensors", 0), TP("events", 0)
    for time in range(100):
        log.append(sensors, time)
        log.append(events, 1_000)
    for _ in range(20):
        log.answer([events], 6)
        log.take([events], 6)
    assert log.chunks == []
    assert merger.full == {events}
    assert log.positions[events] == 12
    log.read_to_end()
    assert [record.topic for record in log.released(0)] == ["sensors"] * 100 + ["events"] * 100


@pytest.mark.parametrize("wild", [10**15, -(10**15)])
@pytest.mark.parametrize("at", [0, 30, 99])
@pytest.mark.parametrize("fetch", [3, 10, 1_000])
def test_one_wild_clock_moves_only_its_own_record(wild: int, at: int, fetch: int) -> None:
    tame, upset = Log(ChunkMerger(("sensors", "events"))), Log(ChunkMerger(("sensors", "events")))
    for time in range(100):
        tame.append(TP("sensors", 0), time)
        upset.append(TP("sensors", 0), wild if time == at else time)
        if time % 5 == 0:
            tame.append(TP("events", 0), time)
            upset.append(TP("events", 0), time)
    orders = []
    for log in (tame, upset):
        log.read_to_end(fetch)
        orders.append([r[:3] for r in log.released(0) if r.topic == "events" or r.offset != at])
    assert len(orders[0]) == 119
    # A wild record at the very end may wait for the other topic's end, which then all comes before it.
    assert orders[0] == orders[1]


def test_a_machine_with_a_wrong_year_does_not_move_the_others() -> None:
    log = Log(ChunkMerger(("sensors", "events")))
    for time in range(1_000):
        log.append(TP("sensors", 0), {3: 10**15, 7: 5}.get(time % 10, time))
        if time % 50 == 0:
            log.append(TP("events", 0), time)
    log.read_to_end(100)
    readings = 0
    for record in log.released(0):
        if record.topic == "events":
            assert abs(readings - record.timestamp_ms) <= 2
        else:
            readings += 1
    assert readings == 1_000


@given(st.lists(st.integers(0, 100)))
def test_keys_never_decrease_and_sorted_time_stamps_are_their_own_keys(stamps: list[int]) -> None:
    if stamps:
        keys = order_keys(stamps)
        assert keys == sorted(keys)
        assert set(keys) <= set(stamps)
    assert order_keys(sorted(stamps)) == sorted(stamps)


def test_other_groups_partitions_are_left_out() -> None:
    merger = ChunkMerger(("diagnoses",), prefix="faultline.")
    merger.assign([TP("faultline.sensors", 0), TP("faultline.diagnoses", 3)])
    assert set(merger.tps) == {TP("faultline.diagnoses", 3)}
    merger.feed({TP("faultline.sensors", 0): []}, {TP("faultline.sensors", 0): Mark(0, 0, 1)})
    assert merger.release() == []


def test_gaps_in_offsets_do_not_matter() -> None:
    merger = ChunkMerger(("sensors",))
    sensors = TP("sensors", 0)

    def record(offset: int) -> Record:
        return Record("sensors", 0, offset, offset, None, None)

    merger.assign([sensors])
    merger.feed({sensors: [record(3)]}, {sensors: Mark(4, 4, 1)})
    merger.feed({sensors: [record(9), record(10)]}, {sensors: Mark(11, 11, 2)})
    (chunk,) = merger.release()
    assert [one.offset for one in chunk.records] == [3, 9, 10]
    assert chunk.next_offsets == {sensors: 11}
    merger.feed({}, {sensors: Mark(14, 14, 3)})  # transaction markers and aborted records
    merger.feed({sensors: [record(14)]}, {sensors: Mark(16, 16, 4)})
    assert [one.next_offsets for one in merger.release()] == [{sensors: 16}]
