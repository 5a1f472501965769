"""Promise 5: someone who reads the table can not use what they find as a cookie."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, select, text

from tests.adapters.kit import SECRET, Site
from tests.fixtures.services import Services
from tests.promises.conftest import OpenSite
from websessions import Sid
from websessions.cookie import SignedValue
from websessions.sql import SQLSessionStore

SYNC = {"sqlite-wsgi": "sqlite", "psycopg-wsgi": "psycopg", "pymysql-wsgi": "pymysql"}


def spellings(value: object) -> Iterator[str]:
    """The ways in which a thief may write what was found in a column."""
    if isinstance(value, memoryview):
        value = bytes(value)
    if isinstance(value, bytes):
        yield value.hex()
        yield base64.urlsafe_b64encode(value).decode().rstrip("=")
        yield base64.b64encode(value).decode()
        yield value.decode("latin-1")
    else:
        yield str(value)


def forgeries(value: str) -> Iterator[str]:
    """What a thief may try with it, the last of them in possession of the secret."""
    yield value
    yield f"{value}.{value}"
    yield SignedValue("sid", [SECRET.encode()]).sign(Sid(value))


def dump(site: Site, url: str) -> list[tuple[Any, ...]]:
    """Every column of every row, as whoever stole a backup has it."""
    store = site._direct
    assert isinstance(store, SQLSessionStore)
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(select(store.table))]
        raw = connection.execute(text(f"SELECT * FROM {store.table.name}"))
        found += [tuple(row) for row in raw]
    engine.dispose()
    return found


@pytest.mark.parametrize("way", SYNC)
async def test_nothing_in_the_table_is_a_cookie(
    open_site: OpenSite, services: Services, way: str
) -> None:
    """Not as it is, and not even for a thief who has the secret as well."""
    url = services.url(SYNC[way])
    site = await open_site(way, url)
    victim = site.browser()
    await victim.visit(lambda session: session.update(user_id=7))
    # With all that a row can hold, a previous key in its grace included.
    await victim.visit(lambda session: session.regenerate())
    rows = dump(site, url)
    assert len(rows) == 2
    thief = site.browser()
    found = {spelling for row in rows for value in row for spelling in spellings(value)}
    # A header holds no more than this; what can not be sent is no cookie.
    sendable = [cookie for value in found for cookie in forgeries(value) if cookie.isascii()]
    sendable = [cookie for cookie in sendable if cookie.isprintable()]
    assert len(sendable) > 10
    for cookie in sendable:
        visit = await thief.visit(dict, sending={"cookie": f"sid={cookie}"})
        assert visit.result == {}
    assert await victim.read() == {"user_id": 7}


async def test_the_id_is_nowhere_in_the_database(open_site: OpenSite, services: Services) -> None:
    """Neither in its files nor in its journal."""
    url = services.url("sqlite")
    site = await open_site("sqlite-wsgi", url)
    browser = site.browser()
    await browser.visit(lambda session: session.update(user_id="somebody"))
    await browser.visit(lambda session: session.regenerate())
    path = Path(make_url(url).database or "")
    content = b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))
    assert b"somebody" in content
    assert browser.sid.encode() not in content
    assert base64.urlsafe_b64decode(browser.sid + "=") not in content
