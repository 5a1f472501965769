"""Calls in a transaction of the app's, which commits them or rolls them back with its own work.

They are the operations that a store performs anyway (`operations.py`), on a connection that is not
the store's: nothing is repeated, no connection replaced and no error hidden, since that is the
app's to decide. What is read is locked until the transaction ends. So a write that has lost to
another one wins at the second try, in a transaction that would see an old snapshot, too (MySQL's
default).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import ReferenceType, WeakKeyDictionary, WeakMethod, ref

from sqlalchemy import Connection, event
from sqlalchemy import exc as sqlalchemy_exc
from sqlalchemy.engine import CursorResult, Dialect, RootTransaction

from ..direct import AsyncSessionStore, SessionStore, StoreOptions
from ..errors import ConfigurationError
from ..sid import KeyRule
from ..store import Call, Clock
from .dialects import store_error
from .operations import OPERATIONS, ExtendDefaultFields, Table
from .statements import LockingStatements
from .table import Layout

if TYPE_CHECKING:
    from sqlalchemy import orm
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

__all__ = ["AsyncJoinedStore", "JoinedStore", "Joins", "async_connection", "sync_connection"]


class Joins:
    """A table of sessions, as it is used in transactions of the app's.

    Args:
        layout: the table.
        dialect: that of the store's own engine; the app may use the database by another driver.
        extend_default_fields: what the app wants in its columns.
        clock: the present.
    """

    def __init__(
        self,
        layout: Layout,
        dialect: Dialect,
        extend_default_fields: ExtendDefaultFields | None,
        clock: Clock,
    ) -> None:
        self.layout = layout
        self._database = dialect.name
        self._extend = extend_default_fields
        self._clock = clock
        self._tables: dict[Dialect, Table] = {}
        self._watches: WeakKeyDictionary[Connection, _Watch] = WeakKeyDictionary()

    def perform(
        self, connection: Connection, calls: Sequence[Call[Any]], undone: Callable[[], None] | None
    ) -> tuple[list[Any], RootTransaction | None]:
        """Perform calls in the connection's transaction, which begins if there is none.

        Args:
            connection: the app's connection.
            calls: the calls.
            undone: is called if the transaction is rolled back, at least to a savepoint before.

        Returns:
            The answers, and the transaction.
        """
        table, cursor = self._table(connection.dialect), _Cursor(connection)
        answers = [self._answer(cursor, table, call) for call in calls]
        transaction = connection.get_transaction()
        if undone is not None and transaction is not None:
            watch = self._watches.get(connection)
            if watch is None:
                watch = self._watches[connection] = _Watch(connection)
            watch.add(connection, transaction, undone)
        return answers, transaction

    def _table(self, dialect: Dialect) -> Table:
        table = self._tables.get(dialect)
        if table is None:
            if len(self._tables) > _DIALECTS:
                self._tables.clear()  # of engines that are made and thrown away
            if dialect.name != self._database:
                raise ConfigurationError(
                    f"within=... takes a connection to the database that has the sessions, which"
                    f" is {self._database}; this one is to {dialect.name}"
                )
            statements = LockingStatements(self.layout, dialect)
            table = self._tables[dialect] = Table(self.layout, statements, self._extend)
        return table

    def _answer(self, cursor: _Cursor, table: Table, call: Call[Any]) -> Any:
        operation = OPERATIONS.get(type(call))
        if operation is None:
            return TypeError(f"a SQL store can not perform {type(call).__name__}")
        try:
            return operation(cursor, table, call, self._clock())
        except sqlalchemy_exc.DBAPIError as error:
            failure = store_error(
                error.orig or error, table.statements.dialect, table.layout.table.fullname
            )
            # Without SQLAlchemy's own, which shows the parameters: the session's data.
            failure.__cause__ = error.orig
            return failure
        except Exception as error:
            return error


_DIALECTS: Final = 8
"""How many an app has at once, at most; each engine has one."""


class _Written(NamedTuple):
    """What has to be told of a rollback, if it is still there then."""

    root: ReferenceType[RootTransaction]
    savepoints: set[str]
    undone: WeakMethod[Callable[[], None]]


class _Watch:
    """Tells those who wrote on a connection that their transaction has been rolled back.

    It keeps neither them nor the transaction alive: these know the connection, which has this.
    """

    def __init__(self, connection: Connection) -> None:
        self._written: list[_Written] = []
        event.listen(connection, "rollback", self._rolled_back)
        event.listen(connection, "rollback_savepoint", self._rolled_back_to)
        event.listen(connection, "rollback_twophase", self._rolled_back)

    def add(
        self, connection: Connection, root: RootTransaction, undone: Callable[[], None]
    ) -> None:
        """Something has been written, in the savepoints that there are now."""
        self._written = [one for one in self._written if one.root() is root]
        self._written.append(_Written(ref(root), _savepoints(connection), WeakMethod(undone)))

    def _rolled_back(self, connection: Connection, *_: Any) -> None:
        self._undo(connection, lambda savepoints: True)

    def _rolled_back_to(self, connection: Connection, name: str, _: Any) -> None:
        self._undo(connection, lambda savepoints: name in savepoints)

    def _undo(self, connection: Connection, is_undone: Callable[[set[str]], bool]) -> None:
        root = connection.get_transaction()
        for one in reversed(self._written[:]):
            if one.root() is root and is_undone(one.savepoints):
                self._written.remove(one)
                if (undone := one.undone()) is not None:
                    undone()


def _savepoints(connection: Connection) -> set[str]:
    """The names of the savepoints that a rollback could go back to."""
    # The events say names, and SQLAlchemy 2.0 and 2.1 have these under no public attribute.
    names = set()
    nested: Any = connection.get_nested_transaction()
    while nested is not None:
        names.add(nested._savepoint)
        nested = nested._previous_nested
    return names


class _Cursor:
    """A cursor (PEP 249) that SQLAlchemy knows of: it begins the transaction, logs and traces."""

    _result: CursorResult[Any]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, operation: str, parameters: Any, /) -> None:
        self._result = self._connection.exec_driver_sql(operation, parameters)

    @property
    def rowcount(self) -> int:
        return self._result.rowcount

    def fetchone(self) -> Any:
        row = self._result.fetchone()
        self._result.close()
        return row

    def fetchall(self) -> Sequence[Any]:
        return self._result.fetchall()

    def close(self) -> None:
        self._result.close()


class _Joined:
    """What both kinds of store in a transaction of the app's have."""

    connection: Any
    undone: Callable[[], None] | None = None
    _joins: Joins
    _key_rule: KeyRule
    _transaction: RootTransaction | None = None

    def _join(self, joins: Joins, connection: object) -> None:
        self._joins = joins
        self._key_rule = joins.layout.key_rule
        self.connection = connection

    @property
    def is_open(self) -> bool:
        """Whether the transaction that something was performed in goes on."""
        return self._transaction is not None and self._transaction.is_active

    def _perform(
        self,
        given: Connection | orm.Session | orm.scoped_session[Any],
        calls: Sequence[Call[Any]],
    ) -> list[Any]:
        connection = _connection_of(given, self._joins)
        answers, self._transaction = self._joins.perform(connection, calls, self.undone)
        return answers


