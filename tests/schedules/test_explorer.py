"""The explorer is worth something: it finds what is planted, counts right, repeats itself."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from websessions import AsyncMemoryStore, MemoryStore, SessionLocked, lifecycle, lock, writing
from websessions.sid import Sid
from websessions.sql import SQLSessionStore
from websessions.store import Call, Clear, Insert, Load, Lock, Put, Record, Replace, Scan, Touch
from websessions.testing import FakeClock
from websessions.testing.explorer import Broken, explore, explore_async
from websessions.testing.path import Nondeterministic
from websessions.testing.requests import (
    Script,
    locked,
    login,
    logout,
    read,
    reload,
    request,
    respond,
    sweep,
    time_passes,
    touch,
    write,
)
from websessions.testing.turns import Stuck, by_statement

WRITERS = {"A": request(write("a")), "B": request(write("b"))}

EXPIRY = [time_passes(timedelta(hours=23)), time_passes(timedelta(hours=2))]
"""In two steps: who comes between them counts from there."""


def healthy(clock: FakeClock, **options: Any) -> MemoryStore:
    return MemoryStore(clock=clock, **options)


# It counts right


def reads(times: int) -> Script:
    return request(read, *[reload] * (times - 1))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 2), (3, 3), (2, 5), (4, 1)])
def test_two_parties_interleave_in_as_many_ways_as_the_binomial_coefficient_says(
    first: int, second: int
) -> None:
    """m and n steps that nothing changes: C(m + n, m) schedules, each once."""
    explored = explore(healthy, {"A": reads(first), "B": reads(second)})
    assert len(explored) == math.comb(first + second, first)
    assert len(set(explored.schedules)) == len(explored)


def test_three_parties_interleave_in_as_many_ways_as_the_multinomial_coefficient_says() -> None:
    """6! / (2! 2! 2!) = 90."""
    assert len(explore(healthy, {"A": reads(2), "B": reads(2), "C": reads(2)})) == 90


def test_the_schedules_of_two_writers_are_those_that_one_writes_down() -> None:
    """Who reads before the other has written is refused, reads again and writes again."""
    assert explore(healthy, WRITERS).schedules == (
        "A A B B",
        "A B B A A A",
        "A B A B B B",
        "B B A A",
        "B A A B B B",
        "B A B A A A",
    )


@pytest.mark.parametrize(("preemptions", "schedules"), [(0, 2), (1, 4), (2, 6), (None, 6)])
def test_preemptions_are_bounded(preemptions: int | None, schedules: int) -> None:
    """To turn to another party once the one before is done is none."""
    assert len(explore(healthy, WRITERS, preemptions=preemptions)) == schedules


# It finds what is planted


class Planted(MemoryStore):
    """A memory store that answers some calls in a way of its own."""

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        return [self.answer(call) for call in calls]

    def answer(self, call: Call[Any]) -> Any:
        return self.right(call)

    def right(self, call: Call[Any]) -> Any:
        [answer] = super().perform([call])
        return answer


class Upserting(Planted):
    """Saves as most session stores do: whatever is there, or is not."""

    def answer(self, call: Call[Any]) -> Any:
        if not isinstance(call, Replace) or call.new_key is not None:
            return self.right(call)
        self.right(Put(call.seen.key, call.data, call.expires, call.values))
        return self.right(Load(call.seen.key))


class Unguarded(Planted):
    """Updates what is there, whoever wrote it."""

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, Replace):
            there = self.right(Load(call.seen.key))
            call = replace(call, seen=there or call.seen)
        return self.right(call)


class Copying(Planted):
    """Moves a session to its new id and leaves a copy under the old one."""

    def answer(self, call: Call[Any]) -> Any:
        answer = self.right(call)
        if isinstance(call, Replace) and call.new_key is not None and answer is not None:
            self.right(Insert(call.seen.key, call.data, call.expires, call.values))
        return answer


class TouchReviving(Planted):
    """Pushes the expiry of whatever it still has on."""

    def answer(self, call: Call[Any]) -> Any:
        records = self._records._records
        if isinstance(call, Touch) and call.key in records:
            records[call.key] = replace(records[call.key], expires=call.expires)
            return True
        return self.right(call)


class TouchWritesBack(Planted):
    """Touches by saving what was read."""

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, Touch) and call.seen is not None:
            self.right(Put(call.key, call.seen.data, call.expires, {}))
            return True
        return self.right(call)


class Caching(Planted):
    """Remembers what it has read."""

    cache: dict[bytes, Record]

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, Clear):
            self.cache = {}
        if not isinstance(call, Load):
            return self.right(call)
        if call.key not in self.cache and (there := self.right(call)) is not None:
            self.cache[call.key] = there
        return self.cache.get(call.key)


class Mixing(Planted):
    """Reads the record of whoever asked last."""

    last: Record | None = None

    def answer(self, call: Call[Any]) -> Any:
        answer = self.right(call)
        if isinstance(call, Clear):
            self.last = None
        if isinstance(call, Load) and answer is not None:
            self.last, mixed = answer, self.last or answer
            return replace(answer, data=mixed.data)
        return answer


class Sweeping(Planted):
    """Its sweep goes by the moment at which a session began."""

    def answer(self, call: Call[Any]) -> Any:
        if type(call).__name__ == "Sweep":
            age = self.clock() - timedelta(hours=24)
            records = self._records._records
            for key, record in list(records.items()):
                if record.version == 1 and record.expires - self.expiration > age:
                    continue
                records.pop(key)
        return self.right(call)


@pytest.mark.parametrize(
    ("store", "parties", "message"),
    [
        (Upserting, WRITERS, "'b' is not there; it should be 'B1'"),
        (Upserting, {"A": request(write("a")), "B": request(logout)}, "which had ended"),
        (Upserting, {"A": request(write("a")), "B": request(login("ada"))}, "which had ended"),
        (
            Upserting,
            {"A": request(write("a")), "C": EXPIRY, "S": sweep()},
            "which had ended",
        ),
        (Unguarded, WRITERS, "'b' is not there; it should be 'B1'"),
        (Unguarded, {"A": request(login("ada")), "B": request(write("b"))}, "it should be"),
        (Copying, {"A": request(login("ada")), "B": request(read)}, "which had ended"),
        (
            TouchReviving,
            {"A": request(touch), "C": EXPIRY},
            "which had ended",
        ),
        (
            TouchWritesBack,
            {"A": request(touch), "B": request(write("b")), "C": time_passes(timedelta(hours=1))},
            "'b' is not there; it should be 'B1'",
        ),
        (Caching, {"A": request(write("a")), "B": [request(read), request(read)]}, "B has read"),
        (Mixing, {"A": request(read, visitor="x"), "B": request(read, visitor="y")}, "has read"),
        (
            Sweeping,
            {"A": request(write("a")), "S": sweep()},
            "is gone, and nobody has ended it",
        ),
    ],
)
def test_a_planted_bug_is_found(
    store: type[MemoryStore], parties: dict[str, Any], message: str
) -> None:
    """And a healthy store passes the same."""
    sessions = {"visitor": {"kept": 0}, "x": {"user_id": 1}, "y": {"user_id": 2}}
    assert explore(healthy, parties, sessions=sessions, touch_after=0)
    with pytest.raises(Broken, match=message):
        explore(
            lambda clock, **o: store(clock=clock, **o), parties, sessions=sessions, touch_after=0
        )


class Unlocking(Planted):
    """Gives a session's lock to everybody."""

    def answer(self, call: Call[Any]) -> Any:
        return isinstance(call, Lock) or self.right(call)


