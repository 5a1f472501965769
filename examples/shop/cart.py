"""The cart lives in the session: {tea id: quantity}. It needs no account and no table."""

from collections.abc import Mapping
from datetime import UTC, datetime

from websessions import Session

MOST_OF_ONE_TEA = 20


def cart_of(session: Session) -> Mapping[int, int]:
    """A look at the cart. Looking stores nothing, so it starts no session."""
    cart: Mapping[int, int] = session.get("cart", {})
    return cart


def count(session: Session) -> int:
    return sum(cart_of(session).values())


def put(session: Session, tea_id: int, quantity: int) -> None:
    """Set how much of a tea is in the cart; nothing or less takes it out."""
    cart = session.setdefault("cart", {})
    # A change deep inside the session is noticed: no `session.modified = True` is needed.
    if quantity > 0:
        cart[tea_id] = min(quantity, MOST_OF_ONE_TEA)
    else:
        cart.pop(tea_id, None)
    # Values keep their types: this comes back as an aware datetime.
    session["cart_changed_at"] = datetime.now(UTC)


def empty(session: Session) -> None:
    session.pop("cart", None)
    session.pop("cart_changed_at", None)
