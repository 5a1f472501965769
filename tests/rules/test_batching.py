"""Natural batching, without any database: arrivals, answers, failures and cancellations."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from websessions.batching import Batcher, Caller, Closed, Late, Line, ThreadBatcher


@dataclass(frozen=True)
class Call:
    number: int
    lane: str
    changes: str | None


@dataclass
class Flight:
    """A batch that is under way, until the test lets it land."""

    calls: tuple[Call, ...]
    landed: asyncio.Future[Sequence[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Sky:
    """Stands for the database: batches stay up until the test lets them land."""

    def __init__(self) -> None:
        self.flights: list[Flight] = []
        self.sent: list[Call] = []

    async def send(self, calls: Sequence[Call]) -> Sequence[Any]:
        flight = Flight(tuple(calls))
        self.flights.append(flight)
        self.sent.extend(calls)
        try:
            return await flight.landed
        finally:
            self.flights.remove(flight)


async def turns(number: int) -> None:
    """Let the event loop take so many turns."""
    for _ in range(number):
        await asyncio.sleep(0)


PLACES, SIZE = 2, 4


def a_line(places: int = PLACES, size: int = 128) -> Line[Call, Any]:
    return Line(lambda call: call.lane, lambda call: call.changes, places, size)


class BatcherMachine(RuleBasedStateMachine):
    """Every order of arrivals, landings, failures, cancellations and closing."""

    calls: Bundle[int] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.numbers = itertools.count()
        self.sky = Sky()
        self.requests: dict[int, asyncio.Task[Any]] = {}
        self.submitted: dict[int, Call] = {}
        self.expected: dict[int, Any] = {}
        self.cancelled_waiting: set[int] = set()
        self.closed = False
        self.largest = 0
        self.batcher = self.run(self.make())

    async def make(self) -> Batcher[Call]:
        return Batcher(self.sky.send, a_line(size=SIZE))

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    async def settle(self) -> None:
        """Let everything happen that can happen by now."""
        await turns(10)

    @rule(target=calls, lane=st.sampled_from("rw"), key=st.sampled_from("abc"), alone=st.booleans())
    def arrive(self, lane: str, key: str, alone: bool) -> int:
        number = next(self.numbers)
        call = Call(number, lane, key if lane == "w" else None)

        async def arrive() -> None:
            self.requests[number] = asyncio.ensure_future(self.batcher.submit(call))
            if alone:
                await self.settle()

        self.submitted[number] = call
        self.run(arrive())
        if self.closed:
            self.expected[number] = Closed
        return number

    @precondition(lambda self: self.sky.flights)
    @rule(data=st.data(), outcome=st.sampled_from(["answers", "failure", "too few"]))
    def land(self, data: st.DataObject, outcome: str) -> None:
        flight = data.draw(st.sampled_from(self.sky.flights), label="flight")

        async def land() -> None:
            if outcome == "failure":
                flight.landed.set_exception(OSError("lost"))
            elif outcome == "too few" and len(flight.calls) > 1:
                flight.landed.set_result([f"answer {flight.calls[0].number}"])
            else:
                flight.landed.set_result([f"answer {call.number}" for call in flight.calls])
            await self.settle()

        for place, call in enumerate(flight.calls):
            if outcome == "failure":
                self.expected.setdefault(call.number, OSError)
            elif outcome == "too few" and place > 0:
                self.expected.setdefault(call.number, Closed)
            else:
                self.expected.setdefault(call.number, f"answer {call.number}")
        self.run(land())

    @rule(number=consumes(calls))
    def cancel(self, number: int) -> None:
        async def cancel() -> None:
            request = self.requests[number]
            if not request.done():
                self.expected[number] = asyncio.CancelledError
                if self.submitted[number] not in self.sky.sent:
                    self.cancelled_waiting.add(number)
            request.cancel()
            await self.settle()

        self.run(cancel())

    @rule()
    def wait(self) -> None:
        self.run(self.settle())

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        async def close() -> None:
            # What waits may leave or be refused, but nothing is left without an answer.
            closing = asyncio.ensure_future(self.batcher.close())
            await self.settle()
            while self.sky.flights:
                flight = self.sky.flights[0]
                flight.landed.set_result([f"answer {call.number}" for call in flight.calls])
                for call in flight.calls:
                    self.expected.setdefault(call.number, f"answer {call.number}")
                await self.settle()
            await asyncio.wait_for(closing, 1)

        self.closed = True
        self.run(close())
        for number, request in self.requests.items():
            assert request.done()
            self.expected.setdefault(number, Closed)

    @invariant()
    def places_are_kept(self) -> None:
        assert len(self.sky.flights) <= PLACES

    @invariant()
    def batches_are_uniform_and_bounded(self) -> None:
        for flight in self.sky.flights:
            assert 1 <= len(flight.calls) <= SIZE
            assert len({call.lane for call in flight.calls}) == 1

    @invariant()
    def nothing_is_changed_twice_at_once(self) -> None:
        changed = [c.changes for f in self.sky.flights for c in f.calls if c.changes is not None]
        assert len(changed) == len(set(changed))

    @invariant()
    def changes_of_one_thing_keep_their_order(self) -> None:
        for key in "abc":
            numbers = [call.number for call in self.sky.sent if call.changes == key]
            assert numbers == sorted(numbers)

    @invariant()
    def what_was_cancelled_in_time_is_not_sent(self) -> None:
        assert not self.cancelled_waiting & {call.number for call in self.sky.sent}

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        assert len(self.sky.sent) == len(set(self.sky.sent))

    def teardown(self) -> None:
        async def land_everything() -> None:
            await self.settle()
            while self.sky.flights:
                for flight in list(self.sky.flights):
                    if not flight.landed.done():
                        flight.landed.set_result([f"answer {c.number}" for c in flight.calls])
                        for call in flight.calls:
                            self.expected.setdefault(call.number, f"answer {call.number}")
                await self.settle()
            assert all(request.done() for request in self.requests.values())

        self.run(land_everything())
        for number, request in self.requests.items():
            expected = self.expected[number]
            if request.cancelled():
                assert expected is asyncio.CancelledError
            elif request.exception() is not None:
                assert isinstance(request.exception(), expected)
            elif isinstance(expected, type):
                assert isinstance(request.result(), expected)
            else:
                assert request.result() == expected
        if not self.closed:
            self.run(self.batcher.close())
        self.runner.close()


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)


async def test_a_lone_read_goes_at_once_and_alone() -> None:
    """Nobody waits for company."""
    sky = Sky()
    batcher = Batcher(sky.send, a_line())
    request = asyncio.ensure_future(batcher.submit(Call(1, "r", None)))
    await asyncio.sleep(0)
    assert [flight.calls for flight in sky.flights] == [(Call(1, "r", None),)]
    sky.flights[0].landed.set_result(["one"])
    assert await request == "one"


async def test_what_arrives_meanwhile_goes_together() -> None:
    """Calls that arrive while both places are taken leave as one batch."""
    sky = Sky()
    batcher = Batcher(sky.send, a_line())
    calls = [Call(n, "r", None) for n in range(6)]
    requests = []
    for arrivals in (calls[:1], calls[1:2], calls[2:]):
        requests += [asyncio.ensure_future(batcher.submit(call)) for call in arrivals]
        await turns(3)
    assert [flight.calls for flight in sky.flights] == [(calls[0],), (calls[1],)]
    sky.flights[0].landed.set_result([0])
    await turns(3)
    assert sky.flights[-1].calls == tuple(calls[2:])
    sky.flights[-1].landed.set_result([2, 3, 4, 5])
    sky.flights[0].landed.set_result([1])
    assert await asyncio.gather(*requests) == [0, 1, 2, 3, 4, 5]


async def test_who_was_answered_by_one_batch_may_ask_again_in_the_next() -> None:
    """So a batch holds all that a busy server's requests want, and not two thirds of it."""
    sky = Sky()
    batcher = Batcher(sky.send, a_line())
    answered = []

    async def ask_twice(number: int) -> None:
        answered.append(await batcher.submit(Call(number, "w", f"first of {number}")))
        answered.append(await batcher.submit(Call(number, "w", f"second of {number}")))

    requests = asyncio.gather(*[ask_twice(number) for number in range(4)])
    await turns(3)
    late = asyncio.ensure_future(batcher.submit(Call(4, "w", "x")))
    await turns(3)
    assert [len(flight.calls) for flight in sky.flights] == [4]
    sky.flights[0].landed.set_result("abcd")
    await turns(5)
    assert [len(flight.calls) for flight in sky.flights] == [5]
    sky.flights[0].landed.set_result("efghi")
    await asyncio.gather(requests, late)
    assert len(answered) == 8


