"""What `faultline why` shows of a machine: one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from agents.audit.dead_letters import shown_time
from agents.audit.why.facts import Facts, InputFinds, LastDiagnosis, Letters, Searched
from agents.cli.views.printable import cell
from agents.words import Words
from pipeline.config.quantities.durations import shown_duration

_MAX_TEXT = 500
_MAX_COMPONENTS = 3


def show_why(facts: Facts, next_steps: Sequence[str], console: Console, words: Words) -> None:
    """Print what is known of a machine, and what would have to happen next."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in (
        *_identity(facts, words),
        *_times(facts),
        *_diagnosis(facts, words),
        *_records(facts),
        *_worker(facts),
    ):
        grid.add_row(cell(label, "bold"), cell(text, limit=_MAX_TEXT))
    for number, step in enumerate(next_steps):
        grid.add_row(cell("" if number else "next", "bold"), cell(step, limit=2 * _MAX_TEXT))
    console.print(grid)


def _identity(facts: Facts, words: Words) -> Iterator[tuple[str, str]]:
    area = words.area(facts.machine)
    yield "machine", words.machine(facts.machine) + (f", {area}" if area else "")
    if facts.type is None:
        patterns = ", ".join(f"{pattern} ({name})" for name, pattern in facts.patterns.items())
        yield "type", f"none: the patterns of plant {facts.plant} are {patterns}"
    else:
        yield "type", f"{facts.type} of plant {facts.plant}"
    yield "partition", str(facts.partition)
    yield "state", _state(facts)


def _state(facts: Facts) -> str:
    if facts.summary is not None:
        return f"{facts.state}, as of {_ago(facts.summary.last_record_ms, facts.now_ms)}"
    if facts.forgotten:
        until = "" if facts.closed_until_ms is None else f"; it had been diagnosed until {_time(facts.closed_until_ms)}"
        return f"forgotten{until}"
    return f"unreadable: {facts.state_problem}" if facts.state_problem is not None else "unknown: no state is saved"


def _times(facts: Facts) -> Iterator[tuple[str, str]]:
    summary = facts.summary
    if summary is not None:
        for source, newest_ms in summary.newest_ms.items():
            silent = ", silent" if source in summary.silent_sources else ""
            came = _ago(summary.arrived_ms[source], facts.now_ms)
            yield f"source {source}", f"newest reading is of {_time(newest_ms)}, came {came}{silent}"
        yield "watermark", _time(summary.watermark_ms)
    if summary is not None or facts.closed_until_ms is not None:
        yield "closed until", _time(facts.closed_until_ms)


def _diagnosis(facts: Facts, words: Words) -> Iterator[tuple[str, str]]:
    last, summary, machine = facts.diagnosis, facts.summary, facts.machine
    if last is not None:
        reset = f", reset: {last.reset}" if last.reset else ""
        yield (
            "diagnosis",
            f"{words.fault(machine, last.fault)} ({last.confidence:.0%}), {last.status}{reset}, "
            f"frame until {_time(last.frame_end_ms)}, model {last.model}",
        )
        yield from _meaning(last, machine, words)
    else:
        yield "diagnosis", f"none ({_searched(facts.diagnoses_searched)})"
    frozen = last.frozen if last is not None else ()
    if frozen:
        yield "frozen", words.variables(machine, frozen)
    elif summary is not None and summary.frozen:
        yield "frozen", f"{summary.frozen} values"


def _meaning(last: LastDiagnosis, machine: str, words: Words) -> Iterator[tuple[str, str]]:
    """What the profile says of the fault, and which variables are out of their range."""
    described = words.about_fault(machine, last.fault)
    component = words.likely_components(machine, last.components, _MAX_COMPONENTS)
    component = component or words.component(machine, last.fault) or ""
    if described is not None and described.description is not None:
        yield "meaning", described.description
    if component:
        yield "component", component
    if described is not None and described.priority is not None:
        yield "priority", described.priority
    for number, evidence in enumerate(last.variables):
        yield "" if number else "evidence", words.measurement(machine, evidence)
    if described is not None:
        for number, check in enumerate(described.check_first):
            yield "" if number else "check first", check


