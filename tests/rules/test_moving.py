"""A session moves once, and never back, whoever dies, is late or comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from datetime import timedelta
from itertools import count
from typing import Any, Final, TypeAlias

import pytest

from websessions import (
    AsyncMemoryStore,
    FormerCookie,
    MemoryStore,
    SessionEncodingError,
    SessionSettings,
    Sid,
    StoreError,
)
from websessions.exchange import AsyncExchange, SyncExchange
from websessions.lifecycle import Lifecycle
from websessions.moving import MARK, AsyncMovingStore, AtSource, MovingStore, move_steps
from websessions.run import Pause
from websessions.signing import ExpressValue, SignedValue
from websessions.store import (
    AsyncPerforms,
    Call,
    Count,
    Delete,
    Fetch,
    Insert,
    Performs,
    Replace,
    Sweep,
    Swept,
)
from websessions.testing import FakeClock
from websessions.testing.path import Option, Path

SECRET, EXPRESS_SECRET = "a long and random secret", "keyboard cat"
SID = Sid("tXa0jzoKVqL6RxFLFRMk22oqRukEAZpJ")
COOKIE = "connect.sid=" + ExpressValue("connect.sid", [EXPRESS_SECRET.encode()]).sign(SID)
SETTINGS = SessionSettings(secret=SECRET, former=FormerCookie(secret=EXPRESS_SECRET))

PREEMPTIONS: Final = 2

Calls: TypeAlias = Generator[Call[Any], Any, None]


class World:
    """Two stores, one of which has a session."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        options: Any = {"clock": self.clock, "check_expiration_interval": 0}
        self.source, self.target = MemoryStore(**options), MemoryStore(**options)
        self.stores = MovingStore(self.target, self.source)
        self.rules: Lifecycle[Performs] = Lifecycle(self.stores, SETTINGS)
        self.source.set(SID, {"user": "ann"})
        self.has_ended = self.may_have_ended = self.has_another_id = self.has_dead = False
        self.written: set[str] = set()

    def visit(self) -> SyncExchange:
        return SyncExchange(self.rules, COOKIE, https=False)


Party: TypeAlias = Callable[[World], Calls]


def single(world: World, steps: Generator[Call[Any], Any, Any]) -> Generator[Call[Any], Any, Any]:
    """The same steps, with those that a `Fetch` takes each on its own."""
    answer: Any = None
    try:
        while True:
            call = steps.send(answer)
            if isinstance(call, Fetch):
                answer = yield from move_steps(world.stores, call.sid)
            else:
                answer = yield call
    except StopIteration as done:
        return done.value


def imports(world: World) -> Calls:
    yield from move_steps(world.stores, SID)


def writes(key: str) -> Party:
    def visitor(world: World) -> Calls:
        exchange = world.visit()
        yield from single(world, exchange.load_steps())
        known = bool(exchange.session)
        exchange.session[key] = 1
        finished = yield from single(world, exchange.finish_steps())
        if known and exchange._row.is_read:
            world.written.add(key)
            world.has_another_id |= finished.cookie is not None
        if not known and finished.cookie is not None:
            world.target.destroy(exchange.session.id)  # a new session is another story

    return visitor


def logs_out(world: World) -> Calls:
    exchange = world.visit()
    exchange.session.destroy()
    yield from single(world, exchange.finish_steps())
    world.has_ended = True


def logs_out_of_express(world: World) -> Calls:
    """It ends what has not been given away before, and at any rate nothing else."""
    yield AtSource(Count())
    there = world.source.get(SID) or {}
    world.has_ended |= bool(there) and MARK not in there
    world.may_have_ended |= MARK in there
    world.source.destroy(SID)


def dies(party: Party, after: int) -> Party:
    def dead(world: World) -> Calls:
        steps, answer = party(world), None
        world.has_dead = True
        for _ in range(after):
            try:
                answer = yield steps.send(answer)
            except StopIteration:
                return

    return dead


