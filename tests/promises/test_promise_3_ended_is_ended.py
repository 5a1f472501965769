"""Promise 3: a destroyed or expired session never comes back: a slow request that finishes after
a logout can not re-create the row."""

from __future__ import annotations

from collections.abc import Callable

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


def log_in(session: Session) -> None:
    session.regenerate()
    session.user_id = 7  # says that it is a login


def become_admin(session: Session) -> None:
    session.regenerate(privilege=True)
    session["admin"] = True


async def log_in_and_save_first(session: Session) -> None:
    session.user_id = 7
    saved = session.save()
    if saved is not None:
        await saved
    session.regenerate()


@ways
async def test_a_login_that_saves_before_it_regenerates_leaves_the_old_id_nothing(
    open_site: OpenSite, way: str
) -> None:
    """Who had planted the old id would be the new user for as long as a grace lasts."""
    site = await open_site(way)
    browser = site.browser()
    await browser.visit(lambda session: session.update(cart=[1]))
    thief = browser.twin()

    await browser.visit(log_in_and_save_first)

    assert await browser.read() == {"cart": [1], "user_id": 7}
    assert await thief.read() == {}


@ways
@pytest.mark.parametrize("change", [log_in, become_admin])
async def test_a_slow_request_under_the_old_id_does_not_undo_a_login(
    open_site: OpenSite, way: str, change: Callable[[Session], None]
) -> None:
    """Session fixation: what began before the login has no say after it, and reads nothing."""
    site = await open_site(way)
    browser = site.browser()
    await browser.visit(lambda session: session.update(cart=[1]))
    other_tab = browser.twin()

    async def slow(session: Session) -> None:
        session["user_id"] = "the thief"
        await other_tab.visit(change)

    visit = await browser.visit(slow)
    assert visit.cookie is None
    after = await other_tab.read()
    assert after == {"cart": [1], **({"user_id": 7} if change is log_in else {"admin": True})}
    assert await browser.read() == {}
    assert await site.length() == 1


@ways
async def test_an_old_id_in_its_grace_ends_with_a_login(open_site: OpenSite, way: str) -> None:
    """A new id for no reason, and then a login: none of the ids before it is alive."""
    site = await open_site(way)
    browser = site.browser()
    await browser.visit(lambda session: session.update(cart=[1]))
    oldest = browser.twin()
    await browser.visit(lambda session: session.regenerate())
    assert await oldest.read() == {"cart": [1]}
    older = browser.twin()
    await browser.visit(log_in)
    for thief in (oldest, older):
        assert await thief.read() == {}
    assert await browser.read() == {"cart": [1], "user_id": 7}
