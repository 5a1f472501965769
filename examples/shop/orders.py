"""From a cart to an order."""

from collections.abc import Mapping, Sequence

from sqlalchemy import orm, select

from .catalogue import find_teas
from .models import Order, OrderLine


def place_order(db: orm.Session, user_id: int, cart: Mapping[int, int]) -> Order | None:
    """Write down what is in the cart, at today's prices; None if there is nothing to sell."""
    teas = find_teas(db, cart.keys())
    lines = [
        OrderLine(name=tea.name, price_cents=tea.price_cents, quantity=cart[tea.id])
        for tea in teas.values()
    ]
    if not lines:
        return None
    order = Order(user_id=user_id, lines=lines)
    db.add(order)
    db.flush()
    return order


def orders_of(db: orm.Session, user_id: int) -> Sequence[Order]:
    return db.scalars(select(Order).where(Order.user_id == user_id).order_by(Order.id.desc())).all()
