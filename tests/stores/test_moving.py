"""Sessions move from the table of an Express app into one of our own, and nobody is logged out."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, inspect, make_url, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from tests.fixtures.services import Services
from websessions import (
    ConfigurationError,
    CookieSettings,
    FormerCookie,
    MemoryStore,
    SessionError,
    SessionSettings,
    Sid,
    StoreError,
    StoreUnavailable,
    ValueRefused,
)
from websessions.cli import main
from websessions.exchange import AsyncExchange, SyncExchange
from websessions.lifecycle import Lifecycle
from websessions.moving import AsyncMovingStore, AtSource, Moved, MovingStore, move_all
from websessions.signing import ExpressValue
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import AsyncPerforms, Delete, Insert, Load, Performs
from websessions.testing import FakeClock

SECRET, EXPRESS_SECRET = "a long and random secret", "keyboard cat"
SID = Sid("tXa0jzoKVqL6RxFLFRMk22oqRukEAZpJ")
SETTINGS = SessionSettings(
    secret=SECRET, former=FormerCookie(secret=["a newer one of Express", EXPRESS_SECRET])
)
COOKIE = "connect.sid=" + ExpressValue("connect.sid", [EXPRESS_SECRET.encode()]).sign(SID)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "psycopg", "pymysql"])
def stores(
    request: pytest.FixtureRequest, services: Services, clock: FakeClock
) -> Iterator[MovingStore]:
    url = services.url(request.param)
    options: Any = {"clock": clock, "check_expiration_interval": 0}
    with (
        SQLSessionStore.connect_session_sequelize(url, table_name="former", **options) as source,
        SQLSessionStore(url, table_name="moved", **options) as target,
    ):
        for store in (source, target):
            store.sync()
            store.clear()
        yield MovingStore(target, source)


def write(stores: MovingStore, data: str, sid: str = SID.value) -> None:
    """As no store would."""
    source: Any = stores.source
    with source._opened.engine.begin() as connection:
        row = update(source.table).where(source.table.c.sid == sid)
        connection.execute(row.values(data=data))


class Visitor:
    """Comes with the cookie that it has."""

    def __init__(self, store: Performs, settings: SessionSettings = SETTINGS) -> None:
        self._lifecycle = Lifecycle(store, settings)
        self.cookies = COOKIE

    def request(self) -> SyncExchange:
        return SyncExchange(self._lifecycle, self.cookies, https=False)

    def finish(self, exchange: SyncExchange) -> str | None:
        """The cookie that the response sets; the browser has it besides the old one."""
        cookie = exchange.finish().cookie
        exchange.close()
        if cookie is not None:
            self.cookies = f"{COOKIE}; {cookie.partition(';')[0]}"
        return cookie


def test_who_comes_with_the_old_cookie_gets_a_new_one(stores: MovingStore) -> None:
    """And the session is in the new table alone."""
    stores.source.set(SID, {"user": "ann", "cart": [1]})
    visitor = Visitor(stores)
    exchange = visitor.request()
    assert dict(exchange.session) == {"user": "ann", "cart": [1]}
    assert not exchange.session.is_new
    cookie = visitor.finish(exchange)
    assert cookie is not None
    assert cookie.startswith("sid=")
    assert SID.value not in cookie
    assert (stores.source.length(), stores.target.length()) == (0, 1)
    exchange = visitor.request()
    assert exchange.session["user"] == "ann"
    assert visitor.finish(exchange) is None


def test_the_old_cookie_counts_once(stores: MovingStore, clock: FakeClock) -> None:
    """Requests that are under way with it have the grace of any id that was replaced."""
    stores.source.set(SID, {"user": "ann"})
    first, late, later = (Visitor(stores) for _ in range(3))
    exchange = first.request()
    exchange.session["a"] = 1
    first.finish(exchange)
    exchange = late.request()
    assert exchange.session["a"] == 1
    exchange.session["b"] = 2
    assert late.finish(exchange) is None
    clock.advance(6)
    exchange = later.request()
    assert dict(exchange.session) == {}
    assert exchange.session.is_new
    assert dict(first.request().session) == {"user": "ann", "a": 1, "b": 2}


def test_whoever_does_not_look_keeps_the_old_cookie(stores: MovingStore) -> None:
    """A request that does not load its session moves nothing, and the next one finds it."""
    stores.source.set(SID, {"user": "ann"})
    visitor = Visitor(stores)
    assert visitor.finish(visitor.request()) is None
    assert (stores.source.length(), stores.target.length()) == (1, 0)
    assert visitor.request().session["user"] == "ann"


def test_a_handler_that_fails_logs_nobody_out(stores: MovingStore) -> None:
    """Nothing of it is saved, and the old cookie still opens the session."""
    stores.source.set(SID, {"user": "ann"})
    visitor = Visitor(stores)
    exchange = visitor.request()
    assert exchange.session["user"] == "ann"
    exchange.abandon()
    assert visitor.finish(exchange) is None
    assert visitor.request().session["user"] == "ann"


@pytest.mark.parametrize("looks", [True, False])
def test_a_logout_with_the_old_cookie_ends_the_session(stores: MovingStore, looks: bool) -> None:
    """In both tables, also where the handler never looked at it."""
    stores.source.set(SID, {"user": "ann"})
    visitor = Visitor(stores)
    exchange = visitor.request()
    if looks:
        assert exchange.session["user"] == "ann"
    exchange.session.destroy()
    visitor.finish(exchange)
    assert (stores.source.length(), stores.target.length()) == (0, 0)
    assert dict(Visitor(stores).request().session) == {}


def test_a_cookie_of_another_secret_opens_nothing(stores: MovingStore) -> None:
    stores.source.set(SID, {"user": "ann"})
    visitor = Visitor(stores, SessionSettings(secret=SECRET, former=FormerCookie(secret="another")))
    assert dict(visitor.request().session) == {}


def test_a_store_of_two_wants_to_know_the_former_cookie(stores: MovingStore) -> None:
    """Without it nothing would ever be moved, and everybody be logged out."""
    with pytest.raises(ConfigurationError, match=r"MovingStore .*former=FormerCookie"):
        Visitor(stores, SessionSettings(secret=SECRET))


def test_a_new_cookie_that_the_browser_would_refuse_replaces_none(
    stores: MovingStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A secure one by http: the old one opens the session until a request comes by https."""
    stores.source.set(SID, {"user": "ann"})
    secure = replace(SETTINGS, cookie=CookieSettings(secure=True))
    visitor = Visitor(stores, secure)
    for _ in range(3):
        exchange = visitor.request()
        assert exchange.session["user"] == "ann"
        assert visitor.finish(exchange) is None
        clock.advance(60)
    assert caplog.text.count("set proxy=True") == 1
    exchange = SyncExchange(Lifecycle(stores, secure), COOKIE, https=True)
    assert exchange.session["user"] == "ann"
    assert exchange.finish().cookie is not None


