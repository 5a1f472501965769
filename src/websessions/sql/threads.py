"""Threads that make blocking calls for event loops.

A call costs one hand-over to a thread and one back. `loop.run_in_executor` makes the same two, with
a `concurrent.futures.Future` between them whose locks and callbacks cost more than a read of
SQLite does.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

__all__ = ["Threads"]

R = TypeVar("R")

_Call: TypeAlias = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class Threads:
    """At most `most` threads, started as they are needed; they end with this object.

    They are daemons, so that who forgets to close a store can still leave the interpreter.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._unanswered: set[asyncio.Future[Any]] = set()
        # The threads hold the queue and the set, and not this object, so it can become garbage.
        self.close = weakref.finalize(self, self._calls.put, None)
        self.close.atexit = False

    def call(self, function: Callable[..., R], *args: Any) -> asyncio.Future[R]:
        """Call `function` in a thread, in the caller's context; the future gets what it returns
        or raises.

        To cancel the future leaves the call itself to run to its end.
        """
        answered: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answered)
        if self._started < min(len(self._unanswered), self._most):
            self._started += 1
            threading.Thread(
                target=_work,
                args=(self._calls, self._unanswered),
                name=f"{self._name}_{self._started}",
                daemon=True,
            ).start()
        self._calls.put((answered, partial(copy_context().run, function), args))
        return answered


def _work(calls: SimpleQueue[_Call | None], unanswered: set[asyncio.Future[Any]]) -> None:
    while (call := calls.get()) is not None:
        answered, function, args = call
        result = error = None
        try:
            result = function(*args)
        except BaseException as raised:
            error = raised
        unanswered.discard(answered)
        with suppress(RuntimeError):  # its loop has been closed: nobody waits any more
            answered.get_loop().call_soon_threadsafe(_answer, answered, result, error)
        del call, answered, function, args, result, error
    calls.put(None)  # for the next thread


def _answer(answered: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answered.done():
        return
    if error is None:
        answered.set_result(result)
    else:
        answered.set_exception(error)
