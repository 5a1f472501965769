"""Natural batching: calls that arrive while others are under way go together, next.

Nobody waits for company: as long as there is a place, a call goes in the next turn of the event
loop, with whatever else has arrived by then. Two batches are under way at most; what arrives
meanwhile forms the next one, which leaves when one of them is back. So a quiet server answers as
fast as without batching, and a busy one makes one round trip, one pool check-out and one commit
serve many requests. There are no timers.

The module knows nothing of SQL. It is told which calls may share a batch (their *lane*), what a
call changes, and how to send a batch. It promises:

- Each call gets an answer of its own, whatever becomes of its neighbours, of the requests they
  came from, or of the batcher.
- Two calls that change the same thing never share a batch, nor are under way at the same time;
  they are sent in the order in which they were submitted.
- A call whose caller was cancelled before it was sent is not sent. One that was sent goes on to
  its end, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["Batcher", "Closed"]

C = TypeVar("C")

_Waiting: TypeAlias = tuple[C, Hashable | None, asyncio.Future[Any]]
"""A call, what it changes, and where its answer goes."""


class Closed(Exception):
    """The batcher was closed before this call could be sent."""


class Batcher(Generic[C]):
    """Sends calls of one event loop in batches.

    Args:
        send: sends a batch and returns an answer for each of its calls, in order. What it raises
            is every call's answer.
        lane: calls share a batch with calls of the same lane only.
        changes: what a call changes, or None if it only reads.
        under_way: how many batches are under way at once.
        size: the largest batch.
    """

    def __init__(
        self,
        send: Callable[[Sequence[C]], Awaitable[Sequence[Any]]],
        *,
        lane: Callable[[C], object],
        changes: Callable[[C], Hashable | None],
        under_way: int = 2,
        size: int = 128,
    ) -> None:
        self._send = send
        self._lane = lane
        self._changes = changes
        self._under_way = self._places = under_way
        self._size = size
        self._waiting: deque[_Waiting[C]] = deque()
        self._being_changed: set[Hashable] = set()
        self._boarding: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, call: C) -> Any:
        """The call's answer: a result, or the exception that it was answered with."""
        if self._closed:
            return Closed()
        changed = self._changes(call)
        if changed is None and self._places == self._under_way and not self._waiting:
            return await self._read_alone(call)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, changed, answered))
        self._send_next()
        return await answered

    async def _read_alone(self, call: C) -> Any:
        """The shortest path: no task, no future. A read that is cancelled midway loses nothing."""
        self._places -= 1
        try:
            [answer] = await self._send((call,))
        finally:
            self._places += 1
            self._send_next()
        return answer

    def _send_next(self) -> None:
        """Send what waits and can go, if there is a place.

        The batch boards when its task begins. The requests that the last batch has answered go on
        before that, and what they ask for next comes along.
        """
        if (
            self._places
            and self._boarding is None
            and any(changed not in self._being_changed for _, changed, _ in self._waiting)
        ):
            self._places -= 1
            self._boarding = asyncio.get_running_loop().create_task(self._fly())
            self._tasks.add(self._boarding)
            self._boarding.add_done_callback(self._landed)

    async def _fly(self) -> None:
        self._boarding = None
        batch = self._board()
        changed = {changed for _, changed, _ in batch if changed is not None}
        self._being_changed |= changed
        self._send_next()
        answers: Sequence[Any] = ()
        try:
            if batch:
                answers = await self._send([call for call, _, _ in batch])
        except Exception as error:
            # Each gets its own: a traceback that several requests share would mix them up.
            answers = [copy.copy(error) for _ in batch]
            for answer in answers:
                answer.__cause__ = error.__cause__
        finally:
            # However this ends, a cancelled loop included, nobody is left waiting.
            self._being_changed -= changed
            for number, (_, _, answered) in enumerate(batch):
                if not answered.done():
                    answered.set_result(answers[number] if number < len(answers) else Closed())
            self._places += 1
            self._send_next()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._boarding:  # cancelled before it began
            self._boarding = None
            self._places += 1
            self._send_next()

    def _board(self) -> list[_Waiting[C]]:
        """Take the first call that can go from what waits, and all that can go with it."""
        batch: list[_Waiting[C]] = []
        held: deque[_Waiting[C]] = deque()
        blocked = set(self._being_changed)
        lane: object = None
        while self._waiting and len(batch) < self._size:
            call, changed, answered = item = self._waiting.popleft()
            if answered.done():
                continue
            if (changed is not None and changed in blocked) or (batch and self._lane(call) != lane):
                held.append(item)
            else:
                lane = self._lane(call)
                batch.append(item)
            if changed is not None:
                # Whatever comes later for the same session stays behind this one.
                blocked.add(changed)
        held.extend(self._waiting)
        self._waiting = held
        return batch

    async def close(self) -> None:
        """Answer what waits with `Closed`, and wait for what is under way."""
        self._closed = True
        while self._waiting:
            _, _, answered = self._waiting.popleft()
            if not answered.done():
                answered.set_result(Closed())
        if self._tasks:
            await asyncio.wait(self._tasks)
