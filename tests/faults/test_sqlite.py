"""What can be wrong with a file: locked, full, read-only, gone, or no database at all."""

from __future__ import annotations

import inspect
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from tests.fixtures.services import Services
from tests.fixtures.wire import SQLiteTap
from tests.sql.drivers import ALL, Face, Way, a_sid, dispose, in_transaction, ways
from tests.sql.processes import child
from websessions.errors import StoreError, StoreTimeout, StoreUnavailable
from websessions.sid import Key
from websessions.store import Insert, Load, Replace

SQLITE = tuple(way for way in ALL if way.database == "sqlite")

HOLD = """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
say()
wait()
connection.execute("ROLLBACK")
say("released")
"""


def file_of(url: str) -> str:
    return url.partition("///")[2]


@contextmanager
def locked(path: str, how: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Another process holds the file's lock within."""
    with child(HOLD, path, how) as holder:
        holder.hear()
        yield
        holder.tell()
        holder.hear("released")


@ways(*SQLITE)
async def test_a_file_that_is_locked_for_longer_than_the_timeout(
    services: Services, way: Way
) -> None:
    """Readers go on: in WAL mode a writer is not in their way."""
    url, sid = way.url(services), a_sid()
    async with way.open(url, timeout=0.8) as store:
        await store.set(sid, {"n": 1})
        with locked(file_of(url)):
            began = time.monotonic()
            with pytest.raises(StoreTimeout):
                await store.set(sid, {"n": 2})
            assert 0.6 < time.monotonic() - began < 4
            assert await store.get(sid) == {"n": 1}
        await store.set(sid, {"n": 3})
        assert await store.get(sid) == {"n": 3}


@ways(*SQLITE)
async def test_a_lock_that_is_released_in_time_is_waited_for(services: Services, way: Way) -> None:
    url, sid = way.url(services), a_sid()
    async with way.open(url, timeout=20) as store:
        with child(HOLD, file_of(url), "BEGIN IMMEDIATE") as holder:
            holder.hear()
            threading.Timer(0.3, holder.tell).start()
            await store.set(sid, {"n": 1})
            holder.hear("released")
        assert await store.get(sid) == {"n": 1}


@ways(*SQLITE)
async def test_a_file_that_is_locked_while_it_is_opened(services: Services, way: Way) -> None:
    """Turning WAL on needs the lock, and is not asked for again and again beyond the timeout."""
    url = way.url(services)
    with closing(sqlite3.connect(file_of(url))) as made:
        made.execute("CREATE TABLE other (x)")
    store = Face(way.store(url, timeout=0.8))
    with locked(file_of(url), "BEGIN EXCLUSIVE"):
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            await store.sync()
        assert time.monotonic() - began < 3
    await store.sync()
    assert await store.length() == 0
    await store.close()


@ways(*SQLITE)
async def test_a_full_disk_is_an_error_and_reading_goes_on(services: Services, way: Way) -> None:
    engine: Any = way.engine(way.url(services))
    sync_engine = getattr(engine, "sync_engine", engine)

    @event.listens_for(sync_engine, "connect")
    def small(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count = 30")
        cursor.close()

    async with way.open(engine) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        for _ in range(3):
            with pytest.raises(StoreError, match="refused") as caught:
                await store.set(a_sid(), {"bulk": "x" * 300_000})
            assert not isinstance(caught.value, StoreUnavailable)
            assert "full" in str(caught.value.__cause__)
        assert await store.get(sid) == {"n": 1}
        assert await store.length() == 1
        await store.set(sid, {"n": 2})
    await dispose(engine)


@ways(*SQLITE)
async def test_a_read_only_file_is_an_error_at_a_write(services: Services, way: Way) -> None:
    url, sid = way.url(services), a_sid()
    async with way.open(url) as store:
        await store.set(sid, {"n": 1})
    scheme, _, path = url.partition(":///")
    reading = Face(way.store(f"{scheme}:///file:{path}?mode=ro&uri=true"))
    assert await reading.get(sid) == {"n": 1}
    with pytest.raises(StoreError, match="refused") as caught:
        await reading.set(sid, {"n": 2})
    assert "readonly" in str(caught.value.__cause__)
    assert await reading.get(sid) == {"n": 1}
    await reading.close()


@ways(*SQLITE)
async def test_a_file_that_is_no_database_is_an_error(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 200)
    scheme = "sqlite" if way.driver == "sqlite" else "sqlite+aiosqlite"
    store = Face(way.store(f"{scheme}:///{path}"))
    for use in (store.sync(), store.get(a_sid()), store.set(a_sid(), {})):
        with pytest.raises(StoreError):
            await use
    assert path.read_text().startswith("not a database")
    await store.close()


@ways(*SQLITE)
async def test_a_folder_that_goes_away_is_unavailable(way: Way, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    scheme = "sqlite" if way.driver == "sqlite" else "sqlite+aiosqlite"
    store = Face(way.store(f"{scheme}:///{folder}/sessions.db"))
    folder.rmdir()
    with pytest.raises(StoreUnavailable, match="can not be reached"):
        await store.get(a_sid())
    folder.mkdir()
    await store.sync()
    assert await store.length() == 0
    await store.close()


@ways(*SQLITE)
async def test_a_batch_that_fills_the_disk_is_done_once(services: Services, way: Way) -> None:
    """SQLite ends the whole transaction then; whoever comes behind must not be done twice."""
    engine = way.engine(way.url(services))
    async with way.open(engine) as face:
        store, expires = face.store, datetime.now(UTC) + timedelta(days=1)
        keys = [Key(bytes([number]) * 32) for number in range(4)]
        inserts = [Insert(key, b"{}", expires, {}) for key in keys]
        for insert in inserts:
            await face.ask(insert)
        await in_transaction(engine, text("PRAGMA wal_checkpoint"))
        [[pages]] = await in_transaction(engine, text("PRAGMA page_count"))
        limit = f"PRAGMA max_page_count = {pages + 20}"
        event.listen(
            getattr(engine, "sync_engine", engine),
            "checkout",
            lambda connection, *_: connection.cursor().execute(limit),
        )
        seen = [await face.ask(Load(key)) for key in keys]
        datas = [b"1", b"x" * 1_000_000, b"3", b"4"]
        answers = store.perform(
            [Replace(one, data, expires, {}) for one, data in zip(seen, datas, strict=True)]
        )
        answers = await answers if inspect.isawaitable(answers) else answers

        assert isinstance(answers[1], StoreError)
        there = [await face.ask(Load(key)) for key in keys]
        assert [answers[0], *answers[2:]] == [there[0], *there[2:]]
        assert [record.version for record in there] == [2, 1, 2, 2]
    await dispose(engine)


async def test_a_list_of_calls_on_a_locked_file_does_not_wait_for_each_of_them(
    services: Services,
) -> None:
    """The batch waits once, and two calls alone; the rest would only wait as long again."""
    way = next(way for way in SQLITE if way.id == "sqlite")
    url = way.url(services)
    async with way.open(url, timeout=0.2) as face:
        keys = [Key(bytes([number]) * 32) for number in range(8)]
        expires = datetime.now(UTC) + timedelta(days=1)
        with locked(file_of(url)), SQLiteTap(face.engine) as tap:
            answers = face.store.perform([Insert(key, b"{}", expires, {}) for key in keys])
        assert not inspect.isawaitable(answers)
        assert [type(answer) for answer in answers] == [StoreTimeout] * 8
        assert len({id(answer) for answer in answers}) == 8
        assert [one.kind for one in tap.statements if one.kind != "PRAGMA"] == [
            *("BEGIN", "INSERT", "INSERT")
        ]