def played(path: Path, world: World, parties: dict[str, Party]) -> list[str]:
    """One schedule, and what it was."""
    steps = {name: party(world) for name, party in parties.items()}
    calls = {name: next(one) for name, one in steps.items()}
    current, switches, trace = "", 0, []
    while calls:
        names = sorted(calls, key=lambda name: (name != current, name))
        if switches == PREEMPTIONS and current in calls:
            names = [current]
        name = path.choose([Option(name, type(calls[name]).__name__) for name in names])
        switches += current in calls and name != current
        current, call = name, calls[name]
        answer = None if isinstance(call, Pause) else world.stores.perform((call,))[0]
        path.happened(type(answer).__name__)
        trace.append(f"{name}: {_described(call)} -> {_described(answer)}")
        try:
            calls[name] = steps[name].send(answer)
        except StopIteration:
            del calls[name]
    return trace


def _described(one: object) -> str:
    at_source = "source " if isinstance(one, AtSource) else ""
    inner = one.call if isinstance(one, AtSource) else one
    return at_source + (repr(inner) if isinstance(inner, bool | None) else type(inner).__name__)


def explored(**parties: Party) -> int:
    """Every schedule with few preemptions; how many there are."""
    path = Path()
    for number in count(1):
        world = World()
        trace = played(path, world, parties)
        try:
            afterwards(world)
        except AssertionError as error:
            error.add_note("\n".join(trace))
            raise
        if not path.advance():
            return number
    raise AssertionError


def afterwards(world: World) -> None:
    """What must be true then."""
    world.stores.perform((Fetch(SID),))
    assert world.source.all() == []
    sessions = world.target.all()
    if world.has_dead:
        # A promise that nobody can keep is an empty session that nobody has the id of.
        sessions = list(filter(None, sessions))
    if world.has_ended or (world.may_have_ended and not sessions):
        assert sessions == []
    else:
        assert len(sessions) == 1
        (session,) = sessions
        assert session["user"] == "ann"
        assert world.written <= set(session)
    if world.has_ended or world.has_another_id:
        world.clock.advance(60)
        assert dict(world.visit().session) == {}


OVERLAPPING: Final[dict[str, dict[str, Party]]] = {
    "two imports": {"one": imports, "two": imports},
    "an import and a visitor": {"import": imports, "visitor": writes("a")},
    "two visitors": {"one": writes("a"), "two": writes("b")},
    "two visitors and an import": {"import": imports, "one": writes("a"), "two": writes("b")},
    "an import and a logout": {"import": imports, "visitor": logs_out},
    "a visitor and a logout": {"one": writes("a"), "two": logs_out},
    "an import and a logout of Express": {"import": imports, "express": logs_out_of_express},
    "a visitor and a logout of Express": {"visitor": writes("a"), "express": logs_out_of_express},
}


@pytest.mark.parametrize("story", OVERLAPPING)
def test_it_is_there_once_or_it_has_ended(story: str) -> None:
    """It is all the same who comes when."""
    assert explored(**OVERLAPPING[story]) > 5


@pytest.mark.parametrize("after", range(1, 7))
@pytest.mark.parametrize("other", [imports, writes("a"), logs_out, logs_out_of_express])
def test_whoever_dies_is_replaced(other: Party, after: int) -> None:
    """At any moment, and nobody waits for it."""
    assert explored(dead=dies(imports, after), other=other) > 1


def test_the_dead_have_steps_left() -> None:
    """So that the last test is about deaths."""
    world = World()
    assert len(played(Path(), world, {"import": imports})) == 7
    assert world.target.all() == [{"user": "ann"}]


@pytest.mark.parametrize("lost", [Insert, Replace, Delete])
def test_an_answer_that_was_lost_loses_nothing(lost: type[Call[Any]]) -> None:
    """The store asked again, found its work done and could not tell by whom."""

    class Losing(MovingStore):
        def perform(self, calls: Any, /) -> list[Any]:
            answers = super().perform(calls)
            call = calls[0].call if isinstance(calls[0], AtSource) else calls[0]
            if isinstance(call, lost) and not seen:
                seen.append(call)
                return [False if isinstance(call, Delete) else None]
            return answers

    seen: list[Any] = []
    world = World()
    (record,) = Losing(world.target, world.source).perform((Fetch(SID),))
    assert seen
    assert record is not None
    assert (world.source.all(), world.target.all()) == ([], [{"user": "ann"}])


