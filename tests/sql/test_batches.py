"""What may go into one statement for many sessions, and how it is written."""

from __future__ import annotations

import secrets
from enum import Enum as PythonEnum
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Enum, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.dialects import postgresql

from websessions.sql.statements import Statements, _array_literal
from websessions.sql.table import layout_of


class Colour(PythonEnum):
    RED = 1


def statements(*columns: Column[Any]) -> Statements:
    table = Table(
        "logins",
        MetaData(),
        Column("sid", LargeBinary(32), primary_key=True),
        Column("data", Text, nullable=False),
        Column("expires", DateTime(timezone=True), nullable=False),
        *columns,
    )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return Statements(layout_of(table, None, text=True), dialect)


@pytest.mark.parametrize(
    ("column", "taken"),
    [
        (Column("name", String(20)), True),
        (Column("name", String(20), default="fixed"), True),
        (Column("token", String(20), default=lambda: secrets.token_hex(8)), False),
        (Column("token", String(20), onupdate=lambda: secrets.token_hex(8)), False),
        (Column("colour", Enum(Colour)), False),
        (Column("names", postgresql.ARRAY(String)), False),
    ],
)
def test_rows_that_differ_in_more_than_what_is_sent_are_written_alone(
    column: Column[Any], taken: bool
) -> None:
    """A default that is a function is called once a statement, and each row wants its own."""
    assert statements(column).takes_batches is taken


class Hostile:
    def __str__(self) -> str:
        return 'x","admin'


@pytest.mark.parametrize(
    ("value", "item"),
    [
        ("plain", '"plain"'),
        ('a"b\\c,{}', '"a\\"b\\\\c,{}"'),
        ("NULL", '"NULL"'),
        (None, "NULL"),
        (b"\x00\xff", '"\\\\x00ff"'),
        (memoryview(b"ab"), '"\\\\x6162"'),
        (7, '"7"'),
        (Hostile(), '"x\\",\\"admin"'),
    ],
)
def test_an_item_of_an_array_is_quoted_whatever_it_is(value: object, item: str) -> None:
    assert _array_literal([value]) == "{" + item + "}"
