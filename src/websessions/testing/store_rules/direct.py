"""The public methods: `get`, `set`, `touch`, `destroy`, `all`, `length`, `clear`."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pytest

from ...cookie_form import OWN_FORM
from ...errors import CorruptRecord, SessionEncodingError, SessionTooLarge
from ...session import Completed, Session
from ...settings import CookieSettings
from ...sid import Sid
from ...store import Load, Replace
from ..any_store import AnyStore, settled
from ..bench import Bench, Capabilities

__all__ = ["DirectRules"]

SID: Final = "sid-for-the-store-suite-0123456789-abcdefgh"
OTHER: Final = "another-sid-for-the-store-suite-0123456789a"

DAY: Final = timedelta(hours=24)
MINUTE: Final = timedelta(minutes=1)

UNUSUAL: Final[dict[str, dict[str, Any]]] = {
    "empty": {},
    "empty key": {"": ""},
    "emoji": {"🛒": "👩‍🚀 👨‍👩‍👧‍👦", "flag": "🇪🇺"},
    "scripts": {"name": "Ω≈ç√ 中文 العربية עברית"},
    "combining": {"nfc": "\u00e9", "nfd": "e\u0301"},
    "NUL": {"a\0b": "\0", "text": "before\0after"},
    "control characters": {"all": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029\ufeff"},
    "lone surrogates": {"high": "\ud83d", "low": "\ude00", "\udfff": ["\ud800 \udc00"[::-1]]},
    "quotes": {"'": '"', "\\": "\\'\\\"", "%s": "%(x)s %", ":name": "$1 ? {0}"},
    "SQL": {"user": "'; DROP TABLE sessions; --"},
    "trailing space": {"a ": "b  ", " ": "\t\r\n"},
    "keys by case": {"key": 1, "KEY": 2, "Key": 3, "ключ": 4, "КЛЮЧ": 5},
    "a tag's look": {"$": ["datetime", "no"], "inner": {"$": 1}},
    "nothing and truth": {"none": None, "true": True, "false": False, "zero": 0, "one": 1.0},
    "numbers": {"int": 2**80, "minus": -(2**63), "float": 0.1 + 0.2, "tiny": 5e-324, "big": 1e308},
    "keys of all kinds": {"inner": {1: "one", 2.5: "float", None: "none", False: "no", (1,): "t"}},
    "containers": {"tuple": (1, [2, (3,)]), "set": {1, 2}, "frozen": frozenset("ab"), "list": [[]]},
    "times": {
        "aware": datetime(2026, 7, 1, 9, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        "utc": datetime(1, 1, 1, tzinfo=UTC),
        "naive": datetime.max,  # noqa: DTZ901
        "date": date(2026, 2, 28),
        "span": timedelta(days=-1, microseconds=1),
    },
    "more": {"uuid": UUID(int=7), "price": Decimal("10.50"), "bytes": bytes(range(256))},
    "nested": {"a": {"b": [{"c": [{"d": [1, 2, {"e": None}]}]}]}},
}


def _bulk(size: int) -> str:
    """Text that does not compress to nothing, the same each time."""
    return random.Random(7).randbytes(size // 2).hex()  # noqa: S311


class _NoRequest:
    """What a `Session` wants to stand in; a store asks it for nothing."""

    responding = must_await = False
    session: Session
    cookie_form = OWN_FORM

    def new_sid(self) -> Sid:
        return Sid.new()

    def require(self) -> None:
        raise AssertionError("the session is loaded")

    def load(self) -> Awaitable[None]:
        return Completed()

    def save(self, within: object = None) -> Awaitable[None]:
        return Completed()

    reload = load

    def lock(self, timeout: timedelta, lease: timedelta) -> Awaitable[None]:
        return Completed()

    def unlock(self, *, failed: bool) -> Awaitable[None]:
        return Completed()


def _session(settings: CookieSettings, **values: Any) -> Session:
    session = Session(_NoRequest(), settings.lifetime)
    session._begin()
    session.update(values)
    return session


async def _expires(store: AnyStore, sid: str = SID) -> datetime:
    record = await store.ask(Load(store.store.key(Sid(sid))))
    assert record is not None, "the session has to be there"
    return record.expires


class DirectRules(Capabilities):
    # get and set

    async def test_what_was_set_can_be_got(self, bench: Bench) -> None:
        """`get` answers the dict of the last `set`; other sessions are not affected."""
        store = await bench.store()
        assert await store.get(SID) is None
        await store.set(SID, {"cart": [1, 2]})
        await store.set(OTHER, {"cart": [3]})
        assert await store.get(SID) == {"cart": [1, 2]}
        await store.set(SID, {"user": 7})
        assert await store.get(SID) == {"user": 7}
        assert await store.get(OTHER) == {"cart": [3]}

    async def test_a_sid_is_a_sid_or_a_str(self, bench: Bench) -> None:
        """Both name the same session, in every method."""
        store = await bench.store()
        await store.set(Sid(SID), {"n": 1})
        assert await store.get(SID) == await store.get(Sid(SID)) == {"n": 1}
        await store.touch(Sid(SID))
        await store.destroy(Sid(SID))
        assert await store.get(SID) is None

    async def test_the_sid_is_not_what_is_stored(self, bench: Bench) -> None:
        """A record's key is the sid's digest, or what `key` says: no ticket lies in the store."""
        store = await bench.store()
        await store.set(SID, {})
        record = await store.ask(Load(Sid(SID).digest()))
        assert record is not None
        assert SID.encode() not in record.key + record.data

    async def test_a_sid_of_another_type_is_refused(self, bench: Bench) -> None:
        """Bytes above all: they would be another session than the str."""
        store = await bench.store()
        sids: list[Any] = [None, 7, SID.encode(), ["a"]]
        for sid in sids:
            for attempt in (store.get, store.touch, store.destroy):
                with pytest.raises(TypeError, match=type(sid).__name__):
                    await attempt(sid)
            with pytest.raises(TypeError, match=type(sid).__name__):
                await store.set(sid, {})
        assert await store.length() == 0

    async def test_sids_differ_to_the_letter(self, bench: Bench) -> None:
        """Case, accents and trailing space count: these are all different sessions."""
        store = await bench.store()
        sids = ["abc", "ABC", "abç", "abc ", "abc\0", "", "\ud800", "x" * 10_000]
        for n, sid in enumerate(sids):
            await store.set(sid, {"n": n})
        assert [await store.get(sid) for sid in sids] == [{"n": n} for n in range(len(sids))]
        assert await store.length() == len(sids)

    async def test_a_stored_dict_is_a_copy(self, bench: Bench) -> None:
        """Changing what was given to `set`, or came from `get`, changes nothing stored."""
        store = await bench.store()
        cart = [1]
        data = {"cart": cart}
        await store.set(SID, data)
        cart.append(2)
        got = await store.get(SID)
        assert got == {"cart": [1]}
        got["cart"].append(3)
        assert await store.get(SID) == {"cart": [1]}

    async def test_unusual_data_round_trips(self, bench: Bench) -> None:
        """Whatever the codec can write comes back equal, of the same types, in the same order."""
        store = await bench.store()
        for name, data in UNUSUAL.items():
            await store.set(SID, data)
            got = await store.get(SID)
            assert got == data, name
            assert [type(got[key]) for key in got] == [type(data[key]) for key in data], name
            assert list(got) == list(data), name
            assert await store.all() == [data], name

    async def test_unusual_data_guards_a_write(self, bench: Bench) -> None:
        """A `Replace` recognises what it has seen, whatever characters are in it."""
        store = await bench.store()
        for name, data in UNUSUAL.items():
            await store.set(SID, data)
            seen = await store.ask(Load(store.store.key(Sid(SID))))
            assert seen is not None, name
            new = store.store.codec.encode({"name": name})
            written = await store.ask(Replace(seen, new, bench.after(100), data))
            assert written is not None, name
            assert await store.get(SID) == {"name": name}, name

    async def test_large_sessions_round_trip(self, bench: Bench) -> None:
        """64 KiB is where some columns end; up to a mebibyte is allowed by default."""
        store = await bench.store()
        for size in (65_535, 65_536, 1_048_000):
            data = {"bulk": _bulk(size), "after": "🛒"}
            await store.set(SID, data)
            assert await store.get(SID) == data
        seen = await store.ask(Load(store.store.key(Sid(SID))))
        assert seen is not None
        assert await store.ask(Replace(seen, seen.data, bench.after(100), {})) is not None

    # What can not be stored

    async def test_a_session_may_have_exactly_max_size(self, bench: Bench) -> None:
        """`max_size` bytes are stored, one byte more is `SessionTooLarge`."""
        data = {"bulk": _bulk(2000)}
        size = len((await bench.store()).store.codec.encode(data))
        store = await bench.store(max_size=size)
        await store.set(SID, data)
        assert await store.get(SID) == data
        store = await bench.store(max_size=size - 1)
        with pytest.raises(SessionTooLarge):
            await store.set(SID, data)
        assert await store.get(SID) is None

    async def test_the_default_limit_is_a_mebibyte(self, bench: Bench) -> None:
        """With no option, that is what is allowed."""
        store = await bench.store()
        assert store.store.max_size == 1024 * 1024
        edge = 1024 * 1024 - len('{"bulk":""}')
        await store.set(SID, {"bulk": _bulk(edge).ljust(edge, "x")})
        with pytest.raises(SessionTooLarge):
            await store.set(OTHER, {"bulk": _bulk(4 * edge)})
        assert await store.length() == 1

    async def test_too_large_says_what_is_large(self, bench: Bench) -> None:
        """The error names the largest keys, largest first; the stored session stays as it was."""
        store = await bench.store(max_size=1000)
        await store.set(SID, {"small": 1})
        with pytest.raises(SessionTooLarge) as caught:
            await store.set(SID, {"small": 1, "half": _bulk(2000), "most": _bulk(4000)})
        assert [key for key, _ in caught.value.largest][:2] == ["most", "half"]
        assert caught.value.limit == 1000
        assert caught.value.size > 1000
        assert await store.get(SID) == {"small": 1}

    async def test_a_value_that_can_not_be_stored_is_named(self, bench: Bench) -> None:
        """`SessionEncodingError` has its path; the stored session stays as it was."""
        store = await bench.store()
        await store.set(SID, {"cart": 1})
        with pytest.raises(SessionEncodingError) as caught:
            await store.set(SID, {"cart": {"items": [1, 2, {"price": object()}]}})
        assert caught.value.path == "cart.items[2].price"
        assert await store.get(SID) == {"cart": 1}

    async def test_data_is_a_mapping(self, bench: Bench) -> None:
        """Anything else is a `TypeError`, and nothing is written."""
        store = await bench.store()
        wrong: list[Any] = [None, [("a", 1)], "text", 7, {1, 2}]
        for data in wrong:
            with pytest.raises(TypeError, match=type(data).__name__):
                await store.set(SID, data)
        assert await store.length() == 0

    async def test_keys_of_a_session_are_strings(self, bench: Bench) -> None:
        """Only nested dicts may have others."""
        store = await bench.store()
        with pytest.raises(TypeError, match="int"):
            await store.set(SID, {1: "one"})  # type: ignore[dict-item]
        assert await store.length() == 0

    async def test_the_reserved_key_is_refused(self, bench: Bench) -> None:
        """`$cookie` is where a session's own cookie expiry is kept."""
        store = await bench.store()
        with pytest.raises(ValueError, match=r"\$cookie"):
            await store.set(SID, {"$cookie": {"max_age": 1}})
        assert await store.length() == 0

    # Expiry

    async def test_a_session_lasts_for_expiration(self, bench: Bench) -> None:
        """24 hours from `set` by default, to the tick; each `set` begins them anew."""
        store = await bench.store()
        await store.set(SID, {"n": 1})
        assert await _expires(store) == bench.after(DAY)
        bench.clock.advance(DAY - self.resolution)
        assert await store.get(SID) == {"n": 1}
        await store.set(SID, {"n": 2})
        bench.clock.advance(DAY - self.resolution)
        assert await store.get(SID) == {"n": 2}
        bench.clock.advance(self.resolution)
        assert await store.get(SID) is None
        assert await store.all() == []
        assert await store.length() == 0

    async def test_expiration_is_an_option(self, bench: Bench) -> None:
        """A timedelta or seconds."""
        options: list[timedelta | float] = [timedelta(minutes=5), 300, 300.0]
        for expiration in options:
            store = await bench.store(expiration=expiration)
            await store.set(SID, {})
            assert await _expires(store) == bench.after(300)

    async def test_expires_may_be_given(self, bench: Bench) -> None:
        """An aware datetime of any zone; a moment that has come means no session."""
        store = await bench.store()
        east = timezone(timedelta(hours=5, minutes=30))
        await store.set(SID, {}, expires=bench.after(10).astimezone(east))
        assert await _expires(store) == bench.after(10)
        await store.set(SID, {}, expires=bench.after(400 * DAY))
        assert await _expires(store) == bench.after(400 * DAY)
        for moment in (bench.clock(), bench.clock() - DAY):
            await store.set(SID, {"n": 1}, expires=moment)
            assert await store.get(SID) is None
            assert await store.length() == 0

    async def test_expires_has_to_be_an_aware_datetime(self, bench: Bench) -> None:
        """A naive one could mean any zone."""
        store = await bench.store()
        wrong: list[Any] = [bench.after(60).replace(tzinfo=None), 60, "tomorrow", date(2037, 1, 2)]
        for expires in wrong:
            with pytest.raises(ValueError, match="aware"):
                await store.set(SID, {}, expires=expires)
        assert await store.length() == 0

    async def test_set_makes_an_expired_session_anew(self, bench: Bench) -> None:
        """Over what has expired and was not swept yet, too."""
        store = await bench.store()
        await store.set(SID, {"n": 1}, expires=bench.after(10))
        bench.clock.advance(20)
        await store.set(SID, {"n": 2})
        assert await store.get(SID) == {"n": 2}
        assert await store.length() == 1

    # Sessions as data

    async def test_a_session_object_brings_its_own_expiry(self, bench: Bench) -> None:
        """The cookie's `max_age` or `expires` counts where it has one, else `expiration`."""
        store = await bench.store()
        await store.set(SID, _session(CookieSettings(max_age=3600), n=1))
        assert await _expires(store) == bench.after(3600)
        session = _session(CookieSettings(), n=2)
        await store.set(SID, session)
        assert await _expires(store) == bench.after(DAY)
        session.cookie.expires = bench.after(100)
        await store.set(SID, session)
        assert await _expires(store) == bench.after(100)
        await store.set(SID, session, expires=bench.after(200))
        assert await _expires(store) == bench.after(200)
        assert await store.get(SID) == {"n": 2}

    async def test_a_max_age_of_its_own_stays_with_a_session(self, bench: Bench) -> None:
        """ "Remember me" is stored with the session: a `touch` renews it, `get` hides it."""
        store = await bench.store()
        session = _session(CookieSettings(), n=1)
        session.cookie.max_age = timedelta(days=30)
        await store.set(SID, session)
        bench.clock.advance(timedelta(days=20))
        assert await store.get(SID) == {"n": 1}
        assert await store.all() == [{"n": 1}]
        await store.touch(SID)
        assert await _expires(store) == bench.after(timedelta(days=30))

    async def test_a_fixed_expiry_of_its_own_is_not_touched(self, bench: Bench) -> None:
        """A session that ends at a moment ends at that moment, however much it is used."""
        store = await bench.store()
        session = _session(CookieSettings(), n=1)
        session.cookie.expires = end = bench.after(3600)
        await store.set(SID, session)
        bench.clock.advance(1800)
        await store.touch(SID)
        assert await _expires(store) == end

    # update

    async def test_update_changes_what_is_there(self, bench: Bench) -> None:
        """`update` answers the dict that its function has made, and that is stored."""
        store = await bench.store()
        await store.set(SID, {"a": 1, "b": [1]})
        await store.set(OTHER, {"c": 1})

        def change(session: dict[str, Any]) -> None:
            session["a"] += 1
            session["b"].append(2)

        assert await store.update(SID, change) == {"a": 2, "b": [1, 2]}
        assert await store.get(SID) == {"a": 2, "b": [1, 2]}
        assert await store.get(OTHER) == {"c": 1}

    async def test_update_begins_no_session(self, bench: Bench) -> None:
        """Where there is none, or it has expired, the answer is None and nothing comes of it."""
        store = await bench.store()

        def never(session: dict[str, Any]) -> None:
            raise AssertionError("there is nothing to update")

        assert await store.update(SID, never) is None
        await store.set(OTHER, {"a": 1}, expires=bench.after(10))
        bench.clock.advance(10)
        assert await store.update(OTHER, never) is None
        assert await store.length() == 0

    async def test_update_without_a_change_writes_nothing(self, bench: Bench) -> None:
        """The record is as it was."""
        store = await bench.store()
        await store.set(SID, {"a": 1})
        key = store.store.key(Sid(SID))
        before = await store.ask(Load(key))
        bench.clock.advance(60)
        assert await store.update(SID, lambda session: None) == {"a": 1}
        assert await store.ask(Load(key)) == before

    async def test_update_pushes_the_expiry_on_and_never_shortens_it(self, bench: Bench) -> None:
        """A cookie's own lifetime counts; a longer one that the store does not know is left."""
        store = await bench.store()
        await store.set(SID, {"n": 0}, expires=bench.after(100))
        await store.set(OTHER, {"n": 0}, expires=bench.after(30 * DAY))
        own = _session(CookieSettings(), n=0)
        own.cookie.max_age = 3 * DAY
        await store.set("a-third-sid-for-the-store-suite-0123456789", own)
        later = bench.after(30 * DAY)
        bench.clock.advance(60)
        for sid, expires in (
            (SID, bench.after(DAY)),
            (OTHER, later),
            ("a-third-sid-for-the-store-suite-0123456789", bench.after(3 * DAY)),
        ):
            assert await store.update(sid, lambda session: session.update(n=1)) == {"n": 1}
            assert await _expires(store, sid) == expires

    async def test_update_keeps_what_its_function_breaks(self, bench: Bench) -> None:
        """A function that fails, returns something or makes what can not be stored: no change."""
        store = await bench.store(max_size=100)
        await store.set(SID, {"a": 1})

        def fail(session: dict[str, Any]) -> None:
            session["a"] = 2
            raise ZeroDivisionError

        async def wait(session: dict[str, Any]) -> None:
            session["a"] = 2

        wrong: dict[type[Exception], list[Any]] = {
            ZeroDivisionError: [fail],
            TypeError: [
                lambda session: {**session, "a": 2},
                lambda session: session.update({2: 2}),
                wait,
                None,
            ],
            ValueError: [lambda session: session.update({"$cookie": 2})],
            SessionEncodingError: [lambda session: session.update(a=object())],
            SessionTooLarge: [lambda session: session.update(a=_bulk(200))],
        }
        for error, functions in wrong.items():
            for function in functions:
                with pytest.raises(error):
                    await store.update(SID, function)
                assert await store.get(SID) == {"a": 1}

    async def test_update_of_a_corrupt_record_is_an_error(self, bench: Bench) -> None:
        """The record is left as it is."""
        store = await bench.store()
        await store.set(SID, {"a": 1})
        await settled(self.corrupt(store.store, store.store.key(Sid(SID))))
        with pytest.raises(CorruptRecord):
            await store.update(SID, lambda session: session.update(a=2))
        with pytest.raises(CorruptRecord):
            await store.get(SID)

    # touch

    async def test_touch_starts_expiration_anew(self, bench: Bench) -> None:
        """And changes nothing but the expiry."""
        store = await bench.store()
        await store.set(SID, {"n": 1})
        await store.set(OTHER, {"n": 2})
        bench.clock.advance(3600)
        before = await store.ask(Load(store.store.key(Sid(SID))))
        await store.touch(SID)
        after = await store.ask(Load(store.store.key(Sid(SID))))
        assert before is not None
        assert after is not None
        assert (after.data, after.version) == (before.data, before.version)
        assert after.expires == bench.after(DAY)
        assert await _expires(store, OTHER) == bench.after(DAY - timedelta(hours=1))

    async def test_touch_is_throttled(self, bench: Bench) -> None:
        """At most once per `touch_after`, a minute by default; after exactly that it is due."""
        store = await bench.store()
        await store.set(SID, {})
        first = await _expires(store)
        bench.clock.advance(MINUTE - self.resolution)
        await store.touch(SID)
        assert await _expires(store) == first
        bench.clock.advance(self.resolution)
        await store.touch(SID)
        assert await _expires(store) == first + MINUTE

    async def test_touch_after_is_an_option(self, bench: Bench) -> None:
        """A timedelta or seconds."""
        options: list[timedelta | int] = [timedelta(minutes=5), 300]
        for touch_after in options:
            store = await bench.store(touch_after=touch_after)
            await store.set(SID, {})
            first = await _expires(store)
            bench.clock.advance(299)
            await store.touch(SID)
            assert await _expires(store) == first
            bench.clock.advance(1)
            await store.touch(SID)
            assert await _expires(store) == bench.after(DAY)

    async def test_touch_after_0_touches_every_time(self, bench: Bench) -> None:
        """However little time has passed."""
        store = await bench.store(touch_after=0)
        await store.set(SID, {})
        for _ in range(3):
            bench.clock.advance(self.resolution)
            await store.touch(SID)
            assert await _expires(store) == bench.after(DAY)

    async def test_disable_touch_disables_touch(self, bench: Bench) -> None:
        """Then only writes push the expiry on."""
        store = await bench.store(disable_touch=True, touch_after=0)
        await store.set(SID, {})
        first = await _expires(store)
        bench.clock.advance(3600)
        await store.touch(SID)
        assert await _expires(store) == first
        await store.set(SID, {})
        assert await _expires(store) == bench.after(DAY)

    async def test_touch_never_shortens_a_session(self, bench: Bench) -> None:
        """One that was set to last longer than `expiration` goes on doing so."""
        store = await bench.store(touch_after=0)
        await store.set(SID, {}, expires=bench.after(400 * DAY))
        end = await _expires(store)
        bench.clock.advance(DAY)
        await store.touch(SID)
        assert await _expires(store) == end

    async def test_touch_never_revives_a_session(self, bench: Bench) -> None:
        """One that has expired or was destroyed stays gone, and that is no error."""
        store = await bench.store(touch_after=0)
        await store.set(SID, {}, expires=bench.after(10))
        await store.set(OTHER, {})
        await store.destroy(OTHER)
        bench.clock.advance(10)
        for sid in (SID, OTHER, "never-there"):
            await store.touch(sid)
            assert await store.get(sid) is None
        assert await store.length() == 0

    # destroy, all, length, clear

    async def test_destroy_ends_a_session(self, bench: Bench) -> None:
        """That one alone; destroying what is not there is no error."""
        store = await bench.store()
        await store.set(SID, {"n": 1})
        await store.set(OTHER, {"n": 2})
        await store.destroy(SID)
        await store.destroy(SID)
        await store.destroy("never-there")
        assert await store.get(SID) is None
        assert await store.all() == [{"n": 2}]

    async def test_all_and_length_are_of_live_sessions(self, bench: Bench) -> None:
        """Those that have not expired, swept or not; equal dicts count each."""
        store = await bench.store()
        assert await store.all() == []
        assert await store.length() == 0
        await store.set("a", {"n": 1}, expires=bench.after(10))
        await store.set("b", {"n": 2}, expires=bench.after(20))
        await store.set("c", {"n": 2}, expires=bench.after(20))
        assert sorted(data["n"] for data in await store.all()) == [1, 2, 2]
        assert await store.length() == 3
        bench.clock.advance(10)
        assert await store.all() == [{"n": 2}, {"n": 2}]
        assert await store.length() == 2

    async def test_all_reads_page_by_page(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many pages, full or not, each session is there once."""
        monkeypatch.setattr("websessions.direct.PAGE", 3)
        store = await bench.store()
        for n in range(7):
            await store.set(f"session-{n}", {"n": n})
            assert sorted(data["n"] for data in await store.all()) == list(range(n + 1))

    async def test_clear_ends_all_sessions(self, bench: Bench) -> None:
        """Everybody is logged out; an empty store can be cleared, too."""
        store = await bench.store()
        await store.set(SID, {})
        await store.set(OTHER, {})
        for _ in range(2):
            await store.clear()
            assert await store.length() == 0
        assert await store.get(SID) is None
        await store.set(SID, {"n": 1})
        assert await store.get(SID) == {"n": 1}

    # Corrupt records

    async def test_a_corrupt_record_is_an_error(self, bench: Bench) -> None:
        """`get` and `touch` raise `CorruptRecord`, whose `key` finds the row; it is no sid."""
        store = await bench.store(touch_after=0)
        await store.set(SID, {"n": 1})
        key = store.store.key(Sid(SID))
        await settled(self.corrupt(store.store, key))
        for attempt in (store.get, store.touch):
            with pytest.raises(CorruptRecord) as caught:
                await attempt(SID)
            assert caught.value.key == key.hex()
            assert SID not in str(caught.value)
        with pytest.raises(CorruptRecord):  # and it is left as it is, to be looked at
            await store.get(SID)

    async def test_all_skips_corrupt_records(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The others are there, on every page."""
        monkeypatch.setattr("websessions.direct.PAGE", 2)
        store = await bench.store()
        for n in range(7):
            await store.set(f"session-{n}", {"n": n})
        for n in (0, 3, 4):
            await settled(self.corrupt(store.store, store.store.key(Sid(f"session-{n}"))))
        assert sorted(data["n"] for data in await store.all()) == [1, 2, 5, 6]

    async def test_a_corrupt_record_harms_no_neighbour(self, bench: Bench) -> None:
        """In a list of loads, the others are answered."""
        store = await bench.store()
        sids = ["a", SID, "b"]
        for sid in sids:
            await store.set(sid, {"sid": sid})
        await settled(self.corrupt(store.store, store.store.key(Sid(SID))))
        a, _, b = await store.perform(*[Load(store.store.key(Sid(sid))) for sid in sids])
        assert store.store.codec.decode(a.data) == {"sid": "a"}
        assert store.store.codec.decode(b.data) == {"sid": "b"}

    async def test_set_heals_a_corrupt_record(self, bench: Bench) -> None:
        """It overwrites whatever is there, and the session can be read and written again."""
        store = await bench.store()
        await store.set(SID, {"n": 1})
        key = store.store.key(Sid(SID))
        await settled(self.corrupt(store.store, key))
        await store.set(SID, {"n": 2})
        assert await store.get(SID) == {"n": 2}
        record = await store.ask(Load(key))
        assert record is not None
        assert await store.ask(Replace(record, record.data, bench.after(100), {})) is not None

    async def test_a_corrupt_record_can_be_destroyed(self, bench: Bench) -> None:
        """And expires, and is swept like any other."""
        store = await bench.store()
        await store.set(SID, {})
        await store.set(OTHER, {}, expires=bench.after(10))
        for sid in (SID, OTHER):
            await settled(self.corrupt(store.store, store.store.key(Sid(sid))))
        await store.destroy(SID)
        assert await store.get(SID) is None
        bench.clock.advance(10)
        assert await store.get(OTHER) is None
        await store.clear_expired_sessions()
        assert await store.length() == 0

    # Opening and closing

    async def test_sync_may_be_called_again(self, bench: Bench) -> None:
        """It creates what is missing and harms nothing that is there."""
        store = await bench.store()
        await store.set(SID, {"n": 1})
        await store.sync()
        assert await store.get(SID) == {"n": 1}

    async def test_a_store_is_a_context_manager(self, bench: Bench) -> None:
        """It closes itself at the end, after an error too, and hides none."""
        store = await bench.store(check_expiration_interval=60)
        async with store:
            await store.set(SID, {})
            await store.start_expiring_sessions()
        assert not store.store._sweeper.running
        store = await bench.store()
        with pytest.raises(LookupError):
            async with store:
                raise LookupError

    async def test_close_may_be_called_twice(self, bench: Bench) -> None:
        """The second time there is nothing to do."""
        store = await bench.store()
        await store.set(SID, {})
        await store.close()
        await store.close()
