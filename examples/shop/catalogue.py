"""The teas on the shelves, and how to find them."""

from collections.abc import Collection, Sequence
from typing import TypedDict

from sqlalchemy import orm, select

from .models import Product


class Tea(TypedDict):
    name: str
    kind: str
    notes: str
    brewing: str
    price_cents: int
    motif: str
    hue: int


TEAS: list[Tea] = [
    {
        "name": "First Light",
        "kind": "Black tea",
        "notes": "A brisk breakfast blend, malty and round. Takes milk without complaint and "
        "gets you to the second half of the morning.",
        "brewing": "95 °C for 4 minutes",
        "price_cents": 890,
        "motif": "sun",
        "hue": 28,
    },
    {
        "name": "Quiet Meadow",
        "kind": "Herbal, no caffeine",
        "notes": "Chamomile, lemon balm and a little honeybush. Soft, apple-sweet, and best "
        "kept for the hour before bed.",
        "brewing": "100 °C for 6 minutes",
        "price_cents": 740,
        "motif": "daisy",
        "hue": 48,
    },
    {
        "name": "Garden Mint",
        "kind": "Herbal, no caffeine",
        "notes": "Two mints, cut coarse so that they stay bright. Hot after dinner, or cold "
        "over ice with a slice of cucumber.",
        "brewing": "100 °C for 5 minutes",
        "price_cents": 690,
        "motif": "leaf",
        "hue": 150,
    },
    {
        "name": "Blue Hour",
        "kind": "Black tea with bergamot",
        "notes": "Bergamot peel and cornflower petals on a light black tea: for dusk, a window "
        "and nothing in particular to do.",
        "brewing": "90 °C for 3 minutes",
        "price_cents": 950,
        "motif": "moon",
        "hue": 222,
    },
    {
        "name": "Green Ripple",
        "kind": "Green tea",
        "notes": "Steamed leaves with the taste of fresh peas and sea air. Gentle water, please: "
        "it turns bitter when it is hurried.",
        "brewing": "70 °C for 2 minutes",
        "price_cents": 1180,
        "motif": "wave",
        "hue": 105,
    },
    {
        "name": "Hedgerow",
        "kind": "Fruit, no caffeine",
        "notes": "Blackberry, elderberry and rosehip, with hibiscus for the colour. Tart, deep "
        "red, and friendly to a spoon of honey.",
        "brewing": "100 °C for 8 minutes",
        "price_cents": 720,
        "motif": "berry",
        "hue": 338,
    },
    {
        "name": "Fireside",
        "kind": "Spiced black tea",
        "notes": "Cinnamon, cardamom, ginger and a whole star of anise. Simmer it in milk for "
        "the full effect.",
        "brewing": "100 °C for 5 minutes",
        "price_cents": 990,
        "motif": "star",
        "hue": 8,
    },
    {
        "name": "Slow Cloud",
        "kind": "Oolong",
        "notes": "Tightly rolled leaves that open over five or six infusions, from orchid to "
        "warm stone fruit. There is no rush.",
        "brewing": "85 °C for 3 minutes",
        "price_cents": 1420,
        "motif": "cloud",
        "hue": 186,
    },
]


def all_teas(db: orm.Session) -> Sequence[Product]:
    return db.scalars(select(Product).order_by(Product.id)).all()


def find_tea(db: orm.Session, tea_id: int) -> Product | None:
    # An address can hold a number that no column can.
    return db.get(Product, tea_id) if tea_id < 2**31 else None


def find_teas(db: orm.Session, ids: Collection[int]) -> dict[int, Product]:
    if not ids:
        return {}
    teas = db.scalars(select(Product).where(Product.id.in_(ids)))
    return {tea.id: tea for tea in teas}
