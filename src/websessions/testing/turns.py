"""How the parties of a run take turns, strictly one at a time: by call, statement or round trip.

`by_call` needs nothing of a store: it performs one call after the other. The other two stop a
store in the middle of what it does, so they have to be told where: by `points`, a function that is
given the store and what to call there. `statements` and `round_trips` are those of the SQL stores.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol, TypeAlias

from ..run import Pause
from ..store import Call, Record, Replace, Steps, Swept
from .any_store import PATIENCE, finished
from .path import Option
from .scene import Scene, TimePasses

__all__ = [
    "ByCall",
    "ByRoundTrip",
    "ByStatement",
    "MakeTurns",
    "Stuck",
    "Turns",
    "by_call",
    "by_round_trip",
    "by_statement",
    "round_trips",
    "statements",
]


class Stuck(AssertionError):
    """Nobody can go on: each waits for something that another one holds."""


class Turns(Protocol):
    """The parties of one run."""

    async def begin(self) -> None:
        """Bring everybody to a first point."""
        ...

    def waiting(self) -> Sequence[Option]:
        """Who can go on; nobody once all is done."""
        ...

    async def go(self, name: str) -> None:
        """Let it go on, until it comes to its next point."""
        ...

    async def stop(self) -> None:
        """Leave everything where it is."""
        ...


@dataclass
class Party:
    """Somebody who takes turns: its steps, and the call that they have come to."""

    name: str
    steps: Steps[None]
    scene: Scene
    call: Call[Any] | None = None
    error: Exception | None = None
    done: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Bring it to its first call."""
        self._resume(self.steps.send, None)

    def answer(self, answer: Any) -> None:
        """Tell the steps what became of the call, and bring them to the next one."""
        call = self.call
        assert call is not None
        self.done.append(f"{described(call)} -> {self._outcome(answer)}")
        try:
            self.scene.ledger.note(self.name, call, answer)
        except Exception as error:
            self.call, self.error = None, error
            return
        failed = isinstance(answer, BaseException)
        self._resume(self.steps.throw if failed else self.steps.send, answer)

    def _resume(self, resume: Callable[[Any], Call[Any]], answer: Any) -> None:
        try:
            self.call = resume(answer)
            while isinstance(self.call, Pause):
                # Time stands still; whoever it makes way for can go first anyway.
                self.call = self.steps.send(None)
        except StopIteration:
            self.call = None
        except Exception as error:
            self.call, self.error = None, error

    def _outcome(self, answer: Any) -> str:
        """What is the same in each run: names and contents, and no keys or moments."""
        ledger = self.scene.ledger
        match answer:
            case Record():
                return f"{ledger.name(answer.key)} {ledger.content(answer)}"
            case Swept():
                return f"{answer.deleted} deleted"
            case _:
                return repr(answer)


def described(call: Call[Any]) -> str:
    """A call, for readers."""
    if isinstance(call, TimePasses):
        return f"{call.span} pass"
    if isinstance(call, Replace) and call.new_key is not None:
        return "move"
    return type(call).__name__.lower()


MakeTurns: TypeAlias = Callable[[Scene, Mapping[str, Party]], Turns]


class ByCall:
    """A turn is one call of the store, from its beginning to its end."""

    def __init__(self, scene: Scene, parties: Mapping[str, Party]) -> None:
        self._scene = scene
        self._parties = parties

    async def begin(self) -> None:
        for party in self._parties.values():
            party.begin()

    def waiting(self) -> Sequence[Option]:
        return [
            Option(party.name, described(party.call))
            for party in self._parties.values()
            if party.call is not None
        ]

    async def go(self, name: str) -> None:
        party = self._parties[name]
        assert party.call is not None
        party.answer(await self._scene.perform(party.call))

    async def stop(self) -> None:
        for party in self._parties.values():
            party.steps.close()


by_call: MakeTurns = ByCall


class _Stopped(BaseException):
    """The run is over, in the middle of what this party does."""


@dataclass
class _Thread:
    party: Party
    may_go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    running: bool = True
    parked: str | None = None
    first: bool = False
    held_up: bool = False
    is_back: bool = False
    halfway: bool = False
    thread: threading.Thread | None = None


