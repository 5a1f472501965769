"""The table: the one that is generated, or the app's own, and which of its columns mean what.

`sid`, `expires` and `data` are required. Each further column is an ability: `version` guards
writes by a number instead of by the data, `sweep_after` makes sweeping cheap, `previous_key` and
`previous_until` give a session id that was replaced its grace, `locked_by` and `locked_until` are
a session's lock, `created_at` and `updated_at` are kept, anything else is the app's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    DateTime,
    Enum,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..errors import ConfigurationError
from ..sid import HASHED, KeyRule

__all__ = [
    "Layout",
    "MirrorFields",
    "Registry",
    "checked_mirrors",
    "generated_table",
    "layout_of",
    "mapped_class",
    "metadata_of",
    "resolve_table",
    "table_name_for",
]

Registry: TypeAlias = Any
"""A `MetaData`, an `orm.registry`, or a `DeclarativeBase` class."""

MirrorFields: TypeAlias = Mapping[str, "str | Callable[[Mapping[str, Any]], Any]"]

_OURS = frozenset(
    {
        *("sid", "data", "expires", "version", "sweep_after", "created_at", "updated_at"),
        *("previous_key", "previous_until", "locked_by", "locked_until"),
    }
)


# Room in each page for the next version of a touched row: without it, updates can not be HOT.
_FILLFACTOR: dict[str, Any] = {"postgresql_with": {"fillfactor": 80}}
# SQLAlchemy 2.1 knows the option, 2.0 does not.
_TAKES_WITH = "with" in dict(postgresql.dialect.construct_arguments or ()).get(Table, {})


@dataclass(frozen=True)
class Layout:
    """Which column of a table is what; None for an ability that the table does not have."""

    table: Table
    sid: Column[Any]
    data: Column[Any]
    expires: Column[Any]
    version: Column[Any] | None
    sweep_after: Column[Any] | None
    created_at: Column[Any] | None
    updated_at: Column[Any] | None
    previous_key: Column[Any] | None
    previous_until: Column[Any] | None
    locked_by: Column[Any] | None
    locked_until: Column[Any] | None
    mirrors: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    lease: Table | None
    """The table of the sweeper's lease, a row of `name`, `holder` and `expires`."""
    ours: frozenset[str] = _OURS
    """The names of the columns that the app does not fill."""
    key_rule: KeyRule = HASHED
    """What `sid` holds for a session id."""
    read_data: Any = None
    """What is selected of `data`, and compared with what was read: the column itself, or None."""
    read_expires: Any = None
    """The same of `expires`."""
    touched: Column[Any] | None = None
    """A column that a touch sets to the present."""

    @property
    def own_columns(self) -> frozenset[str]:
        """The names of the columns that the app fills and this package does not."""
        return frozenset(self.table.c.keys()) - self.ours

    @property
    def seen_data(self) -> Any:
        return self.data if self.read_data is None else self.read_data

    @property
    def seen_expires(self) -> Any:
        return self.expires if self.read_expires is None else self.read_expires