def test_a_lock_that_two_have_is_found() -> None:
    """Who locks meets no conflict, or the lock is none."""
    parties = {name: request(locked(write("k")), may_raise=SessionLocked) for name in "AB"}
    settings = {"on_conflict": "error"}
    assert explore(healthy, parties, settings=settings)
    with pytest.raises(Broken, match="Conflict"):
        explore(lambda clock, **o: Unlocking(clock=clock, **o), parties, settings=settings)


def test_a_block_that_does_not_read_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    parties = {name: request(read, locked(write("k")), may_raise=SessionLocked) for name in "AB"}
    settings = {"on_conflict": "error"}
    monkeypatch.setattr(lock, "_see", lambda request, theirs: None)
    with pytest.raises(Broken, match="Conflict"):
        explore(healthy, parties, settings=settings)


def test_a_bug_of_the_lifecycle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last writer of a conflict wins everything."""
    monkeypatch.setattr(writing, "merge", lambda base, mine, *_: dict(mine))
    with pytest.raises(Broken, match="it should be"):
        explore(healthy, WRITERS)


def test_changes_that_are_dropped_in_silence_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that gives up a conflict and says that it has saved."""

    def give_up(visit: Any, data: bytes, **options: Any) -> Any:
        yield Replace(visit._record, data, visit._expires(), {})

    monkeypatch.setattr(lifecycle, "replace_steps", give_up)
    with pytest.raises(Broken, match="was told that its changes are saved; they never were"):
        explore(healthy, WRITERS)