@pytest.mark.parametrize("logs_out", [False, True])
async def test_a_load_that_was_cancelled_is_made_up_for(logs_out: bool) -> None:
    """By the next one in the same request, or by a logout: it is still in the other store."""

    class Hanging(AsyncMovingStore):
        async def perform(self, calls: Any, /) -> list[Any]:
            if isinstance(calls[0], Fetch) and not reached.is_set():
                reached.set()
                await asyncio.Event().wait()
            return await super().perform(calls)

    reached = asyncio.Event()
    source, target = (AsyncMemoryStore(check_expiration_interval=0) for _ in range(2))
    await source.set(SID, {"user": "ann"})
    rules: Lifecycle[AsyncPerforms] = Lifecycle(Hanging(target, source), SETTINGS)
    exchange = AsyncExchange(rules, COOKIE, https=False)
    loading = asyncio.ensure_future(exchange.session.load())
    await reached.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    if logs_out:
        exchange.session.destroy()
    else:
        await exchange.session.load()
        assert dict(exchange.session) == {"user": "ann"}
    await exchange.finish()
    assert await source.all() == []
    assert await target.all() == ([] if logs_out else [{"user": "ann"}])


def test_a_place_where_a_session_has_expired_is_made_free() -> None:
    world = World()
    world.target.set(SID, {"user": "bob"}, expires=world.clock() - timedelta(days=1))
    assert dict(world.visit().session) == {"user": "ann"}
    assert world.target.all() == [{"user": "ann"}]


def test_a_place_that_can_not_be_made_free_is_an_error() -> None:
    class Busy(MovingStore):
        def perform(self, calls: Any, /) -> list[Any]:
            return [Swept(0, False)] if isinstance(calls[0], Sweep) else super().perform(calls)

    world = World()
    world.target.set(SID, {"user": "bob"}, expires=world.clock() - timedelta(days=1))
    with pytest.raises(StoreError, match="could not be moved"):
        Busy(world.target, world.source).perform((Fetch(SID),))
    world.target.perform((Sweep(100),))
    assert dict(world.visit().session) == {"user": "ann"}


def test_a_logout_of_express_while_a_place_is_made_free_leaves_no_promise() -> None:
    class LoggedOut(MovingStore):
        def perform(self, calls: Any, /) -> list[Any]:
            if isinstance(calls[0], Sweep):
                self.source.destroy(SID)
            return super().perform(calls)

    world = World()
    world.target.set(SID, {"user": "bob"}, expires=world.clock() - timedelta(days=1))
    assert LoggedOut(world.target, world.source).perform((Fetch(SID),)) == [None]
    assert world.target.all() == []


def test_what_can_not_be_moved_is_asked_for_once() -> None:
    """What comes after it in the same request is about a new session."""

    class Refusing(MovingStore):
        def perform(self, calls: Any, /) -> list[Any]:
            if isinstance(calls[0], Fetch):
                asked.append(calls[0].sid)
                raise SessionEncodingError("", "refused")
            return super().perform(calls)

    asked: list[Sid] = []
    world = World()
    rules: Lifecycle[Performs] = Lifecycle(Refusing(world.target, world.source), SETTINGS)
    exchange = SyncExchange(rules, COOKIE, https=False)
    exchange.session["user"] = "bob"
    exchange.session.save()
    exchange.session.destroy()
    exchange.finish()
    assert asked == [SID]
    assert world.target.all() == []


def test_what_express_wrote_back_does_not_come_back() -> None:
    """It saves what a slow request has read, without looking whether that is still there."""
    world = World()
    exchange = world.visit()
    exchange.session["a"] = 1
    exchange.finish()
    world.source.set(SID, {"user": "ann", "late": 1})
    assert dict(world.visit().session) == {"user": "ann", "a": 1}
    assert world.source.all() == []


def test_who_has_two_cookies_of_the_new_kind_is_not_known_by_the_former_one() -> None:
    """One of them is planted; then the former one may be, too."""
    world = World()
    own = SignedValue("sid", [SECRET.encode()])
    ours = [f"sid={own.sign(Sid.new())}" for _ in range(2)]
    for separator in ("; ", ";"):
        exchange = SyncExchange(world.rules, separator.join([*ours, COOKIE]), https=False)
        assert dict(exchange.session) == {}
    exchange = SyncExchange(world.rules, f"sid=tampered; {COOKIE}", https=False)
    assert dict(exchange.session) == {"user": "ann"}