def _records(facts: Facts) -> Iterator[tuple[str, str]]:
    for one in facts.inputs:
        yield f"topic {one.topic}", _finds(one, facts)
    for label, letters in (("late", facts.late), ("dead letters", facts.dead)):
        yield label, _letters(letters, facts)


def _finds(one: InputFinds, facts: Facts) -> str:
    searched = _searched(one.searched)
    where = "" if one.holds == "for ingest" else f" in partition {facts.partition}"
    lag = f"; {one.unprocessed:,} records{where} not processed" if one.unprocessed else ""
    if not one.found:
        return f"no record of it ({searched}){lag}"
    fates, is_for_ingest = one.fates, one.holds == "for ingest"
    counts = {
        "read" if is_for_ingest else "used": fates["used"],
        "late": fates["late"],
        "dead letters": fates["dead"],
        "not read" if is_for_ingest else "not processed": one.waiting,
    }
    became = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    parts = [f"{one.found:,} records of it ({searched}): {became}"]
    if one.newest_stamp_ms is not None:
        parts.append(f"newest {_ago(one.newest_stamp_ms, facts.now_ms)}")
    if one.ahead_ms is not None and facts.wrong_clock_ms and abs(one.ahead_ms) > facts.wrong_clock_ms:
        side = "ahead of" if one.ahead_ms > 0 else "behind"
        parts.append(f"times inside {shown_duration(abs(one.ahead_ms))} {side} their Kafka time stamps")
    if one.wrong_keys:
        parts.append("keyed " + ", ".join(f"{key} ({count:,})" for key, count in one.wrong_keys.most_common(3)))
    if one.wrong_partitions:
        places = ", ".join(f"{number} ({count:,})" for number, count in one.wrong_partitions.most_common(3))
        parts.append(f"in partition {places}")
    return "; ".join(parts) + lag


def _letters(letters: Letters, facts: Facts) -> str:
    if not letters.count:
        return f"none ({_searched(letters.searched)})"
    counts = ", ".join(f"{count:,} {reason}" for reason, count in letters.reasons.most_common(5))
    by = f" by about {shown_duration(letters.late_by_ms)}" if letters.late_by_ms else ""
    at = "" if letters.newest_stamp_ms is None else f", {_ago(letters.newest_stamp_ms, facts.now_ms)}"
    return f"{counts}{by}; newest {letters.newest_place}{at}: {letters.newest_detail}"


def _worker(facts: Facts) -> Iterator[tuple[str, str]]:
    worker = facts.worker
    if worker is None:
        return
    if worker.problem is not None or not worker.is_worker:
        yield "worker", f"none answers at {worker.url} ({worker.problem or 'these are not the metrics of a worker'})"
        return
    parts = [f"{worker.url}, version {worker.version}", worker.not_ready or "ready"]
    if facts.partition in worker.lag:
        parts.append(f"has partition {facts.partition}, {worker.lag[facts.partition]:,} records not processed")
    else:
        parts.append(f"does not have partition {facts.partition}")
    yield "worker", "; ".join(parts)


def _searched(searched: Searched) -> str:
    if not searched.records:
        return "there are no records"
    return f"of the newest {searched.records:,}, since {_time(searched.since_ms)}"


def _time(time_ms: int | None) -> str:
    return "none" if time_ms is None else shown_time(time_ms) or f"{time_ms} ms"


def _ago(time_ms: int, now_ms: int) -> str:
    if time_ms > now_ms:
        return f"{_time(time_ms)} ({shown_duration(time_ms - now_ms)} ahead of now)"
    return f"{_time(time_ms)} ({shown_duration(now_ms - time_ms)} ago)"