def test_a_new_session_in_the_place_of_an_ended_one_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also under a new id: what a slow request had read would be back."""

    def insert(visit: Any, data: bytes, **options: Any) -> Any:
        written = yield Replace(visit._record, data, visit._expires(), {})
        if written is None:
            yield Insert(visit._store.key(visit.new_sid()), data, visit._expires(), {})

    monkeypatch.setattr(lifecycle, "replace_steps", insert)
    with pytest.raises(Broken, match="began a new session in the place of one that it had read"):
        explore(healthy, {"A": request(write("a")), "B": request(logout)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("9" * 43, "A was given the id of a session that nobody began"),
        (f"{1:0>43}", "A has written session 2 and was given the id of session 1"),
    ],
)
def test_a_cookie_for_another_session_is_found(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    """Of one that never was, or of the one that a login has just left."""
    monkeypatch.setattr(
        lifecycle.RequestSession,
        "_set_cookie",
        lambda self: self._rules.cookies.set(
            Sid(given), now=self._store.clock(), expires=None, https=False
        ),
    )
    with pytest.raises(Broken, match=message):
        explore(healthy, {"A": request(login("ada"))})


def test_a_request_that_fails_is_a_failure() -> None:
    """Unless it may."""

    def boom(visit: Any) -> Any:
        yield from visit.open()
        raise RuntimeError("boom")

    with pytest.raises(Broken, match=r"RuntimeError\('boom'\)"):
        explore(healthy, {"A": request(boom)})


# A failure can be read, and repeated


def upserting(clock: FakeClock, **options: Any) -> MemoryStore:
    return Upserting(clock=clock, **options)


LISTING = """\
a write of A was acknowledged for session 1, which had ended

  A  load -> session 1 {'kept': 0}
  B  delete -> True
  A  replace -> session 1 {'kept': 0, 'a': 'A1'}

