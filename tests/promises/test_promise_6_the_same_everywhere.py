"""Promise 6: sync and async, ASGI and WSGI, every framework: the same behaviour, from the same
code, checked by the same suite (tests/adapters/suite.py)."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any

import pytest

from tests.adapters.apps import ADAPTERS
from tests.adapters.kit import Adapter, Site
from tests.fixtures.services import Services
from websessions import (
    AsyncMemoryStore,
    AsyncSessionStore,
    CookieSettings,
    MemoryStore,
    Session,
    SessionStore,
    asgi,
    exchange,
    wsgi,
)
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.testing import FakeClock

DRIVERS = ["memory", "sqlite", "psycopg", "pymysql"]


def login(session: Session) -> None:
    session.regenerate()
    session.user_id = 7
    session.cookie.max_age = 3600


def logout(session: Session) -> None:
    session.destroy()
    session["message"] = "goodbye"


STORY: list[tuple[str, Any]] = [
    ("comes", lambda session: None),
    ("looks", lambda session: session.get("cart")),
    ("fills a cart", lambda session: session.update(cart=["pear"])),
    ("adds to it", lambda session: session["cart"].append("plum")),
    ("logs in", login),
    ("reads", lambda session: dict(session)),
    ("looks again, later", lambda session: session.user_id),
    ("logs out", logout),
    ("reads the message", lambda session: session.pop("message")),
    ("leaves", lambda session: session.destroy()),
]


async def told(site: Site) -> list[Any]:
    """What each visit of the story gave, and asked of the store; ids by their order of coming."""
    names: dict[str, str] = {}
    browser, transcript = site.browser("https://shop.example"), []
    for step, work in STORY:
        site.clock.advance(61)
        visit = await browser.visit(work)
        cookie = visit.cookie or ""
        value = cookie.partition("=")[2].partition(";")[0]
        name = names.setdefault(value, f"<{len(names)}>")
        headers = [visit.headers.get(header) for header in ("vary", "cache-control")]
        attributes = cookie.partition(";")[2]
        calls = [call for call in site.store.kinds if call != "load"]
        transcript.append((step, visit.status, visit.result, name, attributes, headers, calls))
    return transcript


def open_store(adapter: Adapter, driver: str, services: Services, **rules: Any) -> Any:
    if driver == "memory":
        return AsyncMemoryStore(**rules) if adapter.asynchronous else MemoryStore(**rules)
    kind = AsyncSQLSessionStore if adapter.asynchronous else SQLSessionStore
    return kind(services.url(driver), **rules)


async def site_of(adapter: Adapter, driver: str, services: Services) -> Site:
    clock = FakeClock()
    store: SessionStore | AsyncSessionStore = open_store(
        adapter, driver, services, clock=clock, check_expiration_interval=None
    )
    if isinstance(store, SessionStore):
        store.sync()
    else:
        await store.sync()
    options = {"cookie": CookieSettings(name="sid", samesite="strict")}
    return Site(adapter, store, clock, options)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
async def test_every_framework_on_every_database_tells_the_same_story(
    adapter: Adapter, driver: str, services: Services
) -> None:
    reference = await site_of(ADAPTERS[0], "memory", services)
    expected = await told(reference)
    await reference.close()
    assert [entry[-1] for entry in expected] == [
        *([], [], ["insert"], ["replace"], ["replace"], ["touch"], ["touch"]),
        *(["delete", "insert"], ["replace"], ["delete"]),
    ]
    site = await site_of(adapter, driver, services)
    try:
        got = await told(site)
    finally:
        await site.close()
    if not adapter.asynchronous:
        # Nobody looked, so nothing was loaded: lazily is the one difference there is.
        assert got[0] == expected[0]
    assert got == expected


@pytest.mark.parametrize("module", [asgi, wsgi, exchange], ids=lambda module: module.__name__)
def test_adapters_translate_and_decide_nothing(module: ModuleType) -> None:
    """What to do is decided in the lifecycle; none of its parts is within an adapter's reach."""
    deciding = {"outcome", "expiry", "merge", "cookie", "codec", "sid"}
    calls = {"Load", "Insert", "Replace", "Touch", "Delete", "Put"}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").rpartition(".")[2] not in deciding
            assert not calls & {alias.name for alias in node.names}
