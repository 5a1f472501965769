"""Written by hand on sqlite3, called in the event loop's own thread: fast, until a lock or a slow
disk stops the whole process."""

import sqlite3

from .by_hand import INSERT, SELECT, UPDATE, ByHand
from .handler import DATABASE_URL, Started, handler

_WORDS = {"now": "unixepoch()", "later": "unixepoch() + 86400"}
_SELECT = SELECT.format("?1", **_WORDS)
_UPDATE = UPDATE.format("?1", "?2", **_WORDS)
_INSERT = INSERT.format("?1", "?2", **_WORDS)


class SQLite:
    connection: sqlite3.Connection

    async def open(self) -> None:
        path = DATABASE_URL.removeprefix("sqlite:///")
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=5)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute(
            "CREATE TABLE sessions (sid TEXT PRIMARY KEY, data TEXT NOT NULL,"
            " expires INTEGER NOT NULL) WITHOUT ROWID"
        )

    async def close(self) -> None:
        self.connection.close()

    async def select(self, sid: str) -> str | None:
        row = self.connection.execute(_SELECT, (sid,)).fetchone()
        return None if row is None else row[0]

    async def update(self, sid: str, data: str) -> None:
        self.connection.execute(_UPDATE, (sid, data))

    async def insert(self, sid: str, data: str) -> None:
        self.connection.execute(_INSERT, (sid, data))


storage = SQLite()
app = Started(ByHand(handler, storage), storage.open, storage.close)
