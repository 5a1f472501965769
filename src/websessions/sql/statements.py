"""The SQL, compiled once for a dialect and then executed by the driver itself.

SQLAlchemy Core builds and compiles each statement, and its types convert parameters and rows, so
every dialect's spelling is SQLAlchemy's business. Its execution layer, which costs several times
what the driver does, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from typing import Any, Final, TypeAlias

import sqlalchemy
from sqlalchemy import (
    Boolean,
    ClauseElement,
    Column,
    DateTime,
    Enum,
    Integer,
    LargeBinary,
    Numeric,
    Select,
    Table,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import String, TypeDecorator, TypeEngine

from ..errors import ConfigurationError
from ..sid import PLAIN, Key, KeyRule, plain_key
from ..store import SWEEP_BATCH
from .table import Layout

__all__ = ["BatchStatement", "LockingStatements", "Lookup", "Statement", "Statements"]


class Statement:
    """One compiled statement: its text, and how its parameters and rows are converted."""

    __slots__ = ("_binds", "_defaults", "_positional", "_rows", "text")

    def __init__(
        self,
        clause: ClauseElement,
        dialect: Dialect,
        columns: Sequence[Column[Any]] = (),
    ) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.text = str(compiled)
        self._positional = compiled.positiontup is not None
        self._defaults = _own_parameters(compiled)
        self._binds = [
            (name, _bind_processor(compiled.binds[name].type, dialect))
            for name in compiled.positiontup or compiled.binds
        ]
        self._rows = [
            column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns
        ]

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """What the driver's `execute` takes for these values by name."""
        if self._defaults:
            values = {
                **{name: make(None) for name, make in self._defaults.items()},
                **values,
            }
        if self._positional:
            return tuple(
                [
                    values[name] if convert is None else convert(values[name])
                    for name, convert in self._binds
                ]
            )
        return {
            name: values[name] if convert is None else convert(values[name])
            for name, convert in self._binds
        }

    def row(self, row: Sequence[Any]) -> list[Any]:
        """A row of the driver's as the types of its columns mean it."""
        return [
            value if convert is None else convert(value)
            for value, convert in zip(row, self._rows, strict=True)
        ]

    def value(self, row: Sequence[Any], index: int) -> Any:
        """One value of a row."""
        convert = self._rows[index]
        return row[index] if convert is None else convert(row[index])


