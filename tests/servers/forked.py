"""Run as a program: a store is used, the process forks, and the parent closes its store first.

So does a program that goes into the background after it has set itself up. The child then writes;
what another process finds of that is printed.
"""

from __future__ import annotations

import os
import sys

from websessions.sql import SQLSessionStore

CHILDREN = 3


def main(database: str) -> None:
    store = SQLSessionStore(database)
    store.sync()
    store.set("a-session-of-the-parent", {})
    child_is_there, there = os.pipe()
    parent_closed, close = os.pipe()
    children = []
    for number in range(CHILDREN):
        if pid := os.fork():
            children.append(pid)
        else:
            store.set(f"the-first-session-of-child-{number}", {})
            os.write(there, b".")
            os.close(close)
            os.read(parent_closed, 1)  # ends with the last one that could write into it
            store.set(f"the-second-session-of-child-{number}", {})
            os._exit(0)
    os.close(there)
    for _ in children:
        os.read(child_is_there, 1)
    store.close()
    os.close(close)
    for pid in children:
        os.waitpid(pid, 0)
    with SQLSessionStore(database) as fresh:
        print(fresh.length())  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
