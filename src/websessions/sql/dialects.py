"""What differs between databases and drivers, apart from the SQL: opening, settings, errors."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy import exc as sqlalchemy_exc
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.pool import Pool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.util import await_only

from ..errors import (
    ConfigurationError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ValueRefused,
)

__all__ = [
    "Opened",
    "autocommit",
    "has_one_connection",
    "is_lock_failure",
    "is_outdated",
    "is_timeout",
    "one_at_a_time",
    "open_database",
    "sqlite_as_it_is",
    "sqlite_file",
    "stays_in_autocommit",
    "store_error",
]

# What a URL without a driver means, best first; SQLAlchemy's own defaults are older drivers.
_DRIVERS: Final[dict[bool, dict[str, tuple[str, ...]]]] = {
    False: {
        "postgresql": ("psycopg", "psycopg2"),
        "mysql": ("pymysql", "mysqldb"),
        "mariadb": ("pymysql", "mysqldb"),
    },
    True: {
        "postgresql": ("asyncpg", "psycopg"),
        "mysql": ("asyncmy", "aiomysql", "pymysql"),
        "mariadb": ("asyncmy", "aiomysql", "pymysql"),
    },
}

_EXTRAS: Final = {
    "psycopg": "postgres",
    "psycopg2": "postgres",
    "asyncpg": "asyncpg",
    "pymysql": "mysql",
    "asyncmy": "asyncmy",
    "aiosqlite": "aiosqlite",
}

_PORTS: Final = {"postgresql": 5432, "mysql": 3306}
_LOCAL: Final = frozenset({"", "localhost", "127.0.0.1", "::1"})

_CONNECTIONS: Final = 15
"""How many connections a pool has at most, and keeps. SQLAlchemy's default is as many, of which it
closes 10 whenever they are given back: a busy server would connect again and again."""


@dataclass(frozen=True)
class Opened:
    """A database to work with.

    Attributes:
        engine: the sync engine; of an `AsyncEngine`, the one inside it.
        asynchronous: whether its driver has to be called in a greenlet.
        owned: whether the store made it, and so disposes it.
    """

    engine: Engine
    asynchronous: bool
    owned: bool

    @property
    def is_blocking_sqlite(self) -> bool:
        """Whether it is SQLite, opened by the driver that blocks."""
        return self.engine.dialect.name == "sqlite" and not self.asynchronous

    @property
    def is_file(self) -> bool:
        """Whether it is a SQLite file, opened by the driver that blocks."""
        return self.is_blocking_sqlite and not _in_memory(self.engine.url)

    @property
    def place(self) -> str:
        """Which database it is, whoever connects to it, by whatever driver and name."""
        url = self.engine.url
        kind = self.engine.dialect.name.replace("mariadb", "mysql")
        if kind == "sqlite" and not _in_memory(url):
            return f"{kind}:{os.path.realpath(_sqlite_path(url))}"
        host = str(url.host or url.query.get("host", "")).lower()
        if host in _LOCAL or host.startswith("/"):  # the folder of a socket
            host = ""
        port = url.port or url.query.get("port") or _PORTS.get(kind, "")
        return f"{kind}://{host}:{port}/{url.database or ''}"


def open_database(
    db: object, *, in_asyncio: bool, timeout: timedelta | None, pgbouncer: bool
) -> Opened:
    """The engine of what an app passes as `db`.

    Args:
        db: a URL, an `Engine` or an `AsyncEngine`.
        in_asyncio: whether an async store asks.
        timeout: how long connecting, a free connection and a statement may take; for engines
            that are made here.
        pgbouncer: whether connections reach PostgreSQL through PgBouncer in transaction mode; for
            engines that are made here.

    Raises:
        ConfigurationError: it is nothing of the kind, or nothing that this store can use.
    """
    if pgbouncer and not isinstance(db, str | URL) and db is not None:
        raise ConfigurationError(
            "pgbouncer=True sets up an engine that the store makes from a URL; on an engine of"
            " your own set connect_args={'prepare_threshold': None} (psycopg), or connect_args="
            "{'statement_cache_size': 0, 'prepared_statement_cache_size': 0,"
            " 'prepared_statement_name_func': lambda: ''} (asyncpg)"
        )
    if isinstance(db, Engine):
        if in_asyncio and isinstance(db.pool, SingletonThreadPool) and _in_memory(db.url):
            raise ConfigurationError(
                "this engine's SQLite database is in memory, one for each thread; make the engine"
                " with poolclass=StaticPool and connect_args={'check_same_thread': False}"
            )
        if db.dialect.is_async:
            raise ConfigurationError("db is the sync_engine of an AsyncEngine: pass that itself")
        return Opened(db, asynchronous=False, owned=False)
    if isinstance(db, str | URL):
        return Opened(*_made_engine(db, in_asyncio, timeout, pgbouncer), owned=True)
    sync_engine = getattr(db, "sync_engine", None)
    if isinstance(sync_engine, Engine):
        if not in_asyncio:
            raise ConfigurationError(
                "SQLSessionStore takes a sync Engine or a URL; for an AsyncEngine there is"
                " AsyncSQLSessionStore"
            )
        return Opened(sync_engine, asynchronous=True, owned=False)
    if db is None:
        raise ConfigurationError("db is missing: pass a database URL, an Engine or an AsyncEngine")
    raise ConfigurationError(
        f"db takes a database URL, an Engine or an AsyncEngine, not {type(db).__name__}"
    )


def _made_engine(
    db: str | URL, in_asyncio: bool, timeout: timedelta | None, pgbouncer: bool
) -> tuple[Engine, bool]:
    url = _with_driver(db, in_asyncio)
    shown = url.set(query={}).render_as_string(hide_password=True)
    try:
        asynchronous = bool(url.get_dialect().is_async) or (
            in_asyncio and _driver(url) == "psycopg"
        )
        if asynchronous and not in_asyncio:
            raise ConfigurationError(
                f"{url.get_driver_name()} is an async driver; for {shown} there is"
                " AsyncSQLSessionStore; a sync store takes a sync driver, or a URL that names none"
            )
        options = _engine_options(url, asynchronous, timeout)
        if pgbouncer:
            options.setdefault("connect_args", {}).update(_pgbouncer_arguments(url))
        if asynchronous:
            from sqlalchemy.ext.asyncio import create_async_engine

            engine = create_async_engine(url, **options).sync_engine
        else:
            engine = create_engine(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(url.get_driver_name())
        raise ConfigurationError(
            f"the driver for {shown} is not installed ({error})"
            + (f"; pip install 'websessions[{extra}]' brings it" if extra else "")
        ) from error
    except (
        sqlalchemy_exc.ArgumentError,
        sqlalchemy_exc.InvalidRequestError,
        TypeError,
    ) as error:
        raise ConfigurationError(f"the database URL {shown} can not be used: {error}") from error
    _set_up(engine, asynchronous, timeout, pgbouncer)
    return engine, asynchronous


def _driver(url: URL) -> str:
    return url.get_driver_name().removesuffix("_async")


def _with_driver(db: str | URL, in_asyncio: bool) -> URL:
    try:
        url = make_url(db)
    except (sqlalchemy_exc.ArgumentError, ValueError):
        # Its text may hold a password, so it is not shown.
        raise ConfigurationError(
            "db is no database URL; one looks like postgresql://user:password@host/database"
            " or sqlite:///sessions.db"
        ) from None
    if url.drivername == "postgres":
        url = url.set(drivername="postgresql")
    if url.get_backend_name() == "sqlite" and not _in_memory(url):
        path = os.path.abspath(_sqlite_path(url))
        if os.path.isdir(path):
            raise ConfigurationError(f"the SQLite database is a folder, not a file: {path}")
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise ConfigurationError(f"the folder of the SQLite database does not exist: {folder}")
    if "+" in url.drivername:
        return url
    candidates = _DRIVERS[in_asyncio].get(url.drivername, ())
    for driver in candidates:
        named = url.set(drivername=f"{url.drivername}+{driver}")
        try:
            named.get_dialect().import_dbapi()
        except (ImportError, sqlalchemy_exc.NoSuchModuleError):
            continue
        return named
    return url.set(drivername=f"{url.drivername}+{candidates[0]}") if candidates else url


def _sqlite_path(url: URL) -> str:
    path = url.database or ""
    if not path.startswith("file:"):
        return path
    return unquote(path.removeprefix("file:").partition("?")[0])


def sqlite_file(db: str) -> str | None:
    """The path of the file that a URL leads to by SQLite's own driver; None if it leads to none.

    Raises:
        ConfigurationError: it is no URL, or there is no such folder.
    """
    url = _with_driver(db, in_asyncio=False)
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or _in_memory(url):
        return None
    return os.path.abspath(_sqlite_path(url))


def sqlite_as_it_is(path: str) -> Engine:
    """A SQLite file that is there already, opened so that it stays as it is: it is not created, and
    keeps the journal mode that its app has chosen.
    """
    url = URL.create("sqlite", database=Path(path).as_uri(), query={"mode": "rw", "uri": "true"})
    return create_engine(url, connect_args={"timeout": 10})


def _in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and (
        not url.database or ":memory:" in url.database or "mode=memory" in str(url)
    )


def _engine_options(url: URL, asynchronous: bool, timeout: timedelta | None) -> dict[str, Any]:
    seconds = None if timeout is None else timeout.total_seconds()
    options: dict[str, Any] = {
        # Every statement stands alone, so a transaction around it would be two round trips for
        # nothing, and so would the pool's ROLLBACK.
        "isolation_level": "AUTOCOMMIT",
        "pool_reset_on_return": None,
    }
    if url.get_backend_name() == "sqlite":
        if not asynchronous:
            options["connect_args"] = {"check_same_thread": False}
            options["poolclass"] = QueuePool
            if _in_memory(url):
                options["pool_size"] = 1  # one connection is one database
    elif seconds is not None:
        options["connect_args"] = {
            name: value
            for name, value in _connect_arguments(_driver(url), seconds).items()
            if name not in url.query
        }
    dialect: Any = url.get_dialect()
    if issubclass(options.get("poolclass", dialect.get_pool_class(url)), QueuePool):
        options = {"pool_size": _CONNECTIONS, "max_overflow": 0, **options}
        if seconds is not None:
            options["pool_timeout"] = seconds
    return options


def _connect_arguments(driver: str, seconds: float) -> dict[str, Any]:
    match driver:
        case "psycopg" | "psycopg2":
            return {"connect_timeout": math.ceil(seconds)}  # libpq makes at least 2 of it
        case "pymysql":
            return {
                "connect_timeout": seconds,
                "read_timeout": seconds,
                "write_timeout": seconds,
            }
        case "asyncmy":
            return {"connect_timeout": seconds}
        case "asyncpg":
            return {"timeout": seconds}
        case _:
            return {}


def _pgbouncer_arguments(url: URL) -> dict[str, Any]:
    """What keeps a driver from relying on a server that PgBouncer gives to others between two
    statements.

    Raises:
        ConfigurationError: it is another database or driver.
    """
    match _driver(url):
        case "psycopg":
            return {"prepare_threshold": None}
        case "asyncpg":
            return {
                # SQLAlchemy prepares every statement. Without a name it leaves nothing behind, and
                # asyncpg, without a cache, sends its text once more together with the parameters.
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: "",
                "connection_class": _asyncpg_behind_pgbouncer(),
            }
        case _:
            raise ConfigurationError(
                "pgbouncer=True is for PostgreSQL with psycopg or asyncpg,"
                f" not for {url.drivername}"
            )


def _asyncpg_behind_pgbouncer() -> type[Any]:
    import asyncpg

    class Connection(asyncpg.Connection):  # type: ignore[misc]
        async def _introspect_types(self, *args: Any) -> Any:
            # It turns jit off for the session, asks what a type is, and turns it on again: all on
            # one server, in a transaction. Should asyncpg rename this, jit may stay off on one.
            async with self.transaction():
                return await super()._introspect_types(*args)

    return Connection


def _set_up(engine: Engine, asynchronous: bool, timeout: timedelta | None, pgbouncer: bool) -> None:
    """Set up each new connection of an engine that was made here."""
    statements: list[str] = []
    match engine.dialect.name:
        case "sqlite":
            wait = 10_000 if timeout is None else round(timeout / timedelta(milliseconds=1))
            # The wait comes first: turning WAL on needs the lock for a moment. NORMAL loses at
            # most the last commits at a power cut, never the file (sqlite.org/pragma.html).
            statements = [
                f"PRAGMA busy_timeout = {wait}",
                "PRAGMA synchronous = NORMAL",
            ]
            if not _in_memory(engine.url):
                statements.insert(1, "PRAGMA journal_mode = WAL")
        case "mysql" | "mariadb":
            # REPEATABLE READ locks gaps, and its deadlocks are the ones that people report.
            statements = ["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"]
            if timeout is not None:
                # A statement whose client has gone would wait for its lock all the same, 50
                # seconds by default, and then be carried out.
                wait = math.ceil(timeout.total_seconds())
                statements.append(
                    f"SET SESSION innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait}"
                )
        case "postgresql" if timeout is not None and not asynchronous:
            # An async call has its deadline in the event loop; a blocked thread has only this.
            if not pgbouncer:  # where it would stay with the server, for its next client
                milliseconds = max(1, round(timeout / timedelta(milliseconds=1)))
                statements = [f"SET statement_timeout = {milliseconds}"]
            if engine.dialect.driver == "psycopg":
                connect = _psycopg_with_deadline(timeout, cancels=pgbouncer)
                event.listen(engine, "do_connect", connect)
    if not statements:
        return

    patience = 10.0 if timeout is None else timeout.total_seconds()

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for statement in statements:
            _insist(cursor, statement, patience)
        cursor.close()


def _psycopg_with_deadline(timeout: timedelta, *, cancels: bool) -> Callable[..., Any]:
    """How psycopg connects, so that no call waits for ever on a network that has gone silent.

    The database's statement_timeout can not reach a client then, and libpq has no limit of its own.

    Args:
        timeout: how long a statement may take.
        cancels: whether the client has to ask for the end of a statement whose time is over,
            because the database knows of no timeout.
    """
    import psycopg

    seconds = timeout.total_seconds()
    # Before libpq 17 to cancel has no limit of its own, and holds the interpreter's lock meanwhile.
    cancels = cancels and psycopg.capabilities.has_cancel_safe()

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            stop = self._stop if cancels else None
            return super().wait(_until(time.monotonic() + seconds, gen, stop), *args, **kwargs)

        def _stop(self) -> None:
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=_LAST_WORD)

    def connect(_: Dialect, __: object, args: list[Any], options: dict[str, Any]) -> Any:
        return Connection.connect(*args, **options)

    return connect


_LAST_WORD: Final = 0.5
"""Seconds in which the database's own word that a statement took too long, which leaves the
connection usable, has time to arrive."""


def _until(
    deadline: float, steps: Generator[Any, Any, Any], stop: Callable[[], None] | None
) -> Generator[Any, Any, Any]:
    """The steps of a psycopg operation, which are resumed ten times a second at least.

    Args:
        deadline: when the database should have answered.
        steps: what to do.
        stop: what to call then; None if the database keeps the deadline itself.
    """
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            now = time.monotonic()
            if now > deadline + _LAST_WORD:
                raise TimeoutError("PostgreSQL did not answer in time")
            if now > deadline and stop is not None:
                stop()
                stop = None
            wanted = steps.send(ready)
    except StopIteration as stopped:
        return stopped.value


def _insist(cursor: Any, statement: str, seconds: float) -> None:
    """Execute; where several processes turn WAL on at once, SQLite does not always wait."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            cursor.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "is locked" not in str(error) or time.monotonic() > give_up:
                raise


