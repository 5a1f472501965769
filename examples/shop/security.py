"""Forms that only our own pages can send, and who is logged in."""

import secrets
from datetime import UTC, datetime, timedelta

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from websessions import Session

REMEMBER_FOR = timedelta(days=30)
FORGET_AFTER = timedelta(hours=24)  # since the last visit, where nobody asked to be remembered


def csrf_token(session: Session) -> str:
    """The secret that each of our forms carries in a hidden field.

    It is made when the first form is shown, so a page without forms starts no session. SameSite=Lax
    already keeps other sites' forms from sending our cookie; the token also stops what is same-site
    but not ours (a sibling subdomain), and logins into somebody else's account.
    """
    if "csrf_token" not in session:
        session["csrf_token"] = secrets.token_urlsafe(32)
    token: str = session["csrf_token"]
    return token


async def checked_form(request: Request, session: Session) -> FormData:
    """The posted form, if it comes from one of our pages; else 403."""
    form = await request.form(max_files=0)
    sent, expected = form.get("csrf_token"), session.get("csrf_token")
    if not (
        isinstance(sent, str)
        and isinstance(expected, str)
        and secrets.compare_digest(sent.encode(), expected.encode())
    ):
        raise HTTPException(403, "This form is too old. Please go back, reload, try again.")
    return form


def log_in(session: Session, user_id: int, *, remember: bool) -> None:
    # A new session id at every login: who knew the old one (from a shared computer, say) gets
    # nothing. The data, and so the cart, moves along.
    session.regenerate(privilege=True)
    session.pop("csrf_token", None)
    session["user_id"] = user_id
    session["logged_in_at"] = datetime.now(UTC)
    # None: the cookie goes when the browser closes.
    session.cookie.max_age = REMEMBER_FOR if remember else None


def log_out(session: Session) -> None:
    # The row is deleted: the cookie is worthless from now on, even to somebody who copied it.
    session.destroy()
