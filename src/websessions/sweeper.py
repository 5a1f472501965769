"""Sweeping in the background: a thread for sync stores, a task for async ones.

Neither keeps anything alive, the store included: a sweeper holds its store weakly and ends with
it. Nothing depends on a sweep for its correctness, since no read returns what has expired.

Where the store has a lease, the processes that share it take turns: whoever gets it sweeps, keeps
it from batch to batch, and leaves it with the moment at which the next round is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeAlias

from .errors import StoreError, StoreUnavailable
from .run import Pause, run, run_async
from .store import SWEEP_BATCH, AsyncPerforms, Clock, Lease, Performs, Steps, Sweep, Swept, ask

__all__ = ["Rounds", "SweeperTask", "SweeperThread", "batch_steps"]

log = logging.getLogger("websessions")

LAST_SWEEP: Final = 10.0
"""Seconds that closing a store waits for a sweep that is under way."""

LEASE: Final = timedelta(minutes=1)
"""How long a sweeper that died keeps the others waiting; half an interval, if that is shorter."""

ROUND_BATCHES: Final = 200
ROUND_SECONDS: Final = 60.0
"""A round ends after so many batches or seconds. Where more is left, the next one is due soon."""

SOON: Final = timedelta(seconds=5)
"""When that is; the interval, if that is shorter."""

Timer: TypeAlias = Callable[[], float]
"""Seconds since some moment, never backwards."""


class _Sweepable(Performs, Protocol):
    sweeps_in_turns: bool


class _AsyncSweepable(AsyncPerforms, Protocol):
    sweeps_in_turns: bool


def batch_steps(after: object, timer: Timer = time.monotonic) -> Steps[Swept]:
    """Sweep one batch; if there is more, pause for as long as that took.

    So half of the time at least is others', however slow the database is.
    """
    began = timer()
    swept = yield from ask(Sweep(SWEEP_BATCH, after))
    if swept.more:
        yield from ask(Pause(timer() - began))
    return swept


class Rounds:
    """What one sweeper does, round after round; no I/O.

    Args:
        interval: how often to sweep.
        clock: the store's.
        in_turns: whether the store has a lease, so that one process sweeps for all.
        timer: measures how long batches take.
    """

    def __init__(
        self,
        interval: timedelta,
        clock: Clock,
        *,
        in_turns: bool,
        timer: Timer = time.monotonic,
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._in_turns = in_turns
        self._timer = timer
        self._holder = secrets.token_hex(8)
        self._has_warned = False

    def of_another_process(self) -> Rounds:
        """The same, as another holder of the lease."""
        return Rounds(self._interval, self._clock, in_turns=self._in_turns, timer=self._timer)

    def first_pause(self) -> float:
        """Seconds until the first round.

        A lease knows when a round is due, so it may be asked early: a process need not live for
        an interval to sweep.
        """
        return self._some_of_the_interval(0.1, 0.5) if self._in_turns else self.pause()

    def pause(self) -> float:
        """Seconds until the next round where no lease says when it is due."""
        # Many processes start together; without jitter they would also sweep together for ever.
        return self._some_of_the_interval(0.5, 1.5)

    def reported_steps(self) -> Steps[float]:
        """The same as `steps`; a failure is reported, and the next round tries again."""
        try:
            return (yield from self.steps())
        except _Stopped:
            raise
        except Exception as error:
            log.error("sweeping expired sessions failed, the next round tries again: %s", error)
            return self.pause()

    def steps(self) -> Steps[float]:
        """A round, unless another process has swept in its place; the seconds until the next."""
        began = self._clock()
        in_turns = self._in_turns
        if in_turns:
            try:
                others_until = yield from self._lease_steps(self._a_while())
            except StoreUnavailable:
                raise
            except StoreError as error:
                self._warn(error)
                in_turns = False
            else:
                if others_until is not None:
                    return self._seconds_until(others_until)
        swept, enough = Swept(0, True), self._timer() + ROUND_SECONDS
        for _ in range(ROUND_BATCHES):
            swept = yield from batch_steps(swept.reached, self._timer)
            if not swept.more or self._timer() >= enough:
                break
            if in_turns:
                others_until = yield from self._lease_steps(self._a_while())
                if others_until is not None:
                    return self._seconds_until(others_until)
        due = began + self._interval
        if swept.more:
            due = self._clock() + min(SOON, self._interval)
        if in_turns:
            yield from self._lease_steps(due)
        elif not swept.more:
            return self.pause()
        return self._seconds_until(due)

    def _lease_steps(self, expires: datetime) -> Steps[datetime | None]:
        # Others' rounds may be due later than ours, and their clocks be a little ahead.
        latest = self._clock() + 2 * self._interval
        return (yield from ask(Lease(self._holder, expires, latest)))

    def _a_while(self) -> datetime:
        return self._clock() + min(LEASE, self._interval / 2)

    def _seconds_until(self, moment: datetime) -> float:
        seconds = min(moment - self._clock(), self._interval).total_seconds()
        # One of those who wait for this moment shall be first, and the rest find its lease.
        return max(0.0, seconds) * random.uniform(1, 1.1)  # noqa: S311  jitter is no secret

    def _some_of_the_interval(self, least: float, most: float) -> float:
        return self._interval.total_seconds() * random.uniform(least, most)  # noqa: S311

    def _warn(self, error: StoreError) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "the table of the sweeper's lease can not be used, so each process sweeps for"
                " itself; store.sync() or a migration makes it: %s",
                error.__cause__ or error,
            )


def _rounds(store: _Sweepable | _AsyncSweepable, interval: timedelta) -> Rounds:
    return Rounds(interval, store.clock, in_turns=store.sweeps_in_turns)


class _Stopped(Exception):
    """The sweeper was stopped. It ends at its next pause: a statement is left to end by itself."""


class SweeperThread:
    """Sweeps a sync store every `interval`, from its first use until it is stopped."""

    def __init__(self, store: _Sweepable, interval: timedelta) -> None:
        self._store = weakref.ref(store)
        self._interval = interval
        self.wanted = interval > timedelta(0)
        """Whether the next use of the store has to start the thread."""
        self._stop: threading.Event | None = None
        self._threads: list[threading.Thread] = []
        """Those that may still have a sweep under way."""
        self._lock = threading.Lock()
        self._rounds = _rounds(store, interval)

    def start(self) -> None:
        """Start, unless it runs already or the interval is 0."""
        with self._lock:
            self.wanted = False
            if self._stop is not None or not self._interval:
                return
            self._stop = threading.Event()
            thread = threading.Thread(
                target=_sweep_in_thread,
                args=(self._store, self._rounds, self._stop),
                name="websessions-sweeper",
                daemon=True,
            )
            thread.start()
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def stop(self) -> None:
        """Stop; only `start` starts it again."""
        with self._lock:
            self.wanted = False
            if self._stop is not None:
                self._stop.set()
                self._stop = None

    def close(self) -> None:
        """Stop, and let a batch that is under way end: it has a connection of the store's."""
        self.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(LAST_SWEEP)

    def after_fork(self) -> None:
        """In a forked child: the thread stayed behind, so the next use starts a new one."""
        self._lock = threading.Lock()
        self.wanted = self.wanted or self._stop is not None
        self._stop = None
        self._threads = []
        self._rounds = self._rounds.of_another_process()

    @property
    def running(self) -> bool:
        return self._stop is not None


