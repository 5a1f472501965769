"""The session of a Starlette or FastAPI request, with its type.

`request.session` is the very same object, but Starlette says that it is a dict.
"""

from __future__ import annotations

from typing import cast

from starlette.requests import HTTPConnection

from .session import Session

__all__ = ["get_session"]


def get_session(connection: HTTPConnection) -> Session:
    """The session of a request or WebSocket; as a FastAPI dependency, `Depends(get_session)`.

    >>> @app.post("/login")                                          # doctest: +SKIP
    ... def login(session: Annotated[Session, Depends(get_session)]):
    ...     session.regenerate()
    """
    return cast(Session, connection.session)