@contextmanager
def autocommit(connection: Any, dialect: Dialect) -> Iterator[Callable[[], None]]:
    """Work in autocommit mode on a pooled connection, and give it back as it was.

    Yields what has to be called after each statement: nothing, but for an engine of the app's
    whose driver would need a round trip each to turn the mode on and off; there it is a commit.
    """
    driver = dialect.driver
    if driver in ("psycopg", "psycopg_async", "asyncpg", "psycopg2"):
        name, on = "autocommit", True
    elif driver in ("pysqlite", "aiosqlite"):
        name, on = "isolation_level", None
    else:
        asked = getattr(connection, "get_autocommit", None)
        yield _nothing if asked is not None and asked() else connection.commit
        return
    raw = getattr(connection, "dbapi_connection", connection)
    before = getattr(raw, name)
    if before == on:
        yield _nothing
        return
    setattr(raw, name, on)
    try:
        yield _nothing
    finally:
        try:
            setattr(raw, name, before)
        except Exception:
            # It is dead. In no case may the app get it in another mode than it left it.
            if connection.is_valid:
                connection.invalidate()


def _nothing() -> None:
    """The statement has been committed already."""


_in_autocommit = nullcontext(_nothing)


def stays_in_autocommit(
    connection: Any, dialect: Dialect
) -> AbstractContextManager[Callable[[], None]]:
    """`autocommit` for an engine whose every connection is in that mode for good."""
    return _in_autocommit


