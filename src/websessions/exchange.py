"""A request's session with a runner: sync or async. Shells without decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

from .errors import SessionNotLoaded
from .joined import join_steps, joined_store
from .lifecycle import Finished, RequestSession
from .lock import lock_steps, unlock_steps
from .run import run, run_async
from .session import Completed, Session
from .store import AsyncPerforms, Performs, Steps

__all__ = ["AsyncExchange", "SyncExchange"]

R = TypeVar("R")

_DONE = Completed()


class SyncExchange(RequestSession[Performs]):
    """Loads at first use; everything is done when the method returns."""

    must_await = False

    def require(self) -> None:
        run(self.load_steps(), self._store)

    def load(self) -> Awaitable[None]:
        run(self.load_steps(), self._store)
        return _DONE

    def save(self, within: object = None) -> Awaitable[None]:
        if within is None:
            run(self.settle_steps(), self._store)
        else:
            joined: Any = joined_store(self._store, within)
            run(self.move_steps(), self._store)
            run(join_steps(self, joined), joined)
        return _DONE

    def reload(self) -> Awaitable[None]:
        run(self.reload_steps(), self._store)
        return _DONE

    def lock(self, timeout: timedelta, lease: timedelta) -> Awaitable[None]:
        run(lock_steps(self, timeout, lease), self._store)
        return _DONE

    def unlock(self, *, failed: bool) -> Awaitable[None]:
        run(unlock_steps(self, failed=failed), self._store)
        return _DONE

    def finish(self, *, unset: bool = False) -> Finished:
        """Settle the session before the response begins; what the response has to carry."""
        if (finished := self.finish_now(unset=unset)) is not None:
            return finished
        return run(self.finish_steps(unset=unset), self._store)

    def close(self) -> None:
        """Save what was changed since the response began."""
        try:
            if self.may_be_unsettled:
                run(self.close_steps(), self._store)
        finally:
            self.let_go()


class AsyncExchange(RequestSession[AsyncPerforms]):
    """Loads when told to; every method that may do I/O is awaited."""

    must_await = True
    _busy = False
    _idle: asyncio.Event | None = None

    def _run(self, steps: Steps[R], store: AsyncPerforms | None = None) -> Awaitable[R]:
        # With the session, which the request may have let go of before these steps begin.
        return self._perform(steps, store or self._store, self.session)

    async def _perform(self, steps: Steps[R], store: AsyncPerforms, _: Session) -> R:
        # A handler may save in one task while it works in another; one thing at a time. Hardly
        # ever does anyone wait, so a lock would be made and taken for nothing.
        while self._busy:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()
        self._busy = True
        try:
            return await run_async(steps, store)
        finally:
            self._busy = False
            if self._idle is not None:
                self._idle.set()
                self._idle = None

    def require(self) -> None:
        raise SessionNotLoaded(
            "this session is loaded on demand: await request.session.load() before using it"
        )

    def load(self) -> Awaitable[None]:
        return self._run(self.load_steps())

    def save(self, within: object = None) -> Awaitable[None]:
        if within is None:
            return self._run(self.settle_steps())
        return self._save_within(joined_store(self._store, within), self.session)

    async def _save_within(self, joined: Any, _: Session) -> None:
        await self._run(self.move_steps())
        await self._run(join_steps(self, joined), joined)

    def reload(self) -> Awaitable[None]:
        return self._run(self.reload_steps())

    # A handler that is cancelled may be cancelled again wherever it waits (anyio's scopes), and
    # would leave its lock behind: taking it and releasing it are tasks of their own.

    async def lock(self, timeout: timedelta, lease: timedelta) -> None:  # noqa: ASYNC109  to wait
        taking = asyncio.ensure_future(self._run(lock_steps(self, timeout, lease)))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.cancel()
            raise

    def unlock(self, *, failed: bool) -> Awaitable[None]:
        return asyncio.shield(self._run(unlock_steps(self, failed=failed)))

    async def finish(self, *, unset: bool = False) -> Finished:
        """Settle the session before the response begins; what the response has to carry."""
        if not self._busy and (finished := self.finish_now(unset=unset)) is not None:
            return finished
        return await self._run(self.finish_steps(unset=unset))

    async def close(self) -> None:
        """Save what was changed since the response began."""
        try:
            if self.may_be_unsettled:
                await self._run(self.close_steps())
        finally:
            self.let_go()
