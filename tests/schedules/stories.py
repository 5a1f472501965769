"""What overlaps: a few requests of one session, and what may happen beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeAlias

from websessions import Conflict, SessionLocked
from websessions.testing.requests import (
    Script,
    fail,
    locked,
    login,
    logout,
    read,
    regenerate,
    reload,
    remove,
    request,
    respond,
    save,
    sweep,
    time_passes,
    touch,
    write,
)

__all__ = ["STORIES", "Story"]

Parties: TypeAlias = Mapping[str, Script | Sequence[Script]]

ALMOST_A_DAY: Final = timedelta(hours=23)
TWO_HOURS: Final = timedelta(hours=2)
"""Together: an unused session has expired, and one that was used in between has not."""

EXPIRY: Final = [time_passes(ALMOST_A_DAY), time_passes(TWO_HOURS)]


@dataclass(frozen=True)
class Story:
    """Parties, and what there is when they arrive.

    Attributes:
        parties: who does what.
        options: of `explore`.
        locks: whether it needs a store that can lock.
    """

    parties: Parties
    options: dict[str, Any] = field(default_factory=dict)
    locks: bool = False

    @property
    def is_long(self) -> bool:
        """Whether there are too many schedules to try all of them with every database."""
        return len(self.parties) > 2


STORIES: Final[dict[str, Story]] = {
    "two write": Story({"A": request(write("a")), "B": request(write("b"))}),
    "two write one key": Story({"A": request(write("k")), "B": request(write("k"), write("b"))}),
    "write and remove": Story({"A": request(write("kept")), "B": request(remove("kept"))}),
    "read twice and write": Story({"A": request(read, reload), "B": request(write("b"))}),
    "save in between": Story(
        {"A": request(write("a"), save, write("b")), "B": request(write("c"))}
    ),
    "write and fail": Story({"A": request(write("a"), fail), "B": request(write("b"))}),
    "write and log out": Story({"A": request(write("a")), "B": request(logout)}),
    "write late and log out": Story(
        {"A": request(write("a"), respond, write("b")), "B": request(read, logout)}
    ),
    "log out twice": Story({"A": request(logout), "B": request(read, logout)}),
    "log out with a message": Story(
        {"A": request(logout, write("bye")), "B": request(write("b"), save, write("c"))}
    ),
    "log in and write": Story({"A": request(login("ada")), "B": request(write("b"))}),
    "log in and take over": Story(
        {"A": request(login("ada"), may_raise=Conflict), "B": request(write("user_id"))}
    ),
    "log in twice": Story({"A": request(login("ada")), "B": request(login("bob"))}),
    "log in and out": Story({"A": request(login("ada")), "B": request(read, logout)}),
    "log in, go on, log out": Story(
        {"A": [request(login("ada")), request(write("a")), request(logout)], "B": request(touch)}
    ),
    "regenerate and write": Story(
        {"A": request(regenerate(), write("a")), "B": request(write("b"))}
    ),
    "regenerate twice": Story(
        {"A": request(regenerate(), write("a")), "B": request(regenerate(), write("b"))}
    ),
    "regenerate and log out": Story({"A": request(regenerate()), "B": request(read, logout)}),
    "regenerate and write for a while": Story(
        {
            "A": request(regenerate()),
            "B": request(write("a"), save, write("b")),
            "C": time_passes(timedelta(seconds=10)),
        }
    ),
    "regenerate and forget": Story(
        {"A": request(regenerate(keep_data=False), write("a")), "B": request(write("b"))}
    ),
    "touch and write": Story(
        {"A": request(touch), "B": request(write("b")), "C": time_passes(ALMOST_A_DAY)},
        {"touch_after": 0},
    ),
    "touch and log out": Story(
        {"A": request(touch), "B": request(logout), "C": time_passes(ALMOST_A_DAY)},
    ),
    "expire": Story({"A": request(write("a"), save, write("b")), "C": EXPIRY, "S": sweep()}),
    "expire while touched": Story(
        {"A": request(touch), "C": EXPIRY, "S": sweep()},
        {"touch_after": 0},
    ),
    "expire while logged in": Story(
        {"A": [request(login("ada")), request(read)], "C": EXPIRY, "S": sweep()}
    ),
    "sweep what is used": Story(
        {"A": request(write("a")), "C": time_passes(ALMOST_A_DAY), "S": [sweep(), sweep()]}
    ),
    "two visitors": Story(
        {
            "A": [request(write("k"), visitor="ada"), request(logout, visitor="ada")],
            "B": [request(write("k"), visitor="bob"), request(read, visitor="bob")],
        },
        {"sessions": {"ada": {"user_id": "ada"}, "bob": {"user_id": "bob"}}},
    ),
    "two new visitors": Story(
        {
            "A": [request(write("a"), visitor=None), request(read, visitor=None)],
            "B": [request(write("b"), visitor=None), request(regenerate(), visitor=None)],
        },
    ),
    # No conflict where everybody locks; and where not everybody does, nothing is lost.
    "lock twice": Story(
        {name: request(read, locked(write("k")), may_raise=SessionLocked) for name in "AB"},
        {"settings": {"on_conflict": "error"}},
        locks=True,
    ),
    "lock and write": Story(
        {"A": request(write("a"), locked(write("k"))), "B": request(write("b"), write("k"))},
        locks=True,
    ),
    "lock and log out": Story(
        {"A": request(locked(write("a"))), "B": request(read, logout)}, locks=True
    ),
    "lock and regenerate": Story(
        {"A": request(locked(write("a"), regenerate())), "B": request(regenerate(), write("b"))},
        locks=True,
    ),
    "lock and fail": Story(
        {"A": request(write("a"), locked(write("k"), fail)), "B": request(write("b"))},
        locks=True,
    ),
    "three visitors": Story(
        {name: request(write("k"), visitor=name) for name in ("ada", "bob", "cem")},
        {"sessions": {name: {"user_id": name} for name in ("ada", "bob", "cem")}},
    ),
    "three write": Story(
        {"A": request(write("a")), "B": request(write("b")), "C": request(write("a"))}
    ),
    "two write and one logs out": Story(
        {"A": request(write("a")), "B": request(write("b")), "C": request(logout)}
    ),
    "two write and one logs in": Story(
        {"A": request(write("a")), "B": request(write("b")), "C": request(login("ada"))}
    ),
    "write, log in, log out": Story(
        {"A": request(write("a")), "B": request(login("ada")), "C": request(read, logout)}
    ),
}
