"""The pages of the site that histories are made on, the same for WSGI and ASGI.

GET  /                   what the session holds
GET  /count              how many sessions are live
POST /begin              a session, for a visitor who has none
POST /add/KEY            one more under the key; answers how many that are now. Under `total` all
                         are added up, whoever counts at the same time
POST /put/KEY/VALUE      the value under the key; answers true
POST /slow/KEY           the same, a while after the session was read
POST /regenerate         a new session id
POST /logout             the end of the session

Who has no session gets none by these, and the answer null. A process is configured by its
environment, as servers configure their workers.
"""

from __future__ import annotations

import os
from typing import Any, Final

from websessions import Session, resolvers
from websessions.resolvers import Resolver

__all__ = ["RESOLVERS", "SECRET", "SLOW", "bites", "page", "store_options"]

SECRET: Final = "the secret of the site that histories are made on"
RESOLVERS: Final[dict[str, Resolver]] = {"total": resolvers.add}
SLOW: Final = 0.02
"""Seconds between what a slow request reads and what it writes."""


def store_options() -> dict[str, Any]:
    return {
        "db": os.environ["HISTORIES_DATABASE"],
        "table_name": os.environ["HISTORIES_TABLE"],
        "check_expiration_interval": None,
    }


def bites() -> bool:
    """Whether this is the build that has to fail."""
    return os.environ.get("HISTORIES_LAST_WRITE_WINS") == "1"


def page(session: Session, path: list[str]) -> object:
    """What a page does; `/slow` and `/count` are the site's own."""
    if path != ["begin"] and "begun" not in session:
        return {} if path == [""] else None
    match path:
        case ["begin"]:
            session["begun"] = "yes"
        case ["add", key]:
            session[key] = session.get(key, 0) + 1
            return session[key]
        case ["put" | "slow", key, *value]:
            session[key] = value[0] if value else "late"
            return True
        case ["regenerate"]:
            session.regenerate()
        case ["logout"]:
            session.destroy()
        case _:
            return dict(session)
    return None
