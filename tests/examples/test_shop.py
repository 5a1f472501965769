"""The demo shop as a visitor meets it: over real HTTP, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.examples.shopper import Shopper, shopper
from tests.fixtures.daemon import HOST
from tests.fixtures.private import PrivatePostgres
from tests.fixtures.server import ROOT, Server, serve
from tests.fixtures.services import Services

SHOP = [sys.executable, "examples/shop"]
OPEN = re.compile(r"Shop is open at (http://127\.0\.0\.1:(\d+))")


@contextmanager
def a_shop(database: str, data: Path) -> Iterator[Server]:
    options = ["--host", "{host}", "--port", "{port}", "--database", database, "--data", str(data)]
    # An empty SHOP_SECRET: the shop makes its own secret, and has to find it again after a restart.
    with serve([*SHOP, *options], env={"SHOP_SECRET": ""}) as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "psycopg"])
def shop(
    request: pytest.FixtureRequest, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    database = services.url(request.param, fresh=True)
    with a_shop(database, tmp_path_factory.mktemp("shop")) as server:
        yield server
        assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def visitor(shop: Server) -> Iterator[Shopper]:
    with shopper(shop.url) as somebody:
        yield somebody


def test_looking_around_starts_no_session(visitor: Shopper) -> None:
    assert "First Light" in visitor.sees("/")
    assert "Nothing in it yet" in visitor.sees("/cart")
    assert "The server remembers nothing about you" in visitor.sees("/session")
    assert visitor.cookie is None


def test_the_cart_needs_no_account(visitor: Shopper) -> None:
    assert "First Light is in your cart." in visitor.put_in_cart(1, 2)
    visitor.put_in_cart(4)
    visitor.put_in_cart(1, 3)
    assert visitor.cart() == {1: 5, 4: 1}


def test_quantities_change(visitor: Shopper) -> None:
    visitor.put_in_cart(1, 2)
    visitor.put_in_cart(2, 2)
    visitor.put_in_cart(3, 2)
    visitor.send("/cart/1", form_on="/cart", quantity="7")
    visitor.send("/cart/2", form_on="/cart", quantity="2", remove="yes")
    visitor.send("/cart/3", form_on="/cart", quantity="0")
    assert visitor.cart() == {1: 7}


def test_sign_up_keeps_the_cart_under_a_new_session_id(shop: Server, visitor: Shopper) -> None:
    visitor.put_in_cart(1, 2)
    before = visitor.cookie
    assert before

    assert "Welcome, Robin!" in visitor.sign_up()

    assert visitor.cookie not in (None, before)
    assert visitor.cart() == {1: 2}
    with shopper(shop.url, cookie=before) as thief:
        assert thief.cart() == {}
        assert "Logged in" not in thief.sees("/")


def test_log_in_keeps_the_cart_under_a_new_session_id(shop: Server, visitor: Shopper) -> None:
    visitor.sign_up()
    with shopper(shop.url) as elsewhere:
        elsewhere.email = visitor.email
        elsewhere.put_in_cart(8)
        before = elsewhere.cookie
        assert before

        assert "Welcome back, Robin!" in elsewhere.log_in()

        assert elsewhere.cookie not in (None, before)
        assert elsewhere.cart() == {8: 1}
        with shopper(shop.url, cookie=before) as thief:
            assert thief.cart() == {}
            assert "Logged in" not in thief.sees("/")


def test_an_order_empties_the_cart(visitor: Shopper) -> None:
    visitor.put_in_cart(1, 2)
    visitor.put_in_cart(7)
    # Nobody can order without an account; the way there leads back to the cart.
    assert "Please log in to order" in visitor.send("/checkout", form_on="/cart")
    assert "Your cart" in visitor.sign_up()

    assert "is on its way" in visitor.send("/checkout", form_on="/cart")

    assert visitor.cart() == {}
    orders = visitor.sees("/orders")
    assert "First Light €17.80" in orders
    assert "Fireside €9.90 Total €27.70" in orders


def test_a_message_is_shown_once(visitor: Shopper) -> None:
    assert "Welcome, Robin!" in visitor.sign_up()
    assert "Welcome, Robin!" not in visitor.sees("/")


def test_sessions_survive_a_restart_of_the_server(shop: Server, visitor: Shopper) -> None:
    visitor.put_in_cart(5, 3)
    with shopper(shop.url) as member:
        member.sign_up()
        member.put_in_cart(6)
        cookies = visitor.cookie, member.cookie
        assert "it has outlived a restart" not in member.sees("/session")

        shop.restart()

        assert visitor.cart() == {5: 3}
        assert member.cart() == {6: 1}
        assert "Logged in as Robin" in member.sees("/")
        assert "it has outlived a restart" in member.sees("/session")
        assert (visitor.cookie, member.cookie) == cookies


def test_after_log_out_the_old_cookie_is_dead(shop: Server, visitor: Shopper) -> None:
    visitor.sign_up()
    visitor.put_in_cart(1)
    stolen = visitor.cookie
    assert stolen

    assert "You are logged out" in visitor.log_out()

    assert visitor.cookie != stolen
    assert visitor.cart() == {}
    with shopper(shop.url, cookie=stolen) as thief:
        assert "Logged in" not in thief.sees("/")
        assert thief.cart() == {}
    assert "Welcome back" in visitor.log_in()


def test_remember_me_outlives_the_browser(shop: Server, visitor: Shopper) -> None:
    visitor.sign_up(remember="yes")
    assert "Max-Age=2592000" in visitor.set_cookie
    assert "kept for 30 days" in visitor.sees("/session")

    visitor.log_out()
    visitor.log_in()
    assert visitor.set_cookie.startswith("sid=")
    assert "Max-Age" not in visitor.set_cookie
    assert "Expires" not in visitor.set_cookie
    assert "kept until the browser closes" in visitor.sees("/session")


def test_other_sites_can_not_send_our_forms(visitor: Shopper) -> None:
    visitor.sign_up()
    visitor.put_in_cart(1)
    for forged in ({}, {"csrf_token": ""}, {"csrf_token": "guessed"}, {"csrf_token": "gü€ssed"}):
        for path in ("/cart", "/cart/1", "/checkout", "/login", "/signup", "/logout"):
            assert "This form is too old" in visitor.send_bare(path, **forged)
            assert visitor.answer is not None
            assert visitor.answer.status_code == 403
    assert visitor.cart() == {1: 1}
    assert "Logged in as Robin" in visitor.sees("/")


def test_what_can_not_be_is_said_in_the_form(shop: Server, visitor: Shopper) -> None:
    assert "8 to 200 characters" in visitor.sign_up(password="short")
    assert "does not look like an e-mail address" in visitor.sign_up(email="robin")
    assert "tell us your name" in visitor.sign_up(name=" \0 ")
    visitor.sign_up()
    with shopper(shop.url) as other:
        taken = other.sign_up(email=visitor.email.upper())
        assert "There is an account with that e-mail address already" in taken
        assert "do not go together" in other.log_in()
        other.email = visitor.email
        assert "do not go together" in other.log_in(password="not my password")
        assert other.answer is not None
        assert other.answer.status_code == 422


@pytest.mark.parametrize("path", ["/tea/0", "/tea/99", f"/tea/{10**30}", "/nothing", "/static/no"])
def test_what_is_not_there_is_not_found(visitor: Shopper, path: str) -> None:
    assert visitor.open(path).status_code == 404


def test_odd_numbers_break_nothing(visitor: Shopper) -> None:
    visitor.put_in_cart(1, 10**30)
    assert visitor.cart() == {1: 20}
    assert "must be a whole number" in visitor.send("/cart/1", form_on="/cart", quantity="a dozen")
    assert "no such tea" in visitor.send("/cart", form_on="/cart", tea=str(10**30), quantity="1")
    assert visitor.cart() == {1: 20}


def test_the_session_page_shows_no_secret(visitor: Shopper) -> None:
    visitor.put_in_cart(1, 2)
    page = visitor.open("/session").text
    assert "Sid(****)" in page
    assert "{1: 2}" in page
    assert "(secret)" in page
    sid, _, signature = (visitor.cookie or "").partition(".")
    assert sid not in page
    assert signature not in page
    assert 'name="csrf_token"' not in page  # it has no form, so the token has no business there


def test_health_and_static_files_leave_sessions_alone(visitor: Shopper) -> None:
    visitor.sign_up(remember="yes")
    for path in ("/health", "/static/shop.css", "/static/leaf.svg"):
        response = visitor.open(path).raise_for_status()
        assert "set-cookie" not in response.headers
        assert "vary" not in response.headers


def test_a_database_that_is_away_logs_nobody_out(
    private_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    database = private_postgres.url.set(drivername="postgresql+psycopg")
    url = database.render_as_string(hide_password=False)
    with a_shop(url, tmp_path) as server, shopper(server.url) as visitor:
        visitor.sign_up()
        visitor.put_in_cart(1, 2)
        cookie = visitor.cookie

        private_postgres.kill()
        response = visitor.open("/cart")
        assert response.status_code == 503, server.log()
        assert "Our memory is away for a moment" in response.text
        assert "set-cookie" not in response.headers
        # Paths without sessions need no database.
        assert visitor.open("/health").text == "ok"
        assert visitor.open("/static/shop.css").status_code == 200

        private_postgres.start()
        assert visitor.cart() == {1: 2}
        assert "Logged in as Robin" in visitor.sees("/")
        assert visitor.cookie == cookie


def test_without_a_port_it_takes_a_free_one_and_says_which(tmp_path: Path) -> None:
    """And without a database it makes one, beside a secret that only its owner can read."""
    with socket.socket() as somebody_elses:
        with suppress(OSError):  # something else has it: just as good
            somebody_elses.bind((HOST, 8000))
            somebody_elses.listen()
        process = subprocess.Popen(
            [*SHOP, "--data", str(tmp_path / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": "", "SHOP_SECRET": "", "PYTHONUNBUFFERED": "1"},
        )
        with process:
            assert process.stdout is not None
            try:
                printed = ""
                while not (found := OPEN.search(printed)):
                    line = process.stdout.readline()
                    assert line, f"ended early: {printed}"
                    printed += line
                assert int(found[2]) > 8000
                assert httpx.get(f"{found[1]}/health", trust_env=False).text == "ok"
            finally:
                process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert (tmp_path / "data" / "shop.db").exists()
    assert (tmp_path / "data" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_port_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as somebody_elses:
        port = somebody_elses.getsockname()[1]
        command = [*SHOP, "--port", str(port), "--data", str(tmp_path)]
        ended = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
        )
    assert ended.returncode == 1
    assert f"Can not listen on {HOST}, port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr
