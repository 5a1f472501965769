"""The two runners: they perform what steps yield, and decide nothing.

An answer goes back into the steps with `send`, an error or a cancellation with `throw`, so every
rule about errors stands in the steps, once for both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .store import AsyncPerforms, Call, Performs, Steps, value

__all__ = ["Pause", "run", "run_async"]

R = TypeVar("R")


@value
class Pause(Call[None]):
    """Wait, without keeping the event loop from its other work. The one call no store sees."""

    seconds: float


def run(steps: Steps[R], store: Performs, pause: Callable[[float], object] = time.sleep) -> R:
    """Run steps to their end in this thread and return their result."""
    resume: Callable[[Any], Call[Any]] = steps.send
    answer: Any = None
    while True:
        try:
            call = resume(answer)
        except StopIteration as stop:
            result: R = stop.value
            return result
        try:
            if isinstance(call, Pause):
                pause(call.seconds)
                answer = None
            else:
                [answer] = store.perform((call,))
        except BaseException as error:
            answer = error
        resume = steps.throw if isinstance(answer, BaseException) else steps.send


async def run_async(
    steps: Steps[R],
    store: AsyncPerforms,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> R:
    """Run steps to their end on this event loop and return their result."""
    resume: Callable[[Any], Call[Any]] = steps.send
    answer: Any = None
    while True:
        try:
            call = resume(answer)
        except StopIteration as stop:
            result: R = stop.value
            return result
        try:
            if isinstance(call, Pause):
                await pause(call.seconds)
                answer = None
            else:
                [answer] = await store.perform((call,))
        except BaseException as error:
            answer = error
        resume = steps.throw if isinstance(answer, BaseException) else steps.send