async def test_in_a_busy_server_a_batch_waits_one_more_turn_for_who_is_on_the_way() -> None:
    """The first of sixteen requests would leave at once, and the others in a second batch."""
    sky = Sky()
    batcher = Batcher(sky.send, a_line())

    async def arrive(number: int) -> int:
        if number:
            await turns(1)  # read from another socket, a turn later
        answer: int = await batcher.submit(Call(number, "r", None))
        return answer

    async def both() -> list[int]:
        requests = asyncio.gather(*[arrive(number) for number in range(2)])
        await turns(6)
        sizes = [len(flight.calls) for flight in sky.flights]
        for flight in list(sky.flights):
            flight.landed.set_result([call.number for call in flight.calls])
        assert await requests == [0, 1]
        return sizes

    assert await both() == [1, 1]
    several = asyncio.gather(*[batcher.submit(Call(n, "w", f"key {n}")) for n in range(2)])
    await turns(3)
    sky.flights[0].landed.set_result("ab")
    await several
    assert await both() == [2]


async def test_few_calls_do_not_leave_beside_many_and_many_do() -> None:
    """A round trip for each handful is what batches are there to spare."""
    sky = Sky()
    batcher = Batcher(sky.send, a_line())
    numbers = itertools.count()

    async def arrive(calls: int) -> list[int]:
        for _ in range(calls):
            number = next(numbers)
            requests.append(
                asyncio.ensure_future(batcher.submit(Call(number, "w", f"key {number}")))
            )
        await turns(3)
        return [len(flight.calls) for flight in sky.flights]

    requests: list[asyncio.Future[Any]] = []
    assert await arrive(3) == [3]
    assert await arrive(2) == [3]
    assert await arrive(1) == [3, 3]
    for flight in list(sky.flights):
        flight.landed.set_result("abc")
    await asyncio.gather(*requests)


