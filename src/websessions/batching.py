"""Natural batching: calls that arrive while others are under way go together, next.

The first call goes at once, under asyncio in the next turn of the event loop, with whatever else
has arrived by then. What arrives while it is under way forms the next batch, which leaves when the
last one is back, or beside it as soon as it is as large; two are under way at most. Where the last
batch held several calls, the next waits one more turn of the loop: those whom it has answered send
their next requests now. So a quiet server answers as fast as without batching, and a busy one makes
one round trip, one pool check-out and one commit serve many requests. There are no timers.

`Line` has the rules. `Batcher` sends for the tasks of an event loop, `ThreadBatcher` for threads.

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
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Batcher", "Caller", "Closed", "Late", "Line", "ThreadBatcher"]

C = TypeVar("C")
A = TypeVar("A", bound="Answered")


class Closed(Exception):
    """The batcher was closed before this call could be sent."""


class Late(Exception):
    """It was not the call's turn, or it had no answer, for as long as its caller waits."""


class Answered(Protocol):
    """Where an answer goes: a future, or what stands for it."""

    def done(self) -> bool:
        """Whether nobody waits for it: it is there, or its caller has left."""
        ...


class Waiting(NamedTuple, Generic[C, A]):
    """A call, what it changes, and where its answer goes."""

    call: C
    changed: Hashable | None
    answered: A


