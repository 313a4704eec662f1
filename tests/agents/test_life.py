"""What a process says of itself as time goes by, and that whatever fails in it ends it with one line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agents.worker.life import Life, LifeCollector, LifeState, Phase
from agents.worker.process import one_line_errors
from agents.worker.worker import Worker
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import DeliveryError, FaultlineError, NoProgressError, UnexpectedError
from tests.support.builders import reading
from tests.support.delivery_apps import run, until
from tests.support.plant import Plant

T = 1_763_600_000_000


class Clock:
    """A life whose phase and time are the test's."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.phase = Phase(LifeState.STARTING, "start", "connecting")
        self.problem: str | None = None
        settings: Settings = load_settings(start_timeout_ms=60_000, stall_timeout_ms=20_000)
        self.life = Life(
            "worker",
            lambda: self.phase,
            settings,
            monotonic_seconds=lambda: self.seconds,
            unready=lambda: self.problem,
        )

    def after(self, seconds: float, phase: Phase | None = None) -> tuple[str, bool, bool]:
        """The state, and whether the process is healthy and ready."""
        self.seconds += seconds
        self.phase = phase or self.phase
        health = self.life.health()
        return health.text.split(":")[0], health.ok, self.life.ready().ok


def test_each_phase_has_its_limit() -> None:
    clock = Clock()
    assert clock.after(0) == ("starting", True, False)
    assert clock.after(59) == ("starting", True, False)
    assert clock.after(2) == ("starting", False, False)
    assert clock.life.health().text == "starting: no progress in 61 s, connecting"
    assert clock.after(0, Phase(LifeState.JOINING, "join", "joining group g")) == ("joining", True, False)
    assert clock.life.ready().text == "waiting for partitions"
    assert clock.after(61) == ("joining", False, False)
    assert clock.after(0, Phase(LifeState.STANDBY)) == ("standby", True, False)
    assert clock.after(86_400) == ("standby", True, False)  # for ever, if nobody else goes
    assert clock.after(0, Phase(LifeState.RESTORING, 1)) == ("restoring", True, False)
    assert clock.life.ready().text == "restoring the states of its partitions"
    assert clock.after(19, Phase(LifeState.RESTORING, 2)) == ("restoring", True, False)
    assert clock.after(19, Phase(LifeState.RESTORING, 2)) == ("restoring", True, False)
    assert clock.after(2) == ("restoring", False, False)


def test_work_is_stalled_only_while_there_is_something_to_do() -> None:
    clock = Clock()
    assert clock.after(0, Phase(LifeState.WORKING)) == ("working", True, True)
    assert clock.after(3_600) == ("working", True, True)
    assert clock.after(0, Phase(LifeState.WORKING, 1, "with 7 records unread")) == ("working", True, True)
    assert clock.life.health().text == "working: with 7 records unread"
    assert clock.after(11) == ("stalled", True, False)
    assert clock.life.ready().text == "no progress in 11 s, with 7 records unread"
    assert clock.after(8, Phase(LifeState.WORKING, 2, "with 6 records unread")) == ("working", True, True)
    assert clock.after(21) == ("stalled", False, False)
    assert clock.after(0, Phase(LifeState.WORKING)) == ("working", True, True)
    clock.problem = "topic faultline.sensors does not exist"
    assert clock.after(0) == ("working", True, False)
    assert clock.life.ready().text == clock.problem


def test_stopping_and_failing_are_told_and_the_metric_has_every_state(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    clock.after(0, Phase(LifeState.WORKING))

    def states() -> dict[str, float]:
        (family,) = LifeCollector(clock.life, "faultline_worker_state").collect()
        return {sample.labels["state"]: sample.value for sample in family.samples}

    assert states() == {state.value: float(state is LifeState.WORKING) for state in LifeState}
    clock.life.stopping = True
    assert clock.after(0) == ("stopping", True, False)
    clock.life.fail(DeliveryError("the broker is full"))
    clock.life.fail(KeyError("later"))
    assert clock.after(0) == ("failed", False, False)
    assert clock.life.health().text == clock.life.ready().text == "failed: the broker is full"
    assert states() == {state.value: float(state is LifeState.FAILED) for state in LifeState}
    assert caplog.messages == ["worker stops: the broker is full"]


def test_what_another_thread_cannot_read_just_now_is_read_again() -> None:
    clock = Clock()
    answers: list[Any] = [RuntimeError("dictionary changed size"), Phase(LifeState.WORKING)]

    def phase() -> Phase:
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers[0]  # type: ignore[no-any-return]

    clock.life._phase = phase
    assert clock.after(0) == ("working", True, True)


def test_an_error_of_a_library_takes_one_line() -> None:
    handler, lines = logging.Handler(), list[str]()
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    root = logging.Logger("root")
    root.addHandler(handler)
    one_line_errors(root)
    try:
        raise KeyError("a\nb")
    except KeyError:
        root.exception("Crashed in %s", "there")
    assert lines == ["Crashed in there (KeyError('a\\nb'))"]


# -- a worker in memory -------------------------------------------------------------------------------------------


def _wrong(*_: Any) -> Any:
    raise KeyError("nobody thought of this")


def _ticks(worker: Worker) -> None:
    worker._ticker.due = _wrong  # type: ignore[assignment, method-assign]


def _checkpoints(worker: Worker) -> None:
    worker.engine.checkpoint = _wrong  # type: ignore[method-assign]


def _engine(worker: Worker) -> None:
    worker.engine.process = _wrong  # type: ignore[assignment, method-assign]


def _assigned(worker: Worker) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("in a rebalance callback")

    worker.app.on_partitions_assigned.connect(fail, weak=False)


def _phase(worker: Worker) -> None:
    look = worker._phase

    def phase() -> Phase:
        if worker._started:
            raise TypeError("in the watch")
        return look()

    worker.life._phase = phase


@pytest.mark.parametrize("break_it", [_ticks, _checkpoints, _engine, _assigned, _phase])
def test_whatever_fails_ends_the_worker_with_its_cause_in_one_line(
    break_it: Callable[[Worker], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        plant = Plant(tick_interval_ms=20)
        worker = plant.worker(ticks=True)
        break_it(worker)
        with contextlib.suppress(FaultlineError):
            await worker.start()
        for number in range(100):
            plant.append([reading("p1", T + 1_000 * number, [1.0, 2.0])])
        await asyncio.wait_for(worker.life.wait_failed(), 20)
        health = worker.life.health()
        assert not health.ok and health.text.startswith("failed: unexpected error in ")
        with pytest.raises(UnexpectedError, match=r"^unexpected error in [a-zA-Z ]+: \w+Error\(.*\) at .*\.py:\d+$"):
            await worker.stop()

    run(test())
    told = [one for one in caplog.messages if one.startswith("worker stops: ")]
    assert len(told) == 1 and "\n" not in told[0], told


def test_commits_that_the_broker_does_not_take_are_no_progress() -> None:
    async def test() -> None:
        plant = Plant(stall_timeout_ms=600)
        worker = plant.worker()

        async def refused(_: Any) -> bool:
            return False

        worker.app.consumer._commit = refused
        await worker.start()
        for number in range(100):
            plant.append([reading("p1", T + 1_000 * number, [1.0, 2.0])])
        await until(lambda: worker.life.status().state is LifeState.STALLED)
        await asyncio.wait_for(worker.life.wait_failed(), 20)
        with pytest.raises(NoProgressError, match=r"with commits that the broker does not take$"):
            await worker.stop()

    run(test())
