"""The SQL stores: sync, and async over an async driver or over a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

from sqlalchemy import URL, Column, Engine, MetaData
from sqlalchemy import Table as SQLTable
from sqlalchemy.pool import Pool
from sqlalchemy.util import greenlet_spawn

from ..batching import Batcher, Closed, Late, Line, ThreadBatcher
from ..direct import AsyncSessionStore, SessionStore, StoreOptions
from ..errors import ConfigurationError, StoreTimeout, StoreUnavailable
from ..settings import Seconds, as_span
from ..sid import Key, KeyRule
from ..store import Call, Clock, Delete, Insert, Load, Put, Replace, Touch
from .database import Database
from .dialects import Opened, open_database
from .formats import (
    CONNECT_PG_SIMPLE,
    CONNECT_SESSION_SEQUELIZE,
    EXPRESS_MYSQL_SESSION,
    TableFormat,
)
from .joined import AsyncJoinedStore, JoinedStore, Joins, async_connection, sync_connection
from .operations import ExtendDefaultFields, Table
from .statements import Statements
from .table import (
    MirrorFields,
    Registry,
    generated_table,
    layout_of,
    mapped_class,
    metadata_of,
    resolve_table,
    table_name_for,
)
from .threads import Threads

if TYPE_CHECKING:
    from sqlalchemy import Connection, orm
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
    )

__all__ = ["AsyncSQLSessionStore", "SQLSessionStore"]

R = TypeVar("R")
B = TypeVar("B")

_of_the_parent: list[Pool] = []
"""Pools that came over a fork: kept, so that their connections never become garbage."""

_A_YEAR = 366 * 24 * 60 * 60

_WORKERS = 4
"""Threads that an async store has for a driver that blocks."""

_PATIENCE = 1.0
"""Seconds after a timeout in which a driver may take leave of its connection. Then it is cancelled
once more: psycopg asks the database to stop, and would wait 5 seconds and more for its answer."""


class SQLOptions(StoreOptions, total=False):
    """The keyword arguments of the SQL stores, besides those of every store.

    Attributes:
        table: the app's own table: a `Table`, a mapped class, or the name of one in `registry`.
        model_key: the name of the generated mapped class, `Session` by default.
        table_name: the name of the generated table; by default `model_key` in snake case with an
            `s`, so `sessions`.
        schema: the schema of the generated table, for databases that have schemas.
        registry: a `MetaData`, an `orm.registry` or a `DeclarativeBase`: where names are looked up
            and the generated table and class are put.
        extend_default_fields: a function of the columns that are about to be inserted (a dict
            with `data` and `expires`) and the session's dict; returns that dict with values for
            columns of the app's own, which are written once and then left alone.
        mirror_fields: column to a key of the session, or to a function of its dict: columns that
            follow the session on every write, NULL where it has no such key. The generated
            table's `user_id` follows the session's, unless `extend_default_fields` is given or
            this is an empty dict.
        layout: how another package lays its table out; `connect_session_sequelize()` and its
            neighbours give it. `dataclasses.replace()` makes one of them fit a table that differs.
        columns: further columns of a table that has such a layout, for `extend_default_fields`
            and `mirror_fields`.
        timeout: how long a call may take; a timedelta or seconds, 10 seconds by default, None for
            as long as it takes.
        pgbouncer: the URL leads to PgBouncer in transaction mode (or another pooler that works
            like it): nothing is prepared under a name, nothing set for a connection. psycopg and
            asyncpg; `False` by default.
    """

    table: SQLTable | type | str | None
    model_key: str
    table_name: str | None
    schema: str | None
    registry: Registry
    extend_default_fields: ExtendDefaultFields | None
    mirror_fields: MirrorFields | None
    layout: TableFormat | None
    columns: Sequence[Column[Any]]
    timeout: timedelta | Seconds | None
    pgbouncer: bool


class _SQLStore:
    """The options, the table and the engine of a SQL store, sync or async."""

    sweeps_in_turns: bool
    locks: bool
    max_size: int
    _key_rule: KeyRule
    _opened: Opened
    _database: Database

    if TYPE_CHECKING:

        def __init__(self, db: Any = None, **options: Unpack[SQLOptions]) -> None: ...

    @classmethod
    def connect_session_sequelize(
        cls, db: str | URL | Engine | AsyncEngine, **options: Unpack[SQLOptions]
    ) -> Self:
        """The store of an Express app that uses connect-session-sequelize, to be shared with it.

        Its table `Sessions`, with the session ids as they are. The cookie to go with it is
        `CookieSettings.express_session()`.

        Args:
            db: as for any other store; the URL alone is enough.
            **options: see `SQLOptions`. `table_name` and `expiration` where the Express app has
                given them, and `columns` for those that its model has besides.

        Raises:
            ConfigurationError: an option can not be used.
        """
        options.setdefault("layout", CONNECT_SESSION_SEQUELIZE)
        return cls(db, **options)

    @classmethod
    def connect_pg_simple(
        cls, db: str | URL | Engine | AsyncEngine, **options: Unpack[SQLOptions]
    ) -> Self:
        """The same for connect-pg-simple: table `session`, on PostgreSQL.

        Its `expire` has no zone and is in the `TimeZone` of whoever connects: let both have the
        same one, as they do unless one of them sets it.
        """
        options.setdefault("layout", CONNECT_PG_SIMPLE)
        return cls(db, **options)

    @classmethod
    def express_mysql_session(
        cls, db: str | URL | Engine | AsyncEngine, **options: Unpack[SQLOptions]
    ) -> Self:
        """The same for express-mysql-session: table `sessions`, on MySQL or MariaDB."""
        options.setdefault("layout", EXPRESS_MYSQL_SESSION)
        return cls(db, **options)

    def _set_up(self, options: SQLOptions) -> StoreOptions:
        """Resolve the table; what is left are the options of every store."""
        self._registry: Registry = options.pop("registry", None)
        self._model_key = options.pop("model_key", "Session")
        self._extend = options.pop("extend_default_fields", None)
        self._timeout = as_deadline(options.pop("timeout", timedelta(seconds=10)))
        self._seconds = None if self._timeout is None else self._timeout.total_seconds()
        self._pgbouncer = options.pop("pgbouncer", False)
        self._model: type[Any] | None = None
        table = options.pop("table", None)
        name, schema = options.pop("table_name", None), options.pop("schema", None)
        self._mirrors = options.pop("mirror_fields", None)
        if not isinstance(self._model_key, str) or not self._model_key.isidentifier():
            raise ConfigurationError(f"model_key is the name of a class, not {self._model_key!r}")
        if not isinstance(self._pgbouncer, bool):
            raise ConfigurationError(f"pgbouncer is True or False, not {self._pgbouncer!r}")
        for option, value in (("table_name", name), ("schema", schema)):
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigurationError(f"{option} is a name, not {value!r}")
        if self._extend is not None and not callable(self._extend):
            raise ConfigurationError(f"extend_default_fields is a function, not {self._extend!r}")
        self._format = options.pop("layout", None)
        columns = tuple(options.pop("columns", ()))
        text = bool(getattr(options.get("codec"), "is_text", True))
        if self._format is not None:
            self._lay_out(self._format, options, table, name, schema, columns)
        elif columns:
            raise ConfigurationError(
                "columns are for a table that has a layout; give your own table with table=..."
            )
        elif table is not None:
            if name is not None or schema is not None:
                raise ConfigurationError(
                    "table_name and schema are for a generated table; the table of table=... has"
                    " its own"
                )
            self._table, self._model = resolve_table(table, self._registry)
        else:
            self._table = generated_table(
                metadata_of(self._registry),
                name or table_name_for(self._model_key),
                schema,
                text=text,
            )
            if self._mirrors is None:
                # Who fills columns by hand may want to fill this one too.
                self._mirrors = {"user_id": "user_id"} if self._extend is None else {}
            elif isinstance(self._mirrors, Mapping) and self._mirrors:
                self._mirrors = {"user_id": "user_id", **self._mirrors}
        if self._format is None:
            self._layout = layout_of(self._table, self._mirrors, text=text)
        self._asks_the_app = self._extend is not None or any(
            callable(value) for value in self._computed_columns()
        )
        self.sweeps_in_turns = self._layout.lease is not None
        self.locks = self._layout.locked_by is not None
        if self._registry is not None and not isinstance(self._registry, MetaData):
            self._model = self._model or mapped_class(self._model_key, self._table, self._registry)
        return cast(StoreOptions, options)

    def _lay_out(
        self,
        layout: TableFormat,
        options: SQLOptions,
        table: object,
        name: str | None,
        schema: str | None,
        columns: Sequence[Column[Any]],
    ) -> None:
        if not isinstance(layout, TableFormat):
            raise ConfigurationError(f"layout is a TableFormat, not {layout!r}")
        for option, value, instead in (
            ("table", table, "; table_name=... names it, columns=[...] are further columns"),
            ("codec", options.get("codec"), ""),
        ):
            if value is not None:
                raise ConfigurationError(
                    f"{option} can not be given: the layout of {layout.package} has its own"
                    + instead
                )
        lasts = options.get("expiration")
        if isinstance(lasts, int | float) and lasts > _A_YEAR:
            raise ConfigurationError(
                f"expiration is in seconds, and {lasts!r} of them are over a year: Express's"
                " milliseconds have to be divided by 1000; if it is meant, give a timedelta"
            )
        for column in columns:
            if not isinstance(column, Column):
                raise ConfigurationError(f"columns takes SQLAlchemy's Columns, not {column!r}")
        options["codec"] = layout.codec
        self._table = layout.table(
            metadata_of(self._registry), name or layout.table_name, schema, columns
        )
        self._layout = layout.layout(self._table, self._mirrors)

    def _connect(self, db: object, clock: Clock, *, in_asyncio: bool) -> None:
        opened = open_database(
            db, in_asyncio=in_asyncio, timeout=self._timeout, pgbouncer=self._pgbouncer
        )
        dialect = opened.engine.dialect
        self._key_rule = self._layout.key_rule
        if self._format is not None:
            self._format.check_dialect(dialect.name)
            self.longest_sid = self._format.longest_sid
            self.max_size = min(
                self.max_size, self._format.longest_data.get(dialect.name, self.max_size)
            )
        statements = Statements(self._layout, dialect)
        self._opened = opened
        self._database = Database(
            opened.engine,
            Table(self._layout, statements, self._extend),
            clock,
            # An engine that is made from a URL is made that way.
            in_autocommit=opened.owned,
        )
        self._joins = Joins(self._layout, opened.engine.dialect, self._extend, clock)

    def _goes_in_batches(self, calls: Sequence[Call[Any]]) -> bool:
        """Calls of one session do; but not what has the app compute columns, since its functions
        may look at their own request, in its own thread and context.
        """
        if len(calls) != 1 or not isinstance(calls[0], _OF_ONE_SESSION):
            return False
        return not (self._asks_the_app and isinstance(calls[0], _OF_COLUMNS))

    def _batchers(self, batcher: Callable[[Line[Call[Any], Any]], B]) -> tuple[B, B]:
        """What sends the calls that read, and what sends those that write."""
        if self._opened.is_blocking_sqlite:
            # Its writers wait for one another anyway, and two threads that both want the
            # interpreter get in each other's way. A read never waits for a writer's lock.
            return batcher(_line(places=1)), batcher(_line(places=1))
        both = batcher(_line(places=2))
        return both, both

    def _computed_columns(self) -> Iterator[object]:
        yield from (self._mirrors or {}).values()
        for column in self._table.c:
            for maker in (column.default, column.onupdate):
                yield getattr(maker, "arg", None)

    @property
    def table(self) -> SQLTable:
        """The table that holds the sessions, for migrations and queries."""
        return self._table

    @property
    def place(self) -> tuple[str, str]:
        """Where the sessions are: the database, and the table, in small letters."""
        return self._opened.place, self._table.fullname.lower()

    @property
    def model(self) -> type[Any]:
        """The mapped class of the table, for queries with the ORM."""
        if self._model is None:
            self._model = mapped_class(self._model_key, self._table, self._registry)
        return self._model

    def _before_fork(self) -> None:
        # A child that inherits an open SQLite file believes that it has locks which only its
        # parent has: writes are lost and the file is damaged (sqlite.org/howtocorrupt.html, 2.6).
        if self._opened.owned and self._opened.is_file:
            self._opened.engine.dispose()

    def _forget_connections(self) -> None:
        """Let go of pooled connections that belong to another event loop."""
        if self._opened.owned:
            self._opened.engine.dispose(close=False)

    def _leave_connections_to_the_parent(self) -> None:
        """In a forked child: they are the parent's. To close one, as garbage even, is forbidden by
        SQLite (sqlite.org/howtocorrupt.html, 2.6) and would end others' sessions with the server.
        """
        if self._opened.owned:
            _of_the_parent.append(self._opened.engine.pool)
            self._forget_connections()


class SQLSessionStore(_SQLStore, SessionStore):
    """Sessions in a SQL database, for synchronous code: WSGI, threads, scripts.

    Args:
        db: a database URL, or an `Engine`. An engine stays the app's to dispose and is left as it
            is; one that is made from a URL is set up for this work, and disposed by `close()`.
        **options: see `SQLOptions`.

    Raises:
        ConfigurationError: the database, the table or an option can not be used.

    >>> store = SQLSessionStore("sqlite://")
    >>> store.sync()
    >>> store.set("a-session-id-for-this-example", {"cart": [1, 2]})
    >>> store.get("a-session-id-for-this-example")
    {'cart': [1, 2]}
    >>> store.close()
    """

    def __init__(self, db: str | URL | Engine | None = None, **options: Unpack[SQLOptions]) -> None:
        super().__init__(**self._set_up(options))
        self._connect(db, self.clock, in_asyncio=False)
        self._line_up()

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        self.in_use()
        if self._goes_in_batches(calls):
            batcher = self._reads if isinstance(calls[0], Load) else self._writes
            return [_or_error(batcher.submit(calls[0]))]
        return self._database.perform(calls)

    def within(self, connection: Connection | orm.Session | orm.scoped_session[Any]) -> JoinedStore:
        """This store as part of a transaction of the app's: what it does commits or rolls back
        with that.

        In a request, `session.save(within=connection)` is what you want. This is for everything
        else: an account is deleted and its session ends in one commit, say. What it reads is
        locked until the transaction ends, so be brief.

        Args:
            connection: a `Connection` or an `orm.Session` on the database that has the sessions,
                not in autocommit mode. Without a transaction it begins one; to end it is the
                app's.

        Raises:
            TypeError: it is something else.

        >>> with engine.begin() as connection:                            # doctest: +SKIP
        ...     connection.execute(delete(users).where(users.c.id == 7))
        ...     store.within(connection).destroy(sid)
        """
        return JoinedStore(self._joins, sync_connection(connection), self._rules)

    def _line_up(self) -> None:
        self._reads, self._writes = self._batchers(
            partial(ThreadBatcher, self._database.perform, patience=self._seconds)
        )

    def sync(self) -> None:
        """Create the tables and indexes that are missing. Many processes may do it at once.

        Raises:
            ConfigurationError: a table of that name is there, and it is somebody else's.
            StoreUnavailable: the database can not be reached.
        """
        self._database.create_tables()

    def close(self) -> None:
        """Stop sweeping, and dispose the engine if the store made it. May be called twice."""
        super().close()
        self._reads.close()
        self._writes.close()
        self._line_up()
        if self._opened.owned:
            self._opened.engine.dispose()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._line_up()
        self._leave_connections_to_the_parent()


class AsyncSQLSessionStore(_SQLStore, AsyncSessionStore):
    """Sessions in a SQL database, for asyncio. The same methods as `SQLSessionStore`, awaited.

    The event loop is never blocked: an async driver is called in a greenlet, any other, SQLite's
    included, in a worker thread.

    Args:
        db: a database URL, an `AsyncEngine`, or an `Engine` to be used in worker threads. Who
            made an engine disposes it.
        **options: see `SQLOptions`.

    Raises:
        ConfigurationError: the database, the table or an option can not be used.
    """

    def __init__(
        self,
        db: str | URL | Engine | AsyncEngine | None = None,
        **options: Unpack[SQLOptions],
    ) -> None:
        super().__init__(**self._set_up(options))
        self._connect(db, self.clock, in_asyncio=True)
        self._threads: Threads | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected_in: asyncio.AbstractEventLoop | None = None

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._enter(loop)
        if self._goes_in_batches(calls):
            batcher = self._reads if isinstance(calls[0], Load) else self._writes
            return [_or_error(await batcher.submit(calls[0]))]
        return await self._call(self._database.perform, calls)

    def within(
        self, connection: AsyncConnection | AsyncSession | async_scoped_session[Any]
    ) -> AsyncJoinedStore:
        """This store as part of a transaction of the app's; see `SQLSessionStore.within`.

        Args:
            connection: an `AsyncConnection` or an `AsyncSession`.

        >>> async with engine.begin() as connection:                      # doctest: +SKIP
        ...     await connection.execute(delete(users).where(users.c.id == 7))
        ...     await store.within(connection).destroy(sid)
        """
        return AsyncJoinedStore(self._joins, async_connection(connection), self._rules)

    def _batch(self, calls: Sequence[Call[Any]]) -> Awaitable[list[Any]]:
        return self._call(self._database.perform, calls)

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reads, self._writes = self._batchers(partial(Batcher, self._batch))
        self.in_use()

    async def _call(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function that does I/O without blocking the loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._connected_in:
            # An async driver's connections belong to the loop that opened them.
            if self._connected_in is not None and self._opened.asynchronous:
                self._forget_connections()
            self._connected_in = loop
        seconds = self._seconds
        patience = None if seconds is None else seconds + _PATIENCE
        try:
            async with asyncio.timeout(patience), asyncio.timeout(seconds):
                if self._opened.asynchronous:
                    return await greenlet_spawn(function, *args)
                return await self._workers().call(function, *args)
        except TimeoutError as error:
            raise StoreTimeout("the session database did not answer in time") from error

    def _workers(self) -> Threads:
        if self._threads is None:
            self._threads = Threads(_WORKERS, "websessions")
        return self._threads

    async def sync(self) -> None:
        """Create the tables and indexes that are missing. Many processes may do it at once.

        Raises:
            ConfigurationError: a table of that name is there, and it is somebody else's.
            StoreUnavailable: the database can not be reached.
        """
        await self._call(self._database.create_tables)

    async def close(self) -> None:
        """Stop sweeping, and dispose the engine if the store made it. May be called twice."""
        await super().close()
        if self._loop is asyncio.get_running_loop():
            await self._reads.close()
            await self._writes.close()
            self._loop = None
        if self._opened.owned:
            await self._call(self._opened.engine.dispose)
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    def _after_fork(self) -> None:
        super()._after_fork()
        self._threads = self._loop = self._connected_in = None
        self._leave_connections_to_the_parent()


# The rest look at the whole table: they would keep a place from many requests.
_OF_ONE_SESSION = (Load, Replace, Touch, Insert, Delete, Put)
_OF_COLUMNS = (Replace, Insert, Put)


def _or_error(answer: Any) -> Any:
    if isinstance(answer, Closed):
        return StoreUnavailable("the store was closed while this call waited for its turn")
    if isinstance(answer, Late):
        return StoreTimeout("others' calls to the session database took too long")
    return answer


def _lane(call: Call[Any]) -> object:
    """Which calls fit one statement: those of one kind. The rare ones go alone."""
    alone = isinstance(call, Put) or (isinstance(call, Replace) and call.new_key is not None)
    return id(call) if alone else type(call)


def _changes(call: Call[Any]) -> Key | None:
    """The session that a call changes; None if it only reads.

    Calls by a previous key and by the present one are not put in order: those of other processes
    are not, either, and each of them is guarded by what its caller has seen.
    """
    if isinstance(call, Replace):
        return call.seen.key
    return call.key if isinstance(call, Insert | Put | Touch | Delete) else None


def _line(places: int) -> Line[Call[Any], Any]:
    return Line(_lane, _changes, places)


def as_deadline(timeout: timedelta | Seconds | None) -> timedelta | None:
    """The `timeout` option as a timedelta.

    Raises:
        ConfigurationError: it is 0 or less.
    """
    if timeout is None:
        return None
    deadline = as_span(timeout, "timeout")
    if not deadline:
        raise ConfigurationError("timeout can not be 0; None waits for as long as it takes")
    return deadline
