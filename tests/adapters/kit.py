"""One site, whatever the framework: a page that does to its session what the test asks for.

A test hands over a piece of work, a function of the session, and a browser carries it to the site
over HTTP. Each adapter is a few lines that give the work its session in its framework's own way.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, TypeAlias, TypeVar

import httpx

from websessions import AsyncSessionStore, Session, SessionStore, Sid
from websessions.codec import Codec
from websessions.sid import Key
from websessions.store import Call, Clock, Load, Record, StoreRules
from websessions.testing import FakeClock

__all__ = [
    "SECRET",
    "Adapter",
    "AsyncWatched",
    "Boom",
    "Browser",
    "Plan",
    "Site",
    "Visit",
    "Watched",
    "Work",
    "at_once",
]

R = TypeVar("R")

SECRET = "the secret of the adapters' tests"

Work: TypeAlias = Callable[[Session], Any]
"""What a handler does with its session; may be `async def` to await `session.save()`."""


class Boom(Exception):
    """Something that a handler raises."""


def at_once(work: Coroutine[Any, Any, R]) -> R:
    """The result of a coroutine that waits for nothing: how a sync handler does its work."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    work.close()
    raise AssertionError("a sync handler can not wait")


# Stores that are watched


class _Watched:
    """Another store's options, what it was asked for, and how to make it fail.

    Attributes:
        calls: all that was asked, in order.
        failing: a call of this type is answered with this error, until it is removed.
    """

    def __init__(self, store: StoreRules) -> None:
        self.calls: list[Call[Any]] = []
        self.failing: dict[type[Call[Any]], Exception] = {}
        self.codec: Codec = store.codec
        self.max_size = store.max_size
        self.expiration = store.expiration
        self.touch_after = store.touch_after
        self.disable_touch = store.disable_touch
        self.clock: Clock = store.clock
        self.locks = store.locks
        self._rules: Any = store

    @property
    def within(self) -> Any:
        """Makes it part of a transaction, where nobody watches."""
        return getattr(self._rules, "within", None)

    def key(self, sid: Sid, /) -> Key:
        key: Key = self._rules.key(sid)
        return key

    def _failure(self, calls: Sequence[Call[Any]]) -> list[Any] | None:
        self.calls.extend(calls)
        for call in calls:
            if error := self.failing.get(type(call)):
                return [error for _ in calls]
        return None

    @property
    def kinds(self) -> list[str]:
        """The names of the calls since the last time this was read."""
        names = [type(call).__name__.lower() for call in self.calls]
        self.calls.clear()
        return names


class Watched(_Watched):
    """A sync store, watched."""

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self._store = store

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        failure = self._failure(calls)
        return self._store.perform(calls) if failure is None else failure


class AsyncWatched(_Watched):
    """An async store, watched."""

    def __init__(self, store: AsyncSessionStore) -> None:
        super().__init__(store)
        self._store = store

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        failure = self._failure(calls)
        return await self._store.perform(calls) if failure is None else failure


# A site and its visitors


@dataclass
class Plan:
    """What the site's page is to do at the next visit, and what came of it."""

    work: Work = lambda session: None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    unset: bool = False
    result: Any = None
    ran: bool = False

    async def carry_out(self, session: Session) -> None:
        self.ran = True
        result = self.work(session)
        self.result = await result if inspect.isawaitable(result) else result


@dataclass(frozen=True)
class Visit:
    """What the browser got."""

    status: int
    headers: httpx.Headers
    result: Any

    @property
    def cookie(self) -> str | None:
        """The `Set-Cookie` header, if there is just one."""
        values = self.headers.get_list("set-cookie")
        assert len(values) < 2, values
        return values[0] if values else None


class Adapter(ABC):
    """How a framework's app with one page is made."""

    name: ClassVar[str]
    asynchronous: ClassVar[bool]

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        """An application whose every path carries out `site.plan`, inside the middleware."""


