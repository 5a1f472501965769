"""What a sweeper does in one round, with the store, the clock and the time played by the test."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from websessions.errors import StoreError, StoreUnavailable
from websessions.run import Pause, run
from websessions.store import SWEEP_BATCH, Call, Lease, Sweep, Swept
from websessions.sweeper import LEASE, ROUND_BATCHES, ROUND_SECONDS, SOON, Rounds
from websessions.testing import FakeClock

INTERVAL = timedelta(minutes=15)
MINE = None


class Stage:
    """Plays the store: answers calls, and lets each batch take its time."""

    def __init__(
        self,
        *,
        leases: list[datetime | Exception | None] | None = None,
        sweeps: list[Swept] | None = None,
        batch_takes: float = 0.25,
        in_turns: bool = True,
        interval: timedelta = INTERVAL,
    ) -> None:
        self.clock = FakeClock()
        self.seconds = 0.0
        self.leases = leases or []
        self.sweeps = [Swept(3, False)] if sweeps is None else sweeps
        self.batch_takes = batch_takes
        self.rounds = Rounds(interval, self.clock, in_turns=in_turns, timer=lambda: self.seconds)
        self.calls: list[Call[Any]] = []

    def passes(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(seconds)

    def round(self) -> float:
        """Run one; the seconds until the next."""
        self.calls = []
        store: Any = self
        return run(self.rounds.steps(), store, lambda seconds: self.note(Pause(seconds)))

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        return [self.note(call) for call in calls]

    def note(self, call: Call[Any]) -> Any:
        self.calls.append(call)
        return self.answer(call)

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, Lease):
            return self.leases.pop(0) if self.leases else MINE
        if isinstance(call, Pause):
            return self.passes(call.seconds)
        assert isinstance(call, Sweep)
        self.passes(self.batch_takes)
        return self.sweeps.pop(0) if len(self.sweeps) > 1 else self.sweeps[0]

    def of(self, kind: type[Call[Any]]) -> list[Any]:
        return [call for call in self.calls if isinstance(call, kind)]


def test_whoever_has_the_lease_sweeps_and_leaves_it_until_the_next_round() -> None:
    stage = Stage()
    began = stage.clock()
    seconds = stage.round()
    first, sweep, last = stage.calls
    assert isinstance(first, Lease)
    assert first.expires == began + LEASE
    assert sweep == Sweep(SWEEP_BATCH)
    assert isinstance(last, Lease)
    assert last.expires == began + INTERVAL
    assert last.holder == first.holder
    due = (began + INTERVAL - stage.clock()).total_seconds()
    assert due <= seconds <= due * 1.1


def test_nobody_else_sweeps_and_all_come_again_when_the_round_is_due() -> None:
    stage = Stage()
    stage.leases = [stage.clock() + timedelta(minutes=7)]
    assert 7 * 60 <= stage.round() <= 7 * 60 * 1.1
    assert [type(call) for call in stage.calls] == [Lease]


def test_a_lease_of_somebody_with_a_longer_interval_is_asked_for_as_often_as_ours() -> None:
    stage = Stage()
    stage.leases = [stage.clock() + timedelta(days=1)]
    assert stage.round() <= INTERVAL.total_seconds() * 1.1


def test_a_lease_that_ends_too_late_to_be_right_is_none() -> None:
    """The moment is in the call: whoever's clock was a year ahead must not end all sweeping."""
    stage = Stage()
    began = stage.clock()
    stage.round()
    assert stage.of(Lease)[0].latest == began + 2 * INTERVAL


def test_the_lease_is_short_against_a_short_interval() -> None:
    stage = Stage(interval=timedelta(seconds=10))
    began = stage.clock()
    stage.round()
    assert stage.of(Lease)[0].expires == began + timedelta(seconds=5)