async def test_a_flight_that_is_cancelled_before_it_begins_gives_its_place_back() -> None:
    sky = Sky()
    batcher = Batcher(sky.send, a_line())
    before = asyncio.all_tasks()
    request = asyncio.ensure_future(batcher.submit(Call(1, "w", "a")))
    await turns(1)
    [flight] = asyncio.all_tasks() - before - {request}
    flight.cancel()
    await turns(3)
    sky.flights[0].landed.set_result(["done"])
    assert await request == "done"


async def test_a_write_that_was_sent_outlives_its_request() -> None:
    """Cancelling a request does not take back the write that is under way."""
    sky = Sky()
    batcher = Batcher(sky.send, a_line())
    request = asyncio.ensure_future(batcher.submit(Call(1, "w", "a")))
    await turns(3)
    request.cancel()
    await asyncio.sleep(0)
    assert request.cancelled()
    assert len(sky.flights) == 1
    sky.flights[0].landed.set_result(["done"])
    follower = asyncio.ensure_future(batcher.submit(Call(2, "w", "a")))
    await turns(5)
    assert sky.sent == [Call(1, "w", "a"), Call(2, "w", "a")]
    sky.flights[0].landed.set_result(["done"])
    assert await follower == "done"


class Runway:
    """Stands for the database of threads: a batch stays up until the test lets it land."""

    def __init__(self, under_way: int = 2, patience: float | None = None) -> None:
        self.up: Queue[ThreadFlight] = Queue()
        self._arrived: Queue[Call] = Queue()
        self.line: Line[Call, Caller[Call]] = Line(
            lambda call: call.lane, self._changes, places=under_way
        )
        self.batcher = ThreadBatcher(self._send, self.line, patience)
        self._threads = ThreadPoolExecutor(32)

    def _changes(self, call: Call) -> str | None:
        # The batcher holds its lock: no batch lands until this call waits with the others.
        self._arrived.put(call)
        return call.changes

    def _send(self, calls: Sequence[Call]) -> Sequence[Any]:
        flight = ThreadFlight(tuple(calls))
        self.up.put(flight)
        return flight.landed.result(10)

    def submit(self, *calls: Call) -> list[Future[Any]]:
        """Each in a thread of its own, in this order."""
        answers = []
        for call in calls:
            answers.append(self._threads.submit(self.batcher.submit, call))
            assert self._arrived.get(timeout=10) == call
        return answers

    def next_up(self) -> ThreadFlight:
        return self.up.get(timeout=10)


