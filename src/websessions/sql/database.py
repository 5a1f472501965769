"""Calls on a pooled connection: one check-out for a list of them, one outcome for each.

Synchronous, whoever calls: a sync store calls it, an async one runs it in a greenlet (an async
driver) or in a worker thread (any other).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import DDL, Column, Engine, Index, Inspector, inspect
from sqlalchemy import Table as SQLTable
from sqlalchemy import exc as sqlalchemy_exc
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateColumn

from ..errors import ConfigurationError, StoreError, StoreTimeout
from ..store import Call, Clock, Insert, Load, Put, Replace, Touch
from .dialects import (
    autocommit,
    has_one_connection,
    is_lock_failure,
    is_outdated,
    is_timeout,
    one_at_a_time,
    stays_in_autocommit,
    store_error,
)
from .operations import (
    BATCHES,
    OPERATIONS,
    Cursor,
    Table,
    Unbatchable,
    already_written,
    key_is_taken,
)

__all__ = ["Database"]

log = logging.getLogger("websessions")

LOCK_TRIES: Final = 5
"""How often a statement that loses to a deadlock is tried in all."""

TIMEOUTS: Final = 2
"""How many calls of one list may time out, each after the whole timeout, before the rest of them
is not tried any more. One may have met a row that someone has locked; two say more than that."""

CREATE_TRIES: Final = 20
"""How often the table is looked for again, while other processes create it too."""


class _Lost(Exception):
    """The connection is gone, or of no more use; `reason` says how."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


@dataclass(slots=True)
class _Conversation:
    """A connection that is checked out, and what has to be called after each statement."""

    connection: Any
    cursor: Cursor
    settle: Callable[[], None]


def _later() -> None:
    """The transaction that this statement is part of commits later."""


@contextmanager
def _transaction(talk: _Conversation, begin: str) -> Iterator[None]:
    """A transaction on a connection in autocommit mode; what raises undoes it."""
    talk.cursor.execute(begin, ())
    try:
        yield
        talk.cursor.execute("COMMIT", ())
    except BaseException as error:
        try:
            talk.connection.rollback()
        except Exception:
            if isinstance(error, Exception):
                raise _Lost(error) from error
        raise


