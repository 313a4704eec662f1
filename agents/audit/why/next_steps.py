"""What would have to happen next, by plain rules from the facts: the first rule that applies gives the answer."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from agents.audit.why.facts import Facts, InputFinds
from pipeline.alignment.machine_states import MachineState
from pipeline.config.hints import shown_time
from pipeline.config.quantities.durations import shown_duration
from pipeline.wire.messages import Reason

_HALF_HOUR_MS = 1_800_000
_ZONE_TOLERANCE_MS = 180_000
_CLOCK_REASONS = {Reason.FUTURE_TIME.value, Reason.BAD_TIME.value}


def next_steps(facts: Facts) -> list[str]:
    """One or two sentences."""
    steps = [step for rule in _WORKER_RULES if (step := rule(facts)) is not None][:1]
    first = next((step for rule in _RULES if (step := rule(facts)) is not None), _nothing(facts))
    return [first, *steps]


# -- the machine ------------------------------------------------------------------------------------------------------


def _no_type(facts: Facts) -> str | None:
    if facts.type is not None:
        return None
    patterns = ", ".join(f"{pattern} ({name})" for name, pattern in facts.patterns.items())
    nearest = max(
        facts.patterns.values(), key=lambda one: difflib.SequenceMatcher(None, facts.machine, one).ratio(), default=""
    )
    hint = f", nearest is {nearest}" if len(facts.patterns) > 1 else ""
    text = f"no machine type of plant {facts.plant} matches {facts.machine!r}; the patterns are {patterns}{hint}: "
    if not any(one.found for one in facts.inputs) and not facts.dead.count and facts.similar:
        return f"{text}did you mean {_listed(facts.similar)}?"
    text += "correct the id where it is sent, or widen `match` in the profile and restart the workers"
    if facts.dead.reasons[Reason.UNKNOWN_MACHINE]:
        text += (
            f"; then send its {facts.dead.count} dead letters again: `faultline dead-letters replay --machine "
            f"{facts.machine}`"
        )
    return text


def _wrong_key(facts: Facts) -> str | None:
    for finds in facts.direct:
        if finds.is_newest_right or not finds.wrong_keys:
            continue
        keys = _listed([key for key, _ in finds.wrong_keys.most_common(3)])
        what = "have no key" if keys == "no key" else f"are keyed {keys}"
        count = finds.wrong_keys.total()
        return f"{count} of its {finds.found} newest records in {finds.topic} {what} and not {facts.machine}: {_REKEY}"
    return None


def _wrong_partition(facts: Facts) -> str | None:
    for finds in facts.direct:
        if finds.is_newest_right or not finds.wrong_partitions:
            continue
        places = _listed([str(partition) for partition in sorted(finds.wrong_partitions)])
        count = finds.wrong_partitions.total()
        return (
            f"{count} of its {finds.found} newest records in {finds.topic} are in partition {places} and not in "
            f"{facts.partition}, its key's by murmur2: set the producer's partitioner to murmur2 "
            "(partitioner=murmur2_random in librdkafka), or use `faultline ingest` (docs/guide/connecting.md)"
        )
    return None


_REKEY = (
    "let the producer use the machine's id as key, or let it write to a topic of its own, which the profile declares "
    "under `ingest`, and use `faultline ingest` (docs/guide/connecting.md)"
)


def _unreadable(facts: Facts) -> str | None:
    if facts.state_problem is None:
        return None
    return f"its saved state cannot be used ({facts.state_problem}); the worker starts it again with its next reading"


def _waiting(facts: Facts) -> str | None:
    if not any(one.is_stalled(facts.now_ms) for one in facts.direct):
        return None
    lag = sum(one.unprocessed or 0 for one in facts.direct)
    return (
        f"its newest records are not processed yet: {lag:,} records wait in partition {facts.partition}; check that a "
        "worker has this partition and makes progress (`/readyz`, and the end of its log)"
    )


def _only_for_ingest(facts: Facts) -> str | None:
    waiting = [one for one in facts.inputs if one.holds == "for ingest" and one.found]
    if any(one.found for one in facts.direct) or facts.summary is not None or not waiting:
        return None
    if facts.dead.count:
        return None
    topics = _listed([one.topic for one in waiting])
    lag = sum(one.unprocessed or 0 for one in waiting)
    return (
        f"its records are in {topics}, and none has been written to the workers' topics: check that `faultline ingest` "
        f"runs ({lag:,} records are not processed)"
    )


def _never_came(facts: Facts) -> str | None:
    if facts.summary is not None or any(one.found for one in facts.inputs) or facts.late.count or facts.dead.count:
        return None
    if facts.forgotten:
        return None
    if facts.similar:
        return (
            f"no record of it has come in any topic of the profile, but records of {_listed(facts.similar)} have: "
            "compare the id with what is sent"
        )
    return (
        "no record of it has come in any topic of the profile: compare the id, the topic and FAULTLINE_TOPIC_PREFIX "
        "with what its gateway is set to (`faultline sources check` shows what each topic holds)"
    )


def _clock_was_ahead(facts: Facts) -> str | None:
    """Late, though its clock is right: its frames have closed for a time that has not come yet."""
    finds, closed_ms = _late_topic(facts), facts.late.closed_until_ms or facts.closed_until_ms
    if finds is None or finds.newest_stamp_ms is None or closed_ms is None or finds.ahead_ms is None:
        return None
    ahead_ms = closed_ms - finds.newest_stamp_ms
    if ahead_ms <= 0 or abs(finds.ahead_ms) > facts.wrong_clock_ms:
        return None
    return (
        f"{_run(finds)} late, though their times are right: its clock "
        f"had been {shown_duration(ahead_ms)} ahead, and its frames have closed until {_time(closed_ms)}; free it with "
        f"`faultline machines reset {facts.machine}`"
    )


def _late(facts: Facts) -> str | None:
    finds = _late_topic(facts)
    if finds is None:
        return None
    text = f"{_run(finds)} late"
    behind_ms = -(finds.ahead_ms or 0)
    if behind_ms > facts.wrong_clock_ms:
        behind = shown_duration(behind_ms)
        return f"{text}: its clock is {behind} behind their Kafka time stamps; {_behind_remedy(behind_ms)}"
    late_by = f" by about {shown_duration(facts.late.late_by_ms)}" if facts.late.late_by_ms else ""
    return (
        f"{text}{late_by}: they come after newer ones; raise `allowed_disorder` of the source to at least that, unless "
        "a gateway sends old readings again"
    )


def _behind_remedy(behind_ms: int) -> str:
    off_ms = (behind_ms + _HALF_HOUR_MS // 2) % _HALF_HOUR_MS - _HALF_HOUR_MS // 2
    if behind_ms > _HALF_HOUR_MS // 2 and abs(off_ms) < _ZONE_TOLERANCE_MS:
        return "correct it, or declare the time's zone if it writes local time (`time: {zone: ...}` in the form)"
    return "correct it, or find what holds its readings back"


def _ahead(facts: Facts) -> str | None:
    if facts.state != MachineState.AHEAD:
        return None
    assert facts.summary is not None
    ahead_ms = (facts.summary.newest_reading_ms or 0) - facts.summary.last_record_ms
    return (
        f"its clock is {shown_duration(max(ahead_ms, 0))} ahead of its records' Kafka time stamps: correct it, then "
        f"`faultline machines reset {facts.machine}`, or its readings are late until real time has caught up"
    )


def _dead(facts: Facts) -> str | None:
    finds = next((one for one in facts.inputs if one.all_are("dead")), None)
    if finds is None and (facts.summary is not None or not facts.dead.count):
        return None
    reason, detail = facts.dead.newest_reason, facts.dead.newest_detail
    what = "its records are" if finds is None else _run(finds)
    text = f"{what} dead letters ({reason}: {detail}): "
    if reason in _CLOCK_REASONS:
        text += "correct its clock, or declare in the form how its times are written"
    elif reason in (Reason.KEY_MISMATCH, Reason.WRONG_PARTITION):
        text += _REKEY
    else:
        text += "correct what is sent, or the profile"
    return f"{text}; `faultline dead-letters list --machine {facts.machine}` shows them"


def _blind(facts: Facts) -> str | None:
    if facts.state != MachineState.BLIND:
        return None
    for finds in facts.direct:
        behind_ms = -(finds.ahead_ms or 0)
        if finds.found and behind_ms > facts.wrong_clock_ms:
            return (
                f"its readings in {finds.topic} carry times of {shown_duration(behind_ms)} before they arrive: its "
                f"clock is behind; {_behind_remedy(behind_ms)}"
            )
    if facts.late.count:
        return f"its readings are late: `faultline late list --machine {facts.machine}` shows by how much"
    return "readings come, but none with a value that can be used: `faultline sources check` names the values and why"


def _forgotten(facts: Facts) -> str | None:
    if not facts.forgotten:
        return None
    return "it was forgotten, by a command or after long silence; its next reading starts it again"


def _silent(facts: Facts) -> str | None:
    if facts.state not in (MachineState.STALE, MachineState.OFFLINE):
        return None
    assert facts.summary is not None
    return (
        f"nothing has come from it since {_time(facts.summary.last_record_ms)}: look at its gateway; if it is switched "
        f"off on purpose, `faultline machines forget {facts.machine}`"
    )


def _silent_source(facts: Facts) -> str | None:
    if facts.summary is None or not facts.summary.silent_sources:
        return None
    return (
        f"it is diagnosed without its source {_listed(facts.summary.silent_sources)}, which has been silent for too "
        "long: look at what sends it"
    )


def _frozen(facts: Facts) -> str | None:
    if facts.summary is None or not facts.summary.frozen:
        return None
    names = facts.diagnosis.frozen if facts.diagnosis is not None else ()
    shown = f" ({_listed(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""
    return (
        f"{facts.summary.frozen} of its values have not changed for too long to be believed{shown}: restart its "
        "gateway, or raise `frozen_after` if it may stand still for so long"
    )


def _nothing(facts: Facts) -> str:
    if facts.state == MachineState.ACTIVE:
        return "nothing: it is diagnosed with every frame that closes"
    return "its next readings will tell: ask again when some have come"


_RULES: Sequence[Callable[[Facts], str | None]] = (
    _no_type,
    _wrong_key,
    _wrong_partition,
    _unreadable,
    _waiting,
    _only_for_ingest,
    _never_came,
    _clock_was_ahead,
    _ahead,
    _late,
    _dead,
    _blind,
    _forgotten,
    _silent,
    _silent_source,
    _frozen,
)


# -- the worker -------------------------------------------------------------------------------------------------------


def _other_profile(facts: Facts) -> str | None:
    worker = facts.worker
    if worker is None or worker.profile is None or worker.profile == facts.profile:
        return None
    return (
        f"the worker at {worker.url} has another profile (plant {worker.plant}) than the one this was asked with "
        f"(plant {facts.plant}): name its profile with --profile"
    )


def _not_ready(facts: Facts) -> str | None:
    worker = facts.worker
    if worker is None or worker.not_ready is None or not worker.is_worker:
        return None
    return f"the worker at {worker.url} is not ready: {worker.not_ready}"


_WORKER_RULES: Sequence[Callable[[Facts], str | None]] = (_other_profile, _not_ready)


def _late_topic(facts: Facts) -> InputFinds | None:
    """A topic of readings in which the newest records are late."""
    return next((one for one in facts.direct if one.holds == "readings" and one.all_are("late")), None)


def _run(finds: InputFinds) -> str:
    """The newest records that all met the same fate, as the beginning of a sentence."""
    newest = "its newest record" if finds.newest_run == 1 else f"its {finds.newest_run} newest records"
    return f"{newest} in {finds.topic} {'is' if finds.newest_run == 1 else 'are'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _time(time_ms: int) -> str:
    return shown_time(time_ms) if 0 <= time_ms < 2**47 else str(time_ms)
