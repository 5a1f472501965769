"""A save within the app's own transaction commits with it, and is undone with it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import pytest
from sqlalchemy import Engine, MetaData, Table, create_engine, make_url, orm, text
from sqlalchemy.exc import IntegrityError, ResourceClosedError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from tests.adapters.kit import Browser, Site
from tests.fixtures.services import Services
from tests.promises import ways as kinds
from tests.sql.drivers import a_name, a_sid, dispose, in_transaction
from websessions import (
    AsyncMemoryStore,
    ConfigurationError,
    Conflict,
    MemoryStore,
    Session,
    SessionError,
    StoreError,
    resolvers,
)
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore

Kind: TypeAlias = Literal["connection", "orm"]
Ending: TypeAlias = Literal["commit", "rollback"]

ways = pytest.mark.parametrize("way", list(kinds.WAYS))
one_a_database = pytest.mark.parametrize(
    "way", ["sqlite-wsgi", "sqlite-asgi", "psycopg-wsgi", "asyncpg-asgi", "asyncmy-asgi"]
)
endings = pytest.mark.parametrize("ending", ["commit", "rollback"])


class Undone(Exception):
    """The app's reason to roll back."""


@dataclass
class Shop:
    """A site, and a table of orders that the app keeps beside the sessions."""

    site: Site
    engine: Engine | AsyncEngine
    orders: str
    sessions: str

    @asynccontextmanager
    async def transaction(
        self, ending: Ending = "commit", kind: Kind = "connection"
    ) -> AsyncIterator[Any]:
        """A transaction with an order in it, that ends as it is told to."""
        order = text(f"INSERT INTO {self.orders} (x) VALUES (1)")
        try:
            if isinstance(self.engine, AsyncEngine):
                begin: Any = AsyncSession(self.engine) if kind == "orm" else self.engine.connect()
                async with begin as connection, connection.begin():
                    await connection.execute(order)
                    yield connection
                    if ending == "rollback":
                        raise Undone
            else:
                begin = orm.Session(self.engine) if kind == "orm" else self.engine.connect()
                with begin as connection, connection.begin():
                    connection.execute(order)
                    yield connection
                    if ending == "rollback":
                        raise Undone
        except Undone:
            pass

    async def save(
        self, session: Session, ending: Ending = "commit", kind: Kind = "connection"
    ) -> None:
        async with self.transaction(ending, kind) as connection:
            await session.save(within=connection)

    async def orders_made(self) -> int:
        [row] = await in_transaction(self.engine, text(f"SELECT count(*) FROM {self.orders}"))
        return int(row[0])

    async def store(self, name: str, *args: Any, within: Any) -> Any:
        """A method of the store, within a transaction."""
        result = getattr(self.site.store.within(within), name)(*args)
        return await result if inspect.isawaitable(result) else result


class OpenShop(Protocol):
    async def __call__(self, way: str, **options: Any) -> Shop: ...


@pytest.fixture
async def open_shop(services: Services) -> AsyncIterator[OpenShop]:
    shops: list[Shop] = []

    async def open_shop(way: str, **options: Any) -> Shop:
        chosen = kinds.WAYS[way]
        url = make_url(services.url(chosen.driver))
        name = a_name("sessions")
        site = await kinds.open_site(chosen, url, store={"table_name": name}, **options)
        if chosen.asynchronous:
            if chosen.driver == "sqlite":
                url = url.set(drivername="sqlite+aiosqlite")
            engine: Engine | AsyncEngine = create_async_engine(url)
        else:
            engine = create_engine(url)
        shop = Shop(site, engine, a_name("orders"), name)
        shops.append(shop)
        innodb = " ENGINE=InnoDB" if url.get_backend_name() == "mysql" else ""
        await in_transaction(engine, text(f"CREATE TABLE {shop.orders} (x integer){innodb}"))
        return shop

    yield open_shop
    for shop in shops:
        await shop.site.close()
        await dispose(shop.engine)


async def with_cart(shop: Shop) -> Browser:
    browser = shop.site.browser()
    await browser.visit(lambda session: session.update(cart=["tea", "cup"]))
    return browser