class ByStatement:
    """A turn is one statement of a sync store: each party is a thread on a connection of its own.

    The first statement of a call belongs to the turn in which the call begins, and the clock does
    not jump in the middle of a call: a store reads it once for all of them.

    A party that does not come to its next point within `patience` waits for a lock that a paused
    one holds: another one goes on instead, and it when the lock is free.
    """

    def __init__(self, scene: Scene, parties: Mapping[str, Party], *, patience: timedelta) -> None:
        self._scene = scene
        self._patience = patience.total_seconds()
        self._news = threading.Condition()
        self._stopped = False
        self._threads = {name: _Thread(party) for name, party in parties.items()}
        self._by_ident: dict[int, _Thread] = {}

    async def begin(self) -> None:
        for one in self._threads.values():
            one.party.begin()
            one.thread = threading.Thread(target=self._live, args=(one,), daemon=True)
            one.thread.start()
            self._wait()

    def waiting(self) -> Sequence[Option]:
        with self._news:
            halfway = any(one.halfway for one in self._threads.values())
            waiting = [
                Option(name, one.parked)
                for name, one in self._threads.items()
                if one.parked is not None
                and not (halfway and isinstance(one.party.call, TimePasses))
            ]
            held_up = [name for name, one in self._threads.items() if one.running]
        if held_up and not waiting:
            raise Stuck(f"{' and '.join(held_up)} can not go on: the database does not answer")
        return waiting

    async def go(self, name: str) -> None:
        self._release(self._threads[name])
        for one in self._threads.values():
            if one.is_back:
                # It was answered in this turn, and what it wrote is there.
                self._release(one)

    def _release(self, one: _Thread) -> None:
        with self._news:
            one.parked, one.is_back, one.running = None, False, True
        one.may_go.release()
        self._wait()

    async def stop(self) -> None:
        self._stopped = True
        for one in self._threads.values():
            one.may_go.release()
        for one in self._threads.values():
            assert one.thread is not None
            one.thread.join(PATIENCE)
            one.party.steps.close()

    def point(self) -> None:
        """To be called by the store before each statement."""
        one = self._by_ident.get(threading.get_ident())
        if one is None:
            return  # it is nobody's: the explorer looks, or prepares a run
        if one.first:
            one.first = False
            return
        assert one.party.call is not None
        one.halfway = True
        self._park(one, f"{described(one.party.call)}, next statement")

    def _live(self, one: _Thread) -> None:
        self._by_ident[threading.get_ident()] = one
        party = one.party
        try:
            while party.call is not None:
                self._park(one, described(party.call))
                one.first = True
                answer = finished(self._scene.perform(party.call))
                one.halfway = False
                if one.held_up:
                    # Somebody else is having a turn.
                    one.is_back = True
                    self._park(one, f"{described(party.call)}, answered")
                party.answer(answer)
        except _Stopped:
            pass
        except Exception as error:
            party.error = error
        finally:
            with self._news:
                one.running = False
                self._news.notify_all()

    def _park(self, one: _Thread, does: str) -> None:
        with self._news:
            one.parked, one.running, one.held_up = does, False, False
            self._news.notify_all()
        one.may_go.acquire()
        if self._stopped:
            raise _Stopped

    def _wait(self) -> None:
        """Until everybody who has begun has come to a point, or is held up."""

        def still() -> bool:
            return not any(one.running for one in begun)

        def parked() -> bool:
            return any(one.parked is not None for one in begun)

        with self._news:
            begun = [one for one in self._threads.values() if one.thread is not None]
            if not self._news.wait_for(still, self._patience):
                # Who is held up by nobody we know is in trouble, and not to be hurried.
                self._news.wait_for(lambda: still() or parked(), PATIENCE)
            for one in begun:
                one.held_up = one.running


Point: TypeAlias = Callable[[], None]


def by_statement(
    points: Callable[[Any, Point], None] | None = None,
    *,
    patience: timedelta = timedelta(seconds=1),
) -> MakeTurns:
    """Turns of one statement, for a sync store.

    Args:
        points: makes the store call a function before each statement; `statements` by default,
            which is for `SQLSessionStore`.
        patience: when a statement that has not come back counts as one that waits for a lock.
    """
    present: list[ByStatement] = []

    def point() -> None:
        if present:
            present[0].point()

    def make(scene: Scene, parties: Mapping[str, Party]) -> Turns:
        _once(scene, points or statements, point)
        present[:] = [ByStatement(scene, parties, patience=patience)]
        return present[0]

    return make


def statements(store: Any, point: Point) -> None:
    """Make a `SQLSessionStore` call `point` before each statement."""
    engine = store._opened.engine
    connect = engine.raw_connection
    engine.raw_connection = lambda: _Stopping(connect(), point)


