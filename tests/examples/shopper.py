"""A customer of the demo shop: a real client with a cookie jar that fills in the shop's forms."""

from __future__ import annotations

import html
import re
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

PASSWORD = "correct horse battery"

_NO_TLS = ssl.create_default_context()
# One for all of them: making it takes longer than a request, and nobody here speaks TLS.


class Shopper:
    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.email = f"{secrets.token_hex(8)}@example.org"
        self.answer: httpx.Response | None = None

    @property
    def cookie(self) -> str | None:
        return self._client.cookies.get("sid")

    @property
    def set_cookie(self) -> str:
        """The Set-Cookie of the last form's own answer, before the redirect."""
        assert self.answer is not None
        first = (self.answer.history or [self.answer])[0]
        header: str = first.headers.get("set-cookie", "")
        return header

    # Looking

    def open(self, path: str) -> httpx.Response:
        return self._client.get(path)

    def sees(self, path: str) -> str:
        """The text of a page, without its tags."""
        return text_of(self.open(path).raise_for_status())

    def cart(self) -> dict[int, int]:
        page = self.open("/cart").raise_for_status().text
        found = re.findall(r'id="quantity-(\d+)"[^>]* value="(\d+)"', page)
        return {int(tea): int(quantity) for tea, quantity in found}

    # Doing

    def send(self, path: str, *, form_on: str, **fields: str) -> str:
        """Fill in a form of the page `form_on` and send it; the text of the page that follows."""
        page = self.open(form_on).raise_for_status().text
        token = re.search(r'name="csrf_token" value="([^"]+)"', page)
        assert token, f"{form_on} has no form"
        return self.send_bare(path, csrf_token=html.unescape(token[1]), **fields)

    def send_bare(self, path: str, **fields: str) -> str:
        """Send a form as some other site would: without what only our own pages know."""
        self.answer = self._client.post(path, data=fields)
        return text_of(self.answer)

    def put_in_cart(self, tea: int, quantity: int = 1) -> str:
        return self.send("/cart", form_on=f"/tea/{tea}", tea=str(tea), quantity=str(quantity))

    def sign_up(self, **fields: str) -> str:
        values = {"name": "Robin", "email": self.email, "password": PASSWORD, **fields}
        return self.send("/signup", form_on="/signup", **values)

    def log_in(self, **fields: str) -> str:
        values = {"email": self.email, "password": PASSWORD, **fields}
        return self.send("/login", form_on="/login", **values)

    def log_out(self) -> str:
        return self.send("/logout", form_on="/")


@contextmanager
def shopper(url: str, *, cookie: str | None = None) -> Iterator[Shopper]:
    """Somebody new, or somebody who got hold of this cookie."""
    with httpx.Client(
        base_url=url,
        timeout=30,
        follow_redirects=True,
        trust_env=False,
        verify=_NO_TLS,
        # The server restarts, and closes a connection on which something went wrong.
        limits=httpx.Limits(max_keepalive_connections=0),
    ) as client:
        if cookie is not None:
            client.cookies.set("sid", cookie, domain="127.0.0.1")
        yield Shopper(client)


def text_of(response: httpx.Response) -> str:
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", response.text).split()))
