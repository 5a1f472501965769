"""What a store call does on a connection: plain functions, the same ones for sync and async.

Each takes a cursor in autocommit mode and is one statement in the common case. A statement that
has to see what another one saw carries that in its WHERE clause, so none of them needs a
transaction, and none of them cares about the isolation level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

from ..errors import ConfigurationError, CorruptRecord
from ..sid import PLAIN, Key, shown
from ..store import (
    SWEEP_BATCH,
    Call,
    Clear,
    Count,
    Delete,
    Insert,
    Lease,
    Load,
    Lock,
    Put,
    Record,
    Replace,
    Scan,
    Sweep,
    Swept,
    Touch,
    Unlock,
)
from .statements import BatchStatement, Statement, Statements
from .table import Layout

__all__ = [
    "BATCHES",
    "OPERATIONS",
    "Cursor",
    "ExtendDefaultFields",
    "Table",
    "Unbatchable",
    "already_written",
    "key_is_taken",
]

ExtendDefaultFields: TypeAlias = Callable[[dict[str, Any], Mapping[str, Any]], Mapping[str, Any]]

_TICK: Final = timedelta(microseconds=1)

_UNREADABLE: Final = (ValueError, TypeError, AttributeError, OverflowError)
"""What a column's type raises for what it can not be."""


