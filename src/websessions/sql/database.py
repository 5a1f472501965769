"""Calls on a pooled connection: one check-out for a list of them, one outcome for each.

Synchronous, whoever calls: a sync store calls it, an async one runs it in a greenlet (an async
driver) or in a worker thread (any other).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Engine, Index, inspect
from sqlalchemy import Table as SQLTable
from sqlalchemy import exc as sqlalchemy_exc

from ..store import Call, Clock, Insert
from .dialects import autocommit, is_lock_failure, is_timeout, one_at_a_time, store_error
from .operations import OPERATIONS, Cursor, Table, already_written, key_is_taken

__all__ = ["Database"]

LOCK_TRIES: Final = 5
"""How often a statement that loses to a deadlock is tried in all."""

CREATE_TRIES: Final = 20
"""How often the table is looked for again, while other processes create it too."""


class _Lost(Exception):
    """The connection is gone; `reason` says how."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class Database:
    """A table of sessions in a database."""

    def __init__(self, engine: Engine, table: Table, clock: Clock) -> None:
        self.engine = engine
        self._table = table
        self._clock = clock
        self._dialect = engine.dialect
        self._is_disconnect: Callable[..., bool] = engine.dialect.is_disconnect
        dbapi: Any = engine.dialect.dbapi
        self._driver_errors: tuple[type[Exception], ...] = (dbapi.Error, OSError)
        self._integrity_error: type[Exception] = dbapi.IntegrityError

    def perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Perform calls and answer each one with its result or its exception.

        Connections that died while they were idle in the pool are replaced. A statement that was
        under way when its connection died is repeated: every one of them is safe to repeat.
        """
        turn = one_at_a_time(self.engine)
        if turn is None:
            return self._perform(calls)
        with turn:
            return self._perform(calls)

    def _perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        answers: list[Any] = []
        losses_left: int | None = None
        repeated = False
        while len(answers) < len(calls):
            try:
                connection: Any = self.engine.raw_connection()
            except Exception as error:
                return self._fail_the_rest(calls, answers, error)
            try:
                with autocommit(connection, self._dialect) as settle:
                    cursor = connection.cursor()
                    while len(answers) < len(calls):
                        call = calls[len(answers)]
                        answers.append(self._answer(connection, cursor, settle, call, repeated))
                        repeated = False
                    cursor.close()
            except (_Lost, *self._driver_errors) as lost:
                cause = lost.__cause__ if isinstance(lost, _Lost) else lost
                assert cause is not None
                _discard(connection)
                if losses_left is None:
                    # Every idle connection may be as dead as this one; a fresh one is not.
                    losses_left = 1 + self._idle_connections()
                losses_left -= 1
                if losses_left < 0 or is_timeout(cause):
                    return self._fail_the_rest(calls, answers, cause)
                repeated = True
            except BaseException:
                # Cancelled or failed in the middle of a conversation: nobody can take it up again.
                _discard(connection)
                raise
            finally:
                connection.close()
        return answers

    def _answer(
        self,
        connection: Any,
        cursor: Cursor,
        settle: Callable[[], None],
        call: Call[Any],
        repeated: bool,
    ) -> Any:
        """Perform one call, and end its transaction where there is one.

        Args:
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
                answer = operation(cursor, self._table, call, now)
                if answer is None and repeated:
                    answer = already_written(cursor, self._table, call, now)
                settle()
                return answer
            except self._driver_errors as error:
                if isinstance(error, OSError) or self._dialect.is_disconnect(
                    error, connection, cursor  # type: ignore[arg-type]
                ):
                    raise _Lost from error
                if is_lock_failure(error) and tries_left > 0:
                    continue
                answer = store_error(error, self._dialect)
                answer.__cause__ = error
                if isinstance(error, self._integrity_error) and isinstance(call, Insert):
                    if key_is_taken(cursor, self._table, call.key):
                        answer = (
                            already_written(cursor, self._table, call, now) if repeated else None
                        )
            except Exception as error:
                # A row that is corrupt, or the app's own function for a column: its caller's.
                answer = error
            settle()
            return answer

    def _fail_the_rest(
        self, calls: Sequence[Call[Any]], answers: list[Any], error: BaseException
    ) -> list[Any]:
        failure = store_error(error, self._dialect, lost=True)
        failure.__cause__ = error
        return [*answers, *(failure for _ in calls[len(answers) :])]

    def _idle_connections(self) -> int:
        count = getattr(self.engine.pool, "checkedin", None)
        return 0 if count is None else int(count())

    def create_table(self) -> None:
        """Create the table and its indexes where they are missing.

        Many processes may do it at once. Whichever statement comes second fails, whatever its
        dialect calls that, so what counts is only whether everything is there in the end.
        """
        table = self._table.layout.table
        failure: BaseException | None = None
        for _ in range(CREATE_TRIES):
            try:
                with self.engine.connect() as connection:
                    look = inspect(connection)
                    missing: list[SQLTable | Index] = [table]
                    if look.has_table(table.name, schema=table.schema):
                        there = {i["name"] for i in look.get_indexes(table.name, table.schema)}
                        missing = [index for index in table.indexes if index.name not in there]
                    if not missing:
                        return
                    connection.rollback()
                    with connection.begin():
                        # With the types that its columns need, unless they are there.
                        missing[0].create(connection, checkfirst=True)
            except sqlalchemy_exc.DBAPIError as error:
                failure = error
                if error.connection_invalidated:
                    break
            except (OSError, sqlalchemy_exc.TimeoutError) as error:
                failure = error
                break
        assert failure is not None
        cause = failure.orig if isinstance(failure, sqlalchemy_exc.DBAPIError) else failure
        raise store_error(
            cause or failure, self._dialect, lost=not _was_refused(failure)
        ) from failure


def _discard(connection: Any) -> None:
    if connection.is_valid:
        connection.invalidate()


def _was_refused(error: BaseException) -> bool:
    """Whether the database was there to answer at all."""
    return isinstance(error, sqlalchemy_exc.DBAPIError) and error.statement is not None
