"""Tables as other packages make them, as data: `TableFormat` and the three that Express apps use.

Each was read off the table, the rows and the statements of the real package: connect-session-
sequelize 7.1 and 8.0 on Sequelize 6, connect-pg-simple 10, express-mysql-session 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    cast,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from ..codec import Codec
from ..errors import ConfigurationError
from ..express import ExpressJSON
from ..sid import HASHED, PLAIN, KeyRule
from .table import Layout, MirrorFields, checked_mirrors

__all__ = [
    "CONNECT_PG_SIMPLE",
    "CONNECT_SESSION_SEQUELIZE",
    "EXPRESS_MYSQL_SESSION",
    "FormatColumn",
    "TableFormat",
]


@dataclass(frozen=True)
class FormatColumn:
    """A column: its name, its type, and in which type it is read where that is another one."""

    name: str
    type: TypeEngine[Any]
    nullable: bool = True
    read_as: TypeEngine[Any] | None = None
    index: str | None = None

    def column(self, *, primary_key: bool = False) -> Column[Any]:
        return Column(
            self.name,
            self.type,
            primary_key=primary_key,
            nullable=self.nullable and not primary_key,
        )

    def read(self, column: Column[Any]) -> Any:
        """What is selected, and compared with what was selected before."""
        return column if self.read_as is None else cast(column, self.read_as)


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """How another package lays its sessions out in a table.

    Attributes:
        package: whose it is.
        table_name: what that calls the table unless it is told otherwise.
        dialects: the databases it knows, by SQLAlchemy's names; none for all of them.
        sid, data, expires: the columns that every format has. A moment is rounded by its type.
        created_at, updated_at: the columns that some have. A touch writes `updated_at`, too.
        key_rule: what `sid` holds for a session id: `PLAIN` or `HASHED`.
        codec: what `data` holds, the cookie included.
        longest_data: bytes that fit `data`, by dialect, where that is less than a session may be.

    Raises:
        ConfigurationError: another `key_rule`.
    """

    package: str
    table_name: str
    dialects: tuple[str, ...] = ()
    sid: FormatColumn
    data: FormatColumn
    expires: FormatColumn
    created_at: FormatColumn | None = None
    updated_at: FormatColumn | None = None
    key_rule: KeyRule = PLAIN
    codec: Codec = field(default_factory=ExpressJSON)
    longest_data: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The statements convert these two. What another one makes would be stored as if hashed.
        if self.key_rule not in (PLAIN, HASHED):
            raise ConfigurationError(f"key_rule is PLAIN or HASHED, not {self.key_rule!r}")

    def table(
        self, metadata: MetaData, name: str, schema: str | None, columns: Sequence[Column[Any]]
    ) -> Table:
        """The table, with further columns of the app's. A second call returns the same one.

        Raises:
            ConfigurationError: the MetaData has another table of this name, or a column can not be
                in it.
        """
        there = metadata.tables.get(f"{schema}.{name}" if schema else name)
        if there is not None:
            if there.info.get("websessions_layout") == self.package:
                return there
            raise ConfigurationError(
                f"the MetaData has a table {name!r} already, and it is not laid out for"
                f" {self.package}; give this store another registry, or none"
            )
        taken = {part.name for part in self._parts}
        for column in columns:
            if column.name in taken or getattr(column, "table", None) is not None:
                raise ConfigurationError(
                    f"column {column.name!r} is there already, or was given to another store: make"
                    " one for each store"
                )
            taken.add(column.name)
        ours = [part.column(primary_key=part is self.sid) for part in self._parts]
        table = Table(
            name,
            metadata,
            *ours,
            *columns,
            schema=schema,
            info={"websessions_layout": self.package},
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
            mysql_collate="utf8mb4_bin",  # ids differ by their case
            mariadb_engine="InnoDB",
            mariadb_charset="utf8mb4",
            mariadb_collate="utf8mb4_bin",
        )
        for part in self._parts:
            if part.index is not None:
                Index(part.index.replace("{table}", name), table.c[part.name])
        return table

    def layout(self, table: Table, mirror_fields: MirrorFields | None) -> Layout:
        """Which of its columns is what."""
        c = table.c
        created, updated = (
            None if part is None else c[part.name] for part in (self.created_at, self.updated_at)
        )
        ours = frozenset(part.name for part in self._parts)
        return Layout(
            table=table,
            sid=c[self.sid.name],
            data=c[self.data.name],
            expires=c[self.expires.name],
            version=None,
            sweep_after=None,
            created_at=created,
            updated_at=updated,
            previous_key=None,
            previous_until=None,
            locked_by=None,
            locked_until=None,
            mirrors=checked_mirrors(table, mirror_fields, ours),
            lease=None,
            ours=ours,
            key_rule=self.key_rule,
            read_data=self.data.read(c[self.data.name]),
            read_expires=_Readable(self.expires.read(c[self.expires.name])),
            touched=updated,
        )

    def check_dialect(self, name: str) -> None:
        """Raises `ConfigurationError` for a database that the package does not know."""
        if self.dialects and name not in self.dialects:
            raise ConfigurationError(
                f"{self.package} keeps its sessions in {self.dialects[0]}, not in {name}"
            )

    @property
    def longest_sid(self) -> int | None:
        """How many characters of a session id fit the table; None where it has digests."""
        if self.key_rule is not PLAIN:
            return None
        length: int | None = getattr(self.sid.type, "length", None)
        return length

    @property
    def _parts(self) -> list[FormatColumn]:
        every = (self.sid, self.expires, self.data, self.created_at, self.updated_at)
        return [part for part in every if part is not None]


# -- Types ---------------------------------------------------------------------------------------


class _Readable(FunctionElement[Any]):
    """A moment as Python has it. PostgreSQL has later ones and earlier ones and "infinity", which
    no driver can read: a `maxAge` of 10,000 years is enough. psycopg reads them in the connection's
    zone, asyncpg in UTC, and all has to be within bounds in both.
    """

    inherit_cache = True

    def __init__(self, moment: Any) -> None:
        super().__init__(moment)
        self.type = moment.type


@compiles(_Readable)
def _compile_as_it_is(element: _Readable, compiler: Any, **kw: Any) -> str:
    (moment,) = element.clauses
    return str(compiler.process(moment, **kw))


@compiles(_Readable, "postgresql")
def _compile_within_bounds(element: _Readable, compiler: Any, **kw: Any) -> str:
    moment = _compile_as_it_is(element, compiler, **kw)
    last = "TIMESTAMPTZ '9999-12-31 23:59:59.999999"
    first = "TIMESTAMPTZ '0001-01-03 00:00:00+00'"
    return f"GREATEST(LEAST({moment}, {last}', {last}+00'), {first})"


class _WholeSeconds(mysql.DATETIME):
    """MySQL would round, so that a moment may lie ahead; Sequelize cuts off."""

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        return _without_fraction


def _without_fraction(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(microsecond=0)


class _SequelizeText(sqlite.DATETIME):
    """`2026-11-24 09:24:55.308 +00:00`: Sequelize compares it as text, so it has to be that."""

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        return _to_sequelize

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        return _from_sequelize


def _to_sequelize(value: datetime | None) -> str | None:
    return None if value is None else f"{value.isoformat(' ', 'milliseconds')} +00:00"


_SEQUELIZE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,6})?) ?(Z|[+-]\d\d:\d\d)?")


def _from_sequelize(value: str | None) -> datetime | None:
    """Also what other programs write there and Sequelize reads; without a zone it is UTC."""
    if value is None:
        return None
    found = _SEQUELIZE.fullmatch(value)
    if found is None:
        raise ValueError("not a moment as Sequelize writes it")
    day, time, zone = found.groups()
    moment = datetime.fromisoformat(f"{day} {time}{zone or 'Z'}")
    return moment.astimezone(UTC).replace(tzinfo=None)


class _SessionZone(DateTime):
    """PostgreSQL's `timestamp(6)` without a zone, which is given moments with one.

    It holds the wall clock of the connection's `TimeZone`, and PostgreSQL converts in both
    directions. So what a statement is given, and what it reads, are moments with a zone.
    """

    def __init__(self) -> None:
        super().__init__(timezone=True)


@compiles(_SessionZone)
def _compile_session_zone(type_: _SessionZone, compiler: Any, **kw: Any) -> str:
    return "TIMESTAMP(6)"


class _JSONAsText(UserDefinedType[Any]):
    """PostgreSQL's `json`, which keeps the text; no driver may parse it."""

    cache_ok = True
    fits_arrays = True

    def get_col_spec(self, **kw: Any) -> str:
        return "JSON"


