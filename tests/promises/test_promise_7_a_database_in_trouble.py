"""Promise 7: a session database that is down, slow, full or restarting gives the app a clear error
or a bounded retry, never a silently empty session, never a logged-out user who was logged in."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import pytest
from sqlalchemy import create_engine, event

from tests.adapters.kit import Browser, Site
from tests.fixtures.private import PrivatePostgres
from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.promises.conftest import OpenSite
from tests.promises.ways import WAYS
from websessions import Session, StoreError, StoreTimeout, StoreUnavailable

SERVERS = [way for way in WAYS if not way.startswith("sqlite")]


def log_in(session: Session) -> None:
    session.user_id = 7


async def logged_in(site: Site) -> Browser:
    browser = site.browser()
    await browser.visit(log_in)
    return browser


def refuses(session: Session) -> None:
    """No handler gets to see an empty session in place of the one it can not have."""
    assert session.user_id == 7


@pytest.mark.parametrize("way", SERVERS)
async def test_down(open_site: OpenSite, services: Services, way: str) -> None:
    """An error, at once; and when it is back, everybody is who they were."""
    url = services.url(WAYS[way].driver)
    with WireTap.of(url) as tap:
        site = await open_site(way, tap.through(url))
        browser = await logged_in(site)
        cookie = browser.cookie
        tap.cut()
        began = time.monotonic()
        for work in (refuses, lambda session: session.update(a=1), lambda session: session.clear()):
            with pytest.raises(StoreUnavailable):
                await browser.visit(work)
        with pytest.raises(StoreUnavailable):
            await site.browser().visit(log_in)
        assert time.monotonic() - began < 5
        tap.heal()
        assert browser.cookie == cookie
        assert await browser.read() == {"user_id": 7}
        await site.close()


@pytest.mark.parametrize("way", SERVERS)
async def test_slow(open_site: OpenSite, services: Services, way: str) -> None:
    """An error once the time that the app allows has passed."""
    url = services.url(WAYS[way].driver)
    with WireTap.of(url) as tap:
        site = await open_site(way, tap.through(url), store={"timeout": 1})
        browser = await logged_in(site)
        tap.stall()
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            await browser.visit(refuses)
        assert 0.5 < time.monotonic() - began < 10
        tap.heal()
        assert await browser.read() == {"user_id": 7}
        await site.close()


@pytest.mark.parametrize("way", ["psycopg-wsgi", "psycopg-asgi", "asyncpg-asgi"])
async def test_restarting(open_site: OpenSite, private_postgres: PrivatePostgres, way: str) -> None:
    """Connections that the restart killed are replaced unnoticed, however many there were."""
    site = await open_site(way, private_postgres.url_for(WAYS[way].driver))
    browser = await logged_in(site)
    private_postgres.kill()
    with pytest.raises(StoreUnavailable):
        await browser.visit(refuses)
    private_postgres.start()
    assert await browser.read() == {"user_id": 7}
    private_postgres.stop()
    private_postgres.start()
    await browser.visit(lambda session: session.update(a=1))
    assert await browser.read() == {"user_id": 7, "a": 1}
    await site.close()


@pytest.mark.parametrize("way", SERVERS)
@pytest.mark.parametrize("change", ["write", "login", "logout"])
async def test_a_connection_that_breaks_in_the_middle_of_a_save(
    open_site: OpenSite, services: Services, way: str, change: str
) -> None:
    """The statement was carried out, its answer was lost. It is repeated, and done once."""
    url = services.url(WAYS[way].driver)
    with WireTap.of(url) as tap:
        site = await open_site(way, tap.through(url))
        browser = await logged_in(site)

        def work(session: Session) -> None:
            assert session.user_id == 7
            if change == "logout":
                session.destroy()
            else:
                session["visits"] = session.get("visits", 0) + 1
            if change == "login":
                session.regenerate()
            tap.cut_after(1)

        await browser.visit(work)
        tap.heal()
        wanted: dict[str, Any] = {} if change == "logout" else {"user_id": 7, "visits": 1}
        assert await browser.read() == wanted
        assert await site.length() == (0 if change == "logout" else 1)
        await site.close()


@pytest.mark.parametrize("way", ["sqlite-wsgi", "sqlite-asgi"])
async def test_full(open_site: OpenSite, services: Services, way: str) -> None:
    """What does not fit is an error, and what is there stays."""
    engine = create_engine(services.url("sqlite"))

    @event.listens_for(engine, "connect")
    def keep_it_small(connection: sqlite3.Connection, record: Any) -> None:
        connection.execute("PRAGMA max_page_count = 20")

    site = await open_site(way, engine)
    browser = await logged_in(site)
    with pytest.raises(StoreError):
        await browser.visit(lambda session: session.update(much="x" * 500_000))
    assert await browser.read() == {"user_id": 7}
    await browser.visit(lambda session: session.update(little="x"))
    assert await browser.read() == {"user_id": 7, "little": "x"}
    await site.close()
    engine.dispose()


@pytest.mark.parametrize("way", ["sqlite-wsgi", "sqlite-asgi"])
async def test_a_touch_is_not_worth_an_answer(
    open_site: OpenSite, services: Services, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that can only be read still serves whoever only reads."""
    url = services.url("sqlite")
    engine = create_engine(url)
    site = await open_site(way, engine)
    browser = await logged_in(site)
    site.clock.advance(3600)

    @event.listens_for(engine, "checkout")
    def read_only(connection: sqlite3.Connection, *_: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    assert await browser.read() == {"user_id": 7}
    assert "may expire early" in caplog.text
    await site.close()
    engine.dispose()