class Cursor(Protocol):
    """The part of a DBAPI cursor that is used (PEP 249)."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, operation: str, parameters: Any, /) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Sequence[Any]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Table:
    """A table with its statements, and what the app wants in its columns."""

    layout: Layout
    statements: Statements
    extend_default_fields: ExtendDefaultFields | None


def _execute(cursor: Cursor, statement: Statement, values: Mapping[str, Any]) -> None:
    cursor.execute(statement.text, statement.parameters(values))


def _record(table: Table, statement: Statement, row: Sequence[Any], key: Key | None) -> Record:
    """A row as a record.

    Raises:
        CorruptRecord: a column holds what its type can not be.
    """
    statements, layout = table.statements, table.layout
    try:
        stored, data, expires, *more = statement.row(row)
        version = None if layout.version is None else int(more.pop(0))
        return Record(
            statements.key_in(stored) if key is None else key,
            statements.data_in(data),
            _in_utc(expires),
            version,
            _in_utc(more[-1]) if more else None,
        )
    except _UNREADABLE as error:
        name = "unknown" if key is None else shown(key)
        raise CorruptRecord(name, f"a column is not what it should be: {error}") from error


def _in_utc(moment: datetime) -> datetime:
    """A moment out of a column, which is naive UTC where it has no zone."""
    zone = moment.tzinfo
    if zone is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if zone is None else moment.astimezone(UTC)


# One call each


def load(cursor: Cursor, table: Table, call: Load, now: datetime) -> Record | None:
    statements = table.statements
    statement = statements.load.one
    _execute(
        cursor, statement, {"p_key": statements.key_out(call.key), "p_now": statements.moment(now)}
    )
    row = cursor.fetchone()
    if row is not None:
        if table.layout.key_rule is PLAIN and statements.key_in(row[0]) != call.key:
            return None  # MySQL finds text whatever its case and the spaces behind it
        return _record(table, statement, row, call.key)
    found = _load_previous(cursor, table, [call.key], now).get(call.key)
    if isinstance(found, CorruptRecord):
        raise found
    return found


def _load_previous(
    cursor: Cursor, table: Table, keys: Sequence[Key], now: datetime
) -> dict[Key, Record | CorruptRecord]:
    """The records that had these keys until not long ago."""
    until, statements = table.layout.previous_until, table.statements
    if until is None or not keys:
        return {}
    statement, asked = statements.load_previous.many([statements.previous_out(key) for key in keys])
    moments = {"p_now": statements.moment(now), "p_graced": statements.moment(now, until)}
    _execute(cursor, statement, asked | moments)
    return _found(table, statement, cursor, lambda row: statements.previous_in(row[-2]))


def _found(
    table: Table, statement: Statement, cursor: Cursor, key_of: Callable[[Sequence[Any]], Key]
) -> dict[Key, Record | CorruptRecord]:
    found: dict[Key, Record | CorruptRecord] = {}
    for row in cursor.fetchall():
        try:
            found[key_of(row)] = _record(table, statement, row, table.statements.key_in(row[0]))
        except CorruptRecord as error:
            found[key_of(row)] = error
    return found


def insert(cursor: Cursor, table: Table, call: Insert, now: datetime) -> Record | None:
    values = new_row(table, call, now)
    _execute(cursor, table.statements.insert(values), named(values))
    return inserted(table, call)


def key_is_taken(cursor: Cursor, table: Table, key: Key) -> bool:
    """Why an insert violated a constraint: the key is there already, or it is another one."""
    _execute(cursor, table.statements.exists, {"p_key": table.statements.key_out(key)})
    return cursor.fetchone() is not None


def already_written(cursor: Cursor, table: Table, call: Call[Any], now: datetime) -> Record | None:
    """What an insert or a replace wrote whose answer was lost, and that now finds its work done."""
    if isinstance(call, Insert):
        key, version = call.key, _first_version(table)
    elif isinstance(call, Replace):
        key = call.new_key or call.seen.key
        version = None if call.seen.version is None else call.seen.version + 1
    else:
        return None
    there = load(cursor, table, Load(key), now)
    if there is None or (there.data, there.version) != (call.data, version):
        return None
    if isinstance(call, Replace) and call.new_key is None:
        return dataclasses.replace(there, grace_until=call.seen.grace_until)
    return there


def put(cursor: Cursor, table: Table, call: Put, now: datetime) -> None:
    values = new_row(table, call, now)
    statement = table.statements.put(values)
    parameters = {**named(values), "p_key": table.statements.key_out(call.key)}
    if statement is not None:
        _execute(cursor, statement, parameters)
    else:
        _execute(cursor, table.statements.overwrite, parameters)
        if cursor.rowcount == 0:
            _execute(cursor, table.statements.insert(values), parameters)


def replace(cursor: Cursor, table: Table, call: Replace, now: datetime) -> Record | None:
    statements = table.statements
    values = named(replacing(table, call, now)) | {"p_now": statements.moment(now)}
    if call.new_key is None:
        _execute(cursor, statements.replace, values)
    else:
        values |= named(moving(table, call, call.new_key))
        _execute(cursor, statements.move, values)
    return call.written() if cursor.rowcount > 0 else None


def touch(cursor: Cursor, table: Table, call: Touch, now: datetime) -> bool:
    statements = table.statements
    values = named(touching(table, call, now)) | {"p_now": statements.moment(now)}
    _execute(cursor, statements.touch if call.seen is None else statements.touch_seen, values)
    return cursor.rowcount > 0


def delete(cursor: Cursor, table: Table, call: Delete, now: datetime) -> bool:
    _execute(cursor, table.statements.delete, {"p_key": table.statements.key_out(call.key)})
    return cursor.rowcount > 0 or _delete_previous(cursor, table, call.key, now)


def _delete_previous(cursor: Cursor, table: Table, key: Key, now: datetime) -> bool:
    until, statements = table.layout.previous_until, table.statements
    if until is None:
        return False
    values = {"p_key": statements.previous_out(key), "p_graced": statements.moment(now, until)}
    _execute(cursor, statements.delete_previous, values)
    return cursor.rowcount > 0


def lock(cursor: Cursor, table: Table, call: Lock, now: datetime) -> bool:
    statements = table.statements
    _, until = statements.lock_columns
    values = {
        "p_key": statements.key_out(call.key),
        "p_now": statements.moment(now),
        "p_over": statements.moment(now, until),
        "p_holder": call.holder,
        "p_until": statements.moment(call.until, until),
    }
    _execute(cursor, statements.lock, values)
    return cursor.rowcount > 0


def unlock(cursor: Cursor, table: Table, call: Unlock, now: datetime) -> bool:
    values = {"p_key": table.statements.key_out(call.key), "p_holder": call.holder}
    _execute(cursor, table.statements.unlock, values)
    return cursor.rowcount > 0


# What a call sends, and what it is answered with: the same alone and in a batch


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of their parameters."""
    return {f"p_{name}": value for name, value in values.items()}


def inserted(table: Table, call: Insert) -> Record:
    return Record(call.key, call.data, call.expires, _first_version(table))