_locks: weakref.WeakKeyDictionary[Pool, threading.Lock] = weakref.WeakKeyDictionary()
_loop_locks: weakref.WeakKeyDictionary[Pool, tuple[asyncio.AbstractEventLoop, asyncio.Lock]] = (
    weakref.WeakKeyDictionary()
)


def has_one_connection(engine: Engine) -> bool:
    """Whether the engine's one connection is everybody's: `StaticPool`, usual in test suites."""
    return isinstance(engine.pool, StaticPool)


def one_at_a_time(engine: Engine) -> AbstractContextManager[object]:
    """A turn on the one connection. Without turns, one call would end the mode of another."""
    if engine.dialect.is_async:
        return _turn_in_loop(engine.pool)
    return _locks.setdefault(engine.pool, threading.Lock())


@contextmanager
def _turn_in_loop(pool: Pool) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    known, lock = _loop_locks.get(pool, (None, None))
    if lock is None or known is not loop:
        lock = asyncio.Lock()
        _loop_locks[pool] = (loop, lock)
    await_only(lock.acquire())
    try:
        yield
    finally:
        lock.release()


def is_lock_failure(error: BaseException) -> bool:
    """Whether the database took a statement back in favour of another one: try it again.

    PostgreSQL: serialization failure, deadlock; MySQL and MariaDB: deadlock.
    """
    return _sqlstate(error) in ("40001", "40P01") or _mysql_code(error) == 1213