class Site:
    """An app under one adapter, its store and its clock."""

    def __init__(
        self,
        adapter: Adapter,
        store: SessionStore | AsyncSessionStore,
        clock: FakeClock,
        options: dict[str, Any],
    ) -> None:
        self.adapter = adapter
        self.clock = clock
        self.store: Watched | AsyncWatched
        if isinstance(store, SessionStore):
            self.store = Watched(store)
        else:
            self.store = AsyncWatched(store)
        self._direct = store
        self.plan = Plan()
        self.app = adapter.app(self, self.store, {"secret": SECRET, **options})

    def browser(self, url: str = "http://shop.example") -> Browser:
        return Browser(self, url)

    # The store, for looking behind the scenes

    async def close(self) -> None:
        if isinstance(self._direct, SessionStore):
            self._direct.close()
        else:
            await self._direct.close()

    async def length(self) -> int:
        if isinstance(self._direct, SessionStore):
            return self._direct.length()
        return await self._direct.length()

    async def stored(self, sid: str) -> dict[str, Any] | None:
        if isinstance(self._direct, SessionStore):
            return self._direct.get(sid)
        return await self._direct.get(sid)

    async def put(self, sid: str, data: dict[str, Any]) -> None:
        if isinstance(self._direct, SessionStore):
            self._direct.set(sid, data)
        else:
            await self._direct.set(sid, data)

    async def end(self, sid: str) -> None:
        if isinstance(self._direct, SessionStore):
            self._direct.destroy(sid)
        else:
            await self._direct.destroy(sid)

    async def expires_in(self, sid: str) -> timedelta:
        """How long the row lives from now on."""
        call = Load(Sid(sid).digest())
        if isinstance(self._direct, SessionStore):
            [record] = self._direct.perform((call,))
        else:
            [record] = await self._direct.perform((call,))
        assert isinstance(record, Record)
        return record.expires - self.clock()


class Browser:
    """A visitor with a cookie jar."""

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self._url = url
        self.jar = httpx.Cookies()

    async def visit(
        self,
        work: Work = lambda session: None,
        path: str = "/",
        *,
        method: str = "GET",
        status: int = 200,
        answering: dict[str, str] | None = None,
        sending: dict[str, str] | list[tuple[str, str]] | None = None,
        unset: bool = False,
        url: str | None = None,
    ) -> Visit:
        """Have the site do `work` to this visitor's session."""
        plan = self._site.plan = Plan(work, status, answering or {}, unset)
        app, headers = self._site.app, sending or {}
        url = (url or self._url) + path
        if self._site.adapter.asynchronous:
            asgi = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=asgi, cookies=self.jar) as client:
                response = await client.request(method, url, headers=headers)
                self.jar = client.cookies
        else:
            wsgi = httpx.WSGITransport(app)
            with httpx.Client(transport=wsgi, cookies=self.jar) as client:
                response = client.request(method, url, headers=headers)
                self.jar = client.cookies
        assert plan.ran
        return Visit(response.status_code, response.headers, plan.result)

    def twin(self) -> Browser:
        """Another visitor who holds the same cookie now: a second tab, a thief."""
        twin = Browser(self._site, self._url)
        twin.jar = httpx.Cookies(self.jar)
        return twin

    async def read(self) -> dict[str, Any]:
        """What this visitor's session holds."""
        result: dict[str, Any] = (await self.visit(dict)).result
        return result

    @property
    def cookie(self) -> str | None:
        """The value of the session cookie."""
        return self.jar.get("sid")

    @property
    def sid(self) -> str:
        """The session id in it."""
        assert self.cookie is not None, "the visitor has no session cookie"
        return self.cookie.partition(".")[0]

    def hold(self, value: str) -> None:
        """Have this value as the session cookie instead of what the site gave."""
        self.jar = httpx.Cookies()
        self.jar.set("sid", value, domain="shop.example")