def replacing(table: Table, call: Replace, now: datetime) -> dict[str, Any]:
    return {
        "key": table.statements.key_out(call.seen.key),
        "seen": _guard(table, call.seen),
        **_written(table, call, now),
    }


def moving(table: Table, call: Replace, new_key: Key) -> dict[str, Any]:
    """The new key; and the old one where it has a grace, in the place of any before it."""
    statements, until = table.statements, table.layout.previous_until
    values: dict[str, Any] = {"new_key": _new_key(table, new_key)}
    if until is None:
        return values
    if call.grace_until is None:
        return {**values, "previous_key": None, "previous_until": None}
    return {
        **values,
        "previous_key": statements.previous_out(call.seen.key),
        "previous_until": statements.moment(call.grace_until, until),
    }


def touching(table: Table, call: Touch, now: datetime) -> dict[str, Any]:
    statements, touched = table.statements, table.layout.touched
    values = {
        "key": statements.key_out(call.key),
        table.layout.expires.key: statements.moment(call.expires),
        "ceiling": statements.moment(call.expires - max(call.slack, _TICK)),
    }
    if touched is not None:
        values[touched.key] = statements.moment(now, touched)
    return values if call.seen is None else {**values, "seen": _guard(table, call.seen)}


def _guard(table: Table, seen: Record) -> Any:
    """What has to be unchanged: the version, or the data where there is none."""
    return table.statements.data_out(seen.data) if table.layout.version is None else seen.version


# Many calls in one statement


def load_batch(
    cursor: Cursor, table: Table, calls: Sequence[Load], now: datetime
) -> list[Record | CorruptRecord | None]:
    statements = table.statements
    keys = {call.key for call in calls}
    statement, asked = statements.load.many([statements.key_out(key) for key in keys])
    _execute(cursor, statement, {**asked, "p_now": statements.moment(now)})
    found = _found(table, statement, cursor, lambda row: statements.key_in(row[0]))
    found |= _load_previous(cursor, table, [key for key in keys if key not in found], now)
    return [found.get(call.key) for call in calls]


def insert_batch(
    cursor: Cursor, table: Table, calls: Sequence[Insert], now: datetime
) -> list[Record | None]:
    rows = [new_row(table, call, now) for call in calls]
    if any(row.keys() != rows[0].keys() for row in rows):
        raise Unbatchable
    keys = _distinct([call.key for call in calls])
    won = _won(cursor, table, keys, table.statements.insert_batch(rows[0]), rows, now)
    return [
        inserted(table, call) if key in won else None for key, call in zip(keys, calls, strict=True)
    ]


def replace_batch(
    cursor: Cursor, table: Table, calls: Sequence[Replace], now: datetime
) -> list[Record | None]:
    if any(call.new_key is not None for call in calls):
        raise Unbatchable
    keys = _distinct([call.seen.key for call in calls])
    rows = _in_order([replacing(table, call, now) for call in calls])
    won = _won(cursor, table, keys, table.statements.replace_batch(len(rows)), rows, now)
    return [call.written() if key in won else None for key, call in zip(keys, calls, strict=True)]


def touch_batch(cursor: Cursor, table: Table, calls: Sequence[Touch], now: datetime) -> list[bool]:
    keys = _distinct([call.key for call in calls])
    statements = table.statements
    guarded = calls[0].seen is not None
    if any((call.seen is not None) is not guarded for call in calls):
        raise Unbatchable
    statement = statements.touch_seen_batch if guarded else statements.touch_batch
    rows = _in_order([touching(table, call, now) for call in calls])
    won = _won(cursor, table, keys, statement(len(rows)), rows, now)
    return [key in won for key in keys]


def delete_batch(
    cursor: Cursor, table: Table, calls: Sequence[Delete], now: datetime
) -> list[bool]:
    statements = table.statements
    keys = _distinct([call.key for call in calls])
    asked = sorted(map(statements.key_out, keys))
    _execute(cursor, statements.delete_batch, {"p_key": asked})
    won = {statements.key_in(row[0]) for row in cursor.fetchall()}
    return [key in won or _delete_previous(cursor, table, key, now) for key in keys]


class Unbatchable(Exception):
    """These calls do not fit one statement; they are performed one by one."""