def is_outdated(error: BaseException) -> bool:
    """Whether a connection has prepared a statement for a table that has been altered since.

    PostgreSQL refuses it for good ("cached plan must not change result type", or a type that is
    gone); a new connection prepares it anew.
    """
    where = getattr(getattr(error, "diag", None), "source_function", None)
    return (
        where == "RevalidateCachedQuery"  # its message is translated, this is not
        or type(error).__name__ == "InvalidCachedStatementError"  # the same from asyncpg
        or (_sqlstate(error) == "XX000" and "cache lookup failed for type" in str(error))
    )


def store_error(
    error: BaseException, dialect: Dialect, table: str, *, lost: bool = False
) -> StoreError:
    """A driver's error as one of this package's. The driver's text stays in `__cause__`: it may
    quote the row.

    Args:
        error: what the driver has raised.
        dialect: of which database.
        table: the name of the session table.
        lost: there is no connection, or it is gone.
    """
    kind = f"{dialect.name} ({dialect.driver}): {type(error).__name__}"
    if isinstance(error, sqlalchemy_exc.TimeoutError):
        return StoreTimeout("no connection of the pool became free in time")
    if is_timeout(error):
        return StoreTimeout(f"the session database did not answer in time; {kind}")
    if lost:
        return StoreUnavailable(f"the session database can not be reached; {kind}{_why(error)}")
    if "no such table" in str(error) or _sqlstate(error) == "42P01" or _mysql_code(error) == 1146:
        return StoreError(
            f"the session table {table!r} does not exist: call sync() at start, or correct"
            f" table_name and schema; {kind}"
        )
    if "no such column" in str(error) or _sqlstate(error) == "42703" or _mysql_code(error) == 1054:
        return StoreError(
            f"the session table {table!r} lacks a column: call sync(), which adds it to a generated"
            f" table, or migrate; if Express made the table, correct the layout; {kind}"
        )
    if _sqlstate(error) in ("26000", "42P05"):
        return StoreError(
            "a prepared statement was not on the server where it was prepared: behind PgBouncer"
            f" in transaction mode pass pgbouncer=True; {kind}"
        )
    if _refuses_a_value(error):
        return ValueRefused(
            f"the session database refused what a session brings to a column of {table!r}; {kind}"
        )
    return StoreError(f"the session database refused a statement; {kind}")


