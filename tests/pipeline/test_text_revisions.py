"""The same text id again: a duplicate with the same text, a revision with another, however the input is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pipeline.engine.engine import Engine
from pipeline.wire.records import Output, Record
from tests.support.builders import SumRunner, control, diagnoses, event, numbered, profile, reading, reasons

T0 = 1_763_600_000_000
S = 1_000


def at(second: float) -> Record:
    return reading("p1", T0 + int(second * S), [1.0, 0.0])


def text(second: float, content: str, arrives: float | None = None, id_: object = "e1", **more: Any) -> Record:
    stamp = T0 + int((second if arrives is None else arrives) * S)
    return event("p1", T0 + int(second * S), content, id=id_, timestamp_ms=stamp, **more)


def engine() -> Engine:
    return Engine(profile(), {"pump": SumRunner()})


def one_by_one(eng: Engine, records: Sequence[Record]) -> list[Output]:
    return [out for record in records for out in eng.process([record])]


def run(*records: Record) -> tuple[Engine, list[Output]]:
    """All records at once, which must give what they give one by one."""
    stream = numbered(records)
    together, single = engine(), engine()
    outputs = together.process(stream) + together.finish()
    assert sorted(outputs, key=repr) == sorted(one_by_one(single, stream) + single.finish(), key=repr)
    assert counts(together) == counts(single)
    return together, outputs


def counts(eng: Engine) -> tuple[object, ...]:
    stats = eng.stats
    return stats.duplicates, stats.revised_texts, stats.late, stats.dead_letters


def shown(outputs: list[Output]) -> dict[int, list[tuple[str, str, bool]]]:
    """The texts of each frame's diagnosis by the frame's start in seconds."""
    return {(d.frame_start - T0) // S: [(t.id, t.text, t.late) for t in d.evidence.texts] for d in diagnoses(outputs)}


def test_a_revision_replaces_a_text_that_waits_for_its_frame() -> None:
    """
    readings  0   text "leaks" of 3, then "does not leak" with the same id   15: [0,10) closes with the second
    """
    eng, outputs = run(at(0), text(3, "leaks"), text(3, "does not leak", 4), at(15))
    assert shown(outputs)[0] == [("e1", "does not leak", False)]
    assert eng.stats.revised_texts == 1
    assert eng.stats.duplicates["texts"] == 0


def test_a_revision_of_a_text_that_a_frame_has_taken_is_a_further_text() -> None:
    """
    readings  0  "leaks" of 3  15: [0,10) closes   "does not leak" of 3 arrives   30: joins [10,20), late
    """
    eng, outputs = run(at(0), text(3, "leaks"), at(15), text(3, "does not leak", 16), at(30))
    assert shown(outputs)[0] == [("e1", "leaks", False)]
    assert shown(outputs)[10] == [("e1", "leaks", False), ("e1", "does not leak", True)]
    assert eng.stats.revised_texts == 1


def test_each_content_of_an_id_counts_once() -> None:
    """
    A producer that sends its last three messages again, in the same order, changes nothing.
    """
    once = [text(3, "leaks"), text(3, "leaks badly", 4), text(3, "does not leak", 5)]
    eng, outputs = run(at(0), *once, *once, at(15))
    assert shown(outputs)[0] == [("e1", "does not leak", False)]
    assert eng.stats.revised_texts == 2
    assert eng.stats.duplicates["texts"] == 3


def test_markup_makes_no_revision() -> None:
    eng, _ = run(at(0), text(3, "pump leaks"), text(3, "<p>pump&nbsp;leaks</p>", 4), at(15))
    assert (eng.stats.revised_texts, eng.stats.duplicates["texts"]) == (0, 1)


def test_a_revision_moves_to_the_frame_of_its_own_time() -> None:
    _, outputs = run(at(0), text(3, "leaks"), text(12, "leaks badly", 12), at(16), at(30))
    assert shown(outputs)[0] == []
    assert shown(outputs)[10] == [("e1", "leaks badly", False)]


def test_a_revision_after_a_silence_replaces_the_text_that_still_waits() -> None:
    """
    readings  0 20 | silence; texts of 100 and, revised, of 105 wait for the readings that come at 110
    """
    ticks = [control("tick", time_ms=T0 + s * S) for s in (60, 100)]
    records = [at(0), at(20), *ticks, text(100, "stopped"), text(100, "stopped for cleaning", 105), at(110), at(130)]
    _, outputs = run(*records)
    assert shown(outputs)[110] == [("e1", "stopped for cleaning", False)]


@pytest.mark.parametrize("cut", range(6))
def test_what_is_known_of_an_id_is_saved(cut: int) -> None:
    texts = [text(3, "leaks"), text(3, "leaks badly", 4)]
    records = numbered([at(0), *texts, at(15), *texts, text(3, "dry", 17), at(40)])
    whole = engine()
    expected = whole.process(records) + whole.finish()
    first, second = engine(), engine()
    outputs = first.process(records[: cut + 1])
    for machine, state in first.checkpoint().items():
        assert state is not None
        second.restore(machine, state)
    outputs += second.process(records[cut + 1 :]) + second.finish()
    assert sorted(map(repr, outputs)) == sorted(map(repr, expected))
    assert first.stats.revised_texts + second.stats.revised_texts == whole.stats.revised_texts == 2
    assert first.stats.duplicates["texts"] + second.stats.duplicates["texts"] == 2


def test_ids_that_differ_only_beyond_their_limit_are_different_texts() -> None:
    eng, outputs = run(at(0), text(3, "leaks", id_="x" * 500 + "1"), text(4, "leaks", id_="x" * 500 + "2"), at(15))
    assert [content for _, content, _ in shown(outputs)[0]] == ["leaks", "leaks"]
    assert {len(id_) for id_, _, _ in shown(outputs)[0]} == {200}
    assert eng.stats.duplicates["texts"] == 0


def test_more_texts_than_may_wait_are_no_loss_where_each_has_its_frame() -> None:
    """
    A replay brings a hundred frames at once, each with a text of its own.
    """
    records = [one for n in range(100) for one in (at(10 * n), text(10 * n + 1, f"note {n}", id_=f"e{n}"))]
    eng, outputs = run(*records)
    assert reasons(outputs) == []
    assert eng.stats.late["events"] == 0


def test_a_hundred_texts_for_one_frame_are_too_many() -> None:
    texts = [text(3, f"note {n}", id_=f"e{n:03}") for n in range(100)]
    assert reasons(engine().process(numbered([at(0), *texts, at(15)]))) == ["expired"] * 36


def test_a_state_of_an_earlier_release_knows_the_contents_of_texts_that_wait() -> None:
    """
    "leaks" has been taken, "noise" waits; of the first only the id is known, so each text of it is a duplicate
    """
    before = [at(0), text(3, "leaks"), at(15), text(14, "noise", id_="e2")]
    later = [text(3, "dry", 16), text(14, "noise", 16, id_="e2"), text(14, "silence", 17, id_="e2")]
    records = numbered([*before, *later, at(26)])
    first, second = engine(), engine()
    first.process(records[:4])
    saved = msgspec.msgpack.decode(first.checkpoint()["p1"] or b"")
    del saved["aligner"]["text_versions"], saved["check"]
    second.restore("p1", msgspec.msgpack.encode(saved))
    outputs = second.process(records[4:])
    assert second.stats.duplicates["texts"] == 2
    assert second.stats.revised_texts == 1
    assert shown(outputs)[10] == [("e1", "leaks", False), ("e2", "silence", False)]