@pytest.mark.parametrize(
    "data",
    [
        '{"cookie":7}',
        '{"cookie":{},"a":' + "[" * 300 + "]" * 300 + "}",
        '{"cookie":{},"user_id":"\\ud800"}',
    ],
    ids=["corrupt", "nested", "half a character"],
)
def test_what_can_not_be_moved_is_no_error_for_its_visitor(stores: MovingStore, data: str) -> None:
    """As a row that can not be read is none. It stays where it is, to be looked at."""
    stores.source.set(SID, {"user": "ann"})
    write(stores, data)
    exchange = Visitor(stores).request()
    assert dict(exchange.session) == {}
    exchange.finish()
    exchange = Visitor(stores, replace(SETTINGS, on_corrupt="error")).request()
    with pytest.raises(SessionError):
        dict(exchange.session)


def test_who_can_not_be_moved_can_log_out(stores: MovingStore) -> None:
    """For good: what is in the way of the session may go away."""
    stores.source.set(SID, {"user": "ann"})
    write(stores, '{"cookie":7}')
    exchange = Visitor(stores).request()
    exchange.session.destroy()
    exchange.finish()
    assert stores.source.length() == 0


def test_the_old_cookie_opens_what_was_imported(stores: MovingStore) -> None:
    """Also when the old store is not there any more."""
    stores.source.set(SID, {"user": "ann"})
    list(move_all(stores))
    visitor = Visitor(stores.target)
    exchange = visitor.request()
    assert exchange.session["user"] == "ann"
    assert visitor.finish(exchange) is not None
    assert visitor.request().session["user"] == "ann"


def test_a_lifetime_moves_along(stores: MovingStore, clock: FakeClock) -> None:
    """One that Express gave; without one, the settings' own counts."""
    lifecycle: Lifecycle[Performs] = Lifecycle(
        stores.source,
        SessionSettings(secret=EXPRESS_SECRET + " again", cookie=CookieSettings.express_session()),
    )
    exchange = SyncExchange(lifecycle, "", https=False)
    exchange.session["user"] = "ann"
    exchange.session.cookie.max_age = 3600
    exchange.finish()
    remembered = exchange.session.id
    stores.source.set(SID, {"user": "bob"})
    list(move_all(stores))
    records = stores.target.perform([Load(stores.key(sid)) for sid in (remembered, SID)])
    assert [record.expires - clock() for record in records] == [
        timedelta(hours=1),
        timedelta(hours=24),
    ]
    assert b'"$cookie":{"max_age":3600}' in records[0].data
    assert b"$cookie" not in records[1].data


