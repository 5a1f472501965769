"""Natural batching, without any database: arrivals, answers, failures and cancellations."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

from websessions.batching import Batcher, Closed


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
        return Batcher(
            self.sky.send,
            lane=lambda call: call.lane,
            changes=lambda call: call.changes,
            under_way=PLACES,
            size=SIZE,
        )

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
    batcher = Batcher(sky.send, lane=lambda c: c.lane, changes=lambda c: c.changes)
    request = asyncio.ensure_future(batcher.submit(Call(1, "r", None)))
    await asyncio.sleep(0)
    assert [flight.calls for flight in sky.flights] == [(Call(1, "r", None),)]
    sky.flights[0].landed.set_result(["one"])
    assert await request == "one"


async def test_what_arrives_meanwhile_goes_together() -> None:
    """Calls that arrive while both places are taken leave as one batch."""
    sky = Sky()
    batcher = Batcher(sky.send, lane=lambda c: c.lane, changes=lambda c: c.changes)
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
    """Two batches that go to and fro hold all of a busy server's requests, not two thirds."""
    sky = Sky()
    batcher = Batcher(sky.send, lane=lambda c: c.lane, changes=lambda c: c.changes)
    answered = []

    async def ask_twice(number: int) -> None:
        answered.append(await batcher.submit(Call(number, "w", f"first of {number}")))
        answered.append(await batcher.submit(Call(number, "w", f"second of {number}")))

    requests = asyncio.gather(*[ask_twice(number) for number in range(4)])
    await turns(3)
    late = asyncio.ensure_future(batcher.submit(Call(4, "w", "x")))
    await turns(3)
    waiting = asyncio.ensure_future(batcher.submit(Call(5, "w", "y")))
    assert [len(flight.calls) for flight in sky.flights] == [4, 1]
    sky.flights[0].landed.set_result("abcd")
    await turns(5)
    assert [len(flight.calls) for flight in sky.flights] == [1, 5]
    for flight in sky.flights:
        flight.landed.set_result("efghi")
    await asyncio.gather(requests, late, waiting)
    assert len(answered) == 8


async def test_a_flight_that_is_cancelled_before_it_begins_gives_its_place_back() -> None:
    sky = Sky()
    batcher = Batcher(sky.send, lane=lambda c: c.lane, changes=lambda c: c.changes)
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
    batcher = Batcher(sky.send, lane=lambda c: c.lane, changes=lambda c: c.changes)
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
