"""A small HTTP client for machines without wrk. It costs more CPU, which its own core pays.

python client.py URL FILE-OF-COOKIES CONNECTIONS SECONDS
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit


async def _answer(reader: asyncio.StreamReader) -> tuple[bool, bool]:
    """Read one response: whether it is a success, and whether the connection stays."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
        if name == b"transfer-encoding":
            raise ValueError("chunked responses are beyond this client")
    await reader.readexactly(length)
    return head.startswith(b"http/1.1 2"), b"connection: close" not in head


async def _connection(
    host: str, port: int, requests: Iterator[bytes], stop: float, times: list[float]
) -> int:
    errors, writer = 0, None
    while (began := time.perf_counter()) < stop:
        if writer is None:
            reader, writer = await asyncio.open_connection(host, port)
        writer.write(next(requests))
        good, stays = await _answer(reader)
        times.append(time.perf_counter() - began)
        errors += not good
        if not stays:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    return errors


async def main(url: str, cookies: str, connections: str, seconds: str) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    requests = itertools.cycle(
        [
            f"GET {parts.path} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n\r\n".encode()
            for cookie in Path(cookies).read_text().splitlines()  # noqa: ASYNC240
        ]
    )
    times: list[float] = []
    began = time.perf_counter()
    errors = await asyncio.gather(
        *(
            _connection(host, port, requests, began + float(seconds), times)
            for _ in range(int(connections))
        )
    )
    took = time.perf_counter() - began
    times.sort()
    result = {
        "requests": len(times),
        "seconds": took,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
        "errors": sum(errors),
    }
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