@dataclass
class ThreadFlight:
    calls: tuple[Call, ...]
    landed: Future[Sequence[Any]] = field(default_factory=Future)

    def land(self) -> None:
        self.landed.set_result([f"answer {call.number}" for call in self.calls])


def reads(*numbers: int) -> list[Call]:
    return [Call(number, "r", None) for number in numbers]


def test_a_lone_call_of_a_thread_is_sent_by_that_thread() -> None:
    senders: list[int] = []

    def send(calls: Sequence[Call]) -> Sequence[str]:
        senders.append(threading.get_ident())
        return ["answer"]

    batcher = ThreadBatcher(send, a_line())
    assert batcher.submit(Call(1, "r", None)) == "answer"
    assert senders == [threading.get_ident()]


def test_what_threads_ask_for_meanwhile_goes_together() -> None:
    runway = Runway()
    answers = runway.submit(*reads(0, 1, 2, 3, 4))
    first, second = runway.next_up(), runway.next_up()
    assert {first.calls, second.calls} == {tuple(reads(0)), tuple(reads(1))}

    first.land()
    third = runway.next_up()
    assert third.calls == tuple(reads(2, 3, 4))
    second.land()
    third.land()
    assert [answer.result(10) for answer in answers] == [f"answer {n}" for n in range(5)]


def test_two_threads_never_change_one_thing_at_once_and_keep_their_order() -> None:
    runway = Runway(under_way=3)
    calls = [Call(0, "w", "a"), Call(1, "w", "a"), Call(2, "w", "b"), Call(3, "w", "a")]
    answers = runway.submit(*calls)
    up = {flight.calls: flight for flight in (runway.next_up(), runway.next_up())}
    assert set(up) == {(calls[0],), (calls[2],)}

    up[calls[0],].land()
    following = runway.next_up()
    assert following.calls == (calls[1],)
    following.land()
    last = runway.next_up()
    assert last.calls == (calls[3],)
    last.land()
    up[calls[2],].land()
    assert [answer.result(10) for answer in answers] == [f"answer {n}" for n in range(4)]


def test_a_batch_of_threads_that_fails_fails_each_of_them_with_an_error_of_its_own() -> None:
    runway = Runway(under_way=1)
    answers = runway.submit(*reads(0, 1, 2))
    runway.next_up().land()
    runway.next_up().landed.set_exception(OSError("lost"))
    errors = [answer.result(10) for answer in answers[1:]]
    assert [str(error) for error in errors] == ["lost", "lost"]
    assert errors[0] is not errors[1]


