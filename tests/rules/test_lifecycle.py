"""The lifecycle's steps, played by hand: each call they make, and each answer or error they get.

No store takes part. A test says which calls it expects, in order, and what comes back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeVar

import pytest

from websessions import (
    ConfigurationError,
    Conflict,
    CookieSettings,
    CorruptRecord,
    JSONCodec,
    Session,
    SessionEncodingError,
    SessionError,
    SessionNotLoaded,
    SessionSettings,
    SessionTooLarge,
    StoreUnavailable,
    resolvers,
    swap,
)
from websessions.codec import Codec
from websessions.cookie import SignedValue
from websessions.lifecycle import Finished, Lifecycle, RequestSession
from websessions.run import Pause
from websessions.sid import Key, Sid
from websessions.store import Call, Clock, Delete, Insert, Load, Record, Replace, Steps, Touch

R = TypeVar("R")

SECRET = "a long and random secret"
NOW = datetime(2037, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SID = Sid("a" * 43)
KEY = SID.digest()
codec = JSONCodec()


class Rules:
    """A store's options, without a store."""

    def __init__(
        self,
        now: datetime = NOW,
        touch_after: timedelta = timedelta(minutes=1),
        disable_touch: bool = False,
    ) -> None:
        self.now = now
        self.touch_after = touch_after
        self.disable_touch = disable_touch
        self.codec: Codec = codec
        self.max_size = 1000
        self.expiration = DAY
        self.clock: Clock = lambda: self.now
        self.locks = True

    def key(self, sid: Sid, /) -> Key:
        return sid.digest()


class ByHand(RequestSession[Rules]):
    """A request whose steps the test plays."""

    must_await = True

    def _refuse(self) -> NoReturn:
        raise AssertionError("the test plays the steps itself")

    def require(self) -> None:
        raise SessionNotLoaded("not loaded")

    def load(self) -> Awaitable[None]:
        self._refuse()

    def save(self, within: object = None) -> Awaitable[None]:
        self._refuse()

    def reload(self) -> Awaitable[None]:
        self._refuse()

    def lock(self, timeout: timedelta, lease: timedelta) -> Awaitable[None]:
        self._refuse()

    def unlock(self, *, failed: bool) -> Awaitable[None]:
        self._refuse()


def request(
    sid: Sid | None = None,
    *,
    https: bool = False,
    opted_out: bool = False,
    lifecycle: Lifecycle[Rules] | None = None,
    **options: Any,
) -> ByHand:
    lifecycle = lifecycle or middleware(**options)
    settings = lifecycle.settings
    header = ""
    if sid is not None:
        value = SignedValue(settings.cookie.name, settings.secrets).sign(sid)
        header = f"{settings.cookie.name}={value}"
    return ByHand(lifecycle, header, https=https, opted_out=opted_out)


def middleware(
    *, rules: Rules | None = None, cookie: dict[str, Any] | None = None, **options: Any
) -> Lifecycle[Rules]:
    settings = SessionSettings(secret=SECRET, cookie=CookieSettings(**(cookie or {})), **options)
    return Lifecycle(rules or Rules(), settings)


def record(
    data: dict[str, Any] | bytes, version: int = 1, key: Key = KEY, expires: datetime = NOW + DAY
) -> Record:
    return Record(key, data if isinstance(data, bytes) else codec.encode(data), expires, version)


def play(steps: Steps[R], *expected: tuple[type[Call[Any]], Any]) -> tuple[R, list[Any]]:
    """Answer each call that is made, which has to be of the type that is expected next.

    An answer that is an exception is thrown, a function is called with the call. Pauses are
    answered by nobody.
    """
    made: list[Any] = []
    answers = list(expected)
    answer: Any = None
    try:
        while True:
            resume = steps.throw if isinstance(answer, BaseException) else steps.send
            call = resume(answer)
            if isinstance(call, Pause):
                assert 0 <= call.seconds <= 0.25
                answer = None
                continue
            made.append(call)
            assert answers, f"a call too many: {call}"
            kind, answer = answers.pop(0)
            assert type(call) is kind, f"{kind.__name__} was due, not {call}"
            if callable(answer):
                answer = answer(call)
    except StopIteration as stop:
        assert not answers, f"calls that never came: {answers}"
        return stop.value, made


def inserted(call: Insert) -> Record:
    return Record(call.key, call.data, call.expires, 1)


def replaced(call: Replace) -> Record:
    return call.written()


def loaded(data: dict[str, Any], **options: Any) -> ByHand:
    """A request that came with a session and has read it."""
    exchange = request(SID, **options)
    play(exchange.load_steps(), (Load, record(data)))
    return exchange


def ended(exchange: ByHand, *expected: tuple[type[Call[Any]], Any]) -> tuple[Finished, list[Any]]:
    return play(exchange.finish_steps(), *expected)


def cookie_sid(finished: Finished) -> str:
    assert finished.cookie is not None
    return finished.cookie.partition("=")[2].partition(".")[0]


class TestLoading:
    def test_without_a_cookie_nothing_is_asked(self) -> None:
        exchange = request()
        play(exchange.load_steps())
        assert exchange.session.is_new
        assert dict(exchange.session) == {}

    def test_a_session_is_read_once(self) -> None:
        exchange = request(SID)
        _, [load] = play(exchange.load_steps(), (Load, record({"a": 1})))
        assert load == Load(KEY)
        play(exchange.load_steps())
        assert exchange.session["a"] == 1
        assert not exchange.session.is_new
        assert exchange.session.id == SID

    def test_a_sid_that_finds_nothing_is_not_adopted(self) -> None:
        exchange = request(SID)
        play(exchange.load_steps(), (Load, None))
        exchange.session["a"] = 1
        finished, [insert] = ended(exchange, (Insert, inserted))
        assert insert.key != KEY
        assert cookie_sid(finished) != SID.value

    def test_a_store_that_fails_is_no_empty_session(self) -> None:
        """Promise 7."""
        exchange = request(SID)
        with pytest.raises(StoreUnavailable):
            play(exchange.load_steps(), (Load, StoreUnavailable("down")))
        with pytest.raises(SessionNotLoaded):
            exchange.session.get("user_id")
        play(exchange.load_steps(), (Load, record({"user_id": 7})))
        assert exchange.session.user_id == 7