def _refuses_a_value(error: BaseException) -> bool:
    # Data exceptions and violated constraints, and the codes of MySQL that PyMySQL sorts otherwise:
    # out of range, truncated, wrong for the column, too long. Half a character fails in the driver.
    names = {base.__name__ for base in type(error).__mro__}
    return (
        bool(names & {"DataError", "IntegrityError", "UnicodeEncodeError"})
        or (_sqlstate(error) or "")[:2] in ("22", "23")
        or _mysql_code(error) in (1264, 1265, 1366, 1406)
    )


_WORDS: Final = {
    "refused": "connection refused",
    "not known": "no such host",
    "Unknown database": "no such database",
    "does not exist": "no such database or user",
    "Access denied": "login refused",
    "authentication failed": "login refused",
    "password supplied": "login refused",
}
"""What drivers say of a connection that could not be made, and what is passed on of that."""


def _why(error: BaseException) -> str:
    """What is known of why a database can not be reached, without a word of the driver's own."""
    text = str(error)
    said = [why for words, why in _WORDS.items() if words in text][:1]
    code = _mysql_code(error) or _sqlstate(error)
    return "".join(f", {known}" for known in (code, *said) if known)


def is_timeout(error: BaseException) -> bool:
    """Whether the database did not answer in time, or said itself that it could not."""
    # query_canceled; lock wait timeout; max_statement_time; SQLITE_BUSY
    return (
        isinstance(error, TimeoutError)
        or type(error).__name__ == "ConnectionTimeout"  # psycopg's
        or isinstance(error.__cause__, TimeoutError)
        or isinstance(error.__context__, TimeoutError)
        or _sqlstate(error) in ("57014", "55P03")
        or _mysql_code(error) in (1205, 1969, 3024)
        or (isinstance(error, sqlite3.OperationalError) and "is locked" in str(error))
    )


def _sqlstate(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def _mysql_code(error: BaseException) -> int | None:
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else None
