"""One function a page. Each reads or changes the session; none of them saves it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from websessions import StoreUnavailable
from websessions.starlette import get_session

from . import accounts, cart, catalogue, orders, security
from .database import Database
from .flash import flash, take_flashes
from .models import User

HERE = Path(__file__).resolve().parent
STARTED_AT = datetime.now(UTC)

templates = Jinja2Templates(directory=HERE / "templates")


def shown(value: object) -> str:
    return f"{value:%d %b %Y, %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)


def span(time: timedelta) -> str:
    return f"{time.days} days" if time.days > 1 else f"{time // timedelta(hours=1)} hours"


templates.env.filters |= {
    "money": lambda cents: f"€{cents / 100:.2f}",
    "shown": shown,
    "span": span,
}


# Helpers


def database_of(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def current_user(request: Request) -> User | None:
    user_id = get_session(request).get("user_id")
    if user_id is None:
        return None
    return await database_of(request).run(accounts.find_user, user_id)


async def page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    session = get_session(request)
    context |= {
        "user": await current_user(request),
        "cart_count": cart.count(session),
        "flashes": take_flashes(session),
        # A function, called where a form is drawn: a page without forms needs no token.
        "csrf_token": lambda: security.csrf_token(session),
    }
    return templates.TemplateResponse(request, template, context, status_code=status)


def go(path: str) -> Response:
    # 303: the browser follows with GET, and a reload does not post again. What the handler put
    # into the session is in the database before this leaves, so the next page will see it.
    return RedirectResponse(path, status_code=303)


def text(form: FormData, field: str) -> str:
    value = form.get(field, "")
    # PostgreSQL's text has no place for NUL.
    return value.replace("\0", "").strip() if isinstance(value, str) else ""


def whole_number(form: FormData, field: str) -> int:
    try:
        return int(text(form, field))
    except ValueError:
        raise HTTPException(400, f"{field.capitalize()} must be a whole number.") from None


# The shop


async def home(request: Request) -> Response:
    teas = await database_of(request).run(catalogue.all_teas)
    return await page(request, "home.html", teas=teas)


async def tea(request: Request) -> Response:
    found = await database_of(request).run(catalogue.find_tea, request.path_params["tea_id"])
    if found is None:
        raise HTTPException(404, "We have no such tea.")
    return await page(request, "tea.html", tea=found, most=cart.MOST_OF_ONE_TEA)


# The cart


async def show_cart(request: Request) -> Response:
    chosen = cart.cart_of(get_session(request))
    teas = await database_of(request).run(catalogue.find_teas, chosen.keys())
    lines = [(teas[tea_id], quantity) for tea_id, quantity in chosen.items() if tea_id in teas]
    total = sum(tea.price_cents * quantity for tea, quantity in lines)
    return await page(request, "cart.html", lines=lines, total=total, most=cart.MOST_OF_ONE_TEA)


async def add_to_cart(request: Request) -> Response:
    session = get_session(request)
    form = await security.checked_form(request, session)
    tea_id = whole_number(form, "tea")
    found = await database_of(request).run(catalogue.find_tea, tea_id)
    if found is None:
        raise HTTPException(404, "We have no such tea.")
    already = cart.cart_of(session).get(tea_id, 0)
    cart.put(session, tea_id, already + max(1, whole_number(form, "quantity")))
    flash(session, f"{found.name} is in your cart.")
    return go("/cart")


async def change_cart(request: Request) -> Response:
    session = get_session(request)
    form = await security.checked_form(request, session)
    tea_id: int = request.path_params["tea_id"]
    if tea_id in cart.cart_of(session):
        cart.put(session, tea_id, 0 if "remove" in form else whole_number(form, "quantity"))
        flash(session, "Your cart is up to date.")
    return go("/cart")


async def check_out(request: Request) -> Response:
    session = get_session(request)
    await security.checked_form(request, session)
    user = await current_user(request)
    if user is None:
        # Kept in the session, not in the URL: nobody can send a visitor elsewhere with a link.
        session["after_login"] = "/cart"
        flash(session, "Please log in to order. Your cart comes with you.")
        return go("/login")
    order = await database_of(request).run(orders.place_order, user.id, cart.cart_of(session))
    if order is None:
        flash(session, "There is nothing in your cart yet.", "bad")
        return go("/cart")
    cart.empty(session)
    flash(session, f"Thank you! Order {order.id} is on its way.")
    return go("/orders")


async def show_orders(request: Request) -> Response:
    user = await current_user(request)
    if user is None:
        get_session(request)["after_login"] = "/orders"
        return go("/login")
    placed = await database_of(request).run(orders.orders_of, user.id)
    return await page(request, "orders.html", orders=placed)


# The account


async def show_sign_up(request: Request) -> Response:
    return await page(request, "sign_up.html")


async def sign_up(request: Request) -> Response:
    session = get_session(request)
    form = await security.checked_form(request, session)
    name, email = text(form, "name"), text(form, "email")
    try:
        user = await database_of(request).run(
            accounts.sign_up, name, email, str(form.get("password", ""))
        )
    except accounts.SignUpError as error:
        return await page(request, "sign_up.html", 422, error=str(error), name=name, email=email)
    security.log_in(session, user.id, remember="remember" in form)
    flash(session, f"Welcome, {user.name}!")
    return go(session.pop("after_login", "/"))


async def show_log_in(request: Request) -> Response:
    return await page(request, "log_in.html")


async def log_in(request: Request) -> Response:
    session = get_session(request)
    form = await security.checked_form(request, session)
    email = text(form, "email")
    user = await database_of(request).run(
        accounts.check_password, email, str(form.get("password", ""))
    )
    if user is None:
        error = "That e-mail address and password do not go together."
        return await page(request, "log_in.html", 422, error=error, email=email)
    security.log_in(session, user.id, remember="remember" in form)
    flash(session, f"Welcome back, {user.name}!")
    return go(session.pop("after_login", "/"))


async def log_out(request: Request) -> Response:
    session = get_session(request)
    await security.checked_form(request, session)
    security.log_out(session)
    # Written after the end of the old session, so it goes into a fresh one with a new id.
    flash(session, "You are logged out. See you soon!")
    return go("/")


# Behind the counter


async def show_session(request: Request) -> Response:
    """What the server remembers about this visitor."""
    session = get_session(request)
    # Secrets stay secret, on our own pages, too.
    contents = {
        key: "(secret)" if key == "csrf_token" else value
        for key, value in sorted(session.items())
        if key != "flash"
    }
    moments = [session.get(key, STARTED_AT) for key in ("cart_changed_at", "logged_in_at")]
    return await page(
        request,
        "session.html",
        session=session,
        contents=contents,
        kept_for=session.cookie.max_age,
        forget_after=security.FORGET_AFTER,
        started_at=STARTED_AT,
        outlived=min(moments) < STARTED_AT,
    )


async def health(request: Request) -> Response:
    """For load balancers. This path is excluded from sessions: it has no `request.session`."""
    return PlainTextResponse("ok")


async def show_error(request: Request, error: Exception) -> Response:
    """Without a session: an error may come from a path, or from a moment, that has none."""
    headers = None
    if isinstance(error, HTTPException):
        status, message, headers = error.status_code, error.detail, error.headers
    elif isinstance(error, StoreUnavailable):
        # A database that is down logs nobody out: the visitor keeps cookie, cart and account.
        status, message = 503, "Our memory is away for a moment. Please try again soon."
    else:
        status, message = 500, "Something went wrong on our side."
    context = {"status": status, "message": message}
    return templates.TemplateResponse(
        request, "error.html", context, status_code=status, headers=headers
    )


routes = [
    Route("/", home),
    Route("/tea/{tea_id:int}", tea),
    Route("/cart", show_cart),
    Route("/cart", add_to_cart, methods=["POST"]),
    Route("/cart/{tea_id:int}", change_cart, methods=["POST"]),
    Route("/checkout", check_out, methods=["POST"]),
    Route("/orders", show_orders),
    Route("/signup", show_sign_up),
    Route("/signup", sign_up, methods=["POST"]),
    Route("/login", show_log_in),
    Route("/login", log_in, methods=["POST"]),
    Route("/logout", log_out, methods=["POST"]),
    Route("/session", show_session),
    Route("/health", health),
    Mount("/static", StaticFiles(directory=HERE / "static")),
]