@ways
@endings
@pytest.mark.parametrize("kind", ["connection", "orm"])
async def test_an_order_and_the_cart_that_it_empties_are_one_commit(
    open_shop: OpenShop, way: str, ending: Ending, kind: Kind
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"] = []
        await shop.save(session, ending, kind)

    visit = await browser.visit(order)
    assert visit.cookie is None
    assert await shop.orders_made() == (ending == "commit")
    assert await browser.read() == {"cart": [] if ending == "commit" else ["tea", "cup"]}


@one_a_database
async def test_nobody_sees_it_before_the_commit(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> dict[str, Any] | None:
        session["cart"] = []
        async with shop.transaction() as connection:
            await session.save(within=connection)
            return await shop.site.stored(browser.sid)

    assert (await browser.visit(order)).result == {"cart": ["tea", "cup"]}
    assert await browser.read() == {"cart": []}


@one_a_database
@endings
async def test_a_login_joins_with_its_new_id_or_leaves_the_old_one(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    """Signing up: the account and the login are one commit."""
    shop = await open_shop(way)
    browser = await with_cart(shop)
    old = browser.twin()

    async def sign_up(session: Session) -> None:
        session.regenerate(privilege=True)
        session.user_id = 7
        await shop.save(session, ending)

    visit = await browser.visit(sign_up)
    if ending == "commit":
        assert browser.cookie != old.cookie
        assert await browser.read() == {"cart": ["tea", "cup"], "user_id": 7}
        assert await old.read() == {}
    else:
        assert visit.cookie is None
        assert await browser.read() == {"cart": ["tea", "cup"]}
    assert await shop.site.length() == 1


@one_a_database
@endings
async def test_a_new_id_without_a_login_has_its_grace_if_it_is_committed(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    old = browser.twin()

    async def move(session: Session) -> None:
        session.regenerate()
        await shop.save(session, ending)

    await browser.visit(move)
    assert (browser.cookie != old.cookie) is (ending == "commit")
    assert await old.read() == await browser.read() == {"cart": ["tea", "cup"]}


@one_a_database
@endings
async def test_a_new_session_joins(open_shop: OpenShop, way: str, ending: Ending) -> None:
    shop = await open_shop(way)
    browser = shop.site.browser()

    async def first(session: Session) -> None:
        session["n"] = 1
        await shop.save(session, ending)

    visit = await browser.visit(first)
    assert (visit.cookie is not None) is (ending == "commit")
    assert await shop.site.length() == (ending == "commit")
    assert await browser.read() == ({"n": 1} if ending == "commit" else {})


@one_a_database
@endings
async def test_a_logout_joins(open_shop: OpenShop, way: str, ending: Ending) -> None:
    """Deleting an account and its session are one commit."""
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def leave(session: Session) -> None:
        session.destroy()
        await shop.save(session, ending)

    visit = await browser.visit(leave)
    assert (visit.cookie is not None) is (ending == "commit")
    assert await browser.read() == ({} if ending == "commit" else {"cart": ["tea", "cup"]})


@one_a_database
@endings
async def test_a_new_session_after_a_logout_joins(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def leave(session: Session) -> None:
        session.destroy()
        session["message"] = "bye"
        await shop.save(session, ending)

    await browser.visit(leave)
    there = {"message": "bye"} if ending == "commit" else {"cart": ["tea", "cup"]}
    assert await browser.read() == there
    assert await shop.site.length() == 1


def change(session: Session) -> dict[str, Any]:
    session["cart"] = []
    return {"cart": ["tea", "cup"]}


def log_in(session: Session) -> dict[str, Any]:
    session.regenerate(privilege=True)
    session.user_id = 7
    return {"cart": ["tea", "cup"]}


def log_out(session: Session) -> dict[str, Any]:
    session.destroy()
    return {"cart": ["tea", "cup"]}


def begin_anew(session: Session) -> dict[str, Any]:
    session.destroy()
    session["message"] = "bye"
    return {"cart": ["tea", "cup"]}


@one_a_database
@pytest.mark.parametrize("what", [change, log_in, log_out, begin_anew])
async def test_what_is_changed_after_a_rollback_is_saved_and_nothing_else(
    open_shop: OpenShop, way: str, what: Callable[[Session], dict[str, Any]]
) -> None:
    """As the handler does that tells the visitor why it failed."""
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def fail(session: Session) -> dict[str, Any]:
        before = what(session)
        await shop.save(session, "rollback")
        session["error"] = "sold out"
        return before

    before = (await browser.visit(fail)).result
    assert await browser.read() == {**before, "error": "sold out"}
    assert await shop.site.length() == 1


@one_a_database
async def test_a_new_session_begins_after_a_rollback_of_the_first_try(
    open_shop: OpenShop, way: str
) -> None:
    shop = await open_shop(way)
    browser = shop.site.browser()

    async def fail(session: Session) -> None:
        session["cart"] = ["tea"]
        await shop.save(session, "rollback")
        session["error"] = "sold out"

    await browser.visit(fail)
    assert await browser.read() == {"error": "sold out"}
    assert await shop.site.length() == 1


@one_a_database
@endings
async def test_changes_after_the_end_count_from_what_is_stored(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way, on_conflict={"n": resolvers.add})
    browser = shop.site.browser()
    await browser.visit(lambda session: session.update(n=1))

    async def count(session: Session) -> None:
        session["n"] += 10
        await shop.save(session, ending)
        session["n"] += 100

    await browser.visit(count)
    assert await browser.read() == {"n": 111 if ending == "commit" else 101}


@one_a_database
@endings
async def test_another_requests_write_between_rollback_and_response_is_kept(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    """Its version has the number that the write which was undone had."""
    shop = await open_shop(way)
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        session["cart"] = []
        await shop.save(session, ending)
        await tab(other_tab, theirs=True)
        session["mine"] = True

    await browser.visit(order)
    cart = [] if ending == "commit" else ["tea", "cup"]
    assert await browser.read() == {"cart": cart, "theirs": True, "mine": True}


async def tab(browser: Browser, **values: Any) -> None:
    """A request of another tab, in the midst of one."""
    plan = browser._site.plan
    await browser.visit(lambda session: session.update(values))
    browser._site.plan = plan


@one_a_database
async def test_what_others_wrote_before_is_merged_within_the_transaction(
    open_shop: OpenShop, way: str
) -> None:
    """Under MySQL's default the transaction's own snapshot would never show it."""
    shop = await open_shop(way)
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        session["cart"] = []
        await tab(other_tab, theirs=True)
        await shop.save(session)

    await browser.visit(order)
    assert await browser.read() == {"cart": [], "theirs": True}


@pytest.mark.parametrize("way", ["psycopg-wsgi", "asyncmy-asgi"])
async def test_a_transaction_that_has_read_before_merges_what_came_since(
    open_shop: OpenShop, way: str
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        session["cart"] = []
        async with shop.transaction() as connection:
            seen = connection.execute(text(f"SELECT count(*) FROM {shop.sessions}"))
            await seen if inspect.isawaitable(seen) else None
            await tab(other_tab, theirs=True)
            await session.save(within=connection)

    await browser.visit(order)
    assert await browser.read() == {"cart": [], "theirs": True}


@one_a_database
async def test_a_session_that_ended_meanwhile_is_not_revived(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    sid = browser.sid

    async def order(session: Session) -> None:
        session["cart"] = []
        await shop.site.end(sid)
        await shop.save(session)

    visit = await browser.visit(order)
    assert visit.cookie is None
    assert await shop.site.length() == 0
    assert await shop.orders_made() == 1


@one_a_database
async def test_a_session_that_ends_after_the_rollback_is_not_revived(
    open_shop: OpenShop, way: str
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    sid = browser.sid

    async def sign_up(session: Session) -> None:
        log_in(session)
        await shop.save(session, "rollback")
        await shop.site.end(sid)
        session["late"] = True

    visit = await browser.visit(sign_up)
    assert visit.cookie is None
    assert await shop.site.length() == 0


@one_a_database
@endings
async def test_several_saves_within_one_transaction(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    old = browser.twin()

    async def sign_up(session: Session) -> None:
        async with shop.transaction(ending) as connection:
            session.regenerate(privilege=True)
            session.user_id = 7
            await session.save(within=connection)
            session["cart"] = []
            await session.save(within=connection)

    await browser.visit(sign_up)
    if ending == "commit":
        assert await browser.read() == {"user_id": 7, "cart": []}
        assert await old.read() == {}
    else:
        assert browser.cookie == old.cookie
        assert await browser.read() == {"cart": ["tea", "cup"]}


@one_a_database
async def test_one_transaction_after_another(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"].append("pot")
        await shop.save(session, "rollback")
        session["tries"] = 1
        await shop.save(session, "commit")
        session["tries"] = 2
        await shop.save(session, "rollback")

    await browser.visit(order)
    assert await browser.read() == {"cart": ["tea", "cup"], "tries": 1}


@one_a_database
async def test_a_savepoint_that_is_undone_undoes_the_save(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    if way.startswith("sqlite"):
        pytest.skip("sqlite3's own handling of transactions has no savepoints")
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"] = []
        async with shop.transaction() as connection:
            savepoint = connection.begin_nested()
            savepoint = await savepoint if inspect.isawaitable(savepoint) else savepoint
            await session.save(within=connection)
            undone = savepoint.rollback()
            await undone if inspect.isawaitable(undone) else None
            session["error"] = "sold out"
            await session.save(within=connection)

    await browser.visit(order)
    assert await browser.read() == {"cart": ["tea", "cup"], "error": "sold out"}


@one_a_database
async def test_a_transaction_that_ends_after_the_response_is_waited_for_by_nobody(
    open_shop: OpenShop, way: str
) -> None:
    """A framework may commit when the response has left; nothing is to be saved until then."""
    shop = await open_shop(way)
    browser = await with_cart(shop)
    transaction = shop.transaction()

    async def order(session: Session) -> None:
        session["cart"] = []
        await session.save(within=await transaction.__aenter__())

    visit = await browser.visit(order)
    assert visit.cookie is None
    await transaction.__aexit__(None, None, None)
    assert await browser.read() == {"cart": []}


@pytest.mark.parametrize("way", ["sqlite-asgi", "asyncpg-asgi"])
async def test_a_save_that_was_begun_keeps_its_session(open_shop: OpenShop, way: str) -> None:
    """It may be awaited when the request and all who had its session are gone."""
    shop = await open_shop(way)
    browser = await with_cart(shop)
    transaction = shop.transaction()
    connection = await transaction.__aenter__()
    begun: list[Awaitable[None]] = []

    def order(session: Session) -> None:
        begun.append(session.save(within=connection))

    await browser.visit(order)
    await begun.pop()
    await transaction.__aexit__(None, None, None)
    assert await browser.read() == {"cart": ["tea", "cup"]}


@one_a_database
@pytest.mark.parametrize("what", [log_in, log_out, begin_anew])
async def test_no_response_tells_the_browser_what_may_be_undone(
    open_shop: OpenShop, way: str, what: Callable[[Session], dict[str, Any]]
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    transaction = shop.transaction()

    async def change_and_leave(session: Session) -> None:
        what(session)
        await session.save(within=await transaction.__aenter__())

    with pytest.raises(SessionError, match="end that before the response begins"):
        await browser.visit(change_and_leave)
    await transaction.__aexit__(Undone, Undone(), None)
    assert await browser.read() == {"cart": ["tea", "cup"]}


@one_a_database
async def test_a_rollback_undoes_it_in_the_session_at_once(open_shop: OpenShop, way: str) -> None:
    """So the handler may try again, as it did the first time."""
    shop = await open_shop(way)
    browser = shop.site.browser()
    await browser.visit(lambda session: session.update(balance=10, cart=["tea"]))

    async def pay(session: Session) -> list[dict[str, Any]]:
        seen = []
        for ending in ("rollback", "rollback", "commit"):
            session["balance"] -= 1
            session.pop("cart")
            await shop.save(session, ending)
            seen.append(dict(session))
        return seen

    before = {"balance": 10, "cart": ["tea"]}
    assert (await browser.visit(pay)).result == [before, before, {"balance": 9}]
    assert await browser.read() == {"balance": 9}


@one_a_database
@endings
@pytest.mark.parametrize("keep_data", [True, False])
async def test_a_login_after_it_is_one(
    open_shop: OpenShop, way: str, ending: Ending, keep_data: bool
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    old = browser.twin()

    async def order_and_log_in(session: Session) -> str:
        session["order"] = 1
        await shop.save(session, ending)
        session.regenerate(privilege=True, keep_data=keep_data)
        session.user_id = 7
        return session.id.value

    visit = await browser.visit(order_and_log_in)
    assert browser.sid == visit.result != old.sid
    kept = {"cart": ["tea", "cup"]} | ({"order": 1} if ending == "commit" else {})
    assert await browser.read() == {**(kept if keep_data else {}), "user_id": 7}
    assert await old.read() == {}


@one_a_database
@pytest.mark.parametrize("policy", ["error", "overwrite"])
async def test_the_policy_holds_for_what_comes_after_it(
    open_shop: OpenShop, way: str, policy: str
) -> None:
    shop = await open_shop(way, on_conflict=policy)
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        session["cart"] = []
        await shop.save(session)
        await tab(other_tab, cart=["theirs"])
        session["cart"] = ["mine"]
        if policy == "error":
            with pytest.raises(Conflict):
                await session.save()

    await browser.visit(order)
    assert await browser.read() == {"cart": ["theirs" if policy == "error" else "mine"]}


@pytest.mark.parametrize("way", ["psycopg-wsgi", "asyncpg-asgi"])  # InnoDB keeps the row's lock
async def test_what_another_request_writes_after_a_savepoint_was_undone_is_kept(
    open_shop: OpenShop, way: str
) -> None:
    """Its version has the number of the one that was undone."""
    shop = await open_shop(way)
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        async with shop.transaction() as connection:
            savepoint = connection.begin_nested()
            savepoint = await savepoint if inspect.isawaitable(savepoint) else savepoint
            session["undone"] = True
            await session.save(within=connection)
            undone = savepoint.rollback()
            await undone if inspect.isawaitable(undone) else None
            assert "undone" not in session
            await tab(other_tab, theirs=True)
            session["mine"] = True
            await session.save(within=connection)

    await browser.visit(order)
    assert await browser.read() == {"cart": ["tea", "cup"], "theirs": True, "mine": True}


@pytest.mark.parametrize("way", ["psycopg-wsgi", "asyncpg-asgi"])
@pytest.mark.parametrize("again", ["within", "later", "reload"])
async def test_a_commit_that_fails_is_noticed(open_shop: OpenShop, way: str, again: str) -> None:
    """A constraint that is checked at the commit, or a serialization failure."""
    shop = await open_shop(way)
    await in_transaction(
        shop.engine,
        text(f"ALTER TABLE {shop.orders} ADD UNIQUE (x) DEFERRABLE INITIALLY DEFERRED"),
        text(f"INSERT INTO {shop.orders} VALUES (1)"),
    )
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session.regenerate(privilege=True)
        session["cart"] = []
        with pytest.raises(IntegrityError):
            await shop.save(session)
        if again == "within":
            with pytest.raises(SessionError, match="was not committed"):
                await shop.save(session)
        elif again == "reload":
            await session.reload()
            assert dict(session) == {"cart": ["tea", "cup"]}
        session["tries"] = 1

    before = browser.cookie
    await browser.visit(order)
    assert browser.cookie == before
    told = {} if again == "later" else {"tries": 1}
    assert await browser.read() == {"cart": ["tea", "cup"], **told}


@pytest.mark.parametrize("way", ["psycopg-wsgi", "asyncpg-asgi"])
async def test_a_transaction_with_an_old_snapshot_is_refused_and_tried_again(
    open_shop: OpenShop, way: str
) -> None:
    """PostgreSQL's REPEATABLE READ. What was changed for the first try is not saved with it."""
    shop = await open_shop(way)
    await dispose(shop.engine)
    make = create_async_engine if isinstance(shop.engine, AsyncEngine) else create_engine
    shop.engine = make(shop.engine.url, isolation_level="REPEATABLE READ")
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        session.get("cart")
        with pytest.raises(StoreError):
            await pay(session, disturbed=True)
        assert dict(session) == {"cart": ["tea", "cup"]}
        await session.reload()
        await pay(session)

    async def pay(session: Session, *, disturbed: bool = False) -> None:
        async with shop.transaction() as connection:
            if disturbed:
                await tab(other_tab, theirs=True)
            session["cart"] = []
            await session.save(within=connection)

    await browser.visit(order)
    assert await shop.orders_made() == 1
    assert await browser.read() == {"cart": [], "theirs": True}


@one_a_database
async def test_a_transaction_that_is_of_no_use_loses_nothing(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        async with shop.transaction() as connection:
            pass
        session["cart"] = []
        with pytest.raises(ResourceClosedError):
            await session.save(within=connection)

    await browser.visit(order)
    assert await browser.read() == {"cart": ["tea", "cup"]}


@one_a_database
async def test_a_logout_in_a_stream_after_a_rollback_is_one(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    late: list[Session] = []

    def keep(session: Session) -> None:
        session.get("cart")
        late.append(session)

    await browser.visit(keep)
    [session] = late
    session.destroy()
    await shop.save(session, "rollback")
    assert await shop.site.length() == 1
    session.destroy()
    saved = session._request.close()  # type: ignore[attr-defined]
    await saved if inspect.isawaitable(saved) else None
    assert await shop.site.length() == 0


@one_a_database
@pytest.mark.parametrize("what", [change, log_in, log_out])
async def test_a_lock_around_a_transaction_that_is_undone_is_released(
    open_shop: OpenShop, way: str, what: Callable[[Session], dict[str, Any]]
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def fail(session: Session) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with locked(session, way):
                what(session)
                await shop.save(session, "rollback")
                raise ZeroDivisionError

    await browser.visit(fail)
    held = text(f"SELECT count(*) FROM {shop.sessions} WHERE locked_by IS NOT NULL")
    assert (await in_transaction(shop.engine, held))[0][0] == 0
    assert await browser.read() == {"cart": ["tea", "cup"]}


async def test_the_sessions_data_is_in_no_traceback(open_shop: OpenShop) -> None:
    shop = await open_shop("psycopg-wsgi")
    browser = await with_cart(shop)
    gone = text(f"ALTER TABLE {shop.sessions} RENAME TO {shop.sessions}_x")

    async def order(session: Session) -> str:
        session["cart"] = ["a secret thing"]
        await in_transaction(shop.engine, gone)
        with pytest.raises(StoreError) as raised:
            await shop.save(session)
        return "".join(traceback.format_exception(raised.value))

    shown = (await browser.visit(order)).result
    assert "does not exist" in shown
    assert "a secret thing" not in shown


async def test_nothing_is_kept_of_a_connection_that_was_joined(open_shop: OpenShop) -> None:
    shop = await open_shop("psycopg-wsgi")
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"] = []
        await shop.save(session)
        session["cart"] = ["tea"]
        await shop.save(session, "rollback")

    await browser.visit(order)
    gc.collect()
    joins = shop.site._direct._joins  # type: ignore[union-attr]
    assert not joins._watches


@one_a_database
async def test_what_changes_while_the_transaction_goes_on_is_refused_outside_of_it(
    open_shop: OpenShop, way: str
) -> None:
    """It would wait for the row that its own request keeps."""
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"] = []
        async with shop.transaction() as connection:
            await session.save(within=connection)
            await session.save()
            session["late"] = True
            with pytest.raises(SessionError, match="transaction that goes on"):
                await session.save()
            with pytest.raises(SessionError, match=r"reload\(\) comes after"):
                await session.reload()

    await browser.visit(order)
    assert await browser.read() == {"cart": [], "late": True}


@one_a_database
@endings
async def test_reload_shows_what_came_of_it(open_shop: OpenShop, way: str, ending: Ending) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> dict[str, Any]:
        session["cart"] = []
        await shop.save(session, ending)
        await session.reload()
        return dict(session)

    cart = [] if ending == "commit" else ["tea", "cup"]
    assert (await browser.visit(order)).result == {"cart": cart}


@one_a_database
@endings
async def test_a_transaction_may_be_inside_of_a_lock(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        async with locked(session, way):
            session["cart"] = []
            await shop.save(session, ending)
            session["tries"] = 1
        async with locked(session, way):
            session["tries"] += 1

    await browser.visit(order)
    cart = [] if ending == "commit" else ["tea", "cup"]
    assert await browser.read() == {"cart": cart, "tries": 2}


@one_a_database
async def test_a_lock_is_not_taken_while_the_transaction_has_the_row(
    open_shop: OpenShop, way: str
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"] = []
        async with shop.transaction() as connection:
            await session.save(within=connection)
            with pytest.raises(SessionError, match=r"lock\(\) comes after"):
                async with locked(session, way):
                    pass

    await browser.visit(order)
    assert await browser.read() == {"cart": []}


@pytest.mark.parametrize("way", ["psycopg-wsgi", "asyncpg-asgi", "asyncmy-asgi"])
async def test_a_lock_does_not_end_inside_of_a_transaction(open_shop: OpenShop, way: str) -> None:
    """Its release would wait for the row that its own request keeps."""
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        with pytest.raises(SessionError, match="belongs around the transaction"):  # noqa: PT012
            async with shop.transaction() as connection, locked(session, way):
                session["cart"] = []
                await session.save(within=connection)

    await browser.visit(order)
    held = text(f"SELECT count(*) FROM {shop.sessions} WHERE locked_by IS NOT NULL")
    assert (await in_transaction(shop.engine, held))[0][0] == 0
    assert await browser.read() == {"cart": ["tea", "cup"]}


@asynccontextmanager
async def locked(session: Session, way: str) -> AsyncIterator[None]:
    if way.endswith("asgi"):
        async with session.lock():
            yield
    else:
        with session.lock():
            yield


@one_a_database
async def test_a_conflict_within_it_is_one(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way, on_conflict="error")
    browser = await with_cart(shop)
    other_tab = browser.twin()

    async def order(session: Session) -> None:
        session["cart"] = []
        await tab(other_tab, theirs=True)
        with pytest.raises(Conflict):
            await shop.save(session)

    await browser.visit(order)
    assert await shop.orders_made() == 0
    assert await browser.read() == {"cart": ["tea", "cup"], "theirs": True}


@one_a_database
async def test_an_error_undoes_the_order_and_the_change_is_not_saved_later(
    open_shop: OpenShop, way: str
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    gone = text(f"ALTER TABLE {shop.sessions} RENAME TO {shop.sessions}_x")
    back = text(f"ALTER TABLE {shop.sessions}_x RENAME TO {shop.sessions}")

    async def order(session: Session) -> None:
        session["cart"] = []
        await in_transaction(shop.engine, gone)
        try:
            with pytest.raises(StoreError):
                await shop.save(session)
        finally:
            await in_transaction(shop.engine, back)
        session["error"] = "sold out"

    await browser.visit(order)
    assert await shop.orders_made() == 0
    assert await browser.read() == {"cart": ["tea", "cup"], "error": "sold out"}


@one_a_database
async def test_a_handler_that_raises_after_it_leaves_what_was_committed(
    open_shop: OpenShop, way: str
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)

    async def order(session: Session) -> None:
        session["cart"] = []
        await shop.save(session)
        session["late"] = True
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await browser.visit(order)
    assert await browser.read() == {"cart": []}


@one_a_database
@endings
async def test_a_store_within_a_transaction_is_a_store(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way)
    sids = [a_sid() for _ in range(3)]
    for sid in sids:
        await shop.site.put(sid, {"n": 1})

    async with shop.transaction(ending) as connection:
        await shop.store("set", sids[0], {"n": 2}, within=connection)
        await shop.store("update", sids[1], lambda values: values.update(n=2), within=connection)
        await shop.store("destroy", sids[2], within=connection)
        assert await shop.store("get", sids[1], within=connection) == {"n": 2}
        assert await shop.store("length", within=connection) == 2
    stored = [await shop.site.stored(sid) for sid in sids]
    assert stored == ([{"n": 2}, {"n": 2}, None] if ending == "commit" else [{"n": 1}] * 3)
    assert await shop.orders_made() == (ending == "commit")


async def test_scoped_sessions_are_sessions(open_shop: OpenShop) -> None:
    shop = await open_shop("psycopg-wsgi")
    assert isinstance(shop.engine, Engine)
    scoped = orm.scoped_session(orm.sessionmaker(shop.engine))
    sid = a_sid()
    await shop.store("set", sid, {"n": 1}, within=scoped)
    assert await shop.site.stored(sid) is None
    scoped.commit()
    assert await shop.site.stored(sid) == {"n": 1}
    scoped.remove()

    shop = await open_shop("asyncpg-asgi")
    assert isinstance(shop.engine, AsyncEngine)
    async_scoped = async_scoped_session(async_sessionmaker(shop.engine), scopefunc=lambda: 1)
    await shop.store("set", sid, {"n": 1}, within=async_scoped)
    assert await shop.site.stored(sid) is None
    await async_scoped.commit()
    assert await shop.site.stored(sid) == {"n": 1}
    await async_scoped.remove()


async def test_an_orm_session_of_several_databases_finds_the_one_with_the_table(
    services: Services,
) -> None:
    other, here = (create_engine(services.url("sqlite")) for _ in range(2))
    metadata = MetaData()
    with SQLSessionStore(here, registry=metadata, check_expiration_interval=None) as store:
        store.sync()
        table: Table = store.table
        with orm.Session(other, binds={table: here}) as session, session.begin():
            store.within(session).set(sid := a_sid(), {"n": 1})
        assert store.get(sid) == {"n": 1}
    other.dispose()
    here.dispose()


async def test_what_has_no_transaction_is_refused(services: Services) -> None:
    postgres, sqlite = create_engine(services.url("psycopg")), create_engine("sqlite://")
    with SQLSessionStore(services.url("sqlite"), check_expiration_interval=None) as store:
        for wrong in (None, postgres, "a", object()):
            with pytest.raises(TypeError, match=r"Connection or an orm\.Session"):
                store.within(wrong)  # type: ignore[arg-type]
        with (
            postgres.connect() as connection,
            pytest.raises(ConfigurationError, match="which is sqlite; this one is to postgresql"),
        ):
            store.within(connection).get(a_sid())
    async with AsyncSQLSessionStore(
        services.url("sqlite"), check_expiration_interval=None
    ) as async_store:
        with (
            sqlite.connect() as connection,
            pytest.raises(TypeError, match="AsyncConnection or an AsyncSession"),
        ):
            async_store.within(connection)  # type: ignore[arg-type]
    postgres.dispose()
    sqlite.dispose()


@pytest.mark.parametrize("kind", [MemoryStore, AsyncMemoryStore])
async def test_a_store_without_transactions_says_so(kind: type[Any]) -> None:
    adapter = kinds.WAYS["sqlite-wsgi" if kind is MemoryStore else "sqlite-asgi"].adapter
    store = kind()
    site = Site(adapter, store, store.clock, {})
    browser = site.browser()

    async def save(session: Session) -> None:
        session["n"] = 1
        with pytest.raises(ConfigurationError, match="has no transactions"):
            await session.save(within=create_engine("sqlite://").connect())

    await browser.visit(save)
    assert await browser.read() == {"n": 1}


@pytest.mark.parametrize("way", ["psycopg-asgi", "asyncpg-asgi", "asyncmy-asgi"])
@endings
async def test_a_write_waits_for_the_transaction_and_is_merged(
    open_shop: OpenShop, way: str, ending: Ending
) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    other_tab = browser.twin()
    waiting: list[asyncio.Task[None]] = []

    async def order(session: Session) -> None:
        session["cart"] = []
        async with shop.transaction(ending) as connection:
            await session.save(within=connection)
            waiting.append(asyncio.create_task(tab(other_tab, theirs=True)))
            await waits_for_a_lock(shop)

    await browser.visit(order)
    await waiting[0]
    cart = [] if ending == "commit" else ["tea", "cup"]
    assert await browser.read() == {"cart": cart, "theirs": True}


@pytest.mark.parametrize("way", ["psycopg-asgi", "asyncpg-asgi", "asyncmy-asgi"])
async def test_a_logout_waits_for_the_transaction(open_shop: OpenShop, way: str) -> None:
    shop = await open_shop(way)
    browser = await with_cart(shop)
    other_tab = browser.twin()
    waiting: list[asyncio.Task[Any]] = []

    async def order(session: Session) -> None:
        session["cart"] = []
        async with shop.transaction() as connection:
            await session.save(within=connection)
            waiting.append(asyncio.create_task(shop.site.end(other_tab.sid)))
            await waits_for_a_lock(shop)

    await browser.visit(order)
    await waiting[0]
    assert await shop.site.length() == 0


async def waits_for_a_lock(shop: Shop) -> None:
    """Until a statement on the table of sessions waits for one."""
    looks = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity"
        f" WHERE wait_event_type = 'Lock' AND query LIKE '%{shop.sessions}%'",
        "mysql": "SELECT count(*) FROM information_schema.innodb_trx"
        f" WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%{shop.sessions}%'",
    }
    look = text(looks[shop.engine.dialect.name])
    async with asyncio.timeout(10):
        while not (await in_transaction(shop.engine, look))[0][0]:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0)