def test_a_thread_that_is_interrupted_while_it_sends_leaves_nobody_waiting() -> None:
    runway = Runway(under_way=1)
    answers = runway.submit(*reads(0, 1, 2))
    runway.next_up().land()
    runway.next_up().landed.set_exception(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        answers[1].result(10)
    assert isinstance(answers[2].result(10), Closed)
    [following] = runway.submit(*reads(3))
    runway.next_up().land()
    assert following.result(10) == "answer 3"


def test_a_thread_that_leaves_the_line_stops_nobody() -> None:
    """A signal handler may raise while the main thread waits: whoever is next sends the batch."""
    runway = Runway(under_way=1)
    runway.submit(*reads(0))
    first = runway.next_up()

    def interrupted(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            runway.batcher.submit(Call(1, "r", None))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert runway._arrived.get(timeout=10) == Call(1, "r", None)
    [following] = runway.submit(*reads(2))
    first.land()
    second = runway.next_up()
    assert second.calls == tuple(reads(2))
    second.land()
    assert following.result(10) == "answer 2"


def test_who_leaves_with_a_batch_to_send_hands_it_on() -> None:
    runway = Runway(under_way=1)
    leaver: Caller[Call] = Caller()
    line = runway.line
    line.places = 0
    line.join(Call(0, "r", None), None, leaver)
    [answer] = runway.submit(*reads(1))
    line.places = 1
    with runway.batcher._lock:
        runway.batcher._launch()
    assert leaver.batch is not None
    runway.batcher._leave(leaver)
    flight = runway.next_up()
    assert flight.calls == tuple(reads(1))
    flight.land()
    assert answer.result(10) == "answer 1"


def test_a_thread_waits_no_longer_than_it_has_patience() -> None:
    """For its turn, or for the answer that another thread has asked for."""
    runway = Runway(under_way=1, patience=0.01)
    stuck, waiting, neighbour = runway.submit(*reads(0, 1, 2))
    flight = runway.next_up()
    assert isinstance(waiting.result(10), Late)
    assert isinstance(neighbour.result(10), Late)
    flight.land()
    assert stuck.result(10) == "answer 0"
    [following] = runway.submit(*reads(3))
    runway.next_up().land()
    assert following.result(10) == "answer 3"


def test_what_a_call_asks_for_while_it_is_sent_does_not_wait_for_itself() -> None:
    """A listener of the engine's may use the store."""

    def send(calls: Sequence[Call]) -> Sequence[object]:
        return [batcher.submit(Call(2, "r", None)) if c.number == 1 else "inner" for c in calls]

    batcher = ThreadBatcher(send, a_line(places=1))
    assert batcher.submit(Call(1, "r", None)) == "inner"


def test_who_waits_is_refused_at_closing_and_what_is_under_way_goes_on() -> None:
    runway = Runway(under_way=1)
    under_way, *waiting = runway.submit(*reads(0, 1, 2))
    runway.batcher.close()
    assert all(isinstance(answer.result(10), Closed) for answer in waiting)
    assert isinstance(runway.batcher.submit(Call(3, "r", None)), Closed)
    runway.next_up().land()
    assert under_way.result(10) == "answer 0"


def test_many_threads_are_all_answered_and_change_each_thing_in_turns() -> None:
    being_changed: set[str] = set()
    wrong: list[str] = []
    lock = threading.Lock()

    def send(calls: Sequence[Call]) -> Sequence[int]:
        keys = [call.changes for call in calls if call.changes is not None]
        with lock:
            if len(set(keys)) < len(keys) or being_changed & set(keys):
                wrong.append("one thing was changed twice at once")
            if len({call.lane for call in calls}) != 1 or len(calls) > SIZE:
                wrong.append("calls went together that may not")
            being_changed.update(keys)
        with lock:
            being_changed.difference_update(keys)
        return [call.number for call in calls]

    batcher = ThreadBatcher(send, a_line(size=SIZE))

    def work(worker: int) -> bool:
        numbers = range(worker * 1000, worker * 1000 + 300)
        calls = [Call(n, "rw"[n % 3 > 0], "abc"[n % 7 % 3] if n % 3 else None) for n in numbers]
        return all(batcher.submit(call) == call.number for call in calls)

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(work, range(16)))
    assert not wrong
