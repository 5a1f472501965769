"""Python programs of a few lines, run in processes of their own and spoken to by lines."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]

SPEAK = """
import sys
def say(word="ready"):
    print(word, flush=True)
def wait():
    if not sys.stdin.readline():
        raise SystemExit("the test is gone")
"""


class Child:
    """A running program. Its own words for us are `say(word)` and `wait()`."""

    def __init__(self, process: subprocess.Popen[str], deadline: float) -> None:
        self._process = process
        self._timer = threading.Timer(deadline, process.kill)
        self._timer.daemon = True
        self._timer.start()
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self) -> str:
        """Wait until it says something, and return that."""
        said = _pipe(self._process.stdout).readline()
        assert said, f"it said nothing\n{self.finish(check=False)[1]}"
        return said.strip()

    def hear(self, word: str = "ready") -> None:
        """Wait until it says that word."""
        said = _pipe(self._process.stdout).readline().strip()
        assert said == word, f"it said {said!r}\n{self.finish(check=False)[1]}"

    def tell(self, word: str = "go") -> None:
        """End its `wait()`."""
        stdin = _pipe(self._process.stdin)
        stdin.write(f"{word}\n")
        stdin.flush()

    def finish(self, *, check: bool = True) -> tuple[str, str]:
        """Wait for its end; the rest of what it said, and its errors."""
        output = _pipe(self._process.stdout).read()
        status = self._process.wait()
        self._reader.join()
        self._timer.cancel()
        errors = "".join(self._errors)
        if check:
            assert status == 0, f"it ended with {status}\n{output}\n{errors}"
        return output, errors

    def close(self) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def _read_errors(self) -> None:
        self._errors.extend(_pipe(self._process.stderr))


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextmanager
def child(
    program: str, *arguments: str, options: tuple[str, ...] = (), deadline: float = 60
) -> Iterator[Child]:
    """Run a program until the block ends; killed then, and in any case after the deadline."""
    process = subprocess.Popen(
        [sys.executable, *options, "-c", SPEAK + program, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Child(process, deadline)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def children(number: int, program: str, *arguments: str) -> Iterator[list[Child]]:
    """Several of the same, each of which also gets its number as the last argument."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(child(program, *arguments, str(index))) for index in range(number)
        ]
