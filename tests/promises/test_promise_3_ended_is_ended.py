"""Promise 3: a destroyed or expired session never comes back: a slow request that finishes after
a logout can not re-create the row."""

from __future__ import annotations

import pytest

from tests.promises.conftest import OpenSite
from websessions import Session

ways = pytest.mark.parametrize(
    "way", ["sqlite-wsgi", "sqlite-asgi", "psycopg-wsgi", "asyncpg-asgi", "asyncmy-asgi"]
)


@ways
@pytest.mark.parametrize("change", ["write", "regenerate", "touch", "read"])
async def test_a_slow_request_does_not_undo_a_logout(
    open_site: OpenSite, way: str, change: str
) -> None:
    site = await open_site(way, store={"touch_after": 0})
    browser = site.browser()
    await browser.visit(lambda session: session.update(user_id=7))
    other_tab = browser.twin()

    async def slow(session: Session) -> None:
        assert session["user_id"] == 7
        if change == "write":
            session["late"] = True
        elif change == "regenerate":
            session.regenerate()
        elif change == "touch":
            session.touch()
        site.clock.advance(60)
        await other_tab.visit(lambda session: session.destroy())

    visit = await browser.visit(slow)
    assert visit.status == 200
    assert visit.cookie is None
    assert await site.length() == 0
    assert await browser.read() == {}


@ways
@pytest.mark.parametrize("change", ["write", "touch"])
async def test_a_slow_request_does_not_undo_an_expiry(
    open_site: OpenSite, way: str, change: str
) -> None:
    site = await open_site(way, store={"expiration": 3600, "touch_after": 0})
    browser = site.browser()
    await browser.visit(lambda session: session.update(user_id=7))

    def slow(session: Session) -> None:
        assert session["user_id"] == 7
        if change == "write":
            session["late"] = True
        else:
            session.touch()
        site.clock.advance(3600)

    await browser.visit(slow)
    assert await site.length() == 0
    assert await browser.read() == {}


@ways
async def test_a_slow_request_under_the_old_id_does_not_undo_a_login(
    open_site: OpenSite, way: str
) -> None:
    """Session fixation: what began before the login has no say after it."""
    site = await open_site(way)
    browser = site.browser()
    await browser.visit(lambda session: session.update(cart=[1]))
    other_tab = browser.twin()

    def login(session: Session) -> None:
        session.regenerate()
        session.user_id = 7

    async def slow(session: Session) -> None:
        session["user_id"] = "the thief"
        await other_tab.visit(login)

    visit = await browser.visit(slow)
    assert visit.cookie is None
    assert await other_tab.read() == {"cart": [1], "user_id": 7}
    assert await browser.read() == {}
    assert await site.length() == 1
