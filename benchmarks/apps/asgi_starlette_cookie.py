"""Starlette's own sessions: the whole session travels in the cookie, signed and readable."""

from starlette.middleware.sessions import SessionMiddleware

from benchmarks.harness.data import SECRET

from .handler import Started, handler, nothing

app = Started(SessionMiddleware(handler, secret_key=SECRET), nothing, nothing)  # type: ignore[arg-type]