class Line(Generic[C, A]):
    """Who waits, who is under way, and who may go next, with whom. Without I/O.

    Args:
        lane: calls share a batch with calls of the same lane only.
        changes: what a call changes, or None if it only reads.
        places: how many batches may be under way at once.
        size: the largest batch.

    Attributes:
        places: how many more may be.
    """

    def __init__(
        self,
        lane: Callable[[C], object],
        changes: Callable[[C], Hashable | None],
        places: int = 2,
        size: int = 128,
    ) -> None:
        self.places = self._all_places = places
        self.changes = changes
        self._lane = lane
        self._size = size
        self._waiting: deque[Waiting[C, A]] = deque()
        self._being_changed: set[Hashable] = set()
        self._under_way = 0

    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing is under way."""
        return self.places == self._all_places and not self._waiting

    def join(self, call: C, changed: Hashable | None, answered: A) -> None:
        self._waiting.append(Waiting(call, changed, answered))

    def is_ready(self) -> bool:
        """Whether there is a place, and enough who can go: as many as are under way already.

        A few that leave beside many would cost a round trip of their own, and soon all batches
        would be small. Those many are back in a moment, and the next batch is large, too.
        """
        return (
            self.places > 0
            and len(self._waiting) >= self._under_way
            and any(waiting.changed not in self._being_changed for waiting in self._waiting)
        )

    def board(self) -> list[Waiting[C, A]]:
        """Take the first call that can go from what waits, and all that can go with it."""
        batch: list[Waiting[C, A]] = []
        held: deque[Waiting[C, A]] = deque()
        blocked = set(self._being_changed)
        lane: object = None
        while self._waiting and len(batch) < self._size:
            call, changed, answered = waiting = self._waiting.popleft()
            if answered.done():
                continue
            if (changed is not None and changed in blocked) or (batch and self._lane(call) != lane):
                held.append(waiting)
            else:
                lane = self._lane(call)
                batch.append(waiting)
            if changed is not None:
                # Whatever comes later for the same session stays behind this one.
                blocked.add(changed)
        held.extend(self._waiting)
        self._waiting = held
        self.depart(batch)
        return batch

    def depart(self, batch: Sequence[Waiting[C, A]]) -> None:
        """The batch is under way, and what it changes nobody else may change."""
        self._being_changed.update(w.changed for w in batch if w.changed is not None)
        self._under_way += len(batch)

    def land(self, batch: Sequence[Waiting[C, A]]) -> None:
        """The batch is back: its place is free, and what it changed may be changed again."""
        self.places += 1
        self._under_way -= len(batch)
        self._being_changed.difference_update(waiting.changed for waiting in batch)

    def turn_back(self, batch: Sequence[Waiting[C, A]]) -> None:
        """The batch does not leave after all: whoever still waits is first in line again."""
        self.land(batch)
        self._waiting.extendleft(w for w in reversed(batch) if not w.answered.done())

    def leave(self) -> Iterator[A]:
        """Empty the line."""
        while self._waiting:
            yield self._waiting.popleft().answered


def _answers(answers: Sequence[Any], number: int) -> list[Any]:
    """An answer for each, whatever came back."""
    return [*answers[:number], *(Closed() for _ in range(number - len(answers)))]


def _failed(error: Exception, number: int) -> list[Exception]:
    """Each gets its own: a traceback that several requests share would mix them up."""
    errors = [copy.copy(error) for _ in range(number)]
    for one in errors:
        one.__cause__ = error.__cause__
    return errors


class Batcher(Generic[C]):
    """Sends calls of one event loop in batches.

    Args:
        send: sends a batch and returns an answer for each of its calls, in order. What it raises
            is every call's answer.
        line: where calls wait, this batcher's alone.
    """

    def __init__(
        self,
        send: Callable[[Sequence[C]], Awaitable[Sequence[Any]]],
        line: Line[C, asyncio.Future[Any]],
    ) -> None:
        self._send = send
        self._line = line
        self._boarding: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_quiet = True
        self._closed = False

    async def submit(self, call: C) -> Any:
        """The call's answer: a result, or the exception that it was answered with."""
        if self._closed:
            return Closed()
        changed = self._line.changes(call)
        if changed is None and self._is_quiet and self._line.is_idle():
            return await self._read_alone(call)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._line.join(call, changed, answered)
        self._send_next()
        return await answered

    async def _read_alone(self, call: C) -> Any:
        """The shortest path: no task, no future. A read that is cancelled midway loses nothing.

        It is for a server where calls hardly ever meet. In a busy one the requests that the last
        batch has answered come back together, and the first of them would leave the others behind.
        """
        self._line.places -= 1
        try:
            [answer] = await self._send((call,))
        finally:
            self._line.places += 1
            self._send_next()
        return answer

    def _send_next(self) -> None:
        """Send what waits and can go, if there is a place.

        The batch boards when its task begins, in a busy server a turn of the loop later. The
        requests that the last batch has answered go on before that, and what they ask for next
        comes along; so does what has come over the network meanwhile.
        """
        if self._boarding is None and self._line.is_ready():
            self._line.places -= 1
            self._boarding = asyncio.get_running_loop().create_task(self._fly())
            self._tasks.add(self._boarding)
            self._boarding.add_done_callback(self._landed)

    async def _fly(self) -> None:
        if not self._is_quiet:
            await asyncio.sleep(0)
        self._boarding = None
        batch = self._line.board()
        self._is_quiet = len(batch) < 2
        self._send_next()
        answers: Sequence[Any] = ()
        try:
            if batch:
                answers = await self._send([waiting.call for waiting in batch])
        except Exception as error:
            answers = _failed(error, len(batch))
        finally:
            # However this ends, a cancelled loop included, nobody is left waiting.
            self._line.land(batch)
            for (_, _, answered), answer in zip(batch, _answers(answers, len(batch)), strict=True):
                if not answered.done():
                    answered.set_result(answer)
            self._send_next()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._boarding:  # cancelled before it began
            self._boarding = None
            self._line.places += 1
            self._send_next()

    async def close(self) -> None:
        """Answer what waits with `Closed`, and wait for what is under way."""
        self._closed = True
        for answered in self._line.leave():
            if not answered.done():
                answered.set_result(Closed())
        if self._tasks:
            await asyncio.wait(self._tasks)