def test_everything_is_moved_in_pages(stores: MovingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("websessions.moving.PAGE", 10)
    for n in range(35):
        stores.source.set(f"{n:032}", {"n": n})
    stores.source.set("f" * 32, {"n": "gone"}, expires=stores.clock() - timedelta(seconds=1))
    steps = list(move_all(stores))
    assert [step.looked_at for step in steps] == [10, 20, 30, 35]
    assert (steps[-1].moved, steps[-1].failed) == (35, 0)
    assert sorted(session["n"] for session in stores.target.all()) == list(range(35))
    assert stores.source.length() == 0
    assert [step.moved for step in move_all(stores)] == [0]


def test_a_dry_run_changes_nothing(stores: MovingStore) -> None:
    for n in range(3):
        stores.source.set(f"{n:032}", {"n": n})
    assert [(step.looked_at, step.moved) for step in move_all(stores, dry_run=True)] == [(3, 3)]
    assert (stores.source.length(), stores.target.length()) == (3, 0)


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_can_not_be_moved_stays(stores: MovingStore, dry_run: bool) -> None:
    for n in range(3):
        stores.source.set(f"{n:032}", {"n": n})
    write(stores, '{"cookie":7}', f"{1:032}")
    *_, last = move_all(stores, dry_run=dry_run)
    assert (last.looked_at, last.moved, last.failed) == (3, 2, 1)
    assert last.reasons == {"CorruptRecord": 1}
    assert stores.source.length() == (3 if dry_run else 1)


def test_a_store_of_two_has_the_rules_of_the_new_one(clock: FakeClock) -> None:
    options: Any = {"check_expiration_interval": 0}
    with (
        SQLSessionStore.connect_session_sequelize("sqlite://", **options) as source,
        SQLSessionStore(
            "sqlite://",
            table_name="moved",
            max_size=1000,
            expiration=60,
            touch_after=7,
            disable_touch=True,
            clock=clock,
            **options,
        ) as target,
    ):
        stores = MovingStore(target, source)
        for rule in (
            *("codec", "max_size", "expiration", "touch_after", "disable_touch", "clock"),
            *("longest_sid", "locks"),
        ):
            assert getattr(stores, rule) == getattr(target, rule), rule
            assert getattr(stores, rule) != getattr(source, rule), rule


def test_a_session_that_has_just_been_moved_can_be_locked_and_joined(stores: MovingStore) -> None:
    """All that the new store can do, in the very request that moves it."""
    stores.source.set(SID, {"balance": 1})
    visitor = Visitor(stores)
    exchange = visitor.request()
    with exchange.session.lock():
        exchange.session["balance"] += 1
    target: Any = stores.target
    engine = create_engine(target._opened.engine.url)
    with engine.connect() as connection:
        exchange.session["balance"] += 1
        exchange.session.save(within=connection)
        connection.rollback()
    engine.dispose()
    assert visitor.finish(exchange) is not None
    assert stores.target.all() == [{"balance": 2}]


@pytest.mark.parametrize("commits", [True, False])
def test_a_logout_of_who_was_not_moved_yet_can_be_joined(
    stores: MovingStore, commits: bool
) -> None:
    stores.source.set(SID, {"user": "ann"})
    exchange = Visitor(stores).request()
    target: Any = stores.target
    engine = create_engine(target._opened.engine.url)
    exchange.session.destroy()
    with engine.connect() as connection:
        exchange.session.save(within=connection)
        if commits:
            connection.commit()
    engine.dispose()
    assert stores.source.all() == []
    assert stores.target.all() == ([] if commits else [{"user": "ann"}])


def test_who_comes_without_a_cookie_can_be_saved_within_a_transaction(
    stores: MovingStore,
) -> None:
    exchange = SyncExchange(Lifecycle(stores, SETTINGS), "", https=False)
    target: Any = stores.target
    engine = create_engine(target._opened.engine.url)
    exchange.session["user"] = "ann"
    with engine.begin() as connection:
        exchange.session.save(within=connection)
    engine.dispose()
    assert stores.target.all() == [{"user": "ann"}]


def test_a_logout_of_who_can_not_be_moved_can_be_joined(
    stores: MovingStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction of the app's does not reach the old table, so the session stays there."""
    stores.source.set(SID, {"user": "ann"})
    write(stores, '{"cookie":7}')
    exchange = Visitor(stores).request()
    target: Any = stores.target
    engine = create_engine(target._opened.engine.url)
    exchange.session.destroy()
    with engine.connect() as connection:
        exchange.session.save(within=connection)
        connection.commit()
    engine.dispose()
    exchange.finish()
    assert (stores.source.length(), stores.target.length()) == (1, 0)
    assert caplog.text.count("can not be decoded") == 1


def test_a_session_that_was_moved_between_two_looks_is_found(stores: MovingStore) -> None:
    class Overtaken(MovingStore):
        def perform(self, calls: Any, /) -> list[Any]:
            if isinstance(calls[0], AtSource) and isinstance(calls[0].call, Load):
                list(move_all(stores))
            return super().perform(calls)

    stores.source.set(SID, {"user": "ann"})
    visitor = Visitor(Overtaken(stores.target, stores.source))
    assert dict(visitor.request().session) == {"user": "ann"}


class Overtaken(MovingStore):
    """Something happens to the session after it was read."""

    def perform(self, calls: Any, /) -> list[Any]:
        answers = super().perform(calls)
        if isinstance(calls[0], AtSource) and isinstance(calls[0].call, Load):
            self.happens()
        return answers

    def happens(self) -> None:
        raise NotImplementedError


def test_a_logout_while_it_is_moved_stays_a_logout(stores: MovingStore) -> None:
    class LoggedOut(Overtaken):
        def happens(self) -> None:
            self.source.perform([Delete(self.source.key(SID))])

    stores.source.set(SID, {"user": "ann"})
    *_, last = move_all(LoggedOut(stores.target, stores.source))
    assert (last.looked_at, last.moved) == (1, 0)
    assert stores.target.length() == 0


def test_a_visitor_who_comes_while_it_is_moved_is_there_once(stores: MovingStore) -> None:
    """Who has the new id already has the session."""
    visitor = Visitor(stores)

    class Visited(Overtaken):
        def happens(self) -> None:
            exchange = visitor.request()
            exchange.session["visits"] = 1
            visitor.finish(exchange)

    stores.source.set(SID, {"user": "ann"})
    *_, last = move_all(Visited(stores.target, stores.source))
    assert last.failed == 0
    assert stores.target.all() == [{"user": "ann", "visits": 1}]
    assert dict(visitor.request().session) == {"user": "ann", "visits": 1}


@pytest.mark.parametrize("comes", ["the import", "the visitor"])
def test_whoever_died_after_moving_leaves_no_way_back(
    stores: MovingStore, clock: FakeClock, comes: str
) -> None:
    """What is left in the old table is deleted before its visitor can log out of the new one."""

    class Dead(MovingStore):
        def perform(self, calls: Any, /) -> list[Any]:
            if isinstance(calls[0], AtSource) and isinstance(calls[0].call, Delete):
                raise KeyboardInterrupt
            return super().perform(calls)

    stores.source.set(SID, {"user": "ann"})
    with pytest.raises(KeyboardInterrupt):
        list(move_all(Dead(stores.target, stores.source)))
    assert (stores.source.length(), stores.target.length()) == (1, 1)
    if comes == "the import":
        list(move_all(stores))
        assert stores.source.length() == 0
    visitor = Visitor(stores)
    exchange = visitor.request()
    assert dict(exchange.session) == {"user": "ann"}
    assert visitor.finish(exchange) is not None
    exchange = visitor.request()
    exchange.session.destroy()
    visitor.finish(exchange)
    clock.advance(60)
    assert dict(Visitor(stores).request().session) == {}


class Failing(MovingStore):
    """What is inserted fails, or only what has this number."""

    def __init__(self, stores: MovingStore, error: Exception, number: int | None = None) -> None:
        super().__init__(stores.target, stores.source)
        self._error = error
        self._number = number

    def perform(self, calls: Any, /) -> list[Any]:
        if isinstance(calls[0], Insert) and calls[0].values.get("n") == self._number:
            raise self._error
        return super().perform(calls)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueRefused("refused"), "SessionEncodingError"),
        # What a driver or a codec raises need not be an error of this package's.
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "UnicodeEncodeError"),
    ],
)
def test_what_goes_wrong_with_one_session_keeps_no_other_back(
    stores: MovingStore, error: Exception, reason: str
) -> None:
    """And nobody waits for it: it is in the old table as it was."""
    for n in range(3):
        stores.source.set(f"{n:032}", {"n": n})
    *_, last = move_all(Failing(stores, error, 1))
    assert (last.looked_at, last.moved, last.reasons) == (3, 2, {reason: 1})
    assert stores.source.all() == [{"n": 1}]


