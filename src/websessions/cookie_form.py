"""How a document keeps its session's cookie: under `COOKIE_KEY`, in one form or another.

The form belongs to the codec, since both say what is in a row. `OwnForm` keeps only what a handler
gave the one session; `express.py` has the other.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from .codec import Codec
from .expiry import Lifetime
from .settings import COOKIE_KEY, CookieSettings

__all__ = ["OWN_FORM", "CookieForm", "Moment", "form_of"]


class Moment(NamedTuple):
    """When a session is written, and when it expires then."""

    now: datetime
    expires: datetime


class CookieForm(Protocol):
    """What a document has under `COOKIE_KEY`, and what that means."""

    def lifetime(self, kept: Any) -> Lifetime:
        """A cookie's own lifetime.

        Raises:
            ValueError: it is nothing that a session keeps there.
        """
        ...

    def changed(self, kept: Any, lifetime: Lifetime, *, is_default: bool) -> Any:
        """What is kept when a handler has set the lifetime; None for nothing."""
        ...

    def written(
        self,
        kept: Any,
        lifetime: Lifetime,
        moment: Moment,
        settings: CookieSettings,
        *,
        https: bool,
    ) -> Any:
        """What is kept by a write; with `OWN_FORM` it is always `kept` itself."""
        ...


class OwnForm:
    """`{"max_age": seconds}` or `{"expires": "2037-01-01T00:00:00+00:00"}`, or nothing at all
    where the lifetime is the one that the settings have.
    """

    def lifetime(self, kept: Any) -> Lifetime:
        match kept:
            case {"expires": str(moment)}:
                with suppress(ValueError):  # its message would quote what is stored
                    expires = datetime.fromisoformat(moment)
                    if expires.utcoffset() is not None:
                        return Lifetime(None, expires)
            case {"max_age": None}:
                return Lifetime(None, None)
            case {"max_age": int(seconds) | float(seconds)}:
                try:
                    return Lifetime(timedelta(seconds=seconds), None)
                except OverflowError:
                    pass
        raise ValueError(f"{COOKIE_KEY} is not what a session cookie stores")

    def changed(self, kept: Any, lifetime: Lifetime, *, is_default: bool) -> Any:
        if is_default:
            return None
        if lifetime.expires is not None:
            return {"expires": lifetime.expires.isoformat()}
        seconds = None if lifetime.max_age is None else lifetime.max_age.total_seconds()
        return {"max_age": int(seconds) if seconds is not None and seconds % 1 == 0 else seconds}

    def written(
        self,
        kept: Any,
        lifetime: Lifetime,
        moment: Moment,
        settings: CookieSettings,
        *,
        https: bool,
    ) -> Any:
        return kept


OWN_FORM: Final = OwnForm()


def form_of(codec: Codec) -> CookieForm:
    """The form that a codec's documents have; a codec that does not say has `OWN_FORM`."""
    form: CookieForm = getattr(codec, "cookie_form", OWN_FORM)
    return form