def table_name_for(model_key: str) -> str:
    """The name of the generated table: the class's name in snake case, with an `s`.

    >>> table_name_for("WebSession")
    'web_sessions'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", model_key).lower() + "s"


def generated_table(metadata: MetaData, name: str, schema: str | None, *, text: bool) -> Table:
    """The table that is made where the app brings none. A second call returns the same one.

    Its column types are plain ones, so that a migration needs no import from this package; times
    are UTC, naive where the database has no type with a zone.
    """
    there = metadata.tables.get(_full(schema, name))
    if there is not None:
        if there.info.get("websessions"):
            return there
        raise ConfigurationError(
            f"the MetaData has a table {name!r} already, and it is not a generated one;"
            f" pass table={name!r} to use it or table_name=... to name the generated one"
        )
    moment = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    key = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
    data: TypeEngine[Any]
    if text:
        # MySQL's TEXT ends at 64 KiB.
        data = Text().with_variant(
            mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"),
            "mysql",
            "mariadb",
        )
    else:
        data = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    table = Table(
        name,
        metadata,
        Column("sid", key, primary_key=True),
        Column("data", data, nullable=False),
        Column("expires", moment, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("created_at", moment, nullable=False),
        Column("updated_at", moment, nullable=False),
        Column("user_id", String(255), nullable=True),
        Column("sweep_after", moment, nullable=False),
        Column("previous_key", key, nullable=True),
        Column("previous_until", moment, nullable=True),
        Column("locked_by", String(32), nullable=True),
        Column("locked_until", moment, nullable=True),
        # No index on expires: every touch writes it, and an index on it would cost PostgreSQL its
        # HOT updates. sweep_after is the coarse lower bound that the sweeper looks through.
        Index(f"ix_{name}_sweep_after", "sweep_after"),
        Index(f"ix_{name}_user_id", "user_id"),
        # Most rows have none, and are not in it where an index can leave rows out.
        Index(
            f"ix_{name}_previous_key",
            "previous_key",
            postgresql_where=sql("previous_key IS NOT NULL"),
            sqlite_where=sql("previous_key IS NOT NULL"),
        ),
        schema=schema,
        info={"websessions": True},
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
        **(_FILLFACTOR if _TAKES_WITH else {}),
    )
    if metadata.tables.get(_full(schema, _lease_name(name))) is None:
        Table(
            _lease_name(name),
            metadata,
            Column("name", String(64), primary_key=True),
            Column("holder", String(64), nullable=False),
            Column("expires", moment, nullable=False),
            schema=schema,
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
            mariadb_engine="InnoDB",
            mariadb_charset="utf8mb4",
        )
    if not _TAKES_WITH:
        fill = DDL("ALTER TABLE %(fullname)s SET (fillfactor = 80)")  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", fill.execute_if(dialect="postgresql"))
    return table


def _full(schema: str | None, name: str) -> str:
    return f"{schema}.{name}" if schema else name


def _lease_name(name: str) -> str:
    return f"{name}_lease"


def _lease_of(table: Table) -> Table | None:
    """The lease's table beside a table of sessions, if its columns are there and can do it."""
    lease = table.metadata.tables.get(_full(table.schema, _lease_name(table.name)))
    kinds = {"name": String, "holder": String, "expires": DateTime}
    if lease is None or any(_optional(lease, name, kind) is None for name, kind in kinds.items()):
        return None
    return lease if _is_unique(lease.c.name) else None