def test_a_passing_error_logs_nobody_out(stores: MovingStore) -> None:
    """A deadlock, a full disk: the session is not what is wrong."""
    stores.source.set(SID, {"user": "ann"})
    exchange = Visitor(Failing(stores, StoreError("it failed"))).request()
    with pytest.raises(StoreError, match="it failed"):
        dict(exchange.session)
    assert dict(Visitor(stores).request().session) == {"user": "ann"}


def test_a_database_that_is_down_stops_it(stores: MovingStore) -> None:
    """And how far it was has been said before. Run again, it goes on."""
    for n in range(3):
        stores.source.set(f"{n:032}", {"n": n})
    steps = move_all(Failing(stores, StoreUnavailable("down"), 1))
    first = next(steps)
    assert (first.looked_at, first.moved, first.failed) == (1, 1, 0)
    with pytest.raises(StoreUnavailable):
        next(steps)
    assert (stores.source.length(), stores.target.length()) == (2, 1)
    *_, last = move_all(stores)
    assert (last.moved, last.failed) == (2, 0)


def test_a_new_table_that_is_missing_is_no_matter_of_single_sessions(stores: MovingStore) -> None:
    stores.source.set(SID, {"user": "ann"})
    with (
        SQLSessionStore("sqlite://", check_expiration_interval=0) as missing,
        pytest.raises(StoreError, match="does not exist"),
    ):
        list(move_all(MovingStore(missing, stores.source)))
    assert stores.source.all() == [{"user": "ann"}]