class _EpochSeconds(TypeDecorator[datetime]):
    """Seconds since 1970 in an unsigned integer: what lasts longer ends in 2106, and what was over
    before 1970 in 1970.
    """

    impl = Integer
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return mysql.INTEGER(unsigned=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else min(max(int(value.timestamp()), 0), 2**32 - 1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)


_DATE: Final = (
    DateTime(timezone=True)
    .with_variant(_WholeSeconds(), "mysql", "mariadb")
    .with_variant(_SequelizeText(), "sqlite")  # type: ignore[no-untyped-call]
)
"""Sequelize's `DATE`."""


# -- The formats ---------------------------------------------------------------------------------

CONNECT_SESSION_SEQUELIZE: Final = TableFormat(
    package="connect-session-sequelize",
    table_name="Sessions",
    sid=FormatColumn("sid", String(36)),
    expires=FormatColumn("expires", _DATE),
    data=FormatColumn("data", Text()),
    created_at=FormatColumn("createdAt", _DATE, nullable=False),
    updated_at=FormatColumn("updatedAt", _DATE, nullable=False),
    longest_data={"mysql": 65_535, "mariadb": 65_535},
)
"""`Session` as Sequelize 6 makes and writes it."""

CONNECT_PG_SIMPLE: Final = TableFormat(
    package="connect-pg-simple",
    table_name="session",
    dialects=("postgresql",),
    sid=FormatColumn("sid", String()),
    expires=FormatColumn(
        "expire",
        _SessionZone(),
        nullable=False,
        read_as=DateTime(timezone=True),
        index="IDX_{table}_expire",
    ),
    data=FormatColumn("sess", _JSONAsText(), nullable=False, read_as=Text()),
)
"""Its `table.sql`."""

EXPRESS_MYSQL_SESSION: Final = TableFormat(
    package="express-mysql-session",
    table_name="sessions",
    dialects=("mysql", "mariadb"),
    sid=FormatColumn("session_id", String(128)),
    expires=FormatColumn("expires", _EpochSeconds(), nullable=False),
    data=FormatColumn("data", mysql.MEDIUMTEXT()),
)
"""Its `schema.sql`."""
