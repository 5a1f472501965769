"""One sweeper at a time: the lease that processes on one table share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, Text, select
from sqlalchemy.schema import DropTable

from tests.fixtures.services import Services
from tests.sql.drivers import ALL, BY_ID, ONE_A_DATABASE, Face, Way, a_name, a_sid, ways
from tests.sql.processes import Child, children
from websessions.run import run, run_async
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore, operations
from websessions.sql.statements import Statement
from websessions.store import Call, Insert, Lease, Put, Sweep, Touch
from websessions.sweeper import LEASE, Rounds
from websessions.testing import FakeClock

INTERVAL = timedelta(minutes=15)
EACH_DATABASE_BOTH_WAYS = tuple(
    BY_ID[id] for id in ("sqlite", "sqlite-thread", "psycopg", "asyncpg", "pymysql", "asyncmy")
)

PROCESS = """
import asyncio, inspect
from datetime import datetime, timedelta
from websessions.run import run, run_async
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Sweep
from websessions.sweeper import Rounds

kind, url, name, number = sys.argv[1:]
present = None
def clock():
    return present
Store = AsyncSQLSessionStore if kind == "async" else SQLSessionStore
store = Store(url, table_name=name, check_expiration_interval=None, clock=clock)
rounds = Rounds(timedelta(minutes=15), clock, in_turns=store.sweeps_in_turns)
perform, sweeps, deleted, to_the_end = store.perform, 0, 0, True

def count(calls, answers):
    global sweeps, deleted
    if isinstance(calls[0], Sweep):
        sweeps += 1
        deleted += answers[0].deleted
        if not to_the_end:
            say("in the middle")
            wait()
    return answers

def watched(calls):
    return count(calls, perform(calls))

async def watched_async(calls):
    return count(calls, await perform(calls))

async def main():
    global present, sweeps, deleted, to_the_end
    store.perform = watched_async if kind == "async" else watched
    say()
    for line in iter(sys.stdin.readline, ""):
        moment, _, how = line.strip().partition(" ")
        present, sweeps, deleted, to_the_end = datetime.fromisoformat(moment), 0, 0, not how
        if kind == "async":
            await run_async(rounds.steps(), store)
        else:
            run(rounds.steps(), store)
        say(f"{sweeps} {deleted}")

async def patient():
    asyncio.get_running_loop().slow_callback_duration = 60
    await main()
