"""Promise 4: a request that only reads costs at most one statement, autocommitted: one round trip.
One that does not touch the session costs none where the framework lets it load lazily (sync), on
opted-out paths, and whenever it sends no valid cookie. An unchanged session is not rewritten.

Counted on the wire, where a driver can hide nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import create_engine

from tests.adapters.kit import Browser, Site
from tests.fixtures.services import Services
from tests.fixtures.wire import Seen, SQLiteTap, WireTap
from tests.promises.conftest import OpenSite
from tests.promises.ways import WAYS
from websessions import Session


@dataclass
class Tapped:
    """A site whose connections are warm: the first statement on one may prepare, or ask."""

    way: str
    site: Site
    recording: Callable[[], AbstractContextManager[Seen]]

    async def cost(self, browser: Browser, work: Callable[[Session], Any], **how: Any) -> list[str]:
        """The statements of one visit, each of them one round trip."""
        with self.recording() as seen:
            await browser.visit(work, **how)
        kinds = [statement.kind for statement in seen.statements]
        assert seen.round_trips == len(kinds), (kinds, seen.commands)
        assert not any(statement.controls_transaction for statement in seen.statements)
        return kinds


def read(session: Session) -> None:
    session.get("a")


def write(session: Session) -> None:
    session["a"] = session.get("a", 0) + 1


@pytest.fixture(params=WAYS)
async def tapped(
    request: pytest.FixtureRequest, services: Services, open_site: OpenSite
) -> AsyncIterator[Tapped]:
    way: str = request.param
    url = services.url(WAYS[way].driver)
    options: dict[str, Any] = {"exclude": ["/static"], "store": {"touch_after": 60}}
    if WAYS[way].driver == "sqlite":
        engine = create_engine(url)
        with SQLiteTap(engine) as tap:
            site = await open_site(way, engine, **options)
            await warm_up(site)
            yield Tapped(way, site, tap.recording)
        engine.dispose()
        return
    with WireTap.of(url) as wire:
        site = await open_site(way, wire.through(url), **options)
        await warm_up(site)
        yield Tapped(way, site, wire.recording)
        await site.close()


async def warm_up(site: Site) -> None:
    browser = site.browser()
    for work in (write, read, write, read, lambda session: session.regenerate(), read):
        await browser.visit(work)
    site.clock.advance(60)
    await browser.visit(read)
    await browser.visit(lambda session: session.destroy())


async def test_reading_costs_one_statement(tapped: Tapped) -> None:
    browser = tapped.site.browser()
    await browser.visit(write)
    for _ in range(3):
        assert await tapped.cost(browser, read) == ["SELECT"]


async def test_an_unchanged_session_is_not_rewritten(tapped: Tapped) -> None:
    """Not even where a handler wrote what was there, or had a list in its hands."""
    browser = tapped.site.browser()
    await browser.visit(lambda session: session.update(a=1, cart=["pear"]))
    works: list[Callable[[Session], Any]] = [
        lambda session: session["cart"].count("pear"),
        lambda session: session.update(a=1, cart=["pear"]),
        lambda session: (session["cart"].append("plum"), session["cart"].pop()),
    ]
    for work in works:
        assert await tapped.cost(browser, work) == ["SELECT"]


async def test_the_first_write_costs_one_statement_a_later_one_two(tapped: Tapped) -> None:
    browser = tapped.site.browser()
    assert await tapped.cost(browser, write) == ["INSERT"]
    assert await tapped.cost(browser, write) == ["SELECT", "UPDATE"]
    assert await tapped.cost(browser, write) == ["SELECT", "UPDATE"]


async def test_logging_in_and_out_costs_two_statements_each(tapped: Tapped) -> None:
    browser = tapped.site.browser()
    await browser.visit(write)
    login = await tapped.cost(browser, lambda session: session.regenerate())
    assert login == ["SELECT", "UPDATE"]

    def read_and_leave(session: Session) -> None:
        read(session)
        session.destroy()

    logout = await tapped.cost(browser, read_and_leave)
    assert logout == ["SELECT", "DELETE"]


async def test_a_touch_costs_a_statement_once_per_touch_after(tapped: Tapped) -> None:
    browser = tapped.site.browser()
    await browser.visit(write)
    tapped.site.clock.advance(59)
    assert await tapped.cost(browser, read) == ["SELECT"]
    tapped.site.clock.advance(1)
    assert await tapped.cost(browser, read) == ["SELECT", "UPDATE"]
    assert await tapped.cost(browser, read) == ["SELECT"]


async def test_a_lock_costs_three_statements_and_who_never_locks_pays_none(tapped: Tapped) -> None:
    """It is taken, what it protects is read again, and it is released. The rest is as ever."""

    async def count(session: Session) -> None:
        async with session.lock():
            write(session)

    browser = tapped.site.browser()
    await browser.visit(write)
    await browser.visit(count)  # the first on a connection may prepare
    locked = await tapped.cost(browser, count)
    assert locked == ["SELECT", "UPDATE", "SELECT", "UPDATE", "UPDATE"]
    assert await tapped.cost(browser, write) == ["SELECT", "UPDATE"]
    assert await tapped.cost(browser, read) == ["SELECT"]


async def test_an_anonymous_visitor_costs_nothing(tapped: Tapped) -> None:
    assert await tapped.cost(tapped.site.browser(), lambda session: None) == []
    assert await tapped.cost(tapped.site.browser(), read) == []


async def test_an_id_that_finds_nothing_is_looked_for_twice(tapped: Tapped) -> None:
    """It may have been a session's until a moment ago. Who finds the session pays for one."""
    browser = tapped.site.browser()
    await browser.visit(write)
    tab = browser.twin()
    await browser.visit(lambda session: session.regenerate())
    assert await tapped.cost(browser, read) == ["SELECT"]
    await tab.visit(read)  # the first on a connection may prepare
    assert await tapped.cost(tab, read) == ["SELECT", "SELECT"]
    tapped.site.clock.advance(5)
    assert await tapped.cost(tab, read) == ["SELECT", "SELECT"]
    assert await tapped.cost(browser, read) == ["SELECT"]


async def test_a_forged_cookie_costs_nothing(tapped: Tapped) -> None:
    for forged in ("x", "x" * 5000, "f" * 43 + "." + "f" * 43, '"', "s%3A"):
        headers = {"cookie": f"sid={forged}"}
        assert await tapped.cost(tapped.site.browser(), read, sending=headers) == []


async def test_a_path_that_opted_out_costs_nothing(tapped: Tapped) -> None:
    browser = tapped.site.browser()
    await browser.visit(write)
    assert await tapped.cost(browser, lambda session: None, path="/static/app.css") == []


async def test_a_session_that_nobody_looks_at_costs_nothing_in_sync_code(tapped: Tapped) -> None:
    """Async code loads before the handler runs, for a handler can not wait for a dict."""
    browser = tapped.site.browser()
    await browser.visit(write)
    cost = await tapped.cost(browser, lambda session: None)
    assert cost == (["SELECT"] if tapped.site.adapter.asynchronous else [])
