"""Every way in which a few requests of one session can overlap, one after the other.

Two or three scripted requests are run on the lifecycle's own steps, over a real store. Wherever one
of them asks the store for something, another one could go first, so there is a choice; all choices
are tried, depth first, and after each step the store is compared with what it has acknowledged.

    explored = explore(make_store, {"A": request(write("a")), "B": request(logout)})

A schedule that breaks a rule raises `Broken`, whose message lists its steps. Its last line is the
schedule itself: pass it as `schedule` to run that one alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..direct import AsyncSessionStore
from ..store import Steps
from .any_store import AnyStore, finished
from .bench import MakeStore
from .clock import FakeClock
from .path import Nondeterministic, Option, Path
from .requests import Script
from .scene import Scene, Sessions, Tab
from .turns import MakeTurns, Party, Stuck, by_call

__all__ = ["Broken", "Explored", "explore", "explore_async"]

_MOST_STEPS: Final = 1000
"""Steps after which a run counts as one that does not end."""

_START: Final[Sessions] = {"visitor": {"kept": 0}}


class Broken(AssertionError):
    """A schedule in which a store, or the lifecycle, broke a rule.

    Attributes:
        schedule: whose turn it was, step by step; `explore(..., schedule=...)` repeats it.
    """

    def __init__(self, what: str, steps: Sequence[tuple[str, str]], schedule: str) -> None:
        width = max((len(name) for name, _ in steps), default=0)
        listed = "\n".join(f"  {name:{width}}  {did}" for name, did in steps)
        super().__init__(f"{what}\n\n{listed}\n\nto repeat it: schedule={schedule!r}")
        self.schedule = schedule


@dataclass(frozen=True)
class Explored:
    """What was tried, and kept the rules.

    Attributes:
        schedules: each schedule: whose turn it was, step by step.
    """

    schedules: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.schedules)


def explore(
    make_store: MakeStore,
    parties: Mapping[str, Script | Sequence[Script]],
    *,
    sessions: Sessions = _START,
    preemptions: int | None = None,
    turns: MakeTurns = by_call,
    schedule: str | None = None,
    settings: Mapping[str, Any] | None = None,
    graces: bool = True,
    **options: Any,
) -> Explored:
    """Run these parties in every order over a sync store.

    Args:
        make_store: `make_store(clock, **options)` makes the store, once. It is emptied, again and
            again. What the suite's fixture `make_store` returns will do.
        parties: by name, what each does: a script, or several that follow one another.
        sessions: what there is at first: visitor to what that visitor's session holds.
        preemptions: how often a run may turn to another party while the one before could go on;
            None: as often as it can. Two or three find nearly everything, in far fewer runs.
        turns: what a turn is: `by_call`, or `by_statement()`.
        schedule: run this one alone.
        settings: options of the middleware.
        graces: whether the store finds a session by the id that it had before, for as long as the
            middleware says. False for one that can not.
        options: options of the store.

    Raises:
        Broken: a rule was broken; the message lists the steps.
        Nondeterministic: the same choices led to something else.
    """
    clock = FakeClock()
    store = AnyStore(_made(make_store, clock, options))
    if isinstance(store.store, AsyncSessionStore):
        raise TypeError("this is an async store: await explore_async(...)")
    explorer = _Explorer(store, clock, parties, sessions, preemptions, turns, settings, graces)
    return finished(explorer.explore(schedule))


async def explore_async(
    make_store: MakeStore,
    parties: Mapping[str, Script | Sequence[Script]],
    *,
    sessions: Sessions = _START,
    preemptions: int | None = None,
    turns: MakeTurns = by_call,
    schedule: str | None = None,
    settings: Mapping[str, Any] | None = None,
    graces: bool = True,
    **options: Any,
) -> Explored:
    """The same over an async store. `turns` is `by_call`, or `by_round_trip()`; see `explore`."""
    clock = FakeClock()
    store = AnyStore(_made(make_store, clock, options))
    explorer = _Explorer(store, clock, parties, sessions, preemptions, turns, settings, graces)
    return await explorer.explore(schedule)


def _made(make_store: MakeStore, clock: FakeClock, options: Mapping[str, Any]) -> Any:
    return make_store(clock, **{"check_expiration_interval": None, **options})


class _Explorer:
    def __init__(
        self,
        store: AnyStore,
        clock: FakeClock,
        parties: Mapping[str, Script | Sequence[Script]],
        sessions: Sessions,
        preemptions: int | None,
        turns: MakeTurns,
        settings: Mapping[str, Any] | None,
        graces: bool,
    ) -> None:
        for name in parties:
            if not name.isidentifier():
                raise ValueError(f"a party's name is one word, not {name!r}")
        self._store = store
        self._clock = clock
        self._parties = parties
        self._sessions = sessions
        self._preemptions = preemptions
        self._make_turns = turns
        self._settings = settings or {}
        self._graces = graces

    async def explore(self, schedule: str | None) -> Explored:
        try:
            await self._store.sync()
            if schedule is not None:
                return Explored((await self._run(_Given(schedule.split())),))
            path = Path()
            # Twice, so that chance is noticed even where there is nothing to choose.
            await self._try(path)
            path.again()
            schedules = [await self._try(path)]
            while path.advance():
                schedules.append(await self._try(path))
            return Explored(tuple(schedules))
        finally:
            await self._store.close()

    async def _try(self, path: Path) -> str:
        """One run, and once more if it breaks a rule: what happens by chance proves nothing."""
        try:
            return await self._run(path)
        except Broken as broken:
            if isinstance(broken.__cause__, Stuck):
                raise  # what is held is held in the next run as well
            path.again()
            try:
                await self._run(path)
            except Broken as again:
                if str(again) == str(broken):
                    raise broken from broken.__cause__
            raise Nondeterministic(
                f"a rule was broken, and by the same choices it was not broken again: {broken}"
            ) from broken

    async def _run(self, path: Path | _Given) -> str:
        """One run; its schedule."""
        scene = Scene(self._store, self._clock, self._settings, graces=self._graces)
        await scene.begin(self._sessions)
        parties = {
            name: Party(name, _in_order(script, Tab(name, scene)), scene)
            for name, script in self._parties.items()
        }
        turns = self._make_turns(scene, parties)
        taken: list[str] = []
        steps: list[tuple[str, str]] = []
        last: str | None = None
        left = self._preemptions
        try:
            await turns.begin()
            while waiting := turns.waiting():
                if len(taken) == _MOST_STEPS:
                    raise AssertionError(f"there is no end after {_MOST_STEPS} steps")
                able = [option for option in waiting if option.name == last]
                others = [option for option in waiting if option.name != last]
                name = path.choose(able + ([] if able and left == 0 else others))
                if able and name != last and left is not None:
                    left -= 1
                last = name
                taken.append(name)
                does = next(option.does for option in waiting if option.name == name)
                before = {party.name: len(party.done) for party in parties.values()}
                await turns.go(name)
                came = [
                    (party.name, did)
                    for party in parties.values()
                    for did in party.done[before[party.name] :]
                ]
                steps += came if any(who == name for who, _ in came) else [(name, does), *came]
                path.happened(repr(came))
                for party in parties.values():
                    if party.error is not None:
                        raise party.error
                await scene.look()
        except Nondeterministic:
            raise
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else repr(error)
            raise Broken(what, steps, " ".join(taken)) from error
        finally:
            await turns.stop()
        return " ".join(taken)


class _Given:
    """A path that was written down."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def choose(self, options: Sequence[Option]) -> str:
        """The next name; once there is none left, whoever comes first."""
        if not self._names:
            return options[0].name
        name = self._names.pop(0)
        if all(option.name != name for option in options):
            able = ", ".join(option.name for option in options)
            raise ValueError(f"{name!r} can not go on at this step; who can: {able}")
        return name

    def happened(self, outcome: str) -> None:
        """It is run once, so there is nothing to compare with."""


def _in_order(script: Script | Sequence[Script], tab: Tab) -> Steps[None]:
    for one in [script] if callable(script) else script:
        yield from one(tab)
