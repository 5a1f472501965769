"""Server-side web sessions in a SQL database, for every Python web framework, sync and async."""

from .codec import Codec, JSONCodec
from .direct import AsyncSessionStore, SessionStore
from .errors import (
    ConfigurationError,
    Conflict,
    CorruptRecord,
    SessionEncodingError,
    SessionError,
    SessionLocked,
    SessionNotLoaded,
    SessionTooLarge,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ValueRefused,
    WebSessionsError,
)
from .memory import AsyncMemoryStore, MemoryStore
from .session import Session, SessionCookie
from .settings import CookieSettings, FormerCookie, SessionSettings
from .sid import Sid

__all__ = [
    "AsyncMemoryStore",
    "AsyncSessionStore",
    "Codec",
    "ConfigurationError",
    "Conflict",
    "CookieSettings",
    "CorruptRecord",
    "FormerCookie",
    "JSONCodec",
    "MemoryStore",
    "Session",
    "SessionCookie",
    "SessionEncodingError",
    "SessionError",
    "SessionLocked",
    "SessionNotLoaded",
    "SessionSettings",
    "SessionStore",
    "SessionTooLarge",
    "Sid",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "ValueRefused",
    "WebSessionsError",
]
