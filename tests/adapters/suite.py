"""What every adapter does, told once: stories of browsers that visit a site.

A module that brings a fixture `open_site` subclasses `AdapterSuite`; see test_adapters.py.
"""

from __future__ import annotations

import gc
import inspect
import logging
from datetime import timedelta
from typing import Any, Protocol

import pytest

from tests.adapters.kit import SECRET, Boom, Plan, Site, Work
from tests.fixtures.garbage import our_garbage
from websessions import (
    ConfigurationError,
    Conflict,
    CookieSettings,
    CorruptRecord,
    Session,
    SessionEncodingError,
    SessionError,
    SessionLocked,
    Sid,
    StoreUnavailable,
    resolvers,
)
from websessions.cookie import SignedValue
from websessions.store import Delete, Insert, Load, Lock, Replace, Touch

__all__ = ["AdapterSuite", "OpenSite"]

DAY = timedelta(days=1)
FRESH = "f" * 43


class OpenSite(Protocol):
    """Opens a site with the middleware's options, and with the store's as `store`."""

    async def __call__(self, *, store: dict[str, Any] | None = None, **options: Any) -> Site: ...


def put(**values: Any) -> Work:
    """Work that puts values into the session."""

    def work(session: Session) -> None:
        session.update(values)

    return work


def look(session: Session) -> None:
    """Work that reads the session and changes nothing."""
    session.get("a")


def signed(sid: str, *, name: str = "sid", secret: str = SECRET) -> str:
    return SignedValue(name, [secret.encode()]).sign(Sid(sid))


def regenerate(session: Session) -> None:
    session.regenerate()


def destroy(session: Session) -> None:
    session.destroy()