def _distinct(keys: list[Key]) -> list[Key]:
    """The keys of a batch. Of two changes of one row a statement makes one, and says it of both."""
    if len(set(keys)) < len(keys):
        raise Unbatchable
    return keys


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same order in every process, against deadlocks."""
    return sorted(rows, key=itemgetter("key"))


def _won(
    cursor: Cursor,
    table: Table,
    keys: Sequence[Key],
    statement: BatchStatement,
    rows: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Collection[Key]:
    """Execute, and return the keys of the rows that it was true for.

    Raises:
        Unbatchable: there is no telling which ones; what was done has to be undone.
    """
    statements = table.statements
    _execute(cursor, statement, {**statement.values(rows), "p_now": statements.moment(now)})
    if statements.takes_arrays:
        return {statements.key_in(row[0]) for row in cursor.fetchall()}
    if cursor.rowcount != len(keys):
        raise Unbatchable
    return keys


# All records


def scan(cursor: Cursor, table: Table, call: Scan, now: datetime) -> list[Record]:
    """The next records; rows that are no records are passed over."""
    statements = table.statements
    after = statements.key_out(Key(b"") if call.after is None else call.after)
    records: list[Record] = []
    while (wanted := call.limit - len(records)) > 0:
        _execute(
            cursor,
            statements.scan,
            {"p_key": after, "p_now": statements.moment(now), "p_limit": wanted},
        )
        rows = cursor.fetchall()
        for row in rows:
            with suppress(CorruptRecord):
                records.append(_record(table, statements.scan, row, None))
        if len(rows) < wanted:
            break
        after = statements.scan.value(rows[-1], 0)
    return records


def count(cursor: Cursor, table: Table, call: Count, now: datetime) -> int:
    _execute(cursor, table.statements.count, {"p_now": table.statements.moment(now)})
    return int(cursor.fetchone()[0])


def clear(cursor: Cursor, table: Table, call: Clear, now: datetime) -> int:
    _execute(cursor, table.statements.clear, {})
    return cursor.rowcount


def sweep(cursor: Cursor, table: Table, call: Sweep, now: datetime) -> Swept:
    """Delete a batch of what has expired, by primary key; re-arm what was touched since."""
    statements = table.statements
    limit = min(call.limit, SWEEP_BATCH)
    look = statements.due if call.after is None else statements.due_after
    moment = statements.moment(now, table.layout.sweep_after)
    _execute(cursor, look, {"p_now": moment, "p_limit": limit, "p_after": call.after})
    due = cursor.fetchall()
    if not due:
        return Swept(0, False)
    # The same order in every process, against deadlocks.
    keys = statements.swept(sorted(look.value(row, 0) for row in due))
    _execute(cursor, statements.sweep, {**keys, "p_now": statements.moment(now)})
    deleted = handled = cursor.rowcount
    if deleted < len(due) and statements.rearm is not None:
        _execute(cursor, statements.rearm, {**keys, "p_now": statements.moment(now)})
        handled += cursor.rowcount
    moments = (_since(look, row) for row in reversed(due))
    reached = next((since for since in moments if since is not None), call.after)
    return Swept(deleted, len(due) == limit and handled > 0, reached)


def _since(look: Statement, row: Sequence[Any]) -> datetime | None:
    """Since when a row is due; None if it does not say. One odd row may not end all sweeping."""
    since: object = None
    with suppress(*_UNREADABLE):
        since = look.value(row, 1)
    return since if isinstance(since, datetime) else None  # MySQL's zero is text


def lease(cursor: Cursor, table: Table, call: Lease, now: datetime) -> datetime | None:
    """Take the sweeper's lease or go on with it; None, or when another one's ends."""
    statements = table.statements
    column = statements.lease_table.c.expires
    values = {
        "p_holder": call.holder,
        "p_now": statements.moment(now, column),
        "p_expires": statements.moment(call.expires, column),
        "p_latest": statements.moment(call.latest, column),
    }
    _execute(cursor, statements.lease, values)
    if cursor.rowcount > 0:
        return None
    _execute(cursor, statements.leased_until, {})
    row = cursor.fetchone()
    if row is not None:
        return _in_utc(statements.leased_until.row(row)[0])
    _execute(cursor, statements.first_lease, values)
    # Whoever is quicker takes it for as long.
    return None if cursor.rowcount > 0 else call.expires


def _first_version(table: Table) -> int | None:
    return None if table.layout.version is None else 1


def _written(table: Table, call: Insert | Put | Replace, now: datetime) -> dict[str, Any]:
    """The columns that every write of data writes."""
    layout, statements = table.layout, table.statements
    row = {
        layout.data.key: statements.data_out(call.data),
        layout.expires.key: statements.moment(call.expires),
        **{name: value_of(call.values) for name, value_of in layout.mirrors.items()},
    }
    if layout.updated_at is not None:
        row[layout.updated_at.key] = statements.moment(now, layout.updated_at)
    if layout.sweep_after is not None:
        row[layout.sweep_after.key] = statements.moment(call.expires, layout.sweep_after)
    return row


def new_row(table: Table, call: Insert | Put, now: datetime) -> dict[str, Any]:
    """The columns of a row that comes into being."""
    layout, statements = table.layout, table.statements
    row = _written(table, call, now)
    row[layout.sid.key] = _new_key(table, call.key)
    if layout.version is not None:
        row[layout.version.key] = _first_version(table)
    if layout.created_at is not None:
        row[layout.created_at.key] = statements.moment(now, layout.created_at)
    if table.extend_default_fields is not None:
        row = {**_extended(table, table.extend_default_fields, row, call.values), **row}
    return row


def _new_key(table: Table, key: Key) -> Any:
    """A key that comes into the table.

    Raises:
        ConfigurationError: it is longer than its column. MySQL outside of strict mode would cut it
            off, and so write another one's row.
    """
    column = table.layout.sid
    value = table.statements.key_out(key)
    longest: int | None = getattr(column.type, "length", None)
    if table.layout.key_rule is PLAIN and longest is not None and len(value) > longest:
        raise ConfigurationError(
            f"a session id of {len(value)} characters does not fit {column.table.fullname!r}:"
            f" {column.name} takes {longest}; if the column is wider, say so in the layout"
        )
    return value


def _extended(
    table: Table,
    extend: ExtendDefaultFields,
    row: Mapping[str, Any],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """The app's own columns of a new row.

    Raises:
        ConfigurationError: the app's function returned what can not be written.
    """
    layout = table.layout
    defaults = {"data": row[layout.data.key], "expires": row[layout.expires.key]}
    extended = extend(dict(defaults), dict(values))
    if not isinstance(extended, Mapping):
        raise ConfigurationError(
            "extend_default_fields has to return a dict of columns,"
            f" it returned {type(extended).__name__}"
        )
    for name, value in defaults.items():
        if name not in extended:
            raise ConfigurationError(f"extend_default_fields dropped {name!r}: return it as it was")
        if extended[name] != value:
            raise ConfigurationError(
                f"extend_default_fields changed {name!r}: it may only add columns"
            )
    own = {name: value for name, value in extended.items() if name not in defaults}
    unknown = sorted(set(own) - layout.own_columns, key=str)
    if unknown:
        raise ConfigurationError(
            f"extend_default_fields returned {', '.join(map(repr, unknown))};"
            f" the app's own columns of table {layout.table.fullname!r} are"
            f" {', '.join(sorted(layout.own_columns)) or 'none'}"
        )
    return own


Operation: TypeAlias = Callable[[Cursor, Table, Any, datetime], Any]
BatchOperation: TypeAlias = Callable[[Cursor, Table, Any, datetime], Sequence[Any]]

OPERATIONS: Final[Mapping[type[Call[Any]], Operation]] = {
    Load: load,
    Insert: insert,
    Put: put,
    Replace: replace,
    Touch: touch,
    Delete: delete,
    Lock: lock,
    Unlock: unlock,
    Scan: scan,
    Count: count,
    Clear: clear,
    Sweep: sweep,
    Lease: lease,
}
"""Which function performs which call."""

BATCHES: Final[Mapping[type[Call[Any]], BatchOperation]] = {
    Load: load_batch,
    Insert: insert_batch,
    Replace: replace_batch,
    Touch: touch_batch,
    Delete: delete_batch,
}
"""Which function performs several of a call in one statement, where the database can do that."""