@pytest.mark.parametrize("dry_run", [True, False])
def test_digests_can_not_be_imported(stores: MovingStore, dry_run: bool) -> None:
    """Nobody knows the ids that they are of; their visitors do."""
    stores.target.set(SID, {"user": "ann"})
    with pytest.raises(ConfigurationError, match="not hold session ids but their digests"):
        list(move_all(MovingStore(stores.source, stores.target), dry_run=dry_run))


def test_a_session_that_fills_its_column_is_moved(services: Services) -> None:
    """Sequelize's TEXT ends at 64 KiB in MySQL, and the mark has to fit besides."""
    url = services.url("pymysql")
    options: Any = {"check_expiration_interval": 0}
    with (
        SQLSessionStore.connect_session_sequelize(url, table_name="full", **options) as source,
        SQLSessionStore(url, table_name="roomy", **options) as target,
    ):
        for store in (source, target):
            store.sync()
            store.clear()
        room = source.max_size - len(source.codec.encode({"much": ""}))
        source.set(SID, {"much": "x" * room})
        *_, last = move_all(MovingStore(target, source))
        assert (last.moved, last.failed) == (1, 0)
        assert target.all() == [{"much": "x" * room}]


@pytest.fixture
async def async_stores(services: Services) -> AsyncIterator[AsyncMovingStore]:
    url = services.url("asyncpg")
    options: Any = {"check_expiration_interval": 0}
    async with (
        AsyncSQLSessionStore.connect_session_sequelize(url, table_name="former", **options) as old,
        AsyncSQLSessionStore(url, table_name="moved", **options) as new,
    ):
        for store in (old, new):
            await store.sync()
            await store.clear()
        yield AsyncMovingStore(new, old)


async def test_parallel_requests_with_the_old_cookie_share_the_session(
    async_stores: AsyncMovingStore,
) -> None:
    """All of a page's requests come at once; each of their changes is kept."""
    await async_stores.source.set(SID, {"user": "ann"})
    lifecycle: Lifecycle[AsyncPerforms] = Lifecycle(async_stores, SETTINGS)

    async def visit(number: int) -> str | None:
        exchange = AsyncExchange(lifecycle, COOKIE, https=False)
        await exchange.load()
        assert exchange.session["user"] == "ann"
        exchange.session[f"seen by {number}"] = True
        return (await exchange.finish()).cookie

    cookies = await asyncio.gather(*map(visit, range(8)))
    assert [cookie is not None for cookie in cookies].count(True) == 1
    assert await async_stores.source.length() == 0
    (session,) = await async_stores.target.all()
    assert session == {"user": "ann", **{f"seen by {n}": True for n in range(8)}}