class AdapterSuite:
    # A session's life

    async def test_a_visitor_is_nobody_until_something_is_written(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        browser = site.browser()
        visit = await browser.visit(lambda session: (session.is_new, dict(session)))
        assert visit.result == (True, {})
        assert visit.cookie is None
        assert site.store.kinds == []
        assert await site.length() == 0

    async def test_what_is_written_is_there_at_the_next_visit(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        first = await browser.visit(put(a=1))
        assert first.cookie is not None
        assert site.store.kinds == ["insert"]
        second = await browser.visit(lambda session: (session.is_new, dict(session)))
        assert second.result == (False, {"a": 1})
        assert second.cookie is None
        assert site.store.kinds == ["load"]
        assert await site.length() == 1

    async def test_a_read_and_a_change_are_two_calls(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        assert site.store.kinds == ["insert"]
        await browser.visit(put(a=2))
        assert site.store.kinds == ["load", "replace"]
        assert await browser.read() == {"a": 2}

    async def test_changes_deep_inside_count(self, open_site: OpenSite) -> None:
        browser = (await open_site()).browser()
        await browser.visit(put(cart={"items": [{"n": 1}]}))
        await browser.visit(lambda session: session["cart"]["items"][0].update(n=2))
        await browser.visit(lambda session: session["cart"]["items"].append("b"))
        assert await browser.read() == {"cart": {"items": [{"n": 2}, "b"]}}

    async def test_a_change_taken_back_is_none(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=[1]))
        assert site.store.kinds == ["insert"]
        await browser.visit(lambda session: (session["a"].append(2), session["a"].pop()))
        assert site.store.kinds == ["load"]

    async def test_removing_is_a_change(self, open_site: OpenSite) -> None:
        browser = (await open_site()).browser()
        await browser.visit(put(a=1, b=2))
        await browser.visit(lambda session: session.pop("a"))
        assert await browser.read() == {"b": 2}
        await browser.visit(lambda session: session.clear())
        assert await browser.read() == {}
        assert browser.cookie is not None

    async def test_each_browser_has_its_own(self, open_site: OpenSite) -> None:
        site = await open_site()
        one, other = site.browser(), site.browser()
        await one.visit(put(a=1))
        await other.visit(put(a=2))
        assert (await one.read(), await other.read()) == ({"a": 1}, {"a": 2})
        assert one.sid != other.sid

    async def test_the_handler_sees_the_id_that_the_browser_gets(self, open_site: OpenSite) -> None:
        browser = (await open_site()).browser()

        def work(session: Session) -> str:
            session["a"] = 1
            return session.id.value

        first = await browser.visit(work)
        assert first.result == browser.sid
        assert (await browser.visit(lambda session: session.id.value)).result == browser.sid

    # regenerate

    async def test_regenerating_keeps_the_data_under_a_new_id(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(cart=[1]))
        before = browser.sid

        def login(session: Session) -> None:
            session.regenerate()
            session.user_id = 7

        await browser.visit(login)
        assert browser.sid != before
        assert await browser.read() == {"cart": [1], "user_id": 7}
        assert await site.length() == 1
        assert await site.stored(before) is None

    @pytest.mark.parametrize("grace", [5, 0])
    async def test_at_a_login_the_old_id_is_dead_at_once(
        self, open_site: OpenSite, grace: float
    ) -> None:
        """Session fixation: who planted or overheard it has nothing."""
        site = await open_site(regenerate_grace=grace)
        browser = site.browser()
        await browser.visit(put(cart=[1]))
        thief = browser.twin()
        assert await thief.read() == {"cart": [1]}
        await browser.visit(lambda session: session.regenerate(privilege=True))
        visit = await thief.visit(lambda session: (session.is_new, dict(session)))
        assert visit.result == (True, {})

    async def test_an_old_id_has_a_grace_for_what_is_under_way(self, open_site: OpenSite) -> None:
        """It reads and writes the same session, its response has no cookie, and then it is over."""
        site = await open_site(rolling=True)
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()
        await browser.visit(lambda session: session.regenerate())
        assert browser.sid != tab.sid
        visit = await tab.visit(put(b=2))
        assert visit.cookie is None
        assert (await tab.visit(lambda session: session.is_new)).result is False
        assert await browser.read() == {"a": 1, "b": 2}
        assert await site.length() == 1
        site.clock.advance(5)
        assert await tab.read() == {}
        assert await browser.read() == {"a": 1, "b": 2}

    async def test_a_write_under_way_when_the_id_changes_is_merged(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site(rolling=True)
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()

        async def slow(session: Session) -> None:
            session["b"] = 2
            await tab.visit(lambda session: session.regenerate())

        visit = await browser.visit(slow)
        assert visit.cookie is None
        assert await tab.read() == {"a": 1, "b": 2}
        assert await site.length() == 1

    async def test_two_that_regenerate_at_once_leave_one_new_id(self, open_site: OpenSite) -> None:
        """The browser gets it from the first, and nothing that would overwrite it."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()

        async def slow(session: Session) -> None:
            session["b"] = 2
            session.regenerate()
            await tab.visit(lambda session: session.regenerate())

        visit = await browser.visit(slow)
        assert visit.cookie is None
        assert await tab.read() == {"a": 1, "b": 2}
        assert await site.length() == 1
        site.clock.advance(60)
        assert await tab.read() == {"a": 1, "b": 2}

    async def test_a_logout_under_the_old_id_is_one(self, open_site: OpenSite) -> None:
        site = await open_site(load="on_demand")
        for look_first in (False, True):
            browser = site.browser()
            await browser.visit(put(a=1))
            tab = browser.twin()

            async def move(session: Session) -> None:
                await session.load()
                session.regenerate()

            async def log_out(session: Session, look: bool = look_first) -> None:
                if look:
                    await session.load()
                session.destroy()

            await browser.visit(move)
            visit = await tab.visit(log_out)
            assert visit.cookie is not None
            assert visit.cookie.startswith("sid=;")
            assert await site.length() == 0

    async def test_without_a_grace_the_old_id_is_dead_at_once(self, open_site: OpenSite) -> None:
        site = await open_site(regenerate_grace=0)
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()
        await browser.visit(lambda session: session.regenerate())
        assert await tab.read() == {}

    async def test_a_logout_under_way_does_not_end_a_login(self, open_site: OpenSite) -> None:
        """Its id has no authority any more."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()

        async def log_out(session: Session) -> None:
            session["a"] = 2
            await tab.visit(lambda session: session.regenerate(privilege=True))
            session.destroy()

        await browser.visit(log_out)
        assert await tab.read() == {"a": 1}

    async def test_two_first_saves_begin_two_sessions(self, open_site: OpenSite) -> None:
        """Nobody can tell that they are one visitor's; the browser keeps one of the cookies."""
        site = await open_site()
        browser, tab = site.browser(), site.browser()

        async def slow(session: Session) -> None:
            session["a"] = 1
            await tab.visit(put(b=2))

        await browser.visit(slow)
        assert await browser.read() == {"a": 1}
        assert await tab.read() == {"b": 2}
        assert await site.length() == 2

    async def test_regenerating_can_drop_the_data(self, open_site: OpenSite) -> None:
        browser = (await open_site()).browser()
        await browser.visit(put(cart=[1]))
        before = browser.sid

        def work(session: Session) -> None:
            session.regenerate(keep_data=False)
            session["fresh"] = True

        await browser.visit(work)
        assert await browser.read() == {"fresh": True}
        assert browser.sid != before

    async def test_regenerating_a_new_session_is_fine(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()

        def login(session: Session) -> None:
            session.regenerate(privilege=True)
            session.user_id = 7

        await browser.visit(login)
        assert site.store.kinds == ["insert"]
        assert await browser.read() == {"user_id": 7}

    # destroy

    async def test_destroying_deletes_the_row_and_clears_the_cookie(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(user_id=7))
        sid = browser.sid
        visit = await browser.visit(lambda session: session.destroy())
        assert visit.cookie is not None
        assert visit.cookie.startswith("sid=; Path=/; Max-Age=0; ")
        assert browser.cookie is None
        assert await site.stored(sid) is None
        assert await site.length() == 0

    async def test_what_is_written_after_it_begins_a_new_session(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(user_id=7))
        before = browser.sid

        def logout(session: Session) -> tuple[bool, dict[str, Any]]:
            session.destroy()
            seen = session.is_new, dict(session)
            session["message"] = "goodbye"
            return seen

        visit = await browser.visit(logout)
        assert visit.result == (True, {})
        assert browser.sid != before
        assert await browser.read() == {"message": "goodbye"}
        assert await site.length() == 1

    async def test_destroying_needs_no_read(self, open_site: OpenSite) -> None:
        site = await open_site(load="on_demand")
        browser = site.browser()
        await browser.visit(put(a=1))
        assert site.store.kinds == ["insert"]
        await browser.visit(lambda session: session.destroy())
        assert site.store.kinds == ["delete"]

    async def test_destroying_nothing_is_fine(self, open_site: OpenSite) -> None:
        site = await open_site()
        visit = await site.browser().visit(lambda session: session.destroy())
        assert visit.cookie is None
        assert site.store.kinds == []

    # Requests that overlap

    async def test_a_session_that_ended_meanwhile_is_not_revived(self, open_site: OpenSite) -> None:
        """Promise 3: a slow request that finishes after a logout."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(user_id=7))
        sid, tab = browser.sid, browser.twin()

        async def slow(session: Session) -> None:
            session["late"] = True
            await tab.visit(lambda session: session.destroy())

        visit = await browser.visit(slow)
        assert visit.status == 200
        assert visit.cookie is None
        assert await site.stored(sid) is None
        assert await site.length() == 0

    async def test_different_keys_both_win(self, open_site: OpenSite) -> None:
        """Promise 2."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=0, b=0, c=0))
        tab = browser.twin()

        async def slow(session: Session) -> None:
            session["a"] = 1
            await tab.visit(put(b=2))

        await browser.visit(slow)
        assert await browser.read() == {"a": 1, "b": 2, "c": 0}

    async def test_resolvers_add_up_what_both_counted(self, open_site: OpenSite) -> None:
        site = await open_site(on_conflict={"n": resolvers.add})
        browser = site.browser()
        await browser.visit(put(n=1))
        tab = browser.twin()

        def count(session: Session) -> None:
            session["n"] += 1

        async def slow(session: Session) -> None:
            count(session)
            await tab.visit(count)

        await browser.visit(slow)
        assert await browser.read() == {"n": 3}

    async def test_overwriting_takes_the_later_save_whole(self, open_site: OpenSite) -> None:
        site = await open_site(on_conflict="overwrite")
        browser = site.browser()
        await browser.visit(put(a=0))
        tab = browser.twin()

        async def slow(session: Session) -> None:
            session["a"] = 1
            await tab.visit(put(b=2))

        await browser.visit(slow)
        assert await browser.read() == {"a": 1}

    async def test_a_conflict_can_be_caught_where_it_is_saved(self, open_site: OpenSite) -> None:
        """And what the handler answers then leaves, with nothing of it saved."""
        site = await open_site(on_conflict="error")
        browser = site.browser()
        await browser.visit(put(a=0))
        tab = browser.twin()

        async def slow(session: Session) -> str:
            session["a"] = 1
            await tab.visit(put(b=2))
            try:
                await session.save()
            except Conflict:
                return "409"
            return "saved"

        visit = await browser.visit(slow)
        assert (visit.status, visit.result) == (200, "409")
        assert await browser.read() == {"a": 0, "b": 2}

    async def test_a_conflict_that_nobody_caught_fails_the_request(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site(on_conflict="error")
        browser = site.browser()
        await browser.visit(put(a=0))
        tab = browser.twin()

        async def slow(session: Session) -> None:
            session["a"] = 1
            await tab.visit(put(b=2))

        with pytest.raises(Conflict):
            await browser.visit(slow)
        assert await browser.read() == {"a": 0, "b": 2}

    async def test_a_logout_while_another_login_goes_on_does_not_clear_the_new_cookie(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()

        async def slow(session: Session) -> None:
            session["a"] = 2
            await tab.visit(lambda session: session.regenerate(privilege=True))

        visit = await browser.visit(slow)
        assert visit.cookie is None
        assert await tab.read() == {"a": 1}

    # Cookies that are not ours

    @pytest.mark.parametrize(
        "cookie",
        ["", "x", FRESH, FRESH + ".", FRESH + "." + FRESH, "x" * 5000, '"', "s%3A" + FRESH],
    )
    async def test_a_forged_cookie_costs_nothing_and_is_not_adopted(
        self, open_site: OpenSite, cookie: str
    ) -> None:
        site = await open_site()
        visit = await site.browser().visit(
            lambda session: (session.is_new, dict(session)), sending={"cookie": f"sid={cookie}"}
        )
        assert visit.result == (True, {})
        assert site.store.kinds == []

    async def test_one_signed_with_another_secret_or_name_is_forged(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        for value in (signed(FRESH, secret="another secret altogether"), signed(FRESH, name="b")):
            await site.browser().visit(look, sending={"cookie": f"sid={value}"})
        assert site.store.kinds == []

    async def test_an_id_that_finds_nothing_is_not_adopted(self, open_site: OpenSite) -> None:
        """Validly signed, of a session long swept: the visitor gets another id."""
        site = await open_site()
        browser = site.browser()
        browser.hold(signed(FRESH))
        visit = await browser.visit(put(a=1))
        assert visit.cookie is not None
        assert FRESH not in visit.cookie
        assert await site.stored(FRESH) is None

    async def test_an_expired_session_is_not_adopted(self, open_site: OpenSite) -> None:
        site = await open_site(store={"expiration": 3600})
        browser = site.browser()
        await browser.visit(put(a=1))
        before = browser.sid
        site.clock.advance(3600)
        assert (await browser.visit(lambda session: session.is_new)).result is True
        await browser.visit(put(a=2))
        assert browser.sid != before

    async def test_old_secrets_verify_and_the_new_one_signs(self, open_site: OpenSite) -> None:
        site = await open_site(secret=["the new secret, in front", SECRET])
        await site.put(FRESH, {"a": 1})
        browser = site.browser()
        browser.hold(signed(FRESH))
        assert await browser.read() == {"a": 1}
        await browser.visit(lambda session: session.regenerate())
        assert browser.cookie == signed(browser.sid, secret="the new secret, in front")

    async def test_junk_beside_the_cookie_does_no_harm_a_second_valid_one_does(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        other = "o" * 43
        await site.put(FRESH, {"a": 1})
        await site.put(other, {"a": 2})
        mine, planted = f"sid={signed(FRESH)}", f"sid={signed(other)}"
        browser = site.browser()
        for header, seen in (
            (mine, {"a": 1}),
            (f"sid=junk; {mine}", {"a": 1}),
            (f"{mine}; sid=junk", {"a": 1}),
            (f"{planted}; {mine}", {}),
            (f"{mine}; {planted}", {}),
        ):
            visit = await browser.visit(dict, sending={"cookie": header})
            assert visit.result == seen, header

    # Options

    async def test_save_uninitialized_stores_whoever_comes(self, open_site: OpenSite) -> None:
        """Also where the handler never looks at the session."""
        site = await open_site(save_uninitialized=True)
        browser = site.browser()
        visit = await browser.visit()
        assert visit.cookie is not None
        assert site.store.kinds == ["insert"]
        assert await site.stored(browser.sid) == {}
        assert (await browser.visit()).cookie is None
        assert site.store.kinds == ["load"]

    async def test_resave_writes_what_did_not_change(self, open_site: OpenSite) -> None:
        site = await open_site(resave=True)
        browser = site.browser()
        await browser.visit(put(a=1))
        assert site.store.kinds == ["insert"]
        for work in (look, lambda session: None):
            site.clock.advance(10)
            visit = await browser.visit(work)
            assert site.store.kinds == ["load", "replace"]
            assert visit.cookie is None
            assert await site.expires_in(browser.sid) == DAY

    async def test_resave_stores_no_new_session(self, open_site: OpenSite) -> None:
        site = await open_site(resave=True)
        await site.browser().visit(look)
        assert site.store.kinds == []

    async def test_rolling_sets_the_cookie_every_time(self, open_site: OpenSite) -> None:
        site = await open_site(rolling=True)
        browser = site.browser()
        assert (await browser.visit(look)).cookie is None
        await browser.visit(put(a=1))
        for work in (look, lambda session: None):
            visit = await browser.visit(work)
            assert visit.cookie == f"sid={browser.cookie}; Path=/; HttpOnly; SameSite=Lax"

    async def test_without_rolling_a_browser_session_gets_its_cookie_once(
        self, open_site: OpenSite
    ) -> None:
        browser = (await open_site()).browser()
        await browser.visit(put(a=1))
        assert (await browser.visit(put(a=2))).cookie is None

    async def test_unset_keep_saves_nothing_and_keeps_the_row(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        visit = await browser.visit(put(a=2), unset=True)
        assert visit.cookie is None
        assert await browser.read() == {"a": 1}

    async def test_unset_destroy_ends_the_session(self, open_site: OpenSite) -> None:
        site = await open_site(unset="destroy")
        browser = site.browser()
        await browser.visit(put(a=1))
        visit = await browser.visit(put(a=2), unset=True)
        assert "Max-Age=0" in (visit.cookie or "")
        assert await site.length() == 0

    async def test_unset_of_a_new_session_stores_nothing(self, open_site: OpenSite) -> None:
        for unset in ("keep", "destroy"):
            site = await open_site(unset=unset, save_uninitialized=unset == "keep")
            visit = await site.browser().visit(put(a=1), unset=True)
            assert visit.cookie is None
            assert await site.length() == 0

    async def test_genid_makes_the_ids(self, open_site: OpenSite) -> None:
        ids = iter(["1" * 30, "2" * 30])
        browser = (await open_site(genid=lambda: next(ids))).browser()
        await browser.visit(put(a=1))
        assert browser.sid == "1" * 30
        await browser.visit(lambda session: session.regenerate())
        assert browser.sid == "2" * 30

    async def test_excluded_paths_are_left_alone(self, open_site: OpenSite) -> None:
        options: dict[str, Any] = {"resave": True, "save_uninitialized": True, "rolling": True}
        site = await open_site(exclude=["/static", "/health"], **options)
        browser = site.browser()
        await browser.visit(put(a=1), "/statics")
        assert site.store.kinds == ["insert"]
        for path in ("/static", "/static/app.css", "/health/1"):
            visit = await browser.visit(path=path)
            assert visit.cookie is None
            assert "vary" not in visit.headers
            assert site.store.kinds == []

    async def test_a_handler_of_an_excluded_path_may_still_ask(self, open_site: OpenSite) -> None:
        site = await open_site(exclude=["/static"])
        browser = site.browser()
        await browser.visit(put(a=1), "/static")
        assert site.store.kinds == ["insert"]

        async def work(session: Session) -> None:
            await session.load()
            session["a"] += 1

        await browser.visit(work, "/static")
        assert site.store.kinds == ["load", "replace"]

    # Https

    @pytest.mark.parametrize(
        ("url", "proto", "proxy", "is_https"),
        [
            ("http://shop.example", None, False, False),
            ("https://shop.example", None, False, True),
            ("http://shop.example", "https", False, False),
            ("http://shop.example", "https", True, True),
            ("http://shop.example", "https, http", True, True),
            ("http://shop.example", "http, https", True, False),
            ("https://shop.example", "http", True, False),
        ],
    )
    async def test_secure_auto_follows_what_the_browser_used(
        self, open_site: OpenSite, url: str, proto: str | None, proxy: bool, is_https: bool
    ) -> None:
        site = await open_site(proxy=proxy)
        sending = {} if proto is None else {"x-forwarded-proto": proto}
        visit = await site.browser(url).visit(put(a=1), sending=sending)
        assert visit.cookie is not None
        assert visit.cookie.endswith("; Secure") is is_https

    async def test_secure_begins_no_session_over_http(
        self, open_site: OpenSite, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = await open_site(cookie=CookieSettings(secure=True))
        visit = await site.browser().visit(put(a=1))
        assert visit.cookie is None
        assert site.store.kinds == []
        assert "proxy=True" in caplog.text
        browser = site.browser("https://shop.example")
        await browser.visit(put(a=1))
        assert await browser.read() == {"a": 1}

    # How long it lasts

    async def test_a_max_age_once_set_stays(self, open_site: OpenSite) -> None:
        """Remember me: it slides with each change, and outlives the store's own expiration."""
        site = await open_site()
        browser = site.browser()

        def login(session: Session) -> None:
            session.user_id = 7
            session.cookie.max_age = timedelta(days=30)

        visit = await browser.visit(login)
        assert "; Max-Age=2592000; " in (visit.cookie or "")
        assert await site.expires_in(browser.sid) == 30 * DAY
        site.clock.advance(20 * DAY)
        visit = await browser.visit(put(a=1))
        assert "; Max-Age=2592000; " in (visit.cookie or "")
        site.clock.advance(20 * DAY)
        seen = await browser.visit(lambda session: (session.user_id, session.cookie.max_age))
        assert seen.result == (7, 30 * DAY)

    async def test_a_max_age_is_a_change_by_itself(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        visit = await browser.visit(lambda session: setattr(session.cookie, "max_age", 60))
        assert "; Max-Age=60; " in (visit.cookie or "")
        site.clock.advance(60)
        assert await browser.read() == {}

    async def test_the_settings_max_age_slides(self, open_site: OpenSite) -> None:
        site = await open_site(cookie=CookieSettings(max_age=timedelta(hours=1)))
        browser = site.browser()
        visit = await browser.visit(put(a=1))
        assert "; Max-Age=3600; " in (visit.cookie or "")
        for _ in range(3):
            site.clock.advance(1800)
            visit = await browser.visit(look)
            assert visit.cookie is None
        site.clock.advance(3600)
        assert await browser.read() == {}

    async def test_a_fixed_end_stays_where_it_is(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        end = site.clock() + timedelta(hours=2)

        def work(session: Session) -> None:
            session["a"] = 1
            session.cookie.expires = end

        visit = await browser.visit(work)
        assert "; Max-Age=7200; Expires=Thu, 01 Jan 2037 02:00:00 GMT" in (visit.cookie or "")
        site.clock.advance(3600)
        visit = await browser.visit(put(a=2))
        assert "; Max-Age=3600; Expires=Thu, 01 Jan 2037 02:00:00 GMT" in (visit.cookie or "")
        assert (await browser.visit(lambda session: session.cookie.expires)).result == end
        site.clock.advance(3600)
        assert await browser.read() == {}

    async def test_use_keeps_a_session_alive(self, open_site: OpenSite) -> None:
        site = await open_site(store={"expiration": 3600, "touch_after": 60})
        browser = site.browser()
        await browser.visit(put(a=1))
        site.store.calls.clear()
        site.clock.advance(59)
        await browser.visit(look)
        assert site.store.kinds == ["load"]
        site.clock.advance(1)
        await browser.visit(look)
        assert site.store.kinds == ["load", "touch"]
        site.clock.advance(3599)
        assert await browser.read() == {"a": 1}

    async def test_disable_touch_leaves_it_to_the_writes(self, open_site: OpenSite) -> None:
        site = await open_site(store={"expiration": 3600, "disable_touch": True})
        browser = site.browser()
        await browser.visit(put(a=1))
        site.clock.advance(3599)
        assert await browser.read() == {"a": 1}
        site.clock.advance(1)
        assert await browser.read() == {}

    # Headers

    async def test_a_response_that_depends_on_the_session_says_so(
        self, open_site: OpenSite
    ) -> None:
        browser = (await open_site()).browser()
        plain = await browser.visit()
        assert "vary" not in plain.headers
        assert "cache-control" not in plain.headers
        looked = await browser.visit(look)
        assert looked.headers["vary"] == "Cookie"
        assert "cache-control" not in looked.headers
        wrote = await browser.visit(put(a=1))
        assert wrote.headers["vary"] == "Cookie"
        assert wrote.headers["cache-control"] == "private"
        read = await browser.visit(look)
        assert read.headers["vary"] == "Cookie"
        assert "cache-control" not in read.headers
        left = await browser.visit(lambda session: session.destroy())
        assert left.headers["vary"] == "Cookie"
        assert left.headers["cache-control"] == "private"

    async def test_the_apps_own_headers_are_kept(self, open_site: OpenSite) -> None:
        browser = (await open_site()).browser()
        visit = await browser.visit(
            put(a=1),
            answering={
                "Vary": "Accept-Encoding",
                "Cache-Control": "public, max-age=60",
                "Set-Cookie": "theme=dark",
                "X-Own": "1",
            },
        )
        assert visit.headers.get_list("vary") == ["Accept-Encoding, Cookie"]
        assert visit.headers.get_list("cache-control") == ["max-age=60, private"]
        theme, own = visit.headers.get_list("set-cookie")
        assert theme == "theme=dark"
        assert own.startswith("sid=")
        assert visit.headers["x-own"] == "1"

    # When it is saved

    @pytest.mark.parametrize("status", [200, 204, 302, 404, 422, 500, 503])
    async def test_whatever_the_status_a_response_saves(
        self, open_site: OpenSite, status: int
    ) -> None:
        browser = (await open_site()).browser()
        visit = await browser.visit(put(a=1), status=status)
        assert visit.status == status
        assert await browser.read() == {"a": 1}

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST"])
    async def test_every_method_has_a_session(self, open_site: OpenSite, method: str) -> None:
        """A HEAD answers with the headers of a GET, and so with its cookie."""
        browser = (await open_site()).browser()
        visit = await browser.visit(put(a=1), method=method)
        assert visit.cookie is not None
        assert await browser.read() == {"a": 1}

    async def test_a_handler_that_raises_saves_nothing(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))

        def broken(session: Session) -> None:
            session["a"] = 2
            session.regenerate()
            raise Boom

        with pytest.raises(Boom):
            await browser.visit(broken)
        assert await browser.read() == {"a": 1}
        with pytest.raises(Boom):
            await site.browser().visit(broken)
        assert await site.length() == 1

    async def test_saving_by_hand_is_saving(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()

        async def work(session: Session) -> dict[str, Any] | None:
            session["a"] = 1
            await session.save()
            return await site.stored(session.id.value)

        visit = await browser.visit(work)
        assert visit.result == {"a": 1}
        assert visit.cookie is not None
        assert site.store.kinds == ["insert"]
        assert await browser.read() == {"a": 1}

    async def test_what_was_saved_by_hand_stays_when_the_handler_raises(
        self, open_site: OpenSite
    ) -> None:
        browser = (await open_site()).browser()
        await browser.visit(put(a=1))

        async def work(session: Session) -> None:
            session["a"] = 2
            await session.save()
            session["a"] = 3
            raise Boom

        with pytest.raises(Boom):
            await browser.visit(work)
        assert await browser.read() == {"a": 2}

    async def test_reloading_drops_changes_and_sees_those_of_others(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        tab = browser.twin()

        async def work(session: Session) -> dict[str, Any]:
            session["a"] = 2
            await tab.visit(put(b=2))
            await session.reload()
            return dict(session)

        assert (await browser.visit(work)).result == {"a": 1, "b": 2}
        assert await browser.read() == {"a": 1, "b": 2}

    async def test_a_value_that_can_not_be_stored_fails_the_request(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        with pytest.raises(SessionEncodingError, match=r"cart\.items\[0\]"):
            await browser.visit(put(a=2, cart={"items": [object()]}))
        assert await browser.read() == {"a": 1}

    # Under its lock

    async def test_a_block_under_the_lock_is_saved_and_released(self, open_site: OpenSite) -> None:
        site = await open_site(on_conflict="error")
        browser = site.browser()
        await browser.visit(put(n=1))
        assert site.store.kinds == ["insert"]

        async def count(session: Session) -> None:
            async with session.lock():
                session["n"] += 1
            assert site.store.kinds == ["load", "lock", "load", "replace", "unlock"]

        for _ in range(2):
            await browser.visit(count)
            assert site.store.kinds == []
        assert await browser.read() == {"n": 3}

    async def test_the_next_request_has_the_lock(self, open_site: OpenSite) -> None:
        """Whatever became of the one before: a block that raised, or one that nobody left."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(n=1))

        async def fail(session: Session) -> None:
            async with session.lock(timeout=0):
                session["n"] = 2
                raise Boom

        async def never_leave(session: Session) -> None:
            await session.lock(timeout=0).__aenter__()
            session["n"] += 2

        with pytest.raises(Boom):
            await browser.visit(fail)
        await browser.visit(never_leave)
        await browser.visit(never_leave)
        assert site.store.kinds[-2:] == ["replace", "unlock"]
        assert await browser.read() == {"n": 5}

    async def test_who_is_locked_out_goes_on_without(self, open_site: OpenSite) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(n=1))
        other = [Lock(Sid(browser.sid).digest(), "somebody else", site.clock() + DAY)]
        answer = site.store.perform(other)
        assert (await answer if inspect.isawaitable(answer) else answer) == [True]

        async def ask(session: Session) -> str:
            session["asked"] = True
            try:
                async with session.lock(timeout=0):
                    return "in"
            except SessionLocked:
                return "out"

        assert (await browser.visit(ask)).result == "out"
        assert await browser.read() == {"n": 1, "asked": True}
        site.clock.advance(DAY - timedelta(hours=1))
        await browser.visit(put(n=2))
        assert (await browser.visit(ask)).result == "out"
        site.clock.advance(timedelta(hours=1))
        assert (await browser.visit(ask)).result == "in"

    async def test_sync_code_locks_by_with(self, open_site: OpenSite) -> None:
        """And async code that forgot its `async` is told so."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(n=1))

        def count(session: Session) -> None:
            with session.lock():
                session["n"] += 1

        if site.adapter.asynchronous:
            with pytest.raises(SessionError, match="async with"):
                await browser.visit(count)
        else:
            await browser.visit(count)
            assert await browser.read() == {"n": 2}

    # A store that fails

    async def test_a_store_that_is_down_is_an_error_and_no_new_session(
        self, open_site: OpenSite
    ) -> None:
        """Promise 7, and nobody is logged out by it."""
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(user_id=7))
        site.store.failing[Load] = StoreUnavailable("the database is down")
        with pytest.raises(StoreUnavailable):
            await browser.visit(look)
        site.store.failing.clear()
        assert await browser.read() == {"user_id": 7}

    @pytest.mark.parametrize("call", [Insert, Replace, Delete])
    async def test_what_can_not_be_saved_is_not_answered_as_if_it_were(
        self, open_site: OpenSite, call: type
    ) -> None:
        site = await open_site()
        browser = site.browser()
        work = {
            Insert: put(a=1),
            Replace: put(a=2),
            Delete: lambda session: session.destroy(),
        }[call]
        if call is not Insert:
            await browser.visit(put(a=1))
        before = browser.cookie
        site.store.failing[call] = StoreUnavailable("the database is down")
        site.store.calls.clear()
        with pytest.raises(StoreUnavailable):
            await browser.visit(work)
        assert browser.cookie == before
        assert site.store.kinds.count(call.__name__.lower()) == 1

    async def test_a_touch_that_fails_is_logged_and_costs_nothing(
        self, open_site: OpenSite, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        site.clock.advance(3600)
        site.store.failing[Touch] = StoreUnavailable("the database is down")
        assert await browser.read() == {"a": 1}
        assert "may expire early" in caplog.text

    async def test_a_corrupt_session_is_logged_and_replaced_by_a_new_one(
        self, open_site: OpenSite, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        before = browser.sid
        site.store.failing[Load] = CorruptRecord("00ff", "it is not JSON")
        assert (await browser.visit(lambda session: session.is_new)).result is True
        await browser.visit(put(a=2))
        site.store.failing.clear()
        assert browser.sid != before
        assert await site.stored(before) == {"a": 1}
        assert [entry.levelno for entry in caplog.records] == [logging.ERROR]

    async def test_or_fails_the_request_where_that_is_wanted(self, open_site: OpenSite) -> None:
        site = await open_site(on_corrupt="error")
        browser = site.browser()
        await browser.visit(put(a=1))
        site.store.failing[Load] = CorruptRecord("00ff", "it is not JSON")
        with pytest.raises(CorruptRecord):
            await browser.visit(look)

    # What is left when it is over

    @pytest.mark.parametrize("work", [look, put(b=[2]), regenerate, destroy])
    async def test_a_request_leaves_nothing_for_the_garbage_collector(
        self, open_site: OpenSite, work: Work
    ) -> None:
        """It would run often, and look at all that the process has: a long pause for everybody."""
        site = await open_site()
        if site.adapter.name in ("flask", "wsgi-generator"):
            pytest.skip("a cycle of Werkzeug's, and one of httpx's, hold the whole environ")
        browser = site.browser()
        for _ in range(2):
            await browser.visit(put(a=[1]))
            await browser.visit(work)
        await browser.visit(put(a=[1]))
        with our_garbage() as garbage:
            await browser.visit(work)
        assert garbage == []

    async def test_a_session_that_outlives_its_request_is_still_one(
        self, open_site: OpenSite
    ) -> None:
        site = await open_site()
        browser = site.browser()
        await browser.visit(put(a=1))
        session = (await browser.visit(lambda session: (session.get("a"), session)[1])).result
        session["late"] = True
        saving = session.save()
        del session
        site.plan = Plan()
        gc.collect()
        await saving
        assert await browser.read() == {"a": 1, "late": True}

    # Mistakes

    async def test_mistakes_are_found_when_the_app_is_made(self, open_site: OpenSite) -> None:
        bad: dict[str, Any]
        for bad in ({"secret": ""}, {"unset": "drop"}, {"cookie": {"name": "sid"}}):
            with pytest.raises(ConfigurationError):
                await open_and_visit(open_site, bad)
        with pytest.raises(TypeError, match="rollin"):
            await open_and_visit(open_site, {"rollin": True})

    async def test_there_is_nothing_to_reload_before_it_is_stored(
        self, open_site: OpenSite
    ) -> None:
        browser = (await open_site()).browser()
        with pytest.raises(SessionError, match="not stored yet"):
            await browser.visit(lambda session: session.reload())


async def open_and_visit(open_site: OpenSite, options: dict[str, Any]) -> None:
    """Frameworks that make their middleware at the first request find a mistake then."""
    site = await open_site(**options)
    await site.browser().visit()
