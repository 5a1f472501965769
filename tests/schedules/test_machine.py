"""Requests against a model that is a dict: up to three open at a time, on a clock that jumps.

The explorer tries all orders of a few requests. Here the requests themselves are of any kind, and
go on for long; what each of them has to leave behind is predicted without asking the store. A
failure is printed as a short program, with the blob that repeats it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fixtures.services import Services
from tests.stores.databases import IN_MEMORY, Maker, Making, async_makers, sync_makers
from tests.stores.test_machine import EXPIRATION, TOUCH_AFTER, explore, loop
from websessions import AsyncMemoryStore, MemoryStore, SessionSettings
from websessions.exchange import AsyncExchange, SyncExchange
from websessions.lifecycle import Lifecycle
from websessions.outcome import Intent, Row
from websessions.testing import AnyStore, FakeClock
from websessions.testing.any_store import finished

R = TypeVar("R")

MOST: Final = 3
"""Requests that are open at a time."""

visitors = st.sampled_from(["ada", "ada", "bob"])
keys = st.sampled_from(["a", "b", "c"])
which = st.integers(0, MOST - 1)
acts = st.sampled_from(
    [
        *("login", "logout", "logout", "regenerate", "empty", "remove"),
        *("touch", "save", "save", "reload", "fail"),
    ]
)


@dataclass(eq=False)
class Sess:
    """One session id and what is stored under it. `stamp` is that of the last write of data."""

    content: dict[str, Any]
    expires: datetime
    stamp: int
    ended: bool = False


@dataclass(eq=False)
class Open:
    """A request that is open: the real exchange, and what the model knows of it."""

    visitor: str
    exchange: SyncExchange | AsyncExchange
    sess: Sess | None
    row: Row
    intent: Intent = Intent.KEEP
    base: dict[str, Any] = field(default_factory=dict)
    mine: dict[str, Any] = field(default_factory=dict)
    seen: tuple[int, datetime] | None = None
    emptied: bool = False
    touched: bool = False
    saved: bool = False
    cookie: str = "none"


class Requests(RuleBasedStateMachine):
    """One example: two visitors' browsers, their open requests, and the model beside them."""

    def __init__(
        self, store: AnyStore, clock: FakeClock, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self._run = run
        self.lifecycle = Lifecycle(
            store.store,
            # The model knows no grace; schedules and histories do.
            SessionSettings(secret="the secret of the request machine", regenerate_grace=0),
        )
        self.headers = {"ada": "", "bob": ""}
        self.jars: dict[str, Sess | None] = {"ada": None, "bob": None}
        self.rows: list[Sess] = []
        self.open: list[Open] = []
        self._numbers = itertools.count(1)
        self.run(store.clear())
        # A session that two requests have read: what the rest is about.
        self.begin("ada")
        self.write(0, "a")
        self.finish(0)
        self.begin("ada")
        self.begin("ada")

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        result: R = self._run(work)
        return result

    # What the model knows

    def is_live(self, sess: Sess | None) -> bool:
        return sess is not None and not sess.ended and sess.expires > self.clock()

    def store_new(self, content: dict[str, Any]) -> Sess:
        sess = Sess(dict(content), self.clock() + EXPIRATION, next(self._numbers))
        self.rows.append(sess)
        return sess

    def end(self, sess: Sess | None) -> None:
        if sess in self.rows:
            self.rows.remove(sess)
        if sess is not None:
            sess.ended = True

    def look(self, request: Open) -> None:
        """What loading finds."""
        sess = request.sess
        if sess is not None and self.is_live(sess):
            request.row = Row.LIVE
            request.base, request.mine = dict(sess.content), dict(sess.content)
            request.seen = sess.stamp, sess.expires
        else:
            request.row, request.base, request.mine = Row.UNBORN, {}, {}

    def merged(self, request: Open, content: dict[str, Any]) -> dict[str, Any]:
        """The content, with the request's changes made to it."""
        if request.emptied:
            return dict(request.mine)
        result = dict(content)
        for key in {*request.base, *request.mine}:
            if request.base.get(key) == request.mine.get(key):
                continue
            if key in request.mine:
                result[key] = request.mine[key]
            else:
                result.pop(key, None)
        return result

    def settle(self, request: Open) -> None:
        """What saving leaves behind."""
        intent, touched = request.intent, request.touched
        changed = request.mine != request.base
        if request.row is Row.ENDED:
            pass
        elif request.row is Row.UNBORN:
            if request.mine:
                self.born(request)
        elif intent is Intent.DESTROY:
            self.end(request.sess)
            request.row, request.sess, request.cookie = Row.UNBORN, None, "clear"
            if request.mine:
                self.born(request)
        elif request.row is Row.UNREAD:
            pass
        elif intent is Intent.KEEP and not changed:
            self.touch_stored(request, asked=touched)
        elif request.sess is None or not self.is_live(request.sess):
            request.row = Row.ENDED
        else:
            content = self.merged(request, request.sess.content)
            if intent is Intent.REGENERATE:
                self.end(request.sess)
                request.sess, request.cookie = self.store_new(content), "set"
            else:
                request.sess.content = content
                request.sess.expires = self.clock() + EXPIRATION
                request.sess.stamp = next(self._numbers)
            self.written(request)
        if request.row is Row.ENDED:
            request.cookie = "none"  # one that an earlier save was to set names nothing any more
        request.intent = Intent.KEEP
        request.touched = request.emptied = False

    def born(self, request: Open) -> None:
        request.sess, request.cookie = self.store_new(request.mine), "set"
        self.written(request)

    def written(self, request: Open) -> None:
        sess = request.sess
        assert sess is not None
        request.row, request.saved = Row.LIVE, True
        request.base, request.mine = dict(sess.content), dict(sess.content)
        request.seen = sess.stamp, sess.expires

    def touch_stored(self, request: Open, *, asked: bool) -> None:
        wanted, slack = self.clock() + EXPIRATION, timedelta(0) if asked else TOUCH_AFTER
        sess, seen = request.sess, request.seen
        assert sess is not None
        assert seen is not None
        if wanted <= seen[1] or wanted - seen[1] < slack or (request.saved and not asked):
            return
        if not self.is_live(sess) or sess.stamp != seen[0]:
            return
        if wanted > sess.expires and wanted - sess.expires >= slack:
            sess.expires = wanted
            request.seen = seen[0], wanted

    # Requests

    def some(self, number: int) -> Open:
        return self.open[number % len(self.open)]

    def loaded(self, number: int) -> Open:
        """One of the open requests, with its session read."""
        request = self.some(number)
        if request.row is Row.UNREAD and request.intent is not Intent.DESTROY:
            self.look(request)
        self.run(self._load(request))
        assert dict(request.exchange.session) == request.mine
        return request

    @precondition(lambda self: len(self.open) < MOST)
    @rule(visitor=visitors, reads=st.booleans())
    def begin(self, visitor: str, reads: bool = True) -> None:
        """A request comes in. Its session is read at once, or when it is used."""
        kind: Any = SyncExchange if self._run is finished else AsyncExchange
        exchange = kind(self.lifecycle, self.headers[visitor], https=False)
        row = Row.UNREAD if self.headers[visitor] else Row.UNBORN
        self.open.append(Open(visitor, exchange, self.jars[visitor], row))
        if reads:
            self.loaded(-1)

    @precondition(lambda self: self.open)
    @rule(number=which, key=keys)
    def write(self, number: int, key: str) -> None:
        request, value = self.loaded(number), next(self._numbers)
        request.exchange.session[key] = value
        request.mine[key] = value

    @precondition(lambda self: self.open)
    @rule(number=which)
    def finish(self, number: int) -> None:
        """The response leaves, and the browser takes its cookie."""
        request = self.some(number)
        self.open.remove(request)
        header = self.run(self._finish(request))
        self.settle(request)
        if request.cookie == "none":
            assert header is None
            return
        assert header is not None
        pair = header.partition(";")[0]
        assert bool(pair.partition("=")[2]) == (request.cookie == "set")
        self.headers[request.visitor] = pair if request.cookie == "set" else ""
        self.jars[request.visitor] = request.sess

    @precondition(lambda self: self.open)
    @rule(number=which, act=acts, key=keys)
    def act(self, number: int, act: str, key: str) -> None:
        """What is rarer. As rules of their own, these would crowd out the others."""
        match act:
            case "remove":
                self.remove(number, key)
            case "regenerate":
                self.regenerate(number, keep_data=True)
            case "empty":
                self.regenerate(number, keep_data=False)
            case "login":
                self.login(number)
            case "logout":
                self.logout(number)
            case "touch":
                self.touch(number)
            case "save":
                self.save(number)
            case "reload":
                self.reload(number)
            case "fail":
                self.fail(number)

    @rule(seconds=st.sampled_from([1, 3, 9, 10]), sweeps=st.booleans())
    def time_passes(self, seconds: int, sweeps: bool) -> None:
        self.clock.advance(seconds)
        if sweeps:
            self.sweep()

    # Acts

    def remove(self, number: int, key: str) -> None:
        request = self.loaded(number)
        request.exchange.session.pop(key, None)
        request.mine.pop(key, None)

    def regenerate(self, number: int, *, keep_data: bool) -> None:
        request = self.loaded(number)
        request.exchange.session.regenerate(keep_data=keep_data)
        if request.intent is Intent.KEEP:
            request.intent = Intent.REGENERATE
        if not keep_data:
            request.mine, request.emptied = {}, True

    def login(self, number: int) -> None:
        request, user = self.loaded(number), next(self._numbers)
        request.exchange.session.regenerate(privilege=True)
        request.exchange.session.user_id = user
        request.mine["user_id"] = user
        if request.intent is Intent.KEEP:
            request.intent = Intent.REGENERATE

    def logout(self, number: int) -> None:
        request = self.some(number)
        request.exchange.session.destroy()
        request.base, request.mine, request.intent = {}, {}, Intent.DESTROY

    def touch(self, number: int) -> None:
        request = self.loaded(number)
        request.exchange.session.touch()
        request.touched = True

    def save(self, number: int) -> None:
        request = self.some(number)
        self.run(self._save(request))
        self.settle(request)

    def reload(self, number: int) -> None:
        request = self.some(number)
        if request.row is Row.UNBORN or request.cookie != "none":
            return  # after a save that set a cookie, which cookie is left is nobody's business
        self.run(self._reload(request))
        request.intent, request.touched, request.emptied = Intent.KEEP, False, False
        self.look(request)

    def fail(self, number: int) -> None:
        """The handler raises: nothing that was not saved before is saved."""
        request = self.some(number)
        self.open.remove(request)
        request.exchange.abandon()

    def sweep(self) -> None:
        expired = [sess for sess in self.rows if not self.is_live(sess)]
        assert self.run(self.store.clear_expired_sessions()) == len(expired)
        for sess in expired:
            self.end(sess)

    # For stores of either kind

    async def _load(self, request: Open) -> None:
        await request.exchange.load()

    async def _save(self, request: Open) -> None:
        await request.exchange.save()

    async def _reload(self, request: Open) -> None:
        await request.exchange.reload()

    async def _finish(self, request: Open) -> str | None:
        exchange = request.exchange
        if isinstance(exchange, SyncExchange):
            answer = exchange.finish()
            exchange.close()
        else:
            answer = await exchange.finish()
            await exchange.close()
        return answer.cookie

    # At every moment

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        live = [copy.copy(sess.content) for sess in self.rows if self.is_live(sess)]
        assert _sorted(self.run(self.store.all())) == _sorted(live)


def _sorted(contents: list[dict[str, Any]]) -> list[list[tuple[str, Any]]]:
    return sorted(sorted(content.items()) for content in contents)


def test_in_memory() -> None:
    """Overlapping requests leave behind what the model says."""
    explore(lambda clock, **options: MemoryStore(clock=clock, **options), finished, 200, Requests)


def test_in_memory_under_asyncio() -> None:
    with loop() as run:
        explore(
            lambda clock, **options: AsyncMemoryStore(clock=clock, **options), run, 50, Requests
        )


@pytest.mark.parametrize(
    "maker",
    [*sync_makers("generated", "url"), *sync_makers("binary", "app", "sqlite memory")],
    ids=str,
)
def test_in_a_database(maker: Maker, services: Services) -> None:
    """On every database."""
    making = Making(maker, services)
    explore(making, finished, 30, Requests)
    making.close()


@pytest.mark.parametrize(
    "maker",
    [
        *async_makers("generated", "url"),
        *async_makers("binary", "app", *IN_MEMORY, "sqlite", "pymysql"),
    ],
    ids=str,
)
def test_in_a_database_under_asyncio(maker: Maker, services: Services) -> None:
    """With every driver."""
    with loop() as run:
        making = Making(maker, services)
        explore(making, run, 30, Requests)
        run(making.aclose())