class TestCorruptRecords:
    BROKEN: Sequence[Any] = (
        b"{broken",
        b"[1]",
        b"\xff",
        {"$cookie": "soon"},
        {"$cookie": {"max_age": "an hour"}},
        {"$cookie": {"max_age": 1e300}},
        {"$cookie": {"expires": "2037-01-01T00:00:00"}},
        {"$cookie": {"expires": "never"}},
        {"$cookie": None},
    )

    @pytest.mark.parametrize("data", BROKEN, ids=repr)
    def test_its_visitor_gets_a_new_session_and_the_row_stays(
        self, data: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange = request(SID)
        play(exchange.load_steps(), (Load, record(data)))
        assert exchange.session.is_new
        exchange.session["a"] = 1
        finished, [insert] = ended(exchange, (Insert, inserted))
        assert insert.key != KEY
        assert cookie_sid(finished) != SID.value
        [entry] = caplog.records
        assert (entry.name, entry.levelno) == ("websessions", logging.ERROR)
        assert KEY.hex() in entry.message
        assert SID.value not in entry.message
        assert "never" not in entry.message, "what is stored is the visitor's"

    @pytest.mark.parametrize("data", BROKEN, ids=repr)
    def test_with_on_corrupt_error_the_request_fails(self, data: Any) -> None:
        exchange = request(SID, on_corrupt="error")
        with pytest.raises(CorruptRecord) as caught:
            play(exchange.load_steps(), (Load, record(data)))
        assert caught.value.key == KEY.hex()
        assert SID.value not in str(caught.value)

    def test_a_store_may_find_the_corruption_itself(self) -> None:
        exchange = request(SID)
        play(exchange.load_steps(), (Load, CorruptRecord(KEY.hex(), "a column")))
        assert exchange.session.is_new

    def test_a_visitor_who_comes_back_is_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        lifecycle = middleware()
        for _ in range(3):
            play(request(SID, lifecycle=lifecycle).load_steps(), (Load, record(b"{")))
        assert len(caplog.records) == 1

    def test_of_a_thousand_of_them_it_is_known_who_has_been_there(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A table of rubbish must not fill the memory, too."""
        lifecycle = middleware()
        visitors = [Sid(f"{number:043}") for number in range(1001)]
        for sid in [*visitors, *visitors]:
            broken = record(b"{", key=sid.digest())
            play(request(sid, lifecycle=lifecycle).load_steps(), (Load, broken))
        assert len(caplog.records) == 1001 + 1


class TestSaving:
    def test_a_new_session_is_not_stored_until_it_is_written(self) -> None:
        exchange = request()
        assert exchange.session.get("a") is None
        finished, _ = ended(exchange)
        assert finished == Finished(None, vary=True)

    def test_nor_is_one_from_which_it_was_taken_out_again(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        del exchange.session["a"]
        ended(exchange)

    def test_a_request_that_does_not_look_does_not_vary(self) -> None:
        assert ended(request())[0] == Finished(None, vary=False)
        assert ended(request(SID))[0] == Finished(None, vary=False)

    def test_one_that_sets_a_cookie_does(self) -> None:
        """A cache must not hand it to the next visitor."""
        finished, _ = ended(request(SID, rolling=True), (Load, record({})))
        assert finished.cookie is not None
        assert finished.vary

    def test_the_first_write_is_one_insert(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        finished, [insert] = ended(exchange, (Insert, inserted))
        assert (insert.data, insert.expires) == (b'{"a":1}', NOW + DAY)
        assert Sid(cookie_sid(finished)).digest() == insert.key

    def test_the_id_that_a_handler_saw_is_the_one_that_is_stored(self) -> None:
        exchange = request()
        sid = exchange.session.id
        exchange.session["a"] = 1
        finished, [insert] = ended(exchange, (Insert, inserted))
        assert insert.key == sid.digest()
        assert cookie_sid(finished) == sid.value

    def test_an_unchanged_session_is_not_rewritten(self) -> None:
        exchange = loaded({"a": [1]})
        exchange.session["a"] = [1]
        finished, _ = ended(exchange)
        assert finished == Finished(None, vary=True)

    def test_a_changed_one_is_replaced(self) -> None:
        exchange = loaded({"a": [1]})
        exchange.session["a"].append(2)
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert (replace.seen.version, replace.data, replace.new_key) == (1, b'{"a":[1,2]}', None)
        assert finished == Finished(None, vary=True)

    def test_a_value_that_does_not_fit_fails_the_request_and_stores_nothing(self) -> None:
        exchange = loaded({})
        exchange.session["cart"] = {"items": [object()]}
        with pytest.raises(SessionEncodingError, match=r"cart\.items\[0\]"):
            ended(exchange)

    def test_too_large_a_session_fails_the_request_and_stores_nothing(self) -> None:
        exchange = loaded({})
        exchange.session["blob"] = "x" * 1000
        with pytest.raises(SessionTooLarge, match="blob"):
            ended(exchange)

    def test_after_a_failed_save_the_error_page_does_not_save_again(self) -> None:
        """The handler's session is what failed; the second response must be able to leave."""
        exchange = loaded({})
        exchange.session["a"] = 1
        with pytest.raises(StoreUnavailable):
            ended(exchange, (Replace, StoreUnavailable("down")))
        assert ended(exchange) == (Finished(None, vary=True), [])
        play(exchange.close_steps())

    def test_after_the_error_page_it_is_too_late_for_a_new_session(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        with pytest.raises(StoreUnavailable):
            ended(exchange, (Insert, StoreUnavailable("down")))
        ended(exchange)
        with pytest.raises(SessionError, match="after the response has begun"):
            play(exchange.settle_steps())

    def test_a_cancelled_save_is_not_made_up_for(self) -> None:
        exchange = loaded({})
        exchange.session["a"] = 1
        with pytest.raises(GeneratorExit):
            ended(exchange, (Replace, GeneratorExit()))
        assert ended(exchange) == (Finished(None, vary=True), [])

    def test_saving_early_is_not_saving_twice(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Insert, inserted))
        finished, _ = ended(exchange)
        assert cookie_sid(finished) == exchange.session.id.value

    def test_what_changes_after_an_early_save_is_saved(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Insert, inserted))
        exchange.session["a"] = 2
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.data == b'{"a":2}'
        assert finished.cookie is not None

    def test_resave_writes_once(self) -> None:
        exchange = loaded({"a": 1}, resave=True)
        play(exchange.settle_steps(), (Replace, replaced))
        ended(exchange)
        new = request(resave=True)
        new.session["a"] = 1
        play(new.settle_steps(), (Insert, inserted))
        ended(new)

    def test_resave_and_save_uninitialized_work_for_handlers_that_never_look(self) -> None:
        ended(request(SID, resave=True), (Load, record({})), (Replace, replaced))
        finished, _ = ended(request(save_uninitialized=True), (Insert, inserted))
        assert finished.cookie is not None
        ended(request(SID, save_uninitialized=True), (Load, None), (Insert, inserted))

    def test_an_excluded_path_is_left_alone_whatever_the_options(self) -> None:
        options: dict[str, Any] = {"resave": True, "save_uninitialized": True, "rolling": True}
        assert ended(request(opted_out=True, **options)) == (Finished(None, vary=False), [])
        assert ended(request(SID, opted_out=True, **options)) == (Finished(None, vary=False), [])

    def test_a_path_is_excluded_only_if_somebody_says_so(self) -> None:
        exchange = ByHand(middleware(save_uninitialized=True), "", https=False)
        ended(exchange, (Insert, inserted))

    def test_the_cookies_own_lifetime_is_stored_with_the_session(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.cookie.max_age = timedelta(days=30)
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.data == b'{"a":1,"$cookie":{"max_age":2592000}}'
        assert replace.expires == NOW + 30 * DAY
        assert "Max-Age=2592000" in (finished.cookie or "")

    def test_it_comes_back_with_the_session(self) -> None:
        exchange = loaded({"a": 1, "$cookie": {"max_age": 2592000}})
        assert exchange.session.cookie.max_age == 30 * DAY
        assert dict(exchange.session) == {"a": 1}
        fixed = loaded({"$cookie": {"expires": "2037-01-05T00:00:00+00:00"}})
        assert fixed.session.cookie.expires == NOW + 4 * DAY
        fixed.session["a"] = 1
        _, [replace] = ended(fixed, (Replace, replaced))
        assert replace.expires == NOW + 4 * DAY


class TestTouching:
    def test_a_read_touches_once_touch_after_has_passed(self) -> None:
        for since, calls in ((59, []), (60, [Touch])):
            rules = Rules(now=NOW + timedelta(seconds=since))
            exchange = loaded({"a": 1}, rules=rules)
            assert exchange.session["a"] == 1
            _, made = ended(exchange, *((kind, True) for kind in calls))
            if made:
                assert made == [Touch(KEY, rules.now + DAY, timedelta(minutes=1), record({"a": 1}))]

    def test_a_session_that_nobody_looked_at_is_touched_too(self) -> None:
        """As express does: the visitor is there."""
        exchange = loaded({"a": 1}, rules=Rules(now=NOW + timedelta(minutes=2)))
        assert ended(exchange, (Touch, True))[0] == Finished(None, vary=False)

    def test_a_touch_that_fails_costs_nobody_the_answer(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange = loaded({"a": 1}, rules=Rules(now=NOW + timedelta(hours=1)))
        ended(exchange, (Touch, StoreUnavailable("down")))
        assert "may expire early" in caplog.text

    def test_disable_touch(self) -> None:
        exchange = loaded({}, rules=Rules(now=NOW + timedelta(hours=1), disable_touch=True))
        exchange.session.touch()
        ended(exchange)

    def test_a_handler_may_touch_sooner(self) -> None:
        exchange = loaded({}, rules=Rules(now=NOW + timedelta(seconds=1)))
        exchange.session.touch()
        _, made = ended(exchange, (Touch, True))
        assert made == [Touch(KEY, NOW + DAY + timedelta(seconds=1), timedelta(0), record({}))]

    def test_who_has_saved_need_not_touch_unless_asked_to(self) -> None:
        rules = Rules()
        exchange = loaded({}, rules=rules)
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Replace, replaced))
        rules.now += timedelta(hours=1)
        play(exchange.settle_steps())
        exchange.session.touch()
        play(exchange.settle_steps(), (Touch, True))

    def test_one_that_moved_the_expiry_is_not_made_twice(self) -> None:
        exchange = loaded({}, rules=Rules(now=NOW + timedelta(hours=1)))
        play(exchange.settle_steps(), (Touch, False))
        play(exchange.settle_steps(), (Touch, True))
        play(exchange.settle_steps())

    def test_a_lifetime_of_the_cookies_counts(self) -> None:
        rules = Rules(now=NOW + timedelta(minutes=2))
        hour = timedelta(hours=1)
        for cookie, wanted in (
            ({"max_age": 2 * DAY}, rules.now + 2 * DAY),
            ({"expires": NOW + 7 * DAY + hour}, NOW + 7 * DAY + hour),
        ):
            exchange = loaded({"a": 1}, rules=rules, cookie=cookie)
            assert ended(exchange, (Touch, True))[1][0].expires == wanted

    def test_what_is_too_large_to_be_written_can_be_touched(self) -> None:
        """The limit was higher when it was written."""
        rules = Rules(now=NOW + timedelta(seconds=1))
        exchange = loaded({"a": "x" * rules.max_size}, rules=rules)
        exchange.session.touch()
        ended(exchange, (Touch, True))

    def test_that_moves_the_cookies_end_on_as_well(self) -> None:
        exchange = loaded({}, cookie={"max_age": 60})
        exchange.session.touch()
        finished, _ = ended(exchange)
        assert "Max-Age=60" in (finished.cookie or "")

    def test_a_write_needs_no_touch(self) -> None:
        exchange = loaded({}, rules=Rules(now=NOW + timedelta(hours=1)))
        exchange.session["a"] = 1
        ended(exchange, (Replace, replaced))


class TestConflicts:
    """Someone else wrote between this request's read and its write."""

    def test_merge_and_try_again(self) -> None:
        exchange = loaded({"a": 0, "b": 0})
        exchange.session["a"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"a": 0, "b": 2}, version=2)),
            (Replace, replaced),
        )
        assert made[-1].seen.version == 2
        assert codec.decode(made[-1].data) == {"a": 1, "b": 2}
        assert dict(exchange.session) == {"a": 1, "b": 2}

    def test_each_try_merges_into_the_latest(self) -> None:
        exchange = loaded({"mine": 0})
        exchange.session["mine"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"mine": 0, "x": 1}, version=2)),
            (Replace, None),
            (Load, record({"mine": 0, "x": 1, "y": 1}, version=3)),
            (Replace, None),
            (Load, record({"mine": 5, "y": 1}, version=4)),
            (Replace, replaced),
        )
        assert made[-1].seen.version == 4
        assert codec.decode(made[-1].data) == {"mine": 1, "y": 1}

    def test_the_cookies_lifetime_merges_like_a_key(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"a": 0, "$cookie": {"max_age": 60}}, version=2)),
            (Replace, replaced),
        )
        assert codec.decode(made[-1].data) == {"a": 1, "$cookie": {"max_age": 60}}
        assert made[-1].expires == NOW + timedelta(seconds=60)

    def test_a_new_id_is_still_one_after_the_merge(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session.regenerate()
        finished, made = ended(
            exchange, (Replace, None), (Load, record({"a": 1}, version=2)), (Replace, replaced)
        )
        assert made[-1].new_key == Sid(cookie_sid(finished)).digest()
        assert made[-1].grace_until == NOW + GRACE

    def test_a_session_that_ended_stays_ended(self, caplog: pytest.LogCaptureFixture) -> None:
        """Promise 3, and its cookie is left alone: a parallel login may have set a better one."""
        caplog.set_level(logging.INFO, "websessions")
        exchange = loaded({"user_id": 7})
        exchange.session["a"] = 1
        finished, _ = ended(exchange, (Replace, None), (Load, None))
        assert finished == Finished(None, vary=True)
        assert "its changes are dropped" in caplog.text
        exchange.session["b"] = 1
        play(exchange.close_steps())

    def test_a_login_does_not_revive_what_ended(self) -> None:
        exchange = loaded({})
        exchange.session.regenerate()
        exchange.session.user_id = 7
        finished, made = ended(exchange, (Replace, None), (Load, None))
        assert finished.cookie is None
        assert made[-1].key == made[0].seen.key

    def test_a_merge_into_a_corrupt_row_fails_the_request(self) -> None:
        exchange = loaded({})
        exchange.session["a"] = 1
        with pytest.raises(CorruptRecord):
            ended(exchange, (Replace, None), (Load, record(b"{", version=2)))

    def test_an_emptied_session_stays_empty_of_what_others_wrote(self) -> None:
        """`regenerate(keep_data=False)` promises a session without anybody's data."""
        exchange = loaded({"old": 1})
        exchange.session.regenerate(keep_data=False)
        exchange.session["new"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"old": 1, "planted": 1}, version=2)),
            (Replace, replaced),
        )
        assert codec.decode(made[-1].data) == {"new": 1}

    def test_a_reload_takes_the_emptying_back(self) -> None:
        exchange = loaded({"old": 1})
        exchange.session.regenerate(keep_data=False)
        play(exchange.reload_steps(), (Load, record({"old": 1})))
        exchange.session["new"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"old": 1, "theirs": 1}, version=2)),
            (Replace, replaced),
        )
        assert made[0].new_key is None
        assert codec.decode(made[-1].data) == {"old": 1, "theirs": 1, "new": 1}

    def test_after_a_try_that_failed_the_next_save_counts_from_what_they_wrote(self) -> None:
        """A resolver that adds must not add twice because the database failed in between."""
        exchange = loaded({"n": 0}, on_conflict={"n": resolvers.add})
        exchange.session["n"] = 1
        with pytest.raises(StoreUnavailable):
            play(
                exchange.settle_steps(),
                (Replace, None),
                (Load, record({"n": 10}, version=2)),
                (Replace, StoreUnavailable("gone")),
            )
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"n": 100}, version=3)),
            (Replace, replaced),
        )
        assert codec.decode(made[-1].data) == {"n": 101}

    def test_it_gives_up_in_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(swap, "CONFLICT_DEADLINE", -1.0)
        exchange = loaded({})
        exchange.session["a"] = 1
        with pytest.raises(Conflict, match="not saved"):
            ended(exchange, (Replace, None), (Load, record({"b": 1}, version=2)))


