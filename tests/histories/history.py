"""What many clients did to a few sessions, and whether what came of it can be right.

A client notes when it asked for a change, when it was told that it is made, and what it was told.
Afterwards the sessions are read, and compared with the notes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.histories.site import Answer, Browser

__all__ = ["History", "Wrong", "count_live", "log_out_under_writers", "regenerate_under_writers"]

SHARED: Final = "shared"
TOTAL: Final = "total"
FIRST_TRY: Final = 0.999
"""The part of all requests that have to be answered at the first try, at least."""


class Wrong(AssertionError):
    """What the site acknowledged is not what the site holds."""


@dataclass
class _Write:
    value: str
    began: float
    ended: float


@dataclass
class History:
    """Clients that write to one session, and to a few others, all at once.

    Each client counts under a key of its own: at each answer, and in the end, all that it was told
    before has to be in. Now and then it writes a value of its own under a key that everybody
    writes: in the end that holds a value that no other one was certainly written after. And it
    counts under a key that everybody counts under, which the site adds up: in the end that is
    exact.

    Args:
        port: where the site is.
        clients: how many there are at once.
        requests: how many each of them makes.
        others: how many other sessions there are, which half of the clients share; 0 for all
            clients on one.
    """

    port: int
    clients: int
    requests: int
    others: int
    sessions: list[Browser] = field(default_factory=list)
    counted: Counter[tuple[int, str]] = field(default_factory=Counter)
    doubtful: Counter[tuple[int, str]] = field(default_factory=Counter)
    written: dict[int, list[_Write]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def make(self) -> None:
        """Let it happen, and look at what is left.

        Raises:
            Wrong: something acknowledged is lost, or too many requests failed.
        """
        for number in range(1 + self.others):
            browser = Browser(self.port)
            answer = await browser.post("/begin")
            assert answer.status == 200, "the site does not work"
            self.sessions.append(browser)
            self.written[number] = []
        async with asyncio.TaskGroup() as tasks:
            for client in range(self.clients):
                tasks.create_task(self._client(client))
        for number, browser in enumerate(self.sessions):
            self._compare(number, await browser.get("/"))
        if len(self.failures) > (1 - FIRST_TRY) * self.clients * self.requests:
            kinds = Counter(self.failures).most_common(5)
            self.wrong.append(f"{len(self.failures)} requests were not acknowledged: {kinds}")
        if self.wrong:
            raise Wrong("\n".join(self.wrong[:20]))

    async def _client(self, client: int) -> None:
        number = 1 + client % self.others if client % 2 and self.others else 0
        for turn in range(self.requests):
            if turn % 5 == 4:
                await self._put(number, f"{client}-{turn}")
            elif turn % 5 == 3:
                await self._count((number, TOTAL))
            else:
                key = f"client{client}"
                told = await self._count((number, key))
                if told is not None:
                    self._check(f"client {client} was told {told}", (number, key), told)

    async def _count(self, counter: tuple[int, str]) -> object:
        number, key = counter
        answer = await self._post(number, f"/add/{key}")
        if answer is None:
            self.doubtful[counter] += 1
            return None
        self.counted[counter] += 1
        return answer.value

    def _check(self, what: str, counter: tuple[int, str], value: object) -> None:
        least = self.counted[counter]
        most = least + self.doubtful[counter]
        if not isinstance(value, int) or not least <= value <= most:
            self.wrong.append(f"{what} in session {counter[0]}; it should be {least} to {most}")

    async def _put(self, number: int, value: str) -> None:
        began = time.monotonic()
        if await self._post(number, f"/put/{SHARED}/{value}") is not None:
            self.written[number].append(_Write(value, began, time.monotonic()))

    async def _post(self, number: int, path: str) -> Answer | None:
        """The answer; None if there was none, or an error."""
        try:
            answer = await self.sessions[number].twin().post(path)
        except (OSError, TimeoutError, IndexError) as error:
            self.failures.append(type(error).__name__)
            return None
        if answer.status != 200:
            self.failures.append(f"status {answer.status}")
            return None
        return answer

    def _compare(self, number: int, answer: Answer) -> None:
        held = answer.value or {}
        if held.get("begun") != "yes":
            self.wrong.append(f"session {number} has ended, and nobody has ended it")
        for counter in self.counted:
            if counter[0] == number:
                value = held.get(counter[1])
                self._check(f"the counter {counter[1]} is {value}", counter, value)
        writes = self.written[number]
        last = next((write for write in writes if write.value == held.get(SHARED)), None)
        after = [write for write in writes if last is not None and write.began > last.ended]
        if after and not self.failures:
            self.wrong.append(f"the shared key of session {number} went back to an older value")


async def count_live(port: int) -> int:
    """How many sessions are live."""
    count: int = (await Browser(port).get("/count")).value
    return count


async def log_out_under_writers(port: int, writers: int, at_once: int) -> None:
    """Log visitors out while slow requests of theirs are under way; in all so many `writers`.

    Raises:
        Wrong: a session is live afterwards.
    """
    before = await count_live(port)
    for _ in range(0, writers, at_once):
        visitor = Browser(port)
        await visitor.post("/begin")
        held = visitor.twin()
        tabs = [visitor.twin().post(f"/slow/late{number}") for number in range(at_once)]
        await asyncio.gather(*tabs[: at_once // 2], visitor.post("/logout"), *tabs[at_once // 2 :])
        if (found := (await held.get("/")).value) != {}:
            raise Wrong(f"a session that was logged out is back, and holds {found}")
    if (left := await count_live(port) - before) != 0:
        raise Wrong(f"{left} sessions are live, and everybody has logged out")


async def regenerate_under_writers(port: int, visitors: int, rounds: int, at_once: int = 8) -> None:
    """Give visitors new ids, again and again, under parallel requests of theirs.

    Args:
        port: where the site is.
        visitors: how many there are.
        rounds: how many new ids each of them gets.
        at_once: parallel requests at each of them.

    Raises:
        Wrong: a visitor has another number of live sessions than one, or a key is missing.
    """
    before = await count_live(port)

    async def visit(name: int) -> None:
        visitor = Browser(port)
        await visitor.post("/begin")
        wanted = {"begun"}
        for turn in range(rounds):
            await visitor.post(f"/put/before{turn}/yes")
            wanted.add(f"before{turn}")
            keys = [f"k{turn}-{number}" for number in range(at_once)]
            tabs = [visitor.twin() for _ in keys]
            answers = await asyncio.gather(
                visitor.post("/regenerate"),
                *(tab.post(f"/put/{key}/yes") for tab, key in zip(tabs, keys, strict=True)),
            )
            if answers[0].cookie is None:
                raise Wrong(f"visitor {name} got no new id")
            # Those that were late came by the old id, in its grace.
            told = zip(keys, answers[1:], strict=True)
            wanted.update(key for key, answer in told if answer.value)
            held = set((await visitor.get("/")).value)
            if not wanted <= held:
                raise Wrong(f"visitor {name} lost {sorted(wanted - held)}")
            wanted |= held

    async with asyncio.TaskGroup() as tasks:
        for name in range(visitors):
            tasks.create_task(visit(name))
    if (left := await count_live(port) - before) != visitors:
        raise Wrong(f"{visitors} visitors have {left} live sessions")
