"""Natural batching: calls that arrive while others are under way go together, next.

Nobody waits for company: a call that finds a place free goes at once and alone. Two batches are
under way at most; what arrives meanwhile forms the next one, which leaves when one of them is
back. So a quiet server answers as fast as without batching, and a busy one makes one round trip,
one pool check-out and one commit serve many requests. There are no timers.

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
from typing import Any, Generic, TypeVar

__all__ = ["Batcher", "Closed"]

C = TypeVar("C")


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
        self._places = under_way
        self._size = size
        self._waiting: deque[tuple[C, asyncio.Future[Any]]] = deque()
        self._being_changed: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, call: C) -> Any:
        """The call's answer: a result, or the exception that it was answered with."""
        if self._closed:
            return Closed()
        if self._places and not self._waiting and self._changes(call) is None:
            return await self._read_alone(call)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answered))
        if self._places:
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
        """Send what waits, as far as there are places."""
        while self._places and (batch := self._next_batch()):
            self._places -= 1
            self._being_changed.update(self._changed_by(batch))
            task = asyncio.get_running_loop().create_task(self._fly(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_batch(self) -> list[tuple[C, asyncio.Future[Any]]]:
        """Take the first call that can go from what waits, and all that can go with it."""
        batch: list[tuple[C, asyncio.Future[Any]]] = []
        held: deque[tuple[C, asyncio.Future[Any]]] = deque()
        blocked = set(self._being_changed)
        lane: object = None
        while self._waiting and len(batch) < self._size:
            call, answered = item = self._waiting.popleft()
            if answered.done():
                continue
            changed = self._changes(call)
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

    async def _fly(self, batch: list[tuple[C, asyncio.Future[Any]]]) -> None:
        answers: Sequence[Any] = ()
        # Between taking the batch and this moment, a request may have been cancelled.
        sent = [item for item in batch if not item[1].done()]
        try:
            if sent:
                answers = await self._send([call for call, _ in sent])
        except Exception as error:
            # Each gets its own: a traceback that several requests share would mix them up.
            answers = [copy.copy(error) for _ in sent]
            for answer in answers:
                answer.__cause__ = error.__cause__
        finally:
            # However this ends, a cancelled loop included, nobody is left waiting.
            self._places += 1
            self._being_changed.difference_update(self._changed_by(batch))
            for number, (_, answered) in enumerate(sent):
                if not answered.done():
                    answered.set_result(answers[number] if number < len(answers) else Closed())
            self._send_next()

    def _changed_by(self, batch: list[tuple[C, asyncio.Future[Any]]]) -> set[Hashable]:
        changed = {self._changes(call) for call, _ in batch}
        changed.discard(None)
        return changed

    async def close(self) -> None:
        """Answer what waits with `Closed`, and wait for what is under way."""
        self._closed = True
        while self._waiting:
            _, answered = self._waiting.popleft()
            if not answered.done():
                answered.set_result(Closed())
        if self._tasks:
            await asyncio.wait(self._tasks)
