"""websessions as it is shipped: signed cookie, hashed key, guarded writes, Vary."""

import os

from benchmarks.harness.data import SECRET
from benchmarks.harness.services import with_driver
from websessions.asgi import SessionMiddleware
from websessions.sql import AsyncSQLSessionStore

from .handler import DATABASE_URL, Started, handler

store = AsyncSQLSessionStore(with_driver(DATABASE_URL, os.environ.get("DRIVER", "")))
app = Started(SessionMiddleware(handler, store=store, secret=SECRET), store.sync, store.close)
