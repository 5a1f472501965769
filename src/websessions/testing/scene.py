"""Where scripted requests meet: a store, its clock, the rules of a middleware, and the books."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from ..cookie import SignedValue
from ..lifecycle import Finished, Lifecycle
from ..settings import SessionSettings
from ..sid import Sid
from ..store import Call, Insert, Scan
from .any_store import AnyStore
from .clock import FakeClock
from .ledger import Ledger

__all__ = ["Scene", "Sessions", "Tab", "TimePasses"]

SECRET: Final = "the secret of scripted requests"  # noqa: S105  it protects nothing

Sessions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The sessions that are there when a run begins: what each visitor's session holds."""


@dataclass(frozen=True, slots=True)
class TimePasses(Call[None]):
    """A step of the clock. No store sees it."""

    span: timedelta


class Scene:
    """What the parties of one run have in common.

    Args:
        store: the store.
        clock: its clock.
        settings: the middleware's options, `secret` and `genid` aside.
        graces: whether the store finds a session by the id that it had before.
    """

    def __init__(
        self, store: AnyStore, clock: FakeClock, settings: Mapping[str, Any], *, graces: bool
    ) -> None:
        # Ids that a run repeats, and that no two visitors share.
        self._numbers = itertools.count(1)
        self.store = store
        self.clock = clock
        self.lifecycle = Lifecycle(
            store.store,
            SessionSettings(secret=SECRET, genid=lambda: self.new_sid().value, **settings),
        )
        self.ledger = Ledger(store.store.codec, clock, graces=graces)
        self._cookies: dict[str, str] = {}

    def new_sid(self) -> Sid:
        """The next id."""
        return Sid(f"{next(self._numbers):0>43}")

    async def begin(self, sessions: Sessions) -> None:
        """Give each visitor a session; whatever else the store held is gone."""
        await self.store.clear()
        rules, settings = self.store.store, self.lifecycle.settings
        expires = self.clock() + rules.expiration
        sign = SignedValue(settings.cookie.name, settings.secrets).sign
        for visitor, content in sessions.items():
            sid = self.new_sid()
            data = rules.codec.encode(dict(content))
            record = await self.store.ask(Insert(rules.key(sid), data, expires, dict(content)))
            assert record is not None, "the store said that it is empty, and a new key was taken"
            self.ledger.began(record.key, content, record.expires)
            self._cookies[visitor] = f"{settings.cookie.name}={sign(sid)}"

    def cookie_of(self, visitor: str | None) -> str:
        """The `Cookie` header that a visitor's browser sends at first."""
        if visitor is None:
            return ""
        if visitor not in self._cookies:
            raise ValueError(
                f"there is no session of {visitor!r}; sessions= has {', '.join(self._cookies)}"
            )
        return self._cookies[visitor]

    async def perform(self, call: Call[Any]) -> Any:
        """What becomes of a call: its answer, or the exception that answers it."""
        if isinstance(call, TimePasses):
            self.clock.advance(call.span)
            return None
        try:
            [answer] = await self.store.perform(call)
        except Exception as error:
            return error
        return answer

    async def look(self) -> None:
        """Compare what the store holds with the books."""
        self.ledger.compare(await self.store.ask(Scan(None, 100)))


class Tab:
    """One party of a run: a tab of somebody's browser, whose requests come one after the other."""

    def __init__(self, name: str, scene: Scene) -> None:
        self.name = name
        self.scene = scene
        self._cookies: dict[str | None, str] = {}
        self._written = 0

    def cookie(self, visitor: str | None) -> str:
        """The `Cookie` header of the next request."""
        return self._cookies.setdefault(visitor, self.scene.cookie_of(visitor))

    def take(self, visitor: str | None, finished: Finished) -> None:
        """Do with a response's cookie what a browser does."""
        if finished.cookie is None:
            return
        pair = finished.cookie.partition(";")[0]
        sid = self.scene.lifecycle.cookies.read(pair)
        if sid is not None:
            self.scene.ledger.given(self.name, self.scene.lifecycle.store.key(sid))
        self._cookies[visitor] = "" if sid is None else pair

    def value(self) -> str:
        """A value that nobody else writes."""
        self._written += 1
        return f"{self.name}{self._written}"