def test_each_batch_goes_on_where_the_last_one_ended_and_keeps_the_lease() -> None:
    """After a pause as long as the batch took: half of the time is others'."""
    stage = Stage(sweeps=[Swept(500, True, "a"), Swept(500, True, "b"), Swept(7, False)])
    began = stage.clock()
    stage.round()
    assert [type(call) for call in stage.calls] == [
        *(Lease, Sweep, Pause),
        *(Lease, Sweep, Pause),
        *(Lease, Sweep, Lease),
    ]
    assert [sweep.after for sweep in stage.of(Sweep)] == [None, "a", "b"]
    assert [pause.seconds for pause in stage.of(Pause)] == [0.25, 0.25]
    half = timedelta(seconds=0.5)
    assert [lease.expires for lease in stage.of(Lease)] == [
        *(began + LEASE, began + half + LEASE, began + 2 * half + LEASE),
        began + INTERVAL,
    ]
    assert len({lease.holder for lease in stage.of(Lease)}) == 1


def test_a_lease_that_was_lost_ends_the_sweep() -> None:
    """Somebody waited too long for this process, and sweeps now."""
    stage = Stage(sweeps=[Swept(500, True)])
    until = stage.clock() + timedelta(seconds=40)
    stage.leases = [MINE, MINE, until]
    assert stage.round() <= 40 * 1.1
    assert [type(call) for call in stage.calls][-2:] == [Pause, Lease]
    assert len(stage.of(Sweep)) == 2


def test_a_round_has_bounds_and_the_next_is_due_soon_if_more_is_left() -> None:
    for takes, batches in ((0.01, ROUND_BATCHES), (4.0, int(ROUND_SECONDS / 8))):
        stage = Stage(sweeps=[Swept(500, True)], batch_takes=takes)
        seconds = stage.round()
        assert len(stage.of(Sweep)) in (batches, batches + 1)
        assert stage.of(Lease)[-1].expires == stage.clock() + SOON
        assert seconds <= SOON.total_seconds() * 1.1


def test_without_a_lease_each_process_sweeps_for_itself() -> None:
    """As often, with enough jitter not to meet the others every time."""
    stage = Stage(in_turns=False, sweeps=[Swept(500, True), Swept(1, False)])
    pauses = {stage.round() for _ in range(20)}
    assert not stage.of(Lease)
    seconds = INTERVAL.total_seconds()
    assert all(0.5 * seconds <= pause <= 1.5 * seconds for pause in pauses)
    assert len(pauses) == 20
    stage.sweeps = [Swept(500, True)]
    assert stage.round() <= SOON.total_seconds() * 1.1


def test_a_lease_that_can_not_be_had_is_one_warning_and_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The table is missing where the package is newer than the last migration."""
    stage = Stage(leases=[StoreError("no such table")] * 3)
    for _ in range(3):
        assert stage.round() >= 0.5 * INTERVAL.total_seconds()
        assert [type(call) for call in stage.calls] == [Lease, Sweep]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "store.sync() or a migration" in record.getMessage()
    stage.round()
    assert [type(call) for call in stage.calls] == [Lease, Sweep, Lease], "it is there now"


def test_a_database_that_is_down_is_a_failure() -> None:
    stage = Stage(leases=[StoreUnavailable("away")])
    with pytest.raises(StoreUnavailable):
        stage.round()
    assert not stage.of(Sweep)


def test_a_lease_is_asked_for_early_in_a_process_s_life() -> None:
    """Workers that are replaced every few minutes sweep too; the lease says whether it is due."""
    seconds = INTERVAL.total_seconds()
    pauses = [Stage().rounds.first_pause() for _ in range(20)]
    assert all(0.1 * seconds <= pause <= 0.5 * seconds for pause in pauses)
    alone = [Stage(in_turns=False).rounds.first_pause() for _ in range(20)]
    assert all(0.5 * seconds <= pause <= 1.5 * seconds for pause in alone)


def test_each_process_is_another_holder() -> None:
    one = Stage()
    one.round()
    mine = one.of(Lease)[0].holder
    one.rounds = one.rounds.of_another_process()
    one.round()
    assert one.of(Lease)[0].holder != mine
