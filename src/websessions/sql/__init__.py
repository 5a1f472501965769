"""Sessions in a SQL database."""

from .stores import AsyncSQLSessionStore, SQLSessionStore

__all__ = ["AsyncSQLSessionStore", "SQLSessionStore"]