class TestPolicies:
    """The option `on_conflict`."""

    def test_resolvers_decide_about_their_keys(self) -> None:
        exchange = loaded({"n": 1, "other": 0}, on_conflict={"n": resolvers.add})
        exchange.session.update(n=2, other=1)
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"n": 5, "other": 9}, version=2)),
            (Replace, None),
            (Load, record({"n": 7, "other": 9}, version=3)),
            (Replace, replaced),
        )
        assert codec.decode(made[-1].data) == {"n": 8, "other": 1}
        assert dict(exchange.session) == {"n": 8, "other": 1}

    def test_a_resolver_that_fails_fails_the_request_and_stores_nothing(self) -> None:
        exchange = loaded({"n": 1}, on_conflict={"n": resolvers.add})
        exchange.session["n"] = 2
        with pytest.raises(Conflict, match="'n'"):
            ended(exchange, (Replace, None), (Load, record({"n": "one"}, version=2)))
        assert ended(exchange) == (Finished(None, vary=True), [])

    def test_what_a_resolver_returns_has_to_be_storable(self) -> None:
        exchange = loaded({"n": 1}, on_conflict={"n": lambda *_: object()})
        exchange.session["n"] = 2
        with pytest.raises(SessionEncodingError, match="at n "):
            ended(exchange, (Replace, None), (Load, record({"n": 3}, version=2)))

    def test_overwrite_is_the_whole_of_mine(self) -> None:
        exchange = loaded({"a": 0, "b": 0}, on_conflict="overwrite")
        exchange.session["a"] = 1
        theirs = record({"b": 2, "c": 2, "$cookie": {"max_age": 60}}, version=2)
        _, made = ended(exchange, (Replace, None), (Load, theirs), (Replace, replaced))
        assert made[-1].seen == theirs
        assert codec.decode(made[-1].data) == {"a": 1, "b": 0}
        assert made[-1].expires == NOW + DAY

    def test_but_not_of_who_it_belongs_to(self) -> None:
        exchange = loaded({"user_id": 7, "a": 0}, on_conflict="overwrite")
        exchange.session["a"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"user_id": 8}, version=2)),
            (Replace, replaced),
        )
        assert codec.decode(made[-1].data) == {"user_id": 8, "a": 1}

    def test_it_revives_nothing(self) -> None:
        exchange = loaded({"a": 0}, on_conflict="overwrite")
        exchange.session["a"] = 1
        finished, _ = ended(exchange, (Replace, None), (Load, None))
        assert finished.cookie is None

    def test_error_is_a_conflict_at_once(self) -> None:
        exchange = loaded({"a": 0}, on_conflict="error")
        exchange.session["a"] = 1
        with pytest.raises(Conflict, match="another request has changed"):
            ended(exchange, (Replace, None), (Load, record({"b": 2}, version=2)))

    def test_error_is_none_where_the_session_has_ended(self) -> None:
        exchange = loaded({"a": 0}, on_conflict="error")
        exchange.session["a"] = 1
        ended(exchange, (Replace, None), (Load, None))

    def conflicted(self) -> ByHand:
        """A request that saved by hand, lost, and caught the error."""
        exchange = loaded({"a": 0}, on_conflict="error")
        exchange.session["a"] = 1
        with pytest.raises(Conflict):
            play(
                exchange.settle_steps(),
                (Replace, None),
                (Load, record({"a": 0, "b": 2}, version=2)),
            )
        return exchange

    def test_who_caught_it_answers_without_the_changes(self) -> None:
        """Or else the answer, a 409, would fail by the same conflict."""
        exchange = self.conflicted()
        assert ended(exchange) == (Finished(None, vary=True), [])
        exchange.session["late"] = 1
        play(exchange.close_steps())

    def test_to_save_again_is_to_lose_again(self) -> None:
        exchange = self.conflicted()
        with pytest.raises(Conflict):
            play(exchange.settle_steps(), (Replace, None), (Load, record({}, version=3)))

    def test_after_a_reload_the_change_can_be_made_again(self) -> None:
        exchange = self.conflicted()
        play(exchange.reload_steps(), (Load, record({"a": 0, "b": 2}, version=2)))
        assert dict(exchange.session) == {"a": 0, "b": 2}
        exchange.session["a"] = 1
        _, made = ended(exchange, (Replace, replaced))
        assert codec.decode(made[0].data) == {"a": 1, "b": 2}

    def test_a_logout_is_carried_out_all_the_same(self) -> None:
        exchange = self.conflicted()
        exchange.session.destroy()
        finished, _ = ended(exchange, (Delete, True))
        assert finished.cookie is not None
        assert finished.cookie.startswith("sid=;")

    def test_who_fails_after_it_keeps_the_old_id(self) -> None:
        exchange = loaded({"a": 0}, on_conflict="error")
        exchange.session.regenerate()
        with pytest.raises(Conflict):
            play(exchange.settle_steps(), (Replace, None), (Load, record({}, version=2)))
        exchange.abandon()
        assert exchange.finish_now() is None
        ended(exchange)
        assert exchange.session.id == SID

    def test_what_begins_after_that_is_saved(self) -> None:
        exchange = self.conflicted()
        exchange.session.destroy()
        play(exchange.settle_steps(), (Delete, True))
        exchange.session["message"] = "goodbye"
        finished, _ = ended(exchange, (Insert, inserted))
        assert finished.cookie is not None

    def test_a_session_that_was_stored_before_keeps_its_cookie(self) -> None:
        """And the cookie has the id that the row has, not one that it was to move to."""
        exchange = request(on_conflict="error")
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Insert, inserted))
        sid = exchange.session.id.value
        exchange.session.regenerate()
        with pytest.raises(Conflict):
            play(
                exchange.settle_steps(),
                (Replace, None),
                (Load, record({}, version=2, key=Sid(sid).digest())),
            )
        finished, _ = ended(exchange)
        assert cookie_sid(finished) == sid


