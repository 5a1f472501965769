"""Behind a proxy that ends TLS: who believes `X-Forwarded-Proto`, and so makes the cookie Secure.

The docs say beside the option `proxy` what is tested here.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fixtures.server import Server, serve
from tests.servers.setups import gunicorn, uvicorn

SERVERS = {
    "gunicorn": gunicorn("plain_apps:wsgi"),
    "uvicorn": uvicorn("plain_apps:asgi", "--lifespan", "off"),
}
# Addresses from which the server believes the header; 192.0.2.1 is nobody's (RFC 5737).
DISTRUSTING = ["--forwarded-allow-ips", "192.0.2.1"]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server as it is without options: it believes a proxy on its own machine."""
    with serve(SERVERS[request.param]) as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def distrusting(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that does not believe the machine that asks, as it would not believe another one."""
    with serve([*SERVERS[request.param], *DISTRUSTING]) as server:
        yield server


def secure(url: str, forwarded: str | None = None) -> bool:
    """Whether the cookie that this request gets is Secure."""
    headers = {} if forwarded is None else {"X-Forwarded-Proto": forwarded}
    return "; Secure" in httpx.get(url, headers=headers, trust_env=False).headers["Set-Cookie"]


def test_a_server_believes_the_header_of_its_own_machine_without_being_told(server: Server) -> None:
    """So with a proxy on the same machine the cookie is Secure even without `proxy=True`."""
    assert secure(f"{server.url}/plain", "https")
    assert not secure(f"{server.url}/plain", "http")
    assert not secure(f"{server.url}/plain")


def test_proxy_adds_nothing_to_what_the_server_believes(server: Server) -> None:
    assert secure(f"{server.url}/trusting", "https")
    assert not secure(f"{server.url}/trusting", "http")
    assert not secure(f"{server.url}/trusting")


def test_proxy_alone_understands_a_chain_of_proxies(server: Server) -> None:
    """The first value is what the browser used; the servers take one value and no list."""
    assert not secure(f"{server.url}/plain", "https, http")
    assert secure(f"{server.url}/trusting", "https, http")
    assert not secure(f"{server.url}/trusting", "http, https")


def test_from_another_machine_the_header_counts_with_proxy_alone(distrusting: Server) -> None:
    """In a container or behind a load balancer: the server has to be told, or this package."""
    assert not secure(f"{distrusting.url}/plain", "https")
    assert secure(f"{distrusting.url}/trusting", "https")
    assert not secure(f"{distrusting.url}/trusting", "http")
    assert not secure(f"{distrusting.url}/trusting")
