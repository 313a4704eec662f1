"""Sources, and what could not be used, by reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.console.book.chapters.letters import LetterBook
from agents.console.book.knowledge import Knowledge
from agents.console.book.rows.reasons import MEANINGS, OTHER_MEANING
from agents.console.documents.data import Letters, ReasonRow, SourceRow
from pipeline.config.topics import FOREIGN


@dataclass(frozen=True, slots=True)
class SourceState:
    """What was measured of an input topic; names are short ones."""

    topic: str
    holds: str
    reader: str
    """Whose lag it is: `workers`, `ingest` or `plant`."""
    partitions: int = 0
    """0 while the topic does not exist."""
    records_per_second: float | None = None
    lag: int | None = None
    measured_wall_ms: int | None = None


def letters(book: LetterBook) -> Letters:
    """Letters by reason, the most frequent first."""
    rows = [
        ReasonRow(
            reason, *MEANINGS.get(reason, OTHER_MEANING), one.count, one.newest_ms, dict(one.topics), one.example[1]
        )
        for reason, one in book.reasons.items()
        if one.example is not None
    ]
    rows.sort(key=lambda row: (-row.count, row.reason))
    return Letters(sum(row.count for row in rows), book.foreign, rows)


def source_rows(known: Knowledge, sources: Sequence[SourceState], machines: Sequence[str]) -> list[SourceRow]:
    """What was measured of each source, with the machines whose types have it."""
    types_of: dict[str, list[str]] = {}
    for kind in known.profile.machine_types:
        for source in kind.sources.values():
            types_of.setdefault(source.topic, []).append(kind.name)
    by_type = _by_type(known, machines)
    found = []
    for one in sources:
        types = list(dict.fromkeys(types_of.get(one.topic, ())))
        if one.holds == "texts":
            types = [kind.name for kind in known.profile.machine_types if kind.texts]
        found.append(
            SourceRow(
                topic=one.topic.removeprefix(FOREIGN),
                holds=one.holds,
                reader=one.reader,
                exists=one.partitions > 0,
                partitions=one.partitions,
                records_per_second=one.records_per_second,
                lag=one.lag,
                measured_wall_ms=one.measured_wall_ms,
                late=known.late.count_of(one.topic),
                dead_letters=known.dead_letters.count_of(one.topic),
                machine_types=types,
                machines=sum(by_type[name][0] for name in types if name in by_type),
                silent_machines=sum(by_type[name][1] for name in types if name in by_type),
            )
        )
    return found


def _by_type(known: Knowledge, machines: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """By machine type, how many machines there are, and how many of them are stale or offline."""
    found: dict[str, tuple[int, int]] = {}
    for machine in machines:
        kind = known.machines.type_of(machine)
        if kind is not None:
            count, silent = found.get(kind.name, (0, 0))
            found[kind.name] = count + 1, silent + (known.state_of(machine) in ("stale", "offline"))
    return found
