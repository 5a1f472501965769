"""What is done at the end of a request: one table.

Three facts decide. What row the request has: none yet, a live one, one that another request has
given a new id to meanwhile and that is still found by the old one, one that its cookie names but
that nobody read, or one that ended meanwhile. What the handler intends: to keep the session, to
give it a new id, to end it, or to have nothing of it saved. And whether there is something to
write. `saving` and `cookie_action` bring the options in; the table itself has none.
"""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Final

__all__ = [
    "OUTCOMES",
    "CookieAction",
    "Intent",
    "Row",
    "StoreAction",
    "cookie_action",
    "saving",
]


class _Fact(Enum):
    """A member equals itself alone, so its identity is its hash: `Enum` hashes names, in Python."""

    __hash__ = object.__hash__


class Row(_Fact):
    """The row behind this request's session."""

    UNBORN = "none yet"
    UNREAD = "named by the cookie, not read"
    LIVE = "read, live"
    GRACED = "read, by its previous id"
    ENDED = "ended by someone else meanwhile"

    @property
    def is_read(self) -> bool:
        """Whether the request has the record."""
        return self in (Row.LIVE, Row.GRACED)


class Intent(_Fact):
    """What the handler wants to become of the session."""

    KEEP = "keep"
    REGENERATE = "regenerate()"
    PRIVILEGE = "regenerate(privilege=True)"
    DESTROY = "destroy()"
    ABANDON = "unset"


class StoreAction(_Fact):
    """What the store is asked to do."""

    NOTHING = "nothing"
    INSERT = "insert"
    TOUCH = "touch, if due"
    REPLACE = "replace"
    MOVE = "replace, under the new key; the old one has its grace"
    PROMOTE = "replace, under the new key; the old one is dead"
    DELETE = "delete"
    RENEW = "delete, then insert under a new key"


class CookieAction(_Fact):
    """What the response says about the cookie."""

    NONE = "none"
    SET = "set"
    REFRESH = "set if rolling, or changed with a max_age"
    CLEAR = "clear"


def saving(
    row: Row, intent: Intent, *, changed: bool, save_uninitialized: bool, resave: bool
) -> bool:
    """Whether there is something to write: a change, or what the options count as one.

    The meaning of the options is express-session's: `save_uninitialized` stores a new session
    that nobody wrote to, `resave` writes a stored one that nobody changed. Whether a write can be
    made of it the table knows.
    """
    if changed:
        return True
    if intent is Intent.DESTROY:
        return False
    if row is Row.UNBORN:
        return save_uninitialized
    return resave


def _outcome(row: Row, intent: Intent, save: bool) -> tuple[StoreAction, CookieAction]:
    match row, intent, save:
        case _, Intent.ABANDON, _:
            return StoreAction.NOTHING, CookieAction.NONE
        case Row.UNBORN, _, False:
            return StoreAction.NOTHING, CookieAction.NONE
        case Row.UNBORN, _, True:
            return StoreAction.INSERT, CookieAction.SET
        # What ended stays ended, and its cookie is left alone: a parallel response may have
        # set a better one (a login in another tab), and clearing that would log out.
        case Row.ENDED, _, _:
            return StoreAction.NOTHING, CookieAction.NONE
        case _, Intent.DESTROY, False:
            return StoreAction.DELETE, CookieAction.CLEAR
        case _, Intent.DESTROY, True:
            return StoreAction.RENEW, CookieAction.SET
        case Row.UNREAD, _, _:
            return StoreAction.NOTHING, CookieAction.NONE
        case _, Intent.PRIVILEGE, _:
            return StoreAction.PROMOTE, CookieAction.SET
        # The request that gave it the new id sends that. This one does not know it, and the old
        # one, sent again, would overwrite it.
        case Row.GRACED, _, _:
            return StoreAction.REPLACE if save else StoreAction.TOUCH, CookieAction.NONE
        case _, Intent.REGENERATE, _:
            return StoreAction.MOVE, CookieAction.SET
        case Row.LIVE, Intent.KEEP, True:
            return StoreAction.REPLACE, CookieAction.REFRESH
        case _:
            return StoreAction.TOUCH, CookieAction.REFRESH


OUTCOMES: Final[dict[tuple[Row, Intent, bool], tuple[StoreAction, CookieAction]]] = {
    (row, intent, save): _outcome(row, intent, save)
    for row, intent, save in product(Row, Intent, (False, True))
}
"""(row, intent, something to write) -> (store action, cookie action), for every combination."""


def cookie_action(
    action: CookieAction, *, changed: bool, rolling: bool, persistent: bool
) -> CookieAction:
    """`REFRESH` made plain by the options; the others are what they are.

    A cookie that lasts as long as the browser needs no second setting. One with a `max_age` is
    set anew when the session changed, so that both expire together; `rolling` sets it always.
    """
    if action is not CookieAction.REFRESH:
        return action
    return CookieAction.SET if rolling or (persistent and changed) else CookieAction.NONE