async def test_an_async_logout_of_who_was_not_moved_yet_can_be_joined(
    async_stores: AsyncMovingStore,
) -> None:
    await async_stores.source.set(SID, {"user": "ann"})
    lifecycle: Lifecycle[AsyncPerforms] = Lifecycle(async_stores, SETTINGS)
    exchange = AsyncExchange(lifecycle, COOKIE, https=False)
    target: Any = async_stores.target
    engine = create_async_engine(target._opened.engine.url)
    exchange.session.destroy()
    async with engine.begin() as connection:
        await exchange.session.save(within=connection)
    await engine.dispose()
    assert await async_stores.source.all() == []
    assert await async_stores.target.all() == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "postgresql+psycopg://ann@localhost/app",
            "postgresql+psycopg://bob:secret@[::1]:5432/app",
        ),
        (
            "postgresql+psycopg://127.0.0.1/app",
            "postgresql+psycopg:///app?host=/var/run/postgresql",
        ),
        ("mysql+pymysql://root@127.0.0.1:3306/app", "mariadb+pymysql://LOCALHOST/app"),
    ],
)
def test_one_database_is_told_by_each_of_its_urls(one: str, other: str) -> None:
    stores: list[Any] = [
        SQLSessionStore(url, table_name=name)
        for url, name in ((one, "Sessions"), (other, "sessions"))
    ]
    with pytest.raises(ConfigurationError, match="both stores have the table"):
        MovingStore(*stores)


@pytest.mark.parametrize(
    "other",
    [
        "postgresql+psycopg://localhost:5433/app",
        "postgresql+psycopg://db/app",
        "postgresql+psycopg://localhost/other",
        "postgresql+psycopg:///app?host=db",
        "mysql+pymysql://localhost:5432/app",
    ],
)
def test_two_databases_are_no_one(other: str) -> None:
    MovingStore(SQLSessionStore("postgresql+psycopg://localhost/app"), SQLSessionStore(other))


def test_two_stores_of_one_kind_are_wanted() -> None:
    store: Any = MemoryStore()
    with pytest.raises(ConfigurationError, match="itself"):
        MovingStore(store, store)
    with pytest.raises(ConfigurationError, match="two sync or two async stores"):
        MovingStore(store, AsyncSQLSessionStore("sqlite://"))  # type: ignore[arg-type]


