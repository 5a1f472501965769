"""The threads that make blocking calls for an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from websessions.sql.threads import Threads


async def test_a_call_is_answered_with_what_the_function_returns_or_raises() -> None:
    threads = Threads(2, "calls")

    assert await threads.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.call(divmod, 7, 0)
    assert await threads.call(divmod, 9, 2) == (4, 1)  # the thread has survived
    threads.close()


async def test_calls_run_beside_the_loop_and_beside_each_other_up_to_the_limit() -> None:
    threads = Threads(2, "calls")
    together = threading.Barrier(3, timeout=10)
    in_threads = [threads.call(together.wait) for _ in range(2)]

    await asyncio.gather(*in_threads, asyncio.to_thread(together.wait))
    names = {await threads.call(lambda: threading.current_thread().name) for _ in range(20)}

    assert names <= {"calls_1", "calls_2"}
    threads.close()


async def test_a_lone_caller_needs_one_thread() -> None:
    threads = Threads(4, "calls")

    assert {await threads.call(threading.get_ident) for _ in range(20)} != {threading.get_ident()}
    assert threads._started == 1
    threads.close()


async def test_a_cancelled_call_runs_to_its_end_and_its_thread_takes_the_next() -> None:
    threads = Threads(1, "calls")
    may_end, has_ended = threading.Event(), threading.Event()

    def work() -> None:
        assert may_end.wait(10)
        has_ended.set()

    cancelled = threads.call(work)
    cancelled.cancel()
    following = threads.call(has_ended.is_set)
    may_end.set()

    assert await following is True
    threads.close()


async def test_threads_end_with_close_and_what_was_asked_for_before_is_done() -> None:
    threads = Threads(2, "closing")
    answers = [threads.call(str, n) for n in range(5)]
    threads.close()

    assert await asyncio.gather(*answers) == ["0", "1", "2", "3", "4"]
    await asyncio.to_thread(_join, "closing")


async def test_threads_end_with_the_object_that_made_them() -> None:
    threads = Threads(2, "garbage")
    await threads.call(str)
    gone = weakref.ref(threads)
    del threads
    gc.collect()

    assert gone() is None
    await asyncio.to_thread(_join, "garbage")


def test_an_answer_for_a_loop_that_was_closed_is_nobodys_and_the_thread_goes_on() -> None:
    threads = Threads(1, "calls")
    may_end = threading.Event()

    async def leave() -> None:
        threads.call(may_end.wait, 10)

    async def use() -> str:
        return await threads.call(str, "answered")

    asyncio.run(leave())
    may_end.set()

    assert asyncio.run(use()) == "answered"
    threads.close()


def _join(name: str) -> None:
    """Wait for the threads of that name to end."""
    for thread in threading.enumerate():
        if thread.name.startswith(name):
            thread.join(10)
            assert not thread.is_alive()