class JoinedStore(_Joined, SessionStore):
    """A store whose calls belong to a transaction of the app's: `SQLSessionStore.within`."""

    def __init__(
        self,
        joins: Joins,
        connection: Connection | orm.Session | orm.scoped_session[Any],
        options: StoreOptions,
    ) -> None:
        super().__init__(**options)
        self._join(joins, connection)

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        return self._perform(self.connection, calls)


class AsyncJoinedStore(_Joined, AsyncSessionStore):
    """The same for asyncio: `AsyncSQLSessionStore.within`."""

    def __init__(
        self,
        joins: Joins,
        connection: AsyncConnection | AsyncSession | async_scoped_session[Any],
        options: StoreOptions,
    ) -> None:
        super().__init__(**options)
        self._join(joins, connection)

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        from sqlalchemy.ext.asyncio import async_scoped_session

        given = self.connection
        if isinstance(given, async_scoped_session):
            given = given()
        answers: list[Any] = await given.run_sync(self._perform, calls)
        return answers


def sync_connection(
    given: Connection | orm.Session | orm.scoped_session[Any],
) -> Connection | orm.Session | orm.scoped_session[Any]:
    """What was given, if it has a transaction that sync code can join.

    Raises:
        TypeError: it has none.
    """
    from sqlalchemy import orm  # costs as much as all else; who passes one has it already

    if not isinstance(given, Connection | orm.Session | orm.scoped_session):
        raise TypeError(
            f"within takes a Connection or an orm.Session of SQLAlchemy's, not"
            f" {type(given).__name__}"
        )
    return given


def async_connection(
    given: AsyncConnection | AsyncSession | async_scoped_session[Any],
) -> AsyncConnection | AsyncSession | async_scoped_session[Any]:
    """The same for asyncio.

    Raises:
        TypeError: it has none.
    """
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    if not isinstance(given, AsyncConnection | AsyncSession | async_scoped_session):
        raise TypeError(
            f"within takes an AsyncConnection or an AsyncSession of SQLAlchemy's, not"
            f" {type(given).__name__}"
        )
    return given


def _connection_of(
    given: Connection | orm.Session | orm.scoped_session[Any], joins: Joins
) -> Connection:
    if isinstance(given, Connection):
        return given
    # One with several databases finds the one that has the table, where it was told.
    return given.connection(bind_arguments={"clause": joins.layout.table})