asyncio.run(patient())
"""


def rounds_at(moment: datetime, processes: list[Child]) -> list[tuple[int, int]]:
    """A round in each of the processes, all at once: how often it swept, and how many rows."""
    for process in processes:
        process.tell(moment.isoformat())
    answers = [process.answer().split() for process in processes]
    return [(int(sweeps), int(deleted)) for sweeps, deleted in answers]


def kind_of(way: Way) -> str:
    return "async" if way.asynchronous else "sync"


async def expire(face: Face, moment: datetime, count: int) -> None:
    for _ in range(count):
        key = face.store._key(a_sid())
        await face.ask(Put(key, b"{}", moment - timedelta(hours=1), {}))


@ways(*EACH_DATABASE_BOTH_WAYS)
async def test_of_many_processes_one_sweeps_in_each_interval(services: Services, way: Way) -> None:
    url, name, clock = way.url(services), a_name(), FakeClock()
    async with way.open(url, table_name=name, clock=clock) as face:
        with children(3, PROCESS, kind_of(way), url, name) as processes:
            for process in processes:
                process.hear()
            for _ in range(3):
                await expire(face, clock(), 20)
                swept = rounds_at(clock(), processes)
                assert sorted(swept) == [(0, 0), (0, 0), (1, 20)]
                await expire(face, clock(), 1)
                clock.advance(INTERVAL - timedelta(seconds=1))
                # Whose lease it is waits by itself until then.
                others = [
                    process for process, (n, _) in zip(processes, swept, strict=True) if n == 0
                ]
                assert rounds_at(clock(), others) == [(0, 0)] * 2, "not before it is due"
                assert await face.clear_expired_sessions() == 1, "who asks for it gets it"
                clock.advance(1)


@ways(*EACH_DATABASE_BOTH_WAYS)
async def test_a_sweeper_that_was_killed_is_replaced_when_its_lease_ends(
    services: Services, way: Way
) -> None:
    url, name, clock = way.url(services), a_name(), FakeClock()
    async with way.open(url, table_name=name, clock=clock) as face:
        with children(2, PROCESS, kind_of(way), url, name) as [first, second]:
            first.hear()
            second.hear()
            await expire(face, clock(), 3)
            first.tell(f"{clock().isoformat()} and die")
            first.hear("in the middle")
            assert rounds_at(clock(), [second]) == [(0, 0)]
            first.close()
            await expire(face, clock(), 4)
            clock.advance(LEASE - timedelta(seconds=1))
            assert rounds_at(clock(), [second]) == [(0, 0)]
            clock.advance(1)
            assert rounds_at(clock(), [second]) == [(1, 4)]


def rounds_of(face: Face) -> Rounds:
    return Rounds(INTERVAL, face.store.clock, in_turns=face.store.sweeps_in_turns)


async def a_round(face: Face, rounds: Rounds) -> list[type[Call[Any]]]:
    """Run it; which calls it made."""
    calls: list[type[Call[Any]]] = []
    store: Any = face.store

    class Watched:
        def perform(self, performed: Any) -> Any:
            calls.extend(map(type, performed))
            return store.perform(performed)

    watched: Any = Watched()
    if isinstance(store, AsyncSQLSessionStore):
        await run_async(rounds.steps(), watched)
    else:
        await asyncio.to_thread(run, rounds.steps(), watched)
    return calls


@ways(*ONE_A_DATABASE, BY_ID["asyncpg"])
async def test_a_lease_that_ends_in_the_far_future_counts_as_ended(
    services: Services, way: Way
) -> None:
    """It was taken by a process whose clock was wrong."""
    clock = FakeClock()
    async with way.open(way.url(services), table_name=a_name(), clock=clock) as face:
        in_a_year = clock() + timedelta(days=365)
        assert await face.ask(Lease("wrong", in_a_year, in_a_year)) is None
        assert await a_round(face, rounds_of(face)) == [Lease, Sweep, Lease]
        assert await a_round(face, rounds_of(face)) == [Lease]


@ways(*ALL)
async def test_the_answer_is_when_another_s_lease_ends(services: Services, way: Way) -> None:
    clock = FakeClock()
    now, ends = clock(), clock() + timedelta(seconds=12.345678)
    latest = now + timedelta(days=1)
    async with way.open(way.url(services), table_name=a_name(), clock=clock) as face:
        assert await face.ask(Lease("one", ends, latest)) is None
        assert await face.ask(Lease("two", now + timedelta(seconds=60), latest)) == ends
        assert await face.ask(Lease("one", ends, latest)) is None, "its own"
        clock.advance(ends - now)
        assert await face.ask(Lease("two", ends + INTERVAL, latest)) is None
        assert await face.ask(Lease("one", ends + INTERVAL, latest)) == ends + INTERVAL


@ways(*ALL)
async def test_of_many_that_ask_first_one_gets_it(services: Services, way: Way) -> None:
    """The row is not there yet; whoever inserts it has the lease."""
    clock = FakeClock()
    ends = clock() + timedelta(seconds=60)
    async with way.open(way.url(services), table_name=a_name(), clock=clock) as face:

        async def ask(number: int) -> Any:
            if isinstance(face.store, SQLSessionStore):
                calls = [Lease(f"{number}", ends, ends)]
                return (await asyncio.to_thread(face.store.perform, calls))[0]
            return await face.ask(Lease(f"{number}", ends, ends))

        answers = await asyncio.gather(*map(ask, range(4)))
        assert answers.count(None) == 1
        assert answers.count(ends) == 3


@contextlib.contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The text of every statement that a store's calls execute."""
    executed: list[str] = []
    execute = operations._execute

    def recorded(cursor: Any, statement: Statement, values: Any) -> None:
        executed.append(" ".join(statement.text.split()))
        execute(cursor, statement, values)

    with monkeypatch.context() as patch:
        patch.setattr(operations, "_execute", recorded)
        yield executed


def verbs(executed: list[str]) -> list[str]:
    return [statement.partition(" ")[0] for statement in executed]