class TestLostAnswers:
    """A store that repeats a statement may refuse what the first one did; that must not harm."""

    def test_a_replace_that_landed_is_merged_into_itself(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        _, made = ended(
            exchange, (Replace, None), (Load, record({"a": 1}, version=2)), (Replace, replaced)
        )
        assert codec.decode(made[-1].data) == {"a": 1}

    def test_one_that_landed_and_was_overwritten_since_is_merged(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        _, made = ended(
            exchange,
            (Replace, None),
            (Load, record({"a": 1, "b": 1}, version=3)),
            (Replace, replaced),
        )
        assert codec.decode(made[-1].data) == {"a": 1, "b": 1}

    def test_one_that_finds_its_row_as_it_was_is_tried_again(self) -> None:
        """Without a version, nobody sees that someone else wrote and took it back."""
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        ended(exchange, (Replace, None), (Load, exchange._record), (Replace, replaced))

    def test_a_move_to_an_id_that_is_taken_is_the_fault_of_genid(self) -> None:
        """The row is as it was seen, so it was not another writer who was faster."""
        exchange = loaded({"a": 0})
        exchange.session.regenerate()
        with pytest.raises(ConfigurationError, match="genid"):
            ended(exchange, (Replace, None), (Load, exchange._record))


class TestAskedMeanwhile:
    """A handler may work in one task while it saves or loads in another."""

    @staticmethod
    def under_way(steps: Steps[Any], kind: type[Call[Any]]) -> Any:
        call = next(steps)
        assert type(call) is kind
        return call

    @staticmethod
    def answer(steps: Steps[Any], value: Any) -> None:
        with pytest.raises(StopIteration):
            steps.send(value)

    @staticmethod
    def fail(steps: Steps[Any]) -> None:
        with pytest.raises(StoreUnavailable):
            steps.throw(StoreUnavailable("down"))

    def test_a_logout_during_a_save_is_carried_out(self) -> None:
        exchange = loaded({"user_id": 1})
        exchange.session["seen"] = 1
        steps = exchange.settle_steps()
        call = self.under_way(steps, Replace)
        exchange.session.destroy()
        self.answer(steps, replaced(call))
        finished, _ = ended(exchange, (Delete, True))
        assert finished.cookie is not None
        assert "Max-Age=0" in finished.cookie

    def test_a_logout_during_a_conflict_is_carried_out(self) -> None:
        exchange = loaded({"user_id": 1})
        exchange.session["seen"] = 1
        steps = exchange.settle_steps()
        self.under_way(steps, Replace)
        exchange.session.destroy()
        assert steps.send(None) == Load(KEY)
        self.answer(steps, record({"user_id": 1, "b": 2}, version=2))
        assert dict(exchange.session) == {}
        ended(exchange, (Delete, True))

    def test_a_logout_during_a_conflict_about_a_new_id_ends_the_row_where_it_is(self) -> None:
        exchange = loaded({"user_id": 1})
        exchange.session.regenerate()
        steps = exchange.settle_steps()
        self.under_way(steps, Replace)
        exchange.session.destroy()
        assert steps.send(None) == Load(KEY)
        self.answer(steps, record({"user_id": 1, "b": 2}, version=2))
        _, [delete] = ended(exchange, (Delete, True))
        assert delete.key == KEY

    def test_a_logout_during_the_first_save_leaves_its_id_to_nobody(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        steps = exchange.settle_steps()
        first = self.under_way(steps, Insert)
        exchange.session.destroy()
        self.answer(steps, inserted(first))
        exchange.session["message"] = "goodbye"
        _, [delete, second] = ended(exchange, (Delete, True), (Insert, inserted))
        assert delete.key == first.key != second.key

    def test_a_logout_during_a_touch_is_one(self) -> None:
        exchange = loaded({"user_id": 1}, rules=Rules(now=NOW + timedelta(hours=1)))
        steps = exchange.settle_steps()
        self.under_way(steps, Touch)
        exchange.session.destroy()
        play(exchange.settle_steps(), (Delete, True))
        self.answer(steps, True)
        ended(exchange)

    def test_to_empty_it_during_a_conflict_leaves_nothing_of_theirs(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        steps = exchange.settle_steps()
        self.under_way(steps, Replace)
        exchange.session.regenerate(keep_data=False)
        assert steps.send(None) == Load(KEY)
        again = steps.send(record({"a": 0, "planted": 1}, version=2))
        assert isinstance(again, Replace)
        self.answer(steps, replaced(again))
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.data == b"{}"

    def test_a_login_during_a_save_moves_the_row_next(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        steps = exchange.settle_steps()
        call = self.under_way(steps, Replace)
        exchange.session.regenerate(privilege=True)
        exchange.session["admin"] = True
        self.answer(steps, replaced(call))
        sid = exchange.session.id
        finished, [move] = ended(exchange, (Replace, replaced))
        assert (move.seen.key, move.new_key) == (KEY, sid.digest())
        assert codec.decode(move.data) == {"a": 1, "admin": True}
        assert cookie_sid(finished) == sid.value

    def test_a_write_during_a_save_is_saved_next(self) -> None:
        exchange = loaded({})
        exchange.session["a"] = 1
        steps = exchange.settle_steps()
        call = self.under_way(steps, Replace)
        exchange.session["b"] = 2
        self.answer(steps, replaced(call))
        _, [write] = ended(exchange, (Replace, replaced))
        assert codec.decode(write.data) == {"a": 1, "b": 2}

    def test_a_logout_during_a_load_revives_nothing(self) -> None:
        exchange = request(SID)
        steps = exchange.load_steps()
        self.under_way(steps, Load)
        exchange.session.destroy()
        self.answer(steps, record({"user_id": 1}))
        assert dict(exchange.session) == {}
        finished, _ = ended(exchange, (Delete, True))
        assert finished.cookie is not None
        assert "Max-Age=0" in finished.cookie

    def test_what_a_failed_save_did_not_do_is_done_next(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        exchange.session.regenerate()
        with pytest.raises(StoreUnavailable):
            play(exchange.settle_steps(), (Replace, StoreUnavailable("down")))
        _, [move] = ended(exchange, (Replace, replaced))
        assert move.new_key == exchange.session.id.digest()

    @pytest.mark.parametrize("meanwhile", [False, True])
    def test_nor_is_it_forgotten_that_the_session_was_to_be_empty(self, meanwhile: bool) -> None:
        exchange = loaded({"a": 0})
        exchange.session["a"] = 1
        if not meanwhile:
            exchange.session.regenerate(keep_data=False)
        steps = exchange.settle_steps()
        self.under_way(steps, Replace)
        if meanwhile:
            exchange.session.regenerate(keep_data=False)
        self.fail(steps)
        theirs = record({"a": 0, "planted": 1}, version=2)
        _, made = ended(exchange, (Replace, None), (Load, theirs), (Replace, replaced))
        assert made[-1].data == b"{}"

    @pytest.mark.parametrize("meanwhile", [False, True])
    def test_nor_that_it_was_to_be_touched(self, meanwhile: bool) -> None:
        exchange = loaded({"a": 0}, rules=Rules(now=NOW + timedelta(seconds=1)))
        exchange.session["a"] = 1
        if not meanwhile:
            exchange.session.touch()
        steps = exchange.settle_steps()
        self.under_way(steps, Replace)
        if meanwhile:
            exchange.session.touch()
        self.fail(steps)
        exchange.session["a"] = 0
        _, [touch] = ended(exchange, (Touch, True))
        assert touch.slack == timedelta(0)

    def test_nor_what_was_written_during_a_touch(self) -> None:
        exchange = loaded({"a": 0}, rules=Rules(now=NOW + timedelta(hours=1)))
        steps = exchange.settle_steps()
        self.under_way(steps, Touch)
        exchange.session["a"] = 1
        with pytest.raises(GeneratorExit):
            steps.throw(GeneratorExit())
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.data == b'{"a":1}'

    def test_nor_that_the_old_id_was_to_die_at_once(self) -> None:
        exchange = loaded({"user_id": 7})
        exchange.session.regenerate(privilege=True)
        steps = exchange.settle_steps()
        self.under_way(steps, Replace)
        exchange.session.regenerate()
        self.fail(steps)
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until is None

    def test_taking_a_session_away_takes_no_logout_back(self) -> None:
        exchange = loaded({"user_id": 1})
        exchange.session.destroy()
        finished, _ = play(exchange.finish_steps(unset=True), (Delete, True))
        assert finished.cookie is not None


class TestRegenerating:
    def test_the_row_moves_in_one_call(self) -> None:
        """At no moment are there two, or none."""
        exchange = loaded({"cart": [1]})
        exchange.session.regenerate()
        exchange.session.user_id = 7
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.seen.key == KEY
        assert replace.new_key == Sid(cookie_sid(finished)).digest()
        assert codec.decode(replace.data) == {"cart": [1], "user_id": 7}

    def test_without_the_data(self) -> None:
        exchange = loaded({"cart": [1], "$cookie": {"max_age": 60}})
        exchange.session.regenerate(keep_data=False)
        _, [replace] = ended(exchange, (Replace, replaced))
        assert (replace.data, replace.expires) == (b"{}", NOW + DAY)

    def test_a_session_that_was_never_stored_has_nothing_to_move(self) -> None:
        exchange = request()
        exchange.session.regenerate()
        assert ended(exchange)[0].cookie is None

    def test_twice_is_once_with_the_last_id(self) -> None:
        exchange = loaded({})
        exchange.session.regenerate()
        exchange.session.regenerate()
        sid = exchange.session.id
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.new_key == sid.digest()
        assert cookie_sid(finished) == sid.value

    def test_after_an_early_save_the_new_id_moves_on(self) -> None:
        exchange = loaded({})
        exchange.session.regenerate()
        _, [first] = play(exchange.settle_steps(), (Replace, replaced))
        exchange.session.regenerate()
        finished, [second] = ended(exchange, (Replace, replaced))
        assert second.seen.key == first.new_key
        assert second.new_key == Sid(cookie_sid(finished)).digest()

    def test_not_after_the_response_began(self) -> None:
        exchange = loaded({})
        ended(exchange)
        with pytest.raises(SessionError, match="response had begun"):
            exchange.session.regenerate()

    @pytest.mark.parametrize("privilege", [False, True])
    def test_of_a_refused_handshake_the_old_id_goes_on(self, privilege: bool) -> None:
        """No cookie can go with a refusal, so a new id would be a logout."""
        exchange = loaded({"a": 1})
        exchange.session.regenerate(privilege=privilege)
        exchange.session["a"] = 2
        exchange.responding = True
        _, [replace] = play(exchange.close_steps(), (Replace, replaced))
        assert replace.new_key is None
        assert exchange.session.id == SID

    def test_of_one_that_emptied_it_nothing_is_left(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.regenerate(keep_data=False)
        exchange.responding = True
        theirs = record({"a": 1, "planted": 1}, version=2)
        _, made = play(exchange.close_steps(), (Replace, None), (Load, theirs), (Replace, replaced))
        assert (made[-1].new_key, made[-1].data) == (None, b"{}")


GRACE = timedelta(seconds=5)
MOVED = Sid("b" * 43).digest()


def moved(data: dict[str, Any], version: int = 2, until: datetime = NOW + GRACE) -> Record:
    """The record under the new key that another request gave it, found by the old one."""
    found = record(data, version, key=MOVED)
    return Record(found.key, found.data, found.expires, found.version, until)


def loaded_in_grace(data: dict[str, Any], **options: Any) -> ByHand:
    exchange = request(SID, **options)
    play(exchange.load_steps(), (Load, moved(data)))
    return exchange


class TestGrace:
    """What a new id means to requests that are under way with the old one."""

    def test_a_regenerated_id_has_it(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.regenerate()
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until == NOW + GRACE

    def test_it_is_an_option(self) -> None:
        for seconds, until in ((2, NOW + timedelta(seconds=2)), (0, None)):
            exchange = loaded({"a": 1}, regenerate_grace=seconds)
            exchange.session.regenerate()
            _, [replace] = ended(exchange, (Replace, replaced))
            assert replace.grace_until == until

    @pytest.mark.parametrize("how", ["said", "said second", "user_id", "logout", "emptied"])
    def test_not_at_a_change_of_privilege(self, how: str) -> None:
        """Whether the handler says so, or it is plain from who is logged in or what is left."""
        exchange = loaded({"user_id": 7, "cart": [1]})
        session = exchange.session
        if how == "said second":
            session.regenerate()
        session.regenerate(privilege="said" in how, keep_data=how != "emptied")
        if how == "user_id":
            session.user_id = 8
        if how == "logout":
            session.user_id = None
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until is None
        assert replace.new_key == Sid(cookie_sid(finished)).digest()

    def test_nor_for_an_anonymous_session_that_is_emptied(self) -> None:
        """Its old id would read the next one's data."""
        exchange = loaded({"cart": [1]})
        exchange.session.regenerate(keep_data=False)
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until is None

    @pytest.mark.parametrize("reloads", [False, True])
    def test_nor_where_a_save_came_between_the_login_and_the_new_id(self, reloads: bool) -> None:
        """Which made the old id, that may have been planted, the one of who is logged in."""
        exchange = loaded({})
        exchange.session.user_id = 7
        play(exchange.settle_steps(), (Replace, replaced))
        if reloads:
            play(exchange.reload_steps(), (Load, record({"user_id": 7}, version=2)))
        exchange.session.regenerate()
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until is None

    def test_after_one_a_new_id_has_its_grace_again(self) -> None:
        """Nobody is left who has an id from before; until somebody else logs in."""
        exchange = loaded({})
        exchange.session.regenerate(privilege=True)
        exchange.session.user_id = 7
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session.regenerate()
        _, [second] = play(exchange.settle_steps(), (Replace, replaced))
        assert second.grace_until == NOW + GRACE

    def test_but_not_if_somebody_else_logged_in_since(self) -> None:
        exchange = loaded({})
        exchange.session.regenerate(privilege=True)
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session.user_id = 8
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session.regenerate()
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until is None

    def test_without_a_new_id_who_logs_in_keeps_the_old_one(self) -> None:
        exchange = loaded({})
        exchange.session.user_id = 7
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.new_key is None

    def test_nor_where_a_save_came_between_the_new_id_and_the_login(self) -> None:
        """The id that was planted would be logged in for the rest of its grace."""
        exchange = loaded({})
        exchange.session.regenerate()
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session.user_id = 7
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.new_key == Sid(cookie_sid(finished)).digest()
        assert replace.new_key != replace.seen.key
        assert replace.grace_until is None

    def with_a_grace(self, data: dict[str, Any]) -> ByHand:
        """A request that has saved a new id, and whose old one has its grace."""
        exchange = loaded(data)
        exchange.session.regenerate()
        play(exchange.settle_steps(), (Replace, replaced))
        return exchange

    def test_the_id_of_a_login_after_that_is_the_one_that_the_handler_saw(self) -> None:
        exchange = self.with_a_grace({})
        exchange.session.regenerate()
        exchange.session.user_id = 7
        sid = exchange.session.id
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.new_key == sid.digest()

    def test_a_logout_after_that_is_one(self) -> None:
        exchange = self.with_a_grace({"user_id": 7})
        exchange.session.destroy()
        ended(exchange, (Delete, True))

    def test_what_begins_after_that_has_the_id_that_the_handler_saw(self) -> None:
        exchange = self.with_a_grace({"user_id": 7})
        exchange.session.destroy()
        play(exchange.settle_steps(), (Delete, True))
        exchange.session["message"] = "goodbye"
        sid = exchange.session.id
        _, [insert] = ended(exchange, (Insert, inserted))
        assert insert.key == sid.digest()

    def test_a_login_after_the_response_began_has_no_cookie_for_another_id(self) -> None:
        exchange = self.with_a_grace({})
        ended(exchange)
        exchange.session.user_id = 7
        _, [replace] = play(exchange.close_steps(), (Replace, replaced))
        assert replace.new_key is None

    def test_once_said_privilege_is_not_taken_back(self) -> None:
        exchange = loaded({})
        exchange.session.regenerate(privilege=True)
        exchange.session.regenerate()
        _, [replace] = ended(exchange, (Replace, replaced))
        assert replace.grace_until is None

    def test_a_write_under_the_old_id_is_merged_and_sends_no_cookie(self) -> None:
        """That would be the old one, and overwrite the new one in the browser."""
        exchange = loaded({"a": 0}, cookie={"max_age": 60}, rolling=True)
        exchange.session["a"] = 1
        finished, made = ended(
            exchange, (Replace, None), (Load, moved({"a": 0, "b": 2})), (Replace, replaced)
        )
        assert made[1].key == KEY
        assert made[2].seen.key == MOVED
        assert codec.decode(made[2].data) == {"a": 1, "b": 2}
        assert finished.cookie is None

    def test_so_is_one_of_a_request_that_came_later(self) -> None:
        exchange = loaded_in_grace({"a": 0}, cookie={"max_age": 60}, rolling=True)
        assert exchange.session.id == SID
        assert not exchange.session.is_new
        exchange.session["a"] = 1
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert (replace.seen.key, replace.new_key) == (MOVED, None)
        assert finished.cookie is None

    def test_who_empties_it_has_emptied_it(self) -> None:
        exchange = loaded_in_grace({"a": 0})
        exchange.session.clear()
        _, [replace] = ended(exchange, (Replace, replaced))
        assert (replace.seen.key, replace.data) == (MOVED, b"{}")

    def test_what_is_done_after_the_response_began_is_done(self) -> None:
        exchange = loaded_in_grace({"log": []})
        log: list[int] = exchange.session["log"]
        ended(exchange)
        log.append(1)
        _, [replace] = play(exchange.close_steps(), (Replace, replaced))
        assert replace.data == b'{"log":[1]}'
        exchange.session.destroy()
        _, [delete] = play(exchange.close_steps(), (Delete, True))
        assert delete.key == KEY

    def test_where_only_the_id_has_changed_there_is_no_conflict(self) -> None:
        exchange = loaded({"a": 0}, on_conflict="error")
        exchange.session["a"] = 1
        ended(exchange, (Replace, None), (Load, moved({"a": 0})), (Replace, replaced))

    def test_its_conflicts_are_read_by_the_old_id_again(self) -> None:
        """Which may be dead by then: the new one is none of this request's business."""
        exchange = loaded_in_grace({"a": 0})
        exchange.session["a"] = 1
        finished, made = ended(exchange, (Replace, None), (Load, None))
        assert made[1].key == KEY
        assert finished.cookie is None

    def test_of_two_that_regenerate_at_once_the_first_counts(self) -> None:
        exchange = loaded({"a": 0})
        exchange.session.regenerate()
        exchange.session["a"] = 1
        finished, made = ended(
            exchange, (Replace, None), (Load, moved({"a": 0})), (Replace, replaced)
        )
        assert made[2].new_key is None
        assert codec.decode(made[2].data) == {"a": 1}
        assert finished.cookie is None
        assert exchange.session.id == SID

    def test_one_that_begins_in_the_grace_has_been_given_its_new_id_already(self) -> None:
        for writes in (False, True):
            exchange = loaded_in_grace({"a": 0})
            exchange.session.regenerate()
            exchange.session["a"] = int(writes)
            _, made = ended(exchange, *[(Replace, replaced)] * writes)
            assert not any(replace.new_key for replace in made)
            assert exchange.session.id == SID

    @pytest.mark.parametrize("early", [True, False])
    def test_a_login_moves_on_and_leaves_no_old_id(self, early: bool) -> None:
        exchange = loaded({}) if early else loaded_in_grace({})
        exchange.session.regenerate(privilege=True)
        conflict = [(Replace, None), (Load, moved({}))] if early else []
        finished, made = ended(exchange, *conflict, (Replace, replaced))
        assert made[-1].seen.key == MOVED
        assert made[-1].new_key == Sid(cookie_sid(finished)).digest()
        assert made[-1].grace_until is None

    def test_when_it_is_over_what_was_under_way_is_dropped(self) -> None:
        """A socket may have read the session by the old id long ago."""
        rules = Rules()
        exchange = loaded_in_grace({"a": 0}, rules=rules, rolling=True)
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Replace, replaced))
        rules.now += GRACE
        exchange.session["a"] = 2
        finished, made = ended(exchange)
        assert (finished.cookie, made) == (None, [])

    def test_a_touch_is_of_the_row_where_it_is_now(self) -> None:
        rules = Rules()
        exchange = loaded_in_grace({"a": 0}, rules=rules)
        rules.now += timedelta(seconds=1)
        exchange.session.touch()
        _, [touch] = ended(exchange, (Touch, True))
        assert touch.key == MOVED

    def test_a_logout_is_one(self) -> None:
        exchange = loaded_in_grace({"a": 0})
        exchange.session.destroy()
        finished, [delete] = ended(exchange, (Delete, True))
        assert delete.key == KEY
        assert finished.cookie is not None
        assert finished.cookie.startswith("sid=;")

    def test_a_cookie_from_an_early_save_is_not_sent_when_the_id_has_moved_on(self) -> None:
        """It would overwrite a better one: that of a login in another tab."""
        exchange = loaded({"a": 0})
        exchange.session.regenerate()
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session["a"] = 1
        finished, _ = ended(exchange, (Replace, None), (Load, None))
        assert finished.cookie is None


class TestDestroying:
    def test_one_delete_and_the_cookie_is_cleared(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.destroy()
        assert dict(exchange.session) == {}
        finished, made = ended(exchange, (Delete, True))
        assert made == [Delete(KEY)]
        assert "Max-Age=0" in (finished.cookie or "")

    def test_it_needs_no_read(self) -> None:
        exchange = request(SID)
        exchange.session.destroy()
        ended(exchange, (Delete, False))

    def test_a_session_that_was_never_stored_has_nothing_to_delete(self) -> None:
        exchange = request()
        exchange.session["a"] = 1
        exchange.session.destroy()
        assert ended(exchange)[0] == Finished(None, vary=True)

    def test_what_is_written_afterwards_begins_a_new_one(self) -> None:
        exchange = loaded({"user_id": 7})
        exchange.session.destroy()
        exchange.session["message"] = "goodbye"
        finished, [delete, insert] = ended(exchange, (Delete, True), (Insert, inserted))
        assert delete.key == KEY
        assert codec.decode(insert.data) == {"message": "goodbye"}
        assert insert.key == Sid(cookie_sid(finished)).digest() != KEY

    def test_be_it_the_same_as_before(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.destroy()
        exchange.session["a"] = 1
        ended(exchange, (Delete, True), (Insert, inserted))

    def test_a_lifetime_alone_begins_nothing(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.destroy()
        exchange.session.cookie.max_age = 60
        ended(exchange, (Delete, True))

    def test_regenerating_a_destroyed_session_does_not_save_it(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.destroy()
        exchange.session.regenerate()
        ended(exchange, (Delete, True))

    @pytest.mark.parametrize("option", ["resave", "save_uninitialized"])
    def test_no_option_saves_it(self, option: str) -> None:
        exchange = loaded({"a": 1}, **{option: True})
        exchange.session.destroy()
        ended(exchange, (Delete, True))

    def test_a_failed_delete_is_no_logout(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.destroy()
        with pytest.raises(StoreUnavailable):
            ended(exchange, (Delete, StoreUnavailable("down")))
        assert ended(exchange)[0].cookie is None

    def test_a_reload_takes_it_back(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session.destroy()
        play(exchange.reload_steps(), (Load, record({"a": 1})))
        assert ended(exchange)[0] == Finished(None, vary=True)

    def test_after_the_response_began_it_still_ends(self, caplog: pytest.LogCaptureFixture) -> None:
        """A logout over a WebSocket; a message written after it is lost, the logout is not."""
        exchange = loaded({"user_id": 7})
        ended(exchange)
        exchange.session.destroy()
        exchange.session["message"] = "goodbye"
        play(exchange.close_steps(), (Delete, True))
        assert "it is lost" in caplog.text

    def test_so_does_one_that_nobody_read(self) -> None:
        exchange = request(SID)
        ended(exchange)
        exchange.session.destroy()
        exchange.session["message"] = "goodbye"
        play(exchange.close_steps(), (Delete, True))

    def test_what_is_not_there_is_not_ended(self) -> None:
        gone = loaded({"a": 1})
        gone.session["a"] = 2
        ended(gone, (Replace, None), (Load, None))
        new = request()
        ended(new)
        for exchange in (gone, new):
            exchange.session.destroy()
            play(exchange.close_steps())

    def test_saving_that_says_so_but_has_ended_it(self) -> None:
        exchange = loaded({"user_id": 7})
        ended(exchange)
        exchange.session.destroy()
        exchange.session["message"] = "goodbye"
        with pytest.raises(SessionError, match="can not be saved after the response"):
            play(exchange.settle_steps(), (Delete, True))

    def test_unset_keep_saves_nothing(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session["a"] = 2
        assert play(exchange.finish_steps(unset=True)) == (Finished(None, vary=True), [])

    def test_unset_destroy_needs_no_read(self) -> None:
        exchange = request(SID, unset="destroy")
        finished, _ = play(exchange.finish_steps(unset=True), (Delete, True))
        assert "Max-Age=0" in (finished.cookie or "")

    def test_an_abandoned_request_saves_nothing_later_either(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        for exchange in (loaded({"a": [1]}), request()):
            exchange.session.setdefault("a", []).append(2)
            exchange.abandon()
            assert ended(exchange) == (Finished(None, vary=True), [])
            exchange.session["b"] = 1
            play(exchange.close_steps())
        assert not caplog.records


class TestCookiesThatCanNotBeSet:
    def test_no_session_begins(self, caplog: pytest.LogCaptureFixture) -> None:
        """Its browser would not take the cookie: the row would be one that nobody can reach."""
        exchange = request(cookie={"secure": True})
        exchange.session["a"] = 1
        assert ended(exchange) == (Finished(None, vary=True), [])
        assert "proxy=True" in caplog.text

    @pytest.mark.parametrize("secure", [True, "auto"])
    def test_over_https_it_does(self, secure: Any) -> None:
        exchange = request(cookie={"secure": secure}, https=True)
        exchange.session["a"] = 1
        play(exchange.settle_steps(), (Insert, inserted))
        assert "Secure" in (ended(exchange)[0].cookie or "")

    def test_what_was_set_over_https_is_cleared_over_https(self) -> None:
        exchange = loaded({"a": 1}, cookie={"secure": "auto"}, https=True)
        exchange.session.destroy()
        assert "Secure" in (ended(exchange, (Delete, True))[0].cookie or "")

    def test_a_logout_is_one_all_the_same(self) -> None:
        exchange = loaded({"a": 1}, cookie={"secure": True})
        exchange.session.destroy()
        exchange.session["message"] = "goodbye"
        assert ended(exchange, (Delete, True))[0].cookie is None

    def test_after_that_nothing_is_lost_that_was_not_lost_before(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange = request(cookie={"secure": True})
        exchange.session.setdefault("log", []).append(1)
        ended(exchange)
        play(exchange.close_steps())
        [entry] = caplog.records
        assert "proxy=True" in entry.message

    def test_it_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        lifecycle = middleware(cookie={"secure": True})
        for _ in range(3):
            exchange = request(lifecycle=lifecycle)
            exchange.session["a"] = 1
            ended(exchange)
        assert len(caplog.records) == 1


class TestCollisions:
    def test_an_id_that_is_taken_is_not_used(self) -> None:
        ids = iter([letter * 43 for letter in "abc"])
        exchange = request(genid=lambda: next(ids))
        exchange.session["a"] = 1
        finished, made = ended(exchange, (Insert, None), (Insert, None), (Insert, inserted))
        assert len({insert.key for insert in made}) == 3
        assert cookie_sid(finished) == "c" * 43

    def test_nor_is_one_that_the_handler_has_seen(self) -> None:
        exchange = request()
        seen = exchange.session.id
        exchange.session["a"] = 1
        finished, made = ended(exchange, (Insert, None), (Insert, inserted))
        assert made[0].key == seen.digest()
        assert cookie_sid(finished) == exchange.session.id.value != seen.value

    def test_a_genid_that_gives_taken_ids_is_told_so(self) -> None:
        exchange = request(genid=lambda: "a" * 43)
        exchange.session["a"] = 1
        with pytest.raises(ConfigurationError, match="genid returned an id that is taken"):
            ended(exchange, (Insert, None), (Insert, None), (Insert, None))


class TestAfterTheResponseBegan:
    def test_late_changes_are_saved_at_the_end(self) -> None:
        exchange = loaded({"a": 1})
        ended(exchange)
        exchange.session["a"] = 2
        play(exchange.close_steps(), (Replace, replaced))
        play(exchange.close_steps())

    def test_late_changes_inside_a_list_that_was_taken_out_before(self) -> None:
        exchange = loaded({"log": []})
        log: list[int] = exchange.session["log"]
        ended(exchange)
        log.append(1)
        _, [replace] = play(exchange.close_steps(), (Replace, replaced))
        assert replace.data == b'{"log":[1]}'

    def test_there_is_nothing_to_look_for_where_nobody_has_the_session(self) -> None:
        exchange = loaded({"log": []})
        ended(exchange)
        exchange.let_go()
        assert exchange.may_be_unsettled is False

    def test_there_is_nothing_to_look_for_where_the_handler_has_nothing(self) -> None:
        idle, reading, holding = (loaded({"log": []}) for _ in range(3))
        assert holding.session["log"] == []
        for exchange in (idle, reading, holding):
            ended(exchange)
        assert reading.session.get("other") is None
        assert not idle.may_be_unsettled
        assert reading.may_be_unsettled
        assert holding.may_be_unsettled

    def test_a_session_that_was_only_read_is_not_touched_twice(self) -> None:
        rules = Rules(now=NOW + timedelta(hours=1), touch_after=timedelta(0))
        exchange = loaded({"log": []}, rules=rules)
        assert exchange.session["log"] == []
        ended(exchange, (Touch, True))
        rules.now += timedelta(minutes=1)
        play(exchange.close_steps())

    def test_a_new_session_is_lost_and_that_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        exchange = request()
        ended(exchange)
        exchange.session["a"] = 1
        play(exchange.close_steps())
        assert "it is lost" in caplog.text

    def test_to_save_it_by_hand_is_an_error(self) -> None:
        exchange = request()
        ended(exchange)
        exchange.session["a"] = 1
        with pytest.raises(SessionError, match="after the response has begun"):
            play(exchange.settle_steps())

    def test_without_a_response_nothing_is_saved(self) -> None:
        """A handler that returned without one, or was cut off before."""
        exchange = loaded({"a": 1})
        exchange.session["a"] = 2
        play(exchange.close_steps())


class TestTheSessionItself:
    def test_it_is_a_dict_to_its_users(self) -> None:
        session = request().session
        session.update(a=1, b=2)
        session.setdefault("c", []).append(3)
        assert session.pop("a") == 1
        del session["b"]
        assert (list(session), len(session), "c" in session, "b" in session) == (
            ["c"],
            1,
            True,
            False,
        )
        assert session == {"c": [3]}
        session.clear()
        assert not session

    def test_its_repr_shows_neither_data_nor_id(self) -> None:
        session = loaded({"password": "hunter2"}).session
        assert repr(session) == "<Session stored>"
        assert repr(request().session) == "<Session new>"
        assert repr(request(SID).session) == "<Session not loaded>"

    @pytest.mark.parametrize("key", [1, None, ("a",), b"a"])
    def test_keys_are_strings(self, key: Any) -> None:
        session = request().session
        with pytest.raises(TypeError, match="session keys are strings"):
            session[key] = 1

    def test_the_reserved_key_is_refused(self) -> None:
        session = request().session
        with pytest.raises(ValueError, match=r"'\$cookie' is reserved"):
            session["$cookie"] = {"max_age": 1}

    def test_user_id_is_a_key_like_any_other(self) -> None:
        session = loaded({"user_id": 7}).session
        assert session.user_id == 7
        session.user_id = 8
        assert session["user_id"] == 8
        session.user_id = None
        session.user_id = None
        assert "user_id" not in session

    def test_there_is_nothing_to_reload_before_it_is_stored(self) -> None:
        with pytest.raises(SessionError, match="not stored yet"):
            play(request().reload_steps())
        exchange = request(SID)
        play(exchange.load_steps(), (Load, None))
        with pytest.raises(SessionError, match="not stored yet"):
            play(exchange.reload_steps())

    def test_what_a_reload_dropped_is_not_saved_even_if_it_failed(self) -> None:
        exchange = loaded({"a": 1})
        exchange.session["a"] = 2
        with pytest.raises(StoreUnavailable):
            play(exchange.reload_steps(), (Load, StoreUnavailable("down")))
        ended(exchange)

    def test_a_bad_lifetime_is_refused_where_it_is_set(self) -> None:
        session: Session = request().session
        bad: Any
        for bad in (-1, "60", True, timedelta.max):
            with pytest.raises(ConfigurationError, match="max_age"):
                session.cookie.max_age = bad
        for bad in (datetime(2037, 1, 1), 60, "soon"):  # noqa: DTZ001
            with pytest.raises(ValueError, match="aware datetime"):
                session.cookie.expires = bad

    def test_the_settings_own_lifetime_is_not_stored_with_each_session(self) -> None:
        """So that a later change of the setting reaches the sessions that are there."""
        exchange = request(cookie={"max_age": 60})
        exchange.session["a"] = 1
        exchange.session.cookie.max_age = 60
        _, [insert] = ended(exchange, (Insert, inserted))
        assert (insert.data, insert.expires) == (b'{"a":1}', NOW + timedelta(seconds=60))

    def test_an_own_lifetime_may_be_none(self) -> None:
        exchange = request(cookie={"max_age": 60})
        exchange.session["a"] = 1
        exchange.session.cookie.max_age = None
        finished, [insert] = ended(exchange, (Insert, inserted))
        assert insert.data == b'{"a":1,"$cookie":{"max_age":null}}'
        assert "Max-Age" not in (finished.cookie or "")


def test_a_response_shows_no_session_id_in_its_repr() -> None:
    assert SID.value not in repr(Finished(f"websession={SID.value}", vary=True))


def test_what_is_written_is_what_there_was_when_it_was_saved() -> None:
    """A handler may go on while its save waits for its turn: columns are of the same moment."""
    for exchange in (request(), loaded({})):
        exchange.session["user_id"] = "ann"
        write = next(exchange.settle_steps())
        assert isinstance(write, Insert | Replace)
        exchange.session["user_id"] = "bob"
        assert dict(write.values) == {"user_id": "ann"}