class BatchStatement(Statement):
    """A statement over the rows of a batch.

    Args:
        clause: the statement.
        dialect: the dialect.
        columns: the columns of the rows that it returns.
        given: the names of what each row of the batch gives.
        size: how many rows it takes; 0 for as many as there are, as an array a name.
    """

    __slots__ = ("_given", "_size")

    def __init__(
        self,
        clause: ClauseElement,
        dialect: Dialect,
        columns: Sequence[Column[Any]],
        given: Collection[str],
        size: int,
    ) -> None:
        super().__init__(clause, dialect, columns)
        self._given = given
        self._size = size

    def values(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The values of its parameters; what no row gives is the same in all of them."""
        if not self._size:
            return {
                f"p_{name}": [row[name] for row in rows] if name in self._given else value
                for name, value in rows[0].items()
            }
        values = {f"p_{name}": value for name, value in rows[0].items()}
        for n in range(self._size):
            row = rows[min(n, len(rows) - 1)]
            for name in self._given:
                values[f"p_{name}_{n}"] = row[name]
        return values


def _own_parameters(compiled: Any) -> dict[str, Callable[[None], Any]]:
    """Parameters that no call gives: constants, and the app's `default=` and `onupdate=`."""
    makers: dict[str, Callable[[None], Any]] = {}
    for column, default in [
        *((column, column.default) for column in compiled.insert_prefetch),
        *((column, column.onupdate) for column in compiled.update_prefetch),
    ]:
        argument = default.arg
        makers[column.key] = argument if callable(argument) else partial(_itself, argument)
    for name, bind in compiled.binds.items():
        if bind.value is not None:  # a constant of the dialect's, such as an offset of 0
            makers[name] = partial(_itself, bind.value)
    return makers


def _itself(value: Any, _: None) -> Any:
    return value


def _bind_processor(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    convert = kind.dialect_impl(dialect).bind_processor(dialect)
    if convert is not None and dialect.name == "sqlite" and isinstance(kind, DateTime):
        # Moments are text there, and a write names the same two or three of them several times.
        return lru_cache(maxsize=16)(convert)
    return convert


class Lookup:
    """The statements that find records by one column."""

    def __init__(
        self, statements: Statements, column: Column[Any], columns: Sequence[Any], where: Any
    ) -> None:
        self._statements = statements
        self._column = column
        self._columns = columns
        self._where = where
        self._lists: dict[int, Statement] = {}

    @cached_property
    def one(self) -> Statement:
        return self._compiled(self._column == _parameter("key", self._column.type))

    def many(self, keys: Sequence[Any]) -> tuple[Statement, dict[str, Any]]:
        """The statement that finds all of these keys, and the keys as it takes them."""
        if len(keys) == 1:
            return self.one, {"p_key": keys[0]}
        if self._statements.takes_arrays:
            return self._array, {"p_key": keys}
        # A parameter a key; a key that is asked for twice is found once.
        size = _size_for(len(keys))
        if size not in self._lists:
            names = [f"key_{n}" for n in range(size)]
            asked = [_parameter(name, self._column.type) for name in names]
            self._lists[size] = self._compiled(self._column.in_(asked))
        padded = [*keys, *[keys[-1]] * (size - len(keys))]
        return self._lists[size], {f"p_key_{n}": key for n, key in enumerate(padded)}

    @cached_property
    def _array(self) -> Statement:
        return self._compiled(_is_any(self._column))

    def _compiled(self, found: Any) -> Statement:
        clause = self._statements.reading(select(*self._columns).where(found, self._where))
        return Statement(clause, self._statements.dialect, self._columns)


class Statements:
    """Every statement of one table on one dialect, each compiled at its first use.

    Parameters are named `p_...`: SQLAlchemy keeps the names of the columns to itself.
    """

    def __init__(self, layout: Layout, dialect: Dialect) -> None:
        self.layout = layout
        self.dialect = dialect
        self.key_out, self.key_in = _key_conversion(layout.sid.type, layout.key_rule)
        self.data_out, self.data_in = _data_conversion(layout.seen_data.type)
        if layout.previous_key is not None:
            self.previous_out, self.previous_in = _key_conversion(
                layout.previous_key.type, layout.key_rule
            )
        self._zoned = {
            column: _keeps_zone(column.type, dialect)
            for table in (layout.table, layout.lease)
            if table is not None
            for column in table.c
            if isinstance(column.type, DateTime | TypeDecorator)
        }
        self._now = bindparam("p_now", type_=layout.expires.type)
        # Text is compared by its collation there, which may well ignore case.
        self._collates = dialect.name in ("mysql", "mariadb")
        self._is_it = self._has_key(_parameter("key", layout.sid.type))
        self._is_live = layout.expires > self._now
        self._columns: list[Any] = [layout.sid, layout.seen_data, layout.seen_expires]
        if layout.version is not None:
            # A column that was added to rows that are there may be NULL in them.
            self._version: Any = layout.version
            if layout.version.nullable:
                self._version = func.coalesce(layout.version, literal_column("0"))
            self._columns.append(self._version)
        self._inserts: dict[frozenset[str], Statement] = {}
        self._insert_batches: dict[frozenset[str], BatchStatement] = {}
        self._puts: dict[frozenset[str], Statement] = {}
        self._batches: dict[tuple[str, int], BatchStatement] = {}

    def moment(self, moment: datetime, column: Column[Any] | None = None) -> datetime:
        """An aware moment as a column takes it: naive UTC where it has no zone."""
        column = self.layout.expires if column is None else column
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
        return moment if self._zoned[column] else moment.replace(tzinfo=None)

    def reading(self, found: Select[Any]) -> Select[Any]:
        """How a record is read."""
        return found

    def _compiled(self, clause: ClauseElement, columns: Sequence[Column[Any]] = ()) -> Statement:
        return Statement(clause, self.dialect, columns)

    # One record

    @cached_property
    def load(self) -> Lookup:
        return Lookup(self, self.layout.sid, self._columns, self._is_live)

    @cached_property
    def load_previous(self) -> Lookup:
        """What `load` did not find: by the previous key, in its grace. Each row has those behind
        its record.
        """
        key, until = self._previous
        in_grace = until > _parameter("graced", until.type)
        return Lookup(self, key, [*self._columns, key, until], and_(self._is_live, in_grace))

    @cached_property
    def exists(self) -> Statement:
        """Whether the key is taken, by a live record or an expired one; or by what the database
        takes for the same.
        """
        sid = self.layout.sid
        return self._compiled(select(sid).where(sid == _parameter("key", sid.type)))

    def insert(self, columns: Collection[str]) -> Statement:
        """Insert a row that has exactly these columns."""
        names = frozenset(columns)
        if names not in self._inserts:
            self._inserts[names] = self._compiled(
                insert(self.layout.table).values(self._assignments(names, _parameter)).inline()
            )
        return self._inserts[names]

    def put(self, columns: Collection[str]) -> Statement | None:
        """Insert such a row or overwrite the one that is there; None if the dialect has no word
        for it, and `overwrite` and `insert` have to do.
        """
        if not self.puts_at_once:
            return None
        names = frozenset(columns)
        if names not in self._puts:
            values = self._assignments(names, _parameter)
            clause: Any
            if self.dialect.name == "postgresql":
                clause = postgresql.insert(self.layout.table).values(values)
            elif self.dialect.name == "sqlite":
                clause = sqlite.insert(self.layout.table).values(values)
            else:
                clause = mysql.insert(self.layout.table).values(values)
            if self._collates:
                clause = clause.on_duplicate_key_update(self._putting_over())
            else:
                clause = clause.on_conflict_do_update(
                    index_elements=[self.layout.sid], set_=self._putting_over()
                )
            self._puts[names] = self._compiled(clause.inline())
        return self._puts[names]

    @cached_property
    def puts_at_once(self) -> bool:
        """Whether one statement inserts or overwrites. MySQL's would overwrite an id that only its
        collation takes for the same.
        """
        if self._collates:
            return self.layout.key_rule is not PLAIN
        return self.dialect.name in ("postgresql", "sqlite")

    @cached_property
    def overwrite(self) -> Statement:
        """Overwrite the row, live or not."""
        return self._compiled(
            update(self.layout.table).where(self._is_it).values(self._putting_over())
        )

    @cached_property
    def replace(self) -> Statement:
        return self._compiled(self._replace(_parameter))

    @cached_property
    def move(self) -> Statement:
        """Replace, and put the row under a new key."""
        layout, given = self.layout, {"new_key": self.layout.sid}
        if layout.previous_key is not None and layout.previous_until is not None:
            given |= {"previous_key": layout.previous_key, "previous_until": layout.previous_until}
        values = {column.key: _parameter(name, column.type) for name, column in given.items()}
        return self._compiled(self._replace(_parameter).values(values))

    @cached_property
    def delete_previous(self) -> Statement:
        """Delete the row that has this previous key, in its grace."""
        key, until = self._previous
        return self._compiled(
            delete(self.layout.table).where(
                key == _parameter("key", key.type), until > _parameter("graced", until.type)
            )
        )

    @cached_property
    def touch(self) -> Statement:
        return self._compiled(self._touch(_parameter))

    @cached_property
    def touch_seen(self) -> Statement:
        return self._compiled(self._touch_seen(_parameter))

    @cached_property
    def delete(self) -> Statement:
        return self._compiled(delete(self.layout.table).where(self._is_it))

    @cached_property
    def lock(self) -> Statement:
        """Take the lock of a row or go on with it, unless it is another's."""
        holder, until = self.lock_columns
        mine = _parameter("holder", holder.type)
        return self._compiled(
            update(self.layout.table)
            .where(
                self._is_it,
                self._is_live,
                or_(
                    until.is_(None),
                    until <= _parameter("over", until.type),
                    holder == mine,
                ),
            )
            .values({holder.key: mine, until.key: _parameter("until", until.type)})
        )

    @cached_property
    def unlock(self) -> Statement:
        holder, until = self.lock_columns
        return self._compiled(
            update(self.layout.table)
            .where(self._is_it, holder == _parameter("holder", holder.type))
            .values({holder.key: null(), until.key: null()})
        )

    # The same for a batch of records: one statement.

    def replace_batch(self, rows: int) -> BatchStatement:
        return self._batch("replace", self._replace, rows)

    def touch_batch(self, rows: int) -> BatchStatement:
        return self._batch("touch", self._touch, rows)

    def touch_seen_batch(self, rows: int) -> BatchStatement:
        return self._batch("touch_seen", self._touch_seen, rows)

    @cached_property
    def delete_batch(self) -> Statement:
        sid = self.layout.sid
        return self._compiled(delete(self.layout.table).where(_is_any(sid)).returning(sid), [sid])

    def insert_batch(self, columns: Collection[str]) -> BatchStatement:
        """Insert rows that all have exactly these columns, those whose keys are taken excepted."""
        names = frozenset(columns)
        if names not in self._insert_batches:
            sid, ordered = self.layout.sid, sorted(names)
            rows = _Rows()
            for name in ordered:
                rows(name, self.layout.table.c[name].type)
            given = rows.as_arrays().c
            self._insert_batches[names] = BatchStatement(
                postgresql.insert(self.layout.table)
                .from_select(ordered, select(*(given[name] for name in ordered)))
                .on_conflict_do_nothing(index_elements=[sid])
                .returning(sid),
                self.dialect,
                [sid],
                names,
                size=0,
            )
        return self._insert_batches[names]

    @cached_property
    def takes_arrays(self) -> bool:
        """Whether a batch can be arrays, and a statement return the keys that it was true for:
        PostgreSQL, if every column that is written has a type that arrays take.
        """
        return (
            self.dialect.name == "postgresql"
            and not self._calls_for_each_row
            and all(_fits_arrays(column.type) for column in self.layout.table.c)
        )

    @cached_property
    def takes_lists(self) -> bool:
        """Whether a batch of updates can be a table of parameters, of which only the number of
        rows is known that it was true for: MySQL and MariaDB.
        """
        return self.dialect.name in ("mysql", "mariadb") and not self._calls_for_each_row

    @property
    def _calls_for_each_row(self) -> bool:
        """Whether a column has a function of the app's for its value: one statement calls it once,
        and each row wants its own.
        """
        return any(
            getattr(maker, "is_callable", False)
            for column in self.layout.table.c
            for maker in (column.default, column.onupdate)
        )

    def _batch(self, name: str, build: Callable[[Given], Any], rows: int) -> BatchStatement:
        size = 0 if self.takes_arrays else _size_for(rows)
        if (name, size) not in self._batches:
            asked = _Rows()
            build(asked)
            batch = asked.as_list(size) if size else asked.as_arrays()
            clause, columns = build(lambda name, _: batch.c[name]), []
            if not size:
                columns = [self.layout.sid]
                clause = clause.returning(*columns)
            self._batches[name, size] = BatchStatement(
                clause, self.dialect, columns, asked.names, size
            )
        return self._batches[name, size]

    @property
    def lock_columns(self) -> tuple[Column[Any], Column[Any]]:
        """Who holds the lock of a row, and until when.

        Raises:
            ConfigurationError: the table does not have them.
        """
        holder, until = self.layout.locked_by, self.layout.locked_until
        if holder is None or until is None:
            raise ConfigurationError(
                f"table {self.layout.table.fullname!r} can not lock sessions: it needs the nullable"
                " columns locked_by, a String(32), and locked_until, a DateTime"
            )
        return holder, until

    @property
    def _previous(self) -> tuple[Column[Any], Column[Any]]:
        key, until = self.layout.previous_key, self.layout.previous_until
        assert key is not None
        assert until is not None
        return key, until

    # Many records

    @cached_property
    def scan(self) -> Statement:
        sid = self.layout.sid
        return self._compiled(
            select(*self._columns)
            .where(self._is_live, sid > bindparam("p_key", type_=sid.type))
            .order_by(sid)
            .limit(bindparam("p_limit", type_=Integer())),
            self._columns,
        )

    @cached_property
    def count(self) -> Statement:
        return self._compiled(
            select(func.count()).select_from(self.layout.table).where(self._is_live)
        )

    @cached_property
    def clear(self) -> Statement:
        return self._compiled(delete(self.layout.table))

    @cached_property
    def due(self) -> Statement:
        """The keys of rows to be swept or re-armed, and since when they are due."""
        return self._due()

    @cached_property
    def due_after(self) -> Statement:
        """The same from a moment on. PostgreSQL leaves deleted rows in the index until they are
        vacuumed, and each batch would walk through those of all batches before.
        """
        column = self._sweep_column
        after = column >= _parameter("after", column.type)
        return self._due(after if self.layout.sweep_after is None else _or_null(column, after))

    def _due(self, *conditions: Any) -> Statement:
        column, seen = self._sweep_column, self.layout.sweep_after
        if seen is None:
            seen = self.layout.seen_expires
        return self._compiled(
            select(self.layout.sid, seen)
            .where(self._is_due(column), *conditions)
            .order_by(column)
            .limit(bindparam("p_limit", type_=Integer())),
            [self.layout.sid, seen],
        )

    @cached_property
    def sweep(self) -> Statement:
        """Delete those of the due rows that have really expired: a touch may have come between."""
        return self._compiled(
            delete(self.layout.table).where(self._is_swept, self.layout.expires <= self._now)
        )

    @cached_property
    def rearm(self) -> Statement | None:
        """Set `sweep_after` of due rows that live on to their expiry; None without that column."""
        column = self.layout.sweep_after
        if column is None:
            return None
        return self._compiled(
            update(self.layout.table)
            .where(
                self._is_swept,
                self._is_due(column),
                self._is_live,
            )
            .values({column.key: self.layout.expires})
        )

    def swept(self, keys: list[Any]) -> dict[str, Any]:
        """The keys of due rows as `sweep` and `rearm` take them."""
        if self._takes_key_arrays:
            return {"p_key": keys}
        padded = keys + keys[-1:] * (SWEEP_BATCH - len(keys))
        return {f"p_key_{n}": key for n, key in enumerate(padded)}

    # The sweeper's lease: no lock, since poolers and Galera refuse those that outlive a statement

    @cached_property
    def lease(self) -> Statement:
        """Take the lease or go on with it, unless it is another's."""
        lease = self.lease_table.c
        now, latest = (_parameter(name, lease.expires.type) for name in ("now", "latest"))
        return self._compiled(
            update(self.lease_table)
            .where(
                lease.name == _LEASE_NAME,
                or_(
                    lease.holder == _parameter("holder", lease.holder.type),
                    lease.expires <= now,
                    lease.expires > latest,
                ),
            )
            .values(self._leasing)
        )

    @cached_property
    def first_lease(self) -> Statement:
        """Take the lease that nobody has ever had, unless somebody is quicker."""
        values = {"name": _LEASE_NAME, **self._leasing}
        clause: Any
        if self.dialect.name == "postgresql":
            clause = postgresql.insert(self.lease_table).values(values).on_conflict_do_nothing()
        elif self.dialect.name == "sqlite":
            clause = sqlite.insert(self.lease_table).values(values).on_conflict_do_nothing()
        else:
            clause = insert(self.lease_table).values(values)
            if self.dialect.name in ("mysql", "mariadb"):
                clause = clause.prefix_with("IGNORE")
        return self._compiled(clause.inline())

    @cached_property
    def leased_until(self) -> Statement:
        expires = self.lease_table.c.expires
        return self._compiled(
            select(expires).where(self.lease_table.c.name == _LEASE_NAME), [expires]
        )

    # Parts

    @property
    def lease_table(self) -> Table:
        if self.layout.lease is None:
            raise TypeError(f"there is no lease beside table {self.layout.table.fullname!r}")
        return self.layout.lease

    @property
    def _leasing(self) -> dict[str, Any]:
        lease = self.lease_table.c
        return {name: _parameter(name, lease[name].type) for name in ("holder", "expires")}

    @property
    def _sweep_column(self) -> Column[Any]:
        return self.layout.expires if self.layout.sweep_after is None else self.layout.sweep_after

    def _is_due(self, column: Column[Any]) -> Any:
        due = column <= self._now
        return due if self.layout.sweep_after is None else _or_null(column, due)

    @property
    def _is_swept(self) -> Any:
        if self._takes_key_arrays:
            return _is_any(self.layout.sid)
        sid = self.layout.sid
        return sid.in_([_parameter(f"key_{n}", sid.type) for n in range(SWEEP_BATCH)])

    @property
    def _takes_key_arrays(self) -> bool:
        return self.dialect.name == "postgresql" and isinstance(self.layout.sid.type, _ARRAY_ITEMS)

    def _assignments(self, names: Collection[str], given: Given) -> dict[str, Any]:
        """Each named column to what is given for it."""
        columns = self.layout.table.c
        return {name: given(name, columns[name].type) for name in sorted(names)}

    def _overwriting(self, given: Given) -> dict[str, Any]:
        """What a write of data changes in a row that is there."""
        layout = self.layout
        values = self._assignments({layout.data.key, layout.expires.key, *layout.mirrors}, given)
        if layout.version is not None:
            values[layout.version.key] = self._version + literal_column("1")
        if layout.updated_at is not None:
            # The same for the whole of a batch.
            values[layout.updated_at.key] = _parameter(
                layout.updated_at.key, layout.updated_at.type
            )
        if layout.sweep_after is not None:
            # Never beyond expires, or the sweeper would miss a session that was made shorter;
            # and as it was otherwise, which is what keeps PostgreSQL's updates HOT.
            kinds = repr(layout.sweep_after.type), repr(layout.expires.type)
            source = layout.expires if kinds[0] == kinds[1] else layout.sweep_after
            sooner = given(source.key, source.type)
            values[layout.sweep_after.key] = case(
                (_or_null(layout.sweep_after, layout.sweep_after > sooner), sooner),
                else_=layout.sweep_after,
            )
        return values

    def _putting_over(self) -> dict[str, Any]:
        """The same for who may not know the session: no previous key finds what is there now."""
        graced = (self.layout.previous_key, self.layout.previous_until)
        ended = {column.key: null() for column in graced if column is not None}
        return {**self._overwriting(_parameter), **ended}

    def _has_key(self, key: Any) -> Any:
        """The row of a key. Ids differ by their case, so no collation may find another's; the first
        comparison is for the index.
        """
        sid = self.layout.sid
        found = sid == key
        if self._collates and self.layout.key_rule is PLAIN:
            return and_(found, _in_bytes(sid) == _in_bytes(key))
        return found

    def _replace(self, given: Given) -> Any:
        """Write new data over the very version that was seen."""
        layout = self.layout
        return (
            update(layout.table)
            .where(
                self._has_key(given("key", layout.sid.type)),
                self._is_live,
                self._is_unchanged(given),
            )
            .values(self._overwriting(given))
        )

    def _touch(self, given: Given) -> Any:
        """Push the expiry on, unless it is over `ceiling` already."""
        sid, expires, touched = self.layout.sid, self.layout.expires, self.layout.touched
        values = {expires.key: given(expires.key, expires.type)}
        if touched is not None:
            values[touched.key] = _parameter(touched.key, touched.type)  # the same for a batch
        return (
            update(self.layout.table)
            .where(
                self._has_key(given("key", sid.type)),
                self._is_live,
                expires <= given("ceiling", expires.type),
            )
            .values(values)
        )

    def _touch_seen(self, given: Given) -> Any:
        """The same, if the data is still as it was seen."""
        return self._touch(given).where(self._is_unchanged(given))

    def _is_unchanged(self, given: Given) -> Any:
        """The guard of a write: the version that was read, or the data that was read."""
        layout = self.layout
        if layout.version is not None:
            return self._version == given("seen", layout.version.type)
        data = layout.seen_data
        seen = given("seen", data.type)
        if self._collates and isinstance(data.type, String):
            return _in_bytes(data) == _in_bytes(seen)
        return data == seen


class LockingStatements(Statements):
    """Statements for a transaction: what it has read nobody else changes before it ends."""

    def reading(self, found: Select[Any]) -> Select[Any]:
        return found.with_for_update()


_LEASE_NAME: Final = "sweep"

Given: TypeAlias = Callable[[str, TypeEngine[Any]], Any]
"""Where a statement finds a value: in a parameter of its own, or in a row of the batch's."""

# Types of which an array holds plain values: an array of arrays would be flattened.
_ARRAY_ITEMS: Final = (String, Integer, LargeBinary, DateTime, Numeric, Boolean, Uuid)


def _fits_arrays(kind: TypeEngine[Any]) -> bool:
    if isinstance(kind, _ARRAY_ITEMS):
        return not isinstance(kind, Enum)
    return getattr(kind, "fits_arrays", False)


def _in_bytes(text: Any) -> Any:
    """Text in MySQL as UTF-8: a column may have another character set than the connection."""
    return cast(cast(text, mysql.CHAR(charset="utf8mb4")), LargeBinary)


def _or_null(column: Column[Any], condition: Any) -> Any:
    """The condition, true as well where an app's column is NULL, if it may be that."""
    return or_(condition, column.is_(None)) if column.nullable else condition


def _size_for(rows: int) -> int:
    """A power of two: so a few statements do for batches of any size. What is more than there are
    rows, the last row fills.
    """
    return 1 << (rows - 1).bit_length()


def _is_any(column: Column[Any]) -> Any:
    return column == any_(_parameter("key", _Array(column.type)))


def _parameter(name: str, kind: TypeEngine[Any]) -> Any:
    return bindparam(f"p_{name}", type_=kind)


class _Rows:
    """Collects what a statement asks of each row of a batch, and makes a table of parameters of
    it: an array a column, or a parameter a value.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, TypeEngine[Any]] = {}

    def __call__(self, name: str, kind: TypeEngine[Any]) -> Any:
        self._kinds[name] = kind
        return _parameter(name, kind)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._kinds)

    def as_arrays(self) -> Any:
        arrays = [_parameter(name, _Array(kind)) for name, kind in self._kinds.items()]
        columns = [sqlalchemy.column(name, kind) for name, kind in self._kinds.items()]
        return func.unnest(*arrays).table_valued(*columns).render_derived(name="batch")

    def as_list(self, size: int) -> Any:
        rows = [
            select(*(self._typed(name, kind, n) for name, kind in self._kinds.items()))
            for n in range(size)
        ]
        return union_all(*rows).subquery("batch")

    def _typed(self, name: str, kind: TypeEngine[Any], row: int) -> Any:
        value = _parameter(f"{name}_{row}", kind)
        # MySQL would compare a moment that is not said to be one as text.
        return (cast(value, kind) if isinstance(kind, DateTime) else value).label(name)


class _Array(TypeDecorator[Any]):
    """An array of plain values. psycopg gets it as PostgreSQL's literal: it would write the same
    text itself, item by item, at several times the cost. asyncpg has a fast way of its own.
    """

    impl = postgresql.ARRAY
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        if dialect.driver.startswith("psycopg"):
            return _array_literal
        return super().bind_processor(dialect)


def _array_literal(values: Sequence[Any]) -> str:
    return "{" + ",".join(map(_array_item, values)) + "}"


def _array_item(value: Any) -> str:
    # https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
    if type(value) is str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bytes | bytearray | memoryview):
        return '"\\\\x' + bytes(value).hex() + '"'
    return "NULL" if value is None else _array_item(str.__str__(str(value)))


def _key_conversion(
    kind: TypeEngine[Any], rule: KeyRule
) -> tuple[Callable[[Key], Any], Callable[[Any], Key]]:
    if rule is PLAIN:
        return lambda key: key.decode("utf-8"), plain_key
    if _is_text(kind):
        return lambda key: key.hex(), lambda value: Key(bytes.fromhex(value))
    return lambda key: key, lambda value: Key(bytes(value))


def _data_conversion(
    kind: TypeEngine[Any],
) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    if _is_text(kind):
        return lambda data: data.decode("utf-8"), lambda value: value.encode("utf-8")
    return lambda data: data, lambda value: bytes(value)


def _is_text(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind.impl_instance if isinstance(kind, TypeDecorator) else kind, String)


def _keeps_zone(kind: TypeEngine[Any], dialect: Dialect) -> bool:
    if isinstance(kind, TypeDecorator):
        return True
    zoned = getattr(kind, "timezone", False)
    return bool(zoned) and dialect.name not in ("sqlite", "mysql", "mariadb")
