"""What the applications of these tests have in common: their store, and these pages.

    GET  /                  the session, whether it is new, and who answered
    POST /login/NAME        a new session id, and who is logged in
    POST /cart/ITEM         one more of it: a change deep in the session
    POST /key/NAME          the name as a key of its own
    POST /meet/NAME         the same, after 8 requests in this process have read the session
    POST /logout            the end of the session

A process is configured by its environment, as servers configure their workers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import MutableMapping
from typing import Any

from websessions import Session

SECRET = "the secret of the applications that are served"
PARTY = 8
"""Requests that have to be under way at once for `/meet`."""

PATIENCE = 20.0
"""Seconds after which a request gives up waiting for the others."""


def store_options() -> dict[str, Any]:
    """The store's database, table and sweeper, for either kind of store."""
    environment = os.environ
    return {
        "db": environment["SERVERS_DATABASE"],
        "table_name": environment["SERVERS_TABLE"],
        "check_expiration_interval": float(environment["SERVERS_SWEEP_EVERY"]),
    }


def shown(session: Session) -> dict[str, Any]:
    return {
        "new": session.is_new,
        "session": dict(session),
        "pid": os.getpid(),
        "sweepers": [t.name for t in threading.enumerate()].count("websessions-sweeper"),
    }


def log_in(session: Session, name: str) -> None:
    session.regenerate(privilege=True)
    session["user_id"] = name


def put_into_cart(session: MutableMapping[str, Any], item: str) -> None:
    items = session.setdefault("cart", {"items": {}})["items"]
    items[item] = items.get(item, 0) + 1