to repeat it: schedule='A B A'"""


def test_a_failure_is_a_list_of_steps() -> None:
    with pytest.raises(Broken) as broken:
        explore(upserting, {"A": request(write("a")), "B": request(logout)})
    assert str(broken.value) == LISTING
    assert broken.value.schedule == "A B A"


def test_a_schedule_can_be_repeated_alone() -> None:
    parties = {"A": request(write("a")), "B": request(logout)}
    with pytest.raises(Broken) as broken:
        explore(upserting, parties, schedule="A B A")
    assert str(broken.value) == LISTING
    assert explore(upserting, parties, schedule="A A B").schedules == ("A A B",)
    assert explore(healthy, parties, schedule="A B A").schedules == ("A B A A",)


def test_a_schedule_that_does_not_fit_says_where() -> None:
    with pytest.raises(Broken, match="'A' can not go on at this step; who can: B"):
        explore(healthy, WRITERS, schedule="A A A")


def test_an_exploration_is_the_same_each_time() -> None:
    assert explore(healthy, WRITERS).schedules == explore(healthy, WRITERS).schedules


# Chance is noticed


class Chance(Planted):
    """Does not see its records at the third look."""

    looks = 0

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, Scan):
            self.looks += 1
            if self.looks == 3:
                return []
        return self.right(call)


class Remembering(Planted):
    """Refuses the first write that it ever sees."""

    refused = False

    def answer(self, call: Call[Any]) -> Any:
        if isinstance(call, Replace) and not self.refused:
            self.refused = True
            return None
        return self.right(call)


def test_other_steps_than_before_are_reported() -> None:
    """Not as a broken rule, which could not be repeated."""
    make: Callable[..., MemoryStore] = lambda clock, **o: Remembering(clock=clock, **o)  # noqa: E731
    with pytest.raises(Nondeterministic, match=r"at step 2 A \(replace\) led to .*, and now to"):
        explore(make, {"A": request(write("a"))})


def test_a_broken_rule_is_looked_at_twice() -> None:
    """If it is not broken again by the same choices, it is chance that is reported."""
    make: Callable[..., MemoryStore] = lambda clock, **o: Chance(clock=clock, **o)  # noqa: E731
    with pytest.raises(Nondeterministic, match="it was not broken again: session 1 is gone"):
        explore(make, {"A": request(read, reload, reload, reload), "B": request(read)})


# Locks


class Holding(SQLSessionStore):
    """A store whose writes hold the database's lock over a second statement."""

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        if not isinstance(calls[0], Replace):
            return super().perform(calls)
        connection = self._opened.engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("BEGIN IMMEDIATE", ())
            cursor.execute("SELECT 1", ())
            cursor.fetchall()
            cursor.execute("COMMIT", ())
        finally:
            connection.close()
        return super().perform(calls)


def test_who_waits_for_a_lock_of_a_paused_party_is_passed_over(tmp_path: Path) -> None:
    """Its turn goes to another one, and all schedules come to their end."""
    url = f"sqlite:///{tmp_path}/held.sqlite3"
    explored = explore(
        lambda clock, **options: Holding(url, clock=clock, **options),
        {"A": request(write("a")), "B": request(write("b"))},
        turns=by_statement(patience=timedelta(milliseconds=250)),
        preemptions=1,
    )
    assert len(explored) > 4
    longest = max(explored.schedules, key=len).split()
    assert {"A", "B"} == set(longest)


def test_parties_that_hold_each_other_up_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by a lock that nobody gives back."""
    monkeypatch.setattr("websessions.testing.turns.PATIENCE", 0.1)
    url = f"sqlite:///{tmp_path}/stuck.sqlite3"
    with SQLSessionStore(url, check_expiration_interval=None) as store:
        store.sync()

    class Locked(SQLSessionStore):
        def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
            if isinstance(calls[0], Replace):
                holder.execute("BEGIN IMMEDIATE")
            return super().perform(calls)

    holder = sqlite3.connect(f"{tmp_path}/stuck.sqlite3", check_same_thread=False)
    holder.isolation_level = None
    try:
        with pytest.raises(Broken, match="A can not go on: the database does not answer") as broken:
            explore(
                lambda clock, **options: Locked(url, clock=clock, timeout=1, **options),
                {"A": request(write("a"))},
                turns=by_statement(patience=timedelta(milliseconds=50)),
            )
        assert isinstance(broken.value.__cause__, Stuck)
    finally:
        holder.close()


# Async


async def test_an_async_store_is_explored_alike() -> None:
    """By calls, the schedules are the same."""
    explored = await explore_async(
        lambda clock, **options: AsyncMemoryStore(clock=clock, **options), WRITERS
    )
    assert explored == explore(healthy, WRITERS)


def test_an_async_store_asks_to_be_awaited() -> None:
    with pytest.raises(TypeError, match=r"await explore_async\(\.\.\.\)"):
        explore(lambda clock, **options: AsyncMemoryStore(clock=clock, **options), WRITERS)


def test_a_response_can_begin_before_the_end() -> None:
    """What is written after it is saved, too, and a cookie is taken by the tab that got it."""
    explored = explore(
        healthy,
        {"A": [request(login("ada"), respond, write("late")), request(write("a"))]},
    )
    assert explored.schedules == ("A A A A A",)


def test_running_in_a_loop_is_no_different() -> None:
    async def main() -> int:
        return len(explore(healthy, WRITERS))

    assert asyncio.run(main()) == 6