class Caller(Generic[C]):
    """A thread that waits for its answer, or for its turn to send a batch."""

    __slots__ = ("_woken", "answer", "batch", "has_left")

    def __init__(self) -> None:
        self.answer: Any = None
        self.has_left = False
        self.batch: list[Waiting[C, Caller[C]]] | None = None
        self._woken = threading.Lock()
        self._woken.acquire()

    def done(self) -> bool:
        return self.has_left

    def wake(self) -> None:
        self._woken.release()

    def wait(self, seconds: float) -> bool:
        return self._woken.acquire(timeout=seconds)


class ThreadBatcher(Generic[C]):
    """Sends calls of threads in batches; the thread of a batch's first call sends it.

    Args:
        send: sends a batch and returns an answer for each of its calls, in order. What it raises
            is every call's answer.
        line: where calls wait, this batcher's alone.
        patience: how many seconds a call waits for its turn, or for an answer that another thread
            has asked for; None for as long as it takes.
    """

    def __init__(
        self,
        send: Callable[[Sequence[C]], Sequence[Any]],
        line: Line[C, Caller[C]],
        patience: float | None = None,
    ) -> None:
        self._send = send
        self._line = line
        self._patience = -1 if patience is None else patience
        self._lock = threading.Lock()
        self._of_this_thread = threading.local()
        self._closed = False

    def submit(self, call: C) -> Any:
        """The call's answer: a result, or the exception that it was answered with."""
        if getattr(self._of_this_thread, "is_sending", False):
            # A listener of the engine's, say: it would wait for itself.
            return self._answered([call])[0]
        caller: Caller[C] = Caller()
        with self._lock:
            if self._closed:
                return Closed()
            changed = self._line.changes(call)
            if self._line.is_idle():
                # The shortest path: no turn to wait for, nobody to wake.
                caller.batch = [Waiting(call, changed, caller)]
                self._line.places -= 1
                self._line.depart(caller.batch)
            else:
                self._line.join(call, changed, caller)
                self._launch()
        if caller.batch is None and not self._has_turn(caller):
            return Late()
        if caller.batch is not None:
            self._fly(caller, caller.batch)
        return caller.answer

    def _has_turn(self, caller: Caller[C]) -> bool:
        """Wait until the caller has its answer, or the batch that it is to send."""
        try:
            has_turn = caller.wait(self._patience)
        except BaseException:  # a signal handler's, or a timeout's of green threads
            self._leave(caller)
            raise
        if not has_turn:
            self._leave(caller)
        return has_turn

    def _launch(self) -> None:
        """Wake whoever can go, as far as there are places. The lock is held."""
        while self._line.is_ready():
            batch = self._line.board()
            if not batch:
                continue  # those who waited have left
            self._line.places -= 1
            first = batch[0].answered
            first.batch = batch
            first.wake()

    def _leave(self, caller: Caller[C]) -> None:
        """The caller waits no longer. If it was to send a batch, another one does."""
        with self._lock:
            caller.has_left = True
            if caller.batch is not None:
                self._line.turn_back(caller.batch)
            self._launch()

    def _answered(self, calls: Sequence[C]) -> Sequence[Any]:
        try:
            return self._send(calls)
        except Exception as error:
            return _failed(error, len(calls))

    def _fly(self, sender: Caller[C], batch: list[Waiting[C, Caller[C]]]) -> None:
        answers: Sequence[Any] = ()
        self._of_this_thread.is_sending = True
        try:
            answers = self._answered([waiting.call for waiting in batch])
        finally:
            self._of_this_thread.is_sending = False
            sender.batch = None  # in which it is itself
            # However this ends, an interrupted thread included, nobody is left waiting.
            with self._lock:
                self._line.land(batch)
                self._launch()
            for (_, _, caller), answer in zip(batch, _answers(answers, len(batch)), strict=True):
                caller.answer = answer
                if caller is not sender:
                    caller.wake()

    def close(self) -> None:
        """Answer what waits with `Closed`. What is under way goes on to its end."""
        with self._lock:
            self._closed = True
            for caller in self._line.leave():
                caller.answer = Closed()
                caller.wake()