class TestCommand:
    @pytest.fixture
    def url(self, services: Services) -> str:
        url = services.url("sqlite")
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as store:
            store.sync()
            for n in range(3):
                store.set(f"{n:032}", {"user_id": n})
        return url

    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(main, ["import", *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.stdout, done.stderr

    def test_it_moves_and_says_how_many(self, url: str) -> None:
        code, out, err = self.run(url, url, "--table", "Old")
        assert (code, out) == (0, "3 of 3 live sessions moved\n")
        assert "3/3" in err
        with SQLSessionStore(url) as store:
            assert sorted(session["user_id"] for session in store.all()) == [0, 1, 2]
            with store._opened.engine.connect() as connection:
                users = connection.execute(text("SELECT user_id FROM sessions ORDER BY 1"))
                assert [user for (user,) in users] == ["0", "1", "2"]

    def test_the_column_of_the_user_may_follow_another_key(self, url: str) -> None:
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as store:
            store.clear()
            store.set(SID, {"userId": 7})
        arguments = url, url, "--table", "Old", "--user-id-key", "userId"
        assert self.run(*arguments)[0] == 0
        with create_engine(url).connect() as connection:
            users = connection.execute(text("SELECT user_id FROM sessions"))
            assert [user for (user,) in users] == ["7"]

    def test_a_dry_run_creates_no_table(self, url: str) -> None:
        code, out, _ = self.run(url, url, "--table", "Old", "--dry-run")
        assert (code, out) == (0, "3 of 3 live sessions would be moved\n")
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as store:
            assert store.length() == 3
            with store._opened.engine.connect() as connection:
                names = connection.execute(text("SELECT name FROM sqlite_master"))
                assert "sessions" not in {name for (name,) in names}

    @pytest.fixture
    def express(self, tmp_path: Path) -> Path:
        """A file as an Express app has it, in a folder that is no URI as it is."""
        path = tmp_path / "100% o&k #1" / "express.db"
        path.parent.mkdir()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE Sessions (sid, expires, data, createdAt, updatedAt)")
            values = SID.value, "2100-01-01 00:00:00.000 +00:00", '{"cookie":{},"user_id":1}'
            connection.execute("INSERT INTO Sessions VALUES (?, ?, ?, 0, 0)", values)
            connection.commit()
        return path

    def url_of(self, path: Path) -> str:
        return f"sqlite:///{path}"

    @pytest.mark.parametrize("same", [True, False])
    def test_a_dry_run_changes_no_file(self, express: Path, same: bool) -> None:
        """Not by a bit: the journal mode is in it. And it makes none."""
        before = express.read_bytes()
        to = express if same else express.with_name("own.db")
        arguments = self.url_of(express), self.url_of(to), "--target-table", "own"
        code, out, _ = self.run(*arguments, "--dry-run")
        assert (code, out) == (0, "1 of 1 live sessions would be moved\n")
        assert express.read_bytes() == before
        assert list(express.parent.iterdir()) == [express]

    def test_the_file_it_moves_from_keeps_its_journal_mode(self, express: Path) -> None:
        code, out, _ = self.run(self.url_of(express), self.url_of(express.with_name("own.db")))
        assert (code, out) == (0, "1 of 1 live sessions moved\n")
        with contextlib.closing(sqlite3.connect(express)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)

    def test_a_path_that_is_mistyped_makes_no_file(self, tmp_path: Path) -> None:
        code, _, err = self.run(f"sqlite:///{tmp_path}/mistyped.db", f"sqlite:///{tmp_path}/own.db")
        assert code == 1
        assert f"Error: FROM: there is no file {tmp_path}/mistyped.db" in err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize("to", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_nothing_is_moved_into_memory(self, url: str, to: str, dry_run: bool) -> None:
        """The second one is what a variable that is not set makes of a path."""
        code, _, err = self.run(url, to, "--table", "Old", *["--dry-run"] * dry_run)
        assert code == 1
        assert "Error: TO: the database is in memory" in err
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as store:
            assert store.length() == 3

    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize(
        ("driver", "change", "why"),
        [
            ("psycopg", {"port": 1, "password": "secret"}, ", connection refused"),
            ("psycopg", {"database": "no_such"}, ", no such database or user"),
            (
                "pymysql",
                {"port": 1, "password": "secret"},
                "OperationalError, 2003, connection refused",
            ),
            ("pymysql", {"database": "no_such"}, ", 1049, no such database"),
        ],
    )
    def test_a_target_that_can_not_be_reached_is_noticed(
        self,
        url: str,
        services: Services,
        driver: str,
        change: dict[str, Any],
        why: str,
        dry_run: bool,
    ) -> None:
        to = make_url(services.url(driver)).set(**change)
        arguments = url, to.render_as_string(hide_password=False), "--table", "Old"
        code, _, err = self.run(*arguments, *["--dry-run"] * dry_run)
        assert code == 1
        assert "Error: TO: the session database can not be reached; " in err
        assert why in err
        assert "secret" not in err

    def test_what_stays_makes_it_fail(self, url: str) -> None:
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as store:
            with store._opened.engine.begin() as connection:
                connection.execute(text("UPDATE Old SET data = '7' WHERE sid LIKE '%1'"))
            code, out, err = self.run(url, url, "--table", "Old")
            assert (code, out) == (1, "2 of 3 live sessions moved\n")
        assert "1 can not be moved: CorruptRecord" in err

    @pytest.mark.parametrize("driver", ["sqlite", "psycopg", "pymysql"])
    @pytest.mark.parametrize(
        "user", ["\\ud800", "x" * 300, "a\\u0000b"], ids=["surrogate", "long", "nul"]
    )
    def test_what_a_column_can_not_take_stops_no_other(
        self, services: Services, driver: str, user: str
    ) -> None:
        url = services.url(driver, fresh=True)
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as old:
            old.sync()
            for n in range(3):
                old.set(f"{n:032}", {"user_id": n})
            table = old.table
            with old._opened.engine.begin() as connection:
                data = f'{{"cookie":{{"originalMaxAge":null}},"user_id":"{user}"}}'
                one = update(table).where(table.c.sid == f"{1:032}")
                connection.execute(one.values(data=data))
            code, out, err = self.run(url, url, "--table", "Old", "--target-table", "new")
            if (driver == "sqlite" and user != "\\ud800") or (driver, user[0]) == ("pymysql", "a"):
                assert (code, out) == (0, "3 of 3 live sessions moved\n")
            else:
                assert (code, out) == (1, "2 of 3 live sessions moved\n")
                assert "1 can not be moved: SessionEncodingError" in err
                assert old.length() == 1
            assert user not in err

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_a_row_that_is_passed_over_is_told(self, url: str, dry_run: bool) -> None:
        """Whoever drops the old table after it has to know."""
        with create_engine(url).begin() as connection:
            connection.execute(text("UPDATE Old SET expires = '2100 oops' WHERE sid LIKE '%1'"))
            connection.execute(text("UPDATE Old SET data = '7' WHERE sid LIKE '%2'"))
        code, out, err = self.run(url, url, "--table", "Old", *["--dry-run"] * dry_run)
        verb = "would be moved" if dry_run else "moved"
        assert (code, out) == (1, f"1 of 2 live sessions {verb}\n")
        assert "1 can not be moved: CorruptRecord\n1 could not be read, or came meanwhile\n" in err

    def test_a_database_that_goes_down_says_how_far_it_was(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def down(stores: MovingStore, *, dry_run: bool) -> Iterator[Moved]:
            yield Moved(7, 7, 0, {})
            raise StoreUnavailable("it is down")

        monkeypatch.setattr("websessions.cli.move_all", down)
        code, out, err = self.run(url, url, "--table", "Old")
        assert (code, out) == (1, "7 of 7 live sessions moved\n")
        assert "Error: FROM or TO, while sessions were moved: it is down\n" in err

    def test_no_other_exception_leaves_it(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(stores: MovingStore, *, dry_run: bool) -> Iterator[Moved]:
            raise ValueError("ann's cart")

        monkeypatch.setattr("websessions.cli.move_all", broken)
        code, _, err = self.run(url, url, "--table", "Old")
        assert code == 1
        assert "ValueError" in err
        assert "ann" not in err

    def test_an_error_is_one_line(self, url: str) -> None:
        """And nothing has been made."""
        code, _, err = self.run(url, url, "--table", "Missing")
        assert code == 1
        assert (
            "Error: FROM (its table: --layout, --table, --schema):"
            " the session table 'Missing' does not exist" in err
        )
        assert "Traceback" not in err
        with create_engine(url).connect() as connection:
            assert inspect(connection).get_table_names() == ["Old"]

    def test_either_table_may_be_in_a_schema(self, services: Services) -> None:
        url = services.url("psycopg", fresh=True)
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA former"))
            connection.execute(text("CREATE SCHEMA own"))
        with SQLSessionStore.connect_pg_simple(url, schema="former") as store:
            store.sync()
            store.set(SID, {"user_id": 7})
        arguments = "--layout", "connect-pg-simple", "--schema", "former", "--target-schema", "own"
        code, _, err = self.run(url, url, *arguments[:-1], "nowhere", "--dry-run")
        assert code == 1
        assert "Error: TO: there is no schema 'nowhere'" in err
        code, out, _ = self.run(url, url, *arguments, "--dry-run")
        assert (code, out) == (0, "1 of 1 live sessions would be moved\n")
        code, out, _ = self.run(url, url, *arguments)
        assert (code, out) == (0, "1 of 1 live sessions moved\n")
        with engine.connect() as connection:
            users = connection.execute(text("SELECT user_id FROM own.sessions"))
            assert [user for (user,) in users] == ["7"]
        engine.dispose()

    def test_a_table_is_not_moved_into_itself(self, url: str) -> None:
        """SQLite takes `Sessions` and `sessions` for the same."""
        code, _, err = self.run(url, url)
        assert code == 1
        assert "Error: --target-table: both stores have the table 'sessions'" in err

    @pytest.mark.parametrize("former", ["sessions.db", "file:sessions.db?uri=true"])
    def test_nor_by_another_name_of_the_file(
        self, url: str, former: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = Path(url.removeprefix("sqlite:///"))
        monkeypatch.chdir(path.parent)
        former = "sqlite:///" + former.replace("sessions.db", path.name)
        code, _, err = self.run(former, url, "--table", "Old", "--target-table", "old")
        assert code == 1
        assert "Error: --target-table: both stores have the table 'old'" in err

    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize("driver", ["sqlite", "psycopg", "pymysql"])
    def test_somebody_elses_table_is_left_alone(
        self, services: Services, driver: str, dry_run: bool
    ) -> None:
        url = services.url(driver, fresh=True)
        with SQLSessionStore.connect_session_sequelize(url, table_name="Old") as old:
            old.sync()
            old.set(SID, {"user_id": 1})
            engine = old._opened.engine
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE users (sid INTEGER PRIMARY KEY, name TEXT)"))
            arguments = url, url, "--table", "Old", "--target-table", "users"
            code, _, err = self.run(*arguments, *["--dry-run"] * dry_run)
            assert code == 1
            assert (
                "Error: TO: the table 'users' is no session table of this package's: it has no"
                " data, expires, version, created_at, updated_at, sweep_after" in err
            )
            look = inspect(engine)
            assert [column["name"] for column in look.get_columns("users")] == ["sid", "name"]
            assert look.get_indexes("users") == []
            assert old.length() == 1

    def test_an_error_says_which_database_it_is_about(self, url: str) -> None:
        for arguments, about in (("nonsense", url), "FROM"), ((url, "nonsense"), "TO"):
            code, _, err = self.run(*arguments, "--table", "Old")
            assert code == 1
            assert f"Error: {about}: db is no database URL" in err
