"""Sweeping in the background: a thread for sync stores, a task for async ones.

Neither keeps anything alive, the store included: a sweeper holds its store weakly and ends with
it. Nothing depends on a sweep for its correctness, since no read returns what has expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import weakref
from datetime import timedelta
from typing import Final, Protocol

__all__ = ["SweeperTask", "SweeperThread"]

log = logging.getLogger("websessions")

LAST_SWEEP: Final = 10.0
"""Seconds that closing a store waits for a sweep that is under way."""


class _Sweepable(Protocol):
    def clear_expired_sessions(self) -> int: ...


class _AsyncSweepable(Protocol):
    async def clear_expired_sessions(self) -> int: ...


def _pause(interval: float) -> float:
    # Many processes start together; without jitter they would also sweep together for ever.
    return interval * random.uniform(0.5, 1.5)  # noqa: S311  jitter is no secret


def _report(error: Exception) -> None:
    log.error("sweeping expired sessions failed, the next round tries again: %s", error)


class SweeperThread:
    """Sweeps a sync store every `interval`, from its first use until it is stopped."""

    def __init__(self, store: _Sweepable, interval: timedelta) -> None:
        self._store = weakref.ref(store)
        self._interval = interval.total_seconds()
        self.wanted = self._interval > 0
        """Whether the next use of the store has to start the thread."""
        self._stop: threading.Event | None = None
        self._threads: list[threading.Thread] = []
        """Those that may still have a sweep under way."""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start, unless it runs already or the interval is 0."""
        with self._lock:
            self.wanted = False
            if self._stop is not None or self._interval <= 0:
                return
            self._stop = threading.Event()
            thread = threading.Thread(
                target=_sweep_in_thread,
                args=(self._store, self._interval, self._stop),
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
        """Stop, and let a sweep that is under way end: it has a connection of the store's."""
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

    @property
    def running(self) -> bool:
        return self._stop is not None


def _sweep_in_thread(
    store: weakref.ref[_Sweepable], interval: float, stop: threading.Event
) -> None:
    while not stop.wait(_pause(interval)):
        swept = store()
        if swept is None:
            return
        try:
            swept.clear_expired_sessions()
        except Exception as error:
            _report(error)
        del swept


class SweeperTask:
    """Sweeps an async store every `interval`, in whichever event loop last used it."""

    def __init__(self, store: _AsyncSweepable, interval: timedelta) -> None:
        self._store = weakref.ref(store)
        self._interval = interval.total_seconds()
        self._stopped = self._interval <= 0
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        """The store is used in `loop`: sweep there, unless it was stopped."""
        if loop is not self._loop and not self._stopped:
            self.start()

    def start(self) -> None:
        """Start in the running loop, unless it runs there already or the interval is 0."""
        if self._interval <= 0:
            return
        loop = asyncio.get_running_loop()
        self._stopped = False
        if self._loop is loop and self._task is not None and not self._task.done():
            return
        self._loop = loop
        self._task = loop.create_task(
            _sweep_in_task(self._store, self._interval), name="websessions-sweeper"
        )
        # A loop that is closed with this task in it loses nothing, and has nothing to complain of.
        with contextlib.suppress(AttributeError):
            self._task._log_destroy_pending = False  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Stop; only `start` starts it again."""
        self._stopped = True
        task, loop = self._task, self._loop
        self._task = self._loop = None
        if task is None or loop is None or loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            task.cancel()
        else:
            loop.call_soon_threadsafe(task.cancel)

    async def close(self) -> None:
        """Stop, and wait until a sweep that is under way has let go of its connection."""
        task, loop = self._task, self._loop
        self.stop()
        if task is not None and loop is asyncio.get_running_loop():
            await asyncio.wait([task], timeout=LAST_SWEEP)

    def after_fork(self) -> None:
        """In a forked child: the task belongs to the parent's loop."""
        self._task = self._loop = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()


async def _sweep_in_task(store: weakref.ref[_AsyncSweepable], interval: float) -> None:
    while True:
        await asyncio.sleep(_pause(interval))
        swept = store()
        if swept is None:
            return
        try:
            await swept.clear_expired_sessions()
        except Exception as error:
            _report(error)
        del swept