def metadata_of(registry: Registry) -> MetaData:
    """The MetaData of what the app passed as `registry`.

    Raises:
        ConfigurationError: it is nothing that has one.
    """
    if registry is None:
        return MetaData()
    metadata = registry if isinstance(registry, MetaData) else getattr(registry, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise ConfigurationError(
            "registry takes a MetaData, an orm.registry or a DeclarativeBase class,"
            f" not {registry!r}"
        )
    return metadata


def resolve_table(table: Any, registry: Registry) -> tuple[Table, type | None]:
    """The app's own table, and its mapped class where it has one.

    Args:
        table: a `Table`, a mapped class, or the name of one.
        registry: where names are looked up.

    Raises:
        ConfigurationError: there is no such table; the message says where it was looked for.
    """
    if isinstance(table, Table):
        return table, None
    if isinstance(table, type):
        mapped = getattr(table, "__table__", None)
        if not isinstance(mapped, Table):
            raise ConfigurationError(f"{table.__name__} is not a mapped class with a table")
        return mapped, table
    if not isinstance(table, str):
        raise ConfigurationError(
            f"table takes a Table, a mapped class or the name of one, not {table!r}"
        )
    if registry is None:
        raise ConfigurationError(
            f"table={table!r} is a name: pass registry=... (a MetaData, an orm.registry or a"
            " DeclarativeBase) to look it up in, or pass the Table or class itself"
        )
    metadata = metadata_of(registry)
    classes = {mapper.class_.__name__: mapper.class_ for mapper in _mappers(registry)}
    if table in classes:
        return resolve_table(classes[table], None)
    if table in metadata.tables:
        return metadata.tables[table], None
    known = sorted({*classes, *metadata.tables})
    raise ConfigurationError(
        f"there is no mapped class or table named {table!r} in the registry;"
        f" it has {', '.join(known) if known else 'none at all'}"
    )


def _mappers(registry: Registry) -> Any:
    registry = getattr(registry, "registry", registry)
    return getattr(registry, "mappers", ())


def mapped_class(name: str, table: Table, registry: Registry) -> type[Any]:
    """The class that maps `table` for the ORM, made unless the registry has one for it."""
    from sqlalchemy import orm  # costs as much as all else, and few apps map the table

    mappers = getattr(registry, "registry", registry)
    if not isinstance(mappers, orm.registry):
        mappers = orm.registry(metadata=table.metadata)
    for mapper in mappers.mappers:
        if mapper.local_table is table:
            return mapper.class_
    if isinstance(registry, type) and not _brings_columns(registry):
        return type(name, (registry,), {"__table__": table, "__module__": __name__})
    made = type(name, (), {"__module__": __name__})
    mappers.map_imperatively(made, table)
    return made


def _brings_columns(base: type) -> bool:
    """Whether a declarative base gives its children columns or fields, which a class of a table
    that is there already can not take.
    """
    from sqlalchemy import orm

    if issubclass(base, orm.MappedAsDataclass):
        return True
    for parent in base.__mro__:
        if parent.__module__.startswith("sqlalchemy."):
            continue
        own = vars(parent)
        if any("Mapped[" in str(kind) for kind in own.get("__annotations__", {}).values()):
            return True
        for name, value in own.items():
            directive = name.startswith("__") or not isinstance(value, orm.declared_attr)
            if isinstance(value, Column | orm.MappedColumn) or not directive:
                return True
    return False


def _check_key(column: Column[Any], where: str) -> None:
    kind = _plain(column.type)
    if isinstance(kind, String):
        if kind.length is not None and kind.length < 64:
            raise ConfigurationError(
                f"{where}: {column.key} takes {kind.length} characters, the digest of a session id"
                " as text takes 64; make it a String(64) or a LargeBinary(32)"
            )
    elif not _is_binary(kind):
        raise ConfigurationError(
            f"{where}: {column.key} has to be a String(64) or a LargeBinary(32), not"
            f" {column.type!r}"
        )


def _previous(table: Table, where: str) -> tuple[Column[Any] | None, Column[Any] | None]:
    """The columns of the previous key and its grace, if the table has both.

    Raises:
        ConfigurationError: they can not do their work.
    """
    key, until = table.c.get("previous_key"), table.c.get("previous_until")
    if key is None or until is None:
        return None, None
    _check_key(key, where)
    if not isinstance(_plain(until.type), DateTime):
        raise ConfigurationError(
            f"{where}: previous_until has to be a DateTime, not {until.type!r}"
        )
    if not (key.nullable and until.nullable):
        raise ConfigurationError(
            f"{where}: previous_key and previous_until have to be nullable: most sessions have none"
        )
    indexed = [next(iter(index.columns), None) for index in table.indexes]
    if key not in indexed and not _is_unique(key):
        raise ConfigurationError(
            f"{where}: previous_key needs an index: each cookie that finds no session is looked"
            " for there"
        )
    return key, until


def _lock(table: Table, where: str) -> tuple[Column[Any] | None, Column[Any] | None]:
    """The columns of a session's lock: who holds it, and until when; if the table has both.

    Raises:
        ConfigurationError: they can not do their work.
    """
    holder, until = table.c.get("locked_by"), table.c.get("locked_until")
    if holder is None or until is None:
        return None, None
    kind = _plain(holder.type)
    if not isinstance(kind, String) or isinstance(kind, Enum) or (kind.length or 32) < 32:
        raise ConfigurationError(f"{where}: locked_by has to be a String(32), not {holder.type!r}")
    if not isinstance(_plain(until.type), DateTime):
        raise ConfigurationError(f"{where}: locked_until has to be a DateTime, not {until.type!r}")
    if not (holder.nullable and until.nullable):
        raise ConfigurationError(
            f"{where}: locked_by and locked_until have to be nullable: hardly a session is locked"
        )
    return holder, until


def layout_of(table: Table, mirror_fields: MirrorFields | None, *, text: bool) -> Layout:
    """Find the columns by their names and check that they can do their work.

    Raises:
        ConfigurationError: a required column is missing, has a type that can not work, or
            `mirror_fields` names a column that is not there.
    """
    where = f"table {table.fullname!r}"
    missing = [name for name in ("sid", "expires", "data") if name not in table.c]
    if missing:
        raise ConfigurationError(
            f"{where} has no column named {' and none named '.join(missing)};"
            f" its columns are {', '.join(table.c.keys())}"
        )
    sid, expires, data = table.c.sid, table.c.expires, table.c.data
    if not _is_unique(sid):
        raise ConfigurationError(f"{where}: sid has to be the primary key, or unique")
    _check_key(sid, where)
    if not isinstance(_plain(expires.type), DateTime):
        raise ConfigurationError(f"{where}: expires has to be a DateTime, not {expires.type!r}")
    data_type = _plain(data.type)
    if not isinstance(data_type, String) and not _is_binary(data_type):
        raise ConfigurationError(
            f"{where}: data has to be a text or a binary column, not {data.type!r}; the bytes that"
            " were read are what a write is guarded by, and a JSON type does not keep them"
        )
    if isinstance(data_type, String) and not text:
        raise ConfigurationError(
            f"{where}: data is a text column, and the codec makes binary data; use LargeBinary"
        )
    previous_key, previous_until = _previous(table, where)
    locked_by, locked_until = _lock(table, where)
    return Layout(
        table=table,
        sid=sid,
        data=data,
        expires=expires,
        version=_optional(table, "version", Integer),
        sweep_after=_optional(table, "sweep_after", DateTime),
        created_at=_optional(table, "created_at", DateTime),
        updated_at=_optional(table, "updated_at", DateTime),
        previous_key=previous_key,
        previous_until=previous_until,
        locked_by=locked_by,
        locked_until=locked_until,
        mirrors=checked_mirrors(table, mirror_fields, _OURS),
        lease=_lease_of(table),
    )


def checked_mirrors(
    table: Table, mirror_fields: MirrorFields | None, ours: frozenset[str]
) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """The option `mirror_fields` as a function a column.

    Raises:
        ConfigurationError: it names a column that is not there, or one of `ours`.
    """
    where = f"table {table.fullname!r}"
    if not isinstance(mirror_fields, Mapping | None):
        raise ConfigurationError(
            "mirror_fields is a dict, of a column to a key of the session or to a function,"
            f" not {mirror_fields!r}"
        )
    for name, source in (mirror_fields or {}).items():
        if not isinstance(source, str) and not callable(source):
            raise ConfigurationError(
                f"mirror_fields: column {name!r} follows a key of the session or a function of"
                f" it, not {source!r}"
            )
        if name not in table.c:
            raise ConfigurationError(
                f"mirror_fields: {where} has no column {name!r};"
                f" its columns are {', '.join(table.c.keys())}"
            )
        if name in ours:
            raise ConfigurationError(f"mirror_fields can not write {name!r}: the store does")
    return {name: _mirror(source, table.c[name]) for name, source in (mirror_fields or {}).items()}


def _mirror(
    source: str | Callable[[Mapping[str, Any]], Any], column: Column[Any]
) -> Callable[[Mapping[str, Any]], Any]:
    """What a column mirrors, as text where the column is text: ids are often numbers or UUIDs,
    which some drivers put into a text column by themselves and others refuse.
    """
    value_of = source if callable(source) else partial(_value, source)
    kind = _plain(column.type)
    if isinstance(kind, String) and not isinstance(kind, Enum):
        return partial(_text, value_of)
    return value_of


def _value(key: str, values: Mapping[str, Any]) -> Any:
    return values.get(key)


def _text(value_of: Callable[[Mapping[str, Any]], Any], values: Mapping[str, Any]) -> str | None:
    value = value_of(values)
    return value if value is None or isinstance(value, str) else str(value)


def _optional(table: Table, name: str, kind: type[TypeEngine[Any]]) -> Column[Any] | None:
    column = table.c.get(name)
    return column if column is not None and isinstance(_plain(column.type), kind) else None


def _plain(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind


def _is_binary(kind: TypeEngine[Any]) -> bool:
    try:
        return kind.python_type is bytes
    except NotImplementedError:
        return False


def _is_unique(column: Column[Any]) -> bool:
    table = column.table
    assert isinstance(table, Table)
    sets = [tuple(table.primary_key.columns)]
    sets += [tuple(c.columns) for c in table.constraints if isinstance(c, UniqueConstraint)]
    sets += [tuple(index.columns) for index in table.indexes if index.unique]
    return bool(column.unique) or (column,) in sets
