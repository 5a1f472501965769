"""A request's session with a runner: sync or async. Shells without decisions."""

from __future__ import annotations

from collections.abc import Awaitable

from .errors import SessionNotLoaded
from .lifecycle import Finished, Lifecycle, RequestSession
from .run import run, run_async
from .session import Completed, Session
from .store import AsyncPerforms, Performs

__all__ = ["AsyncExchange", "SyncExchange"]

_DONE = Completed()


class SyncExchange(RequestSession):
    """Loads at first use; everything is done when the method returns."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        store: Performs,
        cookies: str,
        *,
        https: bool,
        opted_out: bool = False,
        session_type: type[Session] = Session,
    ) -> None:
        super().__init__(
            lifecycle,
            cookies,
            https=https,
            opted_out=opted_out,
            session_type=session_type,
        )
        self._performs = store

    def require(self) -> None:
        run(self.load_steps(), self._performs)

    def load(self) -> Awaitable[None]:
        run(self.load_steps(), self._performs)
        return _DONE

    def save(self) -> Awaitable[None]:
        run(self.settle_steps(), self._performs)
        return _DONE

    def reload(self) -> Awaitable[None]:
        run(self.reload_steps(), self._performs)
        return _DONE

    def finish(self, *, unset: bool = False) -> Finished:
        """Settle the session before the response begins; what the response has to carry."""
        return run(self.finish_steps(unset=unset), self._performs)

    def close(self) -> None:
        """Save what was changed since the response began."""
        run(self.close_steps(), self._performs)


class AsyncExchange(RequestSession):
    """Loads when told to; every method that may do I/O is awaited."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        store: AsyncPerforms,
        cookies: str,
        *,
        https: bool,
        opted_out: bool = False,
    ) -> None:
        super().__init__(lifecycle, cookies, https=https, opted_out=opted_out)
        self._performs = store

    def require(self) -> None:
        raise SessionNotLoaded(
            "this session is loaded on demand: await request.session.load() before using it"
        )

    async def load(self) -> None:
        await run_async(self.load_steps(), self._performs)

    async def save(self) -> None:
        await run_async(self.settle_steps(), self._performs)

    async def reload(self) -> None:
        await run_async(self.reload_steps(), self._performs)

    async def finish(self, *, unset: bool = False) -> Finished:
        """Settle the session before the response begins; what the response has to carry."""
        return await run_async(self.finish_steps(unset=unset), self._performs)

    async def close(self) -> None:
        """Save what was changed since the response began."""
        await run_async(self.close_steps(), self._performs)