def _sweep_in_thread(store: weakref.ref[_Sweepable], rounds: Rounds, stop: threading.Event) -> None:
    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise _Stopped

    seconds = rounds.first_pause()
    with contextlib.suppress(_Stopped):
        while True:
            pause(seconds)
            swept = store()
            if swept is None:
                return
            seconds = run(rounds.reported_steps(), swept, pause)
            del swept


class SweeperTask:
    """Sweeps an async store every `interval`, in whichever event loop last used it."""

    def __init__(self, store: _AsyncSweepable, interval: timedelta) -> None:
        self._store = weakref.ref(store)
        self._interval = interval
        self._is_stopped = not interval
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        """Those that may still have a sweep under way."""
        self._rounds = _rounds(store, interval)

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """The store is used in `loop`: sweep there, unless it was stopped."""
        if loop is not self._loop and not self._is_stopped:
            self.start()

    def start(self) -> None:
        """Start in the running loop, unless it runs there already or the interval is 0."""
        if not self._interval:
            return
        loop = asyncio.get_running_loop()
        self._is_stopped = False
        if self._loop is loop and self.running:
            return
        self._loop = loop
        self._stop = asyncio.Event()
        task = loop.create_task(
            _sweep_in_task(self._store, self._rounds, self._stop), name="websessions-sweeper"
        )
        # A loop that is closed with this task in it loses nothing, and has nothing to complain of.
        with contextlib.suppress(AttributeError):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        mine = (each for each in self._tasks if each.get_loop() is loop and not each.done())
        self._tasks = [*mine, task]

    def stop(self) -> None:
        """Stop; only `start` starts it again."""
        self._is_stopped = True
        stop, loop = self._stop, self._loop
        self._stop = self._loop = None
        if stop is None or loop is None or loop.is_closed():
            return
        # Also from a thread that is not the loop's.
        loop.call_soon_threadsafe(stop.set)

    async def close(self) -> None:
        """Stop, and let a batch that is under way end: it has a connection of the store's."""
        self.stop()
        loop = asyncio.get_running_loop()
        if tasks := [task for task in self._tasks if task.get_loop() is loop]:
            await asyncio.wait(tasks, timeout=LAST_SWEEP)

    def after_fork(self) -> None:
        """In a forked child: the task belongs to the parent's loop."""
        self._stop = self._loop = None
        self._tasks = []
        self._rounds = self._rounds.of_another_process()

    @property
    def running(self) -> bool:
        return self._stop is not None and not self._tasks[-1].done()


async def _sweep_in_task(
    store: weakref.ref[_AsyncSweepable], rounds: Rounds, stop: asyncio.Event
) -> None:
    async def pause(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
        if stop.is_set():
            raise _Stopped

    seconds = rounds.first_pause()
    with contextlib.suppress(_Stopped):
        while True:
            await pause(seconds)
            swept = store()
            if swept is None:
                return
            seconds = await run_async(rounds.reported_steps(), swept, pause)
            del swept
