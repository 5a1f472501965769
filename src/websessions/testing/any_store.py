"""A sync or an async store behind one face, so that no rule has to be written for each.

Everything here is awaited. What a sync store does is done when the coroutine returns, without
ever waiting for anything, so `finished` runs such a coroutine to its end with a single `send`.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from ..direct import AsyncSessionStore, SessionStore
from ..sid import Sid
from ..store import Call

__all__ = ["AnyStore", "Watch", "finished", "settled"]

R = TypeVar("R")

Work: TypeAlias = Coroutine[Any, Any, R]

PATIENCE = 30.0
"""Seconds until a test gives up on something that happens in the background."""


def finished(work: Work[R]) -> R:
    """The result of a coroutine over a sync store, which never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    work.close()
    raise RuntimeError("something was awaited that is not over a sync store")


async def settled(answer: Awaitable[R] | R) -> R:
    """The answer, which may have to be awaited."""
    return await answer if inspect.isawaitable(answer) else answer


class Watch:
    """Waits for a store to have performed a kind of call, whoever made it."""

    def __init__(self, kind: type[Call[Any]], seen: threading.Event | asyncio.Event) -> None:
        self.kind = kind
        self._seen = seen

    def note(self, calls: Sequence[Call[Any]]) -> None:
        if any(isinstance(call, self.kind) for call in calls):
            self._seen.set()

    async def wait(self) -> None:
        """Until it has happened since the last wait."""
        if isinstance(self._seen, asyncio.Event):
            await asyncio.wait_for(self._seen.wait(), PATIENCE)
        elif not self._seen.wait(PATIENCE):
            raise TimeoutError(f"no {self.kind.__name__} within {PATIENCE:g} s")
        self._seen.clear()


class AnyStore:
    """A store of either kind; its methods are those of the store, to be awaited.

    Attributes:
        store: the store itself.
    """

    def __init__(self, store: SessionStore | AsyncSessionStore) -> None:
        self.store = store

    # The calls

    async def perform(self, *calls: Call[Any]) -> list[Any]:
        """The answers, of which any may be an exception."""
        return await settled(self.store.perform(calls))

    async def ask(self, call: Call[R]) -> R:
        """The answer to one call; an exception is raised."""
        answer: Any
        [answer] = await self.perform(call)
        if isinstance(answer, BaseException):
            raise answer
        result: R = answer
        return result

    # The public methods

    async def get(self, sid: Sid | str) -> dict[str, Any] | None:
        return await settled(self.store.get(sid))

    async def set(
        self, sid: Sid | str, data: Mapping[str, Any], *, expires: datetime | None = None
    ) -> None:
        await settled(self.store.set(sid, data, expires=expires))

    async def update(
        self, sid: Sid | str, function: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any] | None:
        return await settled(self.store.update(sid, function))

    async def touch(self, sid: Sid | str) -> None:
        await settled(self.store.touch(sid))

    async def destroy(self, sid: Sid | str) -> None:
        await settled(self.store.destroy(sid))

    async def all(self) -> list[dict[str, Any]]:
        return await settled(self.store.all())

    async def length(self) -> int:
        return await settled(self.store.length())

    async def clear(self) -> None:
        await settled(self.store.clear())

    async def clear_expired_sessions(self) -> int:
        return await settled(self.store.clear_expired_sessions())

    async def start_expiring_sessions(self) -> None:
        await settled(self.store.start_expiring_sessions())

    async def stop_expiring_sessions(self) -> None:
        await settled(self.store.stop_expiring_sessions())

    async def sync(self) -> None:
        await settled(self.store.sync())

    async def close(self) -> None:
        await settled(self.store.close())

    async def __aenter__(self) -> Self:
        if isinstance(self.store, SessionStore):
            entered: Any = self.store.__enter__()
        else:
            entered = await self.store.__aenter__()
        assert entered is self.store, "a store is its own context"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(self.store, SessionStore):
            self.store.__exit__(kind, error, traceback)
        else:
            await self.store.__aexit__(kind, error, traceback)

    # More than one thing at once

    async def at_once(self, works: Sequence[Work[R]]) -> list[R]:
        """Do pieces of work over this store at the same time: in threads, or as tasks."""
        if isinstance(self.store, AsyncSessionStore):
            return await asyncio.gather(*works)
        ready = threading.Barrier(len(works))

        def do(work: Work[R]) -> R:
            ready.wait(PATIENCE)
            return finished(work)

        with ThreadPoolExecutor(len(works)) as threads:
            return list(threads.map(do, works))

    def watch(self, kind: type[Call[Any]]) -> Watch:
        """Notice when the store performs such a call from now on, in the background too."""
        store: Any = self.store
        perform = store.perform
        if isinstance(self.store, SessionStore):
            watch = Watch(kind, threading.Event())

            def watched(calls: Sequence[Call[Any]], /) -> list[Any]:
                answers: list[Any] = perform(calls)
                watch.note(calls)
                return answers

            store.perform = watched
        else:
            watch = Watch(kind, asyncio.Event())

            async def watched_async(calls: Sequence[Call[Any]], /) -> list[Any]:
                answers: list[Any] = await perform(calls)
                watch.note(calls)
                return answers

            store.perform = watched_async
        return watch