@ways(*EACH_DATABASE_BOTH_WAYS)
async def test_what_a_round_costs(
    services: Services, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch: a SELECT and a DELETE; an UPDATE only where a session was touched. The lease: an
    UPDATE each time; no function or statement that locks, which poolers and Galera do not carry.
    """
    clock = FakeClock()
    async with way.open(way.url(services), table_name=a_name(), clock=clock) as face:
        mine, others = rounds_of(face), rounds_of(face)
        with statements(monkeypatch) as first:
            await a_round(face, mine)
        assert verbs(first) == ["UPDATE", "SELECT", "INSERT", "SELECT", "UPDATE"]

        clock.advance(INTERVAL)
        await expire(face, clock(), 5)
        with statements(monkeypatch) as executed:
            await a_round(face, mine)
        assert verbs(executed) == ["UPDATE", "SELECT", "DELETE", "UPDATE"]
        assert executed[0] == executed[-1]

        with statements(monkeypatch) as refused:
            await a_round(face, others)
        assert verbs(refused) == ["UPDATE", "SELECT"]

        clock.advance(INTERVAL)
        key = face.store._key(a_sid())
        await face.ask(Insert(key, b"{}", clock() + timedelta(seconds=10), {}))
        await face.ask(Touch(key, clock() + timedelta(days=1)))
        clock.advance(10)
        with statements(monkeypatch) as rearming:
            await a_round(face, mine)
        assert verbs(rearming) == ["UPDATE", "SELECT", "DELETE", "UPDATE", "UPDATE"]

        everything = " ".join(first + executed + refused + rearming)
        assert not re.search(r"(?i)\block|advisory|for update|\bshare\b", everything)


@ways(*ALL)
async def test_where_its_table_is_missing_each_process_sweeps(
    services: Services, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """A new version of the package, and a migration still to come: a warning, not a failure."""
    name, clock = a_name(), FakeClock()
    async with way.open(way.url(services), table_name=name, clock=clock) as face:
        lease = face.store._layout.lease
        assert lease is not None
        await face.rows(DropTable(lease))
        rounds = rounds_of(face)
        for _ in range(2):
            await expire(face, clock(), 2)
            assert await a_round(face, rounds) == [Lease, Sweep]
            assert await face.rows(select(face.store.table)) == []
        [warning] = [each for each in caplog.records if each.name == "websessions"]
        assert warning.levelno == logging.WARNING
        assert "store.sync() or a migration" in warning.getMessage()
        await face.sync()
        assert await a_round(face, rounds) == [Lease, Sweep, Lease]


def sessions(name: str, metadata: MetaData) -> Table:
    return Table(
        name,
        metadata,
        Column("sid", String(64), primary_key=True),
        Column("expires", DateTime, nullable=False),
        Column("data", Text, nullable=False),
    )


@ways(*ONE_A_DATABASE)
async def test_a_table_of_the_app_s_has_a_lease_if_the_app_gives_it_one(
    services: Services, way: Way
) -> None:
    """Named like it, with an ending, and with the same three columns as the generated one's."""
    for columns, has_one in (
        ([], False),
        ([Column("name", Integer, primary_key=True)], False),
        (
            [
                Column("name", String(64), primary_key=True),
                Column("holder", String(64), nullable=False),
                Column("expires", DateTime, nullable=False),
            ],
            True,
        ),
    ):
        name, metadata, clock = a_name(), MetaData(), FakeClock()
        if columns:
            Table(f"{name}_lease", metadata, *columns)
        table = sessions(name, metadata)
        async with way.open(way.url(services), table=table, clock=clock) as face:
            assert face.store.sweeps_in_turns is has_one
            expected = [Lease, Sweep, Lease] if has_one else [Sweep]
            assert await a_round(face, rounds_of(face)) == expected
            assert await a_round(face, rounds_of(face)) == ([Lease] if has_one else [Sweep])
            if not has_one:
                with pytest.raises(TypeError, match="no lease"):
                    await face.ask(Lease("me", clock(), clock()))


@ways(BY_ID["sqlite"], BY_ID["sqlite-thread"], BY_ID["asyncpg"])
async def test_the_sweeper_in_the_background_takes_turns(
    services: Services, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the clock stands still the lease of the first never ends."""
    url, name, clock = way.url(services), a_name(), FakeClock()
    options = {"table_name": name, "clock": clock, "check_expiration_interval": 0.01}
    async with way.open(url, **options) as first, way.open(url, **options) as second:
        one, two = watch(first, monkeypatch), watch(second, monkeypatch)
        await first.start_expiring_sessions()
        await until(lambda: one.count(Sweep) >= 2)
        await second.start_expiring_sessions()
        await until(lambda: two.count(Lease) >= 3)
        assert two.count(Sweep) == 0


def watch(face: Face, monkeypatch: pytest.MonkeyPatch) -> list[type[Call[Any]]]:
    calls: list[type[Call[Any]]] = []
    perform = face.store.perform

    def watched(performed: Any) -> Any:
        calls.extend(map(type, performed))
        return perform(performed)

    monkeypatch.setattr(face.store, "perform", watched)
    return calls


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what happens in another thread sets no event
            await asyncio.sleep(0.005)