class _Stopping:
    """A connection whose cursors, or a cursor whose statements, stop at a point first."""

    def __init__(self, inner: Any, point: Point) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def cursor(self) -> _Stopping:
        return _Stopping(self._inner.cursor(), self._point)

    def execute(self, *args: Any) -> Any:
        self._point()
        return self._inner.execute(*args)


class ByRoundTrip:
    """A turn is a call that is handed to an async store, or a round trip that the store makes.

    Each party is a task. A call that is handed over may have to wait for others that are under
    way, and then goes with those that came meanwhile: so batches are formed as they are under
    load, by the choices of the explorer alone.
    """

    def __init__(self, scene: Scene, parties: Mapping[str, Party]) -> None:
        self._scene = scene
        self._parties = parties
        self._parked: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._tasks: dict[asyncio.Task[Any] | None, str] = {}
        self._order = {name: number for number, name in enumerate(parties)}
        self._under_way = 0
        self._back = asyncio.Event()
        self._home = asyncio.current_task()
        self._begun = False

    async def begin(self) -> None:
        self._begun = True
        for party in self._parties.values():
            party.begin()
            self._tasks[asyncio.create_task(self._live(party))] = party.name
        await self._settle()

    def waiting(self) -> Sequence[Option]:
        names = sorted(self._parked, key=self._order.__getitem__)
        return [Option(name, self._parked[name][0]) for name in names]

    async def go(self, name: str) -> None:
        self._parked.pop(name)[1].set_result(None)
        await self._settle()

    async def stop(self) -> None:
        self._begun = False
        for task in self._tasks:
            if task is not None:
                task.cancel()
        for _, future in self._parked.values():
            if not future.done():
                future.set_exception(ConnectionAbortedError("the run is over"))
        await self._settle()
        for party in self._parties.values():
            party.steps.close()

    @asynccontextmanager
    async def point(self, does: str) -> AsyncIterator[None]:
        """To be entered by the store before each round trip, and left after it."""
        task = asyncio.current_task()
        if task is self._home or not self._begun:
            yield  # the explorer looks, or prepares a run
            return
        name = self._tasks.get(task) or f"batch{len(self._order) - len(self._parties) + 1}"
        self._order.setdefault(name, len(self._order))
        await self._park(name, does)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._back.set()

    async def _live(self, party: Party) -> None:
        while party.call is not None:
            await self._park(party.name, described(party.call))
            party.answer(await self._scene.perform(party.call))

    async def _park(self, name: str, does: str) -> None:
        may_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parked[name] = does, may_go
        await may_go

    async def _settle(self) -> None:
        """Until everybody has come to a point, and the loop has nothing left to do."""
        quiet = 0
        while quiet < _ROUNDS:
            await asyncio.sleep(0)
            quiet += 1
            if self._under_way:
                self._back.clear()
                await asyncio.wait_for(self._back.wait(), PATIENCE)
                quiet = 0


_ROUNDS: Final = 10
"""Rounds of the loop in which nothing moves any more: an answer is handed on in three or four."""

RoundTrip: TypeAlias = Callable[[str], AbstractAsyncContextManager[None]]


def by_round_trip(points: Callable[[Any, RoundTrip], None] | None = None) -> MakeTurns:
    """Turns of one call or one round trip, for an async store.

    Args:
        points: makes the store enter a context before each round trip, with a word on what it
            does, and leave it after; `round_trips` by default, which is for `AsyncSQLSessionStore`.
    """
    present: list[ByRoundTrip] = []

    @asynccontextmanager
    async def point(does: str) -> AsyncIterator[None]:
        if not present:
            yield
            return
        async with present[0].point(does):
            yield

    def make(scene: Scene, parties: Mapping[str, Party]) -> Turns:
        _once(scene, points or round_trips, point)
        present[:] = [ByRoundTrip(scene, parties)]
        return present[0]

    return make


def round_trips(store: Any, point: RoundTrip) -> None:
    """Make an `AsyncSQLSessionStore` enter `point` for each round trip."""
    perform: Callable[..., Awaitable[Any]] = store._call

    async def stopping(function: Callable[..., Any], *args: Any) -> Any:
        calls = args[0] if args else ()
        async with point("sends " + ", ".join(map(described, calls))):
            return await perform(function, *args)

    store._call = stopping


def _once(scene: Scene, points: Callable[[Any, Any], None], point: Any) -> None:
    """Prepare a store, unless it was prepared for an earlier run."""
    store: Any = scene.store.store
    if not hasattr(store, "_has_points"):
        store._has_points = True
        points(store, point)