class Database:
    """A table of sessions in a database.

    Args:
        engine: the engine; its driver may be an async one.
        table: the table.
        clock: the present.
        in_autocommit: whether each connection of the engine is in autocommit mode already.
    """

    def __init__(self, engine: Engine, table: Table, clock: Clock, *, in_autocommit: bool) -> None:
        self.engine = engine
        self._table = table
        self._clock = clock
        self._dialect = engine.dialect
        self._in_turns = has_one_connection(engine)
        self._autocommit = stays_in_autocommit if in_autocommit else autocommit
        self._is_disconnect: Callable[..., bool] = engine.dialect.is_disconnect
        dbapi: Any = engine.dialect.dbapi
        self._driver_errors: tuple[type[Exception], ...] = (dbapi.Error, OSError)
        self._losses: tuple[type[Exception], ...] = (_Lost, *self._driver_errors)
        self._integrity_error: type[Exception] = dbapi.IntegrityError

    def perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Perform calls and answer each one with its result or its exception.

        Connections that died while they were idle in the pool are replaced, and so are those that
        the table was altered under. A statement that was under way when its connection died is
        repeated: every one of them is safe to repeat.
        """
        if not self._in_turns:
            return self._perform(calls)
        with one_at_a_time(self.engine):
            return self._perform(calls)

    def _perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        answers: list[Any] = []
        doubtful = timeouts = 0
        losses_left: int | None = None
        while len(answers) < len(calls):
            try:
                connection: Any = self.engine.raw_connection()
            except Exception as error:
                return self._fail_the_rest(calls, answers, error)
            try:
                with self._autocommit(connection, self._dialect) as settle:
                    talk = _Conversation(connection, connection.cursor(), settle)
                    if len(calls) > 1 and not doubtful:
                        answers.extend(self._answer_together(talk, calls[len(answers) :]))
                    while len(answers) < len(calls):
                        call = calls[len(answers)]
                        answer = self._answer(talk, call, repeated=doubtful > 0)
                        answers.append(answer)
                        doubtful = max(0, doubtful - 1)
                        timeouts += isinstance(answer, StoreTimeout)
                        if timeouts == TIMEOUTS:
                            assert answer.__cause__ is not None
                            answers = self._fail_the_rest(calls, answers, answer.__cause__)
                    talk.cursor.close()
            except self._losses as error:
                cause = error.reason if isinstance(error, _Lost) else error
                _discard(connection)
                if losses_left is None:
                    # Every idle connection may be as dead as this one; a fresh one is not.
                    losses_left = 1 + self._idle_connections()
                losses_left -= 1
                if losses_left < 0 or is_timeout(cause):
                    return self._fail_the_rest(calls, answers, cause)
                # Any of them may have been carried out, and only the answer been lost.
                doubtful = len(calls) - len(answers)
            except BaseException:
                # Cancelled or failed in the middle of a conversation: nobody can take it up again.
                _discard(connection)
                raise
            finally:
                connection.close()
        return answers

    def _answer_together(self, talk: _Conversation, calls: Sequence[Call[Any]]) -> Sequence[Any]:
        """Answer calls of one kind in one go; nothing, if that can not be done or has failed.

        A statement that failed has done nothing, so its calls can be performed one by one, and
        only the one that was wrong fails.
        """
        kind = type(calls[0])
        operation = BATCHES.get(kind)
        if operation is None or any(type(call) is not kind for call in calls):
            return ()
        statements = self._table.statements
        try:
            if statements.takes_arrays or kind is Load:
                answers = operation(talk.cursor, self._table, calls, self._clock())
                talk.settle()
                return answers
            if statements.takes_lists and kind in (Replace, Touch):
                with _transaction(talk, "BEGIN"):
                    return operation(talk.cursor, self._table, calls, self._clock())
            if self._dialect.name == "sqlite":
                with _transaction(talk, "BEGIN IMMEDIATE"):
                    inside = replace(talk, settle=_later)
                    return [self._answer_or_stop(inside, call) for call in calls]
        except self._driver_errors as error:
            if self._is_lost(error, talk):
                raise _Lost(error) from error
        except _Lost:
            raise
        except Exception:  # noqa: S110  alone, the call that it belongs to gets it
            pass
        return ()

    def _answer_or_stop(self, talk: _Conversation, call: Call[Any]) -> Any:
        answer = self._answer(talk, call, repeated=False)
        if isinstance(answer, StoreError):
            # SQLite ends the whole transaction on some errors, and what followed would be kept.
            raise Unbatchable
        return answer

    def _failure(self, error: Exception) -> StoreError:
        failure = self._store_error(error)
        failure.__cause__ = error
        return failure

    def _store_error(self, error: BaseException, *, lost: bool = False) -> StoreError:
        return store_error(error, self._dialect, self._table.layout.table.fullname, lost=lost)

    def _answer(self, talk: _Conversation, call: Call[Any], *, repeated: bool) -> Any:
        """Perform one call, and end its transaction where there is one.

        Args:
            talk: the connection.
            call: the call.
            repeated: it may have been carried out already, on a connection that died before the
                answer came.
        """
        operation = OPERATIONS.get(type(call))
        if operation is None:
            return TypeError(f"a SQL store can not perform {type(call).__name__}")
        now = self._clock()
        tries_left = LOCK_TRIES
        while True:
            tries_left -= 1
            answer: Any
            try:
                answer = operation(talk.cursor, self._table, call, now)
                if answer is None and repeated:
                    answer = already_written(talk.cursor, self._table, call, now)
            except self._driver_errors as error:
                if self._is_lost(error, talk):
                    raise _Lost(error) from error
                if is_lock_failure(error) and tries_left > 0:
                    continue
                violates = isinstance(error, self._integrity_error)
                in_two = isinstance(call, Put) and not self._table.statements.puts_at_once
                if violates and in_two and tries_left > 0:
                    continue  # somebody inserted between them
                if violates and self._is_taken(talk, call):
                    answer = None
                    if repeated:
                        answer = already_written(talk.cursor, self._table, call, now)
                else:
                    answer = self._failure(error)
            except UnicodeEncodeError as error:
                answer = self._failure(error)  # half a character in a mirrored column
            except Exception as error:
                # A row that is corrupt, or the app's own function for a column: its caller's.
                answer = error
            talk.settle()
            return answer

    def _is_taken(self, talk: _Conversation, call: Call[Any]) -> bool:
        """Whether a constraint was violated because the new key is there already."""
        key = call.key if isinstance(call, Insert) else getattr(call, "new_key", None)
        return key is not None and key_is_taken(talk.cursor, self._table, key)

    def _is_lost(self, error: Exception, talk: _Conversation) -> bool:
        return (
            isinstance(error, OSError)
            or self._is_disconnect(error, talk.connection, talk.cursor)
            or is_outdated(error)
        )

    def _fail_the_rest(
        self, calls: Sequence[Call[Any]], answers: list[Any], error: BaseException
    ) -> list[Any]:
        # An error for each: a traceback that several requests share would mix them up.
        failures = [self._store_error(error, lost=True) for _ in calls[len(answers) :]]
        for failure in failures:
            failure.__cause__ = error
        return [*answers, *failures]

    def _idle_connections(self) -> int:
        count = getattr(self.engine.pool, "checkedin", None)
        return 0 if count is None else int(count())

    def create_tables(self) -> None:
        """Create the table with its indexes, and the lease's, where they are missing; and in a
        generated table that an earlier version made the columns that it did not have.

        Many processes may do it at once. Whichever statement comes second fails, whatever its
        dialect calls that, so what counts is only whether everything is there in the end.

        Raises:
            ConfigurationError: a table of that name is there, and it is somebody else's.
        """
        for table in self._tables:
            self._create(table)

    def check_tables(self) -> None:
        """Look whether `create_tables` can do its work, and change nothing.

        Raises:
            ConfigurationError: a table of that name is there, and it is somebody else's; or there
                is no such schema.
            StoreUnavailable: the database can not be reached.
        """
        try:
            with self.engine.connect() as connection:
                look = inspect(connection)
                schema = self._table.layout.table.schema
                if schema is not None and schema not in look.get_schema_names():
                    raise ConfigurationError(f"there is no schema {schema!r}")
                for table in self._tables:
                    if look.has_table(table.name, schema=table.schema):
                        _missing(table, look)
        except (OSError, sqlalchemy_exc.DBAPIError, sqlalchemy_exc.TimeoutError) as error:
            raise self._not_made(error, lost=not _was_reached(error)) from error

    @property
    def _tables(self) -> list[SQLTable]:
        layout = self._table.layout
        return [layout.table] if layout.lease is None else [layout.table, layout.lease]

    def _not_made(self, error: BaseException, *, lost: bool) -> StoreError:
        """For an error of SQLAlchemy's: the driver's, where there is one, says more."""
        driver = error.orig if isinstance(error, sqlalchemy_exc.DBAPIError) else None
        return self._store_error(driver or error, lost=lost)

    def _create(self, table: SQLTable) -> None:
        failure: BaseException | None = None
        losses = 0
        for _ in range(CREATE_TRIES):
            try:
                with self.engine.connect() as connection:
                    look = inspect(connection)
                    missing: list[SQLTable | Index | Column[Any]] = [table]
                    if look.has_table(table.name, schema=table.schema):
                        missing = _missing(table, look)
                    if not missing:
                        return
                    connection.rollback()
                    with connection.begin():
                        if isinstance(missing[0], Column):
                            connection.execute(_addition(missing[0], self._dialect))
                        else:
                            # With the types that its columns need, unless they are there.
                            missing[0].create(connection, checkfirst=True)
                package = table.info.get("websessions_layout")
                if package is not None and missing[0] is table:
                    log.warning(
                        "sync() has made the table %s for %s; if an app of Express has one already,"
                        " that has another name: say it with table_name",
                        table.fullname,
                        package,
                    )
            except sqlalchemy_exc.DBAPIError as error:
                failure = error
                # A connection that was lost took the others of the pool with it: the next is new.
                losses += error.connection_invalidated
                if not _was_reached(error) or losses > 1 or is_timeout(error.orig or error):
                    break
            except (OSError, sqlalchemy_exc.TimeoutError) as error:
                failure = error
                break
        assert failure is not None
        raise self._not_made(failure, lost=losses > 1 or not _was_reached(failure)) from failure


def _missing(table: SQLTable, look: Inspector) -> list[SQLTable | Index | Column[Any]]:
    """What a table that is there lacks: columns that may be added to rows, and indexes.

    Raises:
        ConfigurationError: it lacks those that every version of this package has made.
    """
    columns: list[Column[Any]] = []
    if table.info.get("websessions"):
        known = {column["name"] for column in look.get_columns(table.name, table.schema)}
        unknown = [c.name for c in table.columns if not c.nullable and c.name not in known]
        if unknown:
            raise ConfigurationError(
                f"the table {table.fullname!r} is no session table of this package's: it has no"
                f" {', '.join(unknown)}. Nothing was changed in it; name another one, or migrate"
            )
        columns = [c for c in table.columns if c.nullable and c.name not in known]
    indexes = {index["name"] for index in look.get_indexes(table.name, table.schema)}
    return [*columns, *(index for index in table.indexes if index.name not in indexes)]


def _addition(column: Column[Any], dialect: Dialect) -> DDL:
    table = dialect.identifier_preparer.format_table(column.table)
    added = str(CreateColumn(column).compile(dialect=dialect))
    return DDL(f"ALTER TABLE {table} ADD COLUMN {added}".replace("%", "%%"))  # type: ignore[no-untyped-call]


def _discard(connection: Any) -> None:
    if connection.is_valid:
        connection.invalidate()


def _was_reached(error: BaseException) -> bool:
    """Whether the database was there to answer at all."""
    return isinstance(error, sqlalchemy_exc.DBAPIError) and error.statement is not None
